//! Describe a window, or wait for one of its moments: its blocks, the hashes that are known, the peers. Or follow the
//! chain, once a node, so that the node's other tools read what this one has written down.
//!
//! All hashes are those of finalized blocks, so that a fork never gives two nodes two seeds.

mod check;

use chain::{Chain, ChainArgs};
use record::{
    Hash, Hotkey, Report, Stream, Uid, Window,
    cli::{Common, DryRun},
    progress::Progress,
    records::{Peer, Run, WindowRecord},
};
use run::Hparams;
use run::Settings as _;
use std::collections::BTreeMap;
use wallet::WalletArgs;

/// Describe a window, wait for one of its moments, or follow the chain for the other tools of a node.
#[derive(clap::Parser)]
#[command(name = "bz-window", version, after_help = HELP)]
// A run is checked before it has a subnet.
#[command(mut_arg("netuid", |netuid| netuid
    .required(false)
    .required_unless_present("check")
    .default_value_if("check", clap::builder::ArgPredicate::IsPresent, "0")))]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    dry: DryRun,
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    /// Which window: a number, `now`, or `next` [default: that of the input, or now]
    #[arg(long, value_name = "W")]
    window: Option<String>,
    /// Wait until this moment is final
    #[arg(long, value_enum, value_name = "MOMENT")]
    wait: Option<Moment>,
    /// Only the peers of the subnet, as of the last finalized block; needs no hparams
    #[arg(long, conflicts_with_all = ["window", "wait"])]
    peers: bool,
    /// With --peers: go on, and print whoever changes
    #[arg(long, requires = "peers")]
    watch: bool,
    /// Write finalized blocks, peers, entries and metadata into chain/ in the node's folder, until SIGTERM: one process a node
    #[arg(long, conflicts_with_all = ["window", "wait", "peers", "watch"])]
    follow: bool,
    #[command(flatten)]
    check: check::CheckArgs,
}

const HELP: &str = "\
Moments: start (pages are known), commit (commitments are fetched from here), reveal (the window's last block: tiles
are drawn), deadline (deltas after it are late), state (the next state is published).

Examples:
  bz-window --window now | jq 'select(.type==\"window\")'
  bz-window --window 120 --wait start | bz-pull --state | bz-state apply | bz-pages | bz-train
  bz-window --wait reveal < commit | bz-delta make | bz-push > receipt
  bz-window --peers | jq -r 'select(.type==\"peer\") | [.uid, .stake, .incentive, .bucket] | @tsv'
  bz-window --peers --watch --netuid 3 --network test       who registers, who is paid, block after block
  bz-window --follow --quiet &                              beside the loops, or as a service of systemd
  jq .number ~/.boltzmann/chain/head.json                   the last block that it wrote down
  bz-window --check --hparams pipelines/hparams/124m.json   can this run meet its own clock?

While a follower runs, the tools of its node read what it writes and ask no one; old windows are known after the nodes
have forgotten them. It keeps the blocks of 64 windows or 14 days, whichever is more, and of 1000 windows at most the
peers and the entries (bz-chain entries) at the blocks of the commitments and of the tally.

Exit codes: 0 also when a follower was told to end; 1 the window lies before the run or is over, nobody knows its
time any more, or a check fails; 75 the chain does not answer, or another process follows it into this folder; 78 the
network is not the one that its name says, or has become another one, the folder is of another one, or the chain was
upgraded to what this suite does not read.
See also: bz-pages, bz-pull, pipelines/miner.sh";

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Start,
    Commit,
    Reveal,
    Deadline,
    State,
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    if args.follow {
        return follow(&args, stream.tool());
    }
    let inputs = stream.read()?;
    let home = args.common.home();
    if args.check.check {
        return check::run(&args.check, &args.common.hparams()?, stream);
    }
    if args.peers {
        return subnet(&args, &Chain::open(&args.chain, &home)?, stream);
    }
    let hparams = args.common.hparams()?;
    let chain = Chain::open(&args.chain, &home)?;
    let run = hparams.run(chain.genesis, args.chain.netuid);
    let before: Option<WindowRecord> = inputs.last()?;
    if let Some(before) = &before
        && before.run != run
    {
        return Err(Report::config(format!("the input is of run {}, this node's is {run}", before.run))
            .hint("hparams.json, --netuid and --network name the run"));
    }
    let last = chain.finalized()?;
    let window = which(&args, before.as_ref(), &hparams, last)?;
    if window < hparams.start_window {
        return Err(Report::no(format!(
            "window {window} lies before the run, which starts at {}",
            hparams.start_window
        ))
        .hint(format!("bz-window --window {} --wait start", hparams.start_window)));
    }
    let moments = hparams.moments(window);
    if args.wait == Some(Moment::Start) && last > moments.end {
        return Err(Report::no(format!("window {window} is over: its last block was {}, it is {last}", moments.end))
            .hint("take the next one: --window now"));
    }
    let target = match args.wait {
        None => None,
        Some(Moment::Start) => Some(moments.start),
        Some(Moment::Commit) => Some(moments.commit),
        Some(Moment::Reveal) => Some(moments.end),
        Some(Moment::Deadline) => Some(moments.deadline),
        Some(Moment::State) => Some(moments.state),
    };
    let mut block = last;
    if let Some(target) = target {
        let mut progress = Progress::new(args.common.quiet, "waiting", target.saturating_sub(last), "blocks");
        chain.wait_for(target, |seen| {
            progress.advance(seen.saturating_sub(block), &format!("block {seen}"));
            block = block.max(seen);
        })?;
    }
    let at = |number: u64| if number <= block { chain.agreed_hash(number) } else { Ok(None) };
    let finality_blocks = chain.best()?.saturating_sub(block);
    let (seed, reveal, deadline) = (at(moments.start)?, at(moments.end)?, at(moments.deadline)?);
    if inputs.last::<Run>()?.is_none() {
        let path = args.common.hparams_path();
        let local = chain.is_localnet()?;
        stream.emit(&Run { run, genesis: chain.genesis, netuid: args.chain.netuid, path, local })?;
    }
    stream.emit(&WindowRecord {
        window,
        run,
        start_block: moments.start,
        commit_block: moments.commit,
        end_block: moments.end,
        deadline_block: moments.deadline,
        state_block: moments.state,
        block,
        finality_blocks,
        seed,
        reveal,
        deadline_ms: deadline.map(|hash| chain.time_ms(hash)).transpose().map_err(|report| too_old(window, report))?,
    })?;
    // The peers of a window are those of its start block; a stream that has them keeps them.
    if before.is_none_or(|b| b.window != window) {
        let view = match seed {
            Some(seed) => (moments.start, seed),
            None => (block, hash_of(&chain, block)?),
        };
        peers(&args, &chain, view, stream)?;
    }
    Ok(())
}

