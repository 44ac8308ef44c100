//! The server process: both services, and the clock that makes blocks.

use crate::{NETUID, Place, blocks::Blocks, place_path, root_wallet, rpc, runtime, store};
use record::{Context, Report, cli::note, files};
use std::{net::Ipv4Addr, path::Path, sync::atomic::Ordering, time::Duration};
use tokio::net::TcpListener;

/// The port of an address that was used before.
fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0)
}

/// Ports that no outgoing connection of this machine takes meanwhile: those begin at 32768.
const PORTS: std::ops::Range<u16> = 20000..32000;
/// How long the port of last time is waited for.
const FREE_WITHIN: u32 = 50;

/// The port of last time, so that addresses stay as they are on the chain; otherwise any that is free.
async fn listen(before: u16) -> Result<TcpListener, Report> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if before != 0 {
        for _ in 0..FREE_WITHIN {
            if let Ok(listener) = bind(before).await {
                return Ok(listener);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        note("bz-localnet", format!("port {before} is taken: the addresses change, nodes have to join again"));
    }
    // Networks that start side by side begin to look at different places.
    let first = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    for port in (first..PORTS.end).chain(PORTS.start..first) {
        if let Ok(listener) = bind(port).await {
            return Ok(listener);
        }
    }
    bind(0).await.config("no free port on loopback")
}

/// Serve until told to stop.
///
/// # Errors
/// When the folder, a port or the chain's log cannot be used.
pub fn serve(dir: &Path, interval: f64, finality: usize) -> Result<(), Report> {
    crate::check_interval(interval)?;
    runtime::SLOT_MS.store((interval * 1e3) as u64, Ordering::Relaxed);
    files::create_dir(dir)?;
    let _lock = files::lock(&dir.join("lock"))
        .map_err(|e| e.hint(format!("a network runs in {} already: bz-localnet status", dir.display())))?;
    let root = root_wallet(dir);
    root.create()?;
    let account = root.open_coldkey()?.hotkey();
    let mut chain = Blocks::open(&dir.join("chain"), &account.0)?;
    chain.finality = finality;
    let service = store::service(&dir.join("buckets"), store::Keys::new(dir.join("keys.json")))?;
    let before: Option<Place> = files::read_json(&place_path(dir)).ok();
    let ports = before.map_or((0, 0), |place| (port_of(&place.chain), port_of(&place.store)));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.config("cannot start a runtime")?.block_on(async {
        let (rpc_listener, store_listener) = (listen(ports.0).await?, listen(ports.1).await?);
        let port = |listener: &TcpListener| listener.local_addr().map(|a| a.port()).config("no port");
        let place = Place {
            pid: std::process::id(),
            chain: format!("ws://127.0.0.1:{}", port(&rpc_listener)?),
            store: format!("http://127.0.0.1:{}", port(&store_listener)?),
            netuid: NETUID,
            interval_s: interval,
            finality,
        };
        let node = std::sync::Arc::new(rpc::Node::new(chain));
        let module = rpc::module(node.clone()).config("the RPC methods")?;
        // The server runs as long as the process: nobody stops it before.
        let (stop, _running) = jsonrpsee::server::stop_channel();
        tokio::spawn(rpc::serve(rpc_listener, module, stop));
        tokio::spawn(store::serve(store_listener, service));
        files::write_json(&place_path(dir), &place)?;
        note("bz-localnet", format!("chain {}, store {}", place.chain, place.store));

        let mut clock = tokio::time::interval(Duration::from_secs_f64(interval));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).config("signals")?;
        loop {
            tokio::select! {
                _ = clock.tick() => if node.runs() { node.make()?; },
                _ = stop.recv() => return Ok(()),
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    })
}
