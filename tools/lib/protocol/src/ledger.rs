//! What is final, window after window, as the chain's votes have it; and which state each window trains from.

use crate::{
    clock::Lag,
    peers::{Electorate, Peers},
    record::{Member, Record},
    rules::Rules,
};
use ::record::{Hash, Hotkey, Window};
use std::collections::BTreeMap;

/// The last final record before some window, and what the chain said when it was voted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The window whose deltas entered; of the founding, the one before the run's first.
    pub window: Window,
    /// Hash of the record; of the founding, the run's name.
    pub hash: Hash,
    /// Root of the state.
    pub root: Hash,
    /// See [`Record::clip`].
    pub clip: Option<f64>,
    /// Whose votes counted for it; of the founding, the founders.
    pub active: Vec<Member>,
    /// Who voted for it, in the order of hotkeys; `None` where this node did not see the tally itself.
    pub voters: Option<Vec<Hotkey>>,
    /// Who voted for another record, in the order of hotkeys.
    pub others: Vec<Hotkey>,
}

impl Head {
    /// Before the first record: the founders vote, and with none named everybody with a permit.
    pub fn founding(run: Hash, root: Hash, start: Window, founders: &[Hotkey]) -> Self {
        let mut founders = founders.to_vec();
        founders.sort_unstable();
        founders.dedup();
        Head {
            window: Window(start.0.saturating_sub(1)),
            hash: run,
            root,
            clip: None,
            active: founders.iter().map(|hotkey| Member { hotkey: *hotkey, missed: 0 }).collect(),
            voters: Some(founders),
            others: Vec::new(),
        }
    }

    /// Whose votes decide on the next record: who voted for this one, and of those who decided on it whoever voted for
    /// another one, or lately enough. Who is outvoted keeps its vote: otherwise liars who split the others would push a
    /// part of them out.
    ///
    /// `None` where this node did not see the votes for this one.
    pub fn next_active(&self, rules: &Rules) -> Option<Vec<Member>> {
        let voters = self.voters.as_ref()?;
        let mut active: BTreeMap<Hotkey, u32> = voters.iter().map(|hotkey| (*hotkey, 0)).collect();
        for member in &self.active {
            let voted = self.others.binary_search(&member.hotkey).is_ok();
            let missed = if voted { 0 } else { member.missed.saturating_add(1) };
            if missed <= rules.inactive_records {
                active.entry(member.hotkey).or_insert(missed);
            }
        }
        Some(active.into_iter().map(|(hotkey, missed)| Member { hotkey, missed }).collect())
    }

    /// Who decides on a window after this record; `None` where [`Head::next_active`] is not known.
    pub fn electorate(&self, window: Window, peers: &Peers, rules: &Rules) -> Option<Electorate> {
        Some(decide(&self.next_active(rules)?, self.window, window, peers, rules))
    }

    /// The head after a record that became final in this electorate, with the votes of its window. New members are all
    /// with a permit who voted for it.
    pub fn after(
        record: &Record,
        hash: Hash,
        votes: &BTreeMap<Hotkey, Hash>,
        electorate: &Electorate,
        peers: &Peers,
    ) -> Self {
        // Of an open electorate all stay active, not only who voted for this record: else one lie that splits the
        // others' votes would leave the liar among few.
        let active = if electorate.open {
            let mut hotkeys: Vec<Hotkey> = electorate.members().iter().map(|(hotkey, _)| *hotkey).collect();
            hotkeys.sort_unstable();
            hotkeys.into_iter().map(|hotkey| Member { hotkey, missed: 0 }).collect()
        } else {
            record.active.clone()
        };
        let permitted = votes.iter().filter(|(hotkey, _)| peers.voting(**hotkey) > 0);
        let (voters, others): (Vec<_>, Vec<_>) = permitted.partition(|(_, vote)| **vote == hash);
        let hotkeys = |votes: Vec<(&Hotkey, &Hash)>| votes.into_iter().map(|(hotkey, _)| *hotkey).collect();
        let (window, root, clip) = (record.window, record.root, record.clip);
        Head { window, hash, root, clip, active, voters: Some(hotkeys(voters)), others: hotkeys(others) }
    }

    /// The head that a newcomer takes over: a record that the others hold for final.
    ///
    /// With the window of the final record before it and the votes at its own tally block, where the chain still has
    /// them, the newcomer knows who votes next; without, it follows from the next record on.
    pub fn taken_over(
        record: &Record,
        hash: Hash,
        decided: Option<(Window, &BTreeMap<Hotkey, Hash>)>,
        peers: &Peers,
        rules: &Rules,
    ) -> Self {
        let Some((before, votes)) = decided else {
            let electorate = Electorate::new([], peers, false);
            return Head { voters: None, ..Head::after(record, hash, &BTreeMap::new(), &electorate, peers) };
        };
        let electorate = decide(&record.active, before, record.window, peers, rules);
        Head::after(record, hash, votes, &electorate, peers)
    }
}

