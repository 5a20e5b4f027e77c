//! A client of the MySQL protocol, made for bulk work: rows are handed over as slices of the read buffer, values of any
//! length in pieces as they come from the socket, and files for `LOAD DATA LOCAL` are streamed.
//!
//! One statement at a time. A call that is given up half-way leaves the connection [`busy`](Client::is_busy) for good:
//! such a connection must be dropped.

mod auth;
mod failure;
mod packet;

use std::ops::Range;
use std::time::Duration;

use mysql_common::constants::CapabilityFlags;
use packet::{Buffered, Packets, Whole};

use crate::connector::{Connection, net};
use crate::data::{Error, Result};

pub(super) use failure::from_server;

/// The only file a server may ask for, and only in answer to a `LOAD DATA LOCAL` of ours. No file of this name is ever
/// opened: its content is what the writer encodes.
pub(super) const LOCAL_FILE: &str = "dms-local.csv";

const COM_QUERY: u8 = 0x03;
const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;

/// Whether the server may ask for a local file on this connection at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalFiles {
    Refused,
    Answered,
}

/// What the server says at the end of a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) affected: u64,
    pub(super) warnings: u16,
    more_results: bool,
}

/// What comes next in a result set.
pub(super) enum Step {
    /// A whole row; [`Client::bytes`] has it until the next step.
    Row(Range<usize>),
    /// A row too long for the buffer: read it with [`Client::field`] and [`Client::piece`].
    LongRow,
    /// [`Client::fill`] first.
    Wait,
    End,
}

/// How a field of a long row begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Null,
    /// So many bytes follow.
    Bytes(u64),
}

/// What [`Client::begin_dump`] does at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DumpEnd {
    /// Waits for more.
    Never,
    WithTheLog,
}

/// Where a packet of the log is.
pub(super) struct LogPacket(Whole);

pub(super) struct Client {
    packets: Packets,
    id: u32,
    busy: bool,
    /// Longest time a statement that returns all at once may take.
    timeout: Option<Duration>,
}

impl Client {
    /// Connects and logs in within `timeout`.
    pub(super) async fn connect(connection: &Connection, local_files: LocalFiles, timeout: Duration) -> Result<Client> {
        let wanted = match local_files {
            LocalFiles::Refused => CapabilityFlags::empty(),
            LocalFiles::Answered => CapabilityFlags::CLIENT_LOCAL_FILES,
        };
        Client::log_in(connection, wanted, timeout).await
    }

    /// Connects to change rows: local files are answered, statements may come several at once, and of an UPDATE the rows
    /// that it met are counted, whether or not they are otherwise now.
    pub(super) async fn connect_to_change(connection: &Connection, timeout: Duration) -> Result<Client> {
        let wanted = CapabilityFlags::CLIENT_LOCAL_FILES
            | CapabilityFlags::CLIENT_MULTI_STATEMENTS
            | CapabilityFlags::CLIENT_FOUND_ROWS;
        Client::log_in(connection, wanted, timeout).await
    }

    async fn log_in(connection: &Connection, wanted: CapabilityFlags, timeout: Duration) -> Result<Client> {
        let stream =
            net::connect(&connection.server, connection.port).await.map_err(|error| unreachable(connection, error))?;
        let mut packets = Packets::new(stream);
        let login = auth::log_in(&mut packets, connection, wanted);
        let greeting = tokio::time::timeout(timeout, login).await.map_err(|_| {
            Error::recoverable(format!("the server did not finish the login in {} s", timeout.as_secs()))
                .with_native(2013)
                .with_sqlstate("HY000")
        })??;
        Ok(Client { packets, id: greeting.connection_id, busy: false, timeout: None })
    }

