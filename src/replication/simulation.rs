//! Whole tasks in a simulated world: servers that fail at any step, tasks that are killed or stopped at any moment and
//! resumed from what they last reported. Whatever happens, in the end every row is on the target once.
//!
//! Time is virtual and everything random comes from one seed, which a failure names. `SIMULATION_SEED=7 cargo test
//! simulation` runs that one alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout_at};

use super::settings::{self, TaskSettings};
use super::{Migration, Outcome, Report, Side, StopReason, TableProgress, TableState, TaskLog, TaskSpec, start};
use crate::connector::{
    ApplyException, Connection, CreateKey, Engine, PrepareMode, ReadPlan, Reader, Rejected, Snapshot, Source,
    StartPoint, TableEntry, Target, Writer, Written,
};
use crate::data::{
    Batch, Column, DataType, Error, ErrorKind, Family, Format, Result, TableKind, TableName, TableSchema, Value,
};
use crate::mapping::Mapping;

const SEEDS: u64 = 1000;

/// Rows that the target refuses for good.
fn is_bad(row: i64) -> bool {
    row % 37 == 5
}

/// Both databases, and what goes wrong with them.
struct World {
    random: Mutex<StdRng>,
    faults: AtomicBool,
    /// Rows of each source table, numbered from 0.
    source: BTreeMap<TableName, i64>,
    target: Mutex<BTreeMap<TableName, Vec<i64>>>,
    /// Readers and writers that live.
    sessions: AtomicUsize,
    /// Batches of each table that its reader filled and no writer has taken.
    waiting: Mutex<HashMap<TableName, usize>>,
    waiting_max: AtomicUsize,
}

/// Connections can name a world by nothing but text.
static WORLDS: Mutex<BTreeMap<String, Arc<World>>> = Mutex::new(BTreeMap::new());

static MEMORY: Engine = Engine {
    name: "memory",
    display_name: "Memory",
    family: Family::MySql,
    source: true,
    target: true,
    settings: "",
    default_port: 0,
    open_source: |connection| Box::new(End(WORLDS.lock().unwrap()[&connection.server].clone())),
    open_target: |connection| Box::new(End(WORLDS.lock().unwrap()[&connection.server].clone())),
};

impl World {
    /// True in one of `of` cases.
    fn chance(&self, of: u32) -> bool {
        self.random.lock().unwrap().random_ratio(1, of)
    }

    fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().random_range(0..end)
    }

    /// A step on a server: takes its time, and fails now and then.
    async fn step(&self, of: u32) -> Result<()> {
        sleep(Duration::from_millis(1 + self.below(20))).await;
        match self.faults.load(Ordering::Relaxed) && self.chance(of) {
            true => Err(Error::recoverable("the server has gone")),
            false => Ok(()),
        }
    }
}

struct End(Arc<World>);

#[async_trait]
impl Source for End {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn schemas(&self) -> Result<Vec<String>> {
        Ok(vec!["s".into()])
    }

    async fn tables(&self) -> Result<Vec<TableEntry>> {
        self.0.step(30).await?;
        let entry = |name: &TableName| TableEntry { name: name.clone(), kind: TableKind::Table };
        Ok(self.0.source.keys().map(entry).collect())
    }

    async fn describe(&self, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
        self.0.step(30).await?;
        let column = |name: &str, nullable| Column {
            name: name.into(),
            data_type: DataType::Int8,
            native: "bigint".into(),
            nullable,
            generated: false,
        };
        let described = |entry: &TableEntry| TableSchema {
            name: entry.name.clone(),
            kind: entry.kind,
            family: Family::MySql,
            columns: vec![column("id", false)],
            primary_key: Vec::new(),
            unique_key: Vec::new(),
            rows_estimate: 0,
        };
        Ok(tables.iter().map(described).collect())
    }

    async fn snapshot(&self, readers: usize) -> Result<Box<dyn Snapshot>> {
        self.0.step(30).await?;
        // Now and then the server has fewer connections than are asked for.
        if readers > 2 && self.0.faults.load(Ordering::Relaxed) && self.0.chance(10) {
            return Err(Error::recoverable("too many connections").with_sqlstate("53300"));
        }
        Ok(Box::new(View { world: self.0.clone(), readers }))
    }
}

struct View {
    world: Arc<World>,
    readers: usize,
}

#[async_trait]
impl Snapshot for View {
    fn readers(&self) -> usize {
        self.readers
    }

    fn formats(&self, _: &TableSchema, _: &[usize], _: Option<u64>) -> Vec<Format> {
        vec![Format::Values]
    }

    async fn read(&self, plan: ReadPlan) -> Result<Box<dyn Reader>> {
        self.world.step(30).await?;
        self.world.sessions.fetch_add(1, Ordering::SeqCst);
        let table = plan.table.name.clone();
        self.world.waiting.lock().unwrap().insert(table.clone(), 0);
        let rows = self.world.source[&table];
        Ok(Box::new(Rows { world: self.world.clone(), table, next: 0, rows }))
    }
}

