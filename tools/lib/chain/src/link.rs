//! The connection to a node. It is found again when it breaks, here or at the next address, so that a node that restarts
//! costs a pause and no window.

use crate::client::{number_of, plain, shown};
use backon::{ExponentialBuilder, Retryable};
use record::{Hash, cli::note};
use serde_json::value::RawValue;
use std::{sync::OnceLock, time::Duration};
use subxt::rpcs::{
    Error, RpcClient, UserError,
    client::{RawRpcFuture, RawRpcSubscription, RpcClientT, rpc_params},
};
use tokio::{sync::Mutex, time::timeout};

/// No answer for this long means that the node is gone.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a lost node is looked for, the waits for its answers apart, before giving up with "try again".
const LOOK_FOR: Duration = Duration::from_secs(60);

/// Nodes of one chain, one of them connected when it is first needed and again whenever that is needed.
pub(crate) struct Link {
    urls: Vec<String>,
    open: Mutex<Open>,
    genesis: OnceLock<Hash>,
}

/// The connection of this moment, the how-manieth it is, and which address is next.
#[derive(Default)]
struct Open {
    rpc: Option<RpcClient>,
    number: u64,
    place: usize,
}

/// A question to every node is answered within this time, or without that node.
const SIDE_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A node that is so many blocks behind another one is stale.
pub(crate) const BEHIND: u64 = 10;

fn gone(why: impl Into<String>) -> Error {
    Error::Client(why.into().into())
}

/// Whether the connection is at fault, and not the request.
fn lost(error: &Error) -> bool {
    matches!(error, Error::Client(_) | Error::DisconnectedWillReconnect(_))
}

/// What was sent may have had its effect already: the caller has to look before it is sent again.
fn once_only(method: &str) -> bool {
    method.starts_with("author_") || method.starts_with("dev_")
}

impl Link {
    pub(crate) fn new(urls: Vec<String>) -> Self {
        Link { urls, open: Mutex::default(), genesis: OnceLock::new() }
    }

    /// Connect now; the hash of the chain's first block. Each address is tried once: who starts wants to know at once.
    /// Of several nodes the first one that is where most are is taken.
    pub(crate) async fn connect(&self) -> Result<Hash, Error> {
        self.connection().await?;
        if self.urls.len() > 1 {
            let heads = self.all_finalized().await;
            // Of three and more, one that says it is far ahead is as suspicious as one that is behind.
            let mut sorted: Vec<u64> = heads.iter().flatten().copied().collect();
            sorted.sort_unstable();
            let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
            let current = |head: &Option<u64>| head.is_some_and(|head| head.abs_diff(usual) <= BEHIND);
            let mut open = self.open.lock().await;
            if let Some(place) = heads.iter().position(current)
                && place != open.place
            {
                note(
                    "chain",
                    format!("{} is not where the others are: {} is taken", self.shown(open.place), self.shown(place)),
                );
                *open = Open { rpc: None, number: open.number, place };
            }
        }
        self.connection().await?;
        self.genesis.get().copied().ok_or_else(|| gone("it has no first block"))
    }

    fn shown(&self, place: usize) -> String {
        self.urls.get(place).map_or_else(String::new, |url| shown(url))
    }

    /// How many nodes there are to go to.
    pub(crate) fn nodes(&self) -> usize {
        self.urls.len()
    }

    /// Go on with the next node: this one answers, but is of no use.
    pub(crate) async fn leave(&self, why: &str) {
        let mut open = self.open.lock().await;
        let next = (open.place + 1) % self.urls.len();
        note("chain", format!("{} {why}: {} is next", self.shown(open.place), self.shown(next)));
        *open = Open { rpc: None, number: open.number, place: next };
    }

    /// The last finalized block of every node, `None` of one that does not answer.
    pub(crate) async fn all_finalized(&self) -> Vec<Option<u64>> {
        self.ask_all(async |rpc: RpcClient| {
            let head: serde_json::Value = rpc.request("chain_getFinalizedHead", rpc_params![]).await?;
            let header: serde_json::Value = rpc.request("chain_getHeader", rpc_params![head]).await?;
            number_of(&header).ok_or_else(|| gone("its header has no number"))
        })
        .await
    }

