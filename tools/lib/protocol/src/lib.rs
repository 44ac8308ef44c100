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
//! Floors: clock < peers < record < ledger < enter < tally < judge < turn < duty

pub mod clock;
pub mod duty;
pub mod enter;
pub mod judge;
pub mod ledger;
pub mod peers;
pub mod record;
pub mod tally;
pub mod turn;

pub use clock::{Clock, Lag, Moments};
pub use duty::{Done, Duty};
pub use enter::{Seen, Standing};
pub use judge::{Refusal, judge, wanted};
pub use ledger::{Base, Head, Ledger};
pub use peers::{Electorate, Peers, Stake};
pub use record::{Member, Record};
pub use tally::{Outcome, tally};
pub use turn::{Ballot, Judged, Proposal, propose, vote};

/// The numbers that a run chooses for its agreement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Of the deltas that a voter saw good and in time, the share that a record may leave out, rounded down.
    pub omission: f64,
    /// A member that has not voted for so many final records in a row is active no more (K).
    pub inactive_records: u32,
    /// After so many windows without a final record every permit that votes counts (M).
    pub open_windows: u64,
    /// Clip each delta to the median norm of the list.
    pub clip_to_median: bool,
    /// Whether a delta counts by its peer's incentive on the chain.
    pub weigh_by_incentive: bool,
}
