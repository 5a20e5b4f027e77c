//! The source's log as a task reads it: in pieces of any size, that end anywhere, over a connection that may break.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::source::{Change, Database, Transaction, place_of};
use super::{COLUMNS, Row, Session, World};
use crate::connector::{Capture, ChangeReader, DurablePlace};
use crate::data::{Changes, Entry, Error, Position, Result, TableVersion, Value};

/// How often a server tells how far it is when it has nothing for us.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Before the long values of wide transactions, so that few rows of them fill a piece.
const WIDE_ZEROS: usize = 200_000;

pub struct Stream {
    session: Session,
    capture: Capture,
    durable: DurablePlace,
    /// Up to here all is told, …
    read: u64,
    /// … and so many changes of the transaction after it, if it has begun.
    told: Option<usize>,
    /// Tables that were told of, by number.
    met: HashSet<usize>,
}

impl Stream {
    pub fn new(world: &Arc<World>, capture: &Capture, from: u64, durable: DurablePlace) -> Stream {
        let session = Session::open(world);
        Stream { session, capture: capture.clone(), durable, read: from, told: None, met: HashSet::new() }
    }

    fn confirm(&mut self) {
        let durable = self.durable.borrow_and_update().as_ref().map(place_of);
        if let Some(place) = durable {
            self.session.0.confirm(place);
        }
    }

    /// Takes what is there, up to so many entries.
    fn fill(&mut self, changes: &mut Changes, entries_max: usize) {
        let world = self.session.0.clone();
        let source = world.source.lock();
        while let Some(transaction) = source.between(self.read, source.end).first() {
            if self.told.is_none() {
                let unwanted =
                    transaction.changes.iter().all(|change| self.is_loaded(&source, change, transaction.end));
                if unwanted && world.source.chance(2) {
                    self.pass(transaction.end, changes);
                    continue;
                }
                // Nothing else is between the place of its commit and where that ends.
                changes.entries.push(Entry::Begin { position: Position::Lsn(transaction.end - 1) });
                self.told = Some(0);
            }
            if !self.tell(&source, transaction, changes, entries_max) {
                return;
            }
            let position = Position::Lsn(transaction.end);
            changes.entries.push(Entry::Commit { transaction: transaction.end, time: transaction.time, position });
            self.told = None;
            self.pass(transaction.end, changes);
            if self.is_full(changes, entries_max) {
                return;
            }
        }
        // Nothing is told of what others did.
        if self.told.is_none() && source.end > self.read && world.source.chance(3) {
            self.pass(source.end, changes);
        }
    }

    fn pass(&mut self, place: u64, changes: &mut Changes) {
        self.read = place;
        changes.resume = Some(Position::Lsn(place));
    }

    fn is_full(&self, changes: &Changes, entries_max: usize) -> bool {
        changes.entries.len() >= entries_max || changes.bytes() >= self.capture.batch_bytes
    }

    /// Whether a load has the change already.
    fn is_loaded(&self, source: &Database, change: &Change, end: u64) -> bool {
        let name = source.tables[change.table].name();
        self.capture.loaded_at.get(name).is_some_and(|place| end <= place_of(place))
    }

    /// Tells the changes of a transaction that are still to be told; `false` when they are too many for the piece.
    fn tell(
        &mut self,
        source: &Database,
        transaction: &Transaction,
        changes: &mut Changes,
        entries_max: usize,
    ) -> bool {
        while let Some(change) = transaction.changes.get(self.told.unwrap_or_default()) {
            if self.is_full(changes, entries_max) {
                return false;
            }
            self.told = self.told.map(|told| told + 1);
            if self.is_loaded(source, change, transaction.end) {
                continue;
            }
            let version = &source.tables[change.table].version;
            let table = change.table as u32;
            // A server tells what a table is like whenever it is not sure that this is known.
            if self.met.insert(change.table) || self.session.0.source.chance(20) {
                changes.entries.push(Entry::Table { table, version: version.clone() });
            }
            let zeros = if transaction.is_wide { WIDE_ZEROS } else { 0 };
            let old = change.old.filter(|old| shows_old(version, old, change.new.as_ref()));
            let old = old.map(|old| push(changes, &old, |column| version.identity.contains(&column), zeros));
            let is_same =
                |column: usize| change.old.is_some_and(|old| change.new.is_some_and(|new| old[column] == new[column]));
            // A long value that has not changed is not in the log, unless all of the old row is.
            let leaves_out = version.identity.len() < COLUMNS.len() && self.session.0.source.chance(2);
            let has = |column: usize| !leaves_out || column + 1 < COLUMNS.len() || !is_same(column);
            let new = change.new.map(|new| push(changes, &new, has, zeros));
            changes.entries.push(Entry::Row { table, op: change.op, old, new });
        }
        true
    }
}

/// Whether the log has the old row: of one that is gone, or whose key is another now, and where it has all of every row.
fn shows_old(version: &TableVersion, old: &Row, new: Option<&Row>) -> bool {
    let is_whole = version.identity.len() == COLUMNS.len();
    is_whole || new.is_none_or(|new| version.identity.iter().any(|column| old[*column] != new[*column]))
}

fn push(changes: &mut Changes, row: &Row, has: impl Fn(usize) -> bool, zeros: usize) -> u32 {
    let number = changes.next_row();
    for (column, value) in row.iter().enumerate() {
        let zeros = if column + 1 == COLUMNS.len() { zeros } else { 0 };
        match has(column) {
            true => changes.rows.push(Value::String(format!("{}{value}", "0".repeat(zeros)).as_bytes())),
            false => changes.rows.push(Value::Absent),
        }
    }
    changes.rows.end_row();
    number
}

#[async_trait]
impl ChangeReader for Stream {
    async fn next(&mut self, changes: &mut Changes) -> Result<()> {
        changes.clear(self.capture.format);
        let world = self.session.0.clone();
        loop {
            self.confirm();
            world.source.step(80).await?;
            let entries_max = [1, 3, 30, 1000][world.source.below(4) as usize];
            self.fill(changes, entries_max);
            if !changes.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = world.logged.notified() => {}
                Ok(()) = self.durable.changed() => {}
                () = sleep(KEEPALIVE) => {}
            }
        }
    }

    async fn keep_alive(&mut self) -> Error {
        loop {
            self.confirm();
            if let Err(error) = self.session.0.source.step(100).await {
                return error;
            }
            tokio::select! {
                Ok(()) = self.durable.changed() => {}
                () = sleep(KEEPALIVE) => {}
            }
        }
    }
}
