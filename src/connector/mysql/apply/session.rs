//! The session in which changes are applied: statements in as few packets as may be, and rows on their way into a table.

use super::super::intake::Intake;
use super::super::load_data::{Chunk, push_line};
use super::super::loader::{explain, first_warning};
use super::super::wire::{Client, Done};
use super::super::{Settings, Side, connect};
use super::rows::{Field, values};
use crate::connector::{Connection, RowChange};
use crate::data::{Error, ErrorKind, Result};

/// So few rows go as values of an INSERT: a LOAD DATA takes one more exchange with the server.
const TEXT_ROWS_MAX: usize = 64;

/// Rows that take more than this as text go by LOAD DATA, which wants no second copy of them.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Text of one INSERT where the server takes no local files.
const INSERT_BYTES: usize = 1 << 20;

/// Encoded rows gathered before they are handed to the socket.
const OUT_BYTES: usize = 128 << 10;

/// What the server has room for.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// `max_allowed_packet`: longest statement.
    packet: usize,
    /// `max_heap_table_size`: bytes of a table in memory.
    heap: usize,
    /// The server takes local files.
    local_files: bool,
}

pub(super) struct Session {
    client: Client,
    limits: Limits,
    /// Statements that go before the next one, in its packet.
    before: Vec<String>,
    chunk: Chunk,
    out: Vec<u8>,
}

impl Session {
    pub(super) async fn open(connection: &Connection, settings: &Settings) -> Result<Session> {
        let mut client = connect(connection, settings, Side::Changes).await?;
        client.run("SET SESSION autocommit=0").await?;
        let limits = adapt(&mut client).await?;
        Ok(Session { client, limits, before: Vec::new(), chunk: Chunk::default(), out: Vec::new() })
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    pub(super) fn heap_bytes_max(&self) -> usize {
        self.limits.heap
    }

    pub(super) fn takes_files(&self) -> bool {
        self.limits.local_files
    }

    /// Has a statement run before the next one.
    pub(super) fn defer(&mut self, statement: String) {
        self.before.push(statement);
    }

    /// Runs statements, all of which fit into one packet, and gives what became of each.
    pub(super) async fn run(&mut self, statements: &[String]) -> Result<Vec<Done>> {
        let before = std::mem::take(&mut self.before);
        let text = [&before[..], statements].concat().join(";");
        let mut outcomes = self.client.run_each(&text).await?;
        expect(outcomes.len(), before.len() + statements.len())?;
        Ok(outcomes.split_off(before.len()))
    }

    /// Whether statements of this length are taken.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        // The packet's first byte, and what goes before.
        bytes + 4096 <= self.limits.packet
    }

