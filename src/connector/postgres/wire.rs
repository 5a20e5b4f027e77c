//! A client of PostgreSQL's wire protocol, as small as the data plane needs.
//!
//! Its reason to exist is COPY: a row of 100 MB is one message, which this client hands out in pieces as it arrives,
//! and a row of 100 bytes costs no allocation.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

mod error;
mod login;

use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use error::ServerError;
pub use login::{LOG_SESSION, Purpose, REPLICATION_SQL_SINCE};

use crate::connector::net::{self, Stream};
use crate::data::{Error, Result};

/// Rows of text, as the catalog answers.
pub type Rows = Vec<Vec<Option<String>>>;

/// The read buffer. Larger than the longest text of any value that is not text or bytes (a numeric of 147,457
/// digits and signs), so that only those two are ever looked at in pieces.
pub const INPUT_BYTES: usize = 256 << 10;

/// A message other than a row of a COPY is refused beyond this length.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A change of one row: PostgreSQL's values have up to 1 GiB together.
const STREAM_MESSAGE_BYTES_MAX: usize = (1 << 30) + (64 << 20);

/// The most that is put into one message of a COPY IN: the server starts on a message when all of it is there.
const COPY_MESSAGE_BYTES: usize = 32 << 10;

/// Output is sent when this much has gathered.
const OUTPUT_BYTES: usize = 128 << 10;

/// How long a cancelled or failed connection may take to tell us why, or to take a cancel request.
const LAST_WORDS: Duration = Duration::from_secs(2);

const FAILED_TRANSACTION: &str = "25P02";

const COMMAND_COMPLETE: u8 = b'C';
const COPY_DATA: u8 = b'd';
const COPY_DONE: u8 = b'c';
const COPY_BOTH: u8 = b'W';
const COPY_IN: u8 = b'G';
const COPY_OUT: u8 = b'H';
const DATA_ROW: u8 = b'D';
const ERROR: u8 = b'E';
const NOTICE: u8 = b'N';
const NOTIFICATION: u8 = b'A';
const PARAMETER_STATUS: u8 = b'S';
const READY: u8 = b'Z';
const ROW_DESCRIPTION: u8 = b'T';

/// A session with a server. Dropping it closes the connection and stops what the server is doing for it.
pub struct Client {
    stream: Stream,
    input: Input,
    /// Where the payload of the message received last is in `input`.
    message: Range<usize>,
    output: BytesMut,
    server: String,
    port: u16,
    /// Process and secret key for a cancel request.
    key: Option<(i32, i32)>,
    version: u32,
    /// Statements sent whose `ReadyForQuery` has not come yet.
    pending: usize,
    /// What the server has refused since it was last ready: after a fatal error it closes the connection at once.
    refusal: Option<ServerError>,
    /// What the server has warned of since that was asked for.
    warning: Option<ServerError>,
    /// What is left of the COPY OUT row being read.
    row_left: Option<usize>,
    /// The longest a statement other than COPY may take.
    timeout: Duration,
}

/// What the next bytes of a COPY OUT are.
pub enum Piece<'a> {
    /// The bytes at hand of a row of which `left` bytes, these included, have not been consumed.
    Row { bytes: &'a [u8], left: usize },
    /// Nothing whole is at hand: [`Client::fill`].
    Short,
    /// A message that is no row: [`Client::copy_out_message`].
    Message,
}

/// How a COPY IN ended.
pub enum Loaded {
    Rows(u64),
    Refused(ServerError),
}

impl Client {
    /// As `server_version_num`: 150004 is 15.4.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Sends statements and gives the rows of the last one that has any. Fails when it takes longer than the
    /// endpoint's `ExecuteTimeout`.
    pub async fn query(&mut self, sql: &str) -> Result<Rows> {
        match tokio::time::timeout(self.timeout, self.query_untimed(sql)).await {
            Ok(answer) => answer,
            Err(_) => {
                let seconds = self.timeout.as_secs();
                Err(Error::recoverable(format!("no answer within ExecuteTimeout ({seconds} s)")))
            }
        }
    }

    /// Like [`query`](Client::query), for statements whose time grows with the table.
    pub async fn query_untimed(&mut self, sql: &str) -> Result<Rows> {
        self.send_query(sql)?;
        self.flush().await?;
        let mut rows = Rows::new();
        loop {
            match self.receive().await? {
                ROW_DESCRIPTION => rows.clear(),
                DATA_ROW => rows.push(self.data_row()?),
                COPY_OUT | COPY_IN => return Err(broken("an unexpected COPY")),
                READY => break,
                _ => {}
            }
        }
        self.refusal.take().map_or(Ok(rows), |refusal| Err(refusal.into_error()))
    }

