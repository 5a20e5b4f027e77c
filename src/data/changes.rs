//! A bounded piece of a source's log on its way: rows that changed, in the order in which their transactions committed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::take_u64;
use super::{Batch, Format, Position, TableName, TableSchema};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

/// What a table looks like from here on in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableVersion {
    /// In the order of the log's rows, which is not that of the catalog after a column was dropped.
    pub schema: TableSchema,
    /// The columns that tell apart the rows that an UPDATE or DELETE means: the key, or all where the log has whole old
    /// rows. Empty where it has nothing of them.
    pub identity: Vec<usize>,
}

/// What a statement of the source did to a captured table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ddl {
    /// The table is new.
    Create(Arc<TableVersion>),
    Drop,
    /// The table is called as in this version now; both names are captured.
    Rename(Arc<TableVersion>),
    Alter {
        /// The table afterwards.
        version: Arc<TableVersion>,
        /// In the order in which they are to be done.
        columns: Vec<ColumnChange>,
    },
}

/// Numbers are places among the columns of the table as it is after the whole statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnChange {
    Add { column: usize },
    Drop { name: String },
    Rename { from: String, column: usize },
    Retype { column: usize },
}

/// The rows of [`Changes::rows`] are whole images in the columns of the table's version; what the log does not have of
/// them is [`Value::Absent`](super::Value::Absent).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A transaction begins. All that ended before it did so at this place or before, also what was passed over.
    Begin {
        position: Position,
    },
    /// Comes before the first row of a table, and again whenever its columns have changed.
    Table {
        table: u32,
        version: Arc<TableVersion>,
    },
    Row {
        table: u32,
        op: Op,
        /// The row before: of an UPDATE only where the log has more of it than the new row tells.
        old: Option<u32>,
        /// The row after.
        new: Option<u32>,
    },
    Truncate {
        table: u32,
    },
    /// Rows of this table cannot be read from here on: the log is told without them.
    Unreadable {
        table: TableName,
        reason: String,
    },
    /// The table's definition changes here, by a statement of the source. The rows after it are of the new version.
    Ddl {
        table: u32,
        ddl: Ddl,
    },
    /// The end of a transaction. All entries since the one before are its.
    Commit {
        /// The source's number of the transaction; 0 where it has none.
        transaction: u64,
        /// When the source committed, in microseconds since 1970.
        time: i64,
        /// Where the log goes on: a restart may begin here once all before it is durable on the target.
        position: Position,
    },
}

/// A transaction may be spread over many of these, so memory is bounded however long it is.
#[derive(Debug, Default)]
pub struct Changes {
    pub rows: Batch,
    pub entries: Vec<Entry>,
    /// The place after the last transaction that is complete, or further on where the log holds nothing for us.
    pub resume: Option<Position>,
}

impl Changes {
    /// Empties it for the next piece and keeps its buffers.
    pub fn clear(&mut self, format: Format) {
        self.rows.clear(format);
        self.entries.clear();
        self.resume = None;
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.resume.is_none()
    }

    /// Memory in use, in bytes: what a reader compares with its limit.
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.entries.len() * size_of::<Entry>()
    }

    /// Appends it as bytes that [`Changes::read_from`] takes back.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        self.rows.write_to(out);
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let number = |row: Option<u32>| row.unwrap_or(NO_ROW).to_le_bytes();
        for entry in &self.entries {
            match entry {
                // Nearly all are this.
                Entry::Row { table, op, old, new } => {
                    out.push(*op as u8);
                    out.extend_from_slice(&table.to_le_bytes());
                    out.extend_from_slice(&number(*old));
                    out.extend_from_slice(&number(*new));
                }
                other => {
                    out.push(OTHER);
                    write_json(other, out);
                }
            }
        }
        write_json(&self.resume, out);
    }

    /// Reads what [`Changes::write_to`] has written; `None` when it is anything else.
    pub fn read_from(mut bytes: &[u8]) -> Option<Changes> {
        let rows = Batch::read_from(&mut bytes)?;
        let count = take_u64(&mut bytes)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let kind = *bytes.split_off_first()?;
            if kind == OTHER {
                entries.push(read_json(&mut bytes)?);
                continue;
            }
            let op = *[Op::Insert, Op::Update, Op::Delete].get(usize::from(kind))?;
            let mut number = || bytes.split_off(..4)?.first_chunk().map(|number| u32::from_le_bytes(*number));
            let (table, old, new) = (number()?, number()?, number()?);
            let row = |row: u32| (row != NO_ROW).then_some(row);
            entries.push(Entry::Row { table, op, old: row(old), new: row(new) });
        }
        let resume = read_json(&mut bytes)?;
        Some(Changes { rows, entries, resume })
    }

    /// A transaction has ended: without anything in it, it need not have begun.
    pub fn take_back_begin(&mut self) {
        self.entries.pop_if(|entry| matches!(entry, Entry::Begin { .. }));
    }

    /// The number that the row begun now will have.
    pub fn next_row(&self) -> u32 {
        self.rows.rows() as u32
    }
}

/// Stands for an image that is not there; no piece of a log has so many rows.
const NO_ROW: u32 = u32::MAX;

/// Marks entries that are no rows.
const OTHER: u8 = u8::MAX;

fn write_json(value: &impl Serialize, out: &mut Vec<u8>) {
    // Schemas and places always have a JSON form; what could not be written would not be read either.
    let json = serde_json::to_vec(value).unwrap_or_default();
    out.extend_from_slice(&(json.len() as u64).to_le_bytes());
    out.extend_from_slice(&json);
}

fn read_json<T: for<'a> Deserialize<'a>>(bytes: &mut &[u8]) -> Option<T> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    serde_json::from_slice(bytes.split_off(..len)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Family, TableKind, Value};

    #[test]
    fn comes_back_from_bytes() {
        let schema = TableSchema {
            name: TableName::new("s", "t"),
            kind: TableKind::Table,
            family: Family::MySql,
            columns: Vec::new(),
            primary_key: vec![0],
            unique_key: Vec::new(),
            rows_estimate: 0,
        };
        let version = Arc::new(TableVersion { schema, identity: vec![0] });
        let mut changes = Changes::default();
        changes.clear(Format::Values);
        changes.entries.push(Entry::Table { table: 3, version: version.clone() });
        for (op, old, new) in [(Op::Insert, None, Some(0)), (Op::Update, Some(0), Some(1)), (Op::Delete, Some(1), None)]
        {
            changes.rows.push(Value::Int(7));
            changes.rows.end_row();
            changes.entries.push(Entry::Row { table: 3, op, old, new });
        }
        changes.entries.push(Entry::Ddl { table: 3, ddl: Ddl::Rename(version) });
        let position = Position::Binlog { file: "b.1".into(), offset: 4 };
        changes.entries.push(Entry::Commit { transaction: 9, time: -5, position: position.clone() });
        changes.resume = Some(position);
        let mut bytes = Vec::new();
        changes.write_to(&mut bytes);
        let again = Changes::read_from(&bytes).unwrap();
        assert_eq!((&again.entries, &again.resume), (&changes.entries, &changes.resume));
        assert_eq!(again.rows.row(2).get(0), Value::Int(7));
        assert!(Changes::read_from(&bytes[..bytes.len() - 1]).is_none());
    }
}
