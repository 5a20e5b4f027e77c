//! Applying changes to a PostgreSQL database: a statement for each set of rows, whose values come as one array a column.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::copy::{encode_unescaped, encode_values};
use super::target::TargetColumn;
use super::wire::{Client, Loaded};
use super::{Endpoint, alter, sql};
use crate::connector::{Applier, ChangeSet, Conflict, Key, RowChange, TableChange, Transaction};
use crate::data::{Error, Format, Op, Result, TableName, TableSchema, Value};

/// Rows are found by the key's index, whatever the planner believes of a table that has only begun to grow: the plan of a
/// prepared statement outlives what it was made for.
const SESSION: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off";

/// Since when there is a compiler, which takes what is turned off for so expensive that it is worth its tens of
/// milliseconds.
const JIT_SINCE: u32 = 110_000;

/// The second number of the lock that an owner's session holds, which tells it from other locks.
const APPLIER_LOCK: u32 = 0x0064_6d73;

/// How long an earlier session may take to end, and how often that is looked at.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
const TAKE_OVER_INTERVAL: Duration = Duration::from_millis(10);

pub struct PostgresApplier {
    client: Client,
    endpoint: Endpoint,
    /// Names of prepared statements by their text.
    prepared: HashMap<String, u64>,
    statements: u64,
    statements_max: usize,
    /// Types of the columns that tables have.
    types: HashMap<TableName, HashMap<String, TargetColumn>>,
    /// There is one in the transaction.
    savepoint: bool,
    /// Tables have been changed in the transaction.
    defined: bool,
}

impl PostgresApplier {
    pub async fn start(
        endpoint: &Endpoint,
        owner: &str,
        format: Format,
        statements_max: usize,
    ) -> Result<PostgresApplier> {
        let mut client = endpoint.connect().await?;
        take_over(&mut client, owner).await?;
        client.query(SESSION).await?;
        if client.version() >= JIT_SINCE {
            client.query("SET jit = off").await?;
        }
        if format == Format::Text {
            // As the source wrote it.
            client.query("SET lc_monetary = 'C'").await?;
        }
        Ok(PostgresApplier {
            client,
            endpoint: endpoint.clone(),
            prepared: HashMap::new(),
            statements: 0,
            statements_max: statements_max.max(1),
            types: HashMap::new(),
            savepoint: false,
            defined: false,
        })
    }

    /// Forgets what was known of tables that are others now.
    async fn forget(&mut self) -> Result<()> {
        self.types.clear();
        if !self.prepared.is_empty() {
            self.prepared.clear();
            self.client.query("DEALLOCATE ALL").await?;
        }
        Ok(())
    }

    /// Columns that the set has and the target's table may be sent, by their place in the set's table.
    async fn columns(&mut self, table: &TableSchema) -> Result<Vec<ColumnOf>> {
        if !self.types.contains_key(&table.name) {
            let found = TargetColumn::read(&mut self.client, &table.name).await?;
            if found.is_empty() {
                return Err(Error::table(format!("table {} does not exist on the target", table.name)));
            }
            self.types.insert(table.name.clone(), found);
        }
        let types = &self.types[&table.name];
        let column = |(index, column): (usize, &crate::data::Column)| match types.get(&column.name) {
            Some(found) if found.generated => None,
            Some(found) => {
                Some(Ok(ColumnOf { index, name: sql::identifier(&column.name), native: found.native.clone() }))
            }
            None => {
                let what = format!("column {} of table {} does not exist on the target", column.name, table.name);
                Some(Err(Error::table(what)))
            }
        };
        table.columns.iter().enumerate().filter_map(column).collect()
    }