    /// Ends a transaction. The server answers the COMMIT of one that has failed without an error: it rolls it back, and
    /// says so by the name of what it did.
    pub async fn commit(&mut self) -> Result<()> {
        self.send_query("COMMIT")?;
        self.flush().await?;
        let mut is_committed = false;
        loop {
            match self.receive().await? {
                COMMAND_COMPLETE => is_committed = self.payload() == b"COMMIT\0",
                READY => break,
                _ => {}
            }
        }
        match self.refusal.take() {
            Some(refusal) => Err(refusal.into_error()),
            None if is_committed => Ok(()),
            None => Err(Error::recoverable("the server rolled back a transaction in which a statement had failed")
                .with_sqlstate(FAILED_TRANSACTION)),
        }
    }

    /// Runs one statement whose parameters are given in their binary form and gives its only row as text.
    pub async fn query_binary(&mut self, sql: &str, parameters: &[Option<&[u8]>]) -> Result<Vec<Option<String>>> {
        let not_sent = |_| broken("parameters that fit no message");
        frontend::parse("", sql, [], &mut self.output).map_err(not_sent)?;
        let append = |value: &Option<&[u8]>, into: &mut BytesMut| match value {
            Some(bytes) => {
                into.put_slice(bytes);
                Ok(postgres_protocol::IsNull::No)
            }
            None => Ok(postgres_protocol::IsNull::Yes),
        };
        frontend::bind("", "", [1], parameters, append, [0], &mut self.output)
            .map_err(|_| broken("parameters that fit no message"))?;
        frontend::execute("", 0, &mut self.output).map_err(not_sent)?;
        frontend::sync(&mut self.output);
        self.pending += 1;
        self.flush().await?;
        let mut row = Vec::new();
        loop {
            match self.receive().await? {
                DATA_ROW => row = self.data_row()?,
                READY => break,
                _ => {}
            }
        }
        self.refusal.take().map_or(Ok(row), |refusal| Err(refusal.into_error()))
    }

    /// Runs a statement that was prepared under this name, preparing it first where `sql` is given, with parameters in
    /// their text form. Gives how many rows it changed.
    pub async fn execute(&mut self, name: &str, sql: Option<&str>, parameters: &[Vec<u8>]) -> Result<u64> {
        let not_sent = |_| broken("parameters that fit no message");
        if let Some(sql) = sql {
            frontend::parse(name, sql, [], &mut self.output).map_err(not_sent)?;
        }
        let append = |value: &Vec<u8>, into: &mut BytesMut| {
            into.put_slice(value);
            Ok(postgres_protocol::IsNull::No)
        };
        frontend::bind("", name, [0], parameters, append, [0], &mut self.output)
            .map_err(|_| broken("parameters that fit no message"))?;
        frontend::execute("", 0, &mut self.output).map_err(not_sent)?;
        frontend::sync(&mut self.output);
        self.pending += 1;
        self.flush().await?;
        match self.copy_in_outcome().await? {
            Loaded::Rows(rows) => Ok(rows),
            Loaded::Refused(error) => Err(error.into_error()),
        }
    }

    /// Forgets a prepared statement; one that is not there is no error.
    pub async fn forget(&mut self, name: &str) -> Result<()> {
        frontend::close(b'S', name, &mut self.output).map_err(|_| broken("a name that fits no message"))?;
        frontend::sync(&mut self.output);
        self.pending += 1;
        self.flush().await?;
        self.copy_in_outcome().await.map(drop)
    }

    /// The numbers and modifiers of the types that the columns of a query's answer have. The query is not run.
    pub async fn describe(&mut self, sql: &str) -> Result<Vec<(u32, i32)>> {
        let not_sent = |_| Error::table("a name or text holds a zero byte");
        frontend::parse("", sql, [], &mut self.output).map_err(not_sent)?;
        frontend::describe(b'S', "", &mut self.output).map_err(not_sent)?;
        frontend::sync(&mut self.output);
        self.pending += 1;
        self.flush().await?;
        let mut columns = Vec::new();
        loop {
            match self.receive().await? {
                ROW_DESCRIPTION => columns = described(self.payload()).ok_or_else(|| broken("a malformed row"))?,
                READY => break,
                _ => {}
            }
        }
        self.refusal.take().map_or(Ok(columns), |refusal| Err(refusal.into_error()))
    }

