//! What a task says of its tables: mapping, settings, and the log in which it tells what came of them.

use std::sync::Arc;

use super::log::{TaskLog, task_log};
use super::settings::{LobMode, LoopbackPrevention, TaskSettings};
use crate::data::{Error, Family, Format, Result, TableKind, TableName, TableSchema};
use crate::mapping::{Mapping, MappingError, TablePlan};

#[derive(Clone)]
pub struct Rules {
    /// The tail of the task's ARN: `TASK_NAME` of the control tables.
    pub task: String,
    pub mapping: Arc<Mapping>,
    pub settings: Arc<TaskSettings>,
    pub log: Arc<TaskLog>,
    /// Of the images in the source's log.
    pub format: Format,
}

impl Rules {
    /// What a table of the source becomes on the target.
    pub fn plan(&self, table: &TableSchema) -> Result<TablePlan> {
        let plan = self.mapping.plan(table).map_err(refused)?;
        Ok(self.within_lob_support(plan).with_target_schema(&self.settings.target_metadata.target_schema))
    }

    /// What a table of the source is called on the target.
    pub fn target_name(&self, source: &TableName) -> Result<TableName> {
        let table = TableSchema {
            name: source.clone(),
            kind: TableKind::Table,
            family: Family::PostgreSql,
            columns: Vec::new(),
            primary_key: Vec::new(),
            unique_key: Vec::new(),
            rows_estimate: 0,
        };
        Ok(self.plan(&table)?.target.name)
    }

    /// Without `SupportLobs` the LOB columns of a table stay behind.
    fn within_lob_support(&self, plan: TablePlan) -> TablePlan {
        if self.settings.target_metadata.support_lobs {
            return plan;
        }
        let lobs: Vec<usize> =
            (0..plan.target.columns.len()).filter(|index| plan.target.columns[*index].data_type.is_lob()).collect();
        for index in lobs.iter().filter(|index| **index < plan.columns.len()) {
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

    /// What keeps the task's changes from coming back, where it is asked for.
    pub fn loopback(&self) -> Option<&LoopbackPrevention> {
        self.settings.loopback_prevention.as_ref().filter(|loopback| loopback.enabled)
    }

    /// Values of LOB columns are cut to this many bytes.
    pub fn lob_bytes_max(&self) -> Option<u64> {
        match self.settings.target_metadata.lob_mode() {
            LobMode::Limited { bytes_max } => Some(bytes_max),
            LobMode::Full | LobMode::Off => None,
        }
    }
}

pub fn refused(error: MappingError) -> Error {
    Error::fatal(error.to_string())
}
