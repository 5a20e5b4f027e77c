//! Changes that wait for their turn on the target, folded so that of each row there is at most one.
//!
//! Within one transaction of the target only what it leaves behind shows, so changes of different rows may be applied in
//! any order, and of one row the last state will do. What cannot be folded is said so: then what waits is applied first.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::data::{Op, Row, Value};

/// A row image in one of the pieces of the log that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub piece: u32,
    pub row: u32,
}

/// What is to become of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetChange {
    pub op: Op,
    pub old: Option<Image>,
    pub new: Option<Image>,
}

/// The changes of one table, in the order in which their rows were first met.
#[derive(Debug, Default)]
pub struct NetChanges {
    changes: Vec<NetChange>,
    /// Where the change of a key is, by the key's hash: the keys themselves are in the rows.
    by_key: HashTable<(u64, u32)>,
    hashes: RandomState,
    key: Vec<u8>,
    other_key: Vec<u8>,
}

/// A change does not go together with those that wait.
#[derive(Debug, PartialEq, Eq)]
pub struct ApplyFirst;

impl NetChanges {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn of(&self, op: Op) -> impl Iterator<Item = &NetChange> {
        self.changes.iter().filter(move |change| change.op == op)
    }

    pub fn clear(&mut self) {
        self.changes.clear();
        self.by_key.clear();
    }

    /// Adds an INSERT into a table whose rows nothing tells apart.
    pub fn add_insert(&mut self, new: Image) {
        self.changes.push(NetChange { op: Op::Insert, old: None, new: Some(new) });
    }

    /// Adds a change that does not touch the row's key, which is the columns `key` of the rows that `row` gives.
    /// `whole` tells that the new image, if there is one, lacks no value.
    pub fn add<'a>(
        &mut self,
        change: NetChange,
        row: impl Fn(Image) -> Row<'a>,
        key: &[usize],
        whole: bool,
    ) -> Result<(), ApplyFirst> {
        let key_of = |change: &NetChange, into: &mut Vec<u8>| {
            into.clear();
            if let Some(image) = change.old.or(change.new) {
                let row = row(image);
                key.iter().for_each(|column| write_key(row.get(*column), into));
            }
        };
        key_of(&change, &mut self.key);
        let hash = self.hashes.hash_one(&self.key);
        let is_same = |(other, place): &(u64, u32)| {
            *other == hash && {
                key_of(&self.changes[*place as usize], &mut self.other_key);
                self.other_key == self.key
            }
        };
        let Some((_, place)) = self.by_key.find(hash, is_same) else {
            self.by_key.insert_unique(hash, (hash, self.changes.len() as u32), |(hash, _)| *hash);
            self.changes.push(change);
            return Ok(());
        };
        let waiting = &mut self.changes[*place as usize];
        *waiting = match (waiting.op, change.op) {
            (Op::Insert, Op::Update) if whole => NetChange { new: change.new, ..*waiting },
            (Op::Update, Op::Update) if whole => NetChange { new: change.new, ..*waiting },
            (Op::Update, Op::Delete) => change,
            // A row that came and went, or went and came, could meet another one of its key on the target.
            _ => return Err(ApplyFirst),
        };
        Ok(())
    }
}

/// Appends a value so that two keys are alike exactly when their values are.
fn write_key(value: Value<'_>, into: &mut Vec<u8>) {
    let (kind, number): (u8, u64) = match value {
        Value::Absent => (0, 0),
        Value::Null => (1, 0),
        Value::Bool(v) => (2, v.into()),
        Value::Int(v) => (3, v as u64),
        Value::UInt(v) => (4, v),
        Value::Real(v) => (5, v.to_bits()),
        Value::Date(v) => (6, v as u64),
        Value::Time(v) => (7, v as u64),
        Value::DateTime(v) => (8, v as u64),
        Value::Numeric(v) => return write_bytes(9, v, into),
        Value::String(v) => return write_bytes(10, v, into),
        Value::Bytes(v) => return write_bytes(11, v, into),
    };
    into.push(kind);
    into.extend_from_slice(&number.to_ne_bytes());
}

