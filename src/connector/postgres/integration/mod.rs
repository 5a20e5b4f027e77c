//! The connector against a real server, both ways.

mod alter;
mod apply;
mod catalog;
mod changes;
mod definitions;
mod failures;
mod log;
mod login;
mod partitions;
mod pglogical;
mod plugins;
mod publishing;
mod slots;
mod types;

use serde_json::json;

use crate::connector::testing::nothing_durable;
use crate::connector::testing::postgres::{PostgresServer, pglogical_server, postgres_server};
use crate::connector::{
    Connection, CreateKey, PrepareMode, ReadPlan, Rejected, Secret, Snapshot, Source, TableEntry, Target, engine,
};
use crate::data::{Batch, Column, DataType, Family, Format, Result, TableKind, TableName, TableSchema};

const FORMATS: [Format; 3] = [Format::PostgresCopy, Format::Text, Format::Values];

/// Two databases of one server, so that nothing on the target is there by itself.
struct Pair {
    server: &'static PostgresServer,
    source_database: String,
    target_database: String,
    source: Box<dyn Source>,
    target: Box<dyn Target>,
}

/// What a load did.
#[derive(Default)]
struct Load {
    rows: u64,
    rejected: Vec<Rejected>,
    truncated: u64,
    batches: usize,
    batch_bytes_max: usize,
}

/// How a load is done.
#[derive(Clone, Copy)]
struct How {
    format: Format,
    lob_bytes_max: Option<u64>,
    batch_rows: usize,
    batch_bytes: usize,
    mode: PrepareMode,
    key: CreateKey,
}

fn how(format: Format) -> How {
    How {
        format,
        lob_bytes_max: None,
        batch_rows: 10_000,
        batch_bytes: 1 << 20,
        mode: PrepareMode::DropAndCreate,
        key: CreateKey::WithTable,
    }
}

fn with_settings(connection: Connection, settings: &serde_json::Value) -> Connection {
    Connection { settings: settings.as_object().unwrap().clone(), ..connection }
}

fn source_of(connection: Connection) -> Box<dyn Source> {
    (engine("postgres").unwrap().open_source)(connection)
}

fn target_of(connection: Connection) -> Box<dyn Target> {
    (engine("aurora-postgresql").unwrap().open_target)(connection)
}

impl Pair {
    fn new(setup: &str) -> Pair {
        let alone = Pair::with(setup, json!({}));
        let target_database = alone.server.create_database();
        Pair { target: target_of(alone.server.connection(&target_database)), target_database, ..alone }
    }

    /// A source with settings of its endpoint, and no target of its own. Where pglogical is asked for, it is there.
    fn with(setup: &str, settings: serde_json::Value) -> Pair {
        match settings["PluginName"] == "pglogical" {
            true => {
                let server = pglogical_server().expect("the test asked before whether it is there");
                Pair::on(server, &format!("CREATE EXTENSION pglogical; {setup}"), settings)
            }
            false => Pair::on(postgres_server(), setup, settings),
        }
    }

    fn on(server: &'static PostgresServer, setup: &str, settings: serde_json::Value) -> Pair {
        let database = server.create_database();
        server.sql(&database, setup);
        Pair {
            source: source_of(with_settings(server.connection(&database), &settings)),
            target: target_of(server.connection(&database)),
            server,
            source_database: database.clone(),
            target_database: database,
        }
    }

    fn source_sql(&self, sql: &str) -> String {
        self.server.sql(&self.source_database, sql)
    }

    fn target_sql(&self, sql: &str) -> String {
        self.server.sql(&self.target_database, sql)
    }

    async fn describe(&self, schema: &str, table: &str) -> TableSchema {
        let entry = TableEntry { name: TableName::new(schema, table), kind: TableKind::Table };
        self.source.describe(&[entry]).await.unwrap().pop().expect("the table exists")
    }

    /// Loads `public.<table>` of the source into the target.
    async fn load(&self, table: &str, how: How) -> Load {
        let table = self.describe("public", table).await;
        self.target.prepare(&table, how.mode, how.key).await.unwrap();
        let load = self.copy(&table, how).await.unwrap();
        self.target.finish(&table, how.key).await.unwrap();
        load
    }

