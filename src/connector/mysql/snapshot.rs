//! Reading tables of one moment over several connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::changes::log_end;
use super::decode::{Decoder, cut_text};
use super::source::MySqlSource;
use super::type_map::{base, is_binary};
use super::wire::{Client, Field, LocalFiles, Step, value_at};
use super::{Settings, Side, connect, quote_name, quote_table};
use crate::connector::{Connection, ReadPlan, Reader, Snapshot};
use crate::data::{Batch, Column, Error, ErrorKind, Format, Position, Result, TableName, TableSchema};

/// Attempts to open all readers between two commits of a server that cannot be stopped for a moment.
const ATTEMPTS: usize = 10;

/// The global read lock waits at most this long for running statements: everybody else waits behind it.
const LOCK_WAIT_SECONDS: u32 = 5;

const TABLE_DEFINITION_CHANGED: i64 = 1412;

/// Opens `readers` sessions that see the same moment, or one if the server allows no more.
pub(super) async fn open(connection: &Connection, settings: &Settings, readers: usize) -> Result<MySqlSnapshot> {
    let mut clients = sessions(connection, settings, readers).await?;
    if readers > 1 {
        clients = match share_under_lock(connection, settings, clients, "FLUSH TABLES WITH READ LOCK").await? {
            Ok((shared, _)) => shared,
            Err((mut others, _)) => {
                if share_between_commits(&mut others).await?.is_none() {
                    leave_one(&mut others);
                }
                others
            }
        };
    } else {
        begin_all(&mut clients).await?;
    }
    Ok(of_clients(connection, settings, clients))
}

/// The same, and the place in the log at which that moment is: all before it shows, and nothing after it. Only the
/// `tables` are sure to be seen like that.
pub(super) async fn open_in_log(
    source: &MySqlSource,
    readers: usize,
    tables: &[TableName],
) -> Result<(MySqlSnapshot, Position)> {
    let (connection, settings) = (source.connection(), source.settings());
    let clients = sessions(connection, settings, readers.max(1)).await?;
    let (mut clients, refused) =
        match share_under_lock(connection, settings, clients, "FLUSH TABLES WITH READ LOCK").await? {
            Ok((clients, position)) => return Ok((of_clients(connection, settings, clients), position)),
            Err(refused) => refused,
        };
    if let Some(position) = share_between_commits(&mut clients).await? {
        return Ok((of_clients(connection, settings, clients), position));
    }
    // Whoever has changed one of these tables has committed before they are locked, and nobody changes them after.
    let names: Vec<String> = tables.iter().map(|name| format!("{} READ", quote_table(name))).collect();
    let lock = match names.as_slice() {
        [] => "DO 0".to_owned(),
        names => format!("LOCK TABLES {}", names.join(",")),
    };
    match share_under_lock(connection, settings, clients, &lock).await? {
        Ok((clients, position)) => Ok((of_clients(connection, settings, clients), position)),
        Err((_, error)) if is_busy(&refused) || is_busy(&error) => {
            Err(if is_busy(&refused) { refused } else { error }.while_doing("lock the source for a moment"))
        }
        Err((_, error)) => Err(Error::fatal(format!(
            "the source does not allow to see its tables and its log at the same moment: grant RELOAD to the user of the \
             endpoint, or LOCK TABLES on the databases (FLUSH TABLES WITH READ LOCK: {refused}; LOCK TABLES: {error})"
        ))),
    }
}

/// The lock may be had later.
fn is_busy(error: &Error) -> bool {
    error.kind == ErrorKind::Recoverable
}

async fn sessions(connection: &Connection, settings: &Settings, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        clients.push(connect(connection, settings, Side::Source).await?);
    }
    Ok(clients)
}

