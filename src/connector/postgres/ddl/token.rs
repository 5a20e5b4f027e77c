//! SQL text taken apart into words and signs, as PostgreSQL does it.
//! <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>

/// What the server keeps of a name.
const NAME_BYTES_MAX: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or a name without quotation marks, in lower case.
    Word(String),
    /// A name in quotation marks.
    Name(String),
    Number(&'a str),
    /// A text, whatever it says.
    Text,
    Sign(char),
}

impl Token<'_> {
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(own) if own == word)
    }

    pub fn is_sign(&self, sign: char) -> bool {
        *self == Token::Sign(sign)
    }

    /// As the name of something.
    pub fn name(&self) -> Option<String> {
        match self {
            Token::Word(name) | Token::Name(name) => Some(cut(name)),
            _ => None,
        }
    }
}

/// A longer name is cut, without an error.
fn cut(name: &str) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// The statements of a text. `None` where the text is none that the server would have run.
pub fn statements(text: &str) -> Option<Vec<Vec<Token<'_>>>> {
    let mut statements = Vec::new();
    let mut statement = Vec::new();
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((token, after)) = next(rest)? {
        rest = after;
        match token {
            Token::Sign(';') if depth == 0 => statements.push(std::mem::take(&mut statement)),
            token => {
                match token {
                    Token::Sign('(') => depth += 1,
                    Token::Sign(')') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                statement.push(token);
            }
        }
    }
    statements.push(statement);
    statements.retain(|statement| !statement.is_empty());
    Some(statements)
}

/// The next token and what follows it; inside `None` at the end of the text.
fn next(text: &str) -> Option<Option<(Token<'_>, &str)>> {
    let text = skip_blank(text)?;
    let Some(first) = text.chars().next() else { return Some(None) };
    let (token, after) = match first {
        '"' => {
            let (name, after) = quoted(&text[1..], '"')?;
            (Token::Name(name), after)
        }
        '\'' => (Token::Text, quoted(&text[1..], '\'')?.1),
        '$' => match dollar_quoted(text) {
            Some(after) => (Token::Text, after),
            None => (Token::Sign('$'), &text[1..]),
        },
        '0'..='9' => {
            let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_').unwrap_or(text.len());
            (Token::Number(&text[..end]), &text[end..])
        }
        c if begins_word(c) => word(text)?,
        c => (Token::Sign(c), &text[c.len_utf8()..]),
    };
    Some(Some((token, after)))
}

fn begins_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// A word, or one of the kinds of texts and names that begin with a letter.
fn word(text: &str) -> Option<(Token<'_>, &str)> {
    let end = text.find(|c: char| !begins_word(c) && !c.is_ascii_digit() && c != '$').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    match (word, after.as_bytes().first()) {
        ("e" | "E", Some(b'\'')) => Some((Token::Text, escaped(&after[1..])?)),
        ("b" | "B" | "x" | "X" | "n" | "N", Some(b'\'')) => Some((Token::Text, quoted(&after[1..], '\'')?.1)),
        ("u" | "U", Some(b'&')) => match after.as_bytes().get(1) {
            Some(b'\'') => Some((Token::Text, quoted(&after[2..], '\'')?.1)),
            // A name in escapes, which nobody writes: better not understood than misunderstood.
            Some(b'"') => None,
            _ => Some((Token::Word("u".to_owned()), after)),
        },
        _ => Some((Token::Word(word.to_ascii_lowercase()), after)),
    }
}

/// Skips blanks and comments, which nest.
fn skip_blank(mut text: &str) -> Option<&str> {
    loop {
        text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if let Some(mut comment) = text.strip_prefix("/*") {
            let mut depth = 1;
            while depth > 0 {
                let at = comment.find(['*', '/'])?;
                comment = &comment[at..];
                let (step, change) = match comment.as_bytes() {
                    [b'*', b'/', ..] => (2, -1),
                    [b'/', b'*', ..] => (2, 1),
                    _ => (1, 0),
                };
                comment = &comment[step..];
                depth += change;
            }
            text = comment;
        } else {
            return Some(text);
        }
    }
}

/// What is between two quotation marks, the first of which is read already.
fn quoted(text: &str, mark: char) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut rest = text;
    loop {
        let end = rest.find(mark)?;
        inside.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(mark) {
            Some(after) => {
                inside.push(mark);
                rest = after;
            }
            None => return Some((inside, rest)),
        }
    }
}

/// What follows a text with backslashes.
fn escaped(mut rest: &str) -> Option<&str> {
    loop {
        let at = rest.find(['\'', '\\'])?;
        let is_escape = rest.as_bytes()[at] == b'\\';
        rest = &rest[at + 1..];
        if is_escape {
            rest = &rest[rest.chars().next()?.len_utf8()..];
        } else {
            match rest.strip_prefix('\'') {
                Some(after) => rest = after,
                None => return Some(rest),
            }
        }
    }
}

/// What follows `$tag$ … $tag$`.
fn dollar_quoted(text: &str) -> Option<&str> {
    let tag_end = 1 + text[1..].find('$')?;
    let tag = &text[..=tag_end];
    let inside = &tag[1..tag_end];
    let is_tag =
        inside.chars().next().is_none_or(begins_word) && inside.chars().all(|c| begins_word(c) || c.is_ascii_digit());
    let body = &text[tag_end + 1..];
    is_tag.then(|| body.find(tag)).flatten().map(|end| &body[end + tag.len()..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str) -> Option<Vec<String>> {
        let tell = |token: &Token<'_>| match token {
            Token::Word(word) => word.clone(),
            Token::Name(name) => format!("\"{name}\""),
            Token::Number(number) => (*number).to_owned(),
            Token::Text => "'…'".to_owned(),
            Token::Sign(sign) => sign.to_string(),
        };
        let statements = statements(text)?;
        Some(statements.iter().map(|tokens| tokens.iter().map(tell).collect::<Vec<_>>().join(" ")).collect())
    }

    #[test]
    fn takes_text_apart_as_the_server_does() {
        for (text, expected) in [
            ("ALTER TABLE T;; drop", vec!["alter table t", "drop"]),
            ("a\"B \"\"c\"\"; d\"b", vec!["a \"B \"c\"; d\" b"]),
            ("x 'it''s; -- no' E'it\\'s;' y", vec!["x '…' '…' y"]),
            ("$$ a; $x$ b; $$ c $t1$ d; $$ $t1$; e $1", vec!["'…' c '…'", "e $ 1"]),
            ("a -- b; c\n d /* e; /* f; */ g; */ h", vec!["a d h"]),
            ("numeric(10, 2)[] 1.5e3", vec!["numeric ( 10 , 2 ) [ ] 1.5e3"]),
            ("größe ÄB U&'\\0041' b'01' u & x", vec!["größe Äb '…' '…' u & x"]),
            ("(a; b); c", vec!["( a ; b )", "c"]),
            ("", vec![]),
        ] {
            assert_eq!(told(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn text_that_no_server_would_have_run_is_none() {
        for text in ["'a", "\"a", "/* /* */", "E'\\", "U&\"a\""] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(Token::Name("ы".repeat(32)).name().unwrap(), "ы".repeat(31));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*", sql in "[-;$'\"\\\\/*()eEuU&a1 \n.]{0,40}") {
            statements(&text);
            statements(&sql);
        }
    }
}
