//! A bounded piece of a source's log on its way: rows that changed, in the order in which their transactions committed.

use std::sync::Arc;

use super::{Batch, Format, Position, TableSchema};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

/// What a table looks like from here on in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableVersion {
    /// In the order of the log's rows, which is not that of the catalog after a column was dropped.
    pub schema: TableSchema,
    /// The columns that tell apart the rows that an UPDATE or DELETE means: the key, or all where the log has whole old
    /// rows. Empty where it has nothing of them.
    pub identity: Vec<usize>,
}

/// What a statement of the source did to a captured table.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnChange {
    Add { column: usize },
    Drop { name: String },
    Rename { from: String, column: usize },
    Retype { column: usize },
}

/// The rows of [`Changes::rows`] are whole images in the columns of the table's version; what the log does not have of
/// them is [`Value::Absent`](super::Value::Absent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
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

    /// The number that the row begun now will have.
    pub fn next_row(&self) -> u32 {
        self.rows.rows() as u32
    }
}
