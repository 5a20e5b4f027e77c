//! A bounded piece of a table on its way: a row-major arena of values.

use super::Value;

/// How the rows of a batch are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Values of DMS's own types: between engines of different families, and whenever a rule looks at a value.
    #[default]
    Values,
    /// Every value in its engine's own text form, as [`Value::String`], [`Value::Bytes`] or [`Value::Null`]: between
    /// engines of one family, lossless for every type.
    Text,
    /// Whole rows in PostgreSQL's binary COPY format, one [`Value::Bytes`] per row: no value is looked at.
    PostgresCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Absent,
    Null,
    Bool,
    Int,
    UInt,
    Real,
    Numeric,
    String,
    Bytes,
    Date,
    Time,
    DateTime,
}

/// In the order of their numbers.
const KINDS: [Kind; 12] = [
    Kind::Absent,
    Kind::Null,
    Kind::Bool,
    Kind::Int,
    Kind::UInt,
    Kind::Real,
    Kind::Numeric,
    Kind::String,
    Kind::Bytes,
    Kind::Date,
    Kind::Time,
    Kind::DateTime,
];

/// A cell as bytes: its word, its length and its kind.
const CELL_BYTES: usize = 13;

pub(super) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    bytes.split_off(..8)?.first_chunk().map(|number| u64::from_le_bytes(*number))
}

/// Sixteen bytes per value: numbers in place, everything else as a range of the arena.
#[derive(Clone, Copy, Debug)]
struct Cell {
    word: u64,
    len: u32,
    kind: Kind,
}

/// Row of one table, in the order the source sent them, in two buffers that are reused from batch to batch.
///
/// A value too large for one batch is spread over several: the batch that starts it is [`open`](Batch::is_open), and
/// the first value of the next batch carries on inside the same column of the same row
/// ([`continues`](Batch::continues)). So memory is bounded whatever a row holds. Only [`Value::String`],
/// [`Value::Bytes`] and opaque rows are ever spread.
#[derive(Debug, Default)]
pub struct Batch {
    format: Format,
    arena: Vec<u8>,
    cells: Vec<Cell>,
    /// For each complete row the end of its cells.
    row_ends: Vec<u32>,
    continues: bool,
    open: bool,
    /// Values that the source cut to the task's LOB limit.
    truncated: u64,
    /// The row and the column of such values, in order: of a log alone, whose rows are looked at one by one.
    cut: Vec<(u32, u32)>,
}

