//! The Bittensor chain, behind blocking calls: the window clock, the peers of a subnet, their buckets, weights.
//!
//! Pallets, calls and storage are found by name in the node's own metadata. No secret key enters: a [`Signer`] is a
//! function of the caller. tokio lives inside this crate. What a follower has written down is read from there.
//!
//! Files stand on floors: each uses only what stands before it in this list.
//!
//! ```text
//! network  subnet  epochs  timelock  answer    names, numbers, and what one node says: nothing is asked
//! facts  link                                  what lies on disk; the connections to the nodes
//! client                                       both as one `Chain`
//! clock  storage                               blocks and their times; entries by what the metadata says of them
//! stake  neurons  commits                      what they mean: who weighs what, who is there, who committed to what
//! rules  weights  calls                        what is asked of weights, how they are made, what is signed
//! submit  claim  keep  follow                  what is sent to the chain, and written down of it
//! ```

mod agreed;
mod answer;
pub mod calls;
mod claim;
mod client;
mod clock;
pub mod commitments;
mod commits;
mod entries;
pub mod epochs;
mod facts;
mod follow;
mod keep;
mod kept_entries;
mod link;
mod network;
mod neurons;
mod room;
mod rules;
mod stake;
mod storage;
mod submit;
mod subnet;
pub mod timelock;
mod turn;
mod values;
pub mod weights;

pub use calls::Call;
pub use client::Chain;
pub use commitments::Entry;
pub use entries::entry_blocks;
pub use facts::folder as facts_folder;
pub use network::ChainArgs;
pub use room::Room;
pub use submit::{Sent, Signer};
pub use subnet::Subnet;
pub use turn::Turn;
