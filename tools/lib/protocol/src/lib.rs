//! The rules of the network as a library without a world: `(facts of the chain, what this node saw) -> decision`.
//!
//! Every function here is pure and total: no file, no clock, no socket, no tensor, no text that decides. The tools bring the
//! facts and carry out the decision; `tests/sim` drives the very same functions in virtual time, and a model checker visits
//! every interleaving of a small network.
//!
//! **Objective** is what the chain says at a finalized block: who is a peer with which stake ([`Peers`]), who committed to what,
//! who voted for what. What is final ([`tally`]), who votes next ([`Head::next_active`]) and which state a window trains from
//! ([`Ledger::base`]) follow from that alone, so that two honest nodes never disagree. **Subjective** is what a node fetched
//! and when ([`Seen`]); it decides a node's own proposal and vote, and nothing else.
//!
//! Floors: rules < clock < peers < record < ledger < enter < tally < judge < turn < duty

pub mod clock;
pub mod duty;
pub mod enter;
pub mod judge;
pub mod ledger;
pub mod peers;
pub mod record;
pub mod rules;
pub mod tally;
pub mod turn;

pub use clock::{Clock, Lag, Moments};
pub use duty::{Done, Duty};
pub use enter::{Seen, Standing};
pub use judge::{Refusal, judge, wanted};
pub use ledger::{Base, Head, Ledger};
pub use peers::{Electorate, Peers, Stake};
pub use record::{Member, Record};
pub use rules::Rules;
pub use tally::{Outcome, tally};
pub use turn::{Ballot, Judged, Proposal, propose, vote};
