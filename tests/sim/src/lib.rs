//! The network in virtual time: the very functions of `lib/protocol`, on one thread, from one seed.
//!
//! A [`scenario::Scenario`] follows from a seed: validators of unequal stake, of whom less than half lie; miners, of whom some
//! cheat; a chain with forks until finality; buckets, disks, views and processes that fail. A [`world::World`] plays it, and an
//! [`oracle`] holds what honest nodes do against a second account of the rules, after every event. What breaks shrinks
//! ([`shrink`]), and replays from its seed.
#![allow(clippy::indexing_slicing)]

pub mod chain;
pub mod dice;
pub mod follow;
pub mod liar;
pub mod miner;
pub mod node;
pub mod oracle;
pub mod policy;
pub mod scenario;
pub mod shrink;
pub mod trace;
pub mod validator;
pub mod world;

pub use oracle::{Invariant, Violation};
pub use policy::{Check, Mutation, Policy};
pub use scenario::{Edits, Kind, Scenario};
pub use world::{Report, World};

/// Play a seed.
pub fn play(seed: u64, kind: Kind, edits: &Edits, policy: Policy) -> Report {
    World::new(Scenario::new(seed, kind, edits), policy, trace::Trace::new(None)).play()
}
