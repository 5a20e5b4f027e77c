//! Statements of the log, as far as they matter: the bounds of transactions, and what changes the tables.
//!
//! A tolerant reader, not a parser of all of SQL: what does not change columns or keys is passed over. Where something is
//! met that it does not understand, it says so, and the catalog is asked.

use super::definition::{Definition, TextDefault};
use super::event::Xid;
use super::lexer::{Dialect, Lexer, Token};

/// A table as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) schema: Option<String>,
    pub(super) table: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    XaStart,
    XaCommit(Xid),
    XaRollback(Xid),
    Create(Create),
    /// `None`: not understood.
    Alter(Name, Option<Vec<Change>>),
    Drop(Vec<Name>),
    DropSchema(String),
    Rename(Vec<(Name, Name)>),
    Truncate(Name),
    /// Rows as a statement, and not one by one: which tables they may be of.
    Write(Vec<Name>),
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Create {
    pub(super) name: Name,
    pub(super) replace: bool,
    pub(super) if_not_exists: bool,
    pub(super) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Columns {
        columns: Vec<Definition>,
        keys: Vec<Key>,
        text: Option<TextDefault>,
    },
    Like(Name),
    /// Not understood.
    Unknown,
}

/// A primary or unique key. `whole`: none of its columns is in it with a prefix only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) primary: bool,
    pub(super) columns: Vec<String>,
    pub(super) whole: bool,
}

/// Where a column comes to stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it is, or at the end.
    #[default]
    Usual,
    First,
    After(String),
}

/// A part of an ALTER TABLE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add(Definition, Place),
    Drop(String),
    /// The column of this name becomes this.
    Redefine(String, Definition, Place),
    RenameColumn(String, String),
    Hide(String),
    Show(String),
    /// All text gets another character set.
    Convert(TextDefault),
    TextDefault(TextDefault),
    RenameTo(Name),
    AddKey(Key),
    DropPrimaryKey,
    /// Some other key goes, which one the log does not tell.
    DropKey,
    /// Rows go without being logged.
    RowsGo,
}

/// Understands a statement.
pub(super) fn parse(text: &str, dialect: Dialect) -> Statement {
    let mut lexer = Lexer::new(text, dialect);
    let Some(Token::Word(first)) = lexer.next() else { return Statement::Other };
    let first = first.to_ascii_uppercase();
    if matches!(first.as_str(), "INSERT" | "REPLACE" | "UPDATE" | "DELETE" | "LOAD" | "WITH") {
        return Statement::Write(written(&first, lexer));
    }
    // Others may be as long as a packet, and are not looked into.
    const UNDERSTOOD: [&str; 13] = [
        "BEGIN",
        "START",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "XA",
        "CREATE",
        "ALTER",
        "DROP",
        "RENAME",
        "TRUNCATE",
        "END",
        "SET",
    ];
    if !UNDERSTOOD.contains(&first.as_str()) {
        return Statement::Other;
    }
    let tokens: Vec<Token> = lexer.collect();
    let mut parser = Parser { tokens: &tokens };
    match first.as_str() {
        "BEGIN" => Some(Statement::Begin),
        "START" if parser.keyword("TRANSACTION") => Some(Statement::Begin),
        "COMMIT" => Some(Statement::Commit),
        "ROLLBACK" => parser.rollback(),
        "SAVEPOINT" => parser.name().map(Statement::Savepoint),
        "XA" => parser.xa(),
        "CREATE" => parser.create(),
        "ALTER" => parser.alter(),
        "DROP" => parser.drop(),
        "RENAME" => parser.rename(),
        "TRUNCATE" => {
            parser.keyword("TABLE");
            parser.table().map(Statement::Truncate)
        }
        _ => None,
    }
    .unwrap_or(Statement::Other)
}

