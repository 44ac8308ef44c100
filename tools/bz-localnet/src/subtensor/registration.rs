//! Subnets and the places in them.

use super::{pallet::*, put, stake::ROOT, storage_index};
use frame_support::{dispatch::DispatchResult, ensure};
use frame_system::{ensure_signed, pallet_prelude::OriginFor};

impl<T: Config> Pallet<T> {
    pub(super) fn owner_uid(netuid: u16) -> Option<u16> {
        Uids::<T>::get(netuid, SubnetOwnerHotkey::<T>::get(netuid))
    }

    /// A hotkey belongs to one coldkey in all subnets.
    fn may_own(coldkey: &T::AccountId, hotkey: &T::AccountId) -> DispatchResult {
        let free = !Owner::<T>::contains_key(hotkey);
        ensure!(free || Owner::<T>::get(hotkey) == *coldkey, Error::<T>::NonAssociatedColdKey);
        Ok(())
    }

    pub(super) fn do_register(origin: OriginFor<T>, netuid: u16, hotkey: T::AccountId) -> DispatchResult {
        let coldkey = ensure_signed(origin)?;
        ensure!(netuid != ROOT, Error::<T>::RegistrationNotPermittedOnRootSubnet);
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(NetworkRegistrationAllowed::<T>::get(netuid), Error::<T>::SubNetRegistrationDisabled);
        ensure!(!Uids::<T>::contains_key(netuid, &hotkey), Error::<T>::HotKeyAlreadyRegisteredInSubNet);
        Self::may_own(&coldkey, &hotkey)?;
        Self::burn(&coldkey, Burn::<T>::get(netuid))?;
        Self::add_neuron(netuid, &hotkey, &coldkey)
    }

    pub(super) fn do_register_limit(
        origin: OriginFor<T>,
        netuid: u16,
        hotkey: T::AccountId,
        limit_price: u64,
    ) -> DispatchResult {
        ensure!(netuid != ROOT, Error::<T>::RegistrationNotPermittedOnRootSubnet);
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(Burn::<T>::get(netuid) <= limit_price, Error::<T>::RegistrationPriceLimitExceeded);
        Self::do_register(origin, netuid, hotkey)
    }

    pub(super) fn do_register_network(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
        let coldkey = ensure_signed(origin)?;
        Self::may_own(&coldkey, &hotkey)?;
        let netuid = TotalNetworks::<T>::get().max(ROOT + 1);
        TotalNetworks::<T>::put(netuid + 1);
        NetworksAdded::<T>::insert(netuid, true);
        SubnetOwner::<T>::insert(netuid, &coldkey);
        SubnetOwnerHotkey::<T>::insert(netuid, &hotkey);
        // What a new subnet has in place of the defaults. Source: Subtensor's `init_new_network`.
        MaxAllowedValidators::<T>::insert(netuid, 64);
        ImmunityPeriod::<T>::insert(netuid, 5000);
        // Subnets are shifted against each other.
        let shift = u64::from(netuid) % u64::from(Tempo::<T>::get(netuid)).max(1);
        LastEpochBlock::<T>::insert(netuid, Self::block().saturating_sub(shift));
        Self::deposit_event(Event::NetworkAdded(netuid, 0));
        Self::add_neuron(netuid, &hotkey, &coldkey)
    }

    fn add_neuron(netuid: u16, hotkey: &T::AccountId, coldkey: &T::AccountId) -> DispatchResult {
        let next = SubnetworkN::<T>::get(netuid);
        let replaced = if next < MaxAllowedUids::<T>::get(netuid) {
            None
        } else {
            Some(Self::to_replace(netuid).ok_or(Error::<T>::NoNeuronIdAvailable)?)
        };
        let (uid, block) = (replaced.unwrap_or(next), Self::block());
        match replaced {
            Some(uid) => Self::clear(netuid, uid),
            None => Self::append(netuid),
        }
        Owner::<T>::insert(hotkey, coldkey);
        // A hotkey holds no TAO, and still has to be an account whose nonce is kept.
        frame_system::Pallet::<T>::inc_providers(hotkey);
        Keys::<T>::insert(netuid, uid, hotkey);
        Uids::<T>::insert(netuid, hotkey, uid);
        IsNetworkMember::<T>::insert(hotkey, netuid, true);
        BlockAtRegistration::<T>::insert(netuid, uid, block);
        for mechanism in 0..MechanismCountCurrent::<T>::get(netuid) {
            LastUpdate::<T>::mutate(storage_index(netuid, mechanism), |all| put(all, uid, block));
        }
        Self::deposit_event(Event::NeuronRegistered(netuid, uid, hotkey.clone()));
        Ok(())
    }

