//! Rows of the log as rows of the tables that are captured.

use std::collections::HashMap;

use super::super::definition::{column, quote_label};
use super::super::event::{Event, malformed};
use super::super::field::{Field, Misfit, Slot, Style};
use super::super::rows::{RowsHeader, bit, locate, locate_partial};
use super::super::table_map::{Metadata, TableMap, WireColumn, table_id, table_names, wire};
use super::super::tables::Table;
use super::super::temporal::Zone;
use super::{Interpreter, Outcome, Place, Question};
use crate::connector::mysql::source::StoredColumn;
use crate::data::{Batch, Changes, Entry, Error, Op, Result, TableName, Value};

/// Tables that rows may refer to; the server gives a table another number whenever it opens it.
const MAPS_MAX: usize = 10_000;

/// A row may refer to no table at all, only to tell that the statement ends.
const NO_TABLE: u64 = 0xFF_FFFF;

#[derive(Default)]
pub(super) struct Maps {
    known: HashMap<u64, Mapped>,
    /// Of the event of rows that is under way: how far it is given on, and its rows if they had to be unpacked.
    at: usize,
    inflated: Option<Vec<u8>>,
    /// Where the values of a row before and after are.
    before: Vec<Slot>,
    after: Vec<Slot>,
}

impl Maps {
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }
}

/// A table as the log has described it.
struct Mapped {
    /// The description: as long as it is the same, all that follows from it is.
    body: Vec<u8>,
    captured: Option<Captured>,
}

struct Captured {
    table: usize,
    generation: u32,
    /// For each column of the log.
    fields: Vec<Field>,
    /// Which of them are given on.
    visible: Vec<usize>,
    /// Which of them are the row key.
    key: Vec<usize>,
    /// The rows before an UPDATE are all given on.
    old_rows: bool,
}

impl Interpreter {
    pub(super) fn table_map(&mut self, event: &Event<'_>) -> Result<Outcome> {
        let lost = || malformed("table map");
        let id = table_id(event.body).ok_or_else(lost)?;
        let is_same = self.maps.known.get(&id).is_some_and(|mapped| {
            mapped.body == event.body
                && mapped
                    .captured
                    .as_ref()
                    .is_none_or(|captured| self.tables[captured.table].generation == captured.generation)
        });
        if !is_same {
            let (schema, table) = table_names(event.body).ok_or_else(lost)?;
            let name = TableName::new(String::from_utf8_lossy(schema), String::from_utf8_lossy(table));
            let captured = match self.find(&name)? {
                Found::Ask(question) => return Ok(Outcome::Ask(question)),
                Found::LeftOut => None,
                Found::Table(index) if self.tables[index].given_up => None,
                Found::Table(index) => {
                    let map = TableMap::parse(event.body).ok_or_else(lost)?;
                    match self.fit(index, &map)? {
                        Fit::Ask(question) => return Ok(Outcome::Ask(question)),
                        Fit::Fields(captured) => Some(captured),
                    }
                }
            };
            if self.maps.known.len() >= MAPS_MAX {
                self.maps.known.clear();
            }
            // What is true of a table until it is wanted must not be taken for true beyond.
            let body = if self.later.contains_key(&name) { Vec::new() } else { event.body.to_vec() };
            self.maps.known.insert(id, Mapped { body, captured });
        }
        Ok(Outcome::Taken)
    }

    /// The captured table of this name.
    pub(super) fn find(&mut self, name: &TableName) -> Result<Found> {
        if self.later.contains_key(name) {
            return Ok(Found::LeftOut);
        }
        if let Some(index) = self.by_name.get(name) {
            return Ok(Found::Table(*index));
        }
        if self.left_out.contains(name) || !self.captures(name) {
            return Ok(Found::LeftOut);
        }
        // It was there before the place where the log is read from, and nobody has described it.
        match self.facts.tables.get(name) {
            None => Ok(Found::Ask(Question::Tables(vec![name.clone()]))),
            Some(Some(stored)) if stored.kind == "BASE TABLE" => {
                let table = Table::of_catalog(stored);
                Ok(Found::Table(self.add_table(table)))
            }
            Some(found) => {
                if found.is_none() {
                    tracing::warn!(
                        table = %name,
                        "the log has rows of a table that is there no more and was not there when the task began: they \
                         are left out"
                    );
                }
                self.left_out.insert(name.clone());
                Ok(Found::LeftOut)
            }
        }
    }

