//! The load against a source and a target that do as they are told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::watch;

use super::super::log::TaskLog;
use super::super::metrics::Metrics;
use super::super::progress::Progress;
use super::super::rules::Rules;
use super::super::run::{Migration, Orders};
use super::super::settings::{self, Context, TaskSettings};
use super::*;
use crate::connector::{CreateKey, Reader, Rejected, Source, StartPoint, TableEntry, Target, Writer};
use crate::data::{Column, DataType, Family, TableKind, TableSchema, Value};
use crate::mapping::Mapping;

const ROWS: usize = 10;

/// What both ends share: the rows of the target's tables, and how the source is to behave.
#[derive(Default)]
struct World {
    rows: Mutex<HashMap<TableName, u64>>,
    /// Reads that break off half-way before the first that does not.
    breaks: AtomicUsize,
    /// Every row is sent with a value that was cut.
    cuts: bool,
    /// The target's tables may be written but not read.
    blind: bool,
    /// Names are one to the target that differ in case.
    folds: bool,
    /// The target refuses one row of every batch, and the control table for this reason.
    refuses: Option<ErrorKind>,
    /// The mappings name a table that is not there.
    explicit: bool,
}

struct End(Arc<World>);

struct Rows {
    cuts: bool,
    sent: usize,
    breaks: bool,
}

struct Into {
    world: Arc<World>,
    table: TableName,
}

#[async_trait]
impl Source for End {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn schemas(&self) -> Result<Vec<String>> {
        Ok(vec!["s".to_owned()])
    }

    async fn tables(&self) -> Result<Vec<TableEntry>> {
        let entry = |table| TableEntry { name: TableName::new("s", table), kind: TableKind::Table };
        Ok(["T", "t"].map(entry).to_vec())
    }

    async fn describe(&self, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
        let described = |entry: &TableEntry| TableSchema {
            name: entry.name.clone(),
            kind: entry.kind,
            family: Family::MySql,
            columns: vec![Column {
                name: "id".to_owned(),
                data_type: DataType::Int4,
                native: "int".to_owned(),
                nullable: true,
                generated: false,
            }],
            primary_key: Vec::new(),
            unique_key: Vec::new(),
            rows_estimate: 0,
        };
        Ok(tables.iter().map(described).collect())
    }

    async fn snapshot(&self, _: usize) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(End(self.0.clone())))
    }
}

#[async_trait]
impl Snapshot for End {
    fn readers(&self) -> usize {
        2
    }

    fn formats(&self, _: &TableSchema, _: &[usize], _: Option<u64>) -> Vec<Format> {
        vec![Format::Values]
    }

    async fn read(&self, _: ReadPlan) -> Result<Box<dyn Reader>> {
        let breaks = self.0.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        Ok(Box::new(Rows { cuts: self.0.cuts, sent: 0, breaks }))
    }
}

#[async_trait]
impl Reader for Rows {
    async fn next(&mut self, batch: &mut Batch) -> Result<bool> {
        batch.clear(Format::Values);
        if self.breaks && self.sent == ROWS / 2 {
            return Err(Error::recoverable("the source has gone"));
        }
        if self.sent == ROWS {
            return Ok(false);
        }
        // So that a load takes more than one turn.
        tokio::task::yield_now().await;
        batch.add_truncated(self.cuts.into());
        batch.push(Value::Int(self.sent as i64));
        batch.end_row();
        self.sent += 1;
        Ok(true)
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
        let place = |name: &TableName| match self.0.folds {
            true => TableName::new(&name.schema, name.table.to_lowercase()),
            false => name.clone(),
        };
        Ok(names.iter().map(place).collect())
    }

    async fn prepare(&self, table: &TableSchema, mode: PrepareMode, _: CreateKey) -> Result<()> {
        let mut rows = self.0.rows.lock().unwrap();
        let rows = rows.entry(table.name.clone()).or_default();
        if mode != PrepareMode::DoNothing {
            *rows = 0;
        }
        Ok(())
    }

    async fn is_empty(&self, table: &TableSchema) -> Result<bool> {
        match self.0.blind {
            true => Err(Error::table("permission denied")),
            false => Ok(self.0.rows.lock().unwrap()[&table.name] == 0),
        }
    }

