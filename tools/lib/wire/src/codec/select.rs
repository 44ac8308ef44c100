//! Which values of a tile are its largest, exactly: by a threshold that is near from other tiles, and a search among the few
//! values that reach it.

use crate::tile::TILE;

/// All bits of a value but its sign: as numbers they are in the order of the magnitudes.
pub(crate) const MAGNITUDE: u32 = 0x7fff_ffff;
/// The magnitude of infinity; NaNs are above it.
pub(crate) const INFINITE: u32 = 0x7f80_0000;
/// How much lower than the last tiles' the first threshold is: three sixty-fourths of an octave.
const MARGIN: u32 = 3 << 17;
/// The first step of a search: an eighth of an octave.
const STEP: u32 = 1 << 20;
const LANES: usize = 32;

/// Where tiles are cut: each column of tiles as the one above it, the first ones as the last of all.
#[derive(Clone, Copy)]
struct Near {
    /// The threshold that is tried first.
    least: u32,
    /// Where the last tiles were cut, the nearest most.
    last: u32,
}

impl Near {
    fn cut_at(&mut self, cut: u32) {
        self.last = if self.last == 0 { cut } else { self.last / 4 * 3 + cut / 4 };
        self.least = self.last.min(cut.saturating_add(2 * MARGIN)).saturating_sub(MARGIN).max(1);
    }
}

/// Values of a tile that may be among its largest, in the order of their places.
#[derive(Clone)]
struct Candidates {
    /// How many there are; those beyond the room for them are only counted.
    count: usize,
    /// Place and bits of each, in one word.
    found: Box<[u64]>,
}

impl Candidates {
    fn new(room: usize) -> Self {
        Candidates { count: 0, found: vec![0; room.next_multiple_of(LANES)].into() }
    }

    /// Those of 64 values that are at least this large.
    #[inline(always)]
    fn see<const WIDE: bool>(&mut self, first: usize, values: &[f32; 64], least: u32) {
        let mut mask = mask::<WIDE>(values, least);
        while mask != 0 {
            let at = mask.trailing_zeros() as usize % 64;
            if let Some(found) = self.found.get_mut(self.count) {
                *found = ((first + at) as u64) << 32 | u64::from(values[at].to_bits());
            }
            self.count += 1;
            mask &= mask - 1;
        }
    }

    fn fits(&self, k: usize) -> bool {
        (k..=self.found.len()).contains(&self.count)
    }
}

/// Selects, and remembers where the last tiles were cut.
pub(crate) struct Selector {
    k: usize,
    near: Near,
    /// The same for tiles at a right edge, which have fewer values.
    edge: Near,
    columns: Vec<(Near, Candidates)>,
    /// Of a tile that is looked at alone.
    alone: Candidates,
    sizes: Box<[u32]>,
    /// What was chosen last.
    places: Box<[u16]>,
    values: Box<[f32]>,
}

/// One bit for each of 64 values that are at least this large. `WIDE` where the processor has AVX2, as the caller has asked.
#[inline(always)]
fn mask<const WIDE: bool>(row: &[f32; 64], least: u32) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        #[allow(unsafe_code)]
        // SAFETY: only functions that are compiled for AVX2, and are called where it is, ask for `WIDE`.
        return unsafe { mask_wide(row, least) };
    }
    let mut flags = [0u8; 64];
    for (flag, value) in flags.iter_mut().zip(row) {
        *flag = u8::from(value.to_bits() & MAGNITUDE >= least);
    }
    let mut mask = 0;
    for (place, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
        // The lowest bit of each of eight bytes, side by side.
        mask |= (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * place);
    }
    mask
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn mask_wide(row: &[f32; 64], least: u32) -> u64 {
    use std::arch::x86_64::{
        __m256i, _mm256_and_si256, _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_movemask_ps, _mm256_set1_epi32,
    };
    // Magnitudes are positive as signed numbers too.
    let (magnitude, below) = (_mm256_set1_epi32(MAGNITUDE as i32), _mm256_set1_epi32(least as i32 - 1));
    let mut mask = 0;
    for (place, eight) in row.as_chunks::<8>().0.iter().enumerate() {
        let size = _mm256_and_si256(bytemuck::cast::<[f32; 8], __m256i>(*eight), magnitude);
        let reach = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(size, below)));
        mask |= u64::from(reach as u8) << (8 * place);
    }
    mask
}

#[inline(always)]
fn count(sizes: &[[u32; LANES]], least: u32) -> usize {
    let mut counts = [0u32; LANES];
    for chunk in sizes {
        for (count, size) in counts.iter_mut().zip(chunk) {
            *count += u32::from(*size >= least);
        }
    }
    counts.iter().sum::<u32>() as usize
}

