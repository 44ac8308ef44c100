//! The part of pallet-subtensor that a training subnet uses, with Subtensor's names, indices, hashers and errors.
//!
//! Source: the metadata of Bittensor's main net, spec 365; the schedule of epochs is that of spec 423 and later.
//! Consensus is in `yuma`. Left out: emission, the price of alpha (1 TAO stakes 1), the adjustment of the burn, the
//! neurons of the root network (its stake is here, and counts), the cooldown and the take of childkeys, splits of
//! emission between mechanisms (all get the same), the price and the rate limit of a new subnet, the swap of a
//! coldkey. Subnets have Yuma 2, where spec 425 gives a new one Yuma 3.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

mod calls;
mod epoch;
mod errors;
mod events;
mod extension;
mod registration;
mod stake;
mod storage;
mod weights;

use frame_support::pallet_macros::import_section;

pub use epoch::Schedule;
pub use extension::{Refusal, SubtensorTransactionExtension};
pub use pallet::*;
pub use stake::{ROOT, Stake};

/// Where a mechanism's weights, bonds, updates and incentive are kept. Source: Subtensor's
/// `get_mechanism_storage_index`; there are at most 4,096 subnets.
pub fn storage_index(netuid: u16, mechanism: u8) -> u16 {
    u16::from(mechanism).saturating_mul(4096).saturating_add(netuid)
}

/// Set a uid's value, where it has a place.
fn put<V>(all: &mut [V], uid: u16, value: V) {
    if let Some(place) = all.get_mut(usize::from(uid)) {
        *place = value;
    }
}

/// The pallet: its parts stand in the files of their names.
#[import_section(storage::storage)]
#[import_section(events::events)]
#[import_section(errors::errors)]
#[import_section(calls::calls)]
#[frame_support::pallet]
pub mod pallet {
    use super::weights::Shown;
    use frame_support::{pallet_prelude::*, traits::Currency};
    use frame_system::pallet_prelude::*;
    use sp_core::H256;
    use sp_runtime::traits::SaturatedConversion;

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// What it needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {
        /// TAO.
        type Currency: Currency<Self::AccountId, Balance = u64>;
        /// The signature of a round of the beacon, once it is there.
        fn signature(round: u64) -> Option<Vec<u8>>;
        /// The last round that is there.
        fn last_round() -> u64;
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(block: BlockNumberFor<T>) -> frame_support::weights::Weight {
            Self::begin_block(block.saturated_into());
            frame_support::weights::Weight::zero()
        }
    }
}
