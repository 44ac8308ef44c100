//! What is true, whatever nodes think: a second, plain account of the rules, which uses no function of `lib/protocol`, and the
//! invariants that hold after every event.

use crate::{
    node::RECORDS,
    scenario::Scenario,
    world::{World, hotkey, node_of, root},
};
use protocol::{Head, Lag, Record};
use record::{Hash, Window};
use std::collections::BTreeMap;

/// An invariant that was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// The window that was decided.
    pub window: Window,
    /// The second.
    pub second: u64,
    /// How many things had happened.
    pub event: u64,
    /// What is wrong, on which node.
    pub what: String,
}

/// What holds after every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// All honest nodes that know how a window ended know the same.
    OneRecord,
    /// A final record leaves out no more than the stated share of what honest voters had in time.
    NothingLeftOut,
    /// What is final, and what honest validators vote for, is what the rules make of committed and good deltas.
    Right,
    /// Liars do not come to hold half of the stake that counts.
    HonestMajority,
    /// After faults end all honest nodes come to a new final record in time.
    GoesOn,
    /// Every wait ends, later than now and within a stated time; every duty is one of its role.
    Ends,
    /// What a node keeps is bounded.
    Bounded,
    /// Honest validators propose in turn, and vote in time, and at most twice.
    InTurn,
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Windows whose outcome is known.
    pub windows: u64,
    /// Those with a final record.
    pub finals: u64,
    /// Deltas of honest miners that were committed to.
    pub committed: u64,
    /// Those of them that entered.
    pub entered: u64,
}

/// A final record, and who decided on it.
#[derive(Clone, Debug)]
struct True {
    hash: Hash,
    root: Hash,
    clip: Option<f64>,
    active: BTreeMap<usize, u32>,
    voters: Vec<usize>,
    others: Vec<usize>,
}

/// The true course of a run.
pub struct Oracle {
    heads: BTreeMap<u64, True>,
    outcomes: BTreeMap<u64, Option<Hash>>,
    early: Vec<(usize, Window, Option<Hash>)>,
    next: u64,
    cast: BTreeMap<(usize, u64), Vec<usize>>,
    calm: Option<u64>,
    looked: bool,
    /// What was counted.
    pub counts: Counts,
    /// The first invariant that was broken.
    pub broken: Option<Violation>,
}

/// Who decides on a window.
struct Deciders {
    stakes: BTreeMap<usize, u64>,
    open: bool,
}

impl Oracle {
    /// Before the first window.
    pub fn new(scenario: &Scenario, founding: &Head) -> Self {
        let mut founders = scenario.founders.clone();
        founders.sort_unstable();
        let first = True {
            hash: founding.hash,
            root: founding.root,
            clip: None,
            active: founders.iter().map(|node| (*node, 0)).collect(),
            voters: founders,
            others: Vec::new(),
        };
        Oracle {
            heads: BTreeMap::from([(scenario.start.0 - 1, first)]),
            outcomes: BTreeMap::new(),
            early: Vec::new(),
            next: scenario.start.0,
            cast: BTreeMap::new(),
            calm: None,
            looked: false,
            counts: Counts::default(),
            broken: None,
        }
    }

    /// The hash and the state of some head that is older than a window's.
    pub fn old_head(&self, window: Window, draw: u64) -> (Hash, Hash) {
        let older: Vec<_> = self.heads.range(..window.0).map(|(_, head)| head).collect();
        let count = older.len().saturating_sub(1).max(1);
        older.get((draw % count as u64) as usize).map_or((Hash([0; 32]), Hash([0; 32])), |head| (head.hash, head.root))
    }

    fn before(&self, window: u64) -> Option<(u64, &True)> {
        self.heads.range(..window).next_back().map(|(window, head)| (*window, head))
    }
}

impl World {
    fn breaks(&mut self, invariant: Invariant, window: Window, what: String) {
        let (second, event) = (self.now, self.trace.events());
        self.oracle.broken.get_or_insert(Violation { invariant, window, second, event, what });
    }

    fn last_block(&self, window: u64) -> u64 {
        (window + 1) * self.scenario.clock.blocks - 1
    }

