//! The settings as the runtime reads them.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value as Json};

use super::{SettingsError, merge, parse};
use crate::connector::{CreateKey, PrepareMode};

/// What a full document says about full load, LOBs, errors, control tables and logging.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TaskSettings {
    #[serde(rename = "FullLoadSettings")]
    pub full_load: FullLoad,
    #[serde(rename = "TargetMetadata")]
    pub target_metadata: TargetMetadata,
    #[serde(rename = "ErrorBehavior")]
    pub error_behavior: ErrorBehavior,
    #[serde(rename = "ControlTablesSettings")]
    pub control_tables: ControlTables,
    #[serde(rename = "ChangeProcessingTuning")]
    pub change_processing: ChangeProcessing,
    #[serde(rename = "ChangeProcessingDdlHandlingPolicy")]
    pub ddl_handling: DdlHandling,
    #[serde(rename = "LoopbackPreventionSettings")]
    pub loopback_prevention: Option<LoopbackPrevention>,
    #[serde(rename = "Logging")]
    pub logging: Logging,
}

impl TaskSettings {
    /// Reads a document made by [`create`](super::create) or [`merge`](super::merge). Settings that the document is
    /// too old to have get their defaults.
    pub fn from_canonical(document: &str) -> Result<TaskSettings, SettingsError> {
        let full = merge::document(&parse(document)?, &Map::new())?;
        serde_json::from_value(Json::Object(full)).map_err(|error| SettingsError::new("", error))
    }
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.FullLoad.html>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FullLoad {
    #[serde(rename = "TargetTablePrepMode", deserialize_with = "prepare_mode")]
    pub prepare_mode: PrepareMode,
    #[serde(rename = "CreatePkAfterFullLoad", deserialize_with = "create_key")]
    pub create_key: CreateKey,
    pub stop_task_cached_changes_applied: bool,
    pub stop_task_cached_changes_not_applied: bool,
    /// Tables loaded at once, 1 to 49.
    pub max_full_load_sub_tasks: usize,
    /// How long to wait for transactions of the source that are open before a load, in seconds. DMS then begins all the
    /// same. Here it does so where nothing is lost by it, which needs no wait at all: the log of MySQL and MariaDB has all
    /// of such a transaction. PostgreSQL's has not, and its replication slot comes into being after their end alone: then
    /// the attempt to start fails.
    #[serde(rename = "TransactionConsistencyTimeout")]
    pub transaction_consistency_timeout_s: u64,
    /// Records transferred together, 1 to 50,000.
    pub commit_rate: usize,
}

/// How changes are gathered for the target.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ChangeProcessingTuning.html>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ChangeProcessing {
    /// Changes that a transaction of the target holds at least when more are at hand.
    pub min_transaction_size: usize,
    /// The longest that transactions are gathered for one of the target, in seconds.
    #[serde(rename = "CommitTimeout")]
    pub commit_timeout_s: u64,
    /// Prepared statements kept on the target, 0 to 200.
    pub statement_cache_size: usize,
    /// Batch apply: the least time between two batches, in seconds …
    #[serde(rename = "BatchApplyTimeoutMin")]
    pub batch_timeout_min_s: u64,
    /// … and the longest.
    #[serde(rename = "BatchApplyTimeoutMax")]
    pub batch_timeout_max_s: u64,
    /// Memory of a batch, in MB; above 16 it is 16.
    #[serde(rename = "BatchApplyMemoryLimit")]
    pub batch_memory_limit_mb: u64,
    /// Changes in a batch at most; 0 for any number.
    pub batch_split_size: usize,
    /// Memory of all that waits for the target, in MB; more goes to disk.
    #[serde(rename = "MemoryLimitTotal")]
    pub memory_limit_total_mb: u64,
    /// The longest that what waits for the target stays in memory, in seconds; then it goes to disk.
    #[serde(rename = "MemoryKeepTime")]
    pub memory_keep_time_s: u64,
}

/// Which statements of the source are carried to the target.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.DDLHandling.html>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DdlHandling {
    pub handle_source_table_dropped: bool,
    pub handle_source_table_truncated: bool,
    pub handle_source_table_altered: bool,
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Task.CDC.html#CHAP_Task.CDC.Bidirectional>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LoopbackPrevention {
    #[serde(rename = "EnableLoopbackPrevention")]
    pub enabled: bool,
    /// Where the task of the other direction keeps `awsdms_loopback_prevention` on this task's source …
    pub source_schema: String,
    /// … and where this one keeps it on its target.
    pub target_schema: String,
}

fn prepare_mode<'de, D: Deserializer<'de>>(word: D) -> Result<PrepareMode, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    enum Word {
        DoNothing,
        TruncateBeforeLoad,
        DropAndCreate,
    }
    Ok(match Word::deserialize(word)? {
        Word::DoNothing => PrepareMode::DoNothing,
        Word::TruncateBeforeLoad => PrepareMode::TruncateBeforeLoad,
        Word::DropAndCreate => PrepareMode::DropAndCreate,
    })
}

