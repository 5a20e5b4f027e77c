//! Applying the changes of a source's log: whole transactions of the source, in the order in which they committed, in
//! transactions of the target that hold one or more of them.
//!
//! What waits for a transaction of the target is folded (`net`) and applied as sets. Where a set fails, or does not meet
//! the rows that it should, all that waits is applied again one change after the other, and the task's error policy
//! decides on each that fails.

use std::sync::Arc;

use super::log::{TaskLog, task_log};
use super::net::{ApplyFirst, Image, NetChange, NetChanges};
use super::policy::{self, Action};
use super::settings::TaskSettings;
use crate::connector::{Applier, ApplyException, ChangeSet, Conflict, Key, RowChange, Target};
use crate::data::{
    Changes, Entry, Error, ErrorKind, Format, Op, Position, Result, Row, TableName, TableVersion, Value,
};
use crate::mapping::{Mapping, TablePlan};

/// What waits is applied when it takes this much memory, though its transaction be not at its end.
const HELD_BYTES_MAX: usize = 32 << 20;

/// What a task's changes are applied with.
pub struct Rules {
    /// `ReplicationTaskIdentifier`, for the control tables.
    pub task: String,
    pub mapping: Mapping,
    pub settings: TaskSettings,
    pub log: Arc<TaskLog>,
    /// Of the images in the log.
    pub format: Format,
}

/// Changes of one table, as `TableStatistics` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
}

impl Counts {
    fn add(&mut self, op: Op, rows: u64) {
        match op {
            Op::Insert => self.inserts += rows,
            Op::Update => self.updates += rows,
            Op::Delete => self.deletes += rows,
        }
    }
}

/// A table of the log.
struct Table {
    plan: TablePlan,
    /// The columns of the target that tell rows apart, and where the log's rows have them.
    key: Vec<usize>,
    source_key: Vec<usize>,
    /// At most one row has a key.
    unique: bool,
    suspended: bool,
    waiting: NetChanges,
    captured: Counts,
    applied: Counts,
    errors: u64,
}

/// The changes on their way to a target.
pub struct Apply<'a> {
    rules: &'a Rules,
    target: &'a dyn Target,
    applier: Box<dyn Applier>,
    tables: Vec<Table>,
    /// What waiting changes refer to.
    pieces: Vec<Changes>,
    /// What waits, in the order of the log.
    order: Vec<(usize, NetChange)>,
    stage: Stage,
    /// Changes since the target's last commit.
    changes: usize,
    /// The place after the last transaction of the source that is complete here.
    complete: Option<Position>,
    /// The last transaction of the source is only partly here.
    partial: bool,
    /// Changes may have been applied before: what is there already is no error, nor is what is gone already.
    tolerant: bool,
    exceptions: Vec<ApplyException>,
}

/// How far the target's transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    None,
    Begun,
    /// Some changes are in it.
    Filled,
}

