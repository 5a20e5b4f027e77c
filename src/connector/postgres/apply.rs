//! Applying changes to a PostgreSQL database: a statement for each set of rows, whose values come as one array a column.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::copy::{encode_unescaped, encode_values};
use super::target::{TargetColumn, forbidding_indexes, unique_indexes};
use super::wire::{Client, Loaded};
use super::{Endpoint, alter, sql};
use crate::connector::{Applier, ChangeSet, Conflict, Key, RowChange, TableChange, Transaction};
use crate::data::{Error, ErrorKind, Format, Op, Result, TableName, TableSchema, Value};

/// Rows are found by the key's index, whatever the planner believes of a table that has only begun to grow: the plan of a
/// prepared statement outlives what it was made for.
const SESSION: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off";

/// Since when there are identity columns.
const IDENTITY_SINCE: u32 = 100_000;

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
    tables: HashMap<TableName, TargetTable>,
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
            statements_max,
            tables: HashMap::new(),
            savepoint: false,
            defined: false,
        })
    }

    /// Forgets what was known of tables that are others now.
    async fn forget(&mut self) -> Result<()> {
        self.tables.clear();
        if !self.prepared.is_empty() {
            self.prepared.clear();
            self.client.query("DEALLOCATE ALL").await?;
        }
        Ok(())
    }

    /// Columns that the set has and the target's table may be sent, by their place in the set's table.
    async fn columns(&mut self, table: &TableSchema) -> Result<Vec<ColumnOf>> {
        if !self.tables.contains_key(&table.name) {
            let found = TargetColumn::read(&mut self.client, &table.name).await?;
            if found.is_empty() {
                return Err(Error::table(format!("table {} does not exist on the target", table.name)));
            }
            self.tables.insert(table.name.clone(), TargetTable { columns: found, unique: None, any_order: None });
        }
        let known = &self.tables[&table.name].columns;
        let column = |(index, column): (usize, &crate::data::Column)| match known.get(&column.name) {
            Some(found) if found.generated => None,
            Some(found) => Some(Ok(ColumnOf {
                index,
                name: sql::identifier(&column.name),
                assigned: found.assigned.clone(),
                compared: found.compared.clone(),
                identity: found.identity,
            })),
            None => {
                let what = format!("column {} of table {} does not exist on the target", column.name, table.name);
                Some(Err(Error::table(what)))
            }
        };
        table.columns.iter().enumerate().filter_map(column).collect()
    }

    /// Whether the target knows by an index when a key is there already.
    async fn has_index(&mut self, table: &TableSchema, key: &[usize]) -> Result<bool> {
        let Some(known) = self.tables.get_mut(&table.name) else { return Ok(false) };
        if known.unique.is_none() {
            known.unique = Some(unique_indexes(&mut self.client, &table.name).await?);
        }
        Ok(known.indexes_over(table, key) > 0)
    }

    /// Whether rows with different keys never stand in each other's way. Where they may, the order of the log is the one
    /// in which they did not.
    async fn takes_any_order(&mut self, table: &TableSchema, key: &[usize]) -> Result<bool> {
        self.has_index(table, key).await?;
        let Some(known) = self.tables.get_mut(&table.name) else { return Ok(false) };
        if known.any_order.is_none() {
            let forbidding = forbidding_indexes(&mut self.client, &table.name).await?;
            known.any_order = Some(forbidding == known.indexes_over(table, key));
        }
        Ok(known.any_order == Some(true))
    }

    async fn execute(&mut self, sql: String, parameters: &[Vec<u8>]) -> Result<u64> {
        if self.statements_max == 0 {
            return self.client.execute("", Some(&sql), parameters).await;
        }
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
        let outcome = self.client.execute(&number.to_string(), Some(&sql), parameters).await;
        match &outcome {
            Ok(_) => drop(self.prepared.insert(sql, number)),
            // The server may have prepared it, and refused what it was to do.
            Err(error) if error.kind != ErrorKind::Recoverable => self.client.forget(&number.to_string()).await?,
            Err(_) => {}
        }
        outcome
    }

    /// A value that the log does not have is the target's own default.
    async fn inserts(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf]) -> Result<u64> {
        let mut inserted = 0;
        for (written, rows) in by_presence(set, columns) {
            inserted += self.insert(set, &rows, &of_places(columns, &written)).await?;
        }
        Ok(inserted)
    }

    /// Inserts rows that have the same columns.
    async fn insert(&mut self, set: &ChangeSet<'_>, rows: &[&RowChange<'_>], columns: &[&ColumnOf]) -> Result<u64> {
        let table = sql::table(&set.table.name);
        if columns.is_empty() {
            for _ in rows {
                self.execute(format!("INSERT INTO {table} DEFAULT VALUES"), &[]).await?;
            }
            return Ok(rows.len() as u64);
        }
        self.client.start_copy_in(&format!("COPY {table} ({}) FROM STDIN", names(columns)))?;
        let mut line = Vec::new();
        for row in rows.iter().filter_map(|row| row.new.as_ref()) {
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

    /// Inserts rows, and gives those whose key is there already the values of the new ones. Rows are taken for the same by
    /// their key alone: one that only has another unique value in common stands in the way.
    async fn replace(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf], key: &[usize]) -> Result<u64> {
        let has_index = self.has_index(set.table, key).await?;
        for (written, rows) in by_presence(set, columns) {
            let written = of_places(columns, &written);
            let (keys, others): (Vec<&ColumnOf>, Vec<&ColumnOf>) =
                written.iter().partition(|column| key.contains(&column.index));
            if keys.len() < key.len() {
                // The target itself gives the key.
                self.insert(set, &rows, &written).await?;
                continue;
            }
            let updated: Vec<&ColumnOf> = others.iter().filter(|column| !column.identity).copied().collect();
            let unless_there = match (has_index, updated.is_empty()) {
                (true, true) => format!("ON CONFLICT ({}) DO NOTHING", names(&keys)),
                (true, false) => {
                    let set: Vec<String> =
                        updated.iter().map(|column| format!("{0} = EXCLUDED.{0}", column.name)).collect();
                    format!("ON CONFLICT ({}) DO UPDATE SET {}", names(&keys), set.join(", "))
                }
                (false, is_key_alone) => {
                    if !is_key_alone {
                        self.update(set, &rows, &updated, &keys).await?;
                    }
                    format!(
                        "WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})",
                        sql::table(&set.table.name),
                        found_by(&keys)
                    )
                }
            };
            let written = [keys, others].concat();
            let insisting = if self.client.version() >= IDENTITY_SINCE { "OVERRIDING SYSTEM VALUE " } else { "" };
            let statement = format!(
                "INSERT INTO {} ({}) {insisting}SELECT {} FROM {} {unless_there}",
                sql::table(&set.table.name),
                names(&written),
                casts(&written),
                arrays(written.len()),
            );
            let parameters: Vec<Vec<u8>> =
                written.iter().map(|column| array(rows.iter().map(|row| new_value(set, row, column.index)))).collect();
            self.execute(statement, &parameters).await?;
        }
        Ok(set.rows.len() as u64)
    }

    async fn updates(&mut self, set: &ChangeSet<'_>, columns: &[ColumnOf], key: &[usize]) -> Result<u64> {
        let in_key_order = self.takes_any_order(set.table, key).await?;
        let mut changed = 0;
        for (written, mut rows) in by_columns(set, columns, key) {
            let moves_keys = written.iter().any(|place| key.contains(&columns[*place].index));
            if in_key_order && !moves_keys {
                // Those that lie side by side are found on the same pages, and written to the same ones.
                rows.sort_by_cached_key(|row| place_in_key(set, row, key));
            }
            changed += self.update(set, &rows, &of_places(columns, &written), &of_key(columns, key)).await?;
        }
        Ok(changed)
    }

    /// Updates rows that have the same columns to be set, and finds those of which nothing is.
    async fn update(
        &mut self,
        set: &ChangeSet<'_>,
        rows: &[&RowChange<'_>],
        columns: &[&ColumnOf],
        key: &[&ColumnOf],
    ) -> Result<u64> {
        let table = sql::table(&set.table.name);
        let (values, found_by) = (arrays(key.len() + columns.len()), found_by(key));
        let mut statement = match columns.is_empty() {
            true => format!("SELECT FROM {table} AS t, {values} WHERE {found_by}"),
            false => format!("UPDATE {table} AS t SET "),
        };
        for (index, column) in columns.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing into a String cannot fail.
            let _ = write!(statement, "{comma}{} = v.c{}::{}", column.name, index + key.len(), column.assigned);
        }
        if !columns.is_empty() {
            let _ = write!(statement, " FROM {values} WHERE {found_by}");
        }
        let mut parameters: Vec<Vec<u8>> =
            key.iter().map(|column| array(rows.iter().map(|row| key_value(set, row, column.index)))).collect();
        parameters.extend(columns.iter().map(|column| array(rows.iter().map(|row| new_value(set, row, column.index)))));
        self.execute(statement, &parameters).await
    }

    async fn delete(&mut self, set: &ChangeSet<'_>, places: &[usize], key: &[&ColumnOf]) -> Result<u64> {
        let mut rows: Vec<&RowChange<'_>> = set.rows.iter().collect();
        rows.sort_by_cached_key(|row| place_in_key(set, row, places));
        let statement = format!(
            "DELETE FROM {} AS t USING {} WHERE {}",
            sql::table(&set.table.name),
            arrays(key.len()),
            found_by(key)
        );
        let parameters: Vec<Vec<u8>> =
            key.iter().map(|column| array(rows.iter().map(|row| key_value(set, row, column.index)))).collect();
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
            let written: Vec<&ColumnOf> = match set.op {
                Op::Delete => Vec::new(),
                Op::Insert | Op::Update => {
                    columns.iter().filter(|column| is_written(set, row, column, column.identity)).collect()
                }
            };
            // By their text, because some types know no equality; text is as the source sent it.
            let like: Vec<String> = known
                .iter()
                .enumerate()
                .map(|(index, column)| {
                    format!(
                        "{}::text IS NOT DISTINCT FROM (($1::text[])[{}])::{}::text",
                        column.name,
                        index + 1,
                        column.compared
                    )
                })
                .collect();
            let like = if like.is_empty() { "false".to_owned() } else { like.join(" AND ") };
            // Each partition has rows of the same places.
            let place = format!("(tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {like} LIMIT 1)");
            let statement = match set.op {
                Op::Delete => format!("DELETE FROM {table} WHERE {place}"),
                Op::Insert | Op::Update if written.is_empty() => format!("SELECT FROM {table} WHERE {place}"),
                Op::Insert | Op::Update => {
                    let set: Vec<String> = written
                        .iter()
                        .enumerate()
                        .map(|(index, column)| {
                            format!("{} = (($2::text[])[{}])::{}", column.name, index + 1, column.assigned)
                        })
                        .collect();
                    format!("UPDATE {table} SET {} WHERE {place}", set.join(", "))
                }
            };
            let mut parameters = vec![array(known.iter().map(|column| key_value(set, row, column.index)))];
            if !written.is_empty() {
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
            (Op::Insert, _) => self.inserts(set, &columns).await,
            (_, Key::Any(key)) => self.one_by_one(set, &columns, key).await,
            (Op::Delete, Key::Unique(key)) => self.delete(set, key, &of_key(&columns, key)).await,
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
        self.client.commit().await
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
    /// As in [`TargetColumn`].
    assigned: String,
    compared: String,
    identity: bool,
}

/// A table as the target has it.
struct TargetTable {
    columns: HashMap<String, TargetColumn>,
    /// The columns of its unique indexes, once somebody has asked for them.
    unique: Option<Vec<BTreeSet<String>>>,
    /// As [`PostgresApplier::takes_any_order`], once somebody has asked.
    any_order: Option<bool>,
}

impl TargetTable {
    fn indexes_over(&self, table: &TableSchema, key: &[usize]) -> usize {
        let key: BTreeSet<&str> = key.iter().map(|column| table.columns[*column].name.as_str()).collect();
        let is_over = |index: &&BTreeSet<String>| index.iter().map(String::as_str).eq(key.iter().copied());
        self.unique.iter().flatten().filter(is_over).count()
    }
}

/// Rows by the places of the columns that are written of them.
type ByColumns<'a> = BTreeMap<Vec<usize>, Vec<&'a RowChange<'a>>>;

/// Rows of an INSERT by the columns that the log has.
fn by_presence<'a>(set: &'a ChangeSet<'a>, columns: &[ColumnOf]) -> ByColumns<'a> {
    let is_there = |row: &RowChange<'_>, column: &ColumnOf| new_value(set, row, column.index) != Value::Absent;
    if set.rows.iter().all(|row| columns.iter().all(|column| is_there(row, column))) {
        return BTreeMap::from([((0..columns.len()).collect(), set.rows.iter().collect())]);
    }
    grouped(set, columns, is_there)
}

/// Rows of an UPDATE by the columns that are set: those that the log has. The key is set only where it has changed.
fn by_columns<'a>(set: &'a ChangeSet<'a>, columns: &[ColumnOf], key: &[usize]) -> ByColumns<'a> {
    grouped(set, columns, |row, column| is_written(set, row, column, column.identity || key.contains(&column.index)))
}

fn grouped<'a>(
    set: &'a ChangeSet<'a>,
    columns: &[ColumnOf],
    is_written: impl Fn(&RowChange<'_>, &ColumnOf) -> bool,
) -> ByColumns<'a> {
    let mut by_columns = ByColumns::new();
    for row in set.rows {
        let written = columns.iter().enumerate().filter(|(_, column)| is_written(row, column));
        by_columns.entry(written.map(|(place, _)| place).collect()).or_default().push(row);
    }
    by_columns
}

/// Whether an UPDATE sets a column; `if_changed`: only where it is known to have changed.
fn is_written(set: &ChangeSet<'_>, row: &RowChange<'_>, column: &ColumnOf, if_changed: bool) -> bool {
    let at = set.columns[column.index];
    let old = row.old.as_ref().map_or(Value::Absent, |old| old.get(at));
    let new = row.new.as_ref().map_or(Value::Absent, |new| new.get(at));
    new != Value::Absent && (!if_changed || (old != Value::Absent && old != new))
}

fn new_value<'a>(set: &ChangeSet<'a>, row: &RowChange<'a>, column: usize) -> Value<'a> {
    row.new.as_ref().map_or(Value::Absent, |new| new.get(set.columns[column]))
}

fn key_value<'a>(set: &ChangeSet<'a>, row: &RowChange<'a>, column: usize) -> Value<'a> {
    row.found_by().map_or(Value::Absent, |image| image.get(set.columns[column]))
}

/// Orders rows about as the index of their key does; what is near each other there is near each other here.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    Number(i128),
    Text(&'a [u8]),
    Unknown,
}

fn place_in_key<'a>(set: &ChangeSet<'a>, row: &RowChange<'a>, key: &[usize]) -> Vec<Place<'a>> {
    let place = |column: &usize| match key_value(set, row, *column) {
        Value::Int(number) | Value::Time(number) | Value::DateTime(number) => Place::Number(number.into()),
        Value::UInt(number) => Place::Number(number.into()),
        Value::Date(day) => Place::Number(day.into()),
        Value::Numeric(text) | Value::String(text) => {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.map_or(Place::Text(text), Place::Number)
        }
        Value::Bytes(bytes) => Place::Text(bytes),
        Value::Absent | Value::Null | Value::Bool(_) | Value::Real(_) => Place::Unknown,
    };
    key.iter().map(place).collect()
}

fn of_key<'a>(columns: &'a [ColumnOf], key: &[usize]) -> Vec<&'a ColumnOf> {
    key.iter().filter_map(|index| columns.iter().find(|column| column.index == *index)).collect()
}

fn of_places<'a>(columns: &'a [ColumnOf], places: &[usize]) -> Vec<&'a ColumnOf> {
    places.iter().map(|place| &columns[*place]).collect()
}

fn names(columns: &[&ColumnOf]) -> String {
    columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn casts(columns: &[&ColumnOf]) -> String {
    let cast = |(index, column): (usize, &&ColumnOf)| format!("v.c{index}::{}", column.assigned);
    columns.iter().enumerate().map(cast).collect::<Vec<_>>().join(", ")
}

/// One row of text for each place of the arrays, which are all of one length. Of a list of expressions the server takes
/// row after row; of functions in FROM it would put all into a store of its own first, which costs a tenth of an UPDATE.
fn arrays(count: usize) -> String {
    let columns: Vec<String> =
        (0..count).map(|index| format!("pg_catalog.unnest(${}::pg_catalog.text[]) AS c{index}", index + 1)).collect();
    format!("(SELECT {}) AS v", columns.join(", "))
}

fn found_by(key: &[&ColumnOf]) -> String {
    let equal = |(index, column): (usize, &&ColumnOf)| format!("t.{} = v.c{index}::{}", column.name, column.compared);
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
