//! The full load: which tables, in which order, several at a time, from one snapshot of the source.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::log::task_log;
use super::policy::{self, Action, Errors};
use super::progress::TableState;
use super::pump::{Account, pump};
use super::run::{Moment, Run};
use crate::connector::{ApplyException, PrepareMode, ReadPlan, Snapshot, TableChange, TableEntry, Written};
use crate::data::{Batch, Error, ErrorKind, Format, Result, TableName};
use crate::mapping::TablePlan;

/// A batch ends at this size, so that a table takes a few MiB however long its rows are.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// When a load is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// When all is loaded and nobody asks for a table once more; from then on nobody can.
    Finished,
    /// When all is loaded: reloads are taken later on, too.
    Loaded,
}

impl Run {
    /// Loads tables, which are given by their place. Tables that fail are dealt with by the task's error policy; an error
    /// means that the load as a whole cannot go on.
    pub async fn load(
        self: &Arc<Self>,
        plans: HashMap<usize, TablePlan>,
        moment: Moment,
        until: Until,
        reloads: &mut mpsc::UnboundedReceiver<Vec<TableName>>,
    ) -> Result<()> {
        let mut waiting: Vec<usize> = plans.keys().copied().collect();
        waiting.retain(|index| {
            matches!(self.progress.get(*index).state, TableState::BeforeLoad | TableState::BeingReloaded)
        });
        waiting.sort_unstable();
        let workers = self.workers(waiting.len()).min(moment.snapshot.readers()).max(1);
        task_log!(self.rules.log, TaskManager, Info, "Full load of {} tables, {workers} at a time", waiting.len());
        let loading = Loading {
            load: self.clone(),
            plans,
            moment,
            until,
            running: JoinSet::new(),
            active: HashMap::new(),
            again: HashSet::new(),
        };
        loading.all(waiting.into(), workers, reloads).await
    }

    /// Connections to read from so many tables with.
    pub fn workers(&self, tables: usize) -> usize {
        self.workers_max.load(Ordering::Relaxed).clamp(1, tables.max(1))
    }

    /// A server has run out of connections: the next attempt asks for half as many.
    pub fn ask_for_fewer_connections(&self) {
        let fewer = (self.workers_max.load(Ordering::Relaxed) / 2).max(1);
        self.workers_max.store(fewer, Ordering::Relaxed);
        task_log!(
            self.rules.log,
            TaskManager,
            Warning,
            "A server has no connection left: {fewer} tables at a time from here on"
        );
    }

    /// Loads one table; what goes wrong with it alone is settled here by `TableErrorPolicy`.
    async fn table(self: Arc<Self>, index: usize, plan: TablePlan, moment: Moment) -> Result<()> {
        let name = plan.source.name.clone();
        self.progress.update(index, |table| {
            table.state = if table.reloaded { TableState::BeingReloaded } else { TableState::FullLoad };
            table.rows = 0;
            table.rejected = 0;
            table.started = Some(SystemTime::now());
            table.ended = None;
        });
        task_log!(self.rules.log, SourceUnload, Info, "Start loading table {name}");
        if let Some(checkpoint) = self.progress.checkpoint() {
            // A table may go while nobody looks: whoever goes on must know that the target's may have to be taken away.
            self.progress.advance_and_wait(checkpoint).await;
        }
        match self.copy(index, &plan, moment.snapshot.as_ref()).await {
            Ok(Copied::All) => {
                self.progress.update(index, |table| {
                    table.in_log.loaded_at.clone_from(&moment.position);
                    table.in_log.schema = self.migration.has_changes().then(|| plan.source.clone());
                });
                self.finished(index, TableState::Completed);
                let rows = self.progress.get(index).rows;
                task_log!(self.rules.log, TargetLoad, Info, "Load finished for table {name}, {rows} rows");
                Ok(())
            }
            Ok(Copied::Suspended(error)) => {
                let error = error.while_doing(format!("load table {name}"));
                task_log!(self.rules.log, TargetLoad, Error, "{error}");
                self.suspended(index, &name);
                Ok(())
            }
            Err(error) if matches!(error.kind, ErrorKind::Table | ErrorKind::Redefined) => {
                match self.since_planned(&plan, &error).await? {
                    Since::Same => self.failed(index, &name, error),
                    Since::Altered => {
                        task_log!(
                            self.rules.log,
                            TargetLoad,
                            Warning,
                            "Table {name} was altered before it was read: {error}"
                        );
                        self.progress.update(index, |table| table.state = TableState::BeforeLoad);
                        Ok(())
                    }
                    // By another name it is another table, which the log tells of.
                    Since::Gone => {
                        task_log!(self.rules.log, TargetLoad, Warning, "Table {name} went before it was read: {error}");
                        self.take_away(&plan.target.name).await?;
                        self.progress.update(index, |table| table.state = TableState::DoesNotExist);
                        Ok(())
                    }
                }
            }
            Err(error) => self.failed(index, &name, error),
        }
    }

