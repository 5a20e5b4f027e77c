//! Rows of a set, sorted out: those of which the log has the same columns go together, in the order of their keys.

use super::table::Table;
use crate::connector::{ChangeSet, Key, RowChange};
use crate::data::{Op, Value};

/// Where a value is among a change's images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    image: Image,
    /// In the columns of the log.
    place: usize,
}

#[derive(Clone, Copy, Debug)]
enum Image {
    /// The one that has the row's key as the target has it.
    Found,
    New,
}

/// The values of a change, in the order of `fields`.
pub(super) fn values<'a>(row: &RowChange<'a>, fields: &[Field]) -> impl Iterator<Item = Value<'a>> {
    let (found, new) = (row.found_by(), row.new.as_ref());
    fields.iter().map(move |field| {
        let image = match field.image {
            Image::Found => found,
            Image::New => new,
        };
        image.map_or(Value::Absent, |image| image.get(field.place))
    })
}

/// The fields by which a row is found.
pub(super) fn key_fields(set: &ChangeSet<'_>, key: &[usize]) -> Vec<Field> {
    key.iter().map(|column| Field { image: Image::Found, place: set.columns[*column] }).collect()
}

/// The fields that are written.
pub(super) fn new_fields(set: &ChangeSet<'_>, written: &[usize]) -> Vec<Field> {
    written.iter().map(|column| Field { image: Image::New, place: set.columns[*column] }).collect()
}

/// Rows in which the same columns are written.
pub(super) struct Group<'a> {
    /// Columns of the set's table, in their order.
    pub(super) written: Vec<usize>,
    pub(super) rows: Vec<&'a RowChange<'a>>,
}

/// Most kinds of rows that are told apart by the columns they have: further kinds make groups of their own.
const GROUPS_SEARCHED: usize = 64;

/// The rows of a set by the columns that are written; of a unique key in its order, because the server is quicker with
/// rows that lie close to each other.
pub(super) fn groups<'a>(set: &ChangeSet<'a>, table: &Table) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut last = 0;
    let mut written = Vec::new();
    for row in set.rows {
        written_columns(set, table, row, &mut written);
        if groups.get(last).is_none_or(|group| group.written != written) {
            let known = groups.iter().take(GROUPS_SEARCHED).position(|group| group.written == written);
            last = known.unwrap_or(groups.len());
        }
        match groups.get_mut(last) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { written: written.clone(), rows: vec![row] }),
        }
    }
    if let Key::Unique(key) = set.key {
        let fields = key_fields(set, key);
        for group in &mut groups {
            group.rows.sort_by_cached_key(|row| place_in_order(row, &fields));
        }
    }
    groups
}

/// The columns of a row that the log has and the target takes, in `written`. Of an UPDATE the key is among them only
/// where it changes.
fn written_columns(set: &ChangeSet<'_>, table: &Table, row: &RowChange<'_>, written: &mut Vec<usize>) {
    written.clear();
    let Some(new) = row.new.as_ref().filter(|_| set.op != Op::Delete) else { return };
    let (Key::Unique(key) | Key::Any(key)) = set.key;
    let is_same = |column: usize| {
        let value = new.get(set.columns[column]);
        row.old.as_ref().is_none_or(|old| old.get(set.columns[column]) == value)
    };
    let key_stays = set.op == Op::Update && matches!(set.key, Key::Unique(_)) && key.iter().all(|at| is_same(*at));
    written.extend((0..set.table.columns.len()).filter(|column| {
        !table.is_generated(*column)
            && new.get(set.columns[*column]) != Value::Absent
            && !(key_stays && key.contains(column))
    }));
}

/// Numbers in whose order keys lie as the server has them, as far as that is easily told: by the first two columns, by
/// the first bytes of texts.
fn place_in_order(row: &RowChange<'_>, fields: &[Field]) -> (u64, u64) {
    let mut numbers = values(row, fields).take(2).map(number_of);
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

fn number_of(value: Value<'_>) -> u64 {
    const SIGN: u64 = 1 << 63;
    let signed = |number: i64| (number as u64) ^ SIGN;
    match value {
        Value::Absent | Value::Null => 0,
        Value::Bool(value) => value.into(),
        Value::Int(value) | Value::Time(value) | Value::DateTime(value) => signed(value),
        Value::UInt(value) => value,
        Value::Date(value) => signed(value.into()),
        Value::Real(value) => signed(value as i64),
        Value::Numeric(text) | Value::String(text) => whole_number(text).map_or_else(|| first_bytes(text), signed),
        Value::Bytes(bytes) => first_bytes(bytes),
    }
}

/// In the text form of a log numbers are text.
fn whole_number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    Some(if digits.len() < text.len() { -number } else { number })
}

fn first_bytes(text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = text.len().min(8);
    bytes[..len].copy_from_slice(&text[..len]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_in_their_order_in_every_form() {
        let ascending = [
            Value::Int(i64::MIN),
            Value::Int(-1),
            Value::String(b"0"),
            Value::Int(9),
            Value::String(b"10"),
            Value::Numeric(b"11"),
            Value::Int(i64::MAX),
        ];
        assert!(ascending.map(number_of).is_sorted());
        assert!([&b""[..], b"a", b"ab", b"b"].map(|text| number_of(Value::String(text))).is_sorted());
        assert_eq!(whole_number(b"-12"), Some(-12));
        for text in ["", "-", "1a", "1.0", "1234567890123456789"] {
            assert_eq!(whole_number(text.as_bytes()), None, "{text}");
        }
    }
}
