//! What happens in a run: who is there, who lies how, and what fails when. All of it follows from one seed, as plain data, so
//! that a part of it can be left out.

use crate::{chain::SLOT, dice::Dice};
use protocol::{Clock, Lag, Rules};
use record::Window;

/// A way in which a validator lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Its record follows an old one.
    Rollback,
    /// The same, with the state that the old one leads to.
    RollbackState,
    /// Its record is of a window to come, or of one that is over.
    OtherWindow,
    /// Nothing enters.
    Empty,
    /// It leaves out one miner.
    OmitOne,
    /// It leaves out half of the miners.
    OmitMany,
    /// It lets in a delta that nobody committed to.
    Uncommitted,
    /// It lets in a delta whose bytes are bad.
    Invalid,
    /// One delta is not clipped, or scaled to nothing.
    Scale,
    /// One delta counts more than the rule says.
    Weight,
    /// It clips to another norm.
    Clip,
    /// Its state is another one.
    Root,
    /// Others are active after it.
    Active,
    /// It is of another run.
    Run,
    /// It names another draw.
    Reveal,
    /// It names a delta twice, or out of order.
    Order,
    /// It names a delta under another uid, or another hotkey.
    Stranger,
    /// One without a vote signs it.
    Outsider,
    /// Different records to different readers, each of them good.
    Equivocate,
    /// It names a delta that it shows to half of the voters alone.
    Unavailable,
    /// It votes for one record, and for another one at the last call.
    Turncoat,
    /// It neither proposes nor votes.
    Silent,
    /// It votes for what is no record.
    Garbage,
    /// It proposes at the last moment.
    Late,
    /// Another one of these in each window.
    Mixed,
}

/// All of them but `Mixed`.
pub const LIES: [Lie; 24] = [
    Lie::Rollback,
    Lie::RollbackState,
    Lie::OtherWindow,
    Lie::Empty,
    Lie::OmitOne,
    Lie::OmitMany,
    Lie::Uncommitted,
    Lie::Invalid,
    Lie::Scale,
    Lie::Weight,
    Lie::Clip,
    Lie::Root,
    Lie::Active,
    Lie::Run,
    Lie::Reveal,
    Lie::Order,
    Lie::Stranger,
    Lie::Outsider,
    Lie::Equivocate,
    Lie::Unavailable,
    Lie::Turncoat,
    Lie::Silent,
    Lie::Garbage,
    Lie::Late,
];

/// How a miner behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// As it should.
    Honest,
    /// It shows its delta to these validators alone, a bit each.
    Withholds(u32),
    /// Its bytes are bad.
    Invalid,
    /// Its bytes are good, and its work is not: each validator's audit finds it in another window.
    Cheats,
    /// It sends without having committed.
    NoCommitment,
    /// It shows two files of one commitment, to each reader one.
    TwoFiles,
    /// It commits to one delta and sends another.
    OtherDelta,
    /// It sends around the deadline.
    Late,
    /// Its norm is a thousand times that of others.
    Huge,
    /// It trains from an old state.
    OldBase,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A node is down, and starts again from its disk.
    Down(usize),
    /// A node dies right after it wrote to its disk, before it acted on it; and starts again.
    Killed(usize),
    /// A node is gone for ever, and some windows later its bucket.
    Dead(usize),
    /// A node comes with an empty disk.
    Joins(usize),
    /// A node's view of the chain is so many seconds old.
    Behind(usize, u64),
    /// Nobody can read a bucket, nor its owner write to it.
    BucketDown(usize),
    /// A bucket takes minutes.
    BucketSlow(usize),
    /// A node cannot write to its disk.
    DiskFull(usize),
    /// A node hears nothing of the chain, and cannot send to it.
    NoChain(usize),
    /// A node reads no bucket but its own.
    NoBuckets(usize),
    /// Validators with a bit of this mask, and those without, do not read each other's buckets.
    Split(u32),
    /// Nothing becomes final.
    Stalled,
    /// Many slots have no block.
    Missing,
    /// Branches are given up often.
    Forking,
}

