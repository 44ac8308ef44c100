//! For people: what is in a delta, and the sum of parts.

use record::{
    Hash, Report, Stream,
    cli::{Common, DryRun, check_file, print_record},
    files,
    records::Train,
};
use run::{
    Settings as _,
    hparams::{CodecName, InnerOptimizer},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};
use wire::{
    Layout, TILE,
    delta::{self, Delta},
    tensors::Update,
};

/// `bz-delta show`: needs nothing but the file; with the run's hparams it tells what is in it too.
pub(crate) fn show(common: &Common, path: &Path, stream: &mut Stream<'_>) -> Result<(), Report> {
    let spooled = Spooled::of(path, stream)?;
    let at = |e: Report| spooled.told(e);
    let (mapped, meta) = delta::read_meta(spooled.path()).map_err(at)?;
    let bytes = mapped.data().len();
    let proof = mapped.sizes().get("proof").copied().unwrap_or(0);
    let tiles = mapped.shape("tiles").and_then(|s| s.first().copied());
    let mut shown = json!({
        "path": path, "bytes": bytes + mapped.header_bytes(), "header_bytes": mapped.header_bytes(),
        "proof_bytes": proof, "values_bytes": bytes - proof, "tiles": tiles, "signature": "ok", "meta": meta,
    });
    if meta.codec.name != CodecName::Slice
        && let Ok(hparams) = common.hparams()
    {
        let layout = Layout::new(&hparams.model);
        let opened = Delta::look(spooled.path(), &layout).map_err(at)?;
        shown["parts"] = json!(opened.bytes());
        shown["bits_per_parameter"] = json!((bytes + mapped.header_bytes()) as f64 * 8.0 / layout.numel() as f64);
        content(&opened, &layout, &mut shown);
    }
    print_record("show", &shown)
}

/// What is sent, by tensor and by magnitude, and the fewest bits that tell its places if all choices are alike.
fn content(delta: &Delta, layout: &Layout, shown: &mut Value) {
    let ln_factorial: Vec<f64> = std::iter::once(0.0)
        .chain((1..=TILE).scan(0.0, |sum, n| {
            *sum += (n as f64).ln();
            Some(*sum)
        }))
        .collect();
    let choose =
        |n: usize, k: usize| (ln_factorial[n] - ln_factorial[k] - ln_factorial[n - k]) / std::f64::consts::LN_2;
    let mut tensors: Vec<(usize, f64, f64)> = vec![(0, 0.0, 0.0); layout.tensors.len()];
    let (mut octaves, mut bound) = (BTreeMap::<i32, usize>::new(), 0.0);
    let waves = delta.meta.codec.name == CodecName::Dct;
    for chunk in 0..delta.chunks() {
        delta.visit_sent(chunk, |index, tile| {
            let which = layout.tensor_of(index);
            let sent = tile.iter().filter(|value| **value != 0.0);
            let (count, squares, largest) = &mut tensors[which];
            let before = *count;
            for value in sent {
                let value = f64::from(*value);
                *octaves.entry(value.abs().log2().floor() as i32).or_default() += 1;
                (*count, *squares, *largest) = (*count + 1, *squares + value * value, largest.max(value.abs()));
            }
            let numel = if waves { TILE } else { layout.tensors[which].tile_numel(index) };
            bound += choose(numel, (*count - before).min(numel));
        });
    }
    let each = layout.tensors.iter().zip(&tensors).map(|(tensor, (count, squares, largest))| {
        json!({"name": tensor.name, "numel": tensor.numel(), "sent": count, "norm": squares.sqrt(), "largest": largest})
    });
    shown["tensors"] = each.collect();
    shown["norm"] = json!(tensors.iter().map(|(_, squares, _)| squares).sum::<f64>().sqrt());
    shown["sent"] = json!(tensors.iter().map(|(count, ..)| count).sum::<usize>());
    shown["octaves"] =
        json!(octaves.into_iter().map(|(octave, count)| (octave.to_string(), count)).collect::<BTreeMap<_, _>>());
    if delta.meta.codec.is_sparse() {
        shown["places_bound_bits_per_parameter"] = json!(bound / layout.numel() as f64);
    }
}

