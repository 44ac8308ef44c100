//! What this tool says, as records.

use chain::{
    Room,
    weights::{Rules, Timelocking},
};
use record::{Hash, Hotkey, Uid, records::Record};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Who a wallet is on a subnet.
#[derive(Serialize, Deserialize)]
pub(crate) struct Whoami {
    pub(crate) hotkey: Hotkey,
    pub(crate) netuid: u16,
    /// `null`: it is not registered.
    pub(crate) uid: Option<u16>,
}

impl Record for Whoami {
    const TYPE: &'static str = "whoami";
}

/// What a subnet is set to, by the names that set it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hyperparameters(pub(crate) BTreeMap<String, Value>);

impl Record for Hyperparameters {
    const TYPE: &'static str = "hyperparameters";
}

/// A registration, or why there is none.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) hotkey: Option<Hotkey>,
    pub(crate) netuid: u16,
    pub(crate) uid: Option<u16>,
    pub(crate) registered: bool,
    /// What a place cost when it was asked for, in TAO.
    pub(crate) price: Option<f64>,
    pub(crate) tx: Option<Hash>,
    pub(crate) block: Option<u64>,
    /// Of a dry run: the call that would be signed.
    pub(crate) call: Option<String>,
    /// Its bytes, hexadecimal.
    pub(crate) call_bytes: Option<String>,
    pub(crate) reason: Option<String>,
}

impl Record for Registration {
    const TYPE: &'static str = "registration";
}

/// The address of a bucket on the chain.
#[derive(Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) hotkey: Hotkey,
    pub(crate) netuid: u16,
    /// Where it is, without a key.
    pub(crate) bucket: String,
    /// Whether others can read it, as far as that was tried.
    pub(crate) readable: Option<bool>,
    pub(crate) submitted: bool,
    pub(crate) tx: Option<Hash>,
    pub(crate) block: Option<u64>,
    /// Of a dry run: the call that would be signed.
    pub(crate) call: Option<String>,
    /// Its bytes, hexadecimal.
    pub(crate) call_bytes: Option<String>,
    pub(crate) reason: Option<String>,
}

impl Record for Committed {
    const TYPE: &'static str = "bucket";
}

/// What is in the way of weights, and what to do about it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Obstacle {
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// How a wallet stands.
#[derive(Serialize, Deserialize)]
pub(crate) struct Doctor {
    hotkey: Hotkey,
    netuid: u16,
    mechanism: u8,
    /// The block of this view.
    block: u64,
    uid: Option<Uid>,
    registered: bool,
    owner: bool,
    /// What it weighs in the subnet, as `peer` records have it: alpha, and the root network's TAO at the chain's rate.
    stake: f64,
    stake_needed: f64,
    permit: bool,
    commit_reveal: bool,
    reveal_period_epochs: u64,
    timelocked_commits: bool,
    /// Why this suite writes no timelocked commits here, where the chain takes some.
    timelock_unknown: Option<String>,
    waiting_for_reveal: usize,
    weights: Vec<(u16, u16)>,
    blocks_since_weights: Option<u64>,
    version_key: u64,
    rate_limit: u64,
    next_epoch_at: Option<u64>,
    next_weights_at: u64,
    /// How many bytes may be committed in an epoch, how many of them were and are left, and the block from which all are
    /// there again; `null` where the chain's form is not known.
    commit_bytes: Option<u64>,
    commit_bytes_used: Option<u64>,
    commit_bytes_left: Option<u64>,
    commit_bytes_again_at: Option<u64>,
    obstacles: Vec<Obstacle>,
}

impl Record for Doctor {
    const TYPE: &'static str = "doctor";
}

impl Doctor {
    /// By the rules, and the weights that the chain has.
    pub(crate) fn new(
        hotkey: Hotkey,
        subnet: chain::Subnet,
        rules: &Rules,
        weights: Vec<(u16, u16)>,
        room: Option<Room>,
        obstacles: Vec<Obstacle>,
    ) -> Self {
        Doctor {
            hotkey,
            netuid: subnet.netuid,
            mechanism: subnet.mechanism,
            block: rules.block,
            uid: rules.uid,
            registered: rules.uid.is_some(),
            owner: rules.owner,
            stake: rules.stake,
            stake_needed: rules.min_stake,
            permit: rules.permit,
            commit_reveal: rules.commit_reveal,
            reveal_period_epochs: rules.reveal_period,
            timelocked_commits: matches!(rules.timelock, Timelocking::Yes(_)),
            timelock_unknown: match &rules.timelock {
                Timelocking::Unknown(what) => Some(what.clone()),
                Timelocking::Yes(_) | Timelocking::No => None,
            },
            waiting_for_reveal: rules.pending.len() + rules.timelocked.len(),
            weights,
            blocks_since_weights: rules.set_at().map(|last| rules.block.saturating_sub(last)),
            version_key: rules.version_key,
            rate_limit: rules.rate_limit,
            next_epoch_at: rules.epochs.next(rules.block),
            next_weights_at: rules.too_early().max(rules.set_in_epoch()).unwrap_or(rules.block),
            commit_bytes: room.map(|room| room.space),
            commit_bytes_used: room.map(|room| room.used),
            commit_bytes_left: room.map(|room| room.left()),
            commit_bytes_again_at: room.and_then(|room| room.renewed_at),
            obstacles,
        }
    }
}
