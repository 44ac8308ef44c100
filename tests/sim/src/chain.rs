//! A chain with 12 s blocks: missed slots, branches that are given up before they are final, transactions that take 1 to 3
//! blocks and may fall out with their branch, finality that may stall, and a memory of 256 blocks of state.

use crate::dice::{Dice, mix, name};
use record::{Hash, Window};
use std::collections::VecDeque;

/// Seconds a slot.
pub const SLOT: u64 = 12;
/// A node without an archive answers for so many blocks before the finalized one. Source: Substrate's `--state-pruning 256`.
pub const MEMORY: u64 = 256;
/// Blocks of which an archive still knows, and of which it is known when they came.
const KEPT: u64 = 3000;

/// What stands beside a hotkey's bucket address (DESIGN 4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The window and what is committed to.
    pub commitment: Option<(Window, Hash)>,
    /// The window and the record that is voted for.
    pub vote: Option<(Window, Hash)>,
    /// The last record that the node holds for final.
    pub last: Option<Hash>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    time: u64,
    salt: u64,
    final_at: u64,
}

/// An entry that a block brought.
#[derive(Clone, Copy, Debug)]
struct Put {
    block: u64,
    sequence: u64,
    entry: Entry,
}

struct Transaction {
    node: usize,
    sequence: u64,
    entry: Entry,
    due: u64,
}

/// What a node sees of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Number of the newest block.
    pub best: u64,
    /// Number of the newest finalized block.
    pub fin: u64,
}

/// Troubles of the whole chain, each counted, since several may overlap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Nothing becomes final.
    pub stalled: u32,
    /// Many slots have no block.
    pub missing: u32,
    /// Branches are given up often, and deep.
    pub forking: u32,
}

/// The chain, as its branch stands now.
pub struct Chain {
    first: u64,
    blocks: VecDeque<Block>,
    finalized: u64,
    finality: u64,
    entries: Vec<VecDeque<Put>>,
    pool: Vec<Transaction>,
    sequence: u64,
    /// What goes wrong at the moment.
    pub trouble: Trouble,
}

impl Chain {
    /// A chain of `nodes` hotkeys whose first block has this number; blocks are final `finality` blocks later.
    pub fn new(first: u64, nodes: usize, finality: u64) -> Self {
        Chain {
            first,
            blocks: VecDeque::from([Block { time: 0, salt: first, final_at: 0 }]),
            finalized: first,
            finality,
            entries: vec![VecDeque::new(); nodes],
            pool: Vec::new(),
            sequence: 0,
            trouble: Trouble::default(),
        }
    }

    /// Number of the newest block.
    pub fn best(&self) -> u64 {
        self.first + self.blocks.len() as u64 - 1
    }

    /// Number of the newest finalized block.
    pub fn finalized(&self) -> u64 {
        self.finalized
    }

    /// How many transactions wait.
    pub fn waiting(&self) -> usize {
        self.pool.len()
    }

    /// How many entries of old are kept, at most, of one hotkey.
    pub fn history(&self) -> usize {
        self.entries.iter().map(VecDeque::len).max().unwrap_or(0)
    }