    /// What became of a table on the source, in a task that learns from the log of what comes instead.
    async fn since_planned(&self, plan: &TablePlan, error: &Error) -> Result<Since> {
        let entry = TableEntry { name: plan.source.name.clone(), kind: plan.source.kind };
        if !self.migration.has_changes() {
            return Ok(Since::Same);
        }
        match self.source.describe(&[entry]).await.as_deref() {
            Ok([]) => Ok(Since::Gone),
            // Such as a TRUNCATE, which leaves the columns as they are.
            Ok(_) if error.kind == ErrorKind::Redefined => Ok(Since::Altered),
            Ok([now, ..]) if now.columns != plan.source.columns => Ok(Since::Altered),
            Err(error) if error.kind == ErrorKind::Recoverable => Err(error.clone()),
            Ok(_) | Err(_) => Ok(Since::Same),
        }
    }

    /// Takes away a table of the target whose load did not come to its end because the source has dropped its own. One that
    /// was made for the load would be in the way of another that gets its name; of one that was there before, the log says
    /// the same as of one that was loaded in time, but is not listened to any more.
    pub async fn take_away(&self, table: &TableName) -> Result<()> {
        let settings = &self.rules.settings;
        let follows_drops = settings.ddl_handling.handle_source_table_dropped && self.source.log_has_definitions();
        if settings.full_load.prepare_mode != PrepareMode::DropAndCreate && !follows_drops {
            return Ok(());
        }
        let owner = format!("{} {table}", self.rules.task);
        let mut applier = self.target.applier(&owner, self.rules.format, 1).await?;
        applier.begin().await?;
        applier.change_table(&TableChange::Drop(table)).await?;
        applier.commit().await
    }

    fn failed(&self, index: usize, name: &TableName, error: Error) -> Result<()> {
        let error = error.while_doing(format!("load table {name}"));
        if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) {
            return Err(error);
        }
        task_log!(self.rules.log, TargetLoad, Error, "{error}");
        let errors = self.progress.get(index).errors;
        self.progress.update(index, |table| table.errors.table += 1);
        match policy::action(ErrorKind::Table, &self.rules.settings.error_behavior, errors) {
            Action::StopTask => {
                self.finished(index, TableState::Error);
                Err(error.into_kind(ErrorKind::Fatal))
            }
            _ => {
                self.suspended(index, name);
                Ok(())
            }
        }
    }

    fn suspended(&self, index: usize, name: &TableName) {
        self.finished(index, TableState::Error);
        task_log!(self.rules.log, TaskManager, Warning, "Table {name} was suspended, the task goes on without it");
    }

    fn finished(&self, index: usize, state: TableState) {
        self.progress.update(index, |table| {
            table.state = state;
            table.ended = Some(SystemTime::now());
        });
    }

    /// Like `TargetTablePrepMode` says, except that rows which an interrupted load of this task has left in a table that
    /// was empty are taken away before they are loaded again: `DO_NOTHING` keeps the user's rows, not ours twice.
    /// (A guess: what DMS does with such a table is not documented.)
    async fn prepare(&self, index: usize, plan: &TablePlan) -> Result<()> {
        let full_load = &self.rules.settings.full_load;
        let mode = match full_load.prepare_mode {
            PrepareMode::DoNothing if self.progress.get(index).target_was_empty => PrepareMode::TruncateBeforeLoad,
            mode => mode,
        };
        self.target.prepare(&plan.target, mode, full_load.create_key).await?;
        if full_load.prepare_mode == PrepareMode::DoNothing {
            let empty = match self.target.is_empty(&plan.target).await {
                // An account that may insert but not read cannot tell: then nothing is ever taken away.
                Err(error) if error.kind == ErrorKind::Table => false,
                looked => looked?,
            };
            if !empty && plan.target.primary_key.is_empty() {
                let name = &plan.target.name;
                task_log!(
                    self.rules.log,
                    TargetLoad,
                    Warning,
                    "Table {name} may have rows, which TargetTablePrepMode DO_NOTHING keeps, and has no primary key: rows \
                    that an interrupted load has left are there twice"
                );
            }
            // A process that dies after the first row must have told this before.
            self.progress.update_and_wait(index, |table| table.target_was_empty = empty).await;
        }
        Ok(())
    }

    async fn copy(&self, index: usize, plan: &TablePlan, snapshot: &dyn Snapshot) -> Result<Copied> {
        let full_load = &self.rules.settings.full_load;
        let lob_bytes_max = self.rules.lob_bytes_max();
        self.prepare(index, plan).await?;
        let loaded = plan.loaded();
        let accepted = self.target.formats(&loaded).await?;
        let offered = snapshot.formats(&plan.source, &plan.columns, lob_bytes_max);
        let format = offered.into_iter().find(|format| accepted.contains(format)).unwrap_or(Format::Values);
        let mut writer = self.target.writer(&loaded, format, full_load.commit_rate).await?;
        let reader = snapshot
            .read(ReadPlan {
                table: plan.source.clone(),
                columns: plan.columns.clone(),
                format,
                lob_bytes_max,
                batch_rows: full_load.commit_rate,
                batch_bytes: BATCH_BYTES_MAX,
            })
            .await?;
        task_log!(self.rules.log, SourceUnload, Debug, "Table {} is read as {format:?}", plan.source.name);
        let mut account = TableAccount { load: self, index, plan, truncated: 0, suspended: false };
        match pump(reader, writer.as_mut(), &mut account).await {
            Err(error) if account.suspended && error.kind == ErrorKind::Table => return Ok(Copied::Suspended(error)),
            outcome => outcome?,
        }
        self.target.finish(&plan.target, full_load.create_key).await?;
        Ok(Copied::All)
    }
}

