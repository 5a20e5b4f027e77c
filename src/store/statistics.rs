//! Statistics per table of a task: what DescribeTableStatistics shows and what a resumed task starts from.

use serde_json::Value as Json;
use sqlx::{Row, SqliteConnection};

use super::{Resource, Result, Store, read_resource, write_resource};

/// One table of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRecord {
    /// Place in the load order; listings follow it.
    pub position: i64,
    pub schema: String,
    pub table: String,
    pub state: String,
    /// The wire shape `TableStatistics`.
    pub body: Json,
    /// Of an interrupted load in mode `DO_NOTHING`: all rows of the target's table are its own.
    pub target_was_empty: bool,
    /// JSON of what a task that follows the source's log goes on from; empty for others.
    pub in_log: String,
}

impl Store {
    /// Writes the newest state of some tables of a task and lets `change` alter the task itself, all in one transaction;
    /// nothing when the task is gone.
    pub async fn put_progress(
        &self,
        task: &str,
        tables: &[TableRecord],
        change: impl FnOnce(&mut Resource),
    ) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        let Some(mut resource) = read_resource(&mut transaction, task).await? else { return Ok(()) };
        for table in tables {
            put_table(&mut transaction, task, table).await?;
        }
        change(&mut resource);
        write_resource(&mut transaction, &resource).await?;
        transaction.commit().await
    }

    /// Forgets the tables of a task, for a fresh start.
    pub async fn clear_tables(&self, task: &str) -> Result<()> {
        sqlx::query("DELETE FROM table_statistics WHERE task = ?").bind(task).execute(&self.write).await?;
        Ok(())
    }

    /// All tables of a task, in load order.
    pub async fn tables(&self, task: &str) -> Result<Vec<TableRecord>> {
        let rows = sqlx::query(
            "SELECT position, schema_name, table_name, table_state, body, target_was_empty, in_log
             FROM table_statistics
             WHERE task = ? ORDER BY position, schema_name, table_name",
        )
        .bind(task)
        .fetch_all(&self.read)
        .await?;
        rows.iter()
            .map(|row| {
                let body: String = row.try_get(4)?;
                Ok(TableRecord {
                    position: row.try_get(0)?,
                    schema: row.try_get(1)?,
                    table: row.try_get(2)?,
                    state: row.try_get(3)?,
                    body: serde_json::from_str(&body).map_err(|error| sqlx::Error::Decode(error.into()))?,
                    target_was_empty: row.try_get(5)?,
                    in_log: row.try_get(6)?,
                })
            })
            .collect()
    }
}

async fn put_table(connection: &mut SqliteConnection, task: &str, table: &TableRecord) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO table_statistics (task, position, schema_name, table_name, table_state, body,
         target_was_empty, in_log) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(task)
    .bind(table.position)
    .bind(&table.schema)
    .bind(&table.table)
    .bind(&table.state)
    .bind(table.body.to_string())
    .bind(table.target_was_empty)
    .bind(&table.in_log)
    .execute(connection)
    .await?;
    Ok(())
}
