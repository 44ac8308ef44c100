//! The runtime API with which clients read a subnet in one call: of Subtensor's the calls that its Python SDK makes
//! for neurons, hyperparameters, epochs and the metagraph. `NeuronInfoLite` is whole; `Metagraph` has the fields that
//! the SDK's own is made of, without pools, emission, identities and axons, which nobody has here.
//!
//! Source: Subtensor's `rpc_info` (`neuron_info.rs`, `metagraph.rs`, `subnet_info.rs`).
#![allow(missing_docs, reason = "the fields are Subtensor's")]

use crate::{
    runtime::{AccountId, Runtime},
    subtensor::*,
};
use codec::{Compact, Decode, Encode};
use scale_info::TypeInfo;

/// Where a neuron serves; here nobody does.
#[derive(Clone, Debug, Default, Decode, Encode, PartialEq, Eq, TypeInfo)]
pub struct AxonInfo {
    pub block: u64,
    pub version: u32,
    pub ip: u128,
    pub port: u16,
    pub ip_type: u8,
    pub protocol: u8,
    pub placeholder1: u8,
    pub placeholder2: u8,
}

/// Where a neuron tells of itself; here nobody does.
#[derive(Clone, Debug, Default, Decode, Encode, PartialEq, Eq, TypeInfo)]
pub struct PrometheusInfo {
    pub block: u64,
    pub version: u32,
    pub ip: u128,
    pub port: u16,
    pub ip_type: u8,
}

/// A neuron without weights and bonds.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq, TypeInfo)]
pub struct NeuronInfoLite {
    pub hotkey: AccountId,
    pub coldkey: AccountId,
    pub uid: Compact<u16>,
    pub netuid: Compact<u16>,
    pub active: bool,
    pub axon_info: AxonInfo,
    pub prometheus_info: PrometheusInfo,
    pub stake: Vec<(AccountId, Compact<u64>)>,
    pub rank: Compact<u16>,
    pub emission: Compact<u64>,
    pub incentive: Compact<u16>,
    pub consensus: Compact<u16>,
    pub trust: Compact<u16>,
    pub validator_trust: Compact<u16>,
    pub dividends: Compact<u16>,
    pub last_update: Compact<u64>,
    pub validator_permit: bool,
    pub pruning_score: Compact<u16>,
}

/// A subnet, a vector a column.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq, TypeInfo)]
pub struct Metagraph {
    pub netuid: Compact<u16>,
    pub name: Vec<Compact<u8>>,
    pub symbol: Vec<Compact<u8>>,
    pub network_registered_at: Compact<u64>,
    pub owner_hotkey: AccountId,
    pub owner_coldkey: AccountId,
    pub block: Compact<u64>,
    pub tempo: Compact<u16>,
    pub last_step: Compact<u64>,
    pub blocks_since_last_step: Compact<u64>,
    pub num_uids: Compact<u16>,
    pub max_uids: Compact<u16>,
    pub hotkeys: Vec<AccountId>,
    pub coldkeys: Vec<AccountId>,
    pub active: Vec<bool>,
    pub validator_permit: Vec<bool>,
    pub last_update: Vec<Compact<u64>>,
    pub dividends: Vec<Compact<u16>>,
    pub incentives: Vec<Compact<u16>>,
    pub consensus: Vec<Compact<u16>>,
    pub trust: Vec<Compact<u16>>,
    pub block_at_registration: Vec<Compact<u64>>,
    pub alpha_stake: Vec<Compact<u64>>,
    pub tao_stake: Vec<Compact<u64>>,
    pub total_stake: Vec<Compact<u64>>,
}

/// What a hyperparameter is.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq, TypeInfo)]
pub enum HyperparamValue {
    #[codec(index = 0)]
    Bool(bool),
    #[codec(index = 1)]
    U16(Compact<u16>),
    #[codec(index = 3)]
    U64(Compact<u64>),
}

/// A hyperparameter and its name.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq, TypeInfo)]
pub struct HyperparamEntry {
    pub name: Vec<u8>,
    pub value: HyperparamValue,
}

sp_api::decl_runtime_apis! {
    pub trait NeuronInfoRuntimeApi {
        fn get_neurons_lite(netuid: u16) -> Vec<NeuronInfoLite>;
        fn get_neuron_lite(netuid: u16, uid: u16) -> Option<NeuronInfoLite>;
    }
    pub trait SubnetInfoRuntimeApi {
        fn get_metagraph(netuid: u16) -> Option<Metagraph>;
        fn get_subnet_hyperparams_v3(netuid: u16) -> Option<Vec<HyperparamEntry>>;
        fn get_next_epoch_start_block(netuid: u16) -> Option<u64>;
    }
}

/// A uid's place in a vector that may be shorter.
fn at<T: Copy + Default>(all: &[T], uid: u16) -> T {
    all.get(usize::from(uid)).copied().unwrap_or_default()
}

fn compact<T: Copy>(all: Vec<T>) -> Vec<Compact<T>> {
    all.into_iter().map(Compact).collect()
}