fn create_key<'de, D: Deserializer<'de>>(after_full_load: D) -> Result<CreateKey, D::Error> {
    Ok(if bool::deserialize(after_full_load)? { CreateKey::AfterLoad } else { CreateKey::WithTable })
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.TargetMetadata.html>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TargetMetadata {
    /// Schema of the target tables; empty for that of the source.
    pub target_schema: String,
    pub support_lobs: bool,
    pub full_lob_mode: bool,
    pub limited_size_lob_mode: bool,
    #[serde(rename = "LobMaxSize")]
    pub lob_max_size_kb: u64,
    pub batch_apply_enabled: bool,
    pub task_recovery_table_enabled: bool,
}

/// How the columns that are LOBs to DMS are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LobMode {
    /// They are not moved at all.
    Off,
    /// Cut to this many bytes.
    Limited { bytes_max: u64 },
    /// Moved whole.
    Full,
}

impl TargetMetadata {
    /// Full mode goes before limited mode: sending `FullLobMode` alone leaves the default of `LimitedSizeLobMode` in
    /// place, and nobody means that. (What DMS does when both are true is not documented.)
    pub fn lob_mode(&self) -> LobMode {
        const KB: u64 = 1024;
        if !self.support_lobs {
            LobMode::Off
        } else if self.full_lob_mode {
            LobMode::Full
        } else {
            LobMode::Limited { bytes_max: self.lob_max_size_kb * KB }
        }
    }
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ErrorHandling.html>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ErrorBehavior {
    pub data_error_policy: ErrorPolicy,
    pub data_truncation_error_policy: ErrorPolicy,
    pub data_error_escalation_policy: TablePolicy,
    /// 0 for never.
    pub data_error_escalation_count: u64,
    pub table_error_policy: TablePolicy,
    pub table_error_escalation_policy: TablePolicy,
    /// 0 for never.
    pub table_error_escalation_count: u64,
    /// -1 for as often as it takes, 0 for never.
    pub recoverable_error_count: i64,
    #[serde(rename = "RecoverableErrorInterval")]
    pub recoverable_error_interval_s: u64,
    pub recoverable_error_throttling: bool,
    #[serde(rename = "RecoverableErrorThrottlingMax")]
    pub recoverable_error_throttling_max_s: u64,
    pub recoverable_error_stop_retry_after_throttling_max: bool,
    pub apply_error_delete_policy: ConflictPolicy,
    pub apply_error_insert_policy: ConflictPolicy,
    pub apply_error_update_policy: ConflictPolicy,
    pub apply_error_escalation_policy: EscalationPolicy,
    /// 0 for never.
    pub apply_error_escalation_count: u64,
    pub apply_error_fail_on_truncation_ddl: bool,
    pub full_load_ignore_conflicts: bool,
    pub fail_on_no_tables_captured: bool,
}

/// What becomes of a record that makes trouble, or of its table, or of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorPolicy {
    IgnoreRecord,
    LogError,
    SuspendTable,
    StopTask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TablePolicy {
    SuspendTable,
    StopTask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EscalationPolicy {
    LogError,
    SuspendTable,
    StopTask,
}

/// What becomes of a change that conflicts with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConflictPolicy {
    IgnoreRecord,
    LogError,
    SuspendTable,
    StopTask,
    /// Inserts only: the row that is there is replaced.
    InsertRecord,
    /// Updates only: the row that is missing is inserted.
    UpdateRecord,
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ControlTable.html>
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ControlTables {
    /// Where control tables are made on the target; empty for the engine's default.
    pub control_schema: String,
    #[serde(rename = "HistoryTimeslotInMinutes")]
    pub history_timeslot_minutes: u64,
    pub history_table_enabled: bool,
    pub suspended_tables_table_enabled: bool,
    pub status_table_enabled: bool,
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.Logging.html>
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Logging {
    #[serde(rename = "LogComponents", deserialize_with = "severities")]
    severities: HashMap<String, Severity>,
}

impl Logging {
    #[cfg(test)]
    pub fn with(mut self, component: &str, severity: Severity) -> Logging {
        self.severities.insert(component.to_owned(), severity);
        self
    }

    /// How much a component (`SOURCE_UNLOAD`, …) writes.
    pub fn severity(&self, component: &str) -> Severity {
        self.severities.get(component).copied().unwrap_or(Severity::Info)
    }
}

/// From the least to the most that is written; `LOGGER_SEVERITY_DEFAULT` is [`Info`](Severity::Info).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Severity {
    #[serde(rename = "LOGGER_SEVERITY_ERROR")]
    Error,
    #[serde(rename = "LOGGER_SEVERITY_WARNING")]
    Warning,
    #[serde(rename = "LOGGER_SEVERITY_INFO", alias = "LOGGER_SEVERITY_DEFAULT")]
    Info,
    #[serde(rename = "LOGGER_SEVERITY_DEBUG")]
    Debug,
    #[serde(rename = "LOGGER_SEVERITY_DETAILED_DEBUG")]
    DetailedDebug,
}

fn severities<'de, D: Deserializer<'de>>(components: D) -> Result<HashMap<String, Severity>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Component {
        id: String,
        severity: Severity,
    }
    let components = Vec::<Component>::deserialize(components)?;
    Ok(components.into_iter().map(|component| (component.id, component.severity)).collect())
}
