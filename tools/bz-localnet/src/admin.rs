//! AdminUtils: the subnet's settings, by the root key; names and indices of the main net.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use crate::subtensor;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_runtime::traits::SaturatedConversion;

    /// The pallet.
    #[pallet::pallet]
    pub struct Pallet<T>(_);

    /// What it needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config + subtensor::Config {}

    /// Its errors.
    #[pallet::error]
    pub enum Error<T> {
        SubnetDoesNotExist,
        #[codec(index = 10)]
        InvalidValue,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Least version key of weights.
        #[pallet::call_index(6)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_weights_version_key(
            origin: OriginFor<T>,
            netuid: u16,
            weights_version_key: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::WeightsVersionKey::<T>::insert(netuid, weights_version_key);
            Ok(())
        }
        /// Blocks between two weights of a validator.
        #[pallet::call_index(7)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_weights_set_rate_limit(
            origin: OriginFor<T>,
            netuid: u16,
            weights_set_rate_limit: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::WeightsSetRateLimit::<T>::insert(netuid, weights_set_rate_limit);
            Ok(())
        }
        /// Fewest uids with a weight.
        #[pallet::call_index(14)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_min_allowed_weights(
            origin: OriginFor<T>,
            netuid: u16,
            min_allowed_weights: u16,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::MinAllowedWeights::<T>::insert(netuid, min_allowed_weights);
            Ok(())
        }
        /// Blocks for which who came lately is not replaced.
        #[pallet::call_index(13)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_immunity_period(origin: OriginFor<T>, netuid: u16, immunity_period: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::ImmunityPeriod::<T>::insert(netuid, immunity_period);
            Ok(())
        }
        /// Size of the subnet.
        #[pallet::call_index(15)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_max_allowed_uids(origin: OriginFor<T>, netuid: u16, max_allowed_uids: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::MaxAllowedUids::<T>::insert(netuid, max_allowed_uids);
            Ok(())
        }
        /// Whether anybody can register.
        #[pallet::call_index(19)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_network_registration_allowed(
            origin: OriginFor<T>,
            netuid: u16,
            registration_allowed: bool,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::NetworkRegistrationAllowed::<T>::insert(netuid, registration_allowed);
            Ok(())
        }
        /// Number of permits.
        #[pallet::call_index(25)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_max_allowed_validators(
            origin: OriginFor<T>,
            netuid: u16,
            max_allowed_validators: u16,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::MaxAllowedValidators::<T>::insert(netuid, max_allowed_validators);
            Ok(())
        }
        /// Blocks between two epochs.
        #[pallet::call_index(30)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_tempo(origin: OriginFor<T>, netuid: u16, tempo: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::Tempo::<T>::insert(netuid, tempo);
            // Source: Subtensor's `set_tempo`: the next epoch is a whole one away.
            let block: u64 = frame_system::Pallet::<T>::block_number().saturated_into();
            subtensor::LastEpochBlock::<T>::insert(netuid, block);
            Ok(())
        }
        /// Least stake to set weights.
        #[pallet::call_index(42)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_stake_threshold(origin: OriginFor<T>, min_stake: u64) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::StakeThreshold::<T>::put(min_stake);
            Ok(())
        }
        /// Whether weights go by commit and reveal.
        #[pallet::call_index(49)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_commit_reveal_weights_enabled(
            origin: OriginFor<T>,
            netuid: u16,
            enabled: bool,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::CommitRevealWeightsEnabled::<T>::insert(netuid, enabled);
            Ok(())
        }
        /// The majority of stake that makes consensus, of 65535.
        #[pallet::call_index(16)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_kappa(origin: OriginFor<T>, netuid: u16, kappa: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::Kappa::<T>::insert(netuid, kappa);
            Ok(())
        }
        /// Blocks after which a validator without weights does not count.
        #[pallet::call_index(18)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_activity_cutoff(origin: OriginFor<T>, netuid: u16, activity_cutoff: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::ActivityCutoff::<T>::insert(netuid, activity_cutoff);
            Ok(())
        }
        /// Share of the old bonds, in millionths.
        #[pallet::call_index(26)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_bonds_moving_average(
            origin: OriginFor<T>,
            netuid: u16,
            bonds_moving_average: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::BondsMovingAverage::<T>::insert(netuid, bonds_moving_average);
            Ok(())
        }
        /// Epochs between a commit and its reveal.
        #[pallet::call_index(57)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_commit_reveal_weights_interval(
            origin: OriginFor<T>,
            netuid: u16,
            interval: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::RevealPeriodEpochs::<T>::insert(netuid, interval);
            Ok(())
        }
        /// How far weights above consensus are left out of bonds, of 65535.
        #[pallet::call_index(60)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_bonds_penalty(origin: OriginFor<T>, netuid: u16, bonds_penalty: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::BondsPenalty::<T>::insert(netuid, bonds_penalty);
            Ok(())
        }
        /// The form of timelocked commits.
        #[pallet::call_index(71)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_commit_reveal_version(origin: OriginFor<T>, version: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::CommitRevealWeightsVersion::<T>::put(version);
            Ok(())
        }
        /// Number of the subnet's mechanisms.
        #[pallet::call_index(76)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_mechanism_count(origin: OriginFor<T>, netuid: u16, mechanism_count: u8) -> DispatchResult {
            ensure_root(origin)?;
            ensure!((1..=16).contains(&mechanism_count), Error::<T>::InvalidValue);
            let (before, n) =
                (subtensor::MechanismCountCurrent::<T>::get(netuid), subtensor::SubnetworkN::<T>::get(netuid));
            for mechanism in before..mechanism_count {
                let index = subtensor::storage_index(netuid, mechanism);
                subtensor::LastUpdate::<T>::insert(index, vec![0; n.into()]);
                subtensor::Incentive::<T>::insert(index, vec![0; n.into()]);
            }
            subtensor::MechanismCountCurrent::<T>::insert(netuid, mechanism_count);
            Ok(())
        }
    }
}
