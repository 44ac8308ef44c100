//! States: the first one from the run's seed, the next from accepted deltas, and whether one is what its record says.

mod apply;
mod import;

use record::{
    Hash, Report, Stream,
    cli::{Common, DryRun, Force, Make, note, print_record},
    files,
    records::{Run, State},
};
use run::Hparams;
use run::Settings as _;
use std::path::{Path, PathBuf};
use wallet::WalletArgs;
use wire::{Layout, outer::Values, state};

/// First state, apply accepted deltas, verify, show.
#[derive(clap::Parser)]
#[command(name = "bz-state", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Action,
    /// CPU threads [default: all cores]; the result is the same with any number
    #[arg(long, env = "BZ_THREADS", value_name = "N", value_parser = record::cli::threads, global = true)]
    threads: Option<usize>,
}

const HELP: &str = "\
A state is a Hugging Face model directory: transformers opens it as it is.

Examples:
  bz-window | bz-state init                                       the first state, from hparams.json alone
  bz-window | bz-state init --from ~/models/Qwen3-0.6B            the same, of a run that begins with a model
  bz-window --wait start | bz-pull --state | bz-state apply       catch up to the window, checking every root
  bz-score accept < scores | bz-state apply | bz-push > state     make the next state, sign it, publish it
  bz-state verify ~/.boltzmann/states/120                         is it what its record says?
  bz-state show ~/.boltzmann/states/120 | jq .norm

See also: bz-score accept, bz-pull --state";

