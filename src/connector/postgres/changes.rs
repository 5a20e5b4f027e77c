//! The changes of a PostgreSQL database, by logical decoding.
//!
//! A replication slot makes the server keep its log and gives the snapshot that the log begins after. Two publications say
//! which tables are sent: one of the tables whose rows can be told apart, and one of inserts only for the others, in which
//! an application could otherwise neither update nor delete. What is confirmed to the server it may forget.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use tokio::time::{Instant, interval_at};
use uuid::Uuid;

use super::copy::{Decode, decode_unescaped};
use super::pgoutput::{EPOCH_MICROS, Field, Image, Message, Relation, RelationColumn, Tuple, parse};
use super::snapshot::{PostgresSnapshot, decode_as};
use super::source::PostgresSource;
use super::wire::Client;
use super::{Endpoint, check_version, sql};
use crate::connector::{Beginning, Capture, ChangeReader, Source, TableEntry};
use crate::data::{
    Batch, Changes, Column, Entry, Error, Family, Format, Op, Position, Result, TableKind, TableName, TableSchema,
    TableVersion, Value,
};

/// How often the server hears of us when there is nothing to say; it gives us up after `wal_sender_timeout` (60 s).
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

const NO_SUCH_SLOT: &str = "42704";
const SLOT_IN_USE: &str = "55006";

/// How long a session that holds our slot may take to go, and how often that is looked at.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);
const SLOT_INTERVAL: Duration = Duration::from_millis(20);

/// The name of a task's slot, made like DMS's: the beginning of the task's name, eight digits and a UUID. The same for a
/// task at any time, so that no slot is ever left that nobody knows of.
pub fn slot_name(task: &str) -> String {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, task.as_bytes());
    let beginning: String = task.to_lowercase().chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let digits = id.as_u64_pair().1 % 100_000_000;
    format!("{beginning}_{digits:08}_{}", id.hyphenated().to_string().replace('-', "_"))
}

/// The publications of a task: of everything, and of inserts only.
fn publications(task: &str) -> [String; 2] {
    let slot = slot_name(task);
    // Without the UUID, with which the names would be longer than the server keeps.
    let (short, _) = slot.split_at(slot.len().saturating_sub(37));
    [format!("dms_{short}"), format!("dms_{short}_inserts")]
}

pub async fn begin(source: &PostgresSource, capture: &Capture, readers: usize) -> Result<Beginning> {
    let endpoint = source.endpoint();
    end(endpoint, &capture.task).await?;
    let doing = |error: Error| error.while_doing("start the capture of changes");
    let mut client = endpoint.connect().await?;
    check_version(&client)?;
    publish(&mut client, capture).await.map_err(doing)?;
    let mut replication = endpoint.connect_for_replication().await.map_err(doing)?;
    let slot = slot_name(&capture.task);
    let created =
        replication.query(&format!("CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput EXPORT_SNAPSHOT")).await;
    let mut row = created.map_err(doing)?.into_iter().next().unwrap_or_default().into_iter().skip(1).flatten();
    let (Some(lsn), Some(snapshot)) = (row.next(), row.next()) else {
        return Err(Error::fatal("the server told no snapshot of the new replication slot"));
    };
    let position: Position = lsn.parse().map_err(|error| Error::fatal(format!("{error}")))?;
    let snapshot = PostgresSnapshot::of(endpoint.clone(), snapshot, replication, readers).await?;
    Ok(Beginning { snapshot: Box::new(snapshot), position })
}

