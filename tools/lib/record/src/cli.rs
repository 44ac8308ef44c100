//! What all tools share on the command line: the flags, `main`, and how it ends.

use crate::{Code, Context, Hash, Home, Report, Stream, files, words::Word};
use clap::{
    Args, Parser,
    builder::{PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, Write},
    panic::{self, PanicHookInfo},
    path::PathBuf,
    process::ExitCode,
    sync::OnceLock,
};

/// The flags that every tool has. Those that only some can hold are [`DryRun`], [`Output`] and [`Force`]: a tool offers what
/// it does.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Folder of this node: windows/, states/, hparams.json
    #[arg(long, env = "BZ_HOME", value_name = "DIR", global = true)]
    home: Option<PathBuf>,
    /// What the run agrees on [default: hparams.json in the node's folder]
    #[arg(long, env = "BZ_HPARAMS", value_name = "FILE", global = true)]
    hparams: Option<PathBuf>,
    /// No progress; errors are still said
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// Of tools and commands that change something.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct DryRun {
    /// Do everything but the effect, write nothing, and say what it would be
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Of commands that make one file.
#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// Write here instead of into the window's folder
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
}

impl Output {
    /// The file to write, `own` where none was named; it holds one record's result, of `count`.
    ///
    /// # Errors
    /// Exit code 2 when several would be written to one path, or it is a folder.
    pub fn file(&self, count: usize, own: impl FnOnce() -> PathBuf) -> Result<PathBuf, Report> {
        let Some(path) = &self.output else { return Ok(own()) };
        if count > 1 {
            return Err(Report::usage(format!("-o {} names one file, the input asks for {count}", path.display()))
                .hint("leave -o out: each then has its place in the window's folder"));
        }
        if path.is_dir() {
            return Err(Report::usage(format!("-o {} is a folder", path.display())).hint("name the file in it"));
        }
        Ok(path.clone())
    }

    /// The folder to write, `own` where none was named.
    pub fn folder(&self, own: impl FnOnce() -> PathBuf) -> PathBuf {
        self.output.clone().unwrap_or_else(own)
    }
}

/// Of commands that make one file, once.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Make {
    #[command(flatten)]
    dry: DryRun,
    /// Where it is made.
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    force: Force,
}

impl Make {
    /// Whether nothing is written.
    pub fn dry_run(&self) -> bool {
        self.dry.dry_run
    }

    /// Whether it is made though it is there.
    pub fn force(&self) -> bool {
        self.force.force
    }
}

/// Of commands that leave a result alone that is there.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Force {
    /// Do it again though the result is there
    #[arg(long)]
    pub force: bool,
}

impl Common {
    /// The folder of this node.
    pub fn home(&self) -> Home {
        let fallback = || {
            let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
            home.join(".boltzmann")
        };
        Home(self.home.clone().unwrap_or_else(fallback))
    }

    /// Where the hparams are.
    pub fn hparams_path(&self) -> PathBuf {
        self.hparams.clone().unwrap_or_else(|| self.home().hparams())
    }

    /// Say something on stderr under `-v`.
    pub fn say(&self, tool: &str, text: impl std::fmt::Display) {
        if self.verbose {
            note(tool, text);
        }
    }
}

/// Which part of the records a process takes: `--shard I/N`.
#[derive(Clone, Copy, Debug)]
pub struct Shard {
    /// Which, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (index, count) = text.split_once('/').ok_or("a shard is I/N, such as 0/4")?;
        let shard = Shard {
            index: index.parse().map_err(|_| "I is not a number")?,
            count: count.parse().map_err(|_| "N is not a number")?,
        };
        if shard.index < shard.count { Ok(shard) } else { Err("I counts from 0 and is less than N".into()) }
    }
}

impl Shard {
    /// Whether the record at this place is ours.
    pub fn takes(&self, place: usize) -> bool {
        place % self.count == self.index
    }
}

/// A flag whose values are the words of an enum.
pub fn word<T: Word>() -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(T::words()).try_map(|word| word.parse::<T>())
}

/// A number of threads that this machine can have: a typo is none. Eight are always allowed, so that what does not depend on
/// their number can be tried.
///
/// # Errors
/// What is wrong with it.
pub fn threads(text: &str) -> Result<usize, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = (cores * 4).max(8);
    match text.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        Ok(_) => Err(format!("from 1 to {most} on this machine, which has {cores} cores")),
        Err(_) => Err("not a number".into()),
    }
}

/// Say something on stderr.
pub fn note(tool: &str, text: impl std::fmt::Display) {
    // There is nowhere left to say that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{tool}: {text}");
}

/// The tool that runs in this process.
static TOOL: OnceLock<String> = OnceLock::new();

/// Say something on stderr from a library, under the name of the tool that runs.
pub fn warn(text: impl std::fmt::Display) {
    note(TOOL.get().map_or("boltzmann", String::as_str), text);
}

fn finish(tool: &str, result: Result<(), Report>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) if report.closed_pipe => ExitCode::SUCCESS,
        Err(report) => {
            let report = report.with_a_hint();
            note(tool, &report);
            ExitCode::from(report.code as u8)
        }
    }
}

