//! Statements that define tables, as far as they mean something to the tables' columns and names.
//!
//! The text is one that the server has run, so only what is of interest is looked at: a clause that is not known here
//! changes no column.

mod audit;
mod script;
mod token;

use token::Token;

pub use audit::{AUDIT_TABLE, record};
pub use script::Scripts;

/// A name as the statement has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub schema: Option<String>,
    pub table: String,
}

/// A column with the text of its type, which means something where the statement was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewColumn {
    pub name: String,
    pub type_text: String,
    pub nullable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Create {
        name: Name,
        /// `None` where the text does not tell them all: of the result of a query, or like those of another table.
        columns: Option<Vec<NewColumn>>,
        primary_key: Vec<String>,
        partition_of: Option<Name>,
        /// It is the session's alone.
        temporary: bool,
    },
    Drop(Vec<Name>),
    Alter {
        name: Name,
        /// Not what inherits from the table.
        only: bool,
        change: Alteration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// In the order in which the server does them, which is not that of the text.
    Columns(Vec<Action>),
    RenameColumn {
        from: String,
        to: String,
    },
    Rename(String),
    SetSchema(String),
    Attach(Name),
    Detach(Name),
    /// Changes no column and no name, but maybe a key.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Add(NewColumn),
    Drop(String),
    Retype { column: String, type_text: String },
}

/// The command tags that the audit table has statements of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    Create,
    CreateAs,
    Drop,
    Alter,
}

impl Tag {
    pub fn parse(tag: &str) -> Option<Tag> {
        match tag {
            "CREATE TABLE" => Some(Tag::Create),
            "CREATE TABLE AS" => Some(Tag::CreateAs),
            "DROP TABLE" => Some(Tag::Drop),
            "ALTER TABLE" => Some(Tag::Alter),
            _ => None,
        }
    }
}

/// Reads one statement. `None` for one of another kind or one that is not understood.
fn parse(tokens: &[Token<'_>]) -> Option<(Tag, Statement)> {
    let mut input = Input(tokens);
    if input.word("create") {
        let mut temporary = false;
        while input.words(&["global", "local", "temp", "temporary", "unlogged"], |word| temporary |= is_temporary(word))
        {
        }
        return input.word("table").then(|| create(input, temporary))?;
    }
    if input.word("drop") && input.word("table") {
        input.phrase(&["if", "exists"]);
        return Some((Tag::Drop, Statement::Drop(input.names()?)));
    }
    let mut input = Input(tokens);
    if input.word("alter") && input.word("table") {
        input.phrase(&["if", "exists"]);
        let only = input.word("only");
        let name = input.table_name()?;
        input.sign('*');
        return Some((Tag::Alter, Statement::Alter { name, only, change: alteration(input) }));
    }
    None
}

fn is_temporary(word: &str) -> bool {
    word.starts_with("temp")
}

fn create(mut input: Input<'_>, temporary: bool) -> Option<(Tag, Statement)> {
    input.phrase(&["if", "not", "exists"]);
    let name = input.table_name()?;
    let temporary = temporary || name.schema.as_deref() == Some("pg_temp");
    let (mut columns, mut primary_key, mut partition_of) = (None, Vec::new(), None);
    let mut rest = input;
    if input.phrase(&["partition", "of"]) {
        partition_of = Some(input.table_name()?);
    } else if let Some(list) = input.parenthesis() {
        rest = input;
        if !has_word(input, "inherits") {
            columns = column_list(list, &mut primary_key);
        }
    }
    let tag = if has_word(rest, "as") { Tag::CreateAs } else { Tag::Create };
    let columns = columns.filter(|_| tag == Tag::Create);
    Some((tag, Statement::Create { name, columns, primary_key, partition_of, temporary }))
}

/// Whether a word stands outside of all parentheses.
fn has_word(mut input: Input<'_>, word: &str) -> bool {
    while let Some(token) = input.0.first() {
        if token.is(word) {
            return true;
        }
        if input.parenthesis().is_none() {
            input.0 = &input.0[1..];
        }
    }
    false
}

/// The columns of a CREATE TABLE; `None` where some of them are another table's.
fn column_list(list: Input<'_>, primary_key: &mut Vec<String>) -> Option<Vec<NewColumn>> {
    let mut columns = Vec::new();
    for mut element in list.split() {
        if element.is_constraint() {
            while !element.0.is_empty() {
                if element.phrase(&["primary", "key"]) {
                    let names = element.parenthesis()?.split();
                    *primary_key = names.into_iter().map(|mut name| name.name()).collect::<Option<_>>()?;
                    break;
                }
                element.0 = &element.0[1..];
            }
            continue;
        }
        if element.word("like") {
            return None;
        }
        let column = new_column(element)?;
        if has_phrase(element, &["primary", "key"]) {
            primary_key.push(column.name.clone());
        }
        columns.push(column);
    }
    for column in &mut columns {
        column.nullable &= !primary_key.contains(&column.name);
    }
    Some(columns)
}

fn has_phrase(mut input: Input<'_>, words: &[&str]) -> bool {
    while !input.0.is_empty() {
        if input.phrase(words) {
            return true;
        }
        if input.parenthesis().is_none() {
            input.0 = &input.0[1..];
        }
    }
    false
}

/// `name type …`.
fn new_column(mut input: Input<'_>) -> Option<NewColumn> {
    let (name, type_text) = (input.name()?, input.type_text()?);
    let nullable = !has_phrase(input, &["not", "null"]);
    Some(NewColumn { name, type_text, nullable })
}

fn alteration(mut input: Input<'_>) -> Alteration {
    let single = |mut input: Input<'_>| -> Option<Alteration> {
        if input.word("rename") {
            if input.word("to") {
                return Some(Alteration::Rename(input.name()?));
            }
            if input.word("constraint") {
                return Some(Alteration::Other);
            }
            input.column();
            let from = input.name()?;
            return input.word("to").then(|| input.name()).flatten().map(|to| Alteration::RenameColumn { from, to });
        }
        if input.phrase(&["set", "schema"]) {
            return Some(Alteration::SetSchema(input.name()?));
        }
        if input.phrase(&["attach", "partition"]) {
            return Some(Alteration::Attach(input.table_name()?));
        }
        input.phrase(&["detach", "partition"]).then(|| input.table_name().map(Alteration::Detach)).flatten()
    };
    if let Some(alteration) = single(input) {
        return alteration;
    }
    let mut actions: Vec<Action> = Vec::new();
    for action in std::mem::take(&mut input).split() {
        actions.extend(self::action(action));
    }
    if actions.is_empty() {
        return Alteration::Other;
    }
    actions.sort_by_key(|action| match action {
        Action::Drop(_) => 0,
        Action::Retype { .. } => 1,
        Action::Add(_) => 2,
    });
    Alteration::Columns(actions)
}

