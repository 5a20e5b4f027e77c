//! Tables as DMS sees them: names, columns and the engine-neutral data types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A schema and a table name, exactly as the database spells them. For MySQL the schema is the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> TableName {
        TableName { schema: schema.into(), table: table.into() }
    }
}

/// `schema.table`, for messages and logs; SQL is quoted by the connector.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableKind {
    Table,
    View,
}

/// Engines that share native types, their text forms and their SQL: rows between two engines of one family keep their
/// native types and lose nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    PostgreSql,
    MySql,
}

/// DMS's own data types, the middle between a source's and a target's.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Reference.DataTypes.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataType {
    Boolean,
    Int1,
    Int2,
    Int4,
    Int8,
    UInt1,
    UInt2,
    UInt4,
    UInt8,
    Real4,
    Real8,
    /// Precision 0 means that the source states none.
    Numeric {
        precision: u16,
        scale: i16,
    },
    /// Text in a single-byte encoding; length in characters.
    String {
        length: u32,
    },
    /// Text in Unicode; length in characters.
    WString {
        length: u32,
    },
    /// Length in bytes.
    Bytes {
        length: u32,
    },
    Date,
    /// Scale: digits of fractional seconds, 0 to 6.
    Time {
        scale: u8,
    },
    DateTime {
        scale: u8,
    },
    Blob,
    Clob,
    NClob,
}

impl DataType {
    /// Whether DMS's LOB settings govern the column.
    pub fn is_lob(self) -> bool {
        matches!(self, DataType::Blob | DataType::Clob | DataType::NClob)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    /// The type as the source's engine declares it (`numeric(10,2)`, `enum('a','b') CHARACTER SET latin1`): what a
    /// target of the same family creates.
    pub native: String,
    pub nullable: bool,
    /// Filled by the server (generated always as …): a target must not be sent a value when it generates its own, but
    /// DMS creates such a column as an ordinary one.
    pub generated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    pub name: TableName,
    pub kind: TableKind,
    /// Whose native types `Column::native` holds.
    pub family: Family,
    pub columns: Vec<Column>,
    /// Indexes into `columns`, in key order; empty when the table has no primary key.
    pub primary_key: Vec<usize>,
    /// A unique key over non-null columns, for tables without a primary key; empty when there is none.
    pub unique_key: Vec<usize>,
    /// The server's estimate, for progress and load order; 0 when unknown.
    pub rows_estimate: u64,
}

impl TableSchema {
    /// The columns that tell rows apart: the primary key, or else a unique key; empty when there is neither.
    pub fn row_key(&self) -> &[usize] {
        if self.primary_key.is_empty() { &self.unique_key } else { &self.primary_key }
    }
}
