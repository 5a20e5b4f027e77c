//! Statements that define tables, carried to the target as `ChangeProcessingDdlHandlingPolicy` says.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.DDLHandling.html>

use std::sync::Arc;

use super::super::rules::Rules;
use crate::connector::TableChange;
use crate::data::{ColumnChange, Ddl, Result, TableName, TableVersion};
use crate::mapping::TablePlan;

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
                    let steps = columns.iter().filter_map(|change| step(rules, before, &plan, change)).collect();
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

/// What a change of a column of the source is on the target; nothing for one that does not go there.
fn step(rules: &Rules, before: Option<&TablePlan>, after: &TablePlan, change: &ColumnChange) -> Option<Step> {
    let moved = |column: usize| after.columns.iter().position(|moved| *moved == column);
    let was = |name: &str| {
        let before = before?;
        let source = before.source.columns.iter().position(|column| column.name == name)?;
        let target = before.columns.iter().position(|moved| *moved == source)?;
        Some(before.target.columns[target].name.clone())
    };
    match change {
        ColumnChange::Add { column } => moved(*column).map(|column| Step::Add { column }),
        ColumnChange::Drop { name } => was(name).map(Step::DropColumn),
        ColumnChange::Rename { from, column } => match (was(from), moved(*column)) {
            (Some(from), Some(column)) if from == after.target.columns[column].name => None,
            (Some(from), Some(column)) => Some(Step::RenameColumn { from, column }),
            (Some(from), None) => Some(Step::DropColumn(from)),
            (None, column) => column.map(|column| Step::Add { column }),
        },
        ColumnChange::Retype { column } => {
            let column = moved(*column)?;
            let target = &after.target.columns[column];
            let before = before?.target.columns.iter().find(|before| before.name == target.name)?;
            // Other types of the source may be one on the target.
            let same = if rules.format == crate::data::Format::Text {
                before.native == target.native
            } else {
                before.data_type == target.data_type
            };
            (!same).then_some(Step::Retype { column })
        }
    }
}

/// The table as it goes on when the target's keeps its columns: those that it has, found by their new places.
fn as_before(before: Option<&TablePlan>, after: TablePlan) -> TablePlan {
    let Some(before) = before else { return after };
    let kept = |name: &str| before.target.columns.iter().any(|column| column.name == name);
    let left_out: Vec<usize> =
        (0..after.columns.len()).filter(|index| !kept(&after.target.columns[*index].name)).collect();
    after.without_columns(&left_out)
}
