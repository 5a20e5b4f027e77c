//! Names and literals as PostgreSQL reads them in a statement.

use std::fmt::Write;

use crate::data::TableName;

/// `"name"`, quotes inside doubled.
pub fn identifier(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    push_quoted(&mut quoted, name, '"');
    quoted
}

/// `"schema"."table"`.
pub fn table(name: &TableName) -> String {
    let mut quoted = identifier(&name.schema);
    quoted.push('.');
    push_quoted(&mut quoted, &name.table, '"');
    quoted
}

/// Advisory locks of two numbers are kept apart from those of one, which applications use more; the first says whose it is.
pub const DMS_LOCAL: i32 = 0x0044_4d53;

/// The key of a table that is loaded, among the database's advisory locks. A writer shares it as long as its session
/// lives; whoever empties the table waits for all of them. So nothing that a load has left behind in the buffers of a
/// connection, of a task that was stopped or killed a moment ago, comes in after the table was emptied.
pub fn load_lock(name: &TableName) -> String {
    let catalog = "pg_catalog";
    format!("{DMS_LOCAL}, {}::{catalog}.regclass::{catalog}.oid::{catalog}.int4", literal(&table(name)))
}

/// `'text'`, quotes inside doubled. Every session has `standard_conforming_strings` on, so a backslash is itself.
pub fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    push_quoted(&mut quoted, text, '\'');
    quoted
}

/// Names separated by commas, each quoted.
pub fn identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut list = String::new();
    for name in names {
        if !list.is_empty() {
            list.push_str(", ");
        }
        push_quoted(&mut list, name, '"');
    }
    list
}

/// The rows of a `VALUES` list of `(schema, table)` pairs with their place in the list from 0.
pub fn numbered<'a>(names: impl IntoIterator<Item = &'a TableName>) -> String {
    let mut list = String::new();
    for (index, name) in names.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing into a String cannot fail.
        let _ = write!(list, "{comma}({index}, {}, {})", literal(&name.schema), literal(&name.table));
    }
    list
}

fn push_quoted(into: &mut String, text: &str, quote: char) {
    into.push(quote);
    for c in text.chars() {
        if c == quote {
            into.push(quote);
        }
        into.push(c);
    }
    into.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_every_name() {
        assert_eq!(table(&TableName::new("a\"b", "Ünï .c")), "\"a\"\"b\".\"Ünï .c\"");
        assert_eq!(literal("it's \\ \"x\""), "'it''s \\ \"x\"'");
        assert_eq!(identifiers(["a", "B"]), "\"a\", \"B\"");
        assert_eq!(numbered([&TableName::new("s", "t'"), &TableName::new("s", "u")]), "(0, 's', 't'''), (1, 's', 'u')");
    }
}
