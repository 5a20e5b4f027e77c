//! A PostgreSQL database as a source: what is in its catalog.

use std::collections::HashMap;

use async_trait::async_trait;

use super::changes::{self, PostgresChanges};
use super::snapshot::PostgresSnapshot;
use super::type_map::{NativeType, TypeClass, data_type};
use super::wire::Client;
use super::{Endpoint, check_version, sql};
use crate::connector::{Beginning, Capture, ChangeReader, Connection, Snapshot, Source, TableEntry};
use crate::data::{Column, DataType, Error, Family, Position, Result, TableKind, TableName, TableSchema};

/// Tables that one catalog query describes: bounds the statement and its answer.
const DESCRIBED_AT_ONCE: usize = 100;

/// Schemas that are the engine's own.
const OWN_SCHEMAS: &str = "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

pub struct PostgresSource {
    endpoint: Endpoint,
}

impl PostgresSource {
    pub fn new(connection: Connection) -> PostgresSource {
        PostgresSource { endpoint: Endpoint::new(connection) }
    }

    pub fn of(endpoint: Endpoint) -> PostgresSource {
        PostgresSource { endpoint }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The native and DMS types of columns that are known by the number and the modifier of their type; each with its
    /// place. A type that the catalog does not have is left out.
    pub async fn types(&self, columns: &[(usize, u32, i32)]) -> Result<Vec<(usize, String, DataType)>> {
        let rows: Vec<String> =
            columns.iter().map(|(place, oid, modifier)| format!("({place}, {oid}::oid, {modifier})")).collect();
        let sql = format!(
            "SELECT a.place, format_type(b.oid, b.typmod), b.typtype \
             FROM (VALUES {}) AS a (place, atttypid, atttypmod) {BASE_TYPE}",
            rows.join(", ")
        );
        let mut client = self.endpoint.connect_to_catalog().await?;
        let of_row = |row: Vec<Option<String>>| {
            let mut row = Fields::of(row);
            let (place, native, class) = (row.number("place")?, row.next("format_type")?, row.next("typtype")?);
            let data_type = data_type(&NativeType::parse(&native), TypeClass::parse(&class), &self.endpoint.settings);
            Ok((place, native, data_type))
        };
        client.query(&sql).await?.into_iter().map(of_row).collect()
    }
}

/// The type of a column `a`; of a domain its base type, through any number of domains.
const BASE_TYPE: &str = "JOIN LATERAL (WITH RECURSIVE d (oid, typmod, depth) AS (SELECT a.atttypid, a.atttypmod, 0 \
     UNION ALL SELECT t.typbasetype, t.typtypmod, depth + 1 FROM d JOIN pg_type t ON t.oid = d.oid \
     WHERE t.typtype = 'd') \
     SELECT d.oid, d.typmod, t.typtype, t.typcollation FROM d JOIN pg_type t ON t.oid = d.oid \
     ORDER BY depth DESC LIMIT 1) b ON true";

#[async_trait]
impl Source for PostgresSource {
    async fn check(&self) -> Result<()> {
        let mut client = self.endpoint.connect().await?;
        check_version(&client)?;
        client.query("SELECT 1").await.map(drop)
    }

    async fn schemas(&self) -> Result<Vec<String>> {
        let mut client = self.endpoint.connect_to_catalog().await?;
        let sql = format!(
            "SELECT n.nspname FROM pg_namespace n WHERE {OWN_SCHEMAS} AND has_schema_privilege(n.oid, 'USAGE') \
             ORDER BY n.nspname COLLATE \"C\""
        );
        Ok(client.query(&sql).await?.into_iter().filter_map(|mut row| row.pop().flatten()).collect())
    }

    async fn tables(&self) -> Result<Vec<TableEntry>> {
        let mut client = self.endpoint.connect_to_catalog().await?;
        let sql = format!(
            "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v') AND c.relpersistence <> 't' AND {OWN_SCHEMAS} \
             AND c.relname !~ '^awsdms_' AND has_schema_privilege(n.oid, 'USAGE') \
             ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\""
        );
        let entry = |row: Vec<Option<String>>| {
            let mut values = row.into_iter().map(Option::unwrap_or_default);
            let name = TableName::new(values.next()?, values.next()?);
            let kind = if values.next()? == "v" { TableKind::View } else { TableKind::Table };
            Some(TableEntry { name, kind })
        };
        Ok(client.query(&sql).await?.into_iter().filter_map(entry).collect())
    }