/// Publishes the tables of a task, by what their rows can be told apart with.
async fn publish(client: &mut Client, capture: &Capture) -> Result<()> {
    let mut lists = [Vec::new(), Vec::new()];
    if !capture.tables.is_empty() {
        let identified = format!(
            "SELECT c.relkind IN ('r', 'p'), c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i \
             WHERE i.indrelid = c.oid AND (i.indisreplident OR (c.relreplident = 'd' AND i.indisprimary))) \
             FROM (VALUES {}) AS w (place, nspname, relname) \
             LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.nspname \
             LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname ORDER BY w.place",
            sql::numbered(capture.tables.iter().map(|table| &table.name))
        );
        for (name, row) in capture.tables.iter().map(|table| &table.name).zip(client.query(&identified).await?) {
            if row[0].as_deref() == Some("t") {
                lists[usize::from(row[1].as_deref() != Some("t"))].push(sql::table(name));
            }
        }
    }
    for ((name, tables), operations) in publications(&capture.task).iter().zip(&lists).zip(["", "insert, truncate"]) {
        let of = if tables.is_empty() { String::new() } else { format!(" FOR TABLE ONLY {}", tables.join(", ONLY ")) };
        let with = if operations.is_empty() { String::new() } else { format!(" WITH (publish = '{operations}')") };
        client.query(&format!("CREATE PUBLICATION {}{of}{with}", sql::identifier(name))).await?;
    }
    Ok(())
}

/// Drops the slot and the publications of a task.
pub async fn end(endpoint: &Endpoint, task: &str) -> Result<()> {
    let doing = |error: Error| error.while_doing("end the capture of changes");
    let mut client = endpoint.connect().await?;
    let slot = slot_name(task);
    // A session that streams from it is ours, of a process that died: the server may not have noticed yet.
    let stop = format!(
        "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {} AND active",
        sql::literal(&slot)
    );
    let drop = format!("SELECT pg_catalog.pg_drop_replication_slot({})", sql::literal(&slot));
    let given_up = Instant::now() + SLOT_TIMEOUT;
    loop {
        client.query(&stop).await.map_err(doing)?;
        match client.query(&drop).await {
            Ok(_) => break,
            Err(error) if error.sqlstate.as_deref() == Some(NO_SUCH_SLOT) => break,
            // The session that was told to go has not gone yet, and there is nothing to wait on.
            Err(error) if error.sqlstate.as_deref() == Some(SLOT_IN_USE) && Instant::now() < given_up => {
                tokio::time::sleep(SLOT_INTERVAL).await;
            }
            Err(error) => return Err(doing(error)),
        }
    }
    for name in publications(task) {
        client.query(&format!("DROP PUBLICATION IF EXISTS {}", sql::identifier(&name))).await.map_err(doing)?;
    }
    Ok(())
}

/// Reads what a slot sends.
pub struct PostgresChanges {
    client: Client,
    source: PostgresSource,
    capture: Capture,
    relations: HashMap<u32, Known>,
    /// Tables met so far: the next number to give.
    tables: u32,
    numbers: HashMap<TableName, u32>,
    /// The transaction that is being read.
    transaction: Option<Transaction>,
    /// All before this has been read.
    read: u64,
    /// All before this is durable on the target.
    confirmed: u64,
    status_due: Instant,
}

#[derive(Clone, Copy)]
struct Transaction {
    xid: u32,
    time: i64,
}

/// A relation that the server has described.
enum Known {
    NotSelected,
    Captured(Captured),
}

struct Captured {
    table: u32,
    relation: OwnedRelation,
    decodes: Vec<Decode>,
}

impl PostgresChanges {
    pub async fn start(source: &PostgresSource, capture: &Capture, from: &Position) -> Result<PostgresChanges> {
        let Position::Lsn(lsn) = *from else {
            return Err(Error::fatal(format!("{from} is no position in the log of PostgreSQL")));
        };
        let mut client = source.endpoint().connect_for_replication().await?;
        if capture.format == Format::Text {
            client.query("SET lc_monetary = 'C'").await?;
        }
        let publications = publications(&capture.task).map(|name| sql::identifier(&name)).join(",");
        let statement = format!(
            "START_REPLICATION SLOT \"{}\" LOGICAL {from} (proto_version '1', publication_names {})",
            slot_name(&capture.task),
            sql::literal(&publications)
        );
        client.start_stream(&statement).await.map_err(|error| error.while_doing("read the log"))?;
        Ok(PostgresChanges {
            client,
            source: PostgresSource::of(source.endpoint().clone()),
            capture: capture.clone(),
            relations: HashMap::new(),
            tables: 0,
            numbers: HashMap::new(),
            transaction: None,
            read: lsn,
            confirmed: lsn,
            status_due: Instant::now() + STATUS_INTERVAL,
        })
    }

