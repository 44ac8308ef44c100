//! The text: sources and their manifest, which pages a uid has, tokens, packed sequences.
//!
//! This crate reads text and makes tokens; it knows no model, no network and no key.

pub mod format;
mod index;
mod jsonl;
pub mod pack;
pub mod pages;
mod parquet;
pub mod source;
mod text;
pub mod tokens;

pub use format::Format;
pub use source::{Manifest, Source};
pub use tokens::Tokens;
