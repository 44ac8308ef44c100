//! Deltas: commit to an update, make the file that reveals it, check those of others, sum, show.

mod check;
mod own;
mod show;

use record::{
    Report, Stream,
    cli::{Common, DryRun, Make},
};
use std::path::PathBuf;
use wallet::WalletArgs;

/// Commit to an update, make its delta, check those of others, sum, show.
#[derive(clap::Parser)]
#[command(name = "bz-delta", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Action,
}

const HELP: &str = "\
Examples:
  bz-pages < start | bz-train | bz-delta commit | bz-push > commit      bind the update, tell nothing of it
  bz-window --wait reveal < commit | bz-delta make | bz-push > receipt  reveal the tiles that were drawn
  bz-delta check < pulled > checked                                     signature, commitment, shapes, proof
  jq -r 'select(.type==\"delta\" and .uid==9) | [.status,.reason] | @tsv' checked
  bz-delta show windows/120/delta.safetensors                           what is in a file?
  bz-delta diff a.safetensors b.safetensors | jq .cosine                are they alike? (topk, dct, dense)
  cat part-a part-b | bz-delta sum --parts 2 -o whole.safetensors       join the parts of one gradient

FORMAT.md in tools/lib/wire has the file's every byte.
See also: bz-train, bz-push, bz-pull, bz-score";

#[derive(clap::Subcommand)]
enum Action {
    /// Commit to the own update: a signed hash that nobody can use or read
    Commit {
        #[command(flatten)]
        wallet: WalletArgs,
        #[command(flatten)]
        make: Make,
    },
    /// Make the delta file: the tiles drawn by the end block's hash, with their proof
    Make {
        #[command(flatten)]
        wallet: WalletArgs,
        #[command(flatten)]
        make: Make,
    },
    /// Check the deltas that were pulled
    Check,
    /// Join the parts of one update, where that is exact
    Sum {
        /// So many parts there are: fewer would be a fraction of the update
        #[arg(long, value_name = "N")]
        parts: usize,
        #[command(flatten)]
        dry: DryRun,
        /// Where to write the sum
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show what is in a delta file
    Show {
        /// The file; `-` is the input
        path: PathBuf,
    },
    /// Show how alike two delta files are
    Diff {
        /// The one; `-` is the input
        a: PathBuf,
        /// The other
        b: PathBuf,
    },
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    match &args.command {
        Action::Commit { wallet, make } => own::commit(&args.common, wallet, make, stream),
        Action::Make { wallet, make } => own::make(&args.common, wallet, make, stream),
        Action::Check => check::check(&args.common, stream),
        Action::Sum { parts, dry, output } => show::sum(&args.common, output, *parts, *dry, stream),
        Action::Show { path } => show::show(&args.common, path, stream),
        Action::Diff { a, b } => show::diff(&args.common, [a, b], stream),
    }
}