    /// Starts a `COPY … TO STDOUT`, the last of the given statements.
    pub async fn copy_out(&mut self, sql: &str) -> Result<()> {
        self.send_query(sql)?;
        self.flush().await?;
        loop {
            match self.receive().await? {
                COPY_OUT => return Ok(()),
                READY => {
                    let missing = || broken("no COPY where one was asked for");
                    return Err(self.refusal.take().map_or_else(missing, ServerError::into_error));
                }
                _ => {}
            }
        }
    }

    /// The next bytes of the running COPY OUT that are at hand.
    #[inline]
    pub fn piece(&mut self) -> Result<Piece<'_>> {
        let left = match self.row_left {
            Some(left) => left,
            None => match self.input.header()? {
                Some((COPY_DATA, length)) => {
                    self.input.start += 5;
                    self.row_left = Some(length);
                    length
                }
                Some(_) => return Ok(Piece::Message),
                None => return Ok(Piece::Short),
            },
        };
        let bytes = self.input.bytes();
        let at_hand = bytes.len().min(left);
        Ok(Piece::Row { bytes: &bytes[..at_hand], left })
    }

    /// Takes bytes of the current row as read. The row ends when all of it is consumed.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        let left = self.row_left.unwrap_or(0);
        debug_assert!(bytes <= left && bytes <= self.input.bytes().len());
        self.input.start += bytes;
        self.row_left = (left > bytes).then_some(left - bytes);
    }

    /// Waits for more bytes. Fails when the buffer is full, which means that the caller could have gone on.
    pub async fn fill(&mut self) -> Result<()> {
        if self.input.room() == 0 {
            return Err(Error::table("a value is longer than its type allows"));
        }
        self.read().await
    }

    /// Takes a message of a COPY OUT that is no row; `false` when it was the end of the COPY.
    pub async fn copy_out_message(&mut self) -> Result<bool> {
        if !matches!(self.receive().await?, COPY_DONE | ERROR) {
            return Ok(true);
        }
        while self.receive().await? != READY {}
        self.refusal.take().map_or(Ok(false), |refusal| Err(refusal.into_error()))
    }

    /// Starts a `COPY … FROM STDIN`. Its data may follow at once, its outcome is awaited by
    /// [`copy_in_outcome`](Client::copy_in_outcome), and more COPYs may be sent before that: a refused one does not
    /// stop those after it.
    pub fn start_copy_in(&mut self, sql: &str) -> Result<()> {
        self.send_query(sql)
    }

    /// Sends bytes of the COPY IN started last.
    pub async fn copy_in(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(COPY_MESSAGE_BYTES));
            self.output.reserve(now.len() + 5);
            self.output.put_u8(COPY_DATA);
            self.output.put_u32(now.len() as u32 + 4);
            self.output.put_slice(now);
            if self.output.len() >= OUTPUT_BYTES {
                self.flush().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Ends the COPY IN started last.
    pub async fn end_copy_in(&mut self) -> Result<()> {
        frontend::copy_done(&mut self.output);
        self.flush().await
    }

    /// Waits for what became of the oldest COPY IN whose outcome has not been asked for.
    pub async fn copy_in_outcome(&mut self) -> Result<Loaded> {
        let mut rows = 0;
        loop {
            match self.receive().await? {
                // `COPY 17`
                COMMAND_COMPLETE => {
                    let tag = String::from_utf8_lossy(self.payload());
                    rows = tag.trim_end_matches('\0').rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                }
                READY => break,
                _ => {}
            }
        }
        Ok(self.refusal.take().map_or(Loaded::Rows(rows), Loaded::Refused))
    }

    /// Starts a stream of messages in both directions (`START_REPLICATION`).
    pub async fn start_stream(&mut self, sql: &str) -> Result<()> {
        self.warning = None;
        self.send_query(sql)?;
        self.flush().await?;
        loop {
            match self.receive().await? {
                COPY_BOTH => return Ok(()),
                READY => {
                    let missing = || broken("no stream where one was asked for");
                    return Err(self.refusal.take().map_or_else(missing, ServerError::into_error));
                }
                _ => {}
            }
        }
    }

    /// The next message of the stream. Giving the call up loses nothing.
    pub async fn stream_message(&mut self) -> Result<&[u8]> {
        loop {
            match self.receive_within(STREAM_MESSAGE_BYTES_MAX).await? {
                // What comes after the warning has to be taken with it.
                COPY_DATA if self.warning.is_some() => return Err(broken("a warning")),
                COPY_DATA => return Ok(self.payload()),
                // The server ends a stream when it shuts down.
                COPY_DONE => return Err(Error::recoverable("the server ended the replication stream")),
                ERROR => return Err(self.refusal.take().map_or_else(|| broken("no error"), ServerError::into_error)),
                _ => {}
            }
        }
    }

    /// Whether the next message has arrived whole.
    pub fn has_message(&self) -> bool {
        matches!(self.input.header(), Ok(Some((_, length))) if self.input.bytes().len() >= length + 5)
    }

    /// What arrives wakes nobody up until there is nothing to take in.
    pub fn unwatch(&mut self) {
        self.stream.unwatch();
    }

    /// Takes in what has arrived, without waiting for more; tells how many bytes that are.
    pub fn take_in(&mut self) -> Result<usize> {
        if self.input.room() == 0 {
            return Ok(0);
        }
        let before = self.input.bytes().len();
        self.read().now_or_never().unwrap_or(Ok(()))?;
        Ok(self.input.bytes().len() - before)
    }

    /// What the server has warned of, where the session lets it. A stream does not go on before this was asked.
    pub fn take_warning(&mut self) -> Option<ServerError> {
        self.warning.take()
    }

    pub async fn send_stream_message(&mut self, message: &[u8]) -> Result<()> {
        self.copy_in(message).await?;
        self.flush().await
    }

    fn send_query(&mut self, sql: &str) -> Result<()> {
        frontend::query(sql, &mut self.output).map_err(|_| Error::table("a name or text holds a zero byte"))?;
        self.pending += 1;
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let sent = async {
            // Given up in the middle, the next call goes on with what is left.
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await
        };
        let sent = sent.await;
        self.output.clear();
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words(error).await),
        }
    }

    /// Why the server closed a connection that we could not write to: it may have said so.
    async fn last_words(&mut self, error: io::Error) -> Error {
        let said = tokio::time::timeout(LAST_WORDS, async {
            loop {
                if let Err(heard) = self.receive().await {
                    break heard;
                }
            }
        });
        said.await.ok().filter(|heard| heard.sqlstate.is_some()).unwrap_or_else(|| lost(&error))
    }

    /// Receives the next message that is an answer; its payload is there until the next call.
    async fn receive(&mut self) -> Result<u8> {
        self.receive_within(MESSAGE_BYTES_MAX).await
    }

    async fn receive_within(&mut self, bytes_max: usize) -> Result<u8> {
        loop {
            let (tag, length) = loop {
                match self.input.header()? {
                    Some(header) => break header,
                    None => self.read().await?,
                }
            };
            if length > bytes_max {
                return Err(broken("a message that is too long"));
            }
            self.input.make_room(length + 5);
            while self.input.bytes().len() < length + 5 {
                self.read().await?;
            }
            let start = self.input.start + 5;
            self.message = start..start + length;
            self.input.start = self.message.end;
            match tag {
                NOTICE => self.warning = Some(ServerError::parse(&self.input.buffer[self.message.clone()])),
                NOTIFICATION => {}
                PARAMETER_STATUS => self.note_parameter(),
                ERROR => {
                    self.refusal.get_or_insert(ServerError::parse(&self.input.buffer[self.message.clone()]));
                    return Ok(tag);
                }
                READY => {
                    self.pending = self.pending.saturating_sub(1);
                    return Ok(tag);
                }
                _ => return Ok(tag),
            }
        }
    }

    fn payload(&self) -> &[u8] {
        &self.input.buffer[self.message.clone()]
    }

    async fn read(&mut self) -> Result<()> {
        self.input.make_room(0);
        let error = match self.stream.read(&mut self.input.buffer[self.input.end..]).await {
            Ok(0) => Error::recoverable("server closed the connection unexpectedly"),
            Ok(read) => {
                self.input.end += read;
                return Ok(());
            }
            Err(error) => lost(&error),
        };
        Err(self.refusal.take().map_or(error, ServerError::into_error))
    }

    fn note_parameter(&mut self) {
        let mut parts = self.payload().split(|byte| *byte == 0);
        if let (Some(b"server_version"), Some(version)) = (parts.next(), parts.next()) {
            self.version = parse_version(&String::from_utf8_lossy(version));
        }
    }

    fn data_row(&self) -> Result<Vec<Option<String>>> {
        let malformed = || broken("a malformed row");
        let (count, mut rest) = self.payload().split_first_chunk::<2>().ok_or_else(malformed)?;
        let mut row = Vec::with_capacity(u16::from_be_bytes(*count).into());
        for _ in 0..u16::from_be_bytes(*count) {
            let (length, after) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
            rest = after;
            row.push(match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => None,
                Ok(length) => {
                    let (value, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
                    rest = after;
                    Some(String::from_utf8_lossy(value).into_owned())
                }
            });
        }
        Ok(row)
    }
}

