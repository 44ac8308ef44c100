//! Weights: as the Python SDK prepares them, as the chain checks and keeps them.

use crate::subnet::Subnet;
pub use crate::{
    commits::{Due, Moment, Pending, TIMELOCK_VERSION, Timelock, Timelocked, Timelocking},
    rules::Rules,
};
use blake2::{Blake2b, Digest, digest::consts::U32};
use record::{Hash, Hotkey, Uid};
use subxt::ext::codec::Encode;

/// What is committed to, and revealed later.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sealed {
    /// Whom.
    pub uids: Vec<u16>,
    /// How much.
    pub values: Vec<u16>,
    /// Random, so that nobody can guess the weights from the hash.
    pub salt: Vec<u16>,
    /// The version key.
    pub version_key: u64,
}

impl Sealed {
    /// The hash that is committed: `blake2_256(SCALE(account, u16 index, uids, values, salt, u64 version_key))`.
    /// Source: Subtensor's `do_reveal_weights`; the index is that of `get_mechanism_storage_index`.
    pub fn hash(&self, hotkey: Hotkey, subnet: Subnet) -> Hash {
        let content =
            (hotkey.0, subnet.storage_index(), &self.uids, &self.values, &self.salt, self.version_key).encode();
        let mut hash = [0; 32];
        hash.copy_from_slice(&Blake2b::<U32>::digest(&content));
        Hash(hash)
    }
}

/// Clip every share to `limit` and spread the rest, so that the shares sum to 1.
/// Source: `clip_to_max_weight` of the Python SDK (bittensor 11.3); weights are finite and none is negative.
pub fn clip_shares(weights: &[f64], limit: f64) -> Vec<f64> {
    const EPSILON: f64 = 1e-7;
    let (n, sum) = (weights.len() as f64, weights.iter().sum::<f64>());
    if weights.is_empty() || sum <= 0.0 {
        return vec![0.0; weights.len()];
    }
    if n * limit <= 1.0 {
        return vec![1.0 / n; weights.len()];
    }
    let mut shares: Vec<f64> = weights.iter().map(|w| w / sum).collect();
    shares.sort_by(f64::total_cmp);
    if shares.last().is_none_or(|most| *most <= limit) {
        return weights.iter().map(|w| w / sum).collect();
    }
    let mut cumulated = Vec::with_capacity(shares.len());
    let mut total = 0.0;
    for share in &shares {
        total += share;
        cumulated.push(total);
    }
    let below = (0..shares.len())
        .filter(|i| {
            let rest = (shares.len() - i - 1) as f64 * shares[*i];
            shares[*i] / (rest + cumulated[*i] + EPSILON) < limit
        })
        .count();
    let base = below.checked_sub(1).and_then(|i| cumulated.get(i)).copied().unwrap_or(0.0);
    let scale = (limit * base - EPSILON) / (1.0 - limit * (shares.len() - below) as f64);
    let cutoff = scale * sum;
    let clipped: Vec<f64> = weights.iter().map(|w| w.min(cutoff)).collect();
    let sum: f64 = clipped.iter().sum();
    clipped.iter().map(|w| w / sum).collect()
}

/// Weights as the chain takes them: clipped to the greatest share where the subnet has one, divided by the largest,
/// times 65535, rounded half to even, zeros dropped. Who only weighs itself is not clipped. Every bit is the Python
/// SDK's.
/// Source: `_conform` and `normalize` of the Python SDK (bittensor 11.3).
pub fn quantise(uids: &[Uid], weights: &[f64], max_share: u16, own: Option<Uid>) -> (Vec<Uid>, Vec<u16>) {
    let only_self = own.is_some_and(|own| uids == [own]);
    let clipped = if !only_self && max_share < u16::MAX {
        clip_shares(weights, f64::from(max_share) / 65535.0)
    } else {
        weights.to_vec()
    };
    let most = clipped.iter().copied().fold(0.0, f64::max);
    uids.iter()
        .zip(clipped)
        // The cast makes 0 of what is no number.
        .map(|(uid, weight)| (*uid, (weight / most * 65535.0).round_ties_even() as u16))
        .filter(|(_, value)| *value > 0)
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_clipped_to_the_limit_and_sum_to_one() {
        let clipped = clip_shares(&[0.9, 0.05, 0.05], 0.4);
        assert!((clipped.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(clipped.iter().all(|w| *w <= 0.4 + 1e-6), "{clipped:?}");
        assert_eq!(clip_shares(&[1.0, 1.0], 0.3), [0.5, 0.5], "the limit cannot be kept");
        assert_eq!(clip_shares(&[0.0, 0.0], 1.0), [0.0, 0.0]);
        assert_eq!(clip_shares(&[1.0, 0.0], 0.5), [0.5, 0.5], "the SDK spreads over all that are named");
        assert_eq!(clip_shares(&[3.0, 1.0], 1.0), [0.75, 0.25]);
        assert!(clip_shares(&[], 1.0).is_empty());
    }

    #[test]
    fn a_commitment_is_the_hash_of_its_scale_form() {
        let sealed = Sealed { uids: vec![1, 2], values: vec![65535, 3], salt: vec![7], version_key: 5 };
        // By hand: account, u16, then lengths as compact integers, all little-endian.
        let mut bytes = vec![9u8; 32];
        bytes.extend([1, 0, 8, 1, 0, 2, 0, 8, 255, 255, 3, 0, 4, 7, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        let expected = Blake2b::<U32>::digest(&bytes);
        assert_eq!(sealed.hash(Hotkey([9; 32]), Subnet { netuid: 1, mechanism: 0 }).0[..], expected[..]);
    }

    #[test]
    fn the_largest_is_65535_and_nothing_is_dropped() {
        let uids = [Uid(4), Uid(1), Uid(7), Uid(9)];
        let (kept, values) = quantise(&uids, &[0.5, 0.0, 0.25, 0.0], u16::MAX, None);
        assert_eq!((kept, values), (vec![Uid(4), Uid(7)], vec![65535, 32768]));
        assert_eq!(quantise(&uids, &[0.0; 4], u16::MAX, None).0, []);
        assert_eq!(quantise(&uids[..1], &[0.3], 1000, Some(Uid(4))).1, [65535], "oneself, whatever the limit is");
        // Halves go to the even number: 0.5, 1.5 and 2.5 of 65535.
        assert_eq!(
            quantise(&uids, &[1.0, 0.5 / 65535.0, 1.5 / 65535.0, 2.5 / 65535.0], u16::MAX, None).1,
            [65535, 2, 2]
        );
    }
}
