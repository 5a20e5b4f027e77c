//! The changes of a PostgreSQL database, by logical decoding.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>
//!
//! The server sends a slot's log from a place on, through the plugin that the slot was made for. What is confirmed to it
//! it may forget. One message is in memory at a time, and its values once more when they are taken over; the line of
//! test_decoding that first shows a table is a third time. The server sends no message beyond a gigabyte.

mod family;
mod later;
mod line;
mod log;
mod pace;
mod pglogical;
mod pgoutput;
mod question;
mod relation;
mod tables;
mod test_decoding;
mod value;

use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use tokio::time::{Instant, sleep, sleep_until};

use super::capture::{self, names};
use super::catalog::Catalog;
use super::ddl::AUDIT_TABLE;
use super::heartbeat::Heartbeat;
use super::publication::Lacking;
use super::slot::{self, Plugin, Slot};
use super::source::PostgresSource;
use super::wire::{Client, LOG_SESSION, REPLICATION_SQL_SINCE, ServerError};
use super::{Endpoint, publication, replication_set, sql};
use crate::connector::{Capture, ChangeReader, DurablePlace};
use crate::data::{Changes, Entry, Error, ErrorKind, Position, Result, TableName};
use later::Later;
use line::TestDecoding;
use log::{Log, malformed};
use pace::Pace;
use pgoutput::EPOCH_MICROS;
use question::{Answer, Facts, Question, Step, Taken, ask};
use relation::{Relations, Sender};

/// How often the server hears of us when there is nothing to say. It gives us up after `wal_sender_timeout`, as a rule
/// 60 s; where that is shorter, it hears of us this often within it.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
const STATUSES_PER_TIMEOUT: u32 = 3;

/// A server that shuts down asks again as soon as it is answered, until all that it has sent is durable. Where there is
/// nothing new to say, it is answered this often.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// Versions since which there is something to ask for.
const ORIGIN_SINCE: u32 = 160_000;

/// Since then a publication that is not there is passed over with a warning.
const WARNING_SINCE: u32 = 180_000;

/// A transaction of which test_decoding tells only in the end whether it is wanted is held up to this size; a longer one
/// is wanted.
const UNDECIDED_BYTES_MAX: usize = 64 << 20;

const NO_SUCH_OBJECT: &str = "42704";

/// Reads what a slot sends.
pub struct PostgresChanges {
    client: Client,
    endpoint: Endpoint,
    capture: Capture,
    log: Log,
    decoder: Decoder,
    open: Option<Open>,
    /// Tables of which the log lacks changes already where it is begun with; told before all else.
    lacking: Vec<Lacking>,
    later: Option<Later>,
    durable: DurablePlace,
    pace: Pace,
    /// What the server was told last: what was read, and what it may forget.
    told: (u64, u64),
    told_at: Instant,
    status_interval: Duration,
    status_due: Instant,
    _heartbeat: Option<Heartbeat>,
}

enum Decoder {
    Relations(Relations),
    TestDecoding(TestDecoding),
}

/// What has to be answered before the log is read on.
struct Open {
    question: Question,
    /// What was answered so far.
    facts: Facts,
    asked: Option<Answer>,
}

impl PostgresChanges {
    pub async fn start(
        source: &PostgresSource,
        capture: &Capture,
        from: &Position,
        durable: DurablePlace,
    ) -> Result<PostgresChanges> {
        PostgresChanges::open(source, capture, from, durable).await.map_err(|error| error.while_doing("read the log"))
    }

