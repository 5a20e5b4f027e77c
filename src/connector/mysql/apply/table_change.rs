//! Changes of a table's definition. Each looks first whether it has been done: after a crash the log is read again from
//! a place before it, and in MySQL a statement that defines tables is durable by itself.

use super::super::columns::{FoundColumn, find_columns, named};
use super::super::create::{Dialect, column_types, create, definition, is_timestamp};
use super::super::target::Places;
use super::super::type_map::off_row;
use super::super::wire::{Client, from_server};
use super::super::{quote_name, quote_table};
use crate::connector::{CreateKey, TableChange};
use crate::data::{Error, ErrorKind, Result, TableName, TableSchema};

/// The tables that a change is about, the one that it leaves last.
pub(super) fn names<'a>(change: &TableChange<'a>) -> Vec<&'a TableName> {
    match *change {
        TableChange::Create(table) | TableChange::AddColumn { table, .. } | TableChange::RetypeColumn { table, .. } => {
            vec![&table.name]
        }
        TableChange::Drop(name) => vec![name],
        TableChange::Rename { from, to } => vec![from, to],
        TableChange::DropColumn { table, .. } | TableChange::RenameColumn { table, .. } => vec![table],
    }
}

pub(super) async fn change(client: &mut Client, places: &Places, change: &TableChange<'_>) -> Result<()> {
    let changed = match *change {
        TableChange::Create(table) => create_missing(client, &places.of(&table.name), table).await,
        TableChange::Drop(name) => {
            client.run(&format!("DROP TABLE IF EXISTS {}", quote_table(&places.of(name)))).await.map(drop)
        }
        TableChange::Rename { from, to } => rename(client, &places.of(from), &places.of(to)).await,
        TableChange::AddColumn { table, column } => {
            Definition::read(client, places.of(&table.name)).await?.add(client, table, column).await
        }
        TableChange::DropColumn { table, column } => {
            Definition::read(client, places.of(table)).await?.drop_column(client, column).await
        }
        TableChange::RenameColumn { table, from, to } => {
            Definition::read(client, places.of(table)).await?.rename_column(client, from, to).await
        }
        TableChange::RetypeColumn { table, column } => {
            Definition::read(client, places.of(&table.name)).await?.retype(client, table, column).await
        }
    };
    // Rows that do not go with a new definition cost the table, not themselves.
    changed.map_err(|error| match error.kind {
        ErrorKind::Data | ErrorKind::Truncation | ErrorKind::Apply => error.into_kind(ErrorKind::Table),
        ErrorKind::Recoverable | ErrorKind::Table | ErrorKind::Redefined | ErrorKind::Fatal => error,
    })
}

async fn exists(client: &mut Client, name: &TableName) -> Result<bool> {
    let rows = client.rows(&format!("SELECT 1 FROM information_schema.TABLES WHERE {}", named(name))).await?;
    Ok(!rows.is_empty())
}

async fn create_missing(client: &mut Client, place: &TableName, table: &TableSchema) -> Result<()> {
    if exists(client, place).await? {
        return Ok(());
    }
    client.run(&format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(&place.schema))).await?;
    create(client, place, table, CreateKey::WithTable).await
}

async fn rename(client: &mut Client, from: &TableName, to: &TableName) -> Result<()> {
    // Tables that are swapped are both there before and after: a name that is taken says that this was done.
    if from == to || exists(client, to).await? {
        return Ok(());
    }
    client.run(&format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(&to.schema))).await?;
    client.run(&format!("RENAME TABLE {} TO {}", quote_table(from), quote_table(to))).await.map(drop)
}

/// A table as it is before a change.
struct Definition {
    name: TableName,
    columns: Vec<FoundColumn>,
}

impl Definition {
    async fn read(client: &mut Client, name: TableName) -> Result<Definition> {
        let columns = find_columns(client, &name).await?;
        match columns.is_empty() {
            true => Err(from_server(1146, "42S02", &format!("Table '{name}' doesn't exist"))),
            false => Ok(Definition { name, columns }),
        }
    }

    /// MySQL does not tell names of columns apart by their case.
    fn column(&self, name: &str) -> Option<&FoundColumn> {
        let name = name.to_lowercase();
        self.columns.iter().find(|column| column.name.to_lowercase() == name)
    }

