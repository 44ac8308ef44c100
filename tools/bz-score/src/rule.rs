//! The rules: one delta against the update that was recomputed on the same pages.

use record::{
    Hash, Report, Stream,
    cli::{Common, check_file},
    records::{Delta, Role, Score, Status, Train, WindowRecord},
};
use run::{
    Hparams, Settings as _,
    hparams::{self, Rule},
};
use wire::{
    Layout,
    delta::{self, Expected},
    similarity::{Measured, measure},
    state,
    tensors::Update,
};

/// A delta that `bz-delta check` called good, opened again.
pub(crate) fn open(
    common: &Common,
    hparams: &Hparams,
    run: Hash,
    window: &WindowRecord,
    checked: &Delta,
) -> Result<delta::Delta, Report> {
    let path = checked.path.as_ref().ok_or_else(|| Report::data("the `delta` record names no file"))?;
    let reveal = window.reveal.ok_or_else(|| Report::data("the `window` record has no reveal"))?;
    let expected = Expected {
        run,
        window: window.window,
        uid: checked.uid,
        hotkey: checked.hotkey,
        base: state::record_of(&common.home().state(window.window))?.root,
        codec: hparams.codec.clone(),
        commitment: None,
        reveal,
    };
    let at = |e: Report| e.at(format!("the delta of uid {}", checked.uid));
    wire::contain(|| delta::Delta::open(path, &Layout::new(&hparams.model), &expected)).map_err(at)
}

/// `bz-score`.
pub(crate) fn score(
    common: &Common,
    rule: Option<Rule>,
    sharpness: Option<f64>,
    stream: &mut Stream<'_>,
) -> Result<(), Report> {
    let inputs = stream.read()?;
    let (mut hparams, run) = common.run(&inputs)?;
    if let Some(rule) = rule {
        hparams.score.rule = rule;
    }
    if let Some(sharpness) = sharpness {
        hparams.score.sharpness = sharpness;
    }
    hparams.check()?;
    let window = inputs.window()?;
    let layout = Layout::new(&hparams.model);
    let deltas = inputs.latest(window.window, |d: &Delta| (d.window, d.uid))?;
    let trains = inputs.latest(window.window, |t: &Train| (t.window, (t.role, t.uid)))?;
    for (uid, checked) in deltas {
        let train = trains.get(&(Role::Audit, uid));
        let blank = Score {
            window: window.window,
            uid,
            hotkey: checked.hotkey,
            rule: hparams.score.rule.name().into(),
            dot: None,
            norm: None,
            norm_ref: None,
            numel: 0,
            raw: None,
            score: None,
            reason: None,
        };
        let why = |reason: String| Some(reason);
        let score = match (checked.status, train) {
            (Status::Ok, None) => Score { reason: why("not audited in this window".into()), ..blank },
            (Status::Ok, Some(train)) => match (&train.path, train.blake3) {
                (Some(path), Some(hash)) => {
                    check_file(path, train.bytes, hash)?;
                    let delta = open(common, &hparams, run, &window, &checked)?;
                    if delta.meta.pages != train.pages {
                        Score { score: Some(0.0), reason: why("it was trained on other pages".into()), ..blank }
                    } else {
                        judge(blank, measure(&delta, &Update::open(path, &layout)?, &layout)?, &hparams.score)
                    }
                }
                _ => Score { reason: why(format!("the recomputed update is {}", train.status)), ..blank },
            },
            (status @ (Status::Late | Status::Missing | Status::Invalid | Status::Nonfinite), _) => {
                let reason = format!("{status}: {}", checked.reason.unwrap_or_default());
                // Who was away itself says nothing about others.
                let score = (!checked.unseen).then_some(0.0);
                Score { score, reason: Some(reason), ..blank }
            }
        };
        stream.emit(&score)?;
    }
    Ok(())
}

