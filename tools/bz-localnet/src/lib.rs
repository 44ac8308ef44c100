//! A bucket store and a chain on loopback, for one machine: what the network is made of, without an account.
//!
//! The chain is FRAME pallets run natively behind the JSON-RPC of a node, with Subtensor's names, indices and errors;
//! the store is S3. Both keep all they have in one folder and survive a kill.
#![recursion_limit = "512"]
#![allow(missing_docs, reason = "FRAME's macros make public items of their own")]

pub mod admin;
pub mod apis;
pub mod blocks;
pub mod commitments;
pub mod drand;
pub mod rpc;
pub mod runtime;
mod serve;
pub mod store;
pub mod subtensor;
pub mod yuma;

use chain::{Call, Chain, ChainArgs, Signer};
use record::{Context, Hotkey, Report, files};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use subxt::dynamic::Value;
use wallet::WalletArgs;

/// A bucket store and a chain on this machine.
#[derive(clap::Parser)]
#[command(name = "bz-localnet", version, after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Action,
    /// Folder of everything it keeps
    #[arg(long, env = "BZ_LOCALNET", value_name = "DIR", default_value = "target/localnet", global = true)]
    dir: PathBuf,
}

const HELP: &str = "\
Examples:
  bz-localnet up --interval 1                 start it; a block a second
  bz-localnet join alice                      a wallet, a bucket, a key, a place in the subnet
  bz-localnet join vera --stake 1000          the same, with stake enough to validate
  bz-localnet status | jq .chain              where is the chain?
  bz-localnet faucet 5F3s… --tao 10           send TAO to an address
  bz-localnet new-block 20                    make blocks now
  bz-localnet set commit_reveal_weights_enabled false
  bz-localnet join crowd --count 250          many nodes at once
  bz-localnet fault stall 60                  no blocks for a minute; see fault --help for others
  bz-localnet down                            stop it; `up` goes on from the same block

What join prints are settings for .env: source them, and every bz- tool is that node.
See also: bz-chain, bz-window, pipelines/localnet.sh";

#[derive(clap::Subcommand)]
enum Action {
    /// Start the store and the chain in the background
    #[command(after_help = "\
Examples:
  bz-localnet up --interval 0.25                      four blocks a second
  bz-localnet up --finality 5                         a block is final when five stand on it: a fork can take them back
  bz-localnet up                                      as it was; on a running network nothing changes")]
    Up {
        /// Seconds between two blocks [default: 1, or as before]
        #[arg(long, value_name = "S")]
        interval: Option<f64>,
        /// A block is final when so many stand on it [default: 0, or as before]
        #[arg(long, value_name = "N")]
        finality: Option<usize>,
    },
    /// Run them in the foreground (what `up` starts)
    Serve {
        #[arg(long, value_name = "S", default_value_t = 1.0)]
        interval: f64,
        #[arg(long, value_name = "N", default_value_t = 0)]
        finality: usize,
    },
    /// Stop them
    Down,
    /// Print where they are and how far the chain is
    Status,
    /// Send TAO from the chain's root account to an address
    Faucet {
        /// ss58 address
        to: Hotkey,
        /// How much
        #[arg(long, default_value_t = 100.0)]
        tao: f64,
    },
    /// Make blocks at once
    NewBlock {
        /// How many
        #[arg(default_value_t = 1)]
        count: u64,
    },
    /// Let something go wrong
    #[command(after_help = FAULTS)]
    Fault {
        #[command(subcommand)]
        fault: Fault,
    },
    /// Set one of the subnet's hyperparameters, as its owner or root would
    Set {
        /// Its name in AdminUtils, after sudo_set_: tempo, commit_reveal_weights_enabled, weights_set_rate_limit …
        name: String,
        /// A number, true or false
        value: String,
    },
    /// Make a node: wallet, TAO, place in the subnet, bucket, key; print its settings
    #[command(after_help = "\
Examples:
  bz-localnet join alice > alice.env                  a miner; `set -a; . ./alice.env` and every bz- tool is it
  bz-localnet join vera --stake 1000                  a validator, from the next epoch on
  bz-localnet join crowd --count 250                  crowd-1 to crowd-250, side by side")]
    Join {
        /// Name of its wallet and bucket, 3 to 40 of a-z 0-9 -
        name: String,
        /// TAO to stake, for a validator
        #[arg(long, default_value_t = 0.0)]
        stake: f64,
        /// Make so many, NAME-1 NAME-2 …, side by side
        #[arg(long, value_name = "N")]
        count: Option<u16>,
    },
}