/// Something that goes wrong, from one second to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From this second on.
    pub from: u64,
    /// Until this one.
    pub to: u64,
    /// What.
    pub what: Trouble,
}

/// A validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validator {
    /// On the chain, in its smallest unit.
    pub stake: u64,
    /// `None` of an honest one.
    pub lie: Option<Lie>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// It follows from this number.
    pub seed: u64,
    /// What was left out of it.
    pub edits: Edits,
    /// The run's clock.
    pub clock: Clock,
    /// What the run chose.
    pub rules: Rules,
    /// Blocks are final so many blocks later, when nothing stalls.
    pub finality: u64,
    /// A vote is sent no later than so many blocks before the tally.
    pub inclusion: u64,
    /// The first window.
    pub start: Window,
    /// So many windows are played.
    pub windows: u64,
    /// In the first of them things go wrong.
    pub faulty: u64,
    /// Whose votes count at first.
    pub founders: Vec<usize>,
    /// Nodes 0 to V − 1.
    pub validators: Vec<Validator>,
    /// Nodes V and on.
    pub miners: Vec<Trick>,
    /// In the order in which they were drawn.
    pub faults: Vec<Fault>,
}

/// What is left out of a scenario: how a failing one shrinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Faulty windows are so many, and the others follow.
    pub faulty: Option<u64>,
    /// Of the miners, the first ones.
    pub miners: Option<usize>,
    /// Of the faults, by their number, these.
    pub faults: Option<Vec<usize>>,
    /// These validators do not exist.
    pub without: Vec<usize>,
    /// These nodes are honest.
    pub honest: Vec<usize>,
}

/// What kind of runs is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All sizes, all faults, all lies.
    Mixed,
    /// At most 5 validators and 12 miners: for tests.
    Small,
    /// No fault and no lie.
    Calm,
    /// One in five peers fails at any time, nobody lies: how much of the honest work enters.
    Failing,
}

impl Scenario {
    /// After its faults end, so many windows later each honest node has to know a new final record.
    ///
    /// The window in which they end is spoiled. The votes of the next one may miss the active stake that died: then
    /// `open_windows` pass until those who are there decide. Its record is known at the tally, a window later; who comes new
    /// waits for the record after that, since it needs the votes of one record to know who votes for the next; and one window
    /// is lost where the voters were just told apart.
    pub fn bound(&self) -> u64 {
        self.rules.open_windows + 5
    }

    /// Seconds after which nothing goes wrong any more.
    pub fn calm_at(&self) -> u64 {
        self.faulty * self.clock.blocks * SLOT
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.validators.len() + self.miners.len()
    }

    /// The scenario of a seed.
    pub fn new(seed: u64, kind: Kind, edits: &Edits) -> Self {
        let mut dice = Dice::new(seed, 1);
        let (validators, miners) = size(kind, &mut dice);
        let (clock, finality, inclusion) = clock(&mut dice);
        let rules = Rules {
            omission: [0.0, 0.05, 0.1, 0.2][dice.index(4)],
            inactive_records: dice.between(3, 6) as u32,
            open_windows: dice.between(3, 5),
            clip_to_median: !dice.per_mille(100),
            weigh_by_incentive: dice.per_mille(500),
        };
        let faulty = if kind == Kind::Failing { 40 } else { dice.between(4, 24) };
        let mut scenario = Scenario {
            seed,
            edits: edits.clone(),
            clock,
            rules,
            finality,
            inclusion,
            start: Window(dice.between(1, 1000)),
            windows: 0,
            faulty,
            founders: Vec::new(),
            validators,
            miners: vec![Trick::Honest; miners],
            faults: Vec::new(),
        };
        match kind {
            Kind::Mixed | Kind::Small => scenario.go_wrong(&mut dice),
            Kind::Calm => scenario.founders = (0..scenario.validators.len()).collect(),
            Kind::Failing => {
                scenario.rules.omission = 0.1;
                scenario.founders = (0..scenario.validators.len()).collect();
                scenario.one_in_five_fails(&mut dice);
            }
        }
        scenario.edit(edits);
        scenario.windows = scenario.faulty + scenario.bound() + 2;
        scenario
    }

