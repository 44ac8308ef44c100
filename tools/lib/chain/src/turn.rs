//! Signing in turn: a hotkey's commitments, votes, weights and address are signed by several tools, which must not take
//! each other's nonce, nor write over what another has on its way.
//!
//! One process of a node signs with a hotkey at a time, under a lock in `$BZ_HOME/chain`, until its call is final. The
//! next one begins where all that was signed before is final in what its node tells: then what it reads is what it
//! changes, and its nonce is free.

use crate::{
    calls::Call,
    client::Chain,
    facts,
    submit::{Sent, Signer},
};
use record::{Code, Hash, Home, Hotkey, Report, files};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use subxt::utils::AccountId32;

/// Who signs has its lock for three minutes at most, since a call that is not final by then is given up.
const LOCK_WITHIN: Duration = Duration::from_secs(200);
/// What was signed before is final within this time, where the chain goes on.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// How often both are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The last call that was signed in turn, as it is kept beside the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    /// Of which chain.
    genesis: Hash,
    /// The final block that it is in.
    block: u64,
}

/// The right to sign one call with a hotkey.
pub struct Turn<'a> {
    chain: &'a Chain,
    account: Hotkey,
    nonce: u64,
    last: PathBuf,
    _lock: File,
}

impl Chain {
    /// Wait until this process may sign with a hotkey, and until all that was signed with it before is final.
    ///
    /// # Errors
    /// Exit code 75 when another process signs for longer than it may, when something of this hotkey's stays on its way,
    /// or the node does not answer.
    pub fn turn(&self, home: &Home, account: Hotkey) -> Result<Turn<'_>, Report> {
        let folder = facts::folder(home);
        files::create_dir(&folder)?;
        let lock = lock(&folder.join(format!("sign-{account}.lock")), account, LOCK_WITHIN)?;
        let last = folder.join(format!("sign-{account}.json"));
        let nonce = self.settled(account, self.last_block(&last))?;
        Ok(Turn { chain: self, account, nonce, last, _lock: lock })
    }

    /// The block of the last call that was signed in turn on this chain; 0 where none was, or nobody can tell.
    fn last_block(&self, path: &Path) -> u64 {
        let last: Option<Last> = files::read_json(path).ok();
        last.filter(|last| last.genesis == self.genesis).map_or(0, |last| last.block)
    }

    /// The next nonce, once the node has that block as a final one and nothing of this account waits.
    fn settled(&self, account: Hotkey, block: u64) -> Result<u64, Report> {
        let since = Instant::now();
        loop {
            let at = self.wait("the last block", self.api()?.at_current_block())?;
            let of_final = async { at.transactions().account_nonce(&AccountId32(account.0)).await };
            let of_final = self.wait("the account's nonce", of_final)?;
            let next = self.nonce(account)?;
            if next <= of_final && at.block_number() >= block {
                return Ok(of_final);
            }
            if since.elapsed() >= SETTLED_WITHIN {
                let what = if next > of_final {
                    format!("a transaction of {account} is on its way and does not become final")
                } else {
                    format!(
                        "the node is at block {}, and block {block} has the last call of {account}",
                        at.block_number()
                    )
                };
                return Err(Report::again(what)
                    .hint("does the chain go on? bz-window --window now; another node: --network")
                    .hint("the same command looks again before it signs"));
            }
            self.pause(LOOK)?;
        }
    }
}

impl Turn<'_> {
    /// Sign a call, send it, and wait until it is final and has succeeded. Then it is another's turn.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn submit(self, call: &Call, signer: &Signer<'_>) -> Result<Sent, Report> {
        if signer.account != self.account {
            return Err(Report::new(Code::Bug, format!("{} signs in the turn of {}", signer.account, self.account)));
        }
        let sent = self.chain.submit_as(call, signer, Some(self.nonce))?;
        if let Some(block) = sent.block {
            let kept = files::write_json(&self.last, &Last { genesis: self.chain.genesis, block });
            // It is in, whatever can be written down of it.
            if let Err(report) = kept {
                record::cli::warn(report);
            }
        }
        Ok(sent)
    }
}

fn lock(path: &Path, account: Hotkey, within: Duration) -> Result<File, Report> {
    let refused = |what: &str, e: std::io::Error| files::io_report(what, path, &e);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|e| refused("create", e))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < within => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                return Err(Report::again(format!(
                    "another process signs with {account}, and holds {}",
                    path.display()
                ))
                .hint("run this again when it has ended"));
            }
            Err(TryLockError::Error(e)) => return Err(refused("lock", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_signs_with_a_hotkey_and_others_wait() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("sign.lock");
        let (own, moment) = (Hotkey([1; 32]), Duration::from_millis(1));
        let held = lock(&path, own, moment).unwrap();
        let report = lock(&path, own, moment).unwrap_err();
        assert!(report.code == Code::Again && report.error.contains(&own.to_string()), "{report}");
        // It is had as soon as it is free.
        let waits = std::thread::spawn({
            let path = path.clone();
            move || lock(&path, own, Duration::from_secs(60)).map(drop)
        });
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        waits.join().unwrap().unwrap();
        assert_eq!(lock(&root.path().join("none/x.lock"), own, moment).unwrap_err().code, Code::Data);
    }
}
