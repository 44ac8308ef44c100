//! A validator: checks, proposes, judges, votes, follows.

use crate::{
    chain::SLOT,
    dice::mix,
    node::{Asked, Published},
    policy::{Check, Mutation},
    world::{Event, World, hotkey, node_of, root},
};
use protocol::{
    Ballot, Base, Duty, Electorate, Peers, Proposal, Record, Seen, Standing, duty,
    enter::{Fault, choose, list},
    judge::{Lack, Verdict, View},
    propose,
    turn::{Judged, Turn},
    vote, wanted,
};
use record::{Hash, Uid, Window};
use std::rc::Rc;

impl World {
    /// What a validator does now.
    pub fn validate(&mut self, node: usize) {
        let clock = self.scenario.clock;
        loop {
            if !self.nodes[node].up() {
                return;
            }
            let sees = self.settled(self.view(node));
            match duty::validator(&clock, self.scenario.start, sees, &self.nodes[node].done()) {
                Duty::Tally(window) => {
                    if !self.follow(node, window) {
                        return;
                    }
                }
                Duty::Check(window) => self.check(node, window),
                Duty::Vote(window) => {
                    if !self.decide(node, window) {
                        return;
                    }
                }
                Duty::Wait(until) => {
                    self.oracle_waits(node, "validator", sees, until);
                    return self.wake_at_block(node, sees, until);
                }
                other => return self.oracle_odd(node, format!("a validator's duty is {other:?}")),
            }
        }
    }

    /// Begin to fetch a window's deltas; those that a crash left whole are there.
    fn check(&mut self, node: usize, window: Window) {
        self.nodes[node].check(window);
        self.trace.note(self.now, "checks", node, [window.0, 0]);
        self.nodes[node].memory.base = match self.nodes[node].disk.ledger.base(window, self.scenario.clock.lag) {
            Base::Known(head) => Some(head.hash),
            Base::Untold(_) | Base::Gone => None,
        };
        // Without it no delta can be judged: the node sits the window out.
        if self.nodes[node].memory.base.is_none() {
            self.persist(node, |disk| disk.voted = Some(window));
            return;
        }
        if self.nodes[node].disk.files_of == Some(window) {
            for (delta, standing) in std::mem::take(&mut self.nodes[node].disk.files) {
                self.see(node, delta, standing != Standing::Allowed);
            }
        }
        for delta in self.sent.get(&window).cloned().unwrap_or_default() {
            self.ask_delta(node, delta, self.deltas[delta].owner);
        }
    }

    /// Ask a bucket for a delta.
    pub fn ask_delta(&mut self, node: usize, delta: usize, from: usize) {
        let own = from == self.deltas[delta].owner;
        if own && self.deltas[delta].shown >> node & 1 == 0
            || self.nodes[node].memory.seen.contains_key(&self.deltas[delta].hash)
            || self.asks(node, Asked::Delta(delta))
        {
            return;
        }
        let after = self.fetch(node, from).unwrap_or(SLOT) + self.dice.between(0, SLOT);
        self.push(after, node, Event::Delta(delta, from));
    }

    /// Whether a node shows a delta to another.
    fn serves(&self, from: usize, to: usize, delta: usize) -> bool {
        let delta = &self.deltas[delta];
        if from == delta.owner && delta.sent {
            return delta.shown >> to & 1 == 1;
        }
        // An honest validator shows what it has to all.
        delta.held >> from & 1 == 1 && (self.scenario.honest(from) || delta.shown >> to & 1 == 1)
    }

    /// A delta comes, or is asked for once more.
    pub fn delta_comes(&mut self, node: usize, delta: usize, from: usize) {
        let window = self.deltas[delta].window;
        let best = self.view(node).best;
        let moments = self.scenario.clock.moments(window);
        if self.nodes[node].memory.checked != Some(window) || best >= moments.tally {
            return;
        }
        let full = self.nodes[node].troubles.disk_full > 0;
        if full || !self.serves(from, node, delta) || self.fetch(node, from).is_none() {
            // It is asked of its owner, and of all who stand for a record that names it: one who has it is enough.
            let holders = self.deltas[delta].held;
            let others = (0..self.scenario.validators.len()).filter(|bit| holders >> bit & 1 == 1);
            let other = others.filter(|other| self.serves(*other, node, delta)).collect::<Vec<_>>();
            let other = other.into_iter().find(|other| self.fetch(node, *other).is_some());
            let other = other.unwrap_or(self.deltas[delta].owner);
            let after = self.dice.between(SLOT, 2 * SLOT);
            return self.push(after, node, Event::Delta(delta, other));
        }
        self.see(node, delta, best <= moments.deadline);
        if best >= moments.propose {
            self.wake(node, 0);
        }
    }

