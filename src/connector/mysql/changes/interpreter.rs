//! Events of the log as entries: the bounds of transactions, and what of them is given on.
//!
//! Nothing here waits. What must be asked of the server is returned as a [`Question`], with the event not taken; once it is
//! answered, the same event comes again.

mod ddl;
mod mapped;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::source::Stored;
use super::charset::Charset;
use super::compressed::inflate;
use super::definition::TextDefault;
use super::event::{self, Begin, Event, Group, Query, ServerVersion, Xid, kind, malformed};
use super::lexer::Dialect;
use super::rows::is_rows;
use super::statement::{self, Statement};
use super::tables::Table;
use super::temporal::Zone;
use crate::connector::Capture;
use crate::connector::noted::NotedTables;
use crate::data::{Changes, Entry, Error, Position, Result, TableName};
use mapped::Maps;

/// Two-phase transactions that are kept in mind between their phases; where others are is searched for in the log.
const PREPARED_MAX: usize = 10_000;

/// Parts of the log that are kept in mind as undone.
const UNDONE_MAX: usize = 1000;

/// Where an event is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Place<'_> {
    fn after(&self) -> Position {
        Position::Binlog { file: self.file.to_owned(), offset: self.end }
    }
}

pub(super) enum Outcome {
    /// The event is done with.
    Taken,
    /// The piece is full, and there is more in the event.
    Full,
    /// The event cannot be understood without an answer.
    Ask(Question),
    /// The transaction that was read again is over.
    Replayed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// What the catalog says of these tables now, and of the character sets of their schemas.
    Tables(Vec<TableName>),
    Charset(String),
    /// Where this transaction was prepared.
    Prepared(Xid),
    /// The changes of a transaction that was prepared there, which come now.
    Replay(Prepared),
}

/// Where a transaction was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) file: String,
    pub(super) start: u64,
    /// It has rows of captured tables.
    pub(super) captured: bool,
}

/// Answers, good for the event that asked.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) tables: HashMap<TableName, Option<Stored>>,
    /// By schema.
    pub(super) texts: HashMap<String, TextDefault>,
}

/// Parts of the log that turned out to be undone when some of them had been given on: whoever reads again leaves them out.
#[derive(Clone, Default)]
pub(in crate::connector::mysql) struct Undone(Arc<Mutex<Vec<(String, u64, u64)>>>);

impl Undone {
    fn add(&self, file: &str, from: u64, to: u64) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.len() >= UNDONE_MAX {
            parts.remove(0);
        }
        parts.push((file.to_owned(), from, to));
    }

    fn has(&self, place: &Place<'_>) -> bool {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().any(|(file, from, to)| file == place.file && (*from..*to).contains(&place.start))
    }
}

/// A place in what is given on, to come back to.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Of the pieces that were given on.
    piece: u64,
    entries: usize,
    rows: usize,
    /// Changes before it.
    changes: u64,
    /// Where in its file it is.
    offset: u64,
}

/// A transaction that is being read.
struct Open {
    begin: Mark,
    time: Option<i64>,
    savepoints: Vec<(String, Mark)>,
    /// It is only prepared: its rows come when it is committed.
    prepares: bool,
    captured: bool,
}

/// What does not change while a log is read.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) capture: Capture,
    pub(super) server: ServerVersion,
    /// `lower_case_table_names`
    pub(super) fold_names: u8,
    /// Character sets by the numbers of their collations.
    pub(super) collations: Arc<HashMap<u16, String>>,
    pub(super) zone: Zone,
    pub(super) undone: Undone,
    pub(super) renamed: NotedTables,
}