pub(crate) fn neuron(netuid: u16, uid: u16) -> Option<NeuronInfoLite> {
    let hotkey = Keys::<Runtime>::try_get(netuid, uid).ok()?;
    let coldkey = Owner::<Runtime>::get(&hotkey);
    // The subnet's own, as Subtensor has it here: what counts in all is in the metagraph.
    let stake = TotalHotkeyAlpha::<Runtime>::get(&hotkey, netuid);
    Some(NeuronInfoLite {
        stake: vec![(coldkey.clone(), Compact(stake))],
        hotkey,
        coldkey,
        uid: Compact(uid),
        netuid: Compact(netuid),
        active: at(&Active::<Runtime>::get(netuid), uid),
        axon_info: AxonInfo::default(),
        prometheus_info: PrometheusInfo::default(),
        rank: Compact(0),
        emission: Compact(0),
        incentive: Compact(at(&Incentive::<Runtime>::get(netuid), uid)),
        consensus: Compact(at(&Consensus::<Runtime>::get(netuid), uid)),
        trust: Compact(at(&Trust::<Runtime>::get(netuid), uid)),
        validator_trust: Compact(at(&ValidatorTrust::<Runtime>::get(netuid), uid)),
        dividends: Compact(at(&Dividends::<Runtime>::get(netuid), uid)),
        last_update: Compact(at(&LastUpdate::<Runtime>::get(netuid), uid)),
        validator_permit: at(&ValidatorPermit::<Runtime>::get(netuid), uid),
        pruning_score: Compact(u16::MAX),
    })
}

pub(crate) fn neurons(netuid: u16) -> Vec<NeuronInfoLite> {
    (0..SubnetworkN::<Runtime>::get(netuid)).filter_map(|uid| neuron(netuid, uid)).collect()
}

pub(crate) fn metagraph(netuid: u16) -> Option<Metagraph> {
    if !NetworksAdded::<Runtime>::get(netuid) {
        return None;
    }
    let uids = || 0..SubnetworkN::<Runtime>::get(netuid);
    let hotkeys: Vec<AccountId> = uids().map(|uid| Keys::<Runtime>::get(netuid, uid)).collect();
    let stake: Vec<Stake> = hotkeys.iter().map(|key| Pallet::<Runtime>::stake_of(key, netuid)).collect();
    let column = |of: fn(&Stake) -> u64| stake.iter().map(|stake| Compact(of(stake))).collect();
    Some(Metagraph {
        netuid: Compact(netuid),
        name: Vec::new(),
        symbol: compact(TokenSymbol::<Runtime>::get(netuid)),
        network_registered_at: Compact(0),
        owner_hotkey: SubnetOwnerHotkey::<Runtime>::get(netuid),
        owner_coldkey: SubnetOwner::<Runtime>::get(netuid),
        block: Compact(Pallet::<Runtime>::block()),
        tempo: Compact(Tempo::<Runtime>::get(netuid)),
        last_step: Compact(LastMechansimStepBlock::<Runtime>::get(netuid)),
        blocks_since_last_step: Compact(BlocksSinceLastStep::<Runtime>::get(netuid)),
        num_uids: Compact(SubnetworkN::<Runtime>::get(netuid)),
        max_uids: Compact(MaxAllowedUids::<Runtime>::get(netuid)),
        coldkeys: hotkeys.iter().map(Owner::<Runtime>::get).collect(),
        active: Active::<Runtime>::get(netuid),
        validator_permit: ValidatorPermit::<Runtime>::get(netuid),
        last_update: compact(LastUpdate::<Runtime>::get(netuid)),
        dividends: compact(Dividends::<Runtime>::get(netuid)),
        incentives: compact(Incentive::<Runtime>::get(netuid)),
        consensus: compact(Consensus::<Runtime>::get(netuid)),
        trust: compact(Trust::<Runtime>::get(netuid)),
        block_at_registration: uids().map(|uid| Compact(BlockAtRegistration::<Runtime>::get(netuid, uid))).collect(),
        alpha_stake: column(|stake| stake.alpha),
        tao_stake: column(|stake| stake.tao),
        total_stake: column(Stake::total),
        hotkeys,
    })
}

pub(crate) fn hyperparameters(netuid: u16) -> Option<Vec<HyperparamEntry>> {
    use HyperparamValue::{Bool, U16, U64};
    let small = |value: u16| U16(Compact(value));
    let large = |value: u64| U64(Compact(value));
    let entries = [
        ("kappa", small(Kappa::<Runtime>::get(netuid))),
        ("min_allowed_weights", small(MinAllowedWeights::<Runtime>::get(netuid))),
        ("max_weights_limit", small(MaxWeightsLimit::<Runtime>::get(netuid))),
        ("tempo", small(Tempo::<Runtime>::get(netuid))),
        ("weights_version", large(WeightsVersionKey::<Runtime>::get(netuid))),
        ("weights_rate_limit", large(WeightsSetRateLimit::<Runtime>::get(netuid))),
        ("activity_cutoff", large(ActivityCutoff::<Runtime>::get(netuid).into())),
        ("registration_allowed", Bool(NetworkRegistrationAllowed::<Runtime>::get(netuid))),
        ("bonds_moving_avg", large(BondsMovingAverage::<Runtime>::get(netuid))),
        ("immunity_period", small(ImmunityPeriod::<Runtime>::get(netuid))),
        ("max_validators", small(MaxAllowedValidators::<Runtime>::get(netuid))),
        ("commit_reveal_period", large(RevealPeriodEpochs::<Runtime>::get(netuid))),
        ("commit_reveal_weights_enabled", Bool(CommitRevealWeightsEnabled::<Runtime>::get(netuid))),
    ];
    let entry = |(name, value): (&str, _)| HyperparamEntry { name: name.into(), value };
    NetworksAdded::<Runtime>::get(netuid).then(|| entries.into_iter().map(entry).collect())
}

pub(crate) fn next_epoch(netuid: u16) -> Option<u64> {
    Pallet::<Runtime>::schedule(netuid).next(Pallet::<Runtime>::block())
}
