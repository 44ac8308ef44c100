//! Set weights on the chain: looks first, never twice; by commit and reveal where the subnet asks for it.

mod sealed;

use chain::{Call, Chain, ChainArgs, Sent, Signer, weights};
use record::{
    Hotkey, Report, Stream, Uid,
    cli::{Common, DryRun, Force},
    records::Weights,
    stream::Inputs,
};
use std::{
    cell::OnceCell,
    collections::BTreeSet,
    time::{Duration, Instant},
};
use wallet::WalletArgs;

/// Set weights on the chain: looks first, never twice.
#[derive(clap::Parser)]
#[command(name = "bz-setweights", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    dry: DryRun,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    /// Version key, where the subnet asks for one [default: the subnet's own]
    #[arg(long, value_name = "N")]
    version_key: Option<u64>,
    /// Where the subnet hides weights until later: how [default: timelock where the chain has a beacon, else hash]
    #[arg(long, value_enum, value_name = "HOW")]
    commit: Option<How>,
    /// Only reveal what was committed to and is due
    #[arg(long)]
    reveal: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Encrypted to a round of the chain's beacon: the chain reveals them itself
    Timelock,
    /// By a hash; this tool reveals them in their epoch
    Hash,
}

const HELP: &str = "\
Reads a `weights` record. Before anything is signed, the chain is asked: is this hotkey a validator, is it time, has
every uid still the hotkey that was scored? Too early is no error: exit 0, `submitted` false, and the reason.

Where the subnet takes weights by commit and reveal only, they are committed to: encrypted to a round of the chain's
beacon, at which the chain reveals them itself; or by a hash, and then what was committed is kept in $BZ_HOME/sealed and
revealed by the first run in the epoch of its reveal, by `--reveal` too. They are set once in an epoch, never twice.

Examples:
  bz-score fold --last 64 $BZ_HOME/windows | bz-setweights > weights
  bz-score fold $BZ_HOME/windows | bz-setweights --dry-run | jq 'select(.type==\"weights\") | {uids, values_u16, call}'
  bz-setweights --reveal < /dev/null                 only reveal what is due, as cron may do every few minutes

See also: bz-score fold, bz-chain doctor";

/// What signs and sends; the key is opened when it is first needed, and once.
pub(crate) struct Setter<'a> {
    wallet: &'a WalletArgs,
    chain: &'a Chain,
    signer: OnceCell<wallet::Signer>,
}

impl Setter<'_> {
    pub(crate) fn send(&self, call: &Call) -> Result<Sent, Report> {
        let signer = match self.signer.get() {
            Some(signer) => signer,
            None => {
                let opened = self.wallet.open()?;
                self.signer.get_or_init(|| opened)
            }
        };
        let sign = |message: &[u8]| signer.sign(message);
        self.chain.submit(call, &Signer { account: signer.hotkey(), sign: &sign })
    }

    /// The call and its bytes, as a dry run has them.
    pub(crate) fn shown(&self, call: &Call) -> Result<(Option<String>, Option<String>), Report> {
        let bytes = format!("0x{}", hex::encode(self.chain.call_bytes(call)?));
        Ok((Some(format!("{}.{}", call.pallet, call.name)), Some(bytes)))
    }
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let record = if args.reveal { None } else { Some(asked(&args, &inputs)?) };
    let hotkey = args.wallet.public()?;
    let _lock = sealed::lock(&args)?;
    let chain = Chain::connect(&args.chain)?;
    if chain.subnet.netuid == 0 {
        return Err(Report::no("the root network takes no weights").hint("--netuid or BZ_NETUID"));
    }
    let rules = chain.weight_rules(hotkey)?;
    let setter = Setter { wallet: &args.wallet, chain: &chain, signer: OnceCell::new() };
    if args.reveal || !args.dry.dry_run {
        sealed::reveal_due(&args, &chain, &rules, hotkey, &setter, |record| stream.emit(record))?;
    }
    match record {
        Some(record) => set(&args, &rules, hotkey, record, &setter, stream),
        None => Ok(()),
    }
}