    /// After each slot.
    pub fn look_on(&mut self) {
        while self.chain.finalized() >= self.last_block(self.oracle.next) + self.scenario.clock.tally {
            self.decided(self.oracle.next);
            self.oracle.next += 1;
        }
        if self.oracle.calm.is_none() && self.now >= self.scenario.calm_at() {
            self.oracle.calm = Some(self.chain.best() / self.scenario.clock.blocks);
        }
        if let Some(calm) = self.oracle.calm
            && !self.oracle.looked
            && self.chain.finalized() > self.last_block(calm + self.scenario.bound())
        {
            self.oracle.looked = true;
            for node in 0..self.nodes.len() {
                let newest = self.nodes[node].disk.ledger.newest().map(|head| head.window.0);
                if self.scenario.honest(node) && !self.nodes[node].troubles.dead && newest <= Some(calm) {
                    let bound = self.scenario.bound();
                    let what =
                        format!("{bound} windows after faults ended in {calm}, node {node} stands at {newest:?}");
                    self.breaks(Invariant::GoesOn, Window(calm + bound), what);
                }
            }
        }
    }

    /// Whose votes count after a record: who voted for it, and who did lately.
    fn true_active(&self, head: &True) -> BTreeMap<usize, u32> {
        let mut active: BTreeMap<usize, u32> = BTreeMap::new();
        let lately = head.active.iter().filter(|(_, missed)| **missed < self.scenario.rules.inactive_records);
        active.extend(lately.map(|(node, missed)| (*node, missed + 1)));
        active.extend(head.active.keys().filter(|node| head.others.contains(node)).map(|node| (*node, 0)));
        active.extend(head.voters.iter().map(|node| (*node, 0)));
        active
    }

    fn deciders(&self, window: u64) -> Deciders {
        let stake = |node: usize| self.scenario.validators.get(node).map_or(0, |validator| validator.stake);
        let Some((since_head, head)) = self.oracle.before(window) else {
            return Deciders { stakes: BTreeMap::new(), open: true };
        };
        let active = self.true_active(head).into_keys();
        let stakes: BTreeMap<usize, u64> = active.map(|node| (node, stake(node))).filter(|(_, s)| *s > 0).collect();
        if window - since_head > self.scenario.rules.open_windows || stakes.is_empty() {
            // Those whose entry was put in one of the last windows; if there are none, all.
            let blocks = self.scenario.clock.blocks;
            let since = window.saturating_sub(self.scenario.rules.open_windows) * blocks;
            let there = |node: &usize| self.chain.put_at(*node, window * blocks).is_some_and(|put| put >= since);
            let all = || (0..self.scenario.validators.len()).filter(|node| stake(*node) > 0);
            let silent = window - since_head > self.scenario.rules.open_windows;
            let mut present: Vec<usize> = all().filter(there).collect();
            if present.is_empty() || !silent {
                present = all().collect();
            }
            return Deciders { stakes: present.into_iter().map(|node| (node, stake(node))).collect(), open: true };
        }
        Deciders { stakes, open: false }
    }

    /// A window's tally block is final: this is how it ended.
    fn decided(&mut self, window: u64) {
        let block = self.last_block(window) + self.scenario.clock.tally;
        let deciders = self.deciders(window);
        let vote = |node: usize| {
            let vote = self.chain.entry(node, block).vote;
            vote.filter(|(of, _)| of.0 == window).map(|(_, hash)| hash)
        };
        let mut support: BTreeMap<Hash, u128> = BTreeMap::new();
        let (mut total, mut lying) = (0u128, 0u128);
        for (node, stake) in &deciders.stakes {
            let vote = vote(*node);
            if let Some(hash) = vote {
                *support.entry(hash).or_default() += u128::from(*stake);
            }
            total += u128::from(*stake);
            lying += if self.scenario.honest(*node) { 0 } else { u128::from(*stake) };
        }
        let won = support.into_iter().find(|(_, stake)| stake * 2 > total).map(|(hash, _)| hash);
        let voters: Vec<usize> = (0..self.scenario.validators.len())
            .filter(|node| self.scenario.validators[*node].stake > 0 && won.is_some() && vote(*node) == won)
            .collect();
        let others = (0..self.scenario.validators.len()).filter(|node| vote(*node).is_some() && vote(*node) != won);
        let others: Vec<usize> = others.collect();
        if lying * 2 >= total && lying > 0 && won.is_some() {
            let kind = if deciders.open { "an open vote" } else { "the active stake" };
            let what = format!("liars hold {lying} of {total} in {kind}");
            self.breaks(Invariant::HonestMajority, Window(window), what);
        }
        self.oracle.counts.windows += 1;
        self.oracle.outcomes.insert(window, won);
        self.trace.note(self.now, "outcome", voters.len(), [window, u64::from(won.is_some())]);
        for (node, of, told) in std::mem::take(&mut self.oracle.early) {
            if of.0 == window { self.agrees(node, of, told) } else { self.oracle.early.push((node, of, told)) }
        }
        let id = won.and_then(|hash| self.by_hash.get(&hash).copied());
        match (won, id) {
            (Some(hash), Some(id)) => {
                self.oracle.counts.finals += 1;
                self.is_final(window, id, &voters);
                let record = &self.records[id].record;
                let members = record.active.iter().filter_map(|m| Some((node_of(m.hotkey)?, m.missed)));
                let present = deciders.stakes.keys().map(|node| (*node, 0));
                let head = True {
                    hash,
                    root: record.root,
                    clip: record.clip,
                    active: if deciders.open { present.collect() } else { members.collect() },
                    voters,
                    others,
                };
                self.oracle.heads.insert(window, head);
            }
            (Some(_), None) => self.breaks(Invariant::Right, Window(window), "what is final is no record".into()),
            (None, _) => {}
        }
        self.count(window, id);
    }

