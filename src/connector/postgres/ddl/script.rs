//! Which statement of a text it is that was recorded.
//!
//! The audit table has the whole text that a client sent with each statement of it that defines a table, after the
//! statement was run: of a text with three of them come three records, each with all of it.

use std::collections::VecDeque;

use super::token::{self, Token};
use super::{Statement, Tag, parse};

/// Texts that may still have statements to come. Older ones are counted from their beginning again.
const TEXTS_MAX: usize = 32;

/// A longer text is a load, not a definition: DMS reads scripts of at most 8,192 lines.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// How far the recorded texts have come.
#[derive(Debug, Default)]
pub struct Scripts {
    texts: VecDeque<Progress>,
}

#[derive(Debug)]
struct Progress {
    text: String,
    transaction: u32,
    /// The place among the statements after the one recorded last.
    next: usize,
}

impl Scripts {
    /// The statement that a record is of; `None` where the text has none like it that is understood, as when a function
    /// ran it.
    pub fn statement(&mut self, transaction: u32, tag: &str, text: &str) -> Option<Statement> {
        let tag = Tag::parse(tag)?;
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let tokens = token::statements(text)?;
        let ends_transactions = tokens.iter().any(|statement| ends_transaction(statement));
        let mut statements = recorded(&tokens);
        statements.retain(|(_, of, _)| *of == tag);
        let progress = self.progress(transaction, text, ends_transactions);
        // The same text again begins anew.
        let at = statements.iter().position(|(place, ..)| *place >= progress.next).unwrap_or(0);
        if at >= statements.len() {
            return None;
        }
        let (place, _, statement) = statements.swap_remove(at);
        progress.next = place + 1;
        Some(statement)
    }

    fn progress(&mut self, transaction: u32, text: &str, ends_transactions: bool) -> &mut Progress {
        let known = self
            .texts
            .iter()
            .position(|progress| progress.text == text && (progress.transaction == transaction || ends_transactions));
        let progress = match known.and_then(|at| self.texts.remove(at)) {
            Some(progress) => Progress { transaction, ..progress },
            None => Progress { text: text.to_owned(), transaction, next: 0 },
        };
        self.texts.truncate(TEXTS_MAX - 1);
        self.texts.push_front(progress);
        &mut self.texts[0]
    }
}

/// The statements of a text that define tables, each with its place, without those that the text itself takes back.
fn recorded(statements: &[Vec<Token<'_>>]) -> Vec<(usize, Tag, Statement)> {
    let mut kept: Vec<(usize, Tag, Statement)> = Vec::new();
    // Where the transaction begins, and its savepoints.
    let mut begin = 0;
    let mut savepoints: Vec<(String, usize)> = Vec::new();
    for (place, tokens) in statements.iter().enumerate() {
        let first = |word| tokens.first().is_some_and(|first| first.is(word));
        let second = |word| tokens.get(1).is_some_and(|second| second.is(word));
        let to = tokens.iter().position(|token| token.is("to")).filter(|_| first("rollback"));
        if let Some(to) = to {
            let name = tokens[to + 1..].iter().find(|token| !token.is("savepoint")).and_then(Token::name);
            if let Some(at) = savepoints.iter().rposition(|(savepoint, _)| Some(savepoint) == name.as_ref()) {
                kept.truncate(savepoints[at].1);
                savepoints.truncate(at + 1);
            }
        } else if first("savepoint") {
            savepoints.extend(tokens.get(1).and_then(Token::name).map(|name| (name, kept.len())));
        } else if (first("rollback") && !second("prepared")) || first("abort") {
            kept.truncate(begin);
            savepoints.clear();
        } else if ends_transaction(tokens) {
            begin = kept.len();
            savepoints.clear();
        } else if let Some((tag, statement)) = parse(tokens) {
            kept.push((place, tag, statement));
        }
    }
    kept
}

fn ends_transaction(statement: &[Token<'_>]) -> bool {
    let words = ["commit", "end", "rollback", "abort", "prepare"];
    words.iter().any(|word| statement.first().is_some_and(|first| first.is(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(statement: Option<Statement>) -> String {
        match statement {
            Some(Statement::Create { name, .. }) => format!("create {}", name.table),
            Some(Statement::Drop(names)) => format!("drop {}", names.len()),
            Some(Statement::Alter { name, .. }) => format!("alter {}", name.table),
            None => "none".into(),
        }
    }

    #[test]
    fn each_record_is_of_the_next_statement_of_its_text() {
        let mut scripts = Scripts::default();
        let text = "CREATE TABLE a (x int); INSERT INTO a VALUES (1); ALTER TABLE a ADD y int; ALTER TABLE b ADD y int";
        let mut next = |transaction, tag| told(scripts.statement(transaction, tag, text));
        assert_eq!(next(1, "CREATE TABLE"), "create a");
        assert_eq!(next(1, "ALTER TABLE"), "alter a");
        assert_eq!(next(1, "ALTER TABLE"), "alter b");
        // Run once more, also by another session in between.
        assert_eq!(next(2, "CREATE TABLE"), "create a");
        assert_eq!(next(3, "CREATE TABLE"), "create a");
        assert_eq!(next(2, "ALTER TABLE"), "alter a");
        assert_eq!(next(2, "DROP TABLE"), "none");
        assert_eq!(next(2, "CREATE VIEW"), "none");
    }

    #[test]
    fn a_text_may_have_several_transactions() {
        let mut scripts = Scripts::default();
        let text = "BEGIN; ALTER TABLE a ADD x int; COMMIT; BEGIN; ALTER TABLE b ADD x int; COMMIT";
        let mut next = |transaction| told(scripts.statement(transaction, "ALTER TABLE", text));
        assert_eq!(
            (next(1), next(2), next(3), next(4)),
            ("alter a".into(), "alter b".into(), "alter a".into(), "alter b".into())
        );
    }

    #[test]
    fn what_a_text_takes_back_is_not_recorded() {
        let mut scripts = Scripts::default();
        let text = "BEGIN; ALTER TABLE a ADD x int; ROLLBACK; BEGIN; ALTER TABLE b ADD x int; SAVEPOINT s;
            ALTER TABLE c ADD x int; SAVEPOINT t; ALTER TABLE c ADD y int; ROLLBACK WORK TO SAVEPOINT s;
            ALTER TABLE d ADD x int; COMMIT; ALTER TABLE e ADD x int; ABORT; ROLLBACK TO nothing";
        let mut next = || told(scripts.statement(1, "ALTER TABLE", text));
        assert_eq!((next(), next(), next()), ("alter b".into(), "alter d".into(), "alter b".into()));
    }

    #[test]
    fn what_is_not_understood_is_no_statement() {
        let mut scripts = Scripts::default();
        for text in ["DO $$ BEGIN ALTER TABLE a ADD x int; END $$", "SELECT f()", "ALTER TABLE 'a", ""] {
            assert_eq!(scripts.statement(1, "ALTER TABLE", text), None, "{text}");
        }
        assert!(scripts.texts.len() <= TEXTS_MAX);
        for number in 0..100 {
            scripts.statement(number, "DROP TABLE", &format!("DROP TABLE t{number}"));
        }
        assert_eq!(scripts.texts.len(), TEXTS_MAX);
    }
}
