//! Set weights on the chain: looks first, never twice; by commit and reveal where the subnet asks for it.

mod sealed;

use chain::{Chain, ChainArgs, Signer, weights};
use record::{Report, Stream, cli::Common, records::Weights};
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
    /// Only reveal what was committed to and is due
    #[arg(long)]
    reveal: bool,
}

const HELP: &str = "\
Reads a `weights` record. Before anything is signed, the chain is asked: is this hotkey a validator, is it time, has
every uid still the hotkey that was scored? Too early is no error: exit 0, `submitted` false, and the reason.

Where the subnet takes weights by commit and reveal, they are committed to; what was committed is kept in
$BZ_HOME/sealed and revealed by the first run in the epoch of its reveal, by `--reveal` too.

Examples:
  bz-score fold --last 64 $BZ_HOME/windows | bz-setweights > weights
  bz-score fold $BZ_HOME/windows | bz-setweights --dry-run | jq 'select(.type==\"weights\") | {uids, values_u16, reason}'
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
    let mut replaced = Vec::new();
    for (place, uid) in record.uids.iter().enumerate() {
        if rules.hotkeys.get(&uid.0) != record.hotkeys.get(place) {
            replaced.push(uid.to_string());
            if let Some(weight) = record.weights.get_mut(place) {
                *weight = 0.0;
            }
        }
    }
    if !replaced.is_empty() {
        record::cli::note("bz-setweights", format!("no weight for replaced uids {}", replaced.join(" ")));
    }
    let (uids, values) = weights::quantise(&record.uids, &record.weights, rules.max_share);
    record.values_u16 =
        record.uids.iter().map(|uid| uids.iter().position(|u| u == uid).map_or(0, |at| values[at])).collect();
    record.submitted = false;
    record.reason = refusal(&args, &rules, &record, uids.len());
    if let Some(reason) = record.reason.clone() {
        record::cli::note("bz-setweights", format!("not set: {reason}"));
    } else if args.common.dry_run {
        record.reason = Some("dry run".into());
    } else if rules.commit_reveal {
        (record.tx, record.reason) = sealed::commit(&args, &chain, &uids, &values, &rules)?;
        record.submitted = true;
    } else {
        let signer = args.wallet.open()?;
        let sign = |message: &[u8]| signer.sign(message);
        let by = Signer { account: signer.hotkey(), sign: &sign };
        let key = args.version_key.unwrap_or(rules.version_key);
        record.tx = Some(chain.set_weights(&uids, &values, key, &by)?);
        record.submitted = true;
        let uid = rules.uid.ok_or_else(|| Report::no("the hotkey is not registered"))?;
        let kept = chain.weights_of(uid)?;
        if kept.len() != uids.len() || !kept.iter().zip(&uids).all(|((dest, _), uid)| *dest == uid.0) {
            return Err(Report::again("the chain does not keep the weights that were set")
                .hint("another process may have set some with this hotkey"));
        }
    }
    stream.emit(&record)
}

/// What stands between these weights and the chain, if anything.
fn refusal(args: &Args, rules: &weights::Rules, record: &Weights, count: usize) -> Option<String> {
    if let Some((what, hint)) = rules.obstacles().first() {
        return Some(format!("{what}: {hint}"));
    }
    if count == 0 {
        return Some("no peer has a weight".into());
    }
    if count < usize::from(rules.min_count.min(rules.hotkeys.len() as u16)) {
        return Some(format!("{count} peers have a weight, the subnet asks for {}", rules.min_count));
    }
    if let Ok(hparams) = args.common.hparams()
        && rules.last_update > hparams.moments(record.window).end
        && !args.common.force
    {
        return Some(format!("weights were set at block {}, after window {} ended", rules.last_update, record.window));
    }
    if let Some(pending) = rules.pending.iter().find(|p| rules.commit_reveal && rules.block < p.first) {
        return Some(format!(
            "weights were committed at block {}, to be revealed from block {}",
            pending.block, pending.first
        ));
    }
    rules.too_early().map(|next| {
        format!(
            "too early: weights were set at block {}, the next may be set at {next}, it is {}",
            rules.last_update, rules.block
        )
    })
}
