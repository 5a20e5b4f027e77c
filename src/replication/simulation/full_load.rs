//! Tasks of a full load alone, of rows some of which the target refuses for good.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::source::{Database, Table};
use super::target::{Stored, is_bad};
use super::{Kept, Row, Task, Then, World, of_seeds, schema};
use crate::connector::StartPoint;
use crate::data::TableName;
use crate::replication::{Migration, Outcome, StopReason, TableProgress, TableState};

const SEEDS: u64 = 1000;

const FINISHED: Option<Outcome> = Some(Outcome::Stopped(StopReason::FullLoadOnlyFinished));

fn source(random: &mut StdRng) -> Database {
    let count = random.random_range(1..8);
    let table = |number| {
        let rows: i64 = random.random_range(0..400);
        let rows = (0..rows).map(|row| [row, 0, 0, 0]).collect();
        Table { rows, ..Table::new(schema(&format!("t{number}"), &[], &[]), &[]) }
    };
    Database { tables: (0..count).map(table).collect(), ..Database::default() }
}

async fn simulate(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mode = ["DROP_AND_CREATE", "TRUNCATE_BEFORE_LOAD", "DO_NOTHING"][random.random_range(0..3)];
    let name = format!("full load, seed {seed}, {mode}");
    let source = source(&mut random);
    let target = Stored { refuses_bad_rows: true, ..Stored::default() };
    let world = World::new(name.clone(), source, target, &mut random);
    let settings = serde_json::json!({ "FullLoadSettings": { "TargetTablePrepMode": mode, "MaxFullLoadSubTasks": 4 } });
    let mut task = Task {
        world: world.clone(),
        migration: Migration::FullLoad,
        settings,
        start: StartPoint::Now,
        spool: std::path::PathBuf::new(),
        is_reloaded: false,
        kept: Kept::default(),
        random,
    };
    for _ in 0..task.random.random_range(0..12) {
        if task.live(|_| Then::GoOn).await == FINISHED {
            break;
        }
    }
    world.end_faults();
    assert_eq!(task.live(|_| Then::GoOn).await, FINISHED, "{name}");
    world.end();
    check(&world, &task.kept);
}

fn check(world: &World, kept: &Kept) {
    let told: HashMap<&TableName, &TableProgress> = kept.tables.iter().map(|table| (&table.name, table)).collect();
    let (source, target) = (world.source.lock(), world.target.lock());
    for Table { version, rows } in &source.tables {
        let (name, told) = (&version.schema.name, told[&version.schema.name]);
        let good: Vec<Row> = rows.iter().filter(|row| !is_bad(row)).copied().collect();
        let found: Vec<(Row, u64)> = target.rows(name).into_iter().collect();
        let expected: Vec<(Row, u64)> = good.iter().map(|row| (*row, 1)).collect();
        assert_eq!(found, expected, "{}, {name}", world.name);
        assert_eq!(told.state, TableState::Completed, "{}, {name}", world.name);
        let refused = rows.len() - good.len();
        assert_eq!((told.rows, told.rejected), (good.len() as u64, refused as u64), "{}, {name}", world.name);
        assert!(target.load(name).is_none_or(|load| load.waiting_max <= 3), "{}: batches pile up", world.name);
    }
}

#[tokio::test(start_paused = true)]
async fn every_row_arrives_once_whatever_fails() {
    of_seeds(SEEDS, simulate).await;
}