    async fn open(
        source: &PostgresSource,
        capture: &Capture,
        from: &Position,
        durable: DurablePlace,
    ) -> Result<PostgresChanges> {
        let Position::Lsn(lsn) = *from else {
            return Err(Error::fatal(format!("{from} is no position in the log of PostgreSQL")));
        };
        let endpoint = source.endpoint();
        let slot = Slot::of(endpoint, &capture.task);
        let mut session = endpoint.connect().await?;
        let (found, plugin) = slot.claim(&mut session).await?;
        found.check_place(from)?;
        let mut catalog = Catalog::open(endpoint).await?;
        let mut names = names(capture);
        let described = catalog.tables(&names).await?;
        let log = Log::new(source, capture, plugin, &mut catalog, &described, lsn).await?;
        if plugin != Plugin::TestDecoding {
            let noted = source.lacking().into_iter().filter(|table| !names.contains(table)).collect::<Vec<_>>();
            names.extend(noted);
        }
        let lacking = capture::review(endpoint, &mut session, plugin, capture, &names).await?;
        let (mut sets, mut sender) = (String::new(), Sender::PgOutput);
        if plugin == Plugin::Pglogical {
            let audit = TableName::new(&endpoint.settings.ddl_artifacts_schema, AUDIT_TABLE);
            let (names, statements) = replication_set::names(&mut session, &slot, &capture.task, &audit).await?;
            (sets, sender) = (names, Sender::Pglogical { statements: statements && endpoint.settings.capture_ddls });
        }
        drop(session);
        let mut client = slot::connect(endpoint).await?;
        let mut status_interval = STATUS_INTERVAL;
        if client.version() >= REPLICATION_SQL_SINCE {
            client.query(LOG_SESSION).await?;
            if client.version() >= WARNING_SINCE {
                client.query("SET client_min_messages = warning").await?;
            }
            let timeout = sender_timeout(&mut client).await?;
            status_interval = timeout.map_or(STATUS_INTERVAL, |timeout| timeout / STATUSES_PER_TIMEOUT);
        }
        let status_interval = status_interval.min(STATUS_INTERVAL);
        let names = match plugin {
            Plugin::PgOutput => publication::names(&capture.task, client.version()),
            Plugin::Pglogical | Plugin::TestDecoding => sets,
        };
        check_origins(endpoint, plugin, client.version())?;
        let options = options(plugin, &names, endpoint.settings.local_changes_only);
        let name = sql::identifier(slot.name());
        client.start_stream(&format!("START_REPLICATION SLOT {name} LOGICAL {from} ({options})")).await?;
        let now = Instant::now();
        Ok(PostgresChanges {
            client,
            endpoint: endpoint.clone(),
            capture: capture.clone(),
            log,
            decoder: match plugin {
                Plugin::PgOutput | Plugin::Pglogical => Decoder::Relations(Relations::new(sender, &described)),
                Plugin::TestDecoding => Decoder::TestDecoding(TestDecoding::new(&described)),
            },
            open: None,
            lacking,
            later: Some(Later::new(capture)).filter(|later| !later.is_over()),
            durable,
            pace: Pace::new(),
            told: (lsn, lsn),
            told_at: now,
            status_interval,
            status_due: now + status_interval,
            _heartbeat: endpoint.settings.heartbeat.map(|period| Heartbeat::start(endpoint.clone(), period)),
        })
    }

    /// What there is to tell the server. It may have been confirmed more before than is known to be durable now.
    fn news(&mut self) -> (u64, u64) {
        let durable = match &*self.durable.borrow_and_update() {
            Some(Position::Lsn(lsn)) => *lsn,
            _ => 0,
        };
        (self.log.read, self.told.1.max(durable))
    }

    async fn send_status(&mut self) -> Result<()> {
        self.told = self.news();
        self.told_at = Instant::now();
        self.status_due = self.told_at + self.status_interval;
        send_status(&mut self.client, self.told.0, self.told.1).await
    }

    /// Answers a server that asks for it.
    async fn answer_status(&mut self) -> Result<()> {
        if self.news() == self.told {
            self.status_due = self.status_due.min(self.told_at + ANSWER_INTERVAL);
            return Ok(());
        }
        self.send_status().await
    }

