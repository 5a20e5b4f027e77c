//! Text of the server's character sets as UTF-8.
//!
//! The log has every text in its column's own character set, which the server converts when a table is read. What UTF-8
//! is of a set is asked of the server itself, once per set: so both ways give the same characters.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::wire::Client;
use crate::data::{Error, Result};

#[derive(Clone, Debug)]
pub(super) enum Charset {
    /// As it is.
    Utf8,
    Ascii,
    Ucs2,
    Utf16 {
        little_endian: bool,
    },
    Utf32,
    Table(Arc<Table>),
}

impl Charset {
    /// What is known without asking.
    pub(super) fn known(name: &str) -> Option<Charset> {
        match name {
            "utf8" | "utf8mb3" | "utf8mb4" | "binary" | "" => Some(Charset::Utf8),
            "ascii" => Some(Charset::Ascii),
            "ucs2" => Some(Charset::Ucs2),
            "utf16" => Some(Charset::Utf16 { little_endian: false }),
            "utf16le" => Some(Charset::Utf16 { little_endian: true }),
            "utf32" => Some(Charset::Utf32),
            _ => None,
        }
    }

    /// Appends text as UTF-8. What is no character becomes a question mark, as the server makes it.
    #[inline]
    pub(super) fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Charset::Utf8 => out.extend_from_slice(text),
            Charset::Ascii => out.extend(text.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' })),
            Charset::Ucs2 => {
                let (units, rest) = text.as_chunks::<2>();
                units.iter().for_each(|unit| write_unit(u16::from_be_bytes(*unit), out));
                if !rest.is_empty() {
                    write_char(None, out);
                }
            }
            Charset::Utf16 { little_endian } => {
                let unit = |unit: &[u8; 2]| match little_endian {
                    true => u16::from_le_bytes(*unit),
                    false => u16::from_be_bytes(*unit),
                };
                let (units, rest) = text.as_chunks::<2>();
                for character in char::decode_utf16(units.iter().map(unit)) {
                    write_char(character.ok(), out);
                }
                if !rest.is_empty() {
                    write_char(None, out);
                }
            }
            Charset::Utf32 => {
                let (characters, rest) = text.as_chunks::<4>();
                for character in characters {
                    let number = u32::from_be_bytes(*character);
                    match u16::try_from(number) {
                        Ok(unit) => write_unit(unit, out),
                        Err(_) => write_char(char::from_u32(number), out),
                    }
                }
                if !rest.is_empty() {
                    write_char(None, out);
                }
            }
            Charset::Table(table) => table.write(text, out),
        }
    }
}

fn write_char(character: Option<char>, out: &mut Vec<u8>) {
    out.extend_from_slice(character.unwrap_or('?').encode_utf8(&mut [0; 4]).as_bytes());
}

/// Halves of a pair are characters of their own in UCS-2 and UTF-32: the server sends them so, though UTF-8 has no such.
fn write_unit(unit: u16, out: &mut Vec<u8>) {
    match char::from_u32(unit.into()) {
        Some(character) => write_char(Some(character), out),
        None => {
            out.extend_from_slice(&[0xE0 | (unit >> 12) as u8, 0x80 | (unit >> 6 & 63) as u8, 0x80 | (unit & 63) as u8])
        }
    }
}

/// A character as UTF-8, filled up with zeros; all zeros: there is none.
type Utf8 = [u8; 4];

const NO_CHARACTER: Utf8 = [0; 4];

/// A character set of the server in which a character has one byte, or up to three.
#[derive(Debug)]
pub(super) struct Table {
    single: [Option<Utf8>; 256],
    /// Of the first bytes of longer characters: all their second bytes.
    double: HashMap<u8, Box<[Utf8; 256]>>,
    /// Of the first two bytes of characters of three.
    triple: HashMap<[u8; 2], Box<[Utf8; 256]>>,
    /// The first half of the set is ASCII.
    ascii: bool,
}

impl Table {
    fn write(&self, mut text: &[u8], out: &mut Vec<u8>) {
        while let Some(first) = text.first() {
            if self.ascii && first.is_ascii() {
                let plain = text.iter().take_while(|byte| byte.is_ascii()).count();
                out.extend_from_slice(&text[..plain]);
                text = &text[plain..];
                continue;
            }
            let (character, len) = self.character(text, *first);
            if character == NO_CHARACTER && *first != 0 {
                out.push(b'?');
            } else {
                let end = character.iter().skip(1).position(|byte| *byte == 0).map_or(4, |end| end + 1);
                out.extend_from_slice(&character[..end]);
            }
            text = &text[len..];
        }
    }