    /// Puts rows into a table, and runs statements that make something of them. Gives what became of the statements. A
    /// row that does not go in as it is makes an error; then some of the others may be in.
    pub(super) async fn put(
        &mut self,
        intake: &Intake,
        rows: &[&RowChange<'_>],
        fields: &[Field],
        then: &[String],
    ) -> Result<Vec<Done>> {
        if rows.len() <= TEXT_ROWS_MAX {
            self.encode(intake, rows, fields)?;
            if self.chunk.text(0..rows.len()).len() <= TEXT_BYTES_MAX.min(self.limits.packet / 8) {
                let insert = self.insert_statement(intake, 0..rows.len());
                let mut outcomes = self.run(&[std::slice::from_ref(&insert), then].concat()).await?;
                let rest = outcomes.split_off(1);
                let expected = self.chunk.expected_warnings(0..rows.len());
                return self.check(outcomes[0], rows.len(), expected, then.is_empty()).await.map(|()| rest);
            }
        }
        match self.limits.local_files {
            true => self.load(intake, rows, fields, then).await,
            false => self.insert_by_pieces(intake, rows, fields, then).await,
        }
    }

    fn encode(&mut self, intake: &Intake, rows: &[&RowChange<'_>], fields: &[Field]) -> Result<()> {
        self.chunk.clear();
        for row in rows {
            self.chunk.push(values(row, fields), intake.rules()).map_err(|unfit| unfit.error)?;
        }
        Ok(())
    }

    /// An INSERT of encoded rows.
    fn insert_statement(&self, intake: &Intake, rows: std::ops::Range<usize>) -> String {
        // ENUM's error value is refused by the strict mode although the source has it.
        let verb = if self.chunk.expected_warnings(rows.clone()) > 0 { "INSERT IGNORE" } else { "INSERT" };
        let mut statement = intake.insert(verb);
        for row in rows.clone() {
            if row > rows.start {
                statement.push(',');
            }
            intake.push_values(self.chunk.text(row..row + 1), &mut statement);
        }
        statement
    }

    /// By LOAD DATA, encoding rows while the server takes those before.
    async fn load(
        &mut self,
        intake: &Intake,
        rows: &[&RowChange<'_>],
        fields: &[Field],
        then: &[String],
    ) -> Result<Vec<Done>> {
        let before = std::mem::take(&mut self.before);
        let text = [&before[..], &[intake.load()], then].concat().join(";");
        self.client.begin_load(&text).await.map_err(explain)?;
        let mut expected = 0;
        let mut unfit = None;
        for row in rows {
            match push_line(values(row, fields), intake.rules(), &mut self.out) {
                Ok(warnings) => expected += u64::from(warnings),
                Err(row) => {
                    unfit = Some(row.error);
                    break;
                }
            }
            if self.out.len() >= OUT_BYTES {
                self.send_out().await?;
            }
        }
        self.send_out().await?;
        let mut outcomes = self.client.end_load_each().await?;
        if let Some(error) = unfit {
            return Err(error);
        }
        expect(outcomes.len(), 1 + then.len())?;
        let rest = outcomes.split_off(1);
        self.check(outcomes[0], rows.len(), expected, then.is_empty()).await.map(|()| rest)
    }

    async fn send_out(&mut self) -> Result<()> {
        let sent = self.client.send_file(&self.out).await;
        self.out.clear();
        self.out.shrink_to(2 * OUT_BYTES);
        sent
    }

    /// By as many INSERTs as it takes.
    async fn insert_by_pieces(
        &mut self,
        intake: &Intake,
        rows: &[&RowChange<'_>],
        fields: &[Field],
        then: &[String],
    ) -> Result<Vec<Done>> {
        for some in rows.chunks(TEXT_ROWS_MAX) {
            self.encode(intake, some, fields)?;
            let mut next = 0;
            while next < some.len() {
                // Bytes that are not text take twice their length.
                let piece = self.chunk.rows_within(next, INSERT_BYTES.min(self.limits.packet / 4));
                next = piece.end;
                let statement = self.insert_statement(intake, piece.clone());
                if !self.takes(statement.len()) {
                    return Err(self.too_long(statement.len()));
                }
                let expected = self.chunk.expected_warnings(piece.clone());
                let outcomes = self.run(&[statement]).await?;
                self.check(outcomes[0], piece.len(), expected, true).await?;
            }
        }
        if then.is_empty() { Ok(Vec::new()) } else { self.run(then).await }
    }

    /// All rows must be in, and none of their values may have been bent. `last`: no other statement was run since.
    async fn check(&mut self, done: Done, rows: usize, expected_warnings: u64, last: bool) -> Result<()> {
        if done.affected == rows as u64 && u64::from(done.warnings) == expected_warnings {
            return Ok(());
        }
        if last && done.warnings > 0 {
            return Err(first_warning(&mut self.client).await?);
        }
        Err(bent())
    }

    /// What statements warn of is that a value was bent.
    pub(super) async fn refuse_warnings(&mut self, outcomes: &[Done]) -> Result<()> {
        match outcomes {
            [.., last] if last.warnings > 0 => Err(first_warning(&mut self.client).await?),
            _ if outcomes.iter().any(|done| done.warnings > 0) => Err(bent()),
            _ => Ok(()),
        }
    }

    /// A row that no statement holds.
    pub(super) fn too_long(&self, bytes: usize) -> Error {
        let limit = self.limits.packet;
        let message =
            format!("a change takes {bytes} bytes, and the server's max_allowed_packet is {limit}: increase it");
        // As the server itself puts it.
        Error::new(ErrorKind::Data, message).with_native(1153).with_sqlstate("08S01")
    }
}

pub(super) fn bent() -> Error {
    Error::new(ErrorKind::Data, "the server did not take all values as they are")
}

fn expect(found: usize, wanted: usize) -> Result<()> {
    match found == wanted {
        true => Ok(()),
        false => Err(Error::recoverable("the server did not answer each statement")),
    }
}

/// Reads what the server has room for, and chooses the isolation with the fewest locks that it lets a session have.
async fn adapt(client: &mut Client) -> Result<Limits> {
    const NAMES: &str = "'max_allowed_packet','max_heap_table_size','local_infile','log_bin','binlog_format'";
    let rows = client.rows(&format!("SHOW VARIABLES WHERE Variable_name IN ({NAMES})")).await?;
    let value = |name: &str| {
        rows.iter().find_map(|row| match row.as_slice() {
            [Some(found), Some(value)] if found == name => Some(value.as_str()),
            _ => None,
        })
    };
    let number = |name: &str, unknown: usize| value(name).and_then(|value| value.parse().ok()).unwrap_or(unknown);
    let limits = Limits {
        packet: number("max_allowed_packet", 1 << 20),
        heap: number("max_heap_table_size", 1 << 20),
        local_files: value("local_infile") == Some("ON"),
    };
    // With a binary log of statements InnoDB refuses changes in READ COMMITTED.
    if value("log_bin") != Some("ON") || value("binlog_format") != Some("STATEMENT") {
        client.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    }
    Ok(limits)
}
