//! What a subnet asks of weights, and where a validator stands.

use crate::{
    answer::is_foreign,
    client::{AtBlock, Chain},
    commits::{Pending, Timelocked, Timelocking},
    epochs::Epochs,
    storage::has,
    subnet::{PALLET, RAO},
};
use record::{Hotkey, Report, Uid};
use std::collections::BTreeMap;
use subxt::dynamic::{self, Value};

/// From this version of the runtime on a subnet's owner needs neither stake nor permit. Source: Subtensor's
/// `check_validator_permit` and `check_weights_min_stake`, changed after spec 393.
const OWNER_IS_EXEMPT: u32 = 394;

/// What the subnet asks of weights, and where this validator stands, all at one block.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The block of this view.
    pub block: u64,
    /// The validator's uid, if it is registered.
    pub uid: Option<Uid>,
    /// It is the subnet's owner.
    pub owner: bool,
    /// It needs neither stake nor permit: the owner, from spec 394 on.
    pub exempt: bool,
    /// What it weighs in the subnet, alpha and TAO, and the least that may set weights.
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
    /// Whether the chain takes timelocked commits.
    pub timelock: Timelocking,
    /// What this validator committed to by its hash and did not reveal.
    pub pending: Vec<Pending>,
    /// Its timelocked commits that wait for their round.
    pub timelocked: Vec<Timelocked>,
    /// Who has which uid now.
    pub hotkeys: BTreeMap<u16, Hotkey>,
    /// What this chain has in a form that is not known: what depends on it above is blank.
    pub unknown: Vec<String>,
}

