//! The tables in which a task keeps what it knows of itself on the target.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ControlTable.html>

use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format as TimeFormat;

use crate::connector::{Applier, ChangeSet, Conflict, CreateKey, Key, PrepareMode, RowChange, Target};
use crate::data::{Batch, Column, DataType, Family, Format, Op, Result, TableKind, TableName, TableSchema, Value};

/// `SERVER_NAME` of the control tables: the replication machine.
pub const SERVER_NAME: &str = "localhost.localdomain";

#[derive(Clone, Copy)]
enum Kind {
    Text(u32),
    Moment,
    Count,
}

struct Definition {
    name: &'static str,
    columns: &'static [(&'static str, Kind, Null)],
    /// How many columns from the first tell rows apart. The service has a unique index on them.
    key: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    Yes,
    No,
}

const NAME: Kind = Kind::Text(128);

/// With `TaskRecoveryTableEnabled`: the task's place in the log, which moves in the transactions of its changes.
const TXN_STATE: Definition = Definition {
    name: "awsdms_txn_state",
    columns: &[
        ("SERVER_NAME", NAME, Null::No),
        ("TASK_NAME", NAME, Null::No),
        ("STATE_TIME", Kind::Moment, Null::No),
        ("CHECKPOINT", Kind::Text(1024), Null::No),
    ],
    key: 2,
};

/// With `LoopbackPreventionSettings`: changes in every transaction that a task applies, so that the task of the other
/// direction knows it. The service does not document its columns.
const LOOPBACK_PREVENTION: Definition = Definition {
    name: "awsdms_loopback_prevention",
    columns: &[("TASK_NAME", NAME, Null::No), ("TRANSACTIONS", Kind::Count, Null::No)],
    key: 1,
};

const STATUS: Definition = Definition {
    name: "awsdms_status",
    columns: &[
        ("server_name", NAME, Null::No),
        ("task_name", NAME, Null::No),
        ("task_status", Kind::Text(32), Null::Yes),
        ("status_time", Kind::Moment, Null::Yes),
        ("pending_changes", Kind::Count, Null::Yes),
        ("disk_swap_size", Kind::Count, Null::Yes),
        ("task_memory", Kind::Count, Null::Yes),
        ("source_current_position", NAME, Null::Yes),
        ("source_current_timestamp", Kind::Moment, Null::Yes),
        ("source_tail_position", NAME, Null::Yes),
        ("source_tail_timestamp", Kind::Moment, Null::Yes),
        ("source_timestamp_applied", Kind::Moment, Null::Yes),
    ],
    key: 2,
};

const HISTORY: Definition = Definition {
    name: "awsdms_history",
    columns: &[
        ("server_name", NAME, Null::No),
        ("task_name", NAME, Null::No),
        ("timeslot_type", Kind::Text(32), Null::No),
        ("timeslot", Kind::Moment, Null::No),
        ("timeslot_duration", Kind::Count, Null::Yes),
        ("timeslot_latency", Kind::Count, Null::Yes),
        ("timeslot_records", Kind::Count, Null::Yes),
        ("timeslot_volume", Kind::Count, Null::Yes),
    ],
    key: 4,
};

const SUSPENDED_TABLES: Definition = Definition {
    name: "awsdms_suspended_tables",
    columns: &[
        ("server_name", NAME, Null::No),
        ("task_name", NAME, Null::No),
        ("table_owner", NAME, Null::No),
        ("table_name", NAME, Null::No),
        ("suspend_reason", Kind::Text(32), Null::Yes),
        ("suspend_timestamp", Kind::Moment, Null::Yes),
    ],
    key: 4,
};

/// A control table of a target.
pub struct ControlTable {
    schema: TableSchema,
    key: Vec<usize>,
    columns: Vec<usize>,
}

