//! Statements that define tables, carried to the target as `ChangeProcessingDdlHandlingPolicy` says.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.DDLHandling.html>

use std::sync::Arc;

use tokio::time::Instant;

use super::super::log::task_log;
use super::super::policy::{self, Action, Errors};
use super::super::rules::Rules;
use super::table::{Table, Tally};
use super::{Apply, Known, Stage, unknown};
use crate::connector::{TableChange, Transaction};
use crate::data::{ColumnChange, Ddl, Error, ErrorKind, Format, Result, TableName, TableVersion};
use crate::mapping::TablePlan;

impl Apply<'_> {
    /// A TRUNCATE counts as a statement that defines tables.
    pub(super) async fn truncate(&mut self, index: usize) -> Result<()> {
        self.flush().await?;
        let rules = self.rules;
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        if self.echo {
            return Ok(());
        }
        table.tally.captured.ddls += 1;
        table.tally.touched = true;
        let name = table.plan.source.name.clone();
        if rules.settings.error_behavior.apply_error_fail_on_truncation_ddl {
            let what = format!("table {name} was truncated on the source (ApplyErrorFailOnTruncationDdl)");
            return Err(Error::fatal(what));
        }
        if self.applied_until.is_some() {
            table.tally.applied.ddls += 1;
            return Ok(());
        }
        if table.tally.suspended {
            return Ok(());
        }
        if !rules.settings.ddl_handling.handle_source_table_truncated {
            task_log!(rules.log, TargetApply, Info, "TRUNCATE of table {name} is not carried to the target");
            return Ok(());
        }
        self.changes += 1;
        self.since.get_or_insert_with(Instant::now);
        self.begin().await?;
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        self.applier.savepoint().await?;
        self.stage = Stage::Filled;
        match self.applier.truncate(&table.plan.target).await {
            Ok(left) => {
                table.tally.applied.ddls += 1;
                self.after(left);
            }
            Err(error) if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) => return Err(error),
            Err(error) => {
                self.applier.back_to_savepoint().await?;
                self.refused_statement(index, error)?;
            }
        }
        Ok(())
    }

    /// `alone`: nothing of its transaction came before it.
    pub(super) async fn ddl(&mut self, index: usize, ddl: &Ddl, alone: bool) -> Result<()> {
        match alone {
            true => self.before = self.commit().await?,
            false => self.flush().await?,
        }
        let (tally, version) = match self.slot(index) {
            Some(table) => (table.tally, Some(table.version.clone())),
            None => (Tally::default(), None),
        };
        let before = self.slot(index).as_ref().map(|table| table.plan.clone());
        let former = before.as_ref().map(|plan| plan.source.name.clone());
        let translated = translate(self.rules, before.as_ref(), ddl)?;
        let name = match (&translated.after, &before) {
            (Some((version, _)), _) => version.schema.name.clone(),
            (None, Some(before)) => before.source.name.clone(),
            (None, None) => return Ok(()),
        };
        if self.own.is_echo(&name) {
            // The other task's own affair, which is not carried back to where it comes from.
            if let Some((version, plan)) = translated.after {
                *self.slot(index) = Some(Table { is_echo: true, ..Table::new(&version, plan, Tally::default()) });
            }
            return Ok(());
        }
        if self.echo {
            // The target has it from the statement of its own that this one comes from.
            if let Some((version, plan)) = translated.after {
                *self.slot(index) = Some(Table::new(&version, plan, tally));
            }
            return Ok(());
        }
        if matches!(ddl, Ddl::Create(_)) && !self.is_known(&name) {
            self.created.push(name.clone());
        }
        let of_name = self.known.get(&name).map(Tally::of).unwrap_or_default();
        let renamed = former.as_ref().filter(|former| **former != name).cloned();
        let before_it = tally;
        let tally = match (&version, &renamed) {
            (None, _) => of_name,
            // What is counted is counted by name.
            (Some(_), Some(_)) => Tally { captured: of_name.captured, applied: of_name.applied, ..tally },
            (Some(_), None) => tally,
        };
        let dropped = translated.after.is_none();
        let mut table = match translated.after {
            Some((version, plan)) => Table::new(&version, plan, tally),
            None => {
                let (Some(version), Some(plan)) = (version, before) else { return Ok(()) };
                Table::new(&version, plan, tally)
            }
        };
        table.tally.captured.ddls += 1;
        table.tally.touched = true;
        *self.slot(index) = Some(table);
        if translated.ignored {
            task_log!(self.rules.log, TargetApply, Info, "A statement that defines table {name} is not carried out");
        } else if self.define(index, translated.steps).await?
            && let Some(Some(table)) = self.tables.get_mut(index)
        {
            table.tally.applied.ddls += 1;
            task_log!(self.rules.log, TargetApply, Info, "The definition of table {name} was changed");
        }
        if dropped {
            let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
            // What is told of it is that it is gone.
            table.tally.touched = false;
            let tally = table.tally;
            self.created.retain(|created| *created != name);
            self.leave(name, tally);
        } else if let Some(former) = renamed {
            let created = self.created.len();
            self.created.retain(|created| *created != former);
            if before_it.unloaded || self.created.len() < created {
                // What it was to be loaded for it still is.
                self.created.push(name);
            }
            self.leave(former, before_it);
        }
        Ok(())
    }

    /// A table has left its name: what comes under it again is another table.
    fn leave(&mut self, name: TableName, tally: Tally) {
        let Tally { captured, applied, .. } = tally;
        self.known.insert(name.clone(), Known { captured, applied, gone: true, ..Known::default() });
        self.gone.push(name);
    }

    /// Changes the definition of the target's table; tells whether it is done.
    pub(super) async fn define(&mut self, index: usize, steps: Vec<Step>) -> Result<bool> {
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        table.tally.touched = true;
        if table.tally.suspended {
            return Ok(false);
        }
        if self.applied_until.is_some() {
            return Ok(true);
        }
        self.changes += 1;
        self.since.get_or_insert_with(Instant::now);
        self.defined = true;
        for step in &steps {
            self.begin().await?;
            self.applier.savepoint().await?;
            self.stage = Stage::Filled;
            let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
            match self.applier.change_table(&step.change(&table.plan)).await {
                Ok(left) => self.after(left),
                Err(error) if matches!(error.kind, ErrorKind::Recoverable | ErrorKind::Fatal) => return Err(error),
                Err(error) => {
                    self.applier.back_to_savepoint().await?;
                    return self.refused_statement(index, error).map(|()| false);
                }
            }
        }
        Ok(true)
    }

    /// What comes after a statement that has ended the transaction is in a new one, which is marked as such.
    fn after(&mut self, left: Transaction) {
        if left == Transaction::Ended {
            self.stage = Stage::None;
            self.defined = true;
        }
    }

    /// The log cannot tell of a table any more.
    pub(super) fn give_up(&mut self, name: TableName, reason: String) -> Result<()> {
        let known =
            self.tables.iter().position(|table| table.as_ref().is_some_and(|table| table.plan.source.name == name));
        if let Some(index) = known {
            return self.refused_statement(index, Error::table(reason));
        }
        let errors = self.known.get(&name).map(|known| known.errors).unwrap_or_default();
        if policy::action(ErrorKind::Table, &self.rules.settings.error_behavior, errors) == Action::StopTask {
            return Err(Error::fatal(reason));
        }
        task_log!(self.rules.log, SourceCapture, Error, "Table {name} is suspended: {reason}");
        self.given_up.push((name, Errors { table: errors.table + 1, ..errors }));
        Ok(())
    }

    /// A statement that the target did not take costs its table.
    fn refused_statement(&mut self, index: usize, error: Error) -> Result<()> {
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        let action = policy::action(ErrorKind::Table, &self.rules.settings.error_behavior, table.tally.errors);
        table.tally.errors.table += 1;
        if action == Action::StopTask {
            return Err(error.into_kind(ErrorKind::Fatal));
        }
        let name = &table.plan.target.name;
        task_log!(self.rules.log, TargetApply, Error, "Table {name} is suspended: {error}");
        table.tally.suspended = true;
        table.tally.touched = true;
        Ok(())
    }
}

