//! Stake: what a hotkey holds in a subnet and in the root network, and what counts of it where it has parents and
//! children.

use super::pallet::*;
use frame_support::{
    dispatch::DispatchResult,
    ensure,
    traits::{Currency, ExistenceRequirement, WithdrawReasons},
};
use frame_system::{ensure_signed, pallet_prelude::OriginFor};
use sp_runtime::traits::SaturatedConversion;

/// The root network: stake in it is TAO, and counts in every subnet by `TaoWeight`. It has no neurons here.
pub const ROOT: u16 = 0;
/// Most children of a hotkey in a subnet. Source: Subtensor's `ensure_childkey_count`.
const MAX_CHILDREN: usize = 5;
/// Fractions have so many bits. Source: the U96F32 of Subtensor's `stake_utils`.
const BITS: u32 = 32;

/// What counts of a hotkey's stake in a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stake {
    /// Of the subnet's own, with what parents give and without what goes to children.
    pub alpha: u64,
    /// Of the root network's, the same way.
    pub tao: u64,
    /// Both together, the root network's by its weight; 1 is 2³².
    fixed: u128,
}

impl Stake {
    fn new(alpha: u64, tao: u64, tao_weight: u64) -> Self {
        let fixed = (u128::from(alpha) << BITS).saturating_add(u128::from(tao).saturating_mul(fraction(tao_weight)));
        Stake { alpha, tao, fixed }
    }

    /// Both together, in whole rao.
    pub fn total(&self) -> u64 {
        (self.fixed >> BITS).saturated_into()
    }

    /// Both together, with what is less than a rao.
    pub fn exact(&self) -> f64 {
        self.fixed as f64 / (1u64 << BITS) as f64
    }
}

/// A share of `u64::MAX`, cut to 32 bits behind the point.
fn fraction(share: u64) -> u128 {
    (u128::from(share) << BITS) / u128::from(u64::MAX)
}

/// What is left of `own` when children take their shares, and parents give theirs; `parents` are shares and what they
/// hold.
fn inherited(own: u64, children: &[u64], parents: &[(u64, u64)]) -> u64 {
    let part = |share: u64, held: u64| u128::from(held).saturating_mul(fraction(share));
    let given = children.iter().fold(0u128, |sum, share| sum.saturating_add(part(*share, own)));
    let got = parents.iter().fold(0u128, |sum, (share, held)| sum.saturating_add(part(*share, *held)));
    ((u128::from(own) << BITS).saturating_sub(given).saturating_add(got) >> BITS).saturated_into()
}

impl<T: Config> Pallet<T> {
    /// What counts of a hotkey's stake in a subnet. Source: Subtensor's `get_stake_weights_for_hotkey_on_subnet`.
    pub fn stake_of(hotkey: &T::AccountId, netuid: u16) -> Stake {
        let children: Vec<u64> = ChildKeys::<T>::get(hotkey, netuid).into_iter().map(|(share, _)| share).collect();
        let parents = ParentKeys::<T>::get(hotkey, netuid);
        let counted = |network: u16| {
            let held = |key: &T::AccountId| TotalHotkeyAlpha::<T>::get(key, network);
            let parents: Vec<(u64, u64)> = parents.iter().map(|(share, parent)| (*share, held(parent))).collect();
            inherited(held(hotkey), &children, &parents)
        };
        Stake::new(counted(netuid), counted(ROOT), TaoWeight::<T>::get())
    }

    /// Source: Subtensor's `check_weights_min_stake`.
    pub(super) fn enough_stake(netuid: u16, hotkey: &T::AccountId) -> DispatchResult {
        let owner = SubnetOwnerHotkey::<T>::get(netuid) == *hotkey;
        let enough = Self::stake_of(hotkey, netuid).total() >= StakeThreshold::<T>::get();
        ensure!(owner || enough, Error::<T>::NotEnoughStakeToSetWeights);
        Ok(())
    }

    pub(super) fn burn(coldkey: &T::AccountId, amount: u64) -> DispatchResult {
        T::Currency::withdraw(coldkey, amount, WithdrawReasons::FEE, ExistenceRequirement::KeepAlive)
            .map(drop)
            .map_err(|_| Error::<T>::NotEnoughBalanceToStake.into())
    }

