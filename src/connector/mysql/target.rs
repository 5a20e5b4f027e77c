//! Tables of a MySQL server as a task fills them.

use async_trait::async_trait;

use super::load_data::Rule;
use super::loader::{Assign, LoadColumn, LoadPlan, LoadWriter, explain, fraction_max};
use super::source::is_generated;
use super::type_map::{KeyBytes, base, is_geometry, key_bytes, key_prefixes, portable, target_type};
use super::wire::{Client, from_server};
use super::{Settings, Side, connect, quote_name, quote_table, quote_text};
use crate::connector::{ApplyException, Connection, CreateKey, PrepareMode, Target, Writer};
use crate::data::{Column, DataType, Error, Family, Format, Result, TableName, TableSchema};

/// Longest key of an InnoDB table, in bytes: of today's row formats, and of those before MySQL 5.7.
const KEY_BYTES: [u32; 2] = [3072, 767];

/// What a row's columns may declare together (65,535), less what the server adds.
const ROW_BYTES: u32 = 65_000;

/// Where `awsdms_apply_exceptions` is when the task names no `ControlSchema`.
const CONTROL_SCHEMA: &str = "awsdms_control";

/// Most exceptions in one INSERT.
const EXCEPTIONS_AT_ONCE: usize = 50;

pub(super) struct MySqlTarget {
    connection: Connection,
    settings: Settings,
}

impl MySqlTarget {
    pub(super) fn new(connection: Connection) -> MySqlTarget {
        let settings = Settings::of(&connection);
        MySqlTarget { connection, settings }
    }

    async fn connect(&self) -> Result<Client> {
        connect(&self.connection, &self.settings, Side::Target).await
    }

    /// Where a table goes: with `TargetDbType` `specific-database` into the endpoint's database.
    fn place(&self, name: &TableName) -> TableName {
        if self.settings.one_database { TableName::new(&self.connection.database, &name.table) } else { name.clone() }
    }

    async fn make_ready(
        &self,
        client: &mut Client,
        table: &TableSchema,
        mode: PrepareMode,
        key: CreateKey,
    ) -> Result<()> {
        require_local_infile(client).await?;
        let name = self.place(&table.name);
        client.run(&format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(&name.schema))).await?;
        let quoted = quote_table(&name);
        let exists = match mode {
            PrepareMode::DropAndCreate => {
                client.run(&format!("DROP TABLE IF EXISTS {quoted}")).await?;
                false
            }
            _ => exists(client, &name).await?,
        };
        match mode {
            PrepareMode::TruncateBeforeLoad if exists => {
                client.run(&format!("TRUNCATE TABLE {quoted}")).await.map(|_| ())
            }
            _ if exists => Ok(()),
            _ => create(client, &name, table, key).await,
        }
    }
}

#[async_trait]
impl Target for MySqlTarget {
    async fn check(&self) -> Result<()> {
        super::check(&self.connection, Side::Target).await
    }

    fn family(&self) -> Family {
        Family::MySql
    }