    /// Who lies, who dies, what fails.
    fn go_wrong(&mut self, dice: &mut Dice) {
        let count = self.validators.len();
        let total: u64 = self.validators.iter().map(|validator| validator.stake).sum();
        let mut order: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            order.swap(at, dice.index(at + 1));
        }
        // Liars hold less than half of the stake; those who hold the network up, more than they.
        let (mut lying, mut weak) = (0, 0);
        let mut pillars = Vec::new();
        let liars = dice.below(4);
        for at in order {
            let stake = self.validators[at].stake;
            if (lying + stake) * 100 < total * 48 && dice.below(3) < liars {
                let lie = if dice.per_mille(500) { Lie::Mixed } else { LIES[dice.index(LIES.len())] };
                self.validators[at].lie = Some(lie);
                lying += stake;
            } else {
                pillars.push(at);
            }
        }
        // Of the honest some may go for ever, or for long.
        let mut frail = Vec::new();
        pillars.retain(|at| {
            let stake = self.validators[*at].stake;
            let rest = total - lying - weak - stake;
            let goes = rest * 100 > lying * 104 && rest > 0 && dice.per_mille(350);
            if goes {
                weak += stake;
                frail.push(*at);
            }
            !goes
        });
        let gone: u64 = frail.iter().map(|at| self.validators[*at].stake).sum();
        self.founders = match dice.below(6) {
            // Nobody is named: everybody votes.
            0 => Vec::new(),
            // Those who will be gone. Founders hold more than liars do: else liars take over while the others join.
            1 if gone * 100 > lying * 104 && gone > 0 => frail.clone(),
            2 => pillars.clone(),
            _ => (0..count).collect(),
        };
        let tricky = dice.below(5);
        for trick in &mut self.miners {
            if dice.below(10) < tricky {
                *trick = miner(count, dice);
            }
        }
        let level = dice.below(4);
        let faults = level * (2 + count as u64 + self.miners.len() as u64 / 4) * self.faulty / 12;
        for _ in 0..faults {
            let fault = self.fault(&frail, dice);
            // Liars who are the only ones there for `open_windows` take the run over: those who hold it up fail one after the
            // other, each for a window at most, and work for two before they fail again.
            let apart = 2 * self.clock.blocks * SLOT;
            let near = |other: &Fault| fault.from < other.to + apart && other.from < fault.to + apart;
            let again = |other: &&Fault| other.what.node() == fault.what.node() && near(other);
            let pillar = fault.what.node().is_some_and(|node| node < count && !frail.contains(&node));
            if !pillar || !self.faults.iter().any(|other| again(&other)) {
                self.faults.push(fault);
            }
        }
        for at in frail {
            if dice.per_mille(500) {
                let from = dice.below(self.calm_at());
                // Its bucket can be read for some windows more: a final record that nobody can have any more stops all.
                for fault in &mut self.faults {
                    if fault.what == Trouble::BucketDown(at) {
                        (fault.from, fault.to) = (fault.from.min(from), fault.to.min(from));
                    }
                }
                self.faults.push(Fault { from, to: u64::MAX, what: Trouble::Dead(at) });
            }
        }
    }

    fn fault(&self, frail: &[usize], dice: &mut Dice) -> Fault {
        let window = self.clock.blocks * SLOT;
        let count = self.validators.len();
        let validator = dice.index(count);
        let node = if dice.per_mille(500) { validator } else { dice.index(self.nodes()) };
        let long = frail.contains(&node) || node >= count;
        let from = dice.below(self.calm_at());
        let what = match dice.below(20) {
            0..3 => Trouble::Down(node),
            3..6 => Trouble::Killed(node),
            6 if long => Trouble::Joins(node),
            7 => Trouble::Behind(node, dice.between(12, 90)),
            8 | 9 => Trouble::BucketDown(node),
            10 | 11 => Trouble::BucketSlow(node),
            12 => Trouble::DiskFull(node),
            13 => Trouble::NoChain(node),
            14 => Trouble::NoBuckets(node),
            15 => Trouble::Split(dice.bits() as u32),
            16 => Trouble::Stalled,
            17 => Trouble::Missing,
            18 => Trouble::Forking,
            _ => Trouble::Down(node),
        };
        let lasts = match what {
            Trouble::Killed(_) => dice.between(10, window),
            Trouble::Stalled | Trouble::Missing | Trouble::Forking | Trouble::Split(_) => dice.between(SLOT, window),
            // Longer than the chain remembers.
            _ if long && dice.per_mille(200) => dice.between(window, 12 * window),
            _ => dice.between(SLOT, window),
        };
        let from = if matches!(what, Trouble::Joins(_)) { 0 } else { from };
        Fault { from, to: (from + lasts).min(self.calm_at()), what }
    }

    /// At any time one in five validators, and one in five miners, is down, or its bucket is, or it reads nothing.
    fn one_in_five_fails(&mut self, dice: &mut Dice) {
        let window = self.clock.blocks * SLOT;
        let count = self.validators.len();
        let groups = [(0, count), (count, self.miners.len())];
        for (first, size) in groups {
            for _ in 0..size / 5 {
                let mut from = 0;
                while from < self.calm_at() {
                    let node = first + dice.index(size);
                    let lasts = dice.between(window, 6 * window);
                    let what = match dice.below(4) {
                        0 => Trouble::BucketDown(node),
                        1 => Trouble::NoBuckets(node),
                        2 => Trouble::NoChain(node),
                        _ => Trouble::Down(node),
                    };
                    self.faults.push(Fault { from, to: (from + lasts).min(self.calm_at()), what });
                    from += lasts;
                }
            }
        }
    }

    fn edit(&mut self, edits: &Edits) {
        if let Some(keep) = &edits.faults {
            self.faults = keep.iter().filter_map(|at| self.faults.get(*at).copied()).collect();
        }
        if let Some(faulty) = edits.faulty {
            self.faulty = faulty.clamp(1, self.faulty);
            let calm = self.calm_at();
            self.faults.retain(|fault| fault.from < calm);
            for fault in &mut self.faults {
                fault.to = if matches!(fault.what, Trouble::Dead(_)) { fault.to } else { fault.to.min(calm) };
            }
        }
        for node in &edits.honest {
            let count = self.validators.len();
            if let Some(validator) = self.validators.get_mut(*node) {
                validator.lie = None;
            } else if let Some(trick) = self.miners.get_mut(node.wrapping_sub(count)) {
                *trick = Trick::Honest;
            }
        }
        // Who is left out has no stake and no part; numbers stay as they are.
        for at in &edits.without {
            if let Some(validator) = self.validators.get_mut(*at) {
                *validator = Validator { stake: 0, lie: None };
            }
            self.founders.retain(|founder| founder != at);
            self.faults.retain(|fault| fault.what.node() != Some(*at));
            self.faults.push(Fault { from: 0, to: u64::MAX, what: Trouble::Dead(*at) });
        }
        if let Some(miners) = edits.miners {
            self.miners.truncate(miners.max(1));
            let nodes = self.nodes();
            self.faults.retain(|fault| fault.what.node().is_none_or(|node| node < nodes));
        }
    }

    /// Whether a node keeps to the rules.
    pub fn honest(&self, node: usize) -> bool {
        match self.validators.get(node) {
            Some(validator) => validator.lie.is_none(),
            None => self.miners.get(node - self.validators.len()) == Some(&Trick::Honest),
        }
    }

    /// Whether those who hold the network up, honest and not gone for ever, hold more stake than the liars.
    pub fn sound(&self) -> bool {
        let stake = |of: &dyn Fn(usize) -> bool| -> u64 {
            self.validators.iter().enumerate().filter(|(node, _)| of(*node)).map(|(_, one)| one.stake).sum()
        };
        let lying = stake(&|node| !self.honest(node));
        stake(&|node| self.honest(node) && !self.dies(node)) > lying
    }

    /// Whether a node goes for ever.
    pub fn dies(&self, node: usize) -> bool {
        self.faults.iter().any(|fault| fault.what == Trouble::Dead(node))
    }
}

