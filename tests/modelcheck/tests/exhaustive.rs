//! Every interleaving, for each rank of the liar. The counts are in `README.md`.
#![allow(clippy::print_stdout)]

use modelcheck::{Network, Setup, network::Step, state::State};
use protocol::Rules;
use stateright::{Checker, DiscoveryClassification, Model, Path};
use std::time::Instant;

/// Visit all states.
fn exhaust(name: &str, setup: Setup) {
    let (start, liar) = (Instant::now(), setup.liar);
    let checker = Network::new(setup).checker().threads(2).spawn_dfs().join();
    let states = checker.unique_state_count();
    println!("{name}, liar {liar}: {states} states, {:.1} s", start.elapsed().as_secs_f64());
    for (property, path) in checker.discoveries() {
        if matches!(checker.discovery_classification(property), DiscoveryClassification::Counterexample) {
            println!("{name}: {property}: {}", trace(path));
        }
    }
    checker.assert_properties();
}

fn trace(path: Path<State, Step>) -> String {
    path.into_vec().into_iter().map(|(state, step)| format!("\n{state:?}\n  {step:?}")).collect()
}

/// For each rank of the liar.
fn all(name: &str, of: impl Fn(Setup) -> Setup) {
    for liar in 0..3 {
        exhaust(name, of(Setup::new(liar)));
    }
}

fn equal(setup: Setup) -> Setup {
    Setup { stakes: [34, 33, 33], ..setup }
}

/// No delta may be left out, but nobody has audited the second miner yet.
fn strict(setup: Setup) -> Setup {
    Setup { proven: [true, false], rules: Rules { omission: 0.0, ..setup.rules }, ..setup }
}

#[test]
fn one_window() {
    all("1 window", |setup| Setup { windows: 1, ..setup });
    all("1 window, equal stake", |setup| Setup { windows: 1, ..equal(setup) });
    all("1 window, strict", |setup| Setup { windows: 1, ..strict(setup) });
    all("1 window, every step", |setup| Setup { windows: 1, reduced: false, ..setup });
}

#[test]
fn two_windows_with_a_fault() {
    all("2 windows, fault", |setup| Setup { windows: 2, reorgs: 0, hostile_miner: false, ..setup });
}

#[test]
fn two_windows_with_a_reorganisation() {
    all("2 windows, reorganisation", |setup| Setup { windows: 2, faults: 0, ..setup });
}

#[test]
fn three_windows_of_lies() {
    all("3 windows", |setup| Setup { faults: 0, reorgs: 0, hostile_miner: false, ..setup });
}

#[test]
#[ignore = "minutes: make modelcheck"]
fn two_windows_with_all_at_once() {
    all("2 windows, fault, reorganisation", |setup| Setup { windows: 2, ..setup });
    all("2 windows, fault, reorganisation, equal stake", |setup| Setup { windows: 2, ..equal(setup) });
    all("2 windows, fault, reorganisation, strict", |setup| Setup { windows: 2, ..strict(setup) });
    all("2 windows, 2 faults", |setup| Setup { windows: 2, faults: 2, reorgs: 0, hostile_miner: false, ..setup });
    let open = |setup: Setup| Rules { open_windows: 1, ..setup.rules };
    all("2 windows, fault, open vote", |setup| Setup {
        windows: 2,
        reorgs: 0,
        hostile_miner: false,
        rules: open(setup.clone()),
        ..setup
    });
    all("2 windows, fault, every step", |setup| Setup { windows: 2, reorgs: 0, reduced: false, ..setup });
}

#[test]
#[ignore = "minutes: make modelcheck"]
fn three_windows_with_all_at_once() {
    all("3 windows, fault, reorganisation", |setup| setup);
}
