//! A PostgreSQL database as a target: making tables ready for a load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use async_trait::async_trait;

use super::apply::PostgresApplier;
use super::catalog::BASE_TYPE;
use super::type_map::{NativeType, target_type};
use super::wire::Client;
use super::writer::PostgresWriter;
use super::{Endpoint, check_version, sql};
use crate::connector::{Applier, ApplyException, Connection, CreateKey, PrepareMode, Target, Writer};
use crate::data::{Column, Error, ErrorKind, Family, Format, Result, TableName, TableSchema};

/// Where DMS keeps its control tables on PostgreSQL when the task names no schema.
const DEFAULT_CONTROL_SCHEMA: &str = "public";

const EXCEPTIONS_TABLE: &str = "awsdms_apply_exceptions";

/// Where a task keeps its place in the log, in the transactions of its changes.
const STATE_TABLE: &str = "awsdms_txn_state";

/// Lines that one INSERT takes into the control table.
const EXCEPTIONS_AT_ONCE: usize = 100;

/// One session builds one index at a time, so this much is safe where the default of 64 MB makes the sort of a key of
/// some million rows go through files. A server that is set higher stays so.
const INDEX_MEMORY: &str = "SELECT pg_catalog.set_config('maintenance_work_mem', '256MB', false) \
    FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem' AND setting::bigint < 262144";

pub struct PostgresTarget {
    endpoint: Endpoint,
}

impl PostgresTarget {
    pub fn new(connection: Connection) -> PostgresTarget {
        PostgresTarget { endpoint: Endpoint::new(connection) }
    }
}

#[async_trait]
impl Target for PostgresTarget {
    async fn check(&self) -> Result<()> {
        let mut client = self.endpoint.connect().await?;
        check_version(&client)?;
        let rows = client.query("SHOW transaction_read_only").await?;
        match rows.first().and_then(|row| row.first()) {
            Some(Some(read_only)) if read_only == "on" => {
                Err(Error::fatal("the target database is read-only").with_sqlstate("25006"))
            }
            _ => Ok(()),
        }
    }

    fn family(&self) -> Family {
        Family::PostgreSql
    }

    async fn places(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        Ok(names.iter().map(|name| TableName::new(kept(&name.schema), kept(&name.table))).collect())
    }

    async fn prepare(&self, table: &TableSchema, mode: PrepareMode, key: CreateKey) -> Result<()> {
        let doing = |error: Error| error.while_doing(format!("prepare {}", table.name));
        let mut client = self.endpoint.connect().await.map_err(doing)?;
        prepare(&mut client, table, mode, key).await.map_err(doing)
    }

    async fn is_empty(&self, table: &TableSchema) -> Result<bool> {
        let mut client = self.endpoint.connect().await?;
        Ok(client.query(&format!("SELECT 1 FROM {} LIMIT 1", sql::table(&table.name))).await?.is_empty())
    }

    async fn formats(&self, table: &TableSchema) -> Result<Vec<Format>> {
        if table.family != Family::PostgreSql {
            return Ok(vec![Format::Values]);
        }
        let mut client = self.endpoint.connect_to_catalog().await?;
        let columns = TargetColumn::read(&mut client, &table.name).await?;
        let same = |column: &Column| {
            let native = NativeType::parse(&column.native);
            let taken = columns.get(&column.name).is_some_and(|target| {
                let actual = NativeType::parse(&target.native);
                !target.generated && (&actual.name, actual.array) == (&native.name, native.array)
            });
            taken && native.is_portable_binary()
        };
        let mut formats = vec![Format::Text, Format::Values];
        if table.columns.iter().all(same) {
            formats.insert(0, Format::PostgresCopy);
        }
        Ok(formats)
    }

    async fn writer(&self, table: &TableSchema, format: Format, commit_rows: usize) -> Result<Box<dyn Writer>> {
        let mut catalog = self.endpoint.connect_to_catalog().await?;
        let columns = TargetColumn::read(&mut catalog, &table.name).await?;
        let generated = |column: &Column| columns.get(&column.name).is_some_and(|target| target.generated);
        let sent = table.columns.iter().map(|column| !generated(column)).collect();
        drop(catalog);
        let client = self.endpoint.connect().await?;
        Ok(Box::new(PostgresWriter::start(client, table, sent, format, commit_rows).await?))
    }

