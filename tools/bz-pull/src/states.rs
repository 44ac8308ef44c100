//! Published states: the window's own, and all that leads to it from the newest state that is here.
//!
//! The validator with the most stake publishes; the r-th next may do so `r · state_grace` blocks later. One whose record is
//! false, or leads nowhere, is passed over as if it had not published. Where nobody does, nobody trains that window, and
//! the next record leads back past it.

use crate::Context;
use record::{
    Hash, Report, Stream, Window, files,
    records::{Accepted, Peer, State},
};
use std::{collections::BTreeMap, path::Path, time::Duration};
use store::Bucket;
use wire::{Layout, commit, delta};

/// Bytes of an entry of a state record's list, at most.
const ENTRY_CAP: u64 = 512;
/// Windows back in which a validator that was away looks for what others published.
const NEWEST_BACK: u64 = 256;
/// Windows that are followed back in one run.
const MOST_BACK: usize = 100_000;

/// Published records, oldest first, that lead from what is here to a state.
type Way = Vec<State>;

/// `bz-pull --state`.
pub(crate) fn pull(context: &Context<'_>, stream: &mut Stream<'_>) -> Result<(), Report> {
    let window = context.window.window;
    if window <= context.hparams.start_window || followed(context, window) {
        return Ok(());
    }
    let publishers = publishers(context);
    if publishers.is_empty() {
        return Err(Report::again("no validator has a permit and a bucket").hint("bz-window shows the peers"));
    }
    let way = loop {
        let block = context.chain.finalized()?;
        if let Some(way) = look(context, &publishers, window, block) {
            break way;
        }
        // A validator whose turn has come does not wait for those behind it.
        let own = publishers.iter().position(|(peer, _)| peer.own);
        if own.is_some_and(|rank| block >= turn(context, window, rank)) {
            return Err(Report::no(format!("nobody before us published the state of window {window}: it is our turn"))
                .hint("bz-score accept | bz-state apply | bz-push publishes it; bz-state carry where there is nothing to apply"));
        }
        if block >= context.window.end_block {
            return Err(missing(context, &publishers));
        }
        context.chain.wait_for(block + 1, |_| {})?;
    };
    way.iter().try_for_each(|record| stream.emit(record))
}

/// `bz-pull --newest`: what a validator that was away has to know before it publishes: the newest state that anybody, itself
/// too, published up to the window.
pub(crate) fn newest(context: &Context<'_>, stream: &mut Stream<'_>) -> Result<(), Report> {
    let window = context.window.window;
    let publishers = publishers(context);
    let oldest = context.hparams.start_window.0.max(window.0.saturating_sub(NEWEST_BACK));
    for back in (oldest + 1..=window.0).rev().map(Window) {
        for (peer, bucket) in &publishers {
            let Ok(record) = record_of(context, peer, bucket, back) else { continue };
            if known(context, back, Some(record.root)) {
                return Ok(());
            }
            match way_to(context, &publishers, record) {
                Ok(way) => return way.iter().try_for_each(|record| stream.emit(record)),
                Err(why) => passed_over(context, peer, &why),
            }
        }
        // Nothing older than what is here can be newer.
        if known(context, back, None) {
            return Ok(());
        }
    }
    Ok(())
}

/// The way to the state of a window as the first publisher in the order of stake, each in its turn, has one that holds.
fn look(context: &Context<'_>, publishers: &[(Peer, Bucket)], window: Window, block: u64) -> Option<Way> {
    for (rank, (peer, bucket)) in publishers.iter().enumerate() {
        if block < turn(context, window, rank) {
            break;
        }
        // What we publish ourselves is not fetched.
        if peer.own {
            continue;
        }
        match record_of(context, peer, bucket, window).and_then(|record| way_to(context, publishers, record)) {
            Ok(way) => return Some(way),
            Err(why) => passed_over(context, peer, &why),
        }
    }
    None
}