/// How many values of a tile are at least this large.
#[inline(always)]
fn reach(tile: &[f32; TILE], least: u32) -> usize {
    let mut counts = [0u32; LANES];
    for chunk in tile.as_chunks::<LANES>().0 {
        for (count, value) in counts.iter_mut().zip(chunk) {
            *count += u32::from(value.to_bits() & MAGNITUDE >= least);
        }
    }
    counts.iter().sum::<u32>() as usize
}

/// The magnitude of the `k`-th largest of so many; none of them is below `least`.
#[inline(always)]
fn cut(sizes: &[[u32; LANES]], k: usize, least: u32) -> u32 {
    let largest = sizes.iter().flatten().fold(0, |a, b| a.max(*b));
    // At least k reach `low`, fewer reach `high`. Most lie just above the threshold: there it is looked first.
    let (mut low, mut high) = (least.min(largest), largest + 1);
    if count(sizes, low) < k {
        return 0;
    }
    let mut step = (high - low) >> 4;
    while high - low > 1 {
        let near = low + step;
        let middle = if step > 0 && near < high { near } else { low + (high - low) / 2 };
        let reach = count(sizes, middle);
        if reach >= k {
            low = middle;
            if reach == k {
                // The least of exactly k is the k-th.
                return sizes
                    .iter()
                    .flatten()
                    .map(|size| if *size >= low { *size } else { u32::MAX })
                    .fold(u32::MAX, u32::min);
            }
        } else {
            high = middle;
            step = 0;
        }
    }
    low
}

impl Selector {
    pub(crate) fn new(k: usize) -> Self {
        Selector {
            k,
            near: Near { least: 0x3f80_0000, last: 0 },
            edge: Near { least: 0x3f80_0000, last: 0 },
            columns: Vec::new(),
            alone: Candidates::new(TILE),
            sizes: vec![0; TILE].into(),
            places: vec![0; k].into(),
            values: vec![0.0; k].into(),
        }
    }

    /// A group begins: another matrix perhaps.
    pub(crate) fn group(&mut self, across: usize) {
        // More candidates than that are too many to search.
        let room = (4 * self.k).clamp(4 * LANES, TILE);
        if self.columns.len() != across {
            self.columns.resize_with(across, || (Near { least: 1, last: 0 }, Candidates::new(room)));
            self.columns.iter_mut().for_each(|(near, _)| *near = self.near);
        }
    }

    /// A row of tiles begins.
    pub(crate) fn row(&mut self) {
        self.columns.iter_mut().for_each(|(_, candidates)| candidates.count = 0);
    }

    /// A row of a tile, as it goes by.
    #[inline(always)]
    pub(crate) fn see<const WIDE: bool>(&mut self, column: usize, row: usize, values: &[f32; 64]) {
        let (near, candidates) = &mut self.columns[column];
        candidates.see::<WIDE>(row * 64, values, near.least);
    }

    /// Choose among a tile that went by row for row: how many; `None` where the threshold was none for it.
    #[inline(always)]
    pub(crate) fn seen(&mut self, column: usize) -> Option<usize> {
        let (near, candidates) = &self.columns[column];
        if !candidates.fits(self.k) {
            return None;
        }
        self.near = *near;
        let found = &candidates.found[..candidates.count];
        let (cut, count) = choose(self.k, found, near.least, &mut self.sizes, &mut self.places, &mut self.values);
        self.near.cut_at(cut);
        self.columns[column].0 = self.near;
        Some(count)
    }

    /// Choose among the values of a tile: how many.
    #[inline(always)]
    pub(crate) fn select<const WIDE: bool>(&mut self, column: Option<usize>, tile: &[f32; TILE]) -> usize {
        let edge = column.is_none();
        let column_of = column.and_then(|column| self.columns.get(column));
        // What went by was seen to be too few, or too many.
        let (near, known) = column_of.map_or((self.edge, None), |(near, seen)| (*near, Some(seen.count)));
        let least = self.search(tile, near.least, known);
        self.alone.count = 0;
        for (row, values) in tile.as_chunks::<64>().0.iter().enumerate() {
            self.alone.see::<WIDE>(row * 64, values, least);
        }
        let found = &self.alone.found[..self.alone.count];
        let (cut, count) = choose(self.k, found, least, &mut self.sizes, &mut self.places, &mut self.values);
        let near = if edge { &mut self.edge } else { &mut self.near };
        near.cut_at(cut);
        if let Some((column, _)) = column.and_then(|column| self.columns.get_mut(column)) {
            *column = *near;
        }
        count
    }