/// Write down what the chain says, for all tools of this node.
fn follow(args: &Args, tool: &'static str) -> Result<(), Report> {
    let (common, home) = (&args.common, args.common.home());
    let hparams = common.hparams()?;
    let chain = Chain::connect(&args.chain)?;
    if args.dry.dry_run {
        let from = chain.would_follow(&home)?.map_or_else(String::new, |block| format!(", on from block {block}"));
        record::cli::note(tool, format!("would follow the chain into {}{from}", chain::facts_folder(&home).display()));
        return Ok(());
    }
    let quiet = common.quiet;
    let entry_blocks = |hparams: &Hparams, window| chain::entry_blocks(hparams, window).to_vec();
    chain.follow(&hparams, &home, &entry_blocks, &|text: String| {
        if !quiet {
            record::cli::note(tool, text);
        }
    })
}

/// What no node tells any more is not there later either.
fn too_old(window: Window, report: Report) -> Report {
    if !Chain::forgotten(&report) {
        return report;
    }
    Report::no(format!("window {window} is so old that the node does not know its time any more: {}", report.error))
        .hint("a node that keeps all states and blocks does: --network")
        .hint("what bz-window --follow wrote down at that time stays for 64 windows or 14 days")
}

fn hash_of(chain: &Chain, block: u64) -> Result<Hash, Report> {
    chain.block_hash(block)?.ok_or_else(|| Report::again(format!("the node does not know block {block}")))
}

/// Who this node is, if its wallet tells: who only looks needs none.
fn own(args: &Args) -> Option<Hotkey> {
    args.wallet
        .public()
        .inspect_err(|report| {
            // A wallet that is there and does not tell whose it is would pass for none.
            if args.wallet.hotkey_path().exists() {
                record::cli::note("bz-window", report);
            }
        })
        .ok()
}

/// The peers as they are now, and with --watch each one again when something about it changes.
fn subnet(args: &Args, chain: &Chain, stream: &mut Stream<'_>) -> Result<(), Report> {
    let own = own(args);
    let mut seen: BTreeMap<Uid, Peer> = BTreeMap::new();
    loop {
        let block = chain.finalized()?;
        for peer in chain.peers_at(block, hash_of(chain, block)?, own)? {
            if seen.get(&peer.uid) != Some(&peer) {
                stream.emit(&peer)?;
                seen.insert(peer.uid, peer);
            }
        }
        if !args.watch {
            return Ok(());
        }
        chain.wait_for(block + 1, |_| {})?;
    }
}

fn peers(args: &Args, chain: &Chain, view: (u64, Hash), stream: &mut Stream<'_>) -> Result<(), Report> {
    let own = own(args);
    let found = chain.peers_at(view.0, view.1, own).or_else(|early| {
        // A node keeps the states of some hundred blocks; only then an old window's peers are asked of the last one.
        if !Chain::forgotten(&early) {
            return Err(early);
        }
        let last = chain.finalized()?;
        record::cli::note(stream.tool(), format!("the node has forgotten the start block: peers as of block {last}"));
        chain.peers_at(last, hash_of(chain, last)?, own)
    })?;
    found.iter().try_for_each(|peer| stream.emit(peer))
}

fn which(args: &Args, before: Option<&WindowRecord>, hparams: &Hparams, last: u64) -> Result<Window, Report> {
    match (args.window.as_deref(), before) {
        (None, Some(before)) => Ok(before.window),
        (None | Some("now"), _) => Ok(hparams.window_at(last)),
        (Some("next"), _) => Ok(Window(hparams.window_at(last).0 + 1)),
        (Some(number), _) => number
            .parse()
            .map_err(|_| Report::usage(format!("--window {number}: not a window")).hint("a number, `now`, or `next`")),
    }
}
