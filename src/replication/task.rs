//! One task at run time: attempts, recovery from lost servers, stopping, and reports to the control plane.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::full_load::FullLoad;
use super::log::{TaskLog, task_log};
use super::policy;
use super::progress::{Progress, TableProgress, TableState};
use super::settings::{Logging, TaskSettings};
use crate::connector::{Connection, Engine};
use crate::data::{Error, ErrorKind, TableName};
use crate::mapping::Mapping;

/// How often counts go to the control plane while rows move; changes of state go at once.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Reports that may wait for the control plane before the reporter waits too. Loads never wait for it.
const REPORTS_MAX: usize = 16;

/// One end of a task.
pub struct Side {
    pub engine: &'static Engine,
    pub connection: Connection,
}

/// All a runner needs to know; it never looks at the store.
pub struct TaskSpec {
    /// The tail of the task's ARN: how DMS's own messages name a task.
    pub resource_id: String,
    /// `ReplicationTaskIdentifier`, for the control tables.
    pub identifier: String,
    pub source: Side,
    pub target: Side,
    pub mapping: Mapping,
    pub settings: TaskSettings,
    /// Tables as an earlier run left them, to resume from; empty for a fresh start.
    pub tables: Vec<TableProgress>,
    pub log: Arc<TaskLog>,
}

/// What a runner tells the control plane: the only way from here to there.
#[derive(Debug)]
pub enum Report {
    /// The task has its tables and starts to move rows.
    Running,
    /// Tables that changed, with their place in the load order; the first report of a run holds all.
    Tables(Vec<(usize, TableProgress)>),
    /// The last report.
    Finished(Outcome),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Stopped(StopReason),
    /// With the text of `LastFailureMessage`.
    Failed(String),
}

/// As in `StopReason` of a task, after the words `Stop Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Normal,
    FullLoadOnlyFinished,
}

impl StopReason {
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Normal => "NORMAL",
            StopReason::FullLoadOnlyFinished => "FULL_LOAD_ONLY_FINISHED",
        }
    }
}

/// A running task. Dropping it ends the task without a last report.
pub struct TaskHandle {
    stop: watch::Sender<bool>,
    reloads: mpsc::UnboundedSender<Vec<TableName>>,
    runner: JoinHandle<()>,
    log: Arc<TaskLog>,
}

impl TaskHandle {
    /// Asks the task to stop; its last report tells when it has.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Loads tables again while the task runs; names that are not the task's are passed over. `false` when the load
    /// has ended and takes no more.
    pub fn reload(&self, tables: Vec<TableName>) -> bool {
        self.reloads.send(tables).is_ok()
    }

    /// Changes how much the task's log tells from now on.
    pub fn set_log_levels(&self, levels: Logging) {
        self.log.set_levels(levels);
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        self.runner.abort();
    }
}

/// Starts the task on the current runtime.
pub fn start(spec: TaskSpec) -> (TaskHandle, mpsc::Receiver<Report>) {
    let (reports, receiver) = mpsc::channel(REPORTS_MAX);
    let (stop, stopped) = watch::channel(false);
    let (reloads, to_reload) = mpsc::unbounded_channel();
    let log = spec.log.clone();
    let runner = tokio::spawn(run(spec, reports, stopped, to_reload));
    (TaskHandle { stop, reloads, runner, log }, receiver)
}

async fn run(
    spec: TaskSpec,
    reports: mpsc::Sender<Report>,
    mut stopped: watch::Receiver<bool>,
    mut reloads: mpsc::UnboundedReceiver<Vec<TableName>>,
) {
    let progress = Progress::default();
    // A table that an earlier run gave up gets another chance.
    let tables = spec.tables.into_iter().map(|table| match table.state {
        TableState::Error => TableProgress { state: TableState::BeforeLoad, ..table },
        _ => table,
    });
    progress.set(tables.collect());
    // The control plane has these already.
    progress.take_changed();
    let load = Arc::new(FullLoad {
        task: spec.identifier,
        source: (spec.source.engine.open_source)(spec.source.connection),
        target: (spec.target.engine.open_target)(spec.target.connection),
        mapping: spec.mapping,
        workers_max: AtomicUsize::new(spec.settings.full_load.max_full_load_sub_tasks),
        settings: spec.settings,
        progress,
        log: spec.log,
    });
    task_log!(load.log, TaskManager, Info, "Task '{}' starts, full load only", load.task);
    let outcome = tokio::select! {
        outcome = attempts(&load, &spec.resource_id, &reports, &mut reloads) => outcome,
        () = report_changes(&load.progress, &reports) => Outcome::Stopped(StopReason::Normal),
        _ = stopped.wait_for(|stop| *stop) => Outcome::Stopped(StopReason::Normal),
    };
    drop(reloads);
    abandon_unfinished(&load.progress, &outcome);
    match &outcome {
        Outcome::Stopped(reason) => task_log!(load.log, TaskManager, Info, "Task stopped, {}", reason.as_str()),
        Outcome::Failed(message) => task_log!(load.log, TaskManager, Error, "{message}"),
    }
    // The control plane has gone when these fail; then nobody is left to be told.
    let _ = reports.send(Report::Tables(load.progress.take_changed())).await;
    let _ = reports.send(Report::Finished(outcome)).await;
}

