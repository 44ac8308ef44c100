//! Whether a validator stands for a record: every field is the chain's, the rule's, or what it computed itself.

use crate::{
    enter::{Fault, Seen, Standing, list},
    ledger::Head,
    peers::Peers,
    record::Record,
    rules::Rules,
};
use ::record::{Hash, Hotkey, Uid, Window};
use std::collections::{BTreeMap, BTreeSet};

/// What a validator holds a record against.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The run.
    pub run: Hash,
    /// The window that is decided.
    pub window: Window,
    /// Hash of its draw block.
    pub reveal: Hash,
    /// Its peers, as of its first block.
    pub peers: &'a Peers,
    /// The last final record before it.
    pub head: &'a Head,
    /// The deltas that this node has, by the hash of their file.
    pub seen: &'a BTreeMap<Hash, Seen>,
    /// What the run chose.
    pub rules: &'a Rules,
}

/// Why a record gets no vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is of another run.
    Run,
    /// It is not of the window that is decided: one that is over, or to come.
    Window,
    /// It does not follow the last final record: a rollback, or another history.
    Prev,
    /// It names another draw.
    Reveal,
    /// Who signed it has no turn in this window.
    Proposer,
    /// Its list is not in the order of uids, or names one twice.
    Order,
    /// No peer of the window has this uid and hotkey.
    Stranger(Uid),
    /// A delta in it must not enter.
    Barred(Uid, Fault),
    /// A weight is not what the rule makes of the list.
    Weight(Uid),
    /// A scale is not what the rule makes of the list.
    Scale(Uid),
    /// The norm that it clips to is not what the rule makes of the list.
    Clip,
    /// It leaves out more than the stated share of what was good and in time: so many of so many.
    Omission(u32, u32),
    /// Its active members are not those that the chain's votes make.
    Active,
    /// It leads to another state.
    Root,
}

/// What this node lacks to judge a record; it abstains until it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// These deltas: fetch them from their peers, or from who proposed or voted for the record.
    Deltas(Vec<Hash>),
    /// The votes for the last final record: it did not see its tally.
    Votes,
    /// The state that the list leads to: it has to be computed.
    State,
}

/// A validator's word on a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands for it.
    Good,
    /// It never will, for all these reasons.
    Bad(Vec<Refusal>),
    /// Not yet.
    Lacks(Lack),
}

/// What a node fetches for a record's sake: the deltas that it lacks to judge it; and those of a record that does nothing wrong
/// but to leave out too much, since the node may list them beside what was left out ([`crate::propose`]).
pub fn wanted(record: &Record, verdict: &Verdict, seen: &BTreeMap<Hash, Seen>) -> Vec<Hash> {
    let lacking = || record.accepted.iter().map(|accepted| accepted.blake3).filter(|delta| !seen.contains_key(delta));
    match verdict {
        Verdict::Lacks(Lack::Deltas(_)) => lacking().collect(),
        Verdict::Bad(refusals) if refusals.iter().all(|refusal| matches!(refusal, Refusal::Omission(..))) => {
            lacking().collect()
        }
        _ => Vec::new(),
    }
}

/// Of the deltas that had to enter, how many a list leaves out, and how many there are.
pub fn left_out(record: &Record, seen: &BTreeMap<Hash, Seen>, peers: &Peers) -> (u32, u32) {
    let listed: BTreeSet<Uid> = record.accepted.iter().map(|accepted| accepted.uid).collect();
    let due: BTreeSet<Uid> = seen
        .values()
        .filter(|seen| seen.standing == Standing::Due && seen.norm.is_finite())
        .filter(|seen| peers.0.get(&seen.hotkey).is_some_and(|peer| peer.uid == seen.uid))
        .map(|seen| seen.uid)
        .collect();
    (due.difference(&listed).count() as u32, due.len() as u32)
}