    async fn places(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        let mut client = self.connect().await?;
        let folding = client.rows("SELECT @@GLOBAL.lower_case_table_names").await?;
        client.close().await;
        let folds = folding.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() != Some("0"));
        let place = |name| match self.place(name) {
            TableName { schema, table } if folds => TableName::new(schema.to_lowercase(), table.to_lowercase()),
            place => place,
        };
        Ok(names.iter().map(place).collect())
    }

    async fn prepare(&self, table: &TableSchema, mode: PrepareMode, key: CreateKey) -> Result<()> {
        let mut client = self.connect().await?;
        let made = self.make_ready(&mut client, table, mode, key).await;
        made.map_err(|error| error.while_doing(format!("prepare {} on target", table.name)))?;
        client.close().await;
        Ok(())
    }

    async fn is_empty(&self, table: &TableSchema) -> Result<bool> {
        let mut client = self.connect().await?;
        let rows = client.rows(&format!("SELECT 1 FROM {} LIMIT 1", quote_table(&self.place(&table.name)))).await?;
        client.close().await;
        Ok(rows.is_empty())
    }

    async fn formats(&self, table: &TableSchema) -> Result<Vec<Format>> {
        if table.family != Family::MySql {
            return Ok(vec![Format::Values]);
        }
        let mut client = self.connect().await?;
        let found = find_columns(&mut client, &self.place(&table.name)).await?;
        client.close().await;
        // Bits and geometry are bytes in the text form, which only a column of the same kind takes back.
        let alike = table.columns.iter().all(|column| match found_column(&found, column) {
            Some(target) => opaque_kind(base(&column.native)) == opaque_kind(&target.base),
            None => true,
        });
        Ok(if alike { vec![Format::Text, Format::Values] } else { vec![Format::Values] })
    }

    async fn writer(&self, table: &TableSchema, format: Format, _: usize) -> Result<Box<dyn Writer>> {
        let name = self.place(&table.name);
        let mut client = self.connect().await?;
        require_local_infile(&mut client).await?;
        let found = find_columns(&mut client, &name).await?;
        let transactional = is_transactional(&mut client, &name).await?;
        client.close().await;
        if found.is_empty() {
            return Err(from_server(1146, "42S02", &format!("Table '{name}' doesn't exist")));
        }
        let columns = table.columns.iter().map(|column| load_column(column, found_column(&found, column), format));
        let plan = LoadPlan::new(name, columns.collect(), transactional, &self.settings);
        Ok(Box::new(LoadWriter::open(&self.connection, &self.settings, plan).await?))
    }

    async fn finish(&self, table: &TableSchema, key: CreateKey) -> Result<()> {
        if key == CreateKey::WithTable || table.primary_key.is_empty() {
            return Ok(());
        }
        let name = self.place(&table.name);
        let mut client = self.connect().await?;
        let added = add_primary_key(&mut client, &name, table).await;
        added.map_err(|error| error.while_doing(format!("create the primary key of {name} on target")))?;
        client.close().await;
        Ok(())
    }

    async fn record_exceptions(&self, control_schema: &str, exceptions: &[ApplyException]) -> Result<()> {
        let schema = if control_schema.is_empty() { CONTROL_SCHEMA } else { control_schema };
        let name = TableName::new(schema, "awsdms_apply_exceptions");
        let mut client = self.connect().await?;
        let recorded = record(&mut client, &name, exceptions).await;
        recorded.map_err(|error| error.while_doing(format!("write to {name} on target")))?;
        client.close().await;
        Ok(())
    }
}

/// Without local files nothing can be loaded; better said before a table is dropped.
async fn require_local_infile(client: &mut Client) -> Result<()> {
    let rows = client.rows("SELECT @@GLOBAL.local_infile").await?;
    match rows.first().and_then(|row| row.first()) {
        Some(Some(value)) if value == "0" => Err(explain(from_server(3948, "42000", "Loading local data is disabled"))),
        _ => Ok(()),
    }
}

async fn exists(client: &mut Client, name: &TableName) -> Result<bool> {
    let rows = client.rows(&format!("SELECT 1 FROM information_schema.TABLES WHERE {}", named(name))).await?;
    Ok(!rows.is_empty())
}

fn named(name: &TableName) -> String {
    format!("TABLE_SCHEMA={} AND TABLE_NAME={}", quote_text(&name.schema), quote_text(&name.table))
}

async fn is_transactional(client: &mut Client, name: &TableName) -> Result<bool> {
    let sql = format!(
        "SELECT e.TRANSACTIONS FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON e.ENGINE=t.ENGINE \
         WHERE {}",
        named(name)
    );
    let rows = client.rows(&sql).await?;
    Ok(rows.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() == Some("YES")))
}

/// A column that the target's table has.
struct FoundColumn {
    name: String,
    base: String,
    full: String,
    charset: Option<String>,
    generated: bool,
}

async fn find_columns(client: &mut Client, name: &TableName) -> Result<Vec<FoundColumn>> {
    let rows = client
        .rows(&format!(
            "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, EXTRA FROM information_schema.COLUMNS \
             WHERE {} ORDER BY ORDINAL_POSITION",
            named(name)
        ))
        .await?;
    let columns = rows.into_iter().filter_map(|row| {
        let [name, base, full, charset, extra] = <[Option<String>; 5]>::try_from(row).ok()?;
        let generated = is_generated(&extra?.to_ascii_uppercase());
        Some(FoundColumn { name: name?, base: base?.to_ascii_lowercase(), full: full?, charset, generated })
    });
    Ok(columns.collect())
}

