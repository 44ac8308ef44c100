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
/// Made by PyPI's `bittensor-drand` 2.0.0, `encrypt_at_round(payload, 1000)`, without the round that it puts behind;
/// the payload is SCALE of (32 nines as bytes, uids 0 1, values 65535 7, version key 9), written by hand in Python.
const SEALED: [&str; 7] = [
    "9d04809c685d9817348c27934f2442ddd481ad0725aae0c296d215d5a7e491b9649ea0919d2d4f97b776bece112db256",
    "82fd0f1d7a698e64143ec247b46c61932e1041e873814c4bb5ac11cd63ffc0956bd5355eda8054f4bd210fb05f4c5650",
    "47502000000000000000f0bb9f3c2052b3bae8d07a5bca94682e4ae0cfdf3d61401ecfc7bfeef11f06df200000000000",
    "00004187df59fcb3f568b49e0e6a7398592c61ed3fa65b4c7e393e9f16e02d23e9ab5f00000000000000430000000000",
    "000050af864ff15a8a9619669f8001266fff73aa4cea52b00736eb8de4e0c45ba2f7b6df618cdee006fc25fe9ac01bb6",
    "52a7056ce7a1ef78a078a2def79f0f1405bc1a7c7e0c000000000000000dacfba83da497c94167d25608000000000000",
    "004145535f47434d5f",
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
