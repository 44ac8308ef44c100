//! The inner steps over pages: a miner's update of a window, or the validator's recomputed one.
//!
//! Any number of `pages` records go through one load of the state. The same inputs on the same machine give the same
//! bytes, where as many sequences go through the model at once (`micro_batch` and `checkpoint` of the record): told, or
//! of the memory that is free. On a GPU, too: what has no deterministic algorithm there is refused by name. No network and no key is opened here.

mod run;

use ::run::{Settings as _, hparams::Dtype};
use model::{How, device};
use record::{
    Report, Stream, Window,
    cli::{Common, Make, Shard, check_file, note},
    files,
    records::{Pages, State, Status, Train},
};
use run::{Loaded, Run, Theta};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Run the inner steps over pages: the update of a window, or the recomputed one.
#[derive(clap::Parser)]
#[command(name = "bz-train", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    make: Make,
    /// Where to run
    #[arg(long, env = "BZ_DEVICE", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    device: String,
    /// CPU threads [default: OMP_NUM_THREADS, or all cores]
    #[arg(long, env = "BZ_THREADS", value_name = "N", value_parser = record::cli::threads)]
    threads: Option<usize>,
    /// The state directory [default: that of the window, in the node's folder]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Take only part I of N of the records
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Copies of the model that share each step: as many GPUs
    #[arg(long, env = "BZ_REPLICAS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// Sequences that go through the model at once [default: the run's own, or as many as fit into free memory]
    #[arg(long, env = "BZ_MICRO_BATCH", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    /// Keep only what layers read, and compute the rest again for the gradients: a third slower, in a fraction of the memory. Done by itself where memory is short
    #[arg(long, env = "BZ_CHECKPOINT", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true)]
    checkpoint: bool,
    /// Use libtorch's operators one by one, without kernels of our own: the reference
    #[arg(long)]
    plain: bool,
}

const HELP: &str = "\
Reads `pages` records and appends a `train` record for each: the update, as a safetensors file with the model's names
and shapes, and the loss before and after. What is trained and how is in hparams.json.

Examples:
  bz-window --window 120 --wait start | bz-pages | bz-train | bz-delta commit
  bz-pages --role audit --sample 8 < pulled | bz-train --device cuda | bz-score
  bz-train --shard 0/2 < audit > a & bz-train --shard 1/2 < audit > b     two processes, half the records each (CUDA_VISIBLE_DEVICES)
  bz-train --replicas 4 --checkpoint < pages                              four GPUs share each step; less memory
  jq -r 'select(.type==\"train\") | [.uid, .loss_before, .loss_after, .tokens_per_s] | @tsv' receipt
  jq 'select(.type==\"train\") | {load_s, evaluate_s, forward_backward_s, optimizer_s, write_s}' receipt     where time went

See also: bz-pages, bz-eval, bz-delta";

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    device::prepare(args.threads)?;
    let inputs = stream.read()?;
    let hparams = args.common.hparams()?;
    let device::Chosen { devices, reason: device_reason } = device::share(&args.device, usize::from(args.replicas))?;
    if let Some(reason) = device_reason.as_ref().filter(|_| !args.common.quiet) {
        note(stream.tool(), format!("the CPU is taken: {reason}"));
    }
    let work: Vec<Pages> = inputs
        .all::<Pages>()?
        .into_iter()
        .enumerate()
        .filter(|(place, _)| args.shard.is_none_or(|shard| shard.takes(*place)))
        .map(|(_, pages)| pages)
        .collect();
    if work.is_empty() {
        args.common.say(stream.tool(), "no `pages` record: nothing to train");
    }
    let how =
        How { train: true, half: hparams.inner.dtype == Dtype::Bf16, plain: args.plain, checkpoint: args.checkpoint };
    let mut run = Run { args: &args, hparams: &hparams, devices, device_reason, how, most: None, tried: 0 };
    let mut loaded: Option<Loaded> = None;
    let count = work.len();
    for (place, pages) in work.into_iter().enumerate() {
        let path = args.make.output.file(count, || update_path(&args, &pages))?;
        let (dir, state) = state_dir(&args, pages.window)?;
        if let Some(done) = finished(&path, &args, &pages, &state)? {
            stream.emit(&done)?;
            continue;
        }
        let train = loop {
            let tried = device::guard(|| {
                let started = Instant::now();
                // One load serves all records of a state.
                let base = match loaded.take().filter(|base| base.dir == dir) {
                    Some(base) => base,
                    None => Loaded::open(&dir, &hparams, run.devices[0])?,
                };
                let load_s = started.elapsed().as_secs_f64();
                // What is trained on last is trained in place. A GPU's memory is larger, and its bus slower.
                let theta = match place + 1 == count && !run.devices[0].is_cuda() {
                    true => Theta::Last(base),
                    false => Theta::Kept(loaded.insert(base)),
                };
                run.one(&pages, &path, &state, theta, load_s)
            });
            match tried {
                // Gradients of a step are summed over its parts: smaller ones give the same update, up to rounding.
                Err(report) if device::out_of_memory(&report) && run.with_less(stream.tool(), &report) => {}
                tried => break tried.map_err(|e| e.at(format!("uid {}, {}", pages.uid, pages.path.display())))?,
            }
        };
        if train.status == Status::Ok && train.path.is_some() {
            files::write_json(&files::record_beside(&path), &train)?;
        }
        stream.emit(&train)?;
    }
    Ok(())
}

fn update_path(args: &Args, pages: &Pages) -> PathBuf {
    let name = format!("update-{}-{}.safetensors", pages.role, pages.uid);
    args.common.home().window(pages.window).join(name)
}

/// The record of an update that is there already, of these pages and this state.
fn finished(path: &Path, args: &Args, pages: &Pages, state: &State) -> Result<Option<Train>, Report> {
    let record = files::record_beside(path);
    if args.make.force() || !record.exists() || !path.exists() {
        return Ok(None);
    }
    // A record that cannot be read, of an older version or damaged, is no reason to lose the window: it is trained again.
    let train: Train = match files::read_json(&record) {
        Ok(train) => train,
        Err(report) => {
            note("bz-train", format!("{}: trained again", report.error));
            return Ok(None);
        }
    };
    match train.blake3 {
        Some(hash) if check_file(path, train.bytes, hash).is_ok() => {
            let same = train.base == state.root && train.pages == pages.hash() && train.role == pages.role;
            Ok((same && train.uid == pages.uid && train.window == pages.window).then_some(train))
        }
        _ => Ok(None),
    }
}

fn state_path(args: &Args, window: Window) -> PathBuf {
    args.state.clone().unwrap_or_else(|| args.common.home().state(window))
}

fn state_dir(args: &Args, window: Window) -> Result<(PathBuf, State), Report> {
    let dir = state_path(args, window);
    let state: State = files::read_json(&dir.join("state.json")).map_err(|e| {
        e.at("the state to train from")
            .hint("bz-state init makes the first one, bz-pull --state | bz-state apply the next")
    })?;
    Ok((dir, state))
}
