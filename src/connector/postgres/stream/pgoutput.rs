//! The messages of the output plugin `pgoutput`, version 1 of its protocol, taken apart without a copy.
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

/// Microseconds from 1970, where our times begin, to 2000, where PostgreSQL's do.
pub const EPOCH_MICROS: i64 = 946_684_800_000_000;

#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// The transactions come whole and one after the other.
    Begin {
        commit: u64,
        time: i64,
        xid: u32,
    },
    Commit {
        /// Where the log goes on after the commit.
        end: u64,
    },
    Relation(Relation<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<(Image, Tuple<'a>)>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: (Image, Tuple<'a>),
    },
    Truncate {
        relations: Oids<'a>,
    },
    /// Where a transaction that was itself replicated comes from.
    Origin {
        name: &'a str,
    },
    /// Types of users and messages of applications: columns are looked up in the catalog.
    Other,
}

/// What an old row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The columns of the replica identity; the others read as null and mean nothing.
    Key,
    Whole,
}

#[derive(Debug, PartialEq)]
pub struct Relation<'a> {
    pub oid: u32,
    pub schema: &'a str,
    pub table: &'a str,
    pub columns: Vec<RelationColumn<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    pub name: &'a str,
    /// One of the columns of the replica identity.
    pub key: bool,
    /// Number and modifier of the type; pglogical does not tell them.
    pub type_of: Option<(u32, i32)>,
}

/// The values of a row, decoded as they are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuple<'a> {
    count: u16,
    bytes: &'a [u8],
    texts: Texts,
}

/// How texts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    Bare,
    /// With a zero at the end, which their length counts.
    Terminated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Null,
    /// A value stored out of line that this change did not touch.
    Unchanged,
    Text(&'a [u8]),
}

/// Numbers of relations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Oids<'a>(&'a [u8]);

impl Iterator for Oids<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (oid, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*oid))
    }
}

impl<'a> Tuple<'a> {
    pub fn len(&self) -> usize {
        self.count.into()
    }
}

impl<'a> Iterator for Tuple<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        let (kind, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(match kind {
            b'n' => Field::Null,
            b'u' => Field::Unchanged,
            // Parsing has seen that the length and the bytes are there.
            _ => {
                let (length, rest) = rest.split_first_chunk()?;
                let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.bytes = rest;
                Field::Text(match self.texts {
                    Texts::Bare => text,
                    Texts::Terminated => text.split_last()?.1,
                })
            }
        })
    }
}

/// Takes a message apart; `None` when it is not what the protocol says.
pub fn parse(message: &[u8]) -> Option<Message<'_>> {
    let (kind, rest) = message.split_first()?;
    let mut input = Input(rest);
    let parsed = match kind {
        b'B' => Message::Begin { commit: input.u64()?, time: input.time()?, xid: input.u32()? },
        b'C' => {
            let (_flags, _commit) = (input.u8()?, input.u64()?);
            let end = input.u64()?;
            input.time()?;
            Message::Commit { end }
        }
        b'R' => Message::Relation(input.relation()?),
        b'I' => {
            let relation = input.u32()?;
            (input.u8()? == b'N').then_some(())?;
            Message::Insert { relation, new: input.tuple(Texts::Bare)? }
        }
        b'U' => {
            let relation = input.u32()?;
            let old = match input.u8()? {
                b'N' => None,
                kind => {
                    let old = (image(kind)?, input.tuple(Texts::Bare)?);
                    (input.u8()? == b'N').then_some(())?;
                    Some(old)
                }
            };
            Message::Update { relation, old, new: input.tuple(Texts::Bare)? }
        }
        b'D' => {
            let relation = input.u32()?;
            Message::Delete { relation, old: (image(input.u8()?)?, input.tuple(Texts::Bare)?) }
        }
        b'T' => {
            let (count, _options) = (input.u32()? as usize, input.u8()?);
            (input.0.len() == count.checked_mul(4)?).then_some(())?;
            Message::Truncate { relations: Oids(std::mem::take(&mut input.0)) }
        }
        b'O' => {
            let _commit = input.u64()?;
            Message::Origin { name: input.text()? }
        }
        b'Y' | b'M' => return Some(Message::Other),
        _ => return None,
    };
    input.0.is_empty().then_some(parsed)
}

fn image(kind: u8) -> Option<Image> {
    match kind {
        b'K' => Some(Image::Key),
        b'O' => Some(Image::Whole),
        _ => None,
    }
}

