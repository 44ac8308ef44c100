//! The writer of the chain's facts: one a folder, under its lock. It may be killed at any moment: what it finds then is
//! cut to its whole lines, and goes on from there.

use crate::facts::{
    Block, Head, PeersAt, SEGMENT, blocks_path, head_path, lock_path, metadata_path, now_ms, numbered, peers_path,
    read_blocks,
};
use record::{Code, Context, Hash, Report, cli::note, files, records::Peer};
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Blocks of so many windows are kept, or of fourteen days of 12 s, whichever is more.
const WINDOWS: u64 = 64;
/// See [`WINDOWS`].
const BLOCKS: u64 = 14 * 24 * 3600 / 12;
/// Peers are kept of the windows among these blocks, but of no more than so many.
const PEERS: usize = 1000;
/// Metadata of so many versions is kept: that of now, and the one before an upgrade.
const SPECS: usize = 2;
/// Those who look whether a follower runs hold the lock for a moment.
const LOCK_WITHIN: Duration = Duration::from_secs(2);

/// Of which chain and subnet facts are, and who tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) genesis: Hash,
    pub(crate) netuid: u16,
    pub(crate) mechanism: u8,
    pub(crate) nodes: Hash,
    pub(crate) local: bool,
}

/// What changes from one head to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) spec: u32,
    pub(crate) last: Block,
    pub(crate) best: u64,
}

/// The facts of one chain and subnet, to be written.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    identity: Identity,
    last: Option<Block>,
    segments: BTreeSet<u64>,
    peers: BTreeSet<u64>,
    /// The file of the last block, cut to its whole lines.
    open: Option<(u64, File)>,
    _lock: File,
}

/// The head of a folder, checked to be of this chain; `None` where there is none. Other nodes of the same chain may
/// have told it.
///
/// # Errors
/// Exit code 78 when the folder is of another chain or subnet.
pub(crate) fn check(folder: &Path, identity: &Identity) -> Result<Option<Head>, Report> {
    let path = head_path(folder);
    if !path.exists() {
        return match numbered(&folder.join("blocks"), ".jsonl").is_empty() {
            true => Ok(None),
            false => Err(Report::config(format!("{} has blocks and no head.json", folder.display()))
                .hint("remove the folder: it is written anew")),
        };
    }
    let head: Head = files::read_json(&path)?;
    let of =
        |genesis: Hash, netuid: u16, mechanism: u8| format!("chain {genesis}, subnet {netuid}, mechanism {mechanism}");
    let kept = of(head.genesis, head.netuid, head.mechanism);
    let asked = of(identity.genesis, identity.netuid, identity.mechanism);
    if head.v != 1 || kept != asked {
        return Err(Report::config(format!("{} is of {kept}, not of {asked}", folder.display()))
            .hint("every chain and subnet has a folder of its own: --home or BZ_HOME")
            .hint("where this one is not needed any more, remove it: it is written anew"));
    }
    Ok(Some(head))
}

impl Keeper {
    /// Take the folder.
    ///
    /// # Errors
    /// Exit code 75 when another follower has it, 78 when it is of another chain or subnet.
    pub(crate) fn begin(folder: &Path, identity: Identity) -> Result<Self, Report> {
        files::create_dir(folder)?;
        let lock = lock(folder)?;
        let mut head = check(folder, &identity)?;
        if head.as_ref().is_some_and(|head| head.nodes != identity.nodes) {
            // Other nodes agreed on those. The head goes on naming these nodes until all of it is gone.
            note("chain", format!("{} is what other nodes told: it is written anew", folder.display()));
            for place in ["blocks", "peers"] {
                drop_folder(&folder.join(place))?;
            }
            head = None;
        }
        let [blocks, peers, metadata] = ["blocks", "peers", "metadata"].map(|name| folder.join(name));
        for place in [folder, blocks.as_path(), peers.as_path(), metadata.as_path()] {
            files::create_dir(place)?;
            remove_parts(place)?;
        }
        let mut keeper = Keeper {
            folder: folder.into(),
            identity,
            last: None,
            segments: numbered(&blocks, ".jsonl").into_iter().collect(),
            peers: numbered(&peers, ".json").into_iter().collect(),
            open: None,
            _lock: lock,
        };
        // Before anything else is there: it says of which chain it is.
        let none = Block { number: 0, hash: identity.genesis, time_ms: None };
        let now = head.map_or(Now { spec: 0, last: none, best: 0 }, |head| Now {
            spec: head.spec,
            last: Block { number: head.number, hash: head.hash, time_ms: head.time_ms },
            best: head.best,
        });
        keeper.write_head(now, 0)?;
        while let Some(segment) = keeper.segments.last().copied() {
            let path = blocks_path(folder, segment);
            let (blocks, _) = read_blocks(&path)?;
            if let Some(last) = blocks.last() {
                keeper.last = Some(*last);
                keeper.opened(segment)?;
                break;
            }
            // Nothing whole is in it.
            std::fs::remove_file(&path).map_err(|e| files::io_report("remove", &path, &e))?;
            keeper.segments.remove(&segment);
        }
        Ok(keeper)
    }

