//! What a run agrees on: its hparams, the model's architecture, the moments of its windows, its name, the network's dice, and
//! whether it can meet its own clock.
//!
//! Everything here is a value or a pure function, but for reading `hparams.json`.

pub mod draw;
pub mod feasible;
pub mod hparams;
pub mod model;
mod settings;

pub use draw::Permutation;
pub use hparams::Hparams;
pub use settings::Settings;
