//! The Bittensor chain, behind blocking calls: the window clock, the peers of a subnet, their buckets, weights.
//!
//! Pallets, calls and storage are found by name in the node's own metadata. No secret key enters: a [`Signer`] is a
//! function of the caller. tokio lives inside this crate.

pub mod calls;
mod client;
mod commits;
pub mod epochs;
mod link;
mod neurons;
mod rules;
mod stake;
mod storage;
mod submit;
pub mod timelock;
pub mod weights;

pub use calls::{Call, Subnet};
pub use client::{Chain, ChainArgs};
pub use submit::{Sent, Signer};
