//! Whose a folder of facts is: of which chain and subnet, told by which nodes, and which process writes it.

use crate::facts::{Head, head_path, lock_path, numbered};
use record::{Hash, Report, files};
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    time::{Duration, Instant},
};

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

/// Take the folder: one process writes it, for as long as the value lives.
///
/// # Errors
/// Exit code 75 when another follower has it.
pub(crate) fn lock(folder: &Path) -> Result<File, Report> {
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
