//! The contract (DESIGN 3) of every command of every tool, in one table: what is offered works, `--dry-run` writes nothing, a
//! finished stage that is run again does nothing, half a stream is refused, every line is a record, every error names its tool.
//! [`alone`] has the commands that need no chain, [`chain`] the others, on a chain and a store of this machine.
#![allow(clippy::unwrap_used, clippy::panic)]

mod alone;
mod chain;

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
    time::SystemTime,
};
use tests::{bins, program, text, tool};

const TOOLS: [&str; 12] =
    ["chain", "delta", "eval", "localnet", "pages", "pull", "push", "score", "setweights", "state", "train", "window"];

/// What a command offers, by its help.
#[derive(Debug)]
struct Offer {
    tool: String,
    /// The command after the tool's name, or nothing.
    command: Option<String>,
    help: String,
}

impl Offer {
    fn name(&self) -> String {
        self.command.iter().fold(self.tool.clone(), |name, command| format!("{name} {command}"))
    }
    fn has(&self, flag: &str) -> bool {
        self.help.lines().any(|line| line.trim_start().starts_with('-') && words(line).any(|word| word == flag))
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || c == ',' || c == '=' || c == '[').filter(|word| !word.is_empty())
}

fn help(tool: &str, command: Option<&str>) -> String {
    let out = program(&bins().join(tool)).args(command).arg("--help").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{tool} {command:?} --help");
    text(&out.stdout)
}

/// Every command of every tool, found in the help texts, once.
fn offers() -> &'static [Offer] {
    static ALL: LazyLock<Vec<Offer>> = LazyLock::new(find_offers);
    &ALL
}

fn find_offers() -> Vec<Offer> {
    let mut all = Vec::new();
    for tool in TOOLS.map(|tool| format!("bz-{tool}")) {
        let top = help(&tool, None);
        let commands = top.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names =
            commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
        for name in names.filter(|name| *name != "help") {
            let help = help(&tool, Some(name));
            all.push(Offer { tool: tool.clone(), command: Some(name.into()), help });
        }
        // Where a command has to be named the tool alone does nothing.
        if !top.contains(&format!("Usage: {tool} [OPTIONS] <COMMAND>")) && !top.contains("> <COMMAND>\n") {
            all.push(Offer { tool, command: None, help: top });
        }
    }
    assert!(all.len() > 25, "{all:?}");
    all
}

/// A node's tools: where they are run, with which settings.
struct Node {
    /// All that they may touch lies in it.
    folder: PathBuf,
    home: PathBuf,
    settings: Vec<(String, String)>,
}

/// One file: its content, and when and as what it was written.
type Snapshot = BTreeMap<PathBuf, (Vec<u8>, SystemTime)>;

impl Node {
    fn set(&self, command: &mut Command) {
        command.envs(self.settings.iter().map(|(name, value)| (name, value))).env("BZ_HOME", &self.home);
        command.current_dir(&self.folder);
    }

    fn command(&self, line: &str) -> Command {
        let mut words = line.split(' ');
        let mut command = tool(words.next().unwrap(), &self.home);
        command.args(words);
        self.set(&mut command);
        command
    }

    fn run(&self, line: &str, input: &str) -> Output {
        give(&mut self.command(line), input)
    }

    /// A stage that is done, and what it said.
    fn stage(&self, line: &str, input: &str) -> String {
        let out = self.run(line, input);
        assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr));
        framed(line, &text(&out.stdout));
        text(&out.stdout)
    }

    fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        walk(&self.folder, &mut all);
        all
    }

    /// A stage whose reader is gone before it says anything.
    fn unheard(&self, line: &str, input: &str) -> Output {
        let mut child = self.command(line);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// A stage whose home is a file system made by `mount`, in a mount namespace of its own; `None` where this machine lets
    /// nobody.
    fn mounted(&self, mount: &str, line: &str, input: &str) -> Option<Output> {
        let root = Command::new("id").arg("-u").output().is_ok_and(|out| text(&out.stdout).trim() == "0");
        let flags = if root { "-m" } else { "-rm" };
        let possible = Command::new("unshare").args([flags, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]).output();
        if !possible.is_ok_and(|out| out.status.success()) {
            return None;
        }
        let script = format!("{{ {mount}; }} || exit 99; exec \"$@\"");
        let mut command = program(Path::new("unshare"));
        let (name, args) = line.split_once(' ').unwrap_or((line, ""));
        command.args([flags, "sh", "-c", &script, "sh"]).arg(bins().join(name)).args(args.split_whitespace());
        self.set(&mut command);
        let spare = tempfile::tempdir().unwrap();
        let out = give(command.env("TMPDIR", spare.path()), input);
        assert_ne!(out.status.code(), Some(99), "{line}: {}", text(&out.stderr));
        Some(out)
    }

    /// What writes: a full disk may be free again, a read-only one has to be changed by a person. `false` where neither can
    /// be had.
    fn meets_bad_disks(&self, line: &str, input: &str) -> bool {
        let home = self.home.display();
        let full = format!(
            "cp -a {home}/. \"$TMPDIR\" && mount -t tmpfs -o size=64m tmpfs {home} && cp -a \"$TMPDIR\"/. {home}/ && \
             {{ dd if=/dev/zero of={home}/fill bs=4k 2>/dev/null; true; }}"
        );
        let Some(out) = self.mounted(&full, line, input) else {
            // Past the capture of the test harness, which shows what fails alone.
            let words = "skipped: this machine allows no mount namespace (unshare -m): no full disk";
            writeln!(&mut std::io::stderr(), "{words}").unwrap();
            return false;
        };
        refused(line, &out, 75, "No space left");
        refused(line, &self.read_only(line, input).unwrap(), 78, "Read-only");
        true
    }

    fn read_only(&self, line: &str, input: &str) -> Option<Output> {
        let home = self.home.display();
        self.mounted(&format!("mount --bind {home} {home}; mount -o remount,ro,bind {home}"), line, input)
    }
}

