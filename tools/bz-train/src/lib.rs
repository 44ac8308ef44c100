//! The inner steps over pages: a miner's update of a window, or the validator's recomputed one.
//!
//! Any number of `pages` records go through one load of the state. The same inputs on the same machine give the same
//! bytes. No network and no key is opened here.

use model::{
    How, Llama, Params, Sequences,
    data::{self, Stored},
    device, inner, memory,
};
use record::{
    Hparams, Report, Stream, Window,
    cli::{Common, Shard, check_file, note},
    files,
    progress::Progress,
    records::{Cost, PageRef, Pages, State, Train},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use tch::Device;

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
    /// Copies of the model that share each step [default: one a GPU; 1 on the CPU]
    #[arg(long, env = "BZ_REPLICAS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: Option<u16>,
    /// Sequences that go through the model at once [default: the run's own, or as many as fit into free memory]
    #[arg(long, env = "BZ_MICRO_BATCH", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    /// Keep only what layers read, and compute the rest again for the gradients: a third slower, in a fraction of the memory
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
  bz-train --shard 0/2 < audit > a & bz-train --shard 1/2 < audit > b     two processes, half the records each
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
    let devices = device::share(&args.device, args.replicas.map(usize::from))?;
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
    let how = How { train: true, half: hparams.inner.dtype == "bf16", plain: args.plain, checkpoint: args.checkpoint };
    let mut run = Run { args: &args, hparams: &hparams, devices, how, micro_batch: None };
    let mut loaded: Option<Loaded> = None;
    let count = work.len();
    for (place, pages) in work.into_iter().enumerate() {
        let last = place + 1 == count;
        let path = update_path(&args, &pages);
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
                    None => {
                        Loaded { params: data::load_state(&dir, &hparams.model, run.devices[0])?, dir: dir.clone() }
                    }
                };
                let load_s = started.elapsed().as_secs_f64();
                // What is trained on last is trained in place: θ is read once more in the end. A GPU's memory is larger, and its bus slower.
                if last && !run.devices[0].is_cuda() {
                    return run.one(&pages, &path, &state, Theta::Last(base), load_s);
                }
                run.one(&pages, &path, &state, Theta::Kept(loaded.insert(base)), load_s)
            });
            match (tried, &mut run.micro_batch) {
                // Gradients of a step are summed over its parts: smaller ones give the same update, up to rounding.
                (Err(report), Some(most @ 2..)) if device::out_of_memory(&report) => {
                    *most /= 2;
                    note(stream.tool(), format!("{}: again with {most} sequences at once", report.error));
                }
                (Err(report), Some(1)) if device::out_of_memory(&report) && !run.how.checkpoint => {
                    run.how.checkpoint = true;
                    note(stream.tool(), format!("{}: again as with --checkpoint", report.error));
                }
                (tried, _) => break tried?,
            }
        };
        if train.status == "ok" && train.path.is_some() {
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
    params: Params,
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

/// The parameters that a record is trained from.
enum Theta<'a> {
    /// Others are, too.
    Kept(&'a Loaded),
    /// None is any more.
    Last(Loaded),
}

/// How records are trained on.
struct Run<'a> {
    args: &'a Args,
    hparams: &'a Hparams,
    devices: Vec<Device>,
    how: How,
    /// Sequences at once, since the first record.
    micro_batch: Option<u64>,
}

