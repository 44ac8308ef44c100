//! Commit and reveal: what is committed to lies in `$BZ_HOME/sealed` before the commit is sent, and until it was revealed, so
//! that a kill between the two loses nothing. The file's name is the commitment.

use crate::{Args, How, Plan};
use chain::{
    Call, Chain, Signer, Subnet,
    calls::payload,
    weights::{Due, Rules, Sealed, TIMELOCK_VERSION},
};
use record::{Context, Hotkey, Report, Uid, cli::note, files};
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

/// The commit to weights, by the way that was asked for, or the best that the chain has.
pub(crate) fn plan(
    args: &Args,
    chain: &Chain,
    hotkey: Hotkey,
    uids: &[Uid],
    values: &[u16],
    version_key: u64,
    rules: &Rules,
) -> Result<Plan, Report> {
    let known = rules.timelock.as_ref().filter(|timelock| timelock.version == TIMELOCK_VERSION);
    let how = args.commit.unwrap_or(if known.is_some() { How::Timelock } else { How::Hash });
    if how == How::Timelock {
        let timelock = known.ok_or_else(|| {
            let has = rules.timelock.as_ref().map_or("none".into(), |t| format!("those of version {}", t.version));
            Report::config(format!("timelocked commits of version {TIMELOCK_VERSION} are not taken here, but {has}"))
                .hint("--commit hash")
        })?;
        let moment = chain
            .moment_of_reveal(rules, timelock)?
            .ok_or_else(|| Report::no("the subnet has no epochs (its tempo is 0): nothing would ever be revealed"))?;
        let content = payload(hotkey, uids, values, version_key).bytes();
        let sealed = timelock.beacon.seal(moment.round, &content)?;
        let call = Call::commit_timelocked(chain.subnet, &sealed, moment.round, TIMELOCK_VERSION);
        return Ok(Plan { call, keep: None, moment: Some(moment) });
    }
    let sealed =
        Sealed { uids: uids.iter().map(|uid| uid.0).collect(), values: values.to_vec(), salt: salt()?, version_key };
    let call = Call::commit_weights(chain.subnet, sealed.hash(hotkey, chain.subnet));
    Ok(Plan { call, keep: Some(sealed), moment: None })
}

/// Put on disk what is about to be committed to.
pub(crate) fn keep(args: &Args, sealed: &Sealed, hotkey: Hotkey, subnet: Subnet) -> Result<(), Report> {
    let path = folder(args).join(format!("{}.json", sealed.hash(hotkey, subnet)));
    files::write_private_json(&path, sealed)
}

/// Reveal what is due, and forget what can be revealed no more.
pub(crate) fn reveal_due(args: &Args, chain: &Chain, rules: &Rules) -> Result<(), Report> {
    let hotkey: Hotkey = args.wallet.public()?;
    for entry in std::fs::read_dir(folder(args)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(sealed) = files::read_json::<Sealed>(&path) else { continue };
        let hash = sealed.hash(hotkey, chain.subnet);
        // Of another wallet or subnet that shares the folder.
        if path.file_stem().and_then(|name| name.to_str()) != Some(&hash.to_string()) {
            continue;
        }
        let forget = || std::fs::remove_file(&path).again(format!("cannot remove {}", path.display()));
        match rules.pending.iter().find(|p| p.hash == hash) {
            Some(pending) if matches!(pending.due, Due::From(_)) => {}
            Some(pending) if pending.due == Due::Now => {
                let signer = args.wallet.open()?;
                let sign = |message: &[u8]| signer.sign(message);
                let call = Call::reveal_weights(chain.subnet, &sealed);
                let sent = chain.submit(&call, &Signer { account: hotkey, sign: &sign })?;
                note(
                    "bz-setweights",
                    format!("revealed the weights of block {} in block {}", pending.block, sent.block),
                );
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
