//! One run of a task: the tables it has, what it does with them, and in which order.
//!
//! With changes, the run first makes the source keep its log, then loads the tables from a snapshot of that moment, then
//! follows the log from there. The log is the cache of what changes during the load. A table that is loaded later (after an
//! interruption, again, or because it is new) is loaded from a snapshot at a later place of the log, and what the log has
//! of it before that place is passed over.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::apply::{Apply, Known, Start};
use super::checkpoint::StopPoint;
use super::control_tables::{ControlTable, is_loopback_prevention};
use super::follow::Followed;
use super::full_load::Until;
use super::log::task_log;
use super::metrics::Metrics;
use super::policy::Errors;
use super::progress::{Progress, TableProgress, TableState};
use super::rules::{Rules, refused};
use super::task::{Report, StopReason};
use crate::connector::{
    Adoption, Beginning, Capture, CreateKey, PrepareMode, Snapshot, Source, StartPoint, TableEntry, Target,
};
use crate::data::{Error, Position, Result, TableKind, TableName, TableSchema};
use crate::mapping::{TablePlan, check_targets};

/// A piece of the log ends at this size.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// `MigrationType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    FullLoad,
    FullLoadAndCdc,
    Cdc,
}

impl Migration {
    pub fn of(text: &str) -> Option<Migration> {
        match text {
            "full-load" => Some(Migration::FullLoad),
            "full-load-and-cdc" => Some(Migration::FullLoadAndCdc),
            "cdc" => Some(Migration::Cdc),
            _ => None,
        }
    }

    /// As DMS writes it into the log of a task.
    pub fn as_str(self) -> &'static str {
        match self {
            Migration::FullLoad => "full load only",
            Migration::FullLoadAndCdc => "full load and CDC",
            Migration::Cdc => "CDC only",
        }
    }

    pub fn loads(self) -> bool {
        self != Migration::Cdc
    }

    pub fn has_changes(self) -> bool {
        self != Migration::FullLoad
    }
}

/// Everything a run works with.
pub(super) struct Run {
    pub migration: Migration,
    pub source: Box<dyn Source>,
    pub target: Box<dyn Target>,
    /// The source as something to write to, where the settings need that.
    pub source_to_write: Option<Box<dyn Target>>,
    pub rules: Rules,
    pub progress: Progress,
    pub metrics: Arc<Metrics>,
    /// Tables that may load at once: `MaxFullLoadSubTasks`, less when a server has not that many connections.
    pub workers_max: AtomicUsize,
    /// Where a task without a full load begins.
    pub start: StartPoint,
    pub stop: Option<StopPoint>,
    pub stops_after_load: bool,
    /// Where changes that wait are put when they are too many for memory.
    pub spool: PathBuf,
    pub reports: mpsc::Sender<Report>,
    /// Changes are followed: a stop waits for a good moment.
    pub following: AtomicBool,
    /// It was told that reading stands still, and not yet that it goes on.
    pub told_pause: AtomicBool,
}

/// What comes to a running task from outside.
pub(super) struct Orders {
    pub reloads: mpsc::UnboundedReceiver<Vec<TableName>>,
    pub stopped: watch::Receiver<bool>,
}

/// A view of the source's tables.
#[derive(Clone)]
pub(super) struct Moment {
    pub snapshot: Arc<dyn Snapshot>,
    /// Its place in the log, where that is beyond the place from which the log is read.
    pub position: Option<Position>,
}

impl Run {
    /// Does all that the task is to do, from where it stands.
    pub async fn go(self: &Arc<Self>, orders: &mut Orders, started: impl AsyncFnOnce()) -> Result<StopReason> {
        let (plans, missing) = self.plan().await?;
        self.take_away_abandoned(&plans).await?;
        let mut tables = self.carried_over(&plans);
        tables.extend(missing.into_iter().map(TableProgress::missing));
        self.progress.set(tables);
        let plans: HashMap<usize, TablePlan> = plans.into_iter().enumerate().collect();
        match self.migration {
            Migration::FullLoad => {
                started().await;
                if !self.waiting(&plans).is_empty() {
                    let moment = self.moment_of(&plans).await?;
                    self.load(plans, moment, Until::Finished, &mut orders.reloads).await?;
                }
                Ok(StopReason::FullLoadOnlyFinished)
            }
            Migration::FullLoadAndCdc | Migration::Cdc => self.replicate(plans, orders, started).await,
        }
    }

