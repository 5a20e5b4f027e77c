//! The task settings document (`ReplicationTaskSettings`).
//!
//! DMS always answers with the whole document, whatever was sent: [`create`] fills one up, [`merge`] changes one, and
//! [`TaskSettings`] is what the runtime reads out of it. Every setting is defined once, in `schema`.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.html>

mod merge;
mod schema;
mod typed;

use std::fmt;

use serde_json::{Map, Value as Json};

pub use schema::{WITHOUT_EFFECT, WithoutEffect};
pub use typed::{
    ChangeProcessing, ConflictPolicy, ControlTables, ErrorBehavior, ErrorPolicy, EscalationPolicy, FullLoad, LobMode,
    Logging, LoopbackPrevention, Severity, TablePolicy, TargetMetadata, TaskSettings,
};

/// The largest document that is read, in bytes. AWS states no limit; the default document has under 5,000.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// What the names of a task's log are made of.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub replication_instance_identifier: &'a str,
    /// The last part of the task's ARN.
    pub task_resource_id: &'a str,
}

/// Why a settings document is refused. Its text is made to be the message of an `InvalidParameterValueException`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    path: String,
    message: String,
}

impl SettingsError {
    fn new(path: impl Into<String>, what: impl fmt::Display) -> SettingsError {
        let path = path.into();
        let message = match path.as_str() {
            "" => format!("Invalid task settings JSON: {what}"),
            path => format!("Invalid task settings JSON: {path} {what}"),
        };
        SettingsError { path, message }
    }

    /// An error whose whole text is known from AWS.
    fn as_recorded(path: &str, message: &str) -> SettingsError {
        SettingsError { path: path.to_owned(), message: message.to_owned() }
    }

    /// Where in the document the offender is (`FullLoadSettings.CommitRate`); empty for what is not JSON.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SettingsError {}

/// The full document of a new task: the settings that the user sent, and defaults for the rest.
pub fn create(user: Option<&str>, context: Context<'_>) -> Result<String, SettingsError> {
    // An empty text counts as not sent.
    let user = user.filter(|user| !user.is_empty()).map_or_else(|| Ok(Map::new()), parse)?;
    let logging = user.get("Logging");
    for key in LOG_NAMES {
        if logging.and_then(|logging| logging.get(key)).is_some_and(|name| !name.is_null()) {
            return Err(SettingsError::as_recorded(
                &format!("Logging.{key}"),
                "Task Settings CloudWatchLogGroup or CloudWatchLogStream cannot be set on create.",
            ));
        }
    }
    finish(merge::document(&Map::new(), &user)?, &user, context)
}

/// The document after a modification: settings not sent keep their values, and a `null` puts a setting back to its
/// default (which for whole sections is what AWS does on create; on modify it is a guess).
pub fn merge(existing: &str, patch: &str, context: Context<'_>) -> Result<String, SettingsError> {
    let patch = parse(patch)?;
    finish(merge::document(&parse(existing)?, &patch)?, &patch, context)
}

/// Whether two full documents differ in log severities at most: the one change DMS allows on a running task.
pub fn only_logging_severity_changed(old: &str, new: &str) -> bool {
    let without_components = |document| {
        let mut document = parse(document).ok()?;
        document.get_mut("Logging")?.as_object_mut()?.remove("LogComponents");
        Some(document)
    };
    without_components(old).is_some_and(|old| Some(old) == without_components(new))
}

/// Whether the settings sent ask for the task's logs to be deleted. That is a command: it is not kept in the document.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html#CHAP_Monitoring.ManagingLogs>
pub fn deletes_task_logs(sent: &str) -> bool {
    parse(sent).is_ok_and(|sent| at(&sent, "Logging.DeleteTaskLogs") == Some(&Json::Bool(true)))
}

/// The paths of settings in a full document that ask for something not built yet, so that a task does not run as if
/// they were not there.
pub fn not_supported_yet(document: &str) -> Vec<&'static str> {
    let Ok(document) = parse(document) else { return Vec::new() };
    let asks = |path: &&str| at(&document, path).is_some_and(|value| !value.is_null() && *value != Json::Bool(false));
    schema::NOT_SUPPORTED_YET.iter().copied().filter(asks).collect()
}

const LOG_NAMES: [&str; 2] = ["CloudWatchLogGroup", "CloudWatchLogStream"];

