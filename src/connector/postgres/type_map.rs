//! PostgreSQL's types and DMS's.
//!
//! Source: <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html#CHAP_Source-PostgreSQL-DataTypes>,
//! target: <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.PostgreSQL.html#CHAP_Target.PostgreSQL.DataTypes>.

use super::{LongVarchar, Settings};
use crate::data::DataType;

/// A type as `format_type` spells it, taken apart: `timestamp(3) without time zone[]` is a
/// `timestamp without time zone` of argument 3, an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeType {
    /// Without arguments, brackets and collation. A type outside `pg_catalog` has a dot in it.
    pub name: String,
    /// Length, or precision and scale.
    pub arguments: Vec<i32>,
    pub array: bool,
    /// ` COLLATE "schema"."name"`, where it is not the type's own.
    pub collation: String,
}

/// What `pg_type.typtype` says about a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeClass {
    Base,
    Enum,
    Composite,
    Range,
    Multirange,
}

impl TypeClass {
    pub fn parse(typtype: &str) -> TypeClass {
        match typtype {
            "e" => TypeClass::Enum,
            "c" => TypeClass::Composite,
            "r" => TypeClass::Range,
            "m" => TypeClass::Multirange,
            _ => TypeClass::Base,
        }
    }
}

/// Begins the clause that the source appends to a type.
pub const COLLATE: &str = " COLLATE \"";

impl NativeType {
    pub fn parse(native: &str) -> NativeType {
        // Inside a quoted name the quotation mark would be doubled.
        let clause = native.match_indices(COLLATE).find(|(at, clause)| !native[at + clause.len()..].starts_with('"'));
        let (native, collation) = clause.map_or((native, ""), |(at, _)| native.split_at(at));
        let unbracketed = native.trim_end_matches("[]");
        let mut name = unbracketed.to_owned();
        let mut arguments = Vec::new();
        if let (Some(open), Some(close)) = (unbracketed.rfind('('), unbracketed.rfind(')'))
            && open < close
            && !unbracketed[close..].contains('"')
        {
            arguments = unbracketed[open + 1..close].split(',').filter_map(|n| n.trim().parse().ok()).collect();
            name.replace_range(open..=close, "");
        }
        // `interval day to second` restricts what is stored, not how.
        if name.starts_with("interval ") {
            name.truncate("interval".len());
        }
        NativeType { name, arguments, array: unbracketed.len() < native.len(), collation: collation.to_owned() }
    }

    /// Whether the type lives outside `pg_catalog`, so that another database need not have it.
    pub fn is_user_defined(&self) -> bool {
        self.name.contains('.')
    }

    /// Whether every supported version of PostgreSQL has the type and sends and takes it in one and the same binary
    /// form. Left out are those whose binary form means something else on another server (`regclass` and its kin,
    /// which are numbers of rows in the catalog).
    pub fn is_portable_binary(&self) -> bool {
        PORTABLE.contains(&self.name.as_str())
    }

    fn argument(&self, index: usize) -> Option<i32> {
        self.arguments.get(index).copied()
    }

    /// A length argument, or what stands for none.
    fn length_or(&self, default: u32) -> u32 {
        self.argument(0).and_then(|length| u32::try_from(length).ok()).unwrap_or(default)
    }
}

const PORTABLE: &[&str] = &[
    "\"char\"",
    "bigint",
    "bit varying",
    "bit",
    "boolean",
    "box",
    "bpchar",
    "bytea",
    "character varying",
    "character",
    "cid",
    "cidr",
    "circle",
    "date",
    "datemultirange",
    "daterange",
    "double precision",
    "inet",
    "int4multirange",
    "int4range",
    "int8multirange",
    "int8range",
    "integer",
    "interval",
    "json",
    "jsonb",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "nummultirange",
    "numrange",
    "oid",
    "path",
    "pg_lsn",
    "pg_snapshot",
    "point",
    "polygon",
    "real",
    "smallint",
    "text",
    "tid",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
    "tsmultirange",
    "tsquery",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
    "tsvector",
    "txid_snapshot",
    "uuid",
    "xid",
    "xid8",
    "xml",
];

/// A VARCHAR(N) longer than this is what `MapLongVarcharAs` speaks of.
const LONG_VARCHAR: u32 = 16_387;

