//! HTTP: takes requests, hands each as a [`Call`] to an [`Application`], and answers.
//!
//! Every request that reaches the application has passed validation against the model. Everything a client can use up
//! has a limit: see [`Limits`].

mod connection;
mod control;
mod dispatch;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api::{Fault, Operation};
use crate::aws::sigv4::Scope;

use connection::Connection;
use dispatch::Dispatch;

/// One request for an operation, valid as far as the model goes.
#[derive(Debug)]
pub struct Call {
    pub operation: Operation,
    pub scope: Scope,
    /// A JSON object in the form of the operation's input. May hold passwords: never log it.
    pub body: Value,
    /// Also in the answer and in the log.
    pub request_id: Uuid,
}

/// What is behind the wire. A call runs to its end even when its client has gone; one that panics is answered as an
/// internal failure.
#[async_trait]
pub trait Application: Send + Sync + 'static {
    /// Whether the operation is built. One that is not answers 501, whatever its input.
    fn carries_out(&self, operation: Operation) -> bool;

    /// Carries out an operation; the JSON object of its output.
    async fn call(&self, call: Call) -> Result<String, Fault>;

    /// What `GET /_dms-local/health` answers.
    async fn health(&self) -> Value;

    /// What `GET /_dms-local/metrics` answers, in the text format of Prometheus.
    async fn metrics(&self) -> String;

    /// Stops all tasks and empties all state: `POST /_dms-local/reset`.
    async fn reset(&self) -> Result<(), Fault>;
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Of requests that do not say theirs.
    pub scope: Scope,
    pub limits: Limits,
}

/// How much of everything clients may use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A request body of more bytes is refused with HTTP 413, at once when it announces its length.
    pub body_bytes_max: usize,
    /// All request bodies together; a request beyond is refused with HTTP 503, which clients retry.
    pub bodies_bytes_max: usize,
    /// Calls carried out at once; one beyond is refused with HTTP 503.
    pub calls_max: usize,
    /// Connections open at once; one beyond waits to be accepted. Each is an open file.
    pub connections_max: usize,
    /// A connection is closed when the head of a request takes longer than this to arrive, or when nothing of an
    /// answer could be sent for this long; a second later at most, or twice as late when this is less than a second.
    pub head_timeout: Duration,
    /// A body that takes longer to arrive is answered with HTTP 408.
    pub body_timeout: Duration,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// How long calls under way may go on once the server is told to stop.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 10 << 20,
            bodies_bytes_max: 64 << 20,
            calls_max: 1024,
            connections_max: 16_384,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// Files for everything that is no connection of a client: state, task logs, connections to databases.
const FILES_RESERVED: u64 = 1024;

impl Limits {
    /// Makes room for `connections_max`: raises the process's soft limit of open files (1024 on most systems) as far as
    /// the hard one allows, and takes fewer connections when that is not enough.
    pub fn fitted_to_open_files(mut self) -> Limits {
        let wanted = (self.connections_max as u64).saturating_add(FILES_RESERVED);
        let limit = getrlimit(Resource::Nofile);
        let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
        let raised = wanted.min(hard);
        let is_raised = soft < raised
            && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_ok();
        let files = if is_raised { raised } else { soft };
        // Never none: half of very few files are for connections.
        let room = files.saturating_sub(FILES_RESERVED).max(files / 2);
        self.connections_max = self.connections_max.min(usize::try_from(room).unwrap_or(usize::MAX));
        self
    }
}

/// How long to wait before trying again when the system has no more files to give for new connections.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready: then accepts no more, lets calls under way end within the bound of
/// [`Limits::shutdown_timeout`], and returns.
pub async fn serve(
    listener: TcpListener,
    application: Arc<dyn Application>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(false);
    let limits = config.limits.clone();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let dispatch = Arc::new(Dispatch::new(application, config));
    let mut connections = JoinSet::new();

    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, place) = accept(&listener, &places) => {
                let connection = Connection::new(stream, Arc::clone(&dispatch), stopping.clone());
                connections.spawn(async move {
                    connection.serve().await;
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }

    drop(listener);
    let _ = stop.send(true);
    let drained = tokio::time::timeout(limits.shutdown_timeout, async {
        while connections.join_next().await.is_some() {}
        dispatch.finish_calls().await;
    });
    if drained.await.is_err() {
        tracing::warn!("calls under way did not end in time and are cut off");
        connections.shutdown().await;
        dispatch.abort_calls().await;
    }
}

/// The next connection and its place among those that may be open.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // The client gave up between connecting and being accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