/// Whether so many of so many may be left out.
pub fn may_leave_out(left_out: u32, due: u32, rules: &Rules) -> bool {
    // A share that is no number, or below zero, allows nothing.
    f64::from(left_out) <= (rules.omission.clamp(0.0, 1.0) * f64::from(due)).floor()
}

/// Judge a record by one signer. `computed` is the root that this node reached with the record's own list.
pub fn judge(record: &Record, by: Hotkey, view: &View<'_>, computed: Option<Hash>) -> Verdict {
    let mut refusals = Vec::new();
    let mut refuse = |wrong: bool, refusal| {
        if wrong {
            refusals.push(refusal);
        }
    };
    refuse(record.run != view.run, Refusal::Run);
    refuse(record.window != view.window, Refusal::Window);
    refuse(record.prev != view.head.hash, Refusal::Prev);
    refuse(record.reveal != view.reveal, Refusal::Reveal);
    refuse(!record.accepted.is_sorted_by(|a, b| a.uid < b.uid), Refusal::Order);
    let mut lacking = Vec::new();
    let mut deltas = BTreeMap::new();
    for accepted in &record.accepted {
        let (uid, hotkey) = (accepted.uid, accepted.hotkey);
        refuse(view.peers.0.get(&hotkey).is_none_or(|peer| peer.uid != uid), Refusal::Stranger(uid));
        match view.seen.get(&accepted.blake3) {
            None => lacking.push(accepted.blake3),
            Some(seen) => {
                refuse((seen.uid, seen.hotkey) != (uid, hotkey), Refusal::Stranger(uid));
                if let Standing::Barred(fault) = seen.standing {
                    refuse(true, Refusal::Barred(uid, fault));
                }
                deltas.insert(uid, (accepted.blake3, *seen));
            }
        }
    }
    let (left_out, due) = left_out(record, view.seen, view.peers);
    refuse(!may_leave_out(left_out, due, view.rules), Refusal::Omission(left_out, due));
    let active = view.head.next_active(view.rules);
    let electorate = view.head.electorate(view.window, view.peers, view.rules);
    if let (Some(active), Some(electorate)) = (&active, &electorate) {
        refuse(record.active != *active, Refusal::Active);
        refuse(electorate.rank(by).is_none(), Refusal::Proposer);
    }
    // The rule's numbers need every norm.
    if lacking.is_empty() {
        let rule = list(&deltas, view.peers, view.head.clip, view.rules);
        // By their bits: a record that is not the same number is another record.
        refuse(record.clip.map(f64::to_bits) != rule.clip.map(f64::to_bits), Refusal::Clip);
        for (given, ours) in record.accepted.iter().zip(&rule.accepted) {
            refuse(given.weight_u16 != ours.weight_u16, Refusal::Weight(given.uid));
            refuse(given.scale.to_bits() != ours.scale.to_bits(), Refusal::Scale(given.uid));
        }
        refuse(computed.is_some_and(|root| root != record.root), Refusal::Root);
    }
    if !refusals.is_empty() {
        return Verdict::Bad(refusals);
    }
    match computed {
        _ if active.is_none() => Verdict::Lacks(Lack::Votes),
        _ if !lacking.is_empty() => Verdict::Lacks(Lack::Deltas(lacking)),
        None => Verdict::Lacks(Lack::State),
        Some(_) => Verdict::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{enter::choose, peers::Peer, record::Member};
    use proptest::prelude::*;

    const RULES: Rules =
        Rules { omission: 0.25, inactive_records: 2, open_windows: 4, clip_to_median: true, weigh_by_incentive: true };
    const ROOT: Hash = Hash([77; 32]);

    struct World {
        peers: Peers,
        head: Head,
        seen: BTreeMap<Hash, Seen>,
    }

    fn key(n: u8) -> Hotkey {
        Hotkey([n; 32])
    }

    /// A validator with uid 0, and miners 1 to n, of whom each has sent a good delta.
    fn world(miners: u8) -> World {
        let peer = |n: u8| Peer {
            uid: Uid(n.into()),
            stake: if n == 0 { 100 } else { 0 },
            permit: n == 0,
            incentive: f64::from(n) / 100.0,
            entry: None,
        };
        let seen = |n: u8| Seen { uid: Uid(n.into()), hotkey: key(n), norm: f64::from(n), standing: Standing::Due };
        let mut head = Head::founding(Hash([1; 32]), Hash([2; 32]), Window(10), &[key(0)]);
        head.clip = Some(2.5);
        World {
            peers: Peers((0..=miners).map(|n| (key(n), peer(n))).collect()),
            head,
            seen: (1..=miners).map(|n| (Hash([100 + n; 32]), seen(n))).collect(),
        }
    }

    impl World {
        fn view(&self) -> View<'_> {
            View {
                run: Hash([1; 32]),
                window: Window(10),
                reveal: Hash([9; 32]),
                peers: &self.peers,
                head: &self.head,
                seen: &self.seen,
                rules: &RULES,
            }
        }

        /// What an honest proposer makes of it.
        fn record(&self) -> Record {
            let list = list(&choose(&self.seen, &self.peers), &self.peers, self.head.clip, &RULES);
            Record {
                run: Hash([1; 32]),
                window: Window(10),
                prev: self.head.hash,
                reveal: Hash([9; 32]),
                accepted: list.accepted,
                clip: list.clip,
                root: ROOT,
                active: self.head.next_active(&RULES).unwrap(),
            }
        }

        fn judged(&self, record: &Record) -> Verdict {
            judge(record, key(0), &self.view(), Some(ROOT))
        }
    }

    #[test]
    fn an_honest_record_is_good() {
        for miners in [0, 1, 2, 3, 8] {
            let world = world(miners);
            assert_eq!(world.judged(&world.record()), Verdict::Good, "{miners} miners");
        }
    }

    #[test]
    fn each_lie_of_a_publisher_is_refused_by_its_name() {
        let world = world(8);
        let refused = |change: fn(&mut Record), refusal: Refusal| {
            let mut record = world.record();
            change(&mut record);
            match world.judged(&record) {
                Verdict::Bad(refusals) => assert!(refusals.contains(&refusal), "{refusal:?}: {refusals:?}"),
                other => panic!("{refusal:?}: {other:?}"),
            }
        };
        refused(|r| r.run = Hash([3; 32]), Refusal::Run);
        refused(|r| r.window = Window(9), Refusal::Window);
        refused(|r| r.window = Window(5000), Refusal::Window);
        refused(|r| r.prev = Hash([3; 32]), Refusal::Prev);
        refused(|r| r.reveal = Hash([3; 32]), Refusal::Reveal);
        refused(|r| r.accepted.swap(0, 1), Refusal::Order);
        refused(|r| r.accepted[1] = r.accepted[0].clone(), Refusal::Order);
        refused(|r| r.accepted[0].hotkey = key(9), Refusal::Stranger(Uid(1)));
        refused(|r| r.accepted[0].blake3 = r.accepted[1].blake3, Refusal::Stranger(Uid(1)));
        refused(|r| r.accepted[0].weight_u16 = 7, Refusal::Weight(Uid(1)));
        refused(|r| r.accepted[7].scale = 1.0, Refusal::Scale(Uid(8)));
        refused(|r| r.accepted[0].scale = 0.0, Refusal::Scale(Uid(1)));
        refused(|r| r.clip = Some(1.0), Refusal::Clip);
        refused(|r| r.clip = None, Refusal::Clip);
        refused(|r| drop(r.accepted.drain(0..3)), Refusal::Omission(3, 8));
        refused(|r| r.accepted.clear(), Refusal::Omission(8, 8));
        refused(|r| r.active.clear(), Refusal::Active);
        refused(|r| r.active[0].missed = 1, Refusal::Active);
        refused(|r| r.active.push(Member { hotkey: key(5), missed: 0 }), Refusal::Active);
        refused(|r| r.root = Hash([3; 32]), Refusal::Root);
        assert_eq!(judge(&world.record(), key(4), &world.view(), Some(ROOT)), Verdict::Bad(vec![Refusal::Proposer]));
    }

    #[test]
    fn what_must_not_enter_does_not() {
        for fault in [Fault::Uncommitted, Fault::Invalid, Fault::Audit] {
            let mut world = world(8);
            let record = world.record();
            world.seen.get_mut(&Hash([103; 32])).unwrap().standing = Standing::Barred(fault);
            assert_eq!(world.judged(&record), Verdict::Bad(vec![Refusal::Barred(Uid(3), fault)]));
            assert_eq!(world.judged(&world.record()), Verdict::Good, "an own list leaves it out");
        }
        let mut world = world(8);
        world.seen.get_mut(&Hash([103; 32])).unwrap().standing = Standing::Allowed;
        assert_eq!(world.judged(&world.record()), Verdict::Good);
    }

    #[test]
    fn who_lacks_something_abstains_and_says_what() {
        let mut world = world(8);
        let record = world.record();
        assert_eq!(judge(&record, key(0), &world.view(), None), Verdict::Lacks(Lack::State));
        world.seen.remove(&Hash([103; 32]));
        assert_eq!(world.judged(&record), Verdict::Lacks(Lack::Deltas(vec![Hash([103; 32])])));
        let verdict = world.judged(&record);
        assert_eq!(wanted(&record, &verdict, &world.seen), [Hash([103; 32])]);
        // What leaves out too much is looked at all the same, and what lies is not.
        let mut short = record.clone();
        short.accepted.drain(3..);
        let verdict = world.judged(&short);
        assert_eq!(verdict, Verdict::Bad(vec![Refusal::Omission(5, 7)]));
        assert_eq!(wanted(&short, &verdict, &world.seen), [Hash([103; 32])]);
        let lie = Record { window: Window(11), ..short };
        assert_eq!(wanted(&lie, &world.judged(&lie), &world.seen), []);
        let record = world.record();
        world.head.voters = None;
        assert_eq!(world.judged(&record), Verdict::Lacks(Lack::Votes));
    }

    proptest! {
        /// A record that an honest voter stands for has none that is barred, and leaves out no more than the stated share.
        #[test]
        fn what_passes_differs_from_what_was_seen_by_the_stated_share(
            standings in prop::collection::vec(0u8..3, 0..12), norms in prop::collection::vec(any::<f64>(), 12),
            kept in prop::collection::vec(any::<bool>(), 12), omission in 0.0f64..0.6,
        ) {
            let mut world = world(standings.len() as u8);
            for ((seen, standing), norm) in world.seen.values_mut().zip(&standings).zip(norms) {
                seen.norm = norm;
                seen.standing = [Standing::Due, Standing::Allowed, Standing::Barred(Fault::Audit)][usize::from(*standing)];
            }
            let rules = Rules { omission, ..RULES };
            // A publisher that keeps what it likes of the list, and otherwise follows the rule.
            let mut chosen = choose(&world.seen, &world.peers);
            chosen.retain(|uid, _| kept[usize::from(uid.0 % 12)]);
            let made = list(&chosen, &world.peers, world.head.clip, &rules);
            let record = Record { accepted: made.accepted, clip: made.clip, ..world.record() };
            let view = View { rules: &rules, ..world.view() };
            let due = world.seen.values().filter(|s| s.standing == Standing::Due && s.norm.is_finite());
            let due: BTreeSet<Uid> = due.map(|s| s.uid).collect();
            let listed: BTreeSet<Uid> = record.accepted.iter().map(|a| a.uid).collect();
            let missing = due.difference(&listed).count();
            let good = judge(&record, key(0), &view, Some(ROOT)) == Verdict::Good;
            prop_assert_eq!(good, missing as f64 <= (omission * due.len() as f64).floor());
        }
    }
}