    pub(super) fn add_table(&mut self, table: Table) -> usize {
        self.left_out.remove(&table.name);
        let name = table.name.clone();
        match self.by_name.get(&name) {
            Some(index) => {
                self.tables[*index] = table.in_place_of(&self.tables[*index]);
                *index
            }
            None => {
                let index = match self.free.pop() {
                    Some(index) => {
                        let number = table.number;
                        self.tables[index] = table.in_place_of(&self.tables[index]);
                        self.tables[index].number = number;
                        index
                    }
                    None => {
                        self.tables.push(table);
                        self.tables.len() - 1
                    }
                };
                self.by_name.insert(name, index);
                index
            }
        }
    }

    /// How the columns of the log are those of the table. Where they are not, the catalog is asked, and then what the log
    /// itself tells.
    fn fit(&mut self, index: usize, map: &TableMap<'_>) -> Result<Fit> {
        let metadata = map.metadata(self.setting.server.mariadb);
        let misfit = match self.try_fit(index, map, &metadata) {
            Ok(captured) => return Ok(Fit::Fields(captured)),
            Err(Misfit::Charset(charset)) if !self.charsets.contains_key(&charset) => {
                return Ok(Fit::Ask(Question::Charset(charset)));
            }
            Err(misfit) => misfit,
        };
        let name = self.tables[index].name.clone();
        if misfit == Misfit::Type && !self.facts.tables.contains_key(&name) {
            return Ok(Fit::Ask(Question::Tables(vec![name])));
        }
        let was = self.tables[index].clone();
        let of_catalog = self.facts.tables.get(&name).and_then(Option::as_ref).map(Table::of_catalog);
        let of_log = self.table_of_log(&was, map, &metadata);
        let candidates = [of_catalog, of_log].into_iter().flatten();
        for candidate in candidates.filter(|_| misfit == Misfit::Type) {
            self.tables[index] = candidate.in_place_of(&was);
            match self.try_fit(index, map, &metadata) {
                Ok(captured) => {
                    tracing::warn!(table = %name, "the table has changed without a statement in the log that tells it");
                    return Ok(Fit::Fields(captured));
                }
                Err(Misfit::Charset(charset)) if !self.charsets.contains_key(&charset) => {
                    return Ok(Fit::Ask(Question::Charset(charset)));
                }
                Err(_) => {}
            }
        }
        self.tables[index] = was;
        self.tables[index].given_up = true;
        self.given_up = Some(name.clone());
        let reason = match misfit {
            Misfit::Storage(how) => format!("a column of it is stored in {how}"),
            Misfit::Charset(charset) => format!(
                "text of the character set {charset} cannot be converted while the log is read; give its columns another \
                 one, such as utf8mb4"
            ),
            _ => format!(
                "the log has {} columns for it that do not fit those that are known of it: it has changed in a way that \
                 cannot be followed",
                map.columns.len()
            ),
        };
        Err(Error::table(format!("rows of {name} cannot be read from the log: {reason}; load the table again")))
    }

    fn try_fit(
        &self,
        index: usize,
        map: &TableMap<'_>,
        metadata: &Metadata<'_>,
    ) -> std::result::Result<Captured, Misfit> {
        let table = &self.tables[index];
        let beyond = map.columns.len().checked_sub(table.columns.len()).ok_or(Misfit::Type)?;
        let is_hash = |log: &WireColumn| log.kind == wire::LONGLONG;
        if beyond > table.hash_keys || !map.columns[table.columns.len()..].iter().all(is_hash) {
            return Err(Misfit::Type);
        }
        let charsets = |name: &str| self.charsets.get(name).cloned().flatten();
        let capture = &self.setting.capture;
        let style = Style { format: capture.format, lob_bytes_max: capture.lob_bytes_max, charsets: &charsets };
        let (mut fields, mut visible) = (Vec::new(), Vec::new());
        for (at, log) in map.columns.iter().enumerate() {
            let field = match table.columns.get(at) {
                Some(stored) => {
                    self.check(stored, at, metadata)?;
                    let column = with_labels(stored, at, metadata);
                    if !stored.hidden {
                        visible.push(at);
                    }
                    let known = if stored.hidden { Field::skipped(*log) } else { None };
                    match known {
                        Some(field) => field,
                        None => Field::of(&column, *log, style)?,
                    }
                }
                None => Field::skipped(*log).ok_or(Misfit::Type)?,
            };
            fields.push(field);
        }
        let key = table.row_key().into_iter().map(|place| visible[place]).collect();
        Ok(Captured { table: index, generation: table.generation, fields, visible, key, old_rows: capture.old_rows })
    }