/// What a statement means for the target.
pub(super) struct Translated {
    /// The table afterwards; `None` when it is gone.
    pub after: Option<(Arc<TableVersion>, TablePlan)>,
    pub steps: Vec<Step>,
    /// The policy keeps the statement from the target.
    pub ignored: bool,
}

/// One change of the target's table, in its names.
pub(super) enum Step {
    Create,
    Drop(TableName),
    Rename(TableName),
    Add { column: usize },
    DropColumn(String),
    RenameColumn { from: String, column: usize },
    Retype { column: usize },
}

impl Step {
    /// `plan` is the table afterwards.
    pub fn change<'a>(&'a self, plan: &'a TablePlan) -> TableChange<'a> {
        let table = &plan.target;
        match self {
            Step::Create => TableChange::Create(table),
            Step::Drop(name) => TableChange::Drop(name),
            Step::Rename(from) => TableChange::Rename { from, to: &table.name },
            Step::Add { column } => TableChange::AddColumn { table, column: *column },
            Step::DropColumn(column) => TableChange::DropColumn { table: &table.name, column },
            Step::RenameColumn { from, column } => {
                TableChange::RenameColumn { table: &table.name, from, to: &table.columns[*column].name }
            }
            Step::Retype { column } => TableChange::RetypeColumn { table, column: *column },
        }
    }
}

