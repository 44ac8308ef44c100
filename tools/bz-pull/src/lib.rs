//! Fetch the peers' objects of a window: commitments, deltas, published states. All peers side by side; one that is
//! slow, huge, forged or gone costs no other its place.

mod commits;
mod deltas;
mod states;

use chain::{Chain, ChainArgs};
use record::{
    Hash, Report, Stream,
    cli::Common,
    records::{Peer, Run, WindowRecord},
    stream::Inputs,
};
use run::Hparams;
use run::Settings as _;
use std::time::Duration;
use store::{Bucket, Pool};

/// Fetch the peers' objects for a window.
#[derive(clap::Parser)]
#[command(name = "bz-pull", version, after_help = HELP)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    what: What,
    /// With --deltas: fetch again what is here
    #[arg(long, requires = "deltas")]
    force: bool,
    /// With --state: we are a validator that publishes; end with 1 when it is our turn
    #[arg(long, requires = "state")]
    publish: bool,
}

/// One of these.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct What {
    /// Commitments, until all are here or the window ends
    #[arg(long)]
    commits: bool,
    /// Deltas of those who committed in time; run it at the deadline
    #[arg(long)]
    deltas: bool,
    /// The published state of the window, and all that leads to it from ours
    #[arg(long)]
    state: bool,
    /// The newest state that anybody published up to the window (a validator that was away)
    #[arg(long)]
    newest: bool,
}

const HELP: &str = "\
Peers and their buckets come from the `peer` records of bz-window. A bucket is read without credentials, over https, and
never on a private network; on a chain of this machine, on its loopback only.

Examples:
  bz-window --window 120 --wait start | bz-pull --state | bz-state apply
  bz-window --window 120 --wait commit | bz-pull --commits > commits
  bz-window --wait deadline < commits | bz-pull --deltas | bz-delta check > pulled
  jq -r 'select(.type==\"delta\" and .status!=\"ok\") | [.uid,.status,.reason] | @tsv' pulled

Exit codes: 0 also when peers failed (their status says so); 1 no state was published for this window, or with --publish:
it is our turn.
See also: bz-push, bz-delta check, bz-state apply";

/// What a fetch needs to know.
struct Context<'a> {
    common: &'a Common,
    force: bool,
    hparams: Hparams,
    run: Hash,
    local: bool,
    window: WindowRecord,
    peers: Vec<Peer>,
    pool: Pool,
    chain: Chain,
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs: Inputs = stream.read()?;
    let (hparams, run) = args.common.run(&inputs)?;
    let record: Run = inputs.need("bz-window")?;
    let context = Context {
        common: &args.common,
        force: args.force,
        hparams,
        run,
        local: record.local,
        window: inputs.window()?,
        peers: inputs.all()?,
        pool: Pool::new()?,
        chain: Chain::open(&args.chain, &args.common.home())?,
    };
    if context.chain.genesis != record.genesis {
        return Err(Report::config("the chain is not that of the stream").hint("--network or BZ_NETWORK"));
    }
    if args.what.commits {
        commits::pull(&context, stream)
    } else if args.what.deltas {
        deltas::pull(&context, &inputs, stream)
    } else if args.what.newest {
        states::newest(&context, stream)
    } else {
        states::pull(&context, args.publish, stream)
    }
}

/// Why something of a peer is not here.
#[derive(Clone)]
enum Failed {
    /// What the peer is judged by, and the reason.
    Peer(record::records::Status, String),
    /// It says nothing of the peer: what is wrong is here.
    OwnDisk(String),
}

impl Context<'_> {
    /// A peer's bucket, or why it cannot be read.
    fn bucket(&self, peer: &Peer) -> Result<Bucket, String> {
        let address = peer.bucket.as_deref().ok_or("it has not said where its bucket is")?;
        Bucket::peer(address, self.local).map_err(|e| e.error)
    }

    /// How long so many blocks take, by the last ten; as on Subtensor where these are forgotten.
    fn blocks(&self, count: u64) -> Duration {
        const SUBTENSOR_MS: u64 = 12_000;
        let last = self.window.block;
        let first = last.saturating_sub(10).max(1);
        let time_ms = |block| self.chain.time_ms(self.chain.block_hash(block).ok()??).ok();
        let measured = || time_ms(last)?.saturating_sub(time_ms(first)?).checked_div(last - first);
        let block_ms = measured().unwrap_or(SUBTENSOR_MS);
        Duration::from_millis(count.max(1).saturating_mul(block_ms).max(2000))
    }
}
