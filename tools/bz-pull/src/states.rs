//! Published states: the window's own, and all that leads to it from the newest state that is here.
//!
//! The validator with the most stake publishes; the r-th next may do so `r · state_grace` blocks later. One whose record is
//! false, or leads nowhere, is passed over as if it had not published. Where nobody does, nobody trains that window, and
//! the next record leads back past it.

use crate::Context;
use record::{
    Hash, Hotkey, Report, Stream, Window,
    cli::note,
    files,
    records::{Accepted, Peer, State},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::{Bucket, Fault};
use wire::{Layout, commit, delta};

/// Bytes of an entry of a state record's list, at most.
const ENTRY_CAP: u64 = 512;
/// Windows back in which a validator that was away looks for what others published.
const NEWEST_BACK: u64 = 256;
/// Windows that are followed back in one run.
const MOST_BACK: usize = 100_000;
/// One look for one record; a bucket that stalls is not asked again for a while, nor a record that leads nowhere.
const LOOK: Duration = Duration::from_secs(5);
const STALLED_FOR: Duration = Duration::from_secs(10);
const FAILED_FOR: Duration = Duration::from_secs(2);
/// Looks for the newest state that a validator that was away takes before it goes on without.
const LOOKS: usize = 3;
/// Least time for the way to a state.
const WAY: Duration = Duration::from_secs(10);
/// A node that is so many windows behind is a newcomer, who takes the time that it takes.
const NEWCOMER: u64 = 16;

/// See [`Publishers`].
type Disk = Arc<Mutex<Option<String>>>;

/// Note what is wrong where it is our own disk.
fn note_disk(disk: &Disk, why: &str) {
    *disk.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
}

/// Published records, oldest first, that lead from what is here to a state.
type Way = Vec<State>;

/// A validator, and what is known of it.
struct Publisher {
    peer: Peer,
    bucket: Bucket,
}

/// The validators, and who of them, or which of their records, is not worth another look at once.
struct Publishers<'a> {
    context: &'a Context<'a>,
    /// The most stake first.
    all: Vec<Publisher>,
    stalled: RefCell<BTreeMap<Hotkey, Instant>>,
    failed: RefCell<BTreeMap<Hash, Instant>>,
    said: RefCell<BTreeSet<String>>,
    /// What is wrong with our own disk, which is no publisher's fault.
    disk: Disk,
    /// Ask again where a bucket stalls, rather than go on without it.
    patient: bool,
}

/// `bz-pull --state`. With `publish`, a validator whose turn has come does not wait for those behind it.
pub(crate) fn pull(context: &Context<'_>, publish: bool, stream: &mut Stream<'_>) -> Result<(), Report> {
    let window = context.window.window;
    let publishers = Publishers::new(context);
    if window <= context.hparams.start_window || publishers.followed(window) {
        return Ok(());
    }
    publishers.can_keep(window)?;
    let own = publishers.all.iter().position(|p| p.peer.own);
    if publishers.all.len() == usize::from(own.is_some()) && !(publish && own.is_some()) {
        return Err(Report::again("no other validator has a permit and a bucket").hint("bz-window shows the peers"));
    }
    let way = loop {
        let block = context.chain.finalized()?;
        if let Some(way) = publishers.look(window, block) {
            break way;
        }
        publishers.own_disk()?;
        if publish && own.is_some_and(|rank| block >= publishers.turn(window, rank)) {
            return Err(Report::no(format!("nobody before us published the state of window {window}: it is our turn"))
                .hint("bz-score accept | bz-state apply | bz-push publishes it; bz-state carry where there is nothing to apply"));
        }
        if block >= context.window.end_block {
            return Err(publishers.missing());
        }
        context.chain.wait_for(block + 1, |_| {})?;
    };
    way.iter().try_for_each(|record| stream.emit(record))
}

