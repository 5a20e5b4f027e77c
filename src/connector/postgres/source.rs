//! A PostgreSQL database as a source: what is in its catalog.

use async_trait::async_trait;

use super::catalog::Catalog;
use super::snapshot::PostgresSnapshot;
use super::stream::PostgresChanges;
use super::{Endpoint, capture, check_version};
use crate::connector::noted::NotedTables;
use crate::connector::{
    Adoption, Beginning, Capture, ChangeReader, Connection, DurablePlace, Snapshot, Source, StartPoint, TableEntry,
};
use crate::data::{Position, Result, TableKind, TableName, TableSchema};

/// Not the schemas that are the engine's own, nor that of the extension pglogical, whose tables say what is sent from
/// here. Whether DMS leaves that out is not documented: that it does is a guess.
const USERS_SCHEMAS: &str = "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_extension e \
     WHERE e.extname = 'pglogical' AND e.extnamespace = n.oid)";

#[derive(Clone)]
pub struct PostgresSource {
    endpoint: Endpoint,
    /// Tables that came to a name that is captured by being renamed, as the readers of this source have met them.
    renamed: NotedTables,
    /// Tables that could not be taken into the capture.
    lacking: NotedTables,
}

impl PostgresSource {
    pub fn new(connection: Connection) -> PostgresSource {
        PostgresSource {
            endpoint: Endpoint::new(connection),
            renamed: NotedTables::default(),
            lacking: NotedTables::default(),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the log has of this table's rows begins in the middle.
    pub fn note_renamed(&self, table: &TableName) {
        self.renamed.note(table.clone());
    }

    pub fn note_lacking(&self, table: TableName) {
        self.lacking.note(table);
    }

    pub fn lacking(&self) -> Vec<TableName> {
        self.lacking.all()
    }

    pub fn was_renamed(&self, table: &TableName) -> bool {
        self.renamed.has(table)
    }
}

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
            "SELECT n.nspname FROM pg_namespace n WHERE {USERS_SCHEMAS} AND has_schema_privilege(n.oid, 'USAGE') \
             ORDER BY n.nspname::text COLLATE \"C\""
        );
        Ok(client.query(&sql).await?.into_iter().filter_map(|mut row| row.pop().flatten()).collect())
    }

    async fn tables(&self) -> Result<Vec<TableEntry>> {
        let mut client = self.endpoint.connect_to_catalog().await?;
        let sql = format!(
            "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v') AND c.relpersistence <> 't' AND {USERS_SCHEMAS} \
             AND c.relname !~ '^awsdms_' AND has_schema_privilege(n.oid, 'USAGE') \
             ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
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
        let described = Catalog::open(&self.endpoint).await?.describe(tables).await?;
        Ok(described.into_iter().map(|table| table.schema).collect())
    }

    async fn snapshot(&self, readers: usize) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(PostgresSnapshot::open(self.endpoint.clone(), readers.max(1)).await?))
    }

    async fn begin_capture(&self, capture: &Capture, readers: usize) -> Result<Beginning> {
        capture::begin(&self.endpoint, capture, readers.max(1)).await
    }

    async fn begin_capture_at(&self, capture: &Capture, start: &StartPoint) -> Result<Position> {
        capture::begin_at(&self.endpoint, capture, start).await
    }

    async fn snapshot_in_log(&self, capture: &Capture, readers: usize) -> Result<Beginning> {
        capture::snapshot_in_log(&self.endpoint, capture, readers.max(1)).await
    }

    fn log_has_definitions(&self) -> bool {
        self.endpoint.settings.capture_ddls
    }

    async fn log_end(&self) -> Result<Position> {
        capture::log_end(&self.endpoint).await
    }

    async fn adopt(&self, capture: &Capture, tables: &[TableName]) -> Result<Adoption> {
        capture::adopt(self, capture, tables).await
    }

    async fn changes(
        &self,
        capture: &Capture,
        from: &Position,
        durable: DurablePlace,
    ) -> Result<Box<dyn ChangeReader>> {
        Ok(Box::new(PostgresChanges::start(self, capture, from, durable).await?))
    }

    async fn end_capture(&self, capture: &Capture) -> Result<()> {
        capture::end(&self.endpoint, &capture.task).await
    }
}
