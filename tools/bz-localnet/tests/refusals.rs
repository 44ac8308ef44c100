//! What the chain refuses, and why: every check of the calls that this suite makes, one by one, each with all before
//! it met.
#![allow(clippy::unwrap_used, clippy::panic)]

use bz_localnet::{
    commitments::{self, CommitmentInfo},
    drand,
    runtime::{AccountId, Balances, Runtime, RuntimeCall, RuntimeGenesisConfig, RuntimeOrigin, System},
    subtensor::{self, *},
};
use codec::Decode;
use frame_support::{dispatch::DispatchInfo, traits::Currency};
use sp_runtime::{
    BuildStorage, DispatchError, DispatchResult,
    traits::{DispatchTransaction, Hash},
    transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};

type Subnet = Pallet<Runtime>;
type Refused = subtensor::Error<Runtime>;
/// Why, what is changed before, and the call.
type Case = (Refused, fn(), fn() -> DispatchResult);

const NET: u16 = 1;
const OWNER: u8 = 1;
const VERA: u8 = 2;
const STRANGER: u8 = 9;

fn key(who: u8) -> AccountId {
    AccountId::from([who; 32])
}

fn by(who: u8) -> RuntimeOrigin {
    RuntimeOrigin::signed(key(who))
}

/// A subnet at block 1000 with the owner at uid 0 and a validator with a permit, stake and time at uid 1; the change;
/// the call.
fn with<R>(change: impl FnOnce(), call: impl FnOnce() -> R) -> R {
    let mut chain = sp_io::TestExternalities::new(RuntimeGenesisConfig::default().build_storage().unwrap());
    chain.execute_with(|| {
        System::set_block_number(1000);
        for who in [OWNER, VERA, STRANGER] {
            Balances::make_free_balance_be(&key(100 + who), 10_000_000_000);
        }
        Subnet::register_network(by(100 + OWNER), key(OWNER)).unwrap();
        Subnet::burned_register(by(100 + VERA), NET, key(VERA)).unwrap();
        ValidatorPermit::<Runtime>::insert(NET, vec![true, true]);
        MinAllowedWeights::<Runtime>::insert(NET, 1);
        CommitRevealWeightsEnabled::<Runtime>::insert(NET, false);
        LastUpdate::<Runtime>::insert(NET, vec![10, 10]);
        change();
        call()
    })
}

fn set(dests: &[u16], weights: &[u16]) -> DispatchResult {
    Subnet::set_weights(by(VERA), NET, dests.to_vec(), weights.to_vec(), 0)
}

fn hidden() {
    CommitRevealWeightsEnabled::<Runtime>::insert(NET, true);
}

/// Commit to (0: 1), with so much salt.
fn commit(salt: u16) -> DispatchResult {
    let content = (key(VERA), NET, vec![0u16], vec![1u16], vec![salt], 0u64);
    Subnet::commit_weights(by(VERA), NET, sp_runtime::traits::BlakeTwo256::hash_of(&content))
}

fn reveal(salt: u16) -> DispatchResult {
    Subnet::reveal_weights(by(VERA), NET, vec![0], vec![1], vec![salt], 0)
}

fn timelocked(round: u64, version: u16) -> DispatchResult {
    Subnet::commit_timelocked_weights(by(VERA), NET, vec![1; 8].try_into().unwrap(), round, version)
}

/// Later in this epoch, or so many epochs later.
fn later(blocks: u32, epochs: u64) {
    System::set_block_number(System::block_number() + blocks);
    SubnetEpochIndex::<Runtime>::mutate(NET, |index| *index += epochs);
    LastEpochBlock::<Runtime>::insert(NET, u64::from(System::block_number()));
}

