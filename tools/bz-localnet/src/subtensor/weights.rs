//! Weights: set in the open, by commit and reveal, or sealed until a round of the beacon.

use super::{pallet::*, put, storage_index};
use chain::timelock::{Payload, open};
use codec::Encode;
use frame_support::{BoundedVec, dispatch::DispatchResult, ensure, traits::ConstU32};
use frame_system::{RawOrigin, ensure_signed, pallet_prelude::OriginFor};
use sp_core::H256;
use sp_runtime::traits::{BlakeTwo256, Hash};

/// Commits of one hotkey that are not revealed yet, at most. Source: Subtensor's `internal_commit_weights`.
const MAX_COMMITS: usize = 10;

/// What a reveal shows.
pub(super) struct Shown {
    /// Whom.
    pub uids: Vec<u16>,
    /// How much.
    pub values: Vec<u16>,
    /// What made the commit unguessable.
    pub salt: Vec<u16>,
    /// The version key.
    pub version_key: u64,
}

impl Shown {
    /// What was committed to when this is shown.
    pub fn hash<A: Encode>(&self, hotkey: &A, index: u16) -> H256 {
        BlakeTwo256::hash(&(hotkey, index, &self.uids, &self.values, &self.salt, self.version_key).encode())
    }
}

/// What is left of the weights of a call before they are kept. Source: Subtensor's max-upscale: the largest becomes
/// 65535, the others in proportion, rounded.
fn upscaled(weights: &[u16]) -> impl Iterator<Item = u16> {
    let max = u64::from(weights.iter().copied().max().unwrap_or(0));
    weights.iter().map(move |w| (u64::from(*w) * 65535 + max / 2).checked_div(max).unwrap_or(0) as u16)
}

impl<T: Config> Pallet<T> {
    /// What was committed so many epochs ago is opened as soon as its round is there, and forgotten an epoch later.
    /// Source: Subtensor's `reveal_crv3_commits_for_subnet`.
    pub(super) fn reveal_timelocked(netuid: u16, block: u64) {
        let period = RevealPeriodEpochs::<T>::get(netuid);
        let Some(epoch) = Self::schedule(netuid).number(block).checked_sub(period) else { return };
        for mechanism in 0..MechanismCountCurrent::<T>::get(netuid) {
            let index = storage_index(netuid, mechanism);
            let over: Vec<u64> =
                TimelockedWeightCommits::<T>::iter_key_prefix(index).filter(|kept| *kept < epoch).collect();
            over.into_iter().for_each(|kept| TimelockedWeightCommits::<T>::remove(index, kept));
            let mut waiting = TimelockedWeightCommits::<T>::take(index, epoch);
            waiting.retain(|(hotkey, _, sealed, round)| {
                let Some(signature) = T::signature(*round) else { return true };
                let opened = open(sealed, &signature).and_then(|bytes| Payload::read(&bytes));
                // What does not open, or is another's, is dropped without a word, as Subtensor does.
                if let Some(payload) = opened.filter(|payload| payload.hotkey.0[..] == hotkey.encode()[..]) {
                    let origin = RawOrigin::Signed(hotkey.clone()).into();
                    let (uids, values, key) = (payload.uids, payload.values, payload.version_key);
                    if Self::do_set_weights(origin, netuid, mechanism, uids, values, key).is_ok() {
                        Self::deposit_event(Event::TimelockedWeightsRevealed(index, hotkey.clone()));
                    }
                }
                false
            });
            if !waiting.is_empty() {
                TimelockedWeightCommits::<T>::insert(index, epoch, waiting);
            }
        }
    }

    /// Rounds that a commit waits for.
    pub fn awaited() -> Vec<u64> {
        TimelockedWeightCommits::<T>::iter_values().flatten().map(|(.., round)| round).collect()
    }

    /// For each uid the block of its oldest commit that can still be revealed; `u64::MAX` without one.
    pub(super) fn oldest_commits(netuid: u16, index: u16) -> Vec<u64> {
        let mut oldest = vec![u64::MAX; SubnetworkN::<T>::get(netuid).into()];
        if !CommitRevealWeightsEnabled::<T>::get(netuid) {
            return oldest;
        }
        let (now, period) = (Self::epoch_now(netuid), RevealPeriodEpochs::<T>::get(netuid));
        let hashed = WeightCommits::<T>::iter_prefix(index)
            .flat_map(|(who, commits)| commits.into_iter().map(move |(_, epoch, at, _)| (who.clone(), epoch, at)));
        let sealed = TimelockedWeightCommits::<T>::iter_prefix(index)
            .flat_map(|(epoch, commits)| commits.into_iter().map(move |(who, at, ..)| (who, epoch, at)));
        for (who, epoch, at) in hashed.chain(sealed) {
            let place = Uids::<T>::get(netuid, &who).and_then(|uid| oldest.get_mut(usize::from(uid)));
            if let Some(block) = place.filter(|_| epoch.saturating_add(period) >= now) {
                *block = at.min(*block);
            }
        }
        oldest
    }