/// What happened to a table of the source between the plan of its load and the load.
enum Since {
    Same,
    Altered,
    Gone,
}

/// How a load ended that did not fail as a whole.
enum Copied {
    All,
    /// The policy for single rows gave the table up: `TableErrorPolicy` is not asked, it is not about rows.
    Suspended(Error),
}

/// The tables that are being loaded right now.
struct Loading {
    load: Arc<Run>,
    /// By place.
    plans: HashMap<usize, TablePlan>,
    moment: Moment,
    until: Until,
    running: JoinSet<Result<()>>,
    active: HashMap<Id, Active>,
    /// Tables that wait to be loaded once more.
    again: HashSet<usize>,
}

/// One load that has not ended. A table never has two.
struct Active {
    index: usize,
    handle: AbortHandle,
    /// Given up for a reload, which starts when this load has ended.
    again: bool,
}

impl Loading {
    async fn all(
        mut self,
        mut waiting: VecDeque<usize>,
        workers: usize,
        reloads: &mut mpsc::UnboundedReceiver<Vec<TableName>>,
    ) -> Result<()> {
        loop {
            while self.active.len() < workers
                && let Some(index) = waiting.pop_front()
            {
                self.start(index).await?;
            }
            if self.active.is_empty() && self.until == Until::Loaded {
                return Ok(());
            }
            if self.active.is_empty() {
                // Whoever asks from here on is told that it is too late; who asked before must not be.
                reloads.close();
                match reloads.try_recv() {
                    Ok(names) => self.reload(names, &mut waiting),
                    Err(_) => return Ok(()),
                }
                continue;
            }
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, outcome),
                        Err(error) => (error.id(), Err(Error::fatal("a table load ended unexpectedly"))),
                    };
                    match self.active.remove(&id) {
                        // Whatever became of it, the table is loaded anew.
                        Some(Active { index, again: true, .. }) => self.queue(index, &mut waiting),
                        _ => outcome?,
                    }
                }
                Some(names) = reloads.recv() => self.reload(names, &mut waiting),
            }
        }
    }

    async fn start(&mut self, index: usize) -> Result<()> {
        // A reload shows the table as it is now, not as it was when the task started.
        let moment = match self.again.remove(&index) {
            true => self.load.moment(vec![self.plans[&index].source.clone()], 1).await?,
            false => self.moment.clone(),
        };
        let handle = self.running.spawn(self.load.clone().table(index, self.plans[&index].clone(), moment));
        self.active.insert(handle.id(), Active { index, handle, again: false });
        Ok(())
    }

    /// Names of tables that are not loaded here are passed over.
    fn reload(&mut self, names: Vec<TableName>, waiting: &mut VecDeque<usize>) {
        for (index, plan) in self.plans.clone() {
            if !names.contains(&plan.source.name) {
                continue;
            }
            task_log!(self.load.rules.log, TablesManager, Info, "Table {} is loaded again", plan.source.name);
            match self.active.values_mut().find(|active| active.index == index) {
                Some(active) => {
                    active.again = true;
                    active.handle.abort();
                }
                None => self.queue(index, waiting),
            }
        }
    }

    fn queue(&mut self, index: usize, waiting: &mut VecDeque<usize>) {
        self.again.insert(index);
        self.load.progress.update(index, |table| {
            table.reloaded = true;
            // With DO_NOTHING it is for the user to empty the table before, says the guide.
            table.target_was_empty = false;
            table.state = TableState::BeingReloaded;
        });
        if !waiting.contains(&index) {
            waiting.push_back(index);
        }
    }
}