/// The tables that a statement of rows may write to. Only its beginning is looked at.
fn written(first: &str, lexer: Lexer<'_>) -> Vec<Name> {
    const LOOKED_AT: usize = 1000;
    let tokens: Vec<Token> = lexer.take(LOOKED_AT).collect();
    let ends = |token: &Token| match first {
        "UPDATE" => token.is("SET"),
        "INSERT" | "REPLACE" => {
            token.is("SET")
                || token.is("SELECT")
                || token.is("VALUES")
                || token.is("VALUE")
                || *token == Token::Mark('(')
        }
        _ => false,
    };
    let end = tokens.iter().position(ends).unwrap_or(tokens.len());
    let mut parser = Parser { tokens: &tokens[..end] };
    let mut names = Vec::new();
    while !parser.tokens.is_empty() {
        match parser.table() {
            Some(name) => names.push(name),
            None => drop(parser.next()),
        }
    }
    names
}

#[derive(Clone, Copy)]
struct Parser<'a> {
    tokens: &'a [Token],
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    /// Whether the next word is this; then it is taken.
    fn keyword(&mut self, keyword: &str) -> bool {
        let is = self.tokens.first().is_some_and(|token| token.is(keyword));
        if is {
            self.next();
        }
        is
    }

    fn keywords(&mut self, keywords: &[&str]) -> bool {
        let are = self.tokens.len() >= keywords.len()
            && self.tokens.iter().zip(keywords).all(|(token, keyword)| token.is(keyword));
        if are {
            self.tokens = &self.tokens[keywords.len()..];
        }
        are
    }

    fn any(&mut self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.keyword(keyword))
    }

    fn peek(&self, keywords: &[&str]) -> bool {
        self.tokens.first().is_some_and(|token| keywords.iter().any(|keyword| token.is(keyword)))
    }

    fn mark(&mut self, mark: char) -> bool {
        let is = self.tokens.first() == Some(&Token::Mark(mark));
        if is {
            self.next();
        }
        is
    }

    fn name(&mut self) -> Option<String> {
        let name = self.tokens.first()?.name()?.to_owned();
        self.next();
        Some(name)
    }

    fn table(&mut self) -> Option<Name> {
        let first = self.name()?;
        Some(match self.mark('.') {
            true => Name { schema: Some(first), table: self.name()? },
            false => Name { schema: None, table: first },
        })
    }

    /// What stands in brackets, without them.
    fn brackets(&mut self) -> Option<Parser<'a>> {
        let start = self.tokens;
        self.mark('(').then_some(())?;
        let mut depth = 1;
        loop {
            match self.next()? {
                Token::Mark('(') => depth += 1,
                Token::Mark(')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(Parser { tokens: &start[1..start.len() - self.tokens.len() - 1] });
            }
        }
    }

    /// What stands between commas that are in no brackets.
    fn list(self) -> Vec<Parser<'a>> {
        let mut depth = 0;
        let comma = |token: &Token| {
            match token {
                Token::Mark('(') => depth += 1,
                Token::Mark(')') => depth -= 1,
                _ => {}
            }
            depth == 0 && *token == Token::Mark(',')
        };
        self.tokens.split(comma).map(|tokens| Parser { tokens }).collect()
    }

    fn rollback(&mut self) -> Option<Statement> {
        self.keyword("WORK");
        if !self.keyword("TO") {
            return Some(Statement::Rollback);
        }
        self.keyword("SAVEPOINT");
        self.name().map(Statement::RollbackTo)
    }

    fn xa(&mut self) -> Option<Statement> {
        let verb = self.name()?.to_ascii_uppercase();
        match verb.as_str() {
            "START" | "BEGIN" => Some(Statement::XaStart),
            "COMMIT" => self.xid().map(Statement::XaCommit),
            "ROLLBACK" => self.xid().map(Statement::XaRollback),
            _ => None,
        }
    }

    /// `X'78',X'',1`, of which the server leaves nothing out.
    fn xid(&mut self) -> Option<Xid> {
        let mut part = || {
            let hex = self.keyword("X");
            let Some(Token::Text(text)) = self.next() else { return None };
            self.mark(',');
            match hex {
                true => data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
                false => Some(text.clone().into_bytes()),
            }
        };
        let (global, branch) = (part()?, part().unwrap_or_default());
        let format = self.name().and_then(|number| number.parse().ok()).unwrap_or(1);
        Some(Xid::of(format, &global, &branch))
    }

    fn drop(&mut self) -> Option<Statement> {
        if self.any(&["DATABASE", "SCHEMA"]) {
            self.keywords(&["IF", "EXISTS"]);
            return self.name().map(Statement::DropSchema);
        }
        if self.peek(&["INDEX"]) || self.peek(&["ONLINE", "OFFLINE"]) && self.tokens.get(1)?.is("INDEX") {
            return self.on_table(Change::DropKey);
        }
        // A temporary table is in no row of the log.
        self.any(&["TABLE", "TABLES"]).then_some(())?;
        self.keywords(&["IF", "EXISTS"]);
        let names = self.list().into_iter().map(|mut name| name.table()).collect::<Option<_>>()?;
        Some(Statement::Drop(names))
    }

    /// A statement on an index: which table it is of stands behind ON.
    fn on_table(&mut self, change: Change) -> Option<Statement> {
        while !self.keyword("ON") {
            self.next()?;
        }
        Some(Statement::Alter(self.table()?, Some(vec![change])))
    }

    fn rename(&mut self) -> Option<Statement> {
        self.any(&["TABLE", "TABLES"]).then_some(())?;
        self.keywords(&["IF", "EXISTS"]);
        let pair = |mut pair: Parser<'a>| {
            let from = pair.table()?;
            pair.wait();
            pair.keyword("TO").then_some(())?;
            Some((from, pair.table()?))
        };
        self.list().into_iter().map(pair).collect::<Option<_>>().map(Statement::Rename)
    }

    /// MariaDB: how long to wait for others.
    fn wait(&mut self) {
        if self.keyword("WAIT") {
            self.next();
        }
        self.keyword("NOWAIT");
    }

    fn create(&mut self) -> Option<Statement> {
        let replace = self.keywords(&["OR", "REPLACE"]);
        if self.peek(&["UNIQUE"]) {
            return self.create_unique_index();
        }
        self.keyword("TABLE").then_some(())?;
        let if_not_exists = self.keywords(&["IF", "NOT", "EXISTS"]);
        let name = self.table()?;
        let body = self.create_body().unwrap_or(Body::Unknown);
        Some(Statement::Create(Create { name, replace, if_not_exists, body }))
    }

    fn create_unique_index(&mut self) -> Option<Statement> {
        while !self.keyword("ON") {
            self.next()?;
        }
        let name = self.table()?;
        let key = self.key_columns(false);
        Some(Statement::Alter(name, key.map(|key| vec![Change::AddKey(key)])))
    }

    fn create_body(&mut self) -> Option<Body> {
        if self.keyword("LIKE") {
            return self.table().map(Body::Like);
        }
        let mut inner = self.brackets()?;
        if inner.keyword("LIKE") {
            return inner.table().map(Body::Like);
        }
        let (mut columns, mut keys) = (Vec::new(), Vec::new());
        for mut part in inner.list() {
            if part.is_key() {
                keys.extend(part.key()?);
                continue;
            }
            let (definition, _) = part.definition()?;
            for primary in [true, false] {
                if if primary { definition.primary } else { definition.unique } {
                    keys.push(Key { primary, columns: vec![definition.name.clone()], whole: true });
                }
            }
            columns.push(definition);
        }
        Some(Body::Columns { columns, keys, text: self.text_options() })
    }

    /// Whether what follows is no column. A column of such a name stands in quotes.
    fn is_key(&self) -> bool {
        const KEYS: [&str; 10] =
            ["PRIMARY", "UNIQUE", "KEY", "INDEX", "FULLTEXT", "SPATIAL", "CONSTRAINT", "FOREIGN", "CHECK", "PARTITION"];
        let second = |keyword: &str| self.tokens.get(1).is_some_and(|token| token.is(keyword));
        self.peek(&KEYS)
            || self.peek(&["PERIOD"]) && second("FOR")
            || self.peek(&["SYSTEM"]) && second("VERSIONING")
            || self.peek(&["VECTOR"]) && (second("INDEX") || second("KEY"))
    }

    /// A key, if it is one that tells rows apart.
    fn key(&mut self) -> Option<Vec<Key>> {
        if self.keyword("CONSTRAINT") && !self.peek(&["PRIMARY", "UNIQUE", "FOREIGN", "CHECK"]) {
            self.name();
        }
        let primary = match () {
            () if self.keyword("PRIMARY") => true,
            () if self.keyword("UNIQUE") => false,
            () => return Some(Vec::new()),
        };
        self.key_columns(primary).map(|key| vec![key])
    }

    /// The columns of a key, after its name and the like. One over an expression has none.
    fn key_columns(&mut self, primary: bool) -> Option<Key> {
        while self.tokens.first().is_some_and(|token| *token != Token::Mark('(')) {
            self.next();
        }
        let (mut columns, mut whole) = (Vec::new(), true);
        for mut part in self.brackets()?.list() {
            match part.name() {
                Some(column) => columns.push(column),
                None => whole = false,
            }
            whole &= part.tokens.first() != Some(&Token::Mark('('));
        }
        Some(Key { primary, columns, whole })
    }

    /// The character set that a table's options state.
    fn text_options(&mut self) -> Option<TextDefault> {
        let (mut charset, mut collation) = (None, None);
        while !self.tokens.is_empty() {
            if let Some(name) = self.charset_clause() {
                charset = Some(name);
            } else if self.keyword("COLLATE") {
                self.mark('=');
                collation = self.text_or_name();
            } else if self.any(&["SELECT", "PARTITION", "AS"]) {
                break;
            } else {
                self.next();
            }
        }
        text_default(charset, collation)
    }

    /// `CHARACTER SET x`, in all its spellings.
    fn charset_clause(&mut self) -> Option<String> {
        let is = self.keyword("CHARSET") || self.keywords(&["CHARACTER", "SET"]) || self.keywords(&["CHAR", "SET"]);
        is.then_some(())?;
        self.mark('=');
        self.text_or_name()
    }

    fn text_or_name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Text(text) => Some(text.to_ascii_lowercase()),
            token => token.name().map(str::to_ascii_lowercase),
        }
    }
}

