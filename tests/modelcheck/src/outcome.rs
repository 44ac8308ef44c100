//! How an honest node reads the votes.

use crate::{
    facts::validator,
    scene::Scene,
    setup::{Broken, Setup},
    state::At,
};
use protocol::{Electorate, Outcome, Peers, tally};

/// The outcome, as a node reads it that heard of these validators in this window.
pub fn read(
    setup: &Setup,
    peers: &Peers,
    scene: &Scene,
    votes: &[Option<At>; 3],
    heard: &[usize],
) -> (Outcome, Electorate) {
    let mut electorate = scene.electorate.clone();
    let votes = scene.votes(votes);
    if setup.broken == Some(Broken::OwnElectorate) {
        electorate = Electorate::new(heard.iter().map(|n| validator(*n)), peers, false);
    }
    if setup.broken == Some(Broken::Plurality) {
        let support = tally::support(&electorate, &votes);
        let most = support.iter().max_by_key(|(_, stake)| **stake).map(|(record, _)| *record);
        return (most.map_or(Outcome::None, Outcome::Final), electorate);
    }
    (protocol::tally(&electorate, &votes), electorate)
}