const FAULTS: &str = "\
Examples:
  bz-localnet fault stall 60                          no blocks for a minute; `stall 0` ends it, `new-block` makes some in it
  bz-localnet fault fork 3                            the last three blocks are made anew, without what was in them
  bz-localnet fault refuse 1                          the next transaction is refused
  kill -9 $(bz-localnet status | jq .pid)             the node dies; `up` goes on from the same block";

#[derive(clap::Subcommand)]
enum Fault {
    /// Make no blocks for a while
    Stall {
        /// Seconds
        seconds: f64,
    },
    /// Take back the last blocks and make others; they must not be final (up --finality)
    Fork {
        /// How many
        blocks: u64,
    },
    /// Take no transaction for a while
    Refuse {
        /// So many, one after another
        transactions: u64,
    },
}

/// Where a network is, in `localnet.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Process id of the server.
    pub pid: u32,
    /// Address of the chain.
    pub chain: String,
    /// Address of the store.
    pub store: String,
    /// The subnet.
    pub netuid: u16,
    /// Seconds between two blocks.
    pub interval_s: f64,
    /// A block is final when so many stand on it.
    #[serde(default)]
    pub finality: usize,
}

/// The subnet that is made at the first start; 0 is the root network.
const NETUID: u16 = 1;
/// A TAO has so many rao.
const RAO: f64 = 1e9;

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args) -> Result<(), Report> {
    let dir = &args.dir;
    match args.command {
        Action::Up { interval, finality } => up(dir, interval, finality),
        Action::Serve { interval, finality } => serve::serve(dir, interval, finality),
        Action::Down => down(dir),
        Action::Status => status(dir),
        Action::Faucet { to, tao } => faucet(dir, to, tao),
        Action::NewBlock { count } => new_block(dir, count),
        Action::Set { name, value } => set(dir, &name, &value),
        Action::Fault { fault } => match fault {
            Fault::Stall { seconds } => go_wrong(dir, serde_json::json!({"stall_s": seconds})),
            Fault::Fork { blocks } => go_wrong(dir, serde_json::json!({"fork": blocks})),
            Fault::Refuse { transactions } => go_wrong(dir, serde_json::json!({"refuse": transactions})),
        },
        Action::Join { name, stake, count: None } => join(dir, &name, stake),
        Action::Join { name, stake, count: Some(count) } => join_all(dir, &name, stake, count),
    }
}

fn place_path(dir: &Path) -> PathBuf {
    dir.join("localnet.json")
}

fn running(dir: &Path) -> Result<Place, Report> {
    let path = place_path(dir);
    let hint = format!("start it: bz-localnet up --dir {}", dir.display());
    if !path.exists() {
        return Err(Report::no(format!("there is no network in {}", dir.display())).hint(hint));
    }
    let place: Place = files::read_json(&path)?;
    // The server holds this lock as long as it lives, however it ends.
    match files::lock(&dir.join("lock")) {
        Ok(_) => Err(Report::no(format!("the network in {} is not running", dir.display())).hint(hint)),
        Err(_) => Ok(place),
    }
}

fn connect(place: &Place) -> Result<Chain, Report> {
    Chain::connect(&ChainArgs { network: vec![place.chain.clone()], netuid: place.netuid, mechanism: 0 })
}

fn root_wallet(dir: &Path) -> WalletArgs {
    WalletArgs {
        name: "root".into(),
        hotkey: "default".into(),
        wallet_path: Some(dir.join("wallets")),
        password_file: None,
    }
}

