//! The state of a chain at one block, in a file: what a start goes on from, so that it runs some hundred blocks again
//! and not all.

use crate::blocks::State;
use codec::{Decode, Encode};
use record::{Context, Report, files};
use sp_core::{H256, storage::Storage};
use sp_state_machine::Backend as _;
use std::{io::Write, path::Path};

/// A state in a file is at most so large.
const CAP: u64 = 4 << 30;

/// A state, as it is kept.
#[derive(Encode, Decode)]
pub struct Snapshot {
    /// The block whose state it is, after it.
    pub number: u32,
    /// That block's hash.
    pub hash: H256,
    root: H256,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Snapshot {
    /// Write the state of a block: a reader sees the one before it, or this one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(path: &Path, number: u32, hash: H256, state: &State) -> Result<(), Report> {
        let pairs = state.pairs(Default::default()).data("the state")?;
        let pairs = pairs.collect::<Result<Vec<_>, _>>().data("the state")?;
        let bytes = Snapshot { number, hash, root: *state.root(), pairs }.encode();
        files::write_atomic(path, |file| file.write_all(&bytes))
    }

    /// Read it; `None` where there is none yet.
    ///
    /// # Errors
    /// Exit code 65 when it is not whole.
    pub fn read(path: &Path) -> Result<Option<Self>, Report> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read_capped(path, CAP)?;
        Self::decode(&mut &bytes[..]).map(Some).data(path.display())
    }

    /// The state.
    ///
    /// # Errors
    /// Exit code 65 when it is not the one that was written.
    pub fn state(self) -> Result<sp_io::TestExternalities, Report> {
        let storage = Storage { top: self.pairs.into_iter().collect(), ..Default::default() };
        let ext = sp_io::TestExternalities::new(storage);
        if *ext.backend.root() == self.root {
            Ok(ext)
        } else {
            Err(Report::data("its state is not the one that was kept"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was_and_a_changed_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert!(Snapshot::read(&path).unwrap().is_none());
        let mut ext = sp_io::TestExternalities::new_empty();
        // Values above 32 bytes are kept in another way than those below.
        (0u8..100).for_each(|i| ext.insert(vec![i; 9], vec![i; usize::from(i)]));
        Snapshot::write(&path, 7, H256([7; 32]), &ext.backend).unwrap();
        let read = Snapshot::read(&path).unwrap().unwrap();
        assert_eq!((read.number, read.hash), (7, H256([7; 32])));
        let again = read.state().unwrap();
        assert_eq!(again.backend.root(), ext.backend.root());
        let mut other = Snapshot::read(&path).unwrap().unwrap();
        other.pairs[50].1[3] ^= 1;
        assert!(other.state().is_err());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(Snapshot::read(&path).is_err());
    }
}
