//! A miner: trains, commits, sends, follows.

use crate::{
    chain::SLOT,
    dice::{mix, name},
    node::Delta,
    policy::Mutation,
    scenario::Trick,
    world::{Event, World},
};
use protocol::{Base, Duty, duty};
use record::{Hash, Window};

/// The commitment that stands for a delta.
fn commitment(node: usize, window: Window, salt: u64) -> Hash {
    Hash(name(4, mix(window.0 << 20 ^ (node as u64) << 4 ^ salt)))
}

impl World {
    /// How a miner behaves.
    pub fn trick(&self, node: usize) -> Trick {
        let miner = node.checked_sub(self.scenario.validators.len());
        miner.and_then(|miner| self.scenario.miners.get(miner)).copied().unwrap_or(Trick::Honest)
    }

    /// What a miner does now.
    pub fn mine(&mut self, node: usize) {
        let clock = self.scenario.clock;
        loop {
            let view = self.view(node);
            let sees = self.settled(view);
            let duty = duty::trainer(&clock, self.scenario.start, sees, &self.nodes[node].done());
            match duty {
                Duty::Tally(window) => {
                    if !self.follow(node, window) {
                        break;
                    }
                }
                Duty::Train(window) => {
                    if !self.train(node, window, view.best) {
                        self.wake(node, SLOT);
                        break;
                    }
                }
                Duty::Wait(until) => {
                    self.oracle_waits(node, "trainer", sees, until);
                    self.wake_at_block(node, sees, until);
                    break;
                }
                other => {
                    self.oracle_odd(node, format!("a trainer's duty is {other:?}"));
                    break;
                }
            }
        }
        if !self.nodes[node].up() {
            return;
        }
        let view = self.view(node);
        match duty::sender(&clock, view.fin, &self.nodes[node].done()) {
            Duty::Send(window) => self.sends(node, window),
            Duty::Wait(until) => {
                self.oracle_waits(node, "sender", view.fin, until);
                if self.nodes[node].memory.sending.is_none() && !self.nodes[node].disk.unsent.is_empty() {
                    self.wake_at_block(node, view.fin, until);
                }
            }
            other => self.oracle_odd(node, format!("a sender's duty is {other:?}")),
        }
    }

    /// Train, if the window's state is known.
    fn train(&mut self, node: usize, window: Window, best: u64) -> bool {
        let Base::Known(_) = self.nodes[node].disk.ledger.base(window, self.scenario.clock.lag) else { return false };
        self.nodes[node].memory.training = Some(window);
        let end = self.scenario.clock.moments(window).end;
        let seconds = end.saturating_sub(best) * SLOT;
        // Steps end shortly before the window does.
        let spare = self.dice.between(0, 4 * SLOT);
        self.push(seconds.saturating_sub(spare).max(1), node, Event::Trained(window));
        true
    }

    /// A miner has trained: it keeps its delta, and commits to it.
    pub fn trained(&mut self, node: usize, window: Window) {
        let view = self.view(node);
        let base = self.base_of(node, window);
        let Some(base) = base else { return };
        self.oracle_trains(node, window, base);
        let trick = self.trick(node);
        let huge = if trick == Trick::Huge { 1000.0 } else { 1.0 };
        let norm = huge * (500 + self.dice.below(1000)) as f64 / 1000.0;
        let delta = Delta {
            hash: Hash([0; 32]),
            owner: node,
            window,
            commitment: commitment(node, window, 0),
            base,
            valid: trick != Trick::Invalid,
            norm,
            cheat: trick == Trick::Cheats,
            shown: if let Trick::Withholds(mask) = trick { mask } else { u32::MAX },
            held: 0,
            due: 0,
            sent: false,
        };
        let told = delta.commitment;
        let id = match trick {
            Trick::TwoFiles => {
                let id = self.new_delta(Delta { shown: 0x5555_5555, ..delta.clone() });
                self.new_delta(Delta { shown: 0xaaaa_aaaa, ..delta });
                id
            }
            Trick::OtherDelta => self.new_delta(Delta { commitment: commitment(node, window, 1), ..delta }),
            _ => self.new_delta(delta),
        };
        // Who cannot write to its bucket would commit to what it cannot send.
        let cut_off = self.nodes[node].troubles.bucket_down > 0 || self.nodes[node].troubles.no_buckets > 0;
        let entry = if trick == Trick::NoCommitment || cut_off { None } else { Some((window, told)) };
        let kept = self.persist(node, |disk| {
            disk.unsent.insert(window, id);
            disk.committed = Some(window);
            if entry.is_some() {
                disk.entry.commitment = entry;
            }
        });
        if !kept {
            if self.nodes[node].up() {
                self.push(SLOT, node, Event::Trained(window));
            }
            return;
        }
        self.nodes[node].memory.training = None;
        self.trace.note(self.now, "trained", node, [window.0, id as u64]);
        if entry.is_some() {
            self.send(node, view.best);
        }
        self.wake(node, 0);
    }