    /// Compares a column with what the log tells of it beyond its type.
    fn check(&self, stored: &StoredColumn, at: usize, metadata: &Metadata<'_>) -> std::result::Result<(), Misfit> {
        let native = stored.column.native.to_ascii_lowercase();
        let name = metadata.names.get(at).map(|name| String::from_utf8_lossy(name).to_lowercase());
        let unsigned = metadata.unsigned.get(at).copied().flatten();
        let is_year = native.starts_with("year");
        let same_name = name.is_none_or(|name| name == stored.column.name.to_lowercase());
        let same_sign = unsigned.is_none_or(|unsigned| is_year || unsigned == native.contains("unsigned"));
        if same_name && same_sign { Ok(()) } else { Err(Misfit::Type) }
    }

    /// The table as the log itself describes it, where the server is set to tell all (`binlog_row_metadata=FULL`).
    fn table_of_log(&self, was: &Table, map: &TableMap<'_>, metadata: &Metadata<'_>) -> Option<Table> {
        if metadata.names.len() != map.columns.len() {
            return None;
        }
        let mut table = was.clone();
        table.columns.clear();
        for (at, log) in map.columns.iter().enumerate() {
            let name = String::from_utf8_lossy(metadata.names[at]);
            let known = was.columns.iter().find(|known| known.column.name.eq_ignore_ascii_case(&name));
            let hidden = match metadata.visible.get(at) {
                Some(visible) => !visible,
                None => known.is_some_and(|known| known.hidden),
            };
            let charset = metadata.collations.get(at).copied().flatten();
            let charset = charset.and_then(|number| self.setting.collations.get(&number)).map(String::as_str);
            let unsigned = metadata.unsigned.get(at).copied().flatten().unwrap_or(false);
            let labels = metadata.labels.get(at).map(Vec::as_slice).unwrap_or_default();
            let native = native_of_log(*log, unsigned, charset, labels)?;
            let nullable = !metadata.primary_key.contains(&at);
            table.columns.push(StoredColumn { column: column(&name, native, nullable, false), hidden });
        }
        let key = metadata.primary_key.iter().map(|at| String::from_utf8_lossy(metadata.names[*at]).into_owned());
        table.set_primary_key(key.collect());
        Some(table)
    }

    pub(super) fn rows(&mut self, event: &Event<'_>, place: &Place<'_>, changes: &mut Changes) -> Result<Outcome> {
        let header = RowsHeader::parse(event)?;
        if self.open.is_none() {
            self.open_begun(place, false, changes);
        }
        if header.table == NO_TABLE {
            return Ok(Outcome::Taken);
        }
        let Some(mapped) = self.maps.known.get(&header.table) else {
            return Err(Error::fatal(
                "the log has rows of a table that it has not described: reading has begun within a statement",
            ));
        };
        let Some(captured) = &mapped.captured else { return Ok(Outcome::Taken) };
        let index = captured.table;
        if let Some(open) = self.open.as_mut() {
            open.captured = true;
            if open.prepares {
                return Ok(Outcome::Taken);
            }
        }
        if self.tables[index].given_up || self.setting.undone.has(place) {
            return Ok(Outcome::Taken);
        }
        if captured.fields.len() != header.columns {
            return Err(malformed("rows"));
        }
        if let Some(before) = header.before {
            let present = |place: usize| captured.visible.get(place).is_some_and(|at| bit(before, *at));
            self.tables[index].see_identity(&present);
        }
        if header.compressed && self.maps.inflated.is_none() {
            let mut rows = Vec::new();
            header.inflate(&mut rows)?;
            self.maps.inflated = Some(rows);
        }
        let number = self.tell(index, changes);
        let outcome = self.give_on(&header, number, changes).map_err(|column| self.unreadable(index, column));
        if !matches!(outcome, Ok(Outcome::Full)) {
            self.maps.at = 0;
            self.maps.inflated = None;
        }
        outcome
    }