    fn block(&self, number: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The hash of a block of this branch.
    pub fn hash(&self, number: u64) -> Option<Hash> {
        self.block(number).map(|block| Hash(name(3, block.salt)))
    }

    /// What who looks at what was known at this second sees.
    pub fn view(&self, time: u64) -> View {
        let known = |at: fn(&Block) -> u64| {
            let behind = self.blocks.iter().rev().take_while(|block| at(block) > time).count();
            // Who looks further back than is kept sees the oldest that is.
            self.first + self.blocks.len().saturating_sub(behind + 1) as u64
        };
        let best = known(|block| block.time);
        View { best, fin: known(|block| block.final_at).min(best) }
    }

    /// What a hotkey's entry was at a block.
    pub fn entry(&self, node: usize, block: u64) -> Entry {
        let puts = self.entries.get(node).into_iter().flatten();
        puts.rev().find(|put| put.block <= block).map_or(Entry::default(), |put| put.entry)
    }

    /// The block at which a hotkey's entry of that block was put.
    pub fn put_at(&self, node: usize, block: u64) -> Option<u64> {
        self.entries.get(node)?.iter().rev().find(|put| put.block <= block).map(|put| put.block)
    }

    /// Whether one of a hotkey's transactions waits.
    pub fn pending(&self, node: usize) -> bool {
        self.pool.iter().any(|tx| tx.node == node)
    }

    /// Send a transaction; it takes 1 to 3 blocks.
    pub fn send(&mut self, node: usize, entry: Entry, dice: &mut Dice) {
        self.sequence += 1;
        let due = self.best() + dice.between(1, 3);
        self.pool.push(Transaction { node, sequence: self.sequence, entry, due });
    }

    /// A slot passes. Says how many blocks of the old branch were given up.
    pub fn slot(&mut self, now: u64, dice: &mut Dice) -> u64 {
        if dice.per_mille(if self.trouble.missing > 0 { 300 } else { 10 }) {
            return 0;
        }
        let mut lost = 0;
        let open = self.best().saturating_sub(self.finalized);
        if open > 0 && dice.per_mille(if self.trouble.forking > 0 { 250 } else { 15 }) {
            lost = dice.between(1, if self.trouble.forking > 0 { open } else { 1 });
            self.give_up(lost, dice);
            for _ in 0..lost {
                self.produce(now, dice);
            }
        }
        self.produce(now, dice);
        if self.trouble.stalled == 0 {
            while self.finalized + self.finality < self.best() {
                self.finalized += 1;
                let index = (self.finalized - self.first) as usize;
                if let Some(block) = self.blocks.get_mut(index) {
                    block.final_at = now;
                }
            }
        }
        while self.first + KEPT < self.finalized {
            self.blocks.pop_front();
            self.first += 1;
        }
        lost
    }

    fn give_up(&mut self, count: u64, dice: &mut Dice) {
        let new = self.best() - count;
        self.blocks.truncate((new + 1 - self.first) as usize);
        for (node, puts) in self.entries.iter_mut().enumerate() {
            while let Some(put) = puts.back().filter(|put| put.block > new).copied() {
                puts.pop_back();
                // Most come back into the pool, later; some are forgotten.
                if !dice.per_mille(100) {
                    let due = new + count + dice.between(1, 3);
                    self.pool.push(Transaction { node, sequence: put.sequence, entry: put.entry, due });
                }
            }
        }
    }

    fn produce(&mut self, now: u64, dice: &mut Dice) {
        let number = self.best() + 1;
        self.blocks.push_back(Block { time: now, salt: mix(dice.bits() ^ number), final_at: u64::MAX });
        if !self.pool.iter().any(|tx| tx.due <= number) {
            return;
        }
        let mut ready: Vec<_> = Vec::new();
        let mut at = 0;
        while at < self.pool.len() {
            if self.pool[at].due <= number { ready.push(self.pool.swap_remove(at)) } else { at += 1 }
        }
        // A hotkey's transactions go in by their nonce.
        ready.sort_unstable_by_key(|tx| tx.sequence);
        let old = self.finalized.saturating_sub(KEPT);
        for tx in ready {
            let Some(puts) = self.entries.get_mut(tx.node) else { continue };
            // One whose nonce is used up has no effect any more.
            if puts.back().is_none_or(|put| put.sequence < tx.sequence) {
                puts.push_back(Put { block: number, sequence: tx.sequence, entry: tx.entry });
            }
            while puts.get(1).is_some_and(|put| put.block < old) {
                puts.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_final_stays_and_time_goes_on() {
        let mut dice = Dice::new(7, 0);
        let mut chain = Chain::new(100, 2, 3);
        chain.trouble.forking = 1;
        let mut known = std::collections::BTreeMap::new();
        let mut lost = 0;
        for slot in 1..2000 {
            if slot % 5 == 0 {
                let entry = Entry { last: Some(Hash(name(9, slot))), ..Entry::default() };
                chain.send((slot % 2) as usize, entry, &mut dice);
            }
            lost += chain.slot(slot * SLOT, &mut dice);
            let fin = chain.finalized();
            let fact = (chain.hash(fin), chain.entry(0, fin), chain.entry(1, fin));
            assert_eq!(*known.entry(fin).or_insert(fact), fact, "block {fin}");
            let view = chain.view(slot * SLOT);
            assert_eq!((view.best, view.fin), (chain.best(), fin));
            let old = chain.view((slot * SLOT).saturating_sub(30));
            assert!(old.best <= view.best && old.fin <= fin);
        }
        assert!(lost > 500 && chain.best() > 1900 && chain.waiting() < 8 && chain.history() < 300);
    }
}
