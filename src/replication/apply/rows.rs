//! Rows on their way into the target: as sets, or one by one where a set fails.

use super::super::log::task_log;
use super::super::net::{Image, NetChange};
use super::super::policy::{self, Action};
use super::super::rules::Rules;
use super::super::settings::ConflictPolicy;
use super::table::Table;
use super::{Apply, Stage, unknown};
use crate::connector::{ApplyException, ChangeSet, Conflict, Key, RowChange};
use crate::data::{Changes, Error, ErrorKind, Op, Result, Row, Value};

impl Apply<'_> {
    /// Applies all that waits, within the target's transaction.
    pub(super) async fn flush(&mut self) -> Result<()> {
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
        let (rules, tolerant) = (self.rules, self.is_tolerant());
        for table in self.tables.iter().flatten().filter(|table| !table.waiting.is_empty()) {
            // Whatever a row takes, such as a unique value, one that goes or changes must let go of before.
            for op in [Op::Delete, Op::Update, Op::Insert] {
                let rows: Vec<RowChange<'_>> =
                    table.waiting.of(op).map(|change| row_change(&self.pieces, change)).collect();
                if rows.is_empty() {
                    continue;
                }
                let changed = self.applier.apply(&set(table, op, &rows, conflict(rules, tolerant))).await?;
                if changed != rows.len() as u64 && !tolerant {
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
                self.rows += self.order.len() as u64;
                for (index, change) in &self.order {
                    if let Some(Some(table)) = self.tables.get_mut(*index) {
                        table.tally.applied.add(change.op, 1);
                    }
                }
            }
            Err(error) if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) => return Err(error),
            Err(error) => {
                task_log!(self.rules.log, TargetApply, Debug, "Changes are applied one by one: {error}");
                match self.stage {
                    Stage::Filled => self.applier.back_to_savepoint().await?,
                    Stage::None | Stage::Begun => {
                        self.applier.rollback().await?;
                        self.stage = Stage::None;
                        self.begin().await?;
                    }
                }
                self.one_by_one().await?;
            }
        }
        self.stage = Stage::Filled;
        self.order.clear();
        self.tables.iter_mut().flatten().for_each(|table| table.waiting.clear());
        Ok(())
    }

    /// Applies what waits in the order of the log, each change under a savepoint of its own.
    pub(super) async fn one_by_one(&mut self) -> Result<()> {
        self.stage = Stage::Filled;
        for (index, change) in std::mem::take(&mut self.order) {
            let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
            if table.tally.suspended {
                continue;
            }
            self.applier.savepoint().await?;
            let error = match self.apply_one(index, &change).await {
                Ok(true) => {
                    self.rows += 1;
                    if let Some(Some(table)) = self.tables.get_mut(index) {
                        table.tally.applied.add(change.op, 1);
                    }
                    continue;
                }
                Ok(false) => Error::new(ErrorKind::Apply, "the row was not there: 0 rows affected"),
                Err(error) if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) => return Err(error),
                Err(error) => {
                    self.applier.back_to_savepoint().await?;
                    error
                }
            };
            let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
            let rows = [row_change(&self.pieces, &change)];
            let statement = self.applier.statement(&set(table, change.op, &rows, Conflict::Refuse));
            self.refused(index, change.op, error, statement)?;
        }
        Ok(())
    }

    /// Whether the change met its row.
    async fn apply_one(&mut self, index: usize, change: &NetChange) -> Result<bool> {
        let (rules, tolerant) = (self.rules, self.is_tolerant());
        let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
        let rows = [row_change(&self.pieces, change)];
        let set = set(table, change.op, &rows, conflict(rules, tolerant));
        let mut outcome = self.applier.apply(&set).await;
        if let (Ok(0), Op::Update, [RowChange { new: Some(new), .. }]) = (&outcome, change.op, &rows)
            && rules.settings.error_behavior.apply_error_update_policy == ConflictPolicy::UpdateRecord
            && table.plan.columns.iter().all(|column| new.get(*column) != Value::Absent)
        {
            let rows = [RowChange { old: None, new: Some(new.clone()) }];
            let conflict = if table.unique { Conflict::Replace } else { Conflict::Refuse };
            outcome = self.applier.apply(&ChangeSet { op: Op::Insert, rows: &rows, conflict, ..set }).await;
        }
        Ok(outcome? > 0 || tolerant)
    }

    /// One change that the target did not take.
    fn refused(&mut self, index: usize, op: Op, error: Error, statement: String) -> Result<()> {
        let action = self.decide(index, op, error.kind)?;
        self.leave_out(index, action, error, statement)
    }

    /// What is to be done about a change, whose error is counted.
    pub(super) fn decide(&mut self, index: usize, op: Op, kind: ErrorKind) -> Result<Action> {
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        let errors = &mut table.tally.errors;
        let action = policy::apply_action(op, kind, &self.rules.settings.error_behavior, *errors);
        match kind {
            ErrorKind::Truncation => errors.data += 1,
            ErrorKind::Table | ErrorKind::Redefined => errors.table += 1,
            _ => errors.apply += 1,
        }
        Ok(action)
    }

    /// Goes on without a change, as far as the action lets it.
    pub(super) fn leave_out(&mut self, index: usize, action: Action, error: Error, statement: String) -> Result<()> {
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        let name = &table.plan.target.name;
        match action {
            Action::Ignore => return Ok(()),
            Action::Log | Action::Retry => {
                task_log!(self.rules.log, TargetApply, Warning, "A change of table {name} was not applied: {error}");
            }
            Action::SuspendTable => {
                task_log!(self.rules.log, TargetApply, Error, "Table {name} is suspended: {error}");
                table.tally.suspended = true;
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

fn conflict(rules: &Rules, tolerant: bool) -> Conflict {
    match rules.settings.error_behavior.apply_error_insert_policy {
        _ if tolerant => Conflict::Replace,
        ConflictPolicy::InsertRecord => Conflict::Replace,
        _ => Conflict::Refuse,
    }
}

pub(super) fn row(pieces: &[Changes], image: Image) -> Row<'_> {
    pieces[image.piece as usize].rows.row(image.row as usize)
}

pub(super) fn row_change<'a>(pieces: &'a [Changes], change: &NetChange) -> RowChange<'a> {
    RowChange { old: change.old.map(|image| row(pieces, image)), new: change.new.map(|image| row(pieces, image)) }
}

pub(super) fn set<'a>(table: &'a Table, op: Op, rows: &'a [RowChange<'a>], conflict: Conflict) -> ChangeSet<'a> {
    ChangeSet {
        table: &table.plan.target,
        columns: &table.columns,
        key: if table.unique { Key::Unique(&table.key) } else { Key::Any(&table.key) },
        op,
        rows,
        conflict,
    }
}
