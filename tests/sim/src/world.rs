//! Virtual time: one thread, one queue of events, one seed.

use crate::{
    chain::{Chain, SLOT, View},
    dice::{Dice, mix, name, number},
    node::{Asked, Delta, Disk, Made, Memory, Node, Published, Troubles},
    oracle::{Oracle, Violation},
    policy::Policy,
    scenario::{Scenario, Trouble},
    trace::Trace,
};
use protocol::{Head, Ledger, Peers, Record, peers::Peer, tally::Votes};
use record::{Hash, Hotkey, Uid, Window};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
};

/// Something that happens to one node in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A slot of the chain passes.
    Slot,
    /// A fault begins, or ends.
    Fault(usize, bool),
    /// A node looks what there is to do.
    Wake,
    /// A miner has trained.
    Trained(Window),
    /// A miner has sent a delta.
    Sent(Window),
    /// A delta comes from a bucket.
    Delta(usize, usize),
    /// A proposal for a window, signed by a node, comes from a bucket.
    Proposal(Window, usize, usize, usize),
    /// A final record comes from a bucket.
    Record(usize, usize),
    /// A state is computed.
    State(Window, usize),
    /// A proposal is made.
    Made(Window),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Windows of which the outcome is known.
    pub windows: u64,
    /// Those that have a final record.
    pub finals: u64,
    /// Deltas of honest miners that were committed to.
    pub committed: u64,
    /// Those of them that entered.
    pub entered: u64,
    /// How much happened.
    pub events: u64,
    /// The hash of all that happened.
    pub trace: Hash,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
}

/// When, in which order, to whom, in which of its lives, and what.
type Queued = (u64, u64, usize, u32, Event);

/// All there is.
pub struct World {
    /// What was drawn from the seed.
    pub scenario: Scenario,
    /// What honest nodes go by.
    pub policy: Policy,
    /// Seconds since the beginning.
    pub now: u64,
    /// All draws after the scenario's.
    pub dice: Dice,
    /// The chain.
    pub chain: Chain,
    /// Validators, then miners.
    pub nodes: Vec<Node>,
    /// The run's name.
    pub run: Hash,
    /// Before the first record.
    pub founding: Head,
    /// All deltas.
    pub deltas: Vec<Delta>,
    /// Those of a window that lie in their owners' buckets.
    pub sent: BTreeMap<Window, Vec<usize>>,
    /// All records.
    pub records: Vec<Made>,
    /// Records by their hash.
    pub by_hash: BTreeMap<Hash, usize>,
    /// Proposals in buckets.
    pub published: BTreeMap<Window, Vec<Published>>,
    /// What the liars of a window vote for.
    pub lies: BTreeMap<Window, Hash>,
    /// What is true, whatever nodes think.
    pub oracle: Oracle,
    /// What has happened.
    pub trace: Trace,
    peers: BTreeMap<Window, Rc<Peers>>,
    votes: BTreeMap<Window, Rc<Votes>>,
    splits: Vec<u32>,
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
}

/// Windows after its owner's end in which a bucket is still there.
const CLOSES: u64 = 6;

const HOTKEY: u64 = 1;
const DELTA: u64 = 2;

/// The hotkey of a node.
pub fn hotkey(node: usize) -> Hotkey {
    Hotkey(name(HOTKEY, node as u64))
}

/// The node of a hotkey.
pub fn node_of(hotkey: Hotkey) -> Option<usize> {
    number(HOTKEY, &hotkey.0).map(|node| node as usize)
}

