//! The faucet: the root account's TAO for whoever asks on this machine. Only the node itself puts its call into a
//! block, as with the beacon's rounds; each payment has a name, and one that was made is not made again.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use frame_support::{
        pallet_prelude::*,
        traits::{Currency, ExistenceRequirement},
    };
    use frame_system::pallet_prelude::*;
    use sp_core::H256;

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// What it needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {
        /// TAO.
        type Currency: Currency<Self::AccountId, Balance = u64>;
        /// Who pays.
        fn payer() -> Option<Self::AccountId>;
    }

    /// So many last payments are known by name: who asks again does it within minutes.
    const KEPT: u32 = 4096;

    /// The block of a payment.
    #[pallet::storage]
    pub type Paid<T: Config> = StorageMap<_, Identity, H256, BlockNumberFor<T>, OptionQuery>;
    /// The names of the last payments, by their number modulo those that are kept.
    #[pallet::storage]
    pub type Names<T: Config> = StorageMap<_, Identity, u32, H256, OptionQuery>;
    /// Payments so far.
    #[pallet::storage]
    pub type Count<T: Config> = StorageValue<_, u32, ValueQuery>;

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// TAO was sent.
        Paid {
            /// Which payment.
            name: H256,
            /// To whom.
            to: T::AccountId,
            /// How much, in rao.
            rao: u64,
        },
    }

    /// Its errors.
    #[pallet::error]
    pub enum Error<T> {
        /// Nobody is root.
        NobodyPays,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Send TAO of the root account, unless this payment was made before.
        #[pallet::call_index(0)]
        #[pallet::weight((Weight::from_parts(1, 0), DispatchClass::Operational, Pays::No))]
        pub fn pay(origin: OriginFor<T>, name: H256, to: T::AccountId, rao: u64) -> DispatchResult {
            ensure_none(origin)?;
            if Paid::<T>::contains_key(name) {
                return Ok(());
            }
            let payer = T::payer().ok_or(Error::<T>::NobodyPays)?;
            T::Currency::transfer(&payer, &to, rao, ExistenceRequirement::KeepAlive)?;
            Paid::<T>::insert(name, frame_system::Pallet::<T>::block_number());
            let count = Count::<T>::get();
            if let Some(oldest) = Names::<T>::get(count % KEPT) {
                Paid::<T>::remove(oldest);
            }
            Names::<T>::insert(count % KEPT, name);
            Count::<T>::put(count.wrapping_add(1));
            Self::deposit_event(Event::Paid { name, to, rao });
            Ok(())
        }
    }
}
