//! The few calls that a node makes once: register on the subnet, say where its bucket is.

use chain::{Chain, ChainArgs, Signer};
use record::{Report, cli::print_json};
use serde_json::json;
use wallet::WalletArgs;

/// Register on a subnet, say where the bucket is.
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
  bz-chain register                                  burn TAO of the coldkey for a place in the subnet
  bz-chain bucket https://s3.example.org/miner7      tell the others where the bucket is
  bz-chain whoami                                    uid, if registered

An encrypted coldkey is not opened here: register with `btcli subnet register` then.
See also: bz-window, bz-localnet join";

#[derive(clap::Subcommand)]
enum Action {
    /// Register the hotkey by burning TAO of the coldkey
    Register,
    /// Commit the address of the own bucket on the chain
    Bucket {
        /// https://ENDPOINT/BUCKET, at most 128 bytes
        #[arg(env = "BZ_BUCKET")]
        address: String,
    },
    /// Who am I on this subnet?
    Whoami,
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args) -> Result<(), Report> {
    let hotkey = args.wallet.public()?;
    let chain = Chain::connect(&args.chain)?;
    let uid = chain.uid_of(hotkey)?;
    match args.command {
        Action::Whoami => print_json(&json!({"hotkey": hotkey, "netuid": args.chain.netuid, "uid": uid})),
        Action::Register => {
            if let Some(uid) = uid {
                return print_json(
                    &json!({"hotkey": hotkey, "uid": uid, "registered": false, "reason": "it is registered already"}),
                );
            }
            let cold = args.wallet.open_coldkey()?;
            let sign = |message: &[u8]| cold.sign(message);
            let tx = chain.register(hotkey, &Signer { account: cold.hotkey(), sign: &sign })?;
            print_json(&json!({"hotkey": hotkey, "uid": chain.uid_of(hotkey)?, "registered": true, "tx": tx}))
        }
        Action::Bucket { address } => {
            let signer = args.wallet.open()?;
            let sign = |message: &[u8]| signer.sign(message);
            let tx = chain.commit_bucket(&address, &Signer { account: hotkey, sign: &sign })?;
            print_json(&json!({"hotkey": hotkey, "bucket": address, "tx": tx}))
        }
    }
}
