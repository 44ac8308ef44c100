//! Weights: as the Python SDK prepares them, as the chain checks and keeps them.

use crate::{
    Chain, Signer,
    client::AtBlock,
    neurons::{PALLET, RAO, has},
};
use blake2::{Blake2b, Digest, digest::consts::U32};
use record::{Context, Hash, Hotkey, Report, Uid};
use std::collections::BTreeMap;
use subxt::{
    dynamic::{self, Value},
    ext::codec::Encode,
};

/// A commit to weights, as the chain keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// See [`commitment`].
    pub hash: Hash,
    /// Block of the commit.
    pub block: u64,
    /// First block of its reveal.
    pub first: u64,
    /// Last block of its reveal.
    pub last: u64,
}

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
    /// The hash that is committed: `blake2_256(SCALE(account, u16 netuid, uids, values, salt, u64 version_key))`.
    /// Source: Subtensor's `do_reveal_weights`.
    pub fn hash(&self, hotkey: Hotkey, netuid: u16) -> Hash {
        let content = (hotkey.0, netuid, &self.uids, &self.values, &self.salt, self.version_key).encode();
        let mut hash = [0; 32];
        hash.copy_from_slice(&Blake2b::<U32>::digest(&content));
        Hash(hash)
    }
}

/// What the subnet asks of weights, and where this validator stands, all at one block.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The block of this view.
    pub block: u64,
    /// The validator's uid, if it is registered.
    pub uid: Option<Uid>,
    /// Its stake, in the subnet's own token, and the least that may set weights.
    pub stake: f64,
    /// See `stake`.
    pub min_stake: f64,
    /// It may set weights.
    pub permit: bool,
    /// Block of its last weights.
    pub last_update: u64,
    /// Blocks that have to pass between two weights.
    pub rate_limit: u64,
    /// Fewest uids with a weight.
    pub min_count: u16,
    /// Greatest share of one uid, of 65535.
    pub max_share: u16,
    /// Plain weights are refused.
    pub commit_reveal: bool,
    /// Least version key.
    pub version_key: u64,
    /// What this validator committed to and did not reveal.
    pub pending: Vec<Pending>,
    /// Who has which uid now.
    pub hotkeys: BTreeMap<u16, Hotkey>,
}

impl Rules {
    /// What stands between this hotkey and any weights, most basic first, each with what to do about it.
    pub fn obstacles(&self) -> Vec<(String, &'static str)> {
        let Some(uid) = self.uid else {
            return vec![("the hotkey is not registered in this subnet".into(), "bz-chain register")];
        };
        let mut all = Vec::new();
        if self.stake < self.min_stake {
            all.push((
                format!("uid {uid} has a stake of {}, weights need {}", self.stake, self.min_stake),
                "add stake, or have others delegate to it",
            ));
        }
        if !self.permit {
            all.push((
                format!("uid {uid} has no validator permit"),
                "permits go to the greatest stakes at each epoch: add stake, then wait for the next one",
            ));
        }
        all
    }

    /// The block from which the next weights may be set, when that is still to come.
    pub fn too_early(&self) -> Option<u64> {
        Some(self.last_update.saturating_add(self.rate_limit)).filter(|next| self.block < *next)
    }
}