    async fn send_status(&mut self) -> Result<()> {
        self.status_due = Instant::now() + STATUS_INTERVAL;
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        for place in [self.read, self.confirmed, self.confirmed] {
            status.put_u64(place);
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        status.put_i64(now.as_micros() as i64 - EPOCH_MICROS);
        status.put_u8(0);
        self.client.send_stream_message(&status).await
    }

    /// Takes one message of the stream.
    async fn take(&mut self, changes: &mut Changes) -> Result<()> {
        let message = tokio::select! {
            biased;
            message = self.client.stream_message() => message?,
            () = tokio::time::sleep_until(self.status_due) => return self.send_status().await,
        };
        match message.split_first() {
            Some((b'w', rest)) => {
                let body = rest.get(24..).ok_or_else(|| malformed("a WAL message"))?;
                match parse(body).ok_or_else(|| malformed("a pgoutput message"))? {
                    Message::Relation(relation) => {
                        let relation = OwnedRelation::of(&relation);
                        self.meet(relation, changes).await
                    }
                    message => {
                        let state = State {
                            relations: &self.relations,
                            transaction: &mut self.transaction,
                            read: &mut self.read,
                        };
                        state.apply(message, changes)
                    }
                }
            }
            Some((b'k', rest)) => {
                let end =
                    rest.first_chunk().map(|end| u64::from_be_bytes(*end)).ok_or_else(|| malformed("a keepalive"))?;
                let answer = rest.get(16) == Some(&1);
                // Between transactions it tells of log that holds nothing for us.
                if self.transaction.is_none() && end > self.read {
                    self.read = end;
                    changes.resume = Some(Position::Lsn(end));
                }
                if answer { self.send_status().await } else { Ok(()) }
            }
            _ => Err(malformed("a message of the stream")),
        }
    }

    /// The server describes a relation before the first of its rows, and again when it has changed.
    async fn meet(&mut self, relation: OwnedRelation, changes: &mut Changes) -> Result<()> {
        if !(self.capture.selects)(&relation.name) {
            self.relations.insert(relation.oid, Known::NotSelected);
            return Ok(());
        }
        // The server describes it again after anything that might have changed it.
        if matches!(self.relations.get(&relation.oid), Some(Known::Captured(known)) if known.relation == relation) {
            return Ok(());
        }
        let table = *self.numbers.entry(relation.name.clone()).or_insert_with(|| {
            self.tables += 1;
            self.tables - 1
        });
        let version = self.version(&relation).await?;
        let settings = &self.source.endpoint().settings;
        let decodes =
            version.schema.columns.iter().map(|column| decode_as(column, self.capture.format, settings)).collect();
        self.relations.insert(relation.oid, Known::Captured(Captured { table, relation, decodes }));
        changes.entries.push(Entry::Table { table, version: Arc::new(version) });
        Ok(())
    }

    /// What the catalog knows of a relation, in the columns that the log has. The catalog is of now: a column that is no
    /// longer there is told by its type alone.
    async fn version(&self, relation: &OwnedRelation) -> Result<TableVersion> {
        let entry = TableEntry { name: relation.name.clone(), kind: TableKind::Table };
        let described = self.source.describe(&[entry]).await?.pop();
        let mut columns: Vec<Option<Column>> = relation
            .columns
            .iter()
            .map(|column| described.as_ref()?.columns.iter().find(|known| known.name == column.name).cloned())
            .collect();
        if columns.contains(&None) {
            let missing = relation.columns.iter().enumerate().filter(|(index, _)| columns[*index].is_none());
            let missing: Vec<(usize, u32, i32)> =
                missing.map(|(index, column)| (index, column.type_oid, column.type_modifier)).collect();
            for (index, native, data_type) in self.source.types(&missing).await? {
                let name = relation.columns[index].name.clone();
                columns[index] = Some(Column { name, data_type, native, nullable: true, generated: false });
            }
        }
        let columns: Option<Vec<Column>> = columns.into_iter().collect();
        let columns = columns.ok_or_else(|| malformed("a column of a type that the catalog does not have"))?;
        let by_name = |name: &str| columns.iter().position(|column| column.name == name);
        let key_of = |indexes: &[usize]| -> Vec<usize> {
            let names =
                described.iter().flat_map(|table| indexes.iter().map(|index| table.columns[*index].name.as_str()));
            names.map(by_name).collect::<Option<_>>().unwrap_or_default()
        };
        let (primary_key, unique_key) = match &described {
            Some(table) => (key_of(&table.primary_key), key_of(&table.unique_key)),
            None => (Vec::new(), Vec::new()),
        };
        let identity = (0..columns.len()).filter(|index| relation.columns[*index].key).collect();
        let schema = TableSchema {
            name: relation.name.clone(),
            kind: TableKind::Table,
            family: Family::PostgreSql,
            columns,
            primary_key,
            unique_key,
            rows_estimate: 0,
        };
        Ok(TableVersion { schema, identity })
    }
}

#[async_trait]
impl ChangeReader for PostgresChanges {
    async fn next(&mut self, changes: &mut Changes) -> Result<()> {
        changes.clear(self.capture.format);
        let doing = |error: Error| error.while_doing("read the log");
        loop {
            self.take(changes).await.map_err(doing)?;
            let full = changes.bytes() >= self.capture.batch_bytes;
            // What has begun in the middle of a transaction goes on at once; between two of them nobody knows.
            let pause = self.transaction.is_none() && !self.client.has_message();
            if !changes.is_empty() && (full || pause) {
                return Ok(());
            }
        }
    }

