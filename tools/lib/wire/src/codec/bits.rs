//! Bits in little-endian bytes, the lowest first, and the Rice code of ascending places.

/// Writes bits.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Writer {
    /// At most 32 bits of a value that has no more.
    #[inline(always)]
    pub(crate) fn put(&mut self, value: u64, bits: u32) {
        self.held |= value << self.count;
        self.count += bits;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    /// Ascending places below 4,096, each as its distance to the one before, less one: the quotient by 2^rice as so many
    /// zeros and a one, then the remainder.
    #[inline(always)]
    pub(crate) fn places(&mut self, places: &[u16], rice: u32) {
        let mut next = 0u32;
        for place in places {
            self.rice(u32::from(*place) - next, rice);
            next = u32::from(*place) + 1;
        }
    }

    /// A number in Rice code.
    #[inline(always)]
    pub(crate) fn rice(&mut self, value: u32, rice: u32) {
        let (mut quotient, rest) = (value >> rice, u64::from(value & ((1 << rice) - 1)));
        while quotient >= 16 {
            self.put(0, 16);
            quotient -= 16;
        }
        // At most 15 zeros, a one and 11 bits.
        self.put((1 | rest << 1) << quotient, quotient + 1 + rice);
    }

    /// The bytes, the last one filled with zeros.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let last = self.held.to_le_bytes();
        self.bytes.extend_from_slice(&last[..self.count.div_ceil(8) as usize]);
        self.bytes
    }
}

/// Reads bits; beyond the end there are zeros, and [`Reader::overrun`] says that too much was read.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// So many bits are there in one look.
const LOOK: u32 = 56;
/// Places of a tile.
const PLACES: u32 = 4096;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    #[inline(always)]
    fn look(&self) -> u64 {
        let (byte, bit) = (self.at >> 3, self.at & 7);
        match self.bytes.get(byte..byte + 8).and_then(|bytes| bytes.first_chunk()) {
            Some(eight) => u64::from_le_bytes(*eight) >> bit,
            None => self.look_at_end(byte) >> bit,
        }
    }

    #[cold]
    fn look_at_end(&self, byte: usize) -> u64 {
        let mut eight = [0; 8];
        let left = self.bytes.get(byte..).unwrap_or_default();
        eight.iter_mut().zip(left).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(eight)
    }

    /// At most 32 bits.
    #[inline(always)]
    pub(crate) fn take(&mut self, bits: u32) -> u32 {
        let value = self.look() & ((1u64 << bits) - 1);
        self.at += bits as usize;
        value as u32
    }

    /// As many places as `out` has room for; `None` where one is beyond the tile.
    #[inline(always)]
    pub(crate) fn places(&mut self, out: &mut [u16], rice: u32) -> Option<()> {
        // With a parameter that is known the shifts are cheaper: that of the most common k has its own copy.
        if rice == 5 { self.places_with(out, 5) } else { self.places_with(out, rice) }
    }

    #[inline(always)]
    fn places_with(&mut self, out: &mut [u16], rice: u32) -> Option<()> {
        let mask = (1u32 << rice) - 1;
        let (mut next, mut done) = (0u32, 0);
        while done < out.len() {
            // Several in one look.
            let (mut word, mut have) = (self.look(), LOOK);
            loop {
                let quotient = word.trailing_zeros();
                let used = quotient + 1 + rice;
                if used > have {
                    break;
                }
                next += quotient << rice | (word >> (quotient + 1)) as u32 & mask;
                if next >= PLACES {
                    return None;
                }
                out[done] = next as u16;
                next += 1;
                done += 1;
                word >>= used;
                have -= used;
                self.at += used as usize;
                if done == out.len() {
                    return Some(());
                }
            }
            if have == LOOK {
                next = self.far(next, rice, PLACES)?;
                out[done] = next as u16;
                next += 1;
                done += 1;
            }
        }
        Some(())
    }

    /// A number in Rice code; `None` where it has more zeros than any that is sent.
    #[inline(always)]
    pub(crate) fn rice(&mut self, rice: u32) -> Option<u32> {
        let word = self.look();
        let quotient = word.trailing_zeros();
        let used = quotient + 1 + rice;
        if used > LOOK {
            return self.far(0, rice, u32::MAX);
        }
        self.at += used as usize;
        Some(quotient << rice | (word >> (quotient + 1)) as u32 & ((1 << rice) - 1))
    }

    /// A number beyond `next` and below `end`, so large that one look does not hold it.
    #[cold]
    fn far(&mut self, next: u32, rice: u32, end: u32) -> Option<u32> {
        let mut quotient = 0;
        loop {
            let word = self.look() & ((1 << LOOK) - 1);
            let zeros = word.trailing_zeros().min(LOOK);
            quotient += zeros;
            self.at += zeros as usize;
            if zeros < LOOK {
                break;
            }
            if quotient >= PLACES {
                return None;
            }
        }
        self.at += 1;
        let place = next.checked_add(quotient.checked_shl(rice)?)?.checked_add(self.take(rice))?;
        (place < end).then_some(place)
    }

    /// Whether all was read, no more, and what fills the last byte is zero.
    pub(crate) fn ended(&self) -> bool {
        let rest = self.look() & 0xff;
        self.at.div_ceil(8) == self.bytes.len() && (self.at.is_multiple_of(8) || rest == 0)
    }

    /// Whether more was read than there is.
    pub(crate) fn overrun(&self) -> bool {
        self.at > self.bytes.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_whatever_they_are() {
        let sets: Vec<Vec<u16>> = vec![
            vec![0],
            vec![4095],
            (0..4096).collect(),
            (0..64).map(|i| i * 64).collect(),
            (4032..4096).collect(),
            vec![0, 4095],
            vec![1, 2, 3, 2000, 2001, 4094],
        ];
        for rice in 0..=11 {
            let mut writer = Writer::default();
            for set in &sets {
                writer.put(5, 3);
                writer.places(set, rice);
            }
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            for set in &sets {
                assert_eq!(reader.take(3), 5);
                let mut out = vec![0; set.len()];
                reader.places(&mut out, rice).unwrap();
                assert_eq!(out, *set, "rice {rice}");
            }
            assert!(reader.ended() && !reader.overrun());
        }
    }

    #[test]
    fn no_bytes_lead_beyond_the_tile_or_the_end() {
        let mut out = [0; 64];
        for bytes in [&[][..], &[0; 100], &[0xff; 3], &[0; 2000]] {
            for rice in 0..=11 {
                let mut reader = Reader::new(bytes);
                assert!(reader.places(&mut out, rice).is_none() || reader.overrun(), "{} bytes", bytes.len());
            }
        }
        let mut reader = Reader::new(&[0b1000_0001]);
        assert_eq!(reader.take(7), 1);
        assert!(!reader.ended(), "a one fills the byte");
    }
}
