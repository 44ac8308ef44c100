//! The connection to a node. It is found again when it breaks, so that a node that restarts costs a pause and no window.

use crate::client::plain;
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

/// One node, connected when it is first needed and again whenever that is needed.
pub(crate) struct Link {
    url: String,
    open: Mutex<Open>,
    genesis: OnceLock<Hash>,
}

/// The connection of this moment, and the how-manieth it is.
#[derive(Default)]
struct Open {
    rpc: Option<RpcClient>,
    number: u64,
}

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
    pub(crate) fn new(url: &str) -> Self {
        Link { url: url.into(), open: Mutex::default(), genesis: OnceLock::new() }
    }

    /// Connect now; the hash of the chain's first block. This is tried once: who starts wants to know at once.
    pub(crate) async fn connect(&self) -> Result<Hash, Error> {
        self.connection().await?;
        self.genesis.get().copied().ok_or_else(|| gone("it has no first block"))
    }

    async fn connection(&self) -> Result<(u64, RpcClient), Error> {
        let mut open = self.open.lock().await;
        if let Some(rpc) = &open.rpc {
            return Ok((open.number, rpc.clone()));
        }
        // Plain ws:// is for one's own machine or network; the public endpoints are wss://.
        let dialed = timeout(ANSWER_WITHIN, RpcClient::from_insecure_url(&self.url)).await;
        let rpc = dialed.map_err(|_| gone("no answer"))??;
        let first = timeout(ANSWER_WITHIN, rpc.request::<Hash>("chain_getBlockHash", rpc_params![0])).await;
        let first = first.map_err(|_| gone("no answer"))??;
        // A node with another first block is another chain: nothing that was read before holds there.
        if *self.genesis.get_or_init(|| first) != first {
            let message = format!("{} is another chain now: its first block is {first}", self.url);
            return Err(Error::User(UserError { code: 0, message, data: None }));
        }
        *open = Open { rpc: Some(rpc.clone()), number: open.number + 1 };
        Ok((open.number, rpc))
    }

    /// One attempt on the connection of this moment, which is given up when it is at fault.
    async fn attempt<T>(&self, work: impl AsyncFnOnce(RpcClient) -> Result<T, Error>) -> Result<T, Error> {
        let (number, rpc) = self.connection().await?;
        let result = timeout(ANSWER_WITHIN, work(rpc)).await.unwrap_or_else(|_| Err(gone("no answer")));
        if result.as_ref().is_err_and(lost) {
            let mut open = self.open.lock().await;
            // Another request may have found a new one meanwhile.
            if open.number == number {
                open.rpc = None;
            }
        }
        result
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