    /// Who never set weights may at once. Source: Subtensor's `check_rate_limit`.
    pub(super) fn in_time(netuid: u16, index: u16, hotkey: &T::AccountId, error: Error<T>) -> DispatchResult {
        let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
        let last = LastUpdate::<T>::get(index).get(usize::from(uid)).copied().unwrap_or(0);
        let passed = Self::block().saturating_sub(last);
        ensure!(last == 0 || passed >= WeightsSetRateLimit::<T>::get(netuid), error);
        Ok(())
    }

    fn updated(netuid: u16, index: u16, hotkey: &T::AccountId) {
        if let Some(uid) = Uids::<T>::get(netuid, hotkey) {
            LastUpdate::<T>::mutate(index, |all| put(all, uid, Self::block()));
        }
    }

    /// Where a mechanism's weights are kept, if there is one.
    fn place(netuid: u16, mechanism: u8) -> Result<u16, Error<T>> {
        let there = NetworksAdded::<T>::get(netuid) && mechanism < MechanismCountCurrent::<T>::get(netuid);
        there.then(|| storage_index(netuid, mechanism)).ok_or(Error::<T>::MechanismDoesNotExist)
    }

    pub(super) fn set_in_the_open(
        origin: OriginFor<T>,
        netuid: u16,
        mechanism: u8,
        dests: Vec<u16>,
        weights: Vec<u16>,
        version_key: u64,
    ) -> DispatchResult {
        ensure!(!CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealEnabled);
        Self::do_set_weights(origin, netuid, mechanism, dests, weights, version_key)
    }

