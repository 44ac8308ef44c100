//! One configuration of the small network, and the rules that can be broken in it.

use protocol::Rules;

/// What is checked.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Stake of the three validators; the first has the most, and so on.
    pub stakes: [u64; 3],
    /// Which of them lies.
    pub liar: usize,
    /// So many windows; there are no faults in the last one.
    pub windows: u8,
    /// So many of: a delta that is late or lost for one reader, a reader that other buckets do not answer, a crash.
    pub faults: u8,
    /// So many reorganisations: what the last block before finality held is dropped.
    pub reorgs: u8,
    /// Whether each miner was audited before: the delta of one that was not may be left out by anybody.
    pub proven: [bool; 2],
    /// Whether the second miner may send what it did not commit to, or what no check lets pass.
    pub hostile_miner: bool,
    /// What the run chose.
    pub rules: Rules,
    /// The rule that is broken, if any.
    pub broken: Option<Broken>,
    /// Leave out steps of the liar that make no difference; see `README.md`.
    pub reduced: bool,
}

impl Setup {
    /// Three windows under the rules as they are.
    pub fn new(liar: usize) -> Self {
        Setup {
            stakes: [40, 35, 25],
            liar,
            windows: 3,
            faults: 1,
            reorgs: 1,
            proven: [true, true],
            hostile_miner: true,
            rules: Rules {
                omission: 0.5,
                inactive_records: 2,
                open_windows: 8,
                clip_to_median: true,
                weigh_by_incentive: false,
            },
            broken: None,
            reduced: true,
        }
    }
}

/// A rule that is removed, to see that the checker finds what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Whatever a record follows, it is judged as if that were the last final one.
    NoPrev,
    /// The record with the most stake behind it is final, however little that is.
    Plurality,
    /// Everything is voted for.
    NoJudging,
    /// Of the electorate only those count from whom a node heard in this window.
    OwnElectorate,
    /// Votes are read before their block is final.
    Unfinal,
    /// Commitments are not looked at.
    NoCommitments,
    /// What a list leaves out is not looked at.
    NoOmission,
    /// The state that a record leads to is not computed.
    NoRoot,
    /// At the last call each node reads the votes of its own moment, in place of those of one block.
    CallOfOwnMoment,
    /// Nobody keeps the records that it voted for.
    NothingKept,
}
