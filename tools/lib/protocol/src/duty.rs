//! What a loop does next: a function of the chain's head and of what the node has done.

use crate::clock::Clock;
use ::record::Window;

/// How far a node's own work has come: the newest window of which each part is done, or given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The outcome is known, and followed.
    pub tallied: Option<Window>,
    /// Trained on, and committed to.
    pub committed: Option<Window>,
    /// The oldest window that was committed to and not sent.
    pub unsent: Option<Window>,
    /// Deltas are fetched and checked.
    pub checked: Option<Window>,
    /// Proposed and voted.
    pub voted: Option<Window>,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Read the votes of this window, and follow what is final.
    Tally(Window),
    /// Train on this window's pages, and commit.
    Train(Window),
    /// Send what the draw asks for.
    Send(Window),
    /// Fetch and check this window's deltas.
    Check(Window),
    /// Propose, judge and vote.
    Vote(Window),
    /// Nothing until this block.
    Wait(u64),
}

fn after(done: Option<Window>, window: Window) -> bool {
    done.is_none_or(|done| done < window)
}

/// The duty of a miner's sending half at a finalized block, which runs beside its training: a commitment is honoured as long as
/// that counts.
pub fn sender(clock: &Clock, block: u64, done: &Done) -> Duty {
    let Some(unsent) = done.unsent else {
        return Duty::Wait(clock.moments(clock.window_at(block)).draw.max(block.saturating_add(1)));
    };
    let moments = clock.moments(unsent);
    if block < moments.draw { Duty::Wait(moments.draw) } else { Duty::Send(unsent) }
}

/// The duty of a miner's training half. Windows that are over are not trained on.
pub fn trainer(clock: &Clock, start: Window, block: u64, done: &Done) -> Duty {
    if let Some(tallied) = clock.tallied_at(block)
        && tallied >= start
        && after(done.tallied, tallied)
    {
        return Duty::Tally(tallied);
    }
    let window = Window(clock.window_at(block).0.max(start.0));
    let train = |window: Window| clock.moments(window).train;
    if after(done.committed, window) && block >= train(window) {
        return Duty::Train(window);
    }
    let tally = clock.moments(next_tally(clock, start, block, done)).tally;
    let times = [train(window), train(Window(window.0.saturating_add(1))), tally];
    Duty::Wait(times.into_iter().filter(|at| *at > block).min().unwrap_or(block.saturating_add(1)))
}

/// A validator's next duty at a finalized block: each window's outcome first, since all else stands on it.
pub fn validator(clock: &Clock, start: Window, block: u64, done: &Done) -> Duty {
    if let Some(tallied) = clock.tallied_at(block)
        && tallied >= start
        && after(done.tallied, tallied)
    {
        return Duty::Tally(tallied);
    }
    let ended = clock.window_at(block).0.checked_sub(1).map(Window).filter(|ended| *ended >= start);
    let mut times = vec![clock.moments(next_tally(clock, start, block, done)).tally];
    if let Some(window) = ended {
        let moments = clock.moments(window);
        if after(done.checked, window) && block >= moments.draw && block < moments.tally {
            return Duty::Check(window);
        }
        if after(done.voted, window) && block >= moments.propose && block < moments.tally {
            return Duty::Vote(window);
        }
        times.extend([moments.draw, moments.propose]);
    }
    let next = clock.moments(Window(clock.window_at(block).0.max(start.0)));
    times.extend([next.draw, next.propose]);
    Duty::Wait(times.into_iter().filter(|at| *at > block).min().unwrap_or(block.saturating_add(1)))
}

