//! Many windows' scores into weights: a pure function of the score records, without hidden state.

use record::{
    Hotkey, Report, Stream, Uid, Window,
    cli::Common,
    records::{Score, Weights},
    stream,
};
use run::Settings as _;
use run::hparams;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// `bz-score fold`.
pub(crate) fn fold(
    common: &Common,
    paths: &[PathBuf],
    last: Option<u64>,
    window: Option<Window>,
    stream: &mut Stream<'_>,
) -> Result<(), Report> {
    let inputs = stream.read()?;
    let hparams = common.hparams()?;
    let mut rule = hparams.fold.clone();
    rule.windows = last.unwrap_or(rule.windows);
    let mut scores: Vec<Score> = inputs.all()?;
    for path in paths.iter().filter(|path| **path != Path::new("-")) {
        for receipt in receipts(path, window, rule.windows)? {
            scores.extend(stream::read_file(&receipt)?.all::<Score>()?);
        }
    }
    scores.retain(|score| window.is_none_or(|window| score.window <= window));
    if scores.is_empty() {
        return Err(Report::data("there is no `score` record").hint("bz-score makes them; name a folder of windows"));
    }
    stream.emit(&weights(&scores, &rule))
}

/// The receipts under a path: the path itself, or `W/scores` in a folder of windows, the last so many, oldest first.
fn receipts(path: &Path, until: Option<Window>, most: u64) -> Result<Vec<PathBuf>, Report> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| record::files::io_report("read", path, &e))?;
    let mut found: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let window = entry.file_name().to_str()?.parse().ok()?;
            let scores = entry.path().join("scores");
            scores.exists().then_some((window, scores))
        })
        .collect();
    found.retain(|(window, _)| until.is_none_or(|until| *window <= until.0));
    found.sort();
    let from = found.last().map_or(0, |(newest, _)| newest.saturating_sub(most.saturating_sub(1)));
    found.retain(|(window, _)| *window >= from);
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Weights of the peers of the newest window.
///
/// For every hotkey, over its windows from the oldest: `a ← (1−α)·a + α·score`, from 0; a window in which it was not
/// judged changes nothing. Below the threshold an average is nothing; the rest is raised to the power, and divided by
/// the sum. A uid belongs to the hotkey that had it last: who replaced another starts anew.
pub(crate) fn weights(scores: &[Score], rule: &hparams::Fold) -> Weights {
    let newest = scores.iter().map(|s| s.window).max().unwrap_or(Window(0));
    let from = newest.0.saturating_sub(rule.windows.saturating_sub(1));
    // Of several judgements of one window, the last.
    let mut judged: BTreeMap<(Hotkey, Window), &Score> = BTreeMap::new();
    for score in scores.iter().filter(|s| s.window.0 >= from) {
        judged.insert((score.hotkey, score.window), score);
    }
    let mut holder: BTreeMap<Uid, (Window, Hotkey)> = BTreeMap::new();
    let mut average: BTreeMap<Hotkey, f64> = BTreeMap::new();
    for ((hotkey, window), score) in judged {
        let held = holder.entry(score.uid).or_insert((window, hotkey));
        if window >= held.0 {
            *held = (window, hotkey);
        }
        let average = average.entry(hotkey).or_insert(0.0);
        if let Some(value) = score.score.filter(|v| v.is_finite()) {
            *average = (1.0 - rule.alpha) * *average + rule.alpha * value.clamp(0.0, 1.0);
        }
    }
    let raised: Vec<(Uid, Hotkey, f64)> = holder
        .into_iter()
        .map(|(uid, (_, hotkey))| {
            let average = average.get(&hotkey).copied().unwrap_or(0.0);
            let counts = average > 0.0 && average >= rule.threshold;
            (uid, hotkey, if counts { average.powf(rule.power) } else { 0.0 })
        })
        .collect();
    let sum: f64 = raised.iter().map(|(_, _, w)| w).sum();
    let share = |w: f64| if sum > 0.0 { w / sum } else { 0.0 };
    Weights {
        window: newest,
        uids: raised.iter().map(|(uid, _, _)| *uid).collect(),
        hotkeys: raised.iter().map(|(_, hotkey, _)| *hotkey).collect(),
        weights: raised.iter().map(|(_, _, w)| share(*w)).collect(),
        values_u16: Vec::new(),
        submitted: false,
        tx: None,
        block: None,
        call: None,
        call_bytes: None,
        reason: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(window: u64, uid: u16, key: u8, value: Option<f64>) -> Score {
        Score {
            window: Window(window),
            uid: Uid(uid),
            hotkey: Hotkey([key; 32]),
            rule: "cosine".into(),
            dot: None,
            norm: None,
            norm_ref: None,
            numel: 0,
            raw: None,
            score: value,
            reason: None,
        }
    }

    const RULE: hparams::Fold = hparams::Fold { windows: 4, alpha: 0.5, power: 1.0, threshold: 0.0, version_key: None };

    #[test]
    fn a_moving_average_by_hand() {
        // Uid 1: 0.5, 0.75, then unjudged. Uid 2: 0.5, 0.25, 0.125.
        let all = [
            score(1, 1, 1, Some(1.0)),
            score(2, 1, 1, Some(1.0)),
            score(3, 1, 1, None),
            score(1, 2, 2, Some(1.0)),
            score(2, 2, 2, Some(0.0)),
            score(3, 2, 2, Some(0.0)),
        ];
        let folded = weights(&all, &RULE);
        assert_eq!(folded.weights, [0.75 / 0.875, 0.125 / 0.875]);
        let mut reversed = all.to_vec();
        reversed.reverse();
        assert_eq!(weights(&reversed, &RULE).weights, folded.weights, "in any order");
    }

    #[test]
    fn a_replaced_hotkey_starts_anew_and_old_windows_do_not_count() {
        let all = [
            score(1, 1, 1, Some(1.0)),
            score(9, 1, 7, Some(1.0)),
            score(9, 2, 2, Some(1.0)),
            score(2, 2, 2, Some(1.0)),
        ];
        let folded = weights(&all, &RULE);
        assert_eq!(folded.hotkeys, [Hotkey([7; 32]), Hotkey([2; 32])]);
        assert_eq!(folded.weights, [0.5, 0.5]);
    }

    #[test]
    fn nothing_good_gives_nothing_and_no_nan() {
        let folded = weights(&[score(1, 1, 1, Some(0.0)), score(1, 2, 2, Some(f64::NAN))], &RULE);
        assert_eq!(folded.weights, [0.0, 0.0]);
    }
}