/// Keeps a buffer that one giant value has grown from holding its memory for the rest of the load.
const KEPT_BYTES_MAX: usize = 4 << 20;

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Empties the batch for the next rows and keeps its buffers.
    pub fn clear(&mut self, format: Format) {
        self.format = format;
        self.arena.clear();
        self.arena.shrink_to(KEPT_BYTES_MAX);
        self.cells.clear();
        self.row_ends.clear();
        self.continues = false;
        self.open = false;
        self.truncated = 0;
        self.cut.clear();
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Memory in use, in bytes: what a reader compares with its limit.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.cells.len() * size_of::<Cell>() + self.cut.len() * size_of::<[u32; 2]>()
    }

    /// Row that end in this batch.
    pub fn rows(&self) -> usize {
        self.row_ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The first value carries on the value that the previous batch left open.
    pub fn continues(&self) -> bool {
        self.continues
    }

    /// The last value goes on in the next batch; its row is not among [`rows`](Batch::rows).
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Values cut to the LOB limit.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    pub fn add_truncated(&mut self, values: u64) {
        self.truncated += values;
    }

    /// Remembers of the value that was pushed last that it was cut.
    pub fn mark_cut(&mut self) {
        let begin = self.row_ends.last().copied().unwrap_or_default();
        let column = (self.cells.len() as u32).saturating_sub(begin + 1);
        self.cut.push((self.row_ends.len() as u32, column));
    }

    /// The columns of a row whose values were marked as cut.
    pub fn cut(&self, row: usize) -> impl Iterator<Item = usize> {
        let begin = self.cut.partition_point(|(of, _)| (*of as usize) < row);
        self.cut[begin..].iter().take_while(move |(of, _)| *of as usize == row).map(|(_, column)| *column as usize)
    }

    /// All bytes of all values, one after the other: with [`Format::PostgresCopy`] the rows as they go to the server.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    pub fn push(&mut self, value: Value<'_>) {
        let (kind, word) = match value {
            Value::Absent => (Kind::Absent, 0),
            Value::Null => (Kind::Null, 0),
            Value::Bool(v) => (Kind::Bool, v as u64),
            Value::Int(v) => (Kind::Int, v as u64),
            Value::UInt(v) => (Kind::UInt, v),
            Value::Real(v) => (Kind::Real, v.to_bits()),
            Value::Date(v) => (Kind::Date, v as i64 as u64),
            Value::Time(v) => (Kind::Time, v as u64),
            Value::DateTime(v) => (Kind::DateTime, v as u64),
            Value::Numeric(v) => return self.push_range(Kind::Numeric, v),
            Value::String(v) => return self.push_range(Kind::String, v),
            Value::Bytes(v) => return self.push_range(Kind::Bytes, v),
        };
        self.cells.push(Cell { word, len: 0, kind });
    }

    fn push_range(&mut self, kind: Kind, bytes: &[u8]) {
        let word = self.arena.len() as u64;
        self.arena.extend_from_slice(bytes);
        self.cells.push(Cell { word, len: bytes.len() as u32, kind });
    }

    /// Pushes a string that `write` appends to the arena itself: decoding without a copy in between.
    pub fn push_string_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.push_with(Kind::String, write)
    }

    /// Pushes a decimal number that `write` appends to the arena itself.
    pub fn push_numeric_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.push_with(Kind::Numeric, write)
    }

    /// Pushes bytes that `write` appends to the arena itself.
    pub fn push_bytes_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.push_with(Kind::Bytes, write)
    }

    fn push_with<E>(&mut self, kind: Kind, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.arena.len();
        write(&mut self.arena)?;
        self.cells.push(Cell { word: start as u64, len: (self.arena.len() - start) as u32, kind });
        Ok(())
    }

    pub fn end_row(&mut self) {
        self.row_ends.push(self.cells.len() as u32);
    }

    /// Takes back all rows from the one of this number on, and a row that has not ended. Their bytes stay in the arena.
    pub fn truncate(&mut self, rows: usize) {
        self.row_ends.truncate(rows);
        let end = self.row_ends.last().map_or(0, |end| *end as usize);
        self.cells.truncate(end);
        self.cut.truncate(self.cut.partition_point(|(row, _)| (*row as usize) < rows));
    }

    /// Marks the last pushed value as unfinished: the next batch begins with the rest of it.
    pub fn leave_open(&mut self) {
        debug_assert!(matches!(self.cells.last(), Some(cell) if matches!(cell.kind, Kind::String | Kind::Bytes)));
        self.open = true;
    }

    /// Marks the first value to be pushed as the rest of the previous batch's last.
    pub fn carry_on(&mut self) {
        debug_assert!(self.cells.is_empty());
        self.continues = true;
    }

    /// Complete row `index`: all its values, or in a batch that [`continues`](Batch::continues) what is left of row 0.
    pub fn row(&self, index: usize) -> Row<'_> {
        let start = if index == 0 { 0 } else { self.row_ends[index - 1] as usize };
        self.cells_of(start, self.row_ends[index] as usize)
    }

    /// Appends the batch as bytes that [`Batch::read_from`] takes back.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        for count in [self.arena.len(), self.cells.len(), self.row_ends.len(), self.cut.len()] {
            out.extend_from_slice(&(count as u64).to_le_bytes());
        }
        out.extend_from_slice(&self.truncated.to_le_bytes());
        out.extend_from_slice(&[self.format as u8, self.continues.into(), self.open.into()]);
        out.extend_from_slice(&self.arena);
        for cell in &self.cells {
            out.extend_from_slice(&cell.word.to_le_bytes());
            out.extend_from_slice(&cell.len.to_le_bytes());
            out.push(cell.kind as u8);
        }
        for number in self.row_ends.iter().chain(self.cut.iter().flat_map(|(row, column)| [row, column])) {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Reads what [`Batch::write_to`] has written off the front of `bytes`; `None` when it is anything else.
    pub fn read_from(bytes: &mut &[u8]) -> Option<Batch> {
        let (arena_len, cell_count, row_count) = (take_u64(bytes)?, take_u64(bytes)?, take_u64(bytes)?);
        let cut_count = take_u64(bytes)?;
        let truncated = take_u64(bytes)?;
        let [format, continues, open] = *bytes.split_off(..3)? else { return None };
        let format = *[Format::Values, Format::Text, Format::PostgresCopy].get(usize::from(format))?;
        let arena = bytes.split_off(..usize::try_from(arena_len).ok()?)?.to_vec();
        let cell = |bytes: &[u8]| {
            let (word, rest) = bytes.split_first_chunk()?;
            let (len, rest) = rest.split_first_chunk()?;
            let (word, len) = (u64::from_le_bytes(*word), u32::from_le_bytes(*len));
            let kind = *KINDS.get(usize::from(*rest.first()?))?;
            let end = word.checked_add(len.into())?;
            let held = !matches!(kind, Kind::Numeric | Kind::String | Kind::Bytes) || end <= arena.len() as u64;
            held.then_some(Cell { word, len, kind })
        };
        let cells = bytes.split_off(..usize::try_from(cell_count).ok()?.checked_mul(CELL_BYTES)?)?;
        let cells: Vec<Cell> = cells.chunks(CELL_BYTES).map(cell).collect::<Option<_>>()?;
        let row_ends = bytes.split_off(..usize::try_from(row_count).ok()?.checked_mul(4)?)?;
        let row_ends: Vec<u32> = row_ends
            .chunks(4)
            .map(|end| end.first_chunk().map(|end| u32::from_le_bytes(*end)))
            .collect::<Option<_>>()?;
        let cut = bytes.split_off(..usize::try_from(cut_count).ok()?.checked_mul(8)?)?;
        let cut: Vec<(u32, u32)> = cut
            .chunks(8)
            .map(|pair| {
                let (row, column) = pair.split_first_chunk()?;
                Some((u32::from_le_bytes(*row), u32::from_le_bytes(*column.first_chunk()?)))
            })
            .collect::<Option<_>>()?;
        let ordered = row_ends.is_sorted() && row_ends.last().is_none_or(|end| *end as usize <= cells.len());
        ordered.then_some(Batch {
            format,
            arena,
            cells,
            row_ends,
            continues: continues != 0,
            open: open != 0,
            truncated,
            cut,
        })
    }

    /// The values of the row that does not end in this batch; empty unless the batch is open.
    pub fn open_row(&self) -> Row<'_> {
        let start = self.row_ends.last().map_or(0, |end| *end as usize);
        self.cells_of(start, self.cells.len())
    }

    fn cells_of(&self, start: usize, end: usize) -> Row<'_> {
        Row { arena: &self.arena, cells: self.cells[start..end].iter() }
    }
}