fn text_default(charset: Option<String>, collation: Option<String>) -> Option<TextDefault> {
    match (charset, collation) {
        (Some(charset), collation) => Some(TextDefault { charset, collation }),
        (None, collation) => collation.map(|collation| TextDefault::of_collation(&collation)),
    }
}

/// ALTER TABLE.
impl<'a> Parser<'a> {
    fn alter(&mut self) -> Option<Statement> {
        while self.any(&["ONLINE", "OFFLINE", "IGNORE"]) {}
        self.keyword("TABLE").then_some(())?;
        self.keywords(&["IF", "EXISTS"]);
        let name = self.table()?;
        self.wait();
        let mut changes = Vec::new();
        for mut part in self.list() {
            match part.change() {
                Some(some) => changes.extend(some),
                None => return Some(Statement::Alter(name, None)),
            }
        }
        Some(Statement::Alter(name, Some(changes)))
    }

    /// `None`: not understood.
    fn change(&mut self) -> Option<Vec<Change>> {
        let start = *self;
        if self.keyword("ADD") {
            return self.add();
        }
        if self.keyword("DROP") {
            return self.drop_part();
        }
        if self.keyword("CHANGE") {
            self.keyword("COLUMN");
            self.keywords(&["IF", "EXISTS"]);
            let from = self.name()?;
            let (definition, place) = self.definition()?;
            return Some(redefine(from, definition, place));
        }
        if self.keyword("MODIFY") {
            self.keyword("COLUMN");
            self.keywords(&["IF", "EXISTS"]);
            let (definition, place) = self.definition()?;
            return Some(redefine(definition.name.clone(), definition, place));
        }
        if self.keyword("RENAME") {
            return self.rename_part();
        }
        if self.keyword("ALTER") {
            return self.alter_part();
        }
        if self.keywords(&["CONVERT", "TO"]) {
            let charset = self.charset_clause()?;
            let collation = if self.keyword("COLLATE") { self.text_or_name() } else { None };
            return Some(vec![Change::Convert(TextDefault { charset, collation })]);
        }
        if self.peek(&["TRUNCATE", "EXCHANGE", "DISCARD", "IMPORT"]) {
            return Some(vec![Change::RowsGo]);
        }
        // Options, one after the other and without commas if the author likes it so.
        *self = start;
        Some(self.text_options().map(Change::TextDefault).into_iter().collect())
    }

