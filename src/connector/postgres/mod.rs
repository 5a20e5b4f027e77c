//! PostgreSQL and its Aurora edition, as source and target.
//!
//! Prerequisites, as for DMS
//! (<https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html>,
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.PostgreSQL.html>):
//! - version 9.4 or later;
//! - source: `CONNECT` on the database, `USAGE` on the schemas, `SELECT` on the tables;
//! - target: `CREATE` on the database for schemas that are missing, `CREATE` and `USAGE` on the schemas that are not,
//!   `INSERT` and, by preparation mode, `TRUNCATE` or ownership of tables that exist. Foreign keys and triggers on
//!   existing tables fire; `AfterConnectScript=SET session_replication_role = replica` turns them off.
//!
//! How tables are read and written:
//! - Of a partitioned table and of tables that inherit, parent and children are each reported and read as a table of
//!   their own. A parent is read with the rows of its children, as DMS does: to move the rows once, select one or the
//!   other.
//! - Materialized views and foreign tables are not reported; DMS does not support them.
//! - Between two PostgreSQL databases every column keeps its type. A domain becomes its base type; a type that is not
//!   built in (an enum, a composite type, one of an extension) is used where the target has it under the same name,
//!   and is `character varying` elsewhere.
//! - A zero character in text, which PostgreSQL cannot store, is written as a space, as DMS does for Oracle.
//! - Row-level security of a source applies: rows that the user may not see are not migrated.
//!
//! Endpoint settings that change what this release does: `ExecuteTimeout`, `AfterConnectScript`,
//! `FailTasksOnLobTruncation`, `MapBooleanAsBoolean`, `MapJsonbAsClob`, `MapLongVarcharAs`,
//! `MapUnboundedNumericAsString`, `TrimSpaceInChar`, `unboundedVarcharMaxSize`. Not supported: `DatabaseMode=BABELFISH`,
//! `ConnectionTimeout`, `AuthenticationMethod=iam`. `MaxFileSize` and `loadUsingCSV` have no meaning here: rows go
//! to the server without a file between.

mod alter;
mod apply;
mod changes;
mod copy;
mod datetime;
mod pgoutput;
mod snapshot;
mod source;
mod sql;
mod target;
mod type_map;
mod wire;
mod writer;

#[cfg(test)]
mod integration;

use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::{Connection, Engine};
use crate::data::Family;

pub const POSTGRES: Engine = Engine {
    name: "postgres",
    display_name: "PostgreSQL",
    family: Family::PostgreSql,
    source: true,
    target: true,
    settings: "PostgreSQLSettings",
    default_port: 5432,
    open_source: |connection| Box::new(source::PostgresSource::new(connection)),
    open_target: |connection| Box::new(target::PostgresTarget::new(connection)),
};

pub const AURORA_POSTGRESQL: Engine = Engine {
    name: "aurora-postgresql",
    display_name: "Amazon Aurora PostgreSQL",
    family: Family::PostgreSql,
    source: true,
    target: true,
    settings: "PostgreSQLSettings",
    default_port: 5432,
    open_source: |connection| Box::new(source::PostgresSource::new(connection)),
    open_target: |connection| Box::new(target::PostgresTarget::new(connection)),
};

/// `MapLongVarcharAs`: what a VARCHAR(N) with N over 16,387 is to DMS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LongVarchar {
    #[default]
    WString,
    Clob,
    NClob,
}

/// The members of `PostgreSQLSettings` and the extra connection attributes that this release reads.
#[derive(Clone, Debug)]
struct Settings {
    /// How long a statement may take, other than a COPY and the creation of a primary key. Default 60 s.
    execute_timeout: Duration,
    /// SQL for every new session.
    after_connect_script: Option<String>,
    /// A value cut to the LOB limit ends the task.
    fail_tasks_on_lob_truncation: bool,
    map_boolean_as_boolean: bool,
    map_jsonb_as_clob: bool,
    map_unbounded_numeric_as_string: bool,
    map_long_varchar_as: LongVarchar,
    /// Values of CHAR columns lose their padding on the way to other engines. Default true.
    trim_space_in_char: bool,
    /// What a VARCHAR without a length counts as. Default 8000, at most 10,485,760.
    unbounded_varchar_max_size: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            execute_timeout: Duration::from_secs(60),
            after_connect_script: None,
            fail_tasks_on_lob_truncation: false,
            map_boolean_as_boolean: false,
            map_jsonb_as_clob: false,
            map_unbounded_numeric_as_string: false,
            map_long_varchar_as: LongVarchar::WString,
            trim_space_in_char: true,
            unbounded_varchar_max_size: 8000,
        }
    }
}

