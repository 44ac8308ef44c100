//! Weights: as the Python SDK prepares them, as the chain checks and keeps them.

use crate::{
    Chain,
    calls::{Subnet, storage_index},
    client::AtBlock,
    epochs::Epochs,
    neurons::{PALLET, RAO, has},
    timelock::Beacon,
};
use blake2::{Blake2b, Digest, digest::consts::U32};
use record::{Context, Hash, Hotkey, Report, Uid};
use std::{cmp::Ordering, collections::BTreeMap};
use subxt::{
    dynamic::{self, At, Value},
    ext::codec::Encode,
};

/// A commit to weights by their hash, as the chain keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// See [`Sealed::hash`].
    pub hash: Hash,
    /// Block of the commit.
    pub block: u64,
    /// The epoch that it was committed in, where the chain counts them.
    pub epoch: Option<u64>,
    /// Whether it can be revealed.
    pub due: Due,
}

/// Whether a commit can be revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Not yet: from this block on, as far as is known.
    From(u64),
    /// In this epoch.
    Now,
    /// No more.
    Over,
}

/// A timelocked commit of this validator that the chain has not revealed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timelocked {
    /// Block of the commit.
    pub block: u64,
    /// The beacon's round that opens it.
    pub round: u64,
    /// The epoch that it was committed in.
    pub epoch: u64,
}

/// When a timelocked commit of this moment is revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The beacon's round that opens it.
    pub round: u64,
    /// The block from which the chain looks for that round.
    pub block: u64,
}

/// The round is that of a moment so many blocks after the epoch, which must not be open before. Source: bittensor-drand.
const SAFETY: u64 = 3;
/// The time of a block is measured over so many.
const MEASURED: u64 = 20;

/// What a chain has for timelocked commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timelock {
    /// Version of the commit's form; this suite writes 4.
    pub version: u16,
    /// The beacon whose signatures the chain takes.
    pub beacon: Beacon,
    /// The last round that it has.
    pub last_round: u64,
}

/// The form of timelocked commits that this suite writes.
pub const TIMELOCK_VERSION: u16 = 4;

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
        let index = storage_index(subnet.netuid, subnet.mechanism);
        let content = (hotkey.0, index, &self.uids, &self.values, &self.salt, self.version_key).encode();
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
    /// It is the subnet's owner: needs no stake and no permit.
    pub owner: bool,
    /// Its weight in stake, in the subnet's own token, and the least that may set weights.
    pub stake: f64,
    /// See `stake`.
    pub min_stake: f64,
    /// It may set weights.
    pub permit: bool,
    /// Block of its last weights; of its registration where it set none.
    pub last_update: u64,
    /// Block of its registration.
    pub registered: u64,
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
    /// When epochs are.
    pub epochs: Epochs,
    /// Epochs between a commit and its reveal.
    pub reveal_period: u64,
    /// What the chain has for timelocked commits, if it takes any.
    pub timelock: Option<Timelock>,
    /// What this validator committed to by its hash and did not reveal.
    pub pending: Vec<Pending>,
    /// Its timelocked commits that wait for their round.
    pub timelocked: Vec<Timelocked>,
    /// Who has which uid now.
    pub hotkeys: BTreeMap<u16, Hotkey>,
}

impl Rules {
    /// What stands between this hotkey and any weights, most basic first, each with what to do about it. Who weighs nobody
    /// but itself needs no permit.
    pub fn obstacles(&self, only_self: bool) -> Vec<(String, &'static str)> {
        let Some(uid) = self.uid else {
            return vec![("the hotkey is not registered in this subnet".into(), "bz-chain register")];
        };
        let mut all = Vec::new();
        if self.stake < self.min_stake && !self.owner {
            all.push((
                format!("uid {uid} has a stake of {}, weights need {}", self.stake, self.min_stake),
                "add stake, or have others delegate to it",
            ));
        }
        if !self.permit && !self.owner && !only_self {
            all.push((
                format!("uid {uid} has no validator permit"),
                "permits go to the greatest stakes at each epoch: add stake, then wait for the next one",
            ));
        }
        all
    }

    /// The block in which weights were last set or committed, if ever.
    pub fn set_at(&self) -> Option<u64> {
        Some(self.last_update).filter(|last| *last > self.registered)
    }

    /// The block from which weights may be set again, when some were set or committed in this epoch.
    pub fn set_in_epoch(&self) -> Option<u64> {
        // A subnet may begin an epoch anew, in the middle: its number stays.
        let now = self.epochs.number(self.block);
        let committed =
            self.pending.iter().filter_map(|commit| commit.epoch).chain(self.timelocked.iter().map(|c| c.epoch));
        let since = self.set_at().is_some_and(|last| last >= self.epochs.began(self.block));
        if since || committed.into_iter().any(|epoch| epoch == now) { self.epochs.next(self.block) } else { None }
    }