    /// Tables that went before they were loaded, or while that was interrupted, are not loaded any more.
    async fn take_away_abandoned(&self, plans: &[TablePlan]) -> Result<()> {
        let planned: HashSet<&TableName> = plans.iter().map(|plan| &plan.source.name).collect();
        let is_abandoned = |table: &TableProgress| {
            self.migration.has_changes()
                && (table.started.is_some() || table.in_log.schema.is_some())
                && matches!(table.state, TableState::BeforeLoad | TableState::FullLoad | TableState::Cancelled)
                && !planned.contains(&table.name)
                // Mappings may have been changed: what is not selected any more is left alone.
                && self.rules.mapping.selects(&table.name, TableKind::Table).is_some()
        };
        for table in self.progress.all().into_iter().filter(is_abandoned) {
            let name = self.rules.target_name(&table.name)?;
            // One that is there by now under another name.
            if !plans.iter().any(|plan| plan.target.name == name) {
                self.take_away(&name).await?;
            }
        }
        Ok(())
    }

    /// Tables that are still to be loaded.
    fn waiting(&self, plans: &HashMap<usize, TablePlan>) -> Vec<TableSchema> {
        let waits = |(index, _): &(&usize, &TablePlan)| {
            matches!(self.progress.get(**index).state, TableState::BeforeLoad | TableState::BeingReloaded)
        };
        plans.iter().filter(waits).map(|(_, plan)| plan.source.clone()).collect()
    }

    async fn moment_of(&self, plans: &HashMap<usize, TablePlan>) -> Result<Moment> {
        let waiting = self.waiting(plans);
        let readers = self.workers(waiting.len());
        self.moment(waiting, readers).await
    }

    async fn replicate(
        self: &Arc<Self>,
        mut plans: HashMap<usize, TablePlan>,
        orders: &mut Orders,
        started: impl AsyncFnOnce(),
    ) -> Result<StopReason> {
        let settings = &self.rules.settings.full_load;
        let fresh = self.progress.checkpoint().is_none();
        let mut beginning = if fresh { self.begin(&plans).await? } else { None };
        if !fresh {
            let unknown = self.unknown_to_log(&plans);
            self.adopt(unknown.iter().map(|index| plans[index].source.name.clone()).collect()).await?;
            if !self.migration.loads() {
                self.take_as_they_are(&unknown, &plans).await?;
            }
        }
        // Whoever sees the task run may count on it that what changes from now on is captured.
        started().await;
        let mut first = fresh;
        loop {
            // Without a full load, that is tables that came into being while the task ran.
            if !self.waiting(&plans).is_empty() {
                let moment = match beginning.take() {
                    Some(moment) => moment,
                    None => self.moment_of(&plans).await?,
                };
                self.load(plans.clone(), moment, Until::Loaded, &mut orders.reloads).await?;
                let altered: Vec<TableName> = self.waiting(&plans).into_iter().map(|table| table.name).collect();
                if !altered.is_empty() {
                    self.add(altered, &mut plans).await?;
                    continue;
                }
                if settings.stop_task_cached_changes_not_applied && self.stops_after_load && self.migration.loads() {
                    return Ok(StopReason::AfterFullLoad);
                }
            }
            beginning = None;
            match self.follow(first, orders).await? {
                Followed::Stopped(reason) => return Ok(reason),
                Followed::New(names) => self.add(names, &mut plans).await?,
                Followed::Reload(names) => self.reload(names, &mut plans).await?,
            }
            first = false;
        }
    }

