//! The binary log as a replica is sent it, event by event.

use std::time::Duration;

use tokio::time::timeout;

use super::super::wire::{Client, DumpEnd, LogPacket};
use super::compressed::{EVENT_MAX, Payload};
use super::event::{Event, FormatDescription, HEADER, Header, kind, malformed, parse_rotate};
use super::interpreter::Place;
use crate::data::{Error, ErrorKind, Position, Result};

/// How often the server says that it is there when it has nothing to say …
const HEARTBEAT: Duration = Duration::from_secs(5);
/// … and after how long without a word it counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The first event of a file.
pub(super) const FIRST: u64 = 4;

/// A connection that is sent the log.
pub(super) struct EventStream {
    client: Client,
    file: String,
    /// Where the present event, or the next, begins.
    offset: u64,
    /// Events before this place are passed over: a place in a file of more than 4 GiB cannot be asked for.
    wanted: u64,
    checksum: bool,
    current: Option<Current>,
    payload: Option<Payload>,
}

struct Current {
    packet: LogPacket,
    header: Header,
    /// Where the event ends in its file.
    end: u64,
}

impl EventStream {
    /// Begins to read at a place. `server_id`: the replica's own number, of which the server serves one at a time.
    pub(super) async fn open(mut client: Client, server_id: u32, from: &Position, end: DumpEnd) -> Result<EventStream> {
        let Position::Binlog { file, offset } = from else {
            return Err(Error::fatal(format!("{from} is no place in a file of the binary log")));
        };
        client.set_timeout(Some(SILENCE_MAX));
        let heartbeat = HEARTBEAT.as_nanos();
        // By their old and new names; what a server does not know is only a variable of the session.
        let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &server_id.to_le_bytes());
        client
            .run(&format!(
                "SET @master_heartbeat_period={heartbeat}, @source_heartbeat_period={heartbeat}, \
                 @slave_uuid='{uuid}', @replica_uuid='{uuid}', @mariadb_slave_capability=4"
            ))
            .await?;
        // A server from before there were checksums does not know the variable, and sends none.
        let checksums =
            "SET @master_binlog_checksum=@@global.binlog_checksum, @source_binlog_checksum=@@global.binlog_checksum";
        let checksum = match client.run(checksums).await {
            Ok(_) => {
                let rows = client.rows("SELECT @master_binlog_checksum").await?;
                rows.first().and_then(|row| row[0].as_deref()).is_some_and(|name| name.eq_ignore_ascii_case("CRC32"))
            }
            Err(error) if client.is_busy() => return Err(error),
            Err(_) => false,
        };
        client.register_replica(server_id).await.map_err(needs_privilege)?;
        let (start, wanted) = match u32::try_from(*offset) {
            Ok(start) => (start, 0),
            Err(_) => (FIRST as u32, *offset),
        };
        client.begin_dump(file, start, server_id, end).await?;
        let (file, offset) = (file.clone(), start.into());
        Ok(EventStream { client, file, offset, wanted, checksum, current: None, payload: None })
    }

    /// Waits for an event; `false` at the end of the log. A call that is given up loses nothing.
    pub(super) async fn ready(&mut self) -> Result<bool> {
        loop {
            if self.payload.is_some() {
                return Ok(true);
            }
            if self.current.is_none() {
                let Some(packet) = self.packet().await? else { return Ok(false) };
                self.take_in(packet)?;
            }
            let Some(current) = &self.current else { continue };
            if self.offset < self.wanted && current.header.kind != kind::FORMAT_DESCRIPTION {
                self.take()?;
                continue;
            }
            if current.header.kind == kind::TRANSACTION_PAYLOAD {
                let mut payload = Payload::parse(self.body())?;
                match payload.advance()? {
                    true => self.payload = Some(payload),
                    false => self.take()?,
                }
            } else {
                return Ok(true);
            }
        }
    }

    async fn packet(&mut self) -> Result<Option<LogPacket>> {
        loop {
            let received = self.client.received();
            match timeout(SILENCE_MAX, self.client.log_packet(EVENT_MAX)).await {
                Ok(packet) => return packet.map_err(reading),
                // A long event may take its time.
                Err(_) if self.client.received() != received => {}
                Err(_) => return Err(silent()),
            }
        }
    }

    /// Looks at an event that has come.
    fn take_in(&mut self, packet: LogPacket) -> Result<()> {
        let bytes = self.client.log_event(&packet);
        let header = Header::parse(bytes).filter(|header| header.size as usize == bytes.len());
        let header = header.ok_or_else(|| malformed("broken"))?;
        if header.kind == kind::FORMAT_DESCRIPTION {
            self.checksum = FormatDescription::parse(&bytes[HEADER..])?.checksum;
        }
        if self.checksum {
            check(bytes)?;
        }
        let end = match header.kind {
            // How far the server has looked. It may still be at the file before.
            kind::HEARTBEAT
                if bytes[HEADER..].starts_with(self.file.as_bytes()) && header.end >= self.offset as u32 =>
            {
                upper_half(header.end, self.offset)
            }
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => self.offset,
            _ if header.is_artificial() => self.offset,
            _ => {
                let end = upper_half(header.end, self.offset);
                // Some events are not sent to a replica.
                self.offset = end.saturating_sub(header.size.into());
                end
            }
        };
        self.current = Some(Current { packet, header, end });
        if header.kind == kind::ROTATE {
            let (offset, file) = parse_rotate(self.body()).ok_or_else(|| malformed("rotate"))?;
            let file = file.to_owned();
            if file != self.file {
                self.wanted = 0;
                self.file = file;
            }
            self.offset = offset;
            if let Some(current) = &mut self.current {
                current.end = offset;
            }
        }
        Ok(())
    }

    /// The body of the event that the server sent.
    fn body(&self) -> &[u8] {
        let Some(current) = &self.current else { return &[] };
        let bytes = self.client.log_event(&current.packet);
        let end = if self.checksum { bytes.len().saturating_sub(CHECKSUM) } else { bytes.len() };
        // What begins a file tells of checksums by what would be one.
        let end = if current.header.kind == kind::FORMAT_DESCRIPTION { bytes.len() } else { end };
        bytes.get(HEADER..end).unwrap_or_default()
    }

    /// The event, after [`ready`](EventStream::ready), and where it is.
    pub(super) fn event(&self) -> Option<(Event<'_>, Place<'_>)> {
        let current = self.current.as_ref()?;
        let place = Place { file: &self.file, start: self.offset, end: current.end };
        let event = match &self.payload {
            // The events of a compressed transaction have no checksums of their own, and no places.
            Some(payload) => {
                let bytes = payload.event();
                Event { header: Header::parse(bytes)?, body: bytes.get(HEADER..)? }
            }
            None => Event { header: current.header, body: self.body() },
        };
        Some((event, place))
    }

    /// Goes past the event.
    pub(super) fn take(&mut self) -> Result<()> {
        if let Some(payload) = &mut self.payload {
            if payload.advance()? {
                return Ok(());
            }
            self.payload = None;
        }
        if let Some(current) = self.current.take() {
            self.offset = current.end;
        }
        Ok(())
    }

    /// Whether there is another event without waiting for it.
    pub(super) fn has_event(&self) -> bool {
        self.current.is_some() || self.client.has_packet()
    }

    /// Where the next event begins.
    pub(super) fn position(&self) -> Position {
        Position::Binlog { file: self.file.clone(), offset: self.offset }
    }

    /// Keeps an eye on the connection without reading more than there is room for. Ends only with an error.
    pub(super) async fn watch(&mut self) -> Error {
        loop {
            if self.current.is_some() || !self.client.has_room() {
                return std::future::pending().await;
            }
            match timeout(SILENCE_MAX, self.client.fill()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return silent(),
            }
        }
    }
}

