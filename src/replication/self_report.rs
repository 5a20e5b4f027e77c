//! What a task tells of itself while it follows a log: the control tables of status, history and suspended tables, and the
//! latency in its log.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ControlTable.html>

mod history;

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
use history::{CHANGE_PROCESSING, Done, FULL_LOAD, History};

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
    /// What this run of the task has done: one that was started in a slot of an earlier run takes that one's place.
    done: History,
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
            done: History::new(settings.history_timeslot_minutes, done(run)),
        }
    }

    /// Tells for ever. A target that does not take it is told of in the log, and asked again.
    pub async fn keep(&mut self) -> std::convert::Infallible {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let running = if self.is_loading() { FULL_LOAD } else { CHANGE_PROCESSING };
            if let Err(error) = self.tell(Some(running)).await {
                self.applier = None;
                task_log!(self.run.rules.log, TaskManager, Warning, "Control tables were not written: {error}");
            }
            self.log_latency();
        }
    }

    /// The last word, of a task that has ended.
    pub async fn end(&mut self) {
        let _ = tokio::time::timeout(LAST_TIMEOUT, self.tell(None)).await;
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

    async fn tell(&mut self, running: Option<&str>) -> Result<()> {
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
            let row = self.status_row(running.unwrap_or("NOT RUNNING"), &reading);
            table.put(applier.as_mut(), run.rules.format, &row).await?;
        }
        if let Some(table) = &self.suspended_tables {
            for row in self.suspended_rows() {
                table.put(applier.as_mut(), run.rules.format, &row).await?;
            }
        }
        self.done.look(SystemTime::now(), done(run), running);
        if let Some(table) = &self.history {
            for row in self.history_rows(&reading) {
                table.put(applier.as_mut(), run.rules.format, &row).await?;
            }
        }
        applier.commit().await?;
        self.done.told();
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

    fn history_rows(&self, reading: &Reading) -> Vec<Vec<Option<String>>> {
        let minutes = self.run.rules.settings.control_tables.history_timeslot_minutes;
        let row = |record: history::Record| {
            let latency = (record.kind == CHANGE_PROCESSING).then(|| (reading.latency_target_s as u64).to_string());
            let rest = [
                Some(record.kind.to_owned()),
                Some(moment(record.until)),
                Some(minutes.to_string()),
                latency,
                Some(record.records.to_string()),
                Some((record.bytes / MB).to_string()),
            ];
            self.names().into_iter().chain(rest).collect()
        };
        self.done.records().into_iter().map(row).collect()
    }
}

fn done(run: &Run) -> Done {
    let reading = run.metrics.reading();
    let loaded = run.progress.all().iter().map(|table| table.rows).sum();
    Done { loaded, changed: reading.rows_target, bytes: reading.bytes_source }
}