    /// Makes the source keep its log from now on.
    async fn begin(&self, plans: &HashMap<usize, TablePlan>) -> Result<Option<Moment>> {
        let mut tables: Vec<TableSchema> = plans.values().map(|plan| plan.source.clone()).collect();
        tables.extend(self.loopback_on_source().await?);
        let capture = self.capture(tables);
        let (moment, position) = match self.migration {
            Migration::Cdc => {
                let position = self.source.begin_capture_at(&capture, &self.start).await?;
                (None, position)
            }
            Migration::FullLoad | Migration::FullLoadAndCdc => {
                let Beginning { snapshot, position } =
                    self.source.begin_capture(&capture, self.workers(plans.len())).await?;
                (Some(Moment { snapshot: Arc::from(snapshot), position: None }), position)
            }
        };
        task_log!(self.rules.log, SourceCapture, Info, "Changes are captured from position {position}");
        if self.migration == Migration::Cdc {
            for (index, plan) in plans {
                self.present(*index, plan).await?;
            }
        }
        // First: where the checkpoint is kept and the target goes on from another place, changes would be passed over.
        Apply::begin_at(&self.rules, self.target.as_ref(), &position).await?;
        self.progress.advance_and_wait(position).await;
        Ok(moment)
    }

    /// The table that the task of the other direction marks its transactions in. It may not have run yet, and the log must
    /// have the table from its beginning.
    async fn loopback_on_source(&self) -> Result<Vec<TableSchema>> {
        let Some(loopback) = self.rules.loopback() else { return Ok(Vec::new()) };
        let Some(source) = &self.source_to_write else { return Ok(Vec::new()) };
        let table = ControlTable::loopback_prevention(source.family(), &loopback.source_schema);
        table.create(source.as_ref()).await?;
        self.source.describe(&[TableEntry { name: table.name().clone(), kind: TableKind::Table }]).await
    }

    /// A table that is not loaded: it is made on the target where it is missing.
    async fn present(&self, index: usize, plan: &TablePlan) -> Result<()> {
        self.target.prepare(&plan.target, PrepareMode::DoNothing, CreateKey::WithTable).await?;
        self.progress.update(index, |table| {
            table.state = TableState::Completed;
            table.in_log.schema = Some(plan.source.clone());
        });
        Ok(())
    }

    /// Planned tables that the log did not have so far.
    fn unknown_to_log(&self, plans: &HashMap<usize, TablePlan>) -> Vec<usize> {
        plans.keys().copied().filter(|index| self.progress.get(*index).in_log.schema.is_none()).collect()
    }

    /// In a task without a full load, a table that is new to it and that the target has was filled by its user. One that
    /// the target lacks came into being while the task did not run, and its rows with it.
    async fn take_as_they_are(&self, unknown: &[usize], plans: &HashMap<usize, TablePlan>) -> Result<()> {
        for index in unknown {
            let plan = &plans[index];
            if !self.target.columns(&plan.target.name).await?.is_empty() {
                self.present(*index, plan).await?;
            }
        }
        Ok(())
    }

    async fn adopt(&self, names: Vec<TableName>) -> Result<Adoption> {
        match names.is_empty() {
            true => Ok(Adoption::InLog),
            false => self.source.adopt(&self.capture(Vec::new()), &names).await,
        }
    }

    /// Tables that came into being while the log was followed, and whose rows it lacks; or that were altered before they
    /// were loaded.
    async fn add(&self, names: Vec<TableName>, plans: &mut HashMap<usize, TablePlan>) -> Result<()> {
        let found = self.plans_of(names.clone()).await?;
        for name in names.iter().filter(|name| !found.iter().any(|plan| plan.source.name == **name)) {
            // By another name it is another table, which the log tells of.
            task_log!(self.rules.log, TablesManager, Info, "Table {name} went before it was loaded");
            self.take_away(&self.rules.target_name(name)?).await?;
            self.progress.update(self.progress.place_of(name), |table| table.state = TableState::DoesNotExist);
        }
        for plan in found {
            let place = self.progress.place_of(&plan.source.name);
            self.progress.update(place, |table| table.state = TableState::BeforeLoad);
            plans.insert(place, plan);
        }
        Ok(())
    }