impl<'a> Apply<'a> {
    pub async fn start(rules: &'a Rules, target: &'a dyn Target, tolerant: bool) -> Result<Apply<'a>> {
        let statements_max = rules.settings.change_processing.statement_cache_size;
        Ok(Apply {
            rules,
            target,
            applier: target.applier(rules.format, statements_max).await?,
            tables: Vec::new(),
            pieces: Vec::new(),
            order: Vec::new(),
            stage: Stage::None,
            changes: 0,
            complete: None,
            partial: false,
            tolerant,
            exceptions: Vec::new(),
        })
    }

    /// From here on the log is new.
    pub fn end_of_replay(&mut self) {
        self.tolerant = false;
    }

    /// What was captured and applied of each table so far, by its name on the source.
    pub fn counts(&self) -> impl Iterator<Item = (&TableName, Counts, Counts)> {
        self.tables.iter().map(|table| (&table.plan.source.name, table.captured, table.applied))
    }

    /// Takes a piece of the log. `idle` tells that nothing more is there at the moment. Gives the place up to which all
    /// is durable on the target, where that has moved.
    pub async fn take(&mut self, piece: Changes, idle: bool) -> Result<Option<Position>> {
        let at = self.pieces.len() as u32;
        let entries = piece.entries.len();
        let resume = piece.resume.clone();
        self.pieces.push(piece);
        let mut durable = None;
        for index in 0..entries {
            let entry = self.pieces[self.pieces.len() - 1].entries[index].clone();
            match entry {
                Entry::Table { table, version } => self.describe(table as usize, &version).await?,
                Entry::Row { table, op, old, new } => {
                    self.partial = true;
                    let image = |row: Option<u32>| row.map(|row| Image { piece: at, row });
                    self.change(table as usize, NetChange { op, old: image(old), new: image(new) }).await?;
                }
                Entry::Truncate { table } => {
                    self.partial = true;
                    self.truncate(table as usize).await?;
                }
                Entry::Ddl { .. } => return Err(Error::fatal("statements that define tables are not applied yet")),
                Entry::Commit { position, .. } => {
                    self.partial = false;
                    self.complete = Some(position);
                    if self.changes >= self.rules.settings.change_processing.min_transaction_size {
                        durable = self.commit().await?.or(durable);
                    }
                }
            }
        }
        if !self.partial && idle {
            durable = self.commit().await?.or(durable);
            // The log may hold nothing for us further on.
            durable = resume.or(durable);
        }
        if self.order.is_empty() {
            self.pieces.clear();
        } else if self.pieces.iter().map(Changes::bytes).sum::<usize>() > HELD_BYTES_MAX {
            self.flush().await?;
            self.pieces.clear();
        }
        Ok(durable)
    }

    async fn describe(&mut self, index: usize, version: &TableVersion) -> Result<()> {
        // What waits is in the columns of before.
        self.flush().await?;
        let plan = self.rules.mapping.plan(&version.schema).map_err(|error| Error::fatal(error.to_string()))?;
        let plan = plan.with_target_schema(&self.rules.settings.target_metadata.target_schema);
        let of_target = |columns: &[usize]| -> Option<Vec<usize>> {
            columns.iter().map(|column| plan.columns.iter().position(|moved| moved == column)).collect()
        };
        let known = plan.source.row_key();
        // The log must have the whole key of every row that changes.
        let unique = !known.is_empty() && known.iter().all(|column| version.identity.contains(column));
        let source_key = if unique { known.to_vec() } else { version.identity.clone() };
        let (key, unique) = match of_target(&source_key) {
            Some(key) => (key, unique),
            None => (Vec::new(), false),
        };
        let table = Table {
            key,
            source_key,
            unique,
            suspended: false,
            waiting: NetChanges::default(),
            captured: Counts::default(),
            applied: Counts::default(),
            errors: 0,
            plan,
        };
        match self.tables.get_mut(index) {
            Some(slot) => {
                let Table { suspended, captured, applied, errors, .. } = *slot;
                *slot = Table { suspended, captured, applied, errors, ..table };
            }
            None => self.tables.push(table),
        }
        Ok(())
    }

    async fn change(&mut self, index: usize, change: NetChange) -> Result<()> {
        let table = &mut self.tables[index];
        table.captured.add(change.op, 1);
        if table.suspended {
            return Ok(());
        }
        self.changes += 1;
        let moves_key = match (change.old, change.new) {
            (Some(old), Some(new)) => {
                let (old, new) = (row(&self.pieces, old), row(&self.pieces, new));
                table.source_key.iter().any(|column| old.get(*column) != new.get(*column))
            }
            _ => false,
        };
        if change.op == Op::Insert && !table.unique {
            table.waiting.add_insert(change.new.unwrap_or(Image { piece: 0, row: 0 }));
            self.order.push((index, change));
            return Ok(());
        }
        if !table.unique || moves_key {
            // It goes alone, after all before it and before all after it.
            self.flush().await?;
            self.begin().await?;
            self.order.push((index, change));
            return self.one_by_one().await;
        }
        for attempt in 0..2 {
            let table = &mut self.tables[index];
            let found_by = change.old.or(change.new).map(|image| row(&self.pieces, image));
            let whole = change.new.is_none_or(|new| {
                let new = row(&self.pieces, new);
                table.plan.columns.iter().all(|column| new.get(*column) != Value::Absent)
            });
            let Some(found_by) = found_by else { return Ok(()) };
            match table.waiting.add(change, &found_by, &table.source_key, whole) {
                Ok(()) => break,
                Err(ApplyFirst) if attempt == 0 => self.flush().await?,
                Err(ApplyFirst) => return Err(Error::fatal("a change does not go with none before it")),
            }
        }
        self.order.push((index, change));
        Ok(())
    }

    async fn truncate(&mut self, index: usize) -> Result<()> {
        self.flush().await?;
        self.changes += 1;
        if self.tables[index].suspended {
            return Ok(());
        }
        self.begin().await?;
        self.stage = Stage::Filled;
        self.applier.truncate(&self.tables[index].plan.target).await
    }

    async fn begin(&mut self) -> Result<()> {
        if self.stage == Stage::None {
            self.applier.begin().await?;
            self.stage = Stage::Begun;
        }
        Ok(())
    }

    /// Makes all that is complete durable and gives its place. Must not be called inside a transaction of the source.
    async fn commit(&mut self) -> Result<Option<Position>> {
        self.flush().await?;
        if !self.exceptions.is_empty() {
            // Before the commit: rather told twice than lost.
            let schema = &self.rules.settings.control_tables.control_schema;
            self.target.record_exceptions(schema, &std::mem::take(&mut self.exceptions)).await?;
        }
        if self.stage != Stage::None {
            self.applier.commit().await?;
            self.stage = Stage::None;
        }
        self.changes = 0;
        Ok(self.complete.take())
    }

    /// Applies all that waits, within the target's transaction.
    async fn flush(&mut self) -> Result<()> {
        if self.order.is_empty() {
            return Ok(());
        }
        self.begin().await?;
        if self.stage == Stage::Filled {
            self.applier.savepoint().await?;
        }
        let outcome = self.apply_sets().await;
        self.settle(outcome).await
    }

    async fn apply_sets(&mut self) -> Result<()> {
        for table in &self.tables {
            if table.waiting.is_empty() {
                continue;
            }
            // Whatever a row takes, such as a unique value, one that goes or changes must let go of before.
            for op in [Op::Delete, Op::Update, Op::Insert] {
                let rows: Vec<RowChange<'_>> =
                    table.waiting.of(op).map(|change| row_change(&self.pieces, change)).collect();
                if rows.is_empty() {
                    continue;
                }
                let changed = self.applier.apply(&set(table, op, &rows, self.tolerant)).await?;
                if changed != rows.len() as u64 && !self.tolerant {
                    return Err(Error::new(ErrorKind::Apply, "some rows were not there"));
                }
            }
        }
        Ok(())
    }

    /// Takes up what became of the sets; when they failed, applies what waits one by one.
    async fn settle(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => {
                for (index, change) in &self.order {
                    self.tables[*index].applied.add(change.op, 1);
                }
            }
            Err(error) if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) => return Err(error),
            Err(_) => {
                match self.stage {
                    Stage::Filled => self.applier.back_to_savepoint().await?,
                    Stage::None | Stage::Begun => {
                        self.applier.rollback().await?;
                        self.applier.begin().await?;
                    }
                }
                self.one_by_one().await?;
            }
        }
        self.stage = Stage::Filled;
        self.order.clear();
        self.tables.iter_mut().for_each(|table| table.waiting.clear());
        Ok(())
    }

    /// Applies what waits in the order of the log, each change under a savepoint of its own.
    async fn one_by_one(&mut self) -> Result<()> {
        self.stage = Stage::Filled;
        for (index, change) in std::mem::take(&mut self.order) {
            let table = &self.tables[index];
            if table.suspended {
                continue;
            }
            let rows = [row_change(&self.pieces, &change)];
            let set = set(table, change.op, &rows, self.tolerant);
            self.applier.savepoint().await?;
            let mut outcome = self.applier.apply(&set).await;
            if self.tolerant
                && outcome.as_ref().is_err_and(|error| error.kind == ErrorKind::Data)
                && let [RowChange { old: Some(_), new: Some(new) }] = &rows
            {
                // The row came under its new key before, and has now come under its old one again.
                let gone = [RowChange { old: Some(new.clone()), new: None }];
                self.applier.back_to_savepoint().await?;
                self.applier.apply(&ChangeSet { op: Op::Delete, rows: &gone, ..set }).await?;
                outcome = self.applier.apply(&set).await;
            }
            let error = match outcome {
                Ok(1..) => {
                    self.tables[index].applied.add(change.op, 1);
                    continue;
                }
                Ok(0) if self.tolerant => continue,
                Ok(0) => Error::new(ErrorKind::Apply, "the row was not there: 0 rows affected"),
                Err(error) if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) => return Err(error),
                Err(error) => {
                    self.applier.back_to_savepoint().await?;
                    error
                }
            };
            let statement = self.applier.statement(&set);
            self.refused(index, change.op, error, statement)?;
        }
        Ok(())
    }

    /// One change that the target did not take.
    fn refused(&mut self, index: usize, op: Op, error: Error, statement: String) -> Result<()> {
        let table = &mut self.tables[index];
        let name = &table.plan.target.name;
        let action = policy::apply_action(op, error.kind, &self.rules.settings.error_behavior, table.errors);
        table.errors += 1;
        match action {
            Action::Ignore => return Ok(()),
            Action::Log | Action::Retry { .. } => {
                task_log!(self.rules.log, TargetApply, Warning, "A change of table {name} was not applied: {error}");
            }
            Action::SuspendTable => {
                task_log!(self.rules.log, TargetApply, Error, "Table {name} is suspended: {error}");
                table.suspended = true;
            }
            Action::StopTask => return Err(error.into_kind(ErrorKind::Fatal)),
        }
        self.exceptions.push(ApplyException {
            task: self.rules.task.clone(),
            table: name.clone(),
            statement,
            error: error.to_string(),
        });
        Ok(())
    }
}

fn row(pieces: &[Changes], image: Image) -> Row<'_> {
    pieces[image.piece as usize].rows.row(image.row as usize)
}

fn row_change<'a>(pieces: &'a [Changes], change: &NetChange) -> RowChange<'a> {
    RowChange { old: change.old.map(|image| row(pieces, image)), new: change.new.map(|image| row(pieces, image)) }
}

fn set<'a>(table: &'a Table, op: Op, rows: &'a [RowChange<'a>], tolerant: bool) -> ChangeSet<'a> {
    ChangeSet {
        table: &table.plan.target,
        columns: &table.plan.columns,
        key: if table.unique { Key::Unique(&table.key) } else { Key::Any(&table.key) },
        op,
        rows,
        conflict: if tolerant { Conflict::Replace } else { Conflict::Refuse },
    }
}

#[cfg(test)]
mod tests;
