//! Whose turn it is to propose, and what to vote for.

use crate::{
    clock::Clock,
    judge::Verdict,
    peers::Electorate,
    tally::{Votes, support},
};
use ::record::{Hash, Hotkey, Window};
use std::cmp::Reverse;

/// A proposal that a validator has seen, and its word on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Hash of the record.
    pub record: Hash,
    /// Who signed it.
    pub by: Hotkey,
    /// How many deltas it lists.
    pub listed: usize,
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
    /// From here on, where no record has more than half of the stake, the first in turn proposes once more.
    pub again: u64,
    /// A vote that is sent after this may not be counted.
    pub last_call: u64,
}

impl Turn {
    /// The blocks of a window's decision; a transaction needs at most `inclusion` blocks.
    pub fn of(clock: &Clock, window: Window, inclusion: u64) -> Self {
        let propose = clock.moments(window).propose;
        let last_call = clock.last_call(window, inclusion);
        // What was proposed first, and the deltas that it names, have the first half of the time to come around.
        let again = propose.saturating_add(last_call.saturating_sub(propose) / 2);
        Turn { propose, grace: clock.grace, again, last_call }
    }

    /// The first block of a rank's turn. The last ones in a long line share the last block that is of use.
    pub fn begins(&self, rank: u64) -> u64 {
        self.after(self.propose, rank)
    }

    /// The same in the second round.
    fn begins_again(&self, rank: u64) -> u64 {
        self.after(self.again, rank)
    }

    fn after(&self, from: u64, rank: u64) -> u64 {
        let own = from.saturating_add(self.grace.saturating_mul(rank));
        own.min(self.last_call.saturating_sub(self.grace).max(from))
    }
}

/// Whether to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// This hotkey's vote does not count in this window: nobody waits for its proposal.
    NotMember,
    /// A record is there that it stands for and that it could not better.
    Leave(Hash),
    /// Its turn comes at this block, unless one before it proposes something good.
    Wait(u64),
    /// Now.
    Make,
    /// Nobody could vote for it any more.
    Late,
}

/// Whether a validator proposes at this block, given the proposals that it has seen, the votes, and how many deltas it
/// would list itself by now.
///
/// In its first turn it proposes unless one before it has proposed something good. Validators to whom some miners have
/// shown different deltas refuse each other's lists then, and none is final. So each fetches what the others name, and
/// where half of the time is over and no record has more than half of the stake, it proposes once more, if it could
/// list more than any good record does: that list leaves out nothing that anybody has proposed, and is good to all. A
/// record that only the first in turn stands for decides nothing at the last call ([`vote`]): the others sign it once
/// more, by making the same one.
pub fn propose(
    me: Hotkey,
    block: u64,
    turn: &Turn,
    electorate: &Electorate,
    ballots: (&Votes, &[Judged]),
    listable: usize,
) -> Proposal {
    let Some(rank) = electorate.rank(me) else { return Proposal::NotMember };
    if block >= turn.last_call {
        return Proposal::Late;
    }
    let (votes, judged) = ballots;
    let good = || judged.iter().filter(|judged| judged.verdict == Verdict::Good);
    let own = judged.iter().filter(|judged| judged.by == me).count();
    let earlier = good().filter(|good| electorate.rank(good.by).is_some_and(|other| other < rank));
    let earlier = earlier.min_by_key(|good| electorate.rank(good.by));
    if block < turn.again || own == 0 && earlier.is_none() {
        return match (judged.iter().find(|judged| judged.by == me), earlier) {
            (Some(own), _) => Proposal::Leave(own.record),
            (None, Some(good)) => Proposal::Leave(good.record),
            (None, None) if block < turn.begins(rank) => Proposal::Wait(turn.begins(rank)),
            (None, None) => Proposal::Make,
        };
    }
    let ahead = majority(electorate, votes);
    let counts = |good: &&Judged| rank == 0 || shared(&good.record, electorate, ballots);
    let widest = good().filter(counts).max_by_key(|good| (good.listed, Reverse(electorate.rank(good.by))));
    match (ahead, widest) {
        (Some(ahead), _) => Proposal::Leave(ahead),
        (None, Some(good)) if good.listed >= listable || own > 1 => Proposal::Leave(good.record),
        _ if block < turn.begins_again(rank) => Proposal::Wait(turn.begins_again(rank)),
        (None, None) if own > 1 => Proposal::Late,
        _ => Proposal::Make,
    }
}

/// The record behind which more than half of the stake stands, if there is one.
fn majority(electorate: &Electorate, votes: &Votes) -> Option<Hash> {
    let total = electorate.total();
    support(electorate, votes).into_iter().find(|(_, stake)| *stake * 2 > total).map(|(record, _)| record)
}