    async fn reload(&self, names: Vec<TableName>, plans: &mut HashMap<usize, TablePlan>) -> Result<()> {
        let found = self.plans_of(names.clone()).await?;
        for name in names.iter().filter(|name| !found.iter().any(|plan| plan.source.name == **name)) {
            task_log!(self.rules.log, TablesManager, Warning, "Table {name} cannot be loaded again: it does not exist");
            self.progress.update(self.progress.place_of(name), |table| table.state = TableState::DoesNotExist);
        }
        for plan in found {
            let place = self.progress.place_of(&plan.source.name);
            task_log!(self.rules.log, TablesManager, Info, "Table {} is loaded again", plan.source.name);
            plans.insert(place, plan);
        }
        Ok(())
    }

    pub fn mark_for_reload(&self, names: &[TableName]) {
        for name in names {
            self.progress.update(self.progress.place_of(name), |table| {
                table.reloaded = true;
                // With DO_NOTHING it is for the user to empty the table before, says the guide.
                table.target_was_empty = false;
                // The load mends what they were about.
                table.errors = Errors { table: table.errors.table, ..Errors::default() };
                table.state = TableState::BeingReloaded;
            });
        }
    }

    async fn plans_of(&self, names: Vec<TableName>) -> Result<Vec<TablePlan>> {
        let entries: Vec<TableEntry> =
            names.into_iter().map(|name| TableEntry { name, kind: TableKind::Table }).collect();
        self.source.describe(&entries).await?.iter().map(|table| self.rules.plan(table)).collect()
    }

    /// Opens a view of these tables of the source as they are now.
    pub async fn moment(&self, tables: Vec<TableSchema>, readers: usize) -> Result<Moment> {
        if !self.migration.has_changes() {
            return Ok(Moment { snapshot: Arc::from(self.source.snapshot(readers).await?), position: None });
        }
        let Beginning { snapshot, position } = self.source.snapshot_in_log(&self.capture(tables), readers).await?;
        Ok(Moment { snapshot: Arc::from(snapshot), position: Some(position) })
    }

    pub fn capture(&self, tables: Vec<TableSchema>) -> Capture {
        let mapping = self.rules.mapping.clone();
        let loopback = self.rules.loopback().cloned();
        Capture {
            task: self.rules.task.clone(),
            tables,
            loaded_at: HashMap::new(),
            selects: Arc::new(move |name| {
                let echo =
                    loopback.as_ref().is_some_and(|loopback| is_loopback_prevention(name, &loopback.source_schema));
                echo || (!is_own(name) && mapping.selects(name, TableKind::Table).is_some())
            }),
            format: self.rules.format,
            lob_bytes_max: self.rules.lob_bytes_max(),
            old_rows: self.rules.mapping.wants_before_images(),
            batch_bytes: PIECE_BYTES_MAX,
            transactions_timeout: Duration::from_secs(self.rules.settings.full_load.transaction_consistency_timeout_s),
        }
    }

    /// The tables as the log has them at the checkpoint, and what applying must know of them.
    pub fn tables_in_log(&self, from: &Position) -> (Capture, Start) {
        let mut start = Start::default();
        let mut capture = self.capture(Vec::new());
        for table in self.progress.all() {
            // The second is a table that came into being beyond the place: it was read of, and nothing is applied yet.
            let is_ahead = table.state == TableState::BeforeLoad && table.in_log.schema.is_none();
            if table.state == TableState::DoesNotExist || is_ahead {
                continue;
            }
            let known = Known {
                captured: table.in_log.captured,
                applied: table.in_log.applied,
                suspended: table.state != TableState::Completed,
                gone: table.in_log.schema.is_none() && table.state == TableState::Completed,
                errors: table.errors,
            };
            start.tables.insert(table.name.clone(), known);
            if let Some(loaded_at) = table.in_log.loaded_at.filter(|loaded_at| loaded_at > from) {
                capture.loaded_at.insert(table.name, loaded_at);
            }
            capture.tables.extend(table.in_log.schema);
        }
        (capture, start)
    }

