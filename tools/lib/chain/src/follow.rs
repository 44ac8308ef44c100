//! The follower: one process a node that hears every finalized block and writes the chain's facts down, so that the
//! other tools of the node ask no one. With several nodes it writes the hashes and the peers on which those agree that
//! answer; a block's time and the metadata are one node's.

use crate::{
    agreed::Told,
    answer::{bytes_of, number_of, plain, prefixed, unreachable},
    claim::{Identity, check},
    client::Chain,
    clock::{STALE, clock_key, clock_of},
    facts::{self, Block},
    keep::{Keeper, Now},
    kept_entries::EntriesKeeper,
};
use record::{Code, Context, Hash, Home, Report, Window, records::Peer};
use run::Hparams;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use subxt::{
    ext::{
        codec::{Decode, Encode},
        futures::future::join_all,
    },
    metadata::Metadata,
    rpcs::{Error, client::rpc_params},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

/// After a longer time without a follower the blocks before the last so many are left out: a day of 12 s.
const BACKFILL: u64 = 7200;
/// Blocks that are asked for at once.
const AT_ONCE: usize = 16;
/// Peers that are missing are looked for so many windows back: a node may still have them.
const WINDOWS_BACK: u64 = 64;
/// The head is written at least this often, so that readers know that somebody listens.
const BEAT: Duration = Duration::from_secs(3);
/// And at most this often.
const HEAD_EVERY: Duration = Duration::from_millis(50);
/// How long the nodes may be away before the follower ends with "try again".
const AWAY: Duration = Duration::from_secs(600);

/// What a follower hears.
enum Heard {
    Final(Option<Result<Value, Error>>),
    Best(Option<Result<Value, Error>>),
    Time,
}

struct Follower<'a> {
    chain: &'a Chain,
    hparams: &'a Hparams,
    keeper: Keeper,
    say: &'a dyn Fn(String),
    spec: Option<u32>,
    best: u64,
    /// Blocks whose peers nobody can tell any more.
    without_peers: BTreeSet<u64>,
    entries: EntriesKeeper,
    /// The blocks of a window at which its entries count.
    entry_blocks: &'a EntryBlocks<'a>,
    /// Blocks whose entries nobody can tell any more.
    without_entries: BTreeSet<u64>,
    /// When a node was heard last.
    heard: Instant,
    /// When a block became final last.
    moved: Instant,
}

/// At which blocks the entries of a window are written down.
pub(crate) type EntryBlocks<'a> = dyn Fn(&Hparams, Window) -> Vec<u64> + 'a;

impl Chain {
    /// Write finalized blocks, the peers of each window, its entries at the blocks where they count, and metadata into a
    /// node's folder, until SIGTERM or SIGINT. It may be killed at any moment, and goes on where it was.
    ///
    /// # Errors
    /// Exit code 75 when another follower has the folder or the nodes are away for ten minutes, 78 when the folder is
    /// of another chain or subnet, another chain stands at the nodes' address meanwhile, or the chain keeps what this
    /// suite does not read.
    pub fn follow(
        &self,
        hparams: &Hparams,
        home: &Home,
        entry_blocks: &EntryBlocks<'_>,
        say: &dyn Fn(String),
    ) -> Result<(), Report> {
        self.end_on_signals()?;
        let folder = facts::folder(home);
        let keeper = Keeper::begin(&folder, self.identity()?)?;
        let entries = EntriesKeeper::begin(&folder)?;
        let from = keeper.last().map_or_else(String::new, |last| format!(", on from block {}", last.number));
        say(format!("follows {} into {}{from}", self.url, folder.display()));
        let now = Instant::now();
        let mut follower = Follower {
            chain: self,
            hparams,
            keeper,
            say,
            spec: None,
            best: 0,
            without_peers: BTreeSet::new(),
            entries,
            entry_blocks,
            without_entries: BTreeSet::new(),
            heard: now,
            moved: now,
        };
        follower.run()
    }

    /// What [`Chain::follow`] would go on from: the last block in a node's folder, if there is one. Nothing is written.
    ///
    /// # Errors
    /// Exit code 78 when the folder is of another chain or subnet.
    pub fn would_follow(&self, home: &Home) -> Result<Option<u64>, Report> {
        let head = check(&facts::folder(home), &self.identity()?)?;
        // What other nodes told is dropped.
        Ok(head.filter(|head| head.nodes == self.nodes).map(|head| head.number))
    }

