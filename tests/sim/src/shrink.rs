//! A failing seed made small: without what is not needed to break the same invariant.

use crate::{Edits, Invariant, Kind, Policy, Report, Scenario, play};

/// A smaller run that breaks the same invariant, and how it went.
pub struct Shrunk {
    /// What is left out.
    pub edits: Edits,
    /// How it went.
    pub report: Report,
}

struct Shrinker {
    seed: u64,
    kind: Kind,
    policy: Policy,
    invariant: Invariant,
    left: u32,
    found: Shrunk,
}

impl Shrinker {
    /// Whether the same breaks with these parts left out; then they are.
    fn try_out(&mut self, edits: Edits) -> bool {
        let sound = Scenario::new(self.seed, self.kind, &edits).sound();
        if self.left == 0 || edits == self.found.edits || !sound {
            return false;
        }
        self.left -= 1;
        let report = play(self.seed, self.kind, &edits, self.policy);
        let same = report.violation.as_ref().is_some_and(|violation| violation.invariant == self.invariant);
        if same {
            self.found = Shrunk { edits, report };
        }
        same
    }

    fn scenario(&self) -> Scenario {
        Scenario::new(self.seed, self.kind, &self.found.edits)
    }

    /// Leave out faults: halves first, then single ones.
    fn faults(&mut self) {
        let all = Scenario::new(self.seed, self.kind, &Edits::default()).faults.len();
        let mut kept = self.found.edits.faults.clone().unwrap_or_else(|| (0..all).collect());
        let mut size = kept.len();
        while size > 0 {
            let mut at = 0;
            while at < kept.len() {
                let mut fewer = kept.clone();
                fewer.drain(at..(at + size).min(kept.len()));
                if self.try_out(Edits { faults: Some(fewer.clone()), ..self.found.edits.clone() }) {
                    kept = fewer;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn fewer_windows(&mut self) {
        let mut step = self.scenario().faulty / 2;
        while step > 0 {
            let faulty = self.scenario().faulty.saturating_sub(step);
            if faulty == 0 || !self.try_out(Edits { faulty: Some(faulty), ..self.found.edits.clone() }) {
                step /= 2;
            }
        }
    }

    fn fewer_miners(&mut self) {
        let mut step = self.scenario().miners.len() / 2;
        while step > 0 {
            let miners = self.scenario().miners.len().saturating_sub(step);
            if miners == 0 || !self.try_out(Edits { miners: Some(miners), ..self.found.edits.clone() }) {
                step /= 2;
            }
        }
    }

    fn fewer_validators(&mut self) {
        for node in (0..self.scenario().validators.len()).rev() {
            let mut edits = self.found.edits.clone();
            edits.without.push(node);
            edits.without.sort_unstable();
            edits.without.dedup();
            self.try_out(edits);
        }
    }

    fn more_honesty(&mut self) {
        for node in 0..self.scenario().nodes() {
            if !self.scenario().honest(node) {
                let mut edits = self.found.edits.clone();
                edits.honest.push(node);
                self.try_out(edits);
            }
        }
    }
}

/// Shrink a failing run, in at most `tries` replays. `None` where it does not fail.
pub fn shrink(seed: u64, kind: Kind, policy: Policy, tries: u32) -> Option<Shrunk> {
    let report = play(seed, kind, &Edits::default(), policy);
    let invariant = report.violation.as_ref()?.invariant;
    let found = Shrunk { edits: Edits::default(), report };
    let mut shrinker = Shrinker { seed, kind, policy, invariant, left: tries, found };
    loop {
        let before = shrinker.found.edits.clone();
        shrinker.fewer_windows();
        shrinker.faults();
        shrinker.fewer_miners();
        shrinker.more_honesty();
        shrinker.fewer_validators();
        if shrinker.found.edits == before || shrinker.left == 0 {
            return Some(shrinker.found);
        }
    }
}
