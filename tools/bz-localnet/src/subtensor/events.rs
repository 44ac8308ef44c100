//! What the pallet says has happened, under Subtensor's indices.

use frame_support::pallet_macros::pallet_section;

/// What the pallet takes in.
#[pallet_section]
mod events {
    /// What happened; Subtensor's indices.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A subnet was made.
        #[codec(index = 0)]
        NetworkAdded(u16, u16),
        /// Stake was added.
        #[codec(index = 2)]
        StakeAdded(T::AccountId, T::AccountId, u64, u64, u16, u64),
        /// Weights were set.
        #[codec(index = 5)]
        WeightsSet(u16, u16),
        /// A neuron was registered.
        #[codec(index = 6)]
        NeuronRegistered(u16, u16, T::AccountId),
        /// A hotkey has other children now.
        #[codec(index = 71)]
        SetChildren(T::AccountId, u16, Vec<(u64, T::AccountId)>),
        /// Weights were committed.
        #[codec(index = 79)]
        WeightsCommitted(T::AccountId, u16, H256),
        /// Weights were revealed.
        #[codec(index = 80)]
        WeightsRevealed(T::AccountId, u16, H256),
        /// Weights were committed until a round of the beacon.
        #[codec(index = 101)]
        TimelockedWeightsCommitted(T::AccountId, u16, H256, u64),
        /// The chain has revealed them.
        #[codec(index = 102)]
        TimelockedWeightsRevealed(u16, T::AccountId),
    }
}