    pub(super) fn do_add_stake(origin: OriginFor<T>, hotkey: T::AccountId, netuid: u16, amount: u64) -> DispatchResult {
        let coldkey = ensure_signed(origin)?;
        ensure!(netuid == ROOT || NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(Owner::<T>::contains_key(&hotkey), Error::<T>::HotKeyAccountNotExists);
        ensure!(Owner::<T>::get(&hotkey) == coldkey, Error::<T>::NonAssociatedColdKey);
        Self::burn(&coldkey, amount)?;
        TotalHotkeyAlpha::<T>::mutate(&hotkey, netuid, |stake| *stake = stake.saturating_add(amount));
        Self::deposit_event(Event::StakeAdded(coldkey, hotkey, amount, amount, netuid, 0));
        Ok(())
    }

    /// Give shares of a hotkey's stake to others. Source: Subtensor's `do_schedule_children`, whose checks are these
    /// in this order; a subnet that was not started yet, as those here are, takes them at once.
    pub(super) fn do_set_children(
        origin: OriginFor<T>,
        hotkey: T::AccountId,
        netuid: u16,
        children: Vec<(u64, T::AccountId)>,
    ) -> DispatchResult {
        let coldkey = ensure_signed(origin)?;
        ensure!(netuid != ROOT, Error::<T>::RegistrationNotPermittedOnRootSubnet);
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        let owned = Owner::<T>::contains_key(&hotkey) && Owner::<T>::get(&hotkey) == coldkey;
        ensure!(owned, Error::<T>::NonAssociatedColdKey);
        for (place, (_, child)) in children.iter().enumerate() {
            let before = children.iter().take(place);
            ensure!(!before.map(|(_, other)| other).any(|other| other == child), Error::<T>::DuplicateChild);
        }
        ensure!(children.iter().all(|(_, child)| *child != hotkey), Error::<T>::InvalidChild);
        ensure!(children.len() <= MAX_CHILDREN, Error::<T>::TooManyChildren);
        let shares = children.iter().map(|(share, _)| u128::from(*share)).sum::<u128>();
        ensure!(shares <= u128::from(u64::MAX), Error::<T>::ProportionOverflow);
        let parents = ParentKeys::<T>::get(&hotkey, netuid);
        let both = children.iter().any(|(_, child)| parents.iter().any(|(_, parent)| parent == child));
        ensure!(!both, Error::<T>::ChildParentInconsistency);
        let held = TotalHotkeyAlpha::<T>::iter_prefix(&hotkey).fold(0u64, |sum, (_, held)| sum.saturating_add(held));
        let enough = held >= StakeThreshold::<T>::get() || SubnetOwnerHotkey::<T>::get(netuid) == hotkey;
        ensure!(children.is_empty() || enough, Error::<T>::NotEnoughStakeToSetChildkeys);
        Self::link(&hotkey, netuid, &children);
        Self::deposit_event(Event::SetChildren(hotkey, netuid, children));
        Ok(())
    }

    /// Both ends know of each other, and no empty list is kept.
    fn link(hotkey: &T::AccountId, netuid: u16, children: &[(u64, T::AccountId)]) {
        for (_, child) in ChildKeys::<T>::take(hotkey, netuid) {
            let mut parents = ParentKeys::<T>::take(&child, netuid);
            parents.retain(|(_, parent)| parent != hotkey);
            if !parents.is_empty() {
                ParentKeys::<T>::insert(&child, netuid, parents);
            }
        }
        for (share, child) in children {
            ParentKeys::<T>::mutate(child, netuid, |parents| parents.push((*share, hotkey.clone())));
        }
        if !children.is_empty() {
            ChildKeys::<T>::insert(hotkey, netuid, children.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    /// By hand, in Subtensor's 32 bits behind the point: a half of `u64::MAX` is less than a half by 2⁻³².
    #[test]
    fn shares_are_cut_as_the_chain_cuts_them() {
        assert_eq!(inherited(1000, &[], &[]), 1000);
        assert_eq!(inherited(1000, &[ALL], &[]), 0);
        assert_eq!(fraction(ALL / 2), (1 << 31) - 1);
        // 1000 − 499.99… is 500.00…, of which whole rao count.
        assert_eq!(inherited(1000, &[ALL / 2], &[]), 500);
        // And the child gets 499.
        assert_eq!(inherited(0, &[], &[(ALL / 2, 1000)]), 499);
        assert_eq!(inherited(7, &[ALL / 2, ALL / 2], &[(ALL, 5), (ALL / 4, 400)]), 104);
        assert_eq!(inherited(ALL, &[], &[(ALL, ALL)]), ALL, "a sum above the largest is the largest");
    }

    #[test]
    fn stake_in_the_root_network_counts_by_its_weight() {
        // The main net's weight: 971,718,665,099,567,868 of 2⁶⁴ is 0.05267…
        let stake = Stake::new(100_000_000_000, 1_000_000_000_000, 971_718_665_099_567_868);
        assert_eq!((stake.alpha, stake.tao), (100_000_000_000, 1_000_000_000_000));
        let by_hand = 100e9 + 1e12 * (971_718_665_099_567_868.0 / 18_446_744_073_709_551_615.0);
        assert!((stake.exact() - by_hand).abs() < 1e12 / 4_294_967_296.0, "{} {by_hand}", stake.exact());
        assert_eq!(stake.total(), stake.exact().floor() as u64);
        assert_eq!(Stake::new(5, 7, ALL).total(), 12);
        assert_eq!(Stake::new(5, 7, 0).total(), 5);
    }
}