impl Settings {
    /// Reads what is there; a member of a wrong type counts as absent, because the API has checked them.
    fn read(members: &Map<String, Json>) -> Settings {
        let member =
            |name: &str| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        // Extra connection attributes are text whatever they mean.
        let flag = |name, default| match member(name) {
            Some(Json::Bool(flag)) => *flag,
            Some(Json::String(text)) => text.eq_ignore_ascii_case("true") || (default && text.is_empty()),
            _ => default,
        };
        let number = |name| match member(name) {
            Some(Json::Number(number)) => number.as_u64(),
            Some(Json::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let text = |name| member(name).and_then(Json::as_str).map(str::trim).filter(|text| !text.is_empty());
        let default = Settings::default();
        Settings {
            execute_timeout: number("ExecuteTimeout")
                .filter(|seconds| *seconds > 0)
                .map_or(default.execute_timeout, |seconds| Duration::from_secs(seconds.min(u32::MAX.into()))),
            after_connect_script: text("AfterConnectScript").map(str::to_owned),
            fail_tasks_on_lob_truncation: flag("FailTasksOnLobTruncation", default.fail_tasks_on_lob_truncation),
            map_boolean_as_boolean: flag("MapBooleanAsBoolean", default.map_boolean_as_boolean),
            map_jsonb_as_clob: flag("MapJsonbAsClob", default.map_jsonb_as_clob),
            map_unbounded_numeric_as_string: flag("MapUnboundedNumericAsString", false),
            map_long_varchar_as: match text("MapLongVarcharAs").map(str::to_ascii_lowercase).as_deref() {
                Some("clob") => LongVarchar::Clob,
                Some("nclob") => LongVarchar::NClob,
                _ => LongVarchar::WString,
            },
            trim_space_in_char: flag("TrimSpaceInChar", default.trim_space_in_char),
            unbounded_varchar_max_size: number("unboundedVarcharMaxSize")
                .map_or(default.unbounded_varchar_max_size, |size| size.clamp(1, 10_485_760) as u32),
        }
    }
}

/// An endpoint and what its settings say: what every session is opened with.
#[derive(Clone, Debug)]
struct Endpoint {
    connection: Connection,
    settings: Settings,
}

impl Endpoint {
    fn new(connection: Connection) -> Endpoint {
        let settings = Settings::read(&connection.settings);
        Endpoint { connection, settings }
    }

    async fn connect(&self) -> crate::data::Result<wire::Client> {
        wire::Client::connect(&self.connection, &self.settings, wire::Purpose::Statements).await
    }

    async fn connect_for_replication(&self) -> crate::data::Result<wire::Client> {
        wire::Client::connect(&self.connection, &self.settings, wire::Purpose::Replication).await
    }

    /// A session that looks into the catalog: types of users are named with their schema, built-in ones without.
    async fn connect_to_catalog(&self) -> crate::data::Result<wire::Client> {
        let mut client = self.connect().await?;
        client.query("SET search_path = pg_catalog").await?;
        Ok(client)
    }
}

/// The oldest version DMS supports.
const VERSION_MIN: u32 = 90_400;

fn check_version(client: &wire::Client) -> crate::data::Result<()> {
    match client.version() {
        0 => Ok(()),
        version if version < VERSION_MIN => {
            Err(crate::data::Error::fatal("PostgreSQL versions before 9.4 are not supported"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_settings_as_members_and_as_attributes() {
        let json = json!({
            "ExecuteTimeout": 100, "FailTasksOnLobTruncation": true, "MapLongVarcharAs": "nclob",
            "mapUnboundedNumericAsString": "true", "TrimSpaceInChar": "false", "unboundedVarcharMaxSize": "99999999",
            "AfterConnectScript": "SET session_replication_role = replica"
        });
        let settings = Settings::read(json.as_object().unwrap());
        assert_eq!(settings.execute_timeout, Duration::from_secs(100));
        assert!(settings.fail_tasks_on_lob_truncation && settings.map_unbounded_numeric_as_string);
        assert!(!settings.trim_space_in_char && !settings.map_jsonb_as_clob);
        assert_eq!(settings.map_long_varchar_as, LongVarchar::NClob);
        assert_eq!(settings.unbounded_varchar_max_size, 10_485_760);
        assert_eq!(settings.after_connect_script.as_deref(), Some("SET session_replication_role = replica"));
    }
}
