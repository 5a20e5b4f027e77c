//! Reading a PostgreSQL database as it was at one moment.
//!
//! One session exports its snapshot and stays idle in its transaction; every reader is a session of its own that has
//! taken the snapshot over.
//! <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION>

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::copy::{BINARY_HEADER, BINARY_TRAILER, Decode, Partial, Step, decode_row};
use super::type_map::NativeType;
use super::wire::{Client, INPUT_BYTES, Piece};
use super::{Endpoint, Settings, check_version, sql};
use crate::connector::{ReadPlan, Reader, Snapshot};
use crate::data::{Batch, Column, DataType, Error, Family, Format, Result, TableSchema, Value};

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// A CHAR longer than this loses its padding on the server, because it may not fit the read buffer.
const TRIMMED_HERE_MAX: i32 = (INPUT_BYTES / 5) as i32;

pub struct PostgresSnapshot {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
    readers: usize,
}

/// The sessions that see the snapshot.
struct Pool {
    endpoint: Endpoint,
    /// As `SET TRANSACTION SNAPSHOT` takes it; `None` where the server cannot share one.
    name: Option<String>,
    encoding: String,
    idle: Mutex<Vec<Client>>,
    /// Its open transaction keeps the snapshot alive.
    _exporter: Option<Client>,
}

impl PostgresSnapshot {
    pub async fn open(endpoint: Endpoint, readers: usize) -> Result<PostgresSnapshot> {
        let mut client = endpoint.connect().await?;
        check_version(&client)?;
        client.query(BEGIN).await?;
        let encoding = encoding(&mut client).await?;
        let exported = client.query("SELECT pg_catalog.pg_export_snapshot()").await;
        let pool =
            |name, idle, exporter| Pool { endpoint, name, encoding, idle: Mutex::new(idle), _exporter: exporter };
        let (pool, readers) = match exported {
            Ok(name) => (pool(Some(text(name)), Vec::new(), Some(client)), readers),
            // A standby before version 10, for one.
            Err(error) if error.sqlstate.is_some() => {
                client.query("ROLLBACK").await?;
                client.query(BEGIN).await?;
                (pool(None, vec![client], None), 1)
            }
            Err(error) => return Err(error),
        };
        Ok(PostgresSnapshot::with(pool, readers))
    }

    /// The snapshot that was exported by this session, which has to stay as it is.
    pub async fn of(endpoint: Endpoint, name: String, exporter: Client, readers: usize) -> Result<PostgresSnapshot> {
        let encoding = encoding(&mut endpoint.connect().await?).await?;
        let pool = Pool { endpoint, name: Some(name), encoding, idle: Mutex::default(), _exporter: Some(exporter) };
        Ok(PostgresSnapshot::with(pool, readers))
    }

    fn with(pool: Pool, readers: usize) -> PostgresSnapshot {
        PostgresSnapshot { pool: Arc::new(pool), permits: Arc::new(Semaphore::new(readers)), readers }
    }
}

/// `UTF8`, `SQL_ASCII` or `other`, of which lengths are counted in what is sent.
async fn encoding(client: &mut Client) -> Result<String> {
    let encoding = text(client.query("SELECT pg_catalog.getdatabaseencoding()").await?);
    Ok(if encoding == "SQL_ASCII" || encoding == "UTF8" { encoding } else { "other".into() })
}

fn text(rows: Vec<Vec<Option<String>>>) -> String {
    rows.into_iter().flatten().flatten().next().unwrap_or_default()
}

