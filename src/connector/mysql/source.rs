//! What is in a MySQL server: schemas, tables, columns and keys.

use async_trait::async_trait;

use super::type_map::{Declared, source_type};
use super::wire::Client;
use super::{Settings, Side, connect, quote_text, snapshot};
use crate::connector::{Connection, Snapshot, Source, TableEntry};
use crate::data::{Column, Family, Result, TableKind, TableName, TableSchema};

/// Tables described by one query of the catalog.
const DESCRIBED_AT_ONCE: usize = 200;

/// Databases of the server itself.
const OWN_SCHEMAS: &str = "('mysql','sys','information_schema','performance_schema')";

pub(super) struct MySqlSource {
    connection: Connection,
    settings: Settings,
}

impl MySqlSource {
    pub(super) fn new(connection: Connection) -> MySqlSource {
        let settings = Settings::of(&connection);
        MySqlSource { connection, settings }
    }

    async fn connect(&self) -> Result<Client> {
        connect(&self.connection, &self.settings, Side::Source).await
    }

    async fn query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut client = self.connect().await?;
        let rows = client.rows(sql).await?;
        client.close().await;
        Ok(rows)
    }
}

#[async_trait]
impl Source for MySqlSource {
    async fn check(&self) -> Result<()> {
        super::check(&self.connection, Side::Source).await
    }

    async fn schemas(&self) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE LOWER(SCHEMA_NAME) NOT IN {OWN_SCHEMAS} \
             AND SCHEMA_NAME <> 'awsdms_control'"
        );
        let rows = self.query(&sql).await.map_err(|error| error.while_doing("list schemas"))?;
        let mut schemas: Vec<String> = rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
        schemas.sort_unstable();
        Ok(schemas)
    }

    async fn tables(&self) -> Result<Vec<TableEntry>> {
        let sql = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES \
             WHERE LOWER(TABLE_SCHEMA) NOT IN {OWN_SCHEMAS} AND TABLE_TYPE IN ('BASE TABLE','VIEW') \
             AND LOWER(TABLE_NAME) NOT LIKE 'awsdms\\_%'"
        );
        let rows = self.query(&sql).await.map_err(|error| error.while_doing("list tables"))?;
        let mut tables: Vec<TableEntry> = rows.into_iter().filter_map(table_entry).collect();
        tables.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }

    async fn describe(&self, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
        let mut client = self.connect().await?;
        let mut described = Vec::with_capacity(tables.len());
        for some in tables.chunks(DESCRIBED_AT_ONCE) {
            let schemas = describe(&mut client, some).await.map_err(|error| error.while_doing("describe tables"))?;
            described.extend(schemas);
        }
        client.close().await;
        Ok(described)
    }

    async fn snapshot(&self, readers: usize) -> Result<Box<dyn Snapshot>> {
        let snapshot = snapshot::open(&self.connection, &self.settings, readers).await;
        Ok(Box::new(snapshot.map_err(|error| error.while_doing("open a snapshot of the source"))?))
    }
}

fn table_entry(row: Vec<Option<String>>) -> Option<TableEntry> {
    let [schema, table, kind] = <[Option<String>; 3]>::try_from(row).ok()?;
    let kind = if kind? == "VIEW" { TableKind::View } else { TableKind::Table };
    Some(TableEntry { name: TableName::new(schema?, table?), kind })
}

