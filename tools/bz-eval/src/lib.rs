//! The loss of a state on pages, with and without an update or a delta.

use model::{How, Llama, Params, Sequences, data, device, inner, memory};
use record::{
    Report, Stream,
    cli::{Common, Shard, check_file, note},
    files,
    records::{Eval, Pages, State, Status, WindowRecord},
};
use run::Hparams;
use run::Settings as _;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tch::{Device, Tensor, no_grad};
use wire::{
    Layout,
    delta::{Delta, Expected},
};

/// Loss of a state on given pages, with and without an update or a delta.
#[derive(clap::Parser)]
#[command(name = "bz-eval", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where to run
    #[arg(long, env = "BZ_DEVICE", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    device: String,
    /// CPU threads [default: OMP_NUM_THREADS, or all cores]
    #[arg(long, env = "BZ_THREADS", value_name = "N", value_parser = record::cli::threads)]
    threads: Option<usize>,
    /// The state directory [default: that of the window, in the node's folder]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// An update Δ (as bz-train writes it): its loss is that of θ − Δ
    #[arg(long, value_name = "FILE", conflicts_with = "delta")]
    update: Option<PathBuf>,
    /// A delta (as bz-delta makes it): its loss is that of θ − δ, δ being what was revealed
    #[arg(long, value_name = "FILE")]
    delta: Option<PathBuf>,
    /// Take only part I of N of the records
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

const HELP: &str = "\
Reads `pages` records and appends an `eval` record for each: nats a token, in f32.

Examples:
  bz-window | bz-pages --role given --page 0,1,2 --data ~/heldout | bz-eval | jq 'select(.type==\"eval\").loss_before'
  bz-pages --role random < pulled | bz-eval --update windows/120/update-own-3.safetensors
  bz-pages --role random < pulled | bz-eval --delta windows/120/delta.safetensors
  for s in states/*; do bz-eval --state $s < heldout | jq -c 'select(.type==\"eval\")'; done

See also: bz-pages, bz-train";

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    device::prepare(args.threads)?;
    let inputs = stream.read()?;
    let hparams = args.common.hparams()?;
    let device::Chosen { devices, reason } = device::share(&args.device, 1)?;
    let device = devices[0];
    if let Some(reason) = reason.filter(|_| !args.common.quiet) {
        note("bz-eval", format!("the CPU is taken: {reason}"));
    }
    let window: Option<WindowRecord> = inputs.last()?;
    let mut loaded: Option<(PathBuf, State, Params)> = None;
    let mut at_once = None;
    for (place, pages) in inputs.all::<Pages>()?.into_iter().enumerate() {
        if args.shard.is_none_or(|shard| shard.takes(place)) {
            let dir = args.state.clone().unwrap_or_else(|| args.common.home().state(pages.window));
            let eval = device::guard(|| {
                check_file(&pages.path, pages.bytes, pages.blake3)?;
                // One load serves all records of a state.
                let (state, params) = match loaded.take().filter(|(of, _, _)| *of == dir) {
                    Some((_, state, params)) => (state, params),
                    None => {
                        let state: State = files::read_json(&dir.join("state.json")).map_err(|e| e.at("the state"))?;
                        (state, data::load_state(&dir, &hparams.model, device)?)
                    }
                };
                let (_, state, params) = loaded.insert((dir.clone(), state, params));
                let step = match (&args.update, &args.delta) {
                    (Some(path), _) => Some(data::load_tensors(path, &hparams.model, device)?),
                    (None, Some(path)) => Some(revealed(path, &hparams, state, window.as_ref(), device)?),
                    (None, None) => None,
                };
                one(&hparams, device, &pages, params, step, &mut at_once)
            })?;
            stream.emit(&eval)?;
        }
    }
    Ok(())
}

/// What a delta reveals, as an update that is zero elsewhere.
fn revealed(
    path: &Path,
    hparams: &Hparams,
    state: &State,
    window: Option<&WindowRecord>,
    device: Device,
) -> Result<Params, Report> {
    let (_, meta) = wire::delta::read_meta(path)?;
    let reveal = window.filter(|w| w.window == meta.window).and_then(|w| w.reveal);
    let expected = Expected {
        run: meta.run,
        window: meta.window,
        uid: meta.uid,
        hotkey: meta.hotkey,
        base: state.root,
        codec: hparams.codec.clone(),
        commitment: None,
        reveal: reveal.ok_or_else(|| {
            Report::data(format!("which tiles window {} reveals is not in the input", meta.window))
                .hint("bz-window --wait reveal gives the `window` record that says it")
        })?,
    };
    let layout = Layout::new(&hparams.model);
    let delta = wire::contain(|| Delta::open(path, &layout, &expected)).map_err(|e| e.at(path.display()))?;
    let values = delta.whole();
    let values: BTreeMap<_, _> = layout.tensors.iter().map(|t| t.name.as_str()).zip(&values).collect();
    Params::of(&hparams.model, |name, shape| Ok(Tensor::from_slice(values[name]).view(shape).to_device(device)))
}

fn one(
    hparams: &Hparams,
    device: Device,
    pages: &Pages,
    params: &Params,
    step: Option<Params>,
    at_once: &mut Option<u64>,
) -> Result<Eval, Report> {
    let sequences = Sequences::open(&pages.path, hparams.model.vocab_size, device)?;
    let (length, count) = (sequences.length as u64, sequences.count as u64);
    let (how, optimizer) = (How::default(), hparams.inner.optimizer);
    let pass = memory::Step { model: &hparams.model, how, optimizer, length, devices: &[device] };
    // Found once for all records: what this one leaves of the process's memory is free to the next one alone.
    let mut tried = match *at_once {
        Some(most) => most,
        None => pass.most(pass.spare()?).max(1),
    };
    // θ − δ in place of δ.
    let moved = step.inspect(|step| {
        for (own, theta) in step.leaves.values().zip(params.leaves.values()) {
            no_grad(|| drop(own.tensor.shallow_clone().neg_().g_add_(&theta.tensor)));
        }
    });
    // A loss that is compared between machines is not rounded to bf16.
    let loss = |params: &Params, at_once: u64| {
        let llama = Llama::new(&hparams.model, params.share(), device, How::default())?;
        inner::evaluate(&llama, &sequences, at_once.min(count) as i64, i64::MAX)
    };
    let (before, after) = loop {
        let both =
            device::guard(|| Ok((loss(params, tried)?, moved.as_ref().map(|moved| loss(moved, tried)).transpose()?)));
        match both {
            Err(report) if device::out_of_memory(&report) && tried > 1 => {
                tried = tried.min(count).div_ceil(2);
                device::release_memory();
                note("bz-eval", format!("{}: again with {tried} sequences at once", report.error));
            }
            both => break both?,
        }
    };
    *at_once = Some(tried);
    let finite = before.is_finite() && after.is_none_or(f64::is_finite);
    Ok(Eval {
        window: pages.window,
        uid: pages.uid,
        role: pages.role,
        loss_before: before.is_finite().then_some(before),
        loss_after: after.filter(|x| x.is_finite()),
        tokens: (sequences.count * sequences.length) as u64,
        status: if finite { Status::Ok } else { Status::Nonfinite },
    })
}
