//! One task at run time: attempts, recovery from lost servers, stopping, and reports to the control plane.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::checkpoint::StopPoint;
use super::log::{TaskLog, task_log};
use super::metrics::{Metrics, Reading};
use super::policy;
use super::progress::{News, Progress, TableProgress, TableState};
use super::rules::Rules;
use super::run::{Migration, Orders, Run};
use super::self_report::SelfReport;
use super::settings::{Logging, TaskSettings};
use super::spool::Pause;
use crate::connector::{Connection, Engine, StartPoint};
use crate::data::{Error, ErrorKind, Format, Position, TableName};
use crate::mapping::Mapping;

/// How often counts go to the control plane while rows move; changes of state go at once.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// The least time between two reports, so that a stream of small transactions does not become one of reports.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// How long a task that follows a log may take to stop in good order; what was not durable then is undone.
const STOP_GRACE: Duration = Duration::from_millis(1500);

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
    pub migration: Migration,
    pub source: Side,
    pub target: Side,
    pub mapping: Mapping,
    pub settings: TaskSettings,
    /// Where a fresh start without a full load begins.
    pub start: StartPoint,
    pub stop: Option<StopPoint>,
    /// `StopTaskCachedChanges…` of the settings hold for this run: it is not the one that goes on after such a stop.
    pub stops_after_load: bool,
    /// Tables as an earlier run left them, to resume from; empty for a fresh start.
    pub tables: Vec<TableProgress>,
    /// Where an earlier run left the source's log; none for a fresh start.
    pub checkpoint: Option<Position>,
    /// The file for changes that wait and are too many for memory.
    pub spool: PathBuf,
    pub log: Arc<TaskLog>,
}

/// What a runner tells the control plane: the only way from here to there.
#[derive(Debug)]
pub enum Report {
    /// The task has its tables and starts to move rows.
    Running,
    /// What changed: tables with their place in the load order, of which the first report of a run holds all, and the
    /// checkpoint that goes with them.
    Progress {
        tables: Vec<(usize, TableProgress)>,
        checkpoint: Option<Position>,
        /// To be told when all of it is kept, together. Dropped when it could not be: then it comes again.
        kept: oneshot::Sender<()>,
    },
    /// What waits for the target is too much for the file, or the disk takes no more of it.
    ReadingPaused(Pause),
    ReadingResumed,
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
    AfterFullLoad,
    AfterCachedEvents,
    AtServerTime,
    AtCommitTime,
}

impl StopReason {
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Normal => "NORMAL",
            StopReason::FullLoadOnlyFinished => "FULL_LOAD_ONLY_FINISHED",
            StopReason::AfterFullLoad => "STOPPED_AFTER_FULL_LOAD",
            StopReason::AfterCachedEvents => "STOPPED_AFTER_CACHED_EVENTS",
            StopReason::AtServerTime => "STOPPED_AT_SERVER_TIME",
            StopReason::AtCommitTime => "STOPPED_AT_COMMIT_TIME",
        }
    }
}

/// A running task. Dropping it ends the task without a last report.
pub struct TaskHandle {
    stop: watch::Sender<bool>,
    reloads: mpsc::UnboundedSender<Vec<TableName>>,
    runner: JoinHandle<()>,
    log: Arc<TaskLog>,
    metrics: Arc<Metrics>,
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

