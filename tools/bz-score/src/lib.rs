//! Measurements into scores, what enters the state, scores into weights.

mod accept;
mod fold;
mod rule;

use record::{Report, Stream, Window, cli::Common};
use run::hparams::Rule;
use std::path::PathBuf;

/// Scores: measure deltas, decide what enters the state, fold scores into weights.
#[derive(clap::Parser)]
#[command(name = "bz-score", version, args_conflicts_with_subcommands = true, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Action>,
    /// cosine, or l2 [default: the run's]
    #[arg(long, value_parser = record::cli::word::<Rule>())]
    rule: Option<Rule>,
    /// 1: zero below the run's threshold and outside its band; 0: in proportion [default: the run's]
    #[arg(long, value_name = "0|1")]
    sharpness: Option<f64>,
}

const HELP: &str = "\
Rules, over the tiles that were revealed, against the update that was recomputed on the same pages:
  cosine   raw = ⟨δ,ĝ⟩ / (‖δ‖‖ĝ‖)         score = raw, zero below the threshold or outside the band of norms
  l2       raw = −‖δ−ĝ‖                    score = 1 − ‖δ−ĝ‖/‖ĝ‖, at least 0

Examples:
  bz-pages --role audit < pulled | bz-train | bz-score --rule cosine > scores
  bz-score accept < scores | bz-state apply | bz-push > state
  bz-score fold --last 64 $BZ_HOME/windows | bz-setweights > weights
  cat windows/*/scores | jq -c 'select(.uid != 9)' | bz-score fold | bz-setweights --dry-run
  jq -r 'select(.type==\"score\") | [.uid, .raw, .score, .reason] | @tsv' scores

See also: bz-train, bz-delta check, bz-setweights";

#[derive(clap::Subcommand)]
enum Action {
    /// Decide what enters the next state
    Accept,
    /// Fold the scores of many windows into weights
    Fold {
        /// Folders of windows, or receipts with `score` records; the input too, which `-` names
        paths: Vec<PathBuf>,
        /// The last so many windows [default: the run's]
        #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
        last: Option<u64>,
        /// As of this window: later ones do not count [default: the newest]
        #[arg(long, value_name = "W")]
        window: Option<Window>,
    },
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    match &args.command {
        None => rule::score(&args.common, args.rule, args.sharpness, stream),
        Some(Action::Accept) => accept::accept(&args.common, stream),
        Some(Action::Fold { paths, last, window }) => fold::fold(&args.common, paths, *last, *window, stream),
    }
}
