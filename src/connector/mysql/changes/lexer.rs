//! SQL as words, names, texts and marks.

use super::event::ServerVersion;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword, a number, or a name without quotes.
    Word(String),
    /// A quoted name.
    Name(String),
    Text(String),
    Mark(char),
}

impl Token {
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// A name, quoted or not.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Token::Word(name) | Token::Name(name) => Some(name),
            Token::Text(_) | Token::Mark(_) => None,
        }
    }
}

/// How a session reads SQL.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dialect {
    pub(super) server: ServerVersion,
    /// Double quotes stand around names.
    pub(super) ansi_quotes: bool,
    /// A backslash is a character like others.
    pub(super) plain_backslash: bool,
}

/// Reads a statement from its beginning on; comments are left out, and those that the server runs are not.
pub(super) struct Lexer<'a> {
    rest: &'a str,
    dialect: Dialect,
    /// Conditional comments that are open.
    open: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, dialect: Dialect) -> Lexer<'a> {
        Lexer { rest: text, dialect, open: 0 }
    }

    /// Goes past blanks and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest.trim_start();
            self.rest = if let Some(comment) = rest.strip_prefix("/*") {
                self.comment(comment)
            } else if rest.starts_with("*/") && self.open > 0 {
                self.open -= 1;
                &rest[2..]
            } else if rest.starts_with('#') || is_dashes(rest) {
                rest.find('\n').map_or("", |end| &rest[end..])
            } else {
                self.rest = rest;
                return;
            };
        }
    }

    /// What follows a comment, or is in one that the server runs.
    fn comment(&mut self, comment: &'a str) -> &'a str {
        let conditional = match comment.strip_prefix('!') {
            Some(inner) => Some((inner, false)),
            None => comment.strip_prefix("M!").map(|inner| (inner, true)),
        };
        if let Some((inner, for_mariadb)) = conditional {
            let digits = inner.bytes().take(6).take_while(u8::is_ascii_digit).count();
            let version = if digits >= 5 { inner[..digits].parse().unwrap_or(0) } else { 0 };
            if self.dialect.server.runs(version, for_mariadb) {
                self.open += 1;
                return if digits >= 5 { &inner[digits..] } else { inner };
            }
        }
        comment.find("*/").map_or("", |end| &comment[end + 2..])
    }

    /// The text up to a quote, which stands for itself where it is doubled.
    fn quoted(&mut self, quote: char, escapes: bool) -> String {
        let mut text = String::new();
        let mut characters = self.rest[1..].char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            if c == quote {
                if characters.peek().is_some_and(|(_, next)| *next == quote) {
                    characters.next();
                } else {
                    self.rest = &self.rest[1 + at + c.len_utf8()..];
                    return text;
                }
            }
            let escaped = if c == '\\' && escapes { characters.next() } else { None };
            text.push(match escaped {
                Some((_, 'n')) => '\n',
                Some((_, 'r')) => '\r',
                Some((_, 't')) => '\t',
                Some((_, '0')) => '\0',
                Some((_, 'b')) => '\u{8}',
                Some((_, 'Z')) => '\u{1A}',
                Some((_, other)) => other,
                None => c,
            });
        }
        self.rest = "";
        text
    }
}

/// Two dashes are a comment only before a blank: `5--3` is none.
fn is_dashes(rest: &str) -> bool {
    rest.strip_prefix("--")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_whitespace() || c.is_control()))
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip();
        let first = self.rest.chars().next()?;
        let escapes = !self.dialect.plain_backslash;
        Some(match first {
            '`' => Token::Name(self.quoted('`', false)),
            '"' if self.dialect.ansi_quotes => Token::Name(self.quoted('"', false)),
            '\'' | '"' => Token::Text(self.quoted(first, escapes)),
            c if is_word(c) => {
                let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                Token::Word(word.to_owned())
            }
            c => {
                self.rest = &self.rest[c.len_utf8()..];
                Token::Mark(c)
            }
        })
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '@') || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str, dialect: Dialect) -> String {
        let show = |token: Token| match token {
            Token::Word(word) => word,
            Token::Name(name) => format!("<{name}>"),
            Token::Text(text) => format!("'{text}'"),
            Token::Mark(mark) => mark.to_string(),
        };
        Lexer::new(text, dialect).map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tells_names_texts_and_comments_apart() {
        let mysql = Dialect { server: ServerVersion { number: 80_030, mariadb: false }, ..Dialect::default() };
        let mariadb = Dialect { server: ServerVersion { number: 101_119, mariadb: true }, ..Dialect::default() };
        let ansi = Dialect { ansi_quotes: true, plain_backslash: true, ..mysql };
        let cases = [
            ("a.`b``c` 'it''s\\n\\'' \"x\"", mysql, "a . <b`c> 'it's\n'' 'x'"),
            ("\"a\"\"b\" 'c\\' d", ansi, "<a\"b> 'c\\' d"),
            ("a -- b\nc # d\n/* e 'f */ 5--3", mysql, "a c 5 - - 3"),
            ("a /*!40005 b */ c /*!90000 d */ /*M!100301 e*/", mysql, "a b c"),
            ("a /*!50701 b */ c /*M!100301 d */ /*M!110000 e*/ f", mariadb, "a c d f"),
            ("a /*! b */ */ /*+ hint */", mysql, "a b * /"),
            ("'open", mysql, "'open'"),
            ("größe1 /* open", mysql, "größe1"),
        ];
        for (text, dialect, expected) in cases {
            assert_eq!(tokens(text, dialect), expected);
        }
    }

    proptest! {
        #[test]
        fn ends_on_any_text(text in "[-a*/!M`'\"\\\\#0-9 \n.é]{0,60}") {
            let count = Lexer::new(&text, Dialect::default()).count();
            prop_assert!(count <= text.len());
        }
    }
}