pub(super) struct Interpreter {
    setting: Setting,
    /// Character sets that were asked for; those that cannot be converted are `None`.
    charsets: HashMap<String, Option<Charset>>,
    facts: Facts,
    tables: Vec<Table>,
    /// Places among `tables` of those that are no more.
    free: Vec<usize>,
    by_name: HashMap<TableName, usize>,
    numbers: HashMap<TableName, u32>,
    numbers_used: u32,
    /// Tables that are selected and not captured.
    left_out: HashSet<TableName>,
    /// Tables of which nothing is wanted before a place.
    later: HashMap<TableName, Position>,
    /// The table that was given up just now.
    given_up: Option<TableName>,
    maps: Maps,
    /// An event that tells the number of a transaction, before the transaction.
    begin: Option<(Begin, u64)>,
    open: Option<Open>,
    /// The file that it is in.
    open_file: String,
    prepared: BTreeMap<Xid, Prepared>,
    /// The transaction that is read again has been.
    replayed: bool,
    piece: u64,
    /// Changes given on, and how many of them before the present piece.
    changes: u64,
    changes_before: u64,
}

impl Interpreter {
    pub(super) fn new(setting: Setting, tables: Vec<Table>) -> Interpreter {
        let by_name = tables.iter().enumerate().map(|(index, table)| (table.name.clone(), index)).collect();
        Interpreter {
            charsets: HashMap::new(),
            facts: Facts::default(),
            tables,
            free: Vec::new(),
            by_name,
            numbers: HashMap::new(),
            numbers_used: 0,
            left_out: HashSet::new(),
            later: setting.capture.loaded_at.clone(),
            given_up: None,
            maps: Maps::default(),
            begin: None,
            open: None,
            open_file: String::new(),
            prepared: BTreeMap::new(),
            replayed: false,
            piece: 0,
            changes: 0,
            changes_before: 0,
            setting,
        }
    }

    /// What is given on from here is another piece.
    pub(super) fn begin_piece(&mut self) {
        self.piece += 1;
        self.changes_before = self.changes;
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.open.is_some() || self.begin.is_some()
    }

    pub(super) fn learn_tables(
        &mut self,
        names: Vec<TableName>,
        found: Vec<Stored>,
        texts: HashMap<String, TextDefault>,
    ) {
        self.facts.texts.extend(texts);
        self.facts.tables.extend(names.into_iter().map(|name| (name, None)));
        self.facts.tables.extend(found.into_iter().map(|stored| (stored.schema.name.clone(), Some(stored))));
    }

    pub(super) fn learn_charset(&mut self, name: String, charset: Option<Charset>) {
        self.charsets.insert(name, charset);
    }

    pub(super) fn learn_prepared(&mut self, xid: Xid, prepared: Prepared) {
        self.remember(xid, prepared);
    }

    /// What comes next is a transaction that was prepared earlier.
    pub(super) fn begin_replay(&mut self, place: &Place<'_>, changes: &mut Changes) {
        self.maps.clear();
        self.replayed = false;
        self.open(place, None, changes);
    }

    /// Takes an event. `replays`: of a transaction that is read again.
    pub(super) fn apply(
        &mut self,
        event: &Event<'_>,
        place: &Place<'_>,
        replays: bool,
        changes: &mut Changes,
    ) -> Result<Outcome> {
        if !self.later.is_empty() {
            let here = place.after();
            self.later.retain(|_, loaded_at| here <= *loaded_at);
        }
        let outcome = match event.header.kind {
            kind if is_rows(kind) => self.rows(event, place, changes),
            kind::TABLE_MAP => self.table_map(event),
            kind::QUERY | kind::QUERY_COMPRESSED | kind::EXECUTE_LOAD_QUERY => {
                self.query(event, place, replays, changes)
            }
            kind::XA_PREPARE if replays => {
                self.maps.clear();
                self.replayed = true;
                Ok(Outcome::Replayed)
            }
            _ if replays => Ok(Outcome::Taken),
            kind::XID => {
                let number = event.body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                self.commit(number, event.header.time, place, changes);
                Ok(Outcome::Taken)
            }
            _ => self.other(event, place, changes),
        };
        if matches!(outcome, Ok(Outcome::Taken)) && !self.facts.tables.is_empty() {
            self.facts = Facts::default();
        }
        outcome
    }

