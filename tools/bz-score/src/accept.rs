//! What enters the next state: good deltas of peers whose last judgement is good, each clipped to the median norm.

use crate::rule;
use protocol::enter;
use record::{
    Report, Stream, Uid,
    cli::Common,
    records::{Accept, Accepted, Delta, Peer, Score, Status},
    stream,
};
use run::{Settings as _, hparams::AcceptWeights};
use std::collections::BTreeMap;

/// `bz-score accept`.
pub(crate) fn accept(common: &Common, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let (hparams, run) = common.run(&inputs)?;
    let window = inputs.window()?;
    let deltas = inputs.latest(window.window, |d: &Delta| (d.window, d.uid))?;
    let scores = inputs.latest(window.window, |s: &Score| (s.window, s.uid))?;
    // A stage that was left out gives no decision: an empty list would stop the run's training.
    let (judged, others) = (inputs.has::<Score>() || inputs.passed("bz-score"), inputs.all::<Peer>()?);
    if !judged || (deltas.is_empty() && others.iter().any(|peer| !peer.own)) {
        let what =
            if judged { "`delta` record of this window" } else { "`score` record, and did not go through bz-score" };
        return Err(Report::data(format!("the input has no {what}"))
            .hint("bz-pages --role audit < pulled | bz-train | bz-score > scores; bz-score accept < scores"));
    }
    let mut norms: BTreeMap<Uid, (Delta, f64)> = BTreeMap::new();
    for (uid, delta) in deltas {
        if delta.status != Status::Ok || !good(common, &delta, scores.get(&uid), hparams.accept.memory_windows)? {
            continue;
        }
        let norm = match scores.get(&uid).and_then(|s| s.norm) {
            Some(norm) => norm,
            None => rule::open(common, &hparams, run, &window, &delta)?.norm(),
        };
        if norm.is_finite() {
            norms.insert(uid, (delta, norm));
        }
    }
    let clip = enter::clip(norms.values().map(|(_, norm)| *norm), None);
    let peers: BTreeMap<Uid, f64> = match hparams.accept.weights {
        Some(AcceptWeights::Incentive) => others.into_iter().map(|peer| (peer.uid, peer.incentive)).collect(),
        None => BTreeMap::new(),
    };
    let incentive = |uid: &Uid| peers.get(uid).copied().filter(|share| share.is_finite()).unwrap_or(0.0);
    let most = norms.keys().map(incentive).fold(0.0, f64::max);
    let accepted = norms
        .into_iter()
        .filter_map(|(uid, (delta, norm))| {
            let scale = enter::scale(norm, clip.filter(|_| hparams.accept.clip_to_median));
            let weight_u16 = enter::weight(incentive(&uid), most);
            Some(Accepted { uid, hotkey: delta.hotkey, blake3: delta.blake3?, weight_u16, scale })
        })
        .collect();
    stream.emit(&Accept { window: window.window, accepted, norm_median: clip.unwrap_or(0.0) })
}

/// Whether a peer's last judgement, in this window or the ones before, is good.
fn good(common: &Common, delta: &Delta, now: Option<&Score>, memory: u64) -> Result<bool, Report> {
    if let Some(score) = now.and_then(|s| s.score) {
        return Ok(score > 0.0);
    }
    for back in 1..memory {
        let Some(window) = delta.window.0.checked_sub(back) else { break };
        let path = common.home().window(record::Window(window)).join("scores");
        if !path.exists() {
            continue;
        }
        let scores: Vec<Score> = stream::read_file(&path)?.all()?;
        if let Some(score) = scores.iter().rfind(|s| s.hotkey == delta.hotkey).and_then(|s| s.score) {
            return Ok(score > 0.0);
        }
    }
    // Who was never judged has to be audited first.
    Ok(false)
}
