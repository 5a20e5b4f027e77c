//! What a handler has at hand: the store, the configuration, whose call it is, and who waits for what.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::replication::{Reading, TaskHandle};
use crate::store::{Owner, Store};

/// What the process was started with, as far as the control plane reads it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest a describe waits for a status that is about to change; zero never waits.
    pub settle: Duration,
    /// The folder of the task logs.
    pub log_dir: PathBuf,
    /// The folder for changes that wait for their target and are too many for memory.
    pub spool_dir: PathBuf,
}

/// The control plane's shared state.
pub struct Shared {
    pub store: Store,
    pub settings: Settings,
    /// Counts status changes, so that waiting describes look again.
    changes: watch::Sender<u64>,
    /// Tasks that run in this process, by ARN.
    runners: Mutex<HashMap<String, Runner>>,
    /// What is left to do for tasks that are gone.
    later: Mutex<JoinSet<()>>,
}

/// A task that runs, and whether the user has been shown that it does.
pub struct Runner {
    pub handle: TaskHandle,
    /// It does not run until it is stopped.
    ends_by_itself: bool,
    seen_running: watch::Sender<bool>,
}

/// One call's view.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    pub owner: Owner,
}

impl Shared {
    pub fn new(store: Store, settings: Settings) -> Arc<Shared> {
        let (changes, runners, later) = (watch::Sender::new(0), Mutex::default(), Mutex::default());
        Arc::new(Shared { store, settings, changes, runners, later })
    }

    pub fn context(self: &Arc<Self>, owner: Owner) -> Context {
        Context { shared: self.clone(), owner }
    }

    fn runners(&self) -> MutexGuard<'_, HashMap<String, Runner>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tasks that run here, by ARN, with how far behind they are.
    pub fn readings(&self) -> Vec<(String, Reading)> {
        let runners = self.runners();
        let mut readings: Vec<_> = runners.iter().map(|(arn, runner)| (arn.clone(), runner.handle.reading())).collect();
        readings.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        readings
    }

    /// Ends every running task at once, without a last word.
    pub fn abort_tasks(&self) {
        self.runners().clear();
        self.later().abort_all();
    }

    fn later(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Does something that nobody waits for; it ends with the tasks of this process at the latest.
    pub fn do_later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut later = self.shared.later();
        while later.try_join_next().is_some() {}
        later.spawn(work);
    }

    /// Tells waiting describes to look again.
    pub fn changed(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    pub fn settle_deadline(&self) -> Instant {
        Instant::now() + self.shared.settings.settle
    }

    /// To be taken before a look at the store, so that no change after it is missed.
    pub fn watch_changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Waits for the next status change of anything; `false` once the deadline has passed.
    pub async fn wait_for_change(&self, changes: &mut watch::Receiver<u64>, deadline: Instant) -> bool {
        matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(())))
    }

    /// A describe that names one task has shown this status to the user.
    pub fn observed(&self, arn: &str, status: &str) {
        if status == "running"
            && let Some(runner) = self.shared.runners().get(arn)
        {
            runner.seen_running.send_replace(true);
        }
    }

    /// A running task whose `running` the user has seen: the next describe waits for its end, so that botocore's
    /// waiters, which look every 15 seconds, meet the end of a short load at their first look. One whose runner has gone
    /// has ended but for its status.
    pub fn ends_soon(&self, arn: &str, status: &str) -> bool {
        let ends = |runner: &Runner| runner.ends_by_itself && *runner.seen_running.borrow();
        status == "running" && self.shared.runners().get(arn).is_none_or(ends)
    }

    /// Waits until a describe has shown that the task runs, at most the settle time: otherwise a load of a few
    /// milliseconds would be over before any client could see it run, and botocore's waiters would fail.
    pub async fn running_was_seen(&self, arn: &str) {
        let seen = self.shared.runners().get(arn).map(|runner| runner.seen_running.subscribe());
        if let Some(mut seen) = seen {
            let _ = tokio::time::timeout(self.shared.settings.settle, seen.wait_for(|seen| *seen)).await;
        }
    }

    pub fn add_runner(&self, arn: &str, handle: TaskHandle, ends_by_itself: bool) {
        let runner = Runner { handle, ends_by_itself, seen_running: watch::Sender::new(false) };
        self.shared.runners().insert(arn.to_owned(), runner);
    }

    pub fn remove_runner(&self, arn: &str) {
        self.shared.runners().remove(arn);
    }

    /// Calls `act` with the runner of a task; `None` when it does not run here.
    pub fn with_runner<T>(&self, arn: &str, act: impl FnOnce(&TaskHandle) -> T) -> Option<T> {
        self.shared.runners().get(arn).map(|runner| act(&runner.handle))
    }
}
