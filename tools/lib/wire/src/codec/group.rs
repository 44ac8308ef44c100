//! Sparse tiles: of each tile the `k` largest values, as a choice of places and what stands there.
//!
//! Pure functions over slices. `FORMAT.md` has every bit. Source of the scheme: SparseLoCo
//! (arXiv 2508.15706), DeMo (arXiv 2411.19870); signs with one scale a tile in place of quantised values, since they cost less
//! and have half the error.

use super::{
    bits::{Reader, Writer},
    select::{INFINITE, MAGNITUDE, Selector},
    transform,
};
use crate::tile::{Shape, TILE};
use record::Report;

/// The most values of a tile.
pub const MAX_K: usize = 1024;
/// A scale has eight exponent bits and four of the mantissa: a sixteenth of an octave.
const SCALE_SHIFT: u32 = 19;
/// The largest scale that is finite.
const LARGEST_SCALE: i32 = 0xfef;
/// What stands in place of a scale: nothing in the tile; fewer values than `k`. A scale is two more than its difference to
/// the one before, folded, so that small ones of either sign come first.
const EMPTY: u32 = 0;
const FEWER: u32 = 1;
/// Bits of how many there are then.
const COUNT_BITS: u32 = 10;
/// The first scale of a group stands behind a difference of nothing.
const SCALE_BITS: u32 = 12;
/// The parameter of the scales' Rice code: neighbours differ by some sixteenths of an octave.
const SCALE_RICE: u32 = 3;
/// No folded difference is larger.
const MAX_FOLDED: u32 = 2 * LARGEST_SCALE as u32 + 2;

/// How a chosen value is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Its sign; the tile's scale is the mean magnitude.
    Sign,
    /// Its sign and so many bits less one of its magnitude, in equal steps up to the tile's scale, which is the largest.
    Bits(u32),
    /// Rounded to f16, nearest, ties to even.
    F16,
    /// As it is.
    F32,
}

/// How tiles are made sparse: what a run agrees on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Values of a tile.
    pub k: usize,
    /// How they are sent.
    pub values: Values,
    /// Of each tile its cosine transform, not its values.
    pub transformed: bool,
    rice: u32,
}

impl Plan {
    /// A plan; `k` from 1 to [`MAX_K`].
    pub fn new(k: usize, values: Values) -> Self {
        let k = k.clamp(1, MAX_K);
        // The best parameter for places that are chosen at random: log₂ of their mean distance times ln 2.
        let mean = (TILE - k) as f64 / (k + 1) as f64 * std::f64::consts::LN_2;
        Plan { k, values, transformed: false, rice: mean.max(1.0).log2().floor() as u32 }
    }

    /// The same of the tiles' cosine transform.
    pub fn transformed(self) -> Self {
        Plan { transformed: true, ..self }
    }

    fn value_bits(&self) -> u32 {
        match self.values {
            Values::Sign => 1,
            Values::Bits(bits) => bits,
            Values::F16 => 16,
            Values::F32 => 32,
        }
    }

    /// No group of so many tiles has more bytes.
    pub fn max_bytes(&self, tiles: usize) -> usize {
        let places = (TILE >> self.rice) + self.k * (1 + self.rice as usize);
        let scale = (MAX_FOLDED >> SCALE_RICE) + 2 * (1 + SCALE_RICE) + COUNT_BITS + SCALE_BITS;
        let tile = scale as usize + places + self.k * self.value_bits() as usize;
        (tiles * tile).div_ceil(8)
    }
}

/// What a group is made from; values of whole rows, as bytes of little-endian f32.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The update.
    pub update: &'a [[u8; 4]],
    /// What earlier windows left, if any, and the share of it that still counts.
    pub left: Option<(&'a [[u8; 4]], f32)>,
}