    /// Look at a delta's bytes, and at what is known of its peer.
    fn see(&mut self, node: usize, id: usize, in_time: bool) {
        let commit = self.scenario.clock.moments(self.deltas[id].window).commit;
        let block = if self.policy.breaks(Mutation::LateCommitments) { self.view(node).best } else { commit };
        let delta = &self.deltas[id];
        let committed = self.chain.entry(delta.owner, block).commitment;
        let age = delta.window.0.saturating_sub(self.scenario.start.0);
        let fate = |node: usize| mix((node as u64) << 32 | delta.owner as u64 | 1 << 50);
        // What an honest validator has found, the others look at again, and find two windows later.
        let found = |node: usize| fate(node) % self.scenario.faulty;
        let known = || {
            let honest = (0..self.scenario.validators.len()).filter(|node| self.scenario.honest(*node));
            honest.map(found).min().map_or(u64::MAX, |first| first + 2)
        };
        let standing = if committed != Some((delta.window, delta.commitment)) {
            Standing::Barred(Fault::Uncommitted)
        } else if !delta.valid || Some(delta.base) != self.nodes[node].memory.base {
            Standing::Barred(Fault::Invalid)
        } else if delta.cheat && age >= found(node).min(known()) {
            Standing::Barred(Fault::Audit)
        } else if (in_time || self.policy.breaks(Mutation::LateIsDue)) && age >= fate(node) % 3 {
            Standing::Due
        } else {
            Standing::Allowed
        };
        let seen = Seen { uid: Uid(delta.owner as u16), hotkey: hotkey(delta.owner), norm: delta.norm, standing };
        let hash = delta.hash;
        self.deltas[id].held |= 1 << node;
        // What is fetched again after a crash may be late now.
        self.deltas[id].due &= !(1 << node);
        if standing == Standing::Due {
            self.deltas[id].due |= 1 << node;
        }
        let memory = &mut self.nodes[node].memory;
        memory.seen.insert(hash, seen);
        memory.stale = true;
        self.trace.note(self.now, "sees", node, [id as u64, u64::from(standing == Standing::Due)]);
    }

    /// Who votes on a window, as a node knows it.
    fn electorate(&mut self, node: usize, window: Window) -> Option<Rc<Electorate>> {
        if let Some(known) = &self.nodes[node].memory.electorate {
            return Some(Rc::clone(known));
        }
        let peers = self.peers_at(window);
        let head = self.nodes[node].disk.ledger.before(window)?;
        let electorate = self.policy.electorate(head, &self.founding, window, &peers, &self.scenario.rules)?;
        let electorate = Rc::new(electorate);
        self.nodes[node].memory.electorate = Some(Rc::clone(&electorate));
        Some(electorate)
    }

    /// The blocks that bound a window's decision.
    pub fn turn(&self, window: Window) -> Turn {
        Turn::of(&self.scenario.clock, window, self.scenario.inclusion)
    }

