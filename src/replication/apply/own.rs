//! What a task writes on its own account into the transactions in which it applies changes.

use std::time::SystemTime;

use super::super::checkpoint::{recovery_checkpoint, start_point};
use super::super::control_tables::{ControlTable, SERVER_NAME, is_loopback_prevention, moment};
use super::super::rules::Rules;
use crate::connector::{Applier, StartPoint, Target};
use crate::data::{Error, Position, Result, TableName};

pub(super) struct OwnTables {
    /// With `TaskRecoveryTableEnabled`: changes and their place in the log become durable together.
    txn_state: Option<ControlTable>,
    /// With `EnableLoopbackPrevention`: the first row of every transaction says that it came from here.
    loopback: Option<ControlTable>,
    /// Where the source has the mark of the task of the other direction.
    echo_schema: Option<String>,
    transactions: u64,
}

impl OwnTables {
    pub fn new(rules: &Rules, target: &dyn Target) -> OwnTables {
        let settings = &rules.settings;
        let family = target.family();
        let loopback = rules.loopback();
        OwnTables {
            txn_state: settings
                .target_metadata
                .task_recovery_table_enabled
                .then(|| ControlTable::txn_state(family, &settings.control_tables.control_schema)),
            loopback: loopback.map(|loopback| ControlTable::loopback_prevention(family, &loopback.target_schema)),
            echo_schema: loopback.map(|loopback| loopback.source_schema.clone()),
            transactions: 0,
        }
    }

    pub async fn create(&self, target: &dyn Target) -> Result<()> {
        for table in [&self.txn_state, &self.loopback].into_iter().flatten() {
            table.create(target).await?;
        }
        Ok(())
    }

    /// Whether rows of this table of the source mark transactions that came from this task's target.
    pub fn is_echo(&self, name: &TableName) -> bool {
        self.echo_schema.as_ref().is_some_and(|schema| is_loopback_prevention(name, schema))
    }

    /// Marks a transaction that has just begun; tells whether anything was written.
    pub async fn mark(&mut self, applier: &mut dyn Applier, rules: &Rules) -> Result<bool> {
        let Some(table) = &self.loopback else { return Ok(false) };
        self.transactions += 1;
        let values = [Some(rules.task.clone()), Some(self.transactions.to_string())];
        table.put(applier, rules.format, &values).await?;
        Ok(true)
    }

    /// Up to where the target has all for certain.
    pub async fn place(&self, target: &dyn Target, rules: &Rules) -> Result<Option<Position>> {
        if self.txn_state.is_none() {
            return Ok(None);
        }
        let schema = &rules.settings.control_tables.control_schema;
        let Some(text) = target.recovery_checkpoint(schema, &rules.task).await? else { return Ok(None) };
        match start_point(&text) {
            Ok(StartPoint::At(position)) => Ok(Some(position)),
            _ => Err(Error::fatal(format!("awsdms_txn_state on the target holds no checkpoint: {text}"))),
        }
    }

    pub async fn keep_place(&self, applier: &mut dyn Applier, rules: &Rules, position: &Position) -> Result<()> {
        let Some(table) = &self.txn_state else { return Ok(()) };
        let values = [
            Some(SERVER_NAME.to_owned()),
            Some(rules.task.clone()),
            Some(moment(SystemTime::now())),
            Some(recovery_checkpoint(position)),
        ];
        table.put(applier, rules.format, &values).await
    }
}
