//! What an honest validator decides: the protocol's functions over what it sees, with one rule broken if that is asked
//! for.

use crate::{
    facts::{self, RUN, apply, delta, reveal, seen},
    setup::{Broken, Setup},
    state::{Delta, Sight},
};
use protocol::{
    Electorate, Head, Peers, Record, Seen, Standing, enter,
    enter::Fault,
    judge::{Verdict, View, judge, wanted},
};
use record::{Hash, Hotkey, Window};
use std::collections::BTreeMap;

/// What one validator looks at in one window.
pub struct Eyes<'a> {
    /// The configuration.
    pub setup: &'a Setup,
    /// Who is there.
    pub peers: &'a Peers,
    /// The last final record.
    pub head: &'a Head,
    /// The window that is decided.
    pub window: Window,
    /// The deltas that it has.
    pub seen: BTreeMap<Hash, Seen>,
}

impl<'a> Eyes<'a> {
    /// With what it fetched.
    pub fn new(
        setup: &'a Setup,
        peers: &'a Peers,
        head: &'a Head,
        window: Window,
        deltas: &[Delta; 2],
        sights: &[Sight; 2],
    ) -> Self {
        let standing = |m: usize, sight: Sight, delta: Delta| match (delta, sight, setup.proven.get(m)) {
            (Delta::Uncommitted, ..) => Standing::Barred(Fault::Uncommitted),
            (Delta::Invalid, ..) => Standing::Barred(Fault::Invalid),
            (Delta::Good, Sight::InTime, Some(true)) => Standing::Due,
            (Delta::Good, ..) => Standing::Allowed,
        };
        let there = sights.iter().zip(deltas).enumerate().filter(|(_, (sight, _))| **sight != Sight::Never);
        let seen = there.map(|(m, (sight, there))| (delta(m), seen(m, standing(m, *sight, *there)))).collect();
        Eyes { setup, peers, head, window, seen }
    }

    fn view(&self) -> View<'_> {
        let (peers, head, seen) = (self.peers, self.head, &self.seen);
        View { run: RUN, window: self.window, reveal: reveal(self.window), peers, head, seen, rules: &self.setup.rules }
    }

    /// The root that it computes with a record's own list, from the state that the record says it follows.
    fn computed(&self, record: &Record) -> Hash {
        let before = if record.prev == RUN { facts::founding().root } else { self.head.root };
        apply(before, &record.accepted)
    }

    /// Its word on a record, under the rules as they are.
    pub fn truth(&self, record: &Record, by: Hotkey) -> Verdict {
        judge(record, by, &self.view(), Some(self.computed(record)))
    }

    /// Its word on a record.
    pub fn judge(&self, record: &Record, by: Hotkey) -> Verdict {
        let computed = Some(self.computed(record));
        match self.setup.broken {
            Some(Broken::NoJudging) => Verdict::Good,
            Some(Broken::NoPrev) => {
                let record = Record { prev: self.head.hash, ..record.clone() };
                judge(&record, by, &self.view(), computed)
            }
            Some(Broken::NoRoot) => judge(record, by, &self.view(), Some(record.root)),
            Some(Broken::NoOmission) => {
                let rules = protocol::Rules { omission: 1.0, ..self.setup.rules };
                judge(record, by, &View { rules: &rules, ..self.view() }, computed)
            }
            Some(Broken::NoCommitments) => {
                let uncommitted = Standing::Barred(Fault::Uncommitted);
                let allowed = |seen: &Seen| match seen.standing == uncommitted {
                    true => Seen { standing: Standing::Allowed, ..*seen },
                    false => *seen,
                };
                let seen = self.seen.iter().map(|(hash, seen)| (*hash, allowed(seen))).collect();
                judge(record, by, &View { seen: &seen, ..self.view() }, computed)
            }
            _ => judge(record, by, &self.view(), computed),
        }
    }

    /// What it fetches for a record's sake.
    pub fn wants(&self, record: &Record, verdict: &Verdict) -> Vec<Hash> {
        wanted(record, verdict, &self.seen)
    }

    /// The record that it proposes.
    pub fn make(&self) -> Record {
        self.record(&enter::choose(&self.seen, self.peers))
    }

    /// A record with these deltas that is otherwise as the rule has it.
    pub fn record(&self, chosen: &BTreeMap<record::Uid, (Hash, Seen)>) -> Record {
        let list = enter::list(chosen, self.peers, self.head.clip, &self.setup.rules);
        Record {
            run: RUN,
            window: self.window,
            prev: self.head.hash,
            reveal: reveal(self.window),
            root: apply(self.head.root, &list.accepted),
            accepted: list.accepted,
            clip: list.clip,
            active: self.head.next_active(&self.setup.rules).unwrap_or_default(),
        }
    }

    /// Whose votes count.
    pub fn electorate(&self) -> Electorate {
        self.head
            .electorate(self.window, self.peers, &self.setup.rules)
            .unwrap_or_else(|| Electorate::new([], self.peers, false))
    }
}