    /// Copies the rows alone.
    async fn copy(&self, table: &TableSchema, how: How) -> Result<Load> {
        let snapshot = self.source.snapshot(1).await?;
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        assert!(snapshot.formats(table, &columns, how.lob_bytes_max).contains(&how.format), "{:?}", how.format);
        assert!(self.target.formats(table).await?.contains(&how.format), "{:?}", how.format);
        let mut reader = snapshot.read(plan(table, how)).await?;
        let mut writer = self.target.writer(table, how.format, 10_000).await?;
        let (mut batch, mut load) = (Batch::new(), Load::default());
        while reader.next(&mut batch).await? {
            assert_eq!(batch.format(), how.format);
            load.batches += 1;
            load.batch_bytes_max = load.batch_bytes_max.max(batch.bytes());
            load.truncated += batch.truncated();
            let written = writer.write(&batch).await?;
            load.rows += written.rows;
            load.rejected.extend(written.rejected);
        }
        let written = writer.finish().await?;
        load.rows += written.rows;
        load.rejected.extend(written.rejected);
        Ok(load)
    }

    /// All rows of a table as text, in one order, from both ends.
    fn both(&self, table: &str, columns: &str) -> (String, String) {
        let sql = format!(
            "SELECT line FROM (SELECT ({columns})::text AS line FROM public.{table} AS t) r ORDER BY line COLLATE \"C\""
        );
        (self.source_sql(&sql), self.target_sql(&sql))
    }
}

fn plan(table: &TableSchema, how: How) -> ReadPlan {
    ReadPlan {
        table: table.clone(),
        columns: (0..table.columns.len()).collect(),
        format: how.format,
        lob_bytes_max: how.lob_bytes_max,
        batch_rows: how.batch_rows,
        batch_bytes: how.batch_bytes,
    }
}

async fn open(source: &dyn Source, readers: usize) -> Box<dyn Snapshot> {
    source.snapshot(readers).await.unwrap()
}

/// A table of another engine, prepared on the target.
async fn foreign(pair: &Pair, columns: &[(&str, DataType)]) -> TableSchema {
    let column = |(name, data_type): &(&str, DataType)| Column {
        name: (*name).into(),
        data_type: *data_type,
        native: "whatever(1)".into(),
        nullable: true,
        generated: false,
    };
    let table = TableSchema {
        name: TableName::new("shop", "items"),
        kind: TableKind::Table,
        family: Family::MySql,
        columns: columns.iter().map(column).collect(),
        primary_key: vec![0],
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    pair.target.prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    table
}

/// A session that sends several statements as one text.
async fn session(pair: &Pair) -> super::wire::Client {
    super::Endpoint::new(pair.server.connection(&pair.source_database)).connect().await.unwrap()
}

/// A user that is no superuser and may replicate, with a privilege on the source given by a statement that ends in its
/// name.
fn capturing_user(pair: &Pair, privilege: &str) -> String {
    let user = format!("user_{}", pair.source_database);
    pair.source_sql(&format!(
        "SET password_encryption = 'scram-sha-256'; CREATE USER {user} REPLICATION PASSWORD 'secret' IN ROLE capturing; GRANT CREATE ON DATABASE {} TO {user}; \
         GRANT ALL ON SCHEMA public TO {user}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}; {privilege} {user}",
        pair.source_database
    ));
    if pair.source_sql("SELECT count(*) FROM pg_extension WHERE extname = 'pglogical'") != "0" {
        let grants =
            "GRANT USAGE ON SCHEMA pglogical TO {user}; GRANT SELECT ON ALL TABLES IN SCHEMA pglogical TO {user}";
        pair.source_sql(&grants.replace("{user}", &user));
    }
    user
}

fn source_as(pair: &Pair, user: &str, plugin: &str) -> Box<dyn Source> {
    let connection = pair.server.connection(&pair.source_database);
    let connection = Connection { user: user.into(), password: Secret::new("secret"), ..connection };
    source_of(with_settings(connection, &json!({ "PluginName": plugin })))
}