/// Whether any member other than the first in turn stands for a record, by its vote or its signature.
fn shared(record: &Hash, electorate: &Electorate, (votes, judged): (&Votes, &[Judged])) -> bool {
    let other = |hotkey: Hotkey| electorate.rank(hotkey).is_some_and(|rank| rank > 0);
    votes.iter().any(|(hotkey, vote)| vote == record && other(*hotkey))
        || judged.iter().any(|judged| judged.record == *record && other(judged.by))
}

/// What to do about the own vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ballot {
    /// Vote for this record. At the last call this is the last word: the vote moves once.
    Cast(Hash),
    /// The own vote stands; look again at this block.
    Keep(u64),
    /// Nothing that it stands for is there; look again at this block.
    Wait(u64),
    /// It has nothing to vote for: put the entry as it is once more, so that the chain shows that this hotkey is there
    /// ([`crate::Peers::present`]).
    Show,
    /// A vote would not be counted any more.
    Late,
}

/// How a validator votes at this block. `own` is its vote in this window, `votes` are all of them; at the last call
/// those of one block that is final by then, the same for everybody.
///
/// The first vote is for the first good proposal in turn, and for none before its turn: where the first in turn is
/// honest, all who are honest stand behind its proposal. At the last call, once, it goes where more than half of the
/// stake stands, if that is good; else to a good record that somebody other than the first in turn signed or votes for,
/// and who does so shows it to all. What stands on the word of the first in turn alone comes last: it could divide the
/// others, by showing each another record when nobody can pass it on any more. Of several the longest list counts,
/// since what leaves out least is good to most, and then the stake behind it, again without that of the first in turn.
pub fn vote(
    block: u64,
    turn: &Turn,
    own: Option<Hash>,
    electorate: &Electorate,
    votes: &Votes,
    judged: &[Judged],
) -> Ballot {
    if block > turn.last_call {
        return if own.is_none() { Ballot::Show } else { Ballot::Late };
    }
    let ballots = (votes, judged);
    let last_call = block == turn.last_call;
    let rank = |by: Hotkey| electorate.rank(by).unwrap_or(u64::MAX);
    let good = judged.iter().filter(|judged| judged.verdict == Verdict::Good);
    let stakes = support(electorate, votes);
    let behind = |record: &Hash| stakes.get(record).copied().unwrap_or(0);
    let best = if last_call {
        let ahead = majority(electorate, votes);
        let first = electorate.members().first();
        let backing = |record: &Hash| {
            let of_first = first.filter(|(hotkey, _)| votes.get(hotkey) == Some(record)).map_or(0, |(_, stake)| *stake);
            behind(record).saturating_sub(u128::from(of_first))
        };
        good.min_by_key(|judged| {
            let (record, backing) = (judged.record, backing(&judged.record));
            // Who signed a record is not the same to all who see it, so that it decides only where nobody voted.
            let rank = if backing == 0 { rank(judged.by) } else { 0 };
            let shared = shared(&record, electorate, ballots);
            (ahead != Some(record), !shared, Reverse(judged.listed), Reverse(backing), rank, record)
        })
    } else {
        good.filter(|judged| turn.begins(rank(judged.by)) <= block)
            .min_by_key(|judged| (rank(judged.by), Reverse(behind(&judged.record)), judged.record))
    };
    // Its second turn to propose may come before.
    let look = if block < turn.again { turn.again } else { turn.last_call.max(block.saturating_add(1)) };
    match (best, own) {
        (None, None) => Ballot::Wait(block.saturating_add(1)),
        (Some(best), own) if own.is_none() || (last_call && own != Some(best.record)) => Ballot::Cast(best.record),
        _ => Ballot::Keep(look),
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

    const TURN: Turn = Turn { propose: 100, grace: 5, again: 120, last_call: 140 };

    fn key(n: u8) -> Hotkey {
        Hotkey([n; 32])
    }

    fn hash(n: u8) -> Hash {
        Hash([100 + n; 32])
    }

    /// Hotkeys 0, 1, 2 … in turn.
    fn electorate(stakes: &[u64]) -> Electorate {
        let peer = |n: usize, stake| Peer { uid: Uid(n as u16), stake, permit: true, incentive: 0.0, entry: None };
        let peers = Peers(stakes.iter().enumerate().map(|(n, s)| (key(n as u8), peer(n, *s))).collect());
        Electorate::new(peers.0.keys().copied(), &peers, false)
    }

    fn judged(by: u8, verdict: Verdict) -> Judged {
        Judged { record: hash(by), by: key(by), listed: 5, verdict }
    }

    fn votes_of(votes: &[(u8, u8)]) -> Votes {
        votes.iter().map(|(who, what)| (key(*who), hash(*what))).collect()
    }

    #[test]
    fn the_second_turn_lies_in_the_middle() {
        let clock = Clock {
            blocks: 60,
            page: 5,
            commit: 3,
            deadline: 15,
            propose: 20,
            grace: 4,
            tally: 45,
            lag: crate::Lag::One,
        };
        assert_eq!(Turn::of(&clock, Window(10), 5), Turn { propose: 679, grace: 4, again: 689, last_call: 699 });
    }

    #[test]
    fn each_waits_for_those_before_it_and_for_nobody_else() {
        let three = electorate(&[30, 20, 10]);
        let at = |me, block, judged: &[Judged]| propose(key(me), block, &TURN, &three, (&Votes::new(), judged), 5);
        assert_eq!([at(0, 99, &[]), at(0, 100, &[])], [Proposal::Wait(100), Proposal::Make]);
        assert_eq!([at(2, 109, &[]), at(2, 110, &[])], [Proposal::Wait(110), Proposal::Make]);
        assert_eq!(at(9, 110, &[]), Proposal::NotMember);
        assert_eq!(at(0, 140, &[]), Proposal::Late);
        let good = [judged(0, Verdict::Good)];
        assert_eq!(at(1, 105, &good), Proposal::Leave(hash(0)));
        // What is bad, or cannot be judged yet, holds nobody up.
        for verdict in [Verdict::Bad(vec![Refusal::Root]), Verdict::Lacks(Lack::State)] {
            assert_eq!(at(1, 105, &[judged(0, verdict)]), Proposal::Make);
        }
        assert_eq!(at(0, 105, &[judged(1, Verdict::Good)]), Proposal::Make, "one behind it holds nobody up");
        assert_eq!(at(1, 119, &[judged(1, Verdict::Good)]), Proposal::Leave(hash(1)), "once");
        assert_eq!(at(1, 130, &[judged(1, Verdict::Good)]), Proposal::Leave(hash(1)), "and it could not better it");
        // Of a hundred even the last has its turn before the last call.
        let many = electorate(&(1..=100).rev().collect::<Vec<_>>());
        let last = |block| propose(key(99), block, &TURN, &many, (&Votes::new(), &[]), 5);
        assert_eq!([last(134), last(135)], [Proposal::Wait(135), Proposal::Make]);
    }

    #[test]
    fn who_could_list_more_than_is_good_to_anybody_proposes_again() {
        let three = electorate(&[30, 25, 20]);
        let bad = Verdict::Bad(vec![Refusal::Omission(1, 5)]);
        // 0 and 1 have each refused what the other proposed, and fetched what it named.
        let split = [judged(0, Verdict::Good), judged(1, bad.clone())];
        let at = |me, block, votes: &[(u8, u8)], judged: &[Judged]| {
            propose(key(me), block, &TURN, &three, (&votes_of(votes), judged), 6)
        };
        assert_eq!(at(0, 119, &[], &split), Proposal::Leave(hash(0)));
        assert_eq!(at(0, 120, &[], &split), Proposal::Make);
        let split = [judged(0, bad), judged(1, Verdict::Good)];
        assert_eq!([at(1, 120, &[], &split), at(1, 125, &[], &split)], [Proposal::Wait(125), Proposal::Make]);
        assert_eq!(at(1, 125, &[(1, 1), (2, 1)], &split), Proposal::Leave(hash(1)), "more than half is enough");
        // The first one's second proposal lists all.
        let joined = Judged { record: hash(9), listed: 6, ..judged(0, Verdict::Good) };
        let all = [split.to_vec(), vec![joined]].concat();
        assert_eq!(at(0, 125, &[(1, 1), (0, 0)], &all), Proposal::Leave(hash(9)));
        assert_eq!(at(1, 125, &[(1, 1), (0, 0)], &all), Proposal::Make, "the same one: one more stands for it then");
        let signed = [all.clone(), vec![Judged { by: key(2), ..all[2].clone() }]].concat();
        assert_eq!(at(1, 125, &[(1, 1), (0, 0)], &signed), Proposal::Leave(hash(9)));
        assert_eq!(at(1, 125, &[(1, 1), (2, 9)], &all), Proposal::Leave(hash(9)), "or votes for it");
        // Nobody proposes a third time.
        let twice = [judged(1, Verdict::Good), Judged { record: hash(9), ..judged(1, Verdict::Good) }];
        assert!(matches!(at(1, 130, &[], &twice), Proposal::Leave(_)));
    }

    /// The one with the most stake shows each another record, all of them good, and a third to one of them at the last
    /// call.
    #[test]
    fn the_first_in_turn_cannot_divide_the_others() {
        let three = electorate(&[40, 35, 25]);
        let record = |n: u8| Judged { record: Hash([n; 32]), by: key(0), listed: 5, verdict: Verdict::Good };
        let votes = Votes::from([(key(0), Hash([3; 32])), (key(1), Hash([1; 32])), (key(2), Hash([2; 32]))]);
        let at = |own: u8, judged: &[Judged]| vote(140, &TURN, Some(Hash([own; 32])), &three, &votes, judged);
        assert_eq!(at(1, &[record(1), record(2)]), Ballot::Keep(141));
        assert_eq!(at(1, &[record(1), record(2), record(3)]), Ballot::Keep(141), "not 3");
        assert_eq!(at(2, &[record(1), record(2), record(3)]), Ballot::Cast(Hash([1; 32])), "where the other one is");
        // A longer list does not help it: none of the others voted for that.
        let longer = Judged { listed: 6, ..record(3) };
        assert_eq!(at(1, &[record(1), record(2), longer.clone()]), Ballot::Keep(141));
        // Where one of them has signed it, all can have it.
        let signed = Judged { by: key(2), ..longer.clone() };
        assert_eq!(at(1, &[record(1), record(2), longer, signed]), Ballot::Cast(Hash([3; 32])));
    }

    #[test]
    fn a_vote_is_for_the_first_that_is_good_and_moves_once() {
        let three = electorate(&[30, 20, 10]);
        let at = |block, own: Option<u8>, votes: &[(u8, u8)], judged: &[Judged]| match vote(
            block,
            &TURN,
            own.map(hash),
            &three,
            &votes_of(votes),
            judged,
        ) {
            Ballot::Cast(Hash(bytes)) => i32::from(bytes[0]) - 100,
            Ballot::Keep(_) => -1,
            Ballot::Wait(_) => -2,
            Ballot::Late => -3,
            Ballot::Show => -4,
        };
        let both = [judged(0, Verdict::Good), judged(1, Verdict::Good)];
        assert_eq!(at(100, None, &[], &[]), -2);
        assert_eq!(at(100, None, &[], &[judged(0, Verdict::Bad(vec![Refusal::Clip]))]), -2);
        assert_eq!(at(105, None, &[], &both), 0);
        assert_eq!(at(105, None, &[(2, 1)], &both), 0, "the first in turn, whatever others say");
        assert_eq!(at(139, Some(1), &[(0, 0), (1, 1)], &both), -1, "not before the last call");
        assert_eq!(at(140, Some(1), &[(0, 0), (1, 1), (2, 0)], &both), 0, "what has more than half");
        assert_eq!(at(140, Some(0), &[(0, 0), (2, 0), (1, 1)], &both), -1);
        assert_eq!(at(140, Some(1), &[(0, 0), (1, 1), (2, 0)], &both[1..]), -1, "never what it has not judged good");
        assert_eq!(at(140, Some(0), &[(0, 0), (1, 1)], &both), 1, "the vote of the first in turn does not count");
        assert_eq!(at(140, None, &[(0, 0), (1, 1)], &both), 1, "nor where the first vote comes so late");
        assert_eq!(at(140, None, &[(0, 0)], &both), 1, "what another one signed");
        assert_eq!(at(140, None, &[(0, 0)], &both[..1]), 0, "where there is nothing else, the first in turn's");
        // One out of its turn counts from its turn on.
        assert_eq!([at(104, None, &[], &both[1..]), at(105, None, &[], &both[1..])], [-2, 1]);
        assert_eq!(at(141, None, &[], &both), -4, "that it is there can be shown later, too");
        assert_eq!(at(141, Some(0), &[], &both), -3);
        let looks = |block| vote(block, &TURN, Some(hash(0)), &three, &Votes::new(), &both);
        assert_eq!([looks(105), looks(120)], [Ballot::Keep(120), Ballot::Keep(140)], "a second turn may come");
        // The longest list, unless more than half stands for another one.
        let longer = [judged(0, Verdict::Good), Judged { listed: 6, ..judged(1, Verdict::Good) }];
        assert_eq!(at(140, Some(0), &[(0, 0), (1, 1)], &longer), 1);
        assert_eq!(at(140, Some(1), &[(0, 0), (2, 0), (1, 1)], &longer), 0);
    }
}
