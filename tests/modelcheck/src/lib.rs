//! Every interleaving of a small network: three validators of whom one lies, two miners, up to three windows.
//!
//! What is decided is decided by `lib/protocol` alone: this crate brings the world (a chain, buckets, a network that
//! loses and delays, nodes that crash) and a liar, and asks a model checker for a state in which something is wrong.
//! `README.md` says what is left out.
//!
//! Floors: setup < facts < state < node < scene < outcome < network

pub mod facts;
pub mod network;
pub mod node;
pub mod outcome;
pub mod scene;
pub mod setup;
pub mod state;

pub use network::Network;
pub use setup::{Broken, Setup};