    /// From now on [`Client::run`] and [`Client::rows`] give up after this time.
    pub(super) fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// The server's number of this connection, for `KILL QUERY`.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// A statement is under way, or was given up half-way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Runs a statement and forgets the rows it may return.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Done> {
        self.all(sql, |_| Ok(())).await
    }

    /// Runs a query of the catalog and returns all its rows.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        self.all(sql, |packet| {
            rows.push(parse_row(packet).ok_or_else(|| failure::malformed("row"))?);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    async fn all(&mut self, sql: &str, on_row: impl FnMut(&[u8]) -> Result<()>) -> Result<Done> {
        let timeout = self.timeout;
        let work = self.all_without_timeout(sql, on_row);
        match timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                Err(Error::recoverable(format!("the server did not answer in {} s (ExecuteTimeout)", limit.as_secs())))
            }),
        }
    }

    async fn all_without_timeout(&mut self, sql: &str, mut on_row: impl FnMut(&[u8]) -> Result<()>) -> Result<Done> {
        self.begin(COM_QUERY, sql.as_bytes()).await?;
        loop {
            let done = match self.answer().await? {
                Answer::Done(done) => done,
                Answer::File => {
                    // Nobody asked for a file: the server gets an empty one and the session is over.
                    self.packets.end_file().await?;
                    return Err(Error::fatal("the server asked for a file that was not offered"));
                }
                Answer::Rows => loop {
                    let packet = self.packets.packet().await?;
                    match packet {
                        [0xFF, ..] => {
                            let error = failure::from_packet(packet);
                            self.busy = false;
                            return Err(error);
                        }
                        [0xFE, ..] if packet.len() < 9 => break parse_eof(packet)?,
                        row => on_row(row)?,
                    }
                },
            };
            if !done.more_results {
                self.busy = false;
                return Ok(done);
            }
        }
    }

    /// Runs statements that are separated by semicolons and return no rows. The first that fails ends it.
    pub(super) async fn run_each(&mut self, statements: &str) -> Result<Vec<Done>> {
        self.begin(COM_QUERY, statements.as_bytes()).await?;
        self.outcomes().await
    }

    /// What became of the statements whose answers are still to come.
    async fn outcomes(&mut self) -> Result<Vec<Done>> {
        let mut outcomes = Vec::new();
        loop {
            match self.answer().await? {
                Answer::Done(done) => outcomes.push(done),
                Answer::Rows => return Err(failure::malformed("result")),
                Answer::File => {
                    self.packets.end_file().await?;
                    return Err(Error::fatal("the server asked for a file that was not offered"));
                }
            }
            if outcomes.last().is_none_or(|done| !done.more_results) {
                self.busy = false;
                return Ok(outcomes);
            }
        }
    }

    /// Sends a query whose rows are then taken with [`Client::step`].
    pub(super) async fn select(&mut self, sql: &str) -> Result<()> {
        self.begin(COM_QUERY, sql.as_bytes()).await?;
        match self.answer().await? {
            Answer::Rows => Ok(()),
            _ => Err(failure::malformed("result set")),
        }
    }

    /// The next row of a [`select`](Client::select) as far as it has arrived, without waiting.
    #[inline]
    pub(super) fn step(&mut self) -> Result<Step> {
        match self.packets.buffered() {
            Buffered::Incomplete => Ok(Step::Wait),
            Buffered::Long => Ok(Step::LongRow),
            Buffered::Packet(range) => match self.packets.bytes(range.clone()) {
                [0xFE, ..] if range.len() < 9 => {
                    self.busy = false;
                    Ok(Step::End)
                }
                [0xFF, ..] => {
                    self.busy = false;
                    Err(failure::from_packet(self.packets.bytes(range)))
                }
                _ => Ok(Step::Row(range)),
            },
        }
    }

    /// Reads the rest of a result set, also of a row begun, and forgets it; an error that ends it too.
    pub(super) async fn skip_rows(&mut self) -> Result<()> {
        while !self.packets.piece(usize::MAX).await?.is_empty() {}
        while self.busy {
            match self.step() {
                Ok(Step::Wait) => self.fill().await?,
                Ok(Step::LongRow) => while !self.packets.piece(usize::MAX).await?.is_empty() {},
                Ok(Step::Row(_) | Step::End) => {}
                Err(_) if !self.busy => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) async fn fill(&mut self) -> Result<()> {
        self.packets.fill().await
    }

    #[inline]
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.packets.bytes(range)
    }

    /// Reads how the next field of a long row begins.
    pub(super) async fn field(&mut self) -> Result<Field> {
        let width = match self.byte().await? {
            0xFB => return Ok(Field::Null),
            0xFC => 2,
            0xFD => 3,
            0xFE => 8,
            0xFF => return Err(failure::malformed("row")),
            len => return Ok(Field::Bytes(len.into())),
        };
        let mut len = [0; 8];
        for byte in &mut len[..width] {
            *byte = self.byte().await?;
        }
        Ok(Field::Bytes(u64::from_le_bytes(len)))
    }

    async fn byte(&mut self) -> Result<u8> {
        match self.packets.piece(1).await? {
            [byte] => Ok(*byte),
            _ => Err(failure::malformed("row")),
        }
    }

    /// The next bytes of a field of a long row, at most `max` (at least one); never empty.
    pub(super) async fn piece(&mut self, max: u64) -> Result<&[u8]> {
        match self.packets.piece(usize::try_from(max).unwrap_or(usize::MAX)).await? {
            [] => Err(failure::malformed("row")),
            piece => Ok(piece),
        }
    }

    /// Ends a long row all of whose fields have been read. One of exactly 16 MiB less a byte, or a multiple of that, is
    /// followed by an empty packet, which must not pass for the next row.
    pub(super) async fn end_long_row(&mut self) -> Result<()> {
        match self.packets.piece(usize::MAX).await? {
            [] => Ok(()),
            _ => Err(failure::malformed("row")),
        }
    }

    /// Sends a `LOAD DATA LOCAL INFILE` of [`LOCAL_FILE`] and waits until the server asks for the file. Other statements
    /// may stand before it and after it.
    pub(super) async fn begin_load(&mut self, sql: &str) -> Result<()> {
        self.begin(COM_QUERY, sql.as_bytes()).await?;
        loop {
            match self.answer().await? {
                Answer::File => return Ok(()),
                Answer::Done(done) if done.more_results => {}
                _ => return Err(failure::malformed("LOAD DATA answer")),
            }
        }
    }

    pub(super) async fn send_file(&mut self, content: &[u8]) -> Result<()> {
        self.packets.send_file(content).await
    }

    /// Ends the file and returns what became of it.
    pub(super) async fn end_load(&mut self) -> Result<Done> {
        self.end_load_each().await?.first().copied().ok_or_else(|| failure::malformed("LOAD DATA answer"))
    }

    /// Ends the file and returns what became of it, and of each statement after the LOAD DATA.
    pub(super) async fn end_load_each(&mut self) -> Result<Vec<Done>> {
        self.packets.end_file().await?;
        self.outcomes().await
    }

    /// Announces a replica of this number, which the server shows in its list of replicas. Needs REPLICATION SLAVE.
    pub(super) async fn register_replica(&mut self, server_id: u32) -> Result<()> {
        // Names of host, user and password, a port, a rank and the source's number: all unknown.
        let mut body = server_id.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
        self.begin(COM_REGISTER_SLAVE, &body).await?;
        match self.answer().await? {
            Answer::Done(_) => {
                self.busy = false;
                Ok(())
            }
            _ => Err(failure::malformed("answer to the replica's registration")),
        }
    }

    /// Asks for the binary log from a place on. The session is good for nothing but [`Client::log_packet`] from here on.
    pub(super) async fn begin_dump(&mut self, file: &str, offset: u32, server_id: u32, end: DumpEnd) -> Result<()> {
        const NON_BLOCK: u16 = 0x01;
        let flags = if end == DumpEnd::WithTheLog { NON_BLOCK } else { 0 };
        let mut body = offset.to_le_bytes().to_vec();
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&server_id.to_le_bytes());
        body.extend_from_slice(file.as_bytes());
        self.begin(COM_BINLOG_DUMP, &body).await
    }

    /// Waits for the next packet of the log, which stays until the next call; `None` at its end. A call that is given up
    /// loses nothing.
    pub(super) async fn log_packet(&mut self, most: usize) -> Result<Option<LogPacket>> {
        let packet = self.packets.whole(most).await?;
        match self.packets.whole_bytes(&packet) {
            [0x00, ..] => Ok(Some(LogPacket(packet))),
            bytes @ [0xFE, ..] if bytes.len() < 9 => Ok(None),
            bytes @ [0xFF, ..] => Err(failure::from_packet(bytes)),
            _ => Err(failure::malformed("log")),
        }
    }

    /// The event in a packet of the log.
    pub(super) fn log_event(&self, packet: &LogPacket) -> &[u8] {
        self.packets.whole_bytes(&packet.0).get(1..).unwrap_or_default()
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.packets.received()
    }

    /// Whether [`Client::log_packet`] would not wait.
    pub(super) fn has_packet(&self) -> bool {
        self.packets.has_packet()
    }

    /// Whether there is room to [`fill`](Client::fill).
    pub(super) fn has_room(&self) -> bool {
        self.packets.has_room()
    }

    /// Ends the session politely.
    pub(super) async fn close(mut self) {
        self.packets.quit().await;
    }

    async fn begin(&mut self, command: u8, body: &[u8]) -> Result<()> {
        if self.busy {
            return Err(Error::recoverable("the connection is still busy with another statement"));
        }
        self.busy = true;
        self.packets.command(command, body).await
    }

    /// The first packet of an answer; of a result set also the column definitions, which nobody needs: the reader knows
    /// what it has selected.
    async fn answer(&mut self) -> Result<Answer> {
        let packet = self.packets.packet().await?;
        let columns = match packet {
            [0x00, ..] => return Ok(Answer::Done(parse_ok(packet)?)),
            [0xFF, ..] => {
                let error = failure::from_packet(packet);
                self.busy = false;
                return Err(error);
            }
            [0xFB, name @ ..] => {
                if name == LOCAL_FILE.as_bytes() {
                    return Ok(Answer::File);
                }
                self.packets.end_file().await?;
                return Err(Error::fatal("the server asked for a file that was not offered"));
            }
            _ => lenenc(packet, 0).map(|(columns, _)| columns),
        };
        let columns = columns.ok_or_else(|| failure::malformed("result set"))?;
        for _ in 0..columns {
            if let packet @ [0xFF, ..] = self.packets.packet().await? {
                return Err(failure::from_packet(packet));
            }
        }
        match self.packets.packet().await? {
            [0xFE, ..] => Ok(Answer::Rows),
            _ => Err(failure::malformed("result set")),
        }
    }
}