    fn identity(&self) -> Result<Identity, Report> {
        Ok(Identity {
            genesis: self.genesis,
            netuid: self.subnet.netuid,
            mechanism: self.subnet.mechanism,
            nodes: self.nodes,
            local: self.is_localnet()?,
        })
    }

    /// From now on SIGTERM and SIGINT end what waits, and not the process.
    fn end_on_signals(&self) -> Result<(), Report> {
        let (tell, told) = watch::channel(false);
        let listen = move || -> std::io::Result<()> {
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                // Nobody waits any more: then it is at its end.
                let _ = tell.send(true);
            });
            Ok(())
        };
        self.runtime.block_on(async move { listen() }).again("cannot listen to signals")?;
        let _ = self.stop.set(told);
        Ok(())
    }

    /// The chain's clock at several blocks; `None` where the node has forgotten it.
    fn times(&self, blocks: &[Hash]) -> Result<Vec<Option<u64>>, Report> {
        let (node, key) = (self.node()?, clock_key());
        let ask = |block: &Hash| node.request::<Value>("state_getStorage", rpc_params![&key, prefixed(*block)]);
        let asked = join_all(blocks.iter().map(ask));
        let answers = self.wait("the chain's clock", async { Ok::<_, String>(asked.await) })?;
        let each = answers.into_iter().map(|answer| match answer {
            Ok(value) => Ok(clock_of(&value)),
            Err(error) => {
                let report = Report::again(format!("the chain's clock, from {}: {}", self.url, plain(error)));
                if Chain::forgotten(&report) { Ok(None) } else { Err(report) }
            }
        });
        each.collect()
    }

    /// The metadata at a block, of the newest form that the node has, as bytes.
    fn metadata_of(&self, block: Hash) -> Result<Vec<u8>, Report> {
        let call = |name: &str, input: &[u8]| -> Result<Vec<u8>, Report> {
            let input = format!("0x{}", hex::encode(input));
            let answer = self.request("state_call", rpc_params![name, input, prefixed(block)])?;
            bytes_of(&answer).ok_or_else(|| Report::again(format!("{name}: the node answers with something else")))
        };
        // Older chains have one form only.
        let versions = call("Metadata_metadata_versions", &[]).ok();
        let versions = versions.and_then(|bytes| Vec::<u32>::decode(&mut &bytes[..]).ok());
        // The greatest number stands for a form that is not finished.
        let newest = versions.into_iter().flatten().filter(|version| *version != u32::MAX).max();
        let bytes = match newest {
            Some(version) => {
                let answer = call("Metadata_metadata_at_version", &version.encode())?;
                Option::<Vec<u8>>::decode(&mut &answer[..]).ok().flatten()
            }
            None => Vec::<u8>::decode(&mut &call("Metadata_metadata", &[])?[..]).ok(),
        };
        bytes.ok_or_else(|| Report::again("the node gives no metadata"))
    }
}