impl Pool {
    async fn session(&self) -> Result<Client> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(client) = idle {
            return Ok(client);
        }
        let Some(name) = &self.name else {
            return Err(Error::recoverable("the connection that held the snapshot was lost"));
        };
        let mut client = self.endpoint.connect().await?;
        client.query(BEGIN).await?;
        let taken_over = client.query(&format!("SET TRANSACTION SNAPSHOT {}", sql::literal(name))).await;
        // The server refuses when the exporting session is gone: a new snapshot is needed.
        taken_over.map_err(|error| error.into_kind(crate::data::ErrorKind::Recoverable))?;
        Ok(client)
    }

    fn give_back(&self, client: Client) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    fn readers(&self) -> usize {
        self.readers
    }

    fn formats(&self, table: &TableSchema, columns: &[usize], lob_bytes_max: Option<u64>) -> Vec<Format> {
        let mut formats = Vec::with_capacity(3);
        let binary = |column: &Column| {
            let native = NativeType::parse(&column.native);
            let cut = lob_bytes_max.is_some() && column.data_type.is_lob();
            native.is_portable_binary() && (!cut || keeps_type_when_cut(&native))
        };
        if table.family == Family::PostgreSql && columns.iter().all(|index| binary(&table.columns[*index])) {
            formats.push(Format::PostgresCopy);
        }
        formats.extend([Format::Text, Format::Values]);
        formats
    }

    async fn read(&self, plan: ReadPlan) -> Result<Box<dyn Reader>> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::recoverable("the snapshot is closed"))?;
        let what = format!("read {}", plan.table.name);
        let doing = |error: Error| error.while_doing(what.clone());
        let mut client = self.pool.session().await.map_err(doing)?;
        let statement = match plan.columns.is_empty() {
            // A table without columns has rows that nothing tells apart and no target could be sent.
            true => None,
            false => Some(Select::new(&plan, &self.pool).statement(&mut client, &plan).await.map_err(doing)?),
        };
        if let Some(statement) = &statement {
            client.copy_out(statement).await.map_err(doing)?;
        }
        Ok(Box::new(PostgresReader {
            rows: Rows::new(&plan, &self.pool.endpoint.settings),
            place: Some((client, permit)),
            ended: statement.is_none(),
            pool: self.pool.clone(),
            what,
        }))
    }
}

/// Whether the cut expression of a LOB column is of the column's own type.
fn keeps_type_when_cut(native: &NativeType) -> bool {
    !native.array && matches!(native.name.as_str(), "text" | "character varying" | "bytea")
}

/// What is asked of the server for a plan.
struct Select {
    expressions: Vec<String>,
    /// How many values of the row are cut; the first column where there is a limit.
    cut: Vec<String>,
    limited: bool,
    /// Each column is asked for as it is.
    plain: bool,
    money: bool,
}

impl Select {
    fn new(plan: &ReadPlan, pool: &Pool) -> Select {
        let limit = plan.lob_bytes_max.and_then(|limit| i32::try_from(limit).ok());
        let mut select = Select {
            expressions: Vec::with_capacity(plan.columns.len() + 1),
            cut: Vec::new(),
            limited: limit.is_some(),
            plain: true,
            money: false,
        };
        for column in plan.columns.iter().map(|index| &plan.table.columns[*index]) {
            let native = NativeType::parse(&column.native);
            let name = sql::identifier(&column.name);
            select.money |= native.name == "money";
            select.plain &= !column.generated;
            let expression = match (limit, plan.format) {
                (Some(limit), _) if column.data_type.is_lob() => {
                    let (expression, is_cut) = cut(&name, &native, limit, &pool.encoding);
                    select.cut.push(is_cut);
                    expression
                }
                // Only the server knows how many digits follow the point.
                (_, Format::Values) if native.name == "money" && !native.array => format!("{name}::pg_catalog.numeric"),
                (_, Format::Values) if trims_on_server(&native, &pool.endpoint.settings) => {
                    format!("{name}::pg_catalog.text")
                }
                _ => {
                    select.expressions.push(name);
                    continue;
                }
            };
            select.plain = false;
            select.expressions.push(expression);
        }
        select.plain &= !select.limited;
        select
    }

    async fn statement(mut self, client: &mut Client, plan: &ReadPlan) -> Result<String> {
        let table = sql::table(&plan.table.name);
        let format = match plan.format {
            Format::PostgresCopy => "binary",
            Format::Text | Format::Values => "text",
        };
        if self.limited {
            let count = if self.cut.is_empty() { "0".into() } else { self.cut.join(" + ") };
            self.expressions.insert(0, count);
        }
        let expressions = self.expressions.join(", ");
        // The short form spares the server its executor, but reads neither views nor partitions nor children.
        let copy = match self.plain && is_single(client, plan).await? {
            true => format!("COPY {table} ({expressions}) TO STDOUT (FORMAT {format})"),
            false => format!("COPY (SELECT {expressions} FROM {table}) TO STDOUT (FORMAT {format})"),
        };
        // Money is written as the locale says; in text form it is read again under the C locale.
        let locale = match plan.format {
            Format::Text if self.money => "SET LOCAL lc_monetary = 'C'; ",
            Format::Values if self.money => "SET LOCAL lc_monetary TO DEFAULT; ",
            _ => "",
        };
        Ok(format!("{locale}{copy}"))
    }
}

async fn is_single(client: &mut Client, plan: &ReadPlan) -> Result<bool> {
    let name = &plan.table.name;
    let sql = format!(
        "SELECT c.relkind = 'r' AND NOT c.relhassubclass FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        sql::literal(&name.schema),
        sql::literal(&name.table)
    );
    Ok(text(client.query(&sql).await?) == "t")
}

