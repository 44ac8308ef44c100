//! What counts as stake: the subnet's own, the root network's by its weight, parents and children; and who gets a
//! permit by it.
#![allow(clippy::unwrap_used, clippy::panic)]

use bz_localnet::{
    apis::Metagraph,
    faucet,
    runtime::{self, AccountId, Balances, Runtime, RuntimeGenesisConfig, RuntimeOrigin, System},
    subtensor::{self, *},
};
use codec::{Decode, Encode};
use frame_support::traits::{Currency, Hooks};
use sp_core::H256;
use sp_runtime::{BuildStorage, DispatchResult};

type Subnet = Pallet<Runtime>;
type Refused = subtensor::Error<Runtime>;

const NET: u16 = 1;
const TAO: u64 = 1_000_000_000;
const HALF: u64 = u64::MAX / 2;
/// Uids are one less.
const OWNER: u8 = 1;
const VERA: u8 = 2;
const ROSA: u8 = 3;

fn key(who: u8) -> AccountId {
    AccountId::from([who; 32])
}

fn cold(who: u8) -> RuntimeOrigin {
    RuntimeOrigin::signed(key(100 + who))
}

/// A subnet of the owner, Vera and Rosa, none with stake, and no stake in the root network.
fn chain<R>(run: impl FnOnce() -> R) -> R {
    let mut chain = sp_io::TestExternalities::new(RuntimeGenesisConfig::default().build_storage().unwrap());
    chain.execute_with(|| {
        System::set_block_number(1000);
        for who in [OWNER, VERA, ROSA] {
            Balances::make_free_balance_be(&key(100 + who), 10_000 * TAO);
        }
        Subnet::register_network(cold(OWNER), key(OWNER)).unwrap();
        Subnet::burned_register(cold(VERA), NET, key(VERA)).unwrap();
        Subnet::burned_register(cold(ROSA), NET, key(ROSA)).unwrap();
        TaoWeight::<Runtime>::put(HALF);
        run()
    })
}

fn stake(who: u8, netuid: u16, tao: u64) {
    Subnet::add_stake(cold(who), key(who), netuid, tao * TAO).unwrap();
}

fn children(who: u8, children: &[(u64, u8)]) -> DispatchResult {
    let children = children.iter().map(|(share, child)| (*share, key(*child))).collect();
    Subnet::set_children(cold(who), key(who), NET, children)
}

/// Of the subnet's own, of the root network's, both, in TAO rounded.
fn counts(who: u8) -> (u64, u64, u64) {
    let stake = Subnet::stake_of(&key(who), NET);
    let tao = |rao: u64| (rao + TAO / 2) / TAO;
    (tao(stake.alpha), tao(stake.tao), tao(stake.total()))
}

#[test]
fn stake_of_the_root_network_and_of_parents_counts() {
    chain(|| {
        stake(VERA, NET, 100);
        stake(ROSA, ROOT, 300);
        assert_eq!((counts(VERA), counts(ROSA)), ((100, 0, 100), (0, 300, 150)));
        // Half of both kinds goes to the child.
        stake(VERA, ROOT, 40);
        assert_eq!(counts(VERA), (100, 40, 120));
        children(VERA, &[(HALF, ROSA)]).unwrap();
        assert_eq!((counts(VERA), counts(ROSA)), ((50, 20, 60), (50, 320, 210)));
        assert_eq!(ChildKeys::<Runtime>::get(key(VERA), NET), [(HALF, key(ROSA))]);
        assert_eq!(ParentKeys::<Runtime>::get(key(ROSA), NET), [(HALF, key(VERA))]);
        // In place of those before, and away again.
        children(VERA, &[(u64::MAX, OWNER)]).unwrap();
        assert_eq!((counts(VERA), counts(ROSA), counts(OWNER)), ((0, 0, 0), (0, 300, 150), (100, 40, 120)));
        children(VERA, &[]).unwrap();
        assert_eq!((counts(VERA), counts(OWNER)), ((100, 40, 120), (0, 0, 0)));
        assert_eq!(ParentKeys::<Runtime>::iter().count() + ChildKeys::<Runtime>::iter().count(), 0);
        // What the runtime's own API says of it.
        let told = runtime::api::dispatch("SubnetInfoRuntimeApi_get_metagraph", &NET.encode()).unwrap();
        let metagraph = Option::<Metagraph>::decode(&mut &told[..]).unwrap().unwrap();
        let rao = |column: Vec<codec::Compact<u64>>| column.into_iter().map(|rao| rao.0 / TAO).collect::<Vec<_>>();
        assert_eq!(rao(metagraph.alpha_stake), [0, 100, 0]);
        assert_eq!(rao(metagraph.tao_stake), [0, 40, 300]);
        // Half is cut: 119.99… and 149.99….
        assert_eq!(rao(metagraph.total_stake), [0, 119, 149]);
    });
}

