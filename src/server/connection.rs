//! One client's connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONNECTION;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::dispatch::{Body, Dispatch};

/// The largest head of a request, and at most this much is read ahead of a body. Signed requests with a session token
/// have heads of a few KiB.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// How often a connection is looked at: whether it is too slow, or so quiet that it can do with less memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the client still sends of a request that is answered already is thrown away for this long, because closing the
/// connection on it would take the answer away from the client.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    stream: TcpStream,
    dispatch: Arc<Dispatch>,
    stopping: watch::Receiver<bool>,
}

/// Why HTTP is not spoken on a connection any more.
enum Ended {
    /// No request for a while: costs nothing but its socket until the next one.
    Idle(TcpStream),
    /// The last answer is sent, and there is more of its request than was read.
    Unread(TcpStream),
    /// One side has had enough, or the client is too slow or does not speak HTTP.
    Closed,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, dispatch: Arc<Dispatch>, stopping: watch::Receiver<bool>) -> Connection {
        Connection { stream, dispatch, stopping }
    }

    pub(super) async fn serve(self) {
        let Connection { mut stream, dispatch, mut stopping } = self;
        let idle_timeout = dispatch.limits().idle_timeout;
        if stream.set_nodelay(true).is_err() {
            return;
        }
        loop {
            tokio::select! {
                readable = stream.readable() => if readable.is_err() { return },
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = sleep(idle_timeout) => return,
            }
            stream = match Box::pin(speak_http(stream, &dispatch, &mut stopping)).await {
                Ended::Idle(stream) => stream,
                Ended::Unread(stream) => return Box::pin(linger(stream)).await,
                Ended::Closed => return,
            }
        }
    }
}

/// Answers requests until the connection ends or has been quiet for a while. hyper keeps two buffers and more for every
/// connection, some 20 KiB that ten thousand idle clients would fill, so a quiet connection is taken out of its hands.
async fn speak_http(stream: TcpStream, dispatch: &Arc<Dispatch>, stopping: &mut watch::Receiver<bool>) -> Ended {
    let activity = Arc::new(Activity::default());
    let service = service_fn({
        let (dispatch, activity) = (Arc::clone(dispatch), Arc::clone(&activity));
        move |request| Box::pin(answer(request, Arc::clone(&dispatch), Arc::clone(&activity)))
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        // Ours: hyper's also runs while the connection is idle.
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(Watched { io: TokioIo::new(stream), activity: Arc::clone(&activity) }, service);

    let mut told_to_stop = false;
    let patience = dispatch.limits().head_timeout;
    let mut watchdog = Watchdog::default();
    let between_looks = LOOK_EVERY.min(patience);
    let mut looks = interval_at(Instant::now() + between_looks, between_looks);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = poll_fn(|context| http.poll_without_shutdown(context)) => {
                return match ended {
                    Ok(()) if activity.closing.load(Relaxed) => Ended::Unread(http.into_parts().io.io.into_inner()),
                    Ok(()) => Ended::Closed,
                    Err(error) => {
                        tracing::debug!(%error, "connection broken");
                        Ended::Closed
                    }
                };
            }
            _ = stopping.wait_for(|stopping| *stopping), if !told_to_stop => {
                told_to_stop = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            _ = looks.tick() => {
                match watchdog.look(&activity, patience) {
                    Verdict::GoOn => {}
                    Verdict::TooSlow => return Ended::Closed,
                    Verdict::Quiet => {
                        let parts = http.into_parts();
                        // Not empty: the second of two requests sent at once, cut off in its head and left so.
                        let idle = parts.read_buf.is_empty();
                        return if idle { Ended::Idle(parts.io.io.into_inner()) } else { Ended::Closed };
                    }
                }
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    dispatch: Arc<Dispatch>,
    activity: Arc<Activity>,
) -> Result<Response<Body>, Infallible> {
    let _in_request = activity.begin_request();
    let response = dispatch.answer(request).await;
    if response.headers().contains_key(CONNECTION) {
        activity.closing.store(true, Relaxed);
    }
    Ok(response)
}

async fn linger(mut stream: TcpStream) {
    let rest = async {
        let mut thrown_away = [0; 4096];
        stream.shutdown().await?;
        while stream.read(&mut thrown_away).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection is closed now.
    let _ = timeout(LINGER, rest).await;
}

/// What happens on a connection, for its [`Watchdog`].
#[derive(Default)]
struct Activity {
    in_request: AtomicBool,
    /// Reads that gave something; how much it was does not matter.
    reads: AtomicU64,
    /// How many reads there had been at the end of the last request.
    reads_of_requests: AtomicU64,
    bytes_written: AtomicU64,
    /// The client does not take what we send.
    write_blocked: AtomicBool,
    /// The answer being sent is the last: its request was not read to the end.
    closing: AtomicBool,
}

struct InRequest<'a>(&'a Activity);

impl Activity {
    fn begin_request(&self) -> InRequest<'_> {
        self.in_request.store(true, Relaxed);
        InRequest(self)
    }

    /// Something has come that is not the end of a request's head yet.
    fn in_head(&self) -> bool {
        !self.in_request.load(Relaxed) && self.reads.load(Relaxed) != self.reads_of_requests.load(Relaxed)
    }
}

impl Drop for InRequest<'_> {
    fn drop(&mut self) {
        self.0.in_request.store(false, Relaxed);
        self.0.reads_of_requests.store(self.0.reads.load(Relaxed), Relaxed);
    }
}

/// Looks at a connection once in a while and compares with what it saw before.
#[derive(Default)]
struct Watchdog {
    reads_of_requests: u64,
    bytes_written: u64,
    /// Since when the client has owed us the rest of a head, or has not taken any of an answer.
    waiting_since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    /// Nothing goes on, and nothing has since the last look.
    Quiet,
    TooSlow,
}

impl Watchdog {
    fn look(&mut self, activity: &Activity, patience: Duration) -> Verdict {
        let reads_of_requests = activity.reads_of_requests.load(Relaxed);
        let bytes_written = activity.bytes_written.load(Relaxed);
        let goes_on = activity.in_request.load(Relaxed)
            || std::mem::replace(&mut self.reads_of_requests, reads_of_requests) != reads_of_requests
            || std::mem::replace(&mut self.bytes_written, bytes_written) != bytes_written;
        let waits = activity.write_blocked.load(Relaxed) || activity.in_head();
        if goes_on || !waits {
            self.waiting_since = None;
            return if goes_on { Verdict::GoOn } else { Verdict::Quiet };
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if since.elapsed() < patience { Verdict::GoOn } else { Verdict::TooSlow }
    }
}

/// A stream that counts what goes through it.
struct Watched {
    io: TokioIo<TcpStream>,
    activity: Arc<Activity>,
}

impl Watched {
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.write_blocked.store(result.is_pending(), Relaxed);
        if let Poll::Ready(Ok(bytes)) = &result {
            self.activity.bytes_written.fetch_add(*bytes as u64, Relaxed);
        }
        result
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        if result.is_ready() {
            self.activity.reads.fetch_add(1, Relaxed);
        }
        result
    }
}

impl Write for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.written(result)
    }
}