#[test]
fn weights() {
    let plain = || set(&[0], &[1]);
    with(|| (), plain).unwrap();
    let cases: Vec<Case> = vec![
        (Refused::CommitRevealEnabled, hidden, || set(&[0], &[1])),
        (Refused::WeightVecNotEqualSize, || (), || set(&[0], &[1, 2])),
        (
            Refused::MechanismDoesNotExist,
            || CommitRevealWeightsEnabled::<Runtime>::insert(7, false),
            || Subnet::set_weights(by(VERA), 7, vec![0], vec![1], 0),
        ),
        (
            Refused::MechanismDoesNotExist,
            || (),
            || Subnet::set_mechanism_weights(by(VERA), NET, 1, vec![0], vec![1], 0),
        ),
        (Refused::UidsLengthExceedUidsInSubNet, || (), || set(&[0, 1, 2], &[1, 1, 1])),
        (Refused::HotKeyNotRegisteredInSubNet, || (), || Subnet::set_weights(by(STRANGER), NET, vec![0], vec![1], 0)),
        (Refused::NotEnoughStakeToSetWeights, || StakeThreshold::<Runtime>::put(1), || set(&[0], &[1])),
        (Refused::IncorrectWeightVersionKey, || WeightsVersionKey::<Runtime>::insert(NET, 3), || set(&[0], &[1])),
        (Refused::SettingWeightsTooFast, || LastUpdate::<Runtime>::insert(NET, vec![10, 950]), || set(&[0], &[1])),
        (
            Refused::NeuronNoValidatorPermit,
            || ValidatorPermit::<Runtime>::insert(NET, vec![true, false]),
            || set(&[0], &[1]),
        ),
        (Refused::DuplicateUids, || (), || set(&[0, 0], &[1, 1])),
        (Refused::UidVecContainInvalidOne, || (), || set(&[2], &[1])),
        (Refused::WeightVecLengthIsLow, || MinAllowedWeights::<Runtime>::insert(NET, 2), || set(&[0], &[1])),
        (Refused::MaxWeightExceeded, || MaxWeightsLimit::<Runtime>::insert(NET, 40000), || set(&[0], &[1])),
    ];
    for (error, change, call) in cases {
        assert_eq!(with(change, call).unwrap_err(), DispatchError::from(error));
    }
    // Oneself may be weighed without a permit, alone and in full; the owner may weigh without a permit and without
    // stake.
    with(
        || {
            ValidatorPermit::<Runtime>::insert(NET, vec![false, false]);
            MaxWeightsLimit::<Runtime>::insert(NET, 1);
        },
        || set(&[1], &[1]),
    )
    .unwrap();
    with(
        || {
            ValidatorPermit::<Runtime>::insert(NET, vec![false, false]);
            StakeThreshold::<Runtime>::put(1);
        },
        || Subnet::set_weights(by(OWNER), NET, vec![1], vec![1], 0),
    )
    .unwrap();
}

#[test]
fn commits_and_reveals() {
    let fast = || LastUpdate::<Runtime>::insert(NET, vec![10, 950]);
    assert_eq!(with(|| (), || commit(1)).unwrap_err(), Refused::CommitRevealDisabled.into());
    with(hidden, || {
        fast();
        assert_eq!(commit(1).unwrap_err(), Refused::CommittingWeightsTooFast.into());
        assert_eq!(timelocked(5, 4).unwrap_err(), Refused::CommittingWeightsTooFast.into());
    });
    with(hidden, || {
        assert_eq!(reveal(1).unwrap_err(), Refused::NoWeightsCommitFound.into());
        commit(1).unwrap();
        assert_eq!(reveal(1).unwrap_err(), Refused::RevealTooEarly.into());
        assert_eq!(reveal(2).unwrap_err(), Refused::InvalidRevealCommitHashNotMatch.into());
        later(360, 1);
        reveal(1).unwrap();
        assert_eq!(Weights::<Runtime>::get(NET, 1), [(0, 65535)]);
        assert_eq!(reveal(1).unwrap_err(), Refused::NoWeightsCommitFound.into());
    });
    with(hidden, || {
        commit(1).unwrap();
        later(720, 2);
        assert_eq!(reveal(1).unwrap_err(), Refused::ExpiredWeightCommit.into());
    });
    with(hidden, || {
        WeightsSetRateLimit::<Runtime>::insert(NET, 0);
        (0..10).for_each(|salt| commit(salt).unwrap());
        assert_eq!(commit(10).unwrap_err(), Refused::TooManyUnrevealedCommits.into());
        (0..10).for_each(|_| timelocked(5, 4).unwrap());
        assert_eq!(timelocked(5, 4).unwrap_err(), Refused::TooManyUnrevealedCommits.into());
    });
    with(hidden, || {
        drand::LastStoredRound::<Runtime>::put(100);
        assert_eq!(timelocked(5, 4).unwrap_err(), Refused::InvalidRevealRound.into());
        assert_eq!(timelocked(200, 3).unwrap_err(), Refused::IncorrectCommitRevealVersion.into());
        timelocked(200, 4).unwrap();
    });
}