    /// Gives on the rows of an event, as many as the piece has room for. The error is the place of a column that could not
    /// be read.
    fn give_on(
        &mut self,
        header: &RowsHeader<'_>,
        number: u32,
        changes: &mut Changes,
    ) -> std::result::Result<Outcome, Option<usize>> {
        let Maps { known, at, inflated, before, after } = &mut self.maps;
        let Some(Mapped { captured: Some(captured), .. }) = known.get(&header.table) else { return Err(None) };
        let rows = inflated.as_deref().unwrap_or(header.rows);
        before.resize(captured.fields.len(), Slot::Absent);
        after.resize(captured.fields.len(), Slot::Absent);
        let mut reader = RowReader { captured, rows, zone: &self.setting.zone, before, after };
        while *at < rows.len() {
            let start = changes.rows.rows();
            match reader.row(header, *at, number, changes) {
                Ok(next) if next > *at => *at = next,
                Ok(_) => return Err(None),
                Err(column) => {
                    changes.rows.truncate(start);
                    return Err(column);
                }
            }
            self.changes += 1;
            if *at < rows.len() && changes.bytes() >= self.setting.capture.batch_bytes {
                return Ok(Outcome::Full);
            }
        }
        Ok(Outcome::Taken)
    }

    fn unreadable(&mut self, index: usize, column: Option<usize>) -> Error {
        let table = &mut self.tables[index];
        table.given_up = true;
        self.given_up = Some(table.name.clone());
        let name = &table.name;
        match column.and_then(|at| table.columns.get(at)) {
            Some(stored) => Error::table(format!(
                "rows of {name} cannot be read from the log: a value of column {} is not of its type {}; load the table \
                 again",
                stored.column.name,
                super::super::super::type_map::base(&stored.column.native)
            )),
            None => Error::table(format!("rows of {name} cannot be read from the log: they are malformed")),
        }
    }
}

pub(super) enum Found {
    Table(usize),
    LeftOut,
    Ask(Question),
}

enum Fit {
    Fields(Captured),
    Ask(Question),
}

/// The column with the labels that the log tells, which the catalog may not have been able to show.
fn with_labels(stored: &StoredColumn, at: usize, metadata: &Metadata<'_>) -> crate::data::Column {
    let mut column = stored.column.clone();
    let labels = metadata.labels.get(at).map(Vec::as_slice).unwrap_or_default();
    // Only what is UTF-8 anyway: others must be converted, and the catalog has them converted.
    let utf8: Option<Vec<&str>> = labels.iter().map(|label| std::str::from_utf8(label).ok()).collect();
    let is_utf8 = column.native.contains("CHARACTER SET utf8");
    if let Some(labels) = utf8.filter(|labels| is_utf8 && !labels.is_empty())
        && let (Some(open), Some(close)) = (column.native.find('('), column.native.rfind(')'))
    {
        let list: Vec<String> = labels.iter().map(|label| quote_label(label)).collect();
        column.native.replace_range(open + 1..close, &list.join(","));
    }
    column
}

/// The native type that a column of the log is of.
fn native_of_log(log: WireColumn, unsigned: bool, charset: Option<&str>, labels: &[&[u8]]) -> Option<String> {
    let sign = if unsigned { " unsigned" } else { "" };
    let digits = |base: &str| if log.meta == 0 { base.to_owned() } else { format!("{base}({})", log.meta) };
    let binary = charset == Some("binary");
    let text = |base: &str| charset.map(|charset| format!("{base} CHARACTER SET {charset}"));
    let width = super::super::super::type_map::bytes_per_character(charset.unwrap_or_default());
    let sized = |base: &str| format!("{base}({})", u32::from(log.meta) / width);
    let size = usize::from(log.meta).clamp(1, 4) - 1;
    Some(match log.kind {
        wire::TINY => format!("tinyint{sign}"),
        wire::SHORT => format!("smallint{sign}"),
        wire::INT24 => format!("mediumint{sign}"),
        wire::LONG => format!("int{sign}"),
        wire::LONGLONG => format!("bigint{sign}"),
        wire::FLOAT => format!("float{sign}"),
        wire::DOUBLE => format!("double{sign}"),
        wire::NEWDECIMAL => {
            let [precision, scale] = log.meta.to_le_bytes();
            format!("decimal({precision},{scale}){sign}")
        }
        wire::YEAR => "year".to_owned(),
        wire::BIT => format!("bit({})", log.meta),
        wire::DATE | wire::NEWDATE => "date".to_owned(),
        wire::TIME | wire::TIME2 => digits("time"),
        wire::DATETIME | wire::DATETIME2 => digits("datetime"),
        wire::TIMESTAMP | wire::TIMESTAMP2 => digits("timestamp"),
        wire::VARCHAR if binary => format!("varbinary({})", log.meta),
        wire::VARCHAR => text(&sized("varchar"))?,
        wire::STRING if binary => format!("binary({})", log.meta),
        wire::STRING => text(&sized("char"))?,
        wire::BLOB if binary => ["tinyblob", "blob", "mediumblob", "longblob"][size].to_owned(),
        wire::BLOB => text(["tinytext", "text", "mediumtext", "longtext"][size])?,
        wire::JSON => "json".to_owned(),
        wire::GEOMETRY => "geometry".to_owned(),
        wire::VECTOR => "vector".to_owned(),
        wire::ENUM | wire::SET if !labels.is_empty() => {
            let list: Option<Vec<String>> =
                labels.iter().map(|label| std::str::from_utf8(label).ok().map(quote_label)).collect();
            let base = if log.kind == wire::ENUM { "enum" } else { "set" };
            text(&format!("{base}({})", list?.join(",")))?
        }
        _ => return None,
    })
}