fn passed_over(context: &Context<'_>, peer: &Peer, why: &str) {
    context.common.say("bz-pull", format!("uid {}: {why}", peer.uid));
}

/// The records that lead from what is here to `head`, their deltas fetched.
fn way_to(context: &Context<'_>, publishers: &[(Peer, Bucket)], head: State) -> Result<Way, String> {
    let window = head.window;
    let mut way = vec![head];
    while let Some(record) = way.last() {
        let (Some(prev), Some(base)) = (record.prev, record.prev_window) else { break };
        // The first state needs no record: every node makes it from the seed.
        if known(context, base, Some(prev)) || base <= context.hparams.start_window {
            break;
        }
        if way.len() >= MOST_BACK {
            return Err(format!("over {MOST_BACK} windows lie between our state and window {window}"));
        }
        let before = publishers.iter().find_map(|(peer, bucket)| {
            record_of(context, peer, bucket, base).ok().filter(|record| record.root == prev)
        });
        way.push(before.ok_or_else(|| {
            format!("its state of window {window} is made from one of window {base} ({prev}) that no validator has, or that is false")
        })?);
    }
    way.reverse();
    way.iter().try_for_each(|record| fetch_accepted(context, record, publishers))?;
    Ok(way)
}

/// Whether a state is here, of this root where one is asked for.
fn known(context: &Context<'_>, window: Window, root: Option<Hash>) -> bool {
    let path = context.common.home().state(window).join("state.json");
    let here: Option<State> = files::read_json(&path).ok();
    here.is_some_and(|state| state.run == context.run && root.is_none_or(|root| root == state.root))
}

/// Whether the state of a window is here and published: by another, or by us, which our own bucket shows.
fn followed(context: &Context<'_>, window: Window) -> bool {
    let path = context.common.home().state(window).join("state.json");
    let Ok(here) = files::read_json::<State>(&path) else { return false };
    if here.run != context.run {
        return false;
    }
    match context.peers.iter().find(|peer| peer.own && here.by == Some(peer.hotkey)) {
        None => true,
        Some(own) => {
            let published = context.bucket(own).and_then(|bucket| record_of(context, own, &bucket, window));
            published.is_ok_and(|record| record.root == here.root)
        }
    }
}

/// Validators, the most stake first.
fn publishers(context: &Context<'_>) -> Vec<(Peer, Bucket)> {
    let mut peers: Vec<&Peer> = context.peers.iter().filter(|p| p.permit).collect();
    peers.sort_by(|a, b| b.stake.total_cmp(&a.stake).then(a.uid.cmp(&b.uid)));
    peers.into_iter().filter_map(|peer| Some((peer.clone(), context.bucket(peer).ok()?))).collect()
}

/// The block from which the publisher of this rank may publish the state of a window; the first one may at once.
fn turn(context: &Context<'_>, window: Window, rank: usize) -> u64 {
    let clock = &context.hparams.clock;
    let first = window.0.saturating_mul(clock.blocks).saturating_add(clock.state_offset);
    if rank == 0 { 0 } else { first.saturating_add((rank as u64).saturating_mul(clock.state_grace)) }
}

/// A publisher's record of a window, whose signature and form hold. One that was found to be false stays refused.
fn record_of(context: &Context<'_>, peer: &Peer, bucket: &Bucket, window: Window) -> Result<State, String> {
    if context.common.home().refused(window, peer.hotkey).exists() {
        return Err(format!("its state of window {window} was false"));
    }
    let folder = context.common.home().window(context.window.window);
    let path = folder.join(format!("state-{}.fetched", peer.hotkey));
    let key = format!("{}/{window}/state.json", context.run);
    context
        .pool
        .run(bucket.get(&key, 4096 + ENTRY_CAP * context.hparams.data.max_uids, &path))
        .map_err(|e| e.to_string())?;
    let record = files::read_json::<State>(&path).map_err(|e| e.error);
    let _ = std::fs::remove_file(&path);
    let mut record = record?;
    record.path = None;
    if record.window != window || record.run != context.run || record.by != Some(peer.hotkey) {
        return Err("its state record is of another run, window or signer".into());
    }
    let ordered = record.accepted.is_sorted_by(|a, b| a.uid < b.uid);
    let fits = record.accepted.len() as u64 <= context.hparams.data.max_uids;
    if !ordered || !fits || record.prev_window.is_none_or(|base| base >= window) {
        return Err("its state record has a list or a predecessor that cannot be".into());
    }
    commit::verify_state(&record).map_err(|e| e.error)?;
    Ok(record)
}

