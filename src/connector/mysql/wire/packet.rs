//! Packets of the MySQL protocol: framing, one large read buffer, no allocation per packet.

use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connector::net::{Socket, Stream};
use crate::data::{Error, Result};

/// A packet of this length goes on in the next one.
const CONTINUED: usize = 0xFF_FFFF;
const HEADER: usize = 4;
/// Bytes read from the socket at a time, and the longest packet that is handed over in one piece.
const BUFFER: usize = 256 << 10;
/// Longest packet that is ever assembled in memory: catalog answers, never rows of a table.
const ASSEMBLED_MAX: usize = 32 << 20;
/// Keeps one giant packet from holding its memory for good.
const KEPT_MAX: usize = 1 << 20;
/// Content of one packet of a file sent to the server. Servers accept at least 1 MiB (`max_allowed_packet`).
const FILE_PACKET: usize = 64 << 10;
/// File packets gathered before they are handed to the socket.
const OUT_MAX: usize = 256 << 10;

/// What the read buffer holds.
pub(super) enum Buffered {
    /// A whole packet; the range is good until the next read.
    Packet(Range<usize>),
    /// The start of a packet that does not fit the buffer; read it with [`Packets::piece`].
    Long,
    /// Not yet a whole packet: [`Packets::fill`] first.
    Incomplete,
}

pub(super) struct Packets {
    /// `None` only while the connection is being encrypted.
    stream: Option<Stream>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Sequence number of the next packet sent.
    sequence: u8,
    /// Of the long packet being read in pieces: bytes left of this part, and whether another part follows.
    left: usize,
    continued: bool,
    out: Vec<u8>,
    assembled: Vec<u8>,
    /// [`Packets::whole`] was given up while it put a long packet together in `assembled`.
    assembling: bool,
    received: u64,
}

/// Where [`Packets::whole`] has left a packet.
#[derive(Clone, Debug)]
pub(super) enum Whole {
    Buffered(Range<usize>),
    Assembled,
}

