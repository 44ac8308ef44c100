//! Commit and reveal: what is committed to lies in `$BZ_HOME/sealed` before the commit is sent, and until it was
//! revealed, so that a kill between the two loses nothing. The file's name is the commitment.

use crate::{Args, How, Plan, Refusal, Validator, version_key};
use chain::{
    Call, Chain, Subnet,
    calls::payload,
    weights::{Due, Sealed, TIMELOCK_VERSION, Timelocking},
};
use record::{Context, Hash, Hotkey, Report, Uid, cli::note, files, records::Weights};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Sixteen-bit numbers of salt, as the Python SDK has them.
const SALT: usize = 8;
/// What a node says is no reason to delete the only copy of a salt: a file goes after its own reveal, or when it is so
/// old that no subnet's reveal can be still to come.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a sealed file is called after it was said that its time is over: it stays, and is not spoken of again.
const OVER: &str = "over";

/// What lies on disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The chain's first block.
    genesis: Hash,
    netuid: u16,
    mechanism: u8,
    hotkey: Hotkey,
    sealed: Sealed,
    /// What was asked for.
    record: Weights,
}

pub(crate) fn folder(args: &Args) -> PathBuf {
    args.common.home().0.join("sealed")
}

/// One process at a time commits and reveals for a home: a pipeline, and the cron that reveals.
pub(crate) fn lock(args: &Args) -> Result<std::fs::File, Report> {
    files::create_dir(&folder(args))?;
    files::lock(&folder(args).join("lock"))
}

