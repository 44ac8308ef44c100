//! Set weights on the chain: looks first, never twice; by commit and reveal where the subnet asks for it.

mod sealed;

use chain::{Call, Chain, ChainArgs, Signer, weights};
use record::{Hotkey, Report, Stream, Uid, cli::Common, records::Weights};
use wallet::WalletArgs;

/// Set weights on the chain: looks first, never twice.
#[derive(clap::Parser)]
#[command(name = "bz-setweights", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
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

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    if args.reveal {
        let chain = Chain::connect(&args.chain)?;
        return sealed::reveal_due(&args, &chain, &chain.weight_rules(args.wallet.public()?)?);
    }
    if !inputs.closed && !args.common.dry_run {
        return Err(Report::data("the input is not closed by an `end`: the stage before did not finish")
            .hint("look at its error; --dry-run shows what would be set"));
    }
    let mut record: Weights = inputs.need("bz-score fold")?;
    if record.uids.len() != record.hotkeys.len() || record.uids.len() != record.weights.len() {
        return Err(Report::data("the `weights` record has lists of different lengths"));
    }
    if record.weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
        return Err(Report::data("the `weights` record has a weight that is negative or not finite"));
    }
    let hotkey = args.wallet.public()?;
    let chain = Chain::connect(&args.chain)?;
    let rules = chain.weight_rules(hotkey)?;
    if !args.common.dry_run {
        sealed::reveal_due(&args, &chain, &rules)?;
    }
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
    record.reason = refusal(&args, &rules, &record, &uids, key);
    if let Some(reason) = &record.reason {
        record::cli::note("bz-setweights", format!("not set: {reason}"));
        // What cannot be sent can be shown, if there is anything.
        if !args.common.dry_run || uids.is_empty() {
            return stream.emit(&record);
        }
    }
    let plan = if rules.commit_reveal {
        sealed::plan(&args, &chain, hotkey, &uids, &values, key, &rules)?
    } else {
        Plan { call: Call::set_weights(chain.subnet, &uids, &values, key), keep: None, moment: None }
    };
    if args.common.dry_run {
        record.call = Some(format!("{}.{}", plan.call.pallet, plan.call.name));
        record.call_bytes = Some(format!("0x{}", hex::encode(chain.call_bytes(&plan.call)?)));
        record.reason.get_or_insert("dry run".into());
        return stream.emit(&record);
    }
    if let Some(sealed) = &plan.keep {
        sealed::keep(&args, sealed, hotkey, chain.subnet)?;
    }
    let signer = args.wallet.open()?;
    let sign = |message: &[u8]| signer.sign(message);
    let sent = chain.submit(&plan.call, &Signer { account: signer.hotkey(), sign: &sign })?;
    (record.tx, record.block, record.submitted) = (Some(sent.tx), Some(sent.block), true);
    record.reason = look(&chain, &plan, hotkey, &uids, &sent)?;
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

/// Read back what was sent; when it is revealed.
fn look(
    chain: &Chain,
    plan: &Plan,
    hotkey: Hotkey,
    uids: &[Uid],
    sent: &chain::Sent,
) -> Result<Option<String>, Report> {
    let lost = |what: &str| {
        Report::again(format!("block {} has the call, but the chain does not keep {what}", sent.block))
            .hint("another process may have set weights with this hotkey: bz-chain doctor")
    };
    let rules = chain.weight_rules(hotkey)?;
    if let Some(moment) = plan.moment {
        // In a fast chain it may be revealed already.
        if rules.block < moment.block && !rules.timelocked.iter().any(|commit| commit.block == sent.block) {
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
    let kept = chain.weights_of(uid)?;
    if kept.len() != uids.len() || !kept.iter().zip(uids).all(|((dest, _), uid)| *dest == uid.0) {
        return Err(lost("these weights"));
    }
    Ok(None)
}

/// What stands between these weights and the chain, if anything.
fn refusal(args: &Args, rules: &weights::Rules, record: &Weights, uids: &[Uid], key: u64) -> Option<String> {
    let only_self = rules.uid.is_some_and(|own| uids == [own]);
    if let Some((what, hint)) = rules.obstacles().into_iter().find(|_| !only_self || rules.uid.is_none()) {
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
        && rules.last_update > hparams.moments(record.window).end
        && !args.common.force
    {
        return Some(format!("weights were set at block {}, after window {} ended", rules.last_update, record.window));
    }
    let next = rules.too_early().max(rules.set_in_epoch())?;
    let waits = rules.timelocked.last().map_or_else(String::new, |commit| {
        format!("; those of block {} wait for round {} of the beacon", commit.block, commit.round)
    });
    Some(format!(
        "too early: weights were set or committed at block {}, the next may be at {next}, it is {}{waits}",
        rules.last_update, rules.block
    ))
}
