//! When what was read becomes durable on the target: its size, and the clock, which stands still unless a test moves it.

use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::json;
use tokio::time::{advance, sleep_until};

use super::*;
use crate::connector::{ChangeSet, CreateKey, PrepareMode, TableChange, Transaction, Writer};
use crate::data::{Column, DataType, Family, TableKind, TableSchema};

/// Counts the rows of each transaction that is committed, without those of the task itself.
#[derive(Default)]
struct Counting {
    commits: Arc<Mutex<Vec<usize>>>,
}

impl Counting {
    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.commits.lock().unwrap())
    }
}

#[async_trait]
impl Target for Counting {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn family(&self) -> Family {
        Family::PostgreSql
    }

    async fn places(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        Ok(names.to_vec())
    }

    async fn prepare(&self, _: &TableSchema, _: PrepareMode, _: CreateKey) -> Result<()> {
        Ok(())
    }

    async fn is_empty(&self, _: &TableSchema) -> Result<bool> {
        unreachable!("nothing is loaded")
    }

    async fn formats(&self, _: &TableSchema) -> Result<Vec<Format>> {
        unreachable!("nothing is loaded")
    }

    async fn writer(&self, _: &TableSchema, _: Format, _: usize) -> Result<Box<dyn Writer>> {
        unreachable!("nothing is loaded")
    }

    async fn finish(&self, _: &TableSchema, _: CreateKey) -> Result<()> {
        unreachable!("nothing is loaded")
    }

    async fn applier(&self, _: &str, _: Format, _: usize) -> Result<Box<dyn Applier>> {
        Ok(Box::new(CountingApplier { rows: 0, commits: self.commits.clone() }))
    }

    async fn record_exceptions(&self, _: &str, exceptions: &[ApplyException]) -> Result<()> {
        panic!("{exceptions:?}")
    }
}

struct CountingApplier {
    rows: usize,
    commits: Arc<Mutex<Vec<usize>>>,
}

#[async_trait]
impl Applier for CountingApplier {
    async fn begin(&mut self) -> Result<()> {
        self.rows = 0;
        Ok(())
    }

    async fn apply(&mut self, set: &ChangeSet<'_>) -> Result<u64> {
        if set.table.name.table == "t" {
            self.rows += set.rows.len();
        }
        Ok(set.rows.len() as u64)
    }

    fn statement(&self, _: &ChangeSet<'_>) -> String {
        unreachable!("nothing is refused")
    }

    async fn truncate(&mut self, _: &TableSchema) -> Result<Transaction> {
        unreachable!("nothing is emptied")
    }

    async fn change_table(&mut self, _: &TableChange<'_>) -> Result<Transaction> {
        unreachable!("nothing is defined")
    }

    async fn savepoint(&mut self) -> Result<()> {
        Ok(())
    }

    async fn back_to_savepoint(&mut self) -> Result<()> {
        unreachable!("nothing is refused")
    }

    async fn commit(&mut self) -> Result<()> {
        self.commits.lock().unwrap().push(self.rows);
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        unreachable!("nothing is taken back")
    }
}

/// A source of rows for one table.
#[derive(Default)]
struct Log {
    place: u64,
}

impl Log {
    /// A piece of the log with transactions of so many new rows each.
    fn piece(&mut self, transactions: &[usize]) -> Changes {
        let column = Column {
            name: "a".into(),
            data_type: DataType::Int8,
            native: "bigint".into(),
            nullable: false,
            generated: false,
        };
        let schema = TableSchema {
            name: TableName::new("public", "t"),
            kind: TableKind::Table,
            family: Family::PostgreSql,
            columns: vec![column],
            primary_key: vec![0],
            unique_key: Vec::new(),
            rows_estimate: 0,
        };
        let mut piece = Changes::default();
        piece.clear(Format::Text);
        piece.entries.push(Entry::Table { table: 0, version: Arc::new(TableVersion { schema, identity: vec![0] }) });
        for rows in transactions {
            for _ in 0..*rows {
                self.place += 1;
                let new = Some(piece.next_row());
                piece.rows.push(Value::String(self.place.to_string().as_bytes()));
                piece.rows.end_row();
                piece.entries.push(Entry::Row { table: 0, op: Op::Insert, old: None, new });
            }
            self.place += 1;
            let position = Position::Lsn(self.place);
            piece.entries.push(Entry::Commit { transaction: self.place, time: 0, position });
        }
        piece
    }
}

const MORE: bool = false;
const IDLE: bool = true;

async fn apply_of<'a>(rules: &'a Rules, target: &'a Counting) -> Apply<'a> {
    let known = HashMap::from([(TableName::new("public", "t"), Known::default())]);
    Apply::start(rules, target, Start { tables: known, ..Start::default() }).await.unwrap()
}

fn one_by_one(min_transaction_size: usize, commit_timeout: u64) -> Rules {
    rules(json!({ "ChangeProcessingTuning": {
        "MinTransactionSize": min_transaction_size, "CommitTimeout": commit_timeout
    }}))
}

fn in_batches(min: u64, max: u64) -> Rules {
    rules(json!({
        "TargetMetadata": { "BatchApplyEnabled": true },
        "ChangeProcessingTuning": { "BatchApplyTimeoutMin": min, "BatchApplyTimeoutMax": max },
    }))
}