fn trims_on_server(native: &NativeType, settings: &Settings) -> bool {
    settings.trim_space_in_char
        && native.name == "character"
        && !native.array
        && native.arguments.first().is_some_and(|length| *length > TRIMMED_HERE_MAX)
}

/// An expression for at most `limit` bytes of a LOB column, text cut before the character that goes beyond, and one
/// that is 1 where it cuts and 0 where it does not.
fn cut(name: &str, native: &NativeType, limit: i32, encoding: &str) -> (String, String) {
    if native.name == "bytea" && !native.array {
        let over = format!("pg_catalog.octet_length({name}) > {limit}");
        let expression = format!("CASE WHEN {over} THEN pg_catalog.substr({name}, 1, {limit}) ELSE {name} END");
        return (expression, format!("CASE WHEN {over} THEN 1 ELSE 0 END"));
    }
    let text = if keeps_type_when_cut(native) { name.to_owned() } else { format!("{name}::pg_catalog.text") };
    // Bytes count as they are sent. The length of a stored text is known without reading it where nothing is
    // converted.
    let (length, encoding) = match encoding {
        "UTF8" => (format!("pg_catalog.octet_length({text})"), "UTF8"),
        "SQL_ASCII" => (format!("pg_catalog.octet_length({text})"), "SQL_ASCII"),
        _ => (format!("pg_catalog.octet_length(pg_catalog.convert_to({text}, 'UTF8'))"), "UTF8"),
    };
    let over = format!("{length} > {limit}");
    // A byte that carries a character on has the bits 10 in front; a character has at most three of them.
    let begins = |at: i32| format!("pg_catalog.get_byte(b, {at}) & 192 <> 128");
    let mut end = (limit - 3).max(0).to_string();
    for at in (limit - 2).max(1)..=limit {
        end = format!("CASE WHEN {} THEN {at} ELSE {end} END", begins(at));
    }
    let expression = format!(
        "CASE WHEN {over} THEN (SELECT pg_catalog.convert_from(pg_catalog.substr(b, 1, {end}), '{encoding}') \
         FROM (SELECT pg_catalog.convert_to(pg_catalog.\"left\"({text}, {}), '{encoding}') AS b OFFSET 0) AS c) \
         ELSE {text} END",
        i64::from(limit) + 1
    );
    (expression, format!("CASE WHEN {over} THEN 1 ELSE 0 END"))
}

/// How the values of a column become values of its DMS type.
pub fn decode_as(column: &Column, format: Format, settings: &Settings) -> Decode {
    let native = NativeType::parse(&column.native);
    if format == Format::Text || native.array {
        return Decode::Text;
    }
    match column.data_type {
        DataType::Boolean => Decode::Bool,
        DataType::Int1 | DataType::Int2 | DataType::Int4 | DataType::Int8 => Decode::Int,
        DataType::UInt1 | DataType::UInt2 | DataType::UInt4 => Decode::Int,
        DataType::UInt8 => Decode::UInt,
        DataType::Real4 => Decode::Real4,
        DataType::Real8 => Decode::Real8,
        DataType::Numeric { .. } => Decode::Numeric,
        DataType::String { .. } if native.name == "boolean" => Decode::BoolText,
        DataType::WString { .. } if native.name == "character" && settings.trim_space_in_char => {
            if trims_on_server(&native, settings) { Decode::Text } else { Decode::TrimmedText }
        }
        DataType::Bytes { .. } | DataType::Blob if native.name == "bytea" => Decode::Bytea,
        DataType::Date => Decode::Date,
        DataType::Time { .. } => Decode::Time,
        DataType::DateTime { .. } => Decode::Timestamp,
        DataType::String { .. } | DataType::WString { .. } => Decode::Text,
        DataType::Bytes { .. } | DataType::Blob | DataType::Clob | DataType::NClob => Decode::Text,
    }
}

struct PostgresReader {
    /// The session that is read from and its place among the readers; given back at the end, gone after an error.
    place: Option<(Client, OwnedSemaphorePermit)>,
    pool: Arc<Pool>,
    rows: Rows,
    ended: bool,
    what: String,
}

#[async_trait]
impl Reader for PostgresReader {
    async fn next(&mut self, batch: &mut Batch) -> Result<bool> {
        batch.clear(self.rows.format);
        if !self.ended {
            // A session that failed, or whose answer we stop reading here, is of no more use.
            let Some((mut client, permit)) = self.place.take() else {
                return Err(Error::recoverable("an earlier read failed").while_doing(self.what.clone()));
            };
            match self.rows.fill(&mut client, batch).await {
                Ok(ended) => self.ended = ended,
                Err(error) => return Err(error.while_doing(self.what.clone())),
            }
            self.place = Some((client, permit));
        }
        if self.ended
            && let Some((client, permit)) = self.place.take()
        {
            self.pool.give_back(client);
            drop(permit);
        }
        Ok(!batch.is_empty())
    }
}