    fn add(&mut self) -> Option<Vec<Change>> {
        if self.is_key() {
            return Some(self.key()?.into_iter().map(Change::AddKey).collect());
        }
        self.keyword("COLUMN");
        self.keywords(&["IF", "NOT", "EXISTS"]);
        let Some(several) = self.brackets() else {
            let (definition, place) = self.definition()?;
            return Some(added(definition, place));
        };
        let mut changes = Vec::new();
        for mut part in several.list() {
            if part.is_key() {
                changes.extend(part.key()?.into_iter().map(Change::AddKey));
            } else {
                changes.extend(added(part.definition()?.0, Place::Usual));
            }
        }
        Some(changes)
    }

    fn drop_part(&mut self) -> Option<Vec<Change>> {
        if self.keywords(&["PRIMARY", "KEY"]) {
            return Some(vec![Change::DropPrimaryKey]);
        }
        // A constraint may be a unique key.
        if self.any(&["INDEX", "KEY", "CONSTRAINT"]) {
            return Some(vec![Change::DropKey]);
        }
        if self.keywords(&["FOREIGN", "KEY"]) || self.keyword("CHECK") || self.keyword("PERIOD") {
            return Some(Vec::new());
        }
        if self.keyword("PARTITION") {
            return Some(vec![Change::RowsGo]);
        }
        if self.keywords(&["SYSTEM", "VERSIONING"]) {
            return None;
        }
        self.keyword("COLUMN");
        self.keywords(&["IF", "EXISTS"]);
        Some(vec![Change::Drop(self.name()?)])
    }

