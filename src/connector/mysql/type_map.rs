//! MySQL types as DMS types, and DMS types as MySQL types.
//!
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html#CHAP_Source.MySQL.DataTypes>,
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.MySQL.html#CHAP_Target.MySQL.DataTypes>

use crate::data::DataType;

/// A column as `information_schema.COLUMNS` describes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared<'a> {
    /// `DATA_TYPE`: `varchar`.
    pub(super) base: &'a str,
    /// `COLUMN_TYPE`: `int(10) unsigned`.
    pub(super) full: &'a str,
    /// `CHARACTER_MAXIMUM_LENGTH`: characters of a text, bytes of a binary type; longest value of an ENUM.
    pub(super) length: u32,
    /// `NUMERIC_PRECISION`: digits of a DECIMAL, bits of a BIT.
    pub(super) precision: u16,
    pub(super) scale: i16,
    /// `DATETIME_PRECISION`.
    pub(super) fraction: u8,
}

/// What DMS calls a source column's type.
pub(super) fn source_type(column: &Declared<'_>) -> DataType {
    let unsigned = column.full.contains("unsigned");
    let integer = |signed, without_sign| if unsigned { without_sign } else { signed };
    match column.base {
        "tinyint" => integer(DataType::Int1, DataType::UInt1),
        "smallint" => integer(DataType::Int2, DataType::UInt2),
        "mediumint" | "int" | "integer" => integer(DataType::Int4, DataType::UInt4),
        "bigint" => integer(DataType::Int8, DataType::UInt8),
        "year" => DataType::Int2,
        "decimal" | "numeric" => DataType::Numeric { precision: column.precision, scale: column.scale },
        "float" | "double" | "real" => DataType::Real8,
        "bit" if column.precision == 1 => DataType::Boolean,
        "bit" => DataType::Bytes { length: u32::from(column.precision).div_ceil(8) },
        "date" => DataType::Date,
        "datetime" | "timestamp" => DataType::DateTime { scale: column.fraction },
        // From -838:59:59 to 838:59:59: more than a time of day, and therefore a STRING.
        "time" if column.fraction > 0 => DataType::String { length: 11 + u32::from(column.fraction) },
        "time" => DataType::String { length: 10 },
        "char" | "varchar" | "tinytext" | "text" | "enum" | "set" => DataType::WString { length: column.length },
        "binary" | "varbinary" | "tinyblob" | "blob" => DataType::Bytes { length: column.length },
        "json" => DataType::Clob,
        "mediumblob" | "longblob" => DataType::Blob,
        // Types that the user guide does not know; these lengths are those of their text.
        "uuid" => DataType::WString { length: 36 },
        "inet6" => DataType::WString { length: 39 },
        "inet4" => DataType::WString { length: 15 },
        base if is_geometry(base) || base == "vector" => DataType::Blob,
        _ => DataType::NClob,
    }
}

pub(super) fn is_geometry(base: &str) -> bool {
    matches!(
        base,
        "geometry"
            | "point"
            | "linestring"
            | "polygon"
            | "multipoint"
            | "multilinestring"
            | "multipolygon"
            | "geometrycollection"
            | "geomcollection"
    )
}

/// Values of these types are bytes in the text protocol too, of no character set.
pub(super) fn is_binary(base: &str) -> bool {
    matches!(base, "bit" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector")
        || is_geometry(base)
}

/// The first word of a native type: `int` of `int(10) unsigned`.
pub(super) fn base(native: &str) -> &str {
    let end = native.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(native.len());
    &native[..end]
}

/// Longest VARCHAR of utf8mb4 (a row has 65,535 bytes). DMS goes up to 21,845 and 32,767 characters, which only smaller
/// character sets have room for.
const VARCHAR_MAX: u32 = 16_383;
const VARBINARY_MAX: u32 = 65_535;

/// What a column of a table from another engine becomes. Text is utf8mb4 throughout: DMS makes NCLOB columns ucs2, which
/// cannot hold an emoji.
pub(super) fn target_type(data_type: DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int1 => "TINYINT".to_owned(),
        DataType::Int2 => "SMALLINT".to_owned(),
        DataType::Int4 => "INTEGER".to_owned(),
        DataType::Int8 => "BIGINT".to_owned(),
        DataType::UInt1 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt2 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt4 => "INTEGER UNSIGNED".to_owned(),
        DataType::UInt8 => "BIGINT UNSIGNED".to_owned(),
        DataType::Real4 => "FLOAT".to_owned(),
        DataType::Real8 => "DOUBLE".to_owned(),
        DataType::Numeric { precision, scale } => decimal(precision, scale),
        DataType::String { length } | DataType::WString { length } => match length {
            1..=VARCHAR_MAX => format!("VARCHAR({length})"),
            _ => "LONGTEXT".to_owned(),
        },
        DataType::Bytes { length } => match length {
            1..=VARBINARY_MAX => format!("VARBINARY({length})"),
            _ => "LONGBLOB".to_owned(),
        },
        DataType::Date => "DATE".to_owned(),
        DataType::Time { scale: 0 } => "TIME".to_owned(),
        DataType::Time { scale } => format!("TIME({})", scale.min(6)),
        DataType::DateTime { scale: 0 } => "DATETIME".to_owned(),
        DataType::DateTime { scale } => format!("DATETIME({})", scale.min(6)),
        DataType::Blob => "LONGBLOB".to_owned(),
        DataType::Clob | DataType::NClob => "LONGTEXT".to_owned(),
    }
}