/// The weights that the input asks for, good in themselves.
fn asked(args: &Args, inputs: &Inputs) -> Result<Weights, Report> {
    if !inputs.closed && !args.dry.dry_run {
        return Err(Report::data("the input is not closed by an `end`: the stage before did not finish")
            .hint("look at its error; --dry-run shows what would be set"));
    }
    let record: Weights = inputs.need("bz-score fold")?;
    if record.uids.len() != record.hotkeys.len() || record.uids.len() != record.weights.len() {
        return Err(Report::data("the `weights` record has lists of different lengths"));
    }
    if record.weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
        return Err(Report::data("the `weights` record has a weight that is negative or not finite"));
    }
    let once: BTreeSet<_> = record.uids.iter().collect();
    if once.len() != record.uids.len() {
        return Err(Report::data("the `weights` record has a uid twice"));
    }
    Ok(record)
}

fn set(
    args: &Args,
    rules: &weights::Rules,
    hotkey: Hotkey,
    mut record: Weights,
    setter: &Setter<'_>,
    stream: &mut Stream<'_>,
) -> Result<(), Report> {
    let chain = setter.chain;
    // Who was replaced since is not paid, nor is who took the place.
    let there =
        |place: &usize| record.uids.get(*place).and_then(|uid| rules.hotkeys.get(&uid.0)) == record.hotkeys.get(*place);
    let (kept, replaced): (Vec<usize>, Vec<usize>) = (0..record.uids.len()).partition(there);
    if !replaced.is_empty() {
        let uids: Vec<_> = replaced.iter().map(|place| record.uids[*place].to_string()).collect();
        record::cli::note("bz-setweights", format!("no weight for replaced uids {}", uids.join(" ")));
    }
    let of_kept: Vec<f64> = kept.iter().map(|place| record.weights[*place]).collect();
    let kept: Vec<Uid> = kept.iter().map(|place| record.uids[*place]).collect();
    let (uids, values) = weights::quantise(&kept, &of_kept, rules.max_share, rules.uid);
    record.values_u16 =
        record.uids.iter().map(|uid| uids.iter().position(|u| u == uid).map_or(0, |at| values[at])).collect();
    record.submitted = false;
    let key = args.version_key.unwrap_or(rules.version_key);
    record.reason = refusal(args, rules, &record, &uids, key);
    if let Some(reason) = &record.reason {
        record::cli::note("bz-setweights", format!("not set: {reason}"));
        // What cannot be sent can be shown, if there is anything.
        if !args.dry.dry_run || uids.is_empty() {
            return stream.emit(&record);
        }
    }
    let plan = if rules.commit_reveal {
        sealed::plan(args, chain, hotkey, &uids, &values, key, rules)?
    } else {
        Plan { call: Call::set_weights(chain.subnet, &uids, &values, key), keep: None, moment: None }
    };
    if args.dry.dry_run {
        (record.call, record.call_bytes) = setter.shown(&plan.call)?;
        record.reason.get_or_insert("dry run".into());
        return stream.emit(&record);
    }
    if let Some(sealed) = &plan.keep {
        sealed::keep(args, sealed, hotkey, chain, &record)?;
    }
    let sent = setter.send(&plan.call)?;
    (record.tx, record.block, record.submitted) = (Some(sent.tx), sent.block, true);
    // They are in, whatever can be read back: the record says so before anything else can fail.
    match look(chain, &plan, hotkey, (&uids, &values), &sent) {
        Ok(reason) => record.reason = reason,
        Err(report) if report.code == record::Code::Again => {
            record.reason = Some(format!("final, and not read back: {}", report.error));
        }
        Err(report) => {
            record.reason = Some(report.error.clone());
            stream.emit(&record)?;
            return Err(report);
        }
    }
    stream.emit(&record)
}

/// What is to be signed, and what has to be known of it afterwards.
pub(crate) struct Plan {
    call: Call,
    /// Kept on disk before the commit is sent, until it is revealed.
    keep: Option<weights::Sealed>,
    /// When the chain reveals it.
    moment: Option<weights::Moment>,
}

