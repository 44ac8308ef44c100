//! When a subnet's epochs are, and when what is committed now is revealed.

/// How the chain reckons the epochs of a subnet, and its state at a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epochs {
    /// As state. Source: Subtensor's `should_run_epoch`, from spec 423 on.
    Kept {
        /// Block of the last epoch.
        last: u64,
        /// An epoch that its owner asked for, 0 for none.
        pending: u64,
        /// Number of epochs so far.
        index: u64,
        /// Blocks since the last epoch that went through.
        since: u64,
        /// Blocks between two.
        tempo: u64,
    },
    /// By the block's number. Source: Subtensor's `blocks_until_next_epoch`, up to spec 422.
    Counted {
        /// Blocks between two, less one.
        tempo: u64,
        /// The subnet: not all have theirs in one block.
        netuid: u64,
    },
}

/// After so many blocks an epoch runs whatever the tempo is.
const LONGEST_TEMPO: u64 = 50_400;
/// Reveals may be 100 epochs away; what is further is never.
const FURTHEST: u64 = 100 * LONGEST_TEMPO + 2;

impl Epochs {
    /// Whether an epoch is due in a block, by the state before it.
    pub fn due(&self, block: u64) -> bool {
        match *self {
            Epochs::Kept { tempo: 0, .. } => false,
            Epochs::Kept { last, pending, since, tempo, .. } => {
                (pending > 0 && block >= pending) || since > LONGEST_TEMPO || block.saturating_sub(last) >= tempo
            }
            Epochs::Counted { tempo, netuid } => {
                tempo > 0 && Self::place(block, netuid) % tempo.saturating_add(1) == tempo
            }
        }
    }

    /// The number of the epoch that a block belongs to, by the state before it; one that is due in it counts.
    pub fn number(&self, block: u64) -> u64 {
        match *self {
            Epochs::Kept { index, .. } => index.saturating_add(self.due(block).into()),
            Epochs::Counted { tempo, netuid } => {
                Self::place(block, netuid) / tempo.saturating_add(1) + u64::from(self.due(block))
            }
        }
    }

    /// Subnets are shifted against each other, so that not all have their epoch in one block.
    fn place(block: u64, netuid: u64) -> u64 {
        block.saturating_add(netuid).saturating_add(1)
    }

    /// The first block of the epoch that a block belongs to, by the state after it.
    pub fn began(&self, block: u64) -> u64 {
        match *self {
            Epochs::Kept { last, .. } => last,
            Epochs::Counted { tempo, netuid } => {
                let place = Self::place(block, netuid) % tempo.saturating_add(1);
                if place == tempo { block } else { block.saturating_sub(place + 1) }
            }
        }
    }

    /// The next block with an epoch, by the state after `now`; `None` where the subnet has none.
    pub fn next(&self, now: u64) -> Option<u64> {
        let first = now.saturating_add(1);
        (first..first.saturating_add(LONGEST_TEMPO + 2)).find(|block| {
            // The count of blocks goes on while nothing else changes.
            let passed = block - first;
            match *self {
                Epochs::Kept { last, pending, index, since, tempo } => {
                    let since = since.saturating_add(passed);
                    Epochs::Kept { last, pending, index, since, tempo }.due(*block)
                }
                counted @ Epochs::Counted { .. } => counted.due(*block),
            }
        })
    }

    /// The state after a block.
    fn after(self, block: u64) -> Self {
        match self {
            Epochs::Kept { index, tempo, .. } if self.due(block) => {
                Epochs::Kept { last: block, pending: 0, index: index.saturating_add(1), since: 0, tempo }
            }
            Epochs::Kept { last, pending, index, since, tempo } => {
                Epochs::Kept { last, pending, index, since: since.saturating_add(1), tempo }
            }
            counted @ Epochs::Counted { .. } => counted,
        }
    }

    /// The first block in which the chain reveals what is committed in the block after `now`, whose state this is;
    /// `None` where the subnet has no epochs. `period` is in epochs.
    pub fn reveal(&self, now: u64, period: u64) -> Option<u64> {
        let commit = now.saturating_add(1);
        let mut epochs = self.after(commit);
        let goal = match epochs {
            // What is committed in a block comes behind its epoch.
            Epochs::Kept { index, .. } => index.saturating_add(period),
            Epochs::Counted { tempo, netuid } => {
                let first = self.number(commit).saturating_add(period).saturating_mul(tempo.saturating_add(1));
                return (tempo > 0).then(|| first.saturating_sub(netuid + 1));
            }
        };
        (commit.saturating_add(1)..commit.saturating_add(FURTHEST)).find(|block| {
            let reached = epochs.number(*block) >= goal;
            epochs = epochs.after(*block);
            reached
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reveal_is_so_many_epochs_after_its_commit() {
        let kept = Epochs::Kept { last: 100, pending: 0, index: 7, since: 4, tempo: 10 };
        // Epochs at 110, 120, 130.
        assert_eq!((kept.reveal(104, 1), kept.reveal(104, 2)), (Some(110), Some(120)));
        assert_eq!(kept.reveal(108, 1), Some(110));
        // The commit lands behind the epoch of block 110.
        assert_eq!(kept.reveal(109, 1), Some(120));
        // The owner asks for one at 106.
        let asked = Epochs::Kept { last: 100, pending: 106, index: 7, since: 4, tempo: 10 };
        assert_eq!((asked.reveal(103, 1), asked.reveal(105, 1)), (Some(106), Some(116)));
        assert_eq!(Epochs::Kept { last: 0, pending: 0, index: 0, since: 0, tempo: 0 }.reveal(5, 1), None);

        // An epoch runs where (block + netuid + 1) % (tempo + 1) is the tempo, and counts from its own block on.
        let counted = Epochs::Counted { tempo: 10, netuid: 1 };
        assert!(counted.due(8) && counted.due(19) && !counted.due(9));
        assert_eq!((counted.number(7), counted.number(8), counted.number(9), counted.number(19)), (0, 1, 1, 2));
        assert_eq!((counted.reveal(4, 1), counted.reveal(7, 1), counted.reveal(4, 3)), (Some(9), Some(20), Some(31)));
        assert_eq!(Epochs::Counted { tempo: 0, netuid: 1 }.reveal(5, 1), None);
        assert_eq!((kept.began(104), kept.next(104), asked.next(104)), (100, Some(110), Some(106)));
        assert_eq!((counted.began(8), counted.began(18), counted.next(8)), (8, 8, Some(19)));
    }

    #[test]
    fn numbers_from_a_chain_do_not_overflow() {
        let wild = Epochs::Kept { last: u64::MAX, pending: u64::MAX, index: 1, since: u64::MAX, tempo: u64::MAX };
        assert!(wild.due(3) && wild.reveal(u64::MAX - 5, u64::MAX).is_none());
        let wild = Epochs::Counted { tempo: u64::MAX, netuid: u64::MAX - 1 };
        assert!(wild.reveal(u64::MAX, u64::MAX).is_some());
    }
}
