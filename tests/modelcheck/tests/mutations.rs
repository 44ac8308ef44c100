//! Each rule removed once: the checker must find what it is good for. Without this the search could be blind.
#![allow(clippy::panic, clippy::print_stdout)]

use modelcheck::{Broken, Network, Setup, network::Step};
use protocol::Rules;
use stateright::{Checker, HasDiscoveries, Model};

const AGREE: &str = "no two honest nodes hold different outcomes";
const STANDS: &str = "honest stake stands behind every final record";
const ENTERS: &str = "nothing enters that is barred";
const FOLLOWS: &str = "every final record follows the last";
const MOVES: &str = "the model moves once faults end";

/// Search until one of these properties is found not to hold; the steps that lead there.
fn finds(setup: Setup, one_of: &[&'static str]) -> Vec<Step> {
    let broken = setup.broken;
    let until = HasDiscoveries::AnyOf(one_of.iter().copied().collect());
    let checker = Network::new(setup).checker().finish_when(until).spawn_dfs().join();
    let states = checker.unique_state_count();
    let Some((property, path)) = checker.discoveries().into_iter().find(|(found, _)| one_of.contains(found)) else {
        panic!("{broken:?}: none of {one_of:?} in {states} states");
    };
    println!("{broken:?}: {property}, {states} states");
    path.into_actions()
}

fn without(broken: Broken, setup: Setup, one_of: &[&'static str]) -> Vec<Step> {
    finds(Setup { broken: Some(broken), ..setup }, one_of)
}

/// One window, in which nothing fails but the liar.
fn quiet(liar: usize) -> Setup {
    Setup { windows: 1, ..Setup::new(liar) }
}

#[test]
fn without_the_hash_of_the_last_record_the_run_is_rolled_back() {
    let two = Setup { windows: 2, faults: 0, reorgs: 0, hostile_miner: false, ..Setup::new(0) };
    without(Broken::NoPrev, two, &[FOLLOWS]);
}

#[test]
fn with_a_plurality_the_liar_alone_decides() {
    let one_fault = Setup { windows: 2, reorgs: 0, ..Setup::new(0) };
    for property in [STANDS, ENTERS, FOLLOWS] {
        without(Broken::Plurality, one_fault.clone(), &[property]);
    }
}

#[test]
fn without_judging_what_the_liar_signs_enters() {
    for property in [STANDS, ENTERS] {
        without(Broken::NoJudging, quiet(0), &[property]);
    }
}

#[test]
fn with_an_electorate_of_those_one_heard_of_nodes_disagree() {
    let one_fault = Setup { windows: 2, reorgs: 0, ..Setup::new(0) };
    without(Broken::OwnElectorate, one_fault, &[AGREE]);
}

#[test]
fn with_votes_of_a_block_that_is_not_final_nodes_disagree() {
    let one_reorganisation = Setup { windows: 2, faults: 0, ..Setup::new(0) };
    let steps = without(Broken::Unfinal, one_reorganisation, &[AGREE]);
    assert!(steps.iter().any(|step| matches!(step, Step::Hasty(..))));
}

#[test]
fn without_commitments_what_nobody_committed_to_enters() {
    without(Broken::NoCommitments, quiet(0), &[ENTERS]);
}

#[test]
fn without_the_share_that_may_be_left_out_nobody_stands_for_what_is_final() {
    without(Broken::NoOmission, quiet(0), &[STANDS]);
}

#[test]
fn without_the_state_computed_nobody_stands_for_what_is_final() {
    without(Broken::NoRoot, quiet(0), &[STANDS]);
}

/// What the tools owe these rules: at the last call all look at one block, and who voted for a record keeps it.
#[test]
fn the_liar_divides_those_who_look_at_different_blocks_or_keep_nothing() {
    without(Broken::CallOfOwnMoment, quiet(0), &[MOVES]);
    without(Broken::NothingKept, quiet(0), &[MOVES]);
}

/// The limits of these rules: they hold as long as the honest stake that votes is more than the liar's.
#[test]
fn the_most_stake_alone_decides_once_the_others_were_away_for_long() {
    let quiet = Setup { reorgs: 0, hostile_miner: false, ..Setup::new(0) };
    // One of the two honest ones is away for K + 1 final records, and is no member any more.
    let forgotten = Rules { inactive_records: 0, ..quiet.rules };
    finds(Setup { rules: forgotten, ..quiet }, &[FOLLOWS]);
}
