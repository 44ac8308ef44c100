//! The node's JSON-RPC: what subxt and the Python SDK ask of a chain.

use crate::{
    blocks::Blocks,
    guard,
    runtime::{AccountId, Header, Runtime, VERSION},
};
use codec::Encode;
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use jsonrpsee::{
    Methods, RpcModule, SubscriptionMessage,
    core::RegisterMethodError,
    server::{HttpBody, Server, ServerConfig, StopHandle},
    types::{ErrorObjectOwned, Params},
};
use serde_json::{Value, json};
use sp_core::{H256, crypto::Ss58Codec};
use sp_runtime::traits::Header as _;
use sp_state_machine::Backend as _;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::broadcast};

/// What the RPC threads share.
pub struct Node {
    blocks: Mutex<Blocks>,
    /// Numbers of new blocks.
    pub heads: broadcast::Sender<usize>,
    metadata: String,
}

impl Node {
    /// A node over a chain.
    pub fn new(blocks: Blocks) -> Self {
        let metadata = hex(&Vec::<u8>::from(Runtime::metadata()));
        Node { blocks: Mutex::new(blocks), heads: broadcast::channel(1024).0, metadata }
    }

    /// The chain; a panic inside the runtime does not lock it for ever.
    pub fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Make a block and tell those who watch.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn make(&self) -> Result<usize, record::Report> {
        let number = self.blocks().make()?;
        // Nobody watching is no error.
        let _ = self.heads.send(number);
        Ok(number)
    }

    /// See [`Blocks::fork`].
    ///
    /// # Errors
    /// When a block is final, or the disk refuses.
    pub fn fork(&self, depth: usize) -> Result<Vec<String>, record::Report> {
        let forked = self.blocks().fork(depth)?;
        let _ = self.heads.send(forked.last);
        Ok(forked.calls)
    }

    /// Whether blocks are made now.
    pub fn runs(&self) -> bool {
        self.blocks().faults.stalled.is_none_or(|until| until <= Instant::now())
    }
}

/// Clients at once.
const CONNECTIONS: u32 = 1024;

/// Serve connections for ever.
pub async fn serve(listener: TcpListener, module: RpcModule<Node>, stop: StopHandle) {
    let config = ServerConfig::builder().max_connections(CONNECTIONS).build();
    let builder = Server::builder().set_config(config).to_service_builder();
    let methods: Methods = module.into();
    let server = Arc::new(auto::Builder::new(TokioExecutor::new()));
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        // Small answers at once.
        let _ = socket.set_nodelay(true);
        let (builder, methods, stop, server) = (builder.clone(), methods.clone(), stop.clone(), server.clone());
        tokio::spawn(async move {
            let handler = service_fn(move |request: hyper::Request<Incoming>| {
                let refused = guard::refusal(request.headers(), request.uri());
                let service = TowerToHyperService::new(builder.clone().build(methods.clone(), stop.clone()));
                async move {
                    let Some(why) = refused else {
                        return service.call(request).await.map_err(|error| std::io::Error::other(error.to_string()));
                    };
                    let mut answer = hyper::Response::new(HttpBody::from(why));
                    *answer.status_mut() = hyper::StatusCode::FORBIDDEN;
                    Ok::<_, std::io::Error>(answer)
                }
            });
            // A connection that breaks is its client's affair.
            let _ = server.serve_connection_with_upgrades(TokioIo::new(socket), handler).await;
        });
    }
}

/// A transaction is looked for so many blocks before the last final one.
const LOOK_BACK: usize = 64;

type Answer = Result<Value, ErrorObjectOwned>;

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn refuse(why: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(1010, why, None::<()>)
}

/// As nodes answer to parameters that are none.
fn invalid(why: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(-32602, "Invalid params", Some(why.into()))
}

/// As nodes answer to a transaction that they do not take.
fn not_taken(why: String) -> ErrorObjectOwned {
    match why.as_str() {
        "Transaction is temporarily banned" => ErrorObjectOwned::owned(1012, why, None::<()>),
        _ => ErrorObjectOwned::owned(1010, "Invalid Transaction", Some(why)),
    }
}

fn header_json(header: &Header) -> Value {
    let logs: Vec<String> = header.digest().logs.iter().map(|log| hex(&log.encode())).collect();
    json!({
        "parentHash": hex(header.parent_hash().as_ref()),
        "number": format!("0x{:x}", header.number()),
        "stateRoot": hex(header.state_root().as_ref()),
        "extrinsicsRoot": hex(header.extrinsics_root().as_ref()),
        "digest": {"logs": logs},
    })
}