/// Tables that were loading when the task ended will be loaded again from the start.
fn abandon_unfinished(progress: &Progress, outcome: &Outcome) {
    for (index, table) in progress.all().iter().enumerate() {
        if matches!(table.state, TableState::FullLoad | TableState::BeingReloaded) {
            let state = match outcome {
                Outcome::Stopped(_) => TableState::Cancelled,
                Outcome::Failed(_) => TableState::Error,
            };
            progress.update(index, |table| table.state = state);
        }
    }
}

/// Sends what changed, for ever, until the control plane is gone.
async fn report_changes(progress: &Progress, reports: &mpsc::Sender<Report>) {
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = progress.state_changed.notified() => {}
        }
        // Room first: a change that is taken and still waits to be sent would be lost when the run ends meanwhile.
        let Ok(room) = reports.reserve().await else { return };
        let changed = progress.take_changed();
        if !changed.is_empty() {
            room.send(Report::Tables(changed));
        }
    }
}

/// Loads, and loads on after every error that may pass, as `RecoverableError…` of the task's settings say.
async fn attempts(
    load: &Arc<FullLoad>,
    resource_id: &str,
    reports: &mpsc::Sender<Report>,
    reloads: &mut mpsc::UnboundedReceiver<Vec<TableName>>,
) -> Outcome {
    let mut failures = 0;
    let mut completed_before = 0;
    let mut announced = false;
    loop {
        let announce = async || {
            if !announced {
                let _ = reports.send(Report::Running).await;
            }
        };
        let error = match load.run(announce, reloads).await {
            Ok(()) => return Outcome::Stopped(StopReason::FullLoadOnlyFinished),
            Err(error) => error,
        };
        if error.kind != ErrorKind::Recoverable {
            return Outcome::Failed(last_error(&error, "FATAL"));
        }
        let completed = load.progress.all().iter().filter(|table| table.state == TableState::Completed).count();
        if completed > completed_before {
            // Something was achieved: the count of failures in a row starts again.
            failures = 0;
        }
        completed_before = completed;
        if error.is_too_many_connections() {
            load.ask_for_fewer_connections();
        }
        failures += 1;
        let Some(delay) = policy::retry_delay(failures, &load.settings.error_behavior) else {
            task_log!(load.log, TaskManager, Error, "{error}");
            return Outcome::Failed(match failures {
                1 => last_error(&error, "RECOVERABLE"),
                _ => format!(
                    "Task '{resource_id}' was stopped after {} recovery attempts Stop Reason FATAL_ERROR Error Level FATAL",
                    failures - 1
                ),
            });
        };
        task_log!(load.log, TaskManager, Warning, "{error}; next attempt in {} s", delay.as_secs());
        if !announced {
            announced = true;
            let _ = reports.send(Report::Running).await;
        }
        tokio::time::sleep(delay).await;
    }
}

/// DMS's shape of a failure; the two blanks are its own.
fn last_error(error: &Error, level: &str) -> String {
    format!("Last Error  {error} Stop Reason {level}_ERROR Error Level {level}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_that_cannot_be_reported_yet_is_kept_for_the_last_report() {
        let progress = Progress::default();
        let (reports, _control_plane) = mpsc::channel(1);
        reports.send(Report::Running).await.unwrap();
        progress.set(vec![TableProgress::new(TableName::new("s", "t"))]);
        {
            let reporting = report_changes(&progress, &reports);
            tokio::pin!(reporting);
            for _ in 0..10 {
                assert!(futures_util::poll!(reporting.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(progress.take_changed().len(), 1);
    }
}