    fn is_final(&mut self, window: u64, id: usize, voters: &[usize]) {
        if let Err(wrong) = self.right(window, id) {
            return self.breaks(Invariant::Right, Window(window), format!("a final record: {wrong}"));
        }
        let honest = voters.iter().filter(|node| self.scenario.honest(**node)).fold(0u32, |all, node| all | 1 << node);
        if honest == 0 {
            return self.breaks(Invariant::Right, Window(window), "no honest node voted for a final record".into());
        }
        let record = &self.records[id].record;
        let listed = |delta: &usize| {
            let owner = self.deltas[*delta].owner;
            record.accepted.binary_search_by_key(&(owner as u16), |accepted| accepted.uid.0).is_ok()
        };
        let all = self.sent.get(&Window(window)).cloned().unwrap_or_default();
        let had = all.iter().filter(|delta| {
            let delta = &self.deltas[**delta];
            delta.due & honest == honest && self.scenario.honest(delta.owner)
        });
        let left_out = had.filter(|delta| !listed(delta)).count();
        let most = (self.scenario.rules.omission * f64::from(self.records[id].due)).floor();
        if left_out as f64 > most {
            let what = format!("{left_out} left out that all honest voters had in time; {most} may be");
            self.breaks(Invariant::NothingLeftOut, Window(window), what);
        }
    }

    /// How much of the honest work entered.
    fn count(&mut self, window: u64, id: Option<usize>) {
        let commit = self.last_block(window) + self.scenario.clock.commit;
        for node in self.scenario.validators.len()..self.nodes.len() {
            let committed = self.chain.entry(node, commit).commitment.is_some_and(|(of, _)| of.0 == window);
            if committed && self.scenario.honest(node) {
                self.oracle.counts.committed += 1;
                let accepted = id.map(|id| &self.records[id].record.accepted);
                let entered =
                    accepted.is_some_and(|all| all.iter().any(|accepted| usize::from(accepted.uid.0) == node));
                self.oracle.counts.entered += u64::from(entered);
            }
        }
    }

    /// Whether a record is what the rules make of committed and good deltas.
    fn right(&mut self, window: u64, id: usize) -> Result<(), String> {
        if let Some((of, known)) = &self.records[id].right
            && of.0 == window
        {
            return known.clone();
        }
        let record = std::rc::Rc::clone(&self.records[id].record);
        let found = self.check_fields(window, &record).and_then(|()| self.check_list(window, &record));
        let found = found.and_then(|()| {
            let deciders = self.deciders(window);
            let signed = self.records[id].signers.iter().any(|signer| deciders.stakes.contains_key(signer));
            if signed { Ok(()) } else { Err("nobody whose vote counts has signed it".into()) }
        });
        self.records[id].right = Some((Window(window), found.clone()));
        found
    }

    fn check_fields(&self, window: u64, record: &Record) -> Result<(), String> {
        let Some((_, head)) = self.oracle.before(window) else { return Err("no head".into()) };
        let same = |so: bool, what: &str| if so { Ok(()) } else { Err(format!("another {what}")) };
        same(record.run == self.run, "run")?;
        same(record.window.0 == window, "window")?;
        same(record.prev == head.hash, "record before it")?;
        let draw = self.last_block(window) + self.scenario.clock.commit + 1;
        same(draw <= self.chain.finalized() && self.chain.hash(draw) == Some(record.reveal), "draw")?;
        let active: Vec<_> = self.true_active(head).into_iter().map(|(node, missed)| (hotkey(node), missed)).collect();
        let mut given: Vec<_> = record.active.iter().map(|member| (member.hotkey, member.missed)).collect();
        same(given.is_sorted(), "order of members")?;
        let mut active = active;
        active.sort_unstable();
        given.sort_unstable();
        same(given == active, "list of active members")?;
        same(record.root == root(head.root, record), "state")
    }