    async fn execute(&mut self, sql: String, parameters: &[Vec<u8>]) -> Result<u64> {
        if let Some(number) = self.prepared.get(&sql) {
            return self.client.execute(&number.to_string(), None, parameters).await;
        }
        if self.prepared.len() >= self.statements_max
            && let Some((oldest, number)) =
                self.prepared.iter().min_by_key(|(_, number)| **number).map(|(sql, number)| (sql.clone(), *number))
        {
            self.client.forget(&number.to_string()).await?;
            self.prepared.remove(&oldest);
        }
        self.statements += 1;
        let number = self.statements;
        let rows = self.client.execute(&number.to_string(), Some(&sql), parameters).await?;
        self.prepared.insert(sql, number);
        Ok(rows)
    }

    async fn copy(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf]) -> Result<u64> {
        let table = sql::table(&set.table.name);
        self.client.start_copy_in(&format!("COPY {table} ({}) FROM STDIN", names(columns)))?;
        let mut line = Vec::new();
        for row in set.rows.iter().filter_map(|row| row.new.as_ref()) {
            line.clear();
            encode_values(columns.iter().map(|column| row.get(set.columns[column.index])), &mut line);
            line.push(b'\n');
            self.client.copy_in(&line).await?;
        }
        self.client.end_copy_in().await?;
        match self.client.copy_in_outcome().await? {
            Loaded::Rows(rows) => Ok(rows),
            Loaded::Refused(error) => Err(error.into_error()),
        }
    }

    async fn replace(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf], key: &[usize]) -> Result<u64> {
        let table = sql::table(&set.table.name);
        let values = casts(columns, "v");
        let updates: Vec<String> = columns
            .iter()
            .filter(|column| !key.contains(&column.index))
            .map(|column| format!("{0} = EXCLUDED.{0}", column.name))
            .collect();
        let resolution = match updates.is_empty() {
            true => "DO NOTHING".to_owned(),
            false => format!("DO UPDATE SET {}", updates.join(", ")),
        };
        let keys: Vec<ColumnOf> = columns.iter().filter(|column| key.contains(&column.index)).cloned().collect();
        let statement = format!(
            "INSERT INTO {table} ({}) SELECT {values} FROM {} ON CONFLICT ({}) {resolution}",
            names(columns),
            arrays(columns.len()),
            names(&keys)
        );
        let parameters: Vec<Vec<u8>> =
            columns.iter().map(|column| array(set.rows.iter().map(|row| new_value(set, row, column.index)))).collect();
        self.execute(statement, &parameters).await?;
        Ok(set.rows.len() as u64)
    }

    async fn updates(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf], key: &[usize]) -> Result<u64> {
        let mut changed = 0;
        for (written, rows) in by_columns(set, columns, key) {
            let written: Vec<&ColumnOf> = written.iter().map(|place| &columns[*place]).collect();
            changed += self.update(set, &rows, &written, &of_key(columns, key)).await?;
        }
        Ok(changed)
    }

    /// Updates rows that have the same columns to be set.
    async fn update(
        &mut self,
        set: &ChangeSet<'_>,
        rows: &[&RowChange<'_>],
        columns: &[&ColumnOf],
        key: &[&ColumnOf],
    ) -> Result<u64> {
        let mut statement = format!("UPDATE {} AS t SET ", sql::table(&set.table.name));
        for (index, column) in columns.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing into a String cannot fail.
            let _ = write!(statement, "{comma}{} = v.c{}::{}", column.name, index + key.len(), column.native);
        }
        let _ = write!(statement, " FROM {} WHERE {}", arrays(key.len() + columns.len()), found_by(key));
        let mut parameters: Vec<Vec<u8>> =
            key.iter().map(|column| array(rows.iter().map(|row| key_value(set, row, column.index)))).collect();
        parameters.extend(columns.iter().map(|column| array(rows.iter().map(|row| new_value(set, row, column.index)))));
        self.execute(statement, &parameters).await
    }

    async fn delete(&mut self, set: &ChangeSet<'_>, key: &[&ColumnOf]) -> Result<u64> {
        let statement = format!(
            "DELETE FROM {} AS t USING {} WHERE {}",
            sql::table(&set.table.name),
            arrays(key.len()),
            found_by(key)
        );
        let parameters: Vec<Vec<u8>> =
            key.iter().map(|column| array(set.rows.iter().map(|row| key_value(set, row, column.index)))).collect();
        self.execute(statement, &parameters).await
    }

    /// Changes one of the rows that are like the old one, row after row: two changes may mean rows that are alike.
    async fn one_by_one(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf], key: &[usize]) -> Result<u64> {
        let table = sql::table(&set.table.name);
        let mut changed = 0;
        for row in set.rows {
            let known = columns
                .iter()
                .filter(|column| key.contains(&column.index) && key_value(set, row, column.index) != Value::Absent);
            let known: Vec<&ColumnOf> = known.collect();
            let written: Vec<&ColumnOf> =
                columns.iter().filter(|column| new_value(set, row, column.index) != Value::Absent).collect();
            let written = if set.op == Op::Delete { Vec::new() } else { written };
            // By their text, because some types know no equality; text is as the source sent it.
            let like: Vec<String> = known
                .iter()
                .enumerate()
                .map(|(index, column)| {
                    format!(
                        "{}::text IS NOT DISTINCT FROM (($1::text[])[{}])::{}::text",
                        column.name,
                        index + 1,
                        column.native
                    )
                })
                .collect();
            let like = if like.is_empty() { "false".to_owned() } else { like.join(" AND ") };
            let place = format!("ctid = (SELECT ctid FROM {table} WHERE {like} LIMIT 1)");
            let statement = match set.op {
                Op::Delete => format!("DELETE FROM {table} WHERE {place}"),
                Op::Insert | Op::Update => {
                    let set: Vec<String> = written
                        .iter()
                        .enumerate()
                        .map(|(index, column)| {
                            format!("{} = (($2::text[])[{}])::{}", column.name, index + 1, column.native)
                        })
                        .collect();
                    format!("UPDATE {table} SET {} WHERE {place}", set.join(", "))
                }
            };
            let mut parameters = vec![array(known.iter().map(|column| key_value(set, row, column.index)))];
            if set.op != Op::Delete {
                parameters.push(array(written.iter().map(|column| new_value(set, row, column.index))));
            }
            changed += self.execute(statement, &parameters).await?;
        }
        Ok(changed)
    }
}