#[test]
fn what_the_pool_knows_it_does_not_take() {
    // By the extension of transactions, as the pool and a block ask it.
    let early = |call: subtensor::Call<Runtime>| {
        let (call, info) = (RuntimeCall::from(call), DispatchInfo::default());
        let extension = SubtensorTransactionExtension::<Runtime>::new();
        match extension.validate_only(by(VERA), &call, &info, 0, TransactionSource::External, 0) {
            Ok(_) => None,
            Err(TransactionValidityError::Invalid(InvalidTransaction::Custom(code))) => Some(code),
            Err(other) => panic!("{other:?}"),
        }
    };
    let weights = || subtensor::Call::set_weights { netuid: NET, dests: vec![0], weights: vec![1], version_key: 0 };
    let shown = |salt| subtensor::Call::reveal_weights {
        netuid: NET,
        uids: vec![0],
        values: vec![1],
        salt: vec![salt],
        version_key: 0,
    };
    assert_eq!(with(|| (), || early(weights())), None);
    assert_eq!(with(|| StakeThreshold::<Runtime>::put(1), || early(weights())), Some(1));
    assert_eq!(with(|| LastUpdate::<Runtime>::insert(NET, vec![10, 950]), || early(weights())), Some(6));
    with(hidden, || {
        assert_eq!(early(shown(1)), Some(16));
        commit(1).unwrap();
        assert_eq!((early(shown(1)), early(shown(2))), (Some(17), Some(16)));
        later(360, 1);
        assert_eq!(early(shown(1)), None);
        drand::LastStoredRound::<Runtime>::put(100);
        let late = subtensor::Call::commit_timelocked_weights {
            netuid: NET,
            commit: Vec::new().try_into().unwrap(),
            reveal_round: 5,
            commit_reveal_version: 4,
        };
        assert_eq!(early(late), Some(15));
    });
    // It asks nothing of other calls, and of nobody's.
    with(
        || StakeThreshold::<Runtime>::put(1),
        || {
            assert_eq!(early(subtensor::Call::burned_register { netuid: NET, hotkey: key(STRANGER) }), None);
            let owner = Subnet::check(&key(OWNER), &weights());
            assert_eq!(owner, Ok(()), "the owner needs no stake");
            assert_eq!(Subnet::check(&key(VERA), &weights()), Err(Refusal::StakeAmountTooLow));
        },
    );
}