    /// Selects and describes the source's tables and puts them into load order. Gives also the tables that rules name
    /// explicitly and the source does not have.
    pub async fn plan(&self) -> Result<(Vec<TablePlan>, Vec<TableName>)> {
        let entries = self.source.tables().await?;
        let mut missing = self.rules.mapping.explicit_tables();
        missing.retain(|name| !entries.iter().any(|entry| entry.name == *name));
        for name in &missing {
            task_log!(self.rules.log, TablesManager, Warning, "Table {name} is selected explicitly but does not exist");
        }
        // Views are for tasks of a full load alone, says the guide.
        let selected: Vec<_> = entries
            .into_iter()
            .filter(|entry| self.rules.mapping.selects(&entry.name, entry.kind).is_some())
            .filter(|entry| entry.kind == TableKind::Table || !self.migration.has_changes())
            .collect();
        let mut plans = Vec::new();
        let mut tables = self.source.describe(&selected).await?;
        self.rules.mapping.sort_for_load(&mut tables);
        for table in &tables {
            let plan = self.rules.plan(table)?;
            task_log!(
                self.rules.log,
                TablesManager,
                Info,
                "Table {} with {} columns goes to {}",
                plan.source.name,
                plan.columns.len(),
                plan.target.name
            );
            plans.push(plan);
        }
        if plans.is_empty() && self.rules.settings.error_behavior.fail_on_no_tables_captured {
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

    /// What is known of each planned table: completed and suspended ones stay as they are, all others start again. Tables
    /// that are no longer there may still be in the log.
    pub fn carried_over(&self, plans: &[TablePlan]) -> Vec<TableProgress> {
        let all = self.progress.all();
        let planned: HashSet<&TableName> = plans.iter().map(|plan| &plan.source.name).collect();
        let gone = all.iter().filter(|table| table.in_log.schema.is_some() && !planned.contains(&table.name)).cloned();
        let gone: Vec<TableProgress> = gone.collect();
        let mut known: HashMap<TableName, TableProgress> =
            all.into_iter().map(|table| (table.name.clone(), table)).collect();
        let table = |plan: &TablePlan| match known.remove(&plan.source.name) {
            // Another table than the one of its name that went.
            Some(table)
                if table.state == TableState::Error
                    || table.state == TableState::Completed
                        && (table.in_log.schema.is_some() || !self.migration.has_changes()) =>
            {
                table
            }
            known => {
                let known = known.unwrap_or_else(|| TableProgress::new(plan.source.name.clone()));
                TableProgress {
                    reloaded: known.reloaded,
                    errors: known.errors,
                    target_was_empty: known.target_was_empty,
                    captured: known.captured,
                    in_log: known.in_log,
                    rows_estimate: plan.source.rows_estimate,
                    ..TableProgress::new(plan.source.name.clone())
                }
            }
        };
        plans.iter().map(table).chain(gone).collect()
    }
}

/// Tables of DMS's own are not part of what a user migrates, whatever the rules say.
pub(super) fn is_own(name: &TableName) -> bool {
    let table = name.table.as_bytes();
    table.len() >= 7 && table[..7].eq_ignore_ascii_case(b"awsdms_")
}

/// DMS's own words, which users search for.
const NO_TABLES: &str = "No tables were found at task initialization. Either the selected table(s) or schemas(s) no \
    longer exist or no match was found for the table selection pattern(s). If you would like to start a Task that does \
    not initially capture any tables, set Task Setting FailOnNoTablesCaptured to false and restart task.";
