//! The Bittensor chain, behind blocking calls: the window clock, the peers of a subnet, their buckets, weights.
//!
//! Pallets, calls and storage are found by name in the node's own metadata. No secret key enters: a [`Signer`] is a
//! function of the caller. tokio lives inside this crate. What a follower has written down is read from there.

pub mod calls;
mod client;
mod clock;
mod commits;
pub mod epochs;
mod facts;
mod follow;
mod keep;
mod link;
mod network;
mod neurons;
mod rules;
mod stake;
mod storage;
mod submit;
pub mod timelock;
pub mod weights;

pub use calls::{Call, Subnet};
pub use client::Chain;
pub use facts::folder as facts_folder;
pub use network::ChainArgs;
pub use submit::{Sent, Signer};
