//! What is in a MySQL server: schemas, tables, columns and keys.

use async_trait::async_trait;

use super::changes::{self, MySqlChanges, Undone};
use super::type_map::{Declared, source_type};
use super::wire::Client;
use super::{Settings, Side, connect, quote_text, snapshot};
use crate::connector::noted::NotedTables;
use crate::connector::{
    Adoption, Beginning, Capture, ChangeReader, Connection, DurablePlace, Snapshot, Source, StartPoint, TableEntry,
};
use crate::data::{Column, Family, Position, Result, TableKind, TableName, TableSchema};

/// Tables described by one query of the catalog.
const DESCRIBED_AT_ONCE: usize = 200;

/// Databases of the server itself.
const OWN_SCHEMAS: &str = "('mysql','sys','information_schema','performance_schema')";

#[derive(Clone)]
pub(super) struct MySqlSource {
    connection: Connection,
    settings: Settings,
    undone: Undone,
    /// Tables that came to a name that is captured by being renamed: what the log has of their rows begins in the middle.
    renamed: NotedTables,
}

impl MySqlSource {
    pub(super) fn new(connection: Connection) -> MySqlSource {
        let settings = Settings::of(&connection);
        MySqlSource { connection, settings, undone: Undone::default(), renamed: NotedTables::default() }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Parts of the log that readers have found to be undone.
    pub(super) fn undone(&self) -> &Undone {
        &self.undone
    }

    /// Tables that readers have seen come to a name that is captured.
    pub(super) fn renamed(&self) -> &NotedTables {
        &self.renamed
    }

    pub(super) async fn connect(&self) -> Result<Client> {
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

    async fn begin_capture(&self, capture: &Capture, readers: usize) -> Result<Beginning> {
        let (snapshot, position) = changes::begin(self, capture, readers).await?;
        Ok(Beginning { snapshot: Box::new(snapshot), position })
    }

    async fn begin_capture_at(&self, capture: &Capture, start: &StartPoint) -> Result<Position> {
        changes::begin_at(self, capture, start).await
    }

    async fn snapshot_in_log(&self, capture: &Capture, readers: usize) -> Result<Beginning> {
        self.begin_capture(capture, readers).await
    }

    async fn log_end(&self) -> Result<Position> {
        changes::end(self).await
    }

    /// The server keeps its log as long as it was told to, whatever a replica has read.
    async fn adopt(&self, _: &Capture, tables: &[TableName]) -> Result<Adoption> {
        let renamed = tables.iter().any(|table| self.renamed.has(table));
        Ok(if renamed { Adoption::FromNow } else { Adoption::InLog })
    }

    async fn changes(&self, capture: &Capture, from: &Position, _: DurablePlace) -> Result<Box<dyn ChangeReader>> {
        Ok(Box::new(MySqlChanges::start(self, capture, from).await?))
    }

    async fn end_capture(&self, capture: &Capture) -> Result<()> {
        changes::end_capture(self, capture).await
    }
}

fn table_entry(row: Vec<Option<String>>) -> Option<TableEntry> {
    let [schema, table, kind] = <[Option<String>; 3]>::try_from(row).ok()?;
    let kind = if kind? == "VIEW" { TableKind::View } else { TableKind::Table };
    Some(TableEntry { name: TableName::new(schema?, table?), kind })
}

/// A table as it is stored, and as its rows are in the log.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// What is moved of it.
    pub(super) schema: TableSchema,
    /// In their order, with the hidden ones.
    pub(super) columns: Vec<StoredColumn>,
    /// `TABLE_TYPE`: not every kind of table is moved.
    pub(super) kind: String,
    pub(super) collation: String,
    /// Unique keys for which MariaDB keeps a hash in a column that the catalog does not show.
    pub(super) hash_keys: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredColumn {
    pub(super) column: Column,
    pub(super) hidden: bool,
}

async fn describe(client: &mut Client, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
    Ok(stored(client, tables).await?.into_iter().map(|table| table.schema).collect())
}

/// Tables in the order given; one that has vanished is left out.
pub(super) async fn stored(client: &mut Client, tables: &[TableEntry]) -> Result<Vec<Stored>> {
    let names: Vec<String> = tables
        .iter()
        .map(|entry| format!("({},{})", quote_text(&entry.name.schema), quote_text(&entry.name.table)))
        .collect();
    let named = format!("(TABLE_SCHEMA, TABLE_NAME) IN ({})", names.join(","));
    let mut described: Vec<Stored> = tables.iter().map(undescribed).collect();

    let columns = client
        .rows(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_MAXIMUM_LENGTH, \
             NUMERIC_PRECISION, NUMERIC_SCALE, DATETIME_PRECISION, CHARACTER_SET_NAME, COLLATION_NAME, IS_NULLABLE, \
             EXTRA FROM information_schema.COLUMNS WHERE {named} ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
        ))
        .await?;
    for row in &columns {
        if let Some(table) = named_in(&mut described, row)
            && let Some(stored) = column(&row[2..])
        {
            if !stored.hidden {
                table.schema.columns.push(stored.column.clone());
            }
            table.columns.push(stored);
        }
    }
    let keys = client
        .rows(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART, INDEX_TYPE \
             FROM information_schema.STATISTICS \
             WHERE {named} AND NON_UNIQUE=0 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
        ))
        .await?;
    for index in keys.chunk_by(|a, b| a[..3] == b[..3]) {
        if let Some(table) = named_in(&mut described, &index[0]) {
            add_key(&mut table.schema, index);
            table.hash_keys += usize::from(index[0][5].as_deref() == Some("HASH"));
        }
    }
    let tables = client
        .rows(&format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS, TABLE_TYPE, TABLE_COLLATION FROM information_schema.TABLES \
             WHERE {named}"
        ))
        .await?;
    for row in tables {
        if let Some(table) = named_in(&mut described, &row) {
            table.schema.rows_estimate = number(&row[2]);
            table.kind = row[3].clone().unwrap_or_default();
            table.collation = row[4].clone().unwrap_or_default();
        }
    }
    // A table without columns has vanished since it was listed.
    described.retain(|table| !table.schema.columns.is_empty());
    Ok(described)
}

