//! Whole tasks in a simulated world: servers that fail at any step, tasks that are killed or stopped at any moment and
//! resumed from what they last reported. Whatever happens, in the end the target has what the source has, once.
//!
//! Both servers are in memory. The source has a log, the target has transactions, and both stand by what the traits of
//! `connector` promise and no more; what a task must never do to them they refuse with a panic. `full_load` and `changes`
//! are the tests, by what a task does.
//!
//! Time is virtual and everything random that is decided here comes from one seed, which a failure names.
//! `SIMULATION_SEED=7 cargo test simulation` runs that one alone. The order of what is ready at one moment is the
//! runtime's, so a seed that fails may take a few runs to fail again.

mod apply;
mod changes;
mod full_load;
mod source;
mod stream;
mod target;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::settings::{self, TaskSettings};
use super::{Migration, Outcome, Report, Side, TableProgress, TaskLog, TaskSpec, start};
use crate::connector::{Connection, Engine, StartPoint};
use crate::data::{Column, DataType, Error, Family, Position, Result, TableKind, TableName, TableSchema, Value};
use crate::mapping::Mapping;
use source::Database;
use target::Stored;

/// A row of any table.
type Row = [i64; 4];

/// Its columns. A source may leave out the last where it has not changed.
const COLUMNS: [&str; 4] = ["a", "b", "c", "long"];

/// Where the tables are.
const SCHEMA: &str = "s";

const TASK: &str = "TASK";

/// The most that a task may take for what is left when nothing fails any more.
const LAST_LIFE: Duration = Duration::from_secs(3600);

/// Both databases, and what goes wrong with them.
struct World {
    name: String,
    source: Server<Database>,
    target: Server<Stored>,
    /// Something new is in the log.
    logged: Notify,
    /// Connections that live.
    sessions: AtomicUsize,
}

/// What a server holds, and its own chance: what one does to its sessions must not depend on the other's.
struct Server<T> {
    state: Mutex<T>,
    random: Mutex<StdRng>,
    faults: AtomicBool,
}

impl<T> Server<T> {
    fn new(state: T, random: StdRng) -> Server<T> {
        Server { state: Mutex::new(state), random: Mutex::new(random), faults: AtomicBool::new(true) }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // What failed is told by the test, not by all that comes after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True in one of `of` cases.
    fn chance(&self, of: u32) -> bool {
        self.random.lock().unwrap().random_ratio(1, of)
    }

    /// The same, while anything fails at all.
    fn fails(&self, of: u32) -> bool {
        self.faults.load(Ordering::Relaxed) && self.chance(of)
    }

    fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().random_range(0..end)
    }

    /// A step on the server: takes its time, and fails now and then.
    async fn step(&self, of: u32) -> Result<()> {
        sleep(Duration::from_millis(1 + self.below(20))).await;
        match self.fails(of) {
            true => Err(gone()),
            false => Ok(()),
        }
    }
}

fn gone() -> Error {
    Error::recoverable("the server has gone")
}

/// A connection. Where a process is killed, the next begins when those of the one before have ended.
struct Session(Arc<World>);