impl Follower<'_> {
    fn run(&mut self) -> Result<(), Report> {
        let mut said = String::new();
        loop {
            let Err(report) = self.listen() else { return Ok(()) };
            if self.chain.stopping() {
                return Ok(());
            }
            if report.code != Code::Again || self.heard.elapsed() >= AWAY {
                return Err(report);
            }
            if said != report.error {
                (self.say)(format!("goes on as soon as it can: {}", report.error));
                said = report.error;
            }
            if self.chain.pause(Duration::from_secs(1)).is_err() {
                return Ok(());
            }
        }
    }

    /// Hear blocks over one connection, until it breaks, or this process is told to end.
    fn listen(&mut self) -> Result<(), Report> {
        let chain = self.chain;
        let node = chain.node()?;
        let subscribe = |method: &'static str, end: &'static str| {
            chain.wait(method, node.subscribe::<Value>(method, rpc_params![], end))
        };
        let mut finals = subscribe("chain_subscribeFinalizedHeads", "chain_unsubscribeFinalizedHeads")?;
        let mut bests = subscribe("chain_subscribeNewHeads", "chain_unsubscribeNewHeads")?;
        let last = chain.finalized_of_node()?;
        self.same_history(last)?;
        self.best = chain.best_of_node()?;
        self.catch_up(last)?;
        self.write_head()?;
        (self.say)(format!("has caught up: block {last}"));
        let (mut changed, mut written) = (false, Instant::now());
        loop {
            let wait = if changed { HEAD_EVERY.saturating_sub(written.elapsed()) } else { BEAT };
            let heard = chain.until_stopped(async {
                tokio::select! {
                    header = finals.next() => Heard::Final(header),
                    header = bests.next() => Heard::Best(header),
                    () = sleep(wait) => Heard::Time,
                }
            });
            let Ok(heard) = heard else { return Ok(()) };
            match heard {
                Heard::Final(header) => self.catch_up(self.number_in(header)?)?,
                Heard::Best(header) => self.best = self.number_in(header)?,
                Heard::Time if changed => {}
                // Nothing for some seconds: is anybody there?
                Heard::Time => self.best = chain.best_of_node()?,
            }
            (changed, self.heard) = (true, Instant::now());
            if written.elapsed() >= HEAD_EVERY {
                self.write_head()?;
                (changed, written) = (false, Instant::now());
            }
            if chain.link.nodes() > 1 && self.moved.elapsed() >= STALE {
                self.moved = Instant::now();
                chain.link.leave("makes no blocks");
                return Err(unreachable(&chain.url, format!("no block for {} s", STALE.as_secs())));
            }
        }
    }

    fn number_in(&self, header: Option<Result<Value, Error>>) -> Result<u64, Report> {
        match header {
            Some(Ok(header)) => {
                number_of(&header).ok_or_else(|| unreachable(&self.chain.url, "its header has no number"))
            }
            Some(Err(error)) => Err(unreachable(&self.chain.url, error)),
            None => Err(unreachable(&self.chain.url, "it closed the subscription")),
        }
    }

    /// What is written down is of the chain that the nodes have now: of a chain that was set back, the last block that
    /// is final there is looked at.
    fn same_history(&self, finalized: u64) -> Result<(), Report> {
        let Some(last) = self.keeper.last() else { return Ok(()) };
        let kept = if last.number <= finalized { Some(last) } else { self.keeper.block(finalized)? };
        let Some(kept) = kept else { return Ok(()) };
        match self.chain.agreed_hash(kept.number)? {
            Some(hash) if hash != kept.hash => Err(Report::config(format!(
                "block {} was final as {} and is {hash} now: another chain stands at {}, or it was set back",
                kept.number, kept.hash, self.chain.url
            ))
            .hint("--network or BZ_NETWORK names the run's own chain")
            .hint("where that was meant, remove the folder chain/ in BZ_HOME: it is written anew")),
            _ => Ok(()),
        }
    }

    /// Write down all up to this finalized block.
    fn catch_up(&mut self, target: u64) -> Result<(), Report> {
        let last = self.keeper.last().map(|last| last.number);
        let from = match last {
            Some(last) if last >= target => return Ok(()),
            Some(last) if target - last <= BACKFILL => last + 1,
            // The window before may not be finished yet.
            _ => {
                let before = Window(self.hparams.window_at(target).0.saturating_sub(1));
                self.hparams.moments(before).start.max(target.saturating_sub(BACKFILL))
            }
        };
        let numbers: Vec<u64> = (from..=target).collect();
        for some in numbers.chunks(AT_ONCE) {
            let hashes = self.chain.agreed_hashes(some)?;
            let times = self.chain.times(&hashes)?;
            let blocks = some.iter().zip(hashes).zip(times);
            let blocks: Vec<Block> =
                blocks.map(|((number, hash), time_ms)| Block { number: *number, hash, time_ms }).collect();
            self.keeper.append(&blocks)?;
            (self.heard, self.moved) = (Instant::now(), Instant::now());
        }
        if let Some(last) = self.keeper.last() {
            self.keep_metadata(last.hash)?;
        }
        self.keep_peers(target)?;
        self.keep_entries(target)?;
        // Once a window is often enough.
        if last.is_none_or(|last| self.hparams.window_at(last) != self.hparams.window_at(target)) {
            self.keeper.prune(self.hparams.clock.blocks)?;
            self.entries.prune(target, self.hparams.clock.blocks)?;
        }
        Ok(())
    }

    fn keep_metadata(&mut self, block: Hash) -> Result<(), Report> {
        let spec = self.chain.spec_at(block)?;
        if self.spec == Some(spec) {
            return Ok(());
        }
        let bytes = self.chain.metadata_of(block)?;
        Metadata::decode_from(&bytes).map_err(|e| {
            Report::config(format!("the chain is spec {spec}, and this suite does not read its metadata: {e}"))
                .hint("the chain's runtime was upgraded: a newer suite reads it")
        })?;
        self.keeper.metadata(spec, &bytes)?;
        if let Some(old) = self.spec.replace(spec) {
            (self.say)(format!("the chain's runtime was upgraded from spec {old} to {spec}"));
        }
        Ok(())
    }

    /// The peers of windows that have begun, the newest first: a node forgets.
    fn keep_peers(&mut self, target: u64) -> Result<(), Report> {
        let newest = self.hparams.window_at(target);
        let oldest = newest.0.saturating_sub(WINDOWS_BACK).max(self.hparams.start_window.0);
        for window in (oldest..=newest.0).rev().map(Window) {
            let start = self.hparams.moments(window).start;
            if self.keeper.has_peers(start) || self.without_peers.contains(&start) {
                continue;
            }
            let Some(block) = self.keeper.block(start)? else {
                self.without_peers.insert(start);
                continue;
            };
            match self.agreed_peers(start, block.hash) {
                Ok(Some(peers)) => self.keeper.peers(start, block.hash, peers)?,
                // A tool that needs them asks for itself.
                Ok(None) => {
                    self.without_peers.insert(start);
                }
                // The subnet may be younger than that window, or the node's memory shorter.
                Err(report) if Chain::forgotten(&report) || (report.code == Code::Config && window != newest) => {
                    self.without_peers.insert(start);
                    (self.say)(format!("has no peers of window {window}: {}", report.error));
                }
                Err(report) => return Err(report),
            }
        }
        Ok(())
    }

    /// The peers at a block on which all nodes agree that tell them; `None`, and said, where they do not. A hash that
    /// they agree on binds none of them to what it says of that block.
    fn agreed_peers(&self, number: u64, block: Hash) -> Result<Option<Vec<Peer>>, Report> {
        let told = self.chain.told_of(number, block, || self.chain.peers(block, None))?;
        Ok(self.agreed("peers", number, told))
    }

    fn agreed<T>(&self, what: &str, number: u64, told: Told<T>) -> Option<T> {
        match told {
            Told::Same(value) => Some(value),
            Told::Differ(one, other) => {
                (self.say)(format!("{one} and {other} tell other {what} of block {number}: none are kept"));
                None
            }
        }
    }

    /// The entries at the blocks where they count, the newest first: a node forgets.
    fn keep_entries(&mut self, target: u64) -> Result<(), Report> {
        let newest = self.hparams.window_at(target);
        let oldest = newest.0.saturating_sub(WINDOWS_BACK).max(self.hparams.start_window.0);
        for window in (oldest..=newest.0).rev().map(Window) {
            for number in (self.entry_blocks)(self.hparams, window) {
                if number <= target && !self.entries.has(number) && !self.without_entries.contains(&number) {
                    self.keep_entries_at(number, window != newest)?;
                }
            }
        }
        let first = self.hparams.moments(Window(oldest)).start;
        self.without_entries.retain(|number| *number >= first);
        Ok(())
    }

    fn keep_entries_at(&mut self, number: u64, is_old: bool) -> Result<(), Report> {
        let told = match self.keeper.block(number)? {
            None => None,
            Some(block) => match self.chain.told_of(number, block.hash, || self.chain.entries(block.hash)) {
                Ok(told) => self.agreed("entries", number, told).map(|entries| (block.hash, entries)),
                // The subnet may be younger than that window, or the node's memory shorter.
                Err(report) if Chain::forgotten(&report) || (report.code == Code::Config && is_old) => {
                    (self.say)(format!("has no entries of block {number}: {}", report.error));
                    None
                }
                Err(report) => return Err(report),
            },
        };
        match told {
            Some((hash, entries)) => self.entries.keep(number, hash, entries),
            // A tool that needs them asks for itself.
            None => {
                self.without_entries.insert(number);
                Ok(())
            }
        }
    }

    fn write_head(&self) -> Result<(), Report> {
        let Some(last) = self.keeper.last() else { return Ok(()) };
        self.keeper.head(Now { spec: self.spec.unwrap_or(0), last, best: self.best.max(last.number) })
    }
}
