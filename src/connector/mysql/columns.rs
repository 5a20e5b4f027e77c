//! The columns that a target's table has, and how values get into them.

use super::intake::{Assign, LoadColumn};
use super::load_data::Rule;
use super::quote_text;
use super::source::is_generated;
use super::type_map::{DECIMAL_SCALE_MAX, is_geometry};
use super::wire::Client;
use crate::data::{Column, DataType, Format, Result, TableName};

/// The condition on a row of the catalog that it is about this table.
pub(super) fn named(name: &TableName) -> String {
    format!("TABLE_SCHEMA={} AND TABLE_NAME={}", quote_text(&name.schema), quote_text(&name.table))
}

/// A column that the target's table has.
#[derive(Clone, Debug)]
pub(super) struct FoundColumn {
    pub(super) name: String,
    /// `varchar`.
    pub(super) base: String,
    /// `varchar(40)`, `int(10) unsigned`.
    pub(super) full: String,
    pub(super) charset: Option<String>,
    pub(super) collation: Option<String>,
    pub(super) nullable: bool,
    /// Most bytes of a text or binary value.
    pub(super) bytes_max: Option<u64>,
    /// Digits after the point: of a decimal number, of the seconds of a time.
    pub(super) scale: Option<u8>,
    pub(super) generated: bool,
    pub(super) auto_increment: bool,
    /// The server sets it to the time of an UPDATE that does not mention it.
    pub(super) on_update: bool,
}

pub(super) async fn find_columns(client: &mut Client, name: &TableName) -> Result<Vec<FoundColumn>> {
    let rows = client
        .rows(&format!(
            "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, COLLATION_NAME, IS_NULLABLE, \
             CHARACTER_OCTET_LENGTH, COALESCE(DATETIME_PRECISION, NUMERIC_SCALE), EXTRA \
             FROM information_schema.COLUMNS WHERE {} ORDER BY ORDINAL_POSITION",
            named(name)
        ))
        .await?;
    Ok(rows.into_iter().filter_map(found).collect())
}

fn found(row: Vec<Option<String>>) -> Option<FoundColumn> {
    let [name, base, full, charset, collation, nullable, bytes_max, scale, extra] =
        <[Option<String>; 9]>::try_from(row).ok()?;
    let extra = extra.unwrap_or_default().to_ascii_uppercase();
    Some(FoundColumn {
        name: name?,
        base: base?.to_ascii_lowercase(),
        full: full?,
        charset,
        collation,
        nullable: nullable.as_deref() == Some("YES"),
        bytes_max: bytes_max.and_then(|bytes| bytes.parse().ok()),
        scale: scale.and_then(|scale| scale.parse().ok()),
        generated: is_generated(&extra),
        auto_increment: extra.contains("AUTO_INCREMENT"),
        on_update: extra.contains("ON UPDATE"),
    })
}

pub(super) fn found_column<'a>(found: &'a [FoundColumn], column: &Column) -> Option<&'a FoundColumn> {
    let name = column.name.to_lowercase();
    found.iter().find(|candidate| candidate.name.to_lowercase() == name)
}

/// Kinds of columns whose text form means nothing to another kind.
pub(super) fn opaque_kind(base: &str) -> u8 {
    match base.to_ascii_lowercase().as_str() {
        "bit" => 1,
        "vector" => 2,
        base if is_geometry(base) => 3,
        _ => 0,
    }
}

pub(super) fn load_column(column: &Column, target: Option<&FoundColumn>, format: Format) -> LoadColumn {
    // A column that the table does not have is named all the same: the server's error says so.
    let assign = match target {
        Some(target) if target.generated => Assign::Skip,
        Some(target) => assign(column, target, format),
        None => Assign::Direct,
    };
    LoadColumn { name: column.name.clone(), assign, rule: rule(column, target) }
}

/// What the encoder must know of a column.
pub(super) fn rule(column: &Column, target: Option<&FoundColumn>) -> Rule {
    Rule {
        fraction_max: fraction_max(column.data_type),
        year: target.is_some_and(|target| target.base == "year"),
        narrow: target.is_some_and(|target| target.base == "float"),
        empty_is_error_value: target.is_some_and(|target| target.base == "enum" && !has_empty_member(&target.full)),
    }
}

/// How a value of a source's column becomes one of this type.
pub(super) fn assign(column: &Column, target: &FoundColumn, format: Format) -> Assign {
    let takes_bytes = format == Format::Text || matches!(column.data_type, DataType::Bytes { .. } | DataType::Blob);
    match target.base.as_str() {
        "bit" if !takes_bytes => Assign::Number,
        // Their text is refused when it comes without a character set.
        "json" | "uuid" | "inet4" | "inet6" if target.charset.is_none() => Assign::Convert,
        _ => match target.charset.as_deref() {
            None | Some("utf8mb4" | "utf8mb3" | "utf8" | "binary") => Assign::Direct,
            Some(_) => Assign::Convert,
        },
    }
}

fn has_empty_member(enumeration: &str) -> bool {
    let members = enumeration.find('(').map_or("", |at| &enumeration[at + 1..]);
    members.starts_with("'',") || members.starts_with("'')") || members.contains(",'',") || members.ends_with(",'')")
}

/// What a numeric column's values must not exceed, for the encoder.
fn fraction_max(data_type: DataType) -> Option<u16> {
    match data_type {
        DataType::Numeric { precision: 0, .. } => Some(DECIMAL_SCALE_MAX),
        DataType::Numeric { scale, .. } if scale > DECIMAL_SCALE_MAX as i16 => Some(DECIMAL_SCALE_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_an_enum_with_an_empty_member() {
        for (native, expected) in
            [("enum('','a')", true), ("enum('a','')", true), ("enum('')", true), ("enum('a','b''')", false)]
        {
            assert_eq!(has_empty_member(native), expected, "{native}");
        }
    }
}