    async fn describe(&self, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
        let mut client = self.endpoint.connect_to_catalog().await?;
        let mut schemas = Vec::with_capacity(tables.len());
        for some in tables.chunks(DESCRIBED_AT_ONCE) {
            schemas.extend(describe(&mut client, &self.endpoint, some).await?);
        }
        Ok(schemas)
    }

    async fn snapshot(&self, readers: usize) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(PostgresSnapshot::open(self.endpoint.clone(), readers.max(1)).await?))
    }

    async fn begin_capture(&self, capture: &Capture, readers: usize) -> Result<Beginning> {
        changes::begin(self, capture, readers.max(1)).await
    }

    async fn changes(&self, capture: &Capture, from: &Position) -> Result<Box<dyn ChangeReader>> {
        Ok(Box::new(PostgresChanges::start(self, capture, from).await?))
    }

    async fn begin_capture_at(&self, capture: &Capture, _: &crate::connector::StartPoint) -> Result<Position> {
        Ok(changes::begin(self, capture, 1).await?.position)
    }

    async fn log_end(&self) -> Result<Position> {
        let mut client = self.endpoint.connect().await?;
        let rows = client.query("SELECT pg_current_wal_flush_lsn()").await?;
        let text = rows.into_iter().flatten().flatten().next().unwrap_or_default();
        text.parse().map_err(|_| unexpected("pg_current_wal_flush_lsn"))
    }

    async fn end_capture(&self, capture: &Capture) -> Result<()> {
        changes::end(&self.endpoint, &capture.task).await
    }
}

async fn describe(client: &mut Client, endpoint: &Endpoint, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
    let wanted = format!(
        "WITH wanted AS (SELECT w.place, c.oid, c.relkind, c.reltuples, c.relhassubclass \
         FROM (VALUES {}) AS w (place, nspname, relname) JOIN pg_namespace n ON n.nspname = w.nspname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname AND c.relkind IN ('r', 'p', 'v')) ",
        sql::numbered(tables.iter().map(|entry| &entry.name))
    );
    let mut found: HashMap<usize, Described> = HashMap::new();
    for row in client.query(&format!("{wanted}{ESTIMATES}")).await? {
        let mut row = Fields::of(row);
        let (place, estimate) = (row.number("place")?, row.number("reltuples")?);
        found.insert(place, Described { schema: empty(tables.get(place), estimate)?, by_number: HashMap::new() });
    }
    for row in client.query(&format!("{wanted}{}", columns_query(client.version()))).await? {
        let mut row = Fields::of(row);
        let (place, number): (usize, i32) = (row.number("place")?, row.number("attnum")?);
        let column = column(&mut row, endpoint)?;
        if let Some(Described { schema, by_number }) = found.get_mut(&place) {
            by_number.insert(number, schema.columns.len());
            schema.columns.push(column);
        }
    }
    for row in client.query(&format!("{wanted}{}", keys_query(client.version()))).await? {
        let mut row = Fields::of(row);
        let place: usize = row.number("place")?;
        let (primary, parts, numbers): (bool, usize, String) =
            (row.next("indisprimary")? == "t", row.number("indnkeyatts")?, row.next("indkey")?);
        if let Some(described) = found.get_mut(&place) {
            described.add_key(primary, numbers.split(' ').take(parts));
        }
    }
    Ok((0..tables.len()).filter_map(|place| found.remove(&place)).map(|described| described.schema).collect())
}

struct Described {
    schema: TableSchema,
    /// Column number in the catalog to index: dropped columns leave holes in the numbers.
    by_number: HashMap<i32, usize>,
}

