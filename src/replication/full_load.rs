//! The full load: which tables, in which order, several at a time, from one snapshot of the source.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::log::{TaskLog, task_log};
use super::policy::{self, Action, Counts};
use super::progress::{Progress, TableProgress, TableState};
use super::pump::{Account, pump};
use super::settings::{LobMode, TaskSettings};
use crate::connector::{ApplyException, PrepareMode, ReadPlan, Snapshot, Source, Target, Written};
use crate::data::{Batch, Error, ErrorKind, Format, Result, TableName};
use crate::mapping::{Mapping, MappingError, TablePlan, check_targets};

/// A batch ends at this size, so that a table takes a few MiB however long its rows are.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Everything a load needs; lives as long as the task runs.
pub(super) struct FullLoad {
    pub task: String,
    pub source: Box<dyn Source>,
    pub target: Box<dyn Target>,
    pub mapping: Mapping,
    pub settings: TaskSettings,
    pub progress: Progress,
    /// Tables that may load at once: `MaxFullLoadSubTasks`, less when a server has not that many connections.
    pub workers_max: AtomicUsize,
    pub log: Arc<TaskLog>,
}

impl FullLoad {
    /// Loads every selected table that `progress` does not call completed. Tables that fail are dealt with by the
    /// task's error policy; an error means that the load as a whole cannot go on.
    pub async fn run(
        self: &Arc<Self>,
        started: impl AsyncFnOnce(),
        reloads: &mut mpsc::UnboundedReceiver<Vec<TableName>>,
    ) -> Result<()> {
        let (plans, missing) = self.plan().await?;
        let mut tables = self.carried_over(&plans);
        tables.extend(missing.into_iter().map(TableProgress::missing));
        self.progress.set(tables);
        started().await;
        let waiting: VecDeque<usize> =
            (0..plans.len()).filter(|index| self.progress.get(*index).state == TableState::BeforeLoad).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let readers = self.workers_max.load(Ordering::Relaxed).clamp(1, waiting.len());
        let snapshot: Arc<dyn Snapshot> = Arc::from(self.source.snapshot(readers).await?);
        let workers = readers.min(snapshot.readers()).max(1);
        task_log!(self.log, TaskManager, Info, "Full load of {} tables, {workers} at a time", waiting.len());
        let loading = Loading { load: self.clone(), plans, snapshot, running: JoinSet::new(), active: HashMap::new() };
        loading.all(waiting, workers, reloads).await
    }

    /// A server has run out of connections: the next attempt asks for half as many.
    pub fn ask_for_fewer_connections(&self) {
        let fewer = (self.workers_max.load(Ordering::Relaxed) / 2).max(1);
        self.workers_max.store(fewer, Ordering::Relaxed);
        task_log!(
            self.log,
            TaskManager,
            Warning,
            "A server has no connection left: {fewer} tables at a time from here on"
        );
    }

    /// Selects and describes the source's tables and puts them into load order. Gives also the tables that rules name
    /// explicitly and the source does not have.
    async fn plan(&self) -> Result<(Vec<TablePlan>, Vec<TableName>)> {
        let entries = self.source.tables().await?;
        let mut missing = self.mapping.explicit_tables();
        missing.retain(|name| !entries.iter().any(|entry| entry.name == *name));
        for name in &missing {
            task_log!(self.log, TablesManager, Warning, "Table {name} is selected explicitly but does not exist");
        }
        let selected: Vec<_> =
            entries.into_iter().filter(|entry| self.mapping.selects(&entry.name, entry.kind).is_some()).collect();
        let mut plans = Vec::new();
        let mut tables = self.source.describe(&selected).await?;
        self.mapping.sort_for_load(&mut tables);
        for table in &tables {
            let plan = self.mapping.plan(table).map_err(refused)?;
            let plan = self.within_lob_support(plan).with_target_schema(&self.settings.target_metadata.target_schema);
            task_log!(
                self.log,
                TablesManager,
                Info,
                "Table {} with {} columns goes to {}",
                plan.source.name,
                plan.columns.len(),
                plan.target.name
            );
            plans.push(plan);
        }
        if plans.is_empty() && self.settings.error_behavior.fail_on_no_tables_captured {
            return Err(Error::fatal(NO_TABLES));
        }
        check_targets(&plans).map_err(refused)?;
        self.check_places(&plans).await?;
        Ok((plans, missing))
    }

