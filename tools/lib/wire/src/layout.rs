//! How the parameters are laid out in tiles.
//!
//! The tensors, sorted by name, follow each other. A matrix is cut into 64×64 tiles, row of tiles after row of
//! tiles; a vector into runs of 4,096. A tile is zero-padded to 4,096 f32, which is one 16 KiB group of the hash tree.

use crate::tile::{SIDE, Shape, TILE};
use record::id::Hash;
use run::{Permutation, hparams::Model};
use std::ops::Range;

/// One tensor of the model.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its Hugging Face name.
    pub name: String,
    /// Its shape, one or two dimensions.
    pub shape: Vec<usize>,
    /// The number of its first tile.
    pub first_tile: usize,
    rows: usize,
    cols: usize,
    across: usize,
    tiles: usize,
}

/// All tensors of the model and their tiles.
#[derive(Clone, Debug)]
pub struct Layout {
    /// In the order of their names.
    pub tensors: Vec<Tensor>,
    /// Number of tiles.
    pub tiles: usize,
}

/// Whole rows of tiles of a tensor, some 64 tiles: what a sparse codec sends as one, and is read alone.
#[derive(Clone, Debug)]
pub struct Part {
    /// The tensor, by its place in [`Layout::tensors`].
    pub tensor: usize,
    /// Its values, in the tensor's.
    pub values: Range<usize>,
    /// Their shape.
    pub shape: Shape,
    /// The number of its first tile; the others follow.
    pub first_tile: usize,
}

/// Tiles of a part, about.
const PART: usize = 64;

/// The part of a tensor that one row of a tile covers: `tile[at..at + len] = data[from..from + len]`.
struct Run {
    at: usize,
    from: usize,
    len: usize,
}

impl Tensor {
    fn new(name: String, shape: Vec<usize>, first_tile: usize) -> Self {
        let (rows, cols) = match shape[..] {
            [rows, cols] => (rows, cols),
            _ => (1, shape.iter().product()),
        };
        let (across, tiles) = if shape.len() == 2 {
            (cols.div_ceil(SIDE), rows.div_ceil(SIDE) * cols.div_ceil(SIDE))
        } else {
            (cols.div_ceil(TILE), cols.div_ceil(TILE))
        };
        Tensor { name, shape, first_tile, rows, cols, across, tiles }
    }

    /// Number of its values.
    pub fn numel(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it is a matrix; vectors (the norms) are not decayed.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }

    fn parts(&self, place: usize) -> impl Iterator<Item = Part> {
        // A vector is one row, cut into shorter ones.
        let (height, tile) =
            if self.is_matrix() { ((PART / self.across).max(1) * SIDE, (SIDE, SIDE)) } else { (1, (1, TILE)) };
        let step = if self.is_matrix() { height * self.cols } else { PART * TILE };
        let (cols, first, numel) = (self.cols, self.first_tile, self.numel());
        let matrix = self.is_matrix();
        (0..numel).step_by(step.max(1)).scan(first, move |next, from| {
            let values = from..numel.min(from + step);
            let shape = if matrix {
                Shape { rows: values.len() / cols, cols, tile }
            } else {
                Shape { rows: 1, cols: values.len(), tile }
            };
            let first_tile = *next;
            *next += shape.tiles();
            Some(Part { tensor: place, values, shape, first_tile })
        })
    }

    fn runs(&self, tile: usize) -> impl Iterator<Item = Run> {
        let local = tile - self.first_tile;
        let (side, height) = if self.is_matrix() { (SIDE, SIDE) } else { (TILE, 1) };
        let (row, col) = (local / self.across * height, local % self.across * side);
        let len = side.min(self.cols - col);
        let cols = self.cols;
        (row..(row + height).min(self.rows)).map(move |r| Run { at: (r - row) * side, from: r * cols + col, len })
    }

    /// Copy a tile out of the tensor's little-endian f32 bytes.
    pub fn gather(&self, tile: usize, data: &[u8], out: &mut [f32; TILE]) {
        out.fill(0.0);
        self.gather_with(tile, data, 4, out, |bytes, out| {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        });
    }

    /// Copy a tile out of values that are `width` bytes each; padding is left as it is.
    pub(crate) fn gather_with(
        &self,
        tile: usize,
        data: &[u8],
        width: usize,
        out: &mut [f32; TILE],
        widen: impl Fn(&[u8], &mut [f32]),
    ) {
        for run in self.runs(tile) {
            let bytes = &data[run.from * width..(run.from + run.len) * width];
            widen(bytes, &mut out[run.at..run.at + run.len]);
        }
    }

    /// Put a tile into the tensor's values.
    pub fn scatter(&self, tile: usize, values: &[f32; TILE], data: &mut [f32]) {
        for run in self.runs(tile) {
            data[run.from..run.from + run.len].copy_from_slice(&values[run.at..run.at + run.len]);
        }
    }

