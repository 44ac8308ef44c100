//! One moment of the small network. All that a decision depends on, and no more: what makes no difference is not in it.

use crate::facts::{label, place, root, validator};
use protocol::{Head, Member};
use record::Window;

/// Which of the records that can be made in a window: its place in the scene.
pub type At = u8;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The window that is decided, from 0.
    pub window: u8,
    /// Where in it.
    pub phase: Phase,
    /// What the chain and the buckets have of each miner's delta.
    pub deltas: [Delta; 2],
    /// The honest validators.
    pub nodes: [Node; 2],
    /// Their votes, as the newest block has them.
    pub votes: [Option<At>; 2],
    /// The same in the last block that is final.
    pub settled: [Option<At>; 2],
    /// The liar's vote in the block of the last call.
    pub call: Option<At>,
    /// The last final record.
    pub head: Last,
    /// So many faults may still happen.
    pub faults: u8,
    /// So many reorganisations may still happen.
    pub reorgs: u8,
    /// What went wrong in the step that led here; nothing follows it.
    pub wrong: Option<Wrong>,
}

/// The parts of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The commitments.
    Commit,
    /// This honest validator fetches the deltas.
    Fetch(u8),
    /// Three turns, in order of rank; then the second turn of those who are not the first, which that one has in the
    /// third; 4 is the last call.
    Slot(u8),
    /// All windows are over.
    Done,
}

/// The last call.
pub const CALL: u8 = 4;

/// What there is of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delta {
    /// Committed to, and good.
    Good,
    /// There is no commitment to it.
    Uncommitted,
    /// It is committed to, and no check lets it pass.
    Invalid,
}

/// What a reader has of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// It was there by the deadline.
    InTime,
    /// It came later.
    Late,
    /// It did not come.
    Never,
}

/// Whether a node reads the other honest node's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deaf {
    /// It does.
    No,
    /// Not in this turn.
    Slot,
    /// Not in this window.
    Window,
}

/// Signed records: for each signer a set of them, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proposals([u32; 3]);

impl Proposals {
    /// With one more.
    pub fn insert(&mut self, by: usize, at: At) {
        self.0[by] |= 1 << at;
    }

    /// Without one.
    pub fn remove(&mut self, by: usize, at: At) {
        self.0[by] &= !(1 << at);
    }

    /// Whether it is there.
    pub fn contains(&self, by: usize, at: At) -> bool {
        self.0[by] >> at & 1 == 1
    }

    /// All of them: who signed, and what.
    pub fn iter(self) -> impl Iterator<Item = (usize, At)> {
        (0..3).flat_map(move |by| (0..32).filter(move |at| self.0[by] >> at & 1 == 1).map(move |at| (by, at)))
    }
}

/// An honest validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// It runs.
    pub up: bool,
    /// It has done its part of this turn.
    pub acted: bool,
    /// What it fetched.
    pub sights: [Sight; 2],
    /// See [`Deaf`].
    pub deaf: Deaf,
    /// The proposals that it holds and does not hold for bad.
    pub held: Proposals,
    /// The outcome, where it did not wait for the tally block to be final (a broken rule).
    pub hasty: Option<[Option<At>; 3]>,
}

impl Node {
    /// At the start of a window.
    pub fn begin(up: bool) -> Self {
        Node { up, acted: false, sights: [Sight::InTime; 2], deaf: Deaf::No, held: Proposals::default(), hasty: None }
    }
}

/// The last final record, without what nothing depends on any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Last {
    window: u64,
    /// What each validator missed, if it is a member.
    active: [Option<u32>; 3],
    voters: [bool; 3],
    others: [bool; 3],
    clip: Option<u64>,
}

impl Last {
    /// Of a head.
    pub fn of(head: &Head) -> Self {
        let (mut active, mut voters, mut others) = ([None; 3], [false; 3], [false; 3]);
        head.active.iter().for_each(|member| active[place(member.hotkey)] = Some(member.missed));
        head.voters.iter().flatten().for_each(|voter| voters[place(*voter)] = true);
        head.others.iter().for_each(|other| others[place(*other)] = true);
        Last { window: head.window.0, active, voters, others, clip: head.clip.map(f64::to_bits) }
    }

    /// As the protocol has it.
    pub fn head(&self) -> Head {
        let window = Window(self.window);
        let member = |n: usize| self.active[n].map(|missed| Member { hotkey: validator(n), missed });
        Head {
            window,
            hash: label(window),
            root: root(window),
            clip: self.clip.map(f64::from_bits),
            active: (0..3).filter_map(member).collect(),
            voters: Some((0..3).filter(|n| self.voters[*n]).map(validator).collect()),
            others: (0..3).filter(|n| self.others[*n]).map(validator).collect(),
        }
    }

    /// The window whose record it is.
    pub fn window(&self) -> Window {
        Window(self.window)
    }

    /// Whether this validator voted for it.
    pub fn has_vote_of(&self, n: usize) -> bool {
        self.voters[n]
    }
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// Two honest nodes hold different outcomes for a window, or train from different states.
    Split,
    /// A final record had too little honest stake behind it.
    Unjudged,
    /// What nobody committed to, or what no check lets pass, entered.
    Entered,
    /// A final record does not follow the last one.
    Rollback,
    /// An honest node does not stand for what it proposed itself.
    OwnProposal,
}