/// The parameters of a call, read by place.
struct Args(Vec<Value>);

impl Args {
    fn new(params: &Params<'_>) -> Self {
        Args(params.parse().unwrap_or_default())
    }
    fn text(&self, place: usize) -> Option<&str> {
        self.0.get(place).and_then(Value::as_str)
    }
    fn bytes(&self, place: usize) -> Result<Vec<u8>, ErrorObjectOwned> {
        let text = self.text(place).unwrap_or_default();
        hex::decode(text.trim_start_matches("0x")).map_err(|e| refuse(format!("parameter {place}: {e}")))
    }
    fn block(&self, place: usize, blocks: &Blocks) -> Result<usize, ErrorObjectOwned> {
        let hash = match self.0.get(place) {
            None | Some(Value::Null) => None,
            Some(value) => Some(hash_of(value)?),
        };
        blocks.find(hash).ok_or_else(|| refuse("Unknown Block"))
    }
}

/// A hash, with the `0x` that some nodes ask for and others do not: whoever leaves it out is told so here.
fn hash_of(value: &Value) -> Result<H256, ErrorObjectOwned> {
    let digits =
        value.as_str().and_then(|text| text.strip_prefix("0x")).ok_or_else(|| invalid("a hash begins with 0x"))?;
    let mut hash = [0u8; 32];
    hex::decode_to_slice(digits, &mut hash).map_err(|e| invalid(format!("a hash has 64 digits: {e}")))?;
    Ok(H256::from(hash))
}

fn pruned(number: usize) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(4003, format!("State already discarded for block {number}"), None::<()>)
}

fn method(
    module: &mut RpcModule<Node>,
    name: &'static str,
    answer: impl Fn(&Args, &Node) -> Answer + Send + Sync + 'static,
) -> Result<(), RegisterMethodError> {
    module.register_method(name, move |params, node, _| answer(&Args::new(&params), node)).map(drop)
}

/// All methods.
///
/// # Errors
/// When a name is there twice.
pub fn module(node: Arc<Node>) -> Result<RpcModule<Node>, RegisterMethodError> {
    let mut module = RpcModule::from_arc(node);
    let m = &mut module;
    method(m, "system_chain", |_, _| Ok(json!("Boltzmann localnet")))?;
    method(m, "system_name", |_, _| Ok(json!("bz-localnet")))?;
    method(m, "system_version", |_, _| Ok(json!(env!("CARGO_PKG_VERSION"))))?;
    method(m, "system_health", |_, _| Ok(json!({"peers": 0, "isSyncing": false, "shouldHavePeers": false})))?;
    method(m, "system_properties", |_, _| Ok(json!({"ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO"})))?;
    method(m, "state_getRuntimeVersion", |_, _| Ok(version_json()))?;
    method(m, "state_getMetadata", |_, node| Ok(json!(node.metadata)))?;
    chain_methods(m)?;
    state_methods(m)?;
    author_methods(m)?;
    subscriptions(m)?;
    m.register_alias("chain_getHead", "chain_getBlockHash")?;
    m.register_alias("chain_getFinalisedHead", "chain_getFinalizedHead")?;
    m.register_alias("state_getStorageAt", "state_getStorage")?;
    m.register_alias("account_nextIndex", "system_accountNextIndex")?;
    let names: Vec<&'static str> = m.method_names().collect();
    m.register_method("rpc_methods", move |_, _, _| json!({"methods": names}))?;
    Ok(module)
}

fn version_json() -> Value {
    let apis: Vec<Value> = VERSION.apis.iter().map(|(id, version)| json!([hex(id), version])).collect();
    json!({
        "specName": VERSION.spec_name,
        "implName": VERSION.impl_name,
        "authoringVersion": VERSION.authoring_version,
        "specVersion": VERSION.spec_version,
        "implVersion": VERSION.impl_version,
        "apis": apis,
        "transactionVersion": VERSION.transaction_version,
        "stateVersion": 1,
    })
}

