//! Who is there, and what the records of this small world look like.

use crate::setup::Setup;
use protocol::{Head, Member, Peers, Record, peers::Peer};
use record::{Hash, Hotkey, Uid, Window, records::Accepted};
use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher},
};

/// The run's name; the founding stands under it.
pub const RUN: Hash = Hash([1; 32]);
const FOUNDING_ROOT: Hash = Hash([2; 32]);
/// The number of the first window.
pub const START: u64 = 10;

/// A record, by what it says: records that say the same have the same hash, whoever signs them.
pub type Id = u64;

/// A validator.
pub fn validator(n: usize) -> Hotkey {
    Hotkey([1 + n as u8; 32])
}

/// Which validator a hotkey is.
pub fn place(hotkey: Hotkey) -> usize {
    usize::from(hotkey.0[0].saturating_sub(1))
}

fn miner(m: usize) -> Hotkey {
    Hotkey([11 + m as u8; 32])
}

/// The delta of a miner.
pub fn delta(m: usize) -> Hash {
    Hash([100 + m as u8; 32])
}

/// Which miner a delta is of.
pub fn miner_of(delta: Hash) -> usize {
    usize::from(delta.0[0].saturating_sub(100))
}

/// What a node saw of a miner's delta.
pub fn seen(m: usize, standing: protocol::Standing) -> protocol::Seen {
    protocol::Seen { uid: Uid(3 + m as u16), hotkey: miner(m), norm: 1.0 + m as f64, standing }
}

/// A neuron; its entry is put anew in each window.
fn peer(uid: u16) -> Peer {
    Peer { uid: Uid(uid), stake: 0, permit: false, incentive: 0.25, entry: Some(Window(u64::MAX)) }
}

/// Everybody, as the chain has it in all windows.
pub fn peers(setup: &Setup) -> Peers {
    let validators = setup
        .stakes
        .iter()
        .enumerate()
        .map(|(n, stake)| (validator(n), Peer { stake: *stake, permit: true, incentive: 0.0, ..peer(n as u16) }));
    let miners = (0..2).map(|m| (miner(m), peer(3 + m as u16)));
    Peers(validators.chain(miners).collect())
}

/// The record of a window, once it is final, stands under a hash that says only of which window it is; so does its
/// root.
/// States that differ by what entered long ago are one, since nothing that a node decides depends on it.
pub fn label(window: Window) -> Hash {
    if window.0 < START { RUN } else { Hash([190 + window.0 as u8; 32]) }
}

/// See [`label`].
pub fn root(window: Window) -> Hash {
    if window.0 < START { FOUNDING_ROOT } else { Hash([90 + window.0 as u8; 32]) }
}

/// The draw of a window.
pub fn reveal(window: Window) -> Hash {
    Hash([50 + window.0 as u8; 32])
}

/// The head at the start.
pub fn founding() -> Head {
    Head::founding(RUN, FOUNDING_ROOT, Window(START), &[0, 1, 2].map(validator))
}

/// The state that a list leads to.
pub fn apply(root: Hash, accepted: &[Accepted]) -> Hash {
    let mut hasher = DefaultHasher::new();
    (root, "root").hash(&mut hasher);
    for one in accepted {
        (one.uid, one.hotkey, one.blake3, one.weight_u16, one.scale.to_bits()).hash(&mut hasher);
    }
    long(hasher.finish())
}

/// What a record says, in one number.
pub fn id(record: &Record) -> Id {
    let Record { run, window, prev, reveal, accepted, clip, root, active } = record;
    let mut hasher = DefaultHasher::new();
    (run, window, prev, reveal, apply(RUN, accepted), clip.map(f64::to_bits), root).hash(&mut hasher);
    for Member { hotkey, missed } in active {
        (hotkey, missed).hash(&mut hasher);
    }
    hasher.finish()
}

/// A record's number as a hash.
pub fn long(id: Id) -> Hash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    Hash(bytes)
}
