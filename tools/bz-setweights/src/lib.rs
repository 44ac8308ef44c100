//! Set weights on the chain: looks first, never twice; by commit and reveal where the subnet asks for it.

mod sealed;
mod timelocked;

use chain::{Call, Chain, ChainArgs, Sent, Signer, weights};
use record::{
    Home, Hotkey, Report, Stream, Uid,
    cli::{Common, DryRun, Force},
    records::Weights,
    stream::Inputs,
};
use run::Hparams;
use run::Settings as _;
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
    /// Version key, where the subnet asks for one [default: fold.version_key of hparams.json, or 0]
    #[arg(long, value_name = "N")]
    version_key: Option<u64>,
    /// Set them within so many blocks of the epoch's end, not before [default: two windows and 20]
    #[arg(long, value_name = "BLOCKS")]
    margin: Option<u64>,
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
every uid still the hotkey that was scored? Too early is no error: exit 0, `submitted` false, and the `reason`.

The chain counts the last weights before an epoch, and keeps each in its log. So they are set once in an epoch, late:
when two windows and 20 blocks or less are left, so that a window that is passed over leaves a second chance. --margin
says otherwise. Without a hparams.json no window is known: they are set at once, with version key 0; -v says so.

Where the subnet takes weights by commit and reveal only, they are committed to: encrypted to a round of the chain's
beacon, at which the chain reveals them itself; or by a hash, and then what was committed is kept in $BZ_HOME/sealed and
revealed by the first run in the epoch of its reveal, by `--reveal` too. What was not revealed is committed again.

Examples:
  bz-score fold --last 64 $BZ_HOME/windows | bz-setweights > weights
  bz-score fold $BZ_HOME/windows | bz-setweights --dry-run | jq 'select(.type==\"weights\") | {uids, values_u16, call}'
  bz-setweights --reveal < /dev/null                 only reveal what is due, as cron may do every few minutes

Exit codes: 78 what time alone does not change: no place in the subnet, too little stake, no permit, another version key,
a chain of another form. The record says it, too, each time.
See also: bz-score fold, bz-chain doctor";

/// Blocks that are left for a call of the last run before an epoch's end: to be signed, to go in, for the next run to
/// be late.
const SAFETY: u64 = 20;

/// What signs and sends; the key is opened when it is first needed, and once.
pub(crate) struct Setter<'a> {
    wallet: &'a WalletArgs,
    chain: &'a Chain,
    home: Home,
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
        // bz-chain signs commitments and votes with the same hotkey.
        let turn = self.chain.turn(&self.home, signer.hotkey())?;
        turn.submit(call, &Signer { account: signer.hotkey(), sign: &sign })
    }

    /// The call and its bytes, as a dry run has them.
    pub(crate) fn shown(&self, call: &Call) -> Result<(Option<String>, Option<String>), Report> {
        let bytes = format!("0x{}", hex::encode(self.chain.call_bytes(call)?));
        Ok((Some(format!("{}.{}", call.pallet, call.name)), Some(bytes)))
    }
}

/// A validator, and where it stands.
pub(crate) struct Validator<'a> {
    args: &'a Args,
    chain: &'a Chain,
    rules: &'a weights::Rules,
    /// What the run says; `None` where there is no such file.
    hparams: Option<&'a Hparams>,
    hotkey: Hotkey,
    setter: Setter<'a>,
}

/// Why nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    reason: String,
    /// Time alone does not change it.
    lasting: bool,
}

