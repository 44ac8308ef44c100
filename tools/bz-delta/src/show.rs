//! For people: what is in a delta, and the sum of parts.

use record::{
    Report, Stream,
    cli::{Common, check_file, print_json},
    records::Train,
};
use serde_json::json;
use std::path::Path;
use wire::{Layout, delta, tensors::Update};

/// `bz-delta show`: needs nothing but the file.
pub(crate) fn show(_: &Common, path: &Path) -> Result<(), Report> {
    let (mapped, meta) = delta::read_meta(path).map_err(|e| e.at(path.display()))?;
    let bytes = mapped.data().len();
    let proof = mapped.shape("proof").map_or(0, |s| s.iter().product::<usize>());
    let tiles = mapped.shape("tiles").and_then(|s| s.first().copied());
    print_json(&json!({
        "type": "show", "path": path, "bytes": bytes + mapped.header_bytes(), "header_bytes": mapped.header_bytes(),
        "proof_bytes": proof, "values_bytes": bytes - proof, "tiles": tiles, "signature": "ok", "meta": meta,
    }))
}

/// `bz-delta sum`: exact only for one gradient.
pub(crate) fn sum(common: &Common, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let hparams = common.hparams()?;
    if hparams.inner.optimizer != "sgd" || hparams.inner.steps != 1 || hparams.inner.clip > 0.0 {
        return Err(Report::no(format!(
            "a sum of {} steps of {} is not the update of all pages together",
            hparams.inner.steps, hparams.inner.optimizer
        ))
        .hint("parts can be joined where the update is one gradient: optimizer sgd, steps 1, clip 0"));
    }
    let output = common.output.as_ref().ok_or_else(|| Report::usage("where to write the sum: -o FILE"))?;
    let layout = Layout::new(&hparams.model);
    let trains: Vec<Train> = inputs.all()?;
    let Some(head) = trains.first().cloned() else {
        return Err(Report::data("the input has no `train` record").hint("it comes from bz-train"));
    };
    let mut parts = Vec::with_capacity(trains.len());
    for train in &trains {
        let (Some(path), Some(hash)) = (&train.path, train.blake3) else {
            return Err(Report::data(format!("a part of uid {} is {}", train.uid, train.status)));
        };
        if train.base != head.base || train.window != head.window {
            return Err(Report::data("the parts are not of one window and state"));
        }
        check_file(path, train.bytes, hash)?;
        parts.push((Update::open(path, &layout)?, train.tokens));
    }
    delta::sum(output, &parts, &layout)?;
    let (bytes, blake3) = record::files::digest(output)?;
    let tokens = trains.iter().map(|t| t.tokens).sum();
    stream.emit(&Train { path: Some(output.clone()), bytes, blake3: Some(blake3), tokens, ..head })
}
