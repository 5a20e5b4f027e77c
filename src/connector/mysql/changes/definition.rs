//! Columns as statements define them, in the words of the catalog.

use super::super::type_map::{Declared, base, source_type};
use crate::data::Column;

/// The character set of a table's text, where a column has none of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TextDefault {
    pub(super) charset: String,
    pub(super) collation: Option<String>,
}

impl TextDefault {
    /// By the name of a collation, which begins with that of its character set.
    pub(super) fn of_collation(collation: &str) -> TextDefault {
        let charset = collation.split('_').next().unwrap_or_default();
        TextDefault { charset: charset.to_owned(), collation: Some(collation.to_owned()) }
    }
}

/// A column as a statement defines it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) name: String,
    /// The type's words, in lower case.
    pub(super) words: Vec<String>,
    /// What stands in brackets after the type.
    pub(super) arguments: Vec<String>,
    pub(super) unsigned: bool,
    pub(super) zerofill: bool,
    /// `COMPRESSED` of MariaDB.
    pub(super) compressed: bool,
    pub(super) charset: Option<String>,
    pub(super) collation: Option<String>,
    pub(super) not_null: bool,
    pub(super) generated: bool,
    pub(super) hidden: bool,
    pub(super) primary: bool,
    pub(super) unique: bool,
}

impl Definition {
    /// The column as the catalog would describe it. `None`: the type is not known.
    pub(super) fn column(&self, text: &TextDefault, mariadb: bool) -> Option<Column> {
        let native = self.native(text, mariadb)?;
        let nullable = !(self.not_null || self.primary || self.words == ["serial"]);
        Some(column(&self.name, native, nullable, self.generated))
    }

