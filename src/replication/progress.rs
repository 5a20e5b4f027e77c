//! How far a task is: the numbers of each table behind DescribeTableStatistics, and its place in the source's log.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::policy::Errors;
use crate::data::{Op, Position, TableName, TableSchema};

/// `TableState`, in AWS's words.
/// <https://docs.aws.amazon.com/dms/latest/APIReference/API_TableStatistics.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableState {
    /// Waits for its turn; also again after a recoverable error.
    #[default]
    BeforeLoad,
    FullLoad,
    Completed,
    /// The task was stopped while the table was loading.
    Cancelled,
    /// The table was given up (`TableErrorPolicy`); the task goes on without it.
    Error,
    /// ReloadTables asked for it again.
    BeingReloaded,
    /// A rule with the action `explicit` names it, and the source does not have it.
    DoesNotExist,
}

impl TableState {
    pub const ALL: [TableState; 7] = [
        TableState::BeforeLoad,
        TableState::FullLoad,
        TableState::Completed,
        TableState::Cancelled,
        TableState::Error,
        TableState::BeingReloaded,
        TableState::DoesNotExist,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            TableState::BeforeLoad => "Before load",
            TableState::FullLoad => "Full load",
            TableState::Completed => "Table completed",
            TableState::Cancelled => "Table cancelled",
            TableState::Error => "Table error",
            TableState::BeingReloaded => "Table is being reloaded",
            TableState::DoesNotExist => "Table does not exist",
        }
    }

    pub fn of(text: &str) -> Option<TableState> {
        TableState::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Changes of one table, as `TableStatistics` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub ddls: u64,
}

impl Counts {
    pub fn add(&mut self, op: Op, rows: u64) {
        match op {
            Op::Insert => self.inserts += rows,
            Op::Update => self.updates += rows,
            Op::Delete => self.deletes += rows,
        }
    }

    pub fn add_all(&mut self, more: Counts) {
        self.inserts += more.inserts;
        self.updates += more.updates;
        self.deletes += more.deletes;
        self.ddls += more.ddls;
    }
}

/// What a task must know of a table to go on in the log from its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InLog {
    /// Changes that the source's log has up to the checkpoint …
    pub captured: Counts,
    /// … and how many of them the target took.
    pub applied: Counts,
    /// The table was loaded as it was at this place in the log, which may be beyond the checkpoint.
    pub loaded_at: Option<Position>,
    /// The table as the log has it at the checkpoint.
    pub schema: Option<TableSchema>,
}

/// What a table is like at a new checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct AtCheckpoint {
    pub name: TableName,
    pub captured: Counts,
    pub applied: Counts,
    pub standing: Standing,
    /// As [`TableProgress::errors`].
    pub errors: Errors,
    /// `None` when the log has no such table any more.
    pub schema: Option<TableSchema>,
}

/// How a table goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By its changes.
    Followed,
    /// By a load: the log lacks some of its rows.
    Unloaded,
    /// Not at all.
    Suspended,
}

/// One table of a task, named as the source names it.
#[derive(Clone, Debug, PartialEq)]
pub struct TableProgress {
    pub name: TableName,
    pub state: TableState,
    /// Rows that the target took in this load.
    pub rows: u64,
    /// Rows that it refused.
    pub rejected: u64,
    /// The source's guess of how many there are, for progress; 0 when it has none.
    pub rows_estimate: u64,
    pub started: Option<SystemTime>,
    pub ended: Option<SystemTime>,
    pub updated: SystemTime,
    /// The table was loaded again by ReloadTables.
    pub reloaded: bool,
    /// The target's table was empty before this task loaded into it (looked at with `DO_NOTHING` alone): what it holds
    /// after an interruption was put there by the task.
    pub target_was_empty: bool,
    /// Errors while it was followed in this run, and those of the table as a whole also in its loads.
    pub errors: Errors,
    /// Changes read from the source's log so far, also those that still wait for the target.
    pub captured: Counts,
    pub in_log: InLog,
}

impl TableProgress {
    pub fn new(name: TableName) -> TableProgress {
        TableProgress {
            name,
            state: TableState::BeforeLoad,
            rows: 0,
            rejected: 0,
            rows_estimate: 0,
            started: None,
            ended: None,
            updated: SystemTime::now(),
            reloaded: false,
            target_was_empty: false,
            errors: Errors::default(),
            captured: Counts::default(),
            in_log: InLog::default(),
        }
    }

