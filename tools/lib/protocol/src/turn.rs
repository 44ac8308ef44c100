//! Whose turn it is to propose, and what to vote for.

use crate::{judge::Verdict, peers::Electorate, tally::Votes, tally::support};
use ::record::{Hash, Hotkey};
use std::cmp::Reverse;

/// A proposal that a validator has seen, and its word on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Hash of the record.
    pub record: Hash,
    /// Who signed it.
    pub by: Hotkey,
    /// Whether this node stands for it.
    pub verdict: Verdict,
}

/// The blocks that bound a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// From here on the first in turn proposes.
    pub propose: u64,
    /// So many blocks later each next one may.
    pub grace: u64,
    /// A vote that is sent after this may not be counted.
    pub last_call: u64,
}

/// Whether to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// This hotkey's vote does not count in this window: nobody waits for its proposal.
    NotMember,
    /// One before it has proposed what it stands for.
    Leave(Hash),
    /// Its turn comes at this block, unless one before it proposes something good.
    Wait(u64),
    /// Now.
    Make,
    /// Nobody could vote for it any more.
    Late,
}

/// Whether a validator proposes at this block, given the proposals that it has seen.
pub fn propose(me: Hotkey, block: u64, turn: &Turn, electorate: &Electorate, judged: &[Judged]) -> Proposal {
    let Some(rank) = electorate.rank(me) else { return Proposal::NotMember };
    if let Some(own) = judged.iter().find(|judged| judged.by == me) {
        return Proposal::Leave(own.record);
    }
    let earlier = judged.iter().filter(|judged| electorate.rank(judged.by).is_some_and(|other| other < rank));
    if let Some(good) =
        earlier.filter(|judged| judged.verdict == Verdict::Good).min_by_key(|good| electorate.rank(good.by))
    {
        return Proposal::Leave(good.record);
    }
    // The last ones in a long line share the last block that is of use.
    let own = turn.propose.saturating_add(turn.grace.saturating_mul(rank));
    let own = own.min(turn.last_call.saturating_sub(turn.grace).max(turn.propose));
    match block {
        _ if block >= turn.last_call => Proposal::Late,
        _ if block < own => Proposal::Wait(own),
        _ => Proposal::Make,
    }
}

/// What to do about the own vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ballot {
    /// Vote for this record.
    Cast(Hash),
    /// The own vote stands; look again at this block.
    Keep(u64),
    /// Nothing that it stands for is there; look again at this block.
    Wait(u64),
    /// A vote would not be counted any more.
    Late,
}