impl Session {
    fn open(world: &Arc<World>) -> Session {
        world.sessions.fetch_add(1, Ordering::SeqCst);
        Session(world.clone())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Connections can name a world by nothing but text.
static WORLDS: Mutex<BTreeMap<String, Arc<World>>> = Mutex::new(BTreeMap::new());

/// Either end of a task.
struct End(Arc<World>);

impl End {
    fn of(connection: Connection) -> Box<End> {
        Box::new(End(WORLDS.lock().unwrap()[&connection.server].clone()))
    }
}

static MEMORY: Engine = Engine {
    name: "memory",
    display_name: "Memory",
    family: Family::PostgreSql,
    source: true,
    target: true,
    settings: "",
    default_port: 0,
    open_source: |connection| End::of(connection),
    open_target: |connection| End::of(connection),
};

impl World {
    fn new(name: String, source: Database, target: Stored, random: &mut StdRng) -> Arc<World> {
        let world = Arc::new(World {
            name: name.clone(),
            source: Server::new(source, StdRng::from_rng(random)),
            target: Server::new(target, StdRng::from_rng(random)),
            logged: Notify::new(),
            sessions: AtomicUsize::new(0),
        });
        WORLDS.lock().unwrap().insert(name, world.clone());
        world
    }

    /// Returns when no session is there any more.
    async fn left(&self) {
        while self.sessions.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn end_faults(&self) {
        self.source.faults.store(false, Ordering::Relaxed);
        self.target.faults.store(false, Ordering::Relaxed);
    }

    fn end(&self) {
        WORLDS.lock().unwrap().remove(&self.name);
    }
}

fn schema(table: &str, primary_key: &[usize], unique_key: &[usize]) -> TableSchema {
    let column = |name: &&str| Column {
        name: (*name).into(),
        data_type: DataType::Int8,
        native: "bigint".into(),
        nullable: false,
        generated: false,
    };
    TableSchema {
        name: TableName::new(SCHEMA, table),
        kind: TableKind::Table,
        family: Family::PostgreSql,
        columns: COLUMNS.iter().map(column).collect(),
        primary_key: primary_key.to_vec(),
        unique_key: unique_key.to_vec(),
        rows_estimate: 0,
    }
}

/// What a value stands for; `None` where there is none.
fn number(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Absent => None,
        Value::Int(number) => Some(number),
        Value::String(text) => {
            // Most of a long one.
            let zeros = text.iter().position(|digit| *digit != b'0').unwrap_or(text.len() - 1);
            Some(std::str::from_utf8(&text[zeros..]).unwrap().parse().expect("a number as it was read"))
        }
        other => panic!("{other:?} was never read"),
    }
}

/// What the control plane keeps of a task: all that survives a kill.
#[derive(Debug, Default)]
struct Kept {
    tables: Vec<TableProgress>,
    checkpoint: Option<Position>,
}

impl Kept {
    fn take(&mut self, changed: Vec<(usize, TableProgress)>, checkpoint: Option<Position>) {
        for (index, table) in changed {
            match self.tables.get_mut(index) {
                Some(slot) => *slot = table,
                None => self.tables.push(table),
            }
        }
        self.checkpoint = checkpoint.or(self.checkpoint.take());
    }
}

/// A task of a world, whatever happens to it.
struct Task {
    world: Arc<World>,
    migration: Migration,
    settings: serde_json::Value,
    start: StartPoint,
    spool: PathBuf,
    /// Now and then some of its tables are loaded again.
    is_reloaded: bool,
    kept: Kept,
    /// When it is stopped or killed.
    random: StdRng,
}

impl Task {
    fn spec(&self) -> TaskSpec {
        let connection = || Connection { server: self.world.name.clone(), ..Connection::default() };
        let side = || Side { engine: &MEMORY, connection: connection() };
        let mappings = serde_json::json!({ "rules": [{
            "rule-type": "selection", "rule-id": "1", "rule-name": "1", "rule-action": "include",
            "object-locator": { "schema-name": SCHEMA, "table-name": "%" }
        }]});
        let context = settings::Context { replication_instance_identifier: "ri", task_resource_id: TASK };
        let document = settings::create(Some(&self.settings.to_string()), context).unwrap();
        TaskSpec {
            resource_id: TASK.into(),
            migration: self.migration,
            source: side(),
            target: side(),
            mapping: Mapping::parse(&mappings.to_string()).unwrap(),
            settings: TaskSettings::from_canonical(&document).unwrap(),
            start: self.start.clone(),
            stop: None,
            stops_after_load: true,
            tables: self.kept.tables.clone(),
            checkpoint: self.kept.checkpoint.clone(),
            spool: self.spool.clone(),
            log: Arc::new(TaskLog::nowhere()),
        }
    }

    /// One life of the task: it ends by itself, is stopped, or is killed at some moment without a last word. While
    /// nothing fails, it lives until it has ended or is told to. `look` sees all that is kept, and tells whether the
    /// task is to be stopped now.
    async fn live(&mut self, mut look: impl FnMut(&Kept) -> Then) -> Option<Outcome> {
        let (handle, mut reports) = start(self.spec());
        let faults = self.world.source.faults.load(Ordering::Relaxed);
        let end = Instant::now() + if faults { self.random_time() } else { LAST_LIFE };
        let mut reload = Some(Instant::now() + self.random_time()).filter(|_| faults && self.is_reloaded);
        let mut stopped = false;
        let outcome = loop {
            let report = tokio::select! {
                biased;
                report = reports.recv() => match report {
                    Some(report) => report,
                    None => panic!("{}: a task that is not killed says how it ended", self.world.name),
                },
                () = sleep_until(reload.unwrap_or(end)), if reload.is_some() => {
                    reload = None;
                    handle.reload(self.some_tables());
                    continue;
                }
                () = sleep_until(end), if !stopped => {
                    assert!(faults, "{}: the task does not get on: {:?}", self.world.name, self.kept);
                    if !self.random.random_ratio(1, 3) {
                        break None;
                    }
                    stopped = true;
                    handle.stop();
                    continue;
                }
            };
            match report {
                Report::Running | Report::ReadingPaused(_) | Report::ReadingResumed => {}
                // The store has its trouble.
                Report::Progress { .. } if faults && !stopped && self.random.random_ratio(1, 50) => {}
                Report::Progress { tables, checkpoint, kept } => {
                    self.kept.take(tables, checkpoint);
                    if look(&self.kept) == Then::Stop && !stopped {
                        stopped = true;
                        handle.stop();
                    }
                    let _ = kept.send(());
                }
                Report::Finished(outcome) => break Some(outcome),
            }
        };
        drop((handle, reports));
        self.world.left().await;
        // Nothing here is beyond recovery, and what panics in a task makes it fail.
        assert!(!matches!(outcome, Some(Outcome::Failed(_))), "{}: {outcome:?}", self.world.name);
        outcome
    }

    fn random_time(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(0..30_000))
    }

    fn some_tables(&mut self) -> Vec<TableName> {
        let source = self.world.source.lock();
        source.tables.iter().map(|table| table.name().clone()).filter(|_| self.random.random_ratio(1, 3)).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Stop,
}

/// Runs the seed that was asked for, or all of them.
async fn of_seeds(count: u64, simulate: impl AsyncFn(u64)) {
    match std::env::var("SIMULATION_SEED") {
        Ok(seed) => simulate(seed.parse().expect("SIMULATION_SEED is a number")).await,
        Err(_) => {
            for seed in 0..count {
                simulate(seed).await;
            }
        }
    }
}