#[derive(clap::Subcommand)]
enum Action {
    /// Make the first state of the run
    Init {
        /// From this Hugging Face model directory, where hparams.json has `init_model`
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        #[command(flatten)]
        make: Make,
    },
    /// Print `model` and `init_model` of a Hugging Face model directory, for the hparams of a run that begins with it
    Hparams {
        /// The model directory
        path: PathBuf,
    },
    /// Make the next state: from an `accept` record (and sign it), or from published `state` records
    Apply {
        #[command(flatten)]
        wallet: WalletArgs,
        /// Keep so many states, 2 at least
        #[arg(long, env = "BZ_KEEP_STATES", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
        keep: u32,
        #[command(flatten)]
        dry: DryRun,
        #[command(flatten)]
        force: Force,
    },
    /// Make the state of the input's window from the newest one here, unchanged, and sign it (a validator that was down)
    Carry {
        #[command(flatten)]
        wallet: WalletArgs,
        #[command(flatten)]
        dry: DryRun,
    },
    /// Compare state directories with their records, and these with the run (its `run` record comes from the input, or from the
    /// node's folder, where the last stage left it)
    Verify {
        /// State directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Tell what is in a state directory
    Show {
        /// The state directory
        path: PathBuf,
    },
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    if let Some(threads) = args.threads {
        wire::threads(threads)?;
    }
    match &args.command {
        Action::Hparams { path } => {
            let (model, values) = import::read(path)?;
            let hash = state::model_hash(&Layout::new(&model), &values);
            print_record("hparams", &serde_json::json!({"model": model, "init_model": hash}))
        }
        Action::Init { from, make } => {
            let inputs = stream.read()?;
            let record: Run = inputs.need("bz-window")?;
            let (hparams, run) = args.common.run(&inputs)?;
            if !make.dry_run() {
                remember(&args.common, &record)?;
            }
            let dir = make.output.folder(|| args.common.home().state(hparams.start_window));
            if make.dry_run() {
                let (_, state) = first_state(&hparams, run, from.as_deref())?;
                return stream.emit(&state);
            }
            let _turn = files::turn(files::folder_of(&dir))?;
            stream.emit(&init(&args.common, &hparams, run, from.as_deref(), &dir, make.force())?)
        }
        Action::Apply { wallet, keep, dry, force } => {
            let mode = apply::Mode { dry_run: dry.dry_run, force: force.force, keep: *keep as usize };
            apply::apply(&args.common, wallet, mode, stream)
        }
        Action::Carry { wallet, dry } => {
            let mode = apply::Mode { dry_run: dry.dry_run, force: false, keep: usize::MAX };
            apply::carry(&args.common, wallet, mode, stream)
        }
        Action::Verify { paths } => verify(&args.common, paths, stream),
        Action::Show { path } => show(&args.common, path),
    }
}

/// Keep the run's record: with it, a state in this folder can be held against the run without a chain.
pub(crate) fn remember(common: &Common, record: &Run) -> Result<(), Report> {
    let path = common.home().run();
    let same = files::read_json::<Run>(&path).is_ok_and(|kept| kept.run == record.run);
    if same { Ok(()) } else { files::write_json(&path, record) }
}

/// A state directory whose every byte is what its record says, and the record what its signer signed.
pub(crate) fn checked(dir: &Path, hparams: &Hparams, layout: &Layout, run: Hash) -> Result<(State, Values), Report> {
    let (record, values) = state::load_checked(dir, hparams, layout, run)?;
    let config = dir.join("config.json");
    if files::read_json::<serde_json::Value>(&config)? != hparams.model.config_json() {
        return Err(Report::data(format!("{} is not that of the run's model", config.display()))
            .hint("bz-state apply --force makes the state again"));
    }
    if record.by.is_some() {
        wire::commit::verify_state(&record).map_err(|e| e.at(dir.display()))?;
    }
    Ok((record, values))
}

/// The first state of a run and its record.
pub(crate) fn first_state(hparams: &Hparams, run: Hash, from: Option<&Path>) -> Result<(Values, State), Report> {
    let layout = Layout::new(&hparams.model);
    let values = Values::fresh(first(hparams, &layout, from)?, &layout, &hparams.outer);
    let state = State {
        window: hparams.start_window,
        run,
        root: state::root(&layout, &values, run, hparams.start_window),
        prev: None,
        prev_window: None,
        path: None,
        accepted: Vec::new(),
        reveal: None,
        by: None,
        signature: None,
    };
    Ok((values, state))
}

/// The first state of a run in its directory, made unless it is there.
pub(crate) fn init(
    common: &Common,
    hparams: &Hparams,
    run: Hash,
    from: Option<&Path>,
    dir: &Path,
    force: bool,
) -> Result<State, Report> {
    if dir.join("state.json").exists() && !force {
        let state = state::record_of(dir)?;
        if state.run == run {
            return Ok(state);
        }
        return Err(Report::config(format!("{} holds a state of run {}, this is run {run}", dir.display(), state.run))
            .hint("one folder serves one run: use another BZ_HOME"));
    }
    let (values, state) = first_state(hparams, run, from)?;
    let tokenizer = common.home().0.join("tokenizer.json");
    let tokenizer = tokenizer.exists().then_some(tokenizer.as_path());
    state::save(dir, hparams, &Layout::new(&hparams.model), &values, &state, tokenizer)?;
    state::record_of(dir)
}

/// The parameters of the first state: from the run's seed, or from the model that the run begins with.
fn first(hparams: &Hparams, layout: &Layout, from: Option<&Path>) -> Result<Vec<Vec<f32>>, Report> {
    let (hash, from) = match (hparams.init_model, from) {
        (None, None) => return Ok(state::first(hparams, layout)),
        (Some(hash), Some(from)) => (hash, from),
        (Some(hash), None) => {
            return Err(Report::config(format!("the run begins with a model that was trained before, {hash}"))
                .hint("bz-state init --from DIR, with its Hugging Face directory"));
        }
        (None, Some(_)) => {
            return Err(Report::config("hparams.json says that the first state comes from init_seed")
                .hint("bz-state hparams DIR prints the `model` and `init_model` of a run that begins with a model"));
        }
    };
    let (model, values) = import::read(from)?;
    if model.tensors() != hparams.model.tensors() || model.config_json() != hparams.model.config_json() {
        return Err(Report::config(format!("{} is another model than the run's", from.display()))
            .hint("compare its config.json with `model` in hparams.json: bz-state hparams DIR"));
    }
    let found = state::model_hash(layout, &values);
    if found == hash {
        return Ok(values.model);
    }
    Err(Report::data(format!("{} has the hash {found}, the run begins with {hash}", from.display()))
        .hint("another version of that model, or a damaged file"))
}

fn verify(common: &Common, paths: &[PathBuf], stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let hparams = common.hparams()?;
    let known = match inputs.last::<Run>()? {
        Some(run) => Some(run),
        None => files::read_json(&common.home().run()).ok(),
    };
    let run = known.map(|known| hparams.run(known.genesis, known.netuid));
    if run.is_none() {
        let hint = "bz-window | bz-state verify DIR gives its record";
        note("bz-state", format!("the run is not known here: its hparams are not held against the records ({hint})"));
    }
    let layout = Layout::new(&hparams.model);
    let no = |e: Report| Report { code: record::Code::No, ..e };
    for path in paths {
        let record = state::record_of(path)?;
        if let Some(run) = run
            && run != record.run
        {
            let error =
                format!("{} is a state of run {}, the hparams here are of run {run}", path.display(), record.run);
            return Err(Report::no(error).hint("--hparams names those of the state's run"));
        }
        checked(path, &hparams, &layout, record.run).map_err(no)?;
        stream.emit(&record)?;
    }
    Ok(())
}

fn show(common: &Common, path: &Path) -> Result<(), Report> {
    let hparams = common.hparams()?;
    let layout = Layout::new(&hparams.model);
    let record = state::record_of(path)?;
    let values = state::load(path, &hparams, &layout)?;
    let norm = |all: &[Vec<f32>]| all.iter().flatten().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    print_record(
        "show",
        &serde_json::json!({
            "state": record, "numel": layout.numel(), "tiles": layout.tiles,
            "norm": norm(&values.model), "norm_first_moment": norm(&values.first),
            "norm_second_moment": norm(&values.second),
        }),
    )
}