    /// The hash of a block as every node has it: `Some(None)` of one that does not have it, `None` of one that does not answer.
    pub(crate) async fn all_hashes(&self, block: u64) -> Vec<Option<Option<Hash>>> {
        self.ask_all(async |rpc: RpcClient| rpc.request("chain_getBlockHash", rpc_params![block]).await).await
    }

    async fn ask_all<T>(&self, ask: impl AsyncFn(RpcClient) -> Result<T, Error>) -> Vec<Option<T>> {
        let mut answers = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            let one = async { ask(RpcClient::from_insecure_url(url).await?).await };
            answers.push(timeout(SIDE_ANSWER_WITHIN, one).await.ok().and_then(Result::ok));
        }
        answers
    }

    async fn connection(&self) -> Result<(u64, RpcClient), Error> {
        let mut open = self.open.lock().await;
        if let Some(rpc) = &open.rpc {
            return Ok((open.number, rpc.clone()));
        }
        let mut why = gone("no address");
        for _ in 0..self.urls.len() {
            match self.dial(&self.urls[open.place]).await {
                Ok(rpc) => {
                    *open = Open { rpc: Some(rpc.clone()), number: open.number + 1, place: open.place };
                    return Ok((open.number, rpc));
                }
                Err(error) => why = error,
            }
            open.place = (open.place + 1) % self.urls.len();
        }
        Err(why)
    }

    async fn dial(&self, url: &str) -> Result<RpcClient, Error> {
        // Plain ws:// is for one's own machine or network; the public endpoints are wss://.
        let dialed = timeout(ANSWER_WITHIN, RpcClient::from_insecure_url(url)).await;
        let rpc = dialed.map_err(|_| gone("no answer"))??;
        let first = timeout(ANSWER_WITHIN, rpc.request::<Hash>("chain_getBlockHash", rpc_params![0])).await;
        let first = first.map_err(|_| gone("no answer"))??;
        // A node with another first block is another chain: nothing that was read before holds there.
        if *self.genesis.get_or_init(|| first) != first {
            let message = format!("{} is another chain: its first block is {first}", shown(url));
            return Err(Error::User(UserError { code: 0, message, data: None }));
        }
        Ok(rpc)
    }

    /// One attempt on the connection of this moment, which is given up when it is at fault.
    async fn attempt<T>(&self, work: impl AsyncFnOnce(RpcClient) -> Result<T, Error>) -> Result<T, Error> {
        let (number, rpc) = self.connection().await?;
        let result = timeout(ANSWER_WITHIN, work(rpc)).await.unwrap_or_else(|_| Err(gone("no answer")));
        let result = result.map_err(with_reason);
        if result.as_ref().is_err_and(lost) {
            let mut open = self.open.lock().await;
            // Another request may have found a new one meanwhile.
            if open.number == number {
                open.rpc = None;
                open.place = (open.place + 1) % self.urls.len();
            }
        }
        result
    }
}

/// What a node says beside the name of its error is the part that helps.
fn with_reason(error: Error) -> Error {
    match error {
        Error::User(UserError { code, message, data: Some(data) }) => {
            let reason = serde_json::from_str(data.get()).unwrap_or_else(|_| data.get().to_string());
            Error::User(UserError { code, message: format!("{message}: {reason}"), data: None })
        }
        other => other,
    }
}

/// Look again soon at first, then every few seconds.
fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_total_delay(Some(LOOK_FOR))
        .without_max_times()
}

fn say(error: &Error, pause: Duration) {
    // The first pauses are for a connection that only broke off.
    if pause > Duration::from_millis(500) {
        note("chain", format!("lost the node, looking for it: {}", plain(error)));
    }
}

impl RpcClientT for Link {
    fn request_raw<'a>(&'a self, method: &'a str, params: Option<Box<RawValue>>) -> RawRpcFuture<'a, Box<RawValue>> {
        let attempt = move || {
            let params = params.clone();
            self.attempt(async move |rpc| rpc.request_raw(method, params).await)
        };
        Box::pin(async move {
            if once_only(method) {
                return attempt().await;
            }
            attempt.retry(pauses()).when(lost).notify(say).await
        })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        params: Option<Box<RawValue>>,
        unsub: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        let attempt = move || {
            let params = params.clone();
            self.attempt(async move |rpc| rpc.subscribe_raw(sub, params, unsub).await)
        };
        Box::pin(async move {
            if once_only(sub) {
                return attempt().await;
            }
            attempt.retry(pauses()).when(lost).notify(say).await
        })
    }
}