    /// Propose, judge, vote. True once the window needs nothing more of this node.
    fn decide(&mut self, node: usize, window: Window) -> bool {
        let best = self.view(node).best;
        if self.nodes[node].memory.checked != Some(window) {
            self.check(node, window);
        }
        let turn = self.turn(window);
        self.poll(node, window);
        // At the last call all look at the same block.
        let late = best >= turn.last_call;
        let at = if late { turn.last_call.saturating_sub(self.scenario.finality + 1) } else { best };
        let votes = self.votes_at(window, at);
        if best > turn.last_call {
            return self.last_word(node, window, &votes);
        }
        if self.nodes[node].disk.ledger.base(window, self.scenario.clock.lag) == Base::Gone {
            // It cannot know which deltas were trained from the right state; all that it has to say is that it is there.
            self.wake(node, SLOT);
            return false;
        }
        self.ask_voted(node, window, &votes);
        self.judge(node, window);
        if let Some(lie) = self.scenario.validators.get(node).and_then(|validator| validator.lie) {
            self.lie(node, window, lie, best);
            return false;
        }
        let Some(electorate) = self.electorate(node, window) else {
            self.wake(node, SLOT);
            return false;
        };
        let peers = self.peers_at(window);
        let memory = &self.nodes[node].memory;
        let listable = choose(&memory.seen, &peers).len();
        let mut turn_to_propose = turn;
        if self.policy.breaks(Mutation::OutOfTurn) {
            turn_to_propose.grace = 0;
        }
        if self.policy.breaks(Mutation::OneTurn) {
            turn_to_propose.again = turn.last_call;
        }
        match propose(hotkey(node), best, &turn_to_propose, &electorate, (&votes, &memory.judged), listable) {
            Proposal::Make if !memory.making => {
                self.nodes[node].memory.making = true;
                self.oracle_turn(node, window, best);
                let after = self.dice.between(2, 20);
                self.push(after, node, Event::Made(window));
            }
            Proposal::Wait(until) => {
                self.oracle_waits(node, "proposal", best, until);
                self.wake_at_block(node, best, until);
            }
            _ => {}
        }
        self.ballot(node, window, &electorate, &votes);
        false
    }

    fn ballot(&mut self, node: usize, window: Window, electorate: &Electorate, votes: &protocol::tally::Votes) {
        let best = self.view(node).best;
        let turn = self.turn(window);
        let own = self.nodes[node].disk.entry.vote.filter(|(of, _)| *of == window).map(|(_, record)| record);
        let mut judged = std::borrow::Cow::Borrowed(&self.nodes[node].memory.judged);
        if self.policy.breaks(Mutation::MostStake) {
            judged.to_mut().iter_mut().for_each(|judged| judged.listed = 0);
        }
        let at = if self.policy.breaks(Mutation::Restless) && own.is_some() { best.max(turn.last_call) } else { best };
        match vote(at, &turn, own, electorate, votes, &judged) {
            Ballot::Cast(record) => self.cast(node, window, record),
            Ballot::Keep(until) | Ballot::Wait(until) => {
                self.oracle_waits(node, "ballot", best, until.max(best + 1));
                self.wake_at_block(node, best, until.max(best + 1));
            }
            Ballot::Show | Ballot::Late => self.wake(node, SLOT),
        }
    }

    /// The time to vote is over: who had nothing to vote for shows that it is there.
    fn last_word(&mut self, node: usize, window: Window, votes: &protocol::tally::Votes) -> bool {
        let best = self.view(node).best;
        let own = self.nodes[node].disk.entry.vote.filter(|(of, _)| *of == window).map(|(_, record)| record);
        let nobody = Electorate::new([], &Peers::default(), false);
        let shows = matches!(vote(best, &self.turn(window), own, &nobody, votes, &[]), Ballot::Show);
        if !self.persist(node, |disk| disk.voted = Some(window)) {
            self.retry(node);
            return false;
        }
        if shows && !self.policy.breaks(Mutation::NoShow) {
            self.trace.note(self.now, "shows", node, [window.0, best]);
            self.send(node, best);
        }
        true
    }

    /// Vote for a record: write it down, show it and what it names, send the vote.
    pub fn cast(&mut self, node: usize, window: Window, hash: Hash) {
        let record = self.by_hash.get(&hash).copied();
        if let Some(record) = record.filter(|_| self.scenario.honest(node)) {
            self.oracle_votes(node, window, record);
        }
        let restless = self.policy.breaks(Mutation::Restless);
        let last = self.view(node).best >= self.turn(window).last_call;
        let written = self.persist(node, |disk| {
            disk.entry.vote = Some((window, hash));
            // It moves once.
            if last && !restless {
                disk.voted = Some(window);
            }
            if let Some(record) = record {
                disk.keep(record);
            }
        });
        if !written {
            return self.retry(node);
        }
        if let Some(record) = record {
            self.records[record].holders |= 1 << node;
        }
        self.trace.note(self.now, "votes", node, [window.0, record.map_or(u64::MAX, |record| record as u64)]);
        let best = self.view(node).best;
        self.send(node, best);
        self.wake(node, SLOT);
    }

    /// Look again a slot later, if there is a later.
    pub fn retry(&mut self, node: usize) {
        if self.nodes[node].up() {
            self.wake(node, SLOT);
        }
    }