/// A panic ends a tool with 101, Rust's own code for it, which is [`Code::Bug`]: here it says so in the tool's name, as every
/// other error does.
fn name_bugs(tool: &'static str) {
    panic::set_hook(Box::new(move |info| {
        note(tool, bug(info));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            note(tool, backtrace);
        }
    }));
}

fn bug(info: &PanicHookInfo<'_>) -> Report {
    let what = info.payload_as_str().unwrap_or("a panic");
    let place = info.location().map(|at| format!(" ({at})")).unwrap_or_default();
    Report::new(Code::Bug, format!("a bug of this program: {what}{place}"))
        .hint("please report it, with the command and its input; RUST_BACKTRACE=1 shows how it came there")
}

/// The command line of a tool. Its help names the variables and never shows what they hold: some are secrets.
fn command<A: Parser>() -> clap::Command {
    with_args(A::command(), |arg| arg.hide_env_values(true))
}

/// A variable that is set to nothing is not set: an `.env` may have a line for each.
fn without_empty(arg: clap::Arg) -> clap::Arg {
    let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if empty { arg.env(None::<&'static str>) } else { arg }
}

/// A command with all its arguments changed, those of its subcommands too.
fn with_args(command: clap::Command, change: fn(clap::Arg) -> clap::Arg) -> clap::Command {
    command.mut_args(change).mut_subcommands(|sub| with_args(sub, change))
}

/// Parse the command line; an error names the tool, and the examples of a help text stay on their lines, so that they can be
/// copied: clap would break them at the terminal's width.
fn parse<A: Parser>() -> Result<(clap::Command, A, bool), ExitCode> {
    let mut command = command::<A>();
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command = command.after_help("");
    let _ = TOOL.set(command.get_name().to_string());
    let mut taken = with_args(command.clone(), without_empty);
    let parsed = taken.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| {
        let verbose = matches.try_get_one("verbose").ok().flatten().copied().unwrap_or(false);
        Ok((A::from_arg_matches(&matches)?, verbose))
    });
    let mut error = match parsed {
        Ok((args, verbose)) => return Ok((command, args, verbose)),
        Err(error) => error,
    };
    if error.kind() == ErrorKind::DisplayHelp {
        // Help names those variables, too, that are set to nothing.
        error = command.try_get_matches_from_mut(std::env::args_os()).err().unwrap_or(error);
    }
    // Help that cannot be written has nobody to read it.
    if error.use_stderr() {
        let text = error.render().to_string();
        let _ = write!(std::io::stderr(), "{}: {}", command.get_name(), text.strip_prefix("error: ").unwrap_or(&text));
        return Err(ExitCode::from(Code::Usage as u8));
    }
    let own = !command.get_subcommands().any(|sub| std::env::args_os().skip(1).any(|arg| arg == sub.get_name()));
    let _ = error.print();
    if error.kind() == ErrorKind::DisplayHelp && own && !examples.is_empty() {
        let _ = writeln!(std::io::stdout(), "\n{examples}");
    }
    Err(ExitCode::SUCCESS)
}

/// `main` of every tool: parse, open the pipe, run, close it.
pub fn main<A: Parser>(run: fn(A, &mut Stream<'_>) -> Result<(), Report>) -> ExitCode {
    let (command, args, verbose) = match parse::<A>() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let started = std::time::Instant::now();
    let tool: &'static str = command.get_name().to_string().leak();
    name_bugs(tool);
    let version: &'static str = command.get_version().unwrap_or("0").to_string().leak();
    let stdin = std::io::stdin();
    let input = (!stdin.is_terminal()).then(|| Box::new(stdin.lock()) as Box<dyn std::io::BufRead>);
    let output = Box::new(std::io::stdout().lock());
    let mut stream = Stream::new(tool, version, input, output);
    let result = run(args, &mut stream).and_then(|()| stream.end());
    if verbose {
        let (read, written) = stream.counted();
        let wall_s = started.elapsed().as_secs_f64();
        note(tool, format!("{read} lines read, {written} records made, {wall_s:.3} s"));
    }
    finish(tool, result)
}

/// `main` of a tool that is not a stage of a pipe: no records are read.
pub fn main_plain<A: Parser>(run: fn(A) -> Result<(), Report>) -> ExitCode {
    match parse::<A>() {
        Ok((command, args, _)) => {
            let tool: &'static str = command.get_name().to_string().leak();
            name_bugs(tool);
            finish(tool, run(args))
        }
        Err(code) => code,
    }
}

/// Print a command's answer on stdout: one JSON record, its type first, without the frame of a stream.
///
/// # Errors
/// When stdout is closed.
pub fn print_record<T: serde::Serialize>(kind: &str, value: &T) -> Result<(), Report> {
    let line = serde_json::to_string(value).data("a value has no JSON form")?;
    writeln!(std::io::stdout(), "{}", crate::stream::typed(kind, &line)).map_err(|e| Report::output(&e))
}

/// The digest of a file that a record names, checked against the record where that has one.
///
/// # Errors
/// When the file is absent, or is not the one that the record tells of.
pub fn check_file(path: &std::path::Path, bytes: u64, blake3: Hash) -> Result<(), Report> {
    let found = files::digest(path)?;
    if found != (bytes, blake3) {
        return Err(Report::data(format!("{} is not the file that its record tells of", path.display()))
            .hint("it was changed or cut short since: run the stage that made it again, with --force"));
    }
    Ok(())
}