    fn check_list(&mut self, window: u64, record: &Record) -> Result<(), String> {
        let base = self.true_base(window);
        let commit = self.last_block(window) + self.scenario.clock.commit;
        let peers = self.peers_at(Window(window));
        let Some((_, head)) = self.oracle.before(window) else { return Err("no head".into()) };
        let mut norms = Vec::new();
        let mut last = None;
        let incentive = |node: usize| match peers.0.get(&hotkey(node)) {
            Some(peer) if self.scenario.rules.weigh_by_incentive => peer.incentive,
            _ => 0.0,
        };
        let mut greatest: f64 = 0.0;
        for accepted in &record.accepted {
            let uid = usize::from(accepted.uid.0);
            let wrong = |what: &str| Err(format!("uid {uid}: {what}"));
            let Some(delta) = self.delta_of(&accepted.blake3).map(|id| &self.deltas[id]) else {
                return wrong("no such delta");
            };
            if last.replace(uid).is_some_and(|last| last >= uid) {
                return wrong("out of order");
            }
            if delta.owner != uid || accepted.hotkey != hotkey(uid) {
                return wrong("another's delta");
            }
            if self.chain.entry(uid, commit).commitment != Some((Window(window), delta.commitment)) {
                return wrong("was not committed to");
            }
            if delta.window.0 != window || !delta.valid || delta.base != base {
                return wrong("a bad delta");
            }
            norms.push(delta.norm);
            greatest = greatest.max(incentive(uid));
        }
        let mut sorted = norms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = if sorted.is_empty() { None } else { Some(sorted[(sorted.len() - 1) / 2]) };
        let clip = if sorted.len() < 3 { head.clip.or(median) } else { median };
        if clip != record.clip {
            return Err(format!("clips to {:?} instead of {clip:?}", record.clip));
        }
        for (accepted, norm) in record.accepted.iter().zip(norms) {
            let scale = match clip {
                Some(clip) if self.scenario.rules.clip_to_median && norm > clip => (clip / norm) as f32,
                _ => 1.0,
            };
            let part = incentive(usize::from(accepted.uid.0)) / greatest;
            let weight = if greatest > 0.0 { (part * 65535.0).round().max(1.0) as u16 } else { 65535 };
            if (accepted.scale, accepted.weight_u16) != (scale, weight) {
                return Err(format!("uid {}: scale or weight", accepted.uid));
            }
        }
        Ok(())
    }

    /// The record from whose state a window trains: the last final one of the windows before it, or at lag 1 before the one
    /// before it; a run's first windows train from its founding.
    fn true_base(&self, window: u64) -> Hash {
        let lag = if self.scenario.clock.lag == Lag::One { 1 } else { 0 };
        self.oracle.before(window - lag).map_or(self.run, |(_, head)| head.hash)
    }

    /// A miner has trained from some state.
    pub fn oracle_trains(&mut self, node: usize, window: Window, base: Hash) {
        let truth = self.true_base(window.0);
        if base != truth && self.scenario.honest(node) {
            self.breaks(Invariant::OneRecord, window, format!("node {node} trains from {base}, not {truth}"));
        }
    }

    /// A node knows how a window ended.
    pub fn oracle_told(&mut self, node: usize, window: Window, told: Option<Hash>) {
        if window.0 < self.oracle.next {
            self.agrees(node, window, told);
        } else {
            self.oracle.early.push((node, window, told));
        }
    }

    fn agrees(&mut self, node: usize, window: Window, told: Option<Hash>) {
        let truth = self.oracle.outcomes.get(&window.0).copied().flatten();
        if truth != told && self.scenario.honest(node) {
            self.breaks(Invariant::OneRecord, window, format!("node {node} holds {told:?} for final, not {truth:?}"));
        }
    }

    /// A node begins anew with a record that others hold for final.
    pub fn oracle_took(&mut self, node: usize, window: Window, hash: Hash) {
        let truth = self.oracle.heads.get(&window.0).map(|head| head.hash);
        if truth != Some(hash) && self.scenario.honest(node) {
            self.breaks(Invariant::OneRecord, window, format!("node {node} begins with {hash}, not {truth:?}"));
        }
    }