    /// Whether what of a tile lies beyond the tensor is zero to the bit: +0.
    pub(crate) fn pads_with_zeros(&self, tile: usize, values: &[f32; TILE]) -> bool {
        if self.tile_numel(tile) == TILE {
            return true;
        }
        let mut padding = *values;
        for run in self.runs(tile) {
            padding[run.at..run.at + run.len].fill(0.0);
        }
        padding.iter().all(|value| value.to_bits() == 0)
    }

    /// Values of a tile that are no padding.
    pub fn tile_numel(&self, tile: usize) -> usize {
        self.runs(tile).map(|run| run.len).sum()
    }
}

impl Layout {
    /// The layout of a model.
    pub fn new(model: &Model) -> Self {
        let mut tiles = 0;
        let tensors = model
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let tensor = Tensor::new(name, shape.into_iter().map(|d| d as usize).collect(), tiles);
                tiles += tensor.tiles;
                tensor
            })
            .collect();
        Layout { tensors, tiles }
    }

    /// All parts, in the order of their tiles.
    pub fn parts(&self) -> Vec<Part> {
        self.tensors.iter().enumerate().flat_map(|(place, tensor)| tensor.parts(place)).collect()
    }

    /// The tensor that a tile is of, by its place in `tensors`.
    pub fn tensor_of(&self, tile: usize) -> usize {
        self.tensors.partition_point(|tensor| tensor.first_tile <= tile) - 1
    }

    /// Number of parameters.
    pub fn numel(&self) -> usize {
        self.tensors.iter().map(Tensor::numel).sum()
    }

    /// How many tiles are revealed: `max(1, tiles / compression)`.
    pub fn revealed_count(&self, compression: u64) -> usize {
        (self.tiles as u64 / compression.max(1)).max(1) as usize
    }

    /// The tiles that the end block's hash draws, the same for all peers, ascending.
    pub fn revealed(&self, compression: u64, run: Hash, reveal: Hash) -> Vec<usize> {
        let all = Permutation::new("boltzmann reveal v1", run, reveal, self.tiles as u64);
        all.draw(self.revealed_count(compression) as u64).into_iter().map(|tile| tile as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_is_in_exactly_one_tile(rows in 1usize..200, cols in 1usize..200, vector: bool) {
            let shape = if vector { vec![rows * cols] } else { vec![rows, cols] };
            let tensor = Tensor::new("t".into(), shape, 5);
            let values: Vec<f32> = (0..tensor.numel()).map(|i| i as f32 + 1.0).collect();
            let mut back = vec![0f32; values.len()];
            let mut numel = 0;
            let mut tile = [0f32; TILE];
            for t in 5..5 + tensor.tiles {
                tensor.gather(t, bytemuck::cast_slice(&values), &mut tile);
                prop_assert_eq!(tile.iter().filter(|v| **v != 0.0).count(), tensor.tile_numel(t));
                prop_assert!(tensor.pads_with_zeros(t, &tile));
                if let Some(at) = tile.iter().position(|v| *v == 0.0) {
                    for other in [1.0, -0.0] {
                        let mut padded = tile;
                        padded[at] = other;
                        prop_assert!(!tensor.pads_with_zeros(t, &padded));
                    }
                }
                numel += tensor.tile_numel(t);
                tensor.scatter(t, &tile, &mut back);
            }
            prop_assert_eq!(numel, values.len());
            prop_assert_eq!(&back, &values);
            // Its parts are all of it, tile for tile.
            let (mut next, mut from) = (5, 0);
            for part in tensor.parts(0) {
                prop_assert_eq!((part.first_tile, part.values.start), (next, from));
                prop_assert_eq!(part.shape.rows * part.shape.cols, part.values.len());
                let mut again = vec![0f32; part.values.len()];
                for t in 0..part.shape.tiles() {
                    tensor.gather(next + t, bytemuck::cast_slice(&values), &mut tile);
                    part.shape.scatter(t, &tile, &mut again);
                }
                prop_assert_eq!(&again[..], &values[part.values.clone()]);
                (next, from) = (next + part.shape.tiles(), part.values.end);
            }
            prop_assert_eq!((next, from), (5 + tensor.tiles, values.len()));
        }
    }

    #[test]
    fn a_tile_of_a_matrix_is_a_square() {
        let tensor = Tensor::new("t".into(), vec![130, 70], 0);
        assert_eq!((tensor.across, tensor.tiles), (2, 6));
        let values: Vec<f32> = (0..tensor.numel()).map(|i| i as f32).collect();
        let mut tile = [0f32; TILE];
        tensor.gather(3, bytemuck::cast_slice(&values), &mut tile);
        // The second row of tiles, second tile: rows 64.., columns 64..70.
        assert_eq!(tile[..7], [4544.0, 4545.0, 4546.0, 4547.0, 4548.0, 4549.0, 0.0]);
        assert_eq!(tile[64], 4614.0);
    }
}