fn chain_methods(m: &mut RpcModule<Node>) -> Result<(), RegisterMethodError> {
    method(m, "chain_getBlockHash", |args, node| {
        let blocks = node.blocks();
        let number = match args.0.first() {
            None | Some(Value::Null) => Some(blocks.last()),
            Some(Value::Number(n)) => n.as_u64().map(|n| n as usize),
            Some(Value::String(s)) => usize::from_str_radix(s.trim_start_matches("0x"), 16).ok(),
            Some(_) => None,
        };
        let hash = number.and_then(|n| blocks.hash(n));
        Ok(hash.map_or(Value::Null, |hash| json!(hex(hash.as_ref()))))
    })?;
    method(m, "chain_getFinalizedHead", |_, node| {
        let blocks = node.blocks();
        Ok(blocks.hash(blocks.finalized()).map_or(Value::Null, |hash| json!(hex(hash.as_ref()))))
    })?;
    method(m, "chain_getHeader", |args, node| {
        let blocks = node.blocks();
        let number = args.block(0, &blocks)?;
        Ok(blocks.history.get(number).map_or(Value::Null, |block| header_json(&block.header)))
    })?;
    method(m, "chain_getBlock", |args, node| {
        let blocks = node.blocks();
        let number = args.block(0, &blocks)?;
        let block = blocks.history.get(number).ok_or_else(|| refuse("Unknown Block"))?;
        let extrinsics: Vec<String> = block.extrinsics.iter().map(|x| hex(x)).collect();
        Ok(json!({
            "block": {"header": header_json(&block.header), "extrinsics": extrinsics},
            "justifications": null,
        }))
    })?;
    method(m, "dev_newBlock", |args, node| {
        let asked = args.0.first().map_or(Some(1), |value| value.get("count").unwrap_or(value).as_u64());
        let count = asked.filter(|count| (1..=MOST_BLOCKS).contains(count));
        let count = count.ok_or_else(|| invalid(format!("1 to {MOST_BLOCKS} blocks in one call")))?;
        let mut last = 0;
        for _ in 0..count {
            last = node.make().map_err(|e| refuse(e.to_string()))?;
        }
        Ok(json!(last))
    })?;
    method(m, "dev_fault", |args, node| {
        let ask = args.0.first().cloned().unwrap_or_else(|| json!({}));
        let ask = ask.as_object().ok_or_else(|| invalid("a fault is an object"))?;
        // All of it is read before any of it is done.
        let faults = ask.iter().map(|(name, value)| Fault::read(name, value)).collect::<Result<Vec<_>, _>>()?;
        let (mut calls, mut paid) = (Vec::new(), None);
        for fault in faults {
            match fault {
                Fault::Stall(time) => node.blocks().faults.stalled = Some(Instant::now() + time),
                Fault::Refuse(count) => node.blocks().faults.refuse = count,
                Fault::Fork(depth) => calls = node.fork(depth).map_err(|e| refuse(e.error))?,
                Fault::Pay { name, to, rao } => {
                    paid = Some(match node.blocks().pay(name, to, rao) {
                        Ok(block) => json!({"block": block}),
                        Err(why) => json!({"refused": why}),
                    });
                }
            }
        }
        let blocks = node.blocks();
        Ok(json!({"last": blocks.last(), "waiting": blocks.waiting(), "retracted": calls, "paid": paid}))
    })
}

/// So many blocks are made in one call.
pub const MOST_BLOCKS: u64 = 10_000;
/// No stall is longer, in seconds.
pub const LONGEST_STALL: f64 = 86_400.0;
/// No more transactions are refused.
pub const MOST_REFUSED: u64 = 1_000_000;

/// What is asked of `dev_fault`; a payment comes by the same way, since clients have no other to what a node of
/// Bittensor lacks.
enum Fault {
    /// No blocks for so long.
    Stall(Duration),
    /// So many transactions are refused.
    Refuse(u64),
    /// So many blocks are taken back.
    Fork(usize),
    /// The root account pays.
    Pay { name: H256, to: AccountId, rao: u64 },
}

impl Fault {
    fn read(name: &str, value: &Value) -> Result<Self, ErrorObjectOwned> {
        let fits = |ok: bool, range: &str| if ok { Ok(()) } else { Err(invalid(format!("{name} {value}: {range}"))) };
        let number = value.as_u64();
        match name {
            "stall_s" => {
                let seconds = value.as_f64().unwrap_or(f64::NAN);
                fits((0.0..=LONGEST_STALL).contains(&seconds), "0 to 86400 seconds")?;
                Ok(Fault::Stall(Duration::from_secs_f64(seconds)))
            }
            "refuse" => {
                fits(number.is_some_and(|count| count <= MOST_REFUSED), "0 to 1000000 transactions")?;
                Ok(Fault::Refuse(number.unwrap_or_default()))
            }
            "fork" => {
                fits(number.is_some_and(|depth| depth > 0), "one block at least")?;
                Ok(Fault::Fork(number.and_then(|depth| depth.try_into().ok()).unwrap_or(usize::MAX)))
            }
            "pay" => {
                let rao = value.get("rao").and_then(Value::as_u64);
                fits(rao.is_some(), "a payment has name, to, rao")?;
                let part = |part: &str| hash_of(value.get(part).unwrap_or(&Value::Null));
                Ok(Fault::Pay { name: part("name")?, to: AccountId::from(part("to")?.0), rao: rao.unwrap_or_default() })
            }
            _ => Err(invalid(format!("{name:?}: stall_s, refuse, fork or pay"))),
        }
    }
}

