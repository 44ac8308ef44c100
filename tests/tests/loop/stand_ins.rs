//! With tools that do as they are told: signals, retries, windows that are given up, the log.

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tests::{program, root, text, until};

/// Every tool: writes its name down, does what a file of its name says, and passes its input on. `bz-window` alone says
/// that it is the window in the file `window`, at the block in the file `block`, if any; ten blocks are a window.
const STUB: &str = r#"#!/usr/bin/env bash
name=${0##*/}
if [ "$name $*" = 'bz-window --follow' ]; then
  echo follow >>"$STUBS/followers"
  [ ! -f "$STUBS/follow" ] || . "$STUBS/follow"
  exec sleep 987
fi
if [ "$name" = bz-window ] && [ $# -eq 0 ]; then
  [ ! -f "$STUBS/away" ] || exit 75
  W=$(cat "$STUBS/window") permit=$(cat "$STUBS/permit")
  block=$(cat "$STUBS/block" 2>/dev/null || echo $((W * 10 + 1)))
  echo '{"type":"window","window":'$W',"block":'$block',"deadline_block":'$((W * 10 + 15))'}'
  [ "$permit" = none ] || echo '{"type":"peer","self":true,"incentive":0.125,"dividends":0.5,"permit":'$permit'}'
  exit 0
fi
echo "$name $*" >>"$STUBS/calls"
if [ "$name $1" = 'bz-window --window' ]; then
  echo '{"type":"window","window":'$2',"deadline_block":'$(($2 * 10 + 15))'}'
fi
[ ! -f "$STUBS/$name" ] || . "$STUBS/$name"
# Who has nobody to write to has done its part, as every tool.
trap '' PIPE
cat 2>/dev/null || exit 0
"#;

const TOOLS: [&str; 10] =
    ["window", "pull", "state", "pages", "train", "delta", "push", "score", "setweights", "chain"];

struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    /// A node in window 7 of a run that began with window 5.
    fn new() -> Self {
        let node = Node { folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "stubs", "home"] {
            std::fs::create_dir(node.path(folder)).unwrap();
        }
        for tool in TOOLS {
            let path = node.path(&format!("bin/bz-{tool}"));
            std::fs::write(&path, STUB).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        node.write("home/hparams.json", r#"{"start_window":5,"clock":{"blocks":10}}"#);
        node.write("env", &format!("BZ_HOME='{}'\n", node.path("home").display()));
        node.write("stubs/window", "7");
        node.write("stubs/permit", "true");
        node
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }
    fn loop_of(&self, role: &str) -> Command {
        let mut command = program(&root().join("pipelines/loop.sh"));
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        command.arg(role).env("PATH", path).env("BZ_ENV", self.path("env")).env("STUBS", self.path("stubs"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
    /// A loop up to window 7, that ends by itself.
    fn until_7(&self, role: &str) -> Output {
        self.loop_of(role).arg("7").output().unwrap()
    }
    /// The processes that this node's settings reached: ids and commands.
    fn processes(&self) -> Vec<(String, String)> {
        let mark = format!("STUBS={}", self.path("stubs").display());
        let of = |path: PathBuf| {
            let environment = std::fs::read(path.join("environ")).ok()?;
            let ours = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            let command = text(&std::fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
            // One that has ended and is not yet waited for has no command.
            (ours && !command.is_empty()).then(|| (path.file_name().unwrap().display().to_string(), command))
        };
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.unwrap().path())).collect()
    }
    /// Those whose command holds these words.
    fn running(&self, words: &str) -> Vec<String> {
        self.processes().into_iter().filter(|(_, command)| command.contains(words)).map(|(id, _)| id).collect()
    }
    /// A loop whose `bz-train` runs, and will for a long time.
    fn training(&self) -> Child {
        self.write("stubs/bz-train", "sleep 988 & wait");
        let child = self.loop_of("miner").spawn().unwrap();
        until("bz-train and the follower run", || {
            !self.running("sleep 988").is_empty() && !self.running("sleep 987").is_empty()
        });
        child
    }
}

fn signal(id: &str, name: &str) {
    assert!(Command::new("kill").args([name, id]).status().unwrap().success());
}

/// Whether who started the tests has them ignore SIGINT, as a shell's background does: then no script of theirs can
/// hear it.
fn deaf_to_int() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn a_loop_that_is_told_to_end_takes_all_along() {
    for (name, code) in [("-TERM", 143), ("-INT", 130)] {
        if name == "-INT" && deaf_to_int() {
            eprintln!("SIGINT is ignored where these tests were started: it is not sent to a loop");
            continue;
        }
        let node = Node::new();
        let mut child = node.training();
        let since = Instant::now();
        signal(&child.id().to_string(), name);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{name}");
        assert!(since.elapsed() < Duration::from_secs(8), "{name}: {:?}", since.elapsed());
        assert_eq!(node.processes(), [], "{name}");
    }
}

#[test]
fn a_killed_loop_leaves_its_stage_and_no_follower_and_the_next_one_goes_on() {
    let node = Node::new();
    let mut child = node.training();
    signal(&child.id().to_string(), "-KILL");
    child.wait().unwrap();
    // Who has no setpriv keeps the follower, which the next one finds at work.
    if Command::new("setpriv").arg("--version").output().is_ok_and(|out| out.status.success()) {
        until("the follower ends", || node.running("sleep 987").is_empty());
    }
    let stage = node.running("sleep 988");
    assert_eq!(stage.len(), 1);
    // The next loop waits for that stage; once it is gone, the window is done.
    node.write("stubs/bz-train", "");
    let next = node.loop_of("miner").arg("7").spawn().unwrap();
    until("it says so", || node.read("home/log").contains("miner.sh: another process is at window 7"));
    signal(&stage[0], "-TERM");
    let out = next.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(node.path("home/windows/7/receipt").exists());
    until("nothing is left", || node.processes().is_empty());
}

#[test]
fn what_was_away_is_tried_again_ever_later_and_said_once() {
    std::thread::scope(|scope| {
        // Ten windows each time: an eighth of one is no time at all, and two seconds are waited.
        scope.spawn(|| {
            let (_, pauses) = three_failures(&Node::new(), 100);
            assert!(pauses.iter().all(|pause| (2000..4000).contains(pause)), "{pauses:?}");
        });
        // Three times no luck. A block each time says nothing of how long blocks take, and is no reason to hurry.
        let node = Node::new();
        let (out, pauses) = three_failures(&node, 1);
        assert!(pauses[0] >= 2000 && pauses[1] >= 4000 && pauses[2] >= 8000 && pauses[2] < 16_000, "{pauses:?}");
        let log = node.read("home/log");
        for words in ["bz-train: no luck", "failed with status 75", "status 75; the same again"] {
            assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
        }
        assert!(log.contains("window 7: 0 kB sent; incentive 0.125"), "{log}");
        assert_eq!(log, text(&out.stderr), "a terminal sees what the log has");
    });
}

/// A miner whose training fails three times, while the chain goes on by so many blocks each time; its pauses, in ms.
fn three_failures(node: &Node, blocks: u32) -> (Output, Vec<i64>) {
    let train = "echo 'bz-train: no luck' >&2; date +%s%3N >>\"$STUBS/at\"; times=$(wc -l <\"$STUBS/at\")\n";
    let chain = format!("echo $((71 + {blocks} * times)) >\"$STUBS/block\"; [ $times -gt 3 ] || exit 75");
    node.write("stubs/bz-train", &format!("{train}{chain}"));
    let out = node.until_7("miner");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let at: Vec<i64> = node.read("stubs/at").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(at.len(), 4);
    (out, at.windows(2).map(|pair| pair[1] - pair[0]).collect())
}

#[test]
fn a_follower_that_is_gone_is_started_again_in_the_next_window() {
    // Windows take long enough for a follower to end in.
    let next = "echo $(($(cat \"$STUBS/window\") + 1)) >\"$STUBS/window\"; sleep 1";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let node = Node::new();
            node.write("stubs/bz-train", next);
            node.write("stubs/follow", "[ $(wc -l <\"$STUBS/followers\") -gt 1 ] || exit 0");
            let out = node.loop_of("miner").arg("10").output().unwrap();
            let log = text(&out.stderr);
            assert!(out.status.success() && log.matches("it is started again").count() == 1, "{log}");
            assert_eq!(node.read("stubs/followers").lines().count(), 2, "{log}");
            assert_eq!(node.processes(), []);
        });
        // One that cannot follow is left alone.
        let node = Node::new();
        node.write("stubs/bz-train", next);
        node.write("stubs/follow", "exit 78");
        let out = node.loop_of("miner").arg("9").output().unwrap();
        let log = text(&out.stderr);
        assert!(out.status.success() && log.contains("the tools ask a node themselves"), "{log}");
        assert!(!log.contains("it is started again"), "{log}");
        assert_eq!(node.read("stubs/followers").lines().count(), 1, "{log}");
    });
}

#[test]
fn both_mirrors_have_one_deadline() {
    let node = Node::new();
    let push = "[ \"$1\" != --mirror ] || { echo \"$3\" >>\"$STUBS/within\"; sleep 2.1; }";
    node.write("stubs/bz-push", push);
    let out = program(&root().join("pipelines/validator.sh"))
        .arg("7")
        .env("PATH", format!("{}:{}", node.path("bin").display(), std::env::var("PATH").unwrap()))
        .env("BZ_ENV", node.path("env"))
        .env("BZ_SPARE_S", "9")
        .env("STUBS", node.path("stubs"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let within: Vec<u64> = node.read("stubs/within").lines().map(|line| line.parse().unwrap()).collect();
    assert!(within.len() == 2 && within[0] >= 8 && (1..=within[0] - 2).contains(&within[1]), "{within:?}");
}

#[test]
fn a_window_that_passes_while_something_is_away_is_named() {
    let node = Node::new();
    node.write(
        "stubs/bz-train",
        "[ -f \"$STUBS/once\" ] || { touch \"$STUBS/once\"; echo 10 >\"$STUBS/window\"; exit 75; }",
    );
    let out = node.loop_of("miner").arg("10").output().unwrap();
    let log = text(&out.stderr);
    assert!(out.status.success() && log.contains("window 7 to 9 was passed over: it is window 10 now"), "{log}");
    assert!(node.path("home/windows/10/receipt").exists());
    // What was committed to in the window before is revealed first, while that still counts.
    let node = Node::new();
    std::fs::create_dir_all(node.path("home/windows/6")).unwrap();
    node.write("home/windows/6/commit", "{\"type\":\"window\",\"window\":6,\"deadline_block\":75}\n");
    assert!(node.until_7("miner").status.success());
    assert!(node.path("home/windows/6/receipt").exists() && node.path("home/windows/7/receipt").exists());
    let node = Node::new();
    std::fs::create_dir_all(node.path("home/windows/6")).unwrap();
    node.write("home/windows/6/commit", "{\"type\":\"window\",\"window\":6,\"deadline_block\":70}\n");
    assert!(node.until_7("miner").status.success());
    assert!(!node.path("home/windows/6/receipt").exists() && node.path("home/windows/7/receipt").exists());
}

#[test]
fn bad_data_is_made_again_once_and_then_left() {
    let node = Node::new();
    let train = "ls -A \"$BZ_HOME/windows/7\" >>\"$STUBS/seen\"; \
                 touch \"$BZ_HOME/windows/7/\"{update-own-3.safetensors,.part-x}; \
                 echo 1 >>\"$STUBS/times\"; exit 65";
    node.write("stubs/bz-train", train);
    let out = node.until_7("miner");
    let log = text(&out.stderr);
    assert!(out.status.success(), "a window that is given up is no reason to end: {log}");
    assert_eq!(node.read("stubs/times").lines().count(), 2, "{log}");
    let seen = node.read("stubs/seen");
    assert!(!seen.contains("update-own-3") && !seen.contains(".part-x"), "the second time begins afresh: {seen}");
    assert!(log.contains("once more, afresh") && log.contains("it is given up"), "{log}");
    // Once is enough where the second time goes well.
    let node = Node::new();
    node.write("stubs/bz-train", "[ -f \"$STUBS/once\" ] || { touch \"$STUBS/once\"; exit 101; }");
    assert!(node.until_7("miner").status.success());
    assert!(node.path("home/windows/7/receipt").exists());
}

#[test]
fn who_can_earn_nothing_is_told_in_each_window_and_then_stopped() {
    let next = "echo $(($(cat \"$STUBS/window\") + 1)) >\"$STUBS/window\"";
    // What changes with an epoch has two of them: of 21 blocks, and ten blocks are a window; three windows at least.
    for (role, permit, stub, script, words, tempo, most) in [
        ("validator", "false", "bz-setweights", next.to_string(), "no validator permit", 21, 5),
        ("validator", "true", "bz-setweights", format!("{next}; exit 1"), "no weights were set", 21, 5),
        ("validator", "false", "bz-setweights", next.to_string(), "no validator permit", 4, 3),
        ("miner", "none", "bz-pages", format!("{next}; exit 78"), "no place in the subnet", 21, 3),
    ] {
        let node = Node::new();
        node.write("stubs/permit", permit);
        node.write("stubs/bz-chain", &format!("echo '{{\"type\":\"hyperparameters\",\"tempo\":{tempo}}}'"));
        node.write(&format!("stubs/{stub}"), &script);
        let out = node.loop_of(role).arg("20").output().unwrap();
        let log = text(&out.stderr);
        assert_eq!(out.status.code(), Some(78), "{log}");
        for count in 1..=most {
            let window = count + 6;
            let said = log.lines().any(|line| {
                line.contains(&format!("window {window} earns nothing"))
                    && line.contains(words)
                    && line.ends_with(&format!("{count} of {most} windows in a row"))
            });
            assert!(said, "{role}, {permit}: {log}");
        }
        assert_eq!(node.processes(), []);
        let asked = node.read("stubs/calls").matches("bz-chain hyperparameters").count();
        assert_eq!(asked, usize::from(role == "validator"));
    }
    // Where the tempo cannot be had, an epoch has 360 blocks.
    let node = Node::new();
    node.write("stubs/permit", "false");
    node.write("stubs/bz-chain", "exit 75");
    let out = node.until_7("validator");
    let log = text(&out.stderr);
    assert!(out.status.success() && log.contains("1 of 72 windows in a row"), "{log}");
    // A setting that is wrong ends it at once.
    let node = Node::new();
    node.write("stubs/bz-pages", "exit 78");
    let out = node.until_7("miner");
    assert_eq!((out.status.code(), node.read("stubs/calls").matches("bz-pages").count()), (Some(78), 1));
}

#[test]
fn the_log_has_times_and_a_bound_and_no_commands_of_a_terminal() {
    let node = Node::new();
    node.write(
        "stubs/bz-train",
        "for i in {1..2000}; do echo \"line $i of many\" >&2; done; printf 'a\\033[31mb\\n' >&2",
    );
    let out = node.loop_of("miner").arg("7").env("BZ_LOG_BYTES", "20000").output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let (new, old) = (node.read("home/log"), node.read("home/log.1"));
    assert!(new.len() <= 20_000 && (10_000..=20_000).contains(&old.len()), "{} {}", new.len(), old.len());
    assert!(new.contains("line 2000 of many") && new.contains("a [31mb"), "{new}");
    for line in new.lines().chain(old.lines()) {
        let bytes = line.as_bytes();
        let stamped =
            bytes.len() > 21 && bytes[10] == b'T' && bytes[19] == b'Z' && bytes[..4].iter().all(u8::is_ascii_digit);
        assert!(stamped && !line.contains('\u{1b}'), "{line}");
    }
}

#[test]
fn settings_are_what_the_shell_reads_and_the_file_wins() {
    let node = Node::new();
    let home = node.path("home").display().to_string();
    let env = format!("BZ_HOME='{home}'\nBZ_ONE=file\nBZ_TWO=\"two words\" # and why\nBZ_THREE=${{BZ_ONE}}-three\n");
    node.write("env", &env);
    node.write("stubs/bz-train", "echo \"$BZ_ONE|$BZ_TWO|$BZ_THREE\" >\"$STUBS/settings\"");
    let out = node.loop_of("miner").arg("7").env("BZ_ONE", "environment").output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let by_hand = program(&PathBuf::from("/bin/bash"))
        .args(["-c", "set -a; . \"$1\"; set +a; echo \"$BZ_ONE|$BZ_TWO|$BZ_THREE\"", "bash"])
        .arg(node.path("env"))
        .env("BZ_ONE", "environment")
        .output()
        .unwrap();
    assert_eq!(node.read("stubs/settings"), text(&by_hand.stdout));
    assert_eq!(node.read("stubs/settings"), "file|two words|file-three\n");
    // What is no setting is named, with its line.
    for (line, words) in [("BZ_TWO=two words\n", "line 2"), ("BZ_TWO=x\r\n", "line ends of Windows")] {
        node.write("env", &format!("BZ_HOME='{home}'\n{line}"));
        let out = node.until_7("miner");
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(78) && said.contains(words), "{line}: {said}");
    }
}
