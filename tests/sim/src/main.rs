//! `sim`: play many seeds, or one with a trace.

use sim::{
    Edits, Kind, Policy, Report, Scenario, World, play, policy::MUTATIONS, scenario::LIES, shrink::shrink, trace::Trace,
};
use std::{
    fs::OpenOptions,
    io::{self, Write},
    process::ExitCode,
    str::FromStr,
    time::Instant,
};

const HELP: &str = "\
Play the protocol in virtual time, under faults and lies

Usage: sim --seeds N|A..B [--kind mixed|small|calm|failing] [--seconds S] [--bench FILE]
       sim --seed N [--kind …] [--trace] [--faulty N] [--miners N] [--faults 1,2] [--without 0] [--honest 3]

Options:
  --seeds     play these seeds, until an invariant breaks; that seed shrinks, and its command is printed
  --seconds   begin no further seed after so many seconds
  --bench     append a JSON line to this file: windows a second, or how much honest work entered (--kind failing)
  --seed      play one seed
  --trace     print all that happens
  --break     break one rule in all honest nodes: see --break list
  --faulty, --miners, --faults, --without, --honest   leave out parts of it; a shrunk seed prints them
  --no-shrink print the seed as it is

Examples:
  sim --seeds 1000
  sim --seed 7 --trace | less
  sim --seeds 100 --break plurality

Exit codes: 0 nothing broke, 1 an invariant broke, 2 usage";

struct Args {
    seeds: std::ops::Range<u64>,
    one: bool,
    kind: Kind,
    edits: Edits,
    policy: Policy,
    broken: Option<String>,
    trace: bool,
    shrink: bool,
    seconds: u64,
    bench: Option<String>,
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn list(text: &str) -> Result<Vec<usize>, String> {
    text.split(',').filter(|part| !part.is_empty()).map(number).collect()
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args {
        seeds: 0..0,
        one: false,
        kind: Kind::Mixed,
        edits: Edits::default(),
        policy: Policy(None),
        broken: None,
        trace: false,
        shrink: true,
        seconds: u64::MAX,
        bench: None,
    };
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} wants a value"));
        match flag.as_str() {
            "--trace" => args.trace = true,
            "--no-shrink" => args.shrink = false,
            "--seeds" => {
                let text = value()?;
                args.seeds = match text.split_once("..") {
                    Some((from, to)) => number(from)?..number(to)?,
                    None => 0..number(&text)?,
                };
            }
            "--seed" => {
                let seed = number(&value()?)?;
                args.seeds = seed..seed.saturating_add(1);
                args.one = true;
            }
            "--seconds" => args.seconds = number(&value()?)?,
            "--bench" => args.bench = Some(value()?),
            "--kind" => {
                args.kind = match value()?.as_str() {
                    "mixed" => Kind::Mixed,
                    "small" => Kind::Small,
                    "calm" => Kind::Calm,
                    "failing" => Kind::Failing,
                    other => return Err(format!("no kind {other:?}")),
                }
            }
            "--break" => {
                let name = value()?;
                let found = MUTATIONS.iter().find(|(known, _)| *known == name);
                let names: Vec<_> = MUTATIONS.iter().map(|(name, _)| *name).collect();
                args.policy = Policy(Some(found.ok_or(format!("--break one of {}", names.join(" ")))?.1));
                args.broken = Some(name);
            }
            "--faulty" => args.edits.faulty = Some(number(&value()?)?),
            "--miners" => args.edits.miners = Some(number(&value()?)?),
            "--faults" => args.edits.faults = Some(list(&value()?)?),
            "--without" => args.edits.without = list(&value()?)?,
            "--honest" => args.edits.honest = list(&value()?)?,
            other => return Err(format!("no option {other:?}")),
        }
    }
    if args.seeds.is_empty() { Err("which seeds?".into()) } else { Ok(args) }
}

/// The command that plays a run again.
fn command(seed: u64, args: &Args, edits: &Edits) -> String {
    let join = |list: &[usize]| list.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut words = vec![format!("sim --seed {seed}")];
    match args.kind {
        Kind::Mixed => {}
        Kind::Small => words.push("--kind small".into()),
        Kind::Calm => words.push("--kind calm".into()),
        Kind::Failing => words.push("--kind failing".into()),
    }
    words.extend(args.broken.iter().map(|name| format!("--break {name}")));
    words.extend(edits.faulty.map(|faulty| format!("--faulty {faulty}")));
    words.extend(edits.miners.map(|miners| format!("--miners {miners}")));
    words.extend(edits.faults.as_ref().map(|faults| format!("--faults '{}'", join(faults))));
    if !edits.without.is_empty() {
        words.push(format!("--without {}", join(&edits.without)));
    }
    if !edits.honest.is_empty() {
        words.push(format!("--honest {}", join(&edits.honest)));
    }
    words.join(" ")
}

