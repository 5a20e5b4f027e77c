//! How far each table of a task is: the numbers behind DescribeTableStatistics.

use std::sync::Mutex;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::data::TableName;

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
    /// How often the load of the table as a whole has failed in this run.
    pub failures: u64,
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
            failures: 0,
        }
    }

    pub fn missing(name: TableName) -> TableProgress {
        TableProgress { state: TableState::DoesNotExist, ..TableProgress::new(name) }
    }
}

/// The tables of a running task, in load order. Loads write to it, the reporter takes what has changed.
#[derive(Debug, Default)]
pub struct Progress {
    tables: Mutex<Vec<(TableProgress, Changed)>>,
    /// Woken when a table changes its state; counts alone wait for the reporter's next turn.
    pub state_changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}

impl Progress {
    /// Replaces all tables.
    pub fn set(&self, tables: Vec<TableProgress>) {
        *self.lock() = tables.into_iter().map(|table| (table, Changed::Yes)).collect();
        self.state_changed.notify_one();
    }

    pub fn get(&self, index: usize) -> TableProgress {
        self.lock()[index].0.clone()
    }

    pub fn all(&self) -> Vec<TableProgress> {
        self.lock().iter().map(|(table, _)| table.clone()).collect()
    }

    pub fn update(&self, index: usize, change: impl FnOnce(&mut TableProgress)) {
        let mut tables = self.lock();
        let (table, changed) = &mut tables[index];
        let state = table.state;
        change(table);
        table.updated = SystemTime::now();
        *changed = Changed::Yes;
        if table.state != state {
            self.state_changed.notify_one();
        }
    }

    /// The tables that changed since the last call, with their place in the load order.
    pub fn take_changed(&self) -> Vec<(usize, TableProgress)> {
        let mut tables = self.lock();
        let changed = tables.iter_mut().enumerate().filter(|(_, (_, changed))| *changed == Changed::Yes);
        changed
            .map(|(index, (table, changed))| {
                *changed = Changed::No;
                (index, table.clone())
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(TableProgress, Changed)>> {
        // A panic while the lock is held leaves counters that are at worst one update old.
        self.tables.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_each_change_once() {
        let progress = Progress::default();
        progress.set(vec![TableProgress::new(TableName::new("s", "a")), TableProgress::new(TableName::new("s", "b"))]);
        assert_eq!(progress.take_changed().len(), 2);
        assert!(progress.take_changed().is_empty());
        progress.update(1, |table| table.rows += 5);
        let changed = progress.take_changed();
        assert_eq!((changed.len(), changed[0].0, changed[0].1.rows), (1, 1, 5));
    }

    #[test]
    fn state_names_read_back() {
        for state in TableState::ALL {
            assert_eq!(TableState::of(state.as_str()), Some(state));
        }
    }
}
