//! The chain's facts on disk, `$BZ_HOME/chain`, as a follower writes them and every other tool of the node reads them.
//!
//! ```text
//! head.json               of which chain and subnet this is, the last finalized block, and when this was written
//! blocks/<n>.jsonl        1,024 finalized blocks from n · 1024 on, a line each: number, hash, time
//! peers/<block>.json      the subnet's neurons at the first block of a window, with their buckets
//! entries/<block>.json    what hotkeys have committed to and vote for, at the blocks of a window where that counts
//! metadata/<spec>.scale   the chain's metadata, as the node gives it
//! lock                    held by the follower
//! sign-<hotkey>.lock      held by the process that signs with a hotkey; its last call is in sign-<hotkey>.json
//! ```
//!
//! What stands there is final and never changes. `head.json` is written last, so that all that it tells of is there. A
//! reader believes no line that is not whole, and asks a node for what it does not find.

use crate::network::ChainArgs;
use record::{Hash, Home, Report, files, records::Peer};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use subxt::metadata::Metadata;

/// Blocks in one file.
pub(crate) const SEGMENT: u64 = 1024;
/// A file of blocks is far below this; so is `head.json`.
const BLOCKS_CAP: u64 = 1 << 20;
/// Peers of a full subnet take some hundred kilobytes.
const PEERS_CAP: u64 = 16 << 20;
/// Metadata takes one or two megabytes.
const METADATA_CAP: u64 = 32 << 20;
/// A head that was written longer ago is not believed: the follower writes one every few seconds.
const FRESH_MS: u64 = 15_000;
/// Times that are remembered for [`Facts::time_ms`].
const TIMES: usize = 4096;

/// What a follower knows at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Version of this form: 1.
    pub(crate) v: u32,
    /// First block of the chain.
    pub(crate) genesis: Hash,
    /// The subnet.
    pub(crate) netuid: u16,
    /// The mechanism.
    pub(crate) mechanism: u8,
    /// Which nodes were asked; see [`ChainArgs::digest`].
    pub(crate) nodes: Hash,
    /// It is a chain of bz-localnet.
    pub(crate) local: bool,
    /// Version of the chain's runtime.
    pub(crate) spec: u32,
    /// The last finalized block.
    pub(crate) number: u64,
    /// Its hash.
    pub(crate) hash: Hash,
    /// Its time.
    pub(crate) time_ms: Option<u64>,
    /// The newest block, final or not.
    pub(crate) best: u64,
    /// This machine's clock when this was written; 0 while the follower catches up.
    pub(crate) written_ms: u64,
}

/// A finalized block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) hash: Hash,
    /// The chain's clock; `None` where the node had forgotten it when it was asked.
    pub(crate) time_ms: Option<u64>,
}

/// The neurons at a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeersAt {
    pub(crate) number: u64,
    pub(crate) hash: Hash,
    pub(crate) peers: Vec<Peer>,
}

/// Where the facts of a node are.
pub fn folder(home: &Home) -> PathBuf {
    home.0.join("chain")
}

pub(crate) fn head_path(folder: &Path) -> PathBuf {
    folder.join("head.json")
}

pub(crate) fn lock_path(folder: &Path) -> PathBuf {
    folder.join("lock")
}

pub(crate) fn blocks_path(folder: &Path, segment: u64) -> PathBuf {
    folder.join("blocks").join(format!("{segment}.jsonl"))
}

pub(crate) fn peers_path(folder: &Path, block: u64) -> PathBuf {
    folder.join("peers").join(format!("{block}.json"))
}

pub(crate) fn metadata_path(folder: &Path, spec: u32) -> PathBuf {
    folder.join("metadata").join(format!("{spec}.scale"))
}

/// The numbers that files of a folder are named by, before an ending.
pub(crate) fn numbered(folder: &Path, ending: &str) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(ending)?.parse().ok()).collect();
    found.sort_unstable();
    found
}

/// This machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The blocks of a file in their order, and how many bytes of it hold them: up to the first line that is not whole, or
/// whose number does not rise.
pub(crate) fn whole_lines(bytes: &[u8]) -> (Vec<Block>, usize) {
    let (mut blocks, mut length): (Vec<Block>, usize) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Ok(block) = serde_json::from_slice::<Block>(line) else { break };
        if line.last() != Some(&b'\n') || blocks.last().is_some_and(|last| last.number >= block.number) {
            break;
        }
        blocks.push(block);
        length += line.len();
    }
    (blocks, length)
}