/// Who decides on a window, when the last final record is that of `since`.
fn decide(active: &[Member], since: Window, window: Window, peers: &Peers, rules: &Rules) -> Electorate {
    let silent = window.0.saturating_sub(since.0) > rules.open_windows;
    if !silent {
        let closed = Electorate::new(active.iter().map(|member| member.hotkey), peers, false);
        // Active members without any stake or permit decide nothing: then everybody does, as where no founder is named.
        return if closed.members().is_empty() { everybody(peers) } else { closed };
    }
    // By now all had the time to show that they are there. Whoever did counts, also where it does not vote: otherwise a
    // single vote in a window in which the others are away would decide alone.
    let present = Electorate::new(peers.present(window, rules.open_windows), peers, true);
    if present.members().is_empty() { everybody(peers) } else { present }
}

fn everybody(peers: &Peers) -> Electorate {
    Electorate::new(peers.0.keys().copied(), peers, true)
}

/// Which state a window trains from.
#[derive(Clone, Debug, PartialEq)]
pub enum Base<'a> {
    /// That of this record.
    Known(&'a Head),
    /// The tally of this window has to be read first.
    Untold(Window),
    /// The state that others train it from is older than all that this node holds: it has no part in this window. What
    /// it holds would be another base than theirs.
    Gone,
}

/// The final records that a node knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    heads: BTreeMap<Window, Head>,
    /// The newest window whose outcome is known; all before it are known too.
    tallied: Window,
    /// Nothing was final before the oldest record here: it is the founding.
    complete: bool,
}

impl Ledger {
    /// From the founding.
    pub fn new(founding: Head) -> Self {
        Ledger { complete: true, ..Ledger::resume(founding) }
    }

    /// From a record that a newcomer took over, or that a node kept.
    pub fn resume(head: Head) -> Self {
        Ledger { tallied: head.window, heads: BTreeMap::from([(head.window, head)]), complete: false }
    }

    /// The newest window whose outcome is known.
    pub fn tallied(&self) -> Window {
        self.tallied
    }

    /// Note the outcome of the window after the last one: a new head, or that nothing became final.
    ///
    /// False, and nothing is noted, for any other window or a head of another one.
    pub fn tell(&mut self, window: Window, head: Option<Head>) -> bool {
        if window.0 != self.tallied.0.saturating_add(1) || head.as_ref().is_some_and(|head| head.window != window) {
            return false;
        }
        self.tallied = window;
        self.heads.extend(head.map(|head| (window, head)));
        true
    }

    /// The last final record of the windows before this one; `None` when an outcome before it is not known.
    pub fn before(&self, window: Window) -> Option<&Head> {
        if window.0 > self.tallied.0.saturating_add(1) {
            return None;
        }
        self.heads.range(..window).next_back().map(|(_, head)| head)
    }

    /// The newest final record.
    pub fn newest(&self) -> Option<&Head> {
        self.heads.last_key_value().map(|(_, head)| head)
    }