fn walk(folder: &Path, all: &mut Snapshot) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        let content = if meta.is_dir() { Vec::new() } else { std::fs::read(entry.path()).unwrap() };
        if meta.is_dir() {
            walk(&entry.path(), all);
        }
        all.insert(entry.path(), (content, meta.modified().unwrap()));
    }
}

fn changed(before: &Snapshot, after: &Snapshot) -> Vec<PathBuf> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    paths.into_iter().filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

fn give(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_string();
    // It may say more than a pipe holds before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out
}

/// A whole stream: every line a record with its type first, a `begin` before, an `end` last.
fn framed(what: &str, stdout: &str) {
    let lines: Vec<&str> = stdout.lines().collect();
    typed(what, stdout);
    assert!(lines.first().is_some_and(|line| line.starts_with("{\"type\":\"begin\"")), "{what}: {stdout}");
    assert!(lines.last().is_some_and(|line| line.starts_with("{\"type\":\"end\"")), "{what}: {stdout}");
}

fn typed(what: &str, stdout: &str) {
    for line in stdout.lines() {
        assert!(line.starts_with("{\"type\":\""), "{what}: {line}");
        serde_json::from_str::<Value>(line).unwrap();
    }
}

/// An error names its tool, and no stream that failed looks whole.
fn refused(what: &str, out: &Output, code: i32, word: &str) {
    let (said, stdout) = (text(&out.stderr), text(&out.stdout));
    let tool = what.split(' ').next().unwrap();
    assert_eq!(out.status.code(), Some(code), "{what}: {said}");
    assert!(said.lines().any(|line| line.starts_with(&format!("{tool}: "))), "{what} names itself: {said}");
    assert!(said.contains(word), "{what} says {word}: {said}");
    assert!(code == 2 || said.contains("hint: "), "{what} says what to do: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    typed(what, &stdout);
    let bounds = |kind: &str| stdout.lines().filter(|line| line.starts_with(&format!("{{\"type\":\"{kind}\""))).count();
    assert_eq!(bounds("end"), 0, "{what}: {stdout}");
}

#[test]
fn help_names_every_command_and_its_examples_are_true() {
    let offers = offers();
    for offer in offers {
        let what = offer.name();
        assert!(offer.help.contains("Usage: "), "{what}");
        for flag in ["-q", "-v", "--home", "-h"] {
            let plain = offer.tool == "bz-localnet";
            assert!(offer.has(flag) || plain, "{what} offers {flag}");
        }
        let args: Vec<&str> = offer.command.as_deref().into_iter().chain(["--no-such-flag"]).collect();
        let out = program(&bins().join(&offer.tool)).args(args).output().unwrap();
        refused(&what, &out, 2, "--no-such-flag");
    }
    for tool in TOOLS.map(|tool| format!("bz-{tool}")) {
        let version = program(&bins().join(&tool)).arg("--version").output().unwrap();
        assert_eq!((version.status.code(), text(&version.stdout).starts_with(&tool)), (Some(0), true), "{tool}");
        let top = help(&tool, None);
        let (_, examples) = top.split_once("Examples:\n").unwrap_or_else(|| panic!("{tool} shows no example"));
        let examples = examples.lines().take_while(|line| line.starts_with("  "));
        // A flag in an example is one that its tool has: every `bz-…` with what follows it up to the next pipe or comment.
        for example in examples {
            for part in
                example.split(['|', ';', '&', '>', '(', ')', '$']).map(str::trim).filter(|p| p.starts_with("bz-"))
            {
                let mut words = part.split_whitespace();
                let named = words.next().unwrap();
                let of: Vec<&Offer> = offers.iter().filter(|offer| offer.tool == named).collect();
                assert!(!of.is_empty(), "{tool}'s help: {part}: there is no {named}");
                for flag in words.filter(|word| word.starts_with("--")) {
                    let flag = flag.split('=').next().unwrap();
                    assert!(of.iter().any(|offer| offer.has(flag)), "{tool}'s help: {named} has no {flag}: {example}");
                }
            }
        }
    }
}