    fn base_of(&self, node: usize, window: Window) -> Option<Hash> {
        let ledger = &self.nodes[node].disk.ledger;
        if self.trick(node) == Trick::OldBase {
            return Some(self.run);
        }
        if self.policy.breaks(Mutation::OwnBase) {
            // What was proposed last, for whatever window.
            let newest = self.published.values().next_back().and_then(|all| all.last());
            return newest.map(|newest| self.records[newest.record].hash).or(Some(self.run));
        }
        match ledger.base(window, self.scenario.clock.lag) {
            Base::Known(head) => Some(head.hash),
            Base::Untold(_) | Base::Gone => None,
        }
    }

    fn sends(&mut self, node: usize, window: Window) {
        if self.nodes[node].memory.sending == Some(window) {
            return;
        }
        self.nodes[node].memory.sending = Some(window);
        let slow = self.nodes[node].troubles.bucket_slow > 0;
        let late = if self.trick(node) == Trick::Late { 10 * SLOT } else { 0 };
        let seconds = self.dice.between(3, 20) + if slow { self.dice.between(30, 200) } else { 0 };
        let late = if late > 0 { self.dice.below(late) } else { 0 };
        self.push(seconds + late, node, Event::Sent(window));
    }

    /// A delta is in its bucket, unless that is down; then it is tried again as long as it is of use.
    pub fn has_sent(&mut self, node: usize, window: Window) {
        let Some(id) = self.nodes[node].disk.unsent.get(&window).copied() else { return };
        let reached = self.nodes[node].troubles.bucket_down == 0 && self.nodes[node].troubles.no_buckets == 0;
        let tally = self.scenario.clock.moments(window).tally;
        let over = self.view(node).best >= tally;
        if !reached && !over {
            let after = self.dice.between(SLOT, 2 * SLOT);
            return self.push(after, node, Event::Sent(window));
        }
        let noted = self.persist(node, |disk| {
            disk.unsent.remove(&window);
        });
        if !noted && self.nodes[node].up() {
            return self.push(SLOT, node, Event::Sent(window));
        }
        // It lies in the bucket before its sender writes that down.
        if reached {
            let files = (id..self.deltas.len().min(id + 2)).filter(|file| self.same_work(id, *file));
            for file in files.collect::<Vec<_>>() {
                self.show(file);
            }
            self.trace.note(self.now, "sent", node, [window.0, id as u64]);
        }
        if self.nodes[node].up() {
            self.nodes[node].memory.sending = None;
            self.wake(node, 0);
        }
    }

    fn same_work(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.deltas[one], &self.deltas[other]);
        one.owner == other.owner && one.window == other.window
    }

    /// A delta lies in its owner's bucket: validators that look at its window come to see it.
    fn show(&mut self, delta: usize) {
        if std::mem::replace(&mut self.deltas[delta].sent, true) {
            return;
        }
        let (window, owner) = (self.deltas[delta].window, self.deltas[delta].owner);
        self.sent.entry(window).or_default().push(delta);
        for validator in 0..self.scenario.validators.len() {
            if self.nodes[validator].up() && self.nodes[validator].memory.checked == Some(window) {
                self.ask_delta(validator, delta, owner);
            }
        }
    }
}