/// Becomes the only session of its owner in this database. One that was there before is of a process or a connection that
/// is lost: what it was sent may still be on its way, and must not land after what this one does.
async fn take_over(client: &mut Client, owner: &str) -> Result<()> {
    let key = sql::literal(&format!("dms-local applies {owner}"));
    let given_up = Instant::now() + TAKE_OVER_TIMEOUT;
    let lock = format!("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext({key}), {APPLIER_LOCK})");
    let end = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_locks \
         WHERE locktype = 'advisory' AND objsubid = 2 AND objid = {APPLIER_LOCK} \
         AND classid = pg_catalog.hashtext({key})::bigint & 4294967295 \
         AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    );
    loop {
        let taken = client.query(&lock).await?;
        if taken.first().and_then(|row| row.first()).is_some_and(|taken| taken.as_deref() == Some("t")) {
            return Ok(());
        }
        if Instant::now() >= given_up {
            let what = format!("an earlier session of the task does not end in {} s", TAKE_OVER_TIMEOUT.as_secs());
            return Err(Error::recoverable(what));
        }
        client.query(&end).await?;
        // There is nothing to wait on but the lock, and waiting for that would not end sessions that come meanwhile.
        tokio::time::sleep(TAKE_OVER_INTERVAL).await;
    }
}

#[async_trait]
impl Applier for PostgresApplier {
    async fn begin(&mut self) -> Result<()> {
        (self.savepoint, self.defined) = (false, false);
        self.client.query("BEGIN").await.map(drop)
    }

