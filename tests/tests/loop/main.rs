//! The loops: with tools that do as they are told, and with the real ones on a local chain.
#![allow(clippy::unwrap_used, clippy::panic)]

mod real;
mod stand_ins;