impl Drop for Client {
    /// A server notices a closed connection only when it next writes to it, so one that is busy is told to stop. The
    /// request is its own short connection that nobody waits for.
    fn drop(&mut self) {
        let (Some((process, secret)), true) = (self.key, self.pending > 0) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (server, port) = (std::mem::take(&mut self.server), self.port);
        runtime.spawn(tokio::time::timeout(LAST_WORDS, async move {
            let mut request = BytesMut::new();
            frontend::cancel_request(process, secret, &mut request);
            if let Ok(mut stream) = net::connect(&server, port).await {
                // Best effort: if it fails, the server stops at its next write.
                let _ = stream.write_all(&request).await;
                let _ = stream.shutdown().await;
            }
        }));
    }
}

/// Type and modifier of each column of a `RowDescription`.
fn described(payload: &[u8]) -> Option<Vec<(u32, i32)>> {
    let (count, mut rest) = payload.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = memchr::memchr(0, rest)?;
        // Table and column number, type, its size and modifier, format.
        let (fields, after) = rest.get(end + 1..)?.split_first_chunk::<18>()?;
        let [_, _, _, _, _, _, t1, t2, t3, t4, _, _, m1, m2, m3, m4, _, _] = *fields;
        columns.push((u32::from_be_bytes([t1, t2, t3, t4]), i32::from_be_bytes([m1, m2, m3, m4])));
        rest = after;
    }
    Some(columns)
}