fn of_clients(connection: &Connection, settings: &Settings, mut clients: Vec<Client>) -> MySqlSnapshot {
    for client in &mut clients {
        client.set_timeout(None);
    }
    let pool = Pool {
        readers: clients.len(),
        free: Arc::new(Semaphore::new(clients.len())),
        clients: Mutex::new(clients),
        connection: connection.clone(),
        connect_timeout: settings.connect_timeout,
    };
    MySqlSnapshot { pool: Arc::new(pool) }
}

async fn begin(client: &mut Client) -> Result<()> {
    client.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    client.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
    Ok(())
}

async fn begin_all(clients: &mut [Client]) -> Result<()> {
    for client in clients {
        begin(client).await?;
    }
    Ok(())
}

/// Stops all writers for the moment it takes to open the transactions and to see where the log is. Gives the clients back
/// where that is not allowed or would take long, with the reason.
async fn share_under_lock(
    connection: &Connection,
    settings: &Settings,
    mut clients: Vec<Client>,
    lock: &str,
) -> Result<std::result::Result<(Vec<Client>, Position), (Vec<Client>, Error)>> {
    let mut control = connect(connection, settings, Side::Source).await?;
    // Without autocommit the engine locks tables too, and so waits for open transactions (MySQL 5.6).
    control.run(&format!("SET SESSION lock_wait_timeout={LOCK_WAIT_SECONDS}, autocommit=0")).await?;
    if let Err(error) = control.run(lock).await {
        if control.is_busy() {
            return Err(error);
        }
        tracing::debug!(%error, "the source cannot be locked for a moment");
        control.close().await;
        return Ok(Err((clients, error)));
    }
    let begun = begin_all(&mut clients).await;
    let position = log_end(&mut control).await;
    // The lock goes with its session, whatever happens to the statement.
    let unlocked = control.run("UNLOCK TABLES").await;
    control.close().await;
    begun?;
    unlocked?;
    Ok(Ok((clients, position?)))
}

/// MariaDB tells at which position of its binary log a snapshot stands: those at the same position see the same rows. Where
/// it is never the same, there is one reader. `None`: the server tells no position, and who sees what is not known.
async fn share_between_commits(clients: &mut Vec<Client>) -> Result<Option<Position>> {
    let mut attempts = 0;
    loop {
        begin_all(clients).await?;
        let mut positions = Vec::new();
        for client in clients.iter_mut() {
            let status = client.rows("SHOW STATUS LIKE 'binlog\\_snapshot\\_%'").await?;
            let Some(position) = snapshot_position(&status) else { return Ok(None) };
            positions.push(position);
        }
        if let Some(position) = positions.pop().filter(|last| positions.iter().all(|position| position == last)) {
            return Ok(Some(position));
        }
        attempts += 1;
        if attempts >= ATTEMPTS {
            leave_one(clients);
        }
    }
}

fn leave_one(clients: &mut Vec<Client>) {
    tracing::warn!(
        "the source cannot show one moment to several connections: tables are read one after the other \
         (grant RELOAD to the user of the endpoint to read several at once)"
    );
    clients.truncate(1);
}

fn snapshot_position(status: &[Vec<Option<String>>]) -> Option<Position> {
    let value = |name: &str| {
        let row = status.iter().find(|row| row[0].as_deref().is_some_and(|known| known.eq_ignore_ascii_case(name)))?;
        row.get(1)?.clone().filter(|value| !value.is_empty() && value != "0")
    };
    let (file, offset) = (value("binlog_snapshot_file")?, value("binlog_snapshot_position")?);
    Some(Position::Binlog { file, offset: offset.parse().ok()? })
}

pub(super) struct MySqlSnapshot {
    pool: Arc<Pool>,
}

/// The sessions of a snapshot. One that is lost cannot be replaced: its moment is over.
struct Pool {
    readers: usize,
    free: Arc<Semaphore>,
    clients: Mutex<Vec<Client>>,
    connection: Connection,
    connect_timeout: Duration,
}

impl Pool {
    fn give_back(&self, client: Client) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }
}