impl ControlTable {
    fn new(definition: &Definition, family: Family, control_schema: &str) -> ControlTable {
        let schema = match (control_schema, family) {
            ("", Family::PostgreSql) => "public",
            ("", Family::MySql) => "awsdms_control",
            (named, _) => named,
        };
        let column = |(name, kind, null): &(&str, Kind, Null)| {
            let (data_type, native) = match (kind, family) {
                (Kind::Text(length), Family::PostgreSql) => {
                    (DataType::WString { length: *length }, format!("character varying({length})"))
                }
                (Kind::Text(length), Family::MySql) => {
                    (DataType::WString { length: *length }, format!("varchar({length}) CHARACTER SET utf8mb4"))
                }
                (Kind::Moment, Family::PostgreSql) => {
                    (DataType::DateTime { scale: 6 }, "timestamp without time zone".to_owned())
                }
                (Kind::Moment, Family::MySql) => (DataType::DateTime { scale: 6 }, "datetime(6)".to_owned()),
                (Kind::Count, _) => (DataType::Int8, "bigint".to_owned()),
            };
            Column { name: (*name).to_owned(), data_type, native, nullable: *null == Null::Yes, generated: false }
        };
        let key: Vec<usize> = (0..definition.key).collect();
        ControlTable {
            columns: (0..definition.columns.len()).collect(),
            schema: TableSchema {
                name: TableName::new(schema, definition.name),
                kind: TableKind::Table,
                family,
                columns: definition.columns.iter().map(column).collect(),
                primary_key: key.clone(),
                unique_key: Vec::new(),
                rows_estimate: 0,
            },
            key,
        }
    }

    pub fn txn_state(family: Family, control_schema: &str) -> ControlTable {
        ControlTable::new(&TXN_STATE, family, control_schema)
    }

    pub fn loopback_prevention(family: Family, schema: &str) -> ControlTable {
        ControlTable::new(&LOOPBACK_PREVENTION, family, schema)
    }

    pub fn status(family: Family, control_schema: &str) -> ControlTable {
        ControlTable::new(&STATUS, family, control_schema)
    }

    pub fn history(family: Family, control_schema: &str) -> ControlTable {
        ControlTable::new(&HISTORY, family, control_schema)
    }

    pub fn suspended_tables(family: Family, control_schema: &str) -> ControlTable {
        ControlTable::new(&SUSPENDED_TABLES, family, control_schema)
    }

    pub fn name(&self) -> &TableName {
        &self.schema.name
    }

    /// Makes the table where it is missing.
    pub async fn create(&self, target: &dyn Target) -> Result<()> {
        let created = target.prepare(&self.schema, PrepareMode::DoNothing, CreateKey::WithTable).await;
        created.map_err(|error| error.while_doing(format!("create control table {}", self.schema.name)))
    }

    /// Writes a row in the place of the one of its key, within the applier's transaction. The values are text.
    pub async fn put(&self, applier: &mut dyn Applier, format: Format, values: &[Option<String>]) -> Result<()> {
        let mut batch = Batch::new();
        batch.clear(format);
        for value in values {
            batch.push(value.as_ref().map_or(Value::Null, |text| Value::String(text.as_bytes())));
        }
        batch.end_row();
        let rows = [RowChange { old: None, new: Some(batch.row(0)) }];
        let set = ChangeSet {
            table: &self.schema,
            columns: &self.columns,
            key: Key::Unique(&self.key),
            op: Op::Insert,
            rows: &rows,
            conflict: Conflict::Replace,
        };
        applier.apply(&set).await.map(drop)
    }
}

/// Whether a table of a source holds what tasks of the other direction apply.
pub fn is_loopback_prevention(name: &TableName, schema: &str) -> bool {
    name.schema == schema && name.table == LOOPBACK_PREVENTION.name
}

/// A moment in UTC as databases read it.
pub fn moment(time: SystemTime) -> String {
    let text = DateTime::from(time).fmt(TimeFormat::DateTime).unwrap_or_default();
    let text = text.trim_end_matches('Z').replace('T', " ");
    // Databases keep microseconds.
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{}", &fraction[..fraction.len().min(6)]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_in_utc_to_the_microsecond() {
        let at = |nanos| moment(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(1_700_000_000_123_456_789), "2023-11-14 22:13:20.123456");
    }
}