impl Source<'_> {
    /// `update + decay · left`.
    #[inline(always)]
    fn values(&self, from: usize, out: &mut [f32]) {
        let update = &self.update[from..from + out.len()];
        match self.left {
            None => out.iter_mut().zip(update).for_each(|(out, update)| *out = f32::from_le_bytes(*update)),
            Some((left, decay)) => {
                let both = update.iter().zip(&left[from..from + out.len()]);
                for (out, (update, left)) in out.iter_mut().zip(both) {
                    *out = decay * f32::from_le_bytes(*left) + f32::from_le_bytes(*update);
                }
            }
        }
    }
}

/// Makes groups sparse, one after another.
pub struct Encoder {
    plan: Plan,
    selector: Selector,
    tile: Box<[f32; TILE]>,
}

impl Encoder {
    /// An encoder; its results do not depend on what it encoded before.
    pub fn new(plan: Plan) -> Self {
        Encoder { plan, selector: Selector::new(plan.k), tile: Box::new([0.0; TILE]) }
    }

    /// Choose and send; what is not sent is put into `left`, and is what the next window begins with.
    ///
    /// # Errors
    /// Exit code 65 when a value is not finite.
    pub fn encode(&mut self, shape: Shape, source: Source<'_>, left: &mut [f32]) -> Result<Vec<u8>, Report> {
        #[cfg(target_arch = "x86_64")]
        if wide::has() {
            #[allow(unsafe_code)]
            // SAFETY: this machine has been asked for what the function needs.
            return unsafe { wide::encode(self, shape, source, left) };
        }
        self.encode_with::<false>(shape, source, left)
    }

    #[inline(always)]
    fn encode_with<const WIDE: bool>(
        &mut self,
        shape: Shape,
        source: Source<'_>,
        left: &mut [f32],
    ) -> Result<Vec<u8>, Report> {
        let mut writer = Writer::default();
        let mut before = 0;
        self.selector.group(shape.whole());
        for row in (0..shape.rows).step_by(shape.tile.0) {
            let rows = shape.tile.0.min(shape.rows - row);
            let begin = row * shape.cols;
            let left = &mut left[begin..begin + rows * shape.cols];
            self.feed::<WIDE>(shape, source, begin, left);
            for col in (0..shape.cols).step_by(shape.tile.1) {
                if self.plan.transformed {
                    self.transformed::<WIDE>(shape, col, left, &mut before, &mut writer)?;
                } else {
                    self.tile::<WIDE>(shape, col, left, &mut before, &mut writer)?;
                }
            }
        }
        Ok(writer.finish())
    }

    /// A row of tiles, in the order of memory: all that is read or written is read or written once.
    #[inline(always)]
    fn feed<const WIDE: bool>(&mut self, shape: Shape, source: Source<'_>, begin: usize, left: &mut [f32]) {
        let across = shape.whole();
        self.selector.row();
        for (row, values) in left.chunks_exact_mut(shape.cols).enumerate() {
            let from = begin + row * shape.cols;
            let (tiles, rest) = values.split_at_mut(across * 64);
            for (column, values) in tiles.as_chunks_mut::<64>().0.iter_mut().enumerate() {
                source.values(from + column * 64, values);
                if !self.plan.transformed {
                    self.selector.see::<WIDE>(column, row, values);
                }
            }
            source.values(from + across * 64, rest);
        }
    }

    /// The tile that begins at a column of what was fed.
    #[inline(always)]
    fn tile<const WIDE: bool>(
        &mut self,
        shape: Shape,
        col: usize,
        left: &mut [f32],
        before: &mut i32,
        writer: &mut Writer,
    ) -> Result<(), Report> {
        let (cols, width) = (shape.cols, shape.tile.1);
        let column = Some(col / width).filter(|column| *column < shape.whole());
        let count = match column.and_then(|column| self.selector.seen(column)) {
            Some(count) => count,
            None => {
                shape.gather(col, left, &mut self.tile);
                self.selector.select::<WIDE>(column, &self.tile)
            }
        };
        let place = |place: u16| usize::from(place) / width * cols + col + usize::from(place) % width;
        send_tile(self.plan, self.selector.chosen(count), before, writer, |at, value| {
            if let Some(left) = left.get_mut(place(at)) {
                *left = value;
            }
        })
    }