/// The DMS type of a source's column.
pub fn data_type(native: &NativeType, class: TypeClass, settings: &Settings) -> DataType {
    let string = |length| DataType::String { length };
    let scale = || native.argument(0).map_or(6, |scale| scale.clamp(0, 6) as u8);
    if native.array {
        return DataType::NClob;
    }
    match class {
        TypeClass::Enum => return string(64),
        TypeClass::Composite | TypeClass::Multirange => return DataType::NClob,
        // The guide lists four ranges; the others are taken to be alike.
        TypeClass::Range => return string(255),
        TypeClass::Base => {}
    }
    match native.name.as_str() {
        "smallint" => DataType::Int2,
        "integer" => DataType::Int4,
        "bigint" => DataType::Int8,
        // Not in the guide's table: the type that holds them.
        "oid" | "xid" | "cid" => DataType::UInt4,
        "xid8" => DataType::UInt8,
        "real" => DataType::Real4,
        "double precision" => DataType::Real8,
        "money" => DataType::Numeric { precision: 38, scale: 4 },
        "numeric" => numeric(native, settings),
        "boolean" if settings.map_boolean_as_boolean => DataType::Boolean,
        "boolean" => string(5),
        "character" => DataType::WString { length: native.length_or(1) },
        "character varying" | "bpchar" => varchar(native, settings),
        "name" => DataType::WString { length: 63 },
        "\"char\"" => string(4),
        "bytea" => DataType::Blob,
        "date" => DataType::Date,
        "time without time zone" | "time with time zone" => DataType::Time { scale: scale() },
        "timestamp without time zone" | "timestamp with time zone" => DataType::DateTime { scale: scale() },
        "interval" => string(128),
        "cidr" | "inet" => string(50),
        "macaddr" => string(18),
        "macaddr8" => string(24),
        "uuid" => string(36),
        "bit" => string(native.length_or(1)),
        "bit varying" if !native.arguments.is_empty() => string(native.length_or(1)),
        "point" | "line" | "lseg" | "box" | "circle" => string(255),
        "pg_lsn" | "tid" => string(32),
        "bit varying" | "path" | "polygon" | "tsvector" | "tsquery" | "xml" => DataType::Clob,
        "jsonb" if settings.map_jsonb_as_clob => DataType::Clob,
        // text, citext, json, jsonb, hstore, and whatever an extension brings.
        _ => DataType::NClob,
    }
}

fn numeric(native: &NativeType, settings: &Settings) -> DataType {
    match (native.argument(0), native.argument(1).unwrap_or(0)) {
        (None, _) if settings.map_unbounded_numeric_as_string => DataType::String { length: UNBOUNDED_NUMERIC },
        (None, _) => DataType::Numeric { precision: 0, scale: 0 },
        (Some(precision @ 1..=38), scale) => DataType::Numeric { precision: precision as u16, scale: scale as i16 },
        // All digits, a sign and a point.
        (Some(precision), scale) => DataType::String { length: precision.max(scale.abs()).unsigned_abs() + 2 },
    }
}

/// How long `MapUnboundedNumericAsString` lets a number be; DMS says so of CDC.
const UNBOUNDED_NUMERIC: u32 = 1000;

fn varchar(native: &NativeType, settings: &Settings) -> DataType {
    let length = native.length_or(settings.unbounded_varchar_max_size);
    match settings.map_long_varchar_as {
        LongVarchar::Clob if length > LONG_VARCHAR => DataType::Clob,
        LongVarchar::NClob if length > LONG_VARCHAR => DataType::NClob,
        _ => DataType::WString { length },
    }
}