/// What is left of a message.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Microseconds since 1970.
    pub fn time(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)?.checked_add(EPOCH_MICROS)
    }

    fn text(&mut self) -> Option<&'a str> {
        let end = memchr::memchr(0, self.0)?;
        let text = std::str::from_utf8(&self.0[..end]).ok()?;
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    fn relation(&mut self) -> Option<Relation<'a>> {
        let (oid, schema, table) = (self.u32()?, self.text()?, self.text()?);
        let (_identity, count) = (self.u8()?, self.u16()?);
        let mut columns = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (flags, name) = (self.u8()?, self.text()?);
            let type_of = Some((self.u32()?, self.u32()? as i32));
            columns.push(RelationColumn { name, key: flags & 1 != 0, type_of });
        }
        // The catalog's own schema is not written.
        let schema = if schema.is_empty() { "pg_catalog" } else { schema };
        Some(Relation { oid, schema, table, columns })
    }

    /// Finds the end of a row, and that it is well-formed.
    pub fn tuple(&mut self, texts: Texts) -> Option<Tuple<'a>> {
        let count = self.u16()?;
        let start = self.0;
        for _ in 0..count {
            match self.u8()? {
                b'n' | b'u' => {}
                b't' => {
                    let length = self.u32()? as usize;
                    let (text, rest) = self.0.split_at_checked(length)?;
                    (texts == Texts::Bare || text.last() == Some(&0)).then_some(())?;
                    self.0 = rest;
                }
                _ => return None,
            }
        }
        Some(Tuple { count, bytes: &start[..start.len() - self.0.len()], texts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[kind], parts.concat().as_slice()].concat()
    }

    const ROW: &[u8] = b"\0\x03n\x75t\0\0\0\x02ab";

    fn fields(tuple: Tuple<'_>) -> Vec<Field<'_>> {
        assert_eq!(tuple.len(), tuple.count());
        tuple.collect()
    }

    #[test]
    fn takes_rows_apart() {
        let whole = [Field::Null, Field::Unchanged, Field::Text(b"ab")];
        let insert = message(b'I', &[b"\0\0\0\x07N", ROW]);
        let Some(Message::Insert { relation: 7, new }) = parse(&insert) else { panic!() };
        assert_eq!(fields(new), whole);
        let update = message(b'U', &[b"\0\0\0\x07K", b"\0\x01t\0\0\0\x01x", b"N", ROW]);
        let Some(Message::Update { old: Some((Image::Key, old)), new, .. }) = parse(&update) else { panic!() };
        assert_eq!((fields(old), fields(new)), (vec![Field::Text(b"x")], whole.to_vec()));
        let update = message(b'U', &[b"\0\0\0\x07N", ROW]);
        assert!(matches!(parse(&update), Some(Message::Update { old: None, .. })));
        let delete = message(b'D', &[b"\0\0\0\x07O", ROW]);
        let Some(Message::Delete { old: (Image::Whole, old), .. }) = parse(&delete) else { panic!() };
        assert_eq!(fields(old), whole);
    }

    #[test]
    fn takes_relations_and_transactions_apart() {
        let relation = message(b'R', &[b"\0\0\0\x07\0t\0d\0\x01", b"\x01id\0\0\0\0\x17\xff\xff\xff\xff"]);
        let column = RelationColumn { name: "id", key: true, type_of: Some((23, -1)) };
        let expected = Relation { oid: 7, schema: "pg_catalog", table: "t", columns: vec![column] };
        assert_eq!(parse(&relation), Some(Message::Relation(expected)));
        let begin = message(b'B', &[&9_u64.to_be_bytes(), &1_i64.to_be_bytes(), &5_u32.to_be_bytes()]);
        assert_eq!(parse(&begin), Some(Message::Begin { commit: 9, time: EPOCH_MICROS + 1, xid: 5 }));
        let commit = message(b'C', &[b"\0", &9_u64.to_be_bytes(), &12_u64.to_be_bytes(), &1_i64.to_be_bytes()]);
        assert_eq!(parse(&commit), Some(Message::Commit { end: 12 }));
        let truncate = message(b'T', &[b"\0\0\0\x02\0", b"\0\0\0\x07", b"\0\0\0\x08"]);
        let Some(Message::Truncate { relations }) = parse(&truncate) else { panic!() };
        assert_eq!(relations.collect::<Vec<_>>(), [7, 8]);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_read_to_its_end(bytes: Vec<u8>) {
            for kind in *b"BCRIUDTOYM" {
                let bytes = message(kind, &[&bytes]);
                if let Some(Message::Insert { new, .. }) = parse(&bytes) {
                    prop_assert_eq!(new.len(), new.count());
                }
            }
        }

        #[test]
        fn a_message_cut_short_is_refused(at in 0..21_usize) {
            let whole = message(b'I', &[b"\0\0\0\x07N", ROW]);
            prop_assert!(parse(&whole).is_some());
            prop_assert!(parse(&whole[..at.min(whole.len() - 1)]).is_none());
        }
    }
}