/// Lets time pass, in seconds.
async fn pass(seconds: f64) {
    advance(Duration::from_secs_f64(seconds)).await;
}

/// Lets time pass until what waits is due, and makes it durable.
async fn at_due(apply: &mut Apply<'_>) -> f64 {
    let begun = Instant::now();
    sleep_until(apply.due().expect("something waits")).await;
    assert!(apply.at_due().await.unwrap().is_some());
    begun.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn transactions_are_joined_until_they_have_the_least_size() {
    let (rules, target, mut log) = (one_by_one(3, 1000), Counting::default(), Log::default());
    let mut apply = apply_of(&rules, &target).await;
    let (durable, _) = apply.take(log.piece(&[1, 1, 1, 2, 2, 5, 1]), IDLE).await.unwrap();
    assert_eq!(target.take(), [3, 4, 5, 1]);
    assert_eq!(durable.unwrap().position, Position::Lsn(log.place));
    // While more is there, ten times as many.
    for _ in 0..29 {
        assert_eq!(apply.take(log.piece(&[1]), MORE).await.unwrap(), (None, None));
    }
    assert!(target.take().is_empty());
    apply.take(log.piece(&[1, 1, 1]), MORE).await.unwrap();
    assert_eq!(target.take(), [30]);
    // One of the source stays one, whatever its size.
    apply.take(log.piece(&[100, 1]), MORE).await.unwrap();
    assert_eq!(target.take(), [102]);
    apply.take(log.piece(&[]), IDLE).await.unwrap();
    assert_eq!(target.take(), [1]);
}

#[tokio::test(start_paused = true)]
async fn transactions_are_joined_for_the_time_of_the_setting_at_most() {
    let (rules, target, mut log) = (one_by_one(1000, 5), Counting::default(), Log::default());
    let mut apply = apply_of(&rules, &target).await;
    assert_eq!(apply.due(), None);
    for _ in 0..5 {
        assert_eq!(apply.take(log.piece(&[2]), MORE).await.unwrap(), (None, None));
        pass(0.99).await;
    }
    assert!(target.take().is_empty());
    pass(0.06).await;
    apply.take(log.piece(&[1]), MORE).await.unwrap();
    assert_eq!(target.take(), [11]);
    assert_eq!(apply.due(), None);
    // Counted from the first that waits; at the end of that time it needs no other.
    pass(60.0).await;
    apply.take(log.piece(&[1]), MORE).await.unwrap();
    pass(2.0).await;
    apply.take(log.piece(&[1]), MORE).await.unwrap();
    assert!(target.take().is_empty());
    assert!((at_due(&mut apply).await - 3.0).abs() < 0.01);
    assert_eq!(target.take(), [2]);
}

#[tokio::test(start_paused = true)]
async fn batches_keep_the_least_time_between_them_and_no_more() {
    let (rules, target, mut log) = (in_batches(4, 30), Counting::default(), Log::default());
    let mut apply = apply_of(&rules, &target).await;
    pass(1.0).await;
    for idle in [IDLE, MORE, IDLE] {
        assert_eq!(apply.take(log.piece(&[1, 1]), idle).await.unwrap(), (None, None));
    }
    assert!((at_due(&mut apply).await - 3.0).abs() < 0.01);
    assert_eq!(target.take(), [6]);
    apply.take(log.piece(&[1]), IDLE).await.unwrap();
    assert!(target.take().is_empty());
    assert!((at_due(&mut apply).await - 4.0).abs() < 0.01);
    assert_eq!(target.take(), [1]);
    // The one before is long ago.
    pass(10.0).await;
    apply.take(log.piece(&[1]), IDLE).await.unwrap();
    assert_eq!(target.take(), [1]);
}

#[tokio::test(start_paused = true)]
async fn batches_are_never_longer_apart_than_the_most_time() {
    let (rules, target, mut log) = (in_batches(60, 5), Counting::default(), Log::default());
    let mut apply = apply_of(&rules, &target).await;
    for _ in 0..2 {
        pass(1.0).await;
        assert_eq!(apply.take(log.piece(&[1]), IDLE).await.unwrap(), (None, None));
        assert!((at_due(&mut apply).await - 4.0).abs() < 0.01);
        assert_eq!(target.take(), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_goes_in_batches_without_a_pause_between_them() {
    let (rules, target, mut log) = (in_batches(4, 30), Counting::default(), Log::default());
    let mut apply = apply_of(&rules, &target).await;
    const MANY: usize = 30_000;
    assert_eq!(apply.take(log.piece(&[MANY]), MORE).await.unwrap(), (None, None));
    // The target need not stand still until more is there.
    for (rows, batch) in [(1, MANY + 1), (MANY, MANY)] {
        assert!(apply.take(log.piece(&[rows]), IDLE).await.unwrap().0.is_some());
        assert_eq!(target.take(), [batch]);
    }
    apply.take(log.piece(&[1]), IDLE).await.unwrap();
    assert!((at_due(&mut apply).await - 0.1).abs() < 0.01);
    assert_eq!(target.take(), [1]);
    // That was its end.
    assert_eq!(apply.take(log.piece(&[MANY]), IDLE).await.unwrap(), (None, None));
    assert!((at_due(&mut apply).await - 4.0).abs() < 0.01);
    assert_eq!(target.take(), [MANY]);
}