    fn other(&mut self, event: &Event<'_>, place: &Place<'_>, changes: &mut Changes) -> Result<Outcome> {
        match event.header.kind {
            kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID => {
                let begin = event::parse_gtid(event.header.kind, event.body).ok_or_else(|| malformed("GTID"))?;
                self.abandon(place.start, changes)?;
                let group = begin.group;
                self.begin = Some((begin, place.start));
                if let Some(group @ (Group::Transaction | Group::Xa)) = group {
                    self.open_begun(place, group == Group::Xa, changes);
                }
            }
            kind::XA_PREPARE => return self.prepare(event, place, changes),
            kind::FORMAT_DESCRIPTION => {
                let description = event::FormatDescription::parse(event.body)?;
                self.setting.server = description.server;
                if description.restarted && !event.header.is_artificial() {
                    self.maps.clear();
                    // What the server had not finished when it died is not to be found in its tables.
                    self.begin = None;
                    self.abandon(u64::MAX, changes)?;
                }
            }
            kind::ROTATE | kind::HEARTBEAT | kind::HEARTBEAT_V2 => {}
            kind::INCIDENT => {
                let message = event::parse_incident(event.body);
                return Err(Error::fatal(format!("the log of the source is not complete: {message}")));
            }
            kind::START_ENCRYPTION => {
                return Err(Error::fatal("the server sends its log encrypted, which cannot be read"));
            }
            kind if kind::IGNORED.contains(&kind) || kind == kind::MARIADB_GTID_LIST || event.header.is_ignorable() => {
            }
            other => return Err(Error::fatal(format!("the log has an event of an unknown type ({other})"))),
        }
        if !self.in_transaction() {
            changes.resume = Some(place.after());
        }
        Ok(Outcome::Taken)
    }

    fn mark(&self, offset: u64, changes: &Changes) -> Mark {
        Mark {
            piece: self.piece,
            entries: changes.entries.len(),
            rows: changes.rows.rows(),
            changes: self.changes,
            offset,
        }
    }

    fn open(&mut self, place: &Place<'_>, time: Option<i64>, changes: &mut Changes) {
        let begin = self.mark(place.start, changes);
        let position = Position::Binlog { file: place.file.to_owned(), offset: place.start };
        changes.entries.push(Entry::Begin { position });
        if self.open_file != place.file {
            place.file.clone_into(&mut self.open_file);
        }
        self.open = Some(Open { begin, time, savepoints: Vec::new(), prepares: false, captured: false });
    }

    /// Opens the transaction that an event has announced, or that begins without one.
    fn open_begun(&mut self, place: &Place<'_>, prepares: bool, changes: &mut Changes) {
        let (time, start) = match self.begin.take() {
            Some((begin, start)) => (begin.time, start),
            None => (None, place.start),
        };
        self.open(&Place { start, ..*place }, time, changes);
        if let Some(open) = &mut self.open {
            open.prepares = prepares;
        }
    }

    /// Ends a transaction, or a statement that is one.
    fn commit(&mut self, transaction: u64, seconds: u32, place: &Place<'_>, changes: &mut Changes) {
        let announced = self.begin.take().and_then(|(begin, _)| begin.time);
        let time = |open: Option<i64>| open.or(announced).unwrap_or(i64::from(seconds) * 1_000_000);
        // One that holds nothing for us moves the place all the same.
        if let Some(open) = self.open.take()
            && self.changes > open.begin.changes
        {
            changes.entries.push(Entry::Commit { transaction, time: time(open.time), position: place.after() });
        } else {
            changes.take_back_begin();
        }
        changes.resume = Some(place.after());
    }

    /// Makes a transaction that has not ended one that never was.
    fn abandon(&mut self, to: u64, changes: &mut Changes) -> Result<()> {
        match self.open.take() {
            Some(open) => self.undo(open.begin, to, changes),
            None => Ok(()),
        }
    }

