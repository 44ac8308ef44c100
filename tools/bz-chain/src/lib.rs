//! What a node says on the chain: it registers, says where its bucket is, commits and votes; and how it stands.

mod bucket;
mod entry;
mod records;

use bucket::BucketArgs;
use chain::{Call, Chain, ChainArgs, Signer};
use entry::{Change, CommitArgs, EntriesArgs, VoteArgs};
use record::{
    Code, Home, Hotkey, Report, Stream,
    cli::{Common, DryRun},
};
use records::{Doctor, Hyperparameters, Obstacle, Registration, Whoami};
use wallet::WalletArgs;

/// Register on a subnet, say where the bucket is, commit and vote, see how the wallet stands.
#[derive(clap::Parser)]
#[command(name = "bz-chain", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(subcommand)]
    command: Action,
}

const HELP: &str = "\
Each command writes one record, in `begin` and `end`: `registration`, `bucket`, `onchain`, `doctor`, `hyperparameters`,
`whoami`; `entries` one `entry` for each hotkey.

Examples:
  bz-chain register                                  what does a place in the subnet cost now?
  bz-chain register --limit 0.5                      burn at most 0.5 TAO of the coldkey for one
  bz-chain register --limit 0.5 --dry-run            the call that the coldkey would sign
  bz-chain bucket https://s3.example.org/miner7      try the bucket as others will, and tell them where it is
  bz-chain doctor | jq -r 'select(.type==\"doctor\") | .obstacles[] | [.what,.hint] | @tsv'
                                                     why can this wallet set no weights?
  bz-chain hyperparameters | jq 'select(.type==\"hyperparameters\").tempo'
  bz-chain whoami | jq 'select(.type==\"whoami\").uid'
  bz-train < pages | bz-delta commit | bz-chain commit > commit      commit to the update, for all to see
  bz-chain vote --window 120 --record $HASH          stand for a record; without --record for none
  bz-chain entries --block 6020 | jq -r 'select(.vote_window==120) | [.hotkey,.vote] | @tsv'
                                                     who voted for what, at the tally block of window 120?

A hotkey's entry on the chain has the address of its bucket, its commitment, its vote, and the last record that it holds
for final: one command sets one of them and keeps the others. What is there already is not sent again; a later window is
not overwritten by an older one. `commit` reads a `commit` record, `vote` a `vote` record where no --window is named; such
an input has to be closed by an `end`. One process of a node signs with a hotkey at a time, others wait for it.
A bucket is https://ENDPOINT/BUCKET; with --with-key also https://KEYID:SECRET@ENDPOINT/BUCKET with a read-only key,
which everybody then sees, or the 128 characters of Templar; or a bare name at AWS.
A limit is held by the chain, in the block that takes the place; a chain that cannot hold one is refused.
The password of an encrypted coldkey is asked for on a terminal, or read from --password-file: a file of mode 600, or
/dev/fd/N of a shell's redirection.
Exit codes: 1 the answer is no, a place costs more than the limit, others cannot read the bucket, a commitment or vote is
late or older than what is there; 75 the epoch's room is used up, or no node that was asked has that block's state any
more; 78 no such subnet, a chain of another form, a key in the address that writes.
See also: bz-window, bz-setweights, bz-localnet join";

#[derive(clap::Subcommand)]
enum Action {
    /// Register the hotkey by burning TAO of the coldkey
    Register {
        /// The most that may be burned
        #[arg(long, value_name = "TAO")]
        limit: Option<f64>,
        #[command(flatten)]
        dry: DryRun,
    },
    /// Commit the address of the own bucket on the chain
    Bucket(BucketArgs),
    /// Commit to an update on the chain: reads a `commit` record
    Commit(CommitArgs),
    /// Vote for the record that makes the next state
    Vote(VoteArgs),
    /// Print what all hotkeys have committed to and vote for
    Entries(EntriesArgs),
    /// Say what stands between this wallet and its next weights, and how much it may still commit
    Doctor,
    /// Print what the subnet is set to
    Hyperparameters,
    /// Who am I on this subnet? Writes the hotkey's public half beside it, where none is there
    Whoami,
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    // What is wrong on this machine is said before the chain is asked.
    let own = || Own::connect(&args, args.wallet.public()?);
    match &args.command {
        Action::Entries(entries) => {
            let chain = Chain::open(&args.chain, &args.common.home())?;
            entry::entries(entries, &chain, stream)
        }
        Action::Hyperparameters => {
            let all = connect(&args.chain)?.hyperparameters()?;
            stream.emit(&Hyperparameters(all.into_iter().map(|(name, value)| (name.to_string(), value)).collect()))
        }
        Action::Whoami => {
            // The one command that opens a hotkey to know whose it is, and writes that down for all the others.
            let Own { chain, hotkey, .. } = Own::connect(&args, args.wallet.write_public()?)?;
            stream.emit(&Whoami { hotkey, netuid: chain.subnet.netuid, uid: chain.uid_of(hotkey)? })
        }
        Action::Register { limit, dry } => {
            let own = own()?;
            let record = register(&args.wallet, &own.chain, own.hotkey, *limit, *dry)?;
            stream.emit(&record)
        }
        Action::Bucket(bucket) => bucket::run(bucket, &own()?, stream),
        Action::Commit(commit) => {
            let change = Change::commitment(commit, args.wallet.public()?, stream)?;
            own()?.set(&change, &args.common, stream)
        }
        Action::Vote(vote) => {
            let change = Change::vote(vote, stream)?;
            own()?.set(&change, &args.common, stream)
        }
        Action::Doctor => {
            let own = own()?;
            doctor(&own.chain, own.hotkey, stream)
        }
    }
}

