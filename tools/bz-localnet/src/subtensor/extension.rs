//! What is known of a call before it runs: the pool does not take it, and no block does.

use super::{pallet::*, storage_index, weights::Shown};
use codec::{Decode, DecodeWithMemTracking, Encode};
use frame_support::traits::{IsSubType, OriginTrait};
use scale_info::TypeInfo;
use sp_runtime::{
    impl_tx_ext_default,
    traits::{DispatchInfoOf, TransactionExtension, ValidateResult},
    transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};
use std::{fmt, marker::PhantomData};

/// Why a call is not taken, a number of Subtensor's `CustomTransactionError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Too little stake to set weights.
    StakeAmountTooLow = 1,
    /// Weights were set or committed a moment ago.
    RateLimitExceeded = 6,
    /// The round of a timelocked commit is over.
    InvalidRevealRound = 15,
    /// Nothing was committed to that this reveals.
    CommitNotFound = 16,
    /// The epoch of the reveal is over, or not there yet.
    CommitBlockNotInRevealRange = 17,
}

impl From<Refusal> for TransactionValidityError {
    fn from(refusal: Refusal) -> Self {
        InvalidTransaction::Custom(refusal as u8).into()
    }
}

/// Subtensor's extension of transactions, as far as its checks are for calls that are here.
/// Source: `CheckWeights` and `CheckRateLimits` of spec 425.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, TypeInfo)]
#[scale_info(skip_type_params(T))]
pub struct SubtensorTransactionExtension<T>(PhantomData<T>);

impl<T> SubtensorTransactionExtension<T> {
    /// The extension.
    pub fn new() -> Self {
        SubtensorTransactionExtension(PhantomData)
    }
}

impl<T> Default for SubtensorTransactionExtension<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for SubtensorTransactionExtension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubtensorTransactionExtension")
    }
}

impl<T: Config + Send + Sync> TransactionExtension<T::RuntimeCall> for SubtensorTransactionExtension<T>
where
    T::RuntimeCall: IsSubType<Call<T>>,
{
    const IDENTIFIER: &'static str = "SubtensorTransactionExtension";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    fn validate(
        &self,
        origin: T::RuntimeOrigin,
        call: &T::RuntimeCall,
        _info: &DispatchInfoOf<T::RuntimeCall>,
        _len: usize,
        _self_implicit: Self::Implicit,
        _inherited_implication: &impl Encode,
        _source: TransactionSource,
    ) -> ValidateResult<Self::Val, T::RuntimeCall> {
        if let (Some(who), Some(call)) = (origin.as_signer(), call.is_sub_type()) {
            Pallet::<T>::check(who, call)?;
        }
        Ok((Default::default(), (), origin))
    }

    impl_tx_ext_default!(T::RuntimeCall; weight prepare);
}

impl<T: Config> Pallet<T> {
    /// Whether what can be known of a call before it runs lets it run.
    ///
    /// # Errors
    /// Why not.
    pub fn check(who: &T::AccountId, call: &Call<T>) -> Result<(), Refusal> {
        match call {
            Call::set_weights { netuid, .. } | Call::commit_weights { netuid, .. } => {
                Self::check_update(who, *netuid, 0, None)
            }
            Call::set_mechanism_weights { netuid, mecid, .. }
            | Call::commit_mechanism_weights { netuid, mecid, .. } => Self::check_update(who, *netuid, *mecid, None),
            Call::commit_timelocked_weights { netuid, reveal_round, .. } => {
                Self::check_update(who, *netuid, 0, Some(*reveal_round))
            }
            Call::commit_timelocked_mechanism_weights { netuid, mecid, reveal_round, .. } => {
                Self::check_update(who, *netuid, *mecid, Some(*reveal_round))
            }
            Call::reveal_weights { netuid, uids, values, salt, version_key } => {
                let (uids, values, salt) = (uids.clone(), values.clone(), salt.clone());
                Self::check_reveal(who, *netuid, 0, &Shown { uids, values, salt, version_key: *version_key })
            }
            Call::reveal_mechanism_weights { netuid, mecid, uids, values, salt, version_key } => {
                let (uids, values, salt) = (uids.clone(), values.clone(), salt.clone());
                Self::check_reveal(who, *netuid, *mecid, &Shown { uids, values, salt, version_key: *version_key })
            }
            _ => Ok(()),
        }
    }

    fn check_stake(who: &T::AccountId, netuid: u16) -> Result<(), Refusal> {
        Self::enough_stake(netuid, who).map_err(|_| Refusal::StakeAmountTooLow)
    }

    /// Weights that are set or committed to, until a round where they are sealed.
    fn check_update(who: &T::AccountId, netuid: u16, mechanism: u8, round: Option<u64>) -> Result<(), Refusal> {
        Self::check_stake(who, netuid)?;
        if round.is_some_and(|round| round < T::last_round()) {
            return Err(Refusal::InvalidRevealRound);
        }
        // Who is not registered is told so by the call itself.
        let registered = Uids::<T>::contains_key(netuid, who);
        let index = storage_index(netuid, mechanism);
        match Self::in_time(netuid, index, who, Error::SettingWeightsTooFast) {
            Err(_) if registered => Err(Refusal::RateLimitExceeded),
            _ => Ok(()),
        }
    }

    fn check_reveal(who: &T::AccountId, netuid: u16, mechanism: u8, shown: &Shown) -> Result<(), Refusal> {
        Self::check_stake(who, netuid)?;
        let index = storage_index(netuid, mechanism);
        match Self::without_revealed(netuid, index, who, shown.hash(who, index)) {
            Ok(_) => Ok(()),
            Err(Error::ExpiredWeightCommit | Error::RevealTooEarly) => Err(Refusal::CommitBlockNotInRevealRange),
            Err(_) => Err(Refusal::CommitNotFound),
        }
    }
}