/// The rows of one COPY OUT on their way into batches.
struct Rows {
    format: Format,
    columns: Vec<Decode>,
    batch_rows: usize,
    batch_bytes: usize,
    /// The most of a row that is taken into one batch.
    piece_bytes: usize,
    /// Every row begins with the number of its values that are cut.
    counts_cut: bool,
    fails_on_cut: bool,
    /// The binary format's header is still to come.
    header: bool,
    row: RowState,
}

enum RowState {
    /// The next bytes begin a row.
    Start,
    /// A row of text too large for one batch.
    Partial(Partial),
    /// A row in the binary format too large for one batch, the first bytes of which have been replaced by these.
    Opaque { begin: Option<[u8; 2]>, open: bool },
}

/// What a row needs to be read on.
enum Need {
    Bytes,
    Message,
    /// The batch is complete.
    Nothing,
}

/// What comes before a row's own bytes.
struct Before {
    bytes: usize,
    cut: u64,
    /// The field count of a binary row, where its first field has been taken off.
    begin: Option<[u8; 2]>,
}

impl Rows {
    fn new(plan: &ReadPlan, settings: &Settings) -> Rows {
        let columns: Vec<Decode> =
            plan.columns.iter().map(|index| decode_as(&plan.table.columns[*index], plan.format, settings)).collect();
        let cells = (columns.len() + 1) * size_of::<[u64; 2]>();
        Rows {
            format: plan.format,
            batch_rows: plan.batch_rows.max(1),
            batch_bytes: plan.batch_bytes,
            piece_bytes: plan.batch_bytes.saturating_sub(cells).max(1024),
            columns,
            counts_cut: plan.lob_bytes_max.is_some_and(|limit| i32::try_from(limit).is_ok()),
            fails_on_cut: settings.fail_tasks_on_lob_truncation,
            header: plan.format == Format::PostgresCopy,
            row: RowState::Start,
        }
    }

    /// Fills the batch; `true` when the table has ended.
    async fn fill(&mut self, client: &mut Client, batch: &mut Batch) -> Result<bool> {
        if matches!(&self.row, RowState::Opaque { open: true, .. })
            || matches!(&self.row, RowState::Partial(partial) if partial.is_open())
        {
            batch.carry_on();
        }
        loop {
            match self.take(client, batch)? {
                Need::Bytes => client.fill().await?,
                Need::Message => {
                    if !client.copy_out_message().await? {
                        return Ok(true);
                    }
                }
                Need::Nothing => return Ok(false),
            }
        }
    }

    /// Takes what is at hand.
    fn take(&mut self, client: &mut Client, batch: &mut Batch) -> Result<Need> {
        loop {
            let (bytes, left) = match client.piece()? {
                Piece::Row { bytes, left } => (bytes, left),
                Piece::Short => return Ok(Need::Bytes),
                Piece::Message => return Ok(Need::Message),
            };
            if let RowState::Start = self.row {
                // Rows are taken whole, and larger ones than the read buffer in pieces worth a batch.
                if bytes.len() < left.min(INPUT_BYTES / 2) || (bytes.len() < left && left <= INPUT_BYTES) {
                    return Ok(Need::Bytes);
                }
                let Some(before) = self.before(bytes)? else {
                    self.header = false;
                    client.consume(left);
                    continue;
                };
                let size = left - before.bytes + self.columns.len() * size_of::<[u64; 2]>();
                if !batch.is_empty() && batch.bytes() + size > self.batch_bytes {
                    return Ok(Need::Nothing);
                }
                self.header = false;
                if before.cut > 0 {
                    if self.fails_on_cut {
                        return Err(Error::fatal(
                            "a LOB is longer than LobMaxSize, and FailTasksOnLobTruncation is on",
                        ));
                    }
                    batch.add_truncated(before.cut);
                }
                if bytes.len() == left && size <= self.batch_bytes {
                    self.push(&bytes[before.bytes..], before.begin, batch);
                    client.consume(left);
                    if batch.rows() >= self.batch_rows {
                        return Ok(Need::Nothing);
                    }
                    continue;
                }
                client.consume(before.bytes);
                self.row = match self.format {
                    Format::PostgresCopy => RowState::Opaque { begin: before.begin, open: false },
                    Format::Text | Format::Values => RowState::Partial(Partial::default()),
                };
                continue;
            }
            return self.take_piece(client, batch);
        }
    }

