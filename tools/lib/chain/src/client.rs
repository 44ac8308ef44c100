//! The connection and the clock: finalized blocks by subscription.

use crate::{
    calls::Subnet,
    link::{BEHIND, Link},
};
use record::{Context, Hash, Report};
use serde_json::Value;
use std::{
    cell::OnceCell,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use subxt::{
    OnlineClient, SubstrateConfig,
    backend::LegacyBackend,
    client::{ClientAtBlock, OnlineClientAtBlockImpl},
    config::substrate::H256,
    rpcs::{RpcClient, client::rpc_params},
};

pub(crate) type Api = OnlineClient<SubstrateConfig>;
pub(crate) type AtBlock = ClientAtBlock<SubstrateConfig, OnlineClientAtBlockImpl<SubstrateConfig>>;

/// Which chain and subnet.
#[derive(clap::Args, Clone, Debug)]
pub struct ChainArgs {
    /// `finney`, `test`, `local`, or ws:// and wss:// addresses of nodes of one chain, with commas between
    #[arg(long, env = "BZ_NETWORK", value_name = "NET", default_value = "finney", value_delimiter = ',')]
    pub network: Vec<String>,
    /// Number of the subnet
    #[arg(long, env = "BZ_NETUID", value_name = "N")]
    pub netuid: u16,
    /// Which of the subnet's incentive mechanisms, where it has several
    #[arg(long, env = "BZ_MECHANISM", value_name = "M", default_value_t = 0)]
    pub mechanism: u8,
}

/// Longest wait for one question: the node may have to be found again first.
const GIVE_UP: Duration = Duration::from_secs(120);
/// Entries that are asked for at once.
pub(crate) const PAGE: u32 = 512;
/// A node without a block for this long is left for another, where there is one.
const STALE: Duration = Duration::from_secs(45);
/// A chain may be slow; one without a block for this long stands.
const STANDS: Duration = Duration::from_secs(90);

impl ChainArgs {
    /// The addresses of the nodes.
    ///
    /// # Errors
    /// Exit code 2 when one is no known name and no address.
    pub fn urls(&self) -> Result<Vec<String>, Report> {
        let mut urls = Vec::new();
        for network in &self.network {
            match network.trim() {
                "finney" => urls.extend([
                    "wss://entrypoint-finney.opentensor.ai:443".into(),
                    "wss://lite.chain.opentensor.ai:443".into(),
                ]),
                "test" => urls.push("wss://test.finney.opentensor.ai:443".into()),
                "local" => urls.push("ws://127.0.0.1:9944".into()),
                url if url.starts_with("ws://") || url.starts_with("wss://") => urls.push(url.into()),
                other => {
                    return Err(Report::usage(format!("--network {other}: not a network"))
                        .hint("finney, test, local, or a ws:// or wss:// address; several with commas between"));
                }
            }
        }
        Ok(urls)
    }
}

fn on_loopback(url: &str) -> bool {
    let host = host_of(url).1;
    ["127.0.0.1:", "localhost:", "[::1]:"].iter().any(|local| host.starts_with(local))
}

/// Scheme, and host with port.
fn host_of(url: &str) -> (&str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (scheme, authority.rsplit('@').next().unwrap_or_default())
}

/// An address as it may be shown: a provider's key stands in the rest of it.
pub(crate) fn shown(url: &str) -> String {
    let (scheme, host) = host_of(url);
    format!("{scheme}://{host}")
}

/// A connection to one node.
pub struct Chain {
    pub(crate) runtime: tokio::runtime::Runtime,
    rpc: RpcClient,
    link: Arc<Link>,
    api: OnceCell<Api>,
    url: String,
    on_loopback: bool,
    /// Which of the nodes stand still: they are waited for once.
    standing: OnceCell<Vec<usize>>,
    /// Hash of the first block.
    pub genesis: Hash,
    /// The subnet, and its mechanism.
    pub subnet: Subnet,
}

/// An error of the client's layers without the name of every layer.
pub(crate) fn plain(error: impl std::fmt::Display) -> String {
    error.to_string().replace("RPC error: ", "").replace("client error: ", "")
}

fn unreachable(url: &str, error: impl std::fmt::Display) -> Report {
    Report::again(format!("cannot reach the chain at {url}: {}", plain(error)))
        .hint("is the node up, and the address right? --network or BZ_NETWORK names it")
        .hint("for one machine: bz-localnet status")
}

fn hash_of(value: &Value) -> Option<Hash> {
    value.as_str()?.parse().ok()
}

pub(crate) fn number_of(header: &Value) -> Option<u64> {
    u64::from_str_radix(header.get("number")?.as_str()?.trim_start_matches("0x"), 16).ok()
}

impl Chain {
    /// Connect to the node.
    ///
    /// # Errors
    /// Exit code 75 when it cannot be reached.
    pub fn connect(args: &ChainArgs) -> Result<Self, Report> {
        let urls = args.urls()?;
        let on_loopback = urls.iter().all(|url| on_loopback(url));
        let url = urls.iter().map(|url| shown(url)).collect::<Vec<_>>().join(", ");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .again("cannot start a runtime")?;
        let link = Arc::new(Link::new(urls));
        let genesis = runtime.block_on(link.connect()).map_err(|e| unreachable(&url, e))?;
        let rpc = RpcClient::new(link.clone());
        let subnet = Subnet { netuid: args.netuid, mechanism: args.mechanism };
        Ok(Chain {
            runtime,
            rpc,
            link,
            api: OnceCell::new(),
            url,
            on_loopback,
            standing: OnceCell::new(),
            genesis,
            subnet,
        })
    }

    /// Wait for an answer, not for ever.
    pub(crate) fn wait<T, E: std::fmt::Display>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Report> {
        self.runtime.block_on(async {
            match tokio::time::timeout(GIVE_UP, answer).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(Report::again(format!("{what}, from {}: {}", self.url, plain(error)))
                    .hint("a node that is behind or was restarted answers again later")),
                Err(_) => Err(unreachable(&self.url, format!("no answer to {what}"))),
            }
        })
    }

    pub(crate) fn request(&self, method: &str, params: subxt::rpcs::client::RpcParams) -> Result<Value, Report> {
        self.wait(method, self.rpc.request::<Value>(method, params))
    }

    /// The metadata client, made when it is first needed: the clock does without.
    pub(crate) fn api(&self) -> Result<&Api, Report> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let backend = LegacyBackend::<SubstrateConfig>::builder().storage_page_size(PAGE).build(self.rpc.clone());
        let api = self.wait("the chain's metadata", OnlineClient::from_backend(Arc::new(backend)))?;
        Ok(self.api.get_or_init(|| api))
    }

    /// The chain as it was at one block.
    pub(crate) fn at(&self, block: Hash) -> Result<AtBlock, Report> {
        let api = self.api()?.clone();
        self.wait("the state of a block", async move { api.at_block(H256(block.0)).await })
    }

    /// The number of the last finalized block.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn finalized(&self) -> Result<u64, Report> {
        let head = self.request("chain_getFinalizedHead", rpc_params![])?;
        let header = self.request("chain_getHeader", rpc_params![head])?;
        number_of(&header).ok_or_else(|| unreachable(&self.url, "its last header has no number"))
    }

    /// The number of the newest block, final or not.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn best(&self) -> Result<u64, Report> {
        let header = self.request("chain_getHeader", rpc_params![])?;
        number_of(&header).ok_or_else(|| unreachable(&self.url, "its last header has no number"))
    }

    /// Whether this is a chain of this machine, made by bz-localnet: then buckets are on loopback. A node of a public
    /// network that happens to run here is none.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn is_localnet(&self) -> Result<bool, Report> {
        Ok(self.on_loopback && self.request("system_name", rpc_params![])? == "bz-localnet")
    }

    /// The hash of a finalized block, `None` while it is not there.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn block_hash(&self, number: u64) -> Result<Option<Hash>, Report> {
        Ok(hash_of(&self.request("chain_getBlockHash", rpc_params![number])?))
    }

    /// The hash of a finalized block on which the nodes agree: what is drawn from it is drawn once. No node may have another,
    /// and more than half of those whose chain goes on have it: one that says it is far ahead of the only other is not believed.
    ///
    /// # Errors
    /// Exit code 75 when the nodes disagree, or none answers.
    pub fn agreed_hash(&self, number: u64) -> Result<Option<Hash>, Report> {
        let ours = self.block_hash(number)?;
        if self.link.nodes() > 1 && ours.is_some() {
            self.others_agree(number, ours)?;
        }
        Ok(ours)
    }

    fn others_agree(&self, number: u64, ours: Option<Hash>) -> Result<(), Report> {
        let since = Instant::now();
        let mut first: Option<Vec<Option<u64>>> = None;
        loop {
            let all = self.runtime.block_on(self.link.all_hashes(number));
            if let Some(other) = all.iter().flatten().flatten().find(|hash| Some(**hash) != ours) {
                let ours = ours.map_or_else(String::new, |hash| hash.to_string());
                return Err(Report::again(format!(
                    "the nodes of {} disagree about block {number}: {ours}, {other}",
                    self.url
                ))
                .hint("one of them is on a fork, or lies: leave it out of --network"));
            }
            let have = all.iter().flatten().flatten().count();
            let stands = |node: &usize| self.standing.get().is_some_and(|standing| standing.contains(node));
            let without: Vec<usize> = (0..all.len()).filter(|node| all[*node] == Some(None) && !stands(node)).collect();
            if have > without.len() {
                return Ok(());
            }
            // They are a moment behind, or stand still; or they are the honest ones.
            let heads = self.runtime.block_on(self.link.all_finalized());
            let first = first.get_or_insert_with(|| heads.clone());
            let goes_on = |node: &&usize| heads[**node].zip(first[**node]).is_some_and(|(now, then)| now > then);
            let far = |node: &&usize| heads[**node].is_some_and(|head| head.saturating_add(BEHIND) < number);
            let moving = without.iter().filter(goes_on);
            let waited = since.elapsed() >= STALE;
            if have <= moving.clone().filter(|node| waited || far(node)).count() {
                return Err(Report::again(format!(
                    "of the nodes of {}, {have} have block {number}, {} do not, and their chain goes on",
                    self.url,
                    moving.count()
                ))
                .hint("one of them is behind, or lies about its head: leave it out of --network, or name a third"));
            }
            if waited {
                let _ = self.standing.set(without);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Wait until a block is finalized; its hash. Survives a node that restarts. Every block from the last finalized one on
    /// is told to `tick`, none left out, whatever the node leaves out.
    ///
    /// # Errors
    /// Exit code 75 when the node stays away, or makes no blocks.
    pub fn wait_for(&self, number: u64, mut tick: impl FnMut(u64)) -> Result<Hash, Report> {
        let mut seen = self.finalized()?;
        tick(seen);
        let mut moved = Instant::now();
        while seen < number {
            let followed = self.follow(|header| {
                if header > seen {
                    (seen + 1..=header.min(number)).for_each(&mut tick);
                    (seen, moved) = (header, Instant::now());
                }
                seen < number
            });
            if let Err(report) = followed {
                if moved.elapsed() >= STANDS {
                    return Err(report);
                }
                if self.link.nodes() > 1 && moved.elapsed() >= STALE {
                    self.runtime.block_on(self.link.leave("makes no blocks"));
                }
                // The subscription broke off: the next one begins at the block that is final then.
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        self.block_hash(number)?.ok_or_else(|| unreachable(&self.url, format!("it does not know block {number}")))
    }

    /// Tell each finalized block's number until `more` says no.
    fn follow(&self, mut more: impl FnMut(u64) -> bool) -> Result<(), Report> {
        let method = "chain_subscribeFinalizedHeads";
        let subscribed = self.rpc.subscribe::<Value>(method, rpc_params![], "chain_unsubscribeFinalizedHeads");
        let mut heads = self.wait(method, subscribed)?;
        // What became final before the subscription began.
        let mut number = self.finalized()?;
        while more(number) {
            let patience = if self.link.nodes() > 1 { STALE } else { STANDS };
            let next = self.runtime.block_on(async { tokio::time::timeout(patience, heads.next()).await });
            number = match next {
                Ok(Some(Ok(header))) => number_of(&header).unwrap_or(number),
                Ok(Some(Err(error))) => return Err(unreachable(&self.url, error)),
                Ok(None) => return Err(unreachable(&self.url, "it closed the subscription")),
                Err(_) => return Err(unreachable(&self.url, format!("no block for {} s", patience.as_secs()))),
            };
        }
        Ok(())
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
            report.code = record::Code::No;
            report
        })
    }

    /// The chain's clock at a block, milliseconds since 1970.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn time_ms(&self, block: Hash) -> Result<u64, Report> {
        let at = self.at(block)?;
        let address = subxt::dynamic::storage::<(), u64>("Timestamp", "Now");
        let value = self.wait("the chain's clock", async { at.storage().fetch(address, ()).await })?;
        value.decode().again("the chain's clock")
    }
}
