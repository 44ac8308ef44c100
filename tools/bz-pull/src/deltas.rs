//! Deltas: of every peer that committed in time, once, at the deadline.

use crate::{Context, Failed};
use record::{
    Report, Stream, files,
    records::{Commit, Delta, Peer, Pull, Status},
    stream::Inputs,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use store::{Bucket, Fault, Fetched};
use wire::{Layout, delta};

/// Buckets keep whole seconds.
const CLOCK_SLACK_MS: i64 = 1000;

/// `bz-pull --deltas`.
pub(crate) fn pull(context: &Context<'_>, inputs: &Inputs, stream: &mut Stream<'_>) -> Result<(), Report> {
    let window = context.window.window;
    let deadline_ms = context.window.deadline_ms.ok_or_else(|| {
        Report::no(format!("the deadline of window {window} is not there: deltas may still come"))
            .hint("bz-window --wait deadline")
    })?;
    let commits = inputs.latest(window, |c: &Commit| (c.window, c.hotkey))?;
    let folder = context.common.home().window(window).join("fetched");
    files::writable_dir(&folder)?;
    let cap = delta::size_cap(&Layout::new(&context.hparams.model), &context.hparams.codec);
    // Half of the time to the state block, so that a slow bucket does not cost the state its time.
    let blocks = context.window.state_block.saturating_sub(context.window.deadline_block);
    let limit = context.blocks(blocks) / 2;
    let mut work = Vec::new();
    let mut fetched: Vec<(Peer, PathBuf)> = Vec::new();
    for peer in context.peers.iter().filter(|peer| !peer.own) {
        let commit = commits.get(&peer.hotkey);
        let status = commit.and_then(|c| c.status).unwrap_or(Status::Missing);
        if status != Status::Ok {
            let why = commit.and_then(|c| c.reason.clone()).unwrap_or_default();
            let unseen = commit.is_some_and(|c| c.unseen);
            stream.emit(&Delta { unseen, ..failed(context, peer, status, format!("its commitment: {why}")) })?;
            continue;
        }
        let path = folder.join(format!("{}.delta.safetensors", peer.hotkey));
        let bucket = context.bucket(peer);
        let key = format!("{}/{window}/{}/delta.safetensors", context.run, peer.hotkey);
        let (to, have) = (path.clone(), path.exists() && !context.force);
        work.push(async move { one(bucket, key, cap, to, have, limit, deadline_ms).await });
        fetched.push((peer.clone(), path));
    }
    let results = context.pool.all(work);
    for ((peer, path), result) in fetched.into_iter().zip(results) {
        match result.unwrap_or_else(|| Err(Failed::Peer(Status::Invalid, "the fetch failed inside".into()))) {
            Ok(Got { url, fetched, wall_s }) => {
                if let Some(url) = url {
                    let (bytes, blake3) = (fetched.bytes, fetched.blake3);
                    stream.emit(&Pull { window, uid: peer.uid, url, bytes, blake3, wall_s })?;
                }
                stream.emit(&Delta {
                    window,
                    uid: peer.uid,
                    hotkey: peer.hotkey,
                    path: Some(path),
                    bytes: fetched.bytes,
                    blake3: Some(fetched.blake3),
                    codec: None,
                    base: None,
                    status: Status::Ok,
                    reason: None,
                    unseen: false,
                })?;
            }
            // Our own disk is no fault of the peer.
            Err(Failed::OwnDisk(why)) => {
                return Err(Report::again(why).hint("the same command goes on where this one ended"));
            }
            Err(Failed::Peer(status, why)) => stream.emit(&failed(context, &peer, status, why))?,
        }
    }
    Ok(())
}

struct Got {
    url: Option<String>,
    fetched: Fetched,
    wall_s: f64,
}

async fn one(
    bucket: Result<Bucket, String>,
    key: String,
    cap: u64,
    path: PathBuf,
    have: bool,
    limit: Duration,
    deadline_ms: u64,
) -> Result<Got, Failed> {
    if have {
        // Fetched in time by an earlier run of this stage.
        let (bytes, blake3) = files::digest(&path).map_err(|e| Failed::OwnDisk(e.error))?;
        return Ok(Got { url: None, fetched: Fetched { bytes, blake3, modified_ms: None }, wall_s: 0.0 });
    }
    let bucket = bucket.map_err(|why| Failed::Peer(Status::Missing, why))?;
    let started = Instant::now();
    // It takes its place only when it was in time: a rerun must not find a late one and call it good.
    let fetched = path.with_extension("fetched");
    match bucket.get_within(&key, cap, &fetched, limit).await {
        Ok(got) => {
            let after = got.modified_ms.map_or(0, |ms| ms.saturating_sub(deadline_ms as i64));
            if after > CLOCK_SLACK_MS {
                let _ = std::fs::remove_file(&fetched);
                return Err(Failed::Peer(Status::Late, format!("uploaded {after} ms after the deadline")));
            }
            std::fs::rename(&fetched, &path)
                .map_err(|e| Failed::OwnDisk(files::io_report("rename", &fetched, &e).error))?;
            let wall_s = (started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
            Ok(Got { url: Some(bucket.address.url(&key)), fetched: got, wall_s })
        }
        Err(Fault::Disk(why)) => Err(Failed::OwnDisk(why)),
        Err(Fault::TooLarge(cap)) => Err(Failed::Peer(Status::Invalid, format!("larger than {cap} bytes"))),
        Err(fault) => Err(Failed::Peer(Status::Missing, fault.to_string())),
    }
}

fn failed(context: &Context<'_>, peer: &Peer, status: Status, reason: String) -> Delta {
    Delta {
        window: context.window.window,
        uid: peer.uid,
        hotkey: peer.hotkey,
        path: None,
        bytes: 0,
        blake3: None,
        codec: None,
        base: None,
        status,
        reason: Some(reason),
        unseen: false,
    }
}