    /// Look once for proposals that came before this node was there.
    fn poll(&mut self, node: usize, window: Window) {
        if std::mem::replace(&mut self.nodes[node].memory.polled, true) {
            return;
        }
        if let Some((of, record)) = self.nodes[node].disk.proposal
            && of == window
        {
            // It may have died between writing its proposal down and showing it.
            self.propose(node, window, record, node, u32::MAX);
        }
        for all in self.published.get(&window).cloned().unwrap_or_default() {
            if all.shown >> node & 1 == 1 && all.bucket != node {
                let after = self.dice.between(1, SLOT);
                self.push(after, node, Event::Proposal(window, all.record, all.by, all.bucket));
            }
        }
    }

    /// Fetch what others vote for and this node has not seen.
    fn ask_voted(&mut self, node: usize, window: Window, votes: &protocol::tally::Votes) {
        for (voter, hash) in votes {
            let Some(record) = self.by_hash.get(hash).copied() else { continue };
            if self.nodes[node].memory.records.contains(&record) || self.asks(node, Asked::Record(record)) {
                continue;
            }
            let Some(voter) = node_of(*voter) else { continue };
            let by = self.records[record].signers[0];
            let after = self.dice.between(1, SLOT);
            self.push(after, node, Event::Proposal(window, record, by, voter));
        }
    }

    /// A proposal comes, or is asked for once more.
    pub fn proposal_comes(&mut self, node: usize, proposal: (Window, usize, usize), from: usize) {
        let (window, record, by) = proposal;
        let best = self.view(node).best;
        if self.nodes[node].memory.checked != Some(window) || best > self.turn(window).last_call {
            return;
        }
        let there = self.records[record].holders >> from & 1 == 1;
        if !there || self.nodes[node].troubles.disk_full > 0 || self.fetch(node, from).is_none() {
            let after = self.dice.between(SLOT, 2 * SLOT);
            return self.push(after, node, Event::Proposal(window, record, by, from));
        }
        let stranger = |of: &Judged| node_of(of.by).is_none_or(|of| !self.validates(of));
        let strangers = self.nodes[node].memory.judged.iter().filter(|judged| stranger(judged)).count();
        let full = strangers >= 2 && !self.validates(by);
        let memory = &mut self.nodes[node].memory;
        let known = memory
            .judged
            .iter()
            .zip(&memory.records)
            .any(|(judged, known)| *known == record && judged.by == hotkey(by));
        // Two of each signer: more than one shows already that it lies. Two of all who have no vote.
        let of_signer = memory.judged.iter().filter(|judged| judged.by == hotkey(by)).count();
        if known || of_signer >= 2 || full {
            return;
        }
        let verdict = Verdict::Lacks(Lack::State);
        let listed = self.records[record].record.accepted.len();
        memory.judged.push(Judged { record: self.records[record].hash, by: hotkey(by), listed, verdict });
        memory.records.push(record);
        memory.stale = true;
        self.trace.note(self.now, "reads", node, [record as u64, by as u64]);
        self.oracle_bounds(node);
        self.wake(node, 0);
    }

    /// Judge what is not judged for good.
    fn judge(&mut self, node: usize, window: Window) {
        if !std::mem::take(&mut self.nodes[node].memory.stale) {
            return;
        }
        let peers = self.peers_at(window);
        let draw = self.scenario.clock.moments(window).draw;
        let Some(reveal) = self.chain.hash(draw) else { return };
        let Some(head) = self.nodes[node].disk.ledger.before(window).cloned() else { return };
        let mut judged = std::mem::take(&mut self.nodes[node].memory.judged);
        let mut wants = Vec::new();
        for (judged, record) in judged.iter_mut().zip(&self.nodes[node].memory.records) {
            if !matches!(judged.verdict, Verdict::Lacks(_)) {
                continue;
            }
            let view = View {
                run: self.run,
                window,
                reveal,
                peers: &peers,
                head: &head,
                seen: &self.nodes[node].memory.seen,
                rules: &self.scenario.rules,
            };
            let computed = self.nodes[node].memory.roots.get(record).copied();
            judged.verdict = self.policy.judge(&self.records[*record].record, judged.by, &view, computed);
            let deltas = wanted(&self.records[*record].record, &judged.verdict, view.seen);
            let state = judged.verdict == Verdict::Lacks(Lack::State);
            if state || !deltas.is_empty() {
                wants.push((*record, judged.by, deltas, state));
            }
            let word = match &judged.verdict {
                Verdict::Good => 0,
                // 10 and the place of the first reason in its list.
                Verdict::Bad(reasons) => 10 + reasons.first().map_or(0, |reason| Check::of(reason) as u64),
                Verdict::Lacks(Lack::Votes) => 1,
                Verdict::Lacks(Lack::State) => 2,
                Verdict::Lacks(Lack::Deltas(deltas)) => 1000 + deltas.len() as u64,
            };
            self.trace.note(self.now, "judges", node, [*record as u64, word]);
        }
        self.nodes[node].memory.judged = judged;
        for (record, by, deltas, state) in wants {
            let from = node_of(by).filter(|by| self.validates(*by));
            for delta in deltas.iter().filter_map(|hash| self.delta_of(hash)).collect::<Vec<_>>() {
                self.ask_delta(node, delta, from.unwrap_or(self.deltas[delta].owner));
            }
            if state && !self.asks(node, Asked::State(record)) {
                let after = self.dice.between(2, 20);
                self.push(after, node, Event::State(window, record));
            }
        }
    }

