//! The part of pallet-subtensor that a training subnet uses, with Subtensor's names, indices, hashers and errors.
//!
//! Source: the metadata of Bittensor's main net, spec 365. Consensus is in `yuma`. Left out: timelocked commits, emission,
//! the price of alpha (1 TAO stakes 1), the adjustment of the burn, pruning of a full subnet.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use frame_support::{
        pallet_prelude::*,
        traits::{Currency, ExistenceRequirement, WithdrawReasons},
    };
    use frame_system::pallet_prelude::*;
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
    pub type SubnetOwner<T: Config> = StorageMap<_, Identity, u16, T::AccountId, OptionQuery>;
    #[pallet::storage]
    pub type SubnetworkN<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery>;
    #[pallet::storage]
    pub type Tempo<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultTempo>;
    #[pallet::storage]
    pub type BlocksSinceLastStep<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery>;
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
    pub type MaxAllowedValidators<T: Config> = StorageMap<_, Identity, u16, u16, ValueQuery, DefaultMaxValidators>;
    #[pallet::storage]
    pub type Burn<T: Config> = StorageMap<_, Identity, u16, u64, ValueQuery, DefaultBurn>;
    #[pallet::storage]
    pub type StakeThreshold<T: Config> = StorageValue<_, u64, ValueQuery>;
    #[pallet::storage]
    pub type Owner<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, T::AccountId, OptionQuery>;
    #[pallet::storage]
    pub type TotalHotkeyAlpha<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, u64, ValueQuery>;
    #[pallet::storage]
    pub type IsNetworkMember<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, bool, ValueQuery>;
    #[pallet::storage]
    pub type Keys<T: Config> = StorageDoubleMap<_, Identity, u16, Identity, u16, T::AccountId, OptionQuery>;
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
    /// Commit, block of the commit, first and last block of its reveal; oldest first.
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
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(block: BlockNumberFor<T>) -> frame_support::weights::Weight {
            let block: u64 = block.saturated_into();
            for (netuid, _) in NetworksAdded::<T>::iter() {
                // Source: Subtensor's `should_run_epoch`: every tempo + 1 blocks, shifted by the netuid.
                let tempo = u64::from(Tempo::<T>::get(netuid));
                if (block + u64::from(netuid) + 1).is_multiple_of(tempo + 1) {
                    Self::epoch(netuid);
                    BlocksSinceLastStep::<T>::insert(netuid, 0);
                } else {
                    BlocksSinceLastStep::<T>::mutate(netuid, |blocks| *blocks += 1);
                }
            }
            frame_support::weights::Weight::zero()
        }
    }

    impl<T: Config> Pallet<T> {
        /// Yuma consensus, with what the chain keeps.
        fn epoch(netuid: u16) {
            let n = SubnetworkN::<T>::get(netuid);
            let block: u64 = frame_system::Pallet::<T>::block_number().saturated_into();
            let all = || 0..n;
            let threshold = StakeThreshold::<T>::get();
            let stake = |uid| Keys::<T>::get(netuid, uid).map_or(0, |key| TotalHotkeyAlpha::<T>::get(key, netuid));
            // Stake below the threshold does not count.
            let stake = |uid| Some(stake(uid)).filter(|held| *held >= threshold).unwrap_or(0) as f64;
            let last_update = LastUpdate::<T>::get(netuid);
            let cutoff = u64::from(ActivityCutoff::<T>::get(netuid));
            let rows = |rows: &dyn Fn(u16) -> Vec<(u16, u16)>| -> Vec<Vec<(usize, f64)>> {
                all()
                    .map(|uid| rows(uid).into_iter().map(|(to, w)| (usize::from(to), f64::from(w))).collect())
                    .collect()
            };
            let owner = SubnetOwner::<T>::get(netuid);
            let owned = |uid: &u16| Keys::<T>::get(netuid, uid).and_then(Owner::<T>::get) == owner && owner.is_some();
            let epoch = crate::yuma::Subnet {
                stake: all().map(stake).collect(),
                permit: ValidatorPermit::<T>::get(netuid),
                active: last_update.iter().map(|last| last + cutoff >= block).collect(),
                last_update,
                registered: all().map(|uid| BlockAtRegistration::<T>::get(netuid, uid)).collect(),
                weights: rows(&|uid| Weights::<T>::get(netuid, uid)),
                bonds: rows(&|uid| Bonds::<T>::get(netuid, uid)),
                owner: all().find(owned).map(usize::from),
                kappa: f64::from(Kappa::<T>::get(netuid)) / 65535.0,
                alpha: 1.0 - BondsMovingAverage::<T>::get(netuid) as f64 / 1e6,
                bonds_penalty: f64::from(BondsPenalty::<T>::get(netuid)) / 65535.0,
                max_validators: usize::from(MaxAllowedValidators::<T>::get(netuid)),
            }
            .epoch();
            let shares = |values: Vec<f64>| values.into_iter().map(|x| (x * 65535.0) as u16).collect::<Vec<u16>>();
            ValidatorPermit::<T>::insert(netuid, epoch.permit);
            Consensus::<T>::insert(netuid, shares(epoch.consensus));
            Trust::<T>::insert(netuid, shares(epoch.trust));
            ValidatorTrust::<T>::insert(netuid, shares(epoch.validator_trust));
            Incentive::<T>::insert(netuid, shares(epoch.incentive));
            Dividends::<T>::insert(netuid, shares(epoch.dividends));
            for (uid, row) in all().zip(epoch.bonds) {
                let row: Vec<(u16, u16)> = row.into_iter().map(|(to, b)| (to as u16, (b * 65535.0) as u16)).collect();
                Bonds::<T>::insert(netuid, uid, row);
            }
        }

        fn block() -> u64 {
            frame_system::Pallet::<T>::block_number().saturated_into()
        }

        /// Source: Subtensor's `get_epoch_index`.
        fn epoch_index(netuid: u16, block: u64) -> u64 {
            (block + u64::from(netuid) + 1) / (u64::from(Tempo::<T>::get(netuid)) + 1)
        }

        fn in_time(netuid: u16, hotkey: &T::AccountId, error: Error<T>) -> DispatchResult {
            let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
            let last = LastUpdate::<T>::get(netuid).get(usize::from(uid)).copied().unwrap_or(0);
            ensure!(Self::block().saturating_sub(last) >= WeightsSetRateLimit::<T>::get(netuid), error);
            Ok(())
        }

        fn updated(netuid: u16, hotkey: &T::AccountId) {
            let uid = Uids::<T>::get(netuid, hotkey);
            LastUpdate::<T>::mutate(netuid, |all| {
                if let Some(last) = uid.and_then(|uid| all.get_mut(usize::from(uid))) {
                    *last = Self::block();
                }
            });
        }

        fn put_weights(
            hotkey: &T::AccountId,
            netuid: u16,
            dests: Vec<u16>,
            weights: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            ensure!(dests.len() == weights.len(), Error::<T>::WeightVecNotEqualSize);
            ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::MechanismDoesNotExist);
            let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
            let stake = TotalHotkeyAlpha::<T>::get(hotkey, netuid);
            ensure!(stake >= StakeThreshold::<T>::get(), Error::<T>::NotEnoughStakeToSetWeights);
            let least = WeightsVersionKey::<T>::get(netuid);
            ensure!(least == 0 || version_key >= least, Error::<T>::IncorrectWeightVersionKey);
            let only_self = dests.as_slice() == [uid];
            let permit = ValidatorPermit::<T>::get(netuid).get(usize::from(uid)).copied().unwrap_or(false);
            ensure!(permit || only_self, Error::<T>::NeuronNoValidatorPermit);
            let n = SubnetworkN::<T>::get(netuid);
            ensure!(dests.len() <= usize::from(n), Error::<T>::UidsLengthExceedUidsInSubNet);
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
            Weights::<T>::insert(netuid, uid, dests.iter().copied().zip(upscaled).collect::<Vec<_>>());
            Self::deposit_event(Event::WeightsSet(netuid, uid));
            Ok(())
        }

        fn burn(coldkey: &T::AccountId, amount: u64) -> DispatchResult {
            T::Currency::withdraw(coldkey, amount, WithdrawReasons::FEE, ExistenceRequirement::KeepAlive)
                .map(drop)
                .map_err(|_| Error::<T>::NotEnoughBalanceToStake.into())
        }

        fn add_neuron(netuid: u16, hotkey: &T::AccountId, coldkey: &T::AccountId) -> DispatchResult {
            let uid = SubnetworkN::<T>::get(netuid);
            ensure!(uid < MaxAllowedUids::<T>::get(netuid), Error::<T>::NoNeuronIdAvailable);
            let block: u64 = frame_system::Pallet::<T>::block_number().saturated_into();
            SubnetworkN::<T>::insert(netuid, uid + 1);
            Owner::<T>::insert(hotkey, coldkey);
            // A hotkey holds no TAO, and still has to be an account whose nonce is kept.
            frame_system::Pallet::<T>::inc_providers(hotkey);
            Keys::<T>::insert(netuid, uid, hotkey);
            Uids::<T>::insert(netuid, hotkey, uid);
            IsNetworkMember::<T>::insert(hotkey, netuid, true);
            BlockAtRegistration::<T>::insert(netuid, uid, block);
            Active::<T>::append(netuid, true);
            Incentive::<T>::append(netuid, 0u16);
            Dividends::<T>::append(netuid, 0u16);
            Consensus::<T>::append(netuid, 0u16);
            Trust::<T>::append(netuid, 0u16);
            ValidatorTrust::<T>::append(netuid, 0u16);
            LastUpdate::<T>::append(netuid, block);
            ValidatorPermit::<T>::append(netuid, false);
            Self::deposit_event(Event::NeuronRegistered(netuid, uid, hotkey.clone()));
            Ok(())
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
            let hotkey = ensure_signed(origin)?;
            ensure!(!CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealEnabled);
            Self::in_time(netuid, &hotkey, Error::<T>::SettingWeightsTooFast)?;
            Self::put_weights(&hotkey, netuid, dests, weights, version_key)?;
            Self::updated(netuid, &hotkey);
            Ok(())
        }

        /// Commit to weights that are revealed later.
        #[pallet::call_index(96)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn commit_weights(origin: OriginFor<T>, netuid: u16, commit_hash: H256) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
            ensure!(Uids::<T>::contains_key(netuid, &hotkey), Error::<T>::HotKeyNotRegisteredInSubNet);
            let stake = TotalHotkeyAlpha::<T>::get(&hotkey, netuid);
            ensure!(stake >= StakeThreshold::<T>::get(), Error::<T>::NotEnoughStakeToSetWeights);
            Self::in_time(netuid, &hotkey, Error::<T>::CommittingWeightsTooFast)?;
            let block = Self::block();
            let mut commits = WeightCommits::<T>::get(netuid, &hotkey).unwrap_or_default();
            commits.retain(|(_, _, _, last)| *last >= block);
            ensure!(commits.len() < 10, Error::<T>::TooManyUnrevealedCommits);
            let length = u64::from(Tempo::<T>::get(netuid)) + 1;
            // The reveal belongs to the epoch that is `RevealPeriodEpochs` after that of the commit.
            let epoch = Self::epoch_index(netuid, block) + RevealPeriodEpochs::<T>::get(netuid);
            let first = (epoch * length).saturating_sub(u64::from(netuid) + 1);
            commits.push((commit_hash, block, first, first + length - 1));
            WeightCommits::<T>::insert(netuid, &hotkey, commits);
            Self::updated(netuid, &hotkey);
            Ok(())
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
            let hotkey = ensure_signed(origin)?;
            ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
            let mut commits = WeightCommits::<T>::get(netuid, &hotkey).ok_or(Error::<T>::NoWeightsCommitFound)?;
            let content = (&hotkey, netuid, &uids, &values, &salt, version_key);
            let hash = BlakeTwo256::hash(&content.encode());
            let place = commits.iter().position(|(commit, ..)| *commit == hash);
            let place = place.ok_or(Error::<T>::InvalidRevealCommitHashNotMatch)?;
            let (_, _, first, last) = commits[place];
            let block = Self::block();
            ensure!(block >= first, Error::<T>::RevealTooEarly);
            ensure!(block <= last, Error::<T>::ExpiredWeightCommit);
            // Those before it can be revealed no more.
            commits.drain(..=place);
            WeightCommits::<T>::insert(netuid, &hotkey, commits);
            Self::put_weights(&hotkey, netuid, uids, values, version_key)
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
            let owner = Owner::<T>::get(&hotkey).ok_or(Error::<T>::HotKeyAccountNotExists)?;
            ensure!(owner == coldkey, Error::<T>::NonAssociatedColdKey);
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
            let owner = Owner::<T>::get(&hotkey);
            ensure!(owner.is_none_or(|owner| owner == coldkey), Error::<T>::NonAssociatedColdKey);
            Self::burn(&coldkey, Burn::<T>::get(netuid))?;
            Self::add_neuron(netuid, &hotkey, &coldkey)
        }

        /// Make a subnet; the hotkey is its first neuron.
        #[pallet::call_index(59)]
        #[pallet::weight((frame_support::weights::Weight::from_parts(1, 0), DispatchClass::Normal, Pays::No))]
        pub fn register_network(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            // 0 is the root network.
            let netuid = TotalNetworks::<T>::get().max(1);
            TotalNetworks::<T>::put(netuid + 1);
            NetworksAdded::<T>::insert(netuid, true);
            SubnetOwner::<T>::insert(netuid, &coldkey);
            Self::deposit_event(Event::NetworkAdded(netuid, 0));
            Self::add_neuron(netuid, &hotkey, &coldkey)
        }
    }
}