fn found_column<'a>(found: &'a [FoundColumn], column: &Column) -> Option<&'a FoundColumn> {
    let name = column.name.to_lowercase();
    found.iter().find(|candidate| candidate.name.to_lowercase() == name)
}

/// Kinds of columns whose text form means nothing to another kind.
fn opaque_kind(base: &str) -> u8 {
    match base.to_ascii_lowercase().as_str() {
        "bit" => 1,
        "vector" => 2,
        base if is_geometry(base) => 3,
        _ => 0,
    }
}

fn load_column(column: &Column, target: Option<&FoundColumn>, format: Format) -> LoadColumn {
    // A column that the table does not have is named all the same: the server's error says so.
    let assign = target.map_or(Assign::Direct, |target| assign(column, target, format));
    let rule = Rule {
        fraction_max: fraction_max(column.data_type),
        narrow: target.is_some_and(|target| target.base == "float"),
        empty_is_error_value: target.is_some_and(|target| target.base == "enum" && !has_empty_member(&target.full)),
    };
    LoadColumn { name: column.name.clone(), assign, rule }
}

fn assign(column: &Column, target: &FoundColumn, format: Format) -> Assign {
    if target.generated {
        return Assign::Skip;
    }
    let takes_bytes = format == Format::Text || matches!(column.data_type, DataType::Bytes { .. } | DataType::Blob);
    match target.base.as_str() {
        "bit" if !takes_bytes => Assign::Number,
        // Their text is refused when it comes without a character set.
        "json" | "uuid" | "inet4" | "inet6" if target.charset.is_none() => Assign::Convert,
        _ => match target.charset.as_deref() {
            None | Some("utf8mb4" | "utf8mb3" | "utf8" | "binary") => Assign::Direct,
            Some(_) => Assign::Convert,
        },
    }
}

fn has_empty_member(enumeration: &str) -> bool {
    let members = enumeration.find('(').map_or("", |at| &enumeration[at + 1..]);
    members.starts_with("'',") || members.starts_with("'')") || members.contains(",'',") || members.ends_with(",'')")
}

/// How a table is declared: with every detail of the source's types, or with what all servers know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Exact,
    Portable,
}

async fn create(client: &mut Client, name: &TableName, table: &TableSchema, key: CreateKey) -> Result<()> {
    // A table that the source could create must be accepted here; rows that then do not fit a page are rows' errors.
    // Some servers reserve the setting for administrators.
    let _ = client.run("SET SESSION innodb_strict_mode=0").await;
    let mut last = None;
    for dialect in [Dialect::Exact, Dialect::Portable] {
        for key_limit in KEY_BYTES {
            let types = column_types(table, dialect);
            let sql = create_statement(name, table, &types, key, key_limit);
            match client.run(&sql).await {
                Ok(_) => return drop_timestamp_defaults(client, name, table, &types).await,
                Err(error) => {
                    let native = error.native;
                    last = Some(error);
                    match native {
                        // Specified key was too long.
                        Some(1071) => {}
                        // Unknown character set, collation, type.
                        Some(1115 | 1253 | 1273 | 1064 | 4161) => break,
                        _ => dialect_ends(&mut last)?,
                    }
                }
            }
        }
    }
    dialect_ends(&mut last)
}

fn dialect_ends(last: &mut Option<Error>) -> Result<()> {
    last.take().map_or(Ok(()), Err)
}