    /// Room for one more.
    fn append(netuid: u16) {
        SubnetworkN::<T>::mutate(netuid, |n| *n += 1);
        Active::<T>::append(netuid, true);
        Dividends::<T>::append(netuid, 0u16);
        Consensus::<T>::append(netuid, 0u16);
        Trust::<T>::append(netuid, 0u16);
        ValidatorTrust::<T>::append(netuid, 0u16);
        ValidatorPermit::<T>::append(netuid, false);
        for mechanism in 0..MechanismCountCurrent::<T>::get(netuid) {
            LastUpdate::<T>::append(storage_index(netuid, mechanism), 0u64);
            Incentive::<T>::append(storage_index(netuid, mechanism), 0u16);
        }
    }

    /// Whose place a new neuron takes in a full subnet: who earns least, then who is there longest; the owner's
    /// never, and while there are others none of who came lately. Source: Subtensor's `get_neuron_to_prune`, with
    /// incentive and dividends for the emission that follows them.
    fn to_replace(netuid: u16) -> Option<u16> {
        let (incentive, dividends) = (Incentive::<T>::get(netuid), Dividends::<T>::get(netuid));
        let owner = Self::owner_uid(netuid);
        let earns = |uid: u16| {
            let of = |all: &[u16]| u32::from(all.get(usize::from(uid)).copied().unwrap_or(0));
            of(&incentive) + of(&dividends)
        };
        let registered = |uid: u16| BlockAtRegistration::<T>::get(netuid, uid);
        let immune =
            |uid: &u16| Self::block().saturating_sub(registered(*uid)) < ImmunityPeriod::<T>::get(netuid).into();
        let (safe, free): (Vec<u16>, Vec<u16>) =
            (0..SubnetworkN::<T>::get(netuid)).filter(|uid| owner != Some(*uid)).partition(immune);
        let least = |uids: Vec<u16>| uids.into_iter().min_by_key(|uid| (earns(*uid), registered(*uid), *uid));
        let most_free = free.len() > usize::from(MinNonImmuneUids::<T>::get(netuid));
        if most_free { least(free) } else { least(safe) }
    }

    /// Forget who had a place. Source: Subtensor's `replace_neuron` and `clear_neuron`.
    fn clear(netuid: u16, uid: u16) {
        let old = Keys::<T>::get(netuid, uid);
        Uids::<T>::remove(netuid, &old);
        IsNetworkMember::<T>::remove(&old, netuid);
        Active::<T>::mutate(netuid, |all| put(all, uid, true));
        Consensus::<T>::mutate(netuid, |all| put(all, uid, 0));
        Dividends::<T>::mutate(netuid, |all| put(all, uid, 0));
        Trust::<T>::mutate(netuid, |all| put(all, uid, 0));
        ValidatorTrust::<T>::mutate(netuid, |all| put(all, uid, 0));
        ValidatorPermit::<T>::mutate(netuid, |all| put(all, uid, false));
        for mechanism in 0..MechanismCountCurrent::<T>::get(netuid) {
            let index = storage_index(netuid, mechanism);
            Incentive::<T>::mutate(index, |all| put(all, uid, 0));
            Bonds::<T>::remove(index, uid);
            Weights::<T>::remove(index, uid);
            let others: Vec<u16> = Weights::<T>::iter_key_prefix(index).collect();
            let forget = |row: &mut Vec<(u16, u16)>| {
                row.iter_mut().filter(|(to, _)| *to == uid).for_each(|(_, weight)| *weight = 0);
            };
            others.into_iter().for_each(|other| Weights::<T>::mutate(index, other, forget));
        }
    }
}