    async fn keep_alive(&mut self) -> Error {
        let mut ticks = interval_at(self.status_due, STATUS_INTERVAL);
        loop {
            ticks.tick().await;
            if let Err(error) = self.send_status().await {
                return error.while_doing("read the log");
            }
        }
    }

    async fn confirm(&mut self, position: &Position) -> Result<()> {
        if let Position::Lsn(lsn) = *position
            && lsn > self.confirmed
        {
            self.confirmed = lsn;
            self.send_status().await?;
        }
        Ok(())
    }
}

/// What a message changes.
struct State<'a> {
    relations: &'a HashMap<u32, Known>,
    transaction: &'a mut Option<Transaction>,
    read: &'a mut u64,
}

impl State<'_> {
    fn apply(self, message: Message<'_>, changes: &mut Changes) -> Result<()> {
        match message {
            Message::Begin { time, xid, .. } => *self.transaction = Some(Transaction { xid, time }),
            Message::Commit { end } => {
                let Transaction { xid, time } =
                    self.transaction.take().ok_or_else(|| malformed("a commit without a beginning"))?;
                *self.read = end;
                // A transaction that holds nothing for us moves the place all the same.
                if !matches!(changes.entries.last(), None | Some(Entry::Commit { .. })) {
                    let position = Position::Lsn(end);
                    changes.entries.push(Entry::Commit { transaction: xid.into(), time, position });
                }
                changes.resume = Some(Position::Lsn(end));
            }
            Message::Insert { relation, new } => {
                let Some(known) = self.known(relation)? else { return Ok(()) };
                let new = Some(known.row(new, Image::Whole, changes)?);
                changes.entries.push(Entry::Row { table: known.table, op: Op::Insert, old: None, new });
            }
            Message::Update { relation, old, new } => {
                let Some(known) = self.known(relation)? else { return Ok(()) };
                let old = old.map(|(image, tuple)| known.row(tuple, image, changes)).transpose()?;
                let new = Some(known.row(new, Image::Whole, changes)?);
                changes.entries.push(Entry::Row { table: known.table, op: Op::Update, old, new });
            }
            Message::Delete { relation, old: (image, tuple) } => {
                let Some(known) = self.known(relation)? else { return Ok(()) };
                let old = Some(known.row(tuple, image, changes)?);
                changes.entries.push(Entry::Row { table: known.table, op: Op::Delete, old, new: None });
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    if let Some(known) = self.known(relation)? {
                        changes.entries.push(Entry::Truncate { table: known.table });
                    }
                }
            }
            Message::Relation(_) | Message::Origin { .. } | Message::Other => {}
        }
        Ok(())
    }

    fn known(&self, relation: u32) -> Result<Option<&Captured>> {
        match self.relations.get(&relation) {
            Some(Known::Captured(captured)) => Ok(Some(captured)),
            Some(Known::NotSelected) => Ok(None),
            None => Err(malformed("a row of a relation that was not described")),
        }
    }
}