impl Rules {
    /// What stands between this hotkey and any weights, most basic first, each with what to do about it. Who weighs
    /// nobody but itself needs no permit.
    pub fn obstacles(&self, only_self: bool) -> Vec<(String, &'static str)> {
        const NEWER: &str = "a newer version of this suite knows newer chains";
        if !self.unknown.is_empty() {
            return self.unknown.iter().map(|what| (what.clone(), NEWER)).collect();
        }
        let Some(uid) = self.uid else {
            return vec![("the hotkey is not registered in this subnet".into(), "bz-chain register")];
        };
        let mut all = Vec::new();
        if self.stake < self.min_stake && !self.exempt {
            all.push((
                format!("uid {uid} has a stake of {}, weights need {}", self.stake, self.min_stake),
                "add stake, or have others delegate to it",
            ));
        }
        if !self.permit && !self.exempt && !only_self {
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

    /// The block from which weights of this epoch are set, so many blocks before its end, when that is still to come:
    /// the chain counts the last ones before an epoch, and those that were set early know less.
    pub fn early_in_epoch(&self, margin: u64) -> Option<u64> {
        let from = self.epochs.next(self.block)?.saturating_sub(margin);
        Some(from).filter(|from| self.block < *from)
    }

    /// The block from which the next weights may be set, when that is still to come. Who never did may at once.
    pub fn too_early(&self) -> Option<u64> {
        let next = self.last_update.saturating_add(self.rate_limit);
        Some(next).filter(|next| self.last_update > 0 && self.block < *next)
    }
}

/// Reads on where this chain has something in a form that is not known, and keeps what was said of it.
#[derive(Default)]
struct Gaps(Vec<String>);

impl Gaps {
    fn fill<T>(&mut self, read: Result<T, Report>, blank: T) -> Result<T, Report> {
        match read {
            Err(report) if is_foreign(&report) => {
                self.0.push(report.error);
                Ok(blank)
            }
            other => other,
        }
    }
}

impl Chain {
    /// Read the rules for a validator's hotkey.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet or mechanism.
    pub fn weight_rules(&self, hotkey: Hotkey) -> Result<Rules, Report> {
        let block = self.finalized()?;
        let hash = self.block_hash(block)?.ok_or_else(|| Report::again("the last block is not there"))?;
        let at = self.at(hash)?;
        self.exists(&at)?;
        let hotkeys = self.hotkeys(&at)?;
        let mut gaps = Gaps::default();
        let uid = hotkeys.iter().find(|(_, key)| **key == hotkey).map(|(uid, _)| Uid(*uid));
        let place = uid.map_or(usize::MAX, |uid| usize::from(uid.0));
        let permit: Option<Vec<bool>> = gaps.fill(self.of_subnet(&at, "ValidatorPermit"), None)?;
        let last_update: Option<Vec<u64>> = gaps.fill(self.of_mechanism(&at, "LastUpdate"), None)?;
        let address = dynamic::storage::<(u16, u16), u64>(PALLET, "BlockAtRegistration");
        let registered = self.many(&at, address, uid.iter().map(|uid| (self.subnet.netuid, uid.0)).collect());
        let registered = gaps.fill(registered, Vec::new())?.first().copied().flatten().unwrap_or(0);
        let none = Epochs::Counted { tempo: 0, netuid: self.subnet.netuid.into() };
        let epochs = gaps.fill(self.epochs(&at), none)?;
        let reveal_period =
            if has(&at, "RevealPeriodEpochs") { gaps.fill(self.or_default(&at, "RevealPeriodEpochs"), 1)? } else { 1 };
        let timelock = self.timelocking(&at)?;
        let pending = gaps.fill(self.pending(&at, hotkey, block, epochs, reveal_period), Vec::new())?;
        let timelocked = match &timelock {
            Timelocking::Yes(_) => {
                gaps.fill(self.timelocked(&at, hotkey, epochs.number(block), reveal_period), Vec::new())?
            }
            Timelocking::No | Timelocking::Unknown(_) => Vec::new(),
        };
        let owner = uid.is_some() && gaps.fill(self.owner_hotkey(&at), None)? == Some(hotkey);
        let stake = gaps.fill(self.stakes(&at, &[hotkey]), Vec::new())?.first().copied().unwrap_or(0);
        // Epochs as state came later than the exemption: a chain of one machine has a version of its own.
        let exempts = at.spec_version() >= OWNER_IS_EXEMPT || has(&at, "SubnetEpochIndex");
        Ok(Rules {
            block,
            uid,
            owner,
            exempt: owner && exempts,
            permit: permit.unwrap_or_default().get(place).copied().unwrap_or(false),
            last_update: last_update.unwrap_or_default().get(place).copied().unwrap_or(0),
            registered,
            stake: stake as f64 / RAO,
            min_stake: gaps.fill(self.threshold(&at), 0)? as f64 / RAO,
            rate_limit: gaps.fill(self.or_default(&at, "WeightsSetRateLimit"), 0)?,
            min_count: gaps.fill(self.or_default(&at, "MinAllowedWeights"), 0)?,
            max_share: if has(&at, "MaxWeightsLimit") {
                gaps.fill(self.or_default(&at, "MaxWeightsLimit"), u16::MAX)?
            } else {
                u16::MAX
            },
            commit_reveal: gaps.fill(self.or_default(&at, "CommitRevealWeightsEnabled"), true)?,
            version_key: gaps.fill(self.or_default(&at, "WeightsVersionKey"), 0)?,
            epochs,
            reveal_period,
            timelock,
            pending,
            timelocked,
            hotkeys,
            unknown: gaps.0,
        })
    }

    fn owner_hotkey(&self, at: &AtBlock) -> Result<Option<Hotkey>, Report> {
        if !has(at, "SubnetOwnerHotkey") {
            return Ok(None);
        }
        Ok(self.of_subnet::<[u8; 32]>(at, "SubnetOwnerHotkey")?.map(Hotkey))
    }

    /// What the subnet is set to, by the names that set it; entries that this chain does not have are left out.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet.
    pub fn hyperparameters(&self) -> Result<BTreeMap<&'static str, serde_json::Value>, Report> {
        /// The name that sets it, where there is one, and that of the entry.
        const NAMES: [(&str, &str); 21] = [
            ("activity_cutoff", "ActivityCutoff"),
            ("adjustment_interval", "AdjustmentInterval"),
            ("bonds_moving_average", "BondsMovingAverage"),
            ("bonds_penalty", "BondsPenalty"),
            ("burn", "Burn"),
            ("commit_reveal_weights_enabled", "CommitRevealWeightsEnabled"),
            ("commit_reveal_weights_interval", "RevealPeriodEpochs"),
            ("immunity_period", "ImmunityPeriod"),
            ("kappa", "Kappa"),
            ("max_allowed_uids", "MaxAllowedUids"),
            ("max_allowed_validators", "MaxAllowedValidators"),
            ("max_burn", "MaxBurn"),
            ("max_weight_limit", "MaxWeightsLimit"),
            ("mechanism_count", "MechanismCountCurrent"),
            ("min_allowed_weights", "MinAllowedWeights"),
            ("min_burn", "MinBurn"),
            ("network_registration_allowed", "NetworkRegistrationAllowed"),
            ("subnetwork_n", "SubnetworkN"),
            ("tempo", "Tempo"),
            ("weights_set_rate_limit", "WeightsSetRateLimit"),
            ("weights_version_key", "WeightsVersionKey"),
        ];
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        self.exists(&at)?;
        let mut found = BTreeMap::new();
        for (name, entry) in NAMES.into_iter().filter(|(_, entry)| has(&at, entry)) {
            let value: Value = self.or_default(&at, entry)?;
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
        Ok(self.value(&at, address, (self.index(), validator.0))?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A validator with a permit and stake, in the middle of an epoch from block 100 to 460.
    fn rules() -> Rules {
        Rules {
            block: 200,
            uid: Some(Uid(3)),
            owner: false,
            exempt: false,
            stake: 10.0,
            min_stake: 5.0,
            permit: true,
            last_update: 50,
            registered: 7,
            rate_limit: 100,
            min_count: 1,
            max_share: u16::MAX,
            commit_reveal: true,
            version_key: 0,
            epochs: Epochs::Kept { last: 100, pending: 0, index: 7, since: 100, tempo: 360 },
            reveal_period: 1,
            timelock: Timelocking::No,
            pending: Vec::new(),
            timelocked: Vec::new(),
            hotkeys: BTreeMap::new(),
            unknown: Vec::new(),
        }
    }

    #[test]
    fn who_may_not_set_weights_is_told_why() {
        let first = |rules: &Rules| rules.obstacles(false).into_iter().next().map(|(what, _)| what).unwrap_or_default();
        assert!(rules().obstacles(false).is_empty());
        assert!(first(&Rules { uid: None, ..rules() }).contains("not registered"));
        assert!(first(&Rules { stake: 4.0, ..rules() }).contains("weights need 5"));
        let without = Rules { permit: false, owner: true, ..rules() };
        assert!(first(&without).contains("no validator permit"), "an owner, too, where the chain asks it of owners");
        assert!(without.obstacles(true).is_empty(), "oneself may be weighed without");
        assert!(Rules { exempt: true, stake: 0.0, ..without }.obstacles(false).is_empty());
        let foreign = Rules { unknown: vec!["StakeThreshold: there is no such entry".into()], ..rules() };
        assert!(first(&foreign).contains("StakeThreshold"));
    }

    #[test]
    fn weights_are_set_late_in_the_epoch() {
        let at = |block: u64, margin: u64| Rules { block, ..rules() }.early_in_epoch(margin);
        // The epoch ends with block 460.
        assert_eq!((at(200, 70), at(389, 70), at(390, 70), at(459, 70)), (Some(390), Some(390), None, None));
        assert_eq!(at(100, 360), None, "a margin of the whole epoch is at once");
        assert_eq!(at(100, 10_000), None);
        let none = Epochs::Counted { tempo: 0, netuid: 1 };
        assert_eq!(Rules { epochs: none, ..rules() }.early_in_epoch(70), None);
    }
}
