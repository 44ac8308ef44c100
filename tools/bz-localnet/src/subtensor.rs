//! The part of pallet-subtensor that a training subnet uses, with Subtensor's names, indices, hashers and errors.
//!
//! Source: the metadata of Bittensor's main net, spec 365; the schedule of epochs is that of spec 423 and later. Consensus is
//! in `yuma`. Left out: emission, the price of alpha (1 TAO stakes 1), the adjustment of the burn, stake of children and of
//! the root network, splits of emission between mechanisms (all get the same), the price and the rate limit of a new subnet,
//! the swap of a coldkey. Subnets have Yuma 2, where spec 425 gives a new one Yuma 3.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use chain::{
        calls::storage_index,
        epochs::Epochs,
        timelock::{Payload, open},
    };
    use frame_support::{
        pallet_prelude::*,
        traits::{Currency, ExistenceRequirement, WithdrawReasons},
    };
    use frame_system::{RawOrigin, pallet_prelude::*};
    use sp_core::H256;
    use sp_runtime::traits::{BlakeTwo256, Hash, SaturatedConversion};

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

    /// How a subnet comes from weights to incentive.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, TypeInfo, MaxEncodedLen)]
    pub enum EpochConsensus {
        /// By Yuma consensus.
        #[default]
        Yuma,
        /// By the weights of one validator; not here.
        Null,
    }

    /// The form of timelocked commits.
    #[pallet::type_value]
    pub fn DefaultCommitRevealVersion() -> u16 {
        4
    }
    #[pallet::type_value]
    pub fn DefaultMechanismCount() -> u8 {
        1
    }
    /// The owner's place for an account that nobody has.
    #[pallet::type_value]
    pub fn DefaultAccount<T: Config>() -> T::AccountId {
        T::AccountId::decode(&mut sp_runtime::traits::TrailingZeroInput::zeroes()).expect("32 zeros are an account")
    }
    #[pallet::type_value]
    pub fn DefaultTaoWeight() -> u64 {
        971_718_665_099_567_868
    }

    // The defaults of the main net's metadata.
    #[pallet::type_value]
    pub fn DefaultTempo() -> u16 {
        360
    }
    #[pallet::type_value]
    pub fn DefaultRateLimit() -> u64 {
        100
    }
    #[pallet::type_value]
    pub fn DefaultMinAllowedWeights() -> u16 {
        1024
    }
    #[pallet::type_value]
    pub fn DefaultMaxWeightsLimit() -> u16 {
        u16::MAX
    }
    #[pallet::type_value]
    pub fn DefaultTrue() -> bool {
        true
    }
    #[pallet::type_value]
    pub fn DefaultMaxUids() -> u16 {
        4096
    }
    #[pallet::type_value]
    pub fn DefaultImmunityPeriod() -> u16 {
        4096
    }
    #[pallet::type_value]
    pub fn DefaultMinNonImmuneUids() -> u16 {
        10
    }
    #[pallet::type_value]
    pub fn DefaultMaxValidators() -> u16 {
        128
    }
    #[pallet::type_value]
    pub fn DefaultBurn() -> u64 {
        100_000_000
    }
    #[pallet::type_value]
    pub fn DefaultKappa() -> u16 {
        32_767
    }
    #[pallet::type_value]
    pub fn DefaultActivityCutoff() -> u16 {
        5000
    }
    #[pallet::type_value]
    pub fn DefaultBondsMovingAverage() -> u64 {
        900_000
    }
    #[pallet::type_value]
    pub fn DefaultBondsPenalty() -> u16 {
        u16::MAX
    }
    #[pallet::type_value]
    pub fn DefaultRevealPeriod() -> u64 {
        1
    }
    #[pallet::type_value]
    pub fn DefaultSymbol() -> Vec<u8> {
        "\u{1D70F}".as_bytes().to_vec()
    }

    #[pallet::storage]
    pub type NetworksAdded<T: Config> = StorageMap<_, Identity, u16, bool, ValueQuery>;
    #[pallet::storage]
    pub type TotalNetworks<T: Config> = StorageValue<_, u16, ValueQuery>;
    #[pallet::storage]
    pub type TokenSymbol<T: Config> = StorageMap<_, Identity, u16, Vec<u8>, ValueQuery, DefaultSymbol>;
    #[pallet::storage]
    pub type SubnetOwner<T: Config> = StorageMap<_, Identity, u16, T::AccountId, ValueQuery, DefaultAccount<T>>;
    #[pallet::storage]
    pub type SubnetOwnerHotkey<T: Config> = StorageMap<_, Identity, u16, T::AccountId, ValueQuery, DefaultAccount<T>>;
    #[pallet::storage]
    pub type SubnetEpochConsensus<T: Config> = StorageMap<_, Identity, u16, EpochConsensus, ValueQuery>;
    #[pallet::storage]
    pub type LastEpochBlock<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type PendingEpochAt<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type SubnetEpochIndex<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type MechanismCountCurrent<T: Config> = StorageMap<_, Twox64Concat, u16, u8, ValueQuery, DefaultMechanismCount>;
    #[pallet::storage]
    pub type CommitRevealWeightsVersion<T: Config> = StorageValue<_, u16, ValueQuery, DefaultCommitRevealVersion>;
    #[pallet::storage]
    pub type TaoWeight<T: Config> = StorageValue<_, u64, ValueQuery, DefaultTaoWeight>;
    /// Whose, block of the commit, what is sealed, its round.
    pub type Timelocked<T> = Vec<(<T as frame_system::Config>::AccountId, u64, BoundedVec<u8, ConstU32<5000>>, u64)>;
    #[pallet::storage]
    pub type TimelockedWeightCommits<T: Config> =
        StorageDoubleMap<_, Twox64Concat, u16, Twox64Concat, u64, Timelocked<T>, ValueQuery>;
    #[pallet::storage]
    pub type SubnetworkN<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery>;
    #[pallet::storage]
    pub type Tempo<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultTempo>;
    #[pallet::storage]
    pub type BlocksSinceLastStep<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
    /// The chain's own spelling.
    #[pallet::storage]
    pub type LastMechansimStepBlock<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type WeightsSetRateLimit<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery, DefaultRateLimit>;
    #[pallet::storage]
    pub type MinAllowedWeights<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultMinAllowedWeights>;
    #[pallet::storage]
    pub type MaxWeightsLimit<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultMaxWeightsLimit>;
    #[pallet::storage]
    pub type WeightsVersionKey<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type CommitRevealWeightsEnabled<T: Config> = StorageMap<_, Identity, u16, bool, ValueQuery, DefaultTrue>;
    #[pallet::storage]
    pub type NetworkRegistrationAllowed<T: Config> = StorageMap<_, Identity, u16, bool, ValueQuery, DefaultTrue>;
    #[pallet::storage]
    pub type MaxAllowedUids<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultMaxUids>;
    #[pallet::storage]
    pub type ImmunityPeriod<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultImmunityPeriod>;
    #[pallet::storage]
    pub type MinNonImmuneUids<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultMinNonImmuneUids>;
    #[pallet::storage]
    pub type MaxAllowedValidators<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultMaxValidators>;
    #[pallet::storage]
    pub type Burn<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery, DefaultBurn>;
    #[pallet::storage]
    pub type StakeThreshold<T: Config> = StorageValue<_, u64, ValueQuery>;
    #[pallet::storage]
    pub type Owner<T: Config> =
        StorageMap<_, Blake2_128Concat, T::AccountId, T::AccountId, ValueQuery, DefaultAccount<T>>;
    #[pallet::storage]
    pub type TotalHotkeyAlpha<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type IsNetworkMember<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, bool, ValueQuery>;
    #[pallet::storage]
    pub type Keys<T: Config> =
        StorageDoubleMap<_, Identity, u16, Identity, u16, T::AccountId, ValueQuery, DefaultAccount<T>>;
    #[pallet::storage]
    pub type Uids<T: Config> = StorageDoubleMap<_, Identity, u16, Blake2_128Concat, T::AccountId, u16, OptionQuery>;
    #[pallet::storage]
    pub type BlockAtRegistration<T: Config> = StorageDoubleMap<_, Identity, u16, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type Weights<T: Config> = StorageDoubleMap<_, Identity, u16, Identity, u16, Vec<(u16, u16)>, ValueQuery>;
    #[pallet::storage]
    pub type Active<T: Config> = StorageMap<_, Identity, u16, Vec<bool>, ValueQuery>;
    #[pallet::storage]
    pub type Incentive<T: Config> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;
    #[pallet::storage]
    pub type Consensus<T: Config> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;
    #[pallet::storage]
    pub type Trust<T: Config> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;
    #[pallet::storage]
    pub type ValidatorTrust<T: Config> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;
    #[pallet::storage]
    pub type Dividends<T: Config> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;
    #[pallet::storage]
    pub type Bonds<T: Config> = StorageDoubleMap<_, Identity, u16, Identity, u16, Vec<(u16, u16)>, ValueQuery>;
    /// Commit, epoch and block of the commit, 0; oldest first.
    pub type Commits = Vec<(H256, u64, u64, u64)>;
    #[pallet::storage]
    pub type WeightCommits<T: Config> =
        StorageDoubleMap<_, Twox64Concat, u16, Twox64Concat, T::AccountId, Commits, OptionQuery>;
    #[pallet::storage]
    pub type RevealPeriodEpochs<T: Config> = StorageMap<_, Twox64Concat, u16, u64, ValueQuery, DefaultRevealPeriod>;
    #[pallet::storage]
    pub type Kappa<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultKappa>;
    #[pallet::storage]
    pub type ActivityCutoff<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultActivityCutoff>;
    #[pallet::storage]
    pub type BondsMovingAverage<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery, DefaultBondsMovingAverage>;
    #[pallet::storage]
    pub type BondsPenalty<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultBondsPenalty>;
    #[pallet::storage]
    pub type LastUpdate<T: Config> = StorageMap<_, Identity, u16, Vec<u64>, ValueQuery>;
    #[pallet::storage]
    pub type ValidatorPermit<T: Config> = StorageMap<_, Identity, u16, Vec<bool>, ValueQuery>;

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

    /// Subtensor's errors, in its order.
    #[pallet::error]
    pub enum Error<T> {
        RootNetworkDoesNotExist,
        InvalidIpType,
        InvalidIpAddress,
        InvalidPort,
        HotKeyNotRegisteredInSubNet,
        HotKeyAccountNotExists,
        HotKeyNotRegisteredInNetwork,
        NonAssociatedColdKey,
        NotEnoughStake,
        NotEnoughStakeToWithdraw,
        NotEnoughStakeToSetWeights,
        NotEnoughStakeToSetChildkeys,
        NotEnoughBalanceToStake,
        BalanceWithdrawalError,
        ZeroBalanceAfterWithdrawn,
        NeuronNoValidatorPermit,
        WeightVecNotEqualSize,
        DuplicateUids,
        UidVecContainInvalidOne,
        WeightVecLengthIsLow,
        TooManyRegistrationsThisBlock,
        HotKeyAlreadyRegisteredInSubNet,
        NewHotKeyIsSameWithOld,
        InvalidWorkBlock,
        InvalidDifficulty,
        InvalidSeal,
        MaxWeightExceeded,
        HotKeyAlreadyDelegate,
        SettingWeightsTooFast,
        IncorrectWeightVersionKey,
        ServingRateLimitExceeded,
        UidsLengthExceedUidsInSubNet,
        NetworkTxRateLimitExceeded,
        DelegateTxRateLimitExceeded,
        HotKeySetTxRateLimitExceeded,
        StakingRateLimitExceeded,
        SubNetRegistrationDisabled,
        TooManyRegistrationsThisInterval,
        TransactorAccountShouldBeHotKey,
        FaucetDisabled,
        NotSubnetOwner,
        RegistrationNotPermittedOnRootSubnet,
        StakeTooLowForRoot,
        AllNetworksInImmunity,
        NotEnoughBalanceToPaySwapHotKey,
        NotRootSubnet,
        CanNotSetRootNetworkWeights,
        NoNeuronIdAvailable,
        DelegateTakeTooLow,
        DelegateTakeTooHigh,
        NoWeightsCommitFound,
        InvalidRevealCommitHashNotMatch,
        CommitRevealEnabled,
        CommitRevealDisabled,
        LiquidAlphaDisabled,
        AlphaHighTooLow,
        AlphaLowOutOfRange,
        ColdKeyAlreadyAssociated,
        NotEnoughBalanceToPaySwapColdKey,
        ColdkeyIsInArbitration,
        InvalidChild,
        DuplicateChild,
        ProportionOverflow,
        TooManyChildren,
        TxRateLimitExceeded,
        SwapAlreadyScheduled,
        FailedToSchedule,
        NewColdKeyIsHotkey,
        InvalidChildkeyTake,
        TxChildkeyTakeRateLimitExceeded,
        InvalidIdentity,
        MechanismDoesNotExist,
        CannotUnstakeLock,
        SubnetNotExists,
        TooManyUnrevealedCommits,
        ExpiredWeightCommit,
        RevealTooEarly,
        InputLengthsUnequal,
        CommittingWeightsTooFast,
        AmountTooLow,
        InsufficientLiquidity,
        SlippageTooHigh,
        TransferDisallowed,
        ActivityCutoffTooLow,
        CallDisabled,
        FirstEmissionBlockNumberAlreadySet,
        NeedWaitingMoreBlocksToStarCall,
        NotEnoughAlphaOutToRecycle,
        CannotBurnOrRecycleOnRootSubnet,
        UnableToRecoverPublicKey,
        InvalidRecoveredPublicKey,
        SubtokenDisabled,
        HotKeySwapOnSubnetIntervalNotPassed,
        ZeroMaxStakeAmount,
        SameNetuid,
        InsufficientBalance,
        StakingOperationRateLimitExceeded,
        InvalidLeaseBeneficiary,
        LeaseCannotEndInThePast,
        LeaseNetuidNotFound,
        LeaseDoesNotExist,
        LeaseHasNoEndBlock,
        LeaseHasNotEnded,
        Overflow,
        BeneficiaryDoesNotOwnHotkey,
        ExpectedBeneficiaryOrigin,
        AdminActionProhibitedDuringWeightsWindow,
        SymbolDoesNotExist,
        SymbolAlreadyInUse,
        IncorrectCommitRevealVersion,
        RevealPeriodTooLarge,
        RevealPeriodTooSmall,
        InvalidValue,
        SubnetLimitReached,
        CannotAffordLockCost,
        EvmKeyAssociateRateLimitExceeded,
        SameAutoStakeHotkeyAlreadySet,
        UidMapCouldNotBeCleared,
        TrimmingWouldExceedMaxImmunePercentage,
        ChildParentInconsistency,
        InvalidNumRootClaim,
        InvalidRootClaimThreshold,
        InvalidSubnetNumber,
        PrecisionLoss,
        // Of spec 423.
        InvalidRevealRound,
        RegistrationPriceLimitExceeded,
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(block: BlockNumberFor<T>) -> frame_support::weights::Weight {
            let block: u64 = block.saturated_into();
            // Reveals come first: what they set counts in the epoch of this block.
            for (netuid, _) in NetworksAdded::<T>::iter() {
                Self::reveal_timelocked(netuid, block);
            }
            for (netuid, _) in NetworksAdded::<T>::iter() {
                if Self::epochs(netuid).due(block) {
                    Self::epoch(netuid);
                    LastMechansimStepBlock::<T>::insert(netuid, block);
                    BlocksSinceLastStep::<T>::insert(netuid, 0);
                    LastEpochBlock::<T>::insert(netuid, block);
                    PendingEpochAt::<T>::remove(netuid);
                    SubnetEpochIndex::<T>::mutate(netuid, |index| *index += 1);
                } else {
                    BlocksSinceLastStep::<T>::mutate(netuid, |blocks| *blocks += 1);
                }
            }
            frame_support::weights::Weight::zero()
        }
    }

    /// Set a uid's value, where it has a place.
    fn put<V>(all: &mut [V], uid: u16, value: V) {
        if let Some(place) = all.get_mut(usize::from(uid)) {
            *place = value;
        }
    }

    impl<T: Config> Pallet<T> {
        pub(crate) fn epochs(netuid: u16) -> Epochs {
            Epochs::Kept {
                last: LastEpochBlock::<T>::get(netuid),
                pending: PendingEpochAt::<T>::get(netuid),
                index: SubnetEpochIndex::<T>::get(netuid),
                since: BlocksSinceLastStep::<T>::get(netuid),
                tempo: Tempo::<T>::get(netuid).into(),
            }
        }

        /// The epoch that what happens now belongs to. Source: Subtensor's `current_epoch_with_lookahead`.
        fn epoch_now(netuid: u16) -> u64 {
            Self::epochs(netuid).number(Self::block())
        }

        /// What was committed so many epochs ago is opened as soon as its round is there, and forgotten an epoch later.
        /// Source: Subtensor's `reveal_crv3_commits_for_subnet`.
        fn reveal_timelocked(netuid: u16, block: u64) {
            let period = RevealPeriodEpochs::<T>::get(netuid);
            let Some(epoch) = Self::epochs(netuid).number(block).checked_sub(period) else { return };
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

        fn owner_uid(netuid: u16) -> Option<u16> {
            Uids::<T>::get(netuid, SubnetOwnerHotkey::<T>::get(netuid))
        }

        /// Yuma consensus for each mechanism, with what the chain keeps.
        fn epoch(netuid: u16) {
            let n = SubnetworkN::<T>::get(netuid);
            let all = || 0..n;
            let owner = Self::owner_uid(netuid);
            let threshold = StakeThreshold::<T>::get();
            // Stake below the threshold does not count, but for the owner's.
            let stake = |uid: u16| {
                let held = TotalHotkeyAlpha::<T>::get(Keys::<T>::get(netuid, uid), netuid);
                if held >= threshold || owner == Some(uid) { held as f64 } else { 0.0 }
            };
            let cutoff = u64::from(ActivityCutoff::<T>::get(netuid));
            let rows = |rows: &dyn Fn(u16) -> Vec<(u16, u16)>| -> Vec<Vec<(usize, f64)>> {
                all()
                    .map(|uid| rows(uid).into_iter().map(|(to, w)| (usize::from(to), f64::from(w))).collect())
                    .collect()
            };
            let shares = |values: &[f64]| values.iter().map(|x| crate::yuma::stored(*x)).collect::<Vec<u16>>();
            let mechanisms = MechanismCountCurrent::<T>::get(netuid).max(1);
            let tempo_ago = Self::block().saturating_sub(Tempo::<T>::get(netuid).into());
            let last_step = LastMechansimStepBlock::<T>::get(netuid);
            let mut sum = crate::yuma::Epoch::default();
            let mut active = vec![false; n.into()];
            for mechanism in 0..mechanisms {
                let index = storage_index(netuid, mechanism);
                let last_update = LastUpdate::<T>::get(index);
                let now: Vec<bool> = last_update.iter().map(|last| last + cutoff >= Self::block()).collect();
                active.iter_mut().zip(&now).for_each(|(active, now)| *active |= now);
                let epoch = crate::yuma::Subnet {
                    stake: all().map(stake).collect(),
                    permit: ValidatorPermit::<T>::get(netuid),
                    active: now,
                    last_update,
                    registered: all().map(|uid| BlockAtRegistration::<T>::get(netuid, uid)).collect(),
                    committed: Self::oldest_commits(netuid, index),
                    bonds_since: if last_step == 0 { tempo_ago } else { last_step + 1 },
                    weights: rows(&|uid| Weights::<T>::get(index, uid)),
                    bonds: rows(&|uid| Bonds::<T>::get(index, uid)),
                    owner: owner.map(usize::from),
                    kappa: f64::from(Kappa::<T>::get(netuid)) / 65535.0,
                    alpha: 1.0 - BondsMovingAverage::<T>::get(netuid) as f64 / 1e6,
                    bonds_penalty: f64::from(BondsPenalty::<T>::get(netuid)) / 65535.0,
                    max_validators: usize::from(MaxAllowedValidators::<T>::get(netuid)),
                }
                .epoch();
                Incentive::<T>::insert(index, shares(&epoch.incentive));
                for (uid, row) in all().zip(&epoch.bonds) {
                    let row: Vec<(u16, u16)> =
                        row.iter().map(|(to, b)| (*to as u16, crate::yuma::stored(*b))).collect();
                    Bonds::<T>::insert(index, uid, row);
                }
                sum.add(epoch, f64::from(mechanisms));
            }
            Active::<T>::insert(netuid, active);
            ValidatorPermit::<T>::insert(netuid, sum.permit);
            Consensus::<T>::insert(netuid, shares(&sum.consensus));
            Trust::<T>::insert(netuid, shares(&sum.trust));
            ValidatorTrust::<T>::insert(netuid, shares(&sum.validator_trust));
            Dividends::<T>::insert(netuid, shares(&sum.dividends));
        }

        /// For each uid the block of its oldest commit that can still be revealed; `u64::MAX` without one.
        fn oldest_commits(netuid: u16, index: u16) -> Vec<u64> {
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

        pub(crate) fn block() -> u64 {
            frame_system::Pallet::<T>::block_number().saturated_into()
        }

        /// Who never set weights may at once. Source: Subtensor's `check_rate_limit`.
        fn in_time(netuid: u16, index: u16, hotkey: &T::AccountId, error: Error<T>) -> DispatchResult {
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

        fn enough_stake(netuid: u16, hotkey: &T::AccountId) -> DispatchResult {
            let owner = SubnetOwnerHotkey::<T>::get(netuid) == *hotkey;
            let enough = TotalHotkeyAlpha::<T>::get(hotkey, netuid) >= StakeThreshold::<T>::get();
            ensure!(owner || enough, Error::<T>::NotEnoughStakeToSetWeights);
            Ok(())
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
            let least = WeightsVersionKey::<T>::get(netuid);
            ensure!(least == 0 || version_key >= least, Error::<T>::IncorrectWeightVersionKey);
            let commit_reveal = CommitRevealWeightsEnabled::<T>::get(netuid);
            if !commit_reveal {
                Self::in_time(netuid, index, &hotkey, Error::<T>::SettingWeightsTooFast)?;
            }
            let only_self = dests.as_slice() == [uid];
            let permit = ValidatorPermit::<T>::get(netuid).get(usize::from(uid)).copied().unwrap_or(false);
            let owner = Self::owner_uid(netuid) == Some(uid);
            ensure!(permit || only_self || owner, Error::<T>::NeuronNoValidatorPermit);
            let mut sorted = dests.clone();
            sorted.sort_unstable();
            ensure!(sorted.windows(2).all(|pair| pair[0] != pair[1]), Error::<T>::DuplicateUids);
            ensure!(dests.iter().all(|dest| *dest < n), Error::<T>::UidVecContainInvalidOne);
            let enough = dests.len() >= usize::from(MinAllowedWeights::<T>::get(netuid).min(n));
            ensure!(enough || only_self, Error::<T>::WeightVecLengthIsLow);
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let most = u64::from(weights.iter().copied().max().unwrap_or(0));
            let share = u64::from(MaxWeightsLimit::<T>::get(netuid));
            ensure!(only_self || most * 65535 <= share * sum.max(1), Error::<T>::MaxWeightExceeded);
            // Source: Subtensor's max-upscale: the largest becomes 65535, the others in proportion, rounded.
            let upscaled =
                weights.iter().map(|w| (u64::from(*w) * 65535 + most / 2).checked_div(most).unwrap_or(0) as u16);
            Weights::<T>::insert(index, uid, dests.iter().copied().zip(upscaled).collect::<Vec<_>>());
            if !commit_reveal {
                Self::updated(netuid, index, &hotkey);
            }
            Self::deposit_event(Event::WeightsSet(index, uid));
            Ok(())
        }

        /// Source: Subtensor's `internal_commit_weights`.
        fn do_commit(origin: OriginFor<T>, netuid: u16, mechanism: u8, hash: H256) -> DispatchResult {
            let index = Self::place(netuid, mechanism)?;
            let hotkey = ensure_signed(origin)?;
            ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
            ensure!(Uids::<T>::contains_key(netuid, &hotkey), Error::<T>::HotKeyNotRegisteredInSubNet);
            Self::enough_stake(netuid, &hotkey)?;
            Self::in_time(netuid, index, &hotkey, Error::<T>::CommittingWeightsTooFast)?;
            let (now, period) = (Self::epoch_now(netuid), RevealPeriodEpochs::<T>::get(netuid));
            let mut commits = WeightCommits::<T>::get(index, &hotkey).unwrap_or_default();
            commits.retain(|(_, epoch, ..)| epoch.saturating_add(period) >= now);
            ensure!(commits.len() < 10, Error::<T>::TooManyUnrevealedCommits);
            commits.push((hash, now, Self::block(), 0));
            WeightCommits::<T>::insert(index, &hotkey, commits);
            Self::updated(netuid, index, &hotkey);
            Self::deposit_event(Event::WeightsCommitted(hotkey, index, hash));
            Ok(())
        }

        /// Source: Subtensor's `do_reveal_weights`.
        fn do_reveal(
            origin: OriginFor<T>,
            netuid: u16,
            mechanism: u8,
            uids: Vec<u16>,
            values: Vec<u16>,
            salt: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            let index = Self::place(netuid, mechanism)?;
            let hotkey = ensure_signed(origin.clone())?;
            ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
            let hash = BlakeTwo256::hash(&(&hotkey, index, &uids, &values, &salt, version_key).encode());
            let commits = Self::without_revealed(netuid, index, &hotkey, hash)?;
            if commits.is_empty() {
                WeightCommits::<T>::remove(index, &hotkey);
            } else {
                WeightCommits::<T>::insert(index, &hotkey, commits);
            }
            Self::do_set_weights(origin, netuid, mechanism, uids, values, version_key)?;
            Self::deposit_event(Event::WeightsRevealed(hotkey, index, hash));
            Ok(())
        }

        /// What a hotkey has committed to and not revealed, when this is revealed now.
        fn without_revealed(netuid: u16, index: u16, hotkey: &T::AccountId, hash: H256) -> Result<Commits, Error<T>> {
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

        /// Why the pool takes no such call, a number of Subtensor's `CustomTransactionError`: what can be known of it before it
        /// is in a block. Source: `CheckWeights` and `CheckRateLimits` of Subtensor's transaction extension, spec 425.
        pub fn early(who: &T::AccountId, call: &Call<T>) -> Option<u8> {
            let reveal = |netuid: u16, mechanism: u8, uids: &Vec<u16>, values: &Vec<u16>, salt: &Vec<u16>, key: u64| {
                let index = storage_index(netuid, mechanism);
                let hash = BlakeTwo256::hash(&(who, index, uids, values, salt, key).encode());
                match Self::without_revealed(netuid, index, who, hash) {
                    Ok(_) => None,
                    Err(Error::ExpiredWeightCommit | Error::RevealTooEarly) => Some(17),
                    Err(_) => Some(16),
                }
            };
            let (netuid, mechanism, later) = match call {
                Call::set_weights { netuid, .. } | Call::commit_weights { netuid, .. } => (*netuid, 0, None),
                Call::set_mechanism_weights { netuid, mecid, .. }
                | Call::commit_mechanism_weights { netuid, mecid, .. } => (*netuid, *mecid, None),
                Call::commit_timelocked_weights { netuid, reveal_round, .. } => {
                    (*netuid, 0, (*reveal_round < T::last_round()).then_some(15))
                }
                Call::commit_timelocked_mechanism_weights { netuid, mecid, reveal_round, .. } => {
                    (*netuid, *mecid, (*reveal_round < T::last_round()).then_some(15))
                }
                Call::reveal_weights { netuid, uids, values, salt, version_key } => {
                    let poor = Self::enough_stake(*netuid, who).is_err().then_some(1);
                    return poor.or_else(|| reveal(*netuid, 0, uids, values, salt, *version_key));
                }
                Call::reveal_mechanism_weights { netuid, mecid, uids, values, salt, version_key } => {
                    let poor = Self::enough_stake(*netuid, who).is_err().then_some(1);
                    return poor.or_else(|| reveal(*netuid, *mecid, uids, values, salt, *version_key));
                }
                _ => return None,
            };
            let index = storage_index(netuid, mechanism);
            let there = Uids::<T>::contains_key(netuid, who);
            let poor = Self::enough_stake(netuid, who).is_err().then_some(1);
            let soon = || Self::in_time(netuid, index, who, Error::SettingWeightsTooFast).is_err() && there;
            poor.or(later).or_else(|| soon().then_some(6))
        }

        /// Source: Subtensor's `internal_commit_timelocked_weights`.
        fn do_commit_timelocked(
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
            ensure!(Uids::<T>::contains_key(netuid, &hotkey), Error::<T>::HotKeyNotRegisteredInSubNet);
            Self::enough_stake(netuid, &hotkey)?;
            Self::in_time(netuid, index, &hotkey, Error::<T>::CommittingWeightsTooFast)?;
            let epoch = Self::epoch_now(netuid);
            let mut waiting = TimelockedWeightCommits::<T>::get(index, epoch);
            let own = waiting.iter().filter(|(who, ..)| *who == hotkey).count();
            ensure!(own < 10, Error::<T>::TooManyUnrevealedCommits);
            ensure!(round >= T::last_round(), Error::<T>::InvalidRevealRound);
            let hash = BlakeTwo256::hash(&commit);
            waiting.push((hotkey.clone(), Self::block(), commit, round));
            TimelockedWeightCommits::<T>::insert(index, epoch, waiting);
            Self::updated(netuid, index, &hotkey);
            Self::deposit_event(Event::TimelockedWeightsCommitted(hotkey, index, hash, round));
            Ok(())
        }

        fn burn(coldkey: &T::AccountId, amount: u64) -> DispatchResult {
            T::Currency::withdraw(coldkey, amount, WithdrawReasons::FEE, ExistenceRequirement::KeepAlive)
                .map(drop)
                .map_err(|_| Error::<T>::NotEnoughBalanceToStake.into())
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

        /// Whose place a new neuron takes in a full subnet: who earns least, then who is there longest; the owner's never, and
        /// while there are others none of who came lately. Source: Subtensor's `get_neuron_to_prune`, with incentive and
        /// dividends for the emission that follows them.
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
            ensure!(!CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealEnabled);
            Self::do_set_weights(origin, netuid, 0, dests, weights, version_key)
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
            ensure!(!CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealEnabled);
            Self::do_set_weights(origin, netuid, mecid, dests, weights, version_key)
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
            Self::do_reveal(origin, netuid, 0, uids, values, salt, version_key)
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
            Self::do_reveal(origin, netuid, mecid, uids, values, salt, version_key)
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

        /// Stake TAO of the coldkey on a hotkey.
        #[pallet::call_index(2)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn add_stake(
            origin: OriginFor<T>,
            hotkey: T::AccountId,
            netuid: u16,
            amount_staked: u64,
        ) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
            ensure!(Owner::<T>::contains_key(&hotkey), Error::<T>::HotKeyAccountNotExists);
            ensure!(Owner::<T>::get(&hotkey) == coldkey, Error::<T>::NonAssociatedColdKey);
            Self::burn(&coldkey, amount_staked)?;
            TotalHotkeyAlpha::<T>::mutate(&hotkey, netuid, |stake| *stake = stake.saturating_add(amount_staked));
            Self::deposit_event(Event::StakeAdded(coldkey, hotkey, amount_staked, amount_staked, netuid, 0));
            Ok(())
        }

        /// Register a hotkey by burning TAO of the coldkey.
        #[pallet::call_index(7)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn burned_register(origin: OriginFor<T>, netuid: u16, hotkey: T::AccountId) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
            ensure!(NetworkRegistrationAllowed::<T>::get(netuid), Error::<T>::SubNetRegistrationDisabled);
            ensure!(!Uids::<T>::contains_key(netuid, &hotkey), Error::<T>::HotKeyAlreadyRegisteredInSubNet);
            let free = !Owner::<T>::contains_key(&hotkey);
            ensure!(free || Owner::<T>::get(&hotkey) == coldkey, Error::<T>::NonAssociatedColdKey);
            Self::burn(&coldkey, Burn::<T>::get(netuid))?;
            Self::add_neuron(netuid, &hotkey, &coldkey)
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
            ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
            ensure!(Burn::<T>::get(netuid) <= limit_price, Error::<T>::RegistrationPriceLimitExceeded);
            Self::burned_register(origin, netuid, hotkey)
        }

        /// Make a subnet; the hotkey is its first neuron.
        #[pallet::call_index(59)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn register_network(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            let free = !Owner::<T>::contains_key(&hotkey);
            ensure!(free || Owner::<T>::get(&hotkey) == coldkey, Error::<T>::NonAssociatedColdKey);
            // 0 is the root network.
            let netuid = TotalNetworks::<T>::get().max(1);
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
    }
}
