//! The entries of a subnet on disk, `$BZ_HOME/chain/entries/<block>.json`, as a follower writes them at the blocks where
//! they count, and every other tool of the node reads them after the nodes have forgotten those blocks.

use crate::{
    commitments::Entry,
    facts::{Facts, numbered},
    keep::{BLOCKS, PEERS, WINDOWS},
};
use record::{Context, Hash, Hotkey, Report, files};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};

/// The folder among the facts.
pub(crate) const FOLDER: &str = "entries";
/// Entries of a full subnet take some hundred kilobytes; of all that there can be, this.
const ENTRIES_CAP: u64 = 64 << 20;
/// A window has two blocks at which they count.
const KEPT: usize = 2 * PEERS;

/// The entries at a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EntriesAt {
    number: u64,
    hash: Hash,
    entries: BTreeMap<Hotkey, Entry>,
}

fn path_of(folder: &Path, block: u64) -> PathBuf {
    folder.join(format!("{block}.json"))
}

impl Facts {
    /// The entries at a block.
    pub(crate) fn entries(&self, number: u64, hash: Hash) -> Option<BTreeMap<Hotkey, Entry>> {
        let path = path_of(&self.folder().join(FOLDER), number);
        let at: EntriesAt = serde_json::from_slice(&files::read_capped(&path, ENTRIES_CAP).ok()?).ok()?;
        ((at.number, at.hash) == (number, hash)).then_some(at.entries)
    }
}

/// The entries of one chain and subnet, to be written by who has the lock of the facts.
#[derive(Debug)]
pub(crate) struct EntriesKeeper {
    folder: PathBuf,
    blocks: BTreeSet<u64>,
}

impl EntriesKeeper {
    /// Take the folder of the facts, whose lock is held.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn begin(facts: &Path) -> Result<Self, Report> {
        let folder = facts.join(FOLDER);
        files::create_dir(&folder)?;
        // What a follower that was killed had begun to write.
        files::sweep(&folder)?;
        let blocks = numbered(&folder, ".json").into_iter().collect();
        Ok(EntriesKeeper { folder, blocks })
    }

    /// Whether those at a block are written down.
    pub(crate) fn has(&self, block: u64) -> bool {
        self.blocks.contains(&block)
    }

    /// Write down those at a block.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn keep(&mut self, number: u64, hash: Hash, entries: BTreeMap<Hotkey, Entry>) -> Result<(), Report> {
        let bytes = serde_json::to_vec(&EntriesAt { number, hash, entries }).data("entries have no JSON form")?;
        files::write_atomic(&path_of(&self.folder, number), |file| file.write_all(&bytes))?;
        self.blocks.insert(number);
        Ok(())
    }

    /// Remove what is older than is kept, where this is the last block and windows have so many.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn prune(&mut self, last: u64, window_blocks: u64) -> Result<(), Report> {
        let kept_from = last.saturating_sub(window_blocks.saturating_mul(WINDOWS).max(BLOCKS));
        let too_many = self.blocks.len().saturating_sub(KEPT);
        let old = self.blocks.iter().enumerate().filter(|(place, block)| *place < too_many || **block < kept_from);
        let old: Vec<u64> = old.map(|(_, block)| *block).collect();
        for block in old {
            let path = path_of(&self.folder, block);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(files::io_report("remove", &path, &e));
                }
                _ => self.blocks.remove(&block),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Window;

    fn entries(hash: u8) -> BTreeMap<Hotkey, Entry> {
        let entry = Entry {
            bucket: Some("https://s3.example.org/m\u{7f}é\"".into()),
            commitment: Some((Window(u64::MAX), Hash([hash; 32]))),
            vote: None,
            last: Some(Hash([3; 32])),
            reason: None,
        };
        let odd = Entry { reason: Some("form 7".into()), ..Entry::default() };
        BTreeMap::from([(Hotkey([1; 32]), entry), (Hotkey([2; 32]), odd)])
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_old_goes() {
        let root = tempfile::tempdir().unwrap();
        let part = root.path().join(FOLDER).join(".part-x");
        let mut keeper = EntriesKeeper::begin(root.path()).unwrap();
        let kept = |keeper: &EntriesKeeper| keeper.blocks.iter().copied().collect::<Vec<_>>();
        keeper.keep(20, Hash([7; 32]), entries(9)).unwrap();
        std::fs::write(&part, "half").unwrap();
        let mut keeper = EntriesKeeper::begin(root.path()).unwrap();
        assert!(keeper.has(20) && !keeper.has(21) && !part.exists());
        let bytes = std::fs::read(root.path().join(FOLDER).join("20.json")).unwrap();
        let read: EntriesAt = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read, EntriesAt { number: 20, hash: Hash([7; 32]), entries: entries(9) });
        // Those of 64 windows or fourteen days stay, whichever is more.
        let far = BLOCKS + 20;
        keeper.keep(far, Hash([7; 32]), BTreeMap::new()).unwrap();
        keeper.prune(far, 24).unwrap();
        assert_eq!(kept(&keeper), [20, far]);
        keeper.prune(far + 1, BLOCKS).unwrap();
        assert_eq!(kept(&keeper), [20, far], "windows that long");
        keeper.prune(far + 1, 24).unwrap();
        assert_eq!(kept(&keeper), [far]);
        assert!(!root.path().join(FOLDER).join("20.json").exists());
        // And no more than so many.
        keeper.blocks.extend((0..KEPT as u64 + 2).map(|block| far + 1 + block));
        keeper.prune(far + 1, 24).unwrap();
        assert_eq!((keeper.blocks.len(), kept(&keeper)[0]), (KEPT, far + 3));
    }
}
