//! Commitments: looked for at every block until the window ends. What was not seen by then is late: a bucket's own time
//! stamps prove nothing.

use crate::Context;
use record::{
    Hash, Hotkey, Report, Stream, Window, files,
    records::{Commit, Peer},
};
use std::path::{Path, PathBuf};
use store::Bucket;
use wire::commit;

/// A commitment file is a few hundred bytes.
const CAP: u64 = 16 << 10;

/// `bz-pull --commits`.
pub(crate) fn pull(context: &mut Context<'_>, stream: &mut Stream<'_>) -> Result<(), Report> {
    let folder = context.common.home().window(context.window.window).join("fetched");
    files::create_dir(&folder)?;
    let mut open: Vec<(Peer, String)> = Vec::new();
    for peer in context.peers.iter().filter(|peer| !peer.own) {
        // Seen before this process was killed and started again: seen in time.
        match kept(&folder, peer, context.window.window) {
            Some(commit) => stream.emit(&commit)?,
            None => open.push((peer.clone(), String::new())),
        }
    }
    let mut block = context.chain.finalized()?;
    loop {
        let late = block > context.window.end_block;
        if !late {
            let found = fetch(context, &open, &folder);
            // The fetch took time; what came after the end is late.
            let now = context.chain.finalized()?;
            let mut still = Vec::new();
            for ((peer, _), result) in open.into_iter().zip(found) {
                match result {
                    Ok(mut commit) if now <= context.window.end_block => {
                        commit.block = Some(now);
                        files::write_json(&kept_path(&folder, peer.hotkey), &commit)?;
                        stream.emit(&commit)?;
                    }
                    Ok(_) => still.push((peer, "it came after the window's end".to_string())),
                    Err(why) => still.push((peer, why)),
                }
            }
            open = still;
            block = now;
        }
        // Who has no readable bucket will not have one before the window ends.
        let waiting = open.iter().any(|(peer, _)| context.bucket(peer).is_ok());
        if block >= context.window.end_block || !waiting {
            break;
        }
        context.chain.wait_for(block + 1, |_| {})?;
        block = context.chain.finalized()?;
    }
    for (peer, why) in open {
        let why = if why.is_empty() { "it was not looked for before the window's end".to_string() } else { why };
        let status = match why.as_str() {
            w if w.starts_with("not there") || w.starts_with("it has not said") => "missing",
            w if w.starts_with("it came after") || w.starts_with("it was not looked") => "late",
            _ => "invalid",
        };
        stream.emit(&Commit {
            window: context.window.window,
            run: context.run,
            uid: peer.uid,
            hotkey: peer.hotkey,
            commitment: Hash([0; 32]),
            signature: String::new(),
            path: None,
            status: Some(status.into()),
            reason: Some(why),
            block: None,
        })?;
    }
    Ok(())
}

fn kept_path(folder: &Path, hotkey: Hotkey) -> PathBuf {
    folder.join(format!("{hotkey}.commit.json"))
}

fn kept(folder: &Path, peer: &Peer, window: Window) -> Option<Commit> {
    let commit: Commit = files::read_json(&kept_path(folder, peer.hotkey)).ok()?;
    (commit.window == window && commit.hotkey == peer.hotkey && commit.block.is_some()).then_some(commit)
}

fn fetch(context: &Context<'_>, open: &[(Peer, String)], folder: &Path) -> Vec<Result<Commit, String>> {
    let work = open
        .iter()
        .map(|(peer, _)| {
            let (bucket, peer) = (context.bucket(peer), peer.clone());
            let (run, window) = (context.run, context.window.window);
            let path = folder.join(format!("{}.commit.part", peer.hotkey));
            async move { one(bucket?, &peer, run, window, &path).await }
        })
        .collect();
    let results = context.pool.all(work);
    results.into_iter().map(|r| r.unwrap_or_else(|| Err("the fetch failed inside".into()))).collect()
}

async fn one(bucket: Bucket, peer: &Peer, run: Hash, window: Window, path: &Path) -> Result<Commit, String> {
    let key = format!("{run}/{window}/{}/commit.json", peer.hotkey);
    bucket.get(&key, CAP, path).await.map_err(|e| e.to_string())?;
    let commit = files::read_json::<Commit>(path).map_err(|_| "it is no commitment".to_string());
    // Only what was checked is kept.
    let _ = std::fs::remove_file(path);
    let mut commit = commit?;
    if commit.run != run || commit.window != window {
        return Err("it is of another run or window".into());
    }
    if commit.hotkey != peer.hotkey || commit.uid != peer.uid {
        return Err("it belongs to another".into());
    }
    let message = commit::commit_message(&commit).map_err(|e| e.error)?;
    commit::verify(commit.hotkey, &message, &commit.signature).map_err(|e| e.error)?;
    // A path that came from outside is dropped, never opened.
    commit.path = None;
    commit.status = Some("ok".into());
    commit.reason = None;
    commit.block = None;
    Ok(commit)
}
