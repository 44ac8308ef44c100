//! From values to bits: choose, quantise, send, and tell what is left.

use super::{
    bits::Writer,
    dct,
    plan::{Plan, Values},
    scale::{
        COUNT_BITS, EMPTY, FEWER, LARGEST_SCALE, SCALE_BITS, SCALE_RICE, SCALE_SHIFT, folded, magnitude, rounded,
        scale_of,
    },
    select::{INFINITE, MAGNITUDE, Selector},
    shape::{Shape, Source},
};
use crate::layout::TILE;
use record::Report;

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
        if super::wide::has() {
            #[allow(unsafe_code)]
            // SAFETY: this machine has been asked for what the function needs.
            return unsafe { encode_wide(self, shape, source, left) };
        }
        self.encode_with::<false>(shape, source, left)
    }

    #[inline(always)]
    pub(super) fn encode_with<const WIDE: bool>(
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
        dct::forward(tile);
        let count = self.selector.select::<WIDE>(None, tile);
        let sent = send_tile(self.plan, self.selector.chosen(count), before, writer, |at, value| {
            tile[usize::from(at) % TILE] = value;
        });
        dct::inverse(tile);
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

/// [`Encoder::encode`] in the instructions of [`super::wide`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_wide(encoder: &mut Encoder, shape: Shape, source: Source<'_>, left: &mut [f32]) -> Result<Vec<u8>, Report> {
    encoder.encode_with::<true>(shape, source, left)
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
