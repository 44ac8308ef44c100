//! The connections to the nodes of one chain: one handshake a node, kept open and used again. A connection that breaks
//! is made anew, here or at the next address, so that a node that restarts costs a pause and no window; one that asks
//! for patience gets it, or another node answers.

use crate::{
    answer::{another_chain, number_of, plain},
    network::shown,
};
use backon::{ExponentialBuilder, Retryable};
use record::{Hash, cli::warn};
use serde_json::value::RawValue;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use subxt::{
    ext::futures::future::{join_all, try_join_all},
    rpcs::{
        Error, RpcClient, UserError,
        client::{RawRpcFuture, RawRpcSubscription, RpcClientT, rpc_params},
    },
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

/// No answer for this long means that the node is gone.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a lost node is looked for, or one that asks for patience is asked again, the waits for its answers apart,
/// before giving up with "try again".
const LOOK_FOR: Duration = Duration::from_secs(60);
/// A question to every node is answered within this time, or without that node.
const SIDE_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A node that did not answer such a question is not asked the next ones for this long.
const AWAY_FOR: Duration = Duration::from_secs(10);
/// A node that is so many blocks behind another one is stale.
pub(crate) const BEHIND: u64 = 10;
/// The code of our own error for a node of another chain.
pub(crate) const OTHER_CHAIN: i32 = 0;

/// Nodes of one chain. One of them is asked; all of them where they have to agree.
pub(crate) struct Link {
    nodes: Vec<Node>,
    /// Which one is asked.
    place: AtomicUsize,
    /// The one node that is asked while a [`Held`] lives, else [`NONE`].
    held: AtomicUsize,
    genesis: OnceLock<Hash>,
}

/// No node's place.
const NONE: usize = usize::MAX;

/// While it lives, one node is asked, once each time, and no other in its place.
pub(crate) struct Held<'a>(&'a Link);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.store(NONE, Ordering::SeqCst);
    }
}

/// A node, connected when it is first needed and again whenever that is needed.
struct Node {
    url: String,
    open: Mutex<Open>,
}

/// The connection of this moment, the how-manieth it is, and since when the node has not answered.
#[derive(Default)]
struct Open {
    rpc: Option<RpcClient>,
    number: u64,
    away: Option<Instant>,
}

fn gone(why: impl Into<String>) -> Error {
    Error::Client(why.into().into())
}

/// Whether the node is one of another chain.
fn is_other_chain(error: &Error) -> bool {
    matches!(error, Error::User(UserError { code: OTHER_CHAIN, .. }))
}

/// Whether the connection is at fault, and not the request.
fn lost(error: &Error) -> bool {
    matches!(error, Error::Client(_) | Error::DisconnectedWillReconnect(_))
}

/// Whether the node says that it was asked too often: the request was not looked at.
fn too_many(error: &Error) -> bool {
    const WORDS: [&str; 5] = ["rate limit", "ratelimit", "too many request", "limit exceeded", "limit reached"];
    match error {
        // HTTP's own code, EIP-1474's, and one that providers use. What a pool says of a transaction has codes above
        // 1000.
        Error::User(UserError { code: 429 | -32005 | -32029, .. }) => true,
        Error::User(UserError { code, message, .. }) => *code < 0 && says(message, &WORDS),
        Error::Client(error) => error.to_string().contains("status code: 429"),
        _ => false,
    }
}

/// Whether the node says that it has too much to do at this moment.
fn overloaded(error: &Error) -> bool {
    const WORDS: [&str; 5] = ["overload", "busy", "at capacity", "try again", "service unavailable"];
    match error {
        Error::User(UserError { code, message, .. }) => *code < 0 && says(message, &WORDS),
        Error::Client(error) => error.to_string().contains("status code: 503"),
        _ => false,
    }
}

fn says(message: &str, words: &[&str]) -> bool {
    let message = message.to_lowercase();
    words.iter().any(|words| message.contains(words))
}

/// Whether the same question may be answered a moment later, or by another node, without a new connection.
fn limited(error: &Error) -> bool {
    too_many(error) || overloaded(error)
}

fn worth_another_try(error: &Error) -> bool {
    lost(error) || limited(error)
}

