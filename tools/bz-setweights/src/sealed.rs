//! Commit and reveal: what is committed to lies in `$BZ_HOME/sealed` before the commit is sent, and until it was revealed, so
//! that a kill between the two loses nothing. The file's name is the commitment.

use crate::Args;
use chain::{
    Chain, Signer,
    weights::{Rules, Sealed},
};
use record::{Context, Hash, Hotkey, Report, Uid, cli::note, files};
use std::{path::PathBuf, time::Duration};

/// Sixteen-bit numbers of salt, as the Python SDK has them.
const SALT: usize = 8;

/// A transaction is good for 64 blocks; so much later it will not come any more.
const ON_ITS_WAY: Duration = Duration::from_secs(3600);

fn folder(args: &Args) -> PathBuf {
    args.common.home().0.join("sealed")
}

fn salt() -> Result<Vec<u16>, Report> {
    let mut bytes = [0u8; 2 * SALT];
    getrandom::fill(&mut bytes).again("cannot draw a salt")?;
    Ok(bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

/// Commit to weights; the extrinsic's hash, and when they will be revealed.
pub(crate) fn commit(
    args: &Args,
    chain: &Chain,
    uids: &[Uid],
    values: &[u16],
    rules: &Rules,
) -> Result<(Option<Hash>, Option<String>), Report> {
    let signer = args.wallet.open()?;
    let sign = |message: &[u8]| signer.sign(message);
    let by = Signer { account: signer.hotkey(), sign: &sign };
    let sealed = Sealed {
        uids: uids.iter().map(|uid| uid.0).collect(),
        values: values.to_vec(),
        salt: salt()?,
        version_key: args.version_key.unwrap_or(rules.version_key),
    };
    let hash = sealed.hash(by.account, chain.netuid);
    let path = folder(args).join(format!("{hash}.json"));
    files::write_private_json(&path, &sealed)?;
    let tx = chain.commit_weights(hash, &by)?;
    let kept = chain.weight_rules(by.account)?.pending;
    let pending = kept.into_iter().find(|p| p.hash == hash).ok_or_else(|| {
        Report::again("the chain does not keep the commit").hint("look at it before this is run again: bz-chain doctor")
    })?;
    Ok((Some(tx), Some(format!("committed; to be revealed in blocks {} to {}", pending.first, pending.last))))
}

/// Reveal what is due, and forget what can be revealed no more.
pub(crate) fn reveal_due(args: &Args, chain: &Chain, rules: &Rules) -> Result<(), Report> {
    let hotkey: Hotkey = args.wallet.public()?;
    for entry in std::fs::read_dir(folder(args)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(sealed) = files::read_json::<Sealed>(&path) else { continue };
        let hash = sealed.hash(hotkey, chain.netuid);
        // Of another wallet or subnet that shares the folder.
        if path.file_stem().and_then(|name| name.to_str()) != Some(&hash.to_string()) {
            continue;
        }
        let forget = || std::fs::remove_file(&path).again(format!("cannot remove {}", path.display()));
        match rules.pending.iter().find(|p| p.hash == hash) {
            Some(pending) if rules.block < pending.first => {}
            Some(pending) if rules.block <= pending.last => {
                let signer = args.wallet.open()?;
                let sign = |message: &[u8]| signer.sign(message);
                let tx = chain.reveal_weights(&sealed, &Signer { account: hotkey, sign: &sign })?;
                note("bz-setweights", format!("revealed the weights of block {} ({tx})", pending.block));
                forget()?;
            }
            Some(pending) => {
                note("bz-setweights", format!("the weights of block {} were not revealed in time", pending.block));
                forget()?;
            }
            // Revealed already, or a commit that did not reach the chain; one that is on its way still may.
            None => {
                let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
                if age.is_some_and(|age| age > ON_ITS_WAY) {
                    forget()?;
                }
            }
        }
    }
    Ok(())
}
