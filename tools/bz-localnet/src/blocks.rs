//! The chain itself: blocks built over a native runtime, kept as a log that is run again at the next start.

use crate::{
    drand,
    runtime::{self, *},
    subtensor,
};
use chain::timelock::OwnBeacon;
use codec::{DecodeLimit, Encode};
use frame_support::storage::{TransactionOutcome, with_transaction_unchecked};
use record::{Context, Report, files};
use serde::{Deserialize, Serialize};
use sp_core::H256;
use sp_runtime::{
    BuildStorage, MultiAddress,
    generic::Preamble,
    traits::Header as _,
    transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// The state of a chain at one block.
pub type State = sp_state_machine::InMemoryBackend<sp_core::Blake2Hasher>;

/// States of so many last blocks are kept, as a pruned node keeps them.
const STATES: usize = 256;
/// Calls within a call. Source: `MAX_EXTRINSIC_DEPTH` of Substrate.
const DEPTH: u32 = 256;
/// Extrinsics that wait for a block.
const POOL: usize = 4096;

/// The first block's facts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Genesis {
    /// The account that has all TAO and is root, 64 hexadecimal digits.
    pub root: String,
    /// When, milliseconds since 1970: makes each network's first block its own.
    pub time_ms: u64,
    /// The secret of its beacon, 64 hexadecimal digits.
    pub beacon: String,
}

#[derive(Serialize, Deserialize)]
struct Logged {
    time_ms: u64,
    extrinsics: Vec<String>,
    hash: String,
}

/// One block that was made.
pub struct Made {
    /// Its header.
    pub header: Header,
    /// Its extrinsics.
    pub extrinsics: Vec<Vec<u8>>,
    /// Where it begins in the log.
    logged_at: u64,
}

/// What goes wrong on purpose.
#[derive(Default)]
pub struct Faults {
    /// No blocks until then.
    pub stalled: Option<Instant>,
    /// So many transactions are refused.
    pub refuse: u64,
}

/// What a fork did.
pub struct Forked {
    /// The last block now.
    pub last: usize,
    /// The calls that were in a block, and waited for one again.
    pub calls: Vec<String>,
}

/// The chain.
pub struct Blocks {
    ext: sp_io::TestExternalities,
    /// All blocks, the first at 0.
    pub made: Vec<Made>,
    states: VecDeque<State>,
    pool: Vec<Vec<u8>>,
    log: File,
    path: PathBuf,
    beacon: OwnBeacon,
    /// A block is final when so many stand on it.
    pub finality: usize,
    /// What goes wrong on purpose.
    pub faults: Faults,
}

/// drand's period is 3 s; on one machine blocks are faster.
const PERIOD_S: u64 = 1;

/// As nodes say it. Source: the texts of `sp_runtime`'s errors.
fn in_words(error: &TransactionValidityError) -> String {
    match error {
        TransactionValidityError::Invalid(InvalidTransaction::Custom(code)) => format!("Custom error: {code}"),
        other => <&'static str>::from(*other).to_string(),
    }
}

/// An extrinsic and nothing behind it, no deeper than a node takes it: a call in a call in a call has no end.
fn decode(bytes: &[u8]) -> Result<UncheckedExtrinsic, codec::Error> {
    UncheckedExtrinsic::decode_all_with_depth_limit(DEPTH, &mut &bytes[..])
}