/// The MySQL type of each column.
fn column_types(table: &TableSchema, dialect: Dialect) -> Vec<String> {
    if table.family == Family::MySql {
        let native = |column: &Column| match dialect {
            Dialect::Exact => column.native.clone(),
            Dialect::Portable => portable(&column.native),
        };
        return table.columns.iter().map(native).collect();
    }
    let mut types: Vec<String> = table.columns.iter().map(|column| target_type(column.data_type)).collect();
    move_off_row(&mut types, &table.primary_key);
    for index in &table.primary_key {
        // Other engines tell upper from lower case in keys; MySQL's default collation would call rows duplicates.
        if matches!(base(&types[*index]), "VARCHAR" | "LONGTEXT") {
            types[*index].push_str(" CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
        }
    }
    types
}

/// Turns the longest VARCHARs into LONGTEXT, and VARBINARYs into LONGBLOB, until a row's declared length is allowed.
fn move_off_row(types: &mut [String], key: &[usize]) {
    const OFF_ROW: u32 = 12;
    let bytes = |native: &str| match key_bytes(native) {
        KeyBytes::Text { length: 0, .. } => OFF_ROW,
        KeyBytes::Text { length, width } => length * width + 2,
        KeyBytes::Fixed(bytes) => bytes,
    };
    let mut sizes: Vec<u32> = types.iter().map(|native| bytes(native)).collect();
    while sizes.iter().map(|size| u64::from(*size)).sum::<u64>() > ROW_BYTES.into() {
        let longest = (0..types.len()).filter(|index| !key.contains(index)).max_by_key(|index| sizes[*index]);
        let Some(longest) = longest.filter(|index| sizes[*index] > OFF_ROW && types[*index].starts_with("VAR")) else {
            return;
        };
        types[longest] = if types[longest].starts_with("VARCHAR") { "LONGTEXT" } else { "LONGBLOB" }.to_owned();
        sizes[longest] = OFF_ROW;
    }
}

fn is_timestamp(native: &str) -> bool {
    base(native).eq_ignore_ascii_case("timestamp")
}

fn create_statement(name: &TableName, table: &TableSchema, types: &[String], key: CreateKey, key_limit: u32) -> String {
    let mut lines: Vec<String> = table
        .columns
        .iter()
        .zip(types)
        .enumerate()
        .map(|(index, (column, native))| {
            let nullable = column.nullable && !table.primary_key.contains(&index);
            let null = match (nullable, is_timestamp(native)) {
                (true, _) => "NULL",
                // Without a default of its own a TIMESTAMP may get CURRENT_TIMESTAMP ON UPDATE from the server.
                (false, true) => "NOT NULL DEFAULT '1971-01-01 00:00:00'",
                (false, false) => "NOT NULL",
            };
            format!("{} {native} {null}", quote_name(&column.name))
        })
        .collect();
    if key == CreateKey::WithTable && !table.primary_key.is_empty() {
        lines.push(primary_key(table, types, key_limit));
    }
    format!("CREATE TABLE {} ({}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", quote_table(name), lines.join(", "))
}

fn primary_key(table: &TableSchema, types: &[String], key_limit: u32) -> String {
    let needs: Vec<KeyBytes> = table.primary_key.iter().map(|index| key_bytes(&types[*index])).collect();
    let prefixes = key_prefixes(&needs, key_limit);
    let parts: Vec<String> = table
        .primary_key
        .iter()
        .zip(prefixes)
        .map(|(index, prefix)| {
            let prefix = prefix.map_or(String::new(), |length| format!("({length})"));
            format!("{}{prefix}", quote_name(&table.columns[*index].name))
        })
        .collect();
    format!("PRIMARY KEY ({})", parts.join(", "))
}

/// Takes away the defaults that only kept the server from adding its own.
async fn drop_timestamp_defaults(
    client: &mut Client,
    name: &TableName,
    table: &TableSchema,
    types: &[String],
) -> Result<()> {
    let columns = table.columns.iter().zip(types).enumerate();
    let changes: Vec<String> = columns
        .filter(|(index, (column, native))| {
            is_timestamp(native) && (!column.nullable || table.primary_key.contains(index))
        })
        .map(|(_, (column, _))| format!("ALTER COLUMN {} DROP DEFAULT", quote_name(&column.name)))
        .collect();
    if !changes.is_empty() {
        client.run(&format!("ALTER TABLE {} {}", quote_table(name), changes.join(", "))).await?;
    }
    Ok(())
}

async fn add_primary_key(client: &mut Client, name: &TableName, table: &TableSchema) -> Result<()> {
    let found = client
        .rows(&format!(
            "SELECT 1 FROM information_schema.STATISTICS WHERE {} AND INDEX_NAME='PRIMARY' LIMIT 1",
            named(name)
        ))
        .await?;
    if !found.is_empty() {
        return Ok(());
    }
    let types = column_types(table, Dialect::Exact);
    let mut outcome = Ok(());
    for key_limit in KEY_BYTES {
        let sql = format!("ALTER TABLE {} ADD {}", quote_table(name), primary_key(table, &types, key_limit));
        match client.run(&sql).await {
            Ok(_) => return Ok(()),
            Err(error) if error.native == Some(1071) => outcome = Err(error),
            Err(error) => return Err(error),
        }
    }
    outcome
}

async fn record(client: &mut Client, name: &TableName, exceptions: &[ApplyException]) -> Result<()> {
    let quoted = quote_table(name);
    client.run(&format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(&name.schema))).await?;
    client
        .run(&format!(
            "CREATE TABLE IF NOT EXISTS {quoted} (TASK_NAME VARCHAR(128) NOT NULL, TABLE_OWNER VARCHAR(128) NOT NULL, \
             TABLE_NAME VARCHAR(128) NOT NULL, ERROR_TIME TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
             STATEMENT LONGTEXT NOT NULL, ERROR LONGTEXT NOT NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        ))
        .await?;
    for some in exceptions.chunks(EXCEPTIONS_AT_ONCE) {
        let rows: Vec<String> = some
            .iter()
            .map(|exception| {
                let texts = [&exception.task, &exception.table.schema, &exception.table.table];
                let texts: Vec<String> = texts.into_iter().map(|text| quote_text(text)).collect();
                let (statement, error) = (quote_text(&exception.statement), quote_text(&exception.error));
                format!("({},UTC_TIMESTAMP(),{statement},{error})", texts.join(","))
            })
            .collect();
        client.run(&format!("INSERT INTO {quoted} VALUES {}", rows.join(","))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TableKind;

    fn table(family: Family, columns: &[(&str, DataType, &str, bool)], key: &[usize]) -> TableSchema {
        TableSchema {
            name: TableName::new("s", "t`x"),
            kind: TableKind::Table,
            family,
            columns: columns
                .iter()
                .map(|(name, data_type, native, nullable)| Column {
                    name: (*name).to_owned(),
                    data_type: *data_type,
                    native: (*native).to_owned(),
                    nullable: *nullable,
                    generated: false,
                })
                .collect(),
            primary_key: key.to_vec(),
            unique_key: Vec::new(),
            rows_estimate: 0,
        }
    }

    #[test]
    fn creates_columns_nullability_and_key_only() {
        let text = DataType::WString { length: 40 };
        let foreign = table(
            Family::PostgreSql,
            &[("id", text, "varchar(40)", false), ("at", DataType::DateTime { scale: 6 }, "timestamp", true)],
            &[0],
        );
        let types = column_types(&foreign, Dialect::Exact);
        assert_eq!(
            create_statement(&foreign.name, &foreign, &types, CreateKey::WithTable, 3072),
            "CREATE TABLE `s`.`t``x` (`id` VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
             `at` DATETIME(6) NULL, PRIMARY KEY (`id`)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        );
        let own = table(Family::MySql, &[("at", DataType::DateTime { scale: 0 }, "timestamp", false)], &[0]);
        let types = column_types(&own, Dialect::Exact);
        assert_eq!(
            create_statement(&own.name, &own, &types, CreateKey::AfterLoad, 3072),
            "CREATE TABLE `s`.`t``x` (`at` timestamp NOT NULL DEFAULT '1971-01-01 00:00:00') ENGINE=InnoDB \
             DEFAULT CHARSET=utf8mb4"
        );
    }

    #[test]
    fn moves_the_longest_columns_off_a_row_that_is_too_long() {
        let mut types = vec!["VARCHAR(16000)".to_owned(), "VARCHAR(300)".to_owned(), "VARBINARY(20000)".to_owned()];
        move_off_row(&mut types, &[]);
        assert_eq!(types, ["LONGTEXT", "VARCHAR(300)", "VARBINARY(20000)"]);
    }

    #[test]
    fn knows_an_enum_with_an_empty_member() {
        for (native, expected) in
            [("enum('','a')", true), ("enum('a','')", true), ("enum('')", true), ("enum('a','b''')", false)]
        {
            assert_eq!(has_empty_member(native), expected, "{native}");
        }
    }
}