/// `before` is the table as it was, where it was known.
pub(super) fn translate(rules: &Rules, before: Option<&TablePlan>, ddl: &Ddl) -> Result<Translated> {
    let policy = &rules.settings.ddl_handling;
    Ok(match ddl {
        Ddl::Create(version) => {
            let after = Some((version.clone(), rules.plan(&version.schema)?));
            Translated { after, steps: vec![Step::Create], ignored: false }
        }
        Ddl::Drop => {
            let steps = before.map(|plan| Step::Drop(plan.target.name.clone())).into_iter();
            Translated { after: None, steps: steps.collect(), ignored: !policy.handle_source_table_dropped }
        }
        Ddl::Rename(version) => {
            let plan = rules.plan(&version.schema)?;
            let from = before.map(|before| before.target.name.clone()).filter(|from| *from != plan.target.name);
            let steps = from.map(Step::Rename).into_iter().collect();
            Translated { after: Some((version.clone(), plan)), steps, ignored: !policy.handle_source_table_altered }
        }
        Ddl::Alter { version, columns } => {
            let plan = rules.plan(&version.schema)?;
            match policy.handle_source_table_altered {
                true => {
                    let steps = columns.iter().flat_map(|change| steps(rules, before, &plan, change)).collect();
                    Translated { after: Some((version.clone(), plan)), steps, ignored: false }
                }
                false => {
                    let plan = as_before(before, plan);
                    Translated { after: Some((version.clone(), plan)), steps: Vec::new(), ignored: true }
                }
            }
        }
    })
}

/// What a change of a column of the source is on the target, for the column and for its before image; nothing for one
/// that does not go there.
fn steps(rules: &Rules, before: Option<&TablePlan>, after: &TablePlan, change: &ColumnChange) -> Vec<Step> {
    let is = |column: usize| after.places_of(column);
    let was = |name: &str| {
        let places = before.and_then(|before| {
            let source = before.source.columns.iter().position(|column| column.name == name)?;
            Some(before.places_of(source).map(|place| Some(before.target.columns[place?].name.clone())))
        });
        places.unwrap_or_default()
    };
    let renamed = |from: Option<String>, column: Option<usize>| match (from, column) {
        (Some(from), Some(column)) if from == after.target.columns[column].name => None,
        (Some(from), Some(column)) => Some(Step::RenameColumn { from, column }),
        (Some(from), None) => Some(Step::DropColumn(from)),
        (None, column) => column.map(|column| Step::Add { column }),
    };
    let retyped = |column: usize| {
        let target = &after.target.columns[column];
        let before = before?.target.columns.iter().find(|before| before.name == target.name)?;
        // Other types of the source may be one on the target.
        let same = if rules.format == Format::Text {
            before.native == target.native
        } else {
            before.data_type == target.data_type
        };
        (!same).then_some(Step::Retype { column })
    };
    let steps: [Option<Step>; 2] = match change {
        ColumnChange::Add { column } => is(*column).map(|place| place.map(|column| Step::Add { column })),
        ColumnChange::Drop { name } => was(name).map(|name| name.map(Step::DropColumn)),
        ColumnChange::Rename { from, column } => {
            let ([moved, image], [to, image_to]) = (was(from), is(*column));
            [renamed(moved, to), renamed(image, image_to)]
        }
        ColumnChange::Retype { column } => is(*column).map(|place| retyped(place?)),
    };
    steps.into_iter().flatten().collect()
}

/// The table as it goes on when the target's keeps its columns: those that it has, found by their new places.
fn as_before(before: Option<&TablePlan>, after: TablePlan) -> TablePlan {
    let Some(before) = before else { return after };
    let columns: Vec<String> = before.target.columns.iter().map(|column| column.name.clone()).collect();
    within(after, &columns)
}

/// A plan for those of its columns that the target's table has, if there is such a table.
pub(super) fn within(plan: TablePlan, columns: &[String]) -> TablePlan {
    if columns.is_empty() {
        return plan;
    }
    // Not all engines keep the case of names.
    let has = |name: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    let left_out: Vec<usize> =
        (0..plan.target.columns.len()).filter(|index| !has(&plan.target.columns[*index].name)).collect();
    plan.without_columns(&left_out)
}