/// See [`subtensor::Pallet::early`].
fn early(extrinsic: &UncheckedExtrinsic) -> Option<u8> {
    match (&extrinsic.preamble, &extrinsic.function) {
        (Preamble::Signed(MultiAddress::Id(who), ..), RuntimeCall::SubtensorModule(call)) => {
            subtensor::Pallet::<Runtime>::early(who, call)
        }
        _ => None,
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Blocks {
    /// Open the chain of a folder: its blocks are run again from the first.
    ///
    /// # Errors
    /// Exit code 65 when the log is not this chain's.
    pub fn open(folder: &Path, root: &[u8; 32]) -> Result<Self, Report> {
        files::create_dir(folder)?;
        let path = folder.join("genesis.json");
        if !path.exists() {
            let mut secret = [0u8; 32];
            getrandom::fill(&mut secret).again("cannot draw the beacon's secret")?;
            let genesis = Genesis { root: hex::encode(root), time_ms: now_ms(), beacon: hex::encode(secret) };
            files::write_private_json(&path, &genesis)?;
        }
        let genesis: Genesis =
            files::read_json(&path).map_err(|e| e.hint("another version made it: remove the folder and start anew"))?;
        let mut root = [0u8; 32];
        hex::decode_to_slice(&genesis.root, &mut root).data("genesis.json, root")?;
        let root = AccountId::from(root);
        let storage = runtime::RuntimeGenesisConfig {
            balances: pallet_balances::GenesisConfig {
                balances: vec![(root.clone(), 1_000_000_000_000_000)],
                ..Default::default()
            },
            sudo: pallet_sudo::GenesisConfig { key: Some(root) },
            ..Default::default()
        };
        let mut storage = storage.build_storage().data("the first state")?;
        storage.top.insert(b":genesis_time".to_vec(), genesis.time_ms.encode());
        let secret: [u8; 32] = sp_crypto_hashing::blake2_256(genesis.beacon.as_bytes());
        let beacon = OwnBeacon::new(&secret);
        let mut ext = sp_io::TestExternalities::new(storage);
        ext.commit_all().data("the first state")?;
        let header = Header::new(0, H256::zero(), *ext.backend.root(), H256::zero(), Default::default());
        let hash = header.hash();
        let config = drand::BeaconConfiguration {
            public_key: beacon.public().try_into().unwrap_or_default(),
            period: PERIOD_S as u32,
            genesis_time: (genesis.time_ms / 1000) as u32,
            scheme_id: b"bls-unchained-g1-rfc9380".to_vec().try_into().unwrap_or_default(),
            metadata: drand::Metadata { beacon_id: b"localnet".to_vec().try_into().unwrap_or_default() },
            ..Default::default()
        };
        ext.execute_with(|| {
            frame_system::BlockHash::<Runtime>::insert(0u32, hash);
            drand::BeaconConfig::<Runtime>::put(config);
        });
        ext.commit_all().data("the first state")?;
        let states = VecDeque::from([ext.backend.clone()]);
        let made = vec![Made { header, extrinsics: Vec::new(), logged_at: 0 }];

        let path = folder.join("blocks.jsonl");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|e| files::io_report("open", &path, &e))?;
        let (pool, faults) = (Vec::new(), Faults::default());
        let mut blocks = Blocks { ext, made, states, pool, log, path, beacon, finality: 0, faults };
        blocks.replay()?;
        Ok(blocks)
    }

    fn replay(&mut self) -> Result<(), Report> {
        let report = |e: std::io::Error| files::io_report("read", &self.path, &e);
        let mut input = BufReader::new(File::open(&self.path).map_err(report)?);
        let (mut whole, mut line) = (0u64, String::new());
        let mut logged = Vec::new();
        while input.read_line(&mut line).map_err(report)? > 0 {
            // A kill can cut the last line short: that block was told to nobody.
            let Ok(block) = serde_json::from_str::<Logged>(&line) else { break };
            if !line.ends_with('\n') {
                break;
            }
            logged.push((whole, block));
            whole += line.len() as u64;
            line.clear();
        }
        self.log.set_len(whole).map_err(|e| files::io_report("shorten", &self.path, &e))?;
        for (index, (at, block)) in logged.into_iter().enumerate() {
            let extrinsics = block.extrinsics.iter().filter_map(|x| hex::decode(x).ok()).collect();
            let found = hex::encode(self.execute(block.time_ms, extrinsics, at)?);
            if found != block.hash {
                return Err(Report::data(format!(
                    "block {} of {} does not run as it did",
                    index + 1,
                    self.path.display()
                ))
                .hint("another version made it: remove the folder and start anew"));
            }
        }
        Ok(())
    }

    /// The number of the last block.
    pub fn last(&self) -> usize {
        self.made.len() - 1
    }

    /// The number of the last block that no fork takes back.
    pub fn finalized(&self) -> usize {
        self.last().saturating_sub(self.finality)
    }

    /// Take back the last blocks, and make others in their place and one more; what was in them waits for a block again.
    ///
    /// # Errors
    /// When one of them is final, or the disk refuses.
    pub fn fork(&mut self, depth: usize) -> Result<Forked, Report> {
        let kept = self.last().saturating_sub(depth);
        if depth == 0 || kept < self.finalized() || self.state(kept).is_none() {
            let reach = self.last() - self.finalized();
            return Err(Report::no(format!("a fork of {depth} blocks: {reach} are not final"))
                .hint("bz-localnet up --finality 5 leaves the last five open"));
        }
        let dropped = self.made.split_off(kept + 1);
        self.states.truncate(self.states.len() - dropped.len());
        if let (Some(state), Some(first)) = (self.states.back(), dropped.first()) {
            self.ext.backend = state.clone();
            self.log.set_len(first.logged_at).map_err(|e| files::io_report("shorten", &self.path, &e))?;
        }
        let signed = |bytes: &Vec<u8>| decode(bytes).is_ok_and(|extrinsic| extrinsic.is_signed());
        // First other blocks, without them.
        let before = std::mem::take(&mut self.pool);
        for _ in 0..depth {
            self.make()?;
        }
        let back: Vec<Vec<u8>> = dropped.into_iter().flat_map(|block| block.extrinsics).filter(signed).collect();
        let name = |bytes: &Vec<u8>| {
            use frame_support::traits::GetCallMetadata;
            let call = decode(bytes).ok()?.function.get_call_metadata();
            Some(format!("{}.{}", call.pallet_name, call.function_name))
        };
        let calls = back.iter().filter_map(name).collect();
        self.pool = back.into_iter().chain(before).collect();
        Ok(Forked { last: self.make()?, calls })
    }

    /// How many extrinsics wait for a block.
    pub fn waiting(&self) -> usize {
        self.pool.len()
    }

    /// The hash of a block.
    pub fn hash(&self, number: usize) -> Option<H256> {
        self.made.get(number).map(|block| block.header.hash())
    }

    /// The number of the block with this hash; the last one for none.
    pub fn find(&self, hash: Option<H256>) -> Option<usize> {
        match hash {
            None => Some(self.last()),
            // The newest blocks are asked for most.
            Some(hash) => self.made.iter().rposition(|block| block.header.hash() == hash),
        }
    }

    /// The state at a block, while it is kept.
    pub fn state(&self, number: usize) -> Option<&State> {
        let behind = self.last().checked_sub(number)?;
        self.states.len().checked_sub(behind + 1).and_then(|index| self.states.get(index))
    }

    /// Call the runtime API at a block, as far as it only reads: what others take anything in without a limit.
    pub fn call(&self, number: usize, method: &str, data: &[u8]) -> Option<Vec<u8>> {
        const READS: [&str; 5] =
            ["Core_version", "Metadata_", "AccountNonceApi_", "NeuronInfoRuntimeApi_", "SubnetInfoRuntimeApi_"];
        if !READS.iter().any(|reads| method.starts_with(reads)) {
            return None;
        }
        let mut ext = sp_io::TestExternalities::new_empty();
        ext.backend = self.state(number)?.clone();
        ext.execute_with(|| {
            let call = || runtime::api::dispatch(method, data);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).ok().flatten()
        })
    }

    /// Whether an extrinsic waits for a block.
    pub fn waits(&self, extrinsic: &Vec<u8>) -> bool {
        self.pool.contains(extrinsic)
    }

    /// Check an extrinsic and let it wait for the next block.
    ///
    /// # Errors
    /// Why it is refused, as nodes say it.
    pub fn submit(&mut self, extrinsic: Vec<u8>) -> Result<(), String> {
        let decoded = decode(&extrinsic).map_err(|e| format!("Transaction is malformed: {e}"))?;
        if self.pool.len() >= POOL {
            return Err("the pool is full".into());
        }
        if self.pool.contains(&extrinsic) {
            return Ok(());
        }
        if let Some(left) = self.faults.refuse.checked_sub(1) {
            self.faults.refuse = left;
            return Err("Transaction is temporarily banned".into());
        }
        let number = self.last();
        let (Some(hash), Some(state)) = (self.hash(number), self.state(number)) else { return Err("no state".into()) };
        let mut ext = sp_io::TestExternalities::new_empty();
        ext.backend = state.clone();
        ext.execute_with(|| {
            let early = early(&decoded);
            Executive::validate_transaction(TransactionSource::External, decoded, hash)?;
            early.map_or(Ok(()), |code| Err(InvalidTransaction::Custom(code).into()))
        })
        .map_err(|e| in_words(&e))?;
        self.pool.push(extrinsic);
        Ok(())
    }

    /// Make the next block of what waits, and log it; its number.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn make(&mut self) -> Result<usize, Report> {
        let last = self.time_ms();
        let time_ms = now_ms().max(last + 1);
        let mut waiting = self.pulses(time_ms);
        waiting.append(&mut self.pool);
        let at = self.log.metadata().map_err(|e| files::io_report("look at", &self.path, &e))?.len();
        let hash = self.execute(time_ms, waiting, at)?;
        let kept = self.made.last().map(|b| b.extrinsics.iter().skip(1).map(hex::encode).collect());
        let logged = Logged { time_ms, extrinsics: kept.unwrap_or_default(), hash: hex::encode(hash) };
        let mut line = serde_json::to_string(&logged).data("a block")?;
        line.push('\n');
        let write = self.log.write_all(line.as_bytes()).and_then(|()| self.log.sync_data());
        write.map_err(|e| files::io_report("write", &self.path, &e))?;
        Ok(self.last())
    }

    /// Rounds of the beacon that are new by this time: the newest, and those that a commit waits for.
    fn pulses(&mut self, time_ms: u64) -> Vec<Vec<u8>> {
        let beacon = &self.beacon;
        self.ext.execute_with(|| {
            let genesis = u64::from(drand::BeaconConfig::<Runtime>::get().genesis_time);
            let newest = (time_ms / 1000).saturating_sub(genesis) / PERIOD_S + 1;
            let mut rounds = subtensor::Pallet::<Runtime>::awaited();
            rounds.push(newest);
            rounds.retain(|round| *round <= newest && !drand::Pulses::<Runtime>::contains_key(round));
            rounds.sort_unstable();
            rounds.dedup();
            let pulse = |round: u64| {
                let signature = beacon.sign(round);
                let randomness = sp_crypto_hashing::sha2_256(&signature).to_vec();
                Some(drand::Pulse {
                    round,
                    randomness: randomness.try_into().ok()?,
                    signature: signature.try_into().ok()?,
                })
            };
            let pulses: Vec<_> = rounds.into_iter().filter_map(pulse).collect();
            if pulses.is_empty() {
                return Vec::new();
            }
            let payload = drand::PulsesPayload {
                block_number: System::block_number(),
                pulses,
                public: sp_runtime::MultiSigner::Sr25519(sp_core::sr25519::Public::default()),
            };
            let call = drand::Call::write_pulse { pulses_payload: payload, signature: None };
            vec![UncheckedExtrinsic::new_bare(call.into()).encode()]
        })
    }

    fn time_ms(&mut self) -> u64 {
        self.ext.execute_with(pallet_timestamp::Now::<Runtime>::get)
    }

    fn execute(&mut self, time_ms: u64, extrinsics: Vec<Vec<u8>>, logged_at: u64) -> Result<H256, Report> {
        let parent = self.hash(self.last()).unwrap_or_default();
        let start = Header::new(self.made.len() as u32, H256::zero(), H256::zero(), parent, Default::default());
        let clock = UncheckedExtrinsic::new_bare(pallet_timestamp::Call::set { now: time_ms }.into());
        let mut included = Vec::with_capacity(extrinsics.len() + 1);
        let mut early = Vec::new();
        let header = self.ext.execute_with(|| {
            Executive::initialize_block(&start);
            for bytes in std::iter::once(clock.encode()).chain(extrinsics) {
                let Ok(extrinsic) = decode(&bytes) else { continue };
                // One that fails is in, with its error. One that does not apply (a nonce that another has used) is left out
                // and leaves no trace: the block has to run the same without it.
                let applied = with_transaction_unchecked(|| match Executive::apply_extrinsic(extrinsic) {
                    Ok(_) => TransactionOutcome::Commit(Ok(())),
                    Err(error) => TransactionOutcome::Rollback(Err(error)),
                });
                match applied {
                    Ok(()) => included.push(bytes),
                    // One before it is still missing.
                    Err(TransactionValidityError::Invalid(InvalidTransaction::Future)) => early.push(bytes),
                    Err(_) => {}
                }
            }
            Executive::finalize_block()
        });
        self.pool.append(&mut early);
        self.ext.commit_all().data("the next state")?;
        // What this state has no more; those before it have their own copies.
        self.ext.backend.backend_storage_mut().purge();
        self.states.push_back(self.ext.backend.clone());
        if self.states.len() > STATES {
            self.states.pop_front();
        }
        let hash = header.hash();
        self.made.push(Made { header, extrinsics: included, logged_at });
        Ok(hash)
    }
}
