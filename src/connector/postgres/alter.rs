//! Definitions of a target's tables that follow those of the source, within the transaction of the changes.
//!
//! A change that was done before is no error: after a crash the log is read again. What is asked of the catalog and may
//! fail is asked in another session, because an error would end the transaction.

use std::collections::HashMap;

use super::target::{TargetColumn, column_type, column_types, create_schema, create_table, exists};
use super::type_map::NativeType;
use super::wire::Client;
use super::{Endpoint, sql};
use crate::connector::{CreateKey, TableChange};
use crate::data::{Error, ErrorKind, Result, TableName, TableSchema};

const NO_SUCH_CAST: &str = "42846";

pub async fn change(client: &mut Client, endpoint: &Endpoint, change: &TableChange<'_>) -> Result<()> {
    let (what, table) = match change {
        TableChange::Create(table) => ("create", &table.name),
        TableChange::Drop(table) => ("drop", *table),
        TableChange::Rename { from, .. } => ("rename", *from),
        TableChange::AddColumn { table, .. } => ("add a column to", &table.name),
        TableChange::DropColumn { table, .. } => ("drop a column of", *table),
        TableChange::RenameColumn { table, .. } => ("rename a column of", *table),
        TableChange::RetypeColumn { table, .. } => ("change the type of a column of", &table.name),
    };
    let outcome = match change {
        TableChange::Create(table) => create(client, endpoint, table).await,
        TableChange::Drop(table) => run(client, &format!("DROP TABLE IF EXISTS {}", sql::table(table))).await,
        TableChange::Rename { from, to } => rename(client, endpoint, from, to).await,
        TableChange::AddColumn { table, column } => add_column(client, endpoint, table, *column).await,
        TableChange::DropColumn { table, column } => drop_column(client, table, column).await,
        TableChange::RenameColumn { table, from, to } => rename_column(client, table, from, to).await,
        TableChange::RetypeColumn { table, column } => retype_column(client, endpoint, table, *column).await,
    };
    // Rows that stand in the way are a fault of the table as a whole.
    outcome
        .map_err(|error| match error.kind {
            ErrorKind::Data | ErrorKind::Truncation => error.into_kind(ErrorKind::Table),
            _ => error,
        })
        .map_err(|error| error.while_doing(format!("{what} {table}")))
}

/// Runs a statement whose time grows with the table.
async fn run(client: &mut Client, statement: &str) -> Result<()> {
    client.query_untimed(statement).await.map(drop)
}

async fn create(client: &mut Client, endpoint: &Endpoint, table: &TableSchema) -> Result<()> {
    if exists(client, &table.name).await? {
        return Ok(());
    }
    let mut other = endpoint.connect().await?;
    create_schema(&mut other, &table.name.schema).await?;
    let types = column_types(&mut other, table).await?;
    run(client, &create_table(table, &types, CreateKey::WithTable)).await
}

async fn rename(client: &mut Client, endpoint: &Endpoint, from: &TableName, to: &TableName) -> Result<()> {
    if !exists(client, from).await? {
        return match exists(client, to).await? {
            true => Ok(()),
            false => Err(missing(from)),
        };
    }
    let set_schema =
        |table: &TableName| format!("ALTER TABLE {} SET SCHEMA {}", sql::table(table), sql::identifier(&to.schema));
    let set_name = |schema: &str| {
        let table = TableName::new(schema, &from.table);
        format!("ALTER TABLE {} RENAME TO {}", sql::table(&table), sql::identifier(&to.table))
    };
    if from.schema == to.schema {
        return if from == to { Ok(()) } else { run(client, &set_name(&from.schema)).await };
    }
    create_schema(&mut endpoint.connect().await?, &to.schema).await?;
    if from.table == to.table {
        return run(client, &set_schema(from)).await;
    }
    // Whichever of the names in between is free.
    if exists(client, &TableName::new(&to.schema, &from.table)).await? {
        run(client, &set_name(&from.schema)).await?;
        run(client, &set_schema(&TableName::new(&from.schema, &to.table))).await
    } else {
        run(client, &set_schema(from)).await?;
        run(client, &set_name(&to.schema)).await
    }
}

async fn columns(client: &mut Client, table: &TableName) -> Result<HashMap<String, TargetColumn>> {
    let columns = TargetColumn::read(client, table).await?;
    // A table may be without columns, too.
    if columns.is_empty() && !exists(client, table).await? {
        return Err(missing(table));
    }
    Ok(columns)
}

/// The column takes nulls: rows that are there have no value for it.
async fn add_column(client: &mut Client, endpoint: &Endpoint, table: &TableSchema, column: usize) -> Result<()> {
    let column = &table.columns[column];
    if columns(client, &table.name).await?.contains_key(&column.name) {
        return Ok(());
    }
    let column_type = column_type(&mut endpoint.connect().await?, table.family, column).await?;
    let (table, column) = (sql::table(&table.name), sql::identifier(&column.name));
    run(client, &format!("ALTER TABLE {table} ADD COLUMN {column} {column_type}")).await
}

async fn drop_column(client: &mut Client, table: &TableName, column: &str) -> Result<()> {
    if !columns(client, table).await?.contains_key(column) {
        return Ok(());
    }
    let (table, column) = (sql::table(table), sql::identifier(column));
    run(client, &format!("ALTER TABLE {table} DROP COLUMN {column}")).await
}

async fn rename_column(client: &mut Client, table: &TableName, from: &str, to: &str) -> Result<()> {
    let columns = columns(client, table).await?;
    if from == to || (columns.contains_key(to) && !columns.contains_key(from)) {
        return Ok(());
    }
    let (table, from, to) = (sql::table(table), sql::identifier(from), sql::identifier(to));
    run(client, &format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}")).await
}

async fn retype_column(client: &mut Client, endpoint: &Endpoint, table: &TableSchema, column: usize) -> Result<()> {
    let column = &table.columns[column];
    if !columns(client, &table.name).await?.contains_key(&column.name) {
        return Err(Error::table(format!("column {} does not exist on the target", column.name)));
    }
    let column_type = column_type(&mut endpoint.connect().await?, table.family, column).await?;
    let plain = &column_type[..column_type.len() - NativeType::parse(&column_type).collation.len()];
    let (table, column) = (sql::table(&table.name), sql::identifier(&column.name));
    let types = client.describe(&format!("SELECT {column}, NULL::{plain} FROM {table}")).await?;
    if types.first() == types.last() {
        return Ok(());
    }
    let retype = |cast: &str| {
        format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {column_type} USING {column}::{cast}{plain}")
    };
    client.query("SAVEPOINT dms_type").await?;
    match run(client, &retype("")).await {
        // Every type can be had from its text, if that fits.
        Err(error) if error.sqlstate.as_deref() == Some(NO_SUCH_CAST) => {
            client.query("ROLLBACK TO SAVEPOINT dms_type").await?;
            run(client, &retype("pg_catalog.text::")).await?;
        }
        other => other?,
    }
    client.query("RELEASE SAVEPOINT dms_type").await.map(drop)
}

fn missing(table: &TableName) -> Error {
    Error::table(format!("table {table} does not exist on the target"))
}
