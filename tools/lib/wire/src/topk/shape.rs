//! A part of a tensor, cut into tiles, and the values that a group is made from.

use crate::layout::TILE;

/// The shape of a part of a tensor that is whole rows, and of its tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of values.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
    /// Rows and columns of a tile: 64 and 64, or of a vector 1 and 4,096.
    pub tile: (usize, usize),
}

impl Shape {
    fn across(&self) -> usize {
        self.cols.div_ceil(self.tile.1)
    }

    /// Whole tiles of 64 columns across.
    pub(super) fn whole(&self) -> usize {
        if self.tile.1 == 64 { self.cols / 64 } else { 0 }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile.0) * self.across()
    }

    /// The first row and column of a tile, and how many of each it has.
    pub(super) fn part(&self, tile: usize) -> (usize, usize, usize, usize) {
        let (row, col) = (tile / self.across() * self.tile.0, tile % self.across() * self.tile.1);
        (row, col, self.tile.0.min(self.rows - row), self.tile.1.min(self.cols - col))
    }

    /// The tile that begins at a column of a row of tiles.
    #[inline(always)]
    pub(super) fn gather(&self, col: usize, values: &[f32], out: &mut [f32; TILE]) {
        out.fill(0.0);
        let wide = self.tile.1.min(self.cols - col);
        for (out, from) in out.chunks_exact_mut(self.tile.1).zip(values.chunks_exact(self.cols)) {
            out[..wide].copy_from_slice(&from[col..col + wide]);
        }
    }

    /// Put a tile into the values.
    pub fn scatter(&self, tile: usize, from: &[f32; TILE], values: &mut [f32]) {
        let (row, col, rows, cols) = self.part(tile);
        for (at, from) in from.chunks_exact(self.tile.1).take(rows).enumerate() {
            let to = (row + at) * self.cols + col;
            values[to..to + cols].copy_from_slice(&from[..cols]);
        }
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
    pub(super) fn values(&self, from: usize, out: &mut [f32]) {
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
