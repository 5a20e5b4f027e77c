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
//! - Materialized views and foreign tables are not reported; DMS does not support them. Nor is what the extension pglogical
//!   keeps in its schema.
//! - Between two PostgreSQL databases every column keeps its type. A domain becomes its base type; a type that is not
//!   built in (an enum, a composite type, one of an extension) is used where the target has it under the same name,
//!   and is `character varying` elsewhere.
//! - A zero character in text, which PostgreSQL cannot store, is written as a space, as DMS does for Oracle.
//! - Row-level security of a source applies: rows that the user may not see are not migrated.
//!
//! Prerequisites of a source whose changes are read:
//! - `wal_level = logical`; a free replication slot and WAL sender for the task, and one more of each while tables are
//!   loaded that it did not begin with. Where `max_slot_wal_keep_size` is exceeded, the task fails and has to be started
//!   anew. `wal_sender_timeout` may be anything.
//! - The user has the attribute `REPLICATION` (RDS: the role `rds_replication`) and a line in `pg_hba.conf`.
//! - With pgoutput, the default where it can be had: version 10, `CREATE` on the database and ownership of the tables,
//!   which is what publications take. Otherwise test_decoding, which decodes the changes of the whole database; it is
//!   also taken by itself where pgoutput does not send all there is: stored generated columns before version 18, and
//!   partitioned tables before version 13, which are refused where pgoutput is asked for. It needs a database in UTF8.
//! - `PluginName=pglogical`: the extension pglogical 2 in `shared_preload_libraries` and in the database, which is in UTF8;
//!   `USAGE` on its schema and `SELECT` on its tables; no ownership. The task has two replication sets, named as DMS names
//!   them, and makes the node that they need (`dms_local`) where there is none; it goes with the last task. Partitioned
//!   tables, whose partitions can be captured instead, and `REPLICA IDENTITY FULL` are refused. A table is taken into a set
//!   when no transaction writes to it. What pglogical asks of applications: whoever runs TRUNCATE or DROP needs `USAGE` on
//!   the schema as soon as there is a node, and a table in a set is dropped by `DROP TABLE … CASCADE`. It leaves a trigger
//!   on the tables, which does nothing without a set.
//! - A primary key that is not `DEFERRABLE`, or another replica identity. Of a table without one INSERT and TRUNCATE are
//!   captured alone, as DMS does. With pgoutput a table that loses its key cannot be updated on the source until the task has seen that, which
//!   is at once or when it starts. With pgoutput and pglogical one that gets a key is given up ("Table error") until it is
//!   loaded again, because what is updated in it before it is taken in anew is nowhere in the log. So is, with pgoutput,
//!   one that is another user's.
//!
//! How changes are read:
//! - A task has one slot, named like DMS's, and publications (`dms_…`) or replication sets beside it; all go with the task.
//!   A slot that `SlotName` names is read and never dropped, and decides the plugin; a start at an LSN needs one. With
//!   pgoutput such a slot can be read from where the task's publications have come into being. With pglogical it needs the
//!   sets `{slot}` and `i{slot}`, with all tables in them since before the place that is read from: of that the server says
//!   nothing, and what happened earlier is not sent.
//! - Statements that define tables are recorded by the event trigger that DMS makes too (`CaptureDdls`,
//!   `awsdms_ddl_audit` in `DdlArtifactsSchema`), which takes a superuser, and stays. Without it, and for statements
//!   that functions run, a changed table is recognised by its rows; then a renamed last column may look like a new one.
//!   Of types pglogical's rows show nothing: what the record does not tell is taken from the catalog, which may be ahead
//!   of the log. The values that a DEFAULT gives to rows that are there already are not changes. A table that is renamed to a name
//!   that is not captured counts as dropped, one renamed to a captured name as new.
//! - Rows of partitions are told as those of the nearest captured table: themselves, or what they are a part of. To
//!   attach, detach, drop or empty a partition changes nothing on the target, as with DMS. Children by inheritance are
//!   tables of their own. Before version 15 of PostgreSQL rows of a partition that was taken out go on to come with
//!   pgoutput.
//! - TRUNCATE is in the log from version 11 on, with pglogical always. Columns that the server computes are in it with
//!   test_decoding and pglogical, and with pgoutput from version 18 on if they are stored.
//! - A value has to fit into memory, and twice while it is taken over; the server sends none beyond a gigabyte.
//!
//! Endpoint settings that change what this release does: `AfterConnectScript`, `CaptureDdls`, `DdlArtifactsSchema`,
//! `ExecuteTimeout`, `FailTasksOnLobTruncation`, `HeartbeatEnable`, `HeartbeatFrequency`, `HeartbeatSchema`,
//! `MapBooleanAsBoolean`, `MapJsonbAsClob`, `MapLongVarcharAs`, `MapUnboundedNumericAsString`, `PluginName`, `SlotName`,
//! `TrimSpaceInChar`, `unboundedVarcharMaxSize`, and the attribute `origin=none`, which is our own: changes that were
//! replicated to the source from elsewhere are left out (with pgoutput from version 16 on; before, test_decoding is what is
//! preferred). Not supported:
//! `DatabaseMode=BABELFISH`, `ConnectionTimeout`, `AuthenticationMethod=iam`, `ConsumeMonotonicEvents`. `MaxFileSize` and
//! `loadUsingCSV` have no meaning here: rows go to the server without a file between.

mod alter;
mod apply;
mod capture;
mod catalog;
mod copy;
mod datetime;
mod ddl;
mod heartbeat;
mod publication;
mod replication_set;
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