    async fn finish(&self, table: &TableSchema, key: CreateKey) -> Result<()> {
        if key == CreateKey::WithTable || table.primary_key.is_empty() {
            return Ok(());
        }
        let doing = |error: Error| error.while_doing(format!("create the primary key of {}", table.name));
        let mut client = self.endpoint.connect().await.map_err(doing)?;
        add_primary_key(&mut client, table).await.map_err(doing)
    }

    async fn applier(&self, owner: &str, format: Format, statements_max: usize) -> Result<Box<dyn Applier>> {
        Ok(Box::new(PostgresApplier::start(&self.endpoint, owner, format, statements_max).await?))
    }

    async fn columns(&self, table: &TableName) -> Result<Vec<String>> {
        let mut client = self.endpoint.connect().await?;
        Ok(TargetColumn::read(&mut client, table).await?.into_keys().collect())
    }

    async fn recovery_checkpoint(&self, control_schema: &str, task: &str) -> Result<Option<String>> {
        let doing = |error: Error| error.while_doing(format!("read {STATE_TABLE}"));
        let mut client = self.endpoint.connect().await.map_err(doing)?;
        let schema = if control_schema.is_empty() { DEFAULT_CONTROL_SCHEMA } else { control_schema };
        let name = TableName::new(schema, STATE_TABLE);
        if !exists(&mut client, &name).await.map_err(doing)? {
            return Ok(None);
        }
        let latest = format!(
            "SELECT \"CHECKPOINT\" FROM {} WHERE \"TASK_NAME\" = {} ORDER BY \"STATE_TIME\" DESC LIMIT 1",
            sql::table(&name),
            sql::literal(task)
        );
        Ok(client.query(&latest).await.map_err(doing)?.pop().and_then(|mut row| row.pop()).flatten())
    }

    async fn record_exceptions(&self, control_schema: &str, exceptions: &[ApplyException]) -> Result<()> {
        let doing = |error: Error| error.while_doing(format!("write {EXCEPTIONS_TABLE}"));
        let mut client = self.endpoint.connect().await.map_err(doing)?;
        record(&mut client, control_schema, exceptions).await.map_err(doing)
    }
}

/// What the server keeps of a name: it cuts what is longer than 63 bytes, without an error.
fn kept(name: &str) -> &str {
    const NAME_BYTES: usize = 63;
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

async fn prepare(client: &mut Client, table: &TableSchema, mode: PrepareMode, key: CreateKey) -> Result<()> {
    let name = sql::table(&table.name);
    let exists = exists(client, &table.name).await?;
    if exists && mode != PrepareMode::DoNothing {
        client.query(&format!("SELECT pg_catalog.pg_advisory_lock({})", sql::load_lock(&table.name))).await?;
    }
    match (mode, exists) {
        (PrepareMode::DoNothing, true) => return Ok(()),
        (PrepareMode::TruncateBeforeLoad, true) => {
            return client.query(&format!("TRUNCATE TABLE {name}")).await.map(drop);
        }
        // Without CASCADE: what depends on the table is the user's.
        (PrepareMode::DropAndCreate, true) => client.query(&format!("DROP TABLE {name}")).await.map(drop)?,
        (_, false) => create_schema(client, &table.name.schema).await?,
    }
    let types = column_types(client, table).await?;
    client.query(&create_table(table, &types, key)).await.map(drop)
}

pub(super) async fn exists(client: &mut Client, name: &TableName) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        sql::literal(&name.schema),
        sql::literal(&name.table)
    );
    Ok(!client.query(&sql).await?.is_empty())
}

/// Creates a schema unless it is there. Looks first, because a user who may not create schemas may well use this one.
pub(super) async fn create_schema(client: &mut Client, schema: &str) -> Result<()> {
    let look = format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {}", sql::literal(schema));
    if !client.query(&look).await?.is_empty() {
        return Ok(());
    }
    match client.query(&format!("CREATE SCHEMA IF NOT EXISTS {}", sql::identifier(schema))).await {
        // Another table of the load created it between the look and the leap.
        Err(error) if matches!(error.sqlstate.as_deref(), Some("23505" | "42P06")) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) fn create_table(table: &TableSchema, types: &[String], key: CreateKey) -> String {
    let mut statement = format!("CREATE TABLE {} (", sql::table(&table.name));
    for (index, (column, column_type)) in table.columns.iter().zip(types).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let null = if column.nullable { "" } else { " NOT NULL" };
        // Writing into a String cannot fail.
        let _ = write!(statement, "{comma}{} {column_type}{null}", sql::identifier(&column.name));
    }
    if key == CreateKey::WithTable && !table.primary_key.is_empty() {
        let _ = write!(statement, ", PRIMARY KEY ({})", key_columns(table));
    }
    statement.push(')');
    statement
}