    fn native(&self, text: &TextDefault, mariadb: bool) -> Option<String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let argument = |index: usize| self.arguments.get(index).map(String::as_str);
        let number = |index: usize| argument(index).and_then(|text| text.parse::<u64>().ok());
        let with = |base: &str| match self.arguments.as_slice() {
            [] => base.to_owned(),
            arguments => format!("{base}({})", arguments.join(",")),
        };
        let or = |base: &str, default: &str| format!("{base}({})", argument(0).unwrap_or(default));
        let fraction = |base: &str| match number(0) {
            None | Some(0) => base.to_owned(),
            Some(digits) => format!("{base}({digits})"),
        };
        let integer = |base: &str| self.number(with(base));
        let national = || TextDefault { charset: "utf8".to_owned(), collation: None };
        Some(match words.as_slice() {
            ["bool" | "boolean"] => "tinyint(1)".to_owned(),
            ["tinyint" | "int1"] => integer("tinyint"),
            ["smallint" | "int2"] => integer("smallint"),
            ["mediumint" | "int3" | "middleint"] => integer("mediumint"),
            ["int" | "integer" | "int4"] => integer("int"),
            ["bigint" | "int8"] => integer("bigint"),
            ["serial"] => "bigint(20) unsigned".to_owned(),
            ["decimal" | "dec" | "numeric" | "fixed" | "number"] => {
                let (precision, scale) = (argument(0).unwrap_or("10"), argument(1).unwrap_or("0"));
                self.number(format!("decimal({precision},{scale})"))
            }
            ["float"] if self.arguments.len() == 1 => {
                self.number(if number(0)? > 24 { "double" } else { "float" }.to_owned())
            }
            ["float" | "float4"] => self.number(with("float")),
            ["double" | "real" | "float8"] | ["double", "precision"] => self.number(with("double")),
            ["bit"] => or("bit", "1"),
            ["year"] => or("year", "4"),
            ["date"] => "date".to_owned(),
            ["time"] => fraction("time"),
            ["datetime"] => fraction("datetime"),
            ["timestamp"] => fraction("timestamp"),
            ["binary"] | ["char", "byte"] => or("binary", "1"),
            ["varbinary"] | ["raw"] => self.compressed(with("varbinary")),
            ["tinyblob" | "mediumblob" | "longblob"] => self.compressed(words[0].to_owned()),
            ["long", "varbinary"] => "mediumblob".to_owned(),
            ["blob"] => self.compressed(sized("blob", number(0)).to_owned()),
            ["char" | "character"] => self.text(or("char", "1"), text),
            ["nchar"] | ["national", "char" | "character"] => self.text(or("char", "1"), &national()),
            ["varchar" | "varcharacter" | "varchar2"] | ["char" | "character", "varying"] => {
                self.text(self.compressed(with("varchar")), text)
            }
            ["nvarchar"]
            | ["national", "varchar" | "varcharacter"]
            | ["nchar", "varchar" | "varying"]
            | ["national", "char" | "character", "varying"] => self.text(with("varchar"), &national()),
            ["tinytext" | "mediumtext" | "longtext"] => self.text(self.compressed(words[0].to_owned()), text),
            ["long"] | ["long", "varchar"] => self.text("mediumtext".to_owned(), text),
            ["text"] => self.text(self.compressed(sized("text", number(0)).to_owned()), text),
            ["clob"] => self.text("longtext".to_owned(), text),
            ["enum" | "set"] => {
                let labels: Vec<String> = self.arguments.iter().map(|label| quote_label(label)).collect();
                self.text(format!("{}({})", words[0], labels.join(",")), text)
            }
            ["json"] if mariadb => "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin".to_owned(),
            ["json"] => "json".to_owned(),
            ["uuid" | "inet4" | "inet6"] if mariadb => words[0].to_owned(),
            ["vector"] => with("vector"),
            ["geometrycollection"] if !mariadb => "geomcollection".to_owned(),
            [base] if super::super::type_map::is_geometry(base) => (*base).to_owned(),
            _ => return None,
        })
    }

    fn number(&self, base: String) -> String {
        let unsigned = if self.unsigned || self.zerofill { " unsigned" } else { "" };
        let zerofill = if self.zerofill { " zerofill" } else { "" };
        format!("{base}{unsigned}{zerofill}")
    }

    fn compressed(&self, base: String) -> String {
        if self.compressed { format!("{base} /*M!100301 COMPRESSED*/") } else { base }
    }

    /// With the character set, or the type of bytes that a text of bytes is.
    fn text(&self, base: String, default: &TextDefault) -> String {
        let own = match (&self.charset, &self.collation) {
            (Some(charset), collation) => Some(TextDefault { charset: charset.clone(), collation: collation.clone() }),
            (None, Some(collation)) => Some(TextDefault::of_collation(collation)),
            (None, None) => None,
        };
        let TextDefault { charset, collation } = own.as_ref().unwrap_or(default);
        if charset == "binary" && !base.starts_with("enum") && !base.starts_with("set") {
            return base.replacen("char", "binary", 1).replacen("text", "blob", 1);
        }
        match collation {
            Some(collation) => format!("{base} CHARACTER SET {charset} COLLATE {collation}"),
            None => format!("{base} CHARACTER SET {charset}"),
        }
    }
}