impl Described {
    /// Takes the primary key, and the first unique key whose columns are never null.
    fn add_key<'a>(&mut self, primary: bool, numbers: impl Iterator<Item = &'a str>) {
        let columns = numbers.map(|number| self.by_number.get(&number.parse().ok()?).copied());
        let Some(columns) = columns.collect::<Option<Vec<_>>>() else { return };
        if primary {
            self.schema.primary_key = columns;
        } else if self.schema.unique_key.is_empty()
            && columns.iter().all(|column| !self.schema.columns[*column].nullable)
        {
            self.schema.unique_key = columns;
        }
    }
}

/// Rows by the last ANALYZE, or by the activity statistics where there was none, of a parent with those of its children.
/// Neither waits for a lock, as a look at the table's size would.
const ESTIMATES: &str = "SELECT place, CASE WHEN NOT relhassubclass \
     THEN CASE WHEN reltuples > 0 THEN reltuples ELSE pg_stat_get_live_tuples(oid) END ELSE (\
     WITH RECURSIVE tree (member) AS (SELECT wanted.oid \
     UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = member) \
     SELECT coalesce(sum(CASE WHEN m.reltuples > 0 THEN m.reltuples ELSE pg_stat_get_live_tuples(m.oid) END), 0) \
     FROM tree JOIN pg_class m ON m.oid = member AND m.relkind = 'r') END::bigint FROM wanted";

fn columns_query(version: u32) -> String {
    let generated = if version >= 120_000 { "a.attgenerated" } else { "''" };
    format!(
        "SELECT w.place, a.attnum, a.attname, format_type(b.oid, b.typmod), b.typtype, a.attnotnull, {generated}, \
         CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.typcollation \
         THEN quote_ident(cn.nspname) END, quote_ident(co.collname) \
         FROM wanted w JOIN pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped {BASE_TYPE} \
         LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
         ORDER BY w.place, a.attnum"
    )
}

/// Keys that identify a row at any time: valid, not deferrable, not partial, not over expressions; small ones first.
fn keys_query(version: u32) -> String {
    let parts = if version >= 110_000 { "i.indnkeyatts" } else { "i.indnatts" };
    format!(
        "SELECT w.place, i.indisprimary, {parts}, i.indkey::text FROM wanted w JOIN pg_index i ON i.indrelid = w.oid \
         JOIN pg_class c ON c.oid = i.indexrelid \
         WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
         AND (i.indimmediate OR i.indisprimary) ORDER BY w.place, {parts}, c.relname COLLATE \"C\""
    )
}

fn empty(entry: Option<&TableEntry>, rows_estimate: u64) -> Result<TableSchema> {
    let entry = entry.ok_or_else(|| unexpected("place"))?;
    Ok(TableSchema {
        name: entry.name.clone(),
        kind: entry.kind,
        family: Family::PostgreSql,
        columns: Vec::new(),
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate,
    })
}

fn column(row: &mut Fields, endpoint: &Endpoint) -> Result<Column> {
    let name = row.next("attname")?;
    let mut native = row.next("format_type")?;
    let class = TypeClass::parse(&row.next("typtype")?);
    let nullable = row.next("attnotnull")? == "f";
    let generated = !row.next("attgenerated")?.is_empty();
    let data_type = data_type(&NativeType::parse(&native), class, &endpoint.settings);
    if let (Some(schema), Some(collation)) = (row.optional(), row.optional()) {
        // quote_ident leaves simple names bare; the clause always has quotation marks, which sets it off.
        let quoted = |name: String| if name.starts_with('"') { name } else { format!("\"{name}\"") };
        native = format!("{native} COLLATE {}.{}", quoted(schema), quoted(collation));
    }
    Ok(Column { name, data_type, native, nullable, generated })
}

/// The fields of a catalog row, taken one after the other.
struct Fields(std::vec::IntoIter<Option<String>>);

impl Fields {
    fn of(row: Vec<Option<String>>) -> Fields {
        Fields(row.into_iter())
    }

    fn optional(&mut self) -> Option<String> {
        self.0.next().flatten()
    }

    fn next(&mut self, name: &str) -> Result<String> {
        self.optional().ok_or_else(|| unexpected(name))
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<T> {
        self.next(name)?.parse().map_err(|_| unexpected(name))
    }
}

fn unexpected(name: &str) -> Error {
    Error::fatal(format!("the catalog's {name} is not what PostgreSQL documents"))
}