impl Run<'_> {
    fn one(
        &mut self,
        pages: &Pages,
        path: &Path,
        state: &State,
        theta: Theta<'_>,
        load_s: f64,
    ) -> Result<Train, Report> {
        let (args, hparams, inner) = (self.args, self.hparams, &self.hparams.inner);
        let (started, cpu) = (Instant::now(), device::cpu_s());
        check_file(&pages.path, pages.bytes, pages.blake3)?;
        let sequences = Sequences::open(&pages.path, hparams.model.vocab_size, self.devices[0])?;
        let length = hparams.data.sequence_length;
        if sequences.length as u64 != length {
            return Err(Report::data(format!(
                "{}: sequences of {}, the run's have {length}",
                pages.path.display(),
                sequences.length,
            )));
        }
        let data_s = started.elapsed().as_secs_f64();
        let batch = inner.batch.unwrap_or((sequences.count as u64 / inner.steps).max(1));
        let micro_batch = match self.micro_batch.or(args.micro_batch.map(u64::from)).or(inner.micro_batch) {
            // Every replica has its share of the step.
            Some(told) => told.min(batch.div_ceil(self.devices.len() as u64)),
            None => memory::micro_batch(&hparams.model, self.how, length, batch, &self.devices)?,
        };
        self.micro_batch = Some(micro_batch);
        let device = self.devices[0];
        let replica = |params, device: Device| {
            Ok::<_, Report>((Llama::new(&hparams.model, params, device, self.how)?, sequences.to_device(device)))
        };
        let own = match &theta {
            Theta::Kept(base) => &base.params,
            Theta::Last(base) => &base.params,
        };
        let mut replicas = Vec::new();
        for other in &self.devices[1..] {
            replicas.push(replica(own.to_device(*other), *other)?);
        }
        let (kept, lead) = match theta {
            Theta::Kept(base) => (Some(base), base.params.copy()),
            Theta::Last(base) => (None, base.params),
        };
        let stored = || Stored::open(state_path(args, pages.window).join("model.safetensors"));
        let again = |name: &str| match kept {
            Some(base) => Ok(base.params.leaves[name].tensor.shallow_clone()),
            None => stored()?.leaf(&hparams.model, name, device),
        };
        replicas.insert(0, replica(lead, device)?);
        let label = format!("window {} uid {}", pages.window, pages.uid);
        let mut progress = Progress::new(args.common.quiet, &label, inner.steps, "steps");
        let share = |step| match &inner.schedule {
            Some(schedule) => schedule.share(hparams.start_window, pages.window, step, inner.steps),
            None => 1.0,
        };
        let begun = Instant::now();
        let start = inner::Start { theta: &again, replicas, micro_batch: micro_batch as i64 };
        let mut trained = inner::train(start, inner, share, |step, loss| {
            let memory = device::peak_memory(&self.devices).unwrap_or_default() >> 20;
            let speed = (batch * length * step) as f64 / begun.elapsed().as_secs_f64();
            progress.advance(1, &format!("loss {loss:.3} {speed:.0} tokens/s {memory} MiB"));
        })
        .map_err(|e| e.at(format!("uid {}, {}", pages.uid, pages.path.display())))?;
        drop(progress);
        let writing = Instant::now();
        let (written, status) = match (&trained.update, args.common.dry_run) {
            (Some(update), false) => (Some(data::write(path, update)?), "ok"),
            (Some(_), true) => (None, "ok"),
            (None, _) => (None, "nonfinite"),
        };
        trained.cost.write_s = writing.elapsed().as_secs_f64();
        if let Some(reason) = &mut trained.reason {
            let page = |p: &PageRef| format!("{} {} rows {} to {}", p.source, p.part, p.row, p.row + p.rows - 1);
            let listed = pages.pages.iter().map(page).collect::<Vec<_>>().join(", ");
            *reason = format!("{reason}; {listed}");
            note("bz-train", format!("uid {}: {reason}", pages.uid));
        }
        let wall_s = started.elapsed().as_secs_f64();
        let finite = |x: f64| x.is_finite().then_some(x);
        let cost = self.cost(trained.cost, trained.tokens, load_s, data_s)?;
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
            cpu_s: milli(device::cpu_s() - cpu),
            device: device::names(&self.devices),
            status: status.into(),
            reason: trained.reason,
            cost,
        })
    }

    fn cost(&self, spent: Cost, tokens: u64, load_s: f64, data_s: f64) -> Result<Cost, Report> {
        let flop = (self.hparams.model.flop_per_token(self.hparams.data.sequence_length) * tokens) as f64;
        let model_flop_per_s = (flop / (spent.forward_backward_s + spent.optimizer_s).max(1e-9)).round();
        let share = device::peak_flop_per_s(&self.devices).map(|peak| milli(model_flop_per_s / peak));
        Ok(Cost {
            micro_batch: self.micro_batch.unwrap_or(0),
            load_s: milli(load_s),
            data_s: milli(data_s),
            evaluate_s: milli(spent.evaluate_s),
            forward_backward_s: milli(spent.forward_backward_s),
            optimizer_s: milli(spent.optimizer_s),
            write_s: milli(spent.write_s),
            model_flop_per_s,
            peak_share: share,
            peak_memory_bytes: device::peak_memory(&self.devices)?,
        })
    }
}

fn milli(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}