    async fn apply(&mut self, set: &ChangeSet<'_>) -> Result<u64> {
        let doing = |error: Error| error.while_doing(format!("apply changes to {}", set.table.name));
        let columns = self.columns(set.table).await.map_err(doing)?;
        let outcome = match (set.op, set.key) {
            (Op::Insert, Key::Unique(key)) if set.conflict == Conflict::Replace => {
                self.replace(set, &columns, key).await
            }
            (Op::Insert, _) => self.copy(set, &columns).await,
            (_, Key::Any(key)) => self.one_by_one(set, &columns, key).await,
            (Op::Delete, Key::Unique(key)) => self.delete(set, &of_key(&columns, key)).await,
            (Op::Update, Key::Unique(key)) => self.updates(set, &columns, key).await,
        };
        outcome.map_err(doing)
    }

    fn statement(&self, set: &ChangeSet<'_>) -> String {
        let Some(row) = set.rows.first() else { return String::new() };
        let table = sql::table(&set.table.name);
        let name = |index: usize| sql::identifier(&set.table.columns[index].name);
        let text = |value: Value<'_>| {
            let mut text = Vec::new();
            encode_unescaped(value, &mut text);
            let known = !matches!(value, Value::Null | Value::Absent);
            if known { sql::literal(&String::from_utf8_lossy(&text)) } else { "NULL".into() }
        };
        let (Key::Unique(key) | Key::Any(key)) = set.key;
        let found_by: Vec<String> =
            key.iter().map(|index| format!("{} = {}", name(*index), text(key_value(set, row, *index)))).collect();
        let found_by = found_by.join(" AND ");
        let written = (0..set.table.columns.len()).filter(|index| new_value(set, row, *index) != Value::Absent);
        let written: Vec<(String, String)> =
            written.map(|index| (name(index), text(new_value(set, row, index)))).collect();
        match set.op {
            Op::Insert => {
                let (names, values): (Vec<String>, Vec<String>) = written.into_iter().unzip();
                format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "))
            }
            Op::Update => {
                let pairs: Vec<String> = written.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                format!("UPDATE {table} SET {} WHERE {found_by}", pairs.join(", "))
            }
            Op::Delete => format!("DELETE FROM {table} WHERE {found_by}"),
        }
    }

    async fn truncate(&mut self, table: &TableSchema) -> Result<Transaction> {
        self.client.query_untimed(&format!("TRUNCATE {}", sql::table(&table.name))).await?;
        Ok(Transaction::Open)
    }

    async fn change_table(&mut self, change: &TableChange<'_>) -> Result<Transaction> {
        self.defined = true;
        alter::change(&mut self.client, &self.endpoint, change).await?;
        self.forget().await?;
        Ok(Transaction::Open)
    }

    async fn savepoint(&mut self) -> Result<()> {
        // One at a time: the server keeps all that are not released.
        let release = if self.savepoint { "RELEASE SAVEPOINT dms; " } else { "" };
        self.client.query(&format!("{release}SAVEPOINT dms")).await?;
        self.savepoint = true;
        Ok(())
    }

    async fn back_to_savepoint(&mut self) -> Result<()> {
        self.client.query("ROLLBACK TO SAVEPOINT dms").await?;
        if self.defined { self.forget().await } else { Ok(()) }
    }

    async fn commit(&mut self) -> Result<()> {
        self.client.query_untimed("COMMIT").await.map(drop)
    }

    async fn rollback(&mut self) -> Result<()> {
        self.client.query("ROLLBACK").await?;
        if self.defined { self.forget().await } else { Ok(()) }
    }
}

/// A column that is written.
#[derive(Clone)]
struct ColumnOf {
    /// Its place in the set's table.
    index: usize,
    /// Quoted.
    name: String,
    native: String,
}