impl Refusal {
    fn lasting(reason: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), lasting: true }
    }

    fn for_now(reason: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), lasting: false }
    }

    /// What has to be noticed by who runs this every window, or from cron.
    fn end(self) -> Result<(), Report> {
        if !self.lasting {
            return Ok(());
        }
        Err(Report::config(format!("no weights are set: {}", self.reason)).hint("bz-chain doctor shows all of it"))
    }
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let record = if args.reveal { None } else { Some(asked(&args, &inputs)?) };
    let hparams = match hparams(&args) {
        // What is due is revealed in any case: its time ends.
        Err(report) if args.reveal => {
            record::cli::note("bz-setweights", &report);
            None
        }
        found => found?,
    };
    let hotkey = args.wallet.public()?;
    // A dry run writes nothing, not even the lock's folder.
    let _lock = if args.dry.dry_run { None } else { Some(sealed::lock(&args)?) };
    let chain = Chain::open(&args.chain, &args.common.home())?;
    if chain.subnet.netuid == 0 {
        return Err(Report::no("the root network takes no weights").hint("--netuid or BZ_NETUID"));
    }
    let rules = chain.weight_rules(hotkey)?;
    let home = args.common.home();
    let setter = Setter { wallet: &args.wallet, chain: &chain, home, signer: OnceCell::new() };
    let hparams = hparams.as_ref();
    let validator = Validator { args: &args, chain: &chain, rules: &rules, hparams, hotkey, setter };
    let mut lost = None;
    if args.reveal || !args.dry.dry_run {
        lost = sealed::reveal_due(&validator, |record| stream.emit(record))?;
    }
    match record {
        Some(record) => {
            let lost = timelocked::lost(&args, &chain, &rules, hotkey)?.or(lost);
            validator.set(record, lost, stream)
        }
        None => Ok(()),
    }
}

/// What the run says. It decides when weights are set, and by which rules: a file that is named, or is there, has to be
/// good. Where there is none at all, nothing is known of windows.
fn hparams(args: &Args) -> Result<Option<Hparams>, Report> {
    let path = args.common.hparams_path();
    if path == args.common.home().hparams() && matches!(path.try_exists(), Ok(false)) {
        if !args.reveal {
            let what = "weights are set at once, with version key 0, unless --margin and --version-key say otherwise";
            args.common.say("bz-setweights", format!("there is no {}: {what}", path.display()));
        }
        return Ok(None);
    }
    args.common.hparams().map(Some).map_err(|report| Report { code: record::Code::Config, ..report })
}

/// The weights that the input asks for, good in themselves.
fn asked(args: &Args, inputs: &Inputs) -> Result<Weights, Report> {
    if !inputs.closed && !args.dry.dry_run {
        return Err(Report::data("the input is not closed by an `end`: the stage before did not finish")
            .hint("look at its error; --dry-run shows what would be set"));
    }
    let record: Weights = inputs.need("bz-score fold")?;
    let wrong = |what: &str| {
        Report::data(format!("the `weights` record {what}"))
            .hint("bz-score fold makes one from scores; whoever writes it by hand gives each uid once, with its hotkey")
    };
    if record.uids.len() != record.hotkeys.len() || record.uids.len() != record.weights.len() {
        return Err(wrong("has lists of different lengths"));
    }
    if record.weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
        return Err(wrong("has a weight that is negative or not finite"));
    }
    let once: BTreeSet<_> = record.uids.iter().collect();
    if once.len() != record.uids.len() {
        return Err(wrong("has a uid twice"));
    }
    Ok(record)
}