fn key_columns(table: &TableSchema) -> String {
    sql::identifiers(table.primary_key.iter().map(|column| table.columns[*column].name.as_str()))
}

/// The types of a new table's columns: the source's own where it is a PostgreSQL too. A type or collation that this
/// database does not have is left out: DMS makes such a column `character varying`.
pub(super) async fn column_types(client: &mut Client, table: &TableSchema) -> Result<Vec<String>> {
    let mut types = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        types.push(column_type(client, table.family, column).await?);
    }
    Ok(types)
}

pub(super) async fn column_type(client: &mut Client, family: Family, column: &Column) -> Result<String> {
    if family != Family::PostgreSql {
        return Ok(target_type(column.data_type));
    }
    // Few columns have either, so one question each is no burden.
    let native = NativeType::parse(&column.native);
    let plain = &column.native[..column.native.len() - native.collation.len()];
    // Before version 9.6 the function takes a `cstring`, which a literal is as well.
    Ok(if native.is_user_defined() && !holds(client, "pg_catalog.to_regtype", plain).await? {
        "character varying".to_owned()
    } else if !native.collation.is_empty() && !has_collation(client, &native.collation).await? {
        plain.to_owned()
    } else {
        column.native.clone()
    })
}

async fn holds(client: &mut Client, lookup: &str, name: &str) -> Result<bool> {
    let rows = client.query(&format!("SELECT 1 WHERE {lookup}({}) IS NOT NULL", sql::literal(name))).await;
    match rows {
        Ok(rows) => Ok(!rows.is_empty()),
        // A schema that does not exist, or arguments that only the missing type takes, are errors in some versions.
        Err(error) if matches!(error.kind, ErrorKind::Table | ErrorKind::Data) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn has_collation(client: &mut Client, clause: &str) -> Result<bool> {
    match client.query(&format!("SELECT ''::pg_catalog.text{clause}")).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.sqlstate.as_deref(), Some("42704" | "3F000")) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn add_primary_key(client: &mut Client, table: &TableSchema) -> Result<()> {
    let has_one = format!(
        "SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE i.indisprimary AND n.nspname = {} AND c.relname = {}",
        sql::literal(&table.name.schema),
        sql::literal(&table.name.table)
    );
    if !client.query(&has_one).await?.is_empty() {
        return Ok(());
    }
    client.query(INDEX_MEMORY).await?;
    let statement = format!("ALTER TABLE {} ADD PRIMARY KEY ({})", sql::table(&table.name), key_columns(table));
    client.query_untimed(&statement).await.map(drop).map_err(|error| match error.kind {
        // Duplicate or null keys are a fault of the table as a whole here, not of one row.
        ErrorKind::Data => error.into_kind(ErrorKind::Table),
        _ => error,
    })
}

/// A column that a target's table has.
pub(super) struct TargetColumn {
    pub(super) native: String,
    /// The type that a value is turned into before the column takes it. It has no length: the column refuses what is too
    /// long for it, where a cast would cut it.
    pub(super) assigned: String,
    /// The type that a value is turned into to be compared with what the column holds, which may have been rounded.
    pub(super) compared: String,
    pub(super) generated: bool,
    /// Only an INSERT that insists may say its values, and no UPDATE (`GENERATED ALWAYS AS IDENTITY`).
    pub(super) identity: bool,
}

/// Types whose casts cut what is too long.
const CUT: [&str; 4] = ["bit", "bit varying", "character", "character varying"];

impl TargetColumn {
    pub(super) async fn read(catalog: &mut Client, table: &TableName) -> Result<HashMap<String, TargetColumn>> {
        let generated = if catalog.version() >= 120_000 { "a.attgenerated <> ''" } else { "false" };
        let identity = if catalog.version() >= 100_000 { "a.attidentity = 'a'" } else { "false" };
        // A domain is as long as the type that it is of.
        let sql = format!(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), format_type(b.oid, b.typmod), \
             format_type(b.oid, -1), {generated}, {identity} FROM pg_attribute a \
             JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace {BASE_TYPE} \
             WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped",
            sql::literal(&table.schema),
            sql::literal(&table.table)
        );
        let column = |row: Vec<Option<String>>| {
            let mut values = row.into_iter().map(Option::unwrap_or_default);
            let (name, native, base, assigned) = (values.next()?, values.next()?, values.next()?, values.next()?);
            let compared = match CUT.contains(&NativeType::parse(&base).name.as_str()) {
                true => assigned.clone(),
                false => base,
            };
            let (generated, identity) = (values.next()? == "t", values.next()? == "t");
            Some((name, TargetColumn { native, assigned, compared, generated, identity }))
        };
        Ok(catalog.query(&sql).await?.into_iter().filter_map(column).collect())
    }
}

const ON_CONFLICT_SINCE: u32 = 90_500;
const KEY_PARTS_SINCE: u32 = 110_000;

/// The columns of each unique index that `ON CONFLICT` may name.
pub(super) async fn unique_indexes(client: &mut Client, table: &TableName) -> Result<Vec<BTreeSet<String>>> {
    if client.version() < ON_CONFLICT_SINCE {
        return Ok(Vec::new());
    }
    let parts = if client.version() >= KEY_PARTS_SINCE { "i.indnkeyatts" } else { "i.indnatts" };
    let sql = format!(
        "SELECT i.indexrelid, a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::pg_catalog.int2[])[0:{parts} - 1]) \
         WHERE n.nspname = {} AND c.relname = {} AND i.indisunique AND i.indisvalid AND i.indimmediate \
         AND i.indpred IS NULL AND i.indexprs IS NULL",
        sql::literal(&table.schema),
        sql::literal(&table.table)
    );
    let mut indexes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in client.query(&sql).await? {
        if let [Some(index), Some(column)] = &row[..] {
            indexes.entry(index.clone()).or_default().insert(column.clone());
        }
    }
    Ok(indexes.into_values().collect())
}

/// How many indexes of the table forbid rows: unique ones of every kind, and those of exclusion constraints.
pub(super) async fn forbidding_indexes(client: &mut Client, table: &TableName) -> Result<usize> {
    let sql = format!(
        "SELECT count(*) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND (i.indisunique OR i.indisexclusion)",
        sql::literal(&table.schema),
        sql::literal(&table.table)
    );
    let found = client.query(&sql).await?;
    Ok(found.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).unwrap_or(usize::MAX))
}

