//! What the log tells of a table before its rows: always the types of its columns, and what else the server's
//! `binlog_row_metadata` makes it tell.

use super::cursor::Cursor;

/// Types of columns.
pub(super) mod wire {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const BLOB_COMPRESSED: u8 = 140;
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// A column as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireColumn {
    /// With CHAR, ENUM and SET told apart.
    pub(super) kind: u8,
    /// The longest value in bytes, the bytes of a length, the digits of a second, the bits of a BIT; precision and scale
    /// of a DECIMAL in the lower and the upper byte.
    pub(super) meta: u16,
}

impl WireColumn {
    /// CHAR, ENUM and SET share a type. The real one is in the first byte of what describes it, in two bits of which a
    /// CHAR of more than 255 bytes has the rest of its length, inverted.
    fn of_string(kind: u8, real: u8, len: u8) -> WireColumn {
        match real {
            wire::ENUM | wire::SET => WireColumn { kind: real, meta: len.into() },
            0 => WireColumn { kind, meta: len.into() },
            _ if real & 0x30 != 0x30 => {
                WireColumn { kind: wire::STRING, meta: u16::from(len) | u16::from((real & 0x30) ^ 0x30) << 4 }
            }
            _ => WireColumn { kind: wire::STRING, meta: len.into() },
        }
    }

    fn is_numeric(self) -> bool {
        use wire::*;
        matches!(self.kind, TINY | SHORT | INT24 | LONG | LONGLONG | FLOAT | DOUBLE | NEWDECIMAL | YEAR)
    }

    fn is_character(self, mariadb: bool) -> bool {
        use wire::*;
        match self.kind {
            STRING | VAR_STRING | VARCHAR | BLOB | BLOB_COMPRESSED | VARCHAR_COMPRESSED => true,
            GEOMETRY => mariadb,
            _ => false,
        }
    }
}

pub(super) struct TableMap<'a> {
    pub(super) columns: Vec<WireColumn>,
    metadata: &'a [u8],
}

/// The number by which rows refer to a table: the first thing in its description and in theirs.
pub(super) fn table_id(body: &[u8]) -> Option<u64> {
    Cursor(body).u48()
}

/// The names of the table, without looking at the rest.
pub(super) fn table_names(body: &[u8]) -> Option<(&[u8], &[u8])> {
    names(&mut Cursor(body))
}

fn names<'a>(cursor: &mut Cursor<'a>) -> Option<(&'a [u8], &'a [u8])> {
    cursor.u48()?;
    cursor.u16()?;
    let mut name = || {
        let len = cursor.u8()?;
        let name = cursor.take(len.into())?;
        cursor.u8()?;
        Some(name)
    };
    Some((name()?, name()?))
}

impl<'a> TableMap<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<TableMap<'a>> {
        let mut cursor = Cursor(body);
        names(&mut cursor)?;
        let count = usize::try_from(cursor.lenenc()?).ok()?;
        let kinds = cursor.take(count)?;
        let mut metas = Cursor(cursor.lenenc_bytes()?);
        let columns = kinds.iter().map(|kind| column(*kind, &mut metas)).collect::<Option<_>>()?;
        // Which columns may be null: rows tell which are.
        cursor.take(count.div_ceil(8))?;
        Some(TableMap { columns, metadata: cursor.0 })
    }

    /// What is told beyond the types; nothing where that cannot be read.
    pub(super) fn metadata(&self, mariadb: bool) -> Metadata<'a> {
        Metadata::parse(self.metadata, &self.columns, mariadb).unwrap_or_default()
    }
}

fn column(kind: u8, metas: &mut Cursor<'_>) -> Option<WireColumn> {
    use wire::*;
    Some(match kind {
        STRING | VAR_STRING | ENUM | SET => WireColumn::of_string(kind, metas.u8()?, metas.u8()?),
        VARCHAR | VARCHAR_COMPRESSED | NEWDECIMAL => WireColumn { kind, meta: metas.u16()? },
        BIT => {
            let (bits, bytes) = (metas.u8()?, metas.u8()?);
            WireColumn { kind, meta: u16::from(bytes) * 8 + u16::from(bits) }
        }
        FLOAT | DOUBLE | TIMESTAMP2 | DATETIME2 | TIME2 | BLOB | BLOB_COMPRESSED | GEOMETRY | JSON | VECTOR => {
            WireColumn { kind, meta: metas.u8()?.into() }
        }
        _ => WireColumn { kind, meta: 0 },
    })
}

