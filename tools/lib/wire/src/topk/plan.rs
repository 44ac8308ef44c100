//! How tiles are made sparse: what a run agrees on.

use super::scale::{COUNT_BITS, MOST_FOLDED, SCALE_BITS, SCALE_RICE};
use crate::layout::TILE;
use run::hparams::Codec;

/// The most values of a tile.
pub const MOST: usize = 1024;

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
    pub(super) rice: u32,
}

impl Plan {
    /// A plan; `k` from 1 to [`MOST`].
    pub fn new(k: usize, values: Values) -> Self {
        let k = k.clamp(1, MOST);
        // The best parameter for places that are chosen at random: log₂ of their mean distance times ln 2.
        let mean = (TILE - k) as f64 / (k + 1) as f64 * std::f64::consts::LN_2;
        Plan { k, values, transformed: false, rice: mean.max(1.0).log2().floor() as u32 }
    }

    /// The same of the tiles' cosine transform.
    pub fn transformed(self) -> Self {
        Plan { transformed: true, ..self }
    }

    /// The plan of a run's codec, where that is sparse.
    pub fn of(codec: &Codec) -> Option<Self> {
        let values = match codec.values.as_str() {
            "sign" => Values::Sign,
            "q2" => Values::Bits(2),
            "q4" => Values::Bits(4),
            "q8" => Values::Bits(8),
            "f16" => Values::F16,
            _ => Values::F32,
        };
        let plan = codec.k.map(|k| Plan::new(k as usize, values));
        if codec.name == "dct" { plan.map(Plan::transformed) } else { plan }
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
    pub fn most_bytes(&self, tiles: usize) -> usize {
        let places = (TILE >> self.rice) + self.k * (1 + self.rice as usize);
        let scale = (MOST_FOLDED >> SCALE_RICE) + 2 * (1 + SCALE_RICE) + COUNT_BITS + SCALE_BITS;
        let tile = scale as usize + places + self.k * self.value_bits() as usize;
        (tiles * tile).div_ceil(8)
    }
}
