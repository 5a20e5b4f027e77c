//! Reading bytes from the front. Whatever is not there is `None`: a log is never trusted.

#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(super) fn u48(&mut self) -> Option<u64> {
        self.array::<6>().map(|[a, b, c, d, e, f]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    #[inline]
    pub(super) fn u56(&mut self) -> Option<u64> {
        self.array::<7>().map(|[a, b, c, d, e, f, g]| u64::from_le_bytes([a, b, c, d, e, f, g, 0]))
    }

    #[inline]
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length-encoded number of the client protocol.
    #[inline]
    pub(super) fn lenenc(&mut self) -> Option<u64> {
        match self.u8()? {
            0xFC => self.u16().map(u64::from),
            0xFD => self.array::<3>().map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]).into()),
            0xFE => self.u64(),
            0xFB | 0xFF => None,
            small => Some(small.into()),
        }
    }

    /// Bytes after their length as a length-encoded number.
    pub(super) fn lenenc_bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.lenenc()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// A number of MySQL's serialization library: the ones at the low end of the first byte tell how many bytes follow.
    pub(super) fn varlen(&mut self) -> Option<u64> {
        let more = self.0.first()?.trailing_ones() as usize;
        if more == 8 {
            self.take(1)?;
            return self.u64();
        }
        let mut bytes = [0; 8];
        bytes[..=more].copy_from_slice(self.take(more + 1)?);
        Some(u64::from_le_bytes(bytes) >> (more + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_of_variable_length() {
        for (bytes, expected) in [
            (&[0b0000_0010][..], 1),
            (&[0b0000_0101, 0b0000_0010], 0b1000_0001),
            (&[0xFF, 1, 2, 3, 4, 5, 6, 7, 8], 0x0807_0605_0403_0201),
            (&[0x7F, 1, 0, 0, 0, 0, 0, 0x80], 0x80_0000_0000_0001),
        ] {
            assert_eq!(Cursor(bytes).varlen(), Some(expected));
            assert_eq!(Cursor(&bytes[..bytes.len() - 1]).varlen(), None);
        }
        assert_eq!(Cursor(&[0xFD, 1, 2, 3]).lenenc(), Some(0x03_0201));
        assert_eq!((Cursor(&[0xFC, 1]).lenenc(), Cursor(&[0xFB]).lenenc()), (None, None));
    }
}