    /// Names that differ may still be one table to the target; two loads into it would mix or drop each other's rows.
    async fn check_places(&self, plans: &[TablePlan]) -> Result<()> {
        let names: Vec<TableName> = plans.iter().map(|plan| plan.target.name.clone()).collect();
        let mut taken = HashMap::new();
        for (plan, place) in plans.iter().zip(self.target.places(&names).await?) {
            if let Some(other) = taken.insert(place.clone(), &plan.source.name) {
                let what = format!("tables {other} and {} would both become {place} on the target", plan.source.name);
                return Err(Error::fatal(what));
            }
        }
        Ok(())
    }

    /// Without `SupportLobs` the LOB columns of a table stay behind.
    fn within_lob_support(&self, plan: TablePlan) -> TablePlan {
        if self.settings.target_metadata.support_lobs {
            return plan;
        }
        let lobs: Vec<usize> =
            (0..plan.columns.len()).filter(|index| plan.target.columns[*index].data_type.is_lob()).collect();
        for index in &lobs {
            let column = &plan.source.columns[plan.columns[*index]].name;
            let table = &plan.source.name;
            task_log!(
                self.log,
                SourceUnload,
                Info,
                "Column '{column}' is unsupported in table def '{table}' since the LOB support is disabled"
            );
        }
        plan.without_columns(&lobs)
    }

    /// What is known of each planned table: completed and suspended ones stay as they are, all others start again.
    fn carried_over(&self, plans: &[TablePlan]) -> Vec<TableProgress> {
        let mut known: HashMap<TableName, TableProgress> =
            self.progress.all().into_iter().map(|table| (table.name.clone(), table)).collect();
        let table = |plan: &TablePlan| match known.remove(&plan.source.name) {
            Some(table) if matches!(table.state, TableState::Completed | TableState::Error) => table,
            known => TableProgress {
                reloaded: known.as_ref().is_some_and(|table| table.reloaded),
                failures: known.as_ref().map_or(0, |table| table.failures),
                target_was_empty: known.is_some_and(|table| table.target_was_empty),
                rows_estimate: plan.source.rows_estimate,
                ..TableProgress::new(plan.source.name.clone())
            },
        };
        plans.iter().map(table).collect()
    }

    /// Loads one table; what goes wrong with it alone is settled here by `TableErrorPolicy`.
    async fn table(self: Arc<Self>, index: usize, plan: TablePlan, snapshot: Arc<dyn Snapshot>) -> Result<()> {
        let name = plan.source.name.clone();
        self.progress.update(index, |table| {
            table.state = if table.reloaded { TableState::BeingReloaded } else { TableState::FullLoad };
            table.rows = 0;
            table.rejected = 0;
            table.started = Some(SystemTime::now());
            table.ended = None;
        });
        task_log!(self.log, SourceUnload, Info, "Start loading table {name}");
        match self.copy(index, &plan, snapshot.as_ref()).await {
            Ok(Copied::All) => {
                self.finished(index, TableState::Completed);
                let rows = self.progress.get(index).rows;
                task_log!(self.log, TargetLoad, Info, "Load finished for table {name}, {rows} rows");
                Ok(())
            }
            Ok(Copied::Suspended(error)) => {
                let error = error.while_doing(format!("load table {name}"));
                task_log!(self.log, TargetLoad, Error, "{error}");
                self.suspended(index, &name);
                Ok(())
            }
            Err(error) => self.failed(index, &name, error),
        }
    }

    fn failed(&self, index: usize, name: &TableName, error: Error) -> Result<()> {
        let error = error.while_doing(format!("load table {name}"));
        if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) {
            return Err(error);
        }
        task_log!(self.log, TargetLoad, Error, "{error}");
        let counts = Counts { table_errors: self.progress.get(index).failures, ..Counts::default() };
        self.progress.update(index, |table| table.failures += 1);
        match policy::action(ErrorKind::Table, &self.settings.error_behavior, counts) {
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
        task_log!(self.log, TaskManager, Warning, "Table {name} was suspended, the task goes on without it");
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
        let full_load = &self.settings.full_load;
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
                    self.log,
                    TargetLoad,
                    Warning,
                    "Table {name} may have rows, which TargetTablePrepMode DO_NOTHING keeps, and has no primary key: rows \
                    that an interrupted load has left are there twice"
                );
            }
            self.progress.update(index, |table| table.target_was_empty = empty);
            // A process that dies after the first row must have told this before.
            self.progress.state_changed.notify_one();
        }
        Ok(())
    }

    async fn copy(&self, index: usize, plan: &TablePlan, snapshot: &dyn Snapshot) -> Result<Copied> {
        let full_load = &self.settings.full_load;
        let lob_bytes_max = match self.settings.target_metadata.lob_mode() {
            LobMode::Limited { bytes_max } => Some(bytes_max),
            LobMode::Full { .. } | LobMode::Off => None,
        };
        self.prepare(index, plan).await?;
        let accepted = self.target.formats(&plan.target).await?;
        let offered = snapshot.formats(&plan.source, &plan.columns, lob_bytes_max);
        let format = offered.into_iter().find(|format| accepted.contains(format)).unwrap_or(Format::Values);
        let mut writer = self.target.writer(&plan.target, format, full_load.commit_rate).await?;
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
        task_log!(self.log, SourceUnload, Debug, "Table {} is read as {format:?}", plan.source.name);
        let mut account = TableAccount { load: self, index, plan, truncated: 0, suspended: false };
        match pump(reader, writer.as_mut(), &mut account).await {
            Err(error) if account.suspended && error.kind == ErrorKind::Table => return Ok(Copied::Suspended(error)),
            outcome => outcome?,
        }
        self.target.finish(&plan.target, full_load.create_key).await?;
        Ok(Copied::All)
    }
}

