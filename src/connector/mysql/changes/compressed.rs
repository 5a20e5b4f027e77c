//! What the log holds compressed: MariaDB's events and columns (zlib), and MySQL's transactions (zstd).

use std::io::{Cursor as IoCursor, Read};

use flate2::read::{DeflateDecoder, ZlibDecoder};
use ruzstd::decoding::StreamingDecoder;

use super::cursor::Cursor;
use super::event::{HEADER, Header, malformed};
use crate::data::{Error, Result};

/// The longest event that is read. The server's own limit for what it sends in one piece is 1 GiB.
pub(super) const EVENT_MAX: usize = (1 << 30) + (1 << 20);

/// Most memory that a zstd window may take.
const WINDOW_MAX: u64 = 128 << 20;

/// Appends the content of a part of an event that MariaDB has compressed: how, how many bytes its length takes, that
/// length, and the data.
pub(super) fn inflate(compressed: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut cursor = Cursor(compressed);
    let head = cursor.u8()?;
    const MARK: u8 = 0x80;
    const ALGORITHM: u8 = 0x70;
    if head & MARK == 0 || head & ALGORITHM != 0 {
        return None;
    }
    let len = big_endian(cursor.take(usize::from(head & 0x07))?);
    read_exactly(ZlibDecoder::new(cursor.0), len, out)
}

/// Appends the value of a compressed column. One that would not have become shorter is stored as it is.
pub(super) fn inflate_column(stored: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut cursor = Cursor(stored);
    const WITHOUT_HEADER: u8 = 0x08;
    match cursor.u8() {
        None => Some(()),
        Some(0) => {
            out.extend_from_slice(cursor.0);
            Some(())
        }
        Some(head) if head & 0xF0 == 0x80 => {
            let len = big_endian(cursor.take(usize::from(head & 0x07))?);
            match head & WITHOUT_HEADER {
                0 => read_exactly(ZlibDecoder::new(cursor.0), len, out),
                _ => read_exactly(DeflateDecoder::new(cursor.0), len, out),
            }
        }
        Some(_) => None,
    }
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

fn read_exactly(reader: impl Read, len: usize, out: &mut Vec<u8>) -> Option<()> {
    if len > EVENT_MAX {
        return None;
    }
    let start = out.len();
    // One more, to see that there is none.
    reader.take(len as u64 + 1).read_to_end(out).ok()?;
    (out.len() - start == len).then_some(())
}

/// The events of a transaction that MySQL has compressed as a whole, one at a time.
pub(super) struct Payload {
    source: Source,
    /// The event that was read last.
    event: Vec<u8>,
}

enum Source {
    Plain(IoCursor<Vec<u8>>),
    Zstd(Box<StreamingDecoder<IoCursor<Vec<u8>>, ruzstd::decoding::FrameDecoder>>),
}

impl Source {
    fn zstd(data: IoCursor<Vec<u8>>) -> Result<Source> {
        let decoder = StreamingDecoder::new_with_max_window_size(data, WINDOW_MAX);
        Ok(Source::Zstd(Box::new(decoder.map_err(|_| malformed("compressed transaction"))?)))
    }
}

impl Payload {
    /// Fields of a type, a length and a value come first, then the events.
    pub(super) fn parse(body: &[u8]) -> Result<Payload> {
        const NAME: &str = "compressed transaction";
        let mut cursor = Cursor(body);
        let mut read = || -> Option<(u64, Vec<u8>)> {
            let (mut size, mut algorithm) = (None, None);
            loop {
                match cursor.lenenc()? {
                    0 => break,
                    kind => {
                        let mut value = Cursor(cursor.lenenc_bytes()?);
                        match kind {
                            1 => size = Some(value.lenenc()?),
                            2 => algorithm = Some(value.lenenc()?),
                            _ => {}
                        }
                    }
                }
            }
            Some((algorithm?, cursor.take(usize::try_from(size?).ok()?)?.to_vec()))
        };
        let (algorithm, data) = read().ok_or_else(|| malformed(NAME))?;
        const ZSTD: u64 = 0;
        const NONE: u64 = 255;
        let source = match algorithm {
            NONE => Source::Plain(IoCursor::new(data)),
            ZSTD => Source::zstd(IoCursor::new(data))?,
            other => return Err(Error::fatal(format!("the log has a transaction of unknown compression ({other})"))),
        };
        Ok(Payload { source, event: Vec::new() })
    }

    /// Reads the next event; `false` at the end.
    pub(super) fn advance(&mut self) -> Result<bool> {
        let lost = || malformed("event within a compressed transaction");
        self.event.clear();
        self.read(HEADER)?;
        if self.event.is_empty() {
            return Ok(false);
        }
        let header = Header::parse(&self.event).ok_or_else(lost)?;
        let rest = usize::try_from(header.size).ok().and_then(|size| size.checked_sub(HEADER)).ok_or_else(lost)?;
        if rest > EVENT_MAX {
            return Err(lost());
        }
        self.read(rest)?;
        if self.event.len() != HEADER + rest {
            return Err(lost());
        }
        Ok(true)
    }

    fn read(&mut self, len: usize) -> Result<()> {
        let lost = |_| malformed("compressed transaction");
        let end = self.event.len() + len;
        loop {
            let left = (end - self.event.len()) as u64;
            match &mut self.source {
                Source::Plain(data) => data.take(left).read_to_end(&mut self.event).map_err(lost)?,
                Source::Zstd(decoder) => decoder.as_mut().take(left).read_to_end(&mut self.event).map_err(lost)?,
            };
            // The data may have several frames.
            match &mut self.source {
                Source::Zstd(decoder) if self.event.len() < end => {
                    let data = decoder.get_mut();
                    if data.position() >= data.get_ref().len() as u64 {
                        return Ok(());
                    }
                    let rest = std::mem::take(data);
                    self.source = Source::zstd(rest)?;
                }
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn event(&self) -> &[u8] {
        &self.event
    }
}