impl Trouble {
    /// Whom it strikes, if one node alone.
    pub fn node(self) -> Option<usize> {
        match self {
            Trouble::Down(node)
            | Trouble::Killed(node)
            | Trouble::Dead(node)
            | Trouble::Joins(node)
            | Trouble::Behind(node, _)
            | Trouble::BucketDown(node)
            | Trouble::BucketSlow(node)
            | Trouble::DiskFull(node)
            | Trouble::NoChain(node)
            | Trouble::NoBuckets(node) => Some(node),
            Trouble::Split(_) | Trouble::Stalled | Trouble::Missing | Trouble::Forking => None,
        }
    }
}

fn size(kind: Kind, dice: &mut Dice) -> (Vec<Validator>, usize) {
    let (validators, miners) = match (kind, dice.below(100)) {
        (Kind::Small, _) => (dice.between(1, 5), dice.between(2, 12)),
        (Kind::Calm, _) => (4, 16),
        (Kind::Failing, _) => (10, 40),
        (Kind::Mixed, 0) => (10, 256),
        (Kind::Mixed, 1..6) => (dice.between(2, 10), dice.between(17, 64)),
        (Kind::Mixed, 6..40) => (dice.between(3, 7), dice.between(4, 20)),
        (Kind::Mixed, _) => (dice.between(1, 5), dice.between(2, 10)),
    };
    // Of one size, or each a part of the one before, or the same, or anything.
    let shape = if kind == Kind::Failing { 0 } else { dice.below(4) };
    let mut last = 1_000_000_000_000;
    let mut draw = || {
        let stake = match shape {
            0 => dice.between(900_000_000_000, 1_000_000_000_000),
            1 => last,
            2 => 1_000_000_000_000,
            _ => dice.between(1_000_000_000, 1_000_000_000_000),
        };
        last = last * dice.between(40, 95) / 100;
        Validator { stake, lie: None }
    };
    ((0..validators).map(|_| draw()).collect(), miners as usize)
}

fn clock(dice: &mut Dice) -> (Clock, u64, u64) {
    let lag = if dice.per_mille(250) { Lag::Zero } else { Lag::One };
    let clock = match dice.below(3) {
        0 => Clock { blocks: 40, page: 5, commit: 4, deadline: 13, propose: 15, grace: 2, tally: 34, lag },
        1 => Clock { blocks: 60, page: 5, commit: 4, deadline: 16, propose: 20, grace: 3, tally: 45, lag },
        _ => Clock { blocks: 100, page: 8, commit: 5, deadline: 25, propose: 30, grace: 4, tally: 70, lag },
    };
    (clock, 3, 5)
}

fn miner(validators: usize, dice: &mut Dice) -> Trick {
    match dice.below(9) {
        0 => Trick::Withholds(dice.bits() as u32 & ((1 << validators) - 1)),
        1 => Trick::Invalid,
        2 => Trick::Cheats,
        3 => Trick::NoCommitment,
        4 => Trick::TwoFiles,
        5 => Trick::OtherDelta,
        6 => Trick::Late,
        7 => Trick::Huge,
        _ => Trick::OldBase,
    }
}