impl World {
    /// The world of a scenario, before its first second.
    pub fn new(scenario: Scenario, policy: Policy, trace: Trace) -> Self {
        let run = Hash(name(5, scenario.seed));
        let founders: Vec<Hotkey> = scenario.founders.iter().map(|node| hotkey(*node)).collect();
        let founding = Head::founding(run, Hash(name(6, scenario.seed)), scenario.start, &founders);
        let first = (scenario.start.0 * scenario.clock.blocks).saturating_sub(10);
        let mut world = World {
            policy,
            now: 0,
            dice: Dice::new(scenario.seed, 2),
            chain: Chain::new(first, scenario.nodes(), scenario.finality),
            nodes: Vec::new(),
            run,
            oracle: Oracle::new(&scenario, &founding),
            founding,
            deltas: Vec::new(),
            sent: BTreeMap::new(),
            records: Vec::new(),
            by_hash: BTreeMap::new(),
            published: BTreeMap::new(),
            lies: BTreeMap::new(),
            trace,
            peers: BTreeMap::new(),
            votes: BTreeMap::new(),
            splits: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            scenario,
        };
        for node in 0..world.scenario.nodes() {
            let disk = Disk::new(Ledger::new(world.founding.clone()));
            let troubles = Troubles::default();
            world.nodes.push(Node { disk, memory: Memory::default(), troubles, life: 0, wake_at: u64::MAX });
            let at = world.dice.between(1, SLOT);
            world.wake(node, at);
        }
        for (at, fault) in world.scenario.faults.clone().into_iter().enumerate() {
            world.push(fault.from, 0, Event::Fault(at, true));
            if fault.to < u64::MAX {
                world.push(fault.to, 0, Event::Fault(at, false));
            }
        }
        world.push(SLOT, 0, Event::Slot);
        world
    }

    /// Play it to its end, or until something is broken.
    pub fn play(mut self) -> Report {
        let last = Window(self.scenario.start.0 + self.scenario.windows);
        let end = self.scenario.clock.moments(last).tally + 2 * self.scenario.finality;
        while self.oracle.broken.is_none() && self.chain.finalized() < end {
            let Some(Reverse((time, _, node, life, event))) = self.queue.pop() else { break };
            self.now = time;
            self.step(node, life, event);
        }
        let counts = self.oracle.counts;
        Report {
            windows: counts.windows,
            finals: counts.finals,
            committed: counts.committed,
            entered: counts.entered,
            events: self.trace.events(),
            trace: self.trace.sum(),
            violation: self.oracle.broken,
        }
    }

    fn step(&mut self, node: usize, life: u32, event: Event) {
        match event {
            Event::Slot => return self.slot(),
            Event::Fault(at, begins) => return self.fault(at, begins),
            _ => {}
        }
        if self.nodes[node].life != life || !self.nodes[node].up() {
            return;
        }
        match event {
            Event::Slot | Event::Fault(..) => {}
            Event::Wake => {
                if self.nodes[node].wake_at == self.now {
                    self.nodes[node].wake_at = u64::MAX;
                    self.woke(node);
                }
            }
            Event::Trained(window) => self.trained(node, window),
            Event::Sent(window) => self.has_sent(node, window),
            Event::Delta(delta, from) => self.delta_comes(node, delta, from),
            Event::Proposal(window, record, by, from) => self.proposal_comes(node, (window, record, by), from),
            Event::Record(record, from) => self.record_comes(node, record, from),
            Event::State(window, record) => self.state_computed(node, window, record),
            Event::Made(window) => self.proposal_made(node, window),
        }
    }

    fn woke(&mut self, node: usize) {
        self.resend(node);
        if self.validates(node) {
            self.validate(node);
        } else {
            self.mine(node);
        }
    }

    /// Whether a node is a validator.
    pub fn validates(&self, node: usize) -> bool {
        node < self.scenario.validators.len()
    }

    /// Let something happen in so many seconds.
    pub fn push(&mut self, after: u64, node: usize, event: Event) {
        self.sequence += 1;
        let life = self.nodes.get(node).map_or(0, |node| node.life);
        self.queue.push(Reverse((self.now + after, self.sequence, node, life, event)));
    }

    /// Wake a node in so many seconds, unless it wakes before.
    pub fn wake(&mut self, node: usize, after: u64) {
        let at = self.now + after;
        if at < self.nodes[node].wake_at {
            self.nodes[node].wake_at = at;
            self.push(after, node, Event::Wake);
        }
    }

