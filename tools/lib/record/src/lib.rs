//! The contract that every part of the suite keeps: records on pipes, exit codes, errors with hints, files that
//! appear whole or not at all, the run's hparams, and the flags that all tools share.
//!
//! This crate does no network, opens no key and knows no tensor; everything else stands on it.

pub mod cli;
pub mod draw;
pub mod feasible;
pub mod files;
pub mod hparams;
pub mod id;
pub mod model;
pub mod progress;
pub mod records;
pub mod report;
pub mod stream;

pub use draw::Permutation;
pub use files::Home;
pub use hparams::Hparams;
pub use id::{Hash, Hotkey, Uid, Window};
pub use report::{Code, Context, Report};
pub use stream::{Inputs, Stream};