/// Reads the rows of one event.
struct RowReader<'a> {
    captured: &'a Captured,
    rows: &'a [u8],
    zone: &'a Zone,
    before: &'a mut [Slot],
    after: &'a mut [Slot],
}

impl RowReader<'_> {
    /// Gives on the row at a place of the event, and where the next one begins.
    #[inline]
    fn row(
        &mut self,
        header: &RowsHeader<'_>,
        at: usize,
        table: u32,
        changes: &mut Changes,
    ) -> std::result::Result<usize, Option<usize>> {
        let fields = &self.captured.fields;
        let mut at = at;
        if let Some(present) = header.before {
            at = locate(fields, present, self.rows, at, self.before).ok_or(None)?;
        }
        if let Some(present) = header.after {
            at = match header.partial {
                true => locate_partial(fields, present, self.rows, at, self.after),
                false => locate(fields, present, self.rows, at, self.after),
            }
            .ok_or(None)?;
        }
        let (old, new) = match header.op {
            Op::Insert => (None, Some(self.push(self.after, changes)?)),
            Op::Delete => (Some(self.push(self.before, changes)?), None),
            Op::Update => {
                let new = self.push_updated(changes)?;
                let old = if self.needs_old() { Some(self.push(self.before, changes)?) } else { None };
                (old, Some(new))
            }
        };
        changes.entries.push(Entry::Row { table, op: header.op, old, new });
        Ok(at)
    }

    /// Whether the row before is wanted, or tells more than the row after: another key, or what the row is found by where
    /// there is none.
    fn needs_old(&self) -> bool {
        let key = &self.captured.key;
        let bytes = |from: u32, to: u32| &self.rows[from as usize..to as usize];
        key.is_empty()
            || self.captured.old_rows
            || key.iter().any(|at| match (self.before[*at], self.after[*at]) {
                (Slot::Absent, _) => true,
                (_, Slot::Absent) | (Slot::Null, Slot::Null) => false,
                (Slot::At(from, to), Slot::At(after_from, after_to)) => bytes(from, to) != bytes(after_from, after_to),
                _ => true,
            })
    }

    fn push(&self, slots: &[Slot], changes: &mut Changes) -> std::result::Result<u32, Option<usize>> {
        let number = changes.next_row();
        for at in &self.captured.visible {
            self.value(*at, slots[*at], &mut changes.rows)?;
        }
        changes.rows.end_row();
        Ok(number)
    }

    /// What an UPDATE has not set is as it was.
    fn push_updated(&self, changes: &mut Changes) -> std::result::Result<u32, Option<usize>> {
        let number = changes.next_row();
        for at in &self.captured.visible {
            let slot = match self.after[*at] {
                Slot::Absent => self.before[*at],
                slot => slot,
            };
            self.value(*at, slot, &mut changes.rows)?;
        }
        changes.rows.end_row();
        Ok(number)
    }

    #[inline]
    fn value(&self, at: usize, slot: Slot, batch: &mut Batch) -> std::result::Result<(), Option<usize>> {
        let field = &self.captured.fields[at];
        let bytes = |from: u32, to: u32| &self.rows[from as usize..to as usize];
        match slot {
            Slot::Absent => batch.push(Value::Absent),
            Slot::Null => batch.push(Value::Null),
            Slot::At(from, to) => field.push(bytes(from, to), self.zone, batch).ok_or(Some(at))?,
            Slot::Diff(from, to) => match self.before[at] {
                Slot::At(old_from, old_to) => {
                    field.push_changed(bytes(old_from, old_to), bytes(from, to), batch).ok_or(Some(at))?;
                }
                // What the parts are parts of is not in the log.
                _ => batch.push(Value::Absent),
            },
        }
        Ok(())
    }
}
