//! What enters the model: which deltas, with what weight, clipped to what norm.

use crate::{peers::Peers, rules::Rules};
use ::record::{Hash, Hotkey, Uid, records::Accepted};
use std::collections::BTreeMap;

/// What a node holds of a delta. Whoever is told to be committed, the commitment stood on the chain at the commit block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Its peer's place.
    pub uid: Uid,
    /// Its peer.
    pub hotkey: Hotkey,
    /// Norm of what was sent.
    pub norm: f64,
    /// What this node found.
    pub standing: Standing,
}

/// What may become of a delta, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Committed to, good, of a proven peer, and here by the deadline: it has to enter.
    Due,
    /// Committed to and good, but late here, or of a peer that nobody has audited yet: it may enter.
    Allowed,
    /// It must not enter.
    Barred(Fault),
}

/// Why a delta must not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No commitment of its peer for this window is on the chain, or another one.
    Uncommitted,
    /// A check of its bytes failed.
    Invalid,
    /// An audit of its peer failed.
    Audit,
}

/// A list of what enters, and the norm that it is clipped to.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// In the order of uids.
    pub accepted: Vec<Accepted>,
    /// See [`clip`].
    pub clip: Option<f64>,
}

/// The norm that a list is clipped to: the lower median of its finite norms; of fewer than three deltas that of the last
/// record that had more, since two could choose it for each other.
pub fn clip(norms: impl IntoIterator<Item = f64>, before: Option<f64>) -> Option<f64> {
    let mut norms: Vec<f64> = norms.into_iter().filter(|norm| norm.is_finite()).collect();
    norms.sort_by(f64::total_cmp);
    match before {
        Some(before) if norms.len() < 3 => Some(before),
        _ => norms.get(norms.len().saturating_sub(1) / 2).copied().or(before),
    }
}

/// The factor that clips a norm, at most 1; with no clip it is 1. A norm that is no number counts for nothing.
pub fn scale(norm: f64, clip: Option<f64>) -> f32 {
    match clip {
        _ if !norm.is_finite() => 0.0,
        Some(clip) if norm > clip => (clip / norm) as f32,
        _ => 1.0,
    }
}

/// What a delta counts, of 65,535: all the same; or in proportion to the greatest incentive in the list, and never nothing, so
/// that a newcomer's work enters too.
pub fn weight(incentive: f64, greatest: f64) -> u16 {
    if greatest > 0.0 && incentive.is_finite() {
        ((incentive / greatest * f64::from(u16::MAX)).round() as u16).max(1)
    } else {
        u16::MAX
    }
}

/// The list of some deltas, each uid once: weights and scales are exactly what the rule makes of them.
pub fn list(deltas: &BTreeMap<Uid, (Hash, Seen)>, peers: &Peers, before: Option<f64>, rules: &Rules) -> List {
    let clip = clip(deltas.values().map(|(_, seen)| seen.norm), before);
    let incentive = |hotkey: Hotkey| {
        let incentive = peers.0.get(&hotkey).map_or(0.0, |peer| peer.incentive);
        if rules.weigh_by_incentive && incentive.is_finite() { incentive.max(0.0) } else { 0.0 }
    };
    let greatest = deltas.values().map(|(_, seen)| incentive(seen.hotkey)).fold(0.0, f64::max);
    let accepted = deltas.iter().map(|(uid, (delta, seen))| Accepted {
        uid: *uid,
        hotkey: seen.hotkey,
        blake3: *delta,
        weight_u16: weight(incentive(seen.hotkey), greatest),
        scale: scale(seen.norm, clip.filter(|_| rules.clip_to_median)),
    });
    List { accepted: accepted.collect(), clip }
}

/// What a node proposes: all that may enter and has a norm, each uid once. Where a peer showed several files, the one
/// with the smallest hash, so that two proposers who saw the same choose the same.
pub fn choose(seen: &BTreeMap<Hash, Seen>, peers: &Peers) -> BTreeMap<Uid, (Hash, Seen)> {
    let mut chosen = BTreeMap::new();
    for (delta, seen) in seen {
        let there = peers.0.get(&seen.hotkey).is_some_and(|peer| peer.uid == seen.uid);
        if there && seen.norm.is_finite() && !matches!(seen.standing, Standing::Barred(_)) {
            chosen.entry(seen.uid).or_insert((*delta, *seen));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_is_clipped_to_the_lower_median() {
        let of = |norms: &[f64]| {
            let clip = clip(norms.iter().copied(), None);
            norms.iter().map(|norm| scale(*norm, clip)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), [(2.0f64 / 3.0) as f32, 1.0, 1.0]);
        assert_eq!(of(&[4.0, 1.0, 2.0, 8.0]), [0.5, 1.0, 1.0, 0.25]);
        assert_eq!(of(&[7.0]), [1.0]);
        assert_eq!(of(&[f64::NAN, 1.0, 2.0, f64::INFINITY]), [0.0, 1.0, 0.5, 0.0], "what is no number is in no median");
    }

    #[test]
    fn two_cannot_choose_the_median_for_each_other() {
        assert_eq!(clip([1000.0, 1.0], Some(5.0)), Some(5.0));
        assert_eq!(clip([1000.0], Some(5.0)), Some(5.0));
        assert_eq!(clip([1000.0, 1.0, 2.0], Some(5.0)), Some(2.0));
        assert_eq!(clip([], Some(5.0)), Some(5.0), "an empty window keeps it");
        assert_eq!(clip([], None), None);
    }

    #[test]
    fn a_weight_is_a_share_of_the_greatest_incentive() {
        assert_eq!([weight(0.5, 0.5), weight(0.25, 0.5), weight(0.0, 0.5)], [65535, 32768, 1]);
        assert_eq!(weight(0.0, 0.0), 65535, "before anybody was paid all count the same");
        assert_eq!([weight(-1.0, 0.5), weight(f64::NAN, 0.5)], [1, 65535]);
    }

    proptest! {
        #[test]
        fn no_clipped_norm_is_above_the_median(norms in prop::collection::vec(any::<f64>(), 0..9), before: Option<f64>) {
            let clip = clip(norms.iter().copied(), before);
            for norm in norms.into_iter().filter(|norm| *norm >= 0.0 && norm.is_finite()) {
                let scale = f64::from(scale(norm, clip));
                prop_assert!((0.0..=1.0).contains(&scale) || clip.is_some_and(|clip| clip < 0.0 || clip.is_nan()));
                if let Some(clip) = clip.filter(|clip| *clip > 1e-30 && norm / clip < 1e30) {
                    prop_assert!(norm * scale <= clip * (1.0 + 1e-6));
                }
            }
        }
    }
}