/// One action of an ALTER TABLE, if it changes a column.
fn action(mut input: Input<'_>) -> Option<Action> {
    if input.word("add") {
        if !input.column() && input.is_constraint() {
            return None;
        }
        input.phrase(&["if", "not", "exists"]);
        return new_column(input).map(Action::Add);
    }
    if input.word("drop") {
        if !input.column() && input.0.first()?.is("constraint") {
            return None;
        }
        input.phrase(&["if", "exists"]);
        return input.name().map(Action::Drop);
    }
    if input.word("alter") {
        input.column();
        let column = input.name()?;
        input.phrase(&["set", "data"]);
        return input.word("type").then(|| Some(Action::Retype { column, type_text: input.type_text()? }))?;
    }
    None
}

/// What is left of a statement.
#[derive(Clone, Copy, Default)]
struct Input<'a>(&'a [Token<'a>]);

impl<'a> Input<'a> {
    /// Takes a keyword that comes next.
    fn word(&mut self, word: &str) -> bool {
        self.phrase(&[word])
    }

    /// Takes keywords that come next, all or none.
    fn phrase(&mut self, words: &[&str]) -> bool {
        let there = self.0.len() >= words.len() && self.0.iter().zip(words).all(|(token, word)| token.is(word));
        if there {
            self.0 = &self.0[words.len()..];
        }
        there
    }

    /// Takes any of some keywords.
    fn words(&mut self, words: &[&str], mut taken: impl FnMut(&str)) -> bool {
        let word = words.iter().find(|word| self.0.first().is_some_and(|token| token.is(word)));
        word.is_some_and(|word| {
            taken(word);
            self.word(word)
        })
    }

    fn sign(&mut self, sign: char) -> bool {
        let there = self.0.first().is_some_and(|token| token.is_sign(sign));
        if there {
            self.0 = &self.0[1..];
        }
        there
    }

    /// Takes the word COLUMN, which may be left out.
    fn column(&mut self) -> bool {
        self.word("column")
    }

    fn name(&mut self) -> Option<String> {
        let name = self.0.first()?.name()?;
        self.0 = &self.0[1..];
        Some(name)
    }

    /// `name`, `schema.name` or `database.schema.name`.
    fn table_name(&mut self) -> Option<Name> {
        let mut name = Name { schema: None, table: self.name()? };
        while self.sign('.') {
            name = Name { schema: Some(name.table), table: self.name()? };
        }
        Some(name)
    }

    fn names(&mut self) -> Option<Vec<Name>> {
        let mut names = vec![self.table_name()?];
        while self.sign(',') {
            names.push(self.table_name()?);
        }
        Some(names)
    }

    /// Takes what is in parentheses that come next.
    fn parenthesis(&mut self) -> Option<Input<'a>> {
        if !self.0.first()?.is_sign('(') {
            return None;
        }
        let mut depth = 0_usize;
        for (at, token) in self.0.iter().enumerate() {
            match token {
                Token::Sign('(') => depth += 1,
                Token::Sign(')') if depth == 1 => {
                    let inside = Input(&self.0[1..at]);
                    self.0 = &self.0[at + 1..];
                    return Some(inside);
                }
                Token::Sign(')') => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// The parts between commas outside of parentheses.
    fn split(self) -> Vec<Input<'a>> {
        let mut depth = 0_usize;
        let parts = self.0.split(move |token| {
            match token {
                Token::Sign('(' | '[') => depth += 1,
                Token::Sign(')' | ']') => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.is_sign(',')
        });
        parts.filter(|part| !part.is_empty()).map(Input).collect()
    }

    /// Whether a table's constraint comes next and not a column, which may have the name of one that is no reserved
    /// word.
    fn is_constraint(&self) -> bool {
        let Some(first) = self.0.first() else { return false };
        ["constraint", "primary", "unique", "check", "foreign"].iter().any(|word| first.is(word))
            || (first.is("exclude") && self.0.get(1).is_some_and(|next| next.is("using") || next.is_sign('(')))
    }

    /// Takes a type, up to what may follow one. It is put together from names, numbers and a few signs, so that it
    /// cannot say anything else when it is sent to a server.
    fn type_text(&mut self) -> Option<String> {
        const FOLLOWERS: [&str; 17] = [
            "collate",
            "using",
            "constraint",
            "not",
            "null",
            "check",
            "default",
            "generated",
            "unique",
            "primary",
            "references",
            "deferrable",
            "initially",
            "storage",
            "compression",
            "options",
            "as",
        ];
        let mut text = String::new();
        while let Some(token) = self.0.first() {
            if FOLLOWERS.iter().any(|word| token.is(word)) {
                break;
            }
            match token {
                Token::Word(word) => {
                    text.push(' ');
                    text.push_str(word);
                }
                Token::Name(name) => {
                    text.push(' ');
                    text.push_str(&super::sql::identifier(name));
                }
                Token::Number(number) => text.push_str(number),
                Token::Sign(sign @ ('(' | ')' | '[' | ']' | ',' | '.' | '-')) => text.push(*sign),
                Token::Text | Token::Sign(_) => return None,
            }
            self.0 = &self.0[1..];
        }
        // A name with a point in it stays whole.
        let text = text.replace(". ", ".").trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(Tag, Statement)> {
        parse(&token::statements(text).unwrap()[0])
    }

    fn name(name: &str) -> Name {
        match name.split_once('.') {
            Some((schema, table)) => Name { schema: Some(schema.into()), table: table.into() },
            None => Name { schema: None, table: name.into() },
        }
    }

    fn column(name: &str, type_text: &str) -> NewColumn {
        NewColumn { name: name.into(), type_text: type_text.into(), nullable: true }
    }

    fn altered(text: &str) -> Alteration {
        match parsed(text) {
            Some((Tag::Alter, Statement::Alter { change, .. })) => change,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn reads_what_becomes_of_columns() {
        let add = |column| Alteration::Columns(vec![Action::Add(column)]);
        for (text, expected) in [
            ("ALTER TABLE t ADD a int", add(column("a", "int"))),
            (
                "alter table t add column if not exists \"A b\" numeric(10, 2) default 3",
                add(column("A b", "numeric(10,2)")),
            ),
            (
                "ALTER TABLE t ADD COLUMN a timestamp (3) with time zone[]",
                add(column("a", "timestamp(3) with time zone[]")),
            ),
            ("ALTER TABLE t ADD a s.\"My type\" COLLATE \"C\" CHECK (a > 'x')", add(column("a", "s.\"My type\""))),
            ("ALTER TABLE t ADD COLUMN text text", add(column("text", "text"))),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0), ADD PRIMARY KEY (a)", Alteration::Other),
            ("ALTER TABLE t DROP CONSTRAINT c, ALTER a SET DEFAULT 3, SET (fillfactor = 70)", Alteration::Other),
            (
                "ALTER TABLE t ADD b int NOT NULL, DROP COLUMN IF EXISTS a CASCADE, ALTER c SET DATA TYPE text USING f(c, 1), DROP d",
                Alteration::Columns(vec![
                    Action::Drop("a".into()),
                    Action::Drop("d".into()),
                    Action::Retype { column: "c".into(), type_text: "text".into() },
                    Action::Add(NewColumn { nullable: false, ..column("b", "int") }),
                ]),
            ),
            ("ALTER TABLE t RENAME a TO \"B\"", Alteration::RenameColumn { from: "a".into(), to: "B".into() }),
            ("ALTER TABLE t RENAME COLUMN a TO b", Alteration::RenameColumn { from: "a".into(), to: "b".into() }),
            ("ALTER TABLE t RENAME CONSTRAINT a TO b", Alteration::Other),
            ("ALTER TABLE t RENAME TO u", Alteration::Rename("u".into())),
            ("ALTER TABLE t SET SCHEMA s", Alteration::SetSchema("s".into())),
            ("ALTER TABLE t ATTACH PARTITION s.p FOR VALUES IN (1)", Alteration::Attach(name("s.p"))),
            ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", Alteration::Detach(name("p"))),
            (
                "ALTER TABLE t ALTER COLUMN a TYPE varchar(3) COLLATE \"C\"",
                Alteration::Columns(vec![Action::Retype { column: "a".into(), type_text: "varchar(3)".into() }]),
            ),
        ] {
            assert_eq!(altered(text), expected, "{text}");
        }
    }

    #[test]
    fn reads_whose_statement_it_is() {
        let Some((Tag::Alter, Statement::Alter { name: table, only, .. })) =
            parsed("ALTER TABLE IF EXISTS ONLY \"S\".\"T\" * ADD a int")
        else {
            panic!()
        };
        assert_eq!((table, only), (name("S.T"), true));
        let drop = parsed("DROP TABLE IF EXISTS a, s.b, d.s.c CASCADE");
        assert_eq!(drop, Some((Tag::Drop, Statement::Drop(vec![name("a"), name("s.b"), name("s.c")]))));
        for text in ["DROP VIEW v", "CREATE INDEX ON t (a)", "SELECT 1", "ALTER INDEX i RENAME TO j", "TRUNCATE t"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn reads_new_tables() {
        let text = "CREATE TABLE IF NOT EXISTS s.t (id bigserial PRIMARY KEY, a varchar(3) NOT NULL DEFAULT f(1, 2), \
                    exclude int, CHECK (a > 'x'), EXCLUDE USING gist (a WITH =)) WITH (fillfactor = 70)";
        let id = NewColumn { nullable: false, ..column("id", "bigserial") };
        let a = NewColumn { nullable: false, ..column("a", "varchar(3)") };
        let created = Statement::Create {
            name: name("s.t"),
            columns: Some(vec![id, a, column("exclude", "int")]),
            primary_key: vec!["id".into()],
            partition_of: None,
            temporary: false,
        };
        assert_eq!(parsed(text), Some((Tag::Create, created)));
        let of = |text| match parsed(text) {
            Some((tag, Statement::Create { columns, primary_key, partition_of, temporary, .. })) => {
                (tag, columns.map(|columns| columns.len()), primary_key.join(","), partition_of, temporary)
            }
            other => panic!("{text}: {other:?}"),
        };
        let none = || String::new();
        assert_eq!(of("CREATE UNLOGGED TABLE t (LIKE u)"), (Tag::Create, None, none(), None, false));
        assert_eq!(of("CREATE TABLE t (a int) INHERITS (u)"), (Tag::Create, None, none(), None, false));
        assert_eq!(of("CREATE TABLE t AS SELECT 1"), (Tag::CreateAs, None, none(), None, false));
        assert_eq!(of("CREATE TABLE t (a, b) WITH (x = 1) AS TABLE u"), (Tag::CreateAs, None, none(), None, false));
        assert_eq!(of("CREATE LOCAL TEMP TABLE t (a int)"), (Tag::Create, Some(1), none(), None, true));
        let keyed = "CREATE TABLE t (a int, b int, CONSTRAINT c PRIMARY KEY (b, a)) PARTITION BY LIST (a)";
        assert_eq!(of(keyed), (Tag::Create, Some(2), "b,a".into(), None, false));
        let part = "CREATE TABLE p PARTITION OF s.t (PRIMARY KEY (a)) FOR VALUES FROM (1) TO (2)";
        assert_eq!(of(part), (Tag::Create, None, none(), Some(name("s.t")), false));
        assert_eq!(of("CREATE TABLE t ()"), (Tag::Create, Some(0), none(), None, false));
    }

    proptest::proptest! {
        #[test]
        fn no_statement_is_too_strange(text in "((CREATE|TABLE|ALTER|ADD|DROP|t|a|int|\\(|\\)|,|\\.|\"|TYPE|RENAME|TO|IF|EXISTS|PRIMARY|KEY|1) ?){0,20}") {
            for statement in token::statements(&text).into_iter().flatten() {
                parse(&statement);
            }
        }
    }
}