    async fn formats(&self, _: &TableSchema) -> Result<Vec<Format>> {
        Ok(vec![Format::Values])
    }

    async fn writer(&self, table: &TableSchema, _: Format, _: usize) -> Result<Box<dyn Writer>> {
        Ok(Box::new(Into { world: self.0.clone(), table: table.name.clone() }))
    }

    async fn finish(&self, _: &TableSchema, _: CreateKey) -> Result<()> {
        Ok(())
    }

    async fn record_exceptions(&self, _: &str, _: &[ApplyException]) -> Result<()> {
        self.0.refuses.map_or(Ok(()), |kind| Err(Error::new(kind, "no control table")))
    }
}

#[async_trait]
impl Writer for Into {
    async fn write(&mut self, batch: &Batch) -> Result<Written> {
        let rows = batch.rows() as u64;
        *self.world.rows.lock().unwrap().entry(self.table.clone()).or_default() += rows;
        let bad = || Rejected { error: Error::new(ErrorKind::Data, "bad"), statement: "INSERT".into() };
        Ok(Written { rows, rejected: self.world.refuses.map(|_| bad()).into_iter().collect() })
    }

    async fn finish(&mut self) -> Result<Written> {
        Ok(Written::default())
    }
}

fn load(world: &Arc<World>, mode: &str) -> Arc<Run> {
    load_with(world, serde_json::json!({ "FullLoadSettings": { "TargetTablePrepMode": mode } }))
}

fn load_with(world: &Arc<World>, settings: serde_json::Value) -> Arc<Run> {
    let select = |id: &str, action: &str, table: &str| {
        serde_json::json!({
            "rule-type": "selection", "rule-id": id, "rule-name": id, "rule-action": action,
            "object-locator": { "schema-name": "s", "table-name": table }
        })
    };
    let explicit = world.explicit.then(|| select("2", "explicit", "gone"));
    let rules: Vec<_> = [select("1", "include", "%")].into_iter().chain(explicit).collect();
    let mappings = serde_json::json!({ "rules": rules });
    let context = Context { replication_instance_identifier: "ri", task_resource_id: "TASK" };
    let settings = settings::create(Some(&settings.to_string()), context).unwrap();
    Arc::new(Run {
        migration: Migration::FullLoad,
        source: Box::new(End(world.clone())),
        target: Box::new(End(world.clone())),
        source_to_write: None,
        rules: Rules {
            task: "TASK".to_owned(),
            mapping: Arc::new(Mapping::parse(&mappings.to_string()).unwrap()),
            settings: Arc::new(TaskSettings::from_canonical(&settings).unwrap()),
            log: Arc::new(TaskLog::nowhere()),
            format: Format::Text,
        },
        progress: Progress::default(),
        metrics: Arc::new(Metrics::default()),
        workers_max: AtomicUsize::new(8),
        start: StartPoint::Now,
        stop: None,
        stops_after_load: true,
        spool: std::path::PathBuf::new(),
        reports: mpsc::channel(1).0,
        following: AtomicBool::new(false),
        told_pause: AtomicBool::new(false),
    })
}

/// What nobody asks for.
fn no_orders() -> Orders {
    Orders { reloads: mpsc::unbounded_channel().1, stopped: watch::channel(false).1 }
}

/// Runs the task while all that it tells is kept.
async fn go(load: &Arc<Run>) -> Result<()> {
    let keep_all = async {
        loop {
            load.progress.state_changed.notified().await;
            load.progress.keep(load.progress.take_news());
        }
    };
    let mut orders = no_orders();
    tokio::select! {
        outcome = load.go(&mut orders, async || {}) => outcome.map(drop),
        () = keep_all => unreachable!("it is kept for ever"),
    }
}

fn name(table: &str) -> TableName {
    TableName::new("s", table)
}

