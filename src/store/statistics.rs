//! Statistics per table of a task: what DescribeTableStatistics shows and what a resumed task starts from.

use serde_json::Value as Json;
use sqlx::Row;

use super::{Result, Store};

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
}

impl Store {
    /// Writes the newest state of some tables of a task, unless the task is gone.
    pub async fn put_tables(&self, task: &str, tables: &[TableRecord]) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for table in tables {
            sqlx::query(
                "INSERT OR REPLACE INTO table_statistics (task, position, schema_name, table_name, table_state, body,
                 target_was_empty) SELECT ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM resource WHERE arn = ?)",
            )
            .bind(task)
            .bind(table.position)
            .bind(&table.schema)
            .bind(&table.table)
            .bind(&table.state)
            .bind(table.body.to_string())
            .bind(table.target_was_empty)
            .bind(task)
            .execute(&mut *transaction)
            .await?;
        }
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
            "SELECT position, schema_name, table_name, table_state, body, target_was_empty FROM table_statistics
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
                })
            })
            .collect()
    }
}