#[test]
fn permits_and_thresholds_go_by_all_that_counts() {
    let permits = |prepare: fn()| {
        chain(|| {
            MaxAllowedValidators::<Runtime>::insert(NET, 1);
            stake(VERA, NET, 100);
            prepare();
            let block = System::block_number() + 360;
            System::set_block_number(block);
            <Subnet as Hooks<u32>>::on_initialize(block);
            ValidatorPermit::<Runtime>::get(NET)
        })
    };
    // The owner always has one.
    assert_eq!(permits(|| ()), [true, true, false]);
    assert_eq!(permits(|| stake(ROSA, ROOT, 190)), [true, true, false], "95 count");
    assert_eq!(permits(|| stake(ROSA, ROOT, 210)), [true, false, true], "105 count");
    assert_eq!(permits(|| children(VERA, &[(HALF + HALF / 2, ROSA)]).unwrap()), [true, false, true]);
    let poor = |prepare: fn()| {
        chain(|| {
            StakeThreshold::<Runtime>::put(100 * TAO);
            CommitRevealWeightsEnabled::<Runtime>::insert(NET, false);
            ValidatorPermit::<Runtime>::insert(NET, vec![true; 3]);
            MinAllowedWeights::<Runtime>::insert(NET, 1);
            LastUpdate::<Runtime>::insert(NET, vec![10; 3]);
            prepare();
            Subnet::set_weights(RuntimeOrigin::signed(key(ROSA)), NET, vec![0], vec![1], 0)
        })
    };
    assert_eq!(poor(|| stake(ROSA, ROOT, 190)).unwrap_err(), Refused::NotEnoughStakeToSetWeights.into());
    poor(|| stake(ROSA, ROOT, 210)).unwrap();
    poor(|| {
        stake(VERA, NET, 210);
        children(VERA, &[(HALF, ROSA)]).unwrap();
    })
    .unwrap();
}

#[test]
fn what_no_children_can_be() {
    let refused = |call: fn() -> DispatchResult| chain(call).unwrap_err();
    assert_eq!(refused(|| children(VERA, &[(1, VERA)])), Refused::InvalidChild.into());
    assert_eq!(refused(|| children(VERA, &[(1, ROSA), (2, ROSA)])), Refused::DuplicateChild.into());
    assert_eq!(refused(|| children(VERA, &[(HALF, ROSA), (HALF + 2, OWNER)])), Refused::ProportionOverflow.into());
    let six: fn() -> DispatchResult = || children(VERA, &[(1, 11), (1, 12), (1, 13), (1, 14), (1, 15), (1, 16)]);
    assert_eq!(refused(six), Refused::TooManyChildren.into());
    assert_eq!(
        refused(|| {
            children(ROSA, &[(1, VERA)]).unwrap();
            children(VERA, &[(1, ROSA)])
        }),
        Refused::ChildParentInconsistency.into()
    );
    let by_another: fn() -> DispatchResult = || Subnet::set_children(cold(ROSA), key(VERA), NET, Vec::new());
    assert_eq!(refused(by_another), Refused::NonAssociatedColdKey.into());
    let root: fn() -> DispatchResult = || Subnet::set_children(cold(VERA), key(VERA), ROOT, Vec::new());
    assert_eq!(refused(root), Refused::RegistrationNotPermittedOnRootSubnet.into());
    let absent: fn() -> DispatchResult = || Subnet::set_children(cold(VERA), key(VERA), 7, Vec::new());
    assert_eq!(refused(absent), Refused::SubnetNotExists.into());
    let poor: fn() -> DispatchResult = || {
        StakeThreshold::<Runtime>::put(1);
        children(VERA, &[(1, ROSA)])
    };
    assert_eq!(refused(poor), Refused::NotEnoughStakeToSetChildkeys.into());
    let place = || Subnet::burned_register(cold(VERA), ROOT, key(50));
    assert_eq!(chain(place).unwrap_err(), Refused::RegistrationNotPermittedOnRootSubnet.into());
}

#[test]
fn a_payment_is_made_once_for_its_name() {
    chain(|| {
        pallet_sudo::Key::<Runtime>::put(key(100 + OWNER));
        let to = key(77);
        let pay = |name: u8, rao: u64| {
            faucet::Pallet::<Runtime>::pay(RuntimeOrigin::none(), H256([name; 32]), to.clone(), rao)
        };
        pay(1, TAO).unwrap();
        pay(1, TAO).unwrap();
        assert_eq!(Balances::free_balance(&to), TAO);
        assert_eq!(faucet::Paid::<Runtime>::get(H256([1; 32])), Some(1000));
        pay(2, TAO).unwrap();
        assert_eq!(Balances::free_balance(&to), 2 * TAO);
        assert!(pay(3, u64::MAX).is_err());
        assert_eq!(faucet::Paid::<Runtime>::get(H256([3; 32])), None, "one that failed can be made later");
        let by_somebody =
            faucet::Pallet::<Runtime>::pay(RuntimeOrigin::signed(to.clone()), H256([4; 32]), to.clone(), 1);
        assert!(by_somebody.is_err());
    });
}
