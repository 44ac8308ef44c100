//! The runtime: the pallets at the main net's indices, and the runtime API that clients call.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "inside FRAME's macros")]

use crate::{
    admin, apis, commitments,
    drand::{self, aura},
    faucet, subtensor,
};
use frame_support::{
    derive_impl,
    traits::{ConstU16, ConstU32, ConstU64, Everything, Get},
};
use sp_runtime::{
    ApplyExtrinsicResult, MultiAddress, MultiSignature, generic,
    traits::{BlakeTwo256, Block as BlockT, IdentifyAccount, Verify},
    transaction_validity::{TransactionSource, TransactionValidity},
};
use sp_version::RuntimeVersion;
use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering},
};

/// A signature of any kind that Substrate knows.
pub type Signature = MultiSignature;
/// An account.
pub type AccountId = <<Signature as Verify>::Signer as IdentifyAccount>::AccountId;
/// A block's header.
pub type Header = generic::Header<u32, BlakeTwo256>;
/// What an extrinsic is checked for.
pub type TxExtension = (
    frame_system::CheckNonZeroSender<Runtime>,
    frame_system::CheckSpecVersion<Runtime>,
    frame_system::CheckTxVersion<Runtime>,
    frame_system::CheckGenesis<Runtime>,
    frame_system::CheckEra<Runtime>,
    frame_system::CheckNonce<Runtime>,
    frame_system::CheckWeight<Runtime>,
    subtensor::SubtensorTransactionExtension<Runtime>,
);
/// An extrinsic as it comes.
pub type UncheckedExtrinsic =
    generic::UncheckedExtrinsic<MultiAddress<AccountId, ()>, RuntimeCall, Signature, TxExtension>;
/// A block.
pub type Block = generic::Block<Header, UncheckedExtrinsic>;
/// What runs blocks.
pub type Executive =
    frame_executive::Executive<Runtime, Block, frame_system::ChainContext<Runtime>, Runtime, AllPalletsWithSystem>;

/// What this runtime is.
pub const VERSION: RuntimeVersion = RuntimeVersion {
    spec_name: Cow::Borrowed("node-subtensor"),
    impl_name: Cow::Borrowed("bz-localnet"),
    authoring_version: 1,
    // Clients keep metadata by this number: it rises when a pallet changes.
    spec_version: 9,
    impl_version: 1,
    apis: RUNTIME_API_VERSIONS,
    transaction_version: 1,
    system_version: 1,
};

frame_support::construct_runtime!(
    pub enum Runtime {
        System: frame_system = 0,
        Timestamp: pallet_timestamp = 2,
        Aura: aura = 3,
        Balances: pallet_balances = 5,
        SubtensorModule: subtensor = 7,
        Sudo: pallet_sudo = 12,
        Commitments: commitments = 18,
        AdminUtils: admin = 19,
        Drand: drand = 26,
        // Of this chain alone, far from those that Subtensor has.
        Faucet: faucet = 200,
    }
);

frame_support::parameter_types! { pub const Version: RuntimeVersion = VERSION; }

#[derive_impl(frame_system::config_preludes::SolochainDefaultConfig)]
impl frame_system::Config for Runtime {
    type BaseCallFilter = Everything;
    type Block = Block;
    type AccountId = AccountId;
    type Nonce = u32;
    type Hash = sp_core::H256;
    type Lookup = sp_runtime::traits::AccountIdLookup<AccountId, ()>;
    type AccountData = pallet_balances::AccountData<u64>;
    type Version = Version;
    type BlockHashCount = ConstU32<256>;
    type SS58Prefix = ConstU16<42>;
    type MaxConsumers = ConstU32<16>;
}

