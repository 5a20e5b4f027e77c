//! What a task tells of itself while it follows a log: the control tables of status, history and suspended tables, and the
//! latency in its log.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ControlTable.html>

use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

use super::checkpoint::recovery_checkpoint;
use super::control_tables::{ControlTable, SERVER_NAME, moment};
use super::log::task_log;
use super::metrics::Reading;
use super::progress::TableState;
use super::run::Run;
use crate::connector::Applier;
use crate::data::Result;

/// How often the tables are written. (A guess: the service states nothing.)
const INTERVAL: Duration = Duration::from_secs(5);

/// Most time for the last word.
const LAST_TIMEOUT: Duration = Duration::from_millis(300);

const MB: u64 = 1 << 20;

/// The tables that the settings ask for.
pub(super) struct SelfReport<'a> {
    run: &'a Run,
    status: Option<ControlTable>,
    history: Option<ControlTable>,
    suspended_tables: Option<ControlTable>,
    applier: Option<Box<dyn Applier>>,
    slot: Option<Slot>,
}

/// A slot of `awsdms_history` and what was counted before it began.
struct Slot {
    number: u64,
    loaded_before: u64,
    before: Reading,
}

impl<'a> SelfReport<'a> {
    pub fn new(run: &'a Run) -> SelfReport<'a> {
        let settings = &run.rules.settings.control_tables;
        let (family, schema) = (run.target.family(), settings.control_schema.as_str());
        // "Control tables … only for tasks with ongoing replication", says the guide.
        let made = |enabled: bool, table: fn(_, &str) -> ControlTable| {
            (enabled && run.migration.has_changes()).then(|| table(family, schema))
        };
        SelfReport {
            run,
            status: made(settings.status_table_enabled, ControlTable::status),
            history: made(settings.history_table_enabled, ControlTable::history),
            suspended_tables: made(settings.suspended_tables_table_enabled, ControlTable::suspended_tables),
            applier: None,
            slot: None,
        }
    }

    /// Tells for ever. A target that does not take it is told of in the log, and asked again.
    pub async fn keep(&mut self) -> std::convert::Infallible {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let loading = self.is_loading();
            if let Err(error) = self.tell(if loading { "FULL LOAD" } else { "CHANGE PROCESSING" }).await {
                self.applier = None;
                task_log!(self.run.rules.log, TaskManager, Warning, "Control tables were not written: {error}");
            }
            self.log_latency();
        }
    }

    /// The last word, of a task that has ended.
    pub async fn end(&mut self) {
        if self.status.is_some() {
            let _ = tokio::time::timeout(LAST_TIMEOUT, self.tell("NOT RUNNING")).await;
        }
    }

    fn is_loading(&self) -> bool {
        self.run.migration.loads()
            && self.run.progress.all().iter().any(|table| {
                matches!(table.state, TableState::BeforeLoad | TableState::FullLoad | TableState::BeingReloaded)
            })
    }

    fn log_latency(&self) {
        if !self.run.migration.has_changes() {
            return;
        }
        let reading = self.run.metrics.reading();
        task_log!(
            self.run.rules.log,
            Performance,
            DetailedDebug,
            "Source latency {:.2} seconds, Target latency {:.2} seconds, Handling latency {:.2} seconds",
            reading.latency_source_s,
            reading.latency_target_s,
            reading.latency_target_s - reading.latency_source_s
        );
    }

    async fn tell(&mut self, status: &str) -> Result<()> {
        let tables = [&self.status, &self.history, &self.suspended_tables];
        if tables.iter().all(|table| table.is_none()) {
            return Ok(());
        }
        let run = self.run;
        let mut applier = match self.applier.take() {
            Some(applier) => applier,
            None => {
                for table in tables.into_iter().flatten() {
                    table.create(run.target.as_ref()).await?;
                }
                run.target.applier(&format!("{} reports", run.rules.task), run.rules.format, tables.len()).await?
            }
        };
        let reading = run.metrics.reading();
        applier.begin().await?;
        if let Some(table) = &self.status {
            table.put(applier.as_mut(), run.rules.format, &self.status_row(status, &reading)).await?;
        }
        if let Some(table) = &self.suspended_tables {
            for row in self.suspended_rows() {
                table.put(applier.as_mut(), run.rules.format, &row).await?;
            }
        }
        let history = self.history_row(status, &reading);
        if let (Some(table), Some(row)) = (&self.history, history) {
            table.put(applier.as_mut(), run.rules.format, &row).await?;
        }
        applier.commit().await?;
        self.applier = Some(applier);
        Ok(())
    }

    fn names(&self) -> [Option<String>; 2] {
        [Some(SERVER_NAME.to_owned()), Some(self.run.rules.task.clone())]
    }

    fn status_row(&self, status: &str, reading: &Reading) -> Vec<Option<String>> {
        let position = self.run.progress.checkpoint().map(|checkpoint| recovery_checkpoint(&checkpoint));
        let read = reading.newest_read.map(moment);
        let waiting = reading.waiting;
        let rest = [
            Some(status.to_owned()),
            Some(moment(SystemTime::now())),
            Some((waiting.memory_rows + waiting.disk_rows).to_string()),
            // In MB like the memory: the guide names no unit.
            Some((waiting.disk_bytes / MB).to_string()),
            Some((waiting.memory_bytes / MB).to_string()),
            position.clone(),
            read.clone(),
            // No transaction is older that is not committed: those are the source's affair.
            position,
            read,
            reading.newest_applied.map(moment),
        ];
        self.names().into_iter().chain(rest).collect()
    }

    fn suspended_rows(&self) -> Vec<Vec<Option<String>>> {
        let suspended = self.run.progress.all().into_iter().filter(|table| table.state == TableState::Error);
        let row = |table: super::progress::TableProgress| {
            let rest = [
                Some(table.name.schema),
                Some(table.name.table),
                // The service's words are not documented.
                Some("Table error".to_owned()),
                Some(moment(table.updated)),
            ];
            self.names().into_iter().chain(rest).collect()
        };
        suspended.map(row).collect()
    }

    /// The row of the slot that is running, whose end is its `timeslot`.
    fn history_row(&mut self, status: &str, reading: &Reading) -> Option<Vec<Option<String>>> {
        self.history.as_ref()?;
        let minutes = self.run.rules.settings.control_tables.history_timeslot_minutes.max(1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let number = now / (60 * minutes);
        let loaded: u64 = self.run.progress.all().iter().map(|table| table.rows).sum();
        if self.slot.as_ref().is_none_or(|slot| slot.number != number) {
            self.slot = Some(Slot { number, loaded_before: loaded, before: *reading });
        }
        let slot = self.slot.as_ref()?;
        let (kind, records, bytes, latency) = match status {
            "FULL LOAD" => ("FULL LOAD", loaded.saturating_sub(slot.loaded_before), 0, None),
            "CHANGE PROCESSING" => (
                "CHANGE PROCESSING",
                reading.rows_target - slot.before.rows_target,
                reading.bytes_source - slot.before.bytes_source,
                Some(reading.latency_target_s as u64),
            ),
            _ => return None,
        };
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs((number + 1) * 60 * minutes))?;
        let rest = [
            Some(kind.to_owned()),
            Some(moment(end)),
            Some(minutes.to_string()),
            latency.map(|latency| latency.to_string()),
            Some(records.to_string()),
            Some((bytes / MB).to_string()),
        ];
        Some(self.names().into_iter().chain(rest).collect())
    }
}