    fn rename_part(&mut self) -> Option<Vec<Change>> {
        if self.keyword("COLUMN") {
            self.keywords(&["IF", "EXISTS"]);
            let from = self.name()?;
            self.keyword("TO").then_some(())?;
            return Some(vec![Change::RenameColumn(from, self.name()?)]);
        }
        if self.any(&["INDEX", "KEY"]) {
            return Some(Vec::new());
        }
        let _ = self.any(&["TO", "AS"]) || self.mark('=');
        Some(vec![Change::RenameTo(self.table()?)])
    }

    /// Defaults do not matter, and whether a column is seen does.
    fn alter_part(&mut self) -> Option<Vec<Change>> {
        if self.any(&["INDEX", "KEY", "CHECK", "CONSTRAINT"]) {
            return Some(Vec::new());
        }
        self.keyword("COLUMN");
        self.keywords(&["IF", "EXISTS"]);
        let column = self.name()?;
        Some(match () {
            () if self.keywords(&["SET", "INVISIBLE"]) => vec![Change::Hide(column)],
            () if self.keywords(&["SET", "VISIBLE"]) => vec![Change::Show(column)],
            () => Vec::new(),
        })
    }

    /// A column: its name, its type, and as many of its attributes as matter.
    fn definition(&mut self) -> Option<(Definition, Place)> {
        let mut definition = Definition { name: self.name()?, ..Definition::default() };
        self.data_type(&mut definition)?;
        let mut place = Place::Usual;
        while let Some(token) = self.tokens.first() {
            if let Some(charset) = self.charset_clause() {
                definition.charset = Some(charset);
                continue;
            }
            if *token == Token::Mark('(') {
                self.brackets()?;
                continue;
            }
            self.next();
            let Token::Word(word) = token else { continue };
            match word.to_ascii_uppercase().as_str() {
                "UNSIGNED" => definition.unsigned = true,
                "ZEROFILL" => definition.zerofill = true,
                "COMPRESSED" => definition.compressed = true,
                "ASCII" => definition.charset = Some("latin1".to_owned()),
                "UNICODE" => definition.charset = Some("ucs2".to_owned()),
                "COLLATE" => definition.collation = self.text_or_name(),
                "NOT" if self.keyword("NULL") => definition.not_null = true,
                "GENERATED" | "AS" => definition.generated = true,
                "INVISIBLE" => definition.hidden = true,
                "PRIMARY" => {
                    self.keyword("KEY");
                    definition.primary = true;
                }
                "KEY" => definition.primary = true,
                "UNIQUE" => {
                    self.keyword("KEY");
                    definition.unique = true;
                }
                // Their values could pass for attributes.
                "DEFAULT" | "COMMENT" | "REFERENCES" | "CONSTRAINT" | "ENGINE_ATTRIBUTE" | "COLUMN_FORMAT"
                | "STORAGE" => {
                    self.next();
                }
                "ON" => {
                    self.next();
                    self.next();
                }
                "FIRST" => place = Place::First,
                "AFTER" => place = Place::After(self.name()?),
                // What follows is of the table.
                "PARTITION" => break,
                _ => {}
            }
        }
        Some((definition, place))
    }