    /// The same of a tile's cosine transform; what is left is transformed back.
    #[inline(always)]
    fn transformed<const WIDE: bool>(
        &mut self,
        shape: Shape,
        col: usize,
        left: &mut [f32],
        before: &mut i32,
        writer: &mut Writer,
    ) -> Result<(), Report> {
        let tile = &mut *self.tile;
        shape.gather(col, left, tile);
        transform::forward(tile);
        let count = self.selector.select::<WIDE>(None, tile);
        let sent = send_tile(self.plan, self.selector.chosen(count), before, writer, |at, value| {
            tile[usize::from(at) % TILE] = value;
        });
        transform::inverse(tile);
        let wide = shape.tile.1.min(shape.cols - col);
        for (from, out) in tile.chunks_exact(shape.tile.1).zip(left.chunks_exact_mut(shape.cols)) {
            out[col..col + wide].copy_from_slice(&from[..wide]);
        }
        sent
    }
}

/// Send what was chosen of a tile, and tell what is left at each place.
#[inline(always)]
fn send_tile(
    plan: Plan,
    (places, values): (&[u16], &[f32]),
    before: &mut i32,
    writer: &mut Writer,
    mut left: impl FnMut(u16, f32),
) -> Result<(), Report> {
    let scale = scale_for(plan.values, values)?;
    // Too small for a scale: as if it were not there.
    if scale == 0 {
        writer.rice(EMPTY, SCALE_RICE);
        return Ok(());
    }
    if places.len() < plan.k {
        writer.rice(FEWER, SCALE_RICE);
        writer.put(places.len() as u64, COUNT_BITS);
    }
    if *before == 0 {
        writer.rice(2, SCALE_RICE);
        writer.put(scale as u64, SCALE_BITS);
    } else {
        writer.rice(folded(scale - *before) + 2, SCALE_RICE);
    }
    *before = scale;
    writer.places(places, plan.rice);
    let mut rest = places.iter();
    send(writer, plan.values, scale, values, |value| {
        if let Some(place) = rest.next() {
            left(*place, value);
        }
    });
    Ok(())
}

/// The scale of a tile's choice; 0 where there is nothing to send.
#[inline(always)]
fn scale_for(how: Values, values: &[f32]) -> Result<i32, Report> {
    let (mut sum, mut largest) = (0f32, 0u32);
    for value in values {
        let size = value.to_bits() & MAGNITUDE;
        sum += f32::from_bits(size);
        largest = largest.max(size);
    }
    if largest >= INFINITE {
        return Err(Report::data("a value is not finite"));
    }
    let scale = match how {
        Values::Sign => rounded((sum / values.len().max(1) as f32).min(f32::MAX).to_bits()),
        Values::Bits(_) => largest.div_ceil(1 << SCALE_SHIFT) as i32,
        Values::F16 | Values::F32 => i32::from(!values.is_empty()),
    };
    Ok(scale.min(LARGEST_SCALE))
}

