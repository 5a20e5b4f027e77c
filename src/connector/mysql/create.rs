//! Making the tables of a task on a MySQL server.

use super::columns::named;
use super::type_map::{KeyBytes, base, key_bytes, key_prefixes, portable, target_type};
use super::wire::Client;
use super::{quote_name, quote_table};
use crate::connector::CreateKey;
use crate::data::{Column, Error, Family, Result, TableName, TableSchema};

/// Longest key of an InnoDB table, in bytes: of today's row formats, and of those before MySQL 5.7.
const KEY_BYTES: [u32; 2] = [3072, 767];

/// What a row's columns may declare together (65,535), less what the server adds.
const ROW_BYTES: u32 = 65_000;

/// How a table is declared: with every detail of the source's types, or with what all servers know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Exact,
    Portable,
}

pub(super) async fn create(client: &mut Client, name: &TableName, table: &TableSchema, key: CreateKey) -> Result<()> {
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
pub(super) fn column_types(table: &TableSchema, dialect: Dialect) -> Vec<String> {
    if table.family == Family::MySql {
        let native = |column: &Column| match dialect {
            Dialect::Exact => column.native.clone(),
            Dialect::Portable => portable(&column.native),
        };
        return table.columns.iter().map(native).collect();
    }
    let mut types: Vec<String> = table.columns.iter().map(|column| target_type(column.data_type)).collect();
    move_off_row(&mut types, &table.primary_key);
    // Other engines tell upper from lower case in keys, and blanks at their end: MySQL's default collation would call rows
    // duplicates. Blanks count in MariaDB's collation alone, which MySQL does not have.
    let collation = match dialect {
        Dialect::Exact => "utf8mb4_nopad_bin",
        Dialect::Portable => "utf8mb4_bin",
    };
    for index in &table.primary_key {
        if matches!(base(&types[*index]), "VARCHAR" | "LONGTEXT") {
            types[*index].push_str(" CHARACTER SET utf8mb4 COLLATE ");
            types[*index].push_str(collation);
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

pub(super) fn is_timestamp(native: &str) -> bool {
    base(native).eq_ignore_ascii_case("timestamp")
}

/// A column of a CREATE or ALTER TABLE.
pub(super) fn definition(name: &str, native: &str, nullable: bool) -> String {
    let null = match (nullable, is_timestamp(native)) {
        (true, _) => "NULL",
        // Without a default of its own a TIMESTAMP may get CURRENT_TIMESTAMP ON UPDATE from the server.
        (false, true) => "NOT NULL DEFAULT '1971-01-01 00:00:00'",
        (false, false) => "NOT NULL",
    };
    format!("{} {native} {null}", quote_name(name))
}

fn create_statement(name: &TableName, table: &TableSchema, types: &[String], key: CreateKey, key_limit: u32) -> String {
    let mut lines: Vec<String> = table
        .columns
        .iter()
        .zip(types)
        .enumerate()
        .map(|(index, (column, native))| {
            definition(&column.name, native, column.nullable && !table.primary_key.contains(&index))
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

pub(super) async fn add_primary_key(client: &mut Client, name: &TableName, table: &TableSchema) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataType, TableKind};

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
            "CREATE TABLE `s`.`t``x` (`id` VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL, \
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
}