/// How a validator votes at this block. `own` is its vote as the chain has it, `votes` are all of them.
///
/// The first vote is for the first good proposal. At the last call, once, it goes to the good proposal behind which the most
/// stake stands, and of those the first in turn: all who see the same then vote the same.
pub fn vote(
    block: u64,
    turn: &Turn,
    own: Option<Hash>,
    electorate: &Electorate,
    votes: &Votes,
    judged: &[Judged],
) -> Ballot {
    if block > turn.last_call {
        return Ballot::Late;
    }
    let support = support(electorate, votes);
    let behind = |record: &Hash| support.get(record).copied().unwrap_or(0);
    let rank = |by: Hotkey| electorate.rank(by).unwrap_or(u64::MAX);
    let good = || judged.iter().filter(|judged| judged.verdict == Verdict::Good);
    let best = match own {
        None => good().min_by_key(|judged| (rank(judged.by), Reverse(behind(&judged.record)), judged.record)),
        Some(_) => good().min_by_key(|judged| (Reverse(behind(&judged.record)), rank(judged.by), judged.record)),
    };
    match (best, own) {
        (None, None) => Ballot::Wait(block.saturating_add(1)),
        (None, Some(_)) => Ballot::Keep(turn.last_call),
        (Some(best), None) => Ballot::Cast(best.record),
        (Some(best), Some(own)) if best.record != own && block >= turn.last_call => Ballot::Cast(best.record),
        (Some(_), Some(_)) => Ballot::Keep(turn.last_call),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{Lack, Refusal},
        peers::{Peer, Peers},
    };
    use ::record::Uid;

    const TURN: Turn = Turn { propose: 100, grace: 5, last_call: 140 };

    fn key(n: u8) -> Hotkey {
        Hotkey([n; 32])
    }

    /// Hotkeys 0, 1, 2 … in turn.
    fn electorate(stakes: &[u64]) -> Electorate {
        let peer = |n: usize, stake| Peer { uid: Uid(n as u16), stake, permit: true, incentive: 0.0 };
        let peers = Peers(stakes.iter().enumerate().map(|(n, s)| (key(n as u8), peer(n, *s))).collect());
        Electorate::new(peers.0.keys().copied(), &peers, false)
    }

    fn judged(by: u8, verdict: Verdict) -> Judged {
        Judged { record: Hash([100 + by; 32]), by: key(by), verdict }
    }

    #[test]
    fn each_waits_for_those_before_it_and_for_nobody_else() {
        let three = electorate(&[30, 20, 10]);
        let at = |me, block, judged: &[Judged]| propose(key(me), block, &TURN, &three, judged);
        assert_eq!([at(0, 99, &[]), at(0, 100, &[])], [Proposal::Wait(100), Proposal::Make]);
        assert_eq!([at(2, 109, &[]), at(2, 110, &[])], [Proposal::Wait(110), Proposal::Make]);
        assert_eq!(at(9, 110, &[]), Proposal::NotMember);
        assert_eq!(at(0, 140, &[]), Proposal::Late);
        let good = [judged(0, Verdict::Good)];
        assert_eq!(at(1, 105, &good), Proposal::Leave(Hash([100; 32])));
        // What is bad, or cannot be judged yet, holds nobody up.
        for verdict in [Verdict::Bad(vec![Refusal::Root]), Verdict::Lacks(Lack::State)] {
            assert_eq!(at(1, 105, &[judged(0, verdict)]), Proposal::Make);
        }
        assert_eq!(at(0, 105, &[judged(1, Verdict::Good)]), Proposal::Make, "one behind it holds nobody up");
        assert_eq!(at(1, 130, &[judged(1, Verdict::Good)]), Proposal::Leave(Hash([101; 32])), "once");
        // Of a hundred even the last has its turn before the last call.
        let many = electorate(&(1..=100).rev().collect::<Vec<_>>());
        assert_eq!(propose(key(99), 134, &TURN, &many, &[]), Proposal::Wait(135));
        assert_eq!(propose(key(99), 135, &TURN, &many, &[]), Proposal::Make);
    }

    #[test]
    fn a_vote_is_for_the_first_that_is_good_and_moves_once() {
        let three = electorate(&[30, 20, 10]);
        let at = |block, own: Option<u8>, votes: &[(u8, u8)], judged: &[Judged]| {
            let votes = votes.iter().map(|(who, what)| (key(*who), Hash([100 + what; 32]))).collect();
            match vote(block, &TURN, own.map(|n| Hash([100 + n; 32])), &three, &votes, judged) {
                Ballot::Cast(Hash(bytes)) => i32::from(bytes[0]) - 100,
                Ballot::Keep(_) => -1,
                Ballot::Wait(_) => -2,
                Ballot::Late => -3,
            }
        };
        let both = [judged(0, Verdict::Good), judged(1, Verdict::Good)];
        assert_eq!(at(100, None, &[], &[]), -2);
        assert_eq!(at(100, None, &[], &[judged(0, Verdict::Bad(vec![Refusal::Clip]))]), -2);
        assert_eq!(at(105, None, &[], &both), 0);
        assert_eq!(at(105, None, &[(2, 1)], &both), 0, "the first in turn, whatever others say");
        assert_eq!(at(139, Some(1), &[(0, 0), (1, 1)], &both), -1, "not before the last call");
        assert_eq!(at(140, Some(1), &[(0, 0), (1, 1)], &both), 0, "where the most stake stands");
        assert_eq!(at(140, Some(0), &[(0, 0), (1, 1)], &both), -1);
        assert_eq!(at(140, Some(1), &[(0, 0), (1, 1)], &both[1..]), -1, "never for what it has not judged good");
        assert_eq!(at(141, None, &[], &both), -3);
    }
}