/// The same for processors of the last ten years, in their instructions: the same bits, since every sum keeps its order.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Decoder, Encoder, Report, Shape, Source, TILE, add_all, transform as waves};

    pub(super) fn has() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn encode(
        encoder: &mut Encoder,
        shape: Shape,
        source: Source<'_>,
        left: &mut [f32],
    ) -> Result<Vec<u8>, Report> {
        encoder.encode_with::<true>(shape, source, left)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn transform(tile: &mut [f32; TILE], back: bool) {
        if back { waves::inverse(tile) } else { waves::forward(tile) }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn add(decoders: &mut [Decoder<'_>], shares: &[f32], sum: &mut [f32; TILE]) -> Option<()> {
        add_all(decoders, shares, sum)
    }
}

/// Small differences of either sign first: 0, −1, 1, −2 …
fn folded(difference: i32) -> u32 {
    ((difference << 1) ^ (difference >> 31)) as u32
}

fn unfolded(folded: u32) -> i32 {
    (folded >> 1) as i32 ^ -((folded & 1) as i32)
}

fn rounded(bits: u32) -> i32 {
    ((bits + (1 << (SCALE_SHIFT - 1))) >> SCALE_SHIFT) as i32
}

fn scale_of(scale: i32) -> f32 {
    f32::from_bits((scale as u32) << SCALE_SHIFT)
}

/// Send values, and tell what is left of each.
#[inline(always)]
fn send(writer: &mut Writer, how: Values, scale: i32, values: &[f32], mut left: impl FnMut(f32)) {
    let scale = scale_of(scale);
    match how {
        Values::Sign => {
            for some in values.chunks(32) {
                let mut signs = 0u64;
                for (at, value) in some.iter().enumerate() {
                    signs |= u64::from(value.to_bits() >> 31) << at;
                    left(value - scale.copysign(*value));
                }
                writer.put(signs, some.len() as u32);
            }
        }
        Values::Bits(bits) => {
            let levels = 1u32 << (bits - 1);
            for value in values {
                let level = ((value.abs() / scale * levels as f32) as u32).min(levels - 1);
                writer.put(u64::from(value.to_bits() >> 31 | level << 1), bits);
                left(value - magnitude(scale, level, levels).copysign(*value));
            }
        }
        Values::F16 => {
            for value in values {
                // What is larger than f16 can hold is cut, not lost.
                let sent = half::f16::from_f32(value.clamp(-65504.0, 65504.0));
                writer.put(sent.to_bits().into(), 16);
                left(value - sent.to_f32());
            }
        }
        Values::F32 => {
            for value in values {
                writer.put(value.to_bits().into(), 32);
                left(0.0);
            }
        }
    }
}

/// The middle of a level.
#[inline(always)]
fn magnitude(scale: f32, level: u32, levels: u32) -> f32 {
    scale * ((2 * level + 1) as f32 / (2 * levels) as f32)
}

/// Reads a group, tile after tile.
pub struct Decoder<'a> {
    plan: Plan,
    before: i32,
    reader: Reader<'a>,
    places: Box<[u16; MAX_K]>,
    values: Box<[f32; MAX_K]>,
}

impl<'a> Decoder<'a> {
    /// A decoder of a group's bytes.
    pub fn new(plan: Plan, bytes: &'a [u8]) -> Self {
        let (places, values) = (Box::new([0; MAX_K]), Box::new([0.0; MAX_K]));
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
        if !(2..=MAX_FOLDED).contains(&code) {
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

/// The cosine transform of a tile in place, or `back`.
pub fn transform(tile: &mut [f32; TILE], back: bool) {
    #[cfg(target_arch = "x86_64")]
    if wide::has() {
        #[allow(unsafe_code)]
        // SAFETY: as above.
        return unsafe { wide::transform(tile, back) };
    }
    if back { transform::inverse(tile) } else { transform::forward(tile) }
}

/// Add the next tile of each, so many times, to a sum, in their order; `None` as [`Decoder::tile`].
pub fn add(decoders: &mut [Decoder<'_>], shares: &[f32], sum: &mut [f32; TILE]) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if wide::has() {
        #[allow(unsafe_code)]
        // SAFETY: as above.
        return unsafe { wide::add(decoders, shares, sum) };
    }
    add_all(decoders, shares, sum)
}

#[inline(always)]
fn add_all(decoders: &mut [Decoder<'_>], shares: &[f32], sum: &mut [f32; TILE]) -> Option<()> {
    decoders.iter_mut().zip(shares).try_for_each(|(decoder, share)| decoder.add(*share, sum))
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

#[cfg(test)]
mod tests;