    /// Takes back what was given on since a mark. What has left this place already cannot be taken back: then the log is
    /// read again, without it.
    fn undo(&mut self, mark: Mark, to: u64, changes: &mut Changes) -> Result<()> {
        if mark.changes < self.changes_before && self.changes > mark.changes {
            self.setting.undone.add(&self.open_file, mark.offset, to);
            return Err(Error::recoverable(
                "a long transaction of the source was rolled back after a part of it had been read: it is read again, \
                 without that part",
            ));
        }
        let (entries, rows) = if mark.piece == self.piece { (mark.entries, mark.rows) } else { (0, 0) };
        let mut index = 0;
        // What tables look like is as true as before.
        changes.entries.retain(|entry| {
            index += 1;
            index <= entries || matches!(entry, Entry::Table { .. })
        });
        changes.rows.truncate(rows);
        self.changes = mark.changes;
        Ok(())
    }

    fn query(&mut self, event: &Event<'_>, place: &Place<'_>, replays: bool, changes: &mut Changes) -> Result<Outcome> {
        /// What stands before the variables of a LOAD DATA.
        const LOAD: usize = 13;
        let extra = if event.header.kind == kind::EXECUTE_LOAD_QUERY { LOAD } else { 0 };
        let seconds = event.header.time;
        let mut query = event::parse_query(event.body, extra).ok_or_else(|| malformed("query"))?;
        let mut inflated = Vec::new();
        if event.header.kind == kind::QUERY_COMPRESSED {
            inflate(query.text, &mut inflated).ok_or_else(|| malformed("compressed query"))?;
            query.text = &inflated;
        }
        match query.text {
            b"BEGIN" if !replays => {
                self.abandon(place.start, changes)?;
                self.open_begun(place, false, changes);
                return Ok(Outcome::Taken);
            }
            b"COMMIT" if !replays => {
                self.commit(0, seconds, place, changes);
                return Ok(Outcome::Taken);
            }
            _ => {}
        }
        let text = match self.text_of(&query) {
            Ok(text) => text,
            Err(question) => return Ok(Outcome::Ask(question)),
        };
        let dialect = Dialect {
            server: self.setting.server,
            ansi_quotes: query.ansi_quotes(),
            plain_backslash: query.no_backslash_escapes(),
        };
        let statement = statement::parse(&text, dialect);
        match statement {
            Statement::Savepoint(name) => {
                let mark = self.mark(place.start, changes);
                if let Some(open) = &mut self.open {
                    open.savepoints.push((name, mark));
                }
            }
            Statement::RollbackTo(name) => {
                let found = self.open.as_ref().and_then(|open| {
                    open.savepoints
                        .iter()
                        .rev()
                        .find(|(known, _)| known.eq_ignore_ascii_case(&name))
                        .map(|(_, mark)| *mark)
                });
                if let Some(mark) = found {
                    self.undo(mark, place.end, changes)?;
                }
            }
            // Two-phase transactions are read again as others.
            _ if replays => {}
            Statement::Begin => {
                self.abandon(place.start, changes)?;
                self.open_begun(place, false, changes);
            }
            Statement::XaStart => {
                self.abandon(place.start, changes)?;
                self.open_begun(place, true, changes);
            }
            Statement::Commit => self.commit(0, seconds, place, changes),
            Statement::Rollback => {
                if let Some(open) = self.open.take() {
                    self.undo(open.begin, place.end, changes)?;
                }
                self.begin = None;
                changes.resume = Some(place.after());
            }
            Statement::XaRollback(xid) => {
                self.prepared.remove(&xid);
                self.commit(0, seconds, place, changes);
            }
            Statement::XaCommit(xid) => return self.commit_prepared(xid, seconds, place, changes),
            statement => return self.define(statement, &query, seconds, place, changes),
        }
        Ok(Outcome::Taken)
    }

