//! The scale of a tile: what its code says, and the values between nothing and it.

/// A scale has eight exponent bits and four of the mantissa: a sixteenth of an octave.
pub(super) const SCALE_SHIFT: u32 = 19;
/// The largest scale that is finite.
pub(super) const LARGEST_SCALE: i32 = 0xfef;
/// What stands in place of a scale: nothing in the tile; fewer values than `k`. A scale is two more than its difference to
/// the one before, folded, so that small ones of either sign come first.
pub(super) const EMPTY: u32 = 0;
pub(super) const FEWER: u32 = 1;
/// Bits of how many there are then.
pub(super) const COUNT_BITS: u32 = 10;
/// The first scale of a group stands behind a difference of nothing.
pub(super) const SCALE_BITS: u32 = 12;
/// The parameter of the scales' Rice code: neighbours differ by some sixteenths of an octave.
pub(super) const SCALE_RICE: u32 = 3;
/// No folded difference is larger.
pub(super) const MOST_FOLDED: u32 = 2 * LARGEST_SCALE as u32 + 2;

/// Small differences of either sign first: 0, −1, 1, −2 …
pub(super) fn folded(difference: i32) -> u32 {
    ((difference << 1) ^ (difference >> 31)) as u32
}

pub(super) fn unfolded(folded: u32) -> i32 {
    (folded >> 1) as i32 ^ -((folded & 1) as i32)
}

pub(super) fn rounded(bits: u32) -> i32 {
    ((bits + (1 << (SCALE_SHIFT - 1))) >> SCALE_SHIFT) as i32
}

pub(super) fn scale_of(scale: i32) -> f32 {
    f32::from_bits((scale as u32) << SCALE_SHIFT)
}

/// The middle of a level.
#[inline(always)]
pub(super) fn magnitude(scale: f32, level: u32, levels: u32) -> f32 {
    scale * ((2 * level + 1) as f32 / (2 * levels) as f32)
}