/// Rows of an UPDATE by the columns that are set: those that the log has. The key is set only where it may have changed.
fn by_columns<'a>(
    set: &'a ChangeSet<'a>,
    columns: &[ColumnOf],
    key: &[usize],
) -> BTreeMap<Vec<usize>, Vec<&'a RowChange<'a>>> {
    let mut by_columns: BTreeMap<Vec<usize>, Vec<&RowChange<'_>>> = BTreeMap::new();
    for row in set.rows {
        let written = columns.iter().enumerate().filter(|(_, column)| {
            (row.old.is_some() || !key.contains(&column.index)) && new_value(set, row, column.index) != Value::Absent
        });
        let mut written: Vec<usize> = written.map(|(place, _)| place).collect();
        if written.is_empty() {
            // A table of nothing but its key: the row must be there all the same.
            written = columns
                .iter()
                .enumerate()
                .filter(|(_, column)| key.contains(&column.index))
                .map(|(place, _)| place)
                .collect();
        }
        by_columns.entry(written).or_default().push(row);
    }
    by_columns
}

fn new_value<'a>(set: &ChangeSet<'a>, row: &RowChange<'a>, column: usize) -> Value<'a> {
    row.new.as_ref().map_or(Value::Absent, |new| new.get(set.columns[column]))
}

fn key_value<'a>(set: &ChangeSet<'a>, row: &RowChange<'a>, column: usize) -> Value<'a> {
    row.found_by().map_or(Value::Absent, |image| image.get(set.columns[column]))
}

fn of_key<'a>(columns: &'a [ColumnOf], key: &[usize]) -> Vec<&'a ColumnOf> {
    key.iter().filter_map(|index| columns.iter().find(|column| column.index == *index)).collect()
}

fn names(columns: &[ColumnOf]) -> String {
    columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn casts(columns: &[ColumnOf], from: &str) -> String {
    let cast = |(index, column): (usize, &ColumnOf)| format!("{from}.c{index}::{}", column.native);
    columns.iter().enumerate().map(cast).collect::<Vec<_>>().join(", ")
}

/// One row of text for each place of the arrays, which are all of one length.
fn arrays(count: usize) -> String {
    let parameters: Vec<String> =
        (1..=count).map(|number| format!("pg_catalog.unnest(${number}::pg_catalog.text[])")).collect();
    let names: Vec<String> = (0..count).map(|index| format!("c{index}")).collect();
    format!("ROWS FROM ({}) AS v ({})", parameters.join(", "), names.join(", "))
}

fn found_by(key: &[&ColumnOf]) -> String {
    let equal = |(index, column): (usize, &&ColumnOf)| format!("t.{} = v.c{index}::{}", column.name, column.native);
    key.iter().enumerate().map(equal).collect::<Vec<_>>().join(" AND ")
}

/// An array of text, as the server reads it.
fn array<'a>(values: impl Iterator<Item = Value<'a>>) -> Vec<u8> {
    let mut array = vec![b'{'];
    let mut text = Vec::new();
    for value in values {
        if array.len() > 1 {
            array.push(b',');
        }
        if matches!(value, Value::Null | Value::Absent) {
            array.extend_from_slice(b"NULL");
            continue;
        }
        text.clear();
        encode_unescaped(value, &mut text);
        array.push(b'"');
        let mut rest = text.as_slice();
        while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
            array.extend_from_slice(&rest[..at]);
            array.extend_from_slice(&[b'\\', rest[at]]);
            rest = &rest[at + 1..];
        }
        array.extend_from_slice(rest);
        array.push(b'"');
    }
    array.push(b'}');
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_arrays_that_the_server_reads() {
        let values =
            [Value::String(b"a\"b\\c"), Value::Null, Value::Int(-3), Value::Bytes(&[0, 255]), Value::String(b"")];
        assert_eq!(String::from_utf8(array(values.into_iter())).unwrap(), r#"{"a\"b\\c",NULL,"-3","\\x00ff",""}"#);
        assert_eq!(array(std::iter::empty()), b"{}");
    }
}