    /// The block from which the next weights may be set, when that is still to come. Who never did may at once.
    pub fn too_early(&self) -> Option<u64> {
        let next = self.last_update.saturating_add(self.rate_limit);
        Some(next).filter(|next| self.last_update > 0 && self.block < *next)
    }
}

impl Chain {
    /// Read the rules for a validator's hotkey.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when the subnet has no such mechanism.
    pub fn weight_rules(&self, hotkey: Hotkey) -> Result<Rules, Report> {
        let block = self.finalized()?;
        let hash = self.block_hash(block)?.ok_or_else(|| Report::again("the last block is not there"))?;
        let at = self.at(hash)?;
        self.mechanism_exists(&at)?;
        let hotkeys = self.hotkeys(&at)?;
        let uid = hotkeys.iter().find(|(_, key)| **key == hotkey).map(|(uid, _)| Uid(*uid));
        let place = uid.map_or(usize::MAX, |uid| usize::from(uid.0));
        let permit: Vec<bool> = self.of_subnet(&at, "ValidatorPermit")?.unwrap_or_default();
        let last_update: Vec<u64> = self.of_mechanism(&at, "LastUpdate")?.unwrap_or_default();
        let address = dynamic::storage::<(u16, u16), u64>(PALLET, "BlockAtRegistration");
        let registered = self.many(&at, address, uid.iter().map(|uid| (self.subnet.netuid, uid.0)).collect())?;
        let registered = registered.first().copied().flatten().unwrap_or(0);
        let epochs = self.epochs(&at)?;
        let reveal_period =
            if has(&at, "RevealPeriodEpochs") { self.or_default(&at, "RevealPeriodEpochs")? } else { 1 };
        let timelock = self.timelock(&at)?;
        let pending = if has(&at, "WeightCommits") {
            self.pending(&at, hotkey, block, epochs, reveal_period)?
        } else {
            Vec::new()
        };
        let timelocked = match &timelock {
            Some(_) => self.timelocked(&at, hotkey, epochs.number(block), reveal_period)?,
            None => Vec::new(),
        };
        Ok(Rules {
            block,
            uid,
            owner: uid.is_some() && self.owner_hotkey(&at)? == Some(hotkey),
            permit: permit.get(place).copied().unwrap_or(false),
            last_update: last_update.get(place).copied().unwrap_or(0),
            registered,
            stake: self.stake_of(&at, hotkey)?,
            min_stake: self.threshold(&at)?,
            rate_limit: self.or_default(&at, "WeightsSetRateLimit")?,
            min_count: self.or_default(&at, "MinAllowedWeights")?,
            max_share: if has(&at, "MaxWeightsLimit") { self.or_default(&at, "MaxWeightsLimit")? } else { u16::MAX },
            commit_reveal: self.or_default(&at, "CommitRevealWeightsEnabled")?,
            version_key: self.or_default(&at, "WeightsVersionKey")?,
            epochs,
            reveal_period,
            timelock,
            pending,
            timelocked,
            hotkeys,
        })
    }

