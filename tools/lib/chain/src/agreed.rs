//! What several nodes say of one block's state: the hash on which they agree binds none of them to what it tells of it.

use crate::client::Chain;
use record::{Hash, Report};

/// What the nodes say of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told<T> {
    /// All that tell it say the same.
    Same(T),
    /// These two do not.
    Differ(String, String),
}

impl Chain {
    /// Read something of a block's state, of this number and hash, of every node that has the block; those that do not
    /// answer do not count.
    ///
    /// # Errors
    /// As `read` where no node tells it.
    pub(crate) fn told_of<T: PartialEq>(
        &self,
        number: u64,
        block: Hash,
        read: impl Fn() -> Result<T, Report>,
    ) -> Result<Told<T>, Report> {
        if self.link.nodes() < 2 {
            return self.decoded(block, read).map(Told::Same);
        }
        self.node()?;
        let hashes = self.until_stopped(self.link.all_hashes(number))?;
        let (mut first, mut failed) = (None::<(String, T)>, None);
        for place in (0..hashes.len()).filter(|place| hashes.get(*place) == Some(&Some(Some(block)))) {
            let node = self.link.shown(place);
            let told = {
                let _held = self.link.hold_to(place);
                self.decoded(block, &read)
            };
            match (told, &first) {
                (Err(report), _) => failed = Some(report),
                (Ok(value), None) => first = Some((node, value)),
                (Ok(value), Some((other, theirs))) if *theirs != value => {
                    return Ok(Told::Differ(node, other.clone()));
                }
                (Ok(_), Some(_)) => {}
            }
        }
        let nobody = || Report::again(format!("no node tells the state of block {number}"));
        first.map(|(_, value)| Told::Same(value)).ok_or_else(|| failed.unwrap_or_else(nobody))
    }
}