/// The rules as of a block that has what was sent: another node may be some blocks behind.
fn rules_after(chain: &Chain, hotkey: Hotkey, sent: &Sent) -> Result<weights::Rules, Report> {
    let since = Instant::now();
    loop {
        let rules = chain.weight_rules(hotkey)?;
        if sent.block.is_none_or(|block| rules.block >= block) {
            return Ok(rules);
        }
        if since.elapsed() > CATCHES_UP {
            return Err(Report::again(format!("the node is at block {}, before that of the call", rules.block)));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A node that is asked after another one has the same blocks within this time.
const CATCHES_UP: Duration = Duration::from_secs(60);

/// Read back what was sent; when it is revealed.
fn look(
    chain: &Chain,
    plan: &Plan,
    hotkey: Hotkey,
    (uids, values): (&[Uid], &[u16]),
    sent: &Sent,
) -> Result<Option<String>, Report> {
    let lost = |what: &str| {
        Report::no(format!("the call is final ({}), and the chain does not keep {what}", sent.tx))
            .hint("another process may have set weights with this hotkey: bz-chain doctor")
    };
    let rules = rules_after(chain, hotkey, sent)?;
    if let Some(moment) = plan.moment {
        let waits = rules.timelocked.iter().any(|commit| sent.block.is_none_or(|block| commit.block == block));
        // In a fast chain it may be revealed already.
        if rules.block < moment.block && !waits {
            return Err(lost("the commit"));
        }
        return Ok(Some(format!(
            "committed; the chain reveals it from block {} on, at round {} of its beacon",
            moment.block, moment.round
        )));
    }
    if let Some(sealed) = &plan.keep {
        let hash = sealed.hash(hotkey, chain.subnet);
        let pending = rules.pending.iter().find(|p| p.hash == hash).ok_or_else(|| lost("the commit"))?;
        return Ok(Some(match pending.due {
            weights::Due::From(block) => format!("committed; to be revealed from block {block} on"),
            weights::Due::Now | weights::Due::Over => "committed; to be revealed at once".into(),
        }));
    }
    let uid = rules.uid.ok_or_else(|| Report::no("the hotkey is not registered"))?;
    let ours: Vec<(u16, u16)> = uids.iter().map(|uid| uid.0).zip(values.iter().copied()).collect();
    if chain.weights_of(uid)? != ours {
        return Err(lost("these weights"));
    }
    Ok(None)
}

/// What stands between these weights and the chain, if anything.
fn refusal(args: &Args, rules: &weights::Rules, record: &Weights, uids: &[Uid], key: u64) -> Option<String> {
    let only_self = rules.uid.is_some_and(|own| uids == [own]);
    if let Some((what, hint)) = rules.obstacles(only_self).into_iter().next() {
        return Some(format!("{what}: {hint}"));
    }
    if uids.is_empty() {
        return Some("no peer has a weight".into());
    }
    if !only_self && uids.len() < usize::from(rules.min_count).min(rules.hotkeys.len()) {
        return Some(format!("{} peers have a weight, the subnet asks for {}", uids.len(), rules.min_count));
    }
    if key < rules.version_key {
        return Some(format!("the version key is {key}, the subnet asks for {}: --version-key", rules.version_key));
    }
    if let Ok(hparams) = args.common.hparams()
        && let Some(last) = rules.set_at().filter(|last| *last > hparams.moments(record.window).end)
        && !args.force.force
    {
        return Some(format!("weights were set at block {last}, after window {} ended", record.window));
    }
    let next = rules.too_early().max(rules.set_in_epoch())?;
    let waits = rules.timelocked.last().map_or_else(String::new, |commit| {
        format!("; those of block {} wait for round {} of the beacon", commit.block, commit.round)
    });
    let what = if rules.set_at().is_some() { "weights were set or committed" } else { "the hotkey was registered" };
    Some(format!(
        "too early: {what} at block {}, the next may be at {next}, it is {}{waits}",
        rules.last_update, rules.block
    ))
}