/// What a server may tell of a table beyond the types. Lists are empty where it does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata<'a> {
    /// For each column: of a number whether it is unsigned.
    pub(super) unsigned: Vec<Option<bool>>,
    /// For each column: the number of a text's collation.
    pub(super) collations: Vec<Option<u16>>,
    pub(super) names: Vec<&'a [u8]>,
    /// For each column: the labels of an ENUM or SET, in the column's character set.
    pub(super) labels: Vec<Vec<&'a [u8]>>,
    /// Places of the primary key's columns.
    pub(super) primary_key: Vec<usize>,
    /// For each column whether it is visible; only MySQL tells.
    pub(super) visible: Vec<bool>,
}

impl<'a> Metadata<'a> {
    fn parse(bytes: &'a [u8], columns: &[WireColumn], mariadb: bool) -> Option<Metadata<'a>> {
        let places = |of: &dyn Fn(WireColumn) -> bool| -> Vec<usize> {
            columns.iter().enumerate().filter(|(_, column)| of(**column)).map(|(index, _)| index).collect()
        };
        let numeric = places(&WireColumn::is_numeric);
        let character = places(&|column| column.is_character(mariadb));
        let labelled = places(&|column| matches!(column.kind, wire::ENUM | wire::SET));
        let mut metadata = Metadata::default();
        let mut cursor = Cursor(bytes);
        while let Some(kind) = cursor.u8() {
            let value = cursor.lenenc_bytes()?;
            match kind {
                1 => {
                    metadata.unsigned = vec![None; columns.len()];
                    for (bit, index) in numeric.iter().enumerate() {
                        metadata.unsigned[*index] = Some(value.get(bit / 8)? >> (7 - bit % 8) & 1 == 1);
                    }
                }
                2 | 3 | 10 | 11 => {
                    let of = if kind < 10 { &character } else { &labelled };
                    metadata.collations.resize(columns.len(), None);
                    read_collations(value, matches!(kind, 2 | 10), of, &mut metadata.collations)?;
                }
                4 => {
                    let mut names = Cursor(value);
                    metadata.names = columns.iter().map(|_| names.lenenc_bytes()).collect::<Option<_>>()?;
                }
                5 | 6 => {
                    let of = if kind == 5 { wire::SET } else { wire::ENUM };
                    metadata.labels.resize(columns.len(), Vec::new());
                    let mut cursor = Cursor(value);
                    for index in labelled.iter().filter(|index| columns[**index].kind == of) {
                        let count = cursor.lenenc()?;
                        metadata.labels[*index] = (0..count).map(|_| cursor.lenenc_bytes()).collect::<Option<_>>()?;
                    }
                }
                8 | 9 => {
                    let mut cursor = Cursor(value);
                    while let Some(index) = cursor.lenenc() {
                        metadata.primary_key.push(usize::try_from(index).ok().filter(|index| *index < columns.len())?);
                        if kind == 9 {
                            cursor.lenenc()?;
                        }
                    }
                }
                12 => {
                    let visible = |index: usize| Some(value.get(index / 8)? >> (7 - index % 8) & 1 == 1);
                    metadata.visible = (0..columns.len()).map(visible).collect::<Option<_>>()?;
                }
                _ => {}
            }
        }
        Some(metadata)
    }
}

/// Collations of some columns: one for each, or one for all and those of the exceptions with their places.
fn read_collations(value: &[u8], with_default: bool, of: &[usize], collations: &mut [Option<u16>]) -> Option<()> {
    let mut cursor = Cursor(value);
    let number = |number: u64| u16::try_from(number).ok();
    if !with_default {
        for index in of {
            collations[*index] = Some(number(cursor.lenenc()?)?);
        }
        return Some(());
    }
    let default = number(cursor.lenenc()?)?;
    of.iter().for_each(|index| collations[*index] = Some(default));
    while let Some(place) = cursor.lenenc() {
        let index = of.get(usize::try_from(place).ok()?)?;
        collations[*index] = Some(number(cursor.lenenc()?)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER_PERMISSIVE;

    /// As MariaDB 10.11 logs it: `id int unsigned, y year, d decimal(5,2) unsigned, b bit(3), v varchar(10), c char(3),
    /// bi binary(3), e enum('a','😀') character set utf8mb4, s set('x'), t text, ts timestamp, f float, g geometry,
    /// u uuid, h int, primary key (v(3), id)`.
    const MARIADB: &str = "2f0000000000010001640002 6d64000f030df6100ffefefefefc1104fffe0314050203000a00fe03fe03f701f8010200\
                           0404fe10ee7f0101e0030608083f083f3f0701000421 02696401790164016201760163026269016501730174027473016601\
                           67017501680b022d08050301017806080201610 4f09f988009040403 0000";

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.chars().filter(|c| !c.is_whitespace()).collect();
        HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap()
    }

    #[test]
    fn reads_all_that_a_server_tells() {
        let body = bytes(MARIADB);
        let map = TableMap::parse(&body).unwrap();
        assert_eq!(table_id(&body), Some(47));
        assert_eq!(table_names(&body), Some((&b"d"[..], &b"md"[..])));
        let column = |kind, meta| WireColumn { kind, meta };
        assert_eq!(map.columns[2], column(wire::NEWDECIMAL, 5 | 2 << 8));
        assert_eq!(map.columns[3], column(wire::BIT, 3));
        assert_eq!(map.columns[7..9], [column(wire::ENUM, 1), column(wire::SET, 1)]);
        let metadata = map.metadata(true);
        assert_eq!(metadata.names.len(), 15);
        assert_eq!((metadata.names[0], metadata.names[14]), (&b"id"[..], &b"h"[..]));
        let unsigned: Vec<usize> = (0..15).filter(|index| metadata.unsigned[*index] == Some(true)).collect();
        assert_eq!(unsigned, [0, 1, 2]);
        assert_eq!((metadata.unsigned[14], metadata.unsigned[3]), (Some(false), None));
        assert_eq!(metadata.labels[7], [&b"a"[..], "😀".as_bytes()]);
        assert_eq!(metadata.labels[8], [b"x"]);
        let collations = [Some(8), Some(8), Some(63), Some(45), Some(8), Some(8)];
        assert_eq!(metadata.collations[4..10], collations);
        assert_eq!(metadata.primary_key, [4, 0]);
    }

    #[test]
    fn reads_collations_with_a_default_and_hidden_columns() {
        let columns = [wire::VARCHAR, wire::LONG, wire::VARCHAR, wire::BLOB].map(|kind| WireColumn { kind, meta: 0 });
        let bytes = [2, 5, 0xFC, 255, 0, 1, 8, 12, 1, 0b1011_0000];
        let metadata = Metadata::parse(&bytes, &columns, false).unwrap();
        assert_eq!(metadata.collations, [Some(255), None, Some(8), Some(255)]);
        assert_eq!(metadata.visible, [true, false, true, true]);
    }

    #[test]
    fn tells_long_chars_from_enums() {
        assert_eq!(WireColumn::of_string(wire::STRING, 0xFE, 30), WireColumn { kind: wire::STRING, meta: 30 });
        // CHAR(255) of utf8mb4: 1020 bytes.
        assert_eq!(WireColumn::of_string(wire::STRING, 0xCE, 0xFC), WireColumn { kind: wire::STRING, meta: 1020 });
        assert_eq!(WireColumn::of_string(wire::STRING, wire::SET, 8), WireColumn { kind: wire::SET, meta: 8 });
    }

    proptest::proptest! {
        #[test]
        fn never_panics(at in 0usize..150, byte: u8, cut in 0usize..150) {
            let mut body = bytes(MARIADB);
            let (at, cut) = (at % body.len(), cut % body.len());
            body[at] = byte;
            for body in [&body[..], &body[..cut]] {
                if let Some(map) = TableMap::parse(body) {
                    let _ = map.metadata(at % 2 == 0);
                }
            }
        }
    }
}