    /// The last block that is written down.
    pub(crate) fn last(&self) -> Option<Block> {
        self.last
    }

    /// A block that is written down.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(crate) fn block(&self, number: u64) -> Result<Option<Block>, Report> {
        let (blocks, _) = read_blocks(&blocks_path(&self.folder, number / SEGMENT))?;
        Ok(blocks.into_iter().find(|block| block.number == number))
    }

    /// The file that a segment's next block is appended to, without what a write that failed has left there.
    fn opened(&mut self, segment: u64) -> Result<&mut File, Report> {
        let path = blocks_path(&self.folder, segment);
        let refused = |e: std::io::Error| files::io_report("write", &path, &e);
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let (blocks, length) = read_blocks(&path)?;
            let beyond = blocks.iter().filter(|block| self.last.is_none_or(|last| block.number > last.number));
            let line = |block: &Block| serde_json::to_vec(block).map_or(0, |line| line.len() + 1);
            let length = length - beyond.map(line).sum::<usize>().min(length);
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(refused)?;
            file.set_len(length as u64).map_err(refused)?;
            self.segments.insert(segment);
            self.open = Some((segment, file));
        }
        match &mut self.open {
            Some((_, file)) => Ok(file),
            None => Err(Report::new(Code::Bug, format!("{} is not open", path.display()))),
        }
    }

    /// Write down blocks, each with a greater number than the one before.
    ///
    /// # Errors
    /// When the disk refuses; then none of what was not written whole counts.
    pub(crate) fn append(&mut self, blocks: &[Block]) -> Result<(), Report> {
        for some in blocks.chunk_by(|one, next| one.number / SEGMENT == next.number / SEGMENT) {
            let (Some(first), Some(last)) = (some.first(), some.last()) else { continue };
            if self.last.is_some_and(|kept| kept.number >= first.number) {
                return Err(Report::new(Code::Bug, format!("block {} is written down already", first.number)));
            }
            let mut lines = Vec::new();
            for block in some {
                serde_json::to_writer(&mut lines, block).data("a block has no JSON form")?;
                lines.push(b'\n');
            }
            let segment = first.number / SEGMENT;
            let path = blocks_path(&self.folder, segment);
            let file = self.opened(segment)?;
            let written = file.write_all(&lines).and_then(|()| file.sync_data());
            if let Err(error) = written {
                // What is half there is cut off when the file is opened again.
                self.open = None;
                return Err(files::io_report("write", &path, &error));
            }
            self.last = Some(*last);
        }
        Ok(())
    }

    /// Whether the peers at a block are written down.
    pub(crate) fn has_peers(&self, block: u64) -> bool {
        self.peers.contains(&block)
    }

    /// Write down the peers at a block.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn peers(&mut self, number: u64, hash: Hash, peers: Vec<Peer>) -> Result<(), Report> {
        let bytes = serde_json::to_vec(&PeersAt { number, hash, peers }).data("peers have no JSON form")?;
        files::write_atomic(&peers_path(&self.folder, number), |file| file.write_all(&bytes))?;
        self.peers.insert(number);
        Ok(())
    }

    /// Write down metadata, and remove that of old versions.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn metadata(&self, spec: u32, bytes: &[u8]) -> Result<(), Report> {
        files::write_atomic(&metadata_path(&self.folder, spec), |file| file.write_all(bytes))?;
        let mut others = numbered(&self.folder.join("metadata"), ".scale");
        others.retain(|other| *other != u64::from(spec));
        for old in others.iter().rev().skip(SPECS - 1) {
            remove(&self.folder.join("metadata").join(format!("{old}.scale")))?;
        }
        Ok(())
    }

    /// Say how the chain stands: all up to there is written down.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn head(&self, now: Now) -> Result<(), Report> {
        self.write_head(now, now_ms())
    }

    fn write_head(&self, now: Now, written_ms: u64) -> Result<(), Report> {
        let Identity { genesis, netuid, mechanism, nodes, local } = self.identity;
        let Block { number, hash, time_ms } = now.last;
        let Now { spec, best, .. } = now;
        let head =
            Head { v: 1, genesis, netuid, mechanism, nodes, local, spec, number, hash, time_ms, best, written_ms };
        files::write_json(&head_path(&self.folder), &head)
    }

    /// Remove what is older than is kept, where windows have so many blocks.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn prune(&mut self, window_blocks: u64) -> Result<(), Report> {
        let Some(last) = self.last else { return Ok(()) };
        let kept_from = last.number.saturating_sub(window_blocks.saturating_mul(WINDOWS).max(BLOCKS));
        let old: Vec<u64> = self.segments.range(..kept_from / SEGMENT).copied().collect();
        for segment in old {
            remove(&blocks_path(&self.folder, segment))?;
            self.segments.remove(&segment);
        }
        let too_many = self.peers.len().saturating_sub(PEERS);
        let old = self.peers.iter().enumerate().filter(|(place, block)| *place < too_many || **block < kept_from);
        let old: Vec<u64> = old.map(|(_, block)| *block).collect();
        for block in old {
            remove(&peers_path(&self.folder, block))?;
            self.peers.remove(&block);
        }
        Ok(())
    }
}