    pub fn missing(name: TableName) -> TableProgress {
        TableProgress { state: TableState::DoesNotExist, ..TableProgress::new(name) }
    }
}

/// What has changed since it was asked for last.
#[derive(Debug, Default, PartialEq)]
pub struct News {
    /// With their place in the load order.
    pub tables: Vec<(usize, TableProgress)>,
    pub checkpoint: Option<Position>,
    generation: u64,
}

impl News {
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.checkpoint.is_none()
    }
}

/// The tables of a running task, in load order, and its checkpoint. Loads and changes write to it, the reporter takes
/// what has changed.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
    /// Woken when a table changes its state or the checkpoint moves; counts alone wait for the reporter's next turn.
    pub state_changed: Notify,
    /// The generation of what was kept last …
    saved: watch::Sender<u64>,
    /// … and the place of the checkpoint in it.
    durable: watch::Sender<Option<Position>>,
}

#[derive(Debug, Default)]
struct State {
    tables: Vec<(TableProgress, Changed)>,
    places: HashMap<TableName, usize>,
    checkpoint: Option<Position>,
    checkpoint_changed: Changed,
    /// Grows with what somebody waits for to be kept.
    generation: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Changed {
    Yes,
    #[default]
    No,
}

impl Progress {
    /// What an earlier run has left, which is kept already.
    pub fn of(tables: Vec<TableProgress>, checkpoint: Option<Position>) -> Progress {
        let progress = Progress::default();
        {
            let mut state = progress.lock();
            tables.into_iter().for_each(|table| state.push(table, Changed::No));
            state.checkpoint = checkpoint;
        }
        progress
    }

    /// Replaces all tables.
    pub fn set(&self, tables: Vec<TableProgress>) {
        let mut state = self.lock();
        state.tables.clear();
        state.places.clear();
        tables.into_iter().for_each(|table| state.push(table, Changed::Yes));
        self.state_changed.notify_one();
    }

    pub fn get(&self, index: usize) -> TableProgress {
        self.lock().tables[index].0.clone()
    }

    pub fn all(&self) -> Vec<TableProgress> {
        self.lock().tables.iter().map(|(table, _)| table.clone()).collect()
    }

    /// The place of a table, which is added when it is new.
    pub fn place_of(&self, name: &TableName) -> usize {
        self.lock().place_of(name)
    }

    pub fn update(&self, index: usize, change: impl FnOnce(&mut TableProgress)) {
        if self.lock().update(index, change) {
            self.state_changed.notify_one();
        }
    }

    /// Updates a table and waits until that is kept.
    pub async fn update_and_wait(&self, index: usize, change: impl FnOnce(&mut TableProgress)) {
        let generation = {
            let mut state = self.lock();
            state.update(index, change);
            state.next_generation()
        };
        self.wait_for(generation).await;
    }

    pub fn checkpoint(&self) -> Option<Position> {
        self.lock().checkpoint.clone()
    }

    /// Moves the checkpoint, together with the tables that are what they are at this place.
    pub fn advance(&self, checkpoint: Position, tables: Vec<AtCheckpoint>) {
        self.lock().advance(checkpoint, tables);
        self.state_changed.notify_one();
    }

    /// Moves the checkpoint and waits until it is kept.
    pub async fn advance_and_wait(&self, checkpoint: Position) {
        let generation = {
            let mut state = self.lock();
            state.advance(checkpoint, Vec::new());
            state.next_generation()
        };
        self.wait_for(generation).await;
    }

    async fn wait_for(&self, generation: u64) {
        let mut saved = self.saved.subscribe();
        self.state_changed.notify_one();
        // The sender lives as long as we do.
        let _ = saved.wait_for(|kept| *kept >= generation).await;
    }

    /// The place of the checkpoint that was kept last.
    pub fn durable(&self) -> watch::Receiver<Option<Position>> {
        self.durable.subscribe()
    }

    /// The control plane has kept these.
    pub fn keep(&self, news: News) {
        if let Some(checkpoint) = news.checkpoint {
            self.durable.send_replace(Some(checkpoint));
        }
        self.saved.send_replace(news.generation);
    }

    /// The control plane could not keep these: they are news again.
    pub fn give_back(&self, news: News) {
        let mut state = self.lock();
        for (index, _) in news.tables {
            if let Some((_, changed)) = state.tables.get_mut(index) {
                *changed = Changed::Yes;
            }
        }
        if news.checkpoint.is_some() {
            state.checkpoint_changed = Changed::Yes;
        }
    }

