//! What a task writes on its own account into the transactions in which it applies changes.

use std::time::SystemTime;

use super::super::checkpoint::{recovery_checkpoint, start_point};
use super::super::control_tables::{ControlTable, SERVER_NAME, is_loopback_prevention, moment};
use super::super::rules::Rules;
use crate::connector::{Applier, StartPoint, Target};
use crate::data::{Error, ErrorKind, Position, Result, TableName};

pub(super) struct OwnTables {
    /// Changes and their place in the log become durable together.
    txn_state: ControlTable,
    /// With `EnableLoopbackPrevention`: the first row of every transaction says that it came from here.
    loopback: Option<ControlTable>,
    /// Where the source has the mark of the task of the other direction.
    echo_schema: Option<String>,
    transactions: u64,
}

/// Where the place is kept for users who did not ask to see it.
const QUIET_SCHEMA: &str = "awsdms_control";

impl OwnTables {
    /// With the tables on the target where they are missing.
    pub async fn create(rules: &Rules, target: &dyn Target) -> Result<OwnTables> {
        let loopback = rules.loopback();
        let own = OwnTables {
            txn_state: txn_state(rules, target).await?,
            loopback: loopback
                .map(|loopback| ControlTable::loopback_prevention(target.family(), &loopback.target_schema)),
            echo_schema: loopback.map(|loopback| loopback.source_schema.clone()),
            transactions: 0,
        };
        if let Some(table) = &own.loopback {
            table.create(target).await?;
        }
        Ok(own)
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
        let table = self.txn_state.name();
        let Some(text) = target.recovery_checkpoint(&table.schema, &rules.task).await? else { return Ok(None) };
        match start_point(&text) {
            Ok(StartPoint::At(position)) => Ok(Some(position)),
            _ => Err(Error::fatal(format!("{table} on the target holds no checkpoint: {text}"))),
        }
    }

    pub async fn keep_place(&self, applier: &mut dyn Applier, rules: &Rules, position: &Position) -> Result<()> {
        let values = [
            Some(SERVER_NAME.to_owned()),
            Some(rules.task.clone()),
            Some(moment(SystemTime::now())),
            Some(recovery_checkpoint(position)),
        ];
        self.txn_state.put(applier, rules.format, &values).await
    }
}

/// The table of the place: with `TaskRecoveryTableEnabled` where the service has it, otherwise out of the way of those who
/// look for tables in the default schema, if that may be.
async fn txn_state(rules: &Rules, target: &dyn Target) -> Result<ControlTable> {
    let (family, settings) = (target.family(), &rules.settings);
    let named = &settings.control_tables.control_schema;
    if named.is_empty() && !settings.target_metadata.task_recovery_table_enabled {
        let quiet = ControlTable::txn_state(family, QUIET_SCHEMA);
        match quiet.create(target).await {
            Ok(()) => return Ok(quiet),
            Err(error) if error.kind == ErrorKind::Recoverable => return Err(error),
            // A schema of its own may not be made.
            Err(_) => {}
        }
    }
    let table = ControlTable::txn_state(family, named);
    table.create(target).await?;
    Ok(table)
}