    /// An honest node votes.
    pub fn oracle_votes(&mut self, node: usize, window: Window, id: usize) {
        if let Err(wrong) = self.right(window.0, id) {
            return self.breaks(Invariant::Right, window, format!("node {node} votes for a record: {wrong}"));
        }
        let best = self.view(node).best;
        let last_call = self.last_block(window.0) + self.scenario.clock.tally - self.scenario.inclusion;
        let cast = self.oracle.cast.entry((node, window.0)).or_default();
        if !cast.contains(&id) {
            cast.push(id);
        }
        let times = cast.len();
        if best > last_call || times > 2 {
            self.breaks(Invariant::InTurn, window, format!("node {node} votes at {best}, for the {times}th record"));
        }
        let (mut due, mut left_out) = (0, 0);
        let record = std::rc::Rc::clone(&self.records[id].record);
        for delta in self.sent.get(&window).into_iter().flatten() {
            let delta = &self.deltas[*delta];
            let uid = delta.owner as u16;
            if delta.due >> node & 1 == 1 && self.nodes[node].memory.seen.contains_key(&delta.hash) {
                due += 1;
                let listed = record.accepted.binary_search_by_key(&uid, |accepted| accepted.uid.0);
                left_out += u32::from(listed.is_err());
            }
        }
        if f64::from(left_out) > (self.scenario.rules.omission * f64::from(due)).floor() {
            let what = format!("node {node} votes for a record that leaves out {left_out} of {due}");
            self.breaks(Invariant::NothingLeftOut, window, what);
        }
        let made = &mut self.records[id];
        made.due = made.due.max(due);
    }

    /// An honest node proposes.
    pub fn oracle_proposes(&mut self, node: usize, window: Window, id: usize) {
        if let Err(wrong) = self.right(window.0, id) {
            self.breaks(Invariant::Right, window, format!("node {node} proposes a record: {wrong}"));
        }
    }

    /// An honest node finds that it is its turn.
    pub fn oracle_turn(&mut self, node: usize, window: Window, best: u64) {
        let mut stakes: Vec<_> = self.deciders(window.0).stakes.into_iter().collect();
        stakes.sort_by_key(|(node, stake)| (std::cmp::Reverse(*stake), hotkey(*node)));
        let rank = stakes.iter().position(|(member, _)| *member == node);
        let clock = self.scenario.clock;
        let last_call = clock.tally - self.scenario.inclusion;
        let turn =
            |from: u64| rank.map(|rank| (from + clock.grace * rank as u64).min(last_call - clock.grace).max(from));
        let again = clock.propose + (last_call - clock.propose) / 2;
        let own = hotkey(node);
        let first = !self.nodes[node].memory.judged.iter().any(|judged| judged.by == own);
        let turn = turn(if first { clock.propose } else { again });
        if turn.is_none_or(|turn| best < self.last_block(window.0) + turn) {
            self.breaks(Invariant::InTurn, window, format!("node {node} of rank {rank:?} proposes at block {best}"));
        }
    }

    /// A node waits until a block.
    pub fn oracle_waits(&mut self, node: usize, what: &str, sees: u64, until: u64) {
        let clock = self.scenario.clock;
        let window = Window(sees / clock.blocks);
        let first = self.last_block(self.scenario.start.0);
        // Of two windows at most.
        if until <= sees || until > sees.max(first) + 2 * clock.blocks {
            self.breaks(Invariant::Ends, window, format!("node {node}, {what}: at {sees} waits until {until}"));
        }
    }

    /// A node's role gave it a duty of another.
    pub fn oracle_odd(&mut self, node: usize, what: String) {
        self.breaks(Invariant::Ends, Window(self.chain.best() / self.scenario.clock.blocks), format!("{node}: {what}"));
    }

    /// What a node keeps is bounded.
    pub fn oracle_bounds(&mut self, node: usize) {
        let (validators, miners) = (self.scenario.validators.len(), self.scenario.miners.len());
        let it = &self.nodes[node];
        // Two files of each peer from itself, and what two proposals of each validator may name.
        let sizes = [
            ("deltas", it.memory.seen.len(), 2 * miners + 4 * validators),
            ("proposals", it.memory.judged.len(), 4 * validators + 2),
            ("records", it.disk.records.len(), RECORDS),
            ("unsent deltas", it.disk.unsent.len(), 3),
            ("transactions", self.chain.waiting(), 16 * self.nodes.len()),
            ("entries", self.chain.history(), 400),
        ];
        if let Some((what, count, most)) = sizes.into_iter().find(|(_, count, most)| count > most) {
            let window = Window(self.chain.best() / self.scenario.clock.blocks);
            self.breaks(Invariant::Bounded, window, format!("node {node} keeps {count} {what}, of {most} at most"));
        }
    }
}
