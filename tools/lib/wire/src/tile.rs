//! Tiles: 4,096 values each, of a matrix 64×64, of a vector as many that follow each other.

/// Values in a tile.
pub const TILE: usize = 4096;
/// Bytes of a tile in the hash tree.
pub const TILE_BYTES: usize = TILE * 4;
/// After so many tiles that were read from a file its pages are given back, so that reading all of it takes no more memory.
pub(crate) const RELEASED: usize = 2048;
/// Rows and columns of a matrix' tile.
pub(crate) const SIDE: usize = 64;

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
    pub(crate) fn across(&self) -> usize {
        self.cols.div_ceil(self.tile.1)
    }

    /// Whole tiles of 64 columns across.
    pub(crate) fn whole(&self) -> usize {
        if self.tile.1 == 64 { self.cols / 64 } else { 0 }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile.0) * self.across()
    }

    /// The first row and column of a tile, and how many of each it has.
    pub(crate) fn part(&self, tile: usize) -> (usize, usize, usize, usize) {
        let (row, col) = (tile / self.across() * self.tile.0, tile % self.across() * self.tile.1);
        (row, col, self.tile.0.min(self.rows - row), self.tile.1.min(self.cols - col))
    }

    /// The tile that begins at a column of a row of tiles.
    #[inline(always)]
    pub(crate) fn gather(&self, col: usize, values: &[f32], out: &mut [f32; TILE]) {
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

/// `[⟨a,b⟩, ⟨b,b⟩, ‖a−b‖²]` of one tile in f64, in a fixed order whatever the machine.
pub(crate) fn products(a: &[f32; TILE], b: &[f32; TILE]) -> [f64; 3] {
    const LANES: usize = 32;
    let mut sums = [[0f64; LANES]; 3];
    for (x, y) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let (x, y) = (f64::from(x[lane]), f64::from(y[lane]));
            sums[0][lane] += x * y;
            sums[1][lane] += y * y;
            sums[2][lane] += (x - y) * (x - y);
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// The bytes of a tile, little-endian.
pub(crate) fn le_bytes(tile: &[f32; TILE]) -> [u8; TILE_BYTES] {
    let mut bytes = [0; TILE_BYTES];
    for (out, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(tile) {
        *out = value.to_le_bytes();
    }
    bytes
}
