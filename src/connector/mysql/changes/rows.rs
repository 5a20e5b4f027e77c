//! Rows of the log: where their values are.

use super::compressed::inflate;
use super::cursor::Cursor;
use super::event::{Event, kind, malformed};
use super::field::{Field, Slot};
use crate::data::{Op, Result};

/// The part of an event of rows before the rows.
#[derive(Clone, Debug)]
pub(super) struct RowsHeader<'a> {
    pub(super) op: Op,
    pub(super) table: u64,
    /// A bit for each column: it is in the row before.
    pub(super) before: Option<&'a [u8]>,
    /// … in the row after.
    pub(super) after: Option<&'a [u8]>,
    /// Rows after may hold parts of a JSON document only.
    pub(super) partial: bool,
    pub(super) compressed: bool,
    pub(super) columns: usize,
    pub(super) rows: &'a [u8],
}

/// What kind of rows an event has: the operation, whether it is of the second version, and whether MariaDB has compressed
/// them. `None`: none.
fn kind_of(kind: u8) -> Option<(Op, bool, bool)> {
    use kind::*;
    Some(match kind {
        WRITE_ROWS_V1 => (Op::Insert, false, false),
        UPDATE_ROWS_V1 => (Op::Update, false, false),
        DELETE_ROWS_V1 => (Op::Delete, false, false),
        WRITE_ROWS => (Op::Insert, true, false),
        UPDATE_ROWS | PARTIAL_UPDATE_ROWS => (Op::Update, true, false),
        DELETE_ROWS => (Op::Delete, true, false),
        WRITE_ROWS_COMPRESSED_V1 => (Op::Insert, false, true),
        UPDATE_ROWS_COMPRESSED_V1 => (Op::Update, false, true),
        DELETE_ROWS_COMPRESSED_V1 => (Op::Delete, false, true),
        WRITE_ROWS_COMPRESSED => (Op::Insert, true, true),
        UPDATE_ROWS_COMPRESSED => (Op::Update, true, true),
        DELETE_ROWS_COMPRESSED => (Op::Delete, true, true),
        _ => return None,
    })
}

pub(super) fn is_rows(kind: u8) -> bool {
    kind_of(kind).is_some()
}

impl<'a> RowsHeader<'a> {
    pub(super) fn parse(event: &Event<'a>) -> Result<RowsHeader<'a>> {
        Self::read(event).ok_or_else(|| malformed("rows"))
    }

    fn read(event: &Event<'a>) -> Option<RowsHeader<'a>> {
        let (op, second_version, compressed) = kind_of(event.header.kind)?;
        let mut cursor = Cursor(event.body);
        let table = cursor.u48()?;
        cursor.u16()?;
        if second_version {
            // Its length counts itself.
            let extra = cursor.u16()?.checked_sub(2)?;
            cursor.take(extra.into())?;
        }
        let columns = usize::try_from(cursor.lenenc()?).ok()?;
        let mut bits = || cursor.take(columns.div_ceil(8));
        let (before, after) = match op {
            Op::Insert => (None, Some(bits()?)),
            Op::Delete => (Some(bits()?), None),
            Op::Update => (Some(bits()?), Some(bits()?)),
        };
        let partial = event.header.kind == kind::PARTIAL_UPDATE_ROWS;
        Some(RowsHeader { op, table, before, after, partial, compressed, columns, rows: cursor.0 })
    }

    /// Unpacks the rows that MariaDB has compressed.
    pub(super) fn inflate(&self, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        inflate(self.rows, out).ok_or_else(|| malformed("compressed rows"))
    }
}

#[inline]
pub(super) fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Finds the values of an image that begins at `at`, and where it ends. `None`: it is malformed.
#[inline]
pub(super) fn locate(fields: &[Field], present: &[u8], rows: &[u8], at: usize, slots: &mut [Slot]) -> Option<usize> {
    locate_with(fields, present, &[], rows, at, slots)
}

/// The same of a row after, of which JSON documents may be there in parts: what it begins with tells which.
pub(super) fn locate_partial(
    fields: &[Field],
    present: &[u8],
    rows: &[u8],
    at: usize,
    slots: &mut [Slot],
) -> Option<usize> {
    const PARTIAL_JSON: u64 = 1;
    let mut cursor = Cursor(rows.get(at..)?);
    let options = cursor.lenenc()?;
    let documents = fields.iter().filter(|field| field.json).count();
    let parts = if options & PARTIAL_JSON != 0 { cursor.take(documents.div_ceil(8))? } else { &[] };
    locate_with(fields, present, parts, rows, rows.len() - cursor.0.len(), slots)
}

#[inline]
fn locate_with(
    fields: &[Field],
    present: &[u8],
    parts: &[u8],
    rows: &[u8],
    at: usize,
    slots: &mut [Slot],
) -> Option<usize> {
    let count = (0..fields.len()).filter(|index| bit(present, *index)).count();
    let nulls = rows.get(at..at.checked_add(count.div_ceil(8))?)?;
    let mut at = at + nulls.len();
    let (mut number, mut document) = (0, 0);
    for (index, field) in fields.iter().enumerate() {
        let partial = field.json && {
            document += 1;
            bit(parts, document - 1)
        };
        let slot = slots.get_mut(index)?;
        if !bit(present, index) {
            *slot = Slot::Absent;
            continue;
        }
        let null = bit(nulls, number);
        number += 1;
        if null {
            *slot = Slot::Null;
            continue;
        }
        let (start, end) = field.locate(rows, at)?;
        let (from, to) = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
        *slot = if partial { Slot::Diff(from, to) } else { Slot::At(from, to) };
        at = end;
    }
    Some(at)
}
