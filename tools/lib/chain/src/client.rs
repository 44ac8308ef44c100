//! The chain as one value: what a follower on this machine has written down, and beneath it the connection to a node.

use crate::{
    answer::{failed, hash_of, number_of, prefixed, undecodable, unreachable},
    facts::Facts,
    link::{Link, OTHER_CHAIN},
    network::{ChainArgs, on_loopback, shown},
    subnet::Subnet,
};
use record::{Code, Hash, Home, Report};
use serde_json::Value;
use std::{
    cell::{Cell, OnceCell},
    future::Future,
    sync::Arc,
    time::Duration,
};
use subxt::{
    OnlineClient, SubstrateConfig,
    backend::LegacyBackend,
    client::{ClientAtBlock, OnlineClientAtBlockImpl},
    config::substrate::{H256, SpecVersionForRange},
    rpcs::{Error, RpcClient, client::rpc_params},
};
use tokio::sync::watch;

pub(crate) type Api = OnlineClient<SubstrateConfig>;
pub(crate) type AtBlock = ClientAtBlock<SubstrateConfig, OnlineClientAtBlockImpl<SubstrateConfig>>;

/// Longest wait for one question: the node may have to be found again first.
const GIVE_UP: Duration = Duration::from_secs(120);
/// Entries that are asked for at once.
pub(crate) const PAGE: u32 = 512;

/// A chain, and one subnet of it.
pub struct Chain {
    pub(crate) runtime: tokio::runtime::Runtime,
    rpc: RpcClient,
    pub(crate) link: Arc<Link>,
    /// Whether a node was reached: with a follower beside it a tool may never need one.
    reached: OnceCell<()>,
    pub(crate) facts: Option<Facts>,
    api: OnceCell<Api>,
    /// A block that is read with metadata that was fetched anew.
    anew: Cell<Option<Hash>>,
    /// Says true when this process was told to end.
    pub(crate) stop: OnceCell<watch::Receiver<bool>>,
    pub(crate) url: String,
    /// See [`ChainArgs::digest`].
    pub(crate) nodes: Hash,
    pub(crate) on_loopback: bool,
    /// Which of the nodes stand still: they are waited for once.
    pub(crate) standing: OnceCell<Vec<usize>>,
    /// Hash of the first block.
    pub genesis: Hash,
    /// The subnet, and its mechanism.
    pub subnet: Subnet,
}

fn reach(runtime: &tokio::runtime::Runtime, link: &Link, url: &str) -> Result<Hash, Report> {
    runtime.block_on(link.connect()).map_err(|error| match error {
        Error::User(other) if other.code == OTHER_CHAIN => {
            Report::config(other.message).hint("--network or BZ_NETWORK names the chain")
        }
        error => unreachable(url, error),
    })
}

impl Chain {
    /// Connect to a node now.
    ///
    /// # Errors
    /// Exit code 75 when it cannot be reached, 78 when it is of another chain than the name that was given.
    pub fn connect(args: &ChainArgs) -> Result<Self, Report> {
        Chain::with(args, None)
    }

    /// The same with what a follower has written into a node's folder: while it runs, a node is asked for what is not
    /// there, and connected then.
    ///
    /// # Errors
    /// As [`Chain::connect`].
    pub fn open(args: &ChainArgs, home: &Home) -> Result<Self, Report> {
        Chain::with(args, Facts::of(args, home)?)
    }