/// Counts what a table's writer did and settles refused rows by the task's data-error policy.
struct TableAccount<'a> {
    load: &'a Run,
    index: usize,
    plan: &'a TablePlan,
    truncated: u64,
    /// A row's error has cost the table.
    suspended: bool,
}

#[async_trait]
impl Account for TableAccount<'_> {
    async fn wrote(&mut self, batch: &Batch, written: Written) -> Result<()> {
        let rejected = written.rejected.len() as u64;
        self.load.progress.update(self.index, |table| {
            table.rows += written.rows;
            table.rejected += rejected;
        });
        if batch.truncated() > 0 {
            self.cut(batch.truncated())?;
        }
        if rejected > 0 {
            self.refused(written).await?;
        }
        Ok(())
    }
}

impl TableAccount<'_> {
    /// LOB values were cut to the limit of the task.
    fn cut(&mut self, values: u64) -> Result<()> {
        let (load, name) = (self.load, &self.plan.source.name);
        if self.truncated == 0 {
            task_log!(load.rules.log, SourceUnload, Warning, "LOB values of table {name} are truncated to LobMaxSize");
        }
        self.truncated += values;
        let error = || Error::new(ErrorKind::Truncation, "a LOB value is longer than LobMaxSize");
        // All but the last of them: that one decides. Rows that were refused are errors of data as well.
        let data = self.truncated - 1 + load.progress.get(self.index).rejected;
        let errors = Errors { data, ..Errors::default() };
        self.settle(policy::action(ErrorKind::Truncation, &load.rules.settings.error_behavior, errors), error)
    }

    fn settle(&mut self, action: Action, error: impl FnOnce() -> Error) -> Result<()> {
        self.suspended |= action == Action::SuspendTable;
        settle(action, error)
    }

    async fn refused(&mut self, written: Written) -> Result<()> {
        let (load, table) = (self.load, &self.plan.target.name);
        let before = self.truncated + load.progress.get(self.index).rejected - written.rejected.len() as u64;
        let mut exceptions = Vec::new();
        let mut outcome = Ok(());
        for (count, rejected) in (before..).zip(written.rejected) {
            let errors = Errors { data: count, ..Errors::default() };
            let action = policy::action(rejected.error.kind, &load.rules.settings.error_behavior, errors);
            if action != Action::Ignore {
                task_log!(
                    load.rules.log,
                    TargetLoad,
                    Warning,
                    "A row of table {table} was not loaded: {}",
                    rejected.error
                );
                exceptions.push(ApplyException {
                    task: load.rules.task.clone(),
                    table: table.clone(),
                    statement: rejected.statement,
                    error: rejected.error.to_string(),
                });
            }
            if outcome.is_ok() {
                outcome = self.settle(action, || rejected.error);
            }
        }
        if exceptions.is_empty() {
            return outcome;
        }
        match load.target.record_exceptions(&load.rules.settings.control_tables.control_schema, &exceptions).await {
            // The table is loaded again, and its bad rows come back.
            Err(error) if error.kind == ErrorKind::Recoverable => Err(error),
            // Whatever the server calls it, of a table whose lost rows can't be told the rest is not to be trusted.
            recorded => outcome.and(recorded.map_err(|error| error.into_kind(ErrorKind::Table))),
        }
    }
}

/// Turns what the policy says about a row into what happens to its table.
fn settle(action: Action, error: impl FnOnce() -> Error) -> Result<()> {
    match action {
        Action::Ignore | Action::Log => Ok(()),
        Action::SuspendTable => Err(error().into_kind(ErrorKind::Table)),
        Action::StopTask => Err(error().into_kind(ErrorKind::Fatal)),
        // The server failed while one row was written: the load as a whole is tried again.
        Action::Retry => Err(error().into_kind(ErrorKind::Recoverable)),
    }
}

#[cfg(test)]
mod tests;