    /// Source: Subtensor's `internal_set_weights`; its checks, in its order.
    fn do_set_weights(
        origin: OriginFor<T>,
        netuid: u16,
        mechanism: u8,
        dests: Vec<u16>,
        weights: Vec<u16>,
        version_key: u64,
    ) -> DispatchResult {
        let hotkey = ensure_signed(origin)?;
        ensure!(dests.len() == weights.len(), Error::<T>::WeightVecNotEqualSize);
        let index = Self::place(netuid, mechanism)?;
        let n = SubnetworkN::<T>::get(netuid);
        ensure!(dests.len() <= usize::from(n), Error::<T>::UidsLengthExceedUidsInSubNet);
        let uid = Uids::<T>::get(netuid, &hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
        Self::enough_stake(netuid, &hotkey)?;
        let oldest = WeightsVersionKey::<T>::get(netuid);
        ensure!(oldest == 0 || version_key >= oldest, Error::<T>::IncorrectWeightVersionKey);
        let commit_reveal = CommitRevealWeightsEnabled::<T>::get(netuid);
        if !commit_reveal {
            Self::in_time(netuid, index, &hotkey, Error::<T>::SettingWeightsTooFast)?;
        }
        Self::fitting(netuid, uid, &dests, &weights)?;
        Weights::<T>::insert(index, uid, dests.into_iter().zip(upscaled(&weights)).collect::<Vec<_>>());
        if !commit_reveal {
            Self::updated(netuid, index, &hotkey);
        }
        Self::deposit_event(Event::WeightsSet(index, uid));
        Ok(())
    }

    /// Whether a uid may set these weights: its permit, whom they name, how many, how much. `dests` is as long as
    /// `weights`.
    fn fitting(netuid: u16, uid: u16, dests: &[u16], weights: &[u16]) -> DispatchResult {
        let n = SubnetworkN::<T>::get(netuid);
        let only_self = dests == [uid];
        let permit = ValidatorPermit::<T>::get(netuid).get(usize::from(uid)).copied().unwrap_or(false);
        let owner = Self::owner_uid(netuid) == Some(uid);
        ensure!(permit || only_self || owner, Error::<T>::NeuronNoValidatorPermit);
        let mut sorted = dests.to_vec();
        sorted.sort_unstable();
        ensure!(sorted.windows(2).all(|pair| pair[0] != pair[1]), Error::<T>::DuplicateUids);
        ensure!(dests.iter().all(|dest| *dest < n), Error::<T>::UidVecContainInvalidOne);
        let enough = dests.len() >= usize::from(MinAllowedWeights::<T>::get(netuid).min(n));
        ensure!(enough || only_self, Error::<T>::WeightVecLengthIsLow);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let max = u64::from(weights.iter().copied().max().unwrap_or(0));
        let fraction = u64::from(MaxWeightsLimit::<T>::get(netuid));
        ensure!(only_self || max * 65535 <= fraction * sum.max(1), Error::<T>::MaxWeightExceeded);
        Ok(())
    }

    /// Source: Subtensor's `internal_commit_weights`.
    pub(super) fn do_commit(origin: OriginFor<T>, netuid: u16, mechanism: u8, hash: H256) -> DispatchResult {
        let index = Self::place(netuid, mechanism)?;
        let hotkey = ensure_signed(origin)?;
        Self::may_commit(netuid, &hotkey)?;
        Self::in_time(netuid, index, &hotkey, Error::<T>::CommittingWeightsTooFast)?;
        let (now, period) = (Self::epoch_now(netuid), RevealPeriodEpochs::<T>::get(netuid));
        let mut commits = WeightCommits::<T>::get(index, &hotkey).unwrap_or_default();
        commits.retain(|(_, epoch, ..)| epoch.saturating_add(period) >= now);
        ensure!(commits.len() < MAX_COMMITS, Error::<T>::TooManyUnrevealedCommits);
        commits.push((hash, now, Self::block(), 0));
        WeightCommits::<T>::insert(index, &hotkey, commits);
        Self::updated(netuid, index, &hotkey);
        Self::deposit_event(Event::WeightsCommitted(hotkey, index, hash));
        Ok(())
    }

    fn may_commit(netuid: u16, hotkey: &T::AccountId) -> DispatchResult {
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        ensure!(Uids::<T>::contains_key(netuid, hotkey), Error::<T>::HotKeyNotRegisteredInSubNet);
        Self::enough_stake(netuid, hotkey)
    }

    /// Source: Subtensor's `do_reveal_weights`.
    pub(super) fn do_reveal(origin: OriginFor<T>, netuid: u16, mechanism: u8, shown: Shown) -> DispatchResult {
        let index = Self::place(netuid, mechanism)?;
        let hotkey = ensure_signed(origin.clone())?;
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        let hash = shown.hash(&hotkey, index);
        let commits = Self::without_revealed(netuid, index, &hotkey, hash)?;
        if commits.is_empty() {
            WeightCommits::<T>::remove(index, &hotkey);
        } else {
            WeightCommits::<T>::insert(index, &hotkey, commits);
        }
        Self::do_set_weights(origin, netuid, mechanism, shown.uids, shown.values, shown.version_key)?;
        Self::deposit_event(Event::WeightsRevealed(hotkey, index, hash));
        Ok(())
    }

    /// What a hotkey has committed to and not revealed, when this is revealed now.
    pub(super) fn without_revealed(
        netuid: u16,
        index: u16,
        hotkey: &T::AccountId,
        hash: H256,
    ) -> Result<Commits, Error<T>> {
        let mut commits = WeightCommits::<T>::get(index, hotkey).ok_or(Error::<T>::NoWeightsCommitFound)?;
        let (now, period) = (Self::epoch_now(netuid), RevealPeriodEpochs::<T>::get(netuid));
        let place = commits.iter().position(|(commit, ..)| *commit == hash);
        let over = |epoch: u64| epoch.saturating_add(period) < now;
        if place.is_some_and(|place| over(commits[place].1)) {
            return Err(Error::ExpiredWeightCommit);
        }
        commits.retain(|(_, epoch, ..)| !over(*epoch));
        if commits.is_empty() {
            return Err(Error::NoWeightsCommitFound);
        }
        let place = commits.iter().position(|(commit, ..)| *commit == hash);
        let place = place.ok_or(Error::InvalidRevealCommitHashNotMatch)?;
        if commits[place].1.saturating_add(period) != now {
            return Err(Error::RevealTooEarly);
        }
        // Those before it can be revealed no more.
        commits.drain(..=place);
        Ok(commits)
    }

    /// Source: Subtensor's `internal_commit_timelocked_weights`.
    pub(super) fn do_commit_timelocked(
        origin: OriginFor<T>,
        netuid: u16,
        mechanism: u8,
        commit: BoundedVec<u8, ConstU32<5000>>,
        round: u64,
        version: u16,
    ) -> DispatchResult {
        let index = Self::place(netuid, mechanism)?;
        let hotkey = ensure_signed(origin)?;
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        let known = CommitRevealWeightsVersion::<T>::get();
        ensure!(version == known, Error::<T>::IncorrectCommitRevealVersion);
        Self::may_commit(netuid, &hotkey)?;
        Self::in_time(netuid, index, &hotkey, Error::<T>::CommittingWeightsTooFast)?;
        let epoch = Self::epoch_now(netuid);
        let mut waiting = TimelockedWeightCommits::<T>::get(index, epoch);
        let own = waiting.iter().filter(|(who, ..)| *who == hotkey).count();
        ensure!(own < MAX_COMMITS, Error::<T>::TooManyUnrevealedCommits);
        ensure!(round >= T::last_round(), Error::<T>::InvalidRevealRound);
        let hash = BlakeTwo256::hash(&commit);
        waiting.push((hotkey.clone(), Self::block(), commit, round));
        TimelockedWeightCommits::<T>::insert(index, epoch, waiting);
        Self::updated(netuid, index, &hotkey);
        Self::deposit_event(Event::TimelockedWeightsCommitted(hotkey, index, hash, round));
        Ok(())
    }
}