/// `bz-delta diff`: how alike two deltas are, whatever their codecs.
pub(crate) fn diff(common: &Common, paths: [&Path; 2], stream: &mut Stream<'_>) -> Result<(), Report> {
    if paths == [Path::new("-"); 2] {
        return Err(Report::usage("the input cannot be read twice").hint("name one of the two files"));
    }
    let layout = Layout::new(&common.hparams()?.model);
    let mut values = Vec::with_capacity(2);
    for path in paths {
        let spooled = Spooled::of(path, stream)?;
        values.push(Delta::look(spooled.path(), &layout).map_err(|e| spooled.told(e))?.whole());
    }
    let mut total = [0f64; 6];
    let mut tensors = Vec::with_capacity(layout.tensors.len());
    for (which, tensor) in layout.tensors.iter().enumerate() {
        let mut sums = [0f64; 6];
        for (a, b) in values[0][which].iter().zip(&values[1][which]) {
            let (x, y) = (f64::from(*a), f64::from(*b));
            let places = [*a != 0.0, *b != 0.0, *a != 0.0 && *b != 0.0].map(|there| f64::from(u8::from(there)));
            let more = [x * y, x * x, y * y, places[0], places[1], places[2]];
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        tensors.push(alike(&tensor.name, sums));
    }
    let mut whole = alike("", total);
    whole["a"] = json!(paths[0]);
    whole["b"] = json!(paths[1]);
    whole["tensors"] = tensors.into();
    print_record("diff", &whole)
}

fn alike(name: &str, [dot, a, b, in_a, in_b, in_both]: [f64; 6]) -> Value {
    let cosine = Some(dot / (a.sqrt() * b.sqrt())).filter(|cosine| cosine.is_finite());
    let distance = (a + b - 2.0 * dot).max(0.0).sqrt();
    let mut line = json!({"norm_a": a.sqrt(), "norm_b": b.sqrt(), "cosine": cosine, "distance": distance,
        "sent_a": in_a, "sent_b": in_b, "sent_by_both": in_both});
    if !name.is_empty() {
        line["name"] = name.into();
    }
    line
}

/// `bz-delta sum`: exact only for one gradient.
pub(crate) fn sum(
    common: &Common,
    output: &Path,
    count: usize,
    dry: DryRun,
    stream: &mut Stream<'_>,
) -> Result<(), Report> {
    let inputs = stream.read()?;
    let hparams = common.hparams()?;
    if hparams.inner.optimizer != InnerOptimizer::Sgd || hparams.inner.steps != 1 || hparams.inner.clip > 0.0 {
        return Err(Report::no(format!(
            "a sum of {} steps of {} is not the update of all pages together",
            hparams.inner.steps, hparams.inner.optimizer
        ))
        .hint("parts can be joined where the update is one gradient: optimizer sgd, steps 1, clip 0"));
    }
    let layout = Layout::new(&hparams.model);
    let trains: Vec<Train> = inputs.all()?;
    let Some(head) = trains.first().cloned() else {
        return Err(Report::data("the input has no `train` record").hint("it comes from bz-train"));
    };
    let distinct = |of: fn(&Train) -> Option<Hash>| trains.iter().map(of).collect::<BTreeSet<_>>().len();
    if trains.len() != count || distinct(|train| train.blake3) != count || distinct(|train| Some(train.pages)) != count
    {
        return Err(Report::data(format!(
            "the input has {} `train` records of {} pages, --parts says {count}",
            trains.len(),
            distinct(|train| Some(train.pages))
        ))
        .hint("each part once: a part that is missing or there twice would give another update"));
    }
    let mut parts = Vec::with_capacity(trains.len());
    for train in &trains {
        let (Some(path), Some(hash)) = (&train.path, train.blake3) else {
            return Err(Report::data(format!("a part of uid {} is {}", train.uid, train.status))
                .hint("its bz-train says why: run that part again"));
        };
        if (train.base, train.window, train.uid, train.role) != (head.base, head.window, head.uid, head.role) {
            return Err(Report::data("the parts are not of one window, state and uid")
                .hint("give it the records of one update: jq -c 'select(.type==\"train\" and .uid==3)'"));
        }
        check_file(path, train.bytes, hash)?;
        parts.push((Update::open(path, &layout)?, train.tokens));
    }
    let tokens = trains.iter().map(|t| t.tokens).sum();
    // Of all parts, in their order.
    let pages: Vec<u8> = trains.iter().flat_map(|train| train.pages.0).collect();
    let head =
        Train { pages: if count == 1 { head.pages } else { Hash::derive("boltzmann pages v1", &pages) }, ..head };
    if dry.dry_run {
        return stream.emit(&Train { path: None, bytes: 0, blake3: None, tokens, ..head });
    }
    delta::sum(output, &parts, &layout)?;
    let (bytes, blake3) = files::digest(output)?;
    stream.emit(&Train { path: Some(output.into()), bytes, blake3: Some(blake3), tokens, ..head })
}

/// A file that is read by mapping it: a named one as it is, or the input as a copy.
struct Spooled {
    path: PathBuf,
    /// The copy has no name, so that a kill leaves nothing of it; the kernel shows it while it is held.
    input: Option<File>,
}

/// The most of an input that is copied, in bytes: more than any delta of the known runs.
const SPOOL_CAP: u64 = 4 << 30;

impl Spooled {
    fn of(path: &Path, stream: &mut Stream<'_>) -> Result<Self, Report> {
        if path != Path::new("-") {
            return Ok(Spooled { path: path.into(), input: None });
        }
        let refused = |e: std::io::Error| files::io_report("copy the input into", &std::env::temp_dir(), &e);
        let mut copy = tempfile::tempfile().map_err(refused)?;
        let input = stream.take_input();
        let input = input.ok_or_else(|| Report::usage("the input is a terminal").hint("bz-delta show - < FILE"))?;
        let mut input = std::io::Read::take(input, SPOOL_CAP + 1);
        if std::io::copy(&mut input, &mut copy).map_err(refused)? > SPOOL_CAP {
            return Err(Report::data(format!("the input is longer than {SPOOL_CAP} bytes")).hint("name the file"));
        }
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd()).into();
        Ok(Spooled { path, input: Some(copy) })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it, by the name that was given, and what to do about it.
    fn told(&self, report: Report) -> Report {
        let path = self.path.display().to_string();
        let report = report.at(&path).or_hint("is it a delta of a miner? one that is damaged is made or fetched again");
        match self.input {
            Some(_) => Report { error: report.error.replace(&path, "the input"), ..report },
            None => report,
        }
    }
}