/// The values of one row.
#[derive(Clone)]
pub struct Row<'a> {
    arena: &'a [u8],
    cells: std::slice::Iter<'a, Cell>,
}

impl<'a> Row<'a> {
    /// The value of column `index`; absent beyond the last.
    #[inline]
    pub fn get(&self, index: usize) -> Value<'a> {
        self.cells.as_slice().get(index).map_or(Value::Absent, |cell| self.value(cell))
    }

    #[inline]
    fn value(&self, cell: &Cell) -> Value<'a> {
        let bytes = || &self.arena[cell.word as usize..cell.word as usize + cell.len as usize];
        match cell.kind {
            Kind::Absent => Value::Absent,
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(cell.word != 0),
            Kind::Int => Value::Int(cell.word as i64),
            Kind::UInt => Value::UInt(cell.word),
            Kind::Real => Value::Real(f64::from_bits(cell.word)),
            Kind::Numeric => Value::Numeric(bytes()),
            Kind::String => Value::String(bytes()),
            Kind::Bytes => Value::Bytes(bytes()),
            Kind::Date => Value::Date(cell.word as i64 as i32),
            Kind::Time => Value::Time(cell.word as i64),
            Kind::DateTime => Value::DateTime(cell.word as i64),
        }
    }
}

impl<'a> Iterator for Row<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        let cell = self.cells.next()?;
        Some(self.value(cell))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.cells.size_hint()
    }
}

