//! A session that changes rows of the target in transactions. Its commit may or may not have happened when the connection
//! breaks, and may even happen later.

use std::mem::{replace, take};
use std::sync::Arc;

use async_trait::async_trait;

use super::target::{State, Table};
use super::{COLUMNS, Row, Session, World, gone, number};
use crate::connector::{Applier, ChangeSet, Conflict, Key, RowChange, TableChange, Transaction};
use crate::data::{self, Error, ErrorKind, Op, Result, TableSchema};

/// The table of a task's place, and where its columns have that.
const TXN_STATE: (&str, usize) = ("awsdms_txn_state", 3);

pub struct Applying {
    session: Session,
    owner: String,
    stage: Stage,
    savepoint: Option<State>,
}

enum Stage {
    Idle,
    /// With all that the transaction has changed so far.
    Open(State),
    /// Something was refused: it can only be taken back.
    Failed,
    /// The server has been told to commit and has not answered.
    Committing(State),
    Broken,
}

impl Applying {
    pub fn new(world: &Arc<World>, owner: &str) -> Applying {
        let session = Session::open(world);
        Applying { session, owner: owner.to_owned(), stage: Stage::Idle, savepoint: None }
    }

    /// A step of the session, which does not live on when it fails.
    async fn step(&mut self, of: u32) -> Result<()> {
        if matches!(self.stage, Stage::Broken) {
            return Err(gone());
        }
        let outcome = self.session.0.target.step(of).await;
        if outcome.is_err() {
            self.stage = Stage::Broken;
        }
        outcome
    }

    fn open(&mut self) -> &mut State {
        match &mut self.stage {
            Stage::Open(state) => state,
            _ => panic!("{}: a change outside a transaction", self.session.0.name),
        }
    }

    /// A change that is refused takes its transaction along.
    fn refuse<T>(&mut self, why: &str) -> Result<T> {
        self.stage = Stage::Failed;
        Err(Error::new(ErrorKind::Apply, why))
    }
}

#[async_trait]
impl Applier for Applying {
    async fn begin(&mut self) -> Result<()> {
        self.step(1000).await?;
        assert!(matches!(self.stage, Stage::Idle), "{}: a transaction in a transaction", self.session.0.name);
        self.stage = Stage::Open(self.session.0.target.lock().committed.clone());
        self.savepoint = None;
        Ok(())
    }

    async fn apply(&mut self, set: &ChangeSet<'_>) -> Result<u64> {
        self.step(500).await?;
        let name = &set.table.name;
        let state = self.open();
        let Some(table) = state.tables.get_mut(name) else { return self.refuse("no such table") };
        if name.table == TXN_STATE.0 {
            let checkpoint = set.rows[0].new.as_ref().map(|row| row.get(TXN_STATE.1));
            let Some(data::Value::String(text)) = checkpoint else { panic!("{checkpoint:?} is no checkpoint") };
            state.checkpoints.insert(name.clone(), String::from_utf8(text.to_vec()).unwrap());
            return Ok(1);
        }
        let table = Arc::make_mut(table);
        let mut changed = 0;
        for row in set.rows {
            match change(table, set, row) {
                Some(count) => changed += count,
                None => return self.refuse("another row has this key"),
            }
        }
        Ok(changed)
    }

    fn statement(&self, set: &ChangeSet<'_>) -> String {
        format!("{:?} {}", set.op, set.table.name)
    }

    async fn truncate(&mut self, _: &TableSchema) -> Result<Transaction> {
        panic!("nothing here is truncated")
    }

    async fn change_table(&mut self, _: &TableChange<'_>) -> Result<Transaction> {
        panic!("no table here is changed")
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.step(1000).await?;
        self.savepoint = Some(self.open().clone());
        Ok(())
    }

    async fn back_to_savepoint(&mut self) -> Result<()> {
        self.step(1000).await?;
        assert!(matches!(self.stage, Stage::Open(_) | Stage::Failed), "{}: no transaction", self.session.0.name);
        self.stage = Stage::Open(self.savepoint.clone().expect("a savepoint"));
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.step(1000).await?;
        self.stage = match replace(&mut self.stage, Stage::Idle) {
            Stage::Open(state) => Stage::Committing(state),
            _ => panic!("{}: there is nothing to commit", self.session.0.name),
        };
        let world = self.session.0.clone();
        // It stays in doubt when the connection breaks, or the process ends, before the server has done it.
        world.target.step(40).await?;
        if let Stage::Committing(state) = replace(&mut self.stage, Stage::Idle) {
            world.commit(state);
        }
        self.step(40).await
    }

    async fn rollback(&mut self) -> Result<()> {
        self.step(1000).await?;
        assert!(!matches!(self.stage, Stage::Committing(_)), "{}: too late", self.session.0.name);
        self.stage = Stage::Idle;
        Ok(())
    }
}

impl Drop for Applying {
    fn drop(&mut self) {
        if let Stage::Committing(state) = replace(&mut self.stage, Stage::Broken) {
            let in_doubt = (take(&mut self.owner), state);
            self.session.0.target.lock().in_doubt.push(in_doubt);
        }
    }
}

/// The values of an image; `None` where the log has none.
type Values = [Option<i64>; COLUMNS.len()];

fn values(set: &ChangeSet<'_>, row: &data::Row<'_>) -> Values {
    std::array::from_fn(|column| number(row.get(set.columns[column])))
}

/// Changes a row as a set says, and gives how many rows that were; `None` when another row is in the way.
fn change(table: &mut Table, set: &ChangeSet<'_>, row: &RowChange<'_>) -> Option<u64> {
    let new = row.new.as_ref().map(|new| values(set, new));
    if set.op == Op::Insert {
        let new = new.expect("a new row").map(|value| value.expect("a new row has all values"));
        return insert(table, new, set.conflict);
    }
    let (Key::Unique(key) | Key::Any(key)) = set.key;
    assert!(!key.is_empty(), "nothing tells which row is meant");
    let wanted = values(set, row.found_by().expect("a row to be found by"));
    let mut by = [0; COLUMNS.len()];
    key.iter().for_each(|column| by[*column] = wanted[*column].expect("a row is found by all of its key"));
    let Some(found) = table.find(key, &by) else { return Some(0) };
    table.take(&found);
    if let Some(new) = new {
        let new: Row = std::array::from_fn(|column| new[column].unwrap_or(found[column]));
        if table.has_key_of(&new) {
            return None;
        }
        table.add(new);
    }
    Some(1)
}

fn insert(table: &mut Table, row: Row, conflict: Conflict) -> Option<u64> {
    let other = if table.key.is_empty() { None } else { table.find(&table.key, &row) };
    match (other, conflict) {
        (Some(_), Conflict::Refuse) => return None,
        (Some(other), Conflict::Replace) => table.take(&other),
        (None, _) => {}
    }
    table.add(row);
    Some(1)
}