impl Chain {
    /// Read the rules for a validator's hotkey.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn weight_rules(&self, hotkey: Hotkey) -> Result<Rules, Report> {
        let block = self.finalized()?;
        let hash = self.block_hash(block)?.ok_or_else(|| Report::again("the last block is not there"))?;
        let at = self.at(hash)?;
        let hotkeys = self.hotkeys(&at)?;
        let uid = hotkeys.iter().find(|(_, key)| **key == hotkey).map(|(uid, _)| Uid(*uid));
        let place = uid.map_or(usize::MAX, |uid| usize::from(uid.0));
        let permit: Vec<bool> = self.of_subnet(&at, "ValidatorPermit")?.unwrap_or_default();
        let last_update: Vec<u64> = self.of_subnet(&at, "LastUpdate")?.unwrap_or_default();
        Ok(Rules {
            block,
            uid,
            permit: permit.get(place).copied().unwrap_or(false),
            last_update: last_update.get(place).copied().unwrap_or(0),
            stake: self.stake_of(&at, hotkey)?,
            min_stake: self.threshold(&at)?,
            rate_limit: self.or_default(&at, "WeightsSetRateLimit")?,
            min_count: self.or_default(&at, "MinAllowedWeights")?,
            max_share: if has(&at, "MaxWeightsLimit") { self.or_default(&at, "MaxWeightsLimit")? } else { u16::MAX },
            commit_reveal: self.or_default(&at, "CommitRevealWeightsEnabled")?,
            version_key: self.or_default(&at, "WeightsVersionKey")?,
            pending: if has(&at, "WeightCommits") { self.pending(&at, hotkey)? } else { Vec::new() },
            hotkeys,
        })
    }

    /// A value of the subnet, or the chain's own default where none was set.
    pub(crate) fn or_default<T: subxt::ext::scale_decode::DecodeAsType + 'static>(
        &self,
        at: &AtBlock,
        entry: &str,
    ) -> Result<T, Report> {
        let address = dynamic::storage::<(u16,), T>(PALLET, entry);
        let netuid = self.netuid;
        self.wait(entry, async { at.storage().fetch(address, (netuid,)).await })?.decode().again(entry)
    }

    fn pending(&self, at: &AtBlock, hotkey: Hotkey) -> Result<Vec<Pending>, Report> {
        type Commits = Vec<([u8; 32], u64, u64, u64)>;
        let address = dynamic::storage::<(u16, [u8; 32]), Commits>(PALLET, "WeightCommits");
        let key = (self.netuid, hotkey.0);
        let held = self.wait("the commits", async { at.storage().try_fetch(address, key).await })?;
        let commits = held.map(|v| v.decode().again("the commits")).transpose()?.unwrap_or_default();
        Ok(commits
            .into_iter()
            .map(|(hash, block, first, last)| Pending { hash: Hash(hash), block, first, last })
            .collect())
    }

    /// Commit to weights; the extrinsic's hash.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn commit_weights(&self, hash: Hash, signer: &Signer<'_>) -> Result<Hash, Report> {
        let args = vec![Value::u128(self.netuid.into()), Value::from_bytes(hash.0)];
        self.submit(PALLET, "commit_weights", args, signer)
    }

    /// Reveal what was committed to; the extrinsic's hash.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn reveal_weights(&self, sealed: &Sealed, signer: &Signer<'_>) -> Result<Hash, Report> {
        let args = vec![
            Value::u128(self.netuid.into()),
            list(&sealed.uids),
            list(&sealed.values),
            list(&sealed.salt),
            Value::u128(sealed.version_key.into()),
        ];
        self.submit(PALLET, "reveal_weights", args, signer)
    }

    fn stake_of(&self, at: &AtBlock, hotkey: Hotkey) -> Result<f64, Report> {
        let address = dynamic::storage::<([u8; 32], u16), u64>(PALLET, "TotalHotkeyAlpha");
        let key = (hotkey.0, self.netuid);
        let held = self.wait("the stake", async { at.storage().try_fetch(address, key).await })?;
        let rao = held.map(|v| v.decode().again("the stake")).transpose()?.unwrap_or(0);
        Ok(rao as f64 / RAO)
    }

    fn threshold(&self, at: &AtBlock) -> Result<f64, Report> {
        let address = dynamic::storage::<(), u64>(PALLET, "StakeThreshold");
        let held = self.wait("the least stake", async { at.storage().fetch(address, ()).await })?;
        let rao: u64 = held.decode().again("the least stake")?;
        Ok(rao as f64 / RAO)
    }

    /// What the subnet is set to, by the chain's own names; entries that this chain does not have are left out.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn hyperparameters(&self) -> Result<BTreeMap<&'static str, serde_json::Value>, Report> {
        const NAMES: [&str; 20] = [
            "ActivityCutoff",
            "AdjustmentInterval",
            "BondsMovingAverage",
            "BondsPenalty",
            "Burn",
            "CommitRevealWeightsEnabled",
            "ImmunityPeriod",
            "Kappa",
            "MaxAllowedUids",
            "MaxAllowedValidators",
            "MaxBurn",
            "MaxWeightsLimit",
            "MinAllowedWeights",
            "MinBurn",
            "NetworkRegistrationAllowed",
            "RevealPeriodEpochs",
            "SubnetworkN",
            "Tempo",
            "WeightsSetRateLimit",
            "WeightsVersionKey",
        ];
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let mut found = BTreeMap::new();
        for name in NAMES.into_iter().filter(|name| has(&at, name)) {
            let value: Value = self.or_default(&at, name)?;
            let number = value.as_u128().and_then(|n| u64::try_from(n).ok()).map(serde_json::Value::from);
            found.insert(name, number.or_else(|| value.as_bool().map(Into::into)).unwrap_or_default());
        }
        Ok(found)
    }

    /// Send plain weights; the extrinsic's hash.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn set_weights(
        &self,
        uids: &[Uid],
        values: &[u16],
        version_key: u64,
        signer: &Signer<'_>,
    ) -> Result<Hash, Report> {
        let args = vec![
            Value::u128(self.netuid.into()),
            list(&uids.iter().map(|uid| uid.0).collect::<Vec<_>>()),
            list(values),
            Value::u128(version_key.into()),
        ];
        self.submit("SubtensorModule", "set_weights", args, signer)
    }

    /// The weights that the chain keeps for a validator.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn weights_of(&self, validator: Uid) -> Result<Vec<(u16, u16)>, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let address = dynamic::storage::<(u16, u16), Vec<(u16, u16)>>("SubtensorModule", "Weights");
        let key = (self.netuid, validator.0);
        let value = self.wait("the weights", async { at.storage().try_fetch(address, key).await })?;
        value.map(|v| v.decode().again("the weights")).transpose().map(Option::unwrap_or_default)
    }
}

