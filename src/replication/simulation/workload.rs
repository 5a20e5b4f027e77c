//! What goes on on a source: random transactions over tables of every kind, one after the other.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::source::{Change, Database, Table, Transaction};
use super::{Row, World, schema};
use crate::data::Op;

/// Keys are this few, so that rows meet.
const KEYS: i64 = 25;

/// What there is of tables.
struct Kind {
    name: &'static str,
    primary_key: &'static [usize],
    unique_key: &'static [usize],
    /// What the log has of an old row.
    identity: &'static [usize],
}

const KINDS: [Kind; 6] = [
    Kind { name: "keyed", primary_key: &[0], unique_key: &[], identity: &[0] },
    Kind { name: "pair", primary_key: &[1, 0], unique_key: &[], identity: &[1, 0] },
    Kind { name: "unique", primary_key: &[], unique_key: &[0], identity: &[0] },
    Kind { name: "whole", primary_key: &[0], unique_key: &[], identity: &[0, 1, 2, 3] },
    // Nothing tells its rows apart.
    Kind { name: "loose", primary_key: &[], unique_key: &[], identity: &[0, 1, 2, 3] },
    // Without old rows there are only new ones.
    Kind { name: "history", primary_key: &[], unique_key: &[], identity: &[] },
];

/// Some tables of every kind, with what some transactions have left in them.
pub fn database(random: &mut StdRng) -> Database {
    let mut source = Database::default();
    for Kind { name, primary_key, unique_key, identity } in KINDS {
        if source.tables.is_empty() || random.random_ratio(2, 3) {
            source.tables.push(Table::new(schema(name, primary_key, unique_key), identity));
        }
    }
    for _ in 0..random.random_range(0..20) {
        commit(&mut source, random, 0, Size::Any);
    }
    source
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Any,
    /// More than is held of what waits for a transaction to end.
    Huge,
}

/// Writes so many transactions in bursts.
pub async fn work(world: Arc<World>, mut random: StdRng, transactions: usize) {
    let huge = random.random_ratio(1, 10).then(|| random.random_range(0..transactions.max(1)));
    let began = Instant::now();
    for number in 0..transactions {
        let size = if huge == Some(number) { Size::Huge } else { Size::Any };
        commit(&mut world.source.lock(), &mut random, began.elapsed().as_micros() as i64, size);
        world.logged.notify_one();
        let pause_ms = if random.random_ratio(1, 8) { 8000 } else { 30 };
        sleep(Duration::from_millis(random.random_range(0..pause_ms))).await;
    }
}

fn commit(source: &mut Database, random: &mut StdRng, time: i64, size: Size) {
    let rows = match size {
        Size::Huge => 60,
        Size::Any if random.random_ratio(1, 30) => random.random_range(50..300),
        Size::Any => [1, 1, 2, 5, 20][random.random_range(0..5)],
    };
    let changes: Vec<Change> = (0..rows).map(|_| change(&mut source.tables, random)).collect();
    source.end += random.random_range(2..50);
    source.log.push(Transaction { end: source.end, time, is_wide: size == Size::Huge, changes });
    if random.random_ratio(1, 4) {
        // Others' transactions are in the log, too.
        source.end += random.random_range(1..50);
    }
}

fn change(tables: &mut [Table], random: &mut StdRng) -> Change {
    let number = random.random_range(0..tables.len());
    let Table { version, rows } = &mut tables[number];
    let key = version.schema.row_key();
    let row = row(random);
    let is_there = |rows: &[Row], row: &Row| rows.iter().position(|other| !key.is_empty() && is_alike(key, other, row));
    let found = match key.is_empty() {
        true if version.identity.is_empty() || rows.is_empty() || random.random_ratio(1, 2) => None,
        true => Some(random.random_range(0..rows.len())),
        false => is_there(rows, &row),
    };
    let Some(place) = found else {
        rows.push(row);
        return Change { table: number, op: Op::Insert, old: None, new: Some(row) };
    };
    let old = rows[place];
    if random.random_ratio(1, 3) {
        rows.swap_remove(place);
        return Change { table: number, op: Op::Delete, old: Some(old), new: None };
    }
    let mut new = old;
    new[2] = row[2];
    if random.random_ratio(1, 2) {
        new[3] = row[3];
    }
    if random.random_ratio(1, 5) {
        // Another key, where no row has it.
        let moved = [old[0] + KEYS * random.random_range(1..4), old[1], new[2], new[3]];
        new = if is_there(rows, &moved).is_none() { moved } else { new };
    }
    rows[place] = new;
    Change { table: number, op: Op::Update, old: Some(old), new: Some(new) }
}

fn row(random: &mut StdRng) -> Row {
    let key = random.random_range(0..KEYS);
    [key, key % 3, random.random_range(0..3), random.random_range(0..3)]
}

/// Whether two rows have the same values in some columns.
pub fn is_alike(columns: &[usize], one: &Row, other: &Row) -> bool {
    columns.iter().all(|column| one[*column] == other[*column])
}