fn describe(scenario: &Scenario, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "clock {:?}", scenario.clock)?;
    writeln!(out, "rules {:?}", scenario.rules)?;
    writeln!(out, "windows {} from {}, of them with faults {}", scenario.windows, scenario.start, scenario.faulty)?;
    writeln!(out, "founders {:?}", scenario.founders)?;
    for (node, validator) in scenario.validators.iter().enumerate() {
        let lie = validator.lie.map_or("honest".into(), |lie| format!("{lie:?}"));
        writeln!(out, "node {node}: validator, stake {}, {lie}", validator.stake)?;
    }
    for (miner, trick) in scenario.miners.iter().enumerate() {
        writeln!(out, "node {}: miner, {trick:?}", scenario.validators.len() + miner)?;
    }
    for (at, fault) in scenario.faults.iter().enumerate() {
        writeln!(out, "fault {at}: {} to {} s, {:?}", fault.from, fault.to, fault.what)?;
    }
    Ok(())
}

fn tell(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { windows, finals, committed, entered, events, trace, .. } = report;
    writeln!(
        out,
        "windows {windows}, final {finals}, honest deltas {entered} of {committed}, events {events}, trace {trace}"
    )?;
    if let Some(broken) = &report.violation {
        let (invariant, window, second) = (broken.invariant, broken.window, broken.second);
        writeln!(
            out,
            "broken: {invariant:?} in window {window}, second {second}, event {}: {}",
            broken.event, broken.what
        )?;
    }
    Ok(())
}

/// Seconds that this process has had a processor, where the system tells; else seconds since `begun`.
fn seconds(begun: Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/self/schedstat").ok();
    let nanoseconds = told.and_then(|told| told.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or(begun.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9).max(1e-9)
}

fn run(args: &Args) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let begun = Instant::now();
    let (mut windows, mut finals, mut committed, mut entered, mut seeds) = (0, 0, 0, 0, 0u64);
    for seed in args.seeds.clone() {
        if begun.elapsed().as_secs() >= args.seconds {
            break;
        }
        let report = if args.one {
            let scenario = Scenario::new(seed, args.kind, &args.edits);
            describe(&scenario, &mut out)?;
            let lines: Option<Box<dyn Write>> = if args.trace { Some(Box::new(io::stdout())) } else { None };
            let report = World::new(scenario, args.policy, Trace::new(lines)).play();
            tell(&report, &mut out)?;
            report
        } else {
            play(seed, args.kind, &args.edits, args.policy)
        };
        seeds += 1;
        windows += report.windows;
        finals += report.finals;
        committed += report.committed;
        entered += report.entered;
        if report.violation.is_some() {
            if !args.one {
                writeln!(out, "seed {seed}: {}", command(seed, args, &args.edits))?;
                tell(&report, &mut out)?;
            }
            if args.shrink
                && args.edits == Edits::default()
                && let Some(small) = shrink(seed, args.kind, args.policy, 400)
            {
                writeln!(out, "smaller: {} --trace", command(seed, args, &small.edits))?;
                tell(&small.report, &mut out)?;
            }
            return Ok(false);
        }
    }
    let seconds = seconds(begun);
    let rate = windows as f64 / seconds;
    let goodput = 100.0 * entered as f64 / (committed as f64).max(1.0);
    writeln!(
        out,
        "{seeds} seeds, {windows} windows, {finals} of them with a final record, {entered} of {committed} honest deltas \
         entered ({goodput:.2} %), {seconds:.1} s of a core, {rate:.0} windows a second; nothing broke"
    )?;
    if let Some(file) = &args.bench {
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        if args.kind == Kind::Failing {
            writeln!(
                file,
                "{{\"bench\":\"sim.goodput\",\"unit\":\"%\",\"ours\":{goodput:.2},\"peer\":97.7,\"peer_name\":\
                 \"torchft, its best\",\"ratio\":{:.3},\"deltas\":{committed},\"windows\":{windows}}}",
                goodput / 97.7
            )?;
        } else {
            let kind = if args.kind == Kind::Calm { "sim.windows_calm" } else { "sim.windows" };
            writeln!(
                file,
                "{{\"bench\":\"{kind}\",\"unit\":\"windows/s\",\"threads\":1,\"ours\":{rate:.0},\"peer\":1000,\
                 \"peer_name\":\"what issue 14 asks for\",\"ratio\":{:.2},\"windows\":{windows},\"seeds\":{seeds}}}",
                rate / 1000.0
            )?;
        }
    }
    Ok(true)
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.iter().any(|arg| arg == "--help" || arg == "-h") {
        let _ = writeln!(io::stdout(), "{HELP}\n\nLies: {LIES:?}");
        return ExitCode::SUCCESS;
    }
    match parse(given.into_iter()) {
        Err(wrong) => {
            let _ = writeln!(io::stderr(), "sim: {wrong}\nhint: sim --help");
            ExitCode::from(2)
        }
        Ok(args) => match run(&args) {
            Ok(true) => ExitCode::SUCCESS,
            // A reader that has seen enough.
            Err(wrong) if wrong.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(wrong) => {
                let _ = writeln!(io::stderr(), "sim: {wrong}");
                ExitCode::from(1)
            }
        },
    }
}
