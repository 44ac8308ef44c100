//! From bits to values: of a file that comes from outside, nothing is believed.

use super::{
    bits::Reader,
    plan::{MOST, Plan, Values},
    scale::{
        COUNT_BITS, EMPTY, FEWER, LARGEST_SCALE, MOST_FOLDED, SCALE_BITS, SCALE_RICE, magnitude, scale_of, unfolded,
    },
    shape::Shape,
};
use crate::layout::TILE;

/// Reads a group, tile after tile.
pub struct Decoder<'a> {
    plan: Plan,
    before: i32,
    reader: Reader<'a>,
    places: Box<[u16; MOST]>,
    values: Box<[f32; MOST]>,
}

impl<'a> Decoder<'a> {
    /// A decoder of a group's bytes.
    pub fn new(plan: Plan, bytes: &'a [u8]) -> Self {
        let (places, values) = (Box::new([0; MOST]), Box::new([0.0; MOST]));
        Decoder { plan, before: 0, reader: Reader::new(bytes), places, values }
    }

    /// The next tile: its places, ascending, and the values there; `None` where the bytes are no such tile.
    #[inline(always)]
    pub fn tile(&mut self) -> Option<(&[u16], &[f32])> {
        let (count, scale) = self.head()?;
        let (places, values) = (self.places.get(..count)?, self.values.get_mut(..count)?);
        read(&mut self.reader, self.plan.values, scale, values)?;
        if self.reader.overrun() { None } else { Some((places, values)) }
    }

    /// How many places, which are read too, and their scale.
    #[inline(always)]
    fn head(&mut self) -> Option<(usize, f32)> {
        let (mut code, mut count) = (self.reader.rice(SCALE_RICE)?, self.plan.k);
        if code == EMPTY {
            return Some((0, 0.0));
        }
        if code == FEWER {
            count = self.reader.take(COUNT_BITS) as usize;
            code = self.reader.rice(SCALE_RICE)?;
            if count == 0 || count >= self.plan.k {
                return None;
            }
        }
        if !(2..=MOST_FOLDED).contains(&code) {
            return None;
        }
        if self.before == 0 {
            self.before = self.reader.take(if code == 2 { SCALE_BITS } else { return None }) as i32;
        } else {
            self.before += unfolded(code - 2);
        }
        if !(1..=LARGEST_SCALE).contains(&self.before) {
            return None;
        }
        // What needs no scale has one all the same, and no other.
        if matches!(self.plan.values, Values::F16 | Values::F32) && self.before != 1 {
            return None;
        }
        self.reader.places(self.places.get_mut(..count)?, self.plan.rice)?;
        Some((count, scale_of(self.before)))
    }

    /// Add the next tile, so many times, to a sum; `None` as [`Decoder::tile`].
    #[inline(always)]
    fn add(&mut self, share: f32, sum: &mut [f32; TILE]) -> Option<()> {
        if self.plan.values != Values::Sign {
            let (places, values) = self.tile()?;
            for (place, value) in places.iter().zip(values) {
                sum[usize::from(*place) % TILE] += share * value;
            }
            return Some(());
        }
        // The same, with one product for the tile.
        let (count, scale) = self.head()?;
        let share = (share * scale).to_bits();
        for places in self.places.get(..count)?.chunks(32) {
            let signs = self.reader.take(places.len() as u32);
            for (at, place) in places.iter().enumerate() {
                sum[usize::from(*place) % TILE] += f32::from_bits(share ^ (signs >> at & 1) << 31);
            }
        }
        if self.reader.overrun() { None } else { Some(()) }
    }

    /// Whether the group ends here, with nothing behind it.
    pub fn ended(&self) -> bool {
        self.reader.ended()
    }
}

#[inline(always)]
fn read(reader: &mut Reader<'_>, how: Values, scale: f32, values: &mut [f32]) -> Option<()> {
    match how {
        Values::Sign => {
            let scale = scale.to_bits();
            for chunk in values.chunks_mut(32) {
                let signs = reader.take(chunk.len() as u32);
                for (at, value) in chunk.iter_mut().enumerate() {
                    *value = f32::from_bits(scale | (signs >> at & 1) << 31);
                }
            }
        }
        Values::Bits(bits) => {
            let levels = 1u32 << (bits - 1);
            for value in values {
                let word = reader.take(bits);
                let size = magnitude(scale, word >> 1, levels);
                *value = f32::from_bits(size.to_bits() | word << 31);
            }
        }
        Values::F16 => {
            for value in values {
                let sent = half::f16::from_bits(reader.take(16) as u16);
                if !sent.is_finite() {
                    return None;
                }
                *value = sent.to_f32();
            }
        }
        Values::F32 => {
            for value in values {
                *value = f32::from_bits(reader.take(32));
                if !value.is_finite() {
                    return None;
                }
            }
        }
    }
    Some(())
}

/// Add the next tile of each, so many times, to a sum, in their order; `None` as [`Decoder::tile`].
pub fn add(decoders: &mut [Decoder<'_>], shares: &[f32], sum: &mut [f32; TILE]) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if super::wide::has() {
        #[allow(unsafe_code)]
        // SAFETY: this machine has been asked for what the function needs.
        return unsafe { add_wide(decoders, shares, sum) };
    }
    add_all(decoders, shares, sum)
}

#[inline(always)]
pub(super) fn add_all(decoders: &mut [Decoder<'_>], shares: &[f32], sum: &mut [f32; TILE]) -> Option<()> {
    decoders.iter_mut().zip(shares).try_for_each(|(decoder, share)| decoder.add(*share, sum))
}

/// [`add`] in the instructions of [`super::wide`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn add_wide(decoders: &mut [Decoder<'_>], shares: &[f32], sum: &mut [f32; TILE]) -> Option<()> {
    add_all(decoders, shares, sum)
}

/// Check a group of a hostile file: every tile can be read, no place is padding, and nothing is left over.
pub fn check(plan: Plan, bytes: &[u8], shape: Shape) -> bool {
    let mut decoder = Decoder::new(plan, bytes);
    (0..shape.tiles()).all(|tile| {
        let (_, _, rows, cols) = shape.part(tile);
        let across = shape.tile.1;
        decoder.tile().is_some_and(|(places, _)| {
            // A transformed tile has coefficients everywhere.
            plan.transformed
                || rows * cols == TILE
                || places.iter().all(|place| usize::from(*place) / across < rows && usize::from(*place) % across < cols)
        })
    }) && decoder.ended()
}