    /// Wake a node when its view has this block: blocks are never faster than their slots.
    pub fn wake_at_block(&mut self, node: usize, sees: u64, block: u64) {
        let blocks = block.saturating_sub(sees).max(1);
        let jitter = self.dice.between(0, 3);
        self.wake(node, blocks * SLOT + jitter);
    }

    fn slot(&mut self) {
        let lost = self.chain.slot(self.now, &mut self.dice);
        if lost > 0 {
            self.trace.note(self.now, "fork", 0, [lost, self.chain.best()]);
        }
        self.push(SLOT, 0, Event::Slot);
        self.look_on();
    }

    fn fault(&mut self, at: usize, begins: bool) {
        let Some(fault) = self.scenario.faults.get(at).copied() else { return };
        let node = fault.what.node().unwrap_or_default();
        self.trace.note(self.now, if begins { "fault" } else { "mended" }, node, [at as u64, 0]);
        let count = |count: &mut u32| if begins { *count += 1 } else { *count -= 1 };
        let was_up = self.nodes[node].up();
        let troubles = &mut self.nodes[node].troubles;
        match fault.what {
            Trouble::Down(_) | Trouble::Joins(_) => count(&mut troubles.down),
            Trouble::Dead(_) => {
                troubles.dead = true;
                troubles.closes = Some(self.now + CLOSES * self.scenario.clock.blocks * SLOT);
            }
            Trouble::Killed(_) => {
                troubles.armed = begins;
                troubles.killed &= begins;
            }
            Trouble::Behind(_, seconds) => troubles.behind = if begins { seconds } else { 0 },
            Trouble::BucketDown(_) => count(&mut troubles.bucket_down),
            Trouble::BucketSlow(_) => count(&mut troubles.bucket_slow),
            Trouble::DiskFull(_) => count(&mut troubles.disk_full),
            Trouble::NoBuckets(_) => count(&mut troubles.no_buckets),
            Trouble::NoChain(_) => {
                if troubles.no_chain == 0 {
                    troubles.stopped = self.now.saturating_sub(troubles.behind);
                }
                count(&mut troubles.no_chain);
            }
            Trouble::Split(mask) if begins => self.splits.push(mask),
            Trouble::Split(mask) => {
                if let Some(at) = self.splits.iter().position(|split| *split == mask) {
                    self.splits.swap_remove(at);
                }
            }
            Trouble::Stalled => count(&mut self.chain.trouble.stalled),
            Trouble::Missing => count(&mut self.chain.trouble.missing),
            Trouble::Forking => count(&mut self.chain.trouble.forking),
        }
        match (was_up, self.nodes[node].up()) {
            (true, false) => self.dies(node),
            (false, true) => self.starts(node),
            _ => {}
        }
    }

    /// A node dies: half of the deltas that it fetched are whole on its disk.
    fn dies(&mut self, node: usize) {
        let dead = &mut self.nodes[node];
        dead.life += 1;
        dead.wake_at = u64::MAX;
        let memory = std::mem::take(&mut dead.memory);
        dead.disk.files_of = memory.checked;
        dead.disk.files.clear();
        for (hash, seen) in &memory.seen {
            let Some(delta) = number(DELTA, &hash.0) else { continue };
            if self.dice.per_mille(500) {
                dead.disk.files.push((delta as usize, seen.standing));
            } else {
                self.deltas[delta as usize].due &= !(1 << node);
                self.deltas[delta as usize].held &= !(1 << node);
            }
        }
        self.trace.note(self.now, "dies", node, [0, 0]);
    }

    fn starts(&mut self, node: usize) {
        let joins = |fault: &crate::scenario::Fault| fault.what == Trouble::Joins(node) && fault.to == self.now;
        if self.scenario.faults.iter().any(joins) {
            self.nodes[node].disk = Disk::new(Ledger::new(self.founding.clone()));
        }
        // What it set for itself while it died does not wake it.
        self.nodes[node].life += 1;
        self.nodes[node].wake_at = u64::MAX;
        self.nodes[node].memory = Memory::default();
        self.trace.note(self.now, "starts", node, [0, 0]);
        let after = self.dice.between(1, 30);
        self.wake(node, after);
    }

