//! The few calls that a node makes once: register on the subnet, say where its bucket is; and how it stands.

use chain::{Call, Chain, ChainArgs, Signer};
use record::{Hotkey, Report, cli::print_json};
use serde_json::json;
use wallet::WalletArgs;

/// Register on a subnet, say where the bucket is, see how the wallet stands.
#[derive(clap::Parser)]
#[command(name = "bz-chain", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(subcommand)]
    command: Action,
}

const HELP: &str = "\
Examples:
  bz-chain register                                  what does a place in the subnet cost now?
  bz-chain register --limit 0.5                      burn at most 0.5 TAO of the coldkey for one
  bz-chain bucket https://s3.example.org/miner7      tell the others where the bucket is
  bz-chain doctor | jq -r '.obstacles[] | [.what,.hint] | @tsv'     why can this wallet set no weights?
  bz-chain hyperparameters | jq .Tempo               what is the subnet set to?
  bz-chain whoami                                    uid, if registered

A bucket is https://ENDPOINT/BUCKET; https://KEYID:SECRET@ENDPOINT/BUCKET with a read-only key, which everybody then
sees; the 128 characters of Templar; or a bare name at AWS.
The password of an encrypted coldkey is asked for on a terminal, or read from --password-file: a file of mode 600, or
/dev/fd/N of a shell's redirection.
Exit codes: 1 the answer is no, or a place costs more than the limit.
See also: bz-window, bz-setweights, bz-localnet join";

#[derive(clap::Subcommand)]
enum Action {
    /// Register the hotkey by burning TAO of the coldkey
    Register {
        /// The most that may be burned
        #[arg(long, value_name = "TAO")]
        limit: Option<f64>,
    },
    /// Commit the address of the own bucket on the chain
    Bucket {
        /// Where it is, at most 384 bytes
        #[arg(env = "BZ_BUCKET")]
        address: String,
    },
    /// Say what stands between this wallet and its next weights
    Doctor,
    /// Print what the subnet is set to
    Hyperparameters,
    /// Who am I on this subnet?
    Whoami,
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args) -> Result<(), Report> {
    // What is wrong on this machine is said before the chain is asked.
    let hotkey = match args.command {
        Action::Hyperparameters => None,
        _ => Some(args.wallet.public()?),
    };
    let chain = Chain::connect(&args.chain)?;
    match (args.command, hotkey) {
        (Action::Hyperparameters, _) | (_, None) => print_json(&chain.hyperparameters()?),
        (Action::Whoami, Some(hotkey)) => {
            print_json(&json!({"hotkey": hotkey, "netuid": args.chain.netuid, "uid": chain.uid_of(hotkey)?}))
        }
        (Action::Register { limit }, Some(hotkey)) => register(&args.wallet, &chain, hotkey, limit),
        (Action::Bucket { address }, Some(hotkey)) => {
            let signer = args.wallet.open()?;
            let sign = |message: &[u8]| signer.sign(message);
            let call = Call::commit_bucket(args.chain.netuid, &address)?;
            let sent = chain.submit(&call, &Signer { account: hotkey, sign: &sign })?;
            print_json(&json!({"hotkey": hotkey, "bucket": address, "tx": sent.tx, "block": sent.block}))
        }
        (Action::Doctor, Some(hotkey)) => doctor(&chain, hotkey),
    }
}

fn register(wallet: &WalletArgs, chain: &Chain, hotkey: Hotkey, limit: Option<f64>) -> Result<(), Report> {
    if let Some(uid) = chain.uid_of(hotkey)? {
        let reason = "it is registered already";
        return print_json(&json!({"hotkey": hotkey, "uid": uid, "registered": false, "reason": reason}));
    }
    let price = chain.price()?;
    let limit = match limit {
        None => {
            return Err(Report::no(format!("a place costs {price} TAO now: nothing was burned"))
                .hint(format!("bz-chain register --limit {price}")));
        }
        Some(limit) if limit.is_nan() || limit < price => {
            return Err(Report::no(format!("a place costs {price} TAO now, more than the limit of {limit}"))
                .hint("the price falls while nobody registers: try again later, or raise --limit"));
        }
        Some(limit) => limit,
    };
    // Nobody is asked for a password in vain.
    let account = wallet.public_coldkey()?;
    let free = chain.balance(account)?;
    if free < price {
        return Err(Report::no(format!("the coldkey {account} has {free} TAO, a place costs {price}"))
            .hint("send it some; bz-localnet faucet on one machine"));
    }
    let call = chain.register_call(hotkey, limit)?;
    let cold = wallet.open_coldkey()?;
    let sign = |message: &[u8]| cold.sign(message);
    let sent = chain.submit(&call, &Signer { account: cold.hotkey(), sign: &sign })?;
    let uid = chain.uid_of(hotkey)?;
    print_json(
        &json!({"hotkey": hotkey, "uid": uid, "registered": true, "price": price, "tx": sent.tx, "block": sent.block}),
    )
}

/// What stands between a wallet and its next weights, in words; 1 when anything but time does.
fn doctor(chain: &Chain, hotkey: Hotkey) -> Result<(), Report> {
    let rules = chain.weight_rules(hotkey)?;
    let obstacles = rules.obstacles(false);
    let weights = rules.uid.map(|uid| chain.weights_of(uid)).transpose()?.unwrap_or_default();
    let listed: Vec<_> = obstacles.iter().map(|(what, hint)| json!({"what": what, "hint": hint})).collect();
    print_json(&json!({
        "hotkey": hotkey, "netuid": chain.subnet.netuid, "mechanism": chain.subnet.mechanism, "block": rules.block, "uid": rules.uid, "registered": rules.uid.is_some(),
        "owner": rules.owner, "stake": rules.stake, "stake_needed": rules.min_stake, "permit": rules.permit,
        "commit_reveal": rules.commit_reveal, "reveal_period_epochs": rules.reveal_period,
        "timelocked_commits": rules.timelock.is_some(), "waiting_for_reveal": rules.pending.len() + rules.timelocked.len(),
        "weights": weights,
        "blocks_since_weights": rules.set_at().map(|last| rules.block.saturating_sub(last)),
        "rate_limit": rules.rate_limit, "next_epoch_at": rules.epochs.next(rules.block),
        "next_weights_at": rules.too_early().max(rules.set_in_epoch()).unwrap_or(rules.block), "obstacles": listed,
    }))?;
    match obstacles.into_iter().next() {
        None => Ok(()),
        Some((what, hint)) => Err(Report::no(what).hint(hint)),
    }
}
