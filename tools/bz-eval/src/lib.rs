//! The loss of a state on pages, with and without an update.

use model::{Llama, Sequences, data, device, inner};
use record::{
    Hparams, Report, Stream,
    cli::{Common, Shard, check_file},
    files,
    records::{Eval, Pages, State},
};
use std::{collections::BTreeMap, path::PathBuf};
use tch::{Device, Tensor, no_grad};

/// Loss of a state on given pages, with and without an update.
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
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
    /// Take only part I of N of the records
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

const HELP: &str = "\
Reads `pages` records and appends an `eval` record for each: nats a token, in f32.

Examples:
  bz-window | bz-pages --role given --page 0,1,2 --data ~/heldout | bz-eval | jq 'select(.type==\"eval\").loss_before'
  bz-pages --role random < pulled | bz-eval --update windows/120/update-own-3.safetensors
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
    let mut loaded: Option<(PathBuf, Params)> = None;
    for (place, pages) in inputs.all::<Pages>()?.into_iter().enumerate() {
        if args.shard.is_none_or(|shard| shard.takes(place)) {
            let dir = args.state.clone().unwrap_or_else(|| args.common.home().state(pages.window));
            let eval = device::guard(|| {
                check_file(&pages.path, pages.bytes, pages.blake3)?;
                // One load serves all records of a state.
                let params = match loaded.take().filter(|(of, _)| *of == dir) {
                    Some((_, params)) => params,
                    None => {
                        let _: State = files::read_json(&dir.join("state.json")).map_err(|e| e.at("the state"))?;
                        data::load_state(&dir, &hparams.model, device)?
                    }
                };
                let (_, params) = loaded.insert((dir.clone(), params));
                one(&args, &hparams, device, &pages, params)
            })?;
            stream.emit(&eval)?;
        }
    }
    Ok(())
}

type Params = BTreeMap<String, Tensor>;

fn one(args: &Args, hparams: &Hparams, device: Device, pages: &Pages, params: &Params) -> Result<Eval, Report> {
    let sequences = Sequences::open(&pages.path, hparams.model.vocab_size, device)?;
    let moved = match &args.update {
        None => None,
        Some(path) => {
            let update = data::load_tensors(path, &hparams.model, device)?;
            Some(no_grad(|| params.iter().map(|(n, p)| (n.clone(), p - &update[n])).collect()))
        }
    };
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