fn undescribed(entry: &TableEntry) -> Stored {
    let schema = TableSchema {
        name: entry.name.clone(),
        kind: entry.kind,
        family: Family::MySql,
        columns: Vec::new(),
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    Stored { schema, columns: Vec::new(), kind: String::new(), collation: String::new(), hash_keys: 0 }
}

/// The table that a row of the catalog speaks of in its first two columns.
fn named_in<'a>(tables: &'a mut [Stored], row: &[Option<String>]) -> Option<&'a mut Stored> {
    let (schema, table) = (row.first()?.as_deref()?, row.get(1)?.as_deref()?);
    let is_named = |name: &TableName| name.schema == schema && name.table == table;
    tables.iter_mut().find(|candidate| is_named(&candidate.schema.name))
}

fn number<N: std::str::FromStr + Default>(text: &Option<String>) -> N {
    text.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A column from a row that begins with `COLUMN_NAME`.
fn column(row: &[Option<String>]) -> Option<StoredColumn> {
    let [name, base, full, length, precision, scale, fraction, charset, collation, nullable, extra] = row else {
        return None;
    };
    let extra = extra.as_deref().unwrap_or_default().to_ascii_uppercase();
    // "AWS DMS does not migrate data from invisible columns in your source database."
    let hidden = extra.contains("INVISIBLE");
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
    let column = Column {
        name: name.clone()?,
        data_type: source_type(&declared),
        native,
        nullable: nullable.as_deref() == Some("YES"),
        generated: is_generated(&extra),
    };
    Some(StoredColumn { column, hidden })
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