struct Rows {
    world: Arc<World>,
    table: TableName,
    next: i64,
    rows: i64,
}

#[async_trait]
impl Reader for Rows {
    async fn next(&mut self, batch: &mut Batch) -> Result<bool> {
        self.world.step(60).await?;
        batch.clear(Format::Values);
        for _ in 0..=self.world.below(40) {
            if self.next == self.rows {
                break;
            }
            batch.push(Value::Int(self.next));
            batch.end_row();
            self.next += 1;
        }
        if batch.is_empty() {
            return Ok(false);
        }
        let mut waiting = self.world.waiting.lock().unwrap();
        let waiting = waiting.get_mut(&self.table).expect("a table that is read");
        *waiting += 1;
        self.world.waiting_max.fetch_max(*waiting, Ordering::SeqCst);
        Ok(true)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.world.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Target for End {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn family(&self) -> Family {
        Family::MySql
    }

    async fn places(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        Ok(names.to_vec())
    }

    async fn prepare(&self, table: &TableSchema, mode: PrepareMode, _: CreateKey) -> Result<()> {
        self.0.step(30).await?;
        {
            let mut target = self.0.target.lock().unwrap();
            let rows = target.entry(table.name.clone()).or_default();
            if mode != PrepareMode::DoNothing {
                rows.clear();
            }
        }
        self.0.step(30).await
    }

    async fn is_empty(&self, table: &TableSchema) -> Result<bool> {
        self.0.step(30).await?;
        Ok(self.0.target.lock().unwrap()[&table.name].is_empty())
    }

    async fn formats(&self, _: &TableSchema) -> Result<Vec<Format>> {
        Ok(vec![Format::Values])
    }

    async fn writer(&self, table: &TableSchema, _: Format, _: usize) -> Result<Box<dyn Writer>> {
        self.0.step(30).await?;
        self.0.sessions.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Into { world: self.0.clone(), table: table.name.clone(), flying: Vec::new() }))
    }

    async fn finish(&self, _: &TableSchema, _: CreateKey) -> Result<()> {
        self.0.step(30).await
    }

    async fn record_exceptions(&self, _: &str, _: &[ApplyException]) -> Result<()> {
        self.0.step(30).await
    }
}

/// Writes one batch late, as a server does that is sent the next while it works on the one before.
struct Into {
    world: Arc<World>,
    table: TableName,
    flying: Vec<i64>,
}

impl Into {
    /// The server commits what it was sent before.
    fn land(&mut self) -> Written {
        let (bad, good): (Vec<i64>, Vec<i64>) =
            std::mem::take(&mut self.flying).into_iter().partition(|row| is_bad(*row));
        let rejected = |row: i64| Rejected {
            error: Error::new(ErrorKind::Data, "not this one"),
            statement: format!("INSERT INTO t VALUES ({row})"),
        };
        let written = Written { rows: good.len() as u64, rejected: bad.into_iter().map(rejected).collect() };
        self.world.target.lock().unwrap().entry(self.table.clone()).or_default().extend(good);
        written
    }
}

#[async_trait]
impl Writer for Into {
    async fn write(&mut self, batch: &Batch) -> Result<Written> {
        *self.world.waiting.lock().unwrap().get_mut(&self.table).expect("a table that is read") -= 1;
        self.world.step(60).await?;
        let written = self.land();
        for index in 0..batch.rows() {
            match batch.row(index).next() {
                Some(Value::Int(row)) => self.flying.push(row),
                other => panic!("{other:?} was never read"),
            }
        }
        self.world.step(60).await?;
        Ok(written)
    }

    async fn finish(&mut self) -> Result<Written> {
        self.world.step(60).await?;
        let written = self.land();
        self.world.step(60).await?;
        Ok(written)
    }
}