fn up(dir: &Path, interval: Option<f64>, finality: Option<usize>) -> Result<(), Report> {
    let before: Option<Place> = files::read_json(&place_path(dir)).ok();
    let as_before = before.map_or((1.0, 0), |place| (place.interval_s, place.finality));
    let (interval, finality) = (interval.unwrap_or(as_before.0), finality.unwrap_or(as_before.1));
    if !(0.05..=3600.0).contains(&interval) {
        return Err(Report::usage(format!("--interval {interval}: 0.05 to 3600 seconds")));
    }
    let since = Instant::now();
    while let Ok(place) = running(dir) {
        // One that was just killed still holds its lock for a moment, and answers no more.
        if connect(&place).is_ok() {
            if (place.interval_s, place.finality) != (interval, finality) {
                record::cli::note(
                    "bz-localnet",
                    "it runs already, and goes on as it is: `down`, then `up` with the new settings",
                );
            }
            return record::cli::print_json(&place);
        }
        if since.elapsed() > Duration::from_secs(30) {
            return Err(Report::again(format!("process {} holds {} and does not answer", place.pid, dir.display()))
                .hint(format!("kill -9 {} loses nothing; then run this again", place.pid)));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    files::create_dir(dir)?;
    let own = std::env::current_exe().config("cannot find this program")?;
    let log_path = dir.join("log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.map_err(|e| files::io_report("open", &log_path, &e))?;
    let mut child = Command::new(own)
        .args(["serve", "--interval", &interval.to_string(), "--finality", &finality.to_string(), "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .config("cannot start the server")?;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(120) {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Report::again(format!("the server ended at once ({status})"))
                .hint(format!("why is in {}", log_path.display())));
        }
        if let Ok(place) = running(dir)
            && place.pid == child.id()
            && connect(&place).is_ok()
        {
            set_up_subnet(dir, &place)?;
            return record::cli::print_json(&place);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Report::again("the server did not answer for two minutes").hint(format!("why is in {}", log_path.display())))
}

/// Make the subnet at the first start: short epochs, small minimums; weights by commit and reveal, as everywhere.
fn set_up_subnet(dir: &Path, place: &Place) -> Result<(), Report> {
    let done = dir.join("subnet.json");
    if done.exists() {
        return Ok(());
    }
    let chain = connect(place)?;
    let root = root_wallet(dir);
    let (cold, hot) = (root.open_coldkey()?, root.open()?.hotkey());
    let sign = |message: &[u8]| cold.sign(message);
    let signer = Signer { account: cold.hotkey(), sign: &sign };
    if chain.uid_of(hot)?.is_none() {
        let call = Call::new("SubtensorModule", "register_network", vec![Value::from_bytes(hot.0)]);
        chain.submit(&call, &signer)?;
    }
    let settings = [
        ("weights_set_rate_limit", Value::u128(8)),
        ("min_allowed_weights", Value::u128(1)),
        ("tempo", Value::u128(5)),
        ("max_allowed_uids", Value::u128(256)),
    ];
    for (name, value) in settings {
        sudo_set(&chain, name, value, &signer)?;
    }
    files::write_json(&done, &serde_json::json!({"netuid": place.netuid}))
}

fn sudo_set(chain: &Chain, name: &str, value: Value, signer: &Signer<'_>) -> Result<(), Report> {
    let mut args = vec![Value::u128(chain.subnet.netuid.into()), value];
    // Two are the whole chain's.
    if ["stake_threshold", "commit_reveal_version"].contains(&name) {
        args.remove(0);
    }
    let inner = Value::unnamed_variant(format!("sudo_set_{name}"), args);
    let call = Value::unnamed_variant("AdminUtils", [inner]);
    chain.submit(&Call::new("Sudo", "sudo", vec![call]), signer).map(drop)
}

fn set(dir: &Path, name: &str, value: &str) -> Result<(), Report> {
    let parsed = match value {
        "true" => Value::bool(true),
        "false" => Value::bool(false),
        number => Value::u128(
            number
                .parse()
                .map_err(|_| Report::usage(format!("{number:?} is no value")).hint("a number, true or false"))?,
        ),
    };
    let place = running(dir)?;
    let chain = connect(&place)?;
    let cold = root_wallet(dir).open_coldkey()?;
    let sign = |message: &[u8]| cold.sign(message);
    sudo_set(&chain, name, parsed, &Signer { account: cold.hotkey(), sign: &sign })
        .map_err(|e| e.hint("bz-chain hyperparameters prints what there is"))?;
    record::cli::print_json(&serde_json::json!({"set": name, "value": value}))
}

fn down(dir: &Path) -> Result<(), Report> {
    let Ok(place) = running(dir) else { return Ok(()) };
    let pid = i32::try_from(place.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| Report::data(format!("localnet.json has no process: {}", place.pid)))?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).again("cannot stop the server")?;
    let since = Instant::now();
    while running(dir).is_ok() {
        if since.elapsed() > Duration::from_secs(10) {
            return Err(Report::again(format!("the server {} does not stop", place.pid)).hint("kill -9 loses nothing"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn status(dir: &Path) -> Result<(), Report> {
    let place = running(dir)?;
    let chain = connect(&place)?;
    let block = chain.finalized()?;
    let hash = chain.block_hash(block)?.ok_or_else(|| Report::again("the last block is not there"))?;
    let peers = chain.peers(hash, None)?;
    let mut status = serde_json::to_value(&place).data("status")?;
    status["block"] = block.into();
    status["genesis"] = chain.genesis.to_string().into();
    status["neurons"] = peers.len().into();
    // Transactions that wait for a block, and the last one, final or not.
    let now = chain.fault(&serde_json::json!({}))?;
    (status["waiting"], status["last"]) = (now["waiting"].clone(), now["last"].clone());
    record::cli::print_json(&status)
}

fn pay(dir: &Path, place: &Place, to: Hotkey, tao: f64, nonce: Option<u64>) -> Result<(), Report> {
    if !(1e-6..=1e6).contains(&tao) {
        return Err(Report::usage(format!("{tao} TAO: 0.000001 to 1000000")));
    }
    let chain = connect(place)?;
    let cold = root_wallet(dir).open_coldkey()?;
    let sign = |message: &[u8]| cold.sign(message);
    let signer = Signer { account: cold.hotkey(), sign: &sign };
    let to = Value::unnamed_variant("Id", [Value::from_bytes(to.0)]);
    let args = vec![to, Value::u128((tao * RAO) as u128)];
    let call = Call::new("Balances", "transfer_keep_alive", args);
    // Others may pay from the same account at this moment.
    for _ in 0..PAY_TRIES {
        match chain.submit_as(&call, &signer, nonce) {
            Err(report) if report.code == record::Code::Again => {
                std::thread::sleep(Duration::from_millis(u64::from(std::process::id() % 200)));
            }
            done => return done.map(drop),
        }
    }
    chain.submit(&call, &signer).map(drop)
}

/// A payment that came between is tried so often.
const PAY_TRIES: u32 = 20;
/// Nodes that join side by side.
const SIDE_BY_SIDE: usize = 32;

fn faucet(dir: &Path, to: Hotkey, tao: f64) -> Result<(), Report> {
    let place = running(dir)?;
    pay(dir, &place, to, tao, None)?;
    record::cli::print_json(&serde_json::json!({"to": to.to_string(), "tao": tao}))
}

fn new_block(dir: &Path, count: u64) -> Result<(), Report> {
    let place = running(dir)?;
    let chain = connect(&place)?;
    let block = chain.new_blocks(count)?;
    record::cli::print_json(&serde_json::json!({"block": block}))
}

fn go_wrong(dir: &Path, fault: serde_json::Value) -> Result<(), Report> {
    let then = connect(&running(dir)?)?.fault(&fault)?;
    record::cli::print_json(&serde_json::json!({"fault": fault, "then": then}))
}

/// Many nodes side by side; their settings one after another. All are paid for at once.
fn join_all(dir: &Path, name: &str, stake: f64, count: u16) -> Result<(), Report> {
    let place = running(dir)?;
    let names: Vec<String> = (1..=count).map(|i| format!("{name}-{i}")).collect();
    let (chain, root) = (connect(&place)?, root_wallet(dir).open_coldkey()?.hotkey());
    let mut progress = record::progress::Progress::new(false, "joining", count.into(), "nodes");
    for some in names.chunks(SIDE_BY_SIDE) {
        std::thread::scope(|scope| {
            // All are paid from one account: each payment has its own nonce, and one block takes them all.
            let first = chain.nonce(root)?;
            let new: Vec<&str> = new_among(dir, &chain, some)?;
            let joining: Vec<_> = some
                .iter()
                .map(|name| {
                    let place_of = new.iter().position(|new| new == name);
                    let nonce = place_of.map(|at| first + at as u64);
                    let place = &place;
                    scope.spawn(move || node(dir, place, name, stake, nonce))
                })
                .collect();
            joining.into_iter().try_for_each(|joined| {
                let settings = joined.join().map_err(|_| Report::again("a thread ended"))??;
                progress.advance(1, "");
                say(&format!("{settings}\n"))
            })
        })?;
    }
    Ok(())
}

/// Those that are not registered yet.
fn new_among<'a>(dir: &Path, chain: &Chain, names: &'a [String]) -> Result<Vec<&'a str>, Report> {
    let mut new = Vec::new();
    for name in names {
        let wallet = WalletArgs { name: name.clone(), ..root_wallet(dir) };
        if !wallet.hotkey_path().exists() || chain.uid_of(wallet.public()?)?.is_none() {
            new.push(name.as_str());
        }
    }
    Ok(new)
}

fn join(dir: &Path, name: &str, stake: f64) -> Result<(), Report> {
    say(&node(dir, &running(dir)?, name, stake, None)?)
}

fn say(text: &str) -> Result<(), Report> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Report::output(&e))
}

/// Make a node; its settings. `nonce` is that of the payment.
fn node(dir: &Path, place: &Place, name: &str, stake: f64, nonce: Option<u64>) -> Result<String, Report> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(3..=40).contains(&name.len()) || !name.chars().all(fits) || name == "root" {
        return Err(Report::usage(format!("{name:?}: a node's name is 3 to 40 of a-z 0-9 -, and not root")));
    }
    let wallet = WalletArgs { name: name.into(), ..root_wallet(dir) };
    wallet.create()?;
    let (cold, hot) = (wallet.open_coldkey()?, wallet.open()?);
    let chain = connect(place)?;
    let sign_cold = |message: &[u8]| cold.sign(message);
    let cold_signer = Signer { account: cold.hotkey(), sign: &sign_cold };
    let sign_hot = |message: &[u8]| hot.sign(message);
    let hot_signer = Signer { account: hot.hotkey(), sign: &sign_hot };
    if chain.uid_of(hot.hotkey())?.is_none() {
        pay(dir, place, cold.hotkey(), 1.0 + stake, nonce)?;
        chain.submit(&Call::register(place.netuid, hot.hotkey()), &cold_signer)?;
        if stake > 0.0 {
            let rao = Value::u128((stake * RAO) as u128);
            let args = vec![Value::from_bytes(hot.hotkey().0), Value::u128(place.netuid.into()), rao];
            chain.submit(&Call::new("SubtensorModule", "add_stake", args), &cold_signer)?;
        }
    }
    files::create_dir(&dir.join("buckets").join(name))?;
    let (access, secret) = store::Keys::new(dir.join("keys.json")).of_bucket(name)?;
    let bucket = format!("{}/{name}", place.store);
    chain.submit(&Call::commit_bucket(place.netuid, &bucket)?, &hot_signer)?;
    let wallets = std::fs::canonicalize(dir.join("wallets")).config("the wallets' folder")?;
    let settings = [
        ("BZ_NETWORK", place.chain.clone()),
        ("BZ_NETUID", place.netuid.to_string()),
        ("BT_WALLET_PATH", wallets.display().to_string()),
        ("BT_WALLET_NAME", name.to_string()),
        ("BT_WALLET_HOTKEY", "default".to_string()),
        ("BZ_BUCKET", bucket),
        ("BZ_ACCESS_KEY", access),
        ("BZ_SECRET_KEY", secret),
    ];
    Ok(settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect())
}
