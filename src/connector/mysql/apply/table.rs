//! A target's table as changes are applied to it.

use super::super::columns::{FoundColumn, assign, find_columns, found_column, rule};
use super::super::intake::{Intake, LoadColumn};
use super::super::type_map::is_geometry;
use super::super::wire::{Client, from_server};
use super::super::{quote_name, quote_table};
use crate::data::{Column, Family, Format, Result, TableName, TableSchema};

pub(super) struct Table {
    /// Where it is on the target.
    pub(super) name: TableName,
    /// The columns for which this was made.
    made_for: Vec<Column>,
    /// In the order of the set's table.
    pub(super) columns: Vec<TargetColumn>,
    /// Columns that an UPDATE must mention, or the server sets them to the time: their names, quoted, with their places.
    pub(super) on_update: Vec<(usize, String)>,
}

/// A column of the set's table as the target has it.
#[derive(Clone)]
pub(super) struct TargetColumn {
    /// Quoted.
    pub(super) name: String,
    pub(super) found: FoundColumn,
    /// How values become those of the column; never skipped, because rows may be found by generated columns.
    pub(super) load: LoadColumn,
    /// Whether the target calls values alike that the source tells apart.
    pub(super) blurs: bool,
}

impl Table {
    /// Looks the table up in the target's catalog.
    pub(super) async fn find(
        client: &mut Client,
        name: TableName,
        table: &TableSchema,
        format: Format,
    ) -> Result<Table> {
        let found = find_columns(client, &name).await?;
        if found.is_empty() {
            return Err(from_server(1146, "42S02", &format!("Table '{name}' doesn't exist")));
        }
        let column = |column: &Column| match found_column(&found, column) {
            Some(found) => Ok(TargetColumn::new(column, table.family, found.clone(), format)),
            None => Err(from_server(1054, "42S22", &format!("Unknown column '{}' in table '{name}'", column.name))),
        };
        let columns = table.columns.iter().map(column).collect::<Result<Vec<TargetColumn>>>()?;
        let on_update = columns.iter().enumerate().filter(|(_, column)| column.found.on_update);
        Ok(Table {
            name,
            made_for: table.columns.clone(),
            on_update: on_update.map(|(index, column)| (index, column.name.clone())).collect(),
            columns,
        })
    }

    /// Whether it is still what was looked up.
    pub(super) fn serves(&self, table: &TableSchema) -> bool {
        self.made_for == table.columns
    }

    pub(super) fn is_generated(&self, column: usize) -> bool {
        self.columns[column].found.generated
    }

    pub(super) fn quoted(&self) -> String {
        quote_table(&self.name)
    }

    /// The table's own intake of these columns.
    pub(super) fn intake(&self, written: &[usize]) -> Intake {
        Intake::new(&self.name, written.iter().map(|column| self.columns[*column].load.clone()).collect())
    }
}

impl TargetColumn {
    fn new(column: &Column, family: Family, found: FoundColumn, format: Format) -> TargetColumn {
        let load = LoadColumn {
            name: found.name.clone(),
            assign: assign(column, &found, format),
            rule: rule(column, Some(&found)),
        };
        // A source of the same collation has no two keys that it calls alike.
        let same = family == Family::MySql
            && found.collation.as_deref().is_some_and(|collation| column.native.ends_with(&format!(" {collation}")));
        let blurs = found.is_text() && !same;
        TargetColumn { name: quote_name(&found.name), blurs, load, found }
    }
}

/// A column with this many bytes is no longer kept in memory.
const MEMORY_COLUMN_BYTES: u64 = 2048;

impl FoundColumn {
    /// Its values are compared by a collation.
    pub(super) fn is_text(&self) -> bool {
        self.collation.is_some() || self.charset.is_some()
    }

    pub(super) fn is_geometry(&self) -> bool {
        is_geometry(&self.base)
    }

    /// Bytes that a value takes in a table in memory; `None` if it cannot be in one.
    pub(super) fn memory_bytes(&self) -> Option<usize> {
        let base = self.base.as_str();
        if base.ends_with("text") || base.ends_with("blob") || base == "json" || base == "vector" || self.is_geometry()
        {
            return None;
        }
        // Numbers and times: a DECIMAL takes most.
        let bytes = self.bytes_max.unwrap_or(30);
        (bytes <= MEMORY_COLUMN_BYTES).then_some(bytes as usize + 2)
    }

    /// The column's type, without anything else that it is declared with.
    pub(super) fn native(&self) -> String {
        // MariaDB tells of compression in a comment.
        let full = self.full.split(" /*").next().unwrap_or_default();
        match (&self.charset, &self.collation) {
            (Some(charset), Some(collation)) if self.base != "json" => {
                format!("{full} CHARACTER SET {charset} COLLATE {collation}")
            }
            _ => full.to_owned(),
        }
    }
}
