//! What was committed to by timelock, until the chain has opened it. A commit whose round comes too late, or that the
//! chain cannot apply, goes without a word: only the weights that are not there tell of it, and then they are committed
//! again. With a reveal period of several epochs several commits wait at the same time: each has a file of its own.

use crate::{Args, sealed};
use chain::{
    Chain,
    weights::{Moment, Rules},
};
use record::{Code, Hash, Hotkey, Report, Uid, cli::note, files};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Files that stay for a hotkey and a mechanism of a subnet, the newest: one an epoch waits, and Subtensor's longest
/// reveal period is a hundred epochs.
const MOST: usize = 128;
/// What a file of a commit is called.
const TIMELOCKED: &str = "timelocked";
/// And while it is not known yet whether the commit was sent.
const SENDING: &str = "sending";

/// One commit of a hotkey in a subnet.
#[derive(Serialize, Deserialize)]
struct Commit {
    /// The chain's first block.
    genesis: Hash,
    netuid: u16,
    mechanism: u8,
    hotkey: Hotkey,
    /// The round that opens it.
    round: u64,
    /// The block from which the chain opens it.
    reveal_block: u64,
    /// As the chain has them when it is open.
    weights: Vec<(u16, u16)>,
}

/// A commit, and its file.
type Kept = (PathBuf, Commit);

/// The commits that the chain should have opened by a block, and the others, each in their order; `waiting` are the
/// rounds of those that it still has. One that is due is so however many newer ones wait.
fn due(all: Vec<Kept>, block: u64, waiting: &BTreeSet<u64>) -> (Vec<Kept>, Vec<Kept>) {
    all.into_iter().partition(|(_, commit)| block >= commit.reveal_block && !waiting.contains(&commit.round))
}

fn waiting(rules: &Rules) -> BTreeSet<u64> {
    rules.timelocked.iter().map(|commit| commit.round).collect()
}

/// How the names of all files of a hotkey in a subnet begin.
fn beginning(chain: &Chain, hotkey: Hotkey) -> String {
    format!("{}-{}-{hotkey}", chain.subnet.netuid, chain.subnet.mechanism)
}

/// A commit that is about to be sent.
pub(crate) struct Begun(PathBuf);

/// Put on disk what is about to be committed to, beside what is there. A kill from here on leaves this file, and it
/// counts as sent ever after, since nobody knows: if it was not, the weights are set once more, early in an epoch.
pub(crate) fn begin(
    args: &Args,
    chain: &Chain,
    hotkey: Hotkey,
    moment: Moment,
    (uids, values): (&[Uid], &[u16]),
) -> Result<Begun, Report> {
    let commit = Commit {
        genesis: chain.genesis,
        netuid: chain.subnet.netuid,
        mechanism: chain.subnet.mechanism,
        hotkey,
        round: moment.round,
        reveal_block: moment.block,
        weights: uids.iter().map(|uid| uid.0).zip(values.iter().copied()).collect(),
    };
    let name = format!("{}-{}.{SENDING}", beginning(chain, hotkey), moment.round);
    let path = sealed::folder(args).join(name);
    if path.exists() {
        // Left by a kill: not to be removed with what is sent now.
        settle(&path)?;
    }
    files::write_private_json(&path, &commit)?;
    Ok(Begun(path))
}

fn settle(path: &Path) -> Result<(), Report> {
    std::fs::rename(path, path.with_extension(TIMELOCKED)).map_err(|e| files::io_report("rename", path, &e))
}

fn remove(path: &Path) -> Result<(), Report> {
    std::fs::remove_file(path).map_err(|e| files::io_report("remove", path, &e))
}

impl Begun {
    /// The commit was refused: what is written down of the others stays as it was.
    pub(crate) fn refused(self) {
        said(remove(&self.0));
    }