    fn data_type(&mut self, definition: &mut Definition) -> Option<()> {
        let Some(Token::Word(first)) = self.next() else { return None };
        definition.words.push(first.to_ascii_lowercase());
        definition.unique = first.eq_ignore_ascii_case("SERIAL");
        // Types of several words.
        let first = first.to_ascii_uppercase();
        let more: &[&str] = match first.as_str() {
            "DOUBLE" => &["PRECISION"],
            "CHAR" | "CHARACTER" => &["VARYING", "BYTE"],
            "NCHAR" => &["VARYING", "VARCHAR"],
            "NATIONAL" => &["CHAR", "CHARACTER", "VARCHAR", "VARCHARACTER"],
            "LONG" => &["VARCHAR", "VARBINARY"],
            _ => &[],
        };
        while let Some(word) = more.iter().find(|word| self.peek(&[word])) {
            self.next();
            definition.words.push(word.to_ascii_lowercase());
            if first == "NATIONAL" && self.keyword("VARYING") {
                definition.words.push("varying".to_owned());
            }
        }
        if self.tokens.first() == Some(&Token::Mark('(')) {
            for part in self.brackets()?.list() {
                let [Token::Text(argument) | Token::Word(argument)] = part.tokens else { return None };
                definition.arguments.push(argument.clone());
            }
        }
        // Old syntax of two words behind the length: `char(3) byte`.
        if self.keyword("BYTE") {
            definition.words.push("byte".to_owned());
        }
        Some(())
    }
}

fn added(definition: Definition, place: Place) -> Vec<Change> {
    let keys = column_keys(&definition);
    std::iter::once(Change::Add(definition, place)).chain(keys).collect()
}

fn redefine(from: String, definition: Definition, place: Place) -> Vec<Change> {
    let keys = column_keys(&definition);
    std::iter::once(Change::Redefine(from, definition, place)).chain(keys).collect()
}

fn column_keys(definition: &Definition) -> Vec<Change> {
    let key = |primary| Change::AddKey(Key { primary, columns: vec![definition.name.clone()], whole: true });
    let marks = [(definition.primary, true), (definition.unique, false)];
    marks.iter().filter(|(is, _)| *is).map(|(_, primary)| key(*primary)).collect()
}

#[cfg(test)]
mod tests;