    /// How far behind the task is, and what waits in it.
    pub fn reading(&self) -> Reading {
        self.metrics.reading()
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
    let metrics = Arc::new(Metrics::default());
    let orders = Orders { reloads: to_reload, stopped };
    let runner = tokio::spawn(run(spec, metrics.clone(), reports, orders));
    (TaskHandle { stop, reloads, runner, log, metrics }, receiver)
}

/// What an earlier run left, as this one takes it up.
fn progress(spec: &mut TaskSpec) -> Progress {
    let tables = std::mem::take(&mut spec.tables).into_iter().map(|table| match table.state {
        // A table that an earlier run gave up gets another chance, where it can be loaded.
        TableState::Error if spec.migration.loads() => TableProgress { state: TableState::BeforeLoad, ..table },
        _ => table,
    });
    Progress::of(tables.collect(), spec.checkpoint.take())
}

async fn run(mut spec: TaskSpec, metrics: Arc<Metrics>, reports: mpsc::Sender<Report>, mut orders: Orders) {
    let progress = progress(&mut spec);
    let (source, target) = (spec.source.engine, spec.target.engine);
    let workers_max = spec.settings.full_load.max_full_load_sub_tasks;
    let two_way = spec.settings.loopback_prevention.as_ref().is_some_and(|loopback| loopback.enabled);
    let run = Arc::new(Run {
        migration: spec.migration,
        source_to_write: two_way.then(|| (source.open_target)(spec.source.connection.clone())),
        source: (source.open_source)(spec.source.connection),
        target: (target.open_target)(spec.target.connection),
        rules: Rules {
            task: spec.resource_id,
            mapping: Arc::new(spec.mapping),
            settings: Arc::new(spec.settings),
            log: spec.log,
            format: if source.family == target.family { Format::Text } else { Format::Values },
        },
        progress,
        metrics,
        workers_max: AtomicUsize::new(workers_max),
        start: spec.start,
        stop: spec.stop,
        stops_after_load: spec.stops_after_load,
        spool: spec.spool,
        reports: reports.clone(),
        following: AtomicBool::new(false),
        told_pause: AtomicBool::new(false),
    });
    let log = &run.rules.log;
    task_log!(log, TaskManager, Info, "Task '{}' starts, {}", run.rules.task, run.migration.as_str());
    let mut stopped = orders.stopped.clone();
    let mut self_report = SelfReport::new(&run);
    let outcome = tokio::select! {
        outcome = attempts(&run, &reports, &mut orders) => outcome,
        () = report_changes(&run.progress, &reports) => Outcome::Stopped(StopReason::Normal),
        () = stop_at_last(&run, &mut stopped) => Outcome::Stopped(StopReason::Normal),
        never = self_report.keep() => match never {},
    };
    self_report.end().await;
    drop(orders);
    abandon_unfinished(&run.progress, &outcome);
    match &outcome {
        Outcome::Stopped(reason) => task_log!(log, TaskManager, Info, "Task stopped, {}", reason.as_str()),
        Outcome::Failed(message) => task_log!(log, TaskManager, Error, "{message}"),
    }
    // The control plane has gone when these fail; then nobody is left to be told.
    let news = run.progress.take_news();
    if !news.is_empty() {
        let (kept, _) = oneshot::channel();
        let _ = reports.send(Report::Progress { tables: news.tables, checkpoint: news.checkpoint, kept }).await;
    }
    let _ = reports.send(Report::Finished(outcome)).await;
}

/// Ready when the task is told to stop, and not in good order within its time.
async fn stop_at_last(run: &Run, stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await.map(drop);
    if run.following.load(Ordering::SeqCst) {
        tokio::time::sleep(STOP_GRACE).await;
    }
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
    let mut last = Instant::now();
    loop {
        let _ = timeout_at(last + REPORT_INTERVAL, progress.state_changed.notified()).await;
        sleep_until(last + REPORT_PAUSE).await;
        // Room first: a change that is taken and still waits to be sent would be lost when the run ends meanwhile.
        let Ok(room) = reports.reserve().await else { return };
        last = Instant::now();
        let news = progress.take_news();
        if news.is_empty() {
            continue;
        }
        let (kept, is_kept) = oneshot::channel();
        room.send(Report::Progress { tables: news.tables.clone(), checkpoint: news.checkpoint.clone(), kept });
        let taken = Taken { progress, news: Some(news) };
        match is_kept.await {
            Ok(()) => taken.keep(),
            Err(_) => {
                drop(taken);
                // The control plane has its trouble: no use in pressing it.
                tokio::time::sleep(REPORT_INTERVAL).await;
            }
        }
    }
}

/// What was sent and is not known to be kept: it is news again when that is never known.
struct Taken<'a> {
    progress: &'a Progress,
    news: Option<News>,
}

impl Taken<'_> {
    fn keep(mut self) {
        if let Some(news) = self.news.take() {
            self.progress.keep(news);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(news) = self.news.take() {
            self.progress.give_back(news);
        }
    }
}

/// Works, and works on after every error that may pass, as `RecoverableError…` of the task's settings say.
async fn attempts(run: &Arc<Run>, reports: &mpsc::Sender<Report>, orders: &mut Orders) -> Outcome {
    let mut failures = 0;
    let mut achieved_before = None;
    let mut announced = false;
    loop {
        let announce = async || {
            if !announced {
                let _ = reports.send(Report::Running).await;
            }
        };
        let error = match run.go(orders, announce).await {
            Ok(reason) => return Outcome::Stopped(reason),
            Err(error) => error,
        };
        if error.kind != ErrorKind::Recoverable {
            return Outcome::Failed(last_error(&error, "FATAL"));
        }
        let completed = run.progress.all().iter().filter(|table| table.state == TableState::Completed).count();
        let achieved = Some((completed, run.progress.checkpoint()));
        if achieved_before.is_some() && achieved != achieved_before {
            // Something was achieved: the count of failures in a row starts again.
            failures = 0;
        }
        achieved_before = achieved;
        if error.is_too_many_connections() {
            run.ask_for_fewer_connections();
        }
        failures += 1;
        let Some(delay) = policy::retry_delay(failures, &run.rules.settings.error_behavior) else {
            task_log!(run.rules.log, TaskManager, Error, "{error}");
            return Outcome::Failed(match failures {
                1 => last_error(&error, "RECOVERABLE"),
                _ => format!(
                    "Task '{}' was stopped after {} recovery attempts Stop Reason FATAL_ERROR Error Level FATAL",
                    run.rules.task,
                    failures - 1
                ),
            });
        };
        task_log!(run.rules.log, TaskManager, Warning, "{error}; next attempt in {} s", delay.as_secs());
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
        let (reports, mut control_plane) = mpsc::channel(1);
        reports.send(Report::Running).await.unwrap();
        progress.set(vec![TableProgress::new(TableName::new("s", "t"))]);
        {
            let reporting = report_changes(&progress, &reports);
            tokio::pin!(reporting);
            for _ in 0..10 {
                assert!(futures_util::poll!(reporting.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            // Nor is one lost that was sent, when nobody has said yet that it is kept.
            control_plane.recv().await.unwrap();
            tokio::select! {
                () = &mut reporting => panic!("the control plane is still there"),
                report = control_plane.recv() => assert!(matches!(report, Some(Report::Progress { .. }))),
            }
        }
        assert_eq!(progress.take_news().tables.len(), 1);
    }
}
