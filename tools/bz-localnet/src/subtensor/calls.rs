//! The calls, under Subtensor's names and indices: each hands to the part that does it.

use frame_support::pallet_macros::pallet_section;

/// What the pallet takes in.
#[pallet_section]
mod calls {
    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Set a validator's weights.
        #[pallet::call_index(0)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn set_weights(
            origin: OriginFor<T>,
            netuid: u16,
            dests: Vec<u16>,
            weights: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            Self::set_in_the_open(origin, netuid, 0, dests, weights, version_key)
        }

        /// The same for one of the subnet's mechanisms.
        #[pallet::call_index(119)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn set_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            dests: Vec<u16>,
            weights: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            Self::set_in_the_open(origin, netuid, mecid, dests, weights, version_key)
        }

        /// Commit to weights that are revealed later.
        #[pallet::call_index(96)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn commit_weights(origin: OriginFor<T>, netuid: u16, commit_hash: H256) -> DispatchResult {
            Self::do_commit(origin, netuid, 0, commit_hash)
        }

        /// The same for one of the subnet's mechanisms.
        #[pallet::call_index(115)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn commit_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            commit_hash: H256,
        ) -> DispatchResult {
            Self::do_commit(origin, netuid, mecid, commit_hash)
        }

        /// Reveal what was committed to.
        #[pallet::call_index(97)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn reveal_weights(
            origin: OriginFor<T>,
            netuid: u16,
            uids: Vec<u16>,
            values: Vec<u16>,
            salt: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            Self::do_reveal(origin, netuid, 0, Shown { uids, values, salt, version_key })
        }

        /// The same for one of the subnet's mechanisms.
        #[pallet::call_index(116)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn reveal_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            uids: Vec<u16>,
            values: Vec<u16>,
            salt: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            Self::do_reveal(origin, netuid, mecid, Shown { uids, values, salt, version_key })
        }

        /// Commit to weights that the chain reveals at a round of the beacon.
        #[pallet::call_index(113)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn commit_timelocked_weights(
            origin: OriginFor<T>,
            netuid: u16,
            commit: BoundedVec<u8, ConstU32<5000>>,
            reveal_round: u64,
            commit_reveal_version: u16,
        ) -> DispatchResult {
            Self::do_commit_timelocked(origin, netuid, 0, commit, reveal_round, commit_reveal_version)
        }

        /// The same for one of the subnet's mechanisms.
        #[pallet::call_index(118)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn commit_timelocked_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            commit: BoundedVec<u8, ConstU32<5000>>,
            reveal_round: u64,
            commit_reveal_version: u16,
        ) -> DispatchResult {
            Self::do_commit_timelocked(origin, netuid, mecid, commit, reveal_round, commit_reveal_version)
        }

        /// Stake TAO of the coldkey on a hotkey, in a subnet or in the root network.
        #[pallet::call_index(2)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn add_stake(
            origin: OriginFor<T>,
            hotkey: T::AccountId,
            netuid: u16,
            amount_staked: u64,
        ) -> DispatchResult {
            Self::do_add_stake(origin, hotkey, netuid, amount_staked)
        }

        /// Give shares of `u64::MAX` of a hotkey's stake in a subnet to other hotkeys, in place of those before.
        #[pallet::call_index(67)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn set_children(
            origin: OriginFor<T>,
            hotkey: T::AccountId,
            netuid: u16,
            children: Vec<(u64, T::AccountId)>,
        ) -> DispatchResult {
            Self::do_set_children(origin, hotkey, netuid, children)
        }

        /// Register a hotkey by burning TAO of the coldkey.
        #[pallet::call_index(7)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn burned_register(origin: OriginFor<T>, netuid: u16, hotkey: T::AccountId) -> DispatchResult {
            Self::do_register(origin, netuid, hotkey)
        }

        /// The same, if it costs no more than this.
        #[pallet::call_index(134)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn register_limit(
            origin: OriginFor<T>,
            netuid: u16,
            hotkey: T::AccountId,
            limit_price: u64,
        ) -> DispatchResult {
            Self::do_register_limit(origin, netuid, hotkey, limit_price)
        }

        /// Make a subnet; the hotkey is its first neuron.
        #[pallet::call_index(59)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn register_network(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
            Self::do_register_network(origin, hotkey)
        }
    }
}