async fn loading(load: &Arc<Run>) -> Loading {
    let (plans, _) = load.plan().await.unwrap();
    load.progress.set(load.carried_over(&plans));
    Loading {
        load: load.clone(),
        plans: plans.into_iter().enumerate().collect(),
        moment: load.moment(Vec::new(), 2).await.unwrap(),
        until: Until::Finished,
        running: JoinSet::new(),
        active: HashMap::new(),
        again: HashSet::new(),
    }
}

#[tokio::test]
async fn a_reload_of_a_table_that_has_just_ended_runs_to_its_end() {
    let world = Arc::new(World::default());
    let load = load(&world, "TRUNCATE_BEFORE_LOAD");
    let mut loading = loading(&load).await;
    loading.start(0).await.unwrap();
    // It has ended, and nobody has been told yet.
    while load.progress.get(0).state != TableState::Completed {
        tokio::task::yield_now().await;
    }
    let (_reload, mut reloads) = mpsc::unbounded_channel();
    let mut waiting = VecDeque::new();
    loading.reload(vec![load.progress.get(0).name], &mut waiting);
    loading.all(waiting, 2, &mut reloads).await.unwrap();
    let table = load.progress.get(0);
    assert_eq!((table.state, table.rows, table.reloaded), (TableState::Completed, ROWS as u64, true));
    assert_eq!(world.rows.lock().unwrap()[&table.name], ROWS as u64);
}

#[tokio::test]
async fn a_reload_asked_for_at_the_last_moment_is_done_and_a_later_one_refused() {
    let world = Arc::new(World::default());
    let load = load(&world, "TRUNCATE_BEFORE_LOAD");
    let (reload, mut reloads) = mpsc::unbounded_channel();
    reload.send(vec![name("t")]).unwrap();
    loading(&load).await.all(VecDeque::new(), 2, &mut reloads).await.unwrap();
    assert_eq!(world.rows.lock().unwrap().get(&name("t")), Some(&(ROWS as u64)));
    assert!(reload.send(vec![name("t")]).is_err());
}

#[tokio::test]
async fn do_nothing_keeps_what_was_there_and_nothing_of_an_interrupted_load() {
    let world = Arc::new(World::default());
    let load = load(&world, "DO_NOTHING");
    world.breaks.store(2, Ordering::SeqCst);
    assert_eq!(go(&load).await.unwrap_err().kind, ErrorKind::Recoverable);
    assert!(world.rows.lock().unwrap().values().any(|rows| *rows > 0));
    world.breaks.store(0, Ordering::SeqCst);
    go(&load).await.unwrap();
    assert_eq!(*world.rows.lock().unwrap(), HashMap::from(["T", "t"].map(|table| (name(table), ROWS as u64))));
    // What the task has completed is the user's from then on.
    load.progress.set(Vec::new());
    go(&load).await.unwrap();
    assert_eq!(world.rows.lock().unwrap()[&name("t")], 2 * ROWS as u64);
}