/// The type a target's column of a DMS type is created with.
pub fn target_type(data_type: DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int1 | DataType::Int2 | DataType::UInt1 => "smallint".into(),
        DataType::Int4 | DataType::UInt2 => "integer".into(),
        DataType::Int8 | DataType::UInt4 | DataType::UInt8 => "bigint".into(),
        DataType::Real4 => "real".into(),
        DataType::Real8 => "double precision".into(),
        // What DMS takes for a number whose source states no precision.
        DataType::Numeric { precision: 0, .. } => "numeric(28,6)".into(),
        // Before PostgreSQL 15 a scale lies between 0 and the precision; a wider precision holds the same numbers.
        DataType::Numeric { precision, scale } if scale < 0 => {
            format!("numeric({},0)", (u32::from(precision) + u32::from(scale.unsigned_abs())).min(1000))
        }
        DataType::Numeric { precision, scale } => {
            let scale = scale.unsigned_abs().min(1000);
            format!("numeric({},{scale})", precision.clamp(scale, 1000))
        }
        DataType::String { length } | DataType::WString { length } => match length {
            1..=21_845 => format!("character varying({length})"),
            _ => "character varying(65535)".into(),
        },
        DataType::Bytes { .. } | DataType::Blob => "bytea".into(),
        DataType::Date => "date".into(),
        DataType::Time { .. } => "time without time zone".into(),
        DataType::DateTime { scale: 0..=6 } => "timestamp without time zone".into(),
        DataType::DateTime { .. } => "character varying(37)".into(),
        DataType::Clob | DataType::NClob => "text".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(native: &str, class: TypeClass) -> DataType {
        data_type(&NativeType::parse(native), class, &Settings::default())
    }

    #[test]
    fn takes_a_type_apart() {
        let parsed = NativeType::parse("timestamp(3) without time zone[]");
        assert_eq!((parsed.name.as_str(), parsed.array), ("timestamp without time zone", true));
        assert_eq!(parsed.arguments, [3]);
        let parsed = NativeType::parse("character varying(20) COLLATE \"pg_catalog\".\"C\"");
        assert_eq!((parsed.name.as_str(), parsed.array), ("character varying", false));
        assert_eq!(parsed.collation, " COLLATE \"pg_catalog\".\"C\"");
        assert_eq!(NativeType::parse("numeric(10,-2)").arguments, [10, -2]);
        let odd = NativeType::parse("\"my COLLATE \"\"x\"\"\".\"mood (3)\"[]");
        assert_eq!((odd.name.as_str(), odd.array), ("\"my COLLATE \"\"x\"\"\".\"mood (3)\"", true));
        assert!(odd.is_user_defined() && !odd.is_portable_binary());
        assert!(NativeType::parse("interval day to second(3)").is_portable_binary());
    }

    #[test]
    fn maps_a_source_column_as_the_guide_says() {
        for (native, expected) in [
            ("smallint", DataType::Int2),
            ("numeric(10,2)", DataType::Numeric { precision: 10, scale: 2 }),
            ("numeric(38,0)", DataType::Numeric { precision: 38, scale: 0 }),
            ("numeric(39,0)", DataType::String { length: 41 }),
            ("numeric", DataType::Numeric { precision: 0, scale: 0 }),
            ("money", DataType::Numeric { precision: 38, scale: 4 }),
            ("boolean", DataType::String { length: 5 }),
            ("character(7)", DataType::WString { length: 7 }),
            ("character varying(70)", DataType::WString { length: 70 }),
            ("character varying", DataType::WString { length: 8000 }),
            ("text", DataType::NClob),
            ("public.citext", DataType::NClob),
            ("bytea", DataType::Blob),
            ("timestamp(3) with time zone", DataType::DateTime { scale: 3 }),
            ("time without time zone", DataType::Time { scale: 6 }),
            ("interval", DataType::String { length: 128 }),
            ("inet", DataType::String { length: 50 }),
            ("bit(12)", DataType::String { length: 12 }),
            ("jsonb", DataType::NClob),
            ("xml", DataType::Clob),
            ("polygon", DataType::Clob),
            ("integer[]", DataType::NClob),
        ] {
            assert_eq!(mapped(native, TypeClass::Base), expected, "{native}");
        }
        assert_eq!(mapped("public.mood", TypeClass::Enum), DataType::String { length: 64 });
        assert_eq!(mapped("public.pair", TypeClass::Composite), DataType::NClob);
        assert_eq!(mapped("int4range", TypeClass::Range), DataType::String { length: 255 });
    }

    #[test]
    fn heeds_the_endpoint_settings() {
        let settings = Settings {
            map_boolean_as_boolean: true,
            map_jsonb_as_clob: true,
            map_unbounded_numeric_as_string: true,
            map_long_varchar_as: LongVarchar::NClob,
            ..Settings::default()
        };
        let mapped = |native| data_type(&NativeType::parse(native), TypeClass::Base, &settings);
        assert_eq!(mapped("boolean"), DataType::Boolean);
        assert_eq!(mapped("jsonb"), DataType::Clob);
        assert_eq!(mapped("numeric"), DataType::String { length: 1000 });
        assert_eq!(mapped("character varying(16388)"), DataType::NClob);
        assert_eq!(mapped("character varying(16387)"), DataType::WString { length: 16_387 });
    }

    #[test]
    fn creates_a_target_column_as_the_guide_says() {
        for (data_type, expected) in [
            (DataType::Boolean, "boolean"),
            (DataType::UInt1, "smallint"),
            (DataType::UInt2, "integer"),
            (DataType::UInt4, "bigint"),
            (DataType::UInt8, "bigint"),
            (DataType::Numeric { precision: 12, scale: 4 }, "numeric(12,4)"),
            (DataType::Numeric { precision: 3, scale: 5 }, "numeric(5,5)"),
            (DataType::Numeric { precision: 3, scale: -2 }, "numeric(5,0)"),
            (DataType::Numeric { precision: 0, scale: 0 }, "numeric(28,6)"),
            (DataType::WString { length: 21_845 }, "character varying(21845)"),
            (DataType::String { length: 21_846 }, "character varying(65535)"),
            (DataType::Bytes { length: 16 }, "bytea"),
            (DataType::DateTime { scale: 6 }, "timestamp without time zone"),
            (DataType::DateTime { scale: 9 }, "character varying(37)"),
            (DataType::NClob, "text"),
        ] {
            assert_eq!(target_type(data_type), expected, "{data_type:?}");
        }
    }
}