#[async_trait]
impl Snapshot for MySqlSnapshot {
    fn readers(&self) -> usize {
        self.pool.readers
    }

    fn formats(&self, _: &TableSchema, _: &[usize], _: Option<u64>) -> Vec<Format> {
        vec![Format::Text, Format::Values]
    }

    async fn read(&self, plan: ReadPlan) -> Result<Box<dyn Reader>> {
        let table = plan.table.name.to_string();
        let permit = Arc::clone(&self.pool.free).acquire_owned().await.map_err(|_| lost_snapshot())?;
        let client = self.pool.clients.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut client = client.ok_or_else(lost_snapshot)?;
        let columns: Vec<ReadColumn> =
            plan.columns.iter().map(|index| ReadColumn::of(&plan.table.columns[*index], &plan)).collect();
        if let Err(error) = client.select(&select(&plan.table, &columns)).await {
            if !client.is_busy() {
                self.pool.give_back(client);
            }
            return Err(of_snapshot(error).while_doing(format!("read {table}")));
        }
        let reader = TableReader {
            slot: Some(Slot { client, pool: Arc::clone(&self.pool), _permit: permit }),
            table,
            format: plan.format,
            columns,
            batch_rows: plan.batch_rows.max(1),
            batch_bytes: plan.batch_bytes.max(1),
            long: None,
        };
        Ok(Box::new(reader))
    }
}

fn lost_snapshot() -> Error {
    Error::new(ErrorKind::Recoverable, "a connection of the snapshot was lost: its view of the source is gone")
}

fn select(table: &TableSchema, columns: &[ReadColumn]) -> String {
    let list: Vec<&str> = columns.iter().map(|column| column.expression.as_str()).collect();
    // A plan without columns still counts rows; their only value is left out.
    let list = if list.is_empty() { "NULL".to_owned() } else { list.join(",") };
    format!("SELECT {list} FROM {}", quote_table(&table.name))
}

/// How one column is selected and understood.
struct ReadColumn {
    expression: String,
    decoder: Decoder,
    /// The LOB limit, where it applies. One byte more is selected, which tells that there was more.
    bytes_max: Option<u64>,
}

impl ReadColumn {
    fn of(column: &Column, plan: &ReadPlan) -> ReadColumn {
        let name = quote_name(&column.name);
        let base = base(&column.native).to_ascii_lowercase();
        let binary = is_binary(&base);
        let decoder = match plan.format {
            Format::Values => Decoder::of(column.data_type, base == "float"),
            _ if binary => Decoder::Raw,
            _ => Decoder::Text,
        };
        let bytes_max = plan.lob_bytes_max.filter(|_| column.data_type.is_lob());
        let expression = match bytes_max {
            Some(most) if binary => format!("LEFT({name},{})", most.saturating_add(1)),
            Some(most) => format!("LEFT(CAST(CONVERT({name} USING utf8mb4) AS BINARY),{})", most.saturating_add(1)),
            // A FLOAT prints six digits, a DOUBLE(m,d) d of them; a double all that tell it from its neighbours.
            None if matches!(base.as_str(), "float" | "double" | "real") => format!("{name}*1e0"),
            None => name,
        };
        ReadColumn { expression, decoder, bytes_max }
    }

    /// Pushes a value that is in memory as a whole.
    #[inline]
    fn push(&self, bytes: &[u8], batch: &mut Batch) -> Result<()> {
        match self.bytes_max {
            Some(most) if bytes.len() as u64 > most => {
                batch.add_truncated(1);
                self.decoder.push(&bytes[..self.cut(bytes, most as usize)], batch)
            }
            _ => self.decoder.push(bytes, batch),
        }
    }

    /// Where to cut so that at most `most` bytes are left and no character is split.
    fn cut(&self, bytes: &[u8], most: usize) -> usize {
        if self.decoder == Decoder::Text { cut_text(bytes, most) } else { most.min(bytes.len()) }
    }
}

