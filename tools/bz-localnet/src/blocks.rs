//! The chain itself: blocks built over a native runtime, kept as a log. A start runs again what came after the last
//! state that was kept, some hundred blocks; the log has the last blocks alone.

use crate::{
    drand, faucet,
    history::{History, Made},
    runtime::{self, *},
    snapshot::Snapshot,
    subtensor,
};
use chain::timelock::OwnBeacon;
use codec::{Decode, DecodeLimit, Encode};
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
    collections::{BTreeSet, VecDeque},
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
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
/// A state is kept after so many blocks: a start runs at most these again, and those whose states are in memory.
const KEEP_STATE: usize = 512;
/// The log and the memory have so many last blocks at least, and twice as many at most: a day and a half at a second
/// each.
const KEEP_BLOCKS: usize = 1 << 17;
/// What a folder of another version needs.
const ANEW: &str = "another version made it: remove the folder and start anew";

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
    /// All but the clock's.
    extrinsics: Vec<String>,
    header: String,
}

impl Logged {
    /// Its header, and its extrinsics without the clock's.
    fn read(&self) -> Result<(Header, Vec<Vec<u8>>), Report> {
        let bytes = |text: &String| hex::decode(text).data("a block of the log");
        let header = Header::decode(&mut &bytes(&self.header)?[..]).data("a block of the log")?;
        Ok((header, self.extrinsics.iter().map(bytes).collect::<Result<_, _>>()?))
    }
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
    /// The blocks.
    pub history: History,
    states: VecDeque<State>,
    pool: Vec<Vec<u8>>,
    log: File,
    /// The log's, and that of the last state that was kept.
    paths: (PathBuf, PathBuf),
    /// The block of that state.
    kept: usize,
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

/// The extrinsic that every block begins with.
fn clock(time_ms: u64) -> Vec<u8> {
    UncheckedExtrinsic::new_bare(pallet_timestamp::Call::set { now: time_ms }.into()).encode()
}

fn append_to(path: &Path) -> Result<File, Report> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|e| files::io_report("open", path, &e))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Blocks {
    /// Open the chain of a folder: its blocks are run again from the last state that was kept.
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
        let genesis: Genesis = files::read_json(&path).map_err(|e| e.hint(ANEW))?;
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
        let history = History::new(Made::new(header, Vec::new(), 0));

        let paths = (folder.join("blocks.jsonl"), folder.join("state"));
        let log = append_to(&paths.0)?;
        let (pool, faults) = (Vec::new(), Faults::default());
        let mut blocks = Blocks { ext, history, states, pool, log, paths, kept: 0, beacon, finality: 0, faults };
        blocks.replay()?;
        Ok(blocks)
    }

    fn replay(&mut self) -> Result<(), Report> {
        let (log, state) = self.paths.clone();
        let refused = |e: std::io::Error| files::io_report("read", &log, &e);
        let mut snapshot = Snapshot::read(&state).map_err(|e| e.hint(ANEW))?;
        let mut input = BufReader::new(File::open(&log).map_err(refused)?);
        let (mut whole, mut line) = (0u64, String::new());
        while input.read_line(&mut line).map_err(refused)? > 0 {
            // A kill can cut the last line short: that block was told to nobody.
            if !line.ends_with('\n') {
                break;
            }
            let block = serde_json::from_str::<Logged>(&line).data(log.display()).map_err(|e| e.hint(ANEW))?;
            self.take_logged(block, whole, &mut snapshot).map_err(|e| e.at(log.display()).hint(ANEW))?;
            whole += line.len() as u64;
            line.clear();
        }
        if let Some(snapshot) = snapshot {
            return Err(Report::data(format!("{} is of block {}", state.display(), snapshot.number))
                .hint(format!("{} does not reach it: remove the folder and start anew", log.display())));
        }
        self.log.set_len(whole).map_err(|e| files::io_report("shorten", &log, &e))
    }

    /// Take the next block of the log: as it is up to the state that was kept, and run again behind it.
    fn take_logged(&mut self, block: Logged, at: u64, snapshot: &mut Option<Snapshot>) -> Result<(), Report> {
        let (header, extrinsics) = block.read()?;
        let (number, hash) = (*header.number() as usize, header.hash());
        let newest = self.history.newest();
        // Behind a state that was kept the log begins anywhere, and before it where the chain does.
        let begins =
            *newest.header.number() == 0 && snapshot.as_ref().is_some_and(|kept| number <= kept.number as usize);
        let follows = number == self.last() + 1 && *header.parent_hash() == newest.hash;
        if !begins && !follows {
            return Err(Report::data(format!("block {number} does not follow block {}", self.last())));
        }
        if snapshot.is_none() {
            let found = self.execute(block.time_ms, extrinsics, at)?;
            return if found == hash {
                Ok(())
            } else {
                Err(Report::data(format!("block {number} does not run as it did")))
            };
        }
        let all = std::iter::once(clock(block.time_ms)).chain(extrinsics).collect();
        self.history.push(Made::new(header, all, at));
        if let Some(kept) = snapshot.take_if(|kept| kept.number as usize == number) {
            if kept.hash != hash {
                return Err(Report::data(format!("the state that was kept is of another block {number}")));
            }
            self.ext = kept.state()?;
            self.states = VecDeque::from([self.ext.backend.clone()]);
            self.kept = number;
        }
        Ok(())
    }

    /// The number of the last block.
    pub fn last(&self) -> usize {
        self.history.last()
    }

    /// The number of the last block that no fork takes back.
    pub fn finalized(&self) -> usize {
        self.last().saturating_sub(self.finality)
    }

    /// Take back the last blocks, and make others in their place and one more; what was in them waits for a block
    /// again.
    ///
    /// # Errors
    /// When one of them is final, or the disk refuses.
    pub fn fork(&mut self, depth: usize) -> Result<Forked, Report> {
        let kept = self.last().saturating_sub(depth);
        if depth == 0 || depth > self.last() || kept < self.finalized() || self.state(kept).is_none() {
            let reach = self.last() - self.finalized();
            return Err(Report::no(format!("a fork of {depth} blocks: {reach} are not final"))
                .hint("bz-localnet up --finality 5 leaves the last five open"));
        }
        let dropped = self.history.take_back(kept);
        self.states.truncate(self.states.len() - dropped.len());
        if let (Some(state), Some(first)) = (self.states.back(), dropped.first()) {
            self.ext.backend = state.clone();
            self.log.set_len(first.logged_at).map_err(|e| files::io_report("shorten", &self.paths.0, &e))?;
        }
        // The node makes the clock's and the beacon's anew.
        let again = |bytes: &Vec<u8>| {
            decode(bytes).is_ok_and(|x| x.is_signed() || matches!(x.function, RuntimeCall::Faucet(_)))
        };
        // First other blocks, without them.
        let before = std::mem::take(&mut self.pool);
        for _ in 0..depth {
            self.make()?;
        }
        let back: Vec<Vec<u8>> = dropped.into_iter().flat_map(|block| block.extrinsics).filter(again).collect();
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
        self.history.get(number).map(|block| block.hash)
    }

    /// The number of the block with this hash; the last one for none.
    pub fn find(&self, hash: Option<H256>) -> Option<usize> {
        match hash {
            None => Some(self.last()),
            Some(hash) => self.history.find(hash),
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

    /// The next nonce of an account, behind those that wait for a block.
    pub fn next_nonce(&self, account: &AccountId) -> Option<u32> {
        let bytes = self.call(self.last(), "AccountNonceApi_account_nonce", &account.encode())?;
        let mut next = u32::decode(&mut &bytes[..]).ok()?;
        let of_account = |bytes: &Vec<u8>| match decode(bytes).ok()?.preamble {
            Preamble::Signed(MultiAddress::Id(signer), _, extension) if signer == *account => Some(extension.5.0),
            _ => None,
        };
        let waiting: BTreeSet<u32> = self.pool.iter().filter_map(of_account).collect();
        while waiting.contains(&next) {
            next += 1;
        }
        Some(next)
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
        ext.execute_with(|| Executive::validate_transaction(TransactionSource::External, decoded, hash))
            .map_err(|e| in_words(&e))?;
        self.pool.push(extrinsic);
        Ok(())
    }

    /// Have the root account pay, once for each name, however often this is asked; the block of the payment once that
    /// is final.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn pay(&mut self, name: H256, to: AccountId, rao: u64) -> Result<Option<usize>, String> {
        let (paid, free) = self.ext.execute_with(|| {
            let payer = <Runtime as faucet::Config>::payer();
            (faucet::Paid::<Runtime>::get(name), payer.map_or(0, |payer| Balances::free_balance(&payer)))
        });
        if let Some(block) = paid {
            return Ok(Some(block as usize).filter(|block| *block <= self.finalized()));
        }
        let call = faucet::Call::<Runtime>::pay { name, to, rao };
        let extrinsic = UncheckedExtrinsic::new_bare(call.into()).encode();
        if self.pool.contains(&extrinsic) {
            return Ok(None);
        }
        if free <= rao {
            return Err(format!("the root account has {} TAO left", free / 1_000_000_000));
        }
        if self.pool.len() >= POOL {
            return Err("the pool is full".into());
        }
        self.pool.push(extrinsic);
        Ok(None)
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
        let at = self.log.metadata().map_err(|e| files::io_report("look at", &self.paths.0, &e))?.len();
        self.execute(time_ms, waiting, at)?;
        let made = self.history.newest();
        let extrinsics = made.extrinsics.iter().skip(1).map(hex::encode).collect();
        let logged = Logged { time_ms, extrinsics, header: hex::encode(made.header.encode()) };
        let mut line = serde_json::to_string(&logged).data("a block")?;
        line.push('\n');
        let write = self.log.write_all(line.as_bytes()).and_then(|()| self.log.sync_data());
        write.map_err(|e| files::io_report("write", &self.paths.0, &e))?;
        self.keep_state()?;
        Ok(self.last())
    }

    /// Keep the oldest state in memory, when the one before it lies far behind: no fork reaches below it, and after a
    /// start the states of all blocks behind it are there again. Then leave the oldest blocks.
    fn keep_state(&mut self) -> Result<(), Report> {
        let oldest = (self.last() + 1).saturating_sub(self.states.len());
        if self.states.len() < STATES || oldest < self.kept + KEEP_STATE {
            return Ok(());
        }
        let (Some(state), Some(block)) = (self.states.front(), self.history.get(oldest)) else { return Ok(()) };
        Snapshot::write(&self.paths.1, *block.header.number(), block.hash, state)?;
        self.kept = oldest;
        if self.last() - self.history.oldest() >= 2 * KEEP_BLOCKS { self.leave_blocks() } else { Ok(()) }
    }

    /// Leave the oldest blocks, in memory and in the log.
    fn leave_blocks(&mut self) -> Result<(), Report> {
        let Some(begin) = self.history.leave(KEEP_BLOCKS) else { return Ok(()) };
        let path = &self.paths.0;
        let refused = |e: std::io::Error| files::io_report("shorten", path, &e);
        let mut old = File::open(path).map_err(refused)?;
        old.seek(SeekFrom::Start(begin)).map_err(refused)?;
        files::write_atomic(path, |file| std::io::copy(&mut old, file).map(drop))?;
        self.log = append_to(path)?;
        Ok(())
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
        let number = self.last() as u32 + 1;
        let start = Header::new(number, H256::zero(), H256::zero(), parent, Default::default());
        let mut included = Vec::with_capacity(extrinsics.len() + 1);
        let mut early = Vec::new();
        let header = self.ext.execute_with(|| {
            Executive::initialize_block(&start);
            for bytes in std::iter::once(clock(time_ms)).chain(extrinsics) {
                let Ok(extrinsic) = decode(&bytes) else { continue };
                // One that fails is in, with its error. One that does not apply (a nonce that another has used) is
                // left out and leaves no trace: the block has to run the same without it.
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
        let made = Made::new(header, included, logged_at);
        let hash = made.hash;
        self.history.push(made);
        Ok(hash)
    }
}