fn list(items: &[u16]) -> Value {
    Value::unnamed_composite(items.iter().map(|item| Value::u128((*item).into())))
}

/// Clip every share to `limit` and spread the rest, so that the shares sum to 1.
/// Source: `normalize_max_weight` of the Python SDK (bittensor).
pub fn clip_shares(weights: &[f64], limit: f64) -> Vec<f64> {
    const EPSILON: f64 = 1e-7;
    let (n, sum) = (weights.len() as f64, weights.iter().sum::<f64>());
    if weights.is_empty() {
        return Vec::new();
    }
    if sum == 0.0 || n * limit <= 1.0 {
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

/// Weights as the chain takes them: clipped, divided by the largest, times 65535, rounded half to even, zeros dropped.
/// Source: `process_weights_for_netuid` and `convert_weights_and_uids_for_emit` of the Python SDK.
pub fn quantise(uids: &[Uid], weights: &[f64], max_share: u16) -> (Vec<Uid>, Vec<u16>) {
    let kept: Vec<(Uid, f64)> =
        uids.iter().copied().zip(weights.iter().copied()).filter(|(_, w)| *w > 0.0 && w.is_finite()).collect();
    let shares = clip_shares(&kept.iter().map(|(_, w)| *w).collect::<Vec<_>>(), f64::from(max_share) / 65535.0);
    let most = shares.iter().copied().fold(0.0, f64::max);
    kept.iter()
        .zip(shares)
        .map(|((uid, _), share)| (*uid, (share / most * 65535.0).round_ties_even() as u16))
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
        assert_eq!(clip_shares(&[0.0, 0.0], 1.0), [0.5, 0.5]);
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
        assert_eq!(sealed.hash(Hotkey([9; 32]), 1).0[..], expected[..]);
    }

    #[test]
    fn the_largest_is_65535_and_nothing_is_dropped() {
        let uids = [Uid(4), Uid(1), Uid(7), Uid(9)];
        let (kept, values) = quantise(&uids, &[0.5, 0.0, 0.25, f64::NAN], u16::MAX);
        assert_eq!((kept, values), (vec![Uid(4), Uid(7)], vec![65535, 32768]));
        assert_eq!(quantise(&uids, &[0.0; 4], u16::MAX).0, []);
    }
}
