//! The changes of a MySQL or MariaDB database, read from its binary log as a replica reads it.
//!
//! Nothing is made on the server: its log is there for everybody and for as long as the server keeps it. Rows come without
//! the names and full types of their columns, so the tables are followed from the place where the log begins to be read,
//! through every statement that defines them.

mod charset;
mod compressed;
mod cursor;
mod definition;
mod event;
mod field;
mod gtid;
mod interpreter;
mod json;
mod lexer;
mod number;
mod rows;
mod server;
mod start;
mod statement;
mod stream;
mod table_map;
mod tables;
mod temporal;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::snapshot::{self, MySqlSnapshot};
use super::source::MySqlSource;
use super::wire::DumpEnd;
use charset::{Charset, Table as CharsetTable};
use interpreter::{Interpreter, Outcome, Place, Prepared, Question, Setting};
use server::Server;
use start::Search;
use stream::EventStream;
use tables::Table;

#[cfg(test)]
pub(super) use definition::same_type;
pub(super) use interpreter::Undone;
pub(super) use server::log_end;

use crate::connector::{Capture, ChangeReader, StartPoint};
use crate::data::{Changes, Entry, Error, ErrorKind, Position, Result, TableName};

/// The number of a task's connection among the server's replicas. The server serves one of a number at a time: a new one
/// takes the place of one that has not noticed yet that it is gone.
fn replica_id(task: &str, purpose: &str) -> u32 {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("dms-local {purpose} {task}").as_bytes());
    // The highest numbers: people number their servers from below.
    (id.as_u64_pair().1 as u32) | 1 << 31
}

pub(super) async fn begin(
    source: &MySqlSource,
    capture: &Capture,
    readers: usize,
) -> Result<(MySqlSnapshot, Position)> {
    let doing = |error: Error| error.while_doing("start the capture of changes");
    check(source, capture).await.map_err(doing)?;
    let tables: Vec<TableName> = capture.tables.iter().map(|table| table.name.clone()).collect();
    snapshot::open_in_log(source, readers, &tables).await.map_err(doing)
}

/// Whether the server's log can be read, and by us.
async fn check(source: &MySqlSource, capture: &Capture) -> Result<()> {
    let mut client = source.connect().await?;
    Server::ask(&mut client).await?.check()?;
    log_end(&mut client).await?;
    client.register_replica(replica_id(&capture.task, "check")).await.map_err(stream::needs_privilege)?;
    client.close().await;
    Ok(())
}

pub(super) async fn begin_at(source: &MySqlSource, capture: &Capture, start: &StartPoint) -> Result<Position> {
    let doing = |error: Error| error.while_doing("start the capture of changes");
    check(source, capture).await.map_err(doing)?;
    let search = Search { source, task: &capture.task };
    match start {
        StartPoint::Now => end(source).await.map_err(doing),
        StartPoint::Time(time) => search.by_time(*time).await.map_err(doing),
        StartPoint::At(Position::Gtids(gtids)) => search.by_gtids(gtids).await.map_err(doing),
        StartPoint::At(position) => {
            search.check(position).await.map_err(doing)?;
            Ok(position.clone())
        }
    }
}

pub(super) async fn end(source: &MySqlSource) -> Result<Position> {
    let mut client = source.connect().await?;
    let end = log_end(&mut client).await?;
    client.close().await;
    Ok(end)
}

/// Ends the connections of a task that the server still sends its log to: each gives way to one that ends by itself.
pub(super) async fn end_capture(source: &MySqlSource, capture: &Capture) -> Result<()> {
    let doing = |error: Error| error.while_doing("end the capture of changes");
    let end = match end(source).await {
        Ok(end) => end,
        // There is no log, or it is not for us.
        Err(error) if error.kind == ErrorKind::Fatal => return Ok(()),
        Err(error) => return Err(doing(error)),
    };
    for purpose in PURPOSES {
        let client = source.connect().await.map_err(doing)?;
        let mut stream = EventStream::open(client, replica_id(&capture.task, purpose), &end, DumpEnd::WithTheLog)
            .await
            .map_err(doing)?;
        while stream.ready().await.map_err(doing)? {
            stream.take()?;
        }
    }
    Ok(())
}

const PURPOSES: [&str; 3] = ["changes", "again", "search"];

/// Reads the log.
pub(super) struct MySqlChanges {
    source: MySqlSource,
    capture: Capture,
    stream: EventStream,
    /// A transaction that was prepared earlier, while its rows come.
    again: Option<EventStream>,
    interpreter: Interpreter,
}