impl Captured {
    /// Appends a row and gives its number.
    fn row(&self, tuple: Tuple<'_>, image: Image, changes: &mut Changes) -> Result<u32> {
        if tuple.len() != self.decodes.len() {
            return Err(malformed("a row with other columns than its relation"));
        }
        let number = changes.next_row();
        let batch: &mut Batch = &mut changes.rows;
        for ((field, decode), column) in tuple.zip(&self.decodes).zip(&self.relation.columns) {
            match field {
                _ if image == Image::Key && !column.key => batch.push(Value::Absent),
                Field::Null => batch.push(Value::Null),
                Field::Unchanged => batch.push(Value::Absent),
                Field::Text(text) => decode_unescaped(text, *decode, batch),
            }
        }
        batch.end_row();
        Ok(number)
    }
}

/// A relation that outlives the message it came in.
#[derive(PartialEq)]
struct OwnedRelation {
    oid: u32,
    name: TableName,
    columns: Vec<OwnedColumn>,
}

#[derive(PartialEq)]
struct OwnedColumn {
    name: String,
    key: bool,
    type_oid: u32,
    type_modifier: i32,
}

impl OwnedRelation {
    fn of(relation: &Relation<'_>) -> OwnedRelation {
        let column = |column: &RelationColumn<'_>| OwnedColumn {
            name: column.name.to_owned(),
            key: column.key,
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        };
        OwnedRelation {
            oid: relation.oid,
            name: TableName::new(relation.schema, relation.table),
            columns: relation.columns.iter().map(column).collect(),
        }
    }
}

fn malformed(what: &str) -> Error {
    Error::fatal(format!("the server does not speak the logical replication protocol: it sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_slot_like_dms_and_always_the_same() {
        let name = slot_name("Y2R2KWWLCFENFE4LABCDEFGHIJ");
        let pattern = regex_lite::Regex::new("^y2r2kwwlcfenfe4l_[0-9]{8}_[0-9a-f]{8}(_[0-9a-f]{4}){3}_[0-9a-f]{12}$");
        assert!(pattern.unwrap().is_match(&name), "{name}");
        assert_eq!(name, slot_name("Y2R2KWWLCFENFE4LABCDEFGHIJ"));
        assert_ne!(name, slot_name("Y2R2KWWLCFENFE4LABCDEFGHIK"));
        assert!(name.starts_with(&publications("Y2R2KWWLCFENFE4LABCDEFGHIJ")[0]["dms_".len()..]));
        assert!(publications(&"x".repeat(40)).iter().all(|name| name.len() <= 63));
    }
}