/// The window whose tally is read next.
fn next_tally(clock: &Clock, start: Window, block: u64, done: &Done) -> Window {
    let known = clock.tallied_at(block).max(done.tallied);
    Window(known.map_or(start.0, |known| known.0.saturating_add(1).max(start.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Lag;
    use proptest::prelude::*;

    fn clock(lag: Lag) -> Clock {
        Clock { blocks: 60, page: 5, commit: 3, deadline: 15, propose: 20, grace: 4, tally: 45, lag }
    }

    type Role<'a> = &'a dyn Fn(u64, &Done) -> Duty;

    /// Do all that is asked for, a block at a time, and say in which block it was.
    fn walk(roles: &[Role<'_>], blocks: std::ops::Range<u64>) -> Vec<(u64, Duty)> {
        let mut done = Done::default();
        let mut unsent = std::collections::BTreeSet::new();
        let mut all = Vec::new();
        for block in blocks {
            for role in roles {
                loop {
                    done.unsent = unsent.first().copied();
                    let duty = role(block, &done);
                    match duty {
                        Duty::Tally(w) => done.tallied = Some(w),
                        Duty::Train(w) => {
                            done.committed = Some(w);
                            unsent.insert(w);
                        }
                        Duty::Send(w) => assert!(unsent.remove(&w)),
                        Duty::Check(w) => done.checked = Some(w),
                        Duty::Vote(w) => done.voted = Some(w),
                        Duty::Wait(until) => {
                            assert!(until > block, "{block}: {until}");
                            break;
                        }
                    }
                    all.push((block, duty));
                }
            }
        }
        all
    }

    #[test]
    fn a_miner_trains_sends_and_follows() {
        let (ten, eleven) = (Window(10), Window(11));
        let miner = |lag| {
            walk(
                &[&|block, done| trainer(&clock(lag), ten, block, done), &|b, done| sender(&clock(lag), b, done)],
                600..730,
            )
        };
        assert_eq!(
            miner(Lag::One),
            [
                (600, Duty::Train(ten)),
                (660, Duty::Train(eleven)),
                (663, Duty::Send(ten)),
                (704, Duty::Tally(ten)),
                (720, Duty::Train(Window(12))),
                (723, Duty::Send(eleven))
            ]
        );
        assert_eq!(
            miner(Lag::Zero),
            [
                (644, Duty::Train(ten)),
                (663, Duty::Send(ten)),
                (704, Duty::Tally(ten)),
                (704, Duty::Train(eleven)),
                (723, Duty::Send(eleven))
            ]
        );
    }

    #[test]
    fn a_validator_checks_votes_and_follows() {
        assert_eq!(
            walk(&[&|block, done| validator(&clock(Lag::One), Window(10), block, done)], 600..730),
            [
                (663, Duty::Check(Window(10))),
                (679, Duty::Vote(Window(10))),
                (704, Duty::Tally(Window(10))),
                (723, Duty::Check(Window(11)))
            ]
        );
    }

    #[test]
    fn windows_that_are_over_are_not_trained_on() {
        let done = Done { committed: Some(Window(10)), ..Done::default() };
        // After ten windows away: the outcome first, and then the window of the moment.
        assert_eq!(trainer(&clock(Lag::One), Window(10), 1265, &done), Duty::Tally(Window(19)));
        let done = Done { tallied: Some(Window(19)), ..done };
        assert_eq!(trainer(&clock(Lag::One), Window(10), 1265, &done), Duty::Train(Window(21)));
    }

    proptest! {
        /// Whatever was done, there is a duty, and waiting ends later than now.
        #[test]
        fn every_wait_ends(block in 0u64..1 << 50, start in 0u64..1 << 40, of in prop::collection::vec(prop::option::of(0u64..1 << 45), 5)) {
            let at = |n: usize| of[n].map(Window);
            let done = Done { tallied: at(0), committed: at(1), unsent: at(2), checked: at(3), voted: at(4) };
            for lag in [Lag::Zero, Lag::One] {
                if let Duty::Wait(until) = sender(&clock(lag), block, &done) {
                    prop_assert!(until > block && until <= block.max(at(2).map_or(0, |w| clock(lag).moments(w).draw)) + 200);
                }
                for role in [trainer, validator] {
                    if let Duty::Wait(until) = role(&clock(lag), Window(start), block, &done) {
                        prop_assert!(until > block);
                        prop_assert!(until <= block.max(clock(lag).moments(Window(start)).tally).max(done.tallied.map_or(0, |w| clock(lag).moments(w).tally)) + 200);
                    }
                }
            }
        }
    }
}