    /// Takes one message of the stream.
    async fn take(&mut self, changes: &mut Changes) -> Result<()> {
        if self.open.is_some() {
            return self.answer(changes).await;
        }
        if Instant::now() >= self.status_due || self.durable.has_changed().unwrap_or(false) {
            return self.send_status().await;
        }
        let message = tokio::select! {
            biased;
            message = self.client.stream_message() => message?,
            () = status_is_due(&mut self.durable, self.status_due) => return self.send_status().await,
        };
        match message.split_first() {
            Some((b'w', rest)) => {
                // Where it is in the log, where that ends on the server, and when it was sent.
                let (header, body) = rest.split_first_chunk::<24>().ok_or_else(|| malformed("a WAL message"))?;
                let place = header.first_chunk().map_or(0, |place| u64::from_be_bytes(*place));
                let taken = match &mut self.decoder {
                    Decoder::Relations(decoder) => decoder.take(body, &mut self.log, changes)?,
                    Decoder::TestDecoding(decoder) => decoder.take(body, place, &mut self.log, changes)?,
                };
                if let Taken::Ask(question) = taken {
                    self.open = Some(Open { question, facts: Facts::default(), asked: None });
                }
                Ok(())
            }
            Some((b'k', rest)) => {
                let end =
                    rest.first_chunk().map(|end| u64::from_be_bytes(*end)).ok_or_else(|| malformed("a keepalive"))?;
                let answer = rest.get(16) == Some(&1);
                // Between transactions it tells of log that holds nothing for us.
                if self.log.is_between_transactions() && end > self.log.read {
                    self.log.read = end;
                    changes.resume = Some(Position::Lsn(end));
                }
                if answer { self.answer_status().await } else { Ok(()) }
            }
            _ => Err(malformed("a message of the stream")),
        }
    }

    /// Goes on with what the catalog has to be asked about. The server hears of us meanwhile.
    async fn answer(&mut self, changes: &mut Changes) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(asked) = &mut open.asked else {
            match open.step(&mut self.decoder, &mut self.log, changes)? {
                Step::Ask(request) => open.asked = Some(ask(self.endpoint.clone(), request)),
                Step::Done => self.open = None,
            }
            return Ok(());
        };
        tokio::select! {
            biased;
            answer = &mut *asked => {
                // An error is told, and the question asked again when the reading goes on.
                open.asked = None;
                open.facts = answer?;
                Ok(())
            }
            () = status_is_due(&mut self.durable, self.status_due) => self.send_status().await,
        }
    }
}

/// Returns when it is time, and when the server may forget more than it was told.
async fn status_is_due(durable: &mut DurablePlace, at: Instant) {
    tokio::select! {
        () = sleep_until(at) => {}
        Ok(()) = durable.changed() => {}
    }
}

impl Open {
    fn step(&mut self, decoder: &mut Decoder, log: &mut Log, changes: &mut Changes) -> Result<Step> {
        let facts = &mut self.facts;
        match (&self.question, decoder) {
            (Question::Relation(relation), Decoder::Relations(decoder)) => decoder.meet(relation, facts, log, changes),
            (Question::Line(line), Decoder::TestDecoding(decoder)) => decoder.meet(line, facts, log, changes),
            (Question::Statement(recorded), decoder) => {
                let (step, changed) = log.define(recorded, facts, changes);
                if let (true, Decoder::TestDecoding(decoder)) = (changed, decoder) {
                    decoder.forget();
                }
                Ok(step)
            }
            _ => Ok(Step::Done),
        }
    }
}