fn lock(folder: &Path) -> Result<File, Report> {
    let path = lock_path(folder);
    let refused = |what: &str, e: std::io::Error| files::io_report(what, &path, &e);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| refused("create", e))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_WITHIN => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Report::again(format!("another process follows the chain into {}", folder.display()))
                    .hint("one follower is enough for a node: nothing is to be done"));
            }
            Err(TryLockError::Error(e)) => return Err(refused("lock", e)),
        }
    }
}

fn remove(path: &Path) -> Result<(), Report> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(files::io_report("remove", path, &e)),
        _ => Ok(()),
    }
}

fn drop_folder(path: &Path) -> Result<(), Report> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(files::io_report("remove", path, &e)),
        _ => Ok(()),
    }
}

/// What a follower that was killed had begun to write.
fn remove_parts(folder: &Path) -> Result<(), Report> {
    let entries = std::fs::read_dir(folder).map_err(|e| files::io_report("read", folder, &e))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".part-") {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Chain,
        facts::{Facts, folder, whole_lines},
        network::ChainArgs,
    };
    use proptest::prelude::*;
    use record::{Home, Hotkey, Uid};

    fn args() -> ChainArgs {
        ChainArgs { network: vec!["ws://127.0.0.1:9".into()], netuid: 3, mechanism: 0 }
    }

    fn identity() -> Identity {
        let nodes = args().digest().unwrap();
        Identity { genesis: Hash([9; 32]), netuid: 3, mechanism: 0, nodes, local: true }
    }

    fn block(number: u64) -> Block {
        let time_ms = (!number.is_multiple_of(7)).then_some(number * 12_000);
        Block { number, hash: record::Hash::derive("test", &number.to_le_bytes()), time_ms }
    }

    fn blocks(numbers: std::ops::Range<u64>) -> Vec<Block> {
        numbers.map(block).collect()
    }

    fn begin(home: &Home) -> Keeper {
        Keeper::begin(&folder(home), identity()).unwrap()
    }

    fn now(last: u64) -> Now {
        Now { spec: 7, last: block(last), best: last + 2 }
    }

    #[test]
    fn what_is_written_is_read_while_somebody_writes_and_after() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        assert!(Facts::of(&args(), &home).unwrap().is_none(), "nothing is there");
        let mut keeper = begin(&home);
        let facts = Facts::of(&args(), &home).unwrap().unwrap();
        assert!(facts.live().is_none(), "it has not caught up");
        keeper.append(&blocks(1000..1030)).unwrap();
        keeper.head(now(1029)).unwrap();
        let head = facts.live().unwrap();
        assert_eq!((head.number, head.hash, head.best, head.spec, head.local), (1029, block(1029).hash, 1031, 7, true));
        for number in 1000..1030 {
            assert_eq!(facts.block(number), Some(block(number)), "over the border of two files");
            assert_eq!(facts.time_ms(block(number).hash), block(number).time_ms);
        }
        assert_eq!((facts.block(999), facts.block(1030), facts.time_ms(Hash([1; 32]))), (None, None, None));
        drop(keeper);
        assert!(facts.live().is_none(), "nobody writes any more");
        assert_eq!(facts.block(1005), Some(block(1005)), "what is final stays");
        // Other nodes, another subnet, another mechanism: not ours.
        let other = |change: fn(&mut ChainArgs)| {
            let mut other = args();
            change(&mut other);
            Facts::of(&other, &home).unwrap().is_none()
        };
        assert!(other(|args| args.network = vec!["ws://127.0.0.1:10".into()]));
        assert!(other(|args| args.netuid = 4));
        assert!(other(|args| args.mechanism = 1));
    }

    /// Nobody listens at the node's address: what is answered comes from the facts.
    #[test]
    fn with_a_follower_no_node_is_asked() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        assert_eq!(Chain::open(&args(), &home).err().unwrap().code, Code::Again, "it has not caught up");
        keeper.append(&blocks(50..61)).unwrap();
        keeper.peers(50, block(50).hash, Vec::new()).unwrap();
        keeper.head(now(60)).unwrap();
        let chain = Chain::open(&args(), &home).unwrap();
        assert_eq!((chain.genesis, chain.finalized().unwrap(), chain.best().unwrap()), (Hash([9; 32]), 60, 62));
        assert!(chain.is_localnet().unwrap());
        assert_eq!(chain.block_hash(55).unwrap(), Some(block(55).hash));
        assert_eq!(chain.agreed_hash(55).unwrap(), Some(block(55).hash));
        assert_eq!(chain.time_ms(block(55).hash).unwrap(), 55 * 12_000);
        assert!(chain.peers_at(50, block(50).hash, None).unwrap().is_empty());
        assert!(chain.members_at(50, block(50).hash).unwrap().unwrap().is_empty());
        // A block that comes while it is waited for.
        let mut told = Vec::new();
        std::thread::scope(|scope| {
            let keeper = &mut keeper;
            scope.spawn(move || {
                for number in 61..65 {
                    std::thread::sleep(Duration::from_millis(30));
                    keeper.append(&[block(number)]).unwrap();
                    keeper.head(now(number)).unwrap();
                }
            });
            assert_eq!(chain.wait_for(63, |number| told.push(number)).unwrap(), block(63).hash);
        });
        assert_eq!(told, [60, 61, 62, 63]);
        // The follower ends: the node is asked, and is not there. What is final stays.
        drop(keeper);
        assert_eq!(chain.finalized().unwrap_err().code, Code::Again);
        assert_eq!(chain.block_hash(64).unwrap(), Some(block(64).hash));
    }

    #[test]
    fn facts_of_another_chain_do_not_pass_for_a_public_one() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let finney = ChainArgs { network: vec!["finney".into()], ..args() };
        let identity = Identity { nodes: finney.digest().unwrap(), ..identity() };
        let mut keeper = Keeper::begin(&folder(&home), identity).unwrap();
        keeper.append(&blocks(5..6)).unwrap();
        keeper.head(now(5)).unwrap();
        let report = Chain::open(&finney, &home).err().unwrap();
        assert_eq!(report.code, Code::Config);
        for genesis in [identity.genesis, finney.pinned().unwrap().unwrap().1] {
            assert!(report.error.contains(&genesis.to_string()), "{report}");
        }
    }

    #[test]
    fn a_head_of_long_ago_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        keeper.append(&blocks(5..6)).unwrap();
        let facts = Facts::of(&args(), &home).unwrap().unwrap();
        keeper.write_head(now(5), now_ms() - 60_000).unwrap();
        assert!(facts.live().is_none());
        keeper.write_head(now(5), now_ms() + 60_000).unwrap();
        assert!(facts.live().is_none(), "nor one of a clock that was set back");
        keeper.head(now(5)).unwrap();
        assert!(facts.live().is_some());
    }

    #[test]
    fn after_a_kill_it_goes_on_after_the_last_whole_line() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        keeper.append(&blocks(2040..2051)).unwrap();
        drop(keeper);
        let path = blocks_path(&folder(&home), 2);
        let whole = std::fs::read(&path).unwrap();
        let (kept, length) = whole_lines(&whole);
        assert_eq!((kept.len(), length), (3, whole.len()));
        // Cut at every byte of the last line; filled with zeros, as a file system may after a loss of power.
        let line = whole.len() / 3;
        for cut in 1..line {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let facts = Facts::of(&args(), &home).unwrap().unwrap();
            assert_eq!((facts.block(2049), facts.block(2050)), (Some(block(2049)), None));
            let mut keeper = begin(&home);
            assert_eq!(keeper.last(), Some(block(2049)), "cut by {cut}");
            keeper.append(&blocks(2050..2052)).unwrap();
            drop(keeper);
            assert_eq!(std::fs::read(&path).unwrap()[..whole.len()], whole[..]);
            std::fs::write(&path, &whole).unwrap();
        }
        let mut zeros = whole.clone();
        zeros.resize(whole.len() + 4096, 0);
        std::fs::write(&path, &zeros).unwrap();
        drop(begin(&home));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        // A file in which nothing is whole goes; the one before it counts.
        std::fs::write(&path, &whole[..10]).unwrap();
        std::fs::write(folder(&home).join("peers/.part-x"), "half").unwrap();
        let keeper = begin(&home);
        assert_eq!(keeper.last(), Some(block(2047)));
        assert!(!path.exists() && !folder(&home).join("peers/.part-x").exists());
    }

    #[test]
    fn a_write_that_fails_leaves_no_half_line_before_the_next() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        keeper.append(&blocks(1..4)).unwrap();
        // As a full disk leaves it: one line whole that was not counted, one half.
        let path = blocks_path(&folder(&home), 0);
        let mut left = std::fs::read(&path).unwrap();
        left.extend(serde_json::to_vec(&block(4)).unwrap());
        left.extend(b"\n{\"number\":5,\"ha");
        std::fs::write(&path, left).unwrap();
        keeper.open = None;
        keeper.append(&blocks(4..7)).unwrap();
        assert_eq!(read_blocks(&path).unwrap().0, blocks(1..7));
    }

    #[test]
    fn one_follower_a_folder_and_one_chain() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let keeper = begin(&home);
        assert_eq!(Keeper::begin(&folder(&home), identity()).unwrap_err().code, Code::Again);
        drop(keeper);
        let before = std::fs::read(head_path(&folder(&home))).unwrap();
        for other in [
            Identity { genesis: Hash([8; 32]), ..identity() },
            Identity { netuid: 4, ..identity() },
            Identity { mechanism: 1, ..identity() },
        ] {
            let report = Keeper::begin(&folder(&home), other).unwrap_err();
            assert_eq!(report.code, Code::Config);
            assert!(report.error.contains(&identity().genesis.to_string()), "{report}");
            assert!(report.error.contains(&other.genesis.to_string()), "{report}");
        }
        assert_eq!(std::fs::read(head_path(&folder(&home))).unwrap(), before);
        drop(begin(&home));
    }

    #[test]
    fn what_other_nodes_told_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        keeper.append(&blocks(40..50)).unwrap();
        keeper.peers(40, block(40).hash, Vec::new()).unwrap();
        keeper.head(now(49)).unwrap();
        drop(keeper);
        assert_eq!(begin(&home).last(), Some(block(49)), "the same nodes told it");
        let others = Identity { nodes: Hash([1; 32]), ..identity() };
        let keeper = Keeper::begin(&folder(&home), others).unwrap();
        assert!(keeper.last().is_none() && !keeper.has_peers(40));
        assert!(keeper.block(45).unwrap().is_none() && !peers_path(&folder(&home), 40).exists());
        drop(keeper);
        // Nor do they come back with the nodes.
        assert_eq!(begin(&home).last(), None);
    }

    #[test]
    fn what_is_old_goes_and_what_is_within_the_bounds_stays() {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        // A block in each of the first files, peers at some of them, then the last one, far on.
        let last = BLOCKS + 5 * SEGMENT;
        for segment in 0..7 {
            keeper.append(&[block(segment * SEGMENT + 1)]).unwrap();
            keeper.peers(segment * SEGMENT, Hash([1; 32]), Vec::new()).unwrap();
        }
        keeper.append(&[block(last)]).unwrap();
        keeper.prune(24).unwrap();
        let found = |name: &str, ending: &str| numbered(&folder(&home).join(name), ending);
        assert_eq!(found("blocks", ".jsonl"), [5, 6, last / SEGMENT]);
        assert_eq!(found("peers", ".json"), [5 * SEGMENT, 6 * SEGMENT]);
        // Long windows keep more blocks; short ones no more peers than so many.
        keeper.prune(BLOCKS).unwrap();
        assert_eq!(found("blocks", ".jsonl").len(), 3);
        for number in 0..PEERS as u64 + 3 {
            std::fs::write(peers_path(&folder(&home), last + number), "{}").unwrap();
            keeper.peers.insert(last + number);
        }
        keeper.prune(4).unwrap();
        let kept = found("peers", ".json");
        assert_eq!((kept.len(), kept[0], *kept.last().unwrap()), (PEERS, last + 3, last + PEERS as u64 + 2));
        // What a follower that starts again finds is what is left.
        drop(keeper);
        let keeper = begin(&home);
        assert!(keeper.has_peers(last + 3) && !keeper.has_peers(last + 2));
        assert_eq!(keeper.block(5 * SEGMENT + 1).unwrap(), Some(block(5 * SEGMENT + 1)));
        assert_eq!(keeper.block(4 * SEGMENT + 1).unwrap(), None);
        for spec in [5, 6, 7] {
            keeper.metadata(spec, b"x").unwrap();
        }
        assert_eq!(found("metadata", ".scale"), [6, 7]);
        keeper.metadata(7, b"y").unwrap();
        assert_eq!(found("metadata", ".scale"), [6, 7]);
    }

    fn peer() -> impl Strategy<Value = Peer> {
        // Whatever a number's digits are, the same bits come back.
        let share = || (0..=u16::MAX).prop_map(|share| f64::from(share) / 65535.0);
        let stake = any::<u64>().prop_map(|rao| rao as f64 / 1e9);
        let text = prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter);
        let keys = (any::<[u8; 32]>(), prop::option::of(any::<[u8; 32]>()), prop::option::of(text));
        let rest = (any::<u16>(), any::<bool>(), any::<u64>(), any::<u64>());
        ((stake, share(), share(), share()), keys, rest).prop_map(|(numbers, keys, rest)| {
            let (stake, incentive, trust, dividends) = numbers;
            let (hotkey, coldkey, bucket) = (Hotkey(keys.0), keys.1.map(Hotkey), keys.2);
            let (uid, permit, last_update, registered) = rest;
            serde_json::from_value(serde_json::json!({
                "uid": Uid(uid), "hotkey": hotkey, "coldkey": coldkey, "bucket": bucket, "stake": stake,
                "incentive": incentive, "trust": trust, "dividends": dividends, "permit": permit,
                "last_update": last_update, "registered": registered, "self": false,
            }))
            .unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn peers_come_back_to_the_bit(peers in prop::collection::vec(peer(), 0..20), number in any::<u64>()) {
            let root = tempfile::tempdir().unwrap();
            let home = Home(root.path().into());
            let mut keeper = begin(&home);
            keeper.peers(number, block(1).hash, peers.clone()).unwrap();
            let facts = Facts::of(&args(), &home).unwrap().unwrap();
            prop_assert_eq!(facts.peers(number, Hash([0; 32])), None);
            prop_assert_eq!(facts.peers(number, block(1).hash), Some(peers));
        }

        #[test]
        fn blocks_come_back_whatever_their_gaps(steps in prop::collection::vec(1u64..3000, 1..40)) {
            let root = tempfile::tempdir().unwrap();
            let home = Home(root.path().into());
            let mut keeper = begin(&home);
            let numbers = steps.iter().scan(0u64, |number, step| { *number += step; Some(*number) });
            let all: Vec<Block> = numbers.map(block).collect();
            for some in all.chunks(7) {
                keeper.append(some).unwrap();
            }
            let facts = Facts::of(&args(), &home).unwrap().unwrap();
            for block in &all {
                prop_assert_eq!(facts.block(block.number), Some(*block));
                let next = facts.block(block.number + 1);
                prop_assert_eq!(next, all.iter().find(|other| other.number == block.number + 1).copied());
            }
            drop(keeper);
            prop_assert_eq!(begin(&home).last(), all.last().copied());
        }

        #[test]
        fn foreign_bytes_are_no_blocks(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (blocks, length) = whole_lines(&bytes);
            prop_assert!(length <= bytes.len());
            prop_assert!(blocks.windows(2).all(|two| two[0].number < two[1].number));
        }
    }
}
