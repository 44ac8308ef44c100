//! With the real tools, a chain and a store: each stage of both loops meets something that is away, and the end of its loop;
//! then the same window is finished, and nothing of it is lost.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command},
};
use tests::{BLOCKS, Gate, Network, Pass, signal, text, unfinished};

/// A node whose ways to the chain and to its own bucket can be closed.
struct Node<'a> {
    network: &'a Network,
    name: &'static str,
    role: &'static str,
    window: u64,
    chain: Gate,
    store: Gate,
    running: Option<Child>,
}

impl<'a> Node<'a> {
    fn new(network: &'a Network, name: &'static str, role: &'static str) -> Self {
        let status = network.status();
        let address = |name: &str| status[name].as_str().unwrap().to_string();
        let (chain, store) = (Gate::to(&address("chain")), Gate::to(&address("store")));
        let path = network.home(name).join("env");
        let mut settings = std::fs::read_to_string(&path).unwrap();
        for (gate, address) in [(&chain, address("chain")), (&store, address("store"))] {
            assert!(settings.contains(&address), "{settings}");
            settings = settings.replace(&address, &gate.instead(&address));
        }
        // A follower's facts are good for 15 s without a node: here a tool is to notice at once that none answers.
        std::fs::write(&path, settings + "BZ_FOLLOW=no\n").unwrap();
        Node { network, name, role, window: network.start_window(), chain, store, running: None }
    }

    /// Its loop, up to the one window.
    fn start(&mut self) {
        self.running = Some(self.network.loops(self.name, self.role, self.window));
    }

    fn receipt(&self, stage: &str) -> PathBuf {
        self.network.receipt(self.name, self.window, stage)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.network.home(self.name).join("log")).unwrap()
    }

    /// Wait until a command that begins so runs.
    fn runs(&self, words: &str) {
        self.network.wait(&format!("{}: {words} does not run", self.name), || {
            self.network.processes(self.name).iter().any(|(_, command)| command.starts_with(words))
        });
    }

    fn finishes(&self, stage: &str) {
        self.network.wait_for(&self.receipt(stage));
    }

    /// Wait until a command of this stage has ended with 75.
    fn tries_again(&self, stage: &str, command: &str) {
        let begin = format!("{}.sh: {}/{stage}: command ", self.role, self.window);
        self.network.wait(&format!("{}: {command} of {stage} does not end with 75", self.name), || {
            self.log().lines().any(|line| {
                line.split_once(&begin).is_some_and(|(_, rest)| {
                    rest.contains(&format!(", {command}")) && rest.ends_with("failed with status 75")
                })
            })
        });
        assert!(!self.receipt(stage).exists(), "{stage} is not done");
    }

    /// Once a command of a stage runs, the loop is told to end, and takes all along.
    fn is_ended(&mut self, stage: &str, command: &str) {
        self.runs(command);
        let mut running = self.running.take().unwrap();
        signal(&running.id().to_string(), "-TERM");
        assert_eq!(running.wait().unwrap().code(), Some(143), "{} in {stage}: {}", self.name, self.log());
        assert_eq!(self.network.processes(self.name), [], "{} in {stage}", self.name);
        assert!(!self.receipt(stage).exists(), "{} ended in {stage}, and not after it", self.name);
    }

    /// The loop ends by itself, with its last window.
    fn is_done(&mut self) {
        assert_eq!(self.running.take().unwrap().wait().unwrap().code(), Some(0), "{}: {}", self.name, self.log());
        assert_eq!(unfinished(&self.network.home(self.name)), Vec::<PathBuf>::new(), "{}", self.name);
        let log = self.log();
        for lost in ["passed over", "given up", "once more, afresh", "the answer was no", "earns nothing"] {
            assert!(!log.contains(lost), "{}: {log}", self.name);
        }
        assert!(log.lines().any(|line| line.contains(&format!(" window {}: ", self.window))), "{}: {log}", self.name);
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            signal(&running.id().to_string(), "-TERM");
            let _ = running.wait();
        }
    }
}

/// Says that a test runs where it may mount.
const INSIDE: &str = "TEST_MAY_MOUNT";

/// Whether a test was run again, in a mount namespace of its own; no where this machine lets nobody.
fn was_run_where_it_may_mount(test: &str) -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| text(&out.stdout).trim() == "0");
    let flags = if root { "-m" } else { "-rm" };
    let possible = Command::new("unshare").args([flags, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]).output();
    if !possible.is_ok_and(|out| out.status.success()) {
        // Past the capture of the test harness, which shows what fails alone.
        writeln!(&mut std::io::stderr(), "skipped: this machine allows no mount namespace (unshare -m): no full disk")
            .unwrap();
        return false;
    }
    let own = std::env::current_exe().unwrap();
    let out = Command::new("unshare").arg(flags).arg(own).args(["--exact", test]).env(INSIDE, "yes").output().unwrap();
    assert!(
        out.status.success() && text(&out.stdout).contains("1 passed"),
        "{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    true
}

