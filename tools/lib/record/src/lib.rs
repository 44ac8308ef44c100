//! The contract that every part of the suite keeps: records on pipes, exit codes, errors with hints, files that
//! appear whole or not at all, and the flags that all tools share.
//!
//! This crate does no network, opens no key and knows no tensor; everything else stands on it.

pub mod cli;
pub mod files;
pub mod id;
pub mod progress;
pub mod records;
pub mod report;
pub mod stream;
pub mod words;

pub use files::Home;
pub use id::{Hash, Hotkey, Uid, Window};
pub use report::{Code, Context, Report};
pub use stream::{Inputs, Stream};
