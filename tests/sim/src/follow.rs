//! What all nodes do: read the outcome of each window, and follow what is final; or begin anew with what others hold for final.

use crate::{
    chain::{MEMORY, SLOT, View},
    node::{Asked, HEADS},
    policy::Mutation,
    world::{Event, World, hotkey},
};
use protocol::{Head, Ledger, Outcome, tally::newest};
use record::{Hash, Hotkey, Window};
use std::collections::BTreeMap;

impl World {
    /// The block at which a node looks at outcomes.
    pub fn settled(&self, view: View) -> u64 {
        if self.policy.breaks(Mutation::EarlyTally) { view.best } else { view.fin }
    }

    /// Follow the outcomes up to a window's. False while something for that is missing: the node looks again a slot later.
    pub fn follow(&mut self, node: usize, until: Window) -> bool {
        let done = self.follows(node, until);
        if !done && self.nodes[node].up() {
            let jitter = self.dice.between(0, 3);
            self.wake(node, SLOT + jitter);
        }
        done
    }

    fn follows(&mut self, node: usize, until: Window) -> bool {
        loop {
            let window = Window(self.nodes[node].disk.ledger.tallied().0 + 1);
            if window > until {
                return self.persist(node, |disk| disk.tallied = Some(until));
            }
            let block = self.scenario.clock.moments(window).tally;
            let sees = self.settled(self.view(node));
            // Where everybody was away for as long, nobody is there to say what is final: an archive of the chain is asked.
            if block + MEMORY < sees && self.newest(sees).is_some() {
                return self.rejoin(node, sees);
            }
            let rules = self.scenario.rules;
            let peers = self.peers_at(window);
            let Some(head) = self.nodes[node].disk.ledger.newest() else { return false };
            let Some(electorate) = self.policy.electorate(head, &self.founding, window, &peers, &rules) else {
                return self.rejoin(node, sees);
            };
            let votes = if self.policy.breaks(Mutation::EarlyTally) {
                std::rc::Rc::new(self.votes_at(window, block))
            } else {
                self.final_votes(window)
            };
            let head = match self.policy.tally(&electorate, &votes) {
                Outcome::None => None,
                Outcome::Final(record) => {
                    let Some(id) = self.read(node, record) else { return false };
                    let mut head = Head::after(&self.records[id].record, record, &votes, &electorate, &peers);
                    if self.policy.breaks(Mutation::OutvotedOut) {
                        head.others.clear();
                    }
                    Some((id, head))
                }
            };
            let hash = head.as_ref().map(|(_, head)| head.hash);
            let told = self.persist(node, |disk| {
                if let Some((id, _)) = &head {
                    disk.keep(*id);
                }
                disk.ledger.tell(window, head.map(|(_, head)| head));
                disk.ledger.keep(HEADS);
                disk.tallied = Some(window);
            });
            if self.nodes[node].disk.ledger.tallied() >= window {
                self.oracle_told(node, window, hash);
            }
            if !told {
                return false;
            }
            self.trace.note(self.now, "tallied", node, [window.0, u64::from(hash.is_some())]);
            self.nodes[node].memory.fetched.clear();
        }
    }

    /// The number of a record that the node has; what it has not, it asks for.
    fn read(&mut self, node: usize, hash: Hash) -> Option<usize> {
        // What nobody has made can nobody send.
        let id = *self.by_hash.get(&hash)?;
        if self.nodes[node].holds(id) {
            return Some(id);
        }
        let holders = self.records[id].holders;
        let count = u64::from(holders.count_ones());
        let chosen = self.dice.below(count);
        let holder = (0..32).filter(|bit| holders >> bit & 1 == 1).nth(chosen as usize)?;
        if !self.asks(node, Asked::Final(id)) {
            match self.fetch(node, holder) {
                Some(after) => self.push(after, node, Event::Record(id, holder)),
                None => {
                    self.nodes[node].memory.asked.remove(&Asked::Final(id));
                }
            }
        }
        None
    }

    /// A final record has come, unless its bucket went down meanwhile.
    pub fn record_comes(&mut self, node: usize, record: usize, from: usize) {
        self.nodes[node].memory.asked.remove(&Asked::Final(record));
        if self.nodes[node].troubles.disk_full == 0 && self.fetch(node, from).is_some() {
            self.nodes[node].memory.fetched.push(record);
        }
        self.wake(node, 0);
    }

    /// The newest record that those who are there hold for final.
    fn newest(&mut self, sees: u64) -> Option<Hash> {
        let window = self.scenario.clock.window_at(sees);
        let peers = self.peers_at(window);
        let held: BTreeMap<Hotkey, Hash> = (0..self.scenario.validators.len())
            .filter_map(|node| Some((hotkey(node), self.chain.entry(node, sees).last?)))
            .collect();
        if self.policy.breaks(Mutation::TrustOne) {
            return held.values().next_back().copied();
        }
        let mut rules = self.scenario.rules;
        if self.policy.breaks(Mutation::HearDead) {
            rules.open_windows = u64::MAX;
        }
        newest(&peers, window, &held, &rules)
    }

    /// Begin with the newest record that the others hold for final.
    fn rejoin(&mut self, node: usize, sees: u64) -> bool {
        let found = self.newest(sees);
        let Some(hash) = found.filter(|hash| *hash != self.run) else { return false };
        let Some(id) = self.read(node, hash) else { return false };
        let record = std::rc::Rc::clone(&self.records[id].record);
        let ours = self.nodes[node].disk.ledger.newest();
        if ours.is_some_and(|head| head.window >= record.window && head.voters.is_some()) {
            return false;
        }
        // Its voters stand on the chain while its tally is remembered, and who voted follows from the record before.
        let tally = self.scenario.clock.moments(record.window).tally;
        let before = match self.by_hash.get(&record.prev) {
            Some(_) => match self.read(node, record.prev) {
                Some(before) => Some(self.records[before].record.window),
                None => return false,
            },
            None => (record.prev == self.run).then_some(self.founding.window),
        };
        let known = before.filter(|_| tally + MEMORY >= sees && tally <= sees);
        let then = self.peers_at(record.window);
        let votes = self.final_votes(record.window);
        let decided = known.map(|before| (before, &*votes));
        let head = Head::taken_over(&record, hash, decided, &then, &self.scenario.rules);
        self.trace.note(self.now, "rejoins", node, [record.window.0, u64::from(head.voters.is_some())]);
        self.oracle_took(node, record.window, hash);
        if ours_same(&self.nodes[node].disk.ledger, &head) {
            return false;
        }
        let mut ledger = Some(Ledger::resume(head));
        let taken = self.persist(node, |disk| {
            if let Some(ledger) = ledger.take() {
                disk.tallied = Some(ledger.tallied());
                disk.ledger = ledger;
            }
            disk.keep(id);
        });
        if taken {
            self.nodes[node].memory.fetched.clear();
            self.wake(node, 0);
        }
        false
    }
}

fn ours_same(ledger: &Ledger, head: &Head) -> bool {
    ledger.newest() == Some(head)
}
