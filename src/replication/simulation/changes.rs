//! Tasks that follow a source on which transactions go on. Whatever happens, both sides are equal in the end, also tables
//! whose rows nothing tells apart, the statistics are exact at every checkpoint, and the source keeps its log as long as
//! it may be needed.

use std::collections::HashMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::source::place_of;
use super::target::{Stored, Table};
use super::{Kept, Task, Then, World, of_seeds, workload};
use crate::connector::StartPoint;
use crate::data::{Position, TableName};
use crate::replication::{Counts, Migration, Outcome, StopReason, TableState};

const SEEDS: u64 = 600;

fn settings(random: &mut StdRng) -> Json {
    let mut of = |choices: &[u64]| choices[random.random_range(0..choices.len())];
    let mode = ["DROP_AND_CREATE", "TRUNCATE_BEFORE_LOAD", "DO_NOTHING"][of(&[0, 1, 2]) as usize];
    json!({
        "FullLoadSettings": { "TargetTablePrepMode": mode, "MaxFullLoadSubTasks": 4 },
        "TargetMetadata": { "BatchApplyEnabled": of(&[0, 1]) == 1, "TaskRecoveryTableEnabled": of(&[0, 1]) == 1 },
        "ChangeProcessingTuning": {
            "CommitTimeout": of(&[0, 1, 5]),
            "MinTransactionSize": of(&[0, 1, 10, 1000]),
            "BatchApplyTimeoutMin": of(&[0, 1, 5]),
            "BatchApplyTimeoutMax": of(&[0, 1, 30]),
            "BatchSplitSize": of(&[0, 0, 1, 20]),
            // With none, all but one piece of the log that waits is on disk.
            "MemoryLimitTotal": of(&[0, 0, 1024]),
        },
        "ErrorBehavior": {
            "RecoverableErrorInterval": 1,
            "RecoverableErrorThrottling": false,
            "RecoverableErrorCount": -1,
            "FullLoadIgnoreConflicts": of(&[0, 1]) == 1,
        },
    })
}

async fn simulate(seed: u64, folder: &Path) {
    let mut random = StdRng::seed_from_u64(seed);
    let migration = if random.random_ratio(2, 3) { Migration::FullLoadAndCdc } else { Migration::Cdc };
    let settings = settings(&mut random);
    let name = format!("seed {seed}, {}, {settings}", migration.as_str());
    let forbidden_schema = random.random_ratio(1, 4).then_some("awsdms_control");
    let source = workload::database(&mut random);
    let target = Stored { forbidden_schema, ..Stored::default() };
    let world = World::new(name.clone(), source, target, &mut random);
    let start = match migration == Migration::Cdc && random.random_ratio(1, 2) {
        true => StartPoint::At(Position::Lsn(world.fill_target())),
        false => StartPoint::Now,
    };
    let transactions = random.random_range(0..120);
    let work = tokio::spawn(workload::work(world.clone(), StdRng::from_rng(&mut random), transactions));
    // With DO_NOTHING it is for the user to empty the tables before.
    let is_reloaded = settings["FullLoadSettings"]["TargetTablePrepMode"] != "DO_NOTHING" && random.random_ratio(1, 2);
    let mut task = Task {
        world: world.clone(),
        migration,
        settings,
        start,
        spool: folder.join(format!("{seed}.swap")),
        is_reloaded,
        kept: Kept::default(),
        random,
    };
    let mut told = Told::default();
    for _ in 0..task.random.random_range(0..10) {
        task.live(|kept| told.check(&world, kept)).await;
    }
    world.end_faults();
    work.await.unwrap();
    let end = world.source.lock().log.last().map_or(0, |transaction| transaction.end);
    let outcome = task
        .live(|kept| {
            told.check(&world, kept);
            let is_there = kept.checkpoint.as_ref().is_some_and(|checkpoint| place_of(checkpoint) >= end);
            let waits = kept.tables.iter().any(|table| table.state != TableState::Completed);
            if is_there && !waits { Then::Stop } else { Then::GoOn }
        })
        .await;
    assert_eq!(outcome, Some(Outcome::Stopped(StopReason::Normal)), "{name}");
    world.end();
    check(&world, &task.kept, &told);
}

fn check(world: &World, kept: &Kept, told: &Told) {
    let (source, target) = (world.source.lock(), world.target.lock());
    assert_eq!(kept.tables.len(), source.tables.len(), "{}", world.name);
    for table in &kept.tables {
        let from = &source.tables[source.number(&table.name)];
        let what = format!("{}, {}", world.name, table.name);
        assert_eq!(target.rows(&table.name), Table::of(&from.rows).rows, "{what}");
        assert_eq!(table.state, TableState::Completed, "{what}");
        let loaded = target.load(&table.name).map_or(0, |load| load.rows);
        assert_eq!((table.rows, table.rejected), (loaded, 0), "{what}");
        assert_eq!(table.captured, told.counts.get(&table.name).copied().unwrap_or_default(), "{what}");
    }
    assert!(target.exceptions.is_empty(), "{}: {:?}", world.name, target.exceptions);
}

/// What the statistics must be at the last checkpoint.
#[derive(Default)]
struct Told {
    checkpoint: Option<u64>,
    counts: HashMap<TableName, Counts>,
}

impl Told {
    /// Between two checkpoints a table has what committed there and after it was loaded.
    fn check(&mut self, world: &World, kept: &Kept) -> Then {
        let Some(checkpoint) = kept.checkpoint.as_ref().map(place_of) else { return Then::GoOn };
        let (source, target) = (world.source.lock(), world.target.lock());
        let before = self.checkpoint.unwrap_or(checkpoint);
        assert!(before <= checkpoint, "{}: the checkpoint goes back", world.name);
        for transaction in source.between(before, checkpoint) {
            for change in &transaction.changes {
                let name = source.tables[change.table].name();
                if target.loaded_at(name).is_some_and(|loaded_at| loaded_at < transaction.end) {
                    self.counts.entry(name.clone()).or_default().add(change.op, 1);
                }
            }
        }
        self.checkpoint = Some(checkpoint);
        for table in &kept.tables {
            let expected = self.counts.get(&table.name).copied().unwrap_or_default();
            let told = (table.in_log.captured, table.in_log.applied);
            assert_eq!(told, (expected, expected), "{}, {} at {checkpoint}", world.name, table.name);
        }
        Then::GoOn
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_are_equal_whatever_fails() {
    let folder = tempfile::tempdir().unwrap();
    of_seeds(SEEDS, async |seed| simulate(seed, folder.path()).await).await;
}
