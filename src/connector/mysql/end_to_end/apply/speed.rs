//! How fast changes are applied, without a source: `cargo test --release speed -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

/// Rows in the table before, and those inserted and those updated in a run.
const ROWS: usize = 200_000;

fn row(batch: &mut Batch, id: usize, round: usize) {
    let text = |batch: &mut Batch, text: &str| batch.push(Value::String(text.as_bytes()));
    text(batch, &id.to_string());
    text(batch, &(id * 7 + round).to_string());
    text(batch, &format!("value {} of row {id}", id * 31 + round));
    text(batch, &format!("2024-02-{:02} 12:13:14.{:06}", id % 28 + 1, (id + round) % 1_000_000));
    text(batch, &format!("{}.{:02}", id % 1_000_000, round % 100));
    batch.end_row();
}

fn batch(ids: impl Iterator<Item = usize>, round: usize) -> Batch {
    let mut batch = Batch::new();
    batch.clear(Format::Text);
    ids.for_each(|id| row(&mut batch, id, round));
    batch
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run it in a release build, alone"]
async fn rows_a_second_by_the_size_of_a_set() {
    let pair = Pair::both("CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(60), c DATETIME(6), d DECIMAL(12,2))");
    let table = pair.target_table("t").await;
    let columns: Vec<usize> = (0..5).collect();
    let key = [0];
    for lob in ["", "ALTER TABLE t MODIFY b TEXT"] {
        for (size, sets) in [(1, 2000), (20, 2000), (1000, 200), (20_000, 10)] {
            pair.target_sql(&format!("TRUNCATE t; {lob}"));
            let mut applier = pair.begun(Format::Text).await;
            let fill = Rows { table: table.clone(), batch: batch((0..ROWS).map(|id| id * 2), 0) };
            fill.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
            applier.commit().await.unwrap();
            let half = size.max(2) / 2;
            let count = (sets * half).min(ROWS);
            // Far apart, as rows of many users are.
            let updated = (0..count).map(|at| at * 7919 % ROWS * 2);
            let (new, changed) = (batch((0..count).map(|at| at * 2 + 1), 1), batch(updated, 2));
            let images = |batch: &'static Batch| -> Vec<RowChange<'static>> {
                (0..batch.rows()).map(|at| RowChange { old: None, new: Some(batch.row(at)) }).collect()
            };
            let (new, changed) = (images(Box::leak(Box::new(new))), images(Box::leak(Box::new(changed))));
            let (mut inserts, mut updates) = (0.0, 0.0);
            for (new, changed) in new.chunks(half).zip(changed.chunks(half)) {
                applier.begin().await.unwrap();
                for (op, rows, time) in [(Op::Update, changed, &mut updates), (Op::Insert, new, &mut inserts)] {
                    let started = Instant::now();
                    let set = ChangeSet {
                        table: &table,
                        columns: &columns,
                        key: Key::Unique(&key),
                        op,
                        rows,
                        conflict: Conflict::Refuse,
                    };
                    assert_eq!(applier.apply(&set).await.unwrap(), rows.len() as u64);
                    *time += started.elapsed().as_secs_f64();
                }
                let started = Instant::now();
                applier.commit().await.unwrap();
                inserts += started.elapsed().as_secs_f64() / 2.0;
                updates += started.elapsed().as_secs_f64() / 2.0;
            }
            let rate = |rows: usize, time: f64| (rows as f64 / time) as u64;
            println!(
                "{size:6} changes a transaction{}: {:7} rows/s (inserts {:7}, updates {:7})",
                if lob.is_empty() { "" } else { ", TEXT" },
                rate(2 * count, inserts + updates),
                rate(count, inserts),
                rate(count, updates)
            );
        }
    }
}
