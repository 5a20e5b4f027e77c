//! The heartbeat: small transactions on an idle source, so that the server may forget its log.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html>

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{Endpoint, sql};
use crate::data::{Result, TableName};

const TABLE: &str = "awsdms_heartbeat";

/// Beats as long as it is not dropped, also while nobody reads the log.
pub struct Heartbeat {
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// The first beat is at once.
    pub fn start(endpoint: Endpoint, period: Duration) -> Heartbeat {
        let task = tokio::spawn(async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Err(error) = beat(&endpoint).await {
                    tracing::warn!(%error, "the heartbeat failed");
                }
            }
        });
        Heartbeat { task }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes the one row of the table, which is made when it is missing.
async fn beat(endpoint: &Endpoint) -> Result<()> {
    let table = sql::table(&TableName::new(&endpoint.settings.heartbeat_schema, TABLE));
    let mut client = endpoint.connect().await?;
    let there = format!("SELECT 1 WHERE pg_catalog.to_regclass({}) IS NOT NULL", sql::literal(&table));
    if client.query(&there).await?.is_empty() {
        // Of two tasks that begin together one waits, or both would make a sequence.
        let create = format!(
            "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext({})); \
             CREATE TABLE IF NOT EXISTS {table} (hb_key serial NOT NULL, hb_created_at timestamp, \
             hb_created_by varchar(64), hb_last_heartbeat_at timestamp, hb_last_heartbeat_by varchar(64)); COMMIT",
            sql::literal(&table)
        );
        client.query(&create).await?;
    }
    // Of two tasks that begin together one waits here, and sees the other's row.
    client
        .query(&format!(
            "BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; \
             UPDATE {table} SET hb_last_heartbeat_at = current_timestamp, hb_last_heartbeat_by = current_user \
             WHERE hb_key = 1; \
             INSERT INTO {table} SELECT 1, current_timestamp, current_user, current_timestamp, current_user \
             WHERE NOT EXISTS (SELECT FROM {table} WHERE hb_key = 1); COMMIT"
        ))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::testing::postgres::postgres_server;

    #[tokio::test]
    async fn one_row_is_written_again_and_again() {
        let server = postgres_server();
        let database = server.create_database();
        let endpoint = Endpoint::new(server.connection(&database));
        let _beating = [(); 2].map(|()| Heartbeat::start(endpoint.clone(), Duration::from_millis(20)));
        let table = "SELECT to_regclass('awsdms_heartbeat') IS NOT NULL";
        while server.sql(&database, table) != "t" {
            tokio::task::yield_now().await;
        }
        let moved = "SELECT count(*) FROM awsdms_heartbeat WHERE hb_last_heartbeat_at > hb_created_at";
        while server.sql(&database, moved) != "1" {
            tokio::task::yield_now().await;
        }
        let row = "SELECT hb_key, hb_created_by, hb_last_heartbeat_by FROM awsdms_heartbeat";
        assert_eq!(server.sql(&database, row), "1|postgres|postgres");
        let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull
            THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = 'awsdms_heartbeat'::regclass AND attnum > 0";
        let expected = "hb_key integer NOT NULL, hb_created_at timestamp without time zone, hb_created_by character \
                        varying(64), hb_last_heartbeat_at timestamp without time zone, hb_last_heartbeat_by character \
                        varying(64)";
        assert_eq!(server.sql(&database, columns), expected);
        assert_eq!(
            server.sql(&database, "SELECT to_regclass('awsdms_heartbeat_hb_key_seq')"),
            "awsdms_heartbeat_hb_key_seq"
        );
    }
}