    /// Which state a window trains from.
    pub fn base(&self, window: Window, lag: Lag) -> Base<'_> {
        let before = Window(window.0.saturating_sub(lag.windows()));
        match self.before(before) {
            Some(head) => Base::Known(head),
            // The first windows of a run train from the founding.
            None if before.0 <= self.tallied.0 => match self.heads.first_key_value() {
                Some((_, head)) if self.complete => Base::Known(head),
                _ => Base::Gone,
            },
            None => Base::Untold(Window(self.tallied.0.saturating_add(1))),
        }
    }

    /// Forget all but the newest `count` records, at least one; at lag 1 the next window's state is the newest but one.
    pub fn keep(&mut self, count: usize) {
        while self.heads.len() > count.max(1) {
            self.heads.pop_first();
            self.complete = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peer;
    use ::record::Uid;

    fn key(n: u8) -> Hotkey {
        Hotkey([n; 32])
    }

    fn rules() -> Rules {
        Rules { omission: 0.1, inactive_records: 2, open_windows: 4, clip_to_median: true, weigh_by_incentive: false }
    }

    fn peers(stakes: &[(u8, u64)]) -> Peers {
        let entry = Some(Window(100));
        let peer = |n: u8, stake| Peer { uid: Uid(n.into()), stake, permit: true, incentive: 0.0, entry };
        Peers(stakes.iter().map(|(n, stake)| (key(*n), peer(*n, *stake))).collect())
    }

    fn head(window: u64, active: &[(u8, u32)], voters: &[u8]) -> Head {
        Head {
            window: Window(window),
            hash: Hash([window as u8; 32]),
            root: Hash([0; 32]),
            clip: None,
            active: active.iter().map(|(n, missed)| Member { hotkey: key(*n), missed: *missed }).collect(),
            voters: Some(voters.iter().map(|n| key(*n)).collect()),
            others: Vec::new(),
        }
    }

    fn members(head: &Head) -> Vec<(u8, u32)> {
        head.next_active(&rules()).unwrap().iter().map(|m| (m.hotkey.0[0], m.missed)).collect()
    }

    #[test]
    fn who_votes_is_active_and_who_does_not_is_forgotten() {
        let first = head(10, &[(1, 0), (2, 0), (3, 2)], &[1, 4]);
        assert_eq!(members(&first), [(1, 0), (2, 1), (4, 0)], "3 missed its third, 4 came new");
        let outvoted = Head { others: vec![key(3), key(5)], ..first };
        assert_eq!(members(&outvoted), [(1, 0), (2, 1), (3, 0), (4, 0)], "3 voted, and 5 was no member");
    }

    #[test]
    fn after_an_open_vote_all_who_were_there_are_active() {
        let record = Record {
            run: Hash([1; 32]),
            window: Window(104),
            prev: Hash([1; 32]),
            reveal: Hash([3; 32]),
            accepted: Vec::new(),
            clip: None,
            root: Hash([4; 32]),
            active: vec![Member { hotkey: key(9), missed: 1 }],
        };
        let there = peers(&[(1, 50), (2, 30), (3, 20)]);
        let open = Electorate::new([key(1), key(2), key(3)], &there, true);
        let hash = Hash([5; 32]);
        let votes = BTreeMap::from([(key(1), hash), (key(2), hash), (key(7), hash)]);
        // 3 did not vote: it missed one record, and does not lose its vote at once. 7 has no permit.
        let head = Head::after(&record, hash, &votes, &open, &there);
        assert_eq!(members(&head), [(1, 0), (2, 0), (3, 1)], "and of 9 nothing is known any more");
        let closed = Electorate::new([key(9)], &there, false);
        assert_eq!(members(&Head::after(&record, hash, &votes, &closed, &there)), [(1, 0), (2, 0), (9, 2)]);
    }

    #[test]
    fn a_newcomer_who_finds_the_votes_knows_as_much_as_the_others() {
        let there = peers(&[(1, 50), (2, 30), (3, 20)]);
        let founding = Head::founding(Hash([1; 32]), Hash([2; 32]), Window(100), &[key(1), key(2)]);
        for window in [100, 104] {
            let electorate = founding.electorate(Window(window), &there, &rules()).unwrap();
            let record = Record {
                run: Hash([1; 32]),
                window: Window(window),
                prev: founding.hash,
                reveal: Hash([3; 32]),
                accepted: Vec::new(),
                clip: Some(2.0),
                root: Hash([4; 32]),
                active: founding.next_active(&rules()).unwrap(),
            };
            let hash = Hash([5; 32]);
            let votes = BTreeMap::from([(key(1), hash), (key(2), Hash([6; 32])), (key(3), hash), (key(7), hash)]);
            let there_all_along = Head::after(&record, hash, &votes, &electorate, &there);
            assert_eq!(
                (there_all_along.voters.as_deref(), &*there_all_along.others),
                (Some(&[key(1), key(3)][..]), &[key(2)][..])
            );
            let new = Head::taken_over(&record, hash, Some((founding.window, &votes)), &there, &rules());
            assert_eq!(new, there_all_along, "{window}");
            let blind = Head::taken_over(&record, hash, None, &there, &rules());
            assert_eq!((blind.electorate(Window(window + 1), &there, &rules()), blind.root), (None, record.root));
        }
    }

    #[test]
    fn dead_founders_stop_nobody_for_longer_than_stated() {
        let founding = Head::founding(Hash([1; 32]), Hash([2; 32]), Window(100), &[key(1), key(2)]);
        let there = peers(&[(1, 50), (2, 30), (3, 20)]);
        let of = |window| founding.electorate(Window(window), &there, &rules()).unwrap();
        assert_eq!(of(100).members(), [(key(1), 50), (key(2), 30)]);
        assert!(!of(103).open && of(104).open, "the founding counts as window 99");
        assert_eq!(of(104).total(), 100);
        // Of all with a permit those count whose entry was put within the last windows, and nobody else.
        let mut mixed = there.clone();
        mixed.0.get_mut(&key(1)).unwrap().entry = Some(Window(99));
        mixed.0.get_mut(&key(2)).unwrap().entry = None;
        let who = |peers: &Peers| founding.electorate(Window(104), peers, &rules()).unwrap().members().to_vec();
        assert_eq!(who(&mixed), [(key(3), 20)]);
        // Before that nobody is held for gone, also where nobody is active.
        let none = Head { voters: Some(Vec::new()), active: Vec::new(), ..founding.clone() };
        assert_eq!(none.electorate(Window(103), &mixed, &rules()).unwrap().members().len(), 3);
        // Where nobody was there, everybody counts, and more than half of all is needed.
        mixed.0.get_mut(&key(3)).unwrap().entry = None;
        assert_eq!(who(&mixed).len(), 3);
        // None is named, or all that are named have gone: everybody with a permit.
        let nobody = Head::founding(Hash([1; 32]), Hash([2; 32]), Window(100), &[]);
        assert!(nobody.electorate(Window(100), &there, &rules()).unwrap().open);
        assert!(founding.electorate(Window(100), &peers(&[(3, 20)]), &rules()).unwrap().open);
    }

    #[test]
    fn a_window_trains_from_what_was_final_before_it() {
        let founding = Head::founding(Hash([1; 32]), Hash([2; 32]), Window(100), &[key(1)]);
        let mut ledger = Ledger::new(founding.clone());
        assert_eq!(ledger.base(Window(100), Lag::Zero), Base::Known(&founding));
        assert_eq!(ledger.base(Window(100), Lag::One), Base::Known(&founding));
        assert_eq!(ledger.base(Window(101), Lag::Zero), Base::Untold(Window(100)));
        assert_eq!(ledger.base(Window(101), Lag::One), Base::Known(&founding));
        assert!(!ledger.tell(Window(101), None), "in their order alone");
        assert!(!ledger.tell(Window(100), Some(head(101, &[], &[]))), "a record of another window");
        assert!(ledger.tell(Window(100), Some(head(100, &[], &[]))) && ledger.tell(Window(101), None));
        let at = |window, lag| match ledger.base(Window(window), lag) {
            Base::Known(head) => head.window.0,
            Base::Untold(_) => 0,
            Base::Gone => 1,
        };
        // Nothing was final in 101: theta stays.
        assert_eq!([at(101, Lag::Zero), at(102, Lag::Zero), at(103, Lag::Zero)], [100, 100, 0]);
        assert_eq!([at(101, Lag::One), at(102, Lag::One), at(103, Lag::One)], [99, 100, 100]);
        ledger.keep(1);
        assert_eq!(ledger.newest().map(|head| head.window.0), Some(100));
        assert_eq!(ledger.base(Window(101), Lag::One), Base::Gone, "it was the founding");
        // A newcomer does not take the record that it began with for the state of a window that began before that.
        let newcomer = Ledger::resume(head(105, &[], &[]));
        assert_eq!(newcomer.base(Window(105), Lag::Zero), Base::Gone);
        assert_eq!(newcomer.base(Window(106), Lag::One), Base::Gone);
        assert_eq!(newcomer.base(Window(106), Lag::Zero), Base::Known(&head(105, &[], &[])));
        assert_eq!(newcomer.base(Window(108), Lag::One), Base::Untold(Window(106)));
    }

    /// A newcomer, and a node that kept less, train from the state that all others train from, or not at all.
    #[test]
    fn who_holds_less_never_trains_from_another_state() {
        let founding = Head::founding(Hash([1; 32]), Hash([2; 32]), Window(100), &[key(1)]);
        // Which of six windows have a final record; when the newcomer takes over.
        for finals in 1u8..64 {
            let mut all = Ledger::new(founding.clone());
            let mut others: Vec<Ledger> = Vec::new();
            for window in 100..106 {
                let next = (finals >> (window - 100) & 1 == 1).then(|| head(window, &[], &[]));
                for ledger in others.iter_mut().chain([&mut all]) {
                    assert!(ledger.tell(Window(window), next.clone()));
                }
                others.extend(next.map(Ledger::resume));
                let mut short = all.clone();
                short.keep(1);
                others.push(short);
                for (lag, window) in [(Lag::Zero, window + 1), (Lag::One, window + 1), (Lag::One, window + 2)] {
                    let base = all.base(Window(window), lag);
                    assert!(matches!(base, Base::Known(_)));
                    for other in &others {
                        let theirs = other.base(Window(window), lag);
                        assert!(theirs == base || theirs == Base::Gone, "{finals:b} {window} {lag:?}: {theirs:?}");
                        assert!(lag == Lag::One || theirs == base, "at lag 0 the newest is enough");
                    }
                }
            }
        }
    }
}