/// A small disk of its own for a folder.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// None where nothing can be mounted.
    fn of(folder: &'a Path) -> Option<Self> {
        std::env::var_os(INSIDE)?;
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        assert!(mount.args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(folder).status().unwrap().success());
        Some(Disk(folder))
    }

    /// Until what is returned is removed.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("fill");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn each_stage_meets_what_is_away_and_the_end_of_its_loop() {
    let test = "real::each_stage_meets_what_is_away_and_the_end_of_its_loop";
    if std::env::var_os(INSIDE).is_none() && was_run_where_it_may_mount(test) {
        return;
    }
    let network = Network::up(&["validator", "miner"]);
    // Plain weights go by no clock; and blocks come when they are made here, so that a stage waits for as long as it takes to
    // look at it.
    network.localnet("set commit_reveal_weights_enabled false");
    network.localnet("fault stall 3600");
    let windows = network.home("validator").join("windows");
    let disk = Disk::of(&windows);
    let mut validator = Node::new(&network, "validator", "validator");
    let mut miner = Node::new(&network, "miner", "miner");
    let start = network.start_window() * BLOCKS;

    // The first stages wait for the window's start.
    for node in [&mut validator, &mut miner] {
        node.start();
    }
    for (node, stage) in [(&mut validator, "base"), (&mut miner, "commit")] {
        node.is_ended(stage, "bz-window --window");
        node.start();
        node.runs("bz-window --window");
        node.chain.set(Pass::NoMore);
    }
    network.reach(start + 1);
    validator.tries_again("base", "bz-");
    miner.tries_again("commit", "bz-");
    miner.store.set(Pass::NoMore);
    for node in [&validator, &miner] {
        node.chain.set(Pass::All);
    }
    validator.finishes("base");
    miner.tries_again("commit", "bz-push");
    miner.store.set(Pass::All);
    miner.finishes("commit");

    // Commitments are fetched late in the window.
    validator.is_ended("commits", "bz-pull --commits");
    validator.start();
    validator.runs("bz-pull --commits");
    validator.chain.set(Pass::NoMore);
    network.reach(start + 20);
    validator.tries_again("commits", "bz-");
    validator.chain.set(Pass::All);
    validator.finishes("commits");

    // The window ends; then there is time for what is revealed.
    miner.is_ended("receipt", "bz-window --window");
    miner.store.set(Pass::NoMore);
    miner.start();
    miner.runs("bz-window --window");
    validator.is_ended("pulled", "bz-pull --deltas");
    validator.start();
    validator.runs("bz-pull --deltas");
    network.reach(start + BLOCKS);
    miner.tries_again("receipt", "bz-push");
    miner.store.set(Pass::All);
    miner.finishes("receipt");
    miner.is_done();
    validator.chain.set(Pass::NoMore);
    network.reach(start + BLOCKS + 5);
    validator.tries_again("pulled", "bz-");
    validator.chain.set(Pass::All);
    validator.store.set(Pass::Held);

    // What needs no network meets a full disk.
    validator.is_ended("scores", "bz-train");
    let fill = disk.as_ref().map(Disk::fill);
    validator.start();
    if let Some(fill) = fill {
        validator.tries_again("scores", "bz-");
        std::fs::remove_file(fill).unwrap();
    }
    validator.finishes("scores");

    validator.is_ended("state", "bz-push");
    validator.store.set(Pass::NoMore);
    validator.start();
    validator.tries_again("state", "bz-push");
    network.localnet("fault refuse 1");
    validator.store.set(Pass::All);
    validator.finishes("state");

    // Refused once, then sent; and the loop ends before there is a block with it.
    validator.tries_again("weights", "bz-setweights");
    network.wait("no weights are sent", || network.status()["waiting"] == 1);
    validator.is_ended("weights", "bz-setweights");
    validator.start();
    validator.runs("bz-setweights");
    let weights = validator.receipt("weights");
    network.wait("the weights are not set", || {
        if network.status()["waiting"] != 0 {
            network.localnet("new-block 1");
        }
        weights.exists()
    });
    validator.is_done();

    // Nothing was lost, and nothing done twice.
    let window = network.start_window();
    let scores = network.records("validator", window, "scores", "score");
    let good = scores.iter().rfind(|score| score["hotkey"] == network.hotkey("miner")).unwrap();
    assert!(good["score"].as_f64().unwrap() > 0.99, "{good}");
    let state = network.records("validator", window, "state", "state").pop().unwrap();
    assert_eq!(state["accepted"].as_array().unwrap().len(), 1, "{state}");
    let (out, error, _) = network.shell("validator", "bz-chain doctor | jq -c 'select(.type==\"doctor\")'");
    let doctor: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(doctor["weights"], serde_json::json!([[good["uid"], 65535]]), "{doctor} {error}");
    let line = format!("bz-window --window {} | bz-pull --state | bz-state apply", window + 1);
    let (_, error, code) = network.shell("miner", &line);
    assert_eq!(code, 0, "{error}");
    assert_eq!(network.root_of("miner", window + 1), network.root_of("validator", window + 1));
}