    /// Write to a node's disk. False where it is full, or where the node dies right after it.
    pub fn persist(&mut self, node: usize, change: impl FnOnce(&mut Disk)) -> bool {
        let it = &mut self.nodes[node];
        if it.troubles.disk_full > 0 {
            return false;
        }
        change(&mut it.disk);
        if it.troubles.armed {
            it.troubles.armed = false;
            it.troubles.killed = true;
            self.dies(node);
            return false;
        }
        true
    }

    /// What a node sees of the chain.
    pub fn view(&self, node: usize) -> View {
        let troubles = &self.nodes[node].troubles;
        let seen = if troubles.no_chain > 0 { troubles.stopped } else { self.now.saturating_sub(troubles.behind) };
        self.chain.view(seen)
    }

    /// Send a node's entry as its disk has it.
    pub fn send(&mut self, node: usize, best: u64) {
        if self.nodes[node].troubles.no_chain > 0 {
            return;
        }
        let newest = self.nodes[node].disk.ledger.newest().map(|head| head.hash);
        let lies = self.scenario.validators.get(node).is_some_and(|validator| validator.lie.is_some());
        let it = &mut self.nodes[node];
        it.memory.sent_at = best;
        it.disk.entry.last = if lies { Some(Hash(name(8, best))) } else { newest };
        let entry = it.disk.entry;
        self.chain.send(node, entry, &mut self.dice);
        self.trace.note(self.now, "transaction", node, [best, 0]);
        self.wake(node, 4 * SLOT);
    }

    /// A transaction that fell out with its branch, or was never sent, is sent again.
    fn resend(&mut self, node: usize) {
        let it = &self.nodes[node];
        let entry = it.disk.entry;
        if entry.commitment.is_none() && entry.vote.is_none() || it.troubles.no_chain > 0 {
            return;
        }
        let best = self.view(node).best;
        let on_chain = self.chain.entry(node, best);
        let differs = (on_chain.commitment, on_chain.vote) != (entry.commitment, entry.vote);
        if differs && best >= it.memory.sent_at + 4 && !self.chain.pending(node) {
            self.send(node, best);
        }
    }

    /// Seconds until a node has an object from another's bucket; `None` while it cannot.
    pub fn fetch(&mut self, reader: usize, owner: usize) -> Option<u64> {
        let (from, to) = (self.nodes[owner].troubles, self.nodes[reader].troubles);
        let closed = from.closes.is_some_and(|at| at <= self.now);
        if from.bucket_down > 0 || closed || reader != owner && to.no_buckets > 0 {
            return None;
        }
        if self.validates(reader) && self.validates(owner) {
            let side = |mask: u32, node: usize| mask >> node & 1;
            if self.splits.iter().any(|mask| side(*mask, reader) != side(*mask, owner)) {
                return None;
            }
        }
        Some(if from.bucket_slow > 0 { self.dice.between(30, 300) } else { self.dice.between(1, 9) })
    }

    /// The peers of a window.
    pub fn peers_at(&mut self, window: Window) -> Rc<Peers> {
        if let Some(peers) = self.peers.get(&window) {
            return Rc::clone(peers);
        }
        // Incentives change now and then; stakes do not, since what was assumed about them has to hold.
        let epoch = window.0 - window.0 % 8;
        let validators = self.scenario.validators.len();
        let (blocks, start) = (self.scenario.clock.blocks, self.scenario.clock.moments(window).start);
        let peer = |node: usize| {
            let stake = self.scenario.validators.get(node).map_or(0, |validator| validator.stake);
            let work = if node < validators { 0 } else { mix(epoch ^ mix(node as u64)) % 1000 };
            let peer = Peer {
                uid: Uid(node as u16),
                stake,
                permit: stake > 0,
                incentive: if epoch.is_multiple_of(3) { 0.0 } else { work as f64 / 1e4 },
                entry: self.chain.put_at(node, start).map(|block| Window(block / blocks)),
            };
            (hotkey(node), peer)
        };
        let peers = Rc::new(Peers((0..self.nodes.len()).map(peer).collect()));
        if self.chain.finalized() >= start {
            self.peers.insert(window, Rc::clone(&peers));
        }
        peers
    }

