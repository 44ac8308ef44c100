//! A node: what lies on its disk, and what is lost when it dies.

use crate::chain::Entry;
use protocol::{Done, Electorate, Ledger, Record, Seen, Standing, turn::Judged};
use record::{Hash, Window};
use std::{collections::BTreeMap, collections::BTreeSet, rc::Rc};

/// Final records whose heads a node keeps.
pub const HEADS: usize = 8;
/// Records that a node keeps and serves.
pub const RECORDS: usize = 24;

/// What a node has written down: it is there after a crash.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What is final.
    pub ledger: Ledger,
    /// The newest window whose outcome was followed.
    pub tallied: Option<Window>,
    /// What the node wants the chain to hold for it: its commitment and its vote are decisions.
    pub entry: Entry,
    /// A miner's newest window that it trained on.
    pub committed: Option<Window>,
    /// A miner's deltas that are not sent yet.
    pub unsent: BTreeMap<Window, usize>,
    /// The window in which it proposed, and what.
    pub proposal: Option<(Window, usize)>,
    /// The newest window in which there is nothing to vote for any more.
    pub voted: Option<Window>,
    /// Records that it proposed, voted for, or followed.
    pub records: Vec<usize>,
    /// Deltas that survived a crash, with what was found about them.
    pub files: Vec<(usize, Standing)>,
    /// Whose deltas these are.
    pub files_of: Option<Window>,
}

/// What a node holds in memory.
#[derive(Default)]
pub struct Memory {
    /// The window whose deltas it has checked.
    pub checked: Option<Window>,
    /// Of that window: the state that its deltas have to stand on.
    pub base: Option<Hash>,
    /// The deltas that it has.
    pub seen: BTreeMap<Hash, Seen>,
    /// What was proposed, as it judged it, and the record of each.
    pub judged: Vec<Judged>,
    /// The records of `judged`, in its order.
    pub records: Vec<usize>,
    /// Something came since the records were judged.
    pub stale: bool,
    /// States that it computed, by their record.
    pub roots: BTreeMap<usize, Hash>,
    /// What it has asked for: deltas, states, and records.
    pub asked: BTreeSet<Asked>,
    /// Whose votes count.
    pub electorate: Option<Rc<Electorate>>,
    /// It has looked for proposals that came before it was there.
    pub polled: bool,
    /// It makes a proposal, or has made it.
    pub making: bool,
    /// Final records that it fetched.
    pub fetched: Vec<usize>,
    /// The window that a miner trains on, and the state.
    pub training: Option<Window>,
    /// The window whose delta a miner sends.
    pub sending: Option<Window>,
    /// The block at which it last sent a transaction.
    pub sent_at: u64,
}

/// Something that a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A delta.
    Delta(usize),
    /// The state that a record leads to.
    State(usize),
    /// A record that somebody votes for.
    Record(usize),
    /// A record that is final.
    Final(usize),
}

/// Troubles of a node, each counted, since several may overlap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    /// Down for a while.
    pub down: u32,
    /// Gone for ever.
    pub dead: bool,
    /// Its bucket goes at this second.
    pub closes: Option<u64>,
    /// It dies at its next write.
    pub armed: bool,
    /// It died at a write.
    pub killed: bool,
    /// Its bucket cannot be reached.
    pub bucket_down: u32,
    /// Its bucket is slow.
    pub bucket_slow: u32,
    /// Its disk is full.
    pub disk_full: u32,
    /// It has no chain.
    pub no_chain: u32,
    /// It reads no buckets.
    pub no_buckets: u32,
    /// Seconds that its view of the chain is old.
    pub behind: u64,
    /// Its view of the chain stands still at this second.
    pub stopped: u64,
}

/// One miner or validator.
pub struct Node {
    /// What survives.
    pub disk: Disk,
    /// What does not.
    pub memory: Memory,
    /// What is wrong with it.
    pub troubles: Troubles,
    /// Counts its lives: what was under way in an earlier one does not arrive.
    pub life: u32,
    /// The second of its next waking.
    pub wake_at: u64,
}

impl Node {
    /// Whether it runs.
    pub fn up(&self) -> bool {
        !(self.troubles.dead || self.troubles.killed || self.troubles.down > 0)
    }

    /// How far its work has come.
    pub fn done(&self) -> Done {
        Done {
            tallied: self.disk.tallied,
            committed: self.disk.committed.max(self.memory.training),
            unsent: self.disk.unsent.keys().next().copied(),
            checked: self.memory.checked,
            voted: self.disk.voted,
        }
    }

    /// Whether it can read a record at home.
    pub fn holds(&self, record: usize) -> bool {
        self.disk.records.contains(&record)
            || self.memory.fetched.contains(&record)
            || self.memory.records.contains(&record)
    }

    /// Forget the window that it checked, and begin with another.
    pub fn check(&mut self, window: Window) {
        let memory = std::mem::take(&mut self.memory);
        self.memory = Memory {
            checked: Some(window),
            fetched: memory.fetched,
            training: memory.training,
            sending: memory.sending,
            sent_at: memory.sent_at,
            ..Memory::default()
        };
    }
}

impl Disk {
    /// An empty one, and what the run's founding says.
    pub fn new(ledger: Ledger) -> Self {
        Disk {
            ledger,
            tallied: None,
            entry: Entry::default(),
            committed: None,
            unsent: BTreeMap::new(),
            proposal: None,
            voted: None,
            records: Vec::new(),
            files: Vec::new(),
            files_of: None,
        }
    }

    /// Keep a record, and forget the oldest.
    pub fn keep(&mut self, record: usize) {
        if !self.records.contains(&record) {
            self.records.push(record);
        }
        if self.records.len() > RECORDS {
            self.records.remove(0);
        }
    }
}

/// A delta that somebody made.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Hash of its file.
    pub hash: Hash,
    /// Whose.
    pub owner: usize,
    /// Of which window.
    pub window: Window,
    /// What its owner has to have committed to.
    pub commitment: Hash,
    /// The record whose state it was trained from.
    pub base: Hash,
    /// Whether its bytes pass.
    pub valid: bool,
    /// Its norm.
    pub norm: f64,
    /// Whose audits find it out.
    pub cheat: bool,
    /// Validators to whom its owner, or a lying proposer, shows it: a bit each.
    pub shown: u32,
    /// Validators that have it: a bit each.
    pub held: u32,
    /// Validators to whom it has to enter: a bit each.
    pub due: u32,
    /// It lies in its owner's bucket.
    pub sent: bool,
}

/// A record that somebody made.
pub struct Made {
    /// What it says.
    pub record: Rc<Record>,
    /// Its hash.
    pub hash: Hash,
    /// Who signed it.
    pub signers: Vec<usize>,
    /// Validators whose buckets have it: a bit each.
    pub holders: u32,
    /// The most deltas that an honest voter for it would have had to see in it.
    pub due: u32,
    /// Whether it is what the rules make for a window, once that was looked at.
    pub right: Option<(Window, Result<(), String>)>,
}

/// A proposal in a bucket.
#[derive(Clone, Copy)]
pub struct Published {
    /// The window that it is proposed for.
    pub window: Window,
    /// The record.
    pub record: usize,
    /// Who signed it.
    pub by: usize,
    /// In whose bucket it lies.
    pub bucket: usize,
    /// Validators to whom it is shown: a bit each.
    pub shown: u32,
}