/// The chain, with the subnet in it.
fn connect(args: &ChainArgs) -> Result<Chain, Report> {
    let chain = Chain::connect(args)?;
    chain.must_exist()?;
    Ok(chain)
}

/// Who this node is on the chain.
pub(crate) struct Own<'a> {
    chain: Chain,
    wallet: &'a WalletArgs,
    hotkey: Hotkey,
    home: Home,
}

impl<'a> Own<'a> {
    fn connect(args: &'a Args, hotkey: Hotkey) -> Result<Self, Report> {
        Ok(Own { chain: connect(&args.chain)?, wallet: &args.wallet, hotkey, home: args.common.home() })
    }
}

/// A call and its bytes, as a dry run has them.
pub(crate) fn shown(chain: &Chain, call: &Call) -> Result<(Option<String>, Option<String>), Report> {
    let bytes = format!("0x{}", hex::encode(chain.call_bytes(call)?));
    Ok((Some(format!("{}.{}", call.pallet, call.name)), Some(bytes)))
}

fn register(
    wallet: &WalletArgs,
    chain: &Chain,
    hotkey: Hotkey,
    limit: Option<f64>,
    dry: DryRun,
) -> Result<Registration, Report> {
    let mut record = Registration { hotkey: Some(hotkey), netuid: chain.subnet.netuid, ..Registration::default() };
    record.uid = chain.uid_of(hotkey)?;
    if record.uid.is_some() {
        record.reason = Some("it is registered already".into());
        return Ok(record);
    }
    let price = chain.price()?;
    record.price = Some(price);
    let limit = match limit {
        None => {
            return Err(Report::no(format!("a place costs {price} TAO now: nothing was burned"))
                .hint(format!("bz-chain register --limit {price}")));
        }
        Some(limit) if !limit.is_finite() || limit < price => {
            return Err(Report::no(format!("a place costs {price} TAO now, more than the limit of {limit}"))
                .hint("the price falls while nobody registers: try again later, or raise --limit"));
        }
        Some(limit) => limit,
    };
    // Nobody is asked for a password in vain.
    let (account, opened) = wallet.account()?;
    let free = chain.balance(account)?;
    if free < price {
        return Err(Report::no(format!("the coldkey {account} has {free} TAO, a place costs {price}"))
            .hint("send it some; bz-localnet faucet on one machine"));
    }
    let call = chain.register_call(hotkey, limit)?;
    if dry.dry_run {
        (record.call, record.call_bytes) = shown(chain, &call)?;
        record.reason = Some("dry run".into());
        return Ok(record);
    }
    // What the coldkey would sign is held against Subtensor's own numbers before its password is asked for, too.
    chain.call_bytes(&call)?;
    let cold = opened.map_or_else(|| wallet.open_coldkey(), Ok)?;
    let sign = |message: &[u8]| cold.sign(message);
    let sent = chain.submit(&call, &Signer { account: cold.hotkey(), sign: &sign })?;
    (record.registered, record.tx, record.block) = (true, Some(sent.tx), sent.block);
    record.uid = chain.uid_of(hotkey)?;
    Ok(record)
}

/// What stands between a wallet and its next weights, in words; 1 when anything but time does, 78 when the chain is
/// another. What can be read is said in any case.
fn doctor(chain: &Chain, hotkey: Hotkey, stream: &mut Stream<'_>) -> Result<(), Report> {
    let mut rules = chain.weight_rules(hotkey)?;
    let weights = match rules.uid.map(|uid| chain.weights_of(uid)).transpose() {
        Ok(weights) => weights.unwrap_or_default(),
        Err(report) if report.code == Code::Config => {
            rules.unknown.push(report.error);
            Vec::new()
        }
        Err(report) => return Err(report),
    };
    let room = match chain.room(hotkey) {
        Err(report) if report.code == Code::Config => {
            rules.unknown.push(report.error);
            None
        }
        other => Some(other?),
    };
    let obstacles = rules.obstacles(false);
    let first = obstacles.first().map(|(what, hint)| (what.clone(), *hint));
    let obstacles = obstacles.into_iter().map(|(what, hint)| Obstacle { what, hint: hint.to_string() }).collect();
    stream.emit(&Doctor::new(hotkey, chain.subnet, &rules, weights, room, obstacles))?;
    let Some((what, hint)) = first else { return Ok(()) };
    // What was asked is said: the stream is whole, whatever the answer is.
    stream.end()?;
    let report = if rules.unknown.is_empty() { Report::no(what) } else { Report::config(what) };
    Err(report.hint(hint))
}