/// What was sent may have had its effect already: the caller has to look before it is sent again.
fn once_only(method: &str) -> bool {
    method.starts_with("author_") || method.starts_with("dev_")
}

/// When a request of this method is tried again by itself.
fn tried_again(method: &str) -> fn(&Error) -> bool {
    if once_only(method) { too_many } else { worth_another_try }
}

impl Link {
    /// Nodes of the chain with this first block, or, where that is not known yet, of that of the first one that
    /// answers.
    pub(crate) fn new(urls: Vec<String>, genesis: Option<Hash>) -> Self {
        let nodes = urls.into_iter().map(|url| Node { url, open: Mutex::default() }).collect();
        let genesis = genesis.map(OnceLock::from).unwrap_or_default();
        Link { nodes, place: AtomicUsize::new(0), held: AtomicUsize::new(NONE), genesis }
    }

    /// Connect now; the hash of the chain's first block. Each address is tried once, since who starts wants to know at
    /// once; only one that asks for patience is tried again. Of several nodes the first one that is where most are is
    /// taken.
    pub(crate) async fn connect(&self) -> Result<Hash, Error> {
        let connect = || self.connection();
        connect.retry(pauses()).when(limited).notify(say).await?;
        if self.nodes.len() > 1 {
            let heads = self.all_finalized().await;
            // Of three and more, one that says it is far ahead is as suspicious as one that is behind.
            let mut sorted: Vec<u64> = heads.iter().flatten().copied().collect();
            sorted.sort_unstable();
            let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
            let current = |head: &Option<u64>| head.is_some_and(|head| head.abs_diff(usual) <= BEHIND);
            let now = self.place.load(Ordering::SeqCst);
            if let Some(place) = heads.iter().position(current)
                && place != now
            {
                warn(format!("{} is not where the others are: {} is taken", self.shown(now), self.shown(place)));
                self.place.store(place, Ordering::SeqCst);
            }
        }
        self.connection().await?;
        self.genesis.get().copied().ok_or_else(|| gone("it has no first block"))
    }