fn salt() -> Result<Vec<u16>, Report> {
    let mut bytes = [0u8; 2 * SALT];
    getrandom::fill(&mut bytes).again("cannot draw a salt")?;
    Ok(bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

impl Validator<'_> {
    /// The commit to weights, by the way that was asked for, or the best that the chain has. A chain whose timelocked
    /// commits are not known never gets another kind of commit that nobody asked for: who set it up may not reveal by
    /// hash.
    pub(crate) fn plan(&self, uids: &[Uid], values: &[u16], version_key: u64) -> Result<Plan, Report> {
        let timelock = match (self.args.commit, &self.rules.timelock) {
            (Some(How::Hash), _) | (None, Timelocking::No) => None,
            (_, Timelocking::Yes(timelock)) => Some(timelock),
            (Some(How::Timelock), Timelocking::No) => {
                return Err(Report::config("this chain takes no timelocked commits").hint("--commit hash"));
            }
            (_, Timelocking::Unknown(what)) => {
                return Err(
                    Report::config(what).hint("--commit hash commits without a beacon, and reveals by this tool")
                );
            }
        };
        let Some(timelock) = timelock else {
            let uids = uids.iter().map(|uid| uid.0).collect();
            let sealed = Sealed { uids, values: values.to_vec(), salt: salt()?, version_key };
            let call = Call::commit_weights(self.chain.subnet, sealed.hash(self.hotkey, self.chain.subnet));
            return Ok(Plan { call, keep: Some(sealed), moment: None });
        };
        let moment = self
            .chain
            .moment_of_reveal(self.rules.reveal_period, timelock)?
            .ok_or_else(|| Report::no("the subnet has no epochs (its tempo is 0): nothing would ever be revealed"))?;
        let content = payload(self.hotkey, uids, values, version_key).bytes();
        let sealed = timelock.beacon.seal(moment.round, &content)?;
        let call = Call::commit_timelocked(self.chain.subnet, &sealed, moment.round, TIMELOCK_VERSION);
        Ok(Plan { call, keep: None, moment: Some(moment) })
    }
}

/// Put on disk what is about to be committed to.
pub(crate) fn keep(
    args: &Args,
    sealed: &Sealed,
    hotkey: Hotkey,
    chain: &Chain,
    record: &Weights,
) -> Result<(), Report> {
    let path = folder(args).join(format!("{}.json", sealed.hash(hotkey, chain.subnet)));
    let Subnet { netuid, mechanism } = chain.subnet;
    let (sealed, record) = (sealed.clone(), record.clone());
    files::write_private_json(&path, &Kept { genesis: chain.genesis, netuid, mechanism, hotkey, sealed, record })
}

/// All that lies there for this hotkey and subnet of this chain, by commitment.
fn kept(args: &Args, chain: &Chain, hotkey: Hotkey) -> Result<Vec<(Hash, PathBuf, Kept)>, Report> {
    let folder = folder(args);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(files::io_report("read", &folder, &error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| files::io_report("read", &folder, &e))?.path();
        if path.extension().is_none_or(|extension| extension != "json" && extension != OVER) {
            continue;
        }
        match files::read_json::<Kept>(&path) {
            Ok(kept) => {
                let subnet = Subnet { netuid: kept.netuid, mechanism: kept.mechanism };
                if kept.genesis == chain.genesis && subnet == chain.subnet && kept.hotkey == hotkey {
                    all.push((kept.sealed.hash(hotkey, subnet), path, kept));
                }
            }
            Err(report) => note("bz-setweights", format!("what was sealed cannot be read, and is left: {report}")),
        }
    }
    all.sort_by_key(|(hash, ..)| *hash);
    Ok(all)
}

/// Reveal what is due; the block from which on something should have been revealed that was not, and is noticed now.
/// Unless it was all that was asked for, a reveal that fails stops nothing.
pub(crate) fn reveal_due(
    validator: &Validator<'_>,
    mut emit: impl FnMut(&Weights) -> Result<(), Report>,
) -> Result<Option<u64>, Report> {
    let (args, rules) = (validator.args, validator.rules);
    let all = kept(args, validator.chain, validator.hotkey)?;
    for pending in rules.pending.iter().filter(|pending| pending.due != Due::Over) {
        if !all.iter().any(|(hash, ..)| *hash == pending.hash) {
            note(
                "bz-setweights",
                format!(
                    "the weights committed in block {} wait for their reveal, and their salt is not in {}: another \
                     machine of this hotkey has it, or they are lost",
                    pending.block,
                    folder(args).display()
                ),
            );
        }
    }
    let mut lost = None;
    for (hash, path, kept) in all {
        let pending = rules.pending.iter().find(|pending| pending.hash == hash);
        match pending.map(|pending| (pending.due, pending.block)) {
            Some((Due::From(_), _)) => {}
            Some((Due::Now, block)) => match reveal(validator, &kept) {
                Ok((record, refusal)) => {
                    if record.submitted {
                        let at = record.block.map_or_else(String::new, |at| format!(" in block {at}"));
                        note("bz-setweights", format!("revealed the weights of block {block}{at}"));
                        forget(&path)?;
                    }
                    emit(&record)?;
                    if args.reveal {
                        refusal.map_or(Ok(()), Refusal::end)?;
                    }
                }
                Err(report) if args.reveal => return Err(report),
                Err(report) => note("bz-setweights", format!("not revealed: {report}")),
            },
            Some((Due::Over, block)) if path.extension().is_none_or(|extension| extension != OVER) => {
                note("bz-setweights", format!("the weights of block {block} were not revealed in time"));
                lost = Some(block);
                if !args.dry.dry_run {
                    let over = path.with_extension(OVER);
                    std::fs::rename(&path, &over).map_err(|e| files::io_report("rename", &path, &e))?;
                }
            }
            // Said already; or revealed already, or a commit that did not reach the chain, or a node that is behind.
            Some((Due::Over, _)) | None => forget_old(args, &path)?,
        }
    }
    Ok(lost)
}

/// The record of a reveal: sent, or with the reason why not.
fn reveal(validator: &Validator<'_>, kept: &Kept) -> Result<(Weights, Option<Refusal>), Report> {
    let (args, rules) = (validator.args, validator.rules);
    let call = Call::reveal_weights(validator.chain.subnet, &kept.sealed);
    let mut record = kept.record.clone();
    (record.submitted, record.tx, record.block) = (false, None, None);
    let refusal = if !rules.commit_reveal {
        Some(Refusal::for_now("the subnet takes plain weights now: there is nothing to reveal"))
    } else if kept.sealed.version_key < rules.version_key {
        let (theirs, ours) = (rules.version_key, kept.sealed.version_key);
        Some(Refusal {
            reason: format!("they were committed with the version key {ours}, the subnet asks for {theirs} now"),
            // The next ones have the run's own.
            lasting: version_key(args, validator.hparams) < theirs,
        })
    } else {
        let only_self = rules.uid.is_some_and(|own| kept.sealed.uids == [own.0]);
        let first = rules.obstacles(only_self).into_iter().next();
        first.map(|(what, hint)| Refusal::lasting(format!("{what}: {hint}")))
    };
    record.reason = refusal.as_ref().map(|refusal| refusal.reason.clone());
    if args.dry.dry_run {
        (record.call, record.call_bytes) = validator.setter.shown(&call)?;
        record.reason.get_or_insert("dry run".into());
    } else if let Some(refusal) = &refusal {
        note("bz-setweights", format!("not revealed: {}", refusal.reason));
    } else {
        let sent = validator.setter.send(&call)?;
        (record.submitted, record.tx, record.block) = (true, Some(sent.tx), sent.block);
        record.reason = Some("revealed".into());
    }
    Ok((record, refusal))
}

fn forget(path: &Path) -> Result<(), Report> {
    std::fs::remove_file(path).map_err(|e| files::io_report("remove", path, &e))
}

fn forget_old(args: &Args, path: &Path) -> Result<(), Report> {
    if args.dry.dry_run {
        return Ok(());
    }
    let age = std::fs::metadata(path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age > KEPT) { forget(path) } else { Ok(()) }
}
