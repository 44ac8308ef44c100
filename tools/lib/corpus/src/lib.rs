//! The text: sources and their manifest, which pages a uid has, tokens, packed sequences.
//!
//! This crate reads text and makes tokens; it knows no model, no network and no key.

pub mod pack;
pub mod pages;
pub mod source;
pub mod tokens;

pub use source::{Manifest, Source};
pub use tokens::Tokens;
