//! Whether a run can meet its own clock, reckoned before it is founded: no chain, no wallet, no text.

use record::{Report, Stream};
use run::{
    Hparams,
    feasible::{self, Assumptions, Finding},
};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// Only reckon whether the run can meet its own clock; needs no chain
    #[arg(long, conflicts_with_all = ["window", "wait", "peers"])]
    pub(crate) check: bool,
    /// With --check: what is assumed of machines and chain, such as miners=16,up=50,down=500,validator=1000,tflops=40
    #[arg(long, requires = "check", value_name = "NAME=NUMBER", value_delimiter = ',', value_parser = assumption)]
    assume: Vec<(String, f64)>,
}

fn assumption(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("an assumption is NAME=NUMBER; {}", Assumptions::NAMES);
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let value: f64 = value.parse().map_err(|_| wrong())?;
    Assumptions::default().set(name, value)?;
    Ok((name.to_string(), value))
}

/// A `check` record for each line of arithmetic; exit code 1 where one fails.
pub(crate) fn run(args: &CheckArgs, hparams: &Hparams, stream: &mut Stream<'_>) -> Result<(), Report> {
    let mut assumed = Assumptions::default();
    for (name, value) in &args.assume {
        assumed.set(name, *value).map_err(Report::usage)?;
    }
    let findings = feasible::check(hparams, &assumed);
    findings.iter().try_for_each(|finding| stream.emit(finding))?;
    let failed: Vec<&Finding> = findings.iter().filter(|finding| !finding.ok()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = failed.iter().map(|finding| finding.name.as_str()).collect();
    let report = Report::no(format!("the run {} cannot meet its own clock: {}", hparams.name, names.join(", ")));
    Err(failed.into_iter().fold(report, |report, finding| {
        let Finding { name, needed, available, unit, reckoned, change, .. } = finding;
        let change = change.as_deref().unwrap_or_default();
        report.hint(format!("{name}: {needed} {unit} needed, {available} available: {reckoned}. Change: {change}"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The records that are printed, and how it ends.
    fn checked(preset: &str, assume: &[&str]) -> (String, Result<(), Report>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/hparams");
        let hparams = Hparams::load(&folder.join(format!("{preset}.json"))).unwrap();
        let assume = assume.iter().map(|text| assumption(text).unwrap()).collect();
        let mut out = Vec::new();
        let mut stream = Stream::new("bz-window", "0", None, Box::new(&mut out));
        let ended = run(&CheckArgs { check: true, assume }, &hparams, &mut stream);
        drop(stream);
        (String::from_utf8(out).unwrap(), ended)
    }

    #[test]
    fn a_run_that_can_has_a_record_a_line_and_ends_well() {
        let (out, ended) = checked("124m", &[]);
        ended.unwrap();
        let records: Vec<&str> = out.lines().filter(|line| line.starts_with(r#"{"type":"check","#)).collect();
        assert!(records.len() >= 9 && records.iter().all(|line| line.contains(r#""status":"ok""#)), "{out}");
    }

    #[test]
    fn a_run_that_cannot_ends_with_1_and_says_each_number_and_what_to_change() {
        // The demo's windows on the main net: an epoch has too many of them.
        let (out, ended) = checked("demo", &[]);
        let report = ended.unwrap_err();
        assert_eq!(report.code, record::Code::No);
        assert!(report.error.contains("demo cannot meet its own clock: commitments"), "{report}");
        assert!(report.hints[0].starts_with("commitments: 5310 bytes needed, 3100 available"), "{report}");
        assert!(report.hints[0].contains("clock.blocks 45 or more"), "{report}");
        assert!(out.contains(r#""name":"commitments","status":"infeasible","needed":5310"#), "{out}");
        // On a chain of its own.
        let own =
            ["tempo=5", "rate=8", "block=0.5", "miners=8", "tflops=0.1", "up=8000", "down=8000", "validator=8000"];
        checked("demo", &own).1.unwrap();
        let report = checked("boltzmann", &["validator=100"]).1.unwrap_err();
        assert!(report.error.ends_with("download, state"), "{report}");
    }

    #[test]
    fn an_assumption_is_a_name_and_a_number() {
        assert_eq!(assumption("up=12.5").unwrap(), ("up".to_string(), 12.5));
        for wrong in ["up", "up=", "up=fast", "up=-1", "sideways=3", "miners=0"] {
            assert!(assumption(wrong).is_err(), "{wrong}");
        }
    }
}