/// Most digits after the point of a DECIMAL (MariaDB has 38).
pub(super) const DECIMAL_SCALE_MAX: u16 = 30;

/// DECIMAL has at most 65 digits. A source that states no limits gets as many as there are on both sides of the point; a
/// value that does not fit is that row's error.
fn decimal(precision: u16, scale: i16) -> String {
    match (precision, scale) {
        (0, _) => format!("DECIMAL(65,{DECIMAL_SCALE_MAX})"),
        // A negative scale rounds to the left of the point: the digits before it are more.
        (precision, scale) if scale < 0 => format!("DECIMAL({},0)", (precision + scale.unsigned_abs()).min(65)),
        (precision, scale) => {
            let scale = (scale as u16).min(DECIMAL_SCALE_MAX);
            // A scale beyond the precision (0.000x) needs a digit for each.
            format!("DECIMAL({},{scale})", precision.max(scale).min(65))
        }
    }
}

/// Most bytes of one character of a character set, for the limits on rows and keys.
pub(super) fn bytes_per_character(charset: &str) -> u32 {
    match charset {
        "utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030" => 4,
        "utf8" | "utf8mb3" | "ujis" | "eucjpms" => 3,
        "ucs2" | "gbk" | "gb2312" | "big5" | "sjis" | "cp932" | "euckr" => 2,
        _ => 1,
    }
}

/// The word after `keyword` in a native type: the character set or collation.
fn word_after<'a>(native: &'a str, keyword: &str) -> Option<&'a str> {
    // What stands in quotes are the values of an ENUM; the clauses follow them.
    let clauses = &native[native.rfind(['\'', ')']).map_or(0, |at| at + 1)..];
    let rest = &clauses[clauses.find(keyword)? + keyword.len()..];
    rest.split_ascii_whitespace().next()
}

pub(super) fn charset(native: &str) -> Option<&str> {
    word_after(native, "CHARACTER SET ")
}

/// A native type without what only some versions of MySQL and MariaDB know.
pub(super) fn portable(native: &str) -> String {
    let kept = match native.rfind(" COLLATE ") {
        Some(at) if word_after(native, "COLLATE ").is_some() => &native[..at],
        _ => native,
    };
    let kept = match kept.strip_suffix("CHARACTER SET utf8mb3") {
        Some(start) => format!("{start}CHARACTER SET utf8"),
        None => kept.to_owned(),
    };
    match kept.strip_prefix("geomcollection") {
        Some(rest) => format!("geometrycollection{rest}"),
        None => kept,
    }
}

/// The type without a limit in whose place a text or binary type may stand when a row is too long for it.
pub(super) fn off_row(native: &str) -> Option<&'static str> {
    match base(native).to_ascii_lowercase().as_str() {
        "varchar" => Some("LONGTEXT"),
        "varbinary" => Some("LONGBLOB"),
        _ => None,
    }
}

/// How much of a key a column needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyBytes {
    /// All of it, so many bytes.
    Fixed(u32),
    /// A prefix may stand for it: length in characters (0: without limit, a prefix must), bytes per character.
    Text { length: u32, width: u32 },
}

/// What a column of this MySQL type needs of a key.
pub(super) fn key_bytes(native: &str) -> KeyBytes {
    let lower = base(native).to_ascii_lowercase();
    let length = || native.split(['(', ')']).nth(1).and_then(|length| length.trim().parse().ok());
    let width = bytes_per_character(charset(native).unwrap_or("utf8mb4"));
    match lower.as_str() {
        "char" | "varchar" => KeyBytes::Text { length: length().unwrap_or(1), width },
        "binary" | "varbinary" => KeyBytes::Text { length: length().unwrap_or(1), width: 1 },
        "tinytext" | "text" | "mediumtext" | "longtext" | "json" => KeyBytes::Text { length: 0, width },
        "tinyblob" | "blob" | "mediumblob" | "longblob" => KeyBytes::Text { length: 0, width: 1 },
        other if is_geometry(other) => KeyBytes::Text { length: 0, width: 1 },
        "decimal" | "numeric" => KeyBytes::Fixed(30),
        "uuid" | "inet6" => KeyBytes::Fixed(16),
        _ => KeyBytes::Fixed(8),
    }
}