    /// When weights that are committed now are revealed: by the epochs of the newest block, and by the chain's own clock, so
    /// that this machine's may be wrong. `None` where the subnet has no epochs.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn moment_of_reveal(&self, rules: &Rules, timelock: &Timelock) -> Result<Option<Moment>, Report> {
        let now = self.best()?;
        let hash = |number: u64| -> Result<Hash, Report> {
            self.block_hash(number)?.ok_or_else(|| Report::again(format!("the node does not know block {number}")))
        };
        let head = hash(now)?;
        let epochs = self.epochs(&self.at(head)?)?;
        let Some(block) = epochs.reveal(now, rules.reveal_period) else { return Ok(None) };
        let before = now.saturating_sub(MEASURED).max(1);
        let clock = self.time_ms(head)? as f64 / 1e3;
        let passed = (clock - self.time_ms(hash(before)?)? as f64 / 1e3).max(0.0);
        let a_block = if now > before { passed / (now - before) as f64 } else { 12.0 };
        let blocks = block.saturating_add(SAFETY).saturating_sub(now);
        let round = timelock.beacon.round_at(clock + blocks as f64 * a_block);
        // A round that is there already hides nothing, and the chain would refuse it.
        Ok(Some(Moment { round: round.max(timelock.last_round.saturating_add(1)), block }))
    }

    fn mechanism_exists(&self, at: &AtBlock) -> Result<(), Report> {
        let mechanism = self.subnet.mechanism;
        if mechanism == 0 {
            return Ok(());
        }
        let count: u8 =
            if has(at, "MechanismCountCurrent") { self.or_default(at, "MechanismCountCurrent")? } else { 1 };
        if mechanism >= count {
            return Err(Report::config(format!(
                "subnet {} has no mechanism {mechanism}, it has {count}",
                self.subnet.netuid
            ))
            .hint("--mechanism counts from 0"));
        }
        Ok(())
    }

    fn epochs(&self, at: &AtBlock) -> Result<Epochs, Report> {
        let tempo = u64::from(self.or_default::<u16>(at, "Tempo")?);
        if !has(at, "SubnetEpochIndex") {
            return Ok(Epochs::Counted { tempo, netuid: self.subnet.netuid.into() });
        }
        Ok(Epochs::Kept {
            last: self.or_default(at, "LastEpochBlock")?,
            pending: self.or_default(at, "PendingEpochAt")?,
            index: self.or_default(at, "SubnetEpochIndex")?,
            since: self.or_default(at, "BlocksSinceLastStep")?,
            tempo,
        })
    }

    fn owner_hotkey(&self, at: &AtBlock) -> Result<Option<Hotkey>, Report> {
        if !has(at, "SubnetOwnerHotkey") {
            return Ok(None);
        }
        Ok(self.of_subnet::<[u8; 32]>(at, "SubnetOwnerHotkey")?.map(Hotkey))
    }

    fn timelock(&self, at: &AtBlock) -> Result<Option<Timelock>, Report> {
        let metadata = at.metadata();
        if !has(at, "CommitRevealWeightsVersion") || metadata.pallet_by_name("Drand").is_none() {
            return Ok(None);
        }
        let plain = |pallet, entry| dynamic::storage::<(), Value>(pallet, entry);
        let read = |pallet, entry| -> Result<Value, Report> {
            self.wait(entry, async { at.storage().fetch(plain(pallet, entry), ()).await })?.decode().again(entry)
        };
        let config = read("Drand", "BeaconConfig")?;
        let number = |name: &str| config.at(name).and_then(|n| n.as_u128()).and_then(|n| u32::try_from(n).ok());
        let mut public = Vec::new();
        let found = config
            .at("public_key")
            .and_then(|key| crate::neurons::collect_bytes(std::slice::from_ref(key), &mut public));
        let (Some(()), Some(period), Some(genesis)) = (found, number("period"), number("genesis_time")) else {
            return Err(Report::again("Drand.BeaconConfig is not what this suite knows")
                .hint("--commit hash commits to weights without a beacon"));
        };
        let version = read(PALLET, "CommitRevealWeightsVersion")?.as_u128().unwrap_or(0);
        let last_round = read("Drand", "LastStoredRound")?.as_u128().unwrap_or(0);
        Ok(Some(Timelock {
            version: u16::try_from(version).unwrap_or(0),
            beacon: Beacon { public, period, genesis },
            last_round: u64::try_from(last_round).unwrap_or(0),
        }))
    }

    /// A value of the subnet, or the chain's own default where none was set.
    pub(crate) fn or_default<T: subxt::ext::scale_decode::DecodeAsType + 'static>(
        &self,
        at: &AtBlock,
        entry: &str,
    ) -> Result<T, Report> {
        let address = dynamic::storage::<(u16,), T>(PALLET, entry);
        let netuid = self.subnet.netuid;
        self.wait(entry, async { at.storage().fetch(address, (netuid,)).await })?.decode().again(entry)
    }

    fn pending(
        &self,
        at: &AtBlock,
        hotkey: Hotkey,
        now: u64,
        epochs: Epochs,
        period: u64,
    ) -> Result<Vec<Pending>, Report> {
        type Commits = Vec<([u8; 32], u64, u64, u64)>;
        let address = dynamic::storage::<(u16, [u8; 32]), Commits>(PALLET, "WeightCommits");
        let key = (self.index(), hotkey.0);
        let held = self.wait("the commits", async { at.storage().try_fetch(address, key).await })?;
        let commits = held.map(|v| v.decode().again("the commits")).transpose()?.unwrap_or_default();
        let next = now.saturating_add(1);
        Ok(commits
            .into_iter()
            // The chain keeps no more.
            .take(10)
            .map(|(hash, a, b, c)| {
                let (block, due) = match epochs {
                    // Epoch and block of the commit.
                    Epochs::Kept { .. } => {
                        let due = match epochs.number(next).cmp(&a.saturating_add(period)) {
                            Ordering::Less => Due::From(
                                epochs.reveal(now, a.saturating_add(period) - epochs.number(next)).unwrap_or(u64::MAX),
                            ),
                            Ordering::Equal => Due::Now,
                            Ordering::Greater => Due::Over,
                        };
                        (b, due)
                    }
                    // Block of the commit, first and last block of its reveal.
                    Epochs::Counted { .. } if next < b => (a, Due::From(b)),
                    Epochs::Counted { .. } => (a, if next <= c { Due::Now } else { Due::Over }),
                };
                let epoch = Some(a).filter(|_| matches!(epochs, Epochs::Kept { .. }));
                Pending { hash: Hash(hash), block, epoch, due }
            })
            .collect())
    }

    fn timelocked(&self, at: &AtBlock, hotkey: Hotkey, epoch: u64, period: u64) -> Result<Vec<Timelocked>, Report> {
        type Commits = Vec<([u8; 32], u64, Vec<u8>, u64)>;
        let address = dynamic::storage::<(u16, u64), Commits>(PALLET, "TimelockedWeightCommits");
        let epochs = epoch.saturating_sub(period.min(100))..=epoch.saturating_add(1);
        let all = self.many(at, address, epochs.clone().map(|epoch| (self.index(), epoch)).collect())?;
        let each = epochs.zip(all).flat_map(|(epoch, commits)| commits.into_iter().flatten().map(move |c| (epoch, c)));
        let own = each.filter(|(_, (key, ..))| *key == hotkey.0);
        Ok(own.map(|(epoch, (_, block, _, round))| Timelocked { block, round, epoch }).collect())
    }

    /// What a hotkey weighs in the subnet: its alpha, and the TAO of the root network at the chain's rate; less what it
    /// lends to its children, and what its parents lend to it.
    /// Source: Subtensor's `get_stake_weights_for_hotkey_on_subnet`.
    fn stake_of(&self, at: &AtBlock, hotkey: Hotkey) -> Result<f64, Report> {
        type Family = Vec<(u64, [u8; 32])>;
        let netuid = self.subnet.netuid;
        let family = |entry: &str| -> Result<Family, Report> {
            if !has(at, entry) {
                return Ok(Vec::new());
            }
            let address = dynamic::storage::<([u8; 32], u16), Family>(PALLET, entry);
            let held = self.wait(entry, async { at.storage().try_fetch(address, (hotkey.0, netuid)).await })?;
            Ok(held.map(|v| v.decode().again(entry)).transpose()?.unwrap_or_default())
        };
        let (parents, children) = (family("ParentKeys")?, family("ChildKeys")?);
        let rate = if has(at, "TaoWeight") {
            let address = dynamic::storage::<(), u64>(PALLET, "TaoWeight");
            let held = self.wait("TaoWeight", async { at.storage().fetch(address, ()).await })?;
            held.decode().again("TaoWeight")? as f64 / u64::MAX as f64
        } else {
            0.0
        };
        let keys: Vec<[u8; 32]> = std::iter::once(hotkey.0).chain(parents.iter().map(|(_, key)| *key)).collect();
        let of = |netuid: u16| -> Result<Vec<f64>, Report> {
            let address = dynamic::storage::<([u8; 32], u16), u64>(PALLET, "TotalHotkeyAlpha");
            let found = self.many(at, address, keys.iter().map(|key| (*key, netuid)).collect())?;
            Ok(found.into_iter().map(|rao| rao.unwrap_or(0) as f64 / RAO).collect())
        };
        let (alpha, tao) = (of(netuid)?, of(0)?);
        let share = |(part, _): &(u64, [u8; 32])| *part as f64 / u64::MAX as f64;
        let lent: f64 = children.iter().map(share).sum();
        let weigh = |held: &[f64]| {
            let own = held.first().copied().unwrap_or(0.0) * (1.0 - lent);
            own + held.iter().skip(1).zip(&parents).map(|(theirs, parent)| theirs * share(parent)).sum::<f64>()
        };
        Ok(weigh(&alpha) + weigh(&tao) * rate)
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

    /// The weights that the chain keeps for a validator.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn weights_of(&self, validator: Uid) -> Result<Vec<(u16, u16)>, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let address = dynamic::storage::<(u16, u16), Vec<(u16, u16)>>(PALLET, "Weights");
        let key = (self.index(), validator.0);
        let value = self.wait("the weights", async { at.storage().try_fetch(address, key).await })?;
        value.map(|v| v.decode().again("the weights")).transpose().map(Option::unwrap_or_default)
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

/// Weights as the chain takes them: clipped to the greatest share where the subnet has one, divided by the largest, times
/// 65535, rounded half to even, zeros dropped. Who only weighs itself is not clipped. Every bit is the Python SDK's.
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
