//! Changes as statements of their own, a row each, with the values in them: for a few rows, and to be read.

use super::super::columns::FoundColumn;
use super::super::load_data::{Chunk, fields, literal, shown_list, shown_value};
use super::super::{quote_name, quote_text};
use super::rows::{Field, key_fields, new_fields, values};
use super::table::{Table, TargetColumn};
use crate::connector::{ChangeSet, Key, RowChange};
use crate::data::{Op, Result, Value};

/// A row's values as bytes: of its key, then of the columns that are written.
struct Encoded {
    key: Vec<Option<Vec<u8>>>,
    written: Vec<Option<Vec<u8>>>,
    /// Warnings that the values cause and that mean no loss.
    odd: u64,
}

fn encoded(
    set: &ChangeSet<'_>,
    table: &Table,
    key: &[usize],
    written: &[usize],
    row: &RowChange<'_>,
) -> Result<Encoded> {
    let places: Vec<Field> = [key_fields(set, key), new_fields(set, written)].concat();
    let rules: Vec<_> = key.iter().chain(written).map(|column| table.columns[*column].load.rule).collect();
    let mut chunk = Chunk::default();
    chunk.push(values(row, &places), &rules).map_err(|unfit| unfit.error)?;
    let odd = chunk.expected_warnings(0..1);
    let mut key_values = if places.is_empty() { Vec::new() } else { fields(chunk.text(0..1)) };
    let written = key_values.split_off(key.len());
    Ok(Encoded { key: key_values, written, odd })
}

/// The statements that change one row, where its key can be said exactly in a literal. The first of them that tells a
/// row affected has done it.
pub(super) fn statements(
    set: &ChangeSet<'_>,
    table: &Table,
    key: &[usize],
    written: &[usize],
    row: &RowChange<'_>,
) -> Result<Option<Vec<String>>> {
    let encoded = encoded(set, table, key, written, row)?;
    let any = matches!(set.key, Key::Any(_));
    let conditions = key.iter().zip(&encoded.key).map(|(column, value)| {
        let column = &table.columns[*column];
        equals(column, value.as_deref(), any)
    });
    let Some(conditions) = conditions.collect::<Option<Vec<String>>>() else { return Ok(None) };
    if encoded.odd > 0 || conditions.is_empty() {
        return Ok(None);
    }
    let (name, found) = (table.quoted(), conditions.join(" AND "));
    let value = |(column, value): (&usize, &Option<Vec<u8>>)| table.columns[*column].load.value(value.as_deref());
    let values: Vec<String> = written.iter().zip(&encoded.written).map(value).collect();
    let one = if any { " LIMIT 1" } else { "" };
    let update = || {
        let names = written.iter().map(|column| &table.columns[*column].name);
        let sets = names.zip(&values).map(|(name, value)| format!("{name}={value}")).collect();
        format!("UPDATE {name} SET {} WHERE {found}{one}", with_kept(table, key, written, sets, "").join(","))
    };
    Ok(Some(match set.op {
        Op::Delete => vec![format!("DELETE FROM {name} WHERE {found}{one}")],
        Op::Update => vec![update()],
        Op::Insert => {
            let names: Vec<&str> = written.iter().map(|column| table.columns[*column].name.as_str()).collect();
            let insert = format!(
                "INSERT INTO {name} ({}) SELECT {} FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {name} WHERE {found})",
                names.join(","),
                values.join(",")
            );
            vec![update(), insert]
        }
    }))
}

/// An UPDATE of one of the rows that meet a condition, and the warnings that it will cause and that mean no loss.
pub(super) fn update_one(
    set: &ChangeSet<'_>,
    table: &Table,
    key: &[usize],
    written: &[usize],
    row: &RowChange<'_>,
    found: &str,
) -> Result<(String, u64)> {
    let encoded = encoded(set, table, &[], written, row)?;
    let set = |(column, value): (&usize, &Option<Vec<u8>>)| {
        let column = &table.columns[*column];
        format!("{}={}", column.name, column.load.value(value.as_deref()))
    };
    let sets = written.iter().zip(&encoded.written).map(set).collect();
    let sets = with_kept(table, key, written, sets, "").join(",");
    // ENUM's error value is refused by the strict mode although the source has it.
    let verb = if encoded.odd > 0 { "UPDATE IGNORE" } else { "UPDATE" };
    Ok((format!("{verb} {} SET {sets} WHERE {found} LIMIT 1", table.quoted()), encoded.odd))
}

/// What an UPDATE sets: also columns that the server would set otherwise, and something at least. `of` stands before the
/// names of the table's columns.
pub(super) fn with_kept(
    table: &Table,
    key: &[usize],
    written: &[usize],
    mut sets: Vec<String>,
    of: &str,
) -> Vec<String> {
    let kept = table.on_update.iter().filter(|(column, _)| !written.contains(column));
    sets.extend(kept.map(|(_, name)| format!("{of}{name}={of}{name}")));
    // A table of nothing but its key: the row must be there all the same.
    if sets.is_empty()
        && let Some(first) = key.first()
    {
        let name = &table.columns[*first].name;
        sets.push(format!("{of}{name}={of}{name}"));
    }
    sets
}

