//! Finding places in the log: by time, by global transaction numbers, and where a transaction was prepared.

use super::super::source::MySqlSource;
use super::super::wire::DumpEnd;
use super::event::{Begin, Group, Gtid, Xid, kind, malformed, parse_gtid, parse_query, parse_xa_prepare};
use super::gtid::GtidSet;
use super::interpreter::Prepared;
use super::replica_id;
use super::server::{LogFile, log_end, log_files};
use super::stream::{EventStream, FIRST, reading};
use crate::data::{Error, Position, Result};

/// Looks at a log. Each look has a connection of its own: one that is sent the log is good for nothing else.
pub(super) struct Search<'a> {
    pub(super) source: &'a MySqlSource,
    pub(super) task: &'a str,
}

/// A transaction, or a statement that is one, and its first event's place.
struct Found {
    start: u64,
    /// When it was committed, in microseconds since 1970.
    time: i64,
}

impl Search<'_> {
    async fn files(&self) -> Result<Vec<LogFile>> {
        let mut client = self.source.connect().await?;
        let files = log_files(&mut client).await;
        client.close().await;
        files
    }

    async fn end(&self) -> Result<Position> {
        let mut client = self.source.connect().await?;
        let end = log_end(&mut client).await;
        client.close().await;
        end
    }

    async fn open(&self, file: &str, offset: u64) -> Result<EventStream> {
        let client = self.source.connect().await?;
        let from = Position::Binlog { file: file.to_owned(), offset };
        EventStream::open(client, replica_id(self.task, "search"), &from, DumpEnd::WithTheLog).await
    }

    /// Makes sure that the log can be read from a place on.
    pub(super) async fn check(&self, position: &Position) -> Result<()> {
        let Position::Binlog { file, offset } = position else {
            return Err(Error::fatal(format!("{position} is no position in the log of MySQL")));
        };
        let files = self.files().await?;
        let Some(known) = files.iter().find(|known| known.name == *file) else {
            let what = "Could not find first log file name in binary log index file";
            return Err(reading(Error::fatal(what).with_native(1236).with_sqlstate("HY000")));
        };
        if *offset < FIRST || *offset > known.size {
            return Err(Error::fatal(format!(
                "{position} is no position in the log of the source: the file ends at {}",
                known.size
            )));
        }
        // A place within an event gives what is none.
        let mut stream = self.open(file, *offset).await?;
        loop {
            let ready = stream.ready().await.map_err(|error| Error {
                message: format!("{position} is no position in the log of the source: {}", error.message),
                ..error
            })?;
            let Some((event, place)) = stream.event().filter(|_| ready) else { return Ok(()) };
            if place.file != file
                || (place.start >= *offset && place.end > place.start && !event.header.is_artificial())
            {
                return Ok(());
            }
            stream.take()?;
        }
    }

    /// Before the first transaction that committed at this time, in microseconds since 1970, or later. All that is
    /// committed from now on when there is none yet.
    pub(super) async fn by_time(&self, time: i64) -> Result<Position> {
        let files = self.files().await?;
        let (mut low, mut high) = (0, files.len());
        // The last file that was begun before that.
        while low < high {
            let middle = (low + high) / 2;
            match self.begun(&files[middle].name).await? < time.div_euclid(1_000_000) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let Some(file) = files.get(low.saturating_sub(1)) else { return self.end().await };
        if low == 0 && !is_first(&file.name) {
            return Err(Error::fatal(format!(
                "Error 1236 reading binary log. The log of the source does not go back to the start time any more: it \
                 begins with {}",
                file.name
            )));
        }
        let mut stream = self.open(&file.name, FIRST).await?;
        let mut bounds = Bounds::default();
        while stream.ready().await? {
            let Some((event, place)) = stream.event() else { break };
            if let Some(found) = bounds.see(event.header.kind, event.header.time, event.body, place.start)?
                && found.time >= time
            {
                return Ok(Position::Binlog { file: place.file.to_owned(), offset: found.start });
            }
            stream.take()?;
        }
        Ok(stream.position())
    }

    /// When a file was begun, in seconds since 1970.
    async fn begun(&self, file: &str) -> Result<i64> {
        let mut stream = self.open(file, FIRST).await?;
        while stream.ready().await? {
            if let Some((event, _)) = stream.event()
                && event.header.time > 0
                && event.header.kind != kind::ROTATE
            {
                return Ok(event.header.time.into());
            }
            stream.take()?;
        }
        Err(malformed("format description"))
    }

    /// Before the first transaction that is not among these. Some of them may come again after it, where the log does not
    /// have them in the order of their numbers.
    pub(super) async fn by_gtids(&self, text: &str) -> Result<Position> {
        let wanted = GtidSet::parse(text)
            .ok_or_else(|| Error::fatal(format!("'{text}' is no set of global transaction numbers")))?;
        let files = self.files().await?;
        let (mut low, mut high) = (0, files.len());
        // The last file before which there is none but these.
        while low < high {
            let middle = (low + high) / 2;
            match self.previous(&files[middle].name).await? {
                Some(previous) if !wanted.has_all(&previous) => high = middle,
                _ => low = middle + 1,
            }
        }
        let Some(file) = low.checked_sub(1).and_then(|last| files.get(last)) else {
            return Err(Error::fatal(
                "Error 1236 reading binary log. The log of the source does not have all the transactions any more that come \
                 after the start position",
            ));
        };
        let mut stream = self.open(&file.name, FIRST).await?;
        while stream.ready().await? {
            let Some((event, place)) = stream.event() else { break };
            if matches!(event.header.kind, kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID) {
                let begin = parse_gtid(event.header.kind, event.body).ok_or_else(|| malformed("GTID"))?;
                if begin.gtid == Gtid::Anonymous {
                    return Err(Error::fatal("the source does not number its transactions (gtid_mode is OFF)"));
                }
                if !wanted.has(&begin.gtid) {
                    return Ok(Position::Binlog { file: place.file.to_owned(), offset: place.start });
                }
            }
            stream.take()?;
        }
        Ok(stream.position())
    }

    /// What the files before one hold. `None`: nothing is told.
    async fn previous(&self, file: &str) -> Result<Option<GtidSet>> {
        let mut stream = self.open(file, FIRST).await?;
        while stream.ready().await? {
            let Some((event, place)) = stream.event() else { break };
            match event.header.kind {
                kind::PREVIOUS_GTIDS => return Ok(GtidSet::of_previous(event.body)),
                kind::MARIADB_GTID_LIST => return Ok(GtidSet::of_list(event.body)),
                kind::FORMAT_DESCRIPTION | kind::ROTATE | kind::START_ENCRYPTION if place.file == file => {}
                _ => break,
            }
            stream.take()?;
        }
        Ok(None)
    }

    /// Where a transaction was prepared, before a place. The last one of this name counts.
    pub(super) async fn prepared(&self, xid: &Xid, before: &Position) -> Result<Prepared> {
        let Position::Binlog { file: last, offset: end } = before else { return Err(malformed("XA commit")) };
        let files = self.files().await?;
        let upto = files.iter().position(|file| file.name == *last).map_or(files.len(), |at| at + 1);
        for file in files[..upto].iter().rev() {
            tracing::info!(file = file.name, "looking for where a two-phase transaction was prepared");
            let mut found = None;
            let mut stream = self.open(&file.name, FIRST).await?;
            let mut bounds = Bounds::default();
            while stream.ready().await? {
                let Some((event, place)) = stream.event() else { break };
                if place.file != file.name || (file.name == *last && place.start >= *end) {
                    break;
                }
                let ended = bounds.see(event.header.kind, event.header.time, event.body, place.start)?;
                if event.header.kind == kind::XA_PREPARE
                    && parse_xa_prepare(event.body).is_some_and(|(known, one_phase)| known == *xid && !one_phase)
                    && let Some(ended) = ended
                {
                    found = Some(Prepared { file: file.name.clone(), start: ended.start, captured: true });
                }
                stream.take()?;
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(Error::fatal(
            "a two-phase transaction (XA) was committed on the source whose changes are not in its log any more: load the \
             tables again",
        ))
    }
}

/// Whether a file is the first that the server ever wrote: nothing can have been before it.
fn is_first(file: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(_, number)| number.parse() == Ok(1))
}

/// Tells where transactions begin and end.
#[derive(Default)]
struct Bounds {
    announced: Option<(Begin, u64)>,
    open: Option<(u64, Option<i64>)>,
}

impl Bounds {
    /// Gives the transaction that ends with this event.
    fn see(&mut self, kind: u8, seconds: u32, body: &[u8], start: u64) -> Result<Option<Found>> {
        match kind {
            kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID => {
                let begin = parse_gtid(kind, body).ok_or_else(|| malformed("GTID"))?;
                self.open = matches!(begin.group, Some(Group::Transaction | Group::Xa)).then_some((start, begin.time));
                self.announced = Some((begin, start));
                Ok(None)
            }
            kind::XID | kind::XA_PREPARE => Ok(self.end(seconds, start)),
            kind::QUERY => {
                let text = parse_query(body, 0).ok_or_else(|| malformed("query"))?.text;
                match text {
                    b"COMMIT" | b"ROLLBACK" => Ok(self.end(seconds, start)),
                    _ if text == b"BEGIN" || text.starts_with(b"XA START") => {
                        let announced = self.announced.as_ref();
                        self.open = Some(announced.map_or((start, None), |(begin, start)| (*start, begin.time)));
                        Ok(None)
                    }
                    _ if self.open.is_none() => Ok(self.end(seconds, start)),
                    _ => Ok(None),
                }
            }
            kind::QUERY_COMPRESSED if self.open.is_none() => Ok(self.end(seconds, start)),
            _ => Ok(None),
        }
    }

    fn end(&mut self, seconds: u32, start: u64) -> Option<Found> {
        let announced = self.announced.take().map(|(begin, start)| (start, begin.time));
        let (start, time) = self.open.take().or(announced).unwrap_or((start, None));
        Some(Found { start, time: time.unwrap_or(i64::from(seconds) * 1_000_000) })
    }
}