    /// Ask this node only, until what is returned is dropped.
    pub(crate) fn hold_to(&self, place: usize) -> Held<'_> {
        self.held.store(place, Ordering::SeqCst);
        Held(self)
    }

    fn held(&self) -> Option<usize> {
        Some(self.held.load(Ordering::SeqCst)).filter(|place| *place != NONE)
    }

    pub(crate) fn shown(&self, place: usize) -> String {
        self.nodes.get(place).map_or_else(String::new, |node| shown(&node.url))
    }

    /// How many nodes there are to go to.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The node after this one is asked from now on, unless another request has gone on already.
    fn pass_on(&self, from: usize) -> usize {
        let next = (from + 1) % self.nodes.len().max(1);
        let _ = self.place.compare_exchange(from, next, Ordering::SeqCst, Ordering::SeqCst);
        next
    }

    /// Go on with the next node: this one answers, but is of no use.
    pub(crate) fn leave(&self, why: &str) {
        let place = self.place.load(Ordering::SeqCst);
        let next = self.pass_on(place);
        warn(format!("{} {why}: {} is next", self.shown(place), self.shown(next)));
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

    /// The hash of a block as every node has it: `Some(None)` of one that does not have it, `None` of one that does not
    /// answer.
    pub(crate) async fn all_hashes(&self, block: u64) -> Vec<Option<Option<Hash>>> {
        self.ask_all(async |rpc: RpcClient| rpc.request("chain_getBlockHash", rpc_params![block]).await).await
    }

    /// The same for several blocks at once.
    pub(crate) async fn all_hashes_of(&self, blocks: &[u64]) -> Vec<Option<Vec<Option<Hash>>>> {
        self.ask_all(async |rpc: RpcClient| {
            let one = |block: &u64| rpc.request::<Option<Hash>>("chain_getBlockHash", rpc_params![*block]);
            try_join_all(blocks.iter().map(one)).await
        })
        .await
    }

    /// Ask every node at the same time, each over the connection that it has already.
    async fn ask_all<T>(&self, ask: impl AsyncFn(RpcClient) -> Result<T, Error>) -> Vec<Option<T>> {
        join_all((0..self.nodes.len()).map(|place| self.ask_one(place, &ask))).await
    }

    async fn ask_one<T>(&self, place: usize, ask: &impl AsyncFn(RpcClient) -> Result<T, Error>) -> Option<T> {
        let node = self.nodes.get(place)?;
        let asked = async {
            if node.open.lock().await.away.is_some_and(|since| since.elapsed() < AWAY_FOR) {
                return None;
            }
            // An old connection may have broken off since it was used last: that costs one more dial.
            let (mut dials, mut pause) = (2, Duration::from_millis(200));
            loop {
                let error = match self.connection_to(place).await {
                    Ok((number, rpc)) => match ask(rpc).await {
                        Ok(answer) => return Some(answer),
                        Err(error) => {
                            if lost(&error) {
                                self.forget(place, number).await;
                            }
                            with_reason(error)
                        }
                    },
                    Err(error) => error,
                };
                if limited(&error) {
                    sleep(pause).await;
                    pause = pause.saturating_mul(2);
                } else {
                    dials -= 1;
                    if !lost(&error) || dials == 0 {
                        return None;
                    }
                }
            }
        };
        let answer = timeout(SIDE_ANSWER_WITHIN, asked).await.ok().flatten();
        // The lock may be held by a dial that takes long: then that one knows better.
        if let Ok(mut open) = node.open.try_lock() {
            match (&answer, open.away) {
                (Some(_), _) => open.away = None,
                (None, Some(since)) if since.elapsed() < AWAY_FOR => {}
                (None, _) => open.away = Some(Instant::now()),
            }
        }
        answer
    }

    /// A connection to the node that is asked, or to the next one that can be reached.
    async fn connection(&self) -> Result<(usize, u64, RpcClient), Error> {
        let first = self.place.load(Ordering::SeqCst);
        let mut why = gone("no address");
        for step in 0..self.nodes.len() {
            let place = (first + step) % self.nodes.len();
            match self.connection_to(place).await {
                Ok((number, rpc)) => {
                    let _ = self.place.compare_exchange(first, place, Ordering::SeqCst, Ordering::SeqCst);
                    return Ok((place, number, rpc));
                }
                // One that is away may come back; one of another chain stays what it is.
                Err(error) if step == 0 || is_other_chain(&why) || !is_other_chain(&error) => why = error,
                Err(_) => {}
            }
        }
        Err(why)
    }

    async fn connection_to(&self, place: usize) -> Result<(u64, RpcClient), Error> {
        let node = self.nodes.get(place).ok_or_else(|| gone("no address"))?;
        let mut open = node.open.lock().await;
        if let Some(rpc) = &open.rpc {
            return Ok((open.number, rpc.clone()));
        }
        let rpc = self.dial(&node.url).await?;
        open.rpc = Some(rpc.clone());
        open.number += 1;
        Ok((open.number, rpc))
    }

    /// Give a connection up, unless another request has found a new one meanwhile.
    async fn forget(&self, place: usize, number: u64) {
        if let Some(node) = self.nodes.get(place) {
            let mut open = node.open.lock().await;
            if open.number == number {
                open.rpc = None;
            }
        }
    }

    async fn dial(&self, url: &str) -> Result<RpcClient, Error> {
        // Plain ws:// is for one's own machine or network; the public endpoints are wss://.
        let dialed = timeout(ANSWER_WITHIN, RpcClient::from_insecure_url(url)).await;
        let rpc = dialed.map_err(|_| gone("no answer"))??;
        let first = timeout(ANSWER_WITHIN, rpc.request::<Hash>("chain_getBlockHash", rpc_params![0])).await;
        let first = first.map_err(|_| gone("no answer"))?.map_err(with_reason)?;
        // A node with another first block is another chain: nothing that was read before holds there.
        let genesis = *self.genesis.get_or_init(|| first);
        if genesis != first {
            let message = another_chain(&shown(url), first, genesis);
            return Err(Error::User(UserError { code: OTHER_CHAIN, message, data: None }));
        }
        Ok(rpc)
    }

    /// One attempt at one node, within the time of a question to every node.
    async fn attempt_at<T>(
        &self,
        place: usize,
        work: impl AsyncFnOnce(RpcClient) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let asked = async {
            let (number, rpc) = self.connection_to(place).await?;
            let result = work(rpc).await.map_err(with_reason);
            if result.as_ref().is_err_and(lost) {
                self.forget(place, number).await;
            }
            result
        };
        timeout(SIDE_ANSWER_WITHIN, asked).await.unwrap_or_else(|_| Err(gone("no answer")))
    }

    /// One attempt on the connection of this moment, which is given up when it is at fault. One that asks for patience
    /// is kept, and the next node is asked meanwhile, where there is one.
    async fn attempt<T>(&self, work: impl AsyncFnOnce(RpcClient) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(place) = self.held() {
            return self.attempt_at(place, work).await;
        }
        let (place, number, rpc) = self.connection().await?;
        let result = timeout(ANSWER_WITHIN, work(rpc)).await.unwrap_or_else(|_| Err(gone("no answer")));
        let result = result.map_err(with_reason);
        if result.as_ref().is_err_and(worth_another_try) {
            self.pass_on(place);
        }
        if result.as_ref().is_err_and(lost) {
            self.forget(place, number).await;
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
        let what = if limited(error) { "the node asks for patience" } else { "lost the node, looking for it" };
        warn(format!("{what}: {}", plain(error)));
    }
}

impl RpcClientT for Link {
    fn request_raw<'a>(&'a self, method: &'a str, params: Option<Box<RawValue>>) -> RawRpcFuture<'a, Box<RawValue>> {
        let attempt = move || {
            let params = params.clone();
            self.attempt(async move |rpc| rpc.request_raw(method, params).await)
        };
        Box::pin(async move {
            attempt
                .retry(pauses())
                .when(move |error: &Error| self.held().is_none() && tried_again(method)(error))
                .notify(say)
                .await
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
            attempt
                .retry(pauses())
                .when(move |error: &Error| self.held().is_none() && tried_again(sub)(error))
                .notify(say)
                .await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(code: i32, message: &str) -> Error {
        Error::User(UserError { code, message: message.into(), data: None })
    }

    #[test]
    fn who_asks_for_patience_is_told_from_who_says_no() {
        for error in [
            user(429, "slow down"),
            user(-32005, "daily request count exceeded"),
            user(-32029, "limit"),
            user(-32000, "Too Many Requests"),
            user(-32000, "rate limit of 100/s"),
            user(-32603, "Rate Limit Exceeded"),
            gone("Connection rejected with status code: 429"),
        ] {
            assert!(too_many(&error) && limited(&error), "{error}");
            assert!(tried_again("author_submitExtrinsic")(&error) && tried_again("chain_getHeader")(&error), "{error}");
        }
        for error in [
            user(-32009, "Server is busy, try again later"),
            user(-32603, "the backend is overloaded"),
            gone("Connection rejected with status code: 503"),
        ] {
            assert!(overloaded(&error) && !too_many(&error), "{error}");
            // It may have been sent on before the node said so.
            assert!(
                !tried_again("author_submitExtrinsic")(&error) && tried_again("chain_getHeader")(&error),
                "{error}"
            );
        }
        for error in [
            user(1010, "Invalid Transaction: Custom error: rate limit"),
            user(-32603, "Internal error"),
            user(-32601, "Method not found"),
            user(4003, "State already discarded for block 7"),
            user(OTHER_CHAIN, "it is another chain"),
        ] {
            assert!(!worth_another_try(&error), "{error}");
        }
        // What is said beside the name of the error counts.
        let data = RawValue::from_string("\"too many requests\"".into()).unwrap();
        let error = Error::User(UserError { code: -32603, message: "Internal error".into(), data: Some(data) });
        assert!(too_many(&with_reason(error)));
    }

    /// The words of a refused handshake are those of another crate: this holds them against it.
    #[tokio::test]
    async fn a_handshake_that_is_refused_by_429_is_known() {
        use std::io::{Read, Write};
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", server.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in server.incoming().take(2) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let error = RpcClient::from_insecure_url(&url).await.unwrap_err();
        assert!(too_many(&error) && lost(&error), "{error}");
    }
}