    /// A threshold that at least `k` values reach, and few more where that can be.
    #[inline(always)]
    fn search(&self, tile: &[f32; TILE], near: u32, known: Option<usize>) -> u32 {
        let (mut low, mut high, mut step) = (0, MAGNITUDE, STEP);
        let mut near = near.clamp(1, MAGNITUDE - 1);
        let mut count = known.unwrap_or_else(|| reach(tile, near));
        loop {
            // Away from where it is in growing steps, until it lies between two; then halving what is between them.
            let next = if count >= self.k {
                low = near;
                near.saturating_add(step)
            } else {
                high = near;
                near.saturating_sub(step)
            };
            if low == near && count <= 4 * self.k || high - low <= 1 {
                return low;
            }
            step = step.saturating_mul(2);
            near = if next > low && next < high { next } else { low + (high - low) / 2 };
            count = reach(tile, near);
        }
    }

    /// What was chosen last, so many: places, ascending, and values. They are the `k` values with the largest magnitude; of
    /// equal ones those that come first, and never a zero. One is not finite where one of the tile's is not.
    pub(crate) fn chosen(&self, count: usize) -> (&[u16], &[f32]) {
        (&self.places[..count], &self.values[..count])
    }
}

/// Of the candidates the `k` largest: where they are cut, and how many.
#[inline(always)]
fn choose(
    k: usize,
    found: &[u64],
    least: u32,
    sizes: &mut [u32],
    chosen: &mut [u16],
    values: &mut [f32],
) -> (u32, usize) {
    let sizes = &mut sizes[..found.len().next_multiple_of(LANES)];
    sizes.iter_mut().zip(found).for_each(|(size, found)| *size = *found as u32 & MAGNITUDE);
    sizes[found.len()..].fill(0);
    let sizes = sizes.as_chunks::<LANES>().0;
    let cut = cut(sizes, k, least);
    // Those at the cut fill what those above it leave.
    let mut equal = if cut > 0 { k - count(sizes, cut + 1) } else { 0 };
    let mut at = 0;
    for found in found {
        let size = *found as u32 & MAGNITUDE;
        let takes = size > cut || size == cut && equal > 0;
        equal -= usize::from(takes && size == cut);
        if let (Some(chosen), Some(value)) = (chosen.get_mut(at), values.get_mut(at)) {
            (*chosen, *value) = ((*found >> 32) as u16, f32::from_bits(*found as u32));
        }
        at += usize::from(takes);
    }
    (cut, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by sorting.
    fn sorted(tile: &[f32; TILE], k: usize) -> Vec<u16> {
        let mut all: Vec<u16> = (0..4096).filter(|place| tile[usize::from(*place)] != 0.0).collect();
        all.sort_by_key(|place| (u32::MAX - (tile[usize::from(*place)].to_bits() & MAGNITUDE), *place));
        all.truncate(k);
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn it_is_what_sorting_gives(
            seed in any::<u64>(), k in 1usize..=1024, kind in 0..6, scale in -30i32..30, before in any::<u32>()
        ) {
            let mut state = seed | 1;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let mut tile = [0f32; TILE];
            for value in &mut tile {
                let unit = (random() >> 40) as f32 / (1 << 24) as f32 - 0.5;
                *value = match kind {
                    0 => unit,
                    // Many equal ones, many zeros, few values, all magnitudes, all the same.
                    1 => (unit * 8.0).round(),
                    2 => if random() % 3 > 0 { 0.0 } else { unit },
                    3 => if random() % 200 > 0 { 0.0 } else { unit },
                    4 => f32::from_bits(random() as u32 & 0xff7f_ffff),
                    _ => 1.0,
                } * 2f32.powi(scale);
            }
            let mut selector = Selector::new(k);
            selector.near.least = (before & MAGNITUDE).max(1);
            selector.edge = selector.near;
            let expected = sorted(&tile, k);
            for _ in 0..2 {
                let count = selector.select::<false>(None, &tile);
                prop_assert_eq!(selector.chosen(count).0, &expected[..]);
            }
            // Row for row, as far as the threshold does for it.
            selector.group(1);
            selector.row();
            for (row, values) in tile.as_chunks::<64>().0.iter().enumerate() {
                selector.see::<false>(0, row, values);
            }
            let count = match selector.seen(0) {
                Some(count) => count,
                None => selector.select::<false>(Some(0), &tile),
            };
            let (places, values) = selector.chosen(count);
            prop_assert_eq!(places, &expected[..]);
            prop_assert!(places.iter().zip(values).all(|(place, value)| tile[usize::from(*place)] == *value));
        }
    }

    #[test]
    fn what_is_not_finite_is_among_the_largest() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let mut tile = [1f32; TILE];
            tile[77] = wrong;
            let mut selector = Selector::new(3);
            let count = selector.select::<false>(None, &tile);
            assert!(selector.chosen(count).0.contains(&77) && tile[77].to_bits() & MAGNITUDE >= INFINITE);
        }
    }
}