    /// Takes a piece of a row that is too large for one batch.
    fn take_piece(&mut self, client: &mut Client, batch: &mut Batch) -> Result<Need> {
        let mut whole = false;
        loop {
            let Piece::Row { bytes, left } = client.piece()? else { return Ok(Need::Bytes) };
            let at_hand = bytes.len();
            // A short piece is worth waiting for more.
            if at_hand < left.min(self.piece_bytes).min(INPUT_BYTES / 2) {
                return Ok(Need::Bytes);
            }
            let length = if whole { at_hand } else { at_hand.min(self.piece_bytes) };
            let (piece, ends) = (&bytes[..length], length == left);
            let (taken, row_ended) = match &mut self.row {
                RowState::Start => return Ok(Need::Nothing),
                RowState::Opaque { begin, open } => {
                    let begin = begin.take();
                    push_opaque(begin.as_ref().map_or(&[], |begin| &begin[..]), piece, batch);
                    match ends {
                        true => batch.end_row(),
                        false => batch.leave_open(),
                    }
                    *open = true;
                    (length, ends)
                }
                RowState::Partial(partial) => match partial.feed(piece, ends, &self.columns, batch) {
                    (taken, Step::Starved) => {
                        // The piece ends inside a value that is not spread: look at all that is at hand, or at more.
                        client.consume(taken);
                        if length == at_hand {
                            return Ok(Need::Bytes);
                        }
                        whole = taken == 0;
                        continue;
                    }
                    (taken, step) => (taken, step == Step::RowEnded),
                },
            };
            client.consume(taken);
            if row_ended {
                self.row = RowState::Start;
            }
            return Ok(Need::Nothing);
        }
    }

    fn push(&self, row: &[u8], begin: Option<[u8; 2]>, batch: &mut Batch) {
        match (self.format, begin) {
            (Format::PostgresCopy, None) => {
                batch.push(Value::Bytes(row));
                batch.end_row();
            }
            (Format::PostgresCopy, Some(begin)) => {
                push_opaque(&begin, row, batch);
                batch.end_row();
            }
            (Format::Text | Format::Values, _) => {
                decode_row(row.strip_suffix(b"\n").unwrap_or(row), &self.columns, batch);
            }
        }
    }

    /// What comes before the row that the bytes begin with; `None` where they are no row but the end of the format.
    #[inline]
    fn before(&self, bytes: &[u8]) -> Result<Option<Before>> {
        let malformed = || Error::fatal("the server sent a malformed COPY");
        if self.format != Format::PostgresCopy {
            if !self.counts_cut {
                return Ok(Some(Before { bytes: 0, cut: 0, begin: None }));
            }
            let tab = memchr::memchr(b'\t', bytes).ok_or_else(malformed)?;
            let count = std::str::from_utf8(&bytes[..tab]).ok().and_then(|count| count.parse().ok());
            return Ok(Some(Before { bytes: tab + 1, cut: count.ok_or_else(malformed)?, begin: None }));
        }
        let mut row = bytes;
        if self.header {
            // Signature, flags, and an extension that says how long it is.
            let extension = bytes.get(BINARY_HEADER.len() - 4..BINARY_HEADER.len()).ok_or_else(malformed)?;
            let extension = extension.try_into().map(u32::from_be_bytes).map_err(|_| malformed())?;
            row = bytes.get(BINARY_HEADER.len() + extension as usize..).ok_or_else(malformed)?;
        }
        if row == BINARY_TRAILER || row.is_empty() {
            return Ok(None);
        }
        if !self.counts_cut {
            return Ok(Some(Before { bytes: bytes.len() - row.len(), cut: 0, begin: None }));
        }
        // Number of fields, then the first of them: four bytes of length, four of count.
        let [f1, f2, 0, 0, 0, 4, count @ ..] = row else { return Err(malformed()) };
        let (count, rest) = count.split_first_chunk::<4>().ok_or_else(malformed)?;
        let fields = u16::from_be_bytes([*f1, *f2]).saturating_sub(1);
        Ok(Some(Before {
            bytes: bytes.len() - rest.len(),
            cut: u32::from_be_bytes(*count).into(),
            begin: Some(fields.to_be_bytes()),
        }))
    }
}

fn push_opaque(begin: &[u8], row: &[u8], batch: &mut Batch) {
    let Ok(()) = batch.push_bytes_with(|into| {
        into.extend_from_slice(begin);
        into.extend_from_slice(row);
        Ok::<(), std::convert::Infallible>(())
    });
}
