//! Who is there, as the chain has it at the first block of a window, and who of them votes.

use ::record::{Hotkey, Uid, Window};
use std::collections::BTreeMap;

/// Stake in the chain's smallest unit: sums are exact, in any order.
pub type Stake = u64;

/// One neuron.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peer {
    /// Its place.
    pub uid: Uid,
    /// What the chain weighs.
    pub stake: Stake,
    /// May set weights, and so vote.
    pub permit: bool,
    /// Share of the miners' emission.
    pub incentive: f64,
    /// The window in which its entry was last put on the chain.
    pub entry: Option<Window>,
}

/// The peers of a window, by hotkey.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers(pub BTreeMap<Hotkey, Peer>);

impl Peers {
    /// The hotkey at a place.
    pub fn at(&self, uid: Uid) -> Option<(Hotkey, Peer)> {
        self.0.iter().find(|(_, peer)| peer.uid == uid).map(|(hotkey, peer)| (*hotkey, *peer))
    }

    /// The stake of one that may vote; 0 of all others.
    pub fn voting(&self, hotkey: Hotkey) -> Stake {
        self.0.get(&hotkey).filter(|peer| peer.permit).map_or(0, |peer| peer.stake)
    }

    /// Those who may vote and whose entry was put within so many windows before this one: they are there, whether they vote
    /// in it or not.
    pub fn present(&self, window: Window, within: u64) -> impl Iterator<Item = Hotkey> + '_ {
        let since = window.0.saturating_sub(within);
        let present = move |peer: &Peer| peer.permit && peer.stake > 0 && peer.entry.is_some_and(|put| put.0 >= since);
        self.0.iter().filter(move |(_, peer)| present(peer)).map(|(hotkey, _)| *hotkey)
    }
}

/// Whose votes count in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    /// In turn: by stake from above, then by hotkey.
    members: Vec<(Hotkey, Stake)>,
    /// All who are there decide, since too few of the active ones have voted for too long.
    pub open: bool,
}

impl Electorate {
    /// These hotkeys, with the stake that they may vote with.
    pub fn new(hotkeys: impl IntoIterator<Item = Hotkey>, peers: &Peers, open: bool) -> Self {
        let mut members: Vec<_> = hotkeys.into_iter().map(|hotkey| (hotkey, peers.voting(hotkey))).collect();
        members.retain(|(_, stake)| *stake > 0);
        members.sort_by_key(|(hotkey, stake)| (std::cmp::Reverse(*stake), *hotkey));
        members.dedup();
        Electorate { members, open }
    }

    /// Its members in turn.
    pub fn members(&self) -> &[(Hotkey, Stake)] {
        &self.members
    }

    /// When it is a hotkey's turn: 0 is the first.
    pub fn rank(&self, hotkey: Hotkey) -> Option<u64> {
        (0..).zip(&self.members).find(|(_, (member, _))| *member == hotkey).map(|(rank, _)| rank)
    }

    /// The stake of a member; 0 of all others.
    pub fn stake(&self, hotkey: Hotkey) -> Stake {
        self.members.iter().find(|(member, _)| *member == hotkey).map_or(0, |(_, stake)| *stake)
    }

    /// All stake.
    pub fn total(&self) -> u128 {
        self.members.iter().map(|(_, stake)| u128::from(*stake)).sum()
    }
}