fn parse(document: &str) -> Result<Map<String, Json>, SettingsError> {
    if document.len() > DOCUMENT_BYTES_MAX {
        let what = format!("the document has {} bytes; at most {DOCUMENT_BYTES_MAX} are allowed", document.len());
        return Err(SettingsError::new("", what));
    }
    match serde_json::from_str(document) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(SettingsError::new("", "the document must be an object")),
        Err(error) => Err(SettingsError::new("", error)),
    }
}

fn at<'a>(document: &'a Map<String, Json>, path: &str) -> Option<&'a Json> {
    let (section, key) = path.split_once('.').unwrap_or((path, ""));
    let value = document.get(section)?;
    if key.is_empty() { Some(value) } else { value.get(key) }
}

/// Checks what no single setting can tell, and fills in what the service itself sets.
fn finish(
    mut document: Map<String, Json>,
    sent: &Map<String, Json>,
    context: Context<'_>,
) -> Result<String, SettingsError> {
    let is = |path| at(&document, path) == Some(&Json::Bool(true));
    if is("Logging.EnableLogContext") && !is("Logging.EnableLogging") {
        return Err(SettingsError::as_recorded(
            "Logging.EnableLogContext",
            "The parameter Logging.EnableLogContext is not allowed when Logging.EnableLogging is not set to true.",
        ));
    }
    if is("TargetMetadata.SupportLobs") && !is("TargetMetadata.FullLobMode") && !is("TargetMetadata.LimitedSizeLobMode")
    {
        let what = "is true, so FullLobMode or LimitedSizeLobMode must be true";
        return Err(SettingsError::new("TargetMetadata.SupportLobs", what));
    }
    let field_name = at(&document, "BeforeImageSettings.FieldName").and_then(Json::as_str);
    if is("BeforeImageSettings.EnableBeforeImage") && field_name.unwrap_or_default().is_empty() {
        let what = "must not be empty when EnableBeforeImage is true";
        return Err(SettingsError::new("BeforeImageSettings.FieldName", what));
    }
    mirror_timeslot(&mut document, sent);
    fill_log_names(&mut document, sent, context)?;
    serde_json::to_string(&document).map_err(|error| SettingsError::new("", error))
}

/// DMS answers with this setting in two spellings. When only one of them is sent, the other follows (a guess).
fn mirror_timeslot(document: &mut Map<String, Json>, sent: &Map<String, Json>) {
    const SPELLINGS: [&str; 2] = ["HistoryTimeslotInMinutes", "historyTimeslotInMinutes"];
    let sent = SPELLINGS.map(|key| sent.get("ControlTablesSettings").and_then(|section| section.get(key)));
    let (from, to) = match sent {
        [Some(_), None] => (SPELLINGS[0], SPELLINGS[1]),
        [None, Some(_)] => (SPELLINGS[1], SPELLINGS[0]),
        _ => return,
    };
    if let Some(section) = document.get_mut("ControlTablesSettings").and_then(Json::as_object_mut) {
        let value = section.get(from).cloned().unwrap_or_default();
        section.insert(to.to_owned(), value);
    }
}

/// The names follow from the task alone, and are there while logging is on.
fn fill_log_names(
    document: &mut Map<String, Json>,
    sent: &Map<String, Json>,
    context: Context<'_>,
) -> Result<(), SettingsError> {
    let names = [
        Json::from(format!("dms-tasks-{}", context.replication_instance_identifier)),
        Json::from(format!("dms-task-{}", context.task_resource_id)),
    ];
    let enabled = at(document, "Logging.EnableLogging") == Some(&Json::Bool(true));
    let sent_logging = sent.get("Logging");
    let Some(logging) = document.get_mut("Logging").and_then(Json::as_object_mut) else { return Ok(()) };
    for (key, name) in LOG_NAMES.into_iter().zip(names) {
        // A document that was read, edited and sent back holds the names; anything else cannot be meant well.
        match sent_logging.and_then(|logging| logging.get(key)) {
            Some(sent) if !sent.is_null() && *sent != name => {
                let what = format!("is set by the service; it must be absent, null or {name}");
                return Err(SettingsError::new(format!("Logging.{key}"), what));
            }
            _ => logging.insert(key.to_owned(), if enabled { name } else { Json::Null }),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