/// Prefix lengths, in characters, that make a key of these columns fit into `limit` bytes; `None` for a column that is
/// in the key as a whole.
///
/// A table of the same engine family had a key that fits, so a prefix as long as the limit allows tells its rows apart
/// as well.
pub(super) fn key_prefixes(columns: &[KeyBytes], limit: u32) -> Vec<Option<u32>> {
    let fixed: u32 = columns.iter().map(|column| if let KeyBytes::Fixed(bytes) = column { *bytes } else { 0 }).sum();
    let mut left = limit.saturating_sub(fixed);
    let mut prefixes = vec![None; columns.len()];
    // Short columns first: what they do not need is shared by the longer ones.
    let mut texts: Vec<(u32, usize)> = columns
        .iter()
        .enumerate()
        .filter_map(|(index, column)| match column {
            KeyBytes::Text { length: 0, .. } => Some((u32::MAX, index)),
            KeyBytes::Text { length, width } => Some((length.saturating_mul(*width), index)),
            KeyBytes::Fixed(_) => None,
        })
        .collect();
    texts.sort_unstable();
    let count = texts.len() as u32;
    for (done, (bytes, index)) in texts.into_iter().enumerate() {
        let share = left / (count - done as u32);
        if bytes <= share {
            left -= bytes;
        } else if let KeyBytes::Text { width, .. } = columns[index] {
            let characters = (share / width).max(1);
            prefixes[index] = Some(characters);
            left = left.saturating_sub(characters * width);
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_source_types_as_the_user_guide_does() {
        let column = |base, full| Declared { base, full, ..Declared::default() };
        let cases = [
            (column("tinyint", "tinyint(1)"), DataType::Int1),
            (column("mediumint", "mediumint(8) unsigned"), DataType::UInt4),
            (column("bigint", "bigint(20) unsigned zerofill"), DataType::UInt8),
            (column("year", "year(4)"), DataType::Int2),
            (column("float", "float"), DataType::Real8),
            (Declared { precision: 1, ..column("bit", "bit(1)") }, DataType::Boolean),
            (Declared { precision: 9, ..column("bit", "bit(9)") }, DataType::Bytes { length: 2 }),
            (
                Declared { precision: 65, scale: 30, ..column("decimal", "decimal(65,30)") },
                DataType::Numeric { precision: 65, scale: 30 },
            ),
            (Declared { fraction: 6, ..column("time", "time(6)") }, DataType::String { length: 17 }),
            (Declared { fraction: 3, ..column("timestamp", "timestamp(3)") }, DataType::DateTime { scale: 3 }),
            (Declared { length: 65_535, ..column("text", "text") }, DataType::WString { length: 65_535 }),
            (column("longtext", "longtext"), DataType::NClob),
            (column("json", "json"), DataType::Clob),
            (column("multipolygon", "multipolygon"), DataType::Blob),
            (Declared { length: 3, ..column("enum", "enum('a','bcd')") }, DataType::WString { length: 3 }),
        ];
        for (declared, expected) in cases {
            assert_eq!(source_type(&declared), expected, "{}", declared.full);
        }
    }

    #[test]
    fn maps_dms_types_within_what_mysql_can_hold() {
        let cases = [
            (DataType::WString { length: 16_383 }, "VARCHAR(16383)"),
            (DataType::WString { length: 16_384 }, "LONGTEXT"),
            (DataType::String { length: 0 }, "LONGTEXT"),
            (DataType::Bytes { length: 65_536 }, "LONGBLOB"),
            (DataType::Numeric { precision: 0, scale: 0 }, "DECIMAL(65,30)"),
            (DataType::Numeric { precision: 1000, scale: 400 }, "DECIMAL(65,30)"),
            (DataType::Numeric { precision: 2, scale: 5 }, "DECIMAL(5,5)"),
            (DataType::Numeric { precision: 3, scale: -2 }, "DECIMAL(5,0)"),
            (DataType::DateTime { scale: 6 }, "DATETIME(6)"),
            (DataType::NClob, "LONGTEXT"),
        ];
        for (data_type, expected) in cases {
            assert_eq!(target_type(data_type), expected);
        }
    }

    #[test]
    fn reads_the_parts_of_a_native_type() {
        let native = "enum('a CHARACTER SET x','it''s') CHARACTER SET latin1 COLLATE latin1_bin";
        assert_eq!((base(native), charset(native)), ("enum", Some("latin1")));
        assert_eq!(portable(native), "enum('a CHARACTER SET x','it''s') CHARACTER SET latin1");
        assert_eq!(portable("text CHARACTER SET utf8mb3 COLLATE x"), "text CHARACTER SET utf8");
        assert_eq!(portable("set(' COLLATE ')"), "set(' COLLATE ')");
        assert_eq!(charset("int(10) unsigned"), None);
    }

    #[test]
    fn shortens_only_the_columns_that_make_a_key_too_long() {
        let varchar = |length| KeyBytes::Text { length, width: 4 };
        assert_eq!(key_prefixes(&[KeyBytes::Fixed(8), varchar(255)], 3072), [None, None]);
        assert_eq!(key_prefixes(&[varchar(0)], 3072), [Some(768)]);
        assert_eq!(key_prefixes(&[varchar(2000), varchar(10)], 3072), [Some(758), None]);
        assert_eq!(key_prefixes(&[varchar(0), varchar(0)], 767), [Some(95), Some(96)]);
    }
}
