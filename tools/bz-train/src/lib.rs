//! The inner steps over pages: a miner's update of a window, or the validator's recomputed one.
//!
//! Any number of `pages` records go through one load of the state. The same inputs on the same machine give the same
//! bytes. No network and no key is opened here.

use model::{Llama, Sequences, data, device, inner};
use record::{
    Hparams, Report, Stream, Window,
    cli::{Common, Shard, check_file, note},
    files,
    progress::Progress,
    records::{Pages, State, Train},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};
use tch::{Device, Tensor};

/// Run the inner steps over pages: the update of a window, or the recomputed one.
#[derive(clap::Parser)]
#[command(name = "bz-train", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where to run
    #[arg(long, env = "BZ_DEVICE", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    device: String,
    /// CPU threads [default: OMP_NUM_THREADS, or all cores]
    #[arg(long, env = "BZ_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// The state directory [default: that of the window, in the node's folder]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Take only part I of N of the records
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

const HELP: &str = "\
Reads `pages` records and appends a `train` record for each: the update, as a safetensors file with the model's names
and shapes, and the loss before and after. What is trained and how is in hparams.json.

Examples:
  bz-window --window 120 --wait start | bz-pages | bz-train | bz-delta commit
  bz-pages --role audit --sample 8 < pulled | bz-train --device cuda | bz-score
  bz-train --shard 0/2 < audit > a & bz-train --shard 1/2 < audit > b     two processes, half the records each
  jq -r 'select(.type==\"train\") | [.uid, .loss_before, .loss_after, .tokens_per_s] | @tsv' receipt

See also: bz-pages, bz-eval, bz-delta";

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    device::prepare(args.threads)?;
    let inputs = stream.read()?;
    let mut hparams = args.common.hparams()?;
    let device = device::pick(&args.device)?;
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
    let mut loaded: Option<Loaded> = None;
    for pages in work {
        let path = update_path(&args, &pages);
        let (dir, state) = state_dir(&args, pages.window)?;
        if let Some(done) = finished(&path, &args, &pages, &state)? {
            stream.emit(&done)?;
            continue;
        }
        let train = loop {
            let tried = device::guard(|| {
                // One load serves all records of a state.
                let base = match loaded.take().filter(|base| base.dir == dir) {
                    Some(base) => base,
                    None => Loaded { params: data::load_state(&dir, &hparams.model, device)?, dir: dir.clone() },
                };
                let base = loaded.insert(base);
                one(&args, &hparams, device, &pages, &path, &state, base)
            });
            match tried {
                // Gradients of a step are summed over its parts: smaller ones give the same update, up to rounding.
                Err(report) if device::out_of_memory(&report) && hparams.inner.micro_batch > 1 => {
                    hparams.inner.micro_batch /= 2;
                    let less = hparams.inner.micro_batch;
                    note(stream.tool(), format!("{}: again with {less} sequences at once", report.error));
                }
                tried => break tried?,
            }
        };
        if train.status == "ok" {
            files::write_json(&path.with_extension("json"), &train)?;
        }
        stream.emit(&train)?;
    }
    Ok(())
}

fn update_path(args: &Args, pages: &Pages) -> PathBuf {
    let name = format!("update-{}-{}.safetensors", pages.role, pages.uid);
    let folder = || args.common.home().window(pages.window);
    args.common.output.clone().unwrap_or_else(|| folder().join(name))
}

/// The parameters of one state on the device.
struct Loaded {
    dir: PathBuf,
    params: BTreeMap<String, Tensor>,
}

/// The record of an update that is there already, of these pages and this state.
fn finished(path: &Path, args: &Args, pages: &Pages, state: &State) -> Result<Option<Train>, Report> {
    let record = path.with_extension("json");
    if args.common.force || !record.exists() || !path.exists() {
        return Ok(None);
    }
    let train: Train = files::read_json(&record)?;
    match train.blake3 {
        Some(hash) if check_file(path, train.bytes, hash).is_ok() => {
            let same = train.base == state.root && train.pages == pages.hash() && train.role == pages.role;
            Ok((same && train.uid == pages.uid && train.window == pages.window).then_some(train))
        }
        _ => Ok(None),
    }
}

fn state_dir(args: &Args, window: Window) -> Result<(PathBuf, State), Report> {
    let dir = args.state.clone().unwrap_or_else(|| args.common.home().state(window));
    let state: State = files::read_json(&dir.join("state.json")).map_err(|e| {
        e.at("the state to train from")
            .hint("bz-state init makes the first one, bz-pull --state | bz-state apply the next")
    })?;
    Ok((dir, state))
}

fn one(
    args: &Args,
    hparams: &Hparams,
    device: Device,
    pages: &Pages,
    path: &Path,
    state: &State,
    base: &Loaded,
) -> Result<Train, Report> {
    let (started, cpu) = (Instant::now(), device::cpu_s());
    check_file(&pages.path, pages.bytes, pages.blake3)?;
    let sequences = Sequences::open(&pages.path, hparams.model.vocab_size, device)?;
    if sequences.length as u64 != hparams.data.sequence_length {
        return Err(Report::data(format!(
            "{}: sequences of {}, the run's have {}",
            pages.path.display(),
            sequences.length,
            hparams.data.sequence_length
        )));
    }
    let llama = {
        let copies = base.params.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
        Llama::new(&hparams.model, copies, device, true)?
    };
    let label = format!("window {} uid {}", pages.window, pages.uid);
    let mut progress = Progress::new(args.common.quiet, &label, hparams.inner.steps, "steps");
    let share = |step| match &hparams.inner.schedule {
        Some(schedule) => schedule.share(hparams.start_window, pages.window, step, hparams.inner.steps),
        None => 1.0,
    };
    let trained = inner::train(llama, &sequences, &hparams.inner, share, |_, loss| {
        progress.advance(1, &format!("loss {loss:.3}"));
    })?;
    drop(progress);
    let (written, status) = match (&trained.update, args.common.dry_run) {
        (Some(update), false) => (Some(data::write(path, update)?), "ok"),
        (Some(_), true) => (None, "ok"),
        (None, _) => (None, "nonfinite"),
    };
    let wall_s = started.elapsed().as_secs_f64();
    let finite = |x: f64| x.is_finite().then_some(x);
    Ok(Train {
        window: pages.window,
        uid: pages.uid,
        role: pages.role.clone(),
        path: written.map(|_| path.to_path_buf()),
        bytes: written.map_or(0, |(bytes, _)| bytes),
        blake3: written.map(|(_, hash)| hash),
        base: state.root,
        pages: pages.hash(),
        steps: trained.steps,
        tokens: trained.tokens,
        loss_before: finite(trained.loss_before),
        loss_after: finite(trained.loss_after),
        tokens_per_s: (trained.tokens as f64 / wall_s).round(),
        cpu_s: ((device::cpu_s() - cpu) * 1e3).round() / 1e3,
        device: device::name(device),
        status: status.into(),
        reason: trained.reason,
    })
}