/// The shortest type that holds so many bytes.
fn sized(base: &'static str, bytes: Option<u64>) -> &'static str {
    let types = if base == "text" {
        ["tinytext", "text", "mediumtext", "longtext"]
    } else {
        ["tinyblob", "blob", "mediumblob", "longblob"]
    };
    match bytes {
        None | Some(0) => types[1],
        Some(1..=0xFF) => types[0],
        Some(0x100..=0xFFFF) => types[1],
        Some(0x1_0000..=0xFF_FFFF) => types[2],
        Some(_) => types[3],
    }
}

pub(super) fn quote_label(label: &str) -> String {
    let mut quoted = String::from("'");
    for c in label.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\0' => quoted.push_str("\\0"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A column of a native type.
pub(super) fn column(name: &str, native: String, nullable: bool, generated: bool) -> Column {
    let base = base(&native).to_ascii_lowercase();
    let numbers: Vec<u32> = match native.split_once('(') {
        Some((_, rest)) => rest.split([',', ')']).map_while(|number| number.trim().parse().ok()).collect(),
        None => Vec::new(),
    };
    let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let label_lengths = || -> Vec<u32> {
        let count = |label: &[u8]| String::from_utf8_lossy(label).chars().count() as u32;
        super::field::labels(&native).iter().map(|label| count(label)).collect()
    };
    let length = match base.as_str() {
        "tinytext" | "tinyblob" => 0xFF,
        "text" | "blob" => 0xFFFF,
        "mediumtext" | "mediumblob" => 0xFF_FFFF,
        "longtext" | "longblob" => u32::MAX,
        "enum" => label_lengths().into_iter().max().unwrap_or(0),
        "set" => label_lengths().iter().map(|length| length + 1).sum::<u32>().saturating_sub(1),
        _ => number(0),
    };
    let declared = Declared {
        base: &base,
        full: &native,
        length,
        precision: number(0).min(u16::MAX.into()) as u16,
        scale: number(1).min(u32::from(i16::MAX.unsigned_abs())) as i16,
        fraction: number(0).min(6) as u8,
    };
    Column { name: name.to_owned(), data_type: source_type(&declared), native, nullable, generated }
}

/// Whether two native types hold the same values: what different versions write differently does not count, nor does a
/// collation.
pub(in crate::connector::mysql) fn same_type(one: &str, other: &str) -> bool {
    fn plain(native: &str) -> String {
        let lower = native.to_ascii_lowercase();
        let lower = lower.split(" collate ").next().unwrap_or_default();
        let lower = lower.replace("character set utf8mb3", "character set utf8");
        let kind = base(&lower);
        // The width of an integer only tells how many blanks a client may print.
        let shown = ["tinyint", "smallint", "mediumint", "int", "bigint", "year"].contains(&kind);
        match lower.split_once('(') {
            Some((_, rest)) if shown && !lower.contains("zerofill") => {
                format!("{kind}{}", rest.split_once(')').map_or("", |(_, rest)| rest))
            }
            _ => lower,
        }
    }
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataType;

    #[test]
    fn definitions_read_as_in_the_catalog() {
        let text = TextDefault::of_collation("latin1_swedish_ci");
        let define = |words: &str, arguments: &[&str]| Definition {
            words: words.split(' ').map(str::to_owned).collect(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            ..Definition::default()
        };
        let cases = [
            (define("integer", &[]), "int"),
            (define("int", &["11"]), "int(11)"),
            (Definition { zerofill: true, ..define("int", &["5"]) }, "int(5) unsigned zerofill"),
            (define("dec", &["7"]), "decimal(7,0)"),
            (define("float", &["30"]), "double"),
            (define("double precision", &[]), "double"),
            (define("timestamp", &["6"]), "timestamp(6)"),
            (define("char", &[]), "char(1) CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
            (define("char byte", &["3"]), "binary(3)"),
            (Definition { charset: Some("binary".to_owned()), ..define("varchar", &["9"]) }, "varbinary(9)"),
            (Definition { charset: Some("binary".to_owned()), ..define("text", &[]) }, "blob"),
            (define("national varchar", &["9"]), "varchar(9) CHARACTER SET utf8"),
            (define("text", &["70000"]), "mediumtext CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
            (
                Definition { collation: Some("utf8mb4_bin".to_owned()), ..define("enum", &["a", "it's\\"]) },
                "enum('a','it''s\\\\') CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            ),
            (define("json", &[]), "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        ];
        for (definition, expected) in cases {
            assert_eq!(definition.column(&text, true).unwrap().native, expected);
        }
        assert_eq!(define("json", &[]).column(&text, false).unwrap().data_type, DataType::Clob);
        assert_eq!(define("xmltype", &[]).column(&text, false), None);
        let decimal = define("numeric", &["12", "3"]).column(&text, false).unwrap();
        assert_eq!(decimal.data_type, DataType::Numeric { precision: 12, scale: 3 });
        let set = define("set", &["a", "bc"]).column(&text, false).unwrap();
        assert_eq!(set.data_type, DataType::WString { length: 4 });
    }

    #[test]
    fn types_are_the_same_whatever_version_writes_them() {
        for (one, other) in [
            ("int(11)", "int"),
            ("bigint(20) unsigned", "bigint unsigned"),
            ("tinyint(1)", "tinyint(4)"),
            ("varchar(5) CHARACTER SET utf8mb3 COLLATE x", "varchar(5) CHARACTER SET utf8"),
        ] {
            assert!(same_type(one, other), "{one} {other}");
        }
        for (one, other) in
            [("int", "int unsigned"), ("varchar(5)", "varchar(6)"), ("int(3) unsigned zerofill", "int unsigned")]
        {
            assert!(!same_type(one, other), "{one} {other}");
        }
    }
}