/// Fetch the deltas that a state was made from: from its publisher's mirror, or else from any other's.
fn fetch_accepted(context: &Context<'_>, record: &State, publishers: &[(Peer, Bucket)]) -> Result<(), String> {
    let Some(base) = record.prev_window else { return Ok(()) };
    let folder = context.common.home().window(base).join("accepted");
    files::create_dir(&folder).map_err(|e| e.error)?;
    let cap = delta::size_cap(&Layout::new(&context.hparams.model), &context.hparams.codec);
    let mut mirrors: Vec<&(Peer, Bucket)> = publishers.iter().collect();
    mirrors.sort_by_key(|(peer, _)| record.by != Some(peer.hotkey));
    let mirrors: Vec<Bucket> = mirrors.into_iter().map(|(_, bucket)| bucket.clone()).collect();
    let wanted: BTreeMap<Hash, &Accepted> = record.accepted.iter().map(|entry| (entry.blake3, entry)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let limit = patience(context);
    let work = wanted
        .keys()
        .map(|hash| {
            let (mirrors, hash) = (mirrors.clone(), *hash);
            let key = format!("{}/deltas/{hash}", context.run);
            let path = folder.join(format!("{hash}.safetensors"));
            async move { one(&mirrors, &key, cap, &path, hash, limit).await }
        })
        .collect();
    for (result, (hash, entry)) in context.pool.all(work).into_iter().zip(&wanted) {
        result.unwrap_or_else(|| Err("the fetch failed inside".into())).map_err(|why| {
            format!("the delta of uid {} ({hash}) that made its state of window {}: {why}", entry.uid, record.window)
        })?;
    }
    Ok(())
}

/// A mirror that stalls is left in time for the next one, and for training.
fn patience(context: &Context<'_>) -> Duration {
    context.blocks(context.hparams.clock.blocks / 8)
}

async fn one(mirrors: &[Bucket], key: &str, cap: u64, path: &Path, hash: Hash, limit: Duration) -> Result<(), String> {
    if path.exists() && files::digest(path).is_ok_and(|(_, found)| found == hash) {
        return Ok(());
    }
    let mut why = String::new();
    for mirror in mirrors {
        why = match mirror.get_within(key, cap, path, limit).await {
            Ok(fetched) if fetched.blake3 == hash => return Ok(()),
            Ok(_) => {
                let _ = std::fs::remove_file(path);
                "its content is not what was accepted".into()
            }
            Err(fault) => fault.to_string(),
        };
    }
    Err(why)
}

/// Why there is no state: nobody published, or the network runs on other hparams than ours.
fn missing(context: &Context<'_>, publishers: &[(Peer, Bucket)]) -> Report {
    for (peer, bucket) in publishers {
        let key = format!("{}/hparams.json", context.run);
        if context.pool.run(bucket.has(&key)) == Ok(false)
            && let Ok(runs) = context.pool.run(bucket.folders(""))
            && !runs.is_empty()
        {
            return Report::config(format!(
                "validator {} publishes run {}, our hparams give run {}",
                peer.uid,
                runs.join(", "),
                context.run
            ))
            .hint(format!("fetch the run's own: {}", bucket.address.url("RUN/hparams.json")));
        }
    }
    Report::no(format!("nobody published a state for window {}", context.window.window))
        .hint("take the next window; a validator that was down goes on from its last state")
}
