//! MySQL, MariaDB and Aurora MySQL as source and target. The type tables are in `type_map`.
//!
//! **As a source** the account needs SELECT on the tables. With RELOAD (`FLUSH TABLES WITH READ LOCK`) several tables
//! are read at once from one moment; on MariaDB with a binary log the same is reached without RELOAD; otherwise tables
//! are read one after the other. Tables of engines without transactions are read as they are when their turn comes.
//! Not read, as with DMS: system-versioned tables, sequences, invisible columns.
//!
//! **As a target** the server needs `local_infile=ON`, and the account CREATE, DROP, ALTER, INDEX, INSERT, UPDATE,
//! DELETE and SELECT on the target databases and all privileges on `awsdms_control`. Rows are loaded with foreign-key
//! checks off, so that tables may arrive in any order. A table made here is an InnoDB table with its columns and primary
//! key, nothing else.
//!
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html>,
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.MySQL.html>

mod apply;
mod changes;
mod columns;
mod create;
mod decode;
#[cfg(test)]
mod end_to_end;
mod intake;
mod load_data;
mod loader;
mod snapshot;
mod source;
mod target;
mod type_map;
mod wire;

use std::time::Duration;

use serde_json::Value as Json;

use super::{Connection, Engine, Source, Target, net};
use crate::data::{Error, Family, Result, TableName};
use wire::{Client, LocalFiles};

pub const MYSQL: Engine = engine("mysql", "MySQL");
pub const MARIADB: Engine = engine("mariadb", "MariaDB");
pub const AURORA: Engine = engine("aurora", "Amazon Aurora MySQL");

const fn engine(name: &'static str, display_name: &'static str) -> Engine {
    Engine {
        name,
        display_name,
        family: Family::MySql,
        source: true,
        target: true,
        settings: "MySQLSettings",
        default_port: 3306,
        open_source,
        open_target,
    }
}

fn open_source(connection: Connection) -> Box<dyn Source> {
    Box::new(source::MySqlSource::new(connection))
}

fn open_target(connection: Connection) -> Box<dyn Target> {
    Box::new(target::MySqlTarget::new(connection))
}

/// What we read of the endpoint's `MySQLSettings` and extra connection attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    /// `AfterConnectScript` and the attribute `Initstmt`: run on every connection; their failure changes nothing.
    after_connect: Vec<String>,
    /// `ServerTimezone` of a source: in which zone TIMESTAMP values are read; UTC otherwise.
    server_timezone: Option<String>,
    /// `TargetDbType` `specific-database`: every schema goes into the endpoint's database.
    one_database: bool,
    /// `ParallelLoadThreads`: connections that load one table, 1 to 5.
    load_threads: usize,
    /// `MaxFileSize`, in bytes here: most data of one LOAD DATA statement.
    file_bytes_max: usize,
    /// `ConnectionTimeout`: longest login.
    connect_timeout: Duration,
    /// `ExecuteTimeout` of a source: longest query of the catalog.
    execute_timeout: Duration,
}

impl Settings {
    fn of(connection: &Connection) -> Settings {
        let text = |name: &str| setting(connection, name).and_then(|value| value.as_str().map(str::to_owned));
        let number = |name: &str, least: u64, most: u64| {
            let value = setting(connection, name)?;
            let value = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
            Some(value.clamp(least, most))
        };
        let scripts = [text("Initstmt"), text("AfterConnectScript")];
        let database_type = text("TargetDbType").unwrap_or_default();
        Settings {
            after_connect: scripts.iter().flatten().flat_map(|script| statements(script)).collect(),
            server_timezone: text("ServerTimezone").filter(|zone| !zone.is_empty()),
            one_database: database_type.to_ascii_lowercase().starts_with("specific") && !connection.database.is_empty(),
            load_threads: number("ParallelLoadThreads", 1, 5).unwrap_or(1) as usize,
            file_bytes_max: number("MaxFileSize", 1, 1 << 20).unwrap_or(32 << 10) as usize * 1024,
            connect_timeout: number("ConnectionTimeout", 1, 600).map_or(net::CONNECT_TIMEOUT, Duration::from_secs),
            execute_timeout: Duration::from_secs(number("ExecuteTimeout", 1, 86_400).unwrap_or(60)),
        }
    }
}

/// A member of the settings. Extra connection attributes are spelled in any case.
fn setting<'a>(connection: &'a Connection, name: &str) -> Option<&'a Json> {
    connection.settings.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The statements of a script: separated by semicolons outside of quotes.