/// A connection of the pool while it is lent to a reader.
struct Slot {
    client: Client,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

struct TableReader {
    /// `None` once the table is read: the connection is back in the pool.
    slot: Option<Slot>,
    /// For errors.
    table: String,
    format: Format,
    columns: Vec<ReadColumn>,
    batch_rows: usize,
    batch_bytes: usize,
    /// The row too long for the read buffer that is under way.
    long: Option<LongRow>,
}

#[derive(Clone, Copy)]
struct LongRow {
    /// Columns whose values are pushed, or begun.
    column: usize,
    /// The value of `column` is begun: so many bytes are still to come …
    left: u64,
    /// … of which the last so many are beyond the LOB limit.
    excess: u64,
    begun: bool,
}

#[async_trait]
impl Reader for TableReader {
    async fn next(&mut self, batch: &mut Batch) -> Result<bool> {
        batch.clear(self.format);
        let filled = self.fill(batch).await;
        filled.map_err(|error| of_snapshot(error).while_doing(format!("read {}", self.table)))?;
        Ok(!batch.is_empty() || batch.rows() > 0)
    }
}

/// What is to be said of a statement that reads from a snapshot: of a table whose definition has changed after it, a
/// TRUNCATE being such a change, it shows nothing.
fn of_snapshot(error: Error) -> Error {
    match error.native {
        Some(TABLE_DEFINITION_CHANGED) => error.into_kind(ErrorKind::Redefined),
        _ => error,
    }
}

impl TableReader {
    async fn fill(&mut self, batch: &mut Batch) -> Result<()> {
        while batch.rows() < self.batch_rows && batch.bytes() < self.batch_bytes {
            if self.long.is_some() {
                if self.read_long_row(batch).await? == Progress::BatchFull {
                    break;
                }
                continue;
            }
            let Some(slot) = self.slot.as_mut() else { break };
            match slot.client.step()? {
                Step::Row(range) => {
                    let row = slot.client.bytes(range);
                    push_row(&self.columns, row, batch)?;
                }
                Step::Wait => slot.client.fill().await?,
                Step::LongRow => self.long = Some(LongRow { column: 0, left: 0, excess: 0, begun: false }),
                Step::End => {
                    if let Some(Slot { client, pool, .. }) = self.slot.take() {
                        pool.give_back(client);
                    }
                }
            }
        }
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Progress {
    RowEnded,
    BatchFull,
}

#[inline]
fn push_row(columns: &[ReadColumn], row: &[u8], batch: &mut Batch) -> Result<()> {
    let mut at = 0;
    for column in columns {
        let (value, next) = value_at(row, at).ok_or_else(malformed)?;
        match value {
            None => batch.push(crate::data::Value::Null),
            Some(bytes) => column.push(bytes, batch)?,
        }
        at = next;
    }
    batch.end_row();
    Ok(())
}

fn malformed() -> Error {
    Error::recoverable("the server sent a malformed row")
}

impl TableReader {
    /// Reads on in a long row until it ends or the batch is full.
    async fn read_long_row(&mut self, batch: &mut Batch) -> Result<Progress> {
        let (Some(slot), Some(mut row)) = (self.slot.as_mut(), self.long) else { return Err(malformed()) };
        let client = &mut slot.client;
        let mut carried = row.begun;
        while row.column < self.columns.len() {
            let column = &self.columns[row.column];
            if !row.begun {
                match client.field().await? {
                    Field::Null => {
                        batch.push(crate::data::Value::Null);
                        row.column += 1;
                        continue;
                    }
                    Field::Bytes(len) => row.left = len,
                }
            }
            if !column.decoder.is_divisible() || (!row.begun && row.left <= SHORT) {
                let bytes = gather(client, row.left).await?;
                column.push(&bytes, batch)?;
                row.column += 1;
                continue;
            }
            if !row.begun {
                row.begun = true;
                row.excess = 0;
                if column.bytes_max.is_some_and(|most| row.left > most) {
                    batch.add_truncated(1);
                    row.excess = column.bytes_max.map_or(0, |most| row.left - most);
                }
            }
            let more = push_pieces(client, column, &mut row, batch, self.batch_bytes, carried).await?;
            carried = false;
            if more {
                batch.leave_open();
                self.long = Some(row);
                return Ok(Progress::BatchFull);
            }
            row.begun = false;
            row.column += 1;
        }
        client.end_long_row().await?;
        batch.end_row();
        self.long = None;
        Ok(Progress::RowEnded)
    }
}

/// Values up to this many bytes are never spread.
const SHORT: u64 = 64 << 10;

/// Bytes at the end of a cut value that are looked at together, to find the character boundary.
const TAIL: u64 = 8;

async fn gather(client: &mut Client, len: u64) -> Result<Vec<u8>> {
    // Numbers and dates are short whatever a server says; the limit is for servers that are none.
    if len > SHORT {
        return Err(malformed());
    }
    let mut bytes = Vec::with_capacity(len as usize);
    while (bytes.len() as u64) < len {
        let piece = client.piece(len - bytes.len() as u64).await?;
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}

/// Pushes one value, as far as the batch has room, as it comes from the socket. True if some of it is left.
async fn push_pieces(
    client: &mut Client,
    column: &ReadColumn,
    row: &mut LongRow,
    batch: &mut Batch,
    batch_bytes: usize,
    carried: bool,
) -> Result<bool> {
    let mut tail = Vec::new();
    // How much fits; at least something, so that every batch gets on.
    let mut room = batch_bytes.saturating_sub(batch.bytes()).max(1 << 10) as u64;
    let keep_together = if row.excess > 0 { TAIL } else { 0 };
    let mut received = Vec::new();
    while row.left > keep_together && room > 0 {
        let piece = client.piece((row.left - keep_together).min(room)).await?;
        received.extend_from_slice(piece);
        row.left -= piece.len() as u64;
        room -= piece.len() as u64;
    }
    let more = row.left > keep_together;
    if !more && row.left > 0 {
        tail = gather(client, row.left).await?;
        let cut = column.cut(&tail, tail.len() - row.excess as usize);
        tail.truncate(cut);
        row.left = 0;
    }
    if carried {
        batch.carry_on();
    }
    let write = |arena: &mut Vec<u8>| {
        arena.extend_from_slice(&received);
        arena.extend_from_slice(&tail);
        Ok(())
    };
    match column.decoder {
        Decoder::Raw => batch.push_bytes_with(write),
        _ => batch.push_string_with(write),
    }?;
    Ok(more)
}

impl Drop for TableReader {
    /// Gives the connection back. A query that still runs is killed first, which leaves its transaction alone: the
    /// snapshot lives on.
    fn drop(&mut self) {
        let Some(Slot { client, pool, _permit }) = self.slot.take() else { return };
        if !client.is_busy() {
            pool.give_back(client);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            match tokio::time::timeout(Duration::from_secs(30), cancel(client, &pool)).await {
                Ok(Ok(client)) => pool.give_back(client),
                Ok(Err(error)) => tracing::debug!(%error, "a reader's connection was lost when its query was stopped"),
                Err(_) => tracing::debug!("a reader's query could not be stopped in 30 s"),
            }
            drop(_permit);
        });
    }
}

/// Ends the query of a connection, reads what is left of its answer, and hands the connection back idle.
async fn cancel(mut client: Client, pool: &Pool) -> Result<Client> {
    let mut control = Client::connect(&pool.connection, LocalFiles::Refused, pool.connect_timeout).await?;
    control.run(&format!("KILL QUERY {}", client.id())).await?;
    control.close().await;
    client.skip_rows().await?;
    // The kill may have come after the last row: then it hits this statement and no later one.
    match client.run("DO 0").await {
        Err(error) if client.is_busy() => Err(error),
        _ => Ok(client),
    }
}
