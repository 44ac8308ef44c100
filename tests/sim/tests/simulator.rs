//! The simulator finds what it should, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic)]

use sim::{
    Edits, Invariant, Kind, Mutation, Policy, Report, Scenario, World, play, policy::MUTATIONS, shrink::shrink,
    trace::Trace,
};
use std::{cell::RefCell, io::Write, rc::Rc};

fn honest(seed: u64, kind: Kind) -> Report {
    play(seed, kind, &Edits::default(), Policy::default())
}

#[test]
fn small_networks_keep_every_invariant() {
    let (mut windows, mut finals) = (0, 0);
    for seed in 0..150 {
        let report = honest(seed, Kind::Small);
        assert_eq!(report.violation, None, "make sim SEED={seed} KIND=small");
        windows += report.windows;
        finals += report.finals;
    }
    assert!(windows > 3000 && finals * 10 > windows * 8, "{finals} of {windows}");
}

#[test]
fn a_large_network_keeps_every_invariant() {
    // The first seeds of that size: 10 validators and 256 miners.
    let large = |seed: &u64| Scenario::new(*seed, Kind::Mixed, &Edits::default()).nodes() == 266;
    let seed = (0..).find(large).unwrap();
    let edits = Edits { faulty: Some(4), ..Edits::default() };
    let report = play(seed, Kind::Mixed, &edits, Policy::default());
    assert_eq!(report.violation, None, "make sim SEED={seed}");
    assert!(report.windows >= 10);
}

#[test]
fn where_nothing_fails_each_window_has_its_record_and_all_enters() {
    for seed in 0..6 {
        let report = honest(seed, Kind::Calm);
        assert_eq!(report.violation, None);
        assert_eq!((report.finals, report.entered), (report.windows, report.committed), "seed {seed}");
        assert!(report.committed >= 15 * report.windows);
    }
}

#[test]
fn with_one_in_five_peers_failing_at_any_time_nearly_all_enters() {
    let reports: Vec<Report> = (0..3).map(|seed| honest(seed, Kind::Failing)).collect();
    assert!(reports.iter().all(|report| report.violation.is_none()));
    let committed: u64 = reports.iter().map(|report| report.committed).sum();
    let entered: u64 = reports.iter().map(|report| report.entered).sum();
    assert!(committed > 4000 && entered * 100 >= committed * 98, "{entered} of {committed}");
}

/// What a run prints.
fn printed(seed: u64) -> (String, Report) {
    #[derive(Clone, Default)]
    struct Page(Rc<RefCell<Vec<u8>>>);
    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let page = Page::default();
    let scenario = Scenario::new(seed, Kind::Small, &Edits::default());
    let report = World::new(scenario, Policy::default(), Trace::new(Some(Box::new(page.clone())))).play();
    let text = String::from_utf8(page.0.borrow().clone()).unwrap();
    (text, report)
}

#[test]
fn a_seed_replays_to_the_byte() {
    for seed in [3, 4, 5] {
        let ((text, report), (again, second)) = (printed(seed), printed(seed));
        assert!(text == again && report.trace == second.trace, "seed {seed}");
        // Nor does it matter whether anybody looks.
        assert_eq!(honest(seed, Kind::Small).trace, report.trace);
        assert_eq!(text.lines().count() as u64, report.events);
    }
    assert_ne!(honest(3, Kind::Small).trace, honest(4, Kind::Small).trace);
}

/// The first seed that finds a broken rule.
fn found(mutation: Mutation, within: u64) -> Option<(u64, Invariant)> {
    (0..within).find_map(|seed| {
        let report = play(seed, Kind::Small, &Edits::default(), Policy(Some(mutation)));
        Some((seed, report.violation?.invariant))
    })
}

/// Rules that matter rarely, and the number of seeds in which the simulator finds them broken; all others take 60.
const RARE: [(&str, u64); 4] = [("proposer", 3000), ("one-turn", 4000), ("most-stake", 600), ("no-show", 600)];

#[test]
fn every_rule_that_is_broken_on_purpose_is_found() {
    let mut missed = Vec::new();
    for (name, mutation) in MUTATIONS {
        let within = RARE.iter().find(|(rare, _)| *rare == name).map_or(60, |(_, within)| *within);
        if found(mutation, within).is_none() {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn what_fails_shrinks_and_fails_the_same_way() {
    let policy = Policy(Some(Mutation::Plurality));
    let (seed, invariant) = found(Mutation::Plurality, 60).unwrap();
    let whole = Scenario::new(seed, Kind::Small, &Edits::default());
    let small = shrink(seed, Kind::Small, policy, 150).unwrap();
    let scenario = Scenario::new(seed, Kind::Small, &small.edits);
    let size = |scenario: &Scenario| scenario.faults.len() + scenario.miners.len() + scenario.faulty as usize;
    assert!(size(&scenario) < size(&whole) && scenario.sound());
    let again = play(seed, Kind::Small, &small.edits, policy);
    assert_eq!(again.violation.map(|violation| violation.invariant), Some(invariant));
    assert_eq!(again.trace, small.report.trace);
    // With all rules kept, neither breaks anything.
    assert_eq!(play(seed, Kind::Small, &small.edits, Policy::default()).violation, None);
    assert!(shrink(seed, Kind::Small, Policy::default(), 150).is_none());
}