/// Whoever loads the table again would take the row for the user's.
#[tokio::test]
async fn do_nothing_writes_no_row_before_it_is_kept_that_there_was_none() {
    let world = Arc::new(World::default());
    let load = load(&world, "DO_NOTHING");
    let mut orders = no_orders();
    let going = load.go(&mut orders, async || {});
    tokio::pin!(going);
    for _ in 0..100 {
        assert!(futures_util::poll!(going.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(load.progress.all().iter().all(|table| table.target_was_empty));
    assert!(world.rows.lock().unwrap().values().all(|rows| *rows == 0));
    load.progress.keep(load.progress.take_news());
    going.await.unwrap();
    assert!(world.rows.lock().unwrap().values().all(|rows| *rows == ROWS as u64));
}

#[tokio::test]
async fn do_nothing_needs_no_right_to_read_the_target() {
    let world = Arc::new(World { blind: true, ..World::default() });
    let load = load(&world, "DO_NOTHING");
    go(&load).await.unwrap();
    assert!(load.progress.all().iter().all(|table| table.state == TableState::Completed));
}

#[tokio::test]
async fn two_tables_that_are_one_to_the_target_are_refused() {
    let world = Arc::new(World { folds: true, ..World::default() });
    let error = load(&world, "DROP_AND_CREATE").plan().await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Fatal, "tables s.T and s.t would both become s.t on the target")
    );
    assert!(load(&Arc::new(World::default()), "DROP_AND_CREATE").plan().await.is_ok());
}

#[tokio::test]
async fn every_cut_value_of_a_batch_counts_towards_the_escalation() {
    // With rows that were refused before, and now.
    let cases =
        [(2, 0, 0, false), (3, 0, 0, true), (100, 0, 0, true), (1, 1, 0, false), (2, 1, 0, true), (1, 1, 1, true)];
    for (values, before, now, suspends) in cases {
        let world = Arc::new(World::default());
        let load = load_with(&world, serde_json::json!({ "ErrorBehavior": { "DataErrorEscalationCount": 3 } }));
        let loading = loading(&load).await;
        let mut account =
            TableAccount { load: &load, index: 0, plan: &loading.plans[&0], truncated: 0, suspended: false };
        let mut batch = Batch::new();
        load.progress.update(0, |table| table.rejected = before);
        batch.add_truncated(values);
        let outcome = account.wrote(&batch, without(now)).await;
        assert_eq!(outcome.map_err(|error| error.kind), if suspends { Err(ErrorKind::Table) } else { Ok(()) });
    }
    // And rows that are refused after values were cut.
    for (truncated, suspends) in [(1, false), (2, true)] {
        let world = Arc::new(World::default());
        let load = load_with(&world, serde_json::json!({ "ErrorBehavior": { "DataErrorEscalationCount": 3 } }));
        let loading = loading(&load).await;
        let mut account = TableAccount { load: &load, index: 0, plan: &loading.plans[&0], truncated, suspended: false };
        let outcome = account.wrote(&Batch::new(), without(1)).await;
        assert_eq!(outcome.map_err(|error| error.kind), if suspends { Err(ErrorKind::Table) } else { Ok(()) });
    }
}

/// So many rows were refused.
fn without(rows: usize) -> Written {
    let refused = || Rejected { error: Error::new(ErrorKind::Data, "refused"), statement: String::new() };
    Written { rows: 0, rejected: std::iter::repeat_with(refused).take(rows).collect() }
}

#[tokio::test]
async fn a_table_that_a_row_suspends_does_not_stop_the_task() {
    let world = Arc::new(World { cuts: true, ..World::default() });
    let policies = serde_json::json!({ "DataTruncationErrorPolicy": "SUSPEND_TABLE", "TableErrorPolicy": "STOP_TASK" });
    let load = load_with(&world, serde_json::json!({ "ErrorBehavior": policies }));
    load.go(&mut no_orders(), async || {}).await.unwrap();
    assert!(load.progress.all().iter().all(|table| table.state == TableState::Error));
}

#[tokio::test]
async fn a_table_whose_bad_rows_cannot_be_recorded_is_suspended_alone() {
    for (refuses, outcome) in
        [(ErrorKind::Table, Ok(())), (ErrorKind::Fatal, Ok(())), (ErrorKind::Recoverable, Err(ErrorKind::Recoverable))]
    {
        let world = Arc::new(World { refuses: Some(refuses), ..World::default() });
        let load = load_with(&world, serde_json::json!({}));
        let ended = load.go(&mut no_orders(), async || {}).await.map(drop).map_err(|error| error.kind);
        assert_eq!(ended, outcome, "{refuses:?}");
        let suspended = load.progress.all().iter().all(|table| table.state == TableState::Error);
        assert_eq!(suspended, outcome.is_ok(), "{refuses:?}");
    }
}

#[tokio::test]
async fn a_table_that_is_named_and_not_there_is_told_and_does_not_stop_the_task() {
    let world = Arc::new(World { explicit: true, ..World::default() });
    let load = load_with(&world, serde_json::json!({}));
    load.go(&mut no_orders(), async || {}).await.unwrap();
    let states: Vec<_> = load.progress.all().into_iter().map(|table| (table.name.table, table.state)).collect();
    let completed = ["T", "t"].map(|table| (table.to_owned(), TableState::Completed));
    assert_eq!(states, [completed.to_vec(), vec![("gone".to_owned(), TableState::DoesNotExist)]].concat());
}
