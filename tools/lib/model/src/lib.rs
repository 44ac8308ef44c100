//! The transformer, its loss, the inner optimizers, and the device they run on.
//!
//! The only crate that links libtorch. It reads state directories and packed pages, and writes updates; it knows no
//! network, no key and no other peer.

pub mod data;
pub mod device;
mod gpu;
pub mod inner;
pub mod level;
pub mod llama;
pub mod memory;
pub mod params;
mod shim;

pub use data::Sequences;
pub use level::Level;
pub use llama::{How, Llama};
pub use params::Params;
