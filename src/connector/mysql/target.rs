//! Tables of a MySQL server as a task fills them.

use async_trait::async_trait;

use super::apply::MySqlApplier;
use super::columns::{find_columns, found_column, load_column, named, opaque_kind};
use super::create::{add_primary_key, create};
use super::loader::{LoadPlan, LoadWriter, explain};
use super::type_map::base;
use super::wire::{Client, from_server};
use super::{Settings, Side, connect, quote_name, quote_table, quote_text};
use crate::connector::{Applier, ApplyException, Connection, CreateKey, PrepareMode, Target, Writer};
use crate::data::{Family, Format, Result, TableName, TableSchema};

/// Where DMS's own tables are when the task names no `ControlSchema`.
const CONTROL_SCHEMA: &str = "awsdms_control";

/// Most exceptions in one INSERT.
const EXCEPTIONS_AT_ONCE: usize = 50;

/// Where tables go: with `TargetDbType` `specific-database` into the endpoint's database, all but DMS's own.
#[derive(Clone, Debug)]
pub(super) struct Places {
    one_database: Option<String>,
}

impl Places {
    fn new(connection: &Connection, settings: &Settings) -> Places {
        Places { one_database: settings.one_database.then(|| connection.database.clone()) }
    }

    pub(super) fn of(&self, name: &TableName) -> TableName {
        match &self.one_database {
            Some(database) if !name.table.starts_with("awsdms_") => TableName::new(database, &name.table),
            _ => name.clone(),
        }
    }
}

pub(super) struct MySqlTarget {
    connection: Connection,
    settings: Settings,
    places: Places,
}

impl MySqlTarget {
    pub(super) fn new(connection: Connection) -> MySqlTarget {
        let settings = Settings::of(&connection);
        let places = Places::new(&connection, &settings);
        MySqlTarget { connection, settings, places }
    }

    async fn connect(&self) -> Result<Client> {
        connect(&self.connection, &self.settings, Side::Target).await
    }

    fn place(&self, name: &TableName) -> TableName {
        self.places.of(name)
    }

    async fn make_ready(
        &self,
        client: &mut Client,
        table: &TableSchema,
        mode: PrepareMode,
        key: CreateKey,
    ) -> Result<()> {
        if mode != PrepareMode::DoNothing {
            require_local_infile(client).await?;
        }
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

    async fn applier(&self, owner: &str, format: Format, statements_max: usize) -> Result<Box<dyn Applier>> {
        let places = self.places.clone();
        let applier =
            MySqlApplier::open(&self.connection, &self.settings, places, owner, format, statements_max).await?;
        Ok(Box::new(applier))
    }

    async fn columns(&self, table: &TableName) -> Result<Vec<String>> {
        let mut client = self.connect().await?;
        let columns = find_columns(&mut client, &self.places.of(table)).await?;
        client.close().await;
        Ok(columns.into_iter().map(|column| column.name).collect())
    }

    async fn recovery_checkpoint(&self, control_schema: &str, task: &str) -> Result<Option<String>> {
        let name = control_table(control_schema, "awsdms_txn_state");
        let mut client = self.connect().await?;
        let sql = format!(
            "SELECT `CHECKPOINT` FROM {} WHERE TASK_NAME={} ORDER BY STATE_TIME DESC LIMIT 1",
            quote_table(&name),
            quote_text(task)
        );
        match client.rows(&sql).await {
            Ok(rows) => {
                client.close().await;
                Ok(rows.into_iter().flatten().flatten().next())
            }
            // No such database or table.
            Err(error) if matches!(error.native, Some(1049 | 1146)) => Ok(None),
            Err(error) => Err(error.while_doing(format!("read {name} on target"))),
        }
    }

    async fn record_exceptions(&self, control_schema: &str, exceptions: &[ApplyException]) -> Result<()> {
        let name = control_table(control_schema, "awsdms_apply_exceptions");
        let mut client = self.connect().await?;
        let recorded = record(&mut client, &name, exceptions).await;
        recorded.map_err(|error| error.while_doing(format!("write to {name} on target")))?;
        client.close().await;
        Ok(())
    }
}

fn control_table(control_schema: &str, table: &str) -> TableName {
    let schema = if control_schema.is_empty() { CONTROL_SCHEMA } else { control_schema };
    TableName::new(schema, table)
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

async fn is_transactional(client: &mut Client, name: &TableName) -> Result<bool> {
    let sql = format!(
        "SELECT e.TRANSACTIONS FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON e.ENGINE=t.ENGINE \
         WHERE {}",
        named(name)
    );
    let rows = client.rows(&sql).await?;
    Ok(rows.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() == Some("YES")))
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