    /// The text of a statement, which is in the character set of its client.
    fn text_of(&self, query: &Query<'_>) -> std::result::Result<String, Question> {
        let charset = self.setting.collations.get(&query.collation).map_or("utf8mb4", String::as_str);
        if query.text.is_ascii() || Charset::known(charset).is_some_and(|charset| matches!(charset, Charset::Utf8)) {
            return Ok(String::from_utf8_lossy(query.text).into_owned());
        }
        let charset = match (Charset::known(charset), self.charsets.get(charset)) {
            (Some(known), _) => known,
            (None, Some(Some(known))) => known.clone(),
            (None, Some(None)) => Charset::Utf8,
            (None, None) => return Err(Question::Charset(charset.to_owned())),
        };
        let mut text = Vec::new();
        charset.write(query.text, &mut text);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The end of a two-phase transaction's first phase.
    fn prepare(&mut self, event: &Event<'_>, place: &Place<'_>, changes: &mut Changes) -> Result<Outcome> {
        let (xid, one_phase) = event::parse_xa_prepare(event.body).ok_or_else(|| malformed("XA prepare"))?;
        if std::mem::take(&mut self.replayed) {
            self.commit(0, event.header.time, place, changes);
            return Ok(Outcome::Taken);
        }
        let Some(open) = &self.open else {
            self.commit(0, event.header.time, place, changes);
            return Ok(Outcome::Taken);
        };
        let prepared = Prepared {
            file: place.file.to_owned(),
            start: open.begin.offset,
            captured: open.prepares && open.captured,
        };
        if one_phase && prepared.captured {
            return Ok(Outcome::Ask(Question::Replay(prepared)));
        }
        if !one_phase {
            self.remember(xid, prepared);
        }
        self.commit(0, event.header.time, place, changes);
        Ok(Outcome::Taken)
    }

    fn remember(&mut self, xid: Xid, prepared: Prepared) {
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.pop_first();
        }
        self.prepared.insert(xid, prepared);
    }

    fn commit_prepared(&mut self, xid: Xid, seconds: u32, place: &Place<'_>, changes: &mut Changes) -> Result<Outcome> {
        if !std::mem::take(&mut self.replayed) {
            match self.prepared.get(&xid) {
                None => return Ok(Outcome::Ask(Question::Prepared(xid))),
                Some(prepared) if prepared.captured => return Ok(Outcome::Ask(Question::Replay(prepared.clone()))),
                Some(_) => {}
            }
        }
        self.prepared.remove(&xid);
        self.commit(0, seconds, place, changes);
        Ok(Outcome::Taken)
    }

    /// The table that could not be followed further, since the last call.
    pub(super) fn take_given_up(&mut self) -> Option<TableName> {
        self.given_up.take()
    }

    /// Whether a table is captured, by its name.
    fn captures(&self, name: &TableName) -> bool {
        const OWN: [&str; 4] = ["mysql", "sys", "information_schema", "performance_schema"];
        let is_own = OWN.iter().any(|own| name.schema.eq_ignore_ascii_case(own));
        // DMS's own tables are not moved; one of them tells what came from this task's target.
        let is_dms = name.table.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("awsdms_"))
            && name.table != "awsdms_loopback_prevention";
        !is_own && !is_dms && !self.later.contains_key(name) && (self.setting.capture.selects)(name)
    }

    /// Tells what a table looks like, unless that is known; gives its number.
    fn tell(&mut self, index: usize, changes: &mut Changes) -> u32 {
        let table = &mut self.tables[index];
        let number = *table.number.get_or_insert_with(|| {
            *self.numbers.entry(table.name.clone()).or_insert_with(|| {
                self.numbers_used += 1;
                self.numbers_used - 1
            })
        });
        if table.told.is_none() {
            let version = Arc::new(table.version());
            table.told = Some(version.clone());
            changes.entries.push(Entry::Table { table: number, version });
        }
        number
    }
}

#[cfg(test)]
mod tests;
