//! The beacon that opens timelocked commits, as pallet-drand keeps it, with a secret of this chain's own; and the one
//! constant of Aura that clients read.
//!
//! Left out: what is not asked for. The local beacon signs its newest round and those that a commit waits for, where
//! drand signs every one.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use codec::DecodeWithMemTracking;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_runtime::{MultiSignature, MultiSigner};

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// What it needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {}

    /// Rounds that are kept.
    const KEPT: u64 = 4096;

    /// Names and keys of a beacon.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
    pub struct BeaconConfiguration {
        /// A compressed point of G2.
        pub public_key: BoundedVec<u8, ConstU32<96>>,
        /// Seconds between two rounds.
        pub period: u32,
        /// Of round 1, seconds since 1970.
        pub genesis_time: u32,
        /// Of the beacon.
        pub hash: BoundedVec<u8, ConstU32<32>>,
        /// Of who signs.
        pub group_hash: BoundedVec<u8, ConstU32<32>>,
        /// How it is signed.
        pub scheme_id: BoundedVec<u8, ConstU32<32>>,
        /// Its name.
        pub metadata: Metadata,
    }

    /// The name of a beacon.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
    pub struct Metadata {
        /// Its name.
        pub beacon_id: BoundedVec<u8, ConstU32<32>>,
    }

    /// One round.
    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
    pub struct Pulse {
        /// Its number.
        pub round: u64,
        /// SHA-256 of the signature.
        pub randomness: BoundedVec<u8, ConstU32<32>>,
        /// A compressed point of G1.
        pub signature: BoundedVec<u8, ConstU32<144>>,
    }

    /// What a node sends in.
    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
    pub struct PulsesPayload<BlockNumber> {
        /// When it was fetched.
        pub block_number: BlockNumber,
        /// What was.
        pub pulses: Vec<Pulse>,
        /// By whom.
        pub public: MultiSigner,
    }

    #[pallet::storage]
    pub type BeaconConfig<T: Config> = StorageValue<_, BeaconConfiguration, ValueQuery>;
    #[pallet::storage]
    pub type Pulses<T: Config> = StorageMap<_, Blake2_128Concat, u64, Pulse, OptionQuery>;
    #[pallet::storage]
    pub type LastStoredRound<T: Config> = StorageValue<_, u64, ValueQuery>;
    #[pallet::storage]
    pub type OldestStoredRound<T: Config> = StorageValue<_, u64, ValueQuery>;

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// Rounds were stored.
        #[codec(index = 1)]
        NewPulse {
            /// Which.
            rounds: Vec<u64>,
        },
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Store rounds. Only the node itself puts this into a block: the pool takes no call that nobody signed.
        #[pallet::call_index(0)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn write_pulse(
            origin: OriginFor<T>,
            pulses_payload: PulsesPayload<BlockNumberFor<T>>,
            _signature: Option<MultiSignature>,
        ) -> DispatchResult {
            ensure_none(origin)?;
            let rounds: Vec<u64> = pulses_payload.pulses.iter().map(|pulse| pulse.round).collect();
            for pulse in pulses_payload.pulses {
                LastStoredRound::<T>::mutate(|last| *last = (*last).max(pulse.round));
                OldestStoredRound::<T>::mutate(|oldest| {
                    *oldest = if *oldest == 0 { pulse.round } else { (*oldest).min(pulse.round) };
                });
                Pulses::<T>::insert(pulse.round, pulse);
            }
            let keep_from = LastStoredRound::<T>::get().saturating_sub(KEPT);
            OldestStoredRound::<T>::mutate(|oldest| {
                (*oldest..keep_from).for_each(Pulses::<T>::remove);
                *oldest = (*oldest).max(keep_from);
            });
            Self::deposit_event(Event::NewPulse { rounds });
            Ok(())
        }
    }
}

/// The length of a slot, as a constant of the metadata.
#[frame_support::pallet]
pub mod aura {
    use frame_support::pallet_prelude::*;

    /// The pallet.
    #[pallet::pallet]
    pub struct Pallet<T>(_);

    /// What it needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config {
        /// Milliseconds between two blocks.
        #[pallet::constant]
        type SlotDuration: Get<u64>;
    }
}