impl ExactSizeIterator for Row<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_pushed() {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        let rows: [&[Value]; 2] = [
            &[Value::Int(-1), Value::String("naïve".as_bytes()), Value::Null, Value::Real(f64::NEG_INFINITY)],
            &[Value::UInt(u64::MAX), Value::Bytes(&[0, 255]), Value::Date(-719_528), Value::DateTime(i64::MIN)],
        ];
        for row in rows {
            row.iter().for_each(|value| batch.push(*value));
            batch.end_row();
        }
        assert_eq!(batch.rows(), 2);
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(batch.row(index).collect::<Vec<_>>(), *row);
        }
        assert_eq!(batch.open_row().count(), 0);
    }

    #[test]
    fn comes_back_from_bytes_and_takes_nothing_else() {
        let mut batch = Batch::new();
        batch.clear(Format::Text);
        for row in 0..3 {
            batch.push(Value::Int(row));
            batch.push(Value::String(b"text"));
            batch.push(Value::Absent);
            if row > 0 {
                batch.mark_cut();
            }
            batch.end_row();
        }
        batch.add_truncated(2);
        let mut bytes = Vec::new();
        batch.write_to(&mut bytes);
        for end in 0..bytes.len() {
            assert!(Batch::read_from(&mut &bytes[..end]).is_none());
        }
        bytes.extend_from_slice(b"rest");
        let mut from = bytes.as_slice();
        let again = Batch::read_from(&mut from).unwrap();
        assert_eq!(from, b"rest");
        assert_eq!((again.format(), again.rows(), again.truncated()), (Format::Text, 3, 2));
        for row in 0..3 {
            assert_eq!(again.row(row).collect::<Vec<_>>(), batch.row(row).collect::<Vec<_>>());
        }
        assert_eq!([0, 1, 2].map(|row| again.cut(row).collect::<Vec<_>>()), [vec![], vec![2], vec![2]]);
        for (kind, number) in KINDS.iter().zip(0..) {
            assert_eq!(*kind as u8, number);
        }
    }

    #[test]
    fn tells_which_values_were_cut_also_when_rows_are_taken_back() {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        let push = |batch: &mut Batch, cut: &[bool]| {
            for cut in cut {
                batch.push(Value::String(b"text"));
                if *cut {
                    batch.mark_cut();
                }
            }
        };
        let cut = |batch: &Batch, row| batch.cut(row).collect::<Vec<_>>();
        for row in [[true, false, true], [false; 3], [false, true, false]] {
            push(&mut batch, &row);
            batch.end_row();
        }
        assert_eq!([0, 1, 2, 3].map(|row| cut(&batch, row)), [vec![0, 2], vec![], vec![1], vec![]]);
        push(&mut batch, &[true]);
        batch.truncate(2);
        push(&mut batch, &[false, false, true]);
        batch.end_row();
        assert_eq!([0, 1, 2, 3].map(|row| cut(&batch, row)), [vec![0, 2], vec![], vec![2], vec![]]);
        batch.clear(Format::Values);
        assert!(cut(&batch, 0).is_empty());
    }

    #[test]
    fn spreads_one_value_over_batches() {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        batch.push(Value::Int(1));
        batch.push(Value::Bytes(b"first "));
        batch.leave_open();
        assert!(batch.is_open() && batch.rows() == 0);
        assert_eq!(batch.open_row().collect::<Vec<_>>(), [Value::Int(1), Value::Bytes(b"first ")]);

        batch.clear(Format::Values);
        batch.carry_on();
        batch.push(Value::Bytes(b"rest"));
        batch.push(Value::Null);
        batch.end_row();
        assert!(batch.continues() && !batch.is_open());
        assert_eq!(batch.row(0).collect::<Vec<_>>(), [Value::Bytes(b"rest"), Value::Null]);
    }
}