impl Drop for Into {
    /// Of a connection that breaks, the server may still have got the last batch.
    fn drop(&mut self) {
        if self.world.chance(2) {
            self.land();
        }
        self.world.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the control plane keeps of a task: all that survives a kill.
#[derive(Default)]
struct Kept(Vec<TableProgress>);

impl Kept {
    fn take(&mut self, changed: Vec<(usize, TableProgress)>) {
        for (index, table) in changed {
            match self.0.get_mut(index) {
                Some(slot) => *slot = table,
                None => self.0.push(table),
            }
        }
    }
}

fn spec(world: &str, mode: &str, kept: &Kept) -> TaskSpec {
    let side = || Side { engine: &MEMORY, connection: Connection { server: world.into(), ..Connection::default() } };
    let mappings = serde_json::json!({ "rules": [{
        "rule-type": "selection", "rule-id": "1", "rule-name": "1", "rule-action": "include",
        "object-locator": { "schema-name": "s", "table-name": "%" }
    }]});
    let wanted = serde_json::json!({ "FullLoadSettings": { "TargetTablePrepMode": mode, "MaxFullLoadSubTasks": 4 } });
    let context = settings::Context { replication_instance_identifier: "ri", task_resource_id: "TASK" };
    let document = settings::create(Some(&wanted.to_string()), context).unwrap();
    TaskSpec {
        resource_id: "TASK".into(),
        migration: Migration::FullLoad,
        source: side(),
        target: side(),
        mapping: Mapping::parse(&mappings.to_string()).unwrap(),
        settings: TaskSettings::from_canonical(&document).unwrap(),
        start: StartPoint::Now,
        stop: None,
        stops_after_load: true,
        tables: kept.0.clone(),
        checkpoint: None,
        spool: std::path::PathBuf::new(),
        log: Arc::new(TaskLog::nowhere()),
    }
}

/// One life of a task: it ends by itself, is stopped, or is killed at some moment without a last word.
async fn live(world: &World, name: &str, mode: &str, kept: &mut Kept) -> Option<Outcome> {
    let (handle, mut reports) = start(spec(name, mode, kept));
    let faults = world.faults.load(Ordering::Relaxed);
    let end = Instant::now() + Duration::from_millis(if faults { world.below(30_000) } else { u64::from(u32::MAX) });
    let mut stopped = false;
    let outcome = loop {
        let report = match stopped {
            true => Ok(reports.recv().await),
            false => timeout_at(end, reports.recv()).await,
        };
        match report {
            Ok(Some(Report::Running | Report::ReadingPaused(_) | Report::ReadingResumed)) => {}
            Ok(Some(Report::Progress { tables, kept: is_kept, .. })) => {
                kept.take(tables);
                let _ = is_kept.send(());
            }
            Ok(Some(Report::Finished(outcome))) => break Some(outcome),
            Ok(None) => panic!("a task that is not killed says how it ended"),
            Err(_) if world.chance(3) => {
                stopped = true;
                handle.stop();
            }
            Err(_) => break None,
        }
    };
    drop((handle, reports));
    // Its sessions end with the process; the next life begins after that.
    while world.sessions.load(Ordering::SeqCst) > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    outcome
}

async fn simulate(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mode = ["DROP_AND_CREATE", "TRUNCATE_BEFORE_LOAD", "DO_NOTHING"][random.random_range(0..3)];
    let tables = random.random_range(1..8);
    let source: BTreeMap<TableName, i64> =
        (0..tables).map(|table| (TableName::new("s", format!("t{table}")), random.random_range(0..400))).collect();
    let world = Arc::new(World {
        random: Mutex::new(random),
        faults: AtomicBool::new(true),
        source,
        target: Mutex::default(),
        sessions: AtomicUsize::new(0),
        waiting: Mutex::default(),
        waiting_max: AtomicUsize::new(0),
    });
    let name = format!("seed {seed}");
    WORLDS.lock().unwrap().insert(name.clone(), world.clone());
    let mut kept = Kept::default();
    for _ in 0..world.below(12) {
        if live(&world, &name, mode, &mut kept).await == Some(Outcome::Stopped(StopReason::FullLoadOnlyFinished)) {
            break;
        }
    }
    world.faults.store(false, Ordering::Relaxed);
    let outcome = live(&world, &name, mode, &mut kept).await;
    assert_eq!(outcome, Some(Outcome::Stopped(StopReason::FullLoadOnlyFinished)), "{name}, {mode}");
    WORLDS.lock().unwrap().remove(&name);

    let states: HashMap<&TableName, &TableProgress> = kept.0.iter().map(|table| (&table.name, table)).collect();
    for (table, rows) in &world.source {
        let expected: Vec<i64> = (0..*rows).filter(|row| !is_bad(*row)).collect();
        let mut found = world.target.lock().unwrap().get(table).cloned().unwrap_or_default();
        found.sort_unstable();
        assert_eq!(found, expected, "{name}, {mode}, {table}");
        let told = states[table];
        assert_eq!(told.state, TableState::Completed, "{name}, {mode}, {table}");
        let refused = *rows as u64 - expected.len() as u64;
        assert_eq!((told.rows, told.rejected), (expected.len() as u64, refused), "{name}, {mode}, {table}");
    }
    assert!(world.waiting_max.load(Ordering::SeqCst) <= 3, "{name}: batches pile up");
}

#[tokio::test(start_paused = true)]
async fn every_row_arrives_once_whatever_fails() {
    match std::env::var("SIMULATION_SEED") {
        Ok(seed) => simulate(seed.parse().expect("SIMULATION_SEED is a number")).await,
        Err(_) => {
            for seed in 0..SEEDS {
                simulate(seed).await;
            }
        }
    }
}