async fn describe(client: &mut Client, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
    let names: Vec<String> = tables
        .iter()
        .map(|entry| format!("({},{})", quote_text(&entry.name.schema), quote_text(&entry.name.table)))
        .collect();
    let named = format!("(TABLE_SCHEMA, TABLE_NAME) IN ({})", names.join(","));
    let mut schemas: Vec<TableSchema> = tables
        .iter()
        .map(|entry| TableSchema {
            name: entry.name.clone(),
            kind: entry.kind,
            family: Family::MySql,
            columns: Vec::new(),
            primary_key: Vec::new(),
            unique_key: Vec::new(),
            rows_estimate: 0,
        })
        .collect();

    let columns = client
        .rows(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_MAXIMUM_LENGTH, \
             NUMERIC_PRECISION, NUMERIC_SCALE, DATETIME_PRECISION, CHARACTER_SET_NAME, COLLATION_NAME, IS_NULLABLE, \
             EXTRA FROM information_schema.COLUMNS WHERE {named} ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
        ))
        .await?;
    for row in &columns {
        if let Some(schema) = named_in(&mut schemas, row)
            && let Some(column) = column(&row[2..])
        {
            schema.columns.push(column);
        }
    }
    let keys = client
        .rows(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
             WHERE {named} AND NON_UNIQUE=0 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
        ))
        .await?;
    for index in keys.chunk_by(|a, b| a[..3] == b[..3]) {
        if let Some(schema) = named_in(&mut schemas, &index[0]) {
            add_key(schema, index);
        }
    }
    let estimates = client
        .rows(&format!("SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES WHERE {named}"))
        .await?;
    for row in &estimates {
        if let Some(schema) = named_in(&mut schemas, row) {
            schema.rows_estimate = number(&row[2]);
        }
    }
    // A table without columns has vanished since it was listed.
    schemas.retain(|schema| !schema.columns.is_empty());
    Ok(schemas)
}

/// The table that a row of the catalog speaks of in its first two columns.
fn named_in<'a>(schemas: &'a mut [TableSchema], row: &[Option<String>]) -> Option<&'a mut TableSchema> {
    let (schema, table) = (row.first()?.as_deref()?, row.get(1)?.as_deref()?);
    schemas.iter_mut().find(|candidate| candidate.name.schema == schema && candidate.name.table == table)
}

fn number<N: std::str::FromStr + Default>(text: &Option<String>) -> N {
    text.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A column from a row that begins with `COLUMN_NAME`; `None` for an invisible one.
fn column(row: &[Option<String>]) -> Option<Column> {
    let [name, base, full, length, precision, scale, fraction, charset, collation, nullable, extra] = row else {
        return None;
    };
    let extra = extra.as_deref().unwrap_or_default().to_ascii_uppercase();
    // "AWS DMS does not migrate data from invisible columns in your source database."
    if extra.contains("INVISIBLE") {
        return None;
    }
    let (base, full) = (base.as_deref()?.to_ascii_lowercase(), full.as_deref()?);
    let declared = Declared {
        base: &base,
        full,
        length: number::<u64>(length).min(u32::MAX.into()) as u32,
        precision: number(precision),
        scale: number(scale),
        fraction: number(fraction),
    };
    let native = match (charset, collation) {
        (Some(charset), Some(collation)) if base != "json" => {
            format!("{full} CHARACTER SET {charset} COLLATE {collation}")
        }
        _ => full.to_owned(),
    };
    Some(Column {
        name: name.clone()?,
        data_type: source_type(&declared),
        native,
        nullable: nullable.as_deref() == Some("YES"),
        generated: is_generated(&extra),
    })
}

/// By the `EXTRA` of a column, in upper case. MySQL marks columns with a default expression as `DEFAULT_GENERATED`.
pub(super) fn is_generated(extra: &str) -> bool {
    ["VIRTUAL", "STORED GENERATED", "PERSISTENT"].iter().any(|mark| extra.contains(mark))
}

/// Takes a unique index as the primary key, or as the unique key if it is the shortest over non-null columns.
fn add_key(schema: &mut TableSchema, index: &[Vec<Option<String>>]) {
    let primary = index[0][2].as_deref() == Some("PRIMARY");
    let positions: Option<Vec<usize>> = index
        .iter()
        .map(|part| schema.columns.iter().position(|column| Some(&column.name) == part[3].as_ref()))
        .collect();
    // An index over an expression or an invisible column is no key of the columns that are moved.
    let Some(positions) = positions else { return };
    if primary {
        schema.primary_key = positions;
        return;
    }
    let whole_and_not_null = index.iter().all(|part| part[4].is_none())
        && positions.iter().all(|position| !schema.columns[*position].nullable);
    if whole_and_not_null && (schema.unique_key.is_empty() || positions.len() < schema.unique_key.len()) {
        schema.unique_key = positions;
    }
}