enum Answer {
    Done(Done),
    Rows,
    File,
}

/// In the words of MySQL's own client, so that a user finds them in a search, with the reason behind them.
fn unreachable(connection: &Connection, error: Error) -> Error {
    let (server, port) = (&connection.server, connection.port);
    let native = if error.message.starts_with("could not translate") { 2005 } else { 2003 };
    let message = match native {
        2005 => format!("Unknown MySQL server host '{server}': {}", error.message),
        _ => match error.native {
            Some(number) => format!("Can't connect to MySQL server on '{server}:{port}' ({number}): {}", error.message),
            None => format!("Can't connect to MySQL server on '{server}:{port}': {}", error.message),
        },
    };
    Error { message, ..error }.with_native(native).with_sqlstate("HY000")
}

fn parse_ok(packet: &[u8]) -> Result<Done> {
    let parse = || {
        let (affected, at) = lenenc(packet, 1)?;
        let (_, at) = lenenc(packet, at)?;
        let &[status_a, status_b, warnings_a, warnings_b] = packet.get(at..)?.first_chunk::<4>()?;
        Some(done(affected, [status_a, status_b], [warnings_a, warnings_b]))
    };
    parse().ok_or_else(|| failure::malformed("OK"))
}

fn parse_eof(packet: &[u8]) -> Result<Done> {
    match packet {
        [_, warnings_a, warnings_b, status_a, status_b, ..] => {
            Ok(done(0, [*status_a, *status_b], [*warnings_a, *warnings_b]))
        }
        _ => Err(failure::malformed("EOF")),
    }
}