/// `bz-pull --newest`: what a validator that was away has to know before it publishes: the newest state that anybody, itself
/// too, published up to the window.
pub(crate) fn newest(context: &Context<'_>, stream: &mut Stream<'_>) -> Result<(), Report> {
    let window = context.window.window;
    let publishers = Publishers { patient: true, ..Publishers::new(context) };
    let block = context.chain.finalized()?;
    let oldest = context.hparams.start_window.0.max(window.0.saturating_sub(NEWEST_BACK));
    if oldest < window.0 {
        publishers.can_keep(window)?;
    }
    for back in (oldest + 1..=window.0).rev().map(Window) {
        let all: Vec<&Publisher> = publishers.in_turn(back, block).collect();
        let found = publishers.own_records(&all, back);
        publishers.own_disk()?;
        for (publisher, record) in found {
            if publishers.known(back, Some(record.root)) {
                return Ok(());
            }
            match publishers.way_to(record, false) {
                Ok(way) => return way.iter().try_for_each(|record| stream.emit(record)),
                Err(why) => publishers.passed_over(publisher, &why),
            }
        }
        publishers.own_disk()?;
        // Nothing older than what is here can be newer.
        if publishers.known(back, None) {
            return Ok(());
        }
    }
    Ok(())
}

impl<'a> Publishers<'a> {
    fn new(context: &'a Context<'a>) -> Self {
        let mut peers: Vec<&Peer> = context.peers.iter().filter(|p| p.permit).collect();
        peers.sort_by(|a, b| b.stake.total_cmp(&a.stake).then(a.uid.cmp(&b.uid)));
        let with_bucket = |peer: &Peer| Some(Publisher { peer: peer.clone(), bucket: context.bucket(peer).ok()? });
        Publishers {
            context,
            all: peers.into_iter().filter_map(with_bucket).collect(),
            stalled: RefCell::default(),
            failed: RefCell::default(),
            said: RefCell::default(),
            disk: Disk::default(),
            patient: false,
        }
    }

    /// That what is fetched can be kept: what stands against it is known before others are asked.
    fn can_keep(&self, window: Window) -> Result<(), Report> {
        files::writable_dir(&self.context.common.home().window(window).join("fetched"))
    }

