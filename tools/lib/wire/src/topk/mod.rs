//! Sparse tiles: of each tile the `k` largest values, as a choice of places and what stands there.
//!
//! Pure functions over slices; files are in [`crate::delta`]. `FORMAT.md` has every bit. Source of the scheme: SparseLoCo
//! (arXiv 2508.15706), DeMo (arXiv 2411.19870); signs with one scale a tile in place of quantised values, since they cost less
//! and have half the error.
//!
//! Each file uses only those before it: `wide`, `bits`, `select`, `dct` and `scale`; `plan` and `shape`; `encode` and
//! `decode`.

mod bits;
mod dct;
mod decode;
mod encode;
mod plan;
mod scale;
mod select;
mod shape;
mod wide;

pub use dct::transform;
pub use decode::{Decoder, add, check};
pub use encode::Encoder;
pub use plan::{MOST, Plan, Values};
pub use shape::{Shape, Source};

#[cfg(test)]
mod tests;
