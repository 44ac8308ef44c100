//! One record: the model, its steps, its update, and what they took.

use crate::Args;
use model::{
    How, Llama, Params, Sequences,
    data::{self, Stored},
    device, inner, memory,
};
use record::{
    Report,
    cli::{check_file, note},
    progress::Progress,
    records::{PageRef, Pages, State, Status, Train},
};
use run::Hparams;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use tch::Device;

/// The parameters that a record is trained from.
pub(crate) enum Theta<'a> {
    /// Others are, too.
    Kept(&'a Loaded),
    /// None is any more.
    Last(Loaded),
}

/// How records are trained on.
pub(crate) struct Run<'a> {
    pub args: &'a Args,
    pub hparams: &'a Hparams,
    pub devices: Vec<Device>,
    /// Why these are no GPUs, where one is there.
    pub device_reason: Option<String>,
    pub how: How,
    /// Most sequences at once, by the memory that was free at first and by what was wanting since.
    pub most: Option<u64>,
    /// Sequences at once of the last try.
    pub tried: u64,
}

/// The parameters of one state on the device, and the file that they are from.
pub(crate) struct Loaded {
    pub dir: PathBuf,
    params: Params,
    stored: Stored,
}

impl Loaded {
    pub fn open(dir: &Path, hparams: &Hparams, device: Device) -> Result<Self, Report> {
        // Once: a file that takes its place meanwhile is another state's.
        let stored = Stored::open(dir.join("model.safetensors"))?;
        let params = stored.all(&hparams.model, device)?;
        stored.rest();
        Ok(Loaded { dir: dir.into(), params, stored })
    }
}

impl Run<'_> {
    /// Whether there is a way to go on with less memory: half the sequences at once, or only the layers' inputs.
    pub fn with_less(&mut self, tool: &str, report: &Report) -> bool {
        device::release_memory();
        if self.tried > 1 {
            self.tried /= 2;
            self.most = Some(self.tried);
            note(tool, format!("{}: again with {} sequences at once", report.error, self.tried));
            return true;
        }
        let left = self.tried == 1 && !self.how.checkpoint;
        if left {
            self.how.checkpoint = true;
            note(tool, format!("{}: again as with --checkpoint", report.error));
        }
        left
    }

    /// Sequences that go through the model at once, of a step's `batch`: what was told, or what fits into the memory that is free. Where that is short,
    /// layers keep only what they read. Decided for the first record: those after it have the same, whatever it left of the process's memory.
    fn at_once(&mut self, batch: u64) -> Result<u64, Report> {
        // Every replica has its share of the step.
        let batch = batch.div_ceil(self.devices.len() as u64);
        if let Some(most) = self.most {
            return Ok(most.min(batch));
        }
        let told = self.args.micro_batch.map(u64::from).or(self.hparams.inner.micro_batch);
        let step = |checkpoint| memory::Step {
            model: &self.hparams.model,
            how: How { checkpoint, ..self.how },
            optimizer: self.hparams.inner.optimizer,
            length: self.hparams.data.sequence_length,
            devices: &self.devices,
        };
        let (whole, by_layer) = (step(self.how.checkpoint), step(true));
        let spare = whole.spare()?;
        let fit = |step: &memory::Step<'_>| match told {
            Some(told) => (step.needed(told.min(batch)) <= spare).then_some(told),
            None => Some(step.most(spare)).filter(|most| *most > 0),
        };
        let least = told.unwrap_or(1).min(batch);
        let short = |step: &memory::Step<'_>| {
            format!(
                "memory is short: a step takes about {} MiB, and {} are to spare",
                step.needed(least) >> 20,
                spare >> 20
            )
        };
        let (most, checkpoint) = match (fit(&whole), fit(&by_layer)) {
            (Some(most), _) => (most, self.how.checkpoint),
            (None, Some(most)) => {
                note("bz-train", format!("{}: going on as with --checkpoint", short(&whole)));
                (most, true)
            }
            (None, None) => {
                note("bz-train", format!("{} even with --checkpoint: it may be ended for that", short(&by_layer)));
                (told.unwrap_or(1), true)
            }
        };
        self.how.checkpoint = checkpoint;
        self.most = Some(most);
        Ok(most.min(batch))
    }

    pub fn one(
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
        let own = match &theta {
            Theta::Kept(base) => &base.params,
            Theta::Last(base) => &base.params,
        };
        let others: Vec<_> = self.devices[1..].iter().map(|other| (own.to_device(*other), *other)).collect();
        let device = self.devices[0];
        let (kept, stored, lead) = match theta {
            Theta::Kept(base) => (Some(&base.params), None, base.params.copy()),
            Theta::Last(base) => (None, Some(base.stored), base.params),
        };
        // Now that all copies of θ are made.
        let micro_batch = self.at_once(batch)?;
        self.tried = micro_batch;
        let replica = |(params, device): (Params, Device)| {
            Ok::<_, Report>((Llama::new(&hparams.model, params, device, self.how)?, sequences.to_device(device)))
        };
        let again = |name: &str| match (&kept, &stored) {
            (Some(params), _) => Ok(params.leaves[name].tensor.shallow_clone()),
            (None, Some(stored)) => stored.leaf(&hparams.model, name, device),
            (None, None) => Err(Report::data(format!("θ has no {name}"))),
        };
        let replicas = std::iter::once((lead, device)).chain(others).map(replica).collect::<Result<_, Report>>()?;
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
        })?;
        drop(progress);
        let writing = Instant::now();
        let (written, status) = match (&trained.update, args.make.dry_run()) {
            (Some(update), false) => (Some(data::write(path, update)?), Status::Ok),
            (Some(_), true) => (None, Status::Ok),
            (None, _) => (None, Status::Nonfinite),
        };
        let write_s = writing.elapsed().as_secs_f64();
        if let Some(reason) = &mut trained.reason {
            let page = |p: &PageRef| format!("{} {} rows {} to {}", p.source, p.part, p.row, p.row + p.rows - 1);
            let listed = pages.pages.iter().map(page).collect::<Vec<_>>().join(", ");
            *reason = format!("{reason}; {listed}");
            note("bz-train", format!("uid {}: {reason}", pages.uid));
        }
        let wall_s = started.elapsed().as_secs_f64();
        let finite = |x: f64| x.is_finite().then_some(x);
        let spent = trained.spent;
        let flop = hparams.model.flop_per_token(length) * trained.tokens;
        let model_flop_per_s = (flop as f64 / (spent.forward_backward_s + spent.optimizer_s).max(1e-9)).round();
        let peak = device::peak_flop_per_s(&self.devices);
        Ok(Train {
            window: pages.window,
            uid: pages.uid,
            role: pages.role,
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
            device_reason: self.device_reason.clone(),
            status,
            reason: trained.reason,
            micro_batch: self.tried,
            checkpoint: self.how.checkpoint,
            load_s: milli(load_s),
            data_s: milli(data_s),
            evaluate_s: milli(spent.evaluate_s),
            forward_backward_s: milli(spent.forward_backward_s),
            optimizer_s: milli(spent.optimizer_s),
            write_s: milli(write_s),
            model_flop_per_s,
            peak_share: peak.map(|peak| milli(model_flop_per_s / peak)),
            peak_memory_bytes: device::peak_memory(&self.devices)?,
        })
    }
}

fn milli(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}
