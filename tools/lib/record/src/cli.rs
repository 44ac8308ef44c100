//! What all tools share on the command line: the flags, `main`, and how it ends.

use crate::{Code, Context, Hash, Home, Hparams, Report, Stream, files, records::Run, stream::Inputs};
use clap::{Args, Parser};
use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

/// The flags that every tool has.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Folder of this node: windows/, states/, hparams.json
    #[arg(long, env = "BZ_HOME", value_name = "DIR", global = true)]
    home: Option<PathBuf>,
    /// What the run agrees on [default: hparams.json in the node's folder]
    #[arg(long, env = "BZ_HPARAMS", value_name = "FILE", global = true)]
    hparams: Option<PathBuf>,
    /// Do everything but the effect, and say what it would be
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// No progress; errors are still said
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Write here instead of into the window's folder
    #[arg(short, long, value_name = "PATH", global = true)]
    pub output: Option<PathBuf>,
    /// Do it again though the result is there
    #[arg(long, global = true)]
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

    /// What the run agrees on.
    ///
    /// # Errors
    /// Exit code 78 when the file is absent or wrong.
    pub fn hparams(&self) -> Result<Hparams, Report> {
        Hparams::load(&self.hparams_path())
    }

    /// The hparams, checked against the stream's `run` record where there is one; with the run's hash.
    ///
    /// # Errors
    /// Exit code 78 when they disagree: the file was changed, or belongs to another network.
    pub fn run(&self, inputs: &Inputs) -> Result<(Hparams, Hash), Report> {
        let hparams = self.hparams()?;
        let run: Run = inputs.need("bz-window --window W")?;
        let own = hparams.run(run.genesis, run.netuid);
        if own != run.run {
            return Err(Report::config(format!(
                "{} gives run {own}, the stream is of run {}",
                self.hparams_path().display(),
                run.run
            ))
            .hint("every node of a run has the same hparams.json: fetch the run's own, or name it with --hparams"));
        }
        Ok((hparams, own))
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

/// Say something on stderr.
pub fn note(tool: &str, text: impl std::fmt::Display) {
    // There is nowhere left to say that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{tool}: {text}");
}

fn finish(tool: &str, result: Result<(), Report>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) if report.closed_pipe => ExitCode::SUCCESS,
        Err(report) => {
            note(tool, &report);
            ExitCode::from(report.code as u8)
        }
    }
}

/// The command line of a tool. Its help names the variables and never shows what they hold: some are secrets.
fn command<A: Parser>() -> clap::Command {
    let hide = |command: clap::Command| command.mut_args(|arg| arg.hide_env_values(true));
    hide(A::command()).mut_subcommands(hide)
}

/// `main` of every tool: parse, open the pipe, run, close it.
pub fn main<A: Parser>(run: fn(A, &mut Stream<'_>) -> Result<(), Report>) -> ExitCode {
    let command = command::<A>();
    let tool: &'static str = command.get_name().to_string().leak();
    let version: &'static str = command.get_version().unwrap_or("0").to_string().leak();
    let parsed = command.try_get_matches().and_then(|matches| A::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { Code::Usage as u8 } else { 0 };
            // Help that cannot be written has nobody to read it.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let stdin = std::io::stdin();
    let input = (!stdin.is_terminal()).then(|| Box::new(stdin.lock()) as Box<dyn std::io::BufRead>);
    let output = Box::new(std::io::stdout().lock());
    let mut stream = Stream::new(tool, version, input, output);
    finish(tool, run(args, &mut stream).and_then(|()| stream.end()))
}

/// `main` of a tool that is not a stage of a pipe: no records are read.
pub fn main_plain<A: Parser>(run: fn(A) -> Result<(), Report>) -> ExitCode {
    let command = command::<A>();
    let tool = command.get_name().to_string();
    match command.try_get_matches().and_then(|matches| A::from_arg_matches(&matches)) {
        Ok(args) => finish(&tool, run(args)),
        Err(error) => {
            let code = if error.use_stderr() { Code::Usage as u8 } else { 0 };
            let _ = error.print();
            ExitCode::from(code)
        }
    }
}

/// Print one JSON value a line on stdout.
///
/// # Errors
/// When stdout is closed.
pub fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Report> {
    let line = serde_json::to_string(value).data("a value has no JSON form")?;
    writeln!(std::io::stdout(), "{line}").map_err(|e| Report::output(&e))
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