const CHECKSUM: usize = 4;

fn check(bytes: &[u8]) -> Result<()> {
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(|| malformed("broken"))?;
    if crc32fast::hash(content) == u32::from_le_bytes(*sum) {
        return Ok(());
    }
    Err(Error::recoverable("an event of the log was damaged on its way: its checksum is wrong"))
}

/// The whole of a place in a file of which an event tells only the lower half.
fn upper_half(low: u32, before: u64) -> u64 {
    let candidate = before & !u64::from(u32::MAX) | u64::from(low);
    if candidate < before { candidate + (1 << 32) } else { candidate }
}

fn silent() -> Error {
    Error::recoverable(format!("the server has sent nothing for {} s", SILENCE_MAX.as_secs()))
        .with_native(2013)
        .with_sqlstate("HY000")
}

pub(super) fn needs_privilege(error: Error) -> Error {
    match error.native {
        Some(1045 | 1227) => Error {
            message: format!("{}: grant REPLICATION SLAVE to the user of the endpoint", error.message),
            ..error.into_kind(ErrorKind::Fatal)
        },
        _ => error,
    }
}

/// The words of DMS, which people search for, before those of the server.
pub(super) fn reading(error: Error) -> Error {
    match error.native {
        Some(1236) => Error {
            message: format!("Error 1236 reading binary log. {}", error.message),
            ..error.into_kind(ErrorKind::Fatal)
        },
        _ => needs_privilege(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_beyond_four_gigabytes_are_told_by_their_lower_half() {
        assert_eq!(upper_half(500, 400), 500);
        assert_eq!(upper_half(500, 0xFFFF_FF00), 0x1_0000_01F4);
        assert_eq!(upper_half(600, 0x1_0000_01F4), 0x1_0000_0258);
    }

    #[test]
    fn a_damaged_event_is_noticed() {
        let mut bytes = b"an event".to_vec();
        bytes.extend(crc32fast::hash(b"an event").to_le_bytes());
        check(&bytes).unwrap();
        bytes[3] ^= 1;
        assert_eq!(check(&bytes).unwrap_err().kind, ErrorKind::Recoverable);
        assert!(check(&[1, 2]).is_err());
    }
}
