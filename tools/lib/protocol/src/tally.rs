//! What is final: a function of the chain at the tally block, the same for everybody.

use crate::{
    peers::{Electorate, Peers},
    rules::Rules,
};
use ::record::{Hash, Hotkey, Window};
use std::collections::BTreeMap;

/// The votes of a window as its tally block has them: the record that each hotkey stands for.
pub type Votes = BTreeMap<Hotkey, Hash>;

/// Of all entries at the tally block those that vote on this window.
pub fn votes(entries: impl IntoIterator<Item = (Hotkey, Window, Hash)>, window: Window) -> Votes {
    entries.into_iter().filter(|(_, of, _)| *of == window).map(|(hotkey, _, record)| (hotkey, record)).collect()
}

/// How a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More than half of the stake that counts stands for the record of this hash.
    Final(Hash),
    /// No record has as much: the model stays as it is.
    None,
}

/// The stake behind each record, of the electorate's.
pub fn support(electorate: &Electorate, votes: &Votes) -> BTreeMap<Hash, u128> {
    let mut support = BTreeMap::new();
    for (hotkey, stake) in electorate.members() {
        if let Some(record) = votes.get(hotkey) {
            *support.entry(*record).or_insert(0) += u128::from(*stake);
        }
    }
    support
}

/// What became final.
pub fn tally(electorate: &Electorate, votes: &Votes) -> Outcome {
    let total = electorate.total();
    // More than half can stand for one record only.
    let most = support(electorate, votes).into_iter().find(|(_, stake)| *stake * 2 > total);
    most.map_or(Outcome::None, |(record, _)| Outcome::Final(record))
}

/// The record that a newcomer begins with: the one that more than half of the stake holds for final, of those who are there
/// and say so. `held` is what each entry says now; who has not put its entry for long speaks of the past, and is not heard.
pub fn newest(peers: &Peers, now: Window, held: &BTreeMap<Hotkey, Hash>, rules: &Rules) -> Option<Hash> {
    let saying = peers.present(now, rules.open_windows).filter(|hotkey| held.contains_key(hotkey));
    match tally(&Electorate::new(saying, peers, true), held) {
        Outcome::Final(record) => Some(record),
        Outcome::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peer;
    use ::record::Uid;
    use proptest::prelude::*;

    fn electorate(stakes: &[u64], open: bool) -> Electorate {
        let peer = |n: usize, stake| Peer { uid: Uid(n as u16), stake, permit: true, incentive: 0.0, entry: None };
        let peers = stakes.iter().enumerate().map(|(n, stake)| (Hotkey([n as u8; 32]), peer(n, *stake))).collect();
        let peers = Peers(peers);
        Electorate::new(peers.0.keys().copied(), &peers, open)
    }

    fn votes_of(list: &[(u8, u8)]) -> Votes {
        list.iter().map(|(who, what)| (Hotkey([*who; 32]), Hash([*what; 32]))).collect()
    }

    #[test]
    fn more_than_half_of_the_stake_decides() {
        let of = |stakes: &[u64], open, list: &[(u8, u8)]| match tally(&electorate(stakes, open), &votes_of(list)) {
            Outcome::Final(record) => record.0[0],
            Outcome::None => 0,
        };
        assert_eq!(of(&[50, 30, 20], false, &[(0, 7), (1, 8), (2, 7)]), 7);
        assert_eq!(of(&[50, 30, 20], false, &[(0, 7), (1, 8), (2, 8)]), 0, "half is not more than half");
        assert_eq!(of(&[50, 30, 20], false, &[(1, 8), (2, 8)]), 0, "who is silent counts against");
        assert_eq!(of(&[50, 30, 20], true, &[(1, 8), (2, 8)]), 0, "in an open vote too: it was there lately");
        assert_eq!(of(&[50], false, &[(0, 7)]), 7, "one alone decides alone");
        assert_eq!(of(&[50, 50], false, &[(0, 7), (1, 8), (9, 7)]), 0, "strangers count nothing");
        assert_eq!(of(&[u64::MAX, u64::MAX, u64::MAX], false, &[(0, 7), (1, 7)]), 7, "no sum overflows");
        assert_eq!(of(&[], true, &[(0, 7)]), 0);
    }

    #[test]
    fn a_newcomer_hears_those_who_are_there() {
        let rules = Rules {
            omission: 0.0,
            inactive_records: 2,
            open_windows: 4,
            clip_to_median: true,
            weigh_by_incentive: false,
        };
        let peer =
            |n: u16, stake, put| Peer { uid: Uid(n), stake, permit: true, incentive: 0.0, entry: Some(Window(put)) };
        // The one with the most stake died in window 3.
        let peers = [(0, 60, 3), (1, 30, 20), (2, 25, 19), (3, 20, 20)]
            .map(|(n, s, put)| (Hotkey([n as u8; 32]), peer(n, s, put)));
        let peers = Peers(BTreeMap::from(peers));
        let said = |list: &[(u8, u8)]| newest(&peers, Window(20), &votes_of(list), &rules).map(|hash| hash.0[0]);
        assert_eq!(said(&[(0, 3), (1, 19), (2, 19), (3, 19)]), Some(19), "the dead speak of the past");
        assert_eq!(said(&[(0, 3), (1, 19), (2, 18), (3, 17)]), None);
        assert_eq!(said(&[(1, 19), (2, 18)]), Some(19), "who says nothing is not asked");
        assert_eq!(said(&[(0, 3)]), None);
    }

    proptest! {
        #[test]
        fn at_most_one_record_is_final(
            stakes in prop::collection::vec(1u64.., 1..8), list in prop::collection::vec((0u8..9, 1u8..4), 0..12), open: bool,
        ) {
            let (electorate, votes) = (electorate(&stakes, open), votes_of(&list));
            let support = support(&electorate, &votes);
            if let Outcome::Final(record) = tally(&electorate, &votes) {
                prop_assert!(support.iter().all(|(other, stake)| *other == record || *stake < support[&record]));
            }
        }
    }
}
