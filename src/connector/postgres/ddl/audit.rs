//! The record of statements that define tables, which a trigger writes on the source.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html>

use super::super::{Endpoint, sql};
use crate::data::{Result, TableName};

/// Its rows are deleted as they are written: what counts is that they are in the log.
pub const AUDIT_TABLE: &str = "awsdms_ddl_audit";

const TRIGGER: &str = "awsdms_intercept_ddl";

/// Sees to it that statements are recorded from now on, where the user may, and tells whether they are.
pub async fn record(endpoint: &Endpoint) -> Result<bool> {
    let schema = &endpoint.settings.ddl_artifacts_schema;
    let mut client = endpoint.connect().await?;
    let there = format!(
        "SELECT 1 FROM pg_catalog.pg_event_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid \
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = '{AUDIT_TABLE}' \
         WHERE t.evtname = '{TRIGGER}' AND t.evtenabled <> 'D' AND n.nspname = {}",
        sql::literal(schema)
    );
    if !client.query(&there).await?.is_empty() {
        return Ok(true);
    }
    let Err(error) = client.query(&artifacts(schema)).await else { return Ok(true) };
    if error.sqlstate.is_none() {
        return Err(error);
    }
    // Another task may have made it at the same moment.
    client.query("ROLLBACK").await?;
    if !client.query(&there).await?.is_empty() {
        return Ok(true);
    }
    let table = TableName::new(schema, AUDIT_TABLE);
    tracing::warn!(%table, %error, "statements that define tables are not recorded: only what rows show of them is seen");
    Ok(false)
}

/// As the user guide has them made by hand, but for the names of functions and operators: unqualified, they would let
/// whoever sets a search path run what he likes as the user that owns the function.
fn artifacts(schema: &str) -> String {
    let table = sql::table(&TableName::new(schema, AUDIT_TABLE));
    let sequence = sql::table(&TableName::new(schema, format!("{AUDIT_TABLE}_c_key_seq")));
    let function = sql::table(&TableName::new(schema, TRIGGER));
    let quoted = sql::identifier(schema);
    let body = sql::literal(&format!(
        "
declare _qry pg_catalog.text;
BEGIN
  if tg_tag operator(pg_catalog.=) any
    (array['CREATE TABLE', 'ALTER TABLE', 'DROP TABLE', 'CREATE TABLE AS']::pg_catalog.text[]) then
    SELECT pg_catalog.current_query() into _qry;
    insert into {table} values (default, current_timestamp, current_user,
      cast(pg_catalog.txid_current() as pg_catalog.varchar(16)), tg_tag, 0, '', current_schema, _qry);
    delete from {table};
  end if;
END;
"
    ));
    format!(
        "BEGIN; CREATE SCHEMA IF NOT EXISTS {quoted}; \
         CREATE TABLE IF NOT EXISTS {table} (c_key bigserial primary key, c_time timestamp, c_user varchar(64), \
         c_txn varchar(16), c_tag varchar(24), c_oid integer, c_name varchar(64), c_schema varchar(64), c_ddlqry text); \
         CREATE OR REPLACE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS {body}; \
         CREATE EVENT TRIGGER {TRIGGER} ON ddl_command_end EXECUTE PROCEDURE {function}(); \
         GRANT ALL ON {table} TO public; GRANT ALL ON {sequence} TO public; COMMIT"
    )
}
