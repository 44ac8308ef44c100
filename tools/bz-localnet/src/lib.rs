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
pub mod faucet;
mod guard;
mod history;
mod nodes;
pub mod rpc;
pub mod runtime;
mod serve;
mod settings;
mod snapshot;
pub mod store;
pub mod subtensor;
pub mod yuma;

use chain::{Chain, ChainArgs};
use nodes::{Share, Stakes, amount};
use record::{Context, Hotkey, Report, files};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value as Json, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
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
  bz-localnet join rosa --root-stake 1000     stake in the root network, which counts by TaoWeight
  bz-localnet children vera alice=0.25        a quarter of vera's stake counts as alice's
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
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
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
        /// Its name in AdminUtils, after sudo_set_: tempo, commit_reveal_weights_enabled, weights_set_rate_limit …; or
        /// tao_weight, what stake in the root network counts, of 2^64; or max_space, the bytes that a hotkey may commit in
        /// an epoch
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
        /// TAO to stake in the subnet, for a validator
        #[arg(long, value_name = "TAO", default_value_t = 0.0)]
        stake: f64,
        /// TAO to stake in the root network
        #[arg(long, value_name = "TAO", default_value_t = 0.0)]
        root_stake: f64,
        /// Make so many, NAME-1 NAME-2 …, side by side
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        count: Option<u16>,
    },
    /// Let shares of a node's stake in the subnet count as others', in place of those before
    #[command(after_help = "\
Examples:
  bz-localnet children vera alice=0.25 bob=0.5        a quarter and a half; the last quarter stays vera's
  bz-localnet children vera                           all of it is vera's again")]
    Children {
        /// The node whose stake it is
        name: String,
        /// A node, or an ss58 address, and its share, 0 to 1
        #[arg(value_name = "CHILD=SHARE")]
        children: Vec<Share>,
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

/// A command's fields, in the order in which they stand here.
struct Fields<'a>(Vec<(&'a str, Json)>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn print(kind: &str, fields: Vec<(&str, Json)>) -> Result<(), Report> {
    record::cli::print_record(kind, &Fields(fields))
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

impl Place {
    fn fields(&self) -> Vec<(&'static str, Json)> {
        vec![
            ("pid", json!(self.pid)),
            ("chain", json!(self.chain)),
            ("store", json!(self.store)),
            ("netuid", json!(self.netuid)),
            ("interval_s", json!(self.interval_s)),
            ("finality", json!(self.finality)),
        ]
    }
}

/// The subnet that is made at the first start; 0 is the root network.
const NETUID: u16 = 1;

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
        Action::Faucet { to, tao } => nodes::faucet(dir, to, tao),
        Action::NewBlock { count } => new_block(dir, count),
        Action::Set { name, value } => settings::set(dir, &name, &value),
        Action::Fault { fault } => match fault {
            Fault::Stall { seconds } if !(0.0..=rpc::LONGEST_STALL).contains(&seconds) => {
                Err(Report::usage(format!("a stall of {seconds} s: 0 to {} seconds", rpc::LONGEST_STALL))
                    .hint("`down` stops the chain for longer, and `up` goes on from the same block"))
            }
            Fault::Refuse { transactions } if transactions > rpc::MOST_REFUSED => {
                Err(Report::usage(format!("{transactions} transactions: 0 to {}", rpc::MOST_REFUSED)))
            }
            Fault::Stall { seconds } => go_wrong(dir, json!({"stall_s": seconds})),
            Fault::Fork { blocks } => go_wrong(dir, json!({"fork": blocks})),
            Fault::Refuse { transactions } => go_wrong(dir, json!({"refuse": transactions})),
        },
        Action::Join { name, stake, root_stake, count } => {
            let stakes = Stakes { subnet: amount("--stake", stake)?, root: amount("--root-stake", root_stake)? };
            match count {
                None => nodes::join(dir, &name, stakes),
                Some(count) => nodes::join_all(dir, &name, stakes, count),
            }
        }
        Action::Children { name, children } => nodes::set_children(dir, &name, &children),
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

fn check_interval(interval: f64) -> Result<(), Report> {
    if (0.05..=3600.0).contains(&interval) {
        return Ok(());
    }
    Err(Report::usage(format!("--interval {interval}: 0.05 to 3600 seconds")))
}

fn up(dir: &Path, interval: Option<f64>, finality: Option<usize>) -> Result<(), Report> {
    let before: Option<Place> = files::read_json(&place_path(dir)).ok();
    let as_before = before.map_or((1.0, 0), |place| (place.interval_s, place.finality));
    let (interval, finality) = (interval.unwrap_or(as_before.0), finality.unwrap_or(as_before.1));
    check_interval(interval)?;
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
            return print("localnet", place.fields());
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
            settings::set_up_subnet(dir, &place)?;
            return print("localnet", place.fields());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Report::again("the server did not answer for two minutes").hint(format!("why is in {}", log_path.display())))
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
    let mut status = place.fields();
    status.extend([
        ("block", json!(block)),
        ("genesis", json!(chain.genesis.to_string())),
        ("neurons", json!(peers.len())),
    ]);
    // Transactions that wait for a block, and the last one, final or not.
    let now = chain.fault(&json!({}))?;
    status.extend([("waiting", now["waiting"].clone()), ("last", now["last"].clone())]);
    print("localnet", status)
}

fn new_block(dir: &Path, count: u64) -> Result<(), Report> {
    let chain = connect(&running(dir)?)?;
    let (mut block, mut left) = (0, count);
    while left > 0 {
        let some = left.min(rpc::MOST_BLOCKS);
        block = chain.new_blocks(some)?;
        left -= some;
    }
    print("new-block", vec![("block", json!(block))])
}

fn go_wrong(dir: &Path, fault: Json) -> Result<(), Report> {
    let then = connect(&running(dir)?)?.fault(&fault)?;
    print("fault", vec![("fault", fault), ("then", then)])
}