/// Tells the server what was read and what it may forget.
async fn send_status(client: &mut Client, read: u64, confirmed: u64) -> Result<()> {
    let mut status = BytesMut::with_capacity(34);
    status.put_u8(b'r');
    for place in [read, confirmed, confirmed] {
        status.put_u64(place);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    status.put_i64(now.as_micros() as i64 - EPOCH_MICROS);
    status.put_u8(0);
    client.send_stream_message(&status).await
}

/// `wal_sender_timeout`; `None` where there is none.
async fn sender_timeout(client: &mut Client) -> Result<Option<Duration>> {
    let setting = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
    let ms = client.query(setting).await?.pop().and_then(|mut row| row.pop()).flatten();
    Ok(ms.and_then(|ms| ms.parse().ok()).filter(|ms| *ms > 0).map(Duration::from_millis))
}

/// Refuses `origin=none` where what was replicated to the source cannot be told from what was changed there.
pub fn check_origins(endpoint: &Endpoint, plugin: Plugin, version: u32) -> Result<()> {
    if endpoint.settings.local_changes_only && plugin == Plugin::PgOutput && version < ORIGIN_SINCE {
        let what =
            "origin=none has an effect on pgoutput from version 16 of PostgreSQL on: PluginName may be test-decoding";
        return Err(Error::fatal(what));
    }
    Ok(())
}

/// What the plugin is told; `names` are those of publications or replication sets.
fn options(plugin: Plugin, names: &str, local_only: bool) -> String {
    let names = sql::literal(names);
    match plugin {
        Plugin::PgOutput => {
            // Values come as text. In binary the server would spare itself a tenth of its own time at most (0.1 s of
            // 400,000 rows, whatever the types), and every type there is would have to be read here in two ways.
            let origin = if local_only { ", origin 'none'" } else { "" };
            format!("proto_version '1', publication_names {names}{origin}")
        }
        Plugin::Pglogical => {
            let origin = if local_only { "" } else { ", \"pglogical.forward_origins\" 'all'" };
            format!(
                "startup_params_format '1', min_proto_version '1', max_proto_version '1', proto_format 'native', \
                 expected_encoding 'UTF8', \"binary.want_internal_basetypes\" '0', \"binary.want_binary_basetypes\" '0', \
                 \"pglogical.replication_set_names\" {names}{origin}"
            )
        }
        Plugin::TestDecoding => {
            let origin = if local_only { ", \"only-local\" '1'" } else { "" };
            format!("\"include-xids\" '1', \"include-timestamp\" '1', \"skip-empty-xacts\" '1'{origin}")
        }
    }
}

#[async_trait]
impl ChangeReader for PostgresChanges {
    async fn next(&mut self, changes: &mut Changes) -> Result<()> {
        changes.clear(self.capture.format);
        if !self.lacking.is_empty() {
            for (table, reason) in std::mem::take(&mut self.lacking) {
                self.log.give_up(table, reason, changes);
            }
            changes.resume = Some(Position::Lsn(self.log.read));
            return Ok(());
        }
        // Entries of which it is not known yet whether they are wanted.
        let mut undecided = None;
        loop {
            let told = changes.entries.len();
            let taken = self.take(changes).await;
            self.pace.count();
            if changes.entries.iter().skip(told).any(|entry| !matches!(entry, Entry::Begin { .. })) {
                self.log.note_told();
            }
            taken.map_err(|error| explained(error, self.client.take_warning()))?;
            if let Some(later) = &mut self.later {
                // What began may be taken back.
                let from = undecided.unwrap_or(told).min(changes.entries.len());
                match self.log.commit_place() {
                    Some(commit) => {
                        later.hide(&mut changes.entries, from, commit);
                        undecided = None;
                    }
                    None => undecided = Some(from),
                }
                if later.is_over() {
                    self.later = None;
                }
            }
            let limit = if undecided.is_some() { UNDECIDED_BYTES_MAX } else { self.capture.batch_bytes };
            let full = changes.bytes() >= limit;
            // What has begun in the middle of a transaction goes on at once; between two of them nobody knows.
            let mut pause = self.log.is_between_transactions() && !self.client.has_message();
            if !full && !self.client.has_message() && self.open.is_none() && self.pace.is_busy() {
                self.client.unwatch();
                if self.client.take_in()? < pace::BACKLOG_BYTES {
                    self.client.unwatch();
                    sleep(pace::MOMENT).await;
                    self.client.take_in()?;
                }
                pause &= !self.client.has_message();
            }
            if !changes.is_empty() && (full || pause) {
                return Ok(());
            }
        }
    }

    async fn keep_alive(&mut self) -> Error {
        loop {
            status_is_due(&mut self.durable, self.status_due).await;
            if let Err(error) = self.send_status().await {
                return error.while_doing("read the log");
            }
        }
    }
}

/// An error of the stream with what the server's words do not say.
fn explained(error: Error, warning: Option<ServerError>) -> Error {
    let error = match (error.sqlstate.as_deref(), warning) {
        (_, Some(warning)) => without_publications(warning.into_error()),
        (Some(NO_SUCH_OBJECT), None) => without_publications(error),
        (_, None) => error,
    };
    error.while_doing("read the log")
}

fn without_publications(mut error: Error) -> Error {
    let what = "the log is read from a place where the task's publications were not there yet: \
                start at a later one, or from a slot made for test_decoding";
    error.message = format!("{} ({what})", error.message);
    error.into_kind(ErrorKind::Fatal)
}
