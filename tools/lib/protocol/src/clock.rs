//! The moments of a window, in blocks of the chain.

use ::record::Window;

/// When deltas enter the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// Deltas of w enter θ of w + 1: its training starts after the tally of w.
    Zero,
    /// Deltas of w enter θ of w + 2: commitments, uploads and votes hide behind the training of w + 1.
    One,
}

impl Lag {
    /// In windows.
    pub fn windows(self) -> u64 {
        match self {
            Lag::Zero => 0,
            Lag::One => 1,
        }
    }
}

/// The clock of a run. Offsets are in blocks; all but `page` count from the last block of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Length of a window.
    pub blocks: u64,
    /// The pages are drawn from the block so many before the first one.
    pub page: u64,
    /// What the chain holds at this block is committed to.
    pub commit: u64,
    /// Deltas that were not there by this block were late.
    pub deadline: u64,
    /// From here on the first in turn proposes.
    pub propose: u64,
    /// So many blocks later each next one may.
    pub grace: u64,
    /// What the chain holds at this block are the votes.
    pub tally: u64,
    /// When deltas enter.
    pub lag: Lag,
}

/// The blocks of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// Its hash says who trains on which pages.
    pub page: u64,
    /// The first block.
    pub start: u64,
    /// The last block.
    pub end: u64,
    /// Commitments count as they stand here.
    pub commit: u64,
    /// Its hash says which tiles are sent and who is audited; no commitment can be made after it is known.
    pub draw: u64,
    /// Deltas after this are late.
    pub deadline: u64,
    /// The first proposal.
    pub propose: u64,
    /// Votes count as they stand here.
    pub tally: u64,
    /// The first block from which this window's training may begin: its state is known.
    pub train: u64,
}

/// Why a clock cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// A window has at least four blocks.
    Short,
    /// 0 < commit, commit + 1 < deadline, deadline < propose, propose < tally.
    Order,
    /// The tally, when it is final, lies after the moment at which its state is needed.
    Late,
    /// A proposal's grace is nothing.
    Grace,
}

impl Clock {
    /// Whether its moments can be kept by a chain whose blocks are final so many blocks later.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, finality: u64) -> Result<(), ClockFault> {
        if self.blocks < 4 {
            return Err(ClockFault::Short);
        }
        if self.grace == 0 {
            return Err(ClockFault::Grace);
        }
        let draw = self.commit.saturating_add(1);
        let ordered = self.commit > 0 && draw < self.deadline && self.deadline < self.propose;
        if !ordered || self.propose.saturating_add(self.grace) > self.tally {
            return Err(ClockFault::Order);
        }
        // Under either lag the tally of a window is final before the next one ends: at lag 0 the next one's training has
        // to fit behind it, at lag 1 the training of the one after begins.
        if self.tally.saturating_add(finality) >= self.blocks {
            return Err(ClockFault::Late);
        }
        Ok(())
    }

    /// The blocks of a window.
    pub fn moments(&self, window: Window) -> Moments {
        let blocks = self.blocks.max(1);
        let start = window.0.saturating_mul(blocks);
        let end = start.saturating_add(blocks - 1);
        let after = |offset: u64| end.saturating_add(offset);
        let commit = after(self.commit);
        Moments {
            page: start.saturating_sub(self.page),
            start,
            end,
            commit,
            draw: commit.saturating_add(1),
            deadline: after(self.deadline),
            propose: after(self.propose),
            tally: after(self.tally),
            train: match self.lag {
                Lag::Zero => (start.saturating_sub(1)).saturating_add(self.tally),
                Lag::One => start,
            },
        }
    }

    /// The window that a block lies in.
    pub fn window_at(&self, block: u64) -> Window {
        Window(block / self.blocks.max(1))
    }

    /// The newest window whose tally block is not after this one.
    pub fn tallied_at(&self, block: u64) -> Option<Window> {
        let blocks = self.blocks.max(1);
        // tally(w) = w · blocks + blocks − 1 + tally.
        let beyond = block.checked_sub(blocks - 1)?.checked_sub(self.tally)?;
        Some(Window(beyond / blocks))
    }

    /// The last block of a window at which a vote is still sure to be counted: a transaction needs so many blocks.
    pub fn last_call(&self, window: Window, inclusion: u64) -> u64 {
        self.moments(window).tally.saturating_sub(inclusion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLOCK: Clock =
        Clock { blocks: 60, page: 5, commit: 3, deadline: 15, propose: 20, grace: 4, tally: 45, lag: Lag::One };

    #[test]
    fn moments_of_a_window_follow_each_other() {
        let m = CLOCK.moments(Window(10));
        assert_eq!((m.page, m.start, m.end, m.commit, m.draw), (595, 600, 659, 662, 663));
        assert_eq!((m.deadline, m.propose, m.tally, m.train), (674, 679, 704, 600));
        assert_eq!(CLOCK.check(3), Ok(()));
        // At lag 0 training waits for the tally of the window before.
        let zero = Clock { lag: Lag::Zero, ..CLOCK };
        assert_eq!(zero.moments(Window(11)).train, m.tally);
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let of = |f: fn(&mut Clock)| {
            let mut clock = CLOCK;
            f(&mut clock);
            clock.check(3)
        };
        assert_eq!(of(|c| c.blocks = 3), Err(ClockFault::Short));
        assert_eq!(of(|c| c.grace = 0), Err(ClockFault::Grace));
        assert_eq!(of(|c| c.commit = 0), Err(ClockFault::Order));
        assert_eq!(of(|c| c.deadline = 4), Err(ClockFault::Order), "the draw is known before the deadline");
        assert_eq!(of(|c| c.tally = 23), Err(ClockFault::Order), "the second in turn has its grace");
        assert_eq!(of(|c| c.tally = 57), Err(ClockFault::Late));
    }

    proptest! {
        #[test]
        fn every_clock_and_window_has_moments(blocks: u64, page: u64, commit: u64, tally: u64, window: u64, block: u64) {
            for lag in [Lag::Zero, Lag::One] {
                let clock = Clock { blocks, page, commit, deadline: commit, propose: commit, grace: 1, tally, lag };
                let m = clock.moments(Window(window));
                prop_assert!(m.page <= m.start && m.start <= m.end && m.end <= m.commit && m.commit <= m.draw);
                if let Some(w) = clock.tallied_at(block) {
                    prop_assert!(clock.moments(w).tally <= block);
                    prop_assert!(clock.moments(Window(w.0 + 1)).tally >= block);
                }
            }
        }
    }
}
