//! Commitments: looked for until the window's last block is there. What was not seen before it is late: from then on the
//! draw is known, and a bucket's own time stamps prove nothing.

use crate::{Context, Failed};
use record::{
    Hash, Hotkey, Report, Stream, Window, files,
    records::{Commit, Peer, Status},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use store::{Bucket, Fault};
use wire::commit;

/// A commitment file is a few hundred bytes.
const CAP: u64 = 16 << 10;
/// One look at one bucket; a bucket that stalls costs only its own peer.
const LOOK: Duration = Duration::from_secs(5);

/// Why each peer's commitment is not here yet, as its last look found it.
type Reasons = Arc<Mutex<BTreeMap<Hotkey, Failed>>>;

/// `bz-pull --commits`.
pub(crate) fn pull(context: &Context<'_>, stream: &mut Stream<'_>) -> Result<(), Report> {
    let folder = context.common.home().window(context.window.window).join("fetched");
    files::writable_dir(&folder)?;
    let reasons: Reasons = Arc::default();
    let (mut open, mut work) = (BTreeMap::new(), Vec::new());
    let pause = Duration::from_millis(if context.local { 300 } else { 3000 });
    for peer in context.peers.iter().filter(|peer| !peer.own) {
        // Seen before this process was killed and started again, or judged when the window ended.
        if let Some(commit) = kept(&folder, peer, context.window.window) {
            stream.emit(&commit)?;
            continue;
        }
        open.insert(peer.hotkey, peer.clone());
        match context.bucket(peer) {
            Ok(bucket) => {
                let path = folder.join(format!("{}.commit.part", peer.hotkey));
                work.push(look(bucket, peer.clone(), context.run, context.window.window, path, pause, reasons.clone()));
            }
            Err(why) => {
                let status = if peer.bucket.is_none() { Status::Missing } else { Status::Invalid };
                lock(&reasons).insert(peer.hotkey, Failed::Peer(status, why));
            }
        }
    }
    let (chain, end) = (&context.chain, context.window.end_block);
    if chain.best()? < end {
        context.pool.each(
            work,
            || Ok(chain.best()? >= end),
            |mut commit: Commit| {
                // It counts when it was seen, not when a slower one was.
                let now = chain.best()?;
                if now >= end {
                    let late = Failed::Peer(Status::Late, "it came after the window's end".into());
                    lock(&reasons).insert(commit.hotkey, late);
                    return Ok(());
                }
                commit.block = Some(now);
                files::write_json(&kept_path(&folder, commit.hotkey), &commit)?;
                open.remove(&commit.hotkey);
                stream.emit(&commit)
            },
        )?;
    }
    for (hotkey, peer) in open {
        let found = lock(&reasons).get(&hotkey).cloned();
        let unseen = found.is_none();
        let (status, why) = match found {
            None => (Status::Late, "it was not looked for before the window's end".into()),
            Some(Failed::Peer(status, why)) => (status, why),
            Some(Failed::OwnDisk(why)) => {
                return Err(Report::again(why).hint("the same command goes on where this one ended"));
            }
        };
        let judged = Commit {
            window: context.window.window,
            run: context.run,
            uid: peer.uid,
            hotkey,
            commitment: Hash([0; 32]),
            signature: String::new(),
            path: None,
            status: Some(status),
            reason: Some(why),
            block: None,
            unseen,
        };
        // A rerun tells the same.
        files::write_json(&kept_path(&folder, hotkey), &judged)?;
        stream.emit(&judged)?;
    }
    Ok(())
}

fn lock(reasons: &Reasons) -> std::sync::MutexGuard<'_, BTreeMap<Hotkey, Failed>> {
    reasons.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kept_path(folder: &Path, hotkey: Hotkey) -> PathBuf {
    folder.join(format!("{hotkey}.commit.json"))
}

fn kept(folder: &Path, peer: &Peer, window: Window) -> Option<Commit> {
    let commit: Commit = files::read_json(&kept_path(folder, peer.hotkey)).ok()?;
    (commit.window == window && commit.hotkey == peer.hotkey).then_some(commit)
}

/// Look at one bucket again and again until its commitment is there and good.
async fn look(
    bucket: Bucket,
    peer: Peer,
    run: Hash,
    window: Window,
    path: PathBuf,
    pause: Duration,
    reasons: Reasons,
) -> Commit {
    loop {
        match one(&bucket, &peer, run, window, &path).await {
            Ok(commit) => return commit,
            Err(why) => drop(lock(&reasons).insert(peer.hotkey, why)),
        }
        store::pause(pause).await;
    }
}

async fn one(bucket: &Bucket, peer: &Peer, run: Hash, window: Window, path: &Path) -> Result<Commit, Failed> {
    let key = format!("{run}/{window}/{}/commit.json", peer.hotkey);
    bucket.get_within(&key, CAP, path, LOOK).await.map_err(|fault| match fault {
        Fault::Disk(why) => Failed::OwnDisk(why),
        Fault::TooLarge(_) => Failed::Peer(Status::Invalid, fault.to_string()),
        _ => Failed::Peer(Status::Missing, fault.to_string()),
    })?;
    let invalid = |why: &str| Failed::Peer(Status::Invalid, why.to_string());
    let commit = files::read_json::<Commit>(path).map_err(|e| match e.code {
        record::Code::Data => invalid("it is no commitment"),
        _ => Failed::OwnDisk(e.error),
    });
    // Only what was checked is kept.
    let _ = std::fs::remove_file(path);
    let mut commit = commit?;
    if commit.run != run || commit.window != window {
        return Err(invalid("it is of another run or window"));
    }
    if commit.hotkey != peer.hotkey || commit.uid != peer.uid {
        return Err(invalid("it belongs to another"));
    }
    let message = commit::commit_message(&commit).map_err(|e| invalid(&e.error))?;
    commit::verify(commit.hotkey, &message, &commit.signature).map_err(|e| invalid(&e.error))?;
    // A path that came from outside is dropped, never opened.
    commit.path = None;
    commit.status = Some(Status::Ok);
    commit.reason = None;
    commit.block = None;
    commit.unseen = false;
    Ok(commit)
}