/// Blocks of one file on disk; none where it is absent.
pub(crate) fn read_blocks(path: &Path) -> Result<(Vec<Block>, usize), Report> {
    if !path.exists() {
        return Ok((Vec::new(), 0));
    }
    Ok(whole_lines(&files::read_capped(path, BLOCKS_CAP)?))
}

/// The facts of one chain and subnet, to be read.
pub(crate) struct Facts {
    folder: PathBuf,
    netuid: u16,
    mechanism: u8,
    nodes: Hash,
    /// Of which chain they are.
    pub(crate) genesis: Hash,
    /// Times of the blocks that were looked up.
    times: RefCell<BTreeMap<Hash, u64>>,
}

impl Facts {
    /// The facts in a node's folder, if they are of this subnet as these nodes tell it.
    ///
    /// # Errors
    /// Exit code 2 when the nodes have no address.
    pub(crate) fn of(args: &ChainArgs, home: &Home) -> Result<Option<Self>, Report> {
        let facts = Facts {
            folder: folder(home),
            netuid: args.netuid,
            mechanism: args.mechanism,
            nodes: args.digest()?,
            genesis: Hash([0; 32]),
            times: RefCell::default(),
        };
        // What cannot be read is asked of a node.
        let head: Option<Head> = files::read_json(&head_path(&facts.folder)).ok();
        let head = head.filter(|head| facts.are(head));
        Ok(head.map(|head| Facts { genesis: head.genesis, ..facts }))
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn are(&self, head: &Head) -> bool {
        head.v == 1 && (head.netuid, head.mechanism, head.nodes) == (self.netuid, self.mechanism, self.nodes)
    }

    /// What the follower says, if one runs and has heard of its node a moment ago.
    pub(crate) fn live(&self) -> Option<Head> {
        if !self.is_held() {
            return None;
        }
        let head: Head = files::read_json(&head_path(&self.folder)).ok()?;
        let fresh = now_ms().abs_diff(head.written_ms) <= FRESH_MS;
        (fresh && self.are(&head) && head.genesis == self.genesis).then_some(head)
    }

    /// Whether a follower holds the lock. It is only tried for, and shared, so that those who look do not see each
    /// other.
    fn is_held(&self) -> bool {
        let Ok(file) = File::open(lock_path(&self.folder)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// A finalized block.
    pub(crate) fn block(&self, number: u64) -> Option<Block> {
        let (blocks, _) = read_blocks(&blocks_path(&self.folder, number / SEGMENT)).ok()?;
        let place = blocks.binary_search_by_key(&number, |block| block.number).ok()?;
        let block = *blocks.get(place)?;
        let mut times = self.times.borrow_mut();
        if let Some(time_ms) = block.time_ms
            && times.len() < TIMES
        {
            times.insert(block.hash, time_ms);
        }
        Some(block)
    }

    /// The time of a block that was looked up before.
    pub(crate) fn time_ms(&self, block: Hash) -> Option<u64> {
        self.times.borrow().get(&block).copied()
    }

    /// The neurons at a block.
    pub(crate) fn peers(&self, number: u64, hash: Hash) -> Option<Vec<Peer>> {
        let path = peers_path(&self.folder, number);
        let at: PeersAt = serde_json::from_slice(&files::read_capped(&path, PEERS_CAP).ok()?).ok()?;
        ((at.number, at.hash) == (number, hash)).then_some(at.peers)
    }

    /// The chain's metadata by the version of its runtime, while somebody keeps it.
    pub(crate) fn metadata(&self) -> Vec<(u32, Metadata)> {
        if self.live().is_none() {
            return Vec::new();
        }
        let read = |spec: u64| {
            let spec = u32::try_from(spec).ok()?;
            let bytes = files::read_capped(&metadata_path(&self.folder, spec), METADATA_CAP).ok()?;
            Some((spec, Metadata::decode_from(&bytes).ok()?))
        };
        numbered(&self.folder.join("metadata"), ".scale").into_iter().filter_map(read).collect()
    }
}
