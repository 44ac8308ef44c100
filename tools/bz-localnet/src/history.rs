//! The blocks that a node still has: the first, and the last ones.

use crate::runtime::Header;
use sp_core::H256;
use sp_runtime::traits::Header as _;
use std::collections::VecDeque;

/// One block that was made.
pub struct Made {
    /// Its header.
    pub header: Header,
    /// Its header's hash.
    pub hash: H256,
    /// Its extrinsics.
    pub extrinsics: Vec<Vec<u8>>,
    /// Where it begins in the log.
    pub logged_at: u64,
}

impl Made {
    /// A block that begins at this place of the log.
    pub fn new(header: Header, extrinsics: Vec<Vec<u8>>, logged_at: u64) -> Self {
        Made { hash: header.hash(), header, extrinsics, logged_at }
    }
}

/// The first block, and all from another one on.
pub struct History {
    genesis: Made,
    /// The number of the first of `later`.
    first: usize,
    later: VecDeque<Made>,
}

impl History {
    /// That of a chain of one block.
    pub fn new(genesis: Made) -> Self {
        History { genesis, first: 1, later: VecDeque::new() }
    }

    /// The number of the last block.
    pub fn last(&self) -> usize {
        self.first + self.later.len() - 1
    }

    /// The number of the oldest block behind the first that is still here.
    pub fn oldest(&self) -> usize {
        self.first
    }

    /// A block.
    pub fn get(&self, number: usize) -> Option<&Made> {
        if number == 0 {
            return Some(&self.genesis);
        }
        number.checked_sub(self.first).and_then(|place| self.later.get(place))
    }

    /// The last block.
    pub fn newest(&self) -> &Made {
        self.later.back().unwrap_or(&self.genesis)
    }

    /// The number of the block with this hash.
    pub fn find(&self, hash: H256) -> Option<usize> {
        // The newest blocks are asked for most.
        let place = self.later.iter().rposition(|block| block.hash == hash).map(|place| self.first + place);
        place.or_else(|| (self.genesis.hash == hash).then_some(0))
    }

    /// The next block. A node that has none but the first takes any number: those between were left behind.
    pub fn push(&mut self, block: Made) {
        if self.later.is_empty() {
            self.first = *block.header.number() as usize;
        }
        self.later.push_back(block);
    }

    /// Take back all blocks behind this one; they, oldest first.
    pub fn take_back(&mut self, kept: usize) -> Vec<Made> {
        let place = (kept + 1).saturating_sub(self.first).min(self.later.len());
        self.later.split_off(place).into()
    }

    /// Leave behind all but so many last blocks; where the log of those that stay begins, if any was left.
    pub fn leave(&mut self, keep: usize) -> Option<u64> {
        let away = self.later.len().checked_sub(keep).filter(|away| *away > 0 && keep > 0)?;
        self.later.drain(..away);
        self.first += away;
        let begin = self.later.front()?.logged_at;
        self.later.iter_mut().for_each(|block| block.logged_at -= begin);
        Some(begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u32) -> Made {
        let header = Header::new(number, H256::zero(), H256::zero(), H256::zero(), Default::default());
        Made::new(header, Vec::new(), u64::from(number) * 10)
    }

    #[test]
    fn old_blocks_are_left_and_the_first_stays() {
        let mut history = History::new(block(0));
        assert_eq!((history.last(), history.oldest()), (0, 1));
        (1..=9).for_each(|number| history.push(block(number)));
        assert_eq!(history.leave(9), None);
        assert_eq!(history.leave(4), Some(60), "blocks 6 to 9 stay");
        assert_eq!((history.last(), history.oldest()), (9, 6));
        let number = |number: usize| history.get(number).map(|block| *block.header.number());
        assert_eq!(
            [number(0), number(1), number(5), number(6), number(9), number(10)],
            [Some(0), None, None, Some(6), Some(9), None]
        );
        assert_eq!(history.get(6).map(|block| block.logged_at), Some(0));
        assert_eq!(history.get(8).map(|block| block.logged_at), Some(20));
        assert_eq!((history.find(block(7).hash), history.find(block(0).hash)), (Some(7), Some(0)));
        assert_eq!(history.find(block(3).hash), None);
        let back: Vec<u32> = history.take_back(7).iter().map(|block| *block.header.number()).collect();
        assert_eq!((back, history.last()), (vec![8, 9], 7));
        history.push(block(8));
        assert_eq!(history.newest().hash, block(8).hash);
        // One that begins at a snapshot.
        let mut later = History::new(block(0));
        later.push(block(500));
        assert_eq!((later.last(), later.oldest()), (500, 500));
    }
}