    /// A node has applied a record's list to the state that it has.
    pub fn state_computed(&mut self, node: usize, window: Window, record: usize) {
        if self.nodes[node].memory.checked != Some(window) {
            return;
        }
        let Some(head) = self.nodes[node].disk.ledger.before(window) else { return };
        let root = root(head.root, &self.records[record].record);
        let memory = &mut self.nodes[node].memory;
        memory.roots.insert(record, root);
        memory.stale = true;
        self.wake(node, 0);
    }

    /// What a node proposes for a window, as the rules have it.
    pub fn honest_record(&mut self, node: usize, window: Window) -> Option<Record> {
        let peers = self.peers_at(window);
        let reveal = self.chain.hash(self.scenario.clock.moments(window).draw)?;
        let rules = self.scenario.rules;
        let it = &self.nodes[node];
        let head = it.disk.ledger.before(window)?;
        let active = self.policy.next_active(head, &self.founding, &rules)?;
        let list = list(&choose(&it.memory.seen, &peers), &peers, head.clip, &rules);
        let mut record = Record {
            run: self.run,
            window,
            prev: head.hash,
            reveal,
            accepted: list.accepted,
            clip: list.clip,
            root: Hash([0; 32]),
            active,
        };
        record.root = root(head.root, &record);
        Some(record)
    }

    /// A proposal is made: write it down, show it.
    pub fn proposal_made(&mut self, node: usize, window: Window) {
        let best = self.view(node).best;
        if self.nodes[node].memory.checked != Some(window) || best > self.turn(window).last_call {
            return;
        }
        if let Some(lie) = self.scenario.validators.get(node).and_then(|validator| validator.lie) {
            return self.lie_is_made(node, window, lie);
        }
        self.nodes[node].memory.making = false;
        let Some(record) = self.honest_record(node, window) else { return };
        let id = self.new_record(record, node);
        self.oracle_proposes(node, window, id);
        let written = self.persist(node, |disk| {
            disk.proposal = Some((window, id));
            disk.keep(id);
        });
        if written {
            self.propose(node, window, id, node, u32::MAX);
        } else {
            self.retry(node);
        }
    }

    /// Show a proposal in a bucket, and vote on it like all others.
    pub fn propose(&mut self, node: usize, window: Window, record: usize, by: usize, shown: u32) {
        self.trace.note(self.now, "proposes", node, [window.0, record as u64]);
        self.records[record].holders |= 1 << node;
        let published = self.published.entry(window).or_default();
        if !published.iter().any(|other| (other.record, other.by, other.bucket) == (record, by, node)) {
            published.push(Published { window, record, by, bucket: node, shown });
            for other in 0..self.scenario.validators.len() {
                if other != node && shown >> other & 1 == 1 && self.nodes[other].up() {
                    let after = self.dice.between(1, SLOT) + self.fetch(other, node).unwrap_or(SLOT);
                    self.push(after, other, Event::Proposal(window, record, by, node));
                }
            }
        }
        let hash = self.records[record].hash;
        let memory = &mut self.nodes[node].memory;
        let listed = self.records[record].record.accepted.len();
        memory.judged.push(Judged { record: hash, by: hotkey(by), listed, verdict: Verdict::Good });
        memory.records.push(record);
        self.wake(node, 0);
    }
}