fn state_methods(m: &mut RpcModule<Node>) -> Result<(), RegisterMethodError> {
    method(m, "state_call", |args, node| {
        let blocks = node.blocks();
        let number = args.block(2, &blocks)?;
        let name = args.text(0).unwrap_or_default();
        // As nodes say it: it is no fault of the call that the state is gone.
        blocks.state(number).ok_or_else(|| pruned(number))?;
        let result = blocks.call(number, name, &args.bytes(1)?);
        result.map(|bytes| json!(hex(&bytes))).ok_or_else(|| refuse(format!("{name} failed at block {number}")))
    })?;
    method(m, "state_getStorage", |args, node| {
        let blocks = node.blocks();
        let number = args.block(1, &blocks)?;
        let state = blocks.state(number).ok_or_else(|| pruned(number))?;
        let value = state.storage(&args.bytes(0)?).map_err(refuse)?;
        Ok(value.map_or(Value::Null, |value| json!(hex(&value))))
    })?;
    method(m, "state_getKeysPaged", |args, node| {
        let blocks = node.blocks();
        let number = args.block(3, &blocks)?;
        let state = blocks.state(number).ok_or_else(|| pruned(number))?;
        let prefix = args.bytes(0)?;
        let count = args.0.get(1).and_then(Value::as_u64).unwrap_or(100).min(1000) as usize;
        let start = if args.text(2).is_some() { Some(args.bytes(2)?) } else { None };
        let mut keys = Vec::new();
        if start.is_none() && state.storage(&prefix).map_err(refuse)?.is_some() {
            keys.push(hex(&prefix));
        }
        let mut key = start.unwrap_or_else(|| prefix.clone());
        while keys.len() < count {
            match state.next_storage_key(&key).map_err(refuse)? {
                Some(next) if next.starts_with(&prefix) => {
                    keys.push(hex(&next));
                    key = next;
                }
                _ => break,
            }
        }
        Ok(json!(keys))
    })?;
    method(m, "state_queryStorageAt", |args, node| {
        let blocks = node.blocks();
        let number = args.block(1, &blocks)?;
        let state = blocks.state(number).ok_or_else(|| pruned(number))?;
        let keys = args.0.first().and_then(Value::as_array).cloned().unwrap_or_default();
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let bytes = hex::decode(key.as_str().unwrap_or_default().trim_start_matches("0x"));
            let value = state.storage(&bytes.map_err(|e| refuse(e.to_string()))?).map_err(refuse)?;
            changes.push(json!([key, value.map(|value| hex(&value))]));
        }
        let hash = blocks.hash(number).unwrap_or_default();
        Ok(json!([{"block": hex(hash.as_ref()), "changes": changes}]))
    })
}