impl Packets {
    pub(super) fn new(stream: Socket) -> Packets {
        Packets {
            stream: Some(Stream::Plain(stream)),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            sequence: 0,
            left: 0,
            continued: false,
            out: Vec::new(),
            assembled: Vec::new(),
            assembling: false,
            received: 0,
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Takes the plain connection out for encryption. Bytes that arrived too early would have been sent by somebody
    /// who does not hold the key: they are an error.
    pub(super) fn take_plain(&mut self) -> Result<Socket> {
        if self.start != self.end {
            return Err(Error::fatal("the server sent data before encryption began"));
        }
        match self.stream.take() {
            Some(Stream::Plain(stream)) => Ok(stream),
            _ => Err(closed()),
        }
    }

    pub(super) fn set_stream(&mut self, stream: Stream) {
        self.stream = Some(stream);
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Takes the next packet out of the buffer, without waiting.
    #[inline]
    pub(super) fn buffered(&mut self) -> Buffered {
        let Some(header) = self.buffer[self.start..self.end].first_chunk::<HEADER>() else {
            return Buffered::Incomplete;
        };
        let len = length(header);
        if len > BUFFER - HEADER {
            self.begin_part(*header);
            return Buffered::Long;
        }
        if self.end - self.start < HEADER + len {
            return Buffered::Incomplete;
        }
        self.sequence = header[3].wrapping_add(1);
        let payload = self.start + HEADER..self.start + HEADER + len;
        self.start = payload.end;
        Buffered::Packet(payload)
    }

    /// Reads what the server has sent, at least one byte.
    pub(super) async fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end > BUFFER / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let stream = self.stream.as_mut().ok_or_else(closed)?;
        let read = stream.read(&mut self.buffer[self.end..]).await.map_err(lost)?;
        if read == 0 {
            return Err(closed());
        }
        self.end += read;
        self.received += read as u64;
        Ok(())
    }

    /// The next packet in one piece, however long within [`ASSEMBLED_MAX`].
    pub(super) async fn packet(&mut self) -> Result<&[u8]> {
        loop {
            match self.buffered() {
                Buffered::Packet(range) => return Ok(&self.buffer[range]),
                Buffered::Incomplete => self.fill().await?,
                Buffered::Long => break,
            }
        }
        let mut assembled = std::mem::take(&mut self.assembled);
        assembled.clear();
        loop {
            let piece = self.piece(usize::MAX).await?;
            if piece.is_empty() {
                break;
            }
            if assembled.len() + piece.len() > ASSEMBLED_MAX {
                return Err(Error::table("the server's answer is longer than 32 MiB"));
            }
            assembled.extend_from_slice(piece);
        }
        self.assembled = assembled;
        Ok(&self.assembled)
    }

    /// Waits for the next packet and leaves it in one piece, where it stays until the next read. A packet longer than
    /// `most` is an error. A call that is given up loses nothing.
    pub(super) async fn whole(&mut self, most: usize) -> Result<Whole> {
        while !self.assembling {
            match self.buffered() {
                Buffered::Packet(range) => return Ok(Whole::Buffered(range)),
                Buffered::Incomplete => self.fill().await?,
                Buffered::Long => {
                    self.assembled.clear();
                    self.assembled.shrink_to(KEPT_MAX);
                    self.assembling = true;
                }
            }
        }
        loop {
            if self.wants_more() {
                self.fill().await?;
                continue;
            }
            let piece = self.start..self.start + self.left.min(self.end - self.start);
            if piece.is_empty() {
                self.assembling = false;
                return Ok(Whole::Assembled);
            }
            if self.assembled.len() + piece.len() > most {
                return Err(Error::fatal(format!("the server sent a packet of more than {most} bytes")));
            }
            if self.assembled.capacity() - self.assembled.len() < piece.len() {
                // Not by half, as a vector does by itself: the packet may have a gigabyte.
                self.assembled.reserve_exact((self.assembled.len() / 4).max(piece.len()));
            }
            self.start = piece.end;
            self.left -= piece.len();
            self.assembled.extend_from_slice(&self.buffer[piece]);
        }
    }

    /// Whether a whole packet is there, so that [`Packets::whole`] would not wait.
    pub(super) fn has_packet(&self) -> bool {
        match self.buffer[self.start..self.end].first_chunk::<HEADER>() {
            Some(header) => self.end - self.start >= HEADER + length(header),
            None => false,
        }
    }

    pub(super) fn whole_bytes(&self, packet: &Whole) -> &[u8] {
        match packet {
            Whole::Buffered(range) => &self.buffer[range.clone()],
            Whole::Assembled => &self.assembled,
        }
    }

    /// Whether there is room in the buffer for [`Packets::fill`].
    pub(super) fn has_room(&self) -> bool {
        self.end - self.start < BUFFER
    }

    /// The next bytes, at most `max`, of the long packet being read; empty at its end.
    pub(super) async fn piece(&mut self, max: usize) -> Result<&[u8]> {
        while self.wants_more() {
            self.fill().await?;
        }
        Ok(self.piece_of(max))
    }

    /// The next bytes of the long packet cannot be told from what is in the buffer. Goes on to its next part.
    fn wants_more(&mut self) -> bool {
        while self.left == 0 && self.continued {
            match self.buffer[self.start..self.end].first_chunk::<HEADER>() {
                Some(header) => self.begin_part(*header),
                None => return true,
            }
        }
        self.left > 0 && self.start == self.end
    }

    fn piece_of(&mut self, max: usize) -> &[u8] {
        let taken = max.min(self.left).min(self.end - self.start);
        let range = self.start..self.start + taken;
        self.start += taken;
        self.left -= taken;
        &self.buffer[range]
    }

    fn begin_part(&mut self, header: [u8; HEADER]) {
        self.left = length(&header);
        self.continued = self.left == CONTINUED;
        self.sequence = header[3].wrapping_add(1);
        self.start += HEADER;
    }

    /// Sends a command: the first packet of an exchange.
    pub(super) async fn command(&mut self, command: u8, body: &[u8]) -> Result<()> {
        self.sequence = 0;
        let mut payload = Vec::with_capacity(body.len() + 1);
        payload.push(command);
        payload.extend_from_slice(body);
        self.send(&payload).await
    }

    /// Sends one packet of the running exchange, split where it is too long for one.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut rest = payload;
        loop {
            let (part, later) = rest.split_at(rest.len().min(CONTINUED));
            self.push_packet(part);
            self.write_out().await?;
            if part.len() < CONTINUED {
                break;
            }
            rest = later;
        }
        self.flush().await
    }

    /// Sends a piece of a file. The file ends with [`Packets::end_file`].
    pub(super) async fn send_file(&mut self, content: &[u8]) -> Result<()> {
        for part in content.chunks(FILE_PACKET) {
            self.push_packet(part);
            if self.out.len() >= OUT_MAX {
                self.write_out().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn end_file(&mut self) -> Result<()> {
        self.push_packet(&[]);
        self.write_out().await?;
        self.flush().await
    }

    fn push_packet(&mut self, payload: &[u8]) {
        let len = payload.len() as u32;
        self.out.extend_from_slice(&len.to_le_bytes()[..3]);
        self.out.push(self.sequence);
        self.out.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
    }

    async fn write_out(&mut self) -> Result<()> {
        let stream = self.stream.as_mut().ok_or_else(closed)?;
        stream.write_all(&self.out).await.map_err(lost)?;
        self.out.clear();
        self.out.shrink_to(2 * OUT_MAX);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.as_mut().ok_or_else(closed)?.flush().await.map_err(lost)
    }

    /// Says goodbye so that the server does not log an aborted connection.
    pub(super) async fn quit(&mut self) {
        const COM_QUIT: u8 = 0x01;
        if self.command(COM_QUIT, &[]).await.is_ok()
            && let Some(stream) = self.stream.as_mut()
        {
            let _ = stream.shutdown().await;
        }
    }
}

fn length(header: &[u8; HEADER]) -> usize {
    u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize
}

/// The numbers and words of MySQL's own client library for a connection that is gone.
fn closed() -> Error {
    Error::recoverable("Lost connection to MySQL server").with_native(2013).with_sqlstate("HY000")
}

fn lost(error: std::io::Error) -> Error {
    Error::recoverable(format!("Lost connection to MySQL server: {error}")).with_native(2013).with_sqlstate("HY000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    /// A peer that sends `bytes` and then closes.
    async fn peer(bytes: Vec<u8>) -> Packets {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(&bytes).await;
        });
        Packets::new(TcpStream::connect(address).await.unwrap().into())
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = payload;
        for sequence in 0.. {
            let (part, later) = rest.split_at(rest.len().min(CONTINUED));
            out.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            out.push(sequence);
            out.extend_from_slice(part);
            if part.len() < CONTINUED {
                return out;
            }
            rest = later;
        }
        unreachable!()
    }

    #[tokio::test]
    async fn takes_packets_that_span_reads_and_buffers() {
        let sizes = [0, 1, 250, 100_000, BUFFER - HEADER, BUFFER - HEADER - 1, 3, 200_000, 200_000];
        let mut bytes = Vec::new();
        for size in sizes {
            bytes.extend(framed(&vec![size as u8; size]));
        }
        let mut packets = peer(bytes).await;
        for size in sizes {
            assert_eq!(packets.packet().await.unwrap(), vec![size as u8; size]);
        }
        assert_eq!(packets.packet().await.unwrap_err().native, Some(2013));
    }

    #[tokio::test]
    async fn joins_packets_of_16_mib() {
        for size in [CONTINUED - 1, CONTINUED, CONTINUED + 1] {
            let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut bytes = framed(&payload);
            bytes.extend(framed(b"next"));
            let mut packets = peer(bytes).await;
            assert!(packets.packet().await.unwrap() == payload);
            assert_eq!(packets.packet().await.unwrap(), b"next");
        }
    }

    #[tokio::test]
    async fn a_whole_packet_stays_and_outlives_calls_that_are_given_up() {
        let sizes = [5, BUFFER, 0, CONTINUED + 70_000, 3];
        let mut bytes = Vec::new();
        for size in sizes {
            bytes.extend(framed(&(0..size).map(|at| at as u8).collect::<Vec<u8>>()));
        }
        let mut packets = peer(bytes).await;
        for size in sizes {
            let whole = loop {
                match futures_util::poll!(Box::pin(packets.whole(usize::MAX))) {
                    std::task::Poll::Ready(whole) => break whole.unwrap(),
                    std::task::Poll::Pending => tokio::task::yield_now().await,
                }
            };
            let expected: Vec<u8> = (0..size).map(|at| at as u8).collect();
            assert!(packets.whole_bytes(&whole) == expected, "{size}");
        }
        assert!(!packets.has_packet());
    }

    #[tokio::test]
    async fn refuses_a_packet_of_more_than_the_reader_wants() {
        let mut packets = peer(framed(&vec![0; BUFFER + 1])).await;
        assert!(packets.whole(BUFFER).await.unwrap_err().message.contains("more than"));
    }

    #[tokio::test]
    async fn refuses_an_answer_without_end() {
        let mut packets = peer(framed(&vec![0; ASSEMBLED_MAX + 1])).await;
        assert!(packets.packet().await.unwrap_err().message.contains("32 MiB"));
    }
}