impl Validator<'_> {
    fn set(&self, mut record: Weights, lost: Option<u64>, stream: &mut Stream<'_>) -> Result<(), Report> {
        let (args, rules, chain) = (self.args, self.rules, self.chain);
        // Who was replaced since is not paid, nor is who took the place.
        let there = |place: &usize| {
            record.uids.get(*place).and_then(|uid| rules.hotkeys.get(&uid.0)) == record.hotkeys.get(*place)
        };
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
        let key = version_key(args, self.hparams);
        let refusal = refusal(args, self.hparams, rules, (&record, &uids, key), lost);
        record.reason = refusal.as_ref().map(|refusal| refusal.reason.clone());
        if let Some(refusal) = &refusal {
            // That it is not time yet is no error.
            if refusal.lasting || !args.common.quiet {
                record::cli::note("bz-setweights", format!("not set: {}", refusal.reason));
            }
            // What cannot be sent can be shown, if there is anything, and the chain is known well enough.
            if !args.dry.dry_run || uids.is_empty() || !rules.unknown.is_empty() {
                stream.emit(&record)?;
                return refusal.clone().end();
            }
        }
        let plan = if rules.commit_reveal {
            self.plan(&uids, &values, key)?
        } else {
            Plan { call: Call::set_weights(chain.subnet, &uids, &values, key), keep: None, moment: None }
        };
        if args.dry.dry_run {
            (record.call, record.call_bytes) = self.setter.shown(&plan.call)?;
            record.reason.get_or_insert("dry run".into());
            stream.emit(&record)?;
            return refusal.map_or(Ok(()), Refusal::end);
        }
        if let Some(sealed) = &plan.keep {
            sealed::keep(args, sealed, self.hotkey, chain, &record)?;
        }
        let begin = |moment| timelocked::begin(args, chain, self.hotkey, moment, (&uids, &values));
        let begun = plan.moment.map(begin).transpose()?;
        let sent = self.setter.send(&plan.call);
        if let Some(begun) = begun {
            match &sent {
                Err(report) if !Chain::may_be_in(report) => begun.refused(),
                _ => begun.sent(args, chain, rules, self.hotkey),
            }
        }
        let sent = sent?;
        (record.tx, record.block, record.submitted) = (Some(sent.tx), sent.block, true);
        // They are in, whatever can be read back: the record says so before anything else can fail.
        match look(chain, &plan, self.hotkey, (&uids, &values), &sent) {
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

/// Which rules this validator goes by. The run says so, not the chain: a subnet raises its key to stop those who do
/// not.
fn version_key(args: &Args, hparams: Option<&Hparams>) -> u64 {
    args.version_key.or(hparams.and_then(|hparams| hparams.fold.version_key)).unwrap_or(0)
}

/// Within so many blocks of an epoch's end they are set: a run a window comes twice in that time. Where no window is
/// known, none can be waited for.
fn margin(given: Option<u64>, hparams: Option<&Hparams>) -> u64 {
    let default = || hparams.map_or(u64::MAX, |hparams| hparams.clock.blocks.saturating_mul(2).saturating_add(SAFETY));
    given.unwrap_or_else(default)
}

/// What stands between these weights and the chain, if anything. `lost` is from when on the chain should have opened
/// the last commit, where it did not: then they are not for the end of the epoch.
fn refusal(
    args: &Args,
    hparams: Option<&Hparams>,
    rules: &weights::Rules,
    (record, uids, key): (&Weights, &[Uid], u64),
    lost: Option<u64>,
) -> Option<Refusal> {
    let only_self = rules.uid.is_some_and(|own| uids == [own]);
    if let Some((what, hint)) = rules.obstacles(only_self).into_iter().next() {
        return Some(Refusal::lasting(format!("{what}: {hint}")));
    }
    if key < rules.version_key {
        let least = rules.version_key;
        return Some(Refusal::lasting(format!(
            "the version key is {key}, the subnet asks for {least}: the run's newest hparams.json, or --version-key"
        )));
    }
    if uids.is_empty() {
        return Some(Refusal::for_now("no peer has a weight"));
    }
    if !only_self && uids.len() < usize::from(rules.min_count).min(rules.hotkeys.len()) {
        let (count, least) = (uids.len(), rules.min_count);
        return Some(Refusal::for_now(format!("{count} peers have a weight, the subnet asks for {least}")));
    }
    if let Some(hparams) = hparams
        && let Some(last) = rules.set_at().filter(|last| *last > hparams.moments(record.window).end)
        && !args.force.force
        && lost.is_none()
    {
        return Some(Refusal::for_now(format!(
            "weights were set at block {last}, after window {} ended",
            record.window
        )));
    }
    if let Some(next) = rules.too_early().max(rules.set_in_epoch()) {
        let waits = rules.timelocked.last().map_or_else(String::new, |commit| {
            format!("; those of block {} wait for round {} of the beacon", commit.block, commit.round)
        });
        let what = if rules.set_at().is_some() { "weights were set or committed" } else { "the hotkey was registered" };
        return Some(Refusal::for_now(format!(
            "too early: {what} at block {}, the next may be at {next}, it is {}{waits}",
            rules.last_update, rules.block
        )));
    }
    let from = rules.early_in_epoch(margin(args.margin, hparams)).filter(|_| lost.is_none() && !args.force.force)?;
    Some(Refusal::for_now(format!(
        "too early: the last weights of an epoch count, they are set from block {from} on, it is {}",
        rules.block
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use record::files;
    use std::path::Path;

    #[test]
    fn a_window_that_is_passed_over_leaves_a_second_chance() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/hparams/demo.json");
        let demo: Hparams = files::read_json(&demo).unwrap();
        assert_eq!(margin(None, Some(&demo)), 2 * demo.clock.blocks + SAFETY);
        assert_eq!(margin(Some(5), Some(&demo)), 5);
        assert_eq!((margin(None, None), margin(Some(5), None)), (u64::MAX, 5), "at once");
    }
}
