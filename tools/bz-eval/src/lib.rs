//! The loss of a state on pages, with and without an update or a delta.

use model::{Llama, Sequences, data, device, inner};
use record::{
    Hparams, Report, Stream,
    cli::{Common, Shard, check_file},
    files,
    records::{Eval, Pages, State, WindowRecord},
};
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
    #[arg(long, env = "BZ_THREADS", value_name = "N")]
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
    let mut hparams = args.common.hparams()?;
    // A loss that is compared between machines is not rounded to bf16.
    hparams.inner.dtype = "f32".into();
    let device = device::pick(&args.device)?;
    let window: Option<WindowRecord> = inputs.last()?;
    let mut loaded: Option<(PathBuf, State, Params)> = None;
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
                one(&hparams, device, &pages, params, step)
            })?;
            stream.emit(&eval)?;
        }
    }
    Ok(())
}

type Params = BTreeMap<String, Tensor>;

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
    let delta = Delta::open(path, &layout, &expected).map_err(|e| e.at(path.display()))?;
    let values = delta.whole();
    let shape = |t: &wire::layout::Tensor| t.shape.iter().map(|d| *d as i64).collect::<Vec<_>>();
    let all = layout.tensors.iter().zip(&values);
    Ok(all.map(|(t, v)| (t.name.clone(), Tensor::from_slice(v).view(&shape(t)[..]).to_device(device))).collect())
}

fn one(
    hparams: &Hparams,
    device: Device,
    pages: &Pages,
    params: &Params,
    step: Option<Params>,
) -> Result<Eval, Report> {
    let sequences = Sequences::open(&pages.path, hparams.model.vocab_size, device)?;
    let moved =
        step.map(|step| no_grad(|| params.iter().map(|(n, p)| (n.clone(), p - &step[n])).collect::<BTreeMap<_, _>>()));
    let loss = |params| -> Result<f64, Report> {
        let llama = Llama::new(&hparams.model, params, device, false)?;
        inner::evaluate(&llama, &sequences, &hparams.inner, i64::MAX)
    };
    let before = loss(params.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect())?;
    let after = moved.map(loss).transpose()?;
    let finite = before.is_finite() && after.is_none_or(f64::is_finite);
    Ok(Eval {
        window: pages.window,
        uid: pages.uid,
        role: pages.role.clone(),
        loss_before: before.is_finite().then_some(before),
        loss_after: after.filter(|x| x.is_finite()),
        tokens: (sequences.count * sequences.length) as u64,
        status: if finite { "ok" } else { "nonfinite" }.into(),
    })
}