    /// The votes of a window at a block, as this branch of the chain has them.
    pub fn votes_at(&mut self, window: Window, block: u64) -> Votes {
        let entries = (0..self.scenario.validators.len()).filter_map(|node| {
            let (of, record) = self.chain.entry(node, block).vote?;
            Some((hotkey(node), of, record))
        });
        protocol::tally::votes(entries, window)
    }

    /// The votes at a window's tally block, which is final.
    pub fn final_votes(&mut self, window: Window) -> Rc<Votes> {
        if let Some(votes) = self.votes.get(&window) {
            return Rc::clone(votes);
        }
        let tally = self.scenario.clock.moments(window).tally;
        let votes = Rc::new(self.votes_at(window, tally));
        if self.chain.finalized() >= tally {
            self.votes.insert(window, Rc::clone(&votes));
        }
        votes
    }

    /// A delta that somebody has made.
    pub fn new_delta(&mut self, mut delta: Delta) -> usize {
        let id = self.deltas.len();
        delta.hash = Hash(name(DELTA, id as u64));
        self.deltas.push(delta);
        id
    }

    /// The delta of a hash.
    pub fn delta_of(&self, hash: &Hash) -> Option<usize> {
        number(DELTA, &hash.0).map(|id| id as usize).filter(|id| *id < self.deltas.len())
    }

    /// A record that somebody has made; the same record has the same number.
    pub fn new_record(&mut self, record: Record, signer: usize) -> usize {
        let hash = record_hash(&record);
        if let Some(id) = self.by_hash.get(&hash) {
            let signers = &mut self.records[*id].signers;
            if !signers.contains(&signer) {
                signers.push(signer);
            }
            return *id;
        }
        let id = self.records.len();
        self.by_hash.insert(hash, id);
        let record = Rc::new(record);
        self.records.push(Made { record, hash, signers: vec![signer], holders: 0, due: 0, right: None });
        id
    }

    /// Whether a node waits for something already; it does from now on.
    pub fn asks(&mut self, node: usize, what: Asked) -> bool {
        !self.nodes[node].memory.asked.insert(what)
    }
}

/// The hash of a record: all of it.
pub fn record_hash(record: &Record) -> Hash {
    let mut bytes = Vec::with_capacity(160 + record.accepted.len() * 72 + record.active.len() * 36);
    for hash in [&record.run, &record.prev, &record.reveal, &record.root] {
        bytes.extend_from_slice(&hash.0);
    }
    bytes.extend_from_slice(&record.window.0.to_le_bytes());
    bytes.extend_from_slice(&record.clip.map_or(u64::MAX, f64::to_bits).to_le_bytes());
    push_accepted(&mut bytes, record);
    for member in &record.active {
        bytes.extend_from_slice(&member.hotkey.0);
        bytes.extend_from_slice(&member.missed.to_le_bytes());
    }
    Hash::derive("boltzmann simulator record v1", &bytes)
}

/// The state that a record's list leads to from another one.
pub fn root(from: Hash, record: &Record) -> Hash {
    let mut bytes = Vec::with_capacity(32 + record.accepted.len() * 72);
    bytes.extend_from_slice(&from.0);
    push_accepted(&mut bytes, record);
    Hash::derive("boltzmann simulator state v1", &bytes)
}

fn push_accepted(bytes: &mut Vec<u8>, record: &Record) {
    for accepted in &record.accepted {
        bytes.extend_from_slice(&accepted.uid.0.to_le_bytes());
        bytes.extend_from_slice(&accepted.hotkey.0);
        bytes.extend_from_slice(&accepted.blake3.0);
        bytes.extend_from_slice(&accepted.weight_u16.to_le_bytes());
        bytes.extend_from_slice(&accepted.scale.to_bits().to_le_bytes());
    }
}
