//! What was committed to by timelock, until the chain has opened it. A commit whose round comes too late, or that the
//! chain cannot apply, goes without a word: only the weights that are not there tell of it, and then they are committed
//! again.

use crate::{Args, sealed};
use chain::{
    Chain,
    weights::{Moment, Rules},
};
use record::{Hash, Hotkey, Report, Uid, cli::note, files};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The last commit of a hotkey in a subnet; one file each.
#[derive(Serialize, Deserialize)]
struct Last {
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

impl Last {
    fn path(args: &Args, chain: &Chain, hotkey: Hotkey) -> PathBuf {
        let (netuid, mechanism) = (chain.subnet.netuid, chain.subnet.mechanism);
        sealed::folder(args).join(format!("{netuid}-{mechanism}-{hotkey}.timelocked"))
    }
}

/// Put on disk what is about to be committed to, in place of the last one.
pub(crate) fn keep(
    args: &Args,
    chain: &Chain,
    hotkey: Hotkey,
    moment: Moment,
    (uids, values): (&[Uid], &[u16]),
) -> Result<(), Report> {
    let last = Last {
        genesis: chain.genesis,
        netuid: chain.subnet.netuid,
        mechanism: chain.subnet.mechanism,
        hotkey,
        round: moment.round,
        reveal_block: moment.block,
        weights: uids.iter().map(|uid| uid.0).zip(values.iter().copied()).collect(),
    };
    files::write_private_json(&Last::path(args, chain, hotkey), &last)
}

/// The block from which the chain should have opened the last commit, where it did not.
pub(crate) fn lost(args: &Args, chain: &Chain, rules: &Rules, hotkey: Hotkey) -> Result<Option<u64>, Report> {
    let path = Last::path(args, chain, hotkey);
    if !rules.commit_reveal || !path.exists() {
        return Ok(None);
    }
    let last: Last = match files::read_json(&path) {
        Ok(last) => last,
        Err(report) => {
            note("bz-setweights", format!("whether the last commit was opened is not known: {report}"));
            return Ok(None);
        }
    };
    let waits = rules.timelocked.iter().any(|commit| commit.round == last.round);
    let due = rules.block >= last.reveal_block;
    let (true, false, true, Some(uid)) = (last.genesis == chain.genesis, waits, due, rules.uid) else {
        return Ok(None);
    };
    if chain.weights_of(uid)? == last.weights {
        if !args.dry.dry_run {
            std::fs::remove_file(&path).map_err(|e| files::io_report("remove", &path, &e))?;
        }
        return Ok(None);
    }
    note(
        "bz-setweights",
        format!(
            "the chain did not open what it should have from block {} on, with round {}: it is committed again",
            last.reveal_block, last.round
        ),
    );
    Ok(Some(last.reveal_block))
}