#[test]
fn places_and_buckets() {
    let buy = |who: u8, hotkey: u8| Subnet::burned_register(by(100 + who), NET, key(hotkey));
    with(|| (), || buy(STRANGER, STRANGER)).unwrap();
    let refused = |change: fn(), call: &dyn Fn() -> DispatchResult| with(change, call).unwrap_err();
    assert_eq!(refused(|| (), &|| buy(STRANGER, VERA)), Refused::HotKeyAlreadyRegisteredInSubNet.into());
    let closed = || NetworkRegistrationAllowed::<Runtime>::insert(NET, false);
    assert_eq!(refused(closed, &|| buy(STRANGER, STRANGER)), Refused::SubNetRegistrationDisabled.into());
    let owned = || Owner::<Runtime>::insert(key(STRANGER), key(77));
    assert_eq!(refused(owned, &|| buy(STRANGER, STRANGER)), Refused::NonAssociatedColdKey.into());
    let dear = || Burn::<Runtime>::insert(NET, 20_000_000_000);
    assert_eq!(refused(dear, &|| buy(STRANGER, STRANGER)), Refused::NotEnoughBalanceToStake.into());
    let limited = || Subnet::register_limit(by(100 + STRANGER), NET, key(STRANGER), 99_999_999);
    assert_eq!(refused(|| (), &limited), Refused::RegistrationPriceLimitExceeded.into());
    let taken = || Subnet::register_network(by(100 + STRANGER), key(VERA));
    assert_eq!(refused(|| (), &taken), Refused::NonAssociatedColdKey.into());
    // A full subnet: who earns least goes, the owner never.
    let full = || MaxAllowedUids::<Runtime>::insert(NET, 2);
    with(full, || {
        buy(STRANGER, STRANGER).unwrap();
        assert_eq!(Uids::<Runtime>::get(NET, key(STRANGER)), Some(1));
        assert_eq!(Uids::<Runtime>::get(NET, key(VERA)), None);
        assert!(!ValidatorPermit::<Runtime>::get(NET)[1], "a permit is not inherited");
        MaxAllowedUids::<Runtime>::insert(NET, 1);
    });
    let alone = || {
        SubnetworkN::<Runtime>::insert(NET, 1);
        MaxAllowedUids::<Runtime>::insert(NET, 1);
    };
    assert_eq!(refused(alone, &|| buy(STRANGER, STRANGER)), Refused::NoNeuronIdAvailable.into());

    let say = |who: u8| {
        let info = CommitmentInfo { fields: Vec::new().try_into().unwrap() };
        commitments::Pallet::<Runtime>::set_commitment(by(who), NET, Box::new(info))
    };
    let wrong = commitments::Error::<Runtime>::AccountNotAllowedCommit;
    assert_eq!(with(|| (), || say(STRANGER)).unwrap_err(), wrong.into());
    with(
        || (),
        || {
            (0..31).for_each(|_| say(VERA).unwrap());
            assert_eq!(say(VERA).unwrap_err(), commitments::Error::<Runtime>::SpaceLimitExceeded.into());
            later(360, 1);
            say(VERA).unwrap();
        },
    );
    // Root says how much an epoch takes, and nobody else.
    with(
        || (),
        || {
            let limit = |origin: RuntimeOrigin| commitments::Pallet::<Runtime>::set_max_space(origin, 250);
            assert_eq!(limit(by(VERA)).unwrap_err(), DispatchError::BadOrigin);
            limit(RuntimeOrigin::root()).unwrap();
            (0..2).for_each(|_| say(VERA).unwrap());
            assert_eq!(say(VERA).unwrap_err(), commitments::Error::<Runtime>::SpaceLimitExceeded.into());
            // Fields count by their bytes: 128 and 114 do not fit behind a hundred, and nothing was counted of what failed.
            let info = |lengths: &[usize]| {
                let fields: Vec<_> = lengths.iter().map(|length| commitments::Data::Raw(vec![b'x'; *length])).collect();
                Box::new(CommitmentInfo { fields: fields.try_into().unwrap() })
            };
            later(360, 1);
            commitments::Pallet::<Runtime>::set_commitment(by(VERA), NET, info(&[8, 114])).unwrap();
            let full = commitments::Pallet::<Runtime>::set_commitment(by(VERA), NET, info(&[16, 114]));
            assert_eq!(full.unwrap_err(), commitments::Error::<Runtime>::SpaceLimitExceeded.into());
            commitments::Pallet::<Runtime>::set_commitment(by(VERA), NET, info(&[14, 114])).unwrap();
        },
    );
    // Nor is an entry of four fields one, nor a field of 129 bytes: that is no call at all.
    let fields = |count: u8| [&[count << 2][..], &[2, b'x'].repeat(count.into())].concat();
    assert!(
        CommitmentInfo::decode(&mut &fields(3)[..]).is_ok() && CommitmentInfo::decode(&mut &fields(4)[..]).is_err()
    );
    let long = [&[1 << 2, 130][..], &[b'x'; 129]].concat();
    assert!(CommitmentInfo::decode(&mut &long[..]).is_err());
}
