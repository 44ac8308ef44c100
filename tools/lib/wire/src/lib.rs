//! What crosses the network, and what it does to the model: tiles and their hash tree, commitments, delta files,
//! aggregation into a state, and how alike two updates are. `FORMAT.md` beside this has every byte.
//!
//! Pure Rust: no libtorch, no network, no secret key. Every byte of a delta is hostile until [`delta::Delta::open`]
//! has checked it.
//!
//! Floors: threads < contain < commit < cosine < header < tile < precision < layout < tensors < tree < codec < delta < similarity < outer < state

pub mod codec;
pub mod commit;
mod contain;
mod cosine;
pub mod delta;
mod header;
pub mod layout;
pub mod outer;
pub mod precision;
pub mod similarity;
pub mod state;
pub mod tensors;
mod threads;
pub mod tile;
pub mod tree;

pub use contain::contain;
pub use layout::Layout;
pub use precision::Precision;
pub use threads::threads;
pub use tile::TILE;