async fn record(client: &mut Client, control_schema: &str, exceptions: &[ApplyException]) -> Result<()> {
    let schema = if control_schema.is_empty() { DEFAULT_CONTROL_SCHEMA } else { control_schema };
    let name = TableName::new(schema, EXCEPTIONS_TABLE);
    let table = sql::table(&name);
    if !exists(client, &name).await? {
        create_schema(client, schema).await?;
        let statement = format!(
            "CREATE TABLE IF NOT EXISTS {table} (\"TASK_NAME\" character varying(128) NOT NULL, \
             \"TABLE_OWNER\" character varying(128) NOT NULL, \"TABLE_NAME\" character varying(128) NOT NULL, \
             \"ERROR_TIME\" timestamp without time zone NOT NULL, \"STATEMENT\" text NOT NULL, \"ERROR\" text NOT NULL)"
        );
        match client.query(&statement).await {
            // Another writer created it at the same moment.
            Err(error) if matches!(error.sqlstate.as_deref(), Some("23505" | "42P07")) => {}
            other => other.map(drop)?,
        }
    }
    for some in exceptions.chunks(EXCEPTIONS_AT_ONCE) {
        let mut statement = format!("INSERT INTO {table} VALUES ");
        for (index, exception) in some.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let text = |text: &str| sql::literal(&text.replace('\0', " "));
            let name = |name: &str| text(&name.chars().take(128).collect::<String>());
            let _ = write!(
                statement,
                "{comma}({}, {}, {}, pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()), {}, {})",
                name(&exception.task),
                name(&exception.table.schema),
                name(&exception.table.table),
                text(&exception.statement),
                text(&exception.error)
            );
        }
        client.query(&statement).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_names_as_the_server_does() {
        assert_eq!(kept("short"), "short");
        assert_eq!(kept(&"x".repeat(64)), "x".repeat(63));
        assert_eq!(kept(&"ы".repeat(32)), "ы".repeat(31));
    }
}