fn statements(script: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut current = String::new();
    let mut quote = None;
    let mut escaped = false;
    for c in script.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('\'' | '"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"' | '`') => quote = Some(c),
            None if c == ';' => {
                statements.push(std::mem::take(&mut current));
                continue;
            }
            None => {}
        }
        current.push(c);
    }
    statements.push(current);
    statements.iter().map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

/// Which side of a task a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    /// To load tables.
    Target,
    /// To change rows of a target.
    Changes,
}

/// On both sides: UTF-8, no implicit quoting rules, never cut off by the server while the other side is slow. The
/// conditional comments hold what only MariaDB or only MySQL knows.
const SESSION: &str = "SET SESSION net_read_timeout=31536000, net_write_timeout=31536000, wait_timeout=2147483, \
    /*M!100101 max_statement_time=0, */ /*!50708 max_execution_time=0, */ lock_wait_timeout=300";

/// Values arrive as they are stored: zero dates too, and CHAR without padding.
const SOURCE_MODE: &str = "SET SESSION sql_mode='', sql_select_limit=DEFAULT";

/// Any value a source can hold goes in (0 into AUTO_INCREMENT columns, zero and invalid dates), none is bent silently.
/// Notes are about nothing that is lost; without them a count of warnings means something.
const TARGET_MODE: &str = "SET SESSION sql_mode='STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', \
    foreign_key_checks=0, sql_notes=0, max_error_count=64, autocommit=1";

/// Opens a session as every part of this connector uses it.
async fn connect(connection: &Connection, settings: &Settings, side: Side) -> Result<Client> {
    let mut client = match side {
        Side::Source => Client::connect(connection, LocalFiles::Refused, settings.connect_timeout).await?,
        Side::Target => Client::connect(connection, LocalFiles::Answered, settings.connect_timeout).await?,
        Side::Changes => Client::connect_to_change(connection, settings.connect_timeout).await?,
    };
    client.run("SET NAMES utf8mb4").await?;
    client.run(SESSION).await?;
    let zone = match (side, &settings.server_timezone) {
        (Side::Source, Some(zone)) => zone,
        _ => "+00:00",
    };
    client
        .run(&format!("SET SESSION time_zone={}", quote_text(zone)))
        .await
        .map_err(|error| error.while_doing(format!("set the time zone \"{zone}\" of the endpoint (ServerTimezone)")))?;
    client.run(if side == Side::Source { SOURCE_MODE } else { TARGET_MODE }).await?;
    for statement in &settings.after_connect {
        // "The migration task continues running regardless if the SQL statement succeeds or fails."
        if let Err(error) = client.run(statement).await {
            if client.is_busy() {
                return Err(error);
            }
            tracing::warn!(%error, "AfterConnectScript failed");
        }
    }
    if side == Side::Source {
        client.set_timeout(Some(settings.execute_timeout));
    }
    Ok(client)
}

/// Connects, logs in and asks the server to answer: what DMS calls a successful connection.
async fn check(connection: &Connection, side: Side) -> Result<()> {
    let settings = Settings::of(connection);
    let mut client = connect(connection, &settings, side).await?;
    let version = client.rows("SELECT VERSION()").await?;
    if version.is_empty() {
        return Err(Error::fatal("the server did not say its version"));
    }
    client.close().await;
    Ok(())
}

/// An identifier in backticks.
fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn quote_table(name: &TableName) -> String {
    format!("{}.{}", quote_name(&name.schema), quote_name(&name.table))
}

/// A text literal, for sessions whose `sql_mode` we have set.
fn quote_text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            '\0' => quoted.push_str("\\0"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_settings_in_any_case_and_within_their_ranges() {
        let settings = json!({
            "afterConnectScript": "SET a='x;y'; SET `b;`=1;;",
            "ServerTimezone": "US/Pacific",
            "TargetDbType": "SPECIFIC_DATABASE",
            "parallelLoadThreads": "9",
            "MaxFileSize": 512,
        });
        let mut connection = Connection { settings: settings.as_object().unwrap().clone(), ..Connection::default() };
        let read = Settings::of(&connection);
        assert_eq!(read.after_connect, ["SET a='x;y'", "SET `b;`=1"]);
        assert_eq!(read.server_timezone.as_deref(), Some("US/Pacific"));
        assert_eq!((read.load_threads, read.file_bytes_max), (5, 512 * 1024));
        assert!(!read.one_database, "there is no database to go to");
        connection.database = "d".to_owned();
        assert!(Settings::of(&connection).one_database);
    }

    #[test]
    fn quotes_names_and_text() {
        assert_eq!(quote_table(&TableName::new("a`b", "c.d")), "`a``b`.`c.d`");
        assert_eq!(quote_text("it's \\ \0"), r"'it\'s \\ \0'");
    }
}