/// The condition that a column has exactly this value, if the server compares the two as it would two values of the
/// column. `any`: NULL is a value, and no collation is trusted.
fn equals(column: &TargetColumn, value: Option<&[u8]>, any: bool) -> Option<String> {
    let name = &column.name;
    // Of dates that cannot be null, IS NULL finds the zero date.
    let Some(bytes) = value else { return any.then(|| format!("{name} <=> NULL")) };
    let found = &column.found;
    Some(match found.base.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" if is_number(bytes, 0) => {
            format!("{name}={}", ascii(bytes)?)
        }
        "decimal" if is_number(bytes, found.scale?.into()) => format!("{name}={}", ascii(bytes)?),
        "date" if is_time(bytes, 0) => format!("{name}='{}'", ascii(bytes)?),
        "datetime" | "timestamp" if is_time(bytes, found.scale?.into()) => format!("{name}='{}'", ascii(bytes)?),
        "varbinary" => format!("{name}={}", literal(bytes)),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" if is_unicode(found) => {
            // A CHAR has lost the spaces at its end.
            let text = std::str::from_utf8(bytes).ok()?;
            let text = if found.base == "char" { text.trim_end_matches(' ') } else { text };
            match any || column.blurs {
                true => format!("{name}={} AND CAST({name} AS BINARY)={}", quote_text(text), literal(text.as_bytes())),
                false => format!("{name}={}", quote_text(text)),
            }
        }
        _ => return None,
    })
}

fn is_unicode(found: &FoundColumn) -> bool {
    matches!(found.charset.as_deref(), Some("utf8mb4" | "utf8mb3" | "utf8"))
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A number in plain notation with at most so many digits after the point, as many as MySQL keeps exactly.
fn is_number(bytes: &[u8], fraction_max: usize) -> bool {
    const DIGITS_MAX: usize = 65;
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let (whole, fraction) = match memchr::memchr(b'.', digits) {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    let all_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    !whole.is_empty()
        && digits.len() <= DIGITS_MAX
        && fraction.len() <= fraction_max
        && all_digits(whole)
        && all_digits(fraction)
}

/// A date or a moment with at most so many digits of fractional seconds.
fn is_time(bytes: &[u8], fraction_max: usize) -> bool {
    let fraction = memchr::memchr(b'.', bytes).map_or(0, |point| bytes.len() - point - 1);
    fraction <= fraction_max && bytes.iter().all(|byte| byte.is_ascii_digit() || b"-: .".contains(byte))
}

/// The statement of a set's first row, with its values, for the control table.
pub(super) fn shown(set: &ChangeSet<'_>, table: &str) -> String {
    let Some(row) = set.rows.first() else { return String::new() };
    let name = |column: &usize| quote_name(&set.table.columns[*column].name);
    let (Key::Unique(key) | Key::Any(key)) = set.key;
    let is_there = |column: &usize| row.new.as_ref().is_some_and(|new| new.get(set.columns[*column]) != Value::Absent);
    let written: Vec<usize> = (0..set.table.columns.len()).filter(is_there).collect();
    let new = shown_values(row, &new_fields(set, &written));
    let pairs = |columns: &[usize], values: Vec<String>, null: &str| -> Vec<String> {
        let pair = |(column, value): (&usize, String)| match value.as_str() {
            "NULL" => format!("{}{null}NULL", name(column)),
            _ => format!("{}={value}", name(column)),
        };
        columns.iter().zip(values).map(pair).collect()
    };
    let found = || {
        let values = shown_values(row, &key_fields(set, key));
        shown_list(pairs(key, values, " IS ").into_iter(), " AND ")
    };
    match set.op {
        Op::Insert => {
            let names: Vec<String> = written.iter().map(name).collect();
            format!("INSERT INTO {table}({}) VALUES ({})", names.join(","), shown_list(new.into_iter(), ", "))
        }
        Op::Update => {
            let sets = shown_list(pairs(&written, new, "=").into_iter(), ", ");
            format!("UPDATE {table} SET {sets} WHERE {}", found())
        }
        Op::Delete => format!("DELETE FROM {table} WHERE {}", found()),
    }
}

fn shown_values(row: &RowChange<'_>, places: &[Field]) -> Vec<String> {
    if places.is_empty() {
        return Vec::new();
    }
    let mut chunk = Chunk::default();
    let rules = vec![Default::default(); places.len()];
    let line = match chunk.push(values(row, places), &rules) {
        Ok(()) => chunk.text(0..1).to_vec(),
        Err(unfit) => unfit.line,
    };
    fields(&line).iter().map(|field| shown_value(field.as_deref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_a_literal_says_exactly() {
        for (text, fraction, expected) in [
            ("0", 0, true),
            ("-12", 0, true),
            ("1.50", 2, true),
            ("1.505", 2, false),
            ("1.5", 0, false),
            ("1e5", 2, false),
            ("NaN", 2, false),
            ("", 2, false),
            ("-", 2, false),
            (".5", 2, false),
        ] {
            assert_eq!(is_number(text.as_bytes(), fraction), expected, "{text}");
        }
        assert!(is_time(b"2024-02-29 01:02:03.123", 3) && !is_time(b"2024-02-29 01:02:03.123", 0));
        assert!(!is_time(b"infinity", 6));
    }
}