    /// The tables and the checkpoint that changed since the last call.
    pub fn take_news(&self) -> News {
        let mut state = self.lock();
        let checkpoint = match std::mem::take(&mut state.checkpoint_changed) {
            Changed::Yes => state.checkpoint.clone(),
            Changed::No => None,
        };
        let generation = state.generation;
        let changed = state.tables.iter_mut().enumerate().filter(|(_, (_, changed))| *changed == Changed::Yes);
        let tables = changed.map(|(index, (table, changed))| {
            *changed = Changed::No;
            (index, table.clone())
        });
        News { tables: tables.collect(), checkpoint, generation }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves counters that are at worst one update old.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells whether the table's state is another now.
    fn update(&mut self, index: usize, change: impl FnOnce(&mut TableProgress)) -> bool {
        let (table, changed) = &mut self.tables[index];
        let before = table.state;
        change(table);
        table.updated = SystemTime::now();
        *changed = Changed::Yes;
        table.state != before
    }

    fn advance(&mut self, checkpoint: Position, tables: Vec<AtCheckpoint>) {
        for at in tables {
            let place = self.place_of(&at.name);
            let (table, changed) = &mut self.tables[place];
            table.state = match table.state {
                TableState::Completed | TableState::BeforeLoad | TableState::DoesNotExist => match at.standing {
                    Standing::Followed => TableState::Completed,
                    Standing::Unloaded => TableState::BeforeLoad,
                    Standing::Suspended => TableState::Error,
                },
                state => state,
            };
            table.in_log.captured = at.captured;
            table.in_log.applied = at.applied;
            table.in_log.schema = at.schema;
            table.errors = at.errors;
            table.updated = SystemTime::now();
            *changed = Changed::Yes;
        }
        self.checkpoint = Some(checkpoint);
        self.checkpoint_changed = Changed::Yes;
    }

    /// What has changed by now is told with it.
    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn place_of(&mut self, name: &TableName) -> usize {
        match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.push(TableProgress::new(name.clone()), Changed::Yes);
                self.tables.len() - 1
            }
        }
    }

    fn push(&mut self, table: TableProgress, changed: Changed) {
        self.places.insert(table.name.clone(), self.tables.len());
        self.tables.push((table, changed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: &str) -> TableName {
        TableName::new("s", table)
    }

    #[test]
    fn reports_each_change_once() {
        let progress = Progress::default();
        progress.set(vec![TableProgress::new(name("a")), TableProgress::new(name("b"))]);
        assert_eq!(progress.take_news().tables.len(), 2);
        assert!(progress.take_news().is_empty());
        progress.update(1, |table| table.rows += 5);
        let news = progress.take_news();
        assert_eq!((news.tables.len(), news.tables[0].0, news.tables[0].1.rows), (1, 1, 5));
    }

    #[test]
    fn a_checkpoint_is_told_with_the_counts_of_its_place() {
        let progress = Progress::of(vec![TableProgress::new(name("a"))], None);
        let captured = Counts { inserts: 3, ..Counts::default() };
        let at = |table: &str| AtCheckpoint {
            name: name(table),
            captured,
            applied: Counts::default(),
            standing: Standing::Followed,
            errors: Errors { table: 2, ..Errors::default() },
            schema: None,
        };
        progress.advance(Position::Lsn(7), vec![at("a"), at("new")]);
        let news = progress.take_news();
        assert_eq!(news.checkpoint, Some(Position::Lsn(7)));
        let told = news.tables.iter().map(|(index, table)| (*index, table.in_log.captured, table.errors.table));
        assert_eq!(told.collect::<Vec<_>>(), [(0, captured, 2), (1, captured, 2)]);
        assert!(progress.take_news().is_empty());

        // What could not be kept comes again; what was kept is told to those who wait for it.
        progress.give_back(news);
        let news = progress.take_news();
        assert_eq!((news.tables.len(), news.checkpoint.is_some()), (2, true));
        let durable = progress.durable();
        assert_eq!(*durable.borrow(), None);
        progress.keep(news);
        assert_eq!(*durable.borrow(), Some(Position::Lsn(7)));
    }

    #[test]
    fn state_names_read_back() {
        for state in TableState::ALL {
            assert_eq!(TableState::of(state.as_str()), Some(state));
        }
    }
}