/// How a load ended that did not fail as a whole.
enum Copied {
    All,
    /// The policy for single rows gave the table up: `TableErrorPolicy` is not asked, it is not about rows.
    Suspended(Error),
}

fn refused(error: MappingError) -> Error {
    Error::fatal(error.to_string())
}

/// DMS's own words, which users search for.
const NO_TABLES: &str = "No tables were found at task initialization. Either the selected table(s) or schemas(s) no \
    longer exist or no match was found for the table selection pattern(s). If you would like to start a Task that does \
    not initially capture any tables, set Task Setting FailOnNoTablesCaptured to false and restart task.";

/// The tables that are being loaded right now.
struct Loading {
    load: Arc<FullLoad>,
    plans: Vec<TablePlan>,
    snapshot: Arc<dyn Snapshot>,
    running: JoinSet<Result<()>>,
    active: HashMap<Id, Active>,
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
        let snapshot = match self.load.progress.get(index).reloaded {
            true => Arc::from(self.load.source.snapshot(1).await?),
            false => self.snapshot.clone(),
        };
        let handle = self.running.spawn(self.load.clone().table(index, self.plans[index].clone(), snapshot));
        self.active.insert(handle.id(), Active { index, handle, again: false });
        Ok(())
    }

    fn reload(&mut self, names: Vec<TableName>, waiting: &mut VecDeque<usize>) {
        for (index, plan) in self.plans.iter().enumerate() {
            if !names.contains(&plan.source.name) {
                continue;
            }
            task_log!(self.load.log, TablesManager, Info, "Table {} is loaded again", plan.source.name);
            match self.active.values_mut().find(|active| active.index == index) {
                Some(active) => {
                    active.again = true;
                    active.handle.abort();
                }
                None => self.queue(index, waiting),
            }
        }
    }

    fn queue(&self, index: usize, waiting: &mut VecDeque<usize>) {
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
    load: &'a FullLoad,
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
            task_log!(load.log, SourceUnload, Warning, "LOB values of table {name} are truncated to LobMaxSize");
        }
        self.truncated += values;
        let error = || Error::new(ErrorKind::Truncation, "a LOB value is longer than LobMaxSize");
        // All but the last of them: that one decides.
        let counts = Counts { data_errors: self.truncated - 1, ..Counts::default() };
        self.settle(policy::action(ErrorKind::Truncation, &load.settings.error_behavior, counts), error)
    }

    fn settle(&mut self, action: Action, error: impl FnOnce() -> Error) -> Result<()> {
        self.suspended |= action == Action::SuspendTable;
        settle(action, error)
    }

    async fn refused(&mut self, written: Written) -> Result<()> {
        let (load, table) = (self.load, &self.plan.target.name);
        let before = load.progress.get(self.index).rejected - written.rejected.len() as u64;
        let mut exceptions = Vec::new();
        let mut outcome = Ok(());
        for (count, rejected) in (before..).zip(written.rejected) {
            let counts = Counts { data_errors: count, ..Counts::default() };
            let action = policy::action(rejected.error.kind, &load.settings.error_behavior, counts);
            if action != Action::Ignore {
                task_log!(load.log, TargetLoad, Warning, "A row of table {table} was not loaded: {}", rejected.error);
                exceptions.push(ApplyException {
                    task: load.task.clone(),
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
        match load.target.record_exceptions(&load.settings.control_tables.control_schema, &exceptions).await {
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
        Action::Retry { .. } => Err(error().into_kind(ErrorKind::Recoverable)),
    }
}

#[cfg(test)]
mod tests;