    fn with(args: &ChainArgs, facts: Option<Facts>) -> Result<Self, Report> {
        let urls = args.urls()?;
        let pinned = args.pinned()?;
        let on_loopback = urls.iter().all(|url| on_loopback(url));
        let url = urls.iter().map(|url| shown(url)).collect::<Vec<_>>().join(", ");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Report::again(format!("cannot start a runtime: {e}")))?;
        let followed = facts.as_ref().and_then(Facts::live).map(|head| head.genesis);
        if let (Some((name, genesis)), Some(followed)) = (pinned, followed)
            && genesis != followed
        {
            return Err(Report::config(format!("the first block of {name} is {genesis}, the facts are of {followed}"))
                .hint("another chain was followed into this folder: --home or BZ_HOME"));
        }
        let known = followed.or(pinned.map(|(_, genesis)| genesis));
        let link = Arc::new(Link::new(urls, known));
        let reached = OnceCell::new();
        let genesis = match followed {
            Some(genesis) => genesis,
            None => {
                let genesis = reach(&runtime, &link, &url).map_err(|report| match pinned {
                    Some((name, _)) if report.code == Code::Config => {
                        report.hint(format!("it was asked for as {name}"))
                    }
                    _ => report,
                })?;
                let _ = reached.set(());
                genesis
            }
        };
        Ok(Chain {
            runtime,
            rpc: RpcClient::new(link.clone()),
            link,
            reached,
            // Facts of another chain under the same address are of no use.
            facts: facts.filter(|facts| facts.genesis == genesis),
            api: OnceCell::new(),
            anew: Cell::new(None),
            stop: OnceCell::new(),
            url,
            nodes: args.digest()?,
            on_loopback,
            standing: OnceCell::new(),
            genesis,
            subnet: Subnet { netuid: args.netuid, mechanism: args.mechanism },
        })
    }

    /// The way to the nodes; the first use connects.
    pub(crate) fn node(&self) -> Result<&RpcClient, Report> {
        if self.reached.get().is_none() {
            reach(&self.runtime, &self.link, &self.url)?;
            let _ = self.reached.set(());
        }
        Ok(&self.rpc)
    }

    /// Wait for something, but not after this process was told to end.
    pub(crate) fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Report> {
        let stopped = async {
            let Some(stop) = self.stop.get() else { return std::future::pending::<()>().await };
            // Nobody says anything any more: it was not told to end.
            if stop.clone().wait_for(|told| *told).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                done = work => Ok(done),
                () = stopped => Err(Report::again("it was told to end")),
            }
        })
    }

    /// Whether this process was told to end.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.get().is_some_and(|stop| *stop.borrow())
    }

    /// Do nothing for a while.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Report> {
        // A timer is made inside the runtime.
        self.until_stopped(async { tokio::time::sleep(time).await })
    }

    /// Wait for an answer, not for ever.
    pub(crate) fn wait<T, E: std::fmt::Display>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Report> {
        match self.until_stopped(async { tokio::time::timeout(GIVE_UP, answer).await })? {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(what, &self.url, error)),
            Err(_) => Err(unreachable(&self.url, format!("no answer to {what}"))),
        }
    }

    pub(crate) fn request(&self, method: &str, params: subxt::rpcs::client::RpcParams) -> Result<Value, Report> {
        let node = self.node()?;
        self.wait(method, node.request::<Value>(method, params))
    }

    fn online(&self, config: SubstrateConfig) -> Result<Api, Report> {
        let node = self.node()?.clone();
        let backend = LegacyBackend::<SubstrateConfig>::builder().storage_page_size(PAGE).build(node);
        let api = OnlineClient::from_backend_with_config(config, Arc::new(backend));
        self.wait("the chain's metadata", api)
    }

    /// The metadata client, made when it is first needed: the clock does without. A follower's metadata is not fetched
    /// again.
    pub(crate) fn api(&self) -> Result<&Api, Report> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let known = self.facts.as_ref().map(Facts::metadata).unwrap_or_default();
        let config = SubstrateConfig::builder()
            .set_genesis_hash(H256(self.genesis.0))
            .set_metadata_for_spec_versions(known.into_iter().map(|(spec, metadata)| (spec, metadata.arc())))
            .build();
        let api = self.online(config)?;
        Ok(self.api.get_or_init(|| api))
    }

    /// The chain as it was at one block.
    pub(crate) fn at(&self, block: Hash) -> Result<AtBlock, Report> {
        if self.anew.get() == Some(block) {
            return self.at_anew(block);
        }
        let api = self.api()?.clone();
        self.wait("the state of a block", async move { api.at_block(H256(block.0)).await })
    }

    /// The same with metadata that is fetched again, and is that of the runtime which wrote the block's state. In the
    /// block of an upgrade that is the runtime of the block before: the new one is in the state already, and has
    /// rewritten nothing.
    fn at_anew(&self, block: Hash) -> Result<AtBlock, Report> {
        let state = |api: &Api, block: Hash| {
            let api = api.clone();
            self.wait("the state of a block", async move { api.at_block(H256(block.0)).await })
        };
        let fresh = self.online(SubstrateConfig::builder().set_genesis_hash(H256(self.genesis.0)).build())?;
        let header = self.request("chain_getHeader", rpc_params![prefixed(block)])?;
        let parent = header.get("parentHash").and_then(hash_of);
        // The first block has none, and a node may keep no state of it.
        let before = parent.and_then(|parent| state(&fresh, parent).ok());
        let (Some(before), Some(number)) = (before, number_of(&header)) else { return state(&fresh, block) };
        let range = SpecVersionForRange {
            block_range: number..number.saturating_add(1),
            spec_version: before.spec_version(),
            transaction_version: before.transaction_version(),
        };
        let config = SubstrateConfig::builder()
            .set_genesis_hash(H256(self.genesis.0))
            .set_metadata_for_spec_versions([(before.spec_version(), before.metadata())])
            .set_spec_version_for_block_ranges([range])
            .build();
        state(&self.online(config)?, block)
    }

    /// Read something of a block's state. What does not decode is read once more, with metadata that is fetched anew.
    ///
    /// # Errors
    /// As `read`; exit code 78, with the chain's version, when it does not decode then either.
    pub(crate) fn decoded<T>(&self, block: Hash, read: impl Fn() -> Result<T, Report>) -> Result<T, Report> {
        match read() {
            Err(report) if undecodable(&report) => {}
            done => return done,
        }
        self.anew.set(Some(block));
        let again = read();
        self.anew.set(None);
        again.map_err(|report| if undecodable(&report) { self.unknown_to_us(block, report) } else { report })
    }

    fn unknown_to_us(&self, block: Hash, report: Report) -> Report {
        let spec = self.spec_at(block).map_or("unknown to its node".into(), |spec| format!("spec {spec}"));
        Report::config(format!("the chain is {spec}, and this suite does not read its state: {}", report.error))
            .hint("the chain's runtime was upgraded: a newer suite reads it")
    }

    /// The version of the chain's runtime at a block.
    pub(crate) fn spec_at(&self, block: Hash) -> Result<u32, Report> {
        let version = self.request("state_getRuntimeVersion", rpc_params![prefixed(block)])?;
        let spec = version.get("specVersion").and_then(Value::as_u64).and_then(|spec| spec.try_into().ok());
        spec.ok_or_else(|| unreachable(&self.url, "its runtime has no version"))
    }

    /// Whether an error says that the node keeps the state of that block no longer.
    pub fn forgotten(report: &Report) -> bool {
        report.error.contains("discarded") || report.error.contains("UnknownBlock")
    }

    /// Have a development chain make blocks at once; the number of the last.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, or makes none on demand.
    pub fn new_blocks(&self, count: u64) -> Result<u64, Report> {
        let answer = self.request("dev_newBlock", rpc_params![serde_json::json!({"count": count})])?;
        answer.as_u64().ok_or_else(|| unreachable(&self.url, "it makes no blocks on demand"))
    }

    /// Have a development chain go wrong; how it stands then: its last block, what waits for one, what was taken back.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 1 when it does not do that.
    pub fn fault(&self, fault: &Value) -> Result<Value, Report> {
        self.request("dev_fault", rpc_params![fault]).map_err(|mut report| {
            report.code = Code::No;
            report
        })
    }
}