impl pallet_timestamp::Config for Runtime {
    type Moment = u64;
    type OnTimestampSet = ();
    type MinimumPeriod = ConstU64<1>;
    type WeightInfo = ();
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Runtime {
    type AccountStore = System;
    type Balance = u64;
    type ExistentialDeposit = ConstU64<500>;
}

impl pallet_sudo::Config for Runtime {
    type RuntimeEvent = RuntimeEvent;
    type RuntimeCall = RuntimeCall;
    type WeightInfo = ();
}

impl subtensor::Config for Runtime {
    type Currency = Balances;
    fn signature(round: u64) -> Option<Vec<u8>> {
        drand::Pulses::<Runtime>::get(round).map(|pulse| pulse.signature.into_inner())
    }
    fn last_round() -> u64 {
        drand::LastStoredRound::<Runtime>::get()
    }
}

impl drand::Config for Runtime {}

/// Milliseconds between two blocks, which the metadata tells; of the whole process.
pub static SLOT_MS: AtomicU64 = AtomicU64::new(12_000);

/// See [`SLOT_MS`].
pub struct Slot;
impl Get<u64> for Slot {
    fn get() -> u64 {
        SLOT_MS.load(Ordering::Relaxed)
    }
}

impl aura::Config for Runtime {
    type SlotDuration = Slot;
}

impl commitments::Config for Runtime {
    type MaxFields = commitments::MaxFields;
    fn may_commit(netuid: u16, hotkey: &AccountId) -> bool {
        subtensor::IsNetworkMember::<Runtime>::get(hotkey, netuid)
    }
    fn epoch(netuid: u16) -> u64 {
        subtensor::SubnetEpochIndex::<Runtime>::get(netuid)
    }
}

impl admin::Config for Runtime {}

impl faucet::Config for Runtime {
    type Currency = Balances;
    fn payer() -> Option<AccountId> {
        pallet_sudo::Key::<Runtime>::get()
    }
}

sp_api::impl_runtime_apis! {
    impl sp_api::Core<Block> for Runtime {
        fn version() -> RuntimeVersion { VERSION }
        fn execute_block(block: <Block as BlockT>::LazyBlock) { Executive::execute_block(block) }
        fn initialize_block(header: &<Block as BlockT>::Header) -> sp_runtime::ExtrinsicInclusionMode {
            Executive::initialize_block(header)
        }
    }
    impl sp_api::Metadata<Block> for Runtime {
        fn metadata() -> sp_core::OpaqueMetadata { sp_core::OpaqueMetadata::new(Runtime::metadata().into()) }
        fn metadata_at_version(version: u32) -> Option<sp_core::OpaqueMetadata> {
            Runtime::metadata_at_version(version)
        }
        fn metadata_versions() -> Vec<u32> { Runtime::metadata_versions() }
    }
    impl sp_block_builder::BlockBuilder<Block> for Runtime {
        fn apply_extrinsic(extrinsic: <Block as BlockT>::Extrinsic) -> ApplyExtrinsicResult {
            Executive::apply_extrinsic(extrinsic)
        }
        fn finalize_block() -> <Block as BlockT>::Header { Executive::finalize_block() }
        fn inherent_extrinsics(_: sp_inherents::InherentData) -> Vec<<Block as BlockT>::Extrinsic> { vec![] }
        fn check_inherents(
            _: <Block as BlockT>::LazyBlock,
            _: sp_inherents::InherentData,
        ) -> sp_inherents::CheckInherentsResult { Default::default() }
    }
    impl sp_transaction_pool::runtime_api::TaggedTransactionQueue<Block> for Runtime {
        fn validate_transaction(
            source: TransactionSource,
            extrinsic: <Block as BlockT>::Extrinsic,
            block: <Block as BlockT>::Hash,
        ) -> TransactionValidity { Executive::validate_transaction(source, extrinsic, block) }
    }
    impl apis::NeuronInfoRuntimeApi<Block> for Runtime {
        fn get_neurons_lite(netuid: u16) -> Vec<apis::NeuronInfoLite> { apis::neurons(netuid) }
        fn get_neuron_lite(netuid: u16, uid: u16) -> Option<apis::NeuronInfoLite> { apis::neuron(netuid, uid) }
    }
    impl apis::SubnetInfoRuntimeApi<Block> for Runtime {
        fn get_metagraph(netuid: u16) -> Option<apis::Metagraph> { apis::metagraph(netuid) }
        fn get_subnet_hyperparams_v3(netuid: u16) -> Option<Vec<apis::HyperparamEntry>> {
            apis::hyperparameters(netuid)
        }
        fn get_next_epoch_start_block(netuid: u16) -> Option<u64> { apis::next_epoch(netuid) }
    }
    impl frame_system_rpc_runtime_api::AccountNonceApi<Block, AccountId, u32> for Runtime {
        fn account_nonce(account: AccountId) -> u32 { System::account_nonce(account) }
    }
}