    fn unknown(&self, column: &str) -> Error {
        from_server(1054, "42S22", &format!("Unknown column '{column}' in table '{}'", self.name))
    }

    async fn alter(&self, client: &mut Client, what: &str) -> Result<()> {
        client.run(&format!("ALTER TABLE {} {what}", quote_table(&self.name))).await.map(drop)
    }

    async fn add(&self, client: &mut Client, table: &TableSchema, column: usize) -> Result<()> {
        let added = &table.columns[column];
        if self.column(&added.name).is_some() {
            return Ok(());
        }
        let types = types(table, column);
        let mut refused = None;
        for native in &types {
            let clause = format!("ADD COLUMN {}", definition(&added.name, native, added.nullable));
            match self.alter(client, &clause).await {
                Ok(()) => return self.drop_default(client, &added.name, native, added.nullable).await,
                Err(error) if is_of_type(&error) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Takes away the default that only kept the server from adding its own.
    async fn drop_default(&self, client: &mut Client, name: &str, native: &str, nullable: bool) -> Result<()> {
        match is_timestamp(native) && !nullable {
            true => self.alter(client, &format!("ALTER COLUMN {} DROP DEFAULT", quote_name(name))).await,
            false => Ok(()),
        }
    }

    async fn drop_column(&self, client: &mut Client, column: &str) -> Result<()> {
        match self.column(column) {
            Some(_) => self.alter(client, &format!("DROP COLUMN {}", quote_name(column))).await,
            None => Ok(()),
        }
    }

    async fn rename_column(&self, client: &mut Client, from: &str, to: &str) -> Result<()> {
        if self.columns.iter().any(|column| column.name == to) {
            return Ok(());
        }
        if self.column(from).is_none() {
            return Err(self.unknown(from));
        }
        let (quoted_from, quoted_to) = (quote_name(from), quote_name(to));
        match self.alter(client, &format!("RENAME COLUMN {quoted_from} TO {quoted_to}")).await {
            // MySQL before 8.0 and MariaDB before 10.5 want the whole definition said again.
            Err(error) if error.native == Some(1064) => {
                let declared = self.declared(client, from).await?.ok_or(error)?;
                self.alter(client, &format!("CHANGE COLUMN {quoted_from} {quoted_to} {declared}")).await
            }
            done => done,
        }
    }

    /// A column's definition in the server's own words.
    async fn declared(&self, client: &mut Client, column: &str) -> Result<Option<String>> {
        let rows = client.rows(&format!("SHOW CREATE TABLE {}", quote_table(&self.name))).await?;
        let statement = rows.first().and_then(|row| row.get(1)?.as_deref()).unwrap_or_default();
        let name = self.column(column).map(|column| format!("{} ", quote_name(&column.name))).unwrap_or_default();
        let line = statement.lines().find_map(|line| line.trim_start().strip_prefix(&name));
        Ok(line.map(|definition| definition.trim_end_matches(',').to_owned()))
    }

    /// Whether the column may be null, and counts by itself, stays as it is: statements change only types in DMS too.
    async fn retype(&self, client: &mut Client, table: &TableSchema, column: usize) -> Result<()> {
        let name = &table.columns[column].name;
        let Some(found) = self.column(name) else { return Err(self.unknown(name)) };
        let counts = if found.auto_increment { " AUTO_INCREMENT" } else { "" };
        let mut refused = None;
        for native in &types(table, column) {
            let clause = format!("MODIFY COLUMN {}{counts}", definition(&found.name, native, found.nullable));
            match self.alter(client, &clause).await {
                Ok(()) => return self.drop_default(client, &found.name, native, found.nullable).await,
                Err(error) if is_of_type(&error) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// Types that a column may be declared with, the best first.
fn types(table: &TableSchema, column: usize) -> Vec<String> {
    let mut types: Vec<String> = [Dialect::Exact, Dialect::Portable]
        .into_iter()
        .filter_map(|dialect| column_types(table, dialect).into_iter().nth(column))
        .collect();
    types.extend(off_row(&types[0]).map(str::to_owned));
    types.dedup();
    types
}

/// Another type may do: an unknown character set, collation or type, or a row that would be too long.
fn is_of_type(error: &Error) -> bool {
    matches!(error.native, Some(1064 | 1115 | 1118 | 1253 | 1273 | 4161))
}
