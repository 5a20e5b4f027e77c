//! What a PostgreSQL server answers when it refuses, and which kind of error that is for the data plane.

use crate::data::{Error, ErrorKind};

/// The fields of an `ErrorResponse` that decide something. DETAIL, HINT and the failed query are never kept: they
/// show row values.
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    pub sqlstate: String,
    pub message: String,
    /// The line of a COPY that the server was at, from 1: a hint at the row it refused.
    pub copy_line: Option<u64>,
}

impl ServerError {
    /// Reads the fields, each a type byte and a zero-terminated string; what is malformed is left out.
    pub fn parse(mut payload: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        while let Some((&field, rest)) = payload.split_first() {
            let Some(end) = memchr::memchr(0, rest) else { break };
            let value = String::from_utf8_lossy(&rest[..end]);
            match field {
                b'C' => error.sqlstate = value.into_owned(),
                b'M' => error.message = value.into_owned(),
                b'W' => error.copy_line = copy_line(&value),
                _ => {}
            }
            payload = &rest[end + 1..];
        }
        if error.sqlstate.starts_with("22") {
            error.message = without_values(&error.message);
        }
        error
    }

    /// As the error of a statement in an open session.
    pub fn into_error(self) -> Error {
        Error::new(kind(&self.sqlstate), self.message).with_sqlstate(self.sqlstate)
    }

    /// As the error of logging in: what stands in the way then stands in the way of the whole task.
    pub fn into_login_error(self) -> Error {
        let kind = match kind(&self.sqlstate) {
            ErrorKind::Recoverable => ErrorKind::Recoverable,
            _ => ErrorKind::Fatal,
        };
        Error::new(kind, self.message).with_sqlstate(self.sqlstate)
    }
}

/// The kind of error behind a SQLSTATE, for a statement about one table.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn kind(sqlstate: &str) -> ErrorKind {
    match sqlstate {
        "22001" => ErrorKind::Truncation,
        // A row that is too big for a page or an index entry.
        "54000" => ErrorKind::Data,
        // Conflicts, locks, shutdown; 25006 is a server that has become a standby in a failover.
        "40001" | "40P01" | "55006" | "55P03" | "57P01" | "57P02" | "57P03" | "57P05" | "25006" => {
            ErrorKind::Recoverable
        }
        "3D000" => ErrorKind::Fatal,
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "08" | "53" | "58" => ErrorKind::Recoverable,
            // P0: a trigger or function on the target raised an exception about this row.
            "22" | "23" | "44" | "P0" => ErrorKind::Data,
            "28" => ErrorKind::Fatal,
            _ => ErrorKind::Table,
        },
    }
}

/// The line number in a context like `COPY orders, line 17, column total: "x"`. The text is in the server's language,
/// so it is the first number after the first comma.
fn copy_line(context: &str) -> Option<u64> {
    let at = context.lines().find_map(|line| line.strip_prefix("COPY "))?;
    // A table name may hold commas and digits: the number of a real line follows a word and a blank.
    at.match_indices(", ").find_map(|(comma, _)| {
        let (_, number) = at[comma + 2..].split_once(' ')?;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        number[..digits].parse().ok()
    })
}

/// The message of a data exception without the value it quotes, which may be anybody's data.
fn without_values(message: &str) -> String {
    let closing = |open| match open {
        '"' => Some('"'),
        '«' => Some('»'),
        '„' | '“' => Some('“'),
        '»' => Some('«'),
        '「' => Some('」'),
        _ => None,
    };
    let mut kept = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((at, open, close)) = rest.char_indices().find_map(|(at, c)| closing(c).map(|close| (at, c, close))) {
        let inside = &rest[at + open.len_utf8()..];
        kept.push_str(&rest[..at]);
        // The last one: a value may itself hold quotation marks. An encoding's name is no value.
        let end = if kept.ends_with("encoding ") { inside.find(close) } else { inside.rfind(close) };
        let (quoted, after) = match end {
            Some(end) => (&inside[..end], &inside[end + close.len_utf8()..]),
            None => (inside, ""),
        };
        kept.push_str(if kept.ends_with("encoding ") { quoted } else { "…" });
        rest = after;
    }
    kept.push_str(rest);
    // The bytes of an invalid sequence follow a colon without quotation marks.
    match kept.find(": 0x") {
        Some(at) => kept[..at].to_owned(),
        None => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (field, value) in fields {
            payload.push(*field);
            payload.extend_from_slice(value.as_bytes());
            payload.push(0);
        }
        payload.push(0);
        payload
    }

    #[test]
    fn sorts_states_into_kinds() {
        for (state, expected) in [
            ("22001", ErrorKind::Truncation),
            ("22P02", ErrorKind::Data),
            ("23505", ErrorKind::Data),
            ("P0001", ErrorKind::Data),
            ("54000", ErrorKind::Data),
            ("08006", ErrorKind::Recoverable),
            ("53100", ErrorKind::Recoverable),
            ("57P01", ErrorKind::Recoverable),
            ("40P01", ErrorKind::Recoverable),
            ("42P01", ErrorKind::Table),
            ("42501", ErrorKind::Table),
            ("28P01", ErrorKind::Fatal),
            ("3D000", ErrorKind::Fatal),
            ("", ErrorKind::Table),
        ] {
            assert_eq!(kind(state), expected, "{state}");
        }
    }

    #[test]
    fn keeps_no_row_value() {
        for (message, expected) in [
            (r#"invalid input syntax for type integer: "secret""#, "invalid input syntax for type integer: …"),
            (r#"value "a "quoted" one" is out of range for type bigint"#, "value … is out of range for type bigint"),
            (r#"invalid byte sequence for encoding "UTF8": 0xe9 0x20"#, "invalid byte sequence for encoding UTF8"),
            ("ungültige Eingabesyntax für Typ integer: „geheim“", "ungültige Eingabesyntax für Typ integer: …"),
            ("value too long for type character varying(3)", "value too long for type character varying(3)"),
        ] {
            assert_eq!(without_values(message), expected);
        }
        let error = ServerError::parse(&response(&[
            (b'S', "ERROR"),
            (b'C', "23505"),
            (b'M', "duplicate key value violates unique constraint \"t_pkey\""),
            (b'D', "Key (id)=(secret) already exists."),
            (b'W', "COPY t, line 17"),
        ]));
        assert_eq!(error.message, "duplicate key value violates unique constraint \"t_pkey\"");
        assert_eq!(error.copy_line, Some(17));
    }

    #[test]
    fn finds_the_line_of_a_copy() {
        assert_eq!(copy_line("COPY orders, line 3, column a: \"9, line 8\""), Some(3));
        assert_eq!(copy_line("SQL statement \"x\"\nCOPY a, b, line 12"), Some(12));
        assert_eq!(copy_line("COPY orders, Zeile 4"), Some(4));
        assert_eq!(copy_line("PL/pgSQL function f() line 3"), None);
    }
}