impl MySqlChanges {
    pub(super) async fn start(source: &MySqlSource, capture: &Capture, from: &Position) -> Result<MySqlChanges> {
        let doing = |error: Error| error.while_doing("read the log");
        let from = match from {
            Position::Gtids(gtids) => &Search { source, task: &capture.task }.by_gtids(gtids).await.map_err(doing)?,
            from => from,
        };
        let mut client = source.connect().await.map_err(doing)?;
        let server = Server::ask(&mut client).await.map_err(doing)?;
        server.check().map_err(doing)?;
        let names: Vec<TableName> = capture.tables.iter().map(|table| table.name.clone()).collect();
        let stored = server::describe(&mut client, &names).await.map_err(doing)?;
        let by_name: HashMap<&TableName, _> = stored.iter().map(|stored| (&stored.schema.name, stored)).collect();
        let selected = capture.tables.iter().filter(|table| (capture.selects)(&table.name));
        let tables = selected.map(|table| Table::new(table, by_name.get(&table.name).copied())).collect();
        let mut id = replica_id(&capture.task, "changes");
        if id == server.id {
            id ^= 1;
        }
        let setting = Setting {
            capture: capture.clone(),
            server: server.version,
            fold_names: server.fold_names,
            collations: Arc::new(server::collations(&mut client).await.map_err(doing)?),
            zone: server::zone(&mut client).await.map_err(doing)?,
            undone: source.undone().clone(),
            renamed: source.renamed().clone(),
        };
        let stream = EventStream::open(client, id, from, DumpEnd::Never).await.map_err(doing)?;
        let interpreter = Interpreter::new(setting, tables);
        Ok(MySqlChanges { source: source.clone(), capture: capture.clone(), stream, again: None, interpreter })
    }

    /// Takes what comes next. `true`: the piece is full.
    async fn take(&mut self, changes: &mut Changes) -> Result<bool> {
        let replays = self.again.is_some();
        let stream = self.again.as_mut().unwrap_or(&mut self.stream);
        if !stream.ready().await? {
            return Err(Error::recoverable("the server has ended the connection that its log was read from")
                .with_native(2013)
                .with_sqlstate("HY000"));
        }
        let Some((event, place)) = stream.event() else { return Err(event::malformed("broken")) };
        let outcome = self.interpreter.apply(&event, &place, replays, changes);
        match outcome {
            Ok(Outcome::Taken) => stream.take()?,
            Ok(Outcome::Full) => return Ok(true),
            Ok(Outcome::Ask(question)) => self.answer(question, changes).await?,
            // The event that ended it is met again.
            Ok(Outcome::Replayed) => self.again = None,
            Err(error) => match self.interpreter.take_given_up() {
                Some(table) if error.kind == ErrorKind::Table => {
                    stream.take()?;
                    changes.entries.push(Entry::Unreadable { table, reason: error.to_string() });
                }
                _ => return Err(error),
            },
        }
        Ok(changes.bytes() >= self.capture.batch_bytes)
    }

    async fn answer(&mut self, question: Question, changes: &mut Changes) -> Result<()> {
        match question {
            Question::Tables(names) => {
                let mut client = self.source.connect().await?;
                let found = server::describe(&mut client, &names).await?;
                let texts = server::schema_texts(&mut client, &names).await?;
                client.close().await;
                self.interpreter.learn_tables(names, found, texts);
            }
            Question::Charset(name) => {
                let mut client = self.source.connect().await?;
                let table = CharsetTable::fetch(&mut client, &name).await;
                client.close().await;
                match table {
                    Ok(table) => self.interpreter.learn_charset(name, Some(Charset::Table(Arc::new(table)))),
                    Err(error) if error.kind == ErrorKind::Table => self.interpreter.learn_charset(name, None),
                    Err(error) => return Err(error),
                }
            }
            Question::Prepared(xid) => {
                let before = self.stream.position();
                let search = Search { source: &self.source, task: &self.capture.task };
                let prepared = search.prepared(&xid, &before).await?;
                self.interpreter.learn_prepared(xid, prepared);
            }
            Question::Replay(Prepared { file, start, .. }) => {
                let client = self.source.connect().await?;
                let from = Position::Binlog { file, offset: start };
                let id = replica_id(&self.capture.task, "again");
                let again = EventStream::open(client, id, &from, DumpEnd::WithTheLog).await?;
                let Some((_, place)) = self.stream.event() else { return Err(event::malformed("broken")) };
                self.interpreter.begin_replay(&Place { start: place.start, ..place }, changes);
                self.again = Some(again);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ChangeReader for MySqlChanges {
    async fn next(&mut self, changes: &mut Changes) -> Result<()> {
        changes.clear(self.capture.format);
        self.interpreter.begin_piece();
        let doing = |error: Error| error.while_doing("read the log");
        loop {
            let full = self.take(changes).await.map_err(doing)?;
            // What has begun goes on at once; between two transactions nobody knows.
            let pause = !self.interpreter.in_transaction() && !self.stream.has_event();
            if !changes.is_empty() && (full || pause) {
                return Ok(());
            }
        }
    }

    async fn keep_alive(&mut self) -> Error {
        self.stream.watch().await.while_doing("read the log")
    }
}