/// A connection that failed underneath the protocol.
fn lost(error: &io::Error) -> Error {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    Error::recoverable(format!("connection to server was lost: {text}"))
        .with_native(error.raw_os_error().unwrap_or(0).into())
}

fn broken(what: &str) -> Error {
    Error::fatal(format!("the server does not speak PostgreSQL's protocol: it sent {what}"))
}

/// `15.4 (Debian …)` is 150004, `9.6.24` is 90624, `18beta1` is 180000.
fn parse_version(text: &str) -> u32 {
    let mut numbers = text.split(' ').next().unwrap_or_default().split('.').map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse::<u32>().unwrap_or(0).min(9999)
    });
    let mut next = || numbers.next().unwrap_or(0);
    match next() {
        major @ 0..10 => major * 10_000 + next().min(99) * 100 + next().min(99),
        major => major * 10_000 + next(),
    }
}

/// Bytes received and not yet read, in one reused buffer.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Input {
        Input { buffer: vec![0; INPUT_BYTES], start: 0, end: 0 }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Room for more once what is read is dropped.
    fn room(&self) -> usize {
        self.buffer.len() - (self.end - self.start)
    }

    /// Tag and payload length of the message that comes next, if its first five bytes are there.
    #[inline]
    fn header(&self) -> Result<Option<(u8, usize)>> {
        let Some([tag, length @ ..]) = self.bytes().first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        match length.checked_sub(4) {
            Some(payload) => Ok(Some((*tag, payload))),
            None => Err(broken("a malformed message")),
        }
    }

    /// Makes sure that `total` unread bytes fit, and in any case that there is room to read into.
    fn make_room(&mut self, total: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > INPUT_BYTES && total <= INPUT_BYTES {
                self.buffer.truncate(INPUT_BYTES);
                self.buffer.shrink_to_fit();
            }
        }
        // What is unread is short as a rule; moving it keeps reads long.
        let cramped = self.start > 0 && self.buffer.len() - self.end < self.buffer.len() / 4;
        if cramped || self.start + total > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < total {
            self.buffer.resize(total, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_version_numbers() {
        for (text, expected) in
            [("15.18 (Debian 15.18-1)", 150_018), ("9.6.24", 90_624), ("18beta1", 180_000), ("10.4", 100_004), ("", 0)]
        {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn keeps_unread_bytes_when_it_makes_room() {
        let mut input = Input::new();
        input.end = INPUT_BYTES;
        input.start = INPUT_BYTES - 3;
        input.buffer[INPUT_BYTES - 3..].copy_from_slice(b"abc");
        input.make_room(0);
        assert_eq!((input.bytes(), input.room()), (&b"abc"[..], INPUT_BYTES - 3));
        input.make_room(2 * INPUT_BYTES);
        assert_eq!((input.bytes(), input.buffer.len()), (&b"abc"[..], 2 * INPUT_BYTES));
        input.start = input.end;
        input.make_room(0);
        assert_eq!(input.buffer.len(), INPUT_BYTES);
    }
}