    fn character(&self, text: &[u8], first: u8) -> (Utf8, usize) {
        if let Some(character) = self.single[usize::from(first)] {
            return (character, 1);
        }
        let page = match text {
            [first, second, third, ..] if self.triple.contains_key(&[*first, *second]) => {
                self.triple.get(&[*first, *second]).map(|page| (page, *third, 3))
            }
            [first, second, ..] => self.double.get(first).map(|page| (page, *second, 2)),
            _ => None,
        };
        match page {
            Some((page, last, len)) if page[usize::from(last)] != NO_CHARACTER => (page[usize::from(last)], len),
            _ => (NO_CHARACTER, 1),
        }
    }

    /// Asks the server for a character set. An error of the kind `Table` tells that it cannot be converted here.
    pub(super) async fn fetch(client: &mut Client, name: &str) -> Result<Table> {
        let unknown = || Error::table(format!("the character set {name} cannot be converted"));
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(unknown());
        }
        let longest = client
            .rows(&format!("SELECT MAXLEN FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME = '{name}'"))
            .await?;
        let longest: u8 = longest.first().and_then(|row| row[0].as_ref()?.parse().ok()).ok_or_else(unknown)?;
        if longest > 3 {
            return Err(unknown());
        }
        let mut table = Table { single: [None; 256], double: HashMap::new(), triple: HashMap::new(), ascii: false };
        let single = page(client, name, 0).await?;
        for (byte, character) in single.iter().enumerate() {
            // A byte that begins a longer character is none by itself.
            let alone = *character != NO_CHARACTER || byte == 0 || longest == 1;
            table.single[byte] = alone.then_some(*character);
        }
        table.ascii = (0..128).all(|byte: u8| table.single[usize::from(byte)] == Some([byte, 0, 0, 0]));
        for first in (0..=255_u8).filter(|byte| table.single[usize::from(*byte)].is_none()).collect::<Vec<u8>>() {
            table.double.insert(first, page(client, name, first.into()).await?);
            // Only the Japanese sets have characters of three bytes, all of which begin like this.
            const LONG: u8 = 0x8F;
            if longest == 3 && first == LONG {
                for second in 0xA1..=0xFE_u8 {
                    let page = page(client, name, u32::from(LONG) << 8 | u32::from(second)).await?;
                    table.triple.insert([LONG, second], page);
                }
            }
        }
        Ok(table)
    }
}

/// The characters that begin with these bytes and have one more.
async fn page(client: &mut Client, charset: &str, first: u32) -> Result<Box<[Utf8; 256]>> {
    let character = |last: u32| format!("HEX(CONVERT(CHAR({} USING {charset}) USING utf8mb4))", first << 8 | last);
    let list: Vec<String> = (0..256).map(character).collect();
    let row = client.rows(&format!("SELECT {}", list.join(","))).await?.into_iter().next().unwrap_or_default();
    let mut characters = Box::new([NO_CHARACTER; 256]);
    for (character, hex) in characters.iter_mut().zip(row) {
        let bytes = hex.and_then(|hex| data_encoding::HEXUPPER.decode(hex.as_bytes()).ok()).unwrap_or_default();
        if bytes.len() <= character.len() {
            character[..bytes.len()].copy_from_slice(&bytes);
        }
    }
    Ok(characters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf8(name: &str, text: &[u8]) -> String {
        let mut out = Vec::new();
        Charset::known(name).unwrap().write(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn unicode_in_any_width_becomes_utf8() {
        assert_eq!(utf8("utf16", &[0xD8, 0x3D, 0xDE, 0x00, 0, b'x', 0xD8, 0x00]), "😀x?");
        assert_eq!(utf8("utf16le", &[0x3D, 0xD8, 0x00, 0xDE, b'x', 0, 1]), "😀x?");
        assert_eq!(utf8("ucs2", &[0x20, 0xAC]), "€");
        let mut half = Vec::new();
        Charset::Ucs2.write(&[0xD8, 0x3D], &mut half);
        assert_eq!(half, [0xED, 0xA0, 0xBD]);
        assert_eq!(utf8("utf32", &[0, 1, 0xF6, 0, 0, 0, 0, b'x', 0, 0x11, 0, 0, 9]), "😀x??");
        assert_eq!(utf8("ascii", b"x\xE4"), "x?");
        assert!(Charset::known("latin1").is_none());
    }

    #[test]
    fn characters_of_several_bytes_are_found_by_their_first() {
        let mut single = [None; 256];
        for (byte, character) in single.iter_mut().enumerate().take(128) {
            *character = Some([byte as u8, 0, 0, 0]);
        }
        let page = |last: u8, character: char| {
            let mut page = Box::new([NO_CHARACTER; 256]);
            character.encode_utf8(&mut page[usize::from(last)]);
            page
        };
        let table = Table {
            single,
            double: HashMap::from([(0x81, page(0x40, 'é')), (0x8F, page(0x40, 'x'))]),
            triple: HashMap::from([([0x8F, 0xA1], page(0xA2, '語'))]),
            ascii: true,
        };
        let mut out = Vec::new();
        table.write(b"ab\0\x81\x40\x81\x41\x8F\xA1\xA2\x82c\x81", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "ab\0é?A語?c?");
    }
}