fn author_methods(m: &mut RpcModule<Node>) -> Result<(), RegisterMethodError> {
    method(m, "system_accountNextIndex", |args, node| {
        let account = AccountId::from_ss58check(args.text(0).unwrap_or_default());
        let account = account.map_err(|e| refuse(format!("not an ss58 address: {e:?}")))?;
        node.blocks().next_nonce(&account).map(|nonce| json!(nonce)).ok_or_else(|| refuse("no nonce"))
    })?;
    method(m, "author_submitExtrinsic", |args, node| {
        let extrinsic = args.bytes(0)?;
        let hash = sp_crypto_hashing::blake2_256(&extrinsic);
        node.blocks().submit(extrinsic).map(|()| json!(hex(&hash))).map_err(not_taken)
    })?;
    m.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        |params, pending, node, _| async move {
            let extrinsic = match Args::new(&params).bytes(0) {
                Ok(extrinsic) => extrinsic,
                Err(error) => {
                    pending.reject(error).await;
                    return Ok(());
                }
            };
            // Listen before it is sent, so that its block is not missed.
            let mut heads = node.heads.subscribe();
            let submitted = node.blocks().submit(extrinsic.clone());
            if let Err(error) = submitted {
                pending.reject(not_taken(error)).await;
                return Ok(());
            }
            let sink = pending.accept().await?;
            sink.send(message(&json!("ready"))?).await?;
            let mut block: Option<(usize, sp_core::H256)> = None;
            loop {
                match heads.recv().await {
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
                let (found, waits, finalized) = {
                    let blocks = node.blocks();
                    let from = blocks
                        .finalized()
                        .min(block.map_or(usize::MAX, |(number, _)| number))
                        .saturating_sub(LOOK_BACK);
                    let has =
                        |number: &usize| blocks.history.get(*number).is_some_and(|b| b.extrinsics.contains(&extrinsic));
                    let number = (from..=blocks.last()).rev().find(has);
                    let found = number.and_then(|number| Some((number, blocks.hash(number)?)));
                    (found, blocks.waits(&extrinsic), blocks.finalized())
                };
                if found != block {
                    if let Some((_, hash)) = block {
                        sink.send(message(&json!({"retracted": hex(hash.as_ref())}))?).await?;
                    }
                    if let Some((_, hash)) = found {
                        sink.send(message(&json!({"inBlock": hex(hash.as_ref())}))?).await?;
                    }
                    block = found;
                }
                match block {
                    Some((number, hash)) if number <= finalized => {
                        sink.send(message(&json!({"finalized": hex(hash.as_ref())}))?).await?;
                        return Ok(());
                    }
                    // Another one took its nonce.
                    None if !waits => {
                        sink.send(message(&json!("invalid"))?).await?;
                        return Ok(());
                    }
                    _ => {}
                }
            }
            Ok::<(), jsonrpsee::core::SubscriptionError>(())
        },
    )?;
    Ok(())
}

fn message(value: &Value) -> Result<SubscriptionMessage, serde_json::Error> {
    serde_json::value::to_raw_value(value).map(SubscriptionMessage::from)
}

fn subscriptions(m: &mut RpcModule<Node>) -> Result<(), RegisterMethodError> {
    for (subscribe, notify, unsubscribe, final_only) in [
        ("chain_subscribeNewHeads", "chain_newHead", "chain_unsubscribeNewHeads", false),
        ("chain_subscribeAllHeads", "chain_allHead", "chain_unsubscribeAllHeads", false),
        ("chain_subscribeFinalizedHeads", "chain_finalizedHead", "chain_unsubscribeFinalizedHeads", true),
    ] {
        m.register_subscription(subscribe, notify, unsubscribe, move |_, pending, node, _| async move {
            let mut heads = node.heads.subscribe();
            let tip = |blocks: &Blocks| if final_only { blocks.finalized() } else { blocks.last() };
            let header = |blocks: &Blocks, number: usize| {
                blocks.history.get(number).map(|block| (block.hash, header_json(&block.header)))
            };
            let mut told = {
                let blocks = node.blocks();
                header(&blocks, tip(&blocks)).map(|(hash, json)| (tip(&blocks), hash, json))
            };
            let sink = pending.accept().await?;
            if let Some((.., json)) = &told {
                sink.send(message(json)?).await?;
            }
            loop {
                match heads.recv().await {
                    // A slow reader misses heads; it is told the next ones.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
                let new: Vec<_> = {
                    let blocks = node.blocks();
                    let tip = tip(&blocks);
                    // After a fork the new blocks are told from where it begins.
                    let known = told.as_ref().map_or(tip, |(number, hash, _)| {
                        let same = blocks.hash(*number) == Some(*hash);
                        if same { *number + 1 } else { number.min(&tip).saturating_sub(blocks.finality) }
                    });
                    (known..=tip).filter_map(|n| header(&blocks, n).map(|(hash, json)| (n, hash, json))).collect()
                };
                for head in new {
                    sink.send(message(&head.2)?).await?;
                    told = Some(head);
                }
            }
            Ok::<(), jsonrpsee::core::SubscriptionError>(())
        })?;
    }
    m.register_subscription(
        "state_subscribeRuntimeVersion",
        "state_runtimeVersion",
        "state_unsubscribeRuntimeVersion",
        |_, pending, _, _| async move {
            let sink = pending.accept().await?;
            sink.send(message(&version_json())?).await?;
            sink.closed().await;
            Ok::<(), jsonrpsee::core::SubscriptionError>(())
        },
    )?;
    Ok(())
}