/// The score of what was measured.
///
/// Honest work reproduces to three digits and no known shortcut reaches a cosine of 0.98, so a sharp score is zero
/// below the threshold: a reward in proportion to the cosine pays a fifteenth of the work half the reward.
pub(crate) fn judge(blank: Score, measured: Measured, rule: &hparams::Score) -> Score {
    let relative = measured.distance / measured.norm_ref;
    let (raw, value) = match rule.rule {
        Rule::L2 => (Some(-measured.distance), (1.0 - relative).max(0.0)),
        Rule::Cosine => (measured.cosine(), measured.cosine().unwrap_or(0.0).max(0.0)),
    };
    let ratio = measured.norm / measured.norm_ref;
    let refused = if !measured.norm.is_finite() || !measured.norm_ref.is_finite() || !value.is_finite() {
        Some("it is not finite".to_string())
    } else if measured.norm_ref == 0.0 || raw.is_none() {
        Some("one of the two is zero".to_string())
    } else if rule.sharpness == 0.0 {
        None
    } else if rule.rule == Rule::L2 {
        // Two vectors of one length at the threshold's angle are so far apart.
        let most = (2.0 - 2.0 * rule.threshold).max(0.0).sqrt();
        (relative > most).then(|| format!("distance {relative:.3} of the recomputed norm, at most {most:.3} is honest"))
    } else if value < rule.threshold {
        Some(format!("cosine {value:.3}, honest work reproduces to {}", rule.threshold))
    } else if !(rule.band_low..=rule.band_high).contains(&ratio) {
        Some(format!("norm {ratio:.3} of the recomputed, honest is {} to {}", rule.band_low, rule.band_high))
    } else {
        None
    };
    let finite = |x: f64| x.is_finite().then_some(x);
    Score {
        dot: finite(measured.dot),
        norm: finite(measured.norm),
        norm_ref: finite(measured.norm_ref),
        numel: measured.numel,
        raw: raw.and_then(finite),
        score: Some(if refused.is_some() { 0.0 } else { value.min(1.0) }),
        reason: refused,
        ..blank
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Hotkey, Uid, Window};

    fn score(cosine: f64, ratio: f64, rule: Rule, sharpness: f64) -> Score {
        let blank = Score {
            window: Window(1),
            uid: Uid(1),
            hotkey: Hotkey([1; 32]),
            rule: rule.name().into(),
            dot: None,
            norm: None,
            norm_ref: None,
            numel: 0,
            raw: None,
            score: None,
            reason: None,
        };
        let rule = hparams::Score { rule, threshold: 0.98, band_low: 0.95, band_high: 1.05, sharpness, sample: 8 };
        let distance = (1.0 + ratio * ratio - 2.0 * cosine * ratio).max(0.0).sqrt();
        let measured = Measured { dot: cosine * ratio, norm: ratio, norm_ref: 1.0, distance, numel: 4096 };
        judge(blank, measured, &rule)
    }

    #[test]
    fn no_shortcut_of_the_measured_table_is_paid() {
        // Cosine and norm ratio of shortcuts against the honest update, as measured on a real network.
        for (cosine, ratio) in [
            (0.82, 1.01),
            (0.85, 0.96),
            (0.97, 0.70),
            (0.95, 0.70),
            (0.83, 0.29),
            (0.66, 1.03),
            (0.86, 0.86),
            (0.0, 1.0),
            (1.0, 1e6),
        ] {
            for rule in [Rule::Cosine, Rule::L2] {
                let judged = score(cosine, ratio, rule, 1.0);
                assert_eq!(judged.score, Some(0.0), "{rule} {cosine} {ratio}");
                assert!(judged.reason.is_some());
            }
        }
        for rule in [Rule::Cosine, Rule::L2] {
            assert!(score(0.9999, 1.0, rule, 1.0).score.unwrap() > 0.98, "{rule}");
        }
    }

    #[test]
    fn in_proportion_half_the_work_earns_almost_all() {
        assert_eq!(score(0.97, 0.7, Rule::Cosine, 0.0).score, Some(0.97));
        assert_eq!(score(-0.5, 1.0, Rule::Cosine, 0.0).score, Some(0.0));
        assert!(score(f64::NAN, 1.0, Rule::Cosine, 0.0).score == Some(0.0));
        assert!(score(1.0, f64::INFINITY, Rule::Cosine, 0.0).score == Some(0.0));
    }
}
