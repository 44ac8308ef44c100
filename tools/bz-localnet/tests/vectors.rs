//! What the chain opens, held against bytes that nothing of this house made: it shares the client's code for sealed
//! weights, and would otherwise take whatever the client seals.
#![allow(clippy::unwrap_used, clippy::panic)]

use bz_localnet::{
    drand,
    runtime::{AccountId, Balances, Runtime, RuntimeGenesisConfig, RuntimeOrigin, System},
    subtensor::*,
};
use frame_support::traits::{Currency, Hooks};
use sp_core::H256;
use sp_runtime::BuildStorage;

type Subnet = Pallet<Runtime>;

const NET: u16 = 1;

/// The signature of round 1000 of drand's network `quicknet`, as `api.drand.sh` has it.
const SIGNATURE: &str =
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";
/// Its SHA-256, which drand publishes beside it.
const RANDOMNESS: &str = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd";
/// Made by PyPI's `bittensor-drand` 2.0.0, `encrypt_at_round(payload, 1000)`, without the length before and the round behind;
/// the payload is SCALE of (32 nines as bytes, uids 0 1, values 65535 7, version key 9), written by hand in Python.
const SEALED: [&str; 7] = [
    "906a9db8d0aec0b7dc8738fab2f6dbb55b04ed42e79a1b1151fbebed69553fb64a51f74e531c81d0863b5840ee0c8fb3",
    "0742d08bc393485cd1da947a555efc5d5a5d8e4ec640b12ad0e1ccec0cdf7ee0dd215dd1ec4751924c6d87a31a9d4578",
    "2000000000000000dd05455954ee5174968477ef32faf046eb8e1206e70af25d6c5eb26dd4774ee32000000000000000",
    "98bedc503e45441cc6968e01f4b54293b49fcccef0bb45b4841fcd750c954a7f5f000000000000004300000000000000",
    "24b76f32cb879750ecb1163ef7c08898f2575f2deaf34e598f866a638d6597e58fc47414625cdc9d16b33294f91b78eb",
    "42686cc0d3c3d2f311a65b06b5d26d63102d070c000000000000009ed6c3bd46827e36c814d37a080000000000000041",
    "45535f47434d5f",
];
/// By Python's `hashlib.blake2b` of 32 bytes: 32 nines, place 4097, uids 0 1, values 65535 7, salt 3 65535 258,
/// version key 9.
const COMMITTED: &str = "5532843192e4930397520ad78b16e1b1e85e8faa47c2d0fcc34de6923580d8b3";

fn key(who: u8) -> AccountId {
    AccountId::from([who; 32])
}

/// A subnet whose owner is uid 0, and whose uid 1 is 32 nines and may set weights.
fn chain<R>(run: impl FnOnce() -> R) -> R {
    let mut chain = sp_io::TestExternalities::new(RuntimeGenesisConfig::default().build_storage().unwrap());
    chain.execute_with(|| {
        System::set_block_number(1000);
        let coldkey = RuntimeOrigin::signed(key(100));
        Balances::make_free_balance_be(&key(100), 10_000_000_000);
        Subnet::register_network(coldkey.clone(), key(1)).unwrap();
        Subnet::burned_register(coldkey, NET, key(9)).unwrap();
        ValidatorPermit::<Runtime>::insert(NET, vec![true, true]);
        MinAllowedWeights::<Runtime>::insert(NET, 1);
        LastUpdate::<Runtime>::insert(NET, vec![10, 10]);
        run()
    })
}

/// The first block of the next epoch.
fn next_epoch() {
    let block = System::block_number() + 360;
    System::set_block_number(block);
    <Subnet as Hooks<u32>>::on_initialize(block);
}

#[test]
fn weights_that_bittensor_drand_sealed_are_opened_by_quicknets_signature() {
    let signature = hex::decode(SIGNATURE).unwrap();
    assert_eq!(hex::encode(sp_crypto_hashing::sha2_256(&signature)), RANDOMNESS);
    let sealed = || hex::decode(SEALED.concat()).unwrap();
    let commit = |sealed: Vec<u8>| {
        let by = RuntimeOrigin::signed(key(9));
        Subnet::commit_timelocked_weights(by, NET, sealed.try_into().unwrap(), 1000, 4).unwrap();
    };
    let publish = || {
        let pulse = drand::Pulse {
            round: 1000,
            randomness: hex::decode(RANDOMNESS).unwrap().try_into().unwrap(),
            signature: signature.clone().try_into().unwrap(),
        };
        drand::Pulses::<Runtime>::insert(1000, pulse);
    };
    let shown = |sealed: Vec<u8>, published: bool| {
        chain(|| {
            commit(sealed);
            if published {
                publish();
            }
            next_epoch();
            (Weights::<Runtime>::get(NET, 1), Subnet::awaited())
        })
    };
    assert_eq!(shown(sealed(), true), (vec![(0, 65535), (1, 7)], vec![]));
    assert_eq!(shown(sealed(), false), (vec![], vec![1000]), "it waits for its round");
    // What is another's, or does not open, is dropped.
    let mut broken = sealed();
    broken[200] ^= 1;
    assert_eq!(shown(broken, true), (vec![], vec![]));
}

#[test]
fn a_commit_is_the_hash_that_python_makes() {
    let commit = H256::from_slice(&hex::decode(COMMITTED).unwrap());
    let weights = chain(|| {
        MechanismCountCurrent::<Runtime>::insert(NET, 2);
        LastUpdate::<Runtime>::insert(storage_index(NET, 1), vec![10, 10]);
        let by = || RuntimeOrigin::signed(key(9));
        Subnet::commit_mechanism_weights(by(), NET, 1, commit).unwrap();
        next_epoch();
        ValidatorPermit::<Runtime>::insert(NET, vec![true, true]);
        Subnet::reveal_mechanism_weights(by(), NET, 1, vec![0, 1], vec![65535, 7], vec![3, 65535, 258], 9).unwrap();
        Weights::<Runtime>::get(4097, 1)
    });
    assert_eq!(weights, [(0, 65535), (1, 7)]);
}