    fn own_disk(&self) -> Result<(), Report> {
        match self.disk.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(Report::again(why).hint("the same command goes on where this one ended")),
            None => Ok(()),
        }
    }

    /// The block from which the publisher of this rank may publish the state of a window; the first one may at once.
    fn turn(&self, window: Window, rank: usize) -> u64 {
        let clock = &self.context.hparams.clock;
        let first = window.0.saturating_mul(clock.blocks).saturating_add(clock.state_offset);
        if rank == 0 { 0 } else { first.saturating_add((rank as u64).saturating_mul(clock.state_grace)) }
    }

    fn in_turn(&self, window: Window, block: u64) -> impl Iterator<Item = &Publisher> {
        self.all.iter().enumerate().filter(move |(rank, _)| block >= self.turn(window, *rank)).map(|(_, p)| p)
    }

    /// The way to the state of a window as the first publisher in the order of stake, each in its turn, has one that holds.
    fn look(&self, window: Window, block: u64) -> Option<Way> {
        // What we publish ourselves is not fetched.
        let others: Vec<&Publisher> = self.in_turn(window, block).filter(|p| !p.peer.own).collect();
        for (publisher, record) in self.own_records(&others, window) {
            let Ok(id) = commit::state_id(&record) else { continue };
            if self.failed.borrow().get(&id).is_some_and(|at| at.elapsed() < FAILED_FOR) {
                continue;
            }
            match self.way_to(record, true) {
                Ok(way) => return Some(way),
                Err(why) => {
                    self.failed.borrow_mut().insert(id, Instant::now());
                    self.passed_over(publisher, &why);
                }
            }
        }
        None
    }

    /// Say once why a publisher is passed over; that it has nothing yet is only said when asked for.
    fn passed_over(&self, publisher: &Publisher, why: &str) {
        let text = format!("uid {} is passed over: {why}", publisher.peer.uid);
        if why == Fault::Missing.to_string() {
            self.context.common.say("bz-pull", text);
        } else if !self.context.common.quiet && self.said.borrow_mut().insert(text.clone()) {
            note("bz-pull", text);
        }
    }

    /// Each publisher's record of a window that is signed by itself, in the order of stake.
    fn own_records<'p>(&self, publishers: &[&'p Publisher], window: Window) -> Vec<(&'p Publisher, State)> {
        // Who published what is false is not followed in that window, whatever it says next.
        let refused = self.context.common.home().refusals(window);
        let found = self.records(publishers, window).into_iter().zip(publishers);
        found
            .filter(|(_, publisher)| !refused.contains(&publisher.peer.hotkey))
            .filter_map(|(record, publisher)| match record {
                Ok(record) if record.by == Some(publisher.peer.hotkey) => Some((*publisher, record)),
                Ok(_) => None,
                Err(why) => {
                    self.passed_over(publisher, &why);
                    None
                }
            })
            .collect()
    }

    /// What each bucket has as the record of a window, whoever signed it, all side by side.
    fn records(&self, publishers: &[&Publisher], window: Window) -> Vec<Result<State, String>> {
        let context = self.context;
        let key = format!("{}/{window}/state.json", context.run);
        let cap = 4096 + ENTRY_CAP * context.hparams.data.max_uids;
        let folder = context.common.home().window(context.window.window).join("fetched");
        let fresh = |key: &Hotkey| self.stalled.borrow().get(key).is_none_or(|at| at.elapsed() >= STALLED_FOR);
        let work = publishers
            .iter()
            .map(|publisher| {
                let (bucket, key, disk) = (publisher.bucket.clone(), key.clone(), self.disk.clone());
                let ask = self.patient || fresh(&publisher.peer.hotkey);
                let looks = if self.patient { LOOKS } else { 1 };
                let path = folder.join(format!("{}-{window}.state.json", publisher.peer.hotkey));
                async move {
                    if !ask {
                        return Err(Refusal { why: "it stalled a moment ago".into(), stalled: false });
                    }
                    let mut refusal = Refusal { why: String::new(), stalled: false };
                    for _ in 0..looks {
                        let since = Instant::now();
                        match bucket.get_within(&key, cap, &path, LOOK).await {
                            Ok(_) => {
                                let record = files::read_json::<State>(&path);
                                let _ = std::fs::remove_file(&path);
                                return record.map_err(|e| {
                                    if e.code != record::Code::Data {
                                        note_disk(&disk, &e.error);
                                    }
                                    Refusal { why: e.error, stalled: false }
                                });
                            }
                            Err(fault) => {
                                if let Fault::Disk(why) = &fault {
                                    note_disk(&disk, why);
                                }
                                let why = fault.to_string();
                                refusal = Refusal { why, stalled: since.elapsed() >= LOOK };
                                if fault == Fault::Missing {
                                    break;
                                }
                            }
                        }
                    }
                    Err(refusal)
                }
            })
            .collect();
        let results = context.pool.all(work);
        results
            .into_iter()
            .zip(publishers)
            .map(|(result, publisher)| {
                let result =
                    result.unwrap_or_else(|| Err(Refusal { why: "the fetch failed inside".into(), stalled: false }));
                let record = result.map_err(|refusal| {
                    if refusal.stalled {
                        self.stalled.borrow_mut().insert(publisher.peer.hotkey, Instant::now());
                    }
                    refusal.why
                })?;
                self.check(record, window)
            })
            .collect()
    }

    /// Whether a record can be of this run and window, and is signed. One that was found to be false stays refused.
    fn check(&self, mut record: State, window: Window) -> Result<State, String> {
        let context = self.context;
        record.path = None;
        if record.window != window || record.run != context.run {
            return Err("its state record is of another run or window".into());
        }
        let ordered = record.accepted.is_sorted_by(|a, b| a.uid < b.uid);
        let fits = record.accepted.len() as u64 <= context.hparams.data.max_uids;
        let follows = record.prev_window.is_some_and(|base| base >= context.hparams.start_window && base < window);
        if !ordered || !fits || !follows || record.prev.is_none() {
            return Err("its state record has a list or a predecessor that cannot be".into());
        }
        let by = commit::verify_state(&record).map_err(|e| e.error)?;
        let id = commit::state_id(&record).map_err(|e| e.error)?;
        if context.common.home().refused(window, by, id).exists() {
            return Err(format!("its state of window {window} was false"));
        }
        Ok(record)
    }

    /// The records that lead from what is here to `head`, their deltas fetched; `hurry` where others wait for their turn.
    fn way_to(&self, head: State, hurry: bool) -> Result<Way, String> {
        let context = self.context;
        let window = head.window;
        let newest = context.common.home().states().into_iter().rfind(|w| *w < window && self.known(*w, None));
        let near = newest.is_some_and(|newest| window.0 - newest.0 <= NEWCOMER);
        let time = context.blocks(context.hparams.clock.blocks / 8).max(WAY);
        let until = (hurry && near).then(|| Instant::now() + time);
        let all: Vec<&Publisher> = self.all.iter().collect();
        let mut way = vec![head];
        while let Some(record) = way.last() {
            self.drawn_from_the_chain(record)?;
            let (Some(prev), Some(base)) = (record.prev, record.prev_window) else { break };
            // The first state needs no record: every node makes it from the seed.
            if self.known(base, Some(prev)) || base <= context.hparams.start_window {
                break;
            }
            if way.len() >= MOST_BACK || until.is_some_and(|until| Instant::now() > until) {
                return Err(format!("its state of window {window} has too long a way to ours"));
            }
            // Whoever keeps it: what it says is proved by the root that it leads to.
            way.push(self.record_with(&all, base, prev).ok_or_else(|| {
                format!("its state of window {window} is made from one of window {base} ({prev}) that no validator has, or that is false")
            })?);
        }
        way.reverse();
        way.iter().try_for_each(|record| self.fetch_accepted(record, until))?;
        Ok(way)
    }

    /// A record of a window that leads to this root, of whoever signed it: those of the validators of today first; of
    /// others, where some were false, another one at each run.
    fn record_with(&self, publishers: &[&Publisher], window: Window, root: Hash) -> Option<State> {
        let refused = self.context.common.home().refusals(window);
        let found = self.records(publishers, window).into_iter().flatten().filter(|record| record.root == root);
        let today = |record: &State| publishers.iter().any(|p| record.by == Some(p.peer.hotkey));
        let (known, mut others): (Vec<State>, Vec<State>) = found.partition(today);
        let trusted = known.into_iter().find(|record| record.by.is_some_and(|by| !refused.contains(&by)));
        trusted.or_else(|| {
            let place = refused.len().checked_rem(others.len())?;
            Some(others.swap_remove(place))
        })
    }

    /// Whether the tiles of a record's deltas are those that the chain drew, and its peers those of the window.
    fn drawn_from_the_chain(&self, record: &State) -> Result<(), String> {
        let (chain, false) = (&self.context.chain, record.accepted.is_empty()) else { return Ok(()) };
        let Some(base) = record.prev_window else { return Ok(()) };
        let moments = self.context.hparams.moments(base);
        let hash = |block| chain.block_hash(block).map_err(|e| e.error);
        if record.reveal.is_none() || hash(moments.end)? != record.reveal {
            return Err(format!("its state of window {} is of tiles that the chain did not draw", record.window));
        }
        // A node keeps the peers of the last windows only; further back the validators of that time looked.
        let Some(start) = hash(moments.start)? else { return Ok(()) };
        let Some(members) = chain.members_at(moments.start, start).map_err(|e| e.error)? else { return Ok(()) };
        let strangers = |entry: &&Accepted| members.get(&entry.uid.0) != Some(&entry.hotkey);
        match record.accepted.iter().find(strangers) {
            Some(entry) => Err(format!(
                "its state of window {} has a delta of {} as uid {}, who was no peer",
                record.window, entry.hotkey, entry.uid
            )),
            None => Ok(()),
        }
    }

    /// Whether a state is here, of this root where one is asked for.
    fn known(&self, window: Window, root: Option<Hash>) -> bool {
        let path = self.context.common.home().state(window).join("state.json");
        let here: Option<State> = files::read_json(&path).ok();
        here.is_some_and(|state| state.run == self.context.run && root.is_none_or(|root| root == state.root))
    }

    /// Whether the state of a window is here and published: by another, or by us, which our own bucket shows.
    fn followed(&self, window: Window) -> bool {
        let path = self.context.common.home().state(window).join("state.json");
        let Ok(here) = files::read_json::<State>(&path) else { return false };
        if here.run != self.context.run {
            return false;
        }
        match self.context.peers.iter().find(|peer| peer.own && here.by == Some(peer.hotkey)) {
            None => true,
            Some(_) => {
                let own: Vec<&Publisher> = self.all.iter().filter(|p| p.peer.own).collect();
                self.records(&own, window).into_iter().flatten().any(|record| record.root == here.root)
            }
        }
    }

    /// Fetch the deltas that a state was made from: from its publisher's mirror, or else from any other's.
    fn fetch_accepted(&self, record: &State, until: Option<Instant>) -> Result<(), String> {
        let context = self.context;
        let Some(base) = record.prev_window.filter(|_| !record.accepted.is_empty()) else { return Ok(()) };
        let folder = context.common.home().window(base).join("accepted");
        files::create_dir(&folder).map_err(|e| {
            note_disk(&self.disk, &e.error);
            e.error
        })?;
        let cap = delta::size_cap(&Layout::new(&context.hparams.model), &context.hparams.codec);
        let mut mirrors: Vec<&Publisher> = self.all.iter().collect();
        mirrors.sort_by_key(|p| record.by != Some(p.peer.hotkey));
        let mirrors: Vec<Bucket> = mirrors.into_iter().map(|p| p.bucket.clone()).collect();
        let wanted: BTreeSet<Hash> = record.accepted.iter().map(|entry| entry.blake3).collect();
        let most = context.blocks(context.hparams.clock.blocks / 8);
        let limit = until.map_or(most, |until| until.saturating_duration_since(Instant::now()).min(most));
        let work = wanted
            .iter()
            .map(|hash| {
                let (mirrors, hash, disk) = (mirrors.clone(), *hash, self.disk.clone());
                let key = format!("{}/deltas/{hash}", context.run);
                let path = folder.join(format!("{hash}.safetensors"));
                async move { one(&mirrors, &key, cap, &path, hash, limit, &disk).await }
            })
            .collect();
        for (result, hash) in context.pool.all(work).into_iter().zip(&wanted) {
            result
                .unwrap_or_else(|| Err("the fetch failed inside".into()))
                .map_err(|why| format!("the delta {hash} that made its state of window {}: {why}", record.window))?;
        }
        Ok(())
    }

    /// Why there is no state: nobody published, or the network runs on other hparams than ours.
    fn missing(&self) -> Report {
        let context = self.context;
        let work = self
            .all
            .iter()
            .filter(|p| !p.peer.own)
            .map(|publisher| {
                let bucket = publisher.bucket.clone();
                let ours = format!("{}/hparams.json", context.run);
                async move { Ok::<_, Fault>((bucket.has(&ours).await?, bucket.folders("").await?)) }
            })
            .collect();
        let answers: Vec<_> = context.pool.all(work).into_iter().flatten().collect();
        // Only where every validator answers and none is on this run: one of them alone stops nobody.
        let elsewhere: Option<BTreeSet<Hash>> = answers
            .into_iter()
            .map(|answer| match answer {
                Ok((false, folders)) => {
                    Some(folders.iter().filter_map(|name| name.parse::<Hash>().ok()).collect::<Vec<_>>())
                }
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(|runs| runs.into_iter().flatten().collect());
        match elsewhere {
            // A bucket of this run that has no hparams yet is not elsewhere.
            Some(runs) if !runs.is_empty() && !runs.contains(&context.run) => {
                let runs: Vec<String> = runs.iter().take(8).map(Hash::to_string).collect();
                // Of a run that begins nobody has published anything yet: no reason for a loop to end.
                Report::no(format!("no validator is on run {} yet; they are on {}", context.run, runs.join(", ")))
                    .hint("hparams.json names the run: a validator's bucket has its own under RUN/hparams.json")
            }
            _ => Report::no(format!("nobody published a state for window {}", context.window.window))
                .hint("take the next window; a validator that was down goes on from its last state"),
        }
    }
}

/// Why a record could not be had, and whether that took all the time there was.
struct Refusal {
    why: String,
    stalled: bool,
}

/// One delta by its hash, from the first mirror that has it, all within a limit.
async fn one(
    mirrors: &[Bucket],
    key: &str,
    cap: u64,
    path: &Path,
    hash: Hash,
    limit: Duration,
    disk: &Disk,
) -> Result<(), String> {
    if path.exists() && files::digest(path).is_ok_and(|(_, found)| found == hash) {
        return Ok(());
    }
    let until = Instant::now() + limit;
    let mut why = String::new();
    for (place, mirror) in mirrors.iter().enumerate() {
        // One that stalls leaves half of the time to those after it.
        let left = until.saturating_duration_since(Instant::now());
        let share = if place + 1 == mirrors.len() { left } else { left / 2 };
        why = match mirror.get_within(key, cap, path, share).await {
            Ok(fetched) if fetched.blake3 == hash => return Ok(()),
            Ok(_) => {
                let _ = std::fs::remove_file(path);
                "its content is not what was accepted".into()
            }
            Err(Fault::Disk(why)) => {
                note_disk(disk, &why);
                return Err(why);
            }
            Err(fault) => fault.to_string(),
        };
    }
    Err(why)
}