fn done(affected: u64, status: [u8; 2], warnings: [u8; 2]) -> Done {
    const MORE_RESULTS: u16 = 0x0008;
    let more_results = u16::from_le_bytes(status) & MORE_RESULTS != 0;
    Done { affected, warnings: u16::from_le_bytes(warnings), more_results }
}

/// A length-encoded integer at `at`, and where it ends. `None` for NULL and for what is not one.
#[inline]
fn lenenc(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let width = match *bytes.get(at)? {
        0xFC => 2,
        0xFD => 3,
        0xFE => 8,
        0xFB | 0xFF => return None,
        small => return Some((small.into(), at + 1)),
    };
    let mut value = [0; 8];
    value[..width].copy_from_slice(bytes.get(at + 1..at + 1 + width)?);
    Some((u64::from_le_bytes(value), at + 1 + width))
}

/// The value of a text-protocol row that begins at `at` (`None`: NULL), and where the next begins. The outer `None`
/// means that the row is not well-formed.
#[inline]
pub(super) fn value_at(row: &[u8], at: usize) -> Option<(Option<&[u8]>, usize)> {
    if row.get(at) == Some(&0xFB) {
        return Some((None, at + 1));
    }
    let (len, start) = lenenc(row, at)?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    Some((Some(row.get(start..end)?), end))
}

fn parse_row(packet: &[u8]) -> Option<Vec<Option<String>>> {
    let mut row = Vec::new();
    let mut at = 0;
    while at < packet.len() {
        let (value, next) = value_at(packet, at)?;
        row.push(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
        at = next;
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_rows_of_the_text_protocol() {
        let mut packet = vec![0xFB, 0x00, 0x03, b'a', b'b', b'c', 0xFC, 0x04, 0x01];
        packet.extend_from_slice(&[b'x'; 260]);
        let row = parse_row(&packet).unwrap();
        assert_eq!(row, [None, Some(String::new()), Some("abc".to_owned()), Some("x".repeat(260))]);
        assert_eq!(parse_row(&[0x05, b'a']), None);
    }

    #[test]
    fn parses_ok_and_eof() {
        let ok = parse_ok(&[0, 0xFC, 0x10, 0x27, 0, 0x0A, 0, 2, 0]).unwrap();
        assert_eq!(ok, Done { affected: 10_000, warnings: 2, more_results: true });
        assert_eq!(parse_eof(&[0xFE, 1, 0, 2, 0]).unwrap(), Done { affected: 0, warnings: 1, more_results: false });
        assert!(parse_ok(&[0, 1]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_malformed_packets(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_row(&bytes);
            let _ = parse_ok(&bytes);
            let _ = parse_eof(&bytes);
            let _ = failure::from_packet(&bytes);
        }
    }
}