fn write_bytes(kind: u8, bytes: &[u8], into: &mut Vec<u8>) {
    into.push(kind);
    into.extend_from_slice(&bytes.len().to_ne_bytes());
    into.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Batch, Format};

    fn image(row: u32) -> Option<Image> {
        Some(Image { piece: 0, row })
    }

    /// Rows of a key and a value.
    fn batch(rows: &[(i64, Value<'_>)]) -> Batch {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        for (key, value) in rows {
            batch.push(Value::Int(*key));
            batch.push(*value);
            batch.end_row();
        }
        batch
    }

    fn add(net: &mut NetChanges, batch: &Batch, op: Op, row: u32) -> Result<(), ApplyFirst> {
        let change = match op {
            Op::Delete => NetChange { op, old: image(row), new: None },
            Op::Insert | Op::Update => NetChange { op, old: None, new: image(row) },
        };
        let whole = batch.row(row as usize).get(1) != Value::Absent;
        net.add(change, |image| batch.row(image.row as usize), &[0], whole)
    }

    #[test]
    fn of_each_row_the_last_state_remains() {
        let rows =
            batch(&[(1, Value::Int(0)), (1, Value::Int(1)), (2, Value::Int(2)), (2, Value::Int(3)), (3, Value::Null)]);
        let mut net = NetChanges::default();
        for (op, row) in
            [(Op::Insert, 0), (Op::Update, 1), (Op::Update, 2), (Op::Update, 3), (Op::Update, 4), (Op::Delete, 4)]
        {
            add(&mut net, &rows, op, row).unwrap();
        }
        let all = |op| net.of(op).copied().collect::<Vec<_>>();
        assert_eq!(all(Op::Insert), [NetChange { op: Op::Insert, old: None, new: image(1) }]);
        assert_eq!(all(Op::Update), [NetChange { op: Op::Update, old: None, new: image(3) }]);
        assert_eq!(all(Op::Delete), [NetChange { op: Op::Delete, old: image(4), new: None }]);
        net.clear();
        assert!(net.is_empty());
        add(&mut net, &rows, Op::Insert, 0).unwrap();
    }

    #[test]
    fn what_cannot_be_folded_waits_for_the_rest() {
        let rows = batch(&[(1, Value::Int(0)), (1, Value::Absent)]);
        for (first, second, row) in [
            (Op::Insert, Op::Insert, 0),
            (Op::Insert, Op::Delete, 0),
            (Op::Delete, Op::Insert, 0),
            (Op::Delete, Op::Delete, 0),
            (Op::Delete, Op::Update, 0),
            (Op::Insert, Op::Update, 1),
            (Op::Update, Op::Update, 1),
            (Op::Update, Op::Insert, 0),
        ] {
            let mut net = NetChanges::default();
            add(&mut net, &rows, first, 0).unwrap();
            assert_eq!(add(&mut net, &rows, second, row), Err(ApplyFirst), "{first:?} {second:?}");
            assert_eq!(net.changes.len(), 1);
        }
    }

    #[test]
    fn keys_that_differ_in_anything_are_apart() {
        let keys: Vec<Vec<Value<'_>>> = vec![
            vec![Value::String(b"a"), Value::String(b"b")],
            vec![Value::String(b"ab"), Value::String(b"")],
            vec![Value::String(b"a"), Value::Bytes(b"b")],
            vec![Value::Null, Value::String(b"b")],
            vec![Value::Int(1), Value::Null],
            vec![Value::UInt(1), Value::Null],
        ];
        let written: std::collections::HashSet<Vec<u8>> = keys
            .iter()
            .map(|key| {
                let mut bytes = Vec::new();
                key.iter().for_each(|value| write_key(*value, &mut bytes));
                bytes
            })
            .collect();
        assert_eq!(written.len(), keys.len());
    }
}