    /// The commit is in, or may be: it answers for those that should have been opened before. What fails here is only
    /// said: the weights are set, and a file that is not renamed counts all the same.
    pub(crate) fn sent(self, args: &Args, chain: &Chain, rules: &Rules, hotkey: Hotkey) {
        said(settle(&self.0));
        let own = self.0.with_extension(TIMELOCKED);
        let others: Vec<Kept> = match kept(args, chain, hotkey) {
            Ok(all) => all.into_iter().filter(|(path, _)| *path != own).collect(),
            Err(report) => {
                said(Err(report));
                Vec::new()
            }
        };
        let (due, later) = due(others, rules.block, &waiting(rules));
        let too_many = (later.len() + 1).saturating_sub(MOST);
        for (path, _) in due.iter().chain(later.iter().take(too_many)) {
            said(remove(path));
        }
    }
}

fn said(done: Result<(), Report>) {
    if let Err(report) = done {
        note("bz-setweights", format!("what was committed to is not put in order: {report}"));
    }
}

/// All that lies there for this hotkey and subnet of this chain, the oldest first.
fn kept(args: &Args, chain: &Chain, hotkey: Hotkey) -> Result<Vec<Kept>, Report> {
    let folder = sealed::folder(args);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(files::io_report("read", &folder, &error)),
    };
    let beginning = beginning(chain, hotkey);
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| files::io_report("read", &folder, &e))?.path();
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning));
        let kind = path.extension().is_some_and(|extension| extension == TIMELOCKED || extension == SENDING);
        if !ours || !kind {
            continue;
        }
        match files::read_json::<Commit>(&path) {
            Ok(commit) => {
                let of = (commit.genesis, commit.netuid, commit.mechanism, commit.hotkey);
                if of == (chain.genesis, chain.subnet.netuid, chain.subnet.mechanism, hotkey) {
                    all.push((path, commit));
                }
            }
            Err(report) => {
                note("bz-setweights", format!("whether a commit was opened is not known: {report}"));
                // It says nothing, now and later.
                if report.code == Code::Data && !args.dry.dry_run {
                    remove(&path)?;
                }
            }
        }
    }
    all.sort_by_key(|(_, commit)| (commit.reveal_block, commit.round));
    Ok(all)
}

/// The block from which the chain should have opened the newest commit that is due, where it did not. Those before it
/// are gone with it: the chain has no more than the newest weights.
pub(crate) fn lost(args: &Args, chain: &Chain, rules: &Rules, hotkey: Hotkey) -> Result<Option<u64>, Report> {
    let (true, Some(uid)) = (rules.commit_reveal, rules.uid) else { return Ok(None) };
    let (mut due, _) = due(kept(args, chain, hotkey)?, rules.block, &waiting(rules));
    let Some((path, newest)) = due.pop() else { return Ok(None) };
    if !args.dry.dry_run {
        due.iter().try_for_each(|(path, _)| remove(path))?;
    }
    if chain.weights_of(uid)? == newest.weights {
        if !args.dry.dry_run {
            remove(&path)?;
        }
        return Ok(None);
    }
    note(
        "bz-setweights",
        format!(
            "the chain did not open what it should have from block {} on, with round {}: it is committed again",
            newest.reveal_block, newest.round
        ),
    );
    Ok(Some(newest.reveal_block))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a reveal period of two epochs a newer commit waits while an older one is opened, or is not.
    #[test]
    fn a_commit_is_judged_while_newer_ones_wait() {
        let commit = |round: u64, reveal_block: u64| Commit {
            genesis: Hash([1; 32]),
            netuid: 3,
            mechanism: 0,
            hotkey: Hotkey([2; 32]),
            round,
            reveal_block,
            weights: vec![(0, u16::MAX)],
        };
        let all = || (1..=3).map(|n| (PathBuf::new(), commit(n, 60 + 40 * n))).collect::<Vec<_>>();
        let at = |block: u64, waiting: &[u64]| {
            let rounds = |kept: Vec<Kept>| kept.into_iter().map(|(_, commit)| commit.round).collect::<Vec<_>>();
            let (due, later) = due(all(), block, &waiting.iter().copied().collect());
            (rounds(due), rounds(later))
        };
        assert_eq!(at(99, &[1, 2, 3]), (vec![], vec![1, 2, 3]));
        assert_eq!(at(110, &[2, 3]), (vec![1], vec![2, 3]));
        assert_eq!(at(110, &[1, 2, 3]), (vec![], vec![1, 2, 3]), "its round is late");
        assert_eq!(at(150, &[3]), (vec![1, 2], vec![3]), "the newest is the last of them");
    }
}
