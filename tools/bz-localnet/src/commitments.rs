//! pallet-commitments: what a neuron says of itself, such as where its bucket is. Names, indices and hashers are the
//! main net's. Left out: timelocked commitments, deposits.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

use codec::{Decode, DecodeWithMemTracking, Encode, Error as CodecError, Input, Output};
use scale_info::{
    Path, Type, TypeInfo,
    build::{Fields, Variants},
};

pub use pallet::*;

/// One field of a commitment: `None`, or 0 to 128 raw bytes under the variants `Raw0` to `Raw128`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// Up to 128 bytes.
    Raw(Vec<u8>),
}

const RAW_CAP: usize = 128;

impl Encode for Data {
    fn encode_to<W: Output + ?Sized>(&self, out: &mut W) {
        match self {
            Data::None => out.push_byte(0),
            Data::Raw(bytes) => {
                out.push_byte(bytes.len().min(RAW_CAP) as u8 + 1);
                out.write(bytes);
            }
        }
    }
}

impl Decode for Data {
    fn decode<I: Input>(input: &mut I) -> Result<Self, CodecError> {
        match usize::from(input.read_byte()?) {
            0 => Ok(Data::None),
            index if index <= RAW_CAP + 1 => {
                let mut bytes = vec![0; index - 1];
                input.read(&mut bytes)?;
                Ok(Data::Raw(bytes))
            }
            _ => Err("this chain keeps raw fields only".into()),
        }
    }
}

impl DecodeWithMemTracking for Data {}

impl TypeInfo for Data {
    type Identity = Self;
    fn type_info() -> Type {
        let mut variants = Variants::new().variant("None", |v| v.index(0));
        macro_rules! raw {
            ($($n:literal)*) => {$(
                variants = variants.variant(concat!("Raw", $n), |v| {
                    v.index($n + 1).fields(Fields::unnamed().field(|f| f.ty::<[u8; $n]>()))
                });
            )*};
        }
        raw!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127 128);
        Type::builder().path(Path::new("Data", "pallet_commitments::types")).variant(variants)
    }
}

#[frame_support::pallet]
pub mod pallet {
    use super::Data;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// What it needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {
        /// Whether a hotkey is registered in a subnet.
        fn may_commit(netuid: u16, hotkey: &Self::AccountId) -> bool;
        /// The number of a subnet's epoch.
        fn epoch(netuid: u16) -> u64;
        /// The most fields of a commitment; [`CommitmentInfo`] has as many.
        #[pallet::constant]
        type MaxFields: Get<u32>;
    }

    /// The main net's.
    pub type MaxFields = ConstU32<3>;

    /// What is committed.
    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
    pub struct CommitmentInfo {
        /// At most three fields.
        pub fields: BoundedVec<Data, MaxFields>,
    }

    /// A commitment as it is kept.
    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, TypeInfo)]
    pub struct Registration<BlockNumber> {
        /// TAO that is held for it.
        pub deposit: u64,
        /// When.
        pub block: BlockNumber,
        /// What.
        pub info: CommitmentInfo,
    }

    #[pallet::storage]
    pub type CommitmentOf<T: Config> =
        StorageDoubleMap<_, Identity, u16, Twox64Concat, T::AccountId, Registration<BlockNumberFor<T>>, OptionQuery>;
    /// How much somebody has committed in an epoch.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
    pub struct UsageTracker {
        /// Which epoch.
        pub last_epoch: u64,
        /// Bytes.
        pub used_space: u64,
    }
    #[pallet::type_value]
    pub fn DefaultMaxSpace() -> u32 {
        3100
    }
    #[pallet::storage]
    pub type MaxSpace<T> = StorageValue<_, u32, ValueQuery, DefaultMaxSpace>;
    #[pallet::storage]
    pub type UsedSpaceOf<T: Config> =
        StorageDoubleMap<_, Identity, u16, Twox64Concat, T::AccountId, UsageTracker, OptionQuery>;
    /// What was timelocked and is open now, newest last; none is timelocked here.
    #[pallet::storage]
    pub type RevealedCommitments<T: Config> =
        StorageDoubleMap<_, Identity, u16, Twox64Concat, T::AccountId, Vec<(Vec<u8>, u64)>, OptionQuery>;
    #[pallet::storage]
    pub type LastCommitment<T: Config> =
        StorageDoubleMap<_, Identity, u16, Twox64Concat, T::AccountId, BlockNumberFor<T>, OptionQuery>;

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A commitment was set.
        #[codec(index = 0)]
        Commitment {
            /// The subnet.
            netuid: u16,
            /// Whose.
            who: T::AccountId,
        },
    }

    /// Its errors.
    #[pallet::error]
    pub enum Error<T> {
        TooManyFieldsInCommitmentInfo,
        AccountNotAllowedCommit,
        SpaceLimitExceeded,
        UnexpectedUnreserveLeftover,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Commit to something.
        #[pallet::call_index(0)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn set_commitment(origin: OriginFor<T>, netuid: u16, info: Box<CommitmentInfo>) -> DispatchResult {
            let who = ensure_signed(origin)?;
            ensure!(T::may_commit(netuid, &who), Error::<T>::AccountNotAllowedCommit);
            // A call counts as 100 bytes at least.
            let space = info.fields.iter().map(|field| field.encoded_size() as u64 - 1).sum::<u64>().max(100);
            let mut usage = UsedSpaceOf::<T>::get(netuid, &who).unwrap_or_default();
            let epoch = T::epoch(netuid);
            if usage.last_epoch != epoch {
                usage = UsageTracker { last_epoch: epoch, used_space: 0 };
            }
            usage.used_space = usage.used_space.saturating_add(space);
            ensure!(usage.used_space <= MaxSpace::<T>::get().into(), Error::<T>::SpaceLimitExceeded);
            UsedSpaceOf::<T>::insert(netuid, &who, usage);
            let block = frame_system::Pallet::<T>::block_number();
            CommitmentOf::<T>::insert(netuid, &who, Registration { deposit: 0, block, info: *info });
            LastCommitment::<T>::insert(netuid, &who, block);
            Self::deposit_event(Event::Commitment { netuid, who });
            Ok(())
        }
        /// Set how many bytes an epoch takes of each hotkey.
        #[pallet::call_index(2)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn set_max_space(origin: OriginFor<T>, new_limit: u32) -> DispatchResult {
            ensure_root(origin)?;
            MaxSpace::<T>::put(new_limit);
            Ok(())
        }
    }
}
