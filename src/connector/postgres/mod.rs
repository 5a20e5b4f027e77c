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
mod capture;
mod catalog;
mod copy;
mod datetime;
mod ddl;
mod heartbeat;
mod publication;
mod settings;
mod slot;
mod snapshot;
mod source;
mod sql;
mod stream;
mod target;
mod type_map;
mod wire;
mod writer;

#[cfg(test)]
mod integration;

use super::{Connection, Engine};
use crate::data::Family;
use settings::{LongVarchar, Settings};

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
