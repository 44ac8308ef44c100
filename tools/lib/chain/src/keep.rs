//! The writer of the chain's facts: one a folder, under its lock. It may be killed at any moment: what it finds then is
//! cut to its whole lines, and goes on from there.

use crate::{
    claim::{Identity, check, lock},
    facts::{
        Block, Head, PeersAt, SEGMENT, blocks_path, head_path, metadata_path, now_ms, numbered, peers_path, read_blocks,
    },
};
use record::{Code, Context, Hash, Report, cli::warn, files, records::Peer};
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// Blocks of so many windows are kept, or of fourteen days of 12 s, whichever is more.
pub(crate) const WINDOWS: u64 = 64;
/// See [`WINDOWS`].
pub(crate) const BLOCKS: u64 = 14 * 24 * 3600 / 12;
/// Peers are kept of the windows among these blocks, but of no more than so many.
pub(crate) const PEERS: usize = 1000;
/// Metadata of so many versions is kept: that of now, and the one before an upgrade.
const SPECS: usize = 2;

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
            warn(format!("{} is what other nodes told: it is written anew", folder.display()));
            for place in ["blocks", "peers", "entries"] {
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
mod tests;
