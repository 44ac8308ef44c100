//! A real network, end to end: chain, store, two miners, a validator, the very pipelines, and kills at random. Then:
//! every stage of a finished window again, and peers that are hostile.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use record::{
    Hash, Window,
    records::{Accepted, State},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use tests::{bins, everything, shows_no_key, until};

fn root() -> PathBuf {
    std::fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

/// A network in a folder of its own; it is stopped with the value.
struct Network {
    folder: tempfile::TempDir,
}

const WAIT: Duration = Duration::from_secs(240);

/// Blocks of the demo's windows, and after their end the time for what is revealed.
const BLOCKS: u64 = 24;
const REVEAL: u64 = 5;

/// Rolls that a seed gives again: SplitMix64 (Steele, Lea and Flood, 2014).
struct Dice(u64);

impl Dice {
    /// A number less than this.
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

impl Network {
    fn up(nodes: &[&str]) -> Self {
        let network = Network { folder: tempfile::tempdir().unwrap() };
        let text = network.path("text");
        std::fs::create_dir(&text).unwrap();
        // Real text: this repository's own sources.
        let files = Command::new("git").args(["ls-files", "*.rs", "*.md"]).current_dir(root()).output().unwrap();
        let mut all = String::new();
        for name in String::from_utf8(files.stdout).unwrap().lines() {
            all.push_str(&std::fs::read_to_string(root().join(name)).unwrap_or_default());
        }
        assert!(all.len() > 100_000, "the repository's text is here");
        while all.len() < 600_000 {
            all = format!("{all}{all}");
        }
        std::fs::write(text.join("all.txt"), all).unwrap();
        let manifest = network.tool("bz-pages index --name test --data", &[text.to_str().unwrap()]);
        let manifest: Value = manifest
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .find(|v: &Value| v["type"] == "manifest")
            .unwrap();
        let out = network
            .command(&root().join("pipelines/localnet.sh"))
            .arg(network.folder.path())
            .args(nodes)
            .env("BZ_INTERVAL", "0.4")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let block = network.status()["block"].as_u64().unwrap();
        let demo = root().join("pipelines/hparams/demo.json");
        let mut hparams: Value = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
        hparams["start_window"] = (block / BLOCKS + 1).into();
        hparams["data"]["manifest"] = manifest["manifest"].clone();
        hparams["data"]["rows_per_page"] = 1.into();
        hparams["data"]["pages_per_window"] = 1.into();
        hparams["data"]["max_uids"] = 32.into();
        hparams["inner"]["steps"] = 2.into();
        hparams["inner"]["batch"] = 4.into();
        hparams["model"]["hidden_size"] = 64.into();
        hparams["model"]["intermediate_size"] = 96.into();
        for node in nodes {
            std::fs::write(network.home(node).join("hparams.json"), hparams.to_string()).unwrap();
        }
        network
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn home(&self, node: &str) -> PathBuf {
        self.path("nodes").join(node)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = tests::program(program);
        let path = format!("{}:{}", bins().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("BZ_DATA", self.path("text")).env("BZ_THREADS", "1").env("OMP_NUM_THREADS", "1");
        // Every window's state is looked at in the end.
        command.env("BZ_KEEP_STATES", "100");
        command
    }

    fn node(&self, node: &str, program: &Path) -> Command {
        let mut command = self.command(program);
        command.env("BZ_ENV", self.home(node).join("env")).env("BZ_HOME", self.home(node));
        command
    }

    /// A tool with the settings of no node.
    fn tool(&self, line: &str, more: &[&str]) -> String {
        let mut words = line.split(' ');
        let out = self.command(&bins().join(words.next().unwrap())).args(words).args(more).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// A shell line as a node; its output, and its status.
    fn shell(&self, node: &str, line: &str) -> (String, String, i32) {
        let script = format!("set -o pipefail; set -a; . \"$BZ_ENV\"; set +a; {line}");
        let out = self.node(node, Path::new("/bin/bash")).args(["-c", &script]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&out.stdout), text(&out.stderr), out.status.code().unwrap_or(-1))
    }

    fn status(&self) -> Value {
        let out = self.tool("bz-localnet status --dir", &[self.folder.path().to_str().unwrap()]);
        serde_json::from_str(&out).unwrap()
    }

    fn kill_chain(&self) {
        let server = self.status()["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args(["-9", &server.to_string()]).status().unwrap().success());
    }

    fn start_chain(&self) {
        self.tool("bz-localnet up --interval 0.4 --dir", &[self.folder.path().to_str().unwrap()]);
    }

    fn hotkey(&self, node: &str) -> String {
        let public = read(&self.path(&format!("wallets/{node}/hotkeys/defaultpub.txt")));
        public["ss58Address"].as_str().unwrap().to_string()
    }

    fn start_window(&self) -> u64 {
        read(&self.home("validator").join("hparams.json"))["start_window"].as_u64().unwrap()
    }

    fn loops(&self, node: &str, role: &str, last: u64) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home(node).join("log")).unwrap();
        self.node(node, &root().join("pipelines/loop.sh"))
            .args([role, &last.to_string()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn receipt(&self, node: &str, window: u64, name: &str) -> PathBuf {
        self.home(node).join("windows").join(window.to_string()).join(name)
    }

    fn records(&self, node: &str, window: u64, name: &str, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.receipt(node, window, name)).unwrap();
        let all = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        all.filter(|v| v["type"] == kind).collect()
    }

    fn wait_for(&self, path: &Path) {
        let since = Instant::now();
        while !path.exists() {
            if since.elapsed() > WAIT {
                let mut logs = String::new();
                for entry in std::fs::read_dir(self.path("nodes")).unwrap() {
                    let path = entry.unwrap().path().join("log");
                    let log = std::fs::read_to_string(&path).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(12).collect();
                    logs +=
                        &format!("{}:\n{}\n", path.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                }
                panic!("{} did not come\n{logs}", path.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn block(&self) -> u64 {
        self.status()["block"].as_u64().unwrap()
    }

    /// Wait for a block, without making it.
    fn come_to(&self, block: u64) {
        let since = Instant::now();
        while self.block() < block {
            assert!(since.elapsed() < WAIT, "block {block} does not come");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The processes that a node's settings reached: ids and commands.
    fn processes(&self, node: &str) -> Vec<(String, String)> {
        let mark = format!("BZ_ENV={}", self.home(node).join("env").display());
        let of = |path: PathBuf| {
            let environment = std::fs::read(path.join("environ")).ok()?;
            let ours = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            let line = std::fs::read(path.join("cmdline")).ok()?;
            let command = Path::new(std::str::from_utf8(line.split(|byte| *byte == 0).next()?).ok()?).file_name()?;
            // One that has ended and is not yet waited for has no command.
            ours.then(|| (path.file_name().unwrap().display().to_string(), command.display().to_string()))
        };
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.unwrap().path())).collect()
    }

    /// Stop a node's loop and all that it runs, as a power cut would.
    fn power_cut(&self, node: &str, child: &mut Child) {
        let _ = child.kill();
        until("nothing of it runs", || {
            let left = self.processes(node);
            left.iter().for_each(|(id, _)| signal(id, "-KILL"));
            left.is_empty()
        });
        let _ = child.wait();
    }

    /// Kill one of a node's tools, if any runs, and its loop goes on; or the loop itself, which is then started again
    /// up to window `last`. What was done, in words.
    fn kill(&self, node: &str, child: &mut Child, last: u64, dice: &mut Dice) -> String {
        let what = match dice.roll(5) {
            0 => {
                self.power_cut(node, child);
                "all of it"
            }
            1 => {
                child.kill().unwrap();
                child.wait().unwrap();
                "the loop alone"
            }
            2 => {
                signal(&child.id().to_string(), "-TERM");
                let status = child.wait().unwrap();
                // One that has just begun does not listen yet.
                assert!(status.code() == Some(143) || status.signal() == Some(15), "{node}: {status:?}");
                until("the loop takes along what it ran", || self.processes(node).is_empty());
                "the loop by TERM"
            }
            how => {
                let mut tools = self.processes(node);
                tools.retain(|(_, command)| command.starts_with("bz-"));
                if tools.is_empty() {
                    return format!("{node}: no tool runs");
                }
                let (id, command) = &tools[dice.roll(tools.len() as u64) as usize];
                let name = if how == 3 { "-KILL" } else { "-TERM" };
                signal(id, name);
                return format!("{node}: {command} by {name}");
            }
        };
        *child = self.loops(node, "miner", last);
        format!("{node}: {what}")
    }

    /// Kill miners from now until a window is over, each twice a window, and say when and how. Which windows each may
    /// have lost by it: of which less than a quarter was ahead when it was there again. Else none may be lost.
    fn kill_at_random(
        &self,
        miners: &mut BTreeMap<&'static str, Child>,
        over: u64,
        last: u64,
        dice: &mut Dice,
    ) -> BTreeSet<(&'static str, u64)> {
        let names: Vec<&'static str> = miners.keys().copied().collect();
        let mut plan = Vec::new();
        for window in self.block() / BLOCKS..=over {
            for name in names.iter().chain(&names) {
                plan.push((window * BLOCKS + dice.roll(BLOCKS), *name));
            }
        }
        plan.sort_unstable();
        let now = self.block();
        plan.retain(|(at, _)| *at > now);
        let mut may_lose = BTreeSet::new();
        for (at, name) in plan {
            self.come_to(at);
            let begun = self.block();
            let windows = begun / BLOCKS - 1..=begun / BLOCKS + 1;
            let has = |window, receipt: &str| self.receipt(name, window, receipt).exists();
            let was: Vec<_> = windows.map(|window| (window, has(window, "commit"), has(window, "receipt"))).collect();
            let what = self.kill(name, miners.get_mut(name).unwrap(), last, dice);
            let there = self.block();
            eprintln!("block {begun}, {} of window {}: {what}; there again at {there}", begun % BLOCKS, begun / BLOCKS);
            for (window, committed, revealed) in was {
                let end = (window + 1) * BLOCKS;
                let late = match (committed, revealed) {
                    (_, true) => false,
                    (true, false) => there >= end && begun <= end + REVEAL,
                    (false, false) => begun < end && there + BLOCKS / 4 > end,
                };
                if late {
                    may_lose.insert((name, window));
                }
            }
        }
        may_lose
    }

    fn root_of(&self, node: &str, window: u64) -> Option<String> {
        let path = self.home(node).join("states").join(window.to_string()).join("state.json");
        path.exists().then(|| read(&path)["root"].as_str().unwrap().to_string())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let dir = self.folder.path().to_str().unwrap();
        let _ = self.command(&bins().join("bz-localnet")).args(["down", "--dir", dir]).status();
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Send a signal to a process that may have ended by itself.
fn signal(id: &str, name: &str) {
    let _ = Command::new("kill").args([name, id]).stderr(Stdio::null()).status();
}

/// What lies in a folder and was never finished.
fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.file_name().unwrap().as_encoded_bytes().starts_with(b".part-") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(unfinished(&path));
        }
    }
    found
}

#[test]
fn a_network_trains_survives_kills_and_every_stage_can_be_run_again() {
    let nanos = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into();
    let seed: u64 = std::env::var("TEST_SEED").map_or_else(|_| nanos(), |seed| seed.parse().unwrap());
    println!("TEST_SEED={seed} draws the same kills again");
    // A longer trial: three miners and ten windows, of which seven have kills, are TEST_MINERS=3 TEST_WINDOWS=10.
    let number = |name: &str, or: usize| std::env::var(name).map_or(or, |number| number.parse().unwrap());
    let miners = number("TEST_MINERS", 2).clamp(2, 3);
    let nodes = &["validator", "miner-a", "miner-b", "miner-c"][..=miners];
    let network = Network::up(nodes);
    let first = network.start_window();
    let last = first + number("TEST_WINDOWS", 5).max(5) as u64 - 1;
    let mut validator = network.loops("validator", "validator", last);
    let loops = nodes[1..].iter().map(|name| (*name, network.loops(name, "miner", last)));
    let mut miners: BTreeMap<&str, Child> = loops.collect();

    // The first window goes through undisturbed.
    network.wait_for(&network.receipt("validator", first, "weights"));
    let scores = network.records("validator", first, "scores", "score");
    let good = scores.iter().filter(|s| s["score"].as_f64().unwrap_or(0.0) > 0.99).count();
    assert_eq!(good, miners.len(), "all miners reproduce: {scores:?}");

    // The chain breaks down under everybody, while commitments are fetched, and comes back: nobody loses the window.
    network.wait_for(&network.receipt("validator", first + 1, "commits.part"));
    let before = network.block();
    network.kill_chain();
    network.start_chain();
    network.wait_for(&network.receipt("validator", first + 1, "weights"));
    let scores = network.records("validator", first + 1, "scores", "score");
    let good = scores.iter().filter(|s| s["score"].as_f64().unwrap_or(0.0) > 0.99).count();
    assert_eq!(good, miners.len(), "a chain that restarts costs no peer its place: {scores:?}");

    // Kill the chain, a miner, and the validator, and start them again.
    network.kill_chain();
    network.power_cut("miner-a", miners.get_mut("miner-a").unwrap());
    network.power_cut("validator", &mut validator);
    // What was written down by the follower a moment ago is still known; who asks the node is told to try again.
    let (_, error, code) = network.shell("miner-b", "bz-chain whoami");
    assert_eq!(code, 75, "{error}");
    network.start_chain();
    assert!(network.block() >= before, "no block is lost");
    validator = network.loops("validator", "validator", last);
    miners.insert("miner-a", network.loops("miner-a", "miner", last));

    // From here on miners are killed at random; the last window is left to them.
    let may_lose = network.kill_at_random(&mut miners, last - 1, last, &mut Dice(seed));
    network.wait_for(&network.receipt("validator", last, "weights"));
    for child in miners.values_mut().chain([&mut validator]) {
        child.wait().unwrap();
    }
    for window in first..=last {
        let root = |node: &&str| {
            let root = network.root_of(node, window);
            root.unwrap_or_else(|| panic!("{node} has no state of window {window}, TEST_SEED={seed}"))
        };
        let roots: Vec<String> = nodes.iter().map(root).collect();
        assert!(roots.iter().all(|root| *root == roots[0]), "window {window}, TEST_SEED={seed}: {roots:?}");
        let deltas = network.records("validator", window, "pulled", "delta");
        for name in miners.keys() {
            let delta = deltas.iter().rfind(|delta| delta["hotkey"] == network.hotkey(name));
            let came = delta.is_some_and(|delta| delta["status"] == "ok");
            let lost = format!("{name} lost window {window}, TEST_SEED={seed}: {delta:?}");
            assert!(came || may_lose.contains(&(*name, window)), "{lost}");
        }
    }
    for node in nodes {
        assert_eq!(unfinished(&network.home(node)), Vec::<PathBuf>::new(), "TEST_SEED={seed}");
    }
    let paid: Vec<Value> = network.records("validator", last, "weights", "weights");
    let sum: f64 = paid[0]["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{paid:?}");

    stages_give_the_same_bytes(&network, first);
    the_debugging_pipes_work(&network, first);
    hostile_peers_are_named(&network, last);
    thread_counts_give_one_root(&network, first);
    uploads_are_bounded_and_shown_without_secrets(&network, first);
    nobody_shows_a_key(&network, &["validator", "miner-a", "miner-b"]);
}

/// Nothing that a node wrote, logged or uploaded holds a key of its wallet or its bucket.
fn nobody_shows_a_key(network: &Network, nodes: &[&str]) {
    let shown = everything(&network.path("buckets")) + &std::fs::read_to_string(network.path("log")).unwrap();
    for node in nodes {
        // The settings alone hold the bucket's key.
        let settings = std::fs::read_to_string(network.home(node).join("env")).unwrap();
        let secret = settings.lines().find_map(|line| line.strip_prefix("BZ_SECRET_KEY=")).unwrap().trim_matches('\'');
        assert!(secret.len() > 10, "{settings}");
        let all = everything(&network.home(node)).replacen(&settings, "", 1) + &shown;
        assert!(!all.contains(secret), "the bucket key of {node} was shown");
        shows_no_key(&all, &network.path("wallets").join(node));
    }
}

/// Every stage of a finished window, run alone into another place, gives the same bytes, signatures and times apart.
fn stages_give_the_same_bytes(network: &Network, window: u64) {
    let home = network.home("miner-a");
    let folder = home.join("windows").join(window.to_string());
    let pages = network.records("miner-a", window, "commit", "pages").remove(0);
    let train = network.records("miner-a", window, "commit", "train").remove(0);
    let commit = network.records("miner-a", window, "commit", "commit").remove(0);
    let delta = network.records("miner-a", window, "receipt", "delta").remove(0);
    let line = format!(
        "bz-pages -o {}/again.pages < {}/commit | jq -c 'select(.type==\"pages\")' | tail -n 1",
        folder.display(),
        folder.display()
    );
    let (out, error, code) = network.shell("miner-a", &line);
    assert_eq!(code, 0, "{error}");
    let again: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&again["blake3"], &again["pages"]), (&pages["blake3"], &pages["pages"]));
    let line = format!(
        "bz-train --device cpu -o {}/again.update < {}/commit | jq -c 'select(.type==\"train\")' | tail -n 1",
        folder.display(),
        folder.display()
    );
    let (out, error, code) = network.shell("miner-a", &line);
    assert_eq!(code, 0, "{error}");
    let again: Value = serde_json::from_str(&out).unwrap();
    for field in ["blake3", "loss_before", "loss_after", "base", "steps"] {
        assert_eq!(again[field], train[field], "{field}");
    }
    let line = format!(
        "bz-delta commit --force -o {0}/again.json < {0}/commit | jq -c 'select(.type==\"commit\")' | tail -n 1",
        folder.display()
    );
    let (out, error, code) = network.shell("miner-a", &line);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["commitment"], commit["commitment"]);
    // The delta's data does not hold the signature.
    let line = format!(
        "bz-delta make --force -o {0}/again.delta < {0}/receipt > /dev/null && \
         bz-delta show {0}/again.delta && bz-delta show {1}",
        folder.display(),
        delta["path"].as_str().unwrap()
    );
    let (out, error, code) = network.shell("miner-a", &line);
    assert_eq!(code, 0, "{error}");
    let shown: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (&shown[0]["meta"]["data"], &shown[0]["meta"]["root"]),
        (&shown[1]["meta"]["data"], &shown[1]["meta"]["root"])
    );
    // A finished stage that is run again does nothing: the very record comes out, and nothing is uploaded.
    let line = format!(
        "bz-delta make < {0}/receipt | bz-push | jq -c 'select(.type==\"push\")' | tail -n 2",
        folder.display()
    );
    let (out, error, code) = network.shell("miner-a", &line);
    assert_eq!(code, 0, "{error}");
    let uploaded: Vec<Value> =
        out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["uploaded"].clone()).collect();
    assert_eq!(uploaded, [false, false], "{out}");
    // The validator's stages.
    let folder = network.home("validator").join("windows").join(window.to_string());
    let line = format!(
        "bz-delta check < {0}/pulled | bz-score | jq -cS 'select(.type==\"score\")' | sort -u | wc -l; \
         jq -cS 'select(.type==\"score\")' {0}/scores | sort -u > {0}/a; \
         bz-score < {0}/scores | jq -cS 'select(.type==\"score\")' | sort -u | diff - {0}/a",
        folder.display()
    );
    let (out, error, code) = network.shell("validator", &line);
    assert_eq!(code, 0, "{out} {error}");
    assert!(out.lines().next().unwrap().trim().parse::<u64>().unwrap() > 0, "there are scores: {out}");
    let accept = network.records("validator", window, "state", "accept").remove(0);
    let line = format!("bz-score accept < {}/scores | grep '\"type\":\"accept\"'", folder.display());
    let (out, error, code) = network.shell("validator", &line);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), accept);
}

/// The pipes of the design's debugging section, as written.
fn the_debugging_pipes_work(network: &Network, window: u64) {
    let line = format!(
        "cd $BZ_HOME/windows/{window}; \
         jq -r 'select(.type==\"delta\" and .uid==2) | [.status,.reason] | @tsv' pulled"
    );
    let (out, error, code) = network.shell("validator", &line);
    assert!(code == 0 && out.contains("ok"), "{out} {error}");
    let line = "cd $BZ_HOME; cat windows/*/scores | jq -c 'select(.uid != 2)' | bz-score fold | \
                bz-setweights --dry-run | jq -c 'select(.type==\"weights\")'";
    let (out, error, code) = network.shell("validator", line);
    assert_eq!(code, 0, "{error}");
    let weights: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert!(!weights["uids"].as_array().unwrap().contains(&2.into()) && weights["submitted"] == false, "{out}");
    let line = format!(
        "jq -c 'select(.type==\"run\" or .type==\"window\")' $BZ_HOME/windows/{window}/pulled | \
         bz-pages --uid 3 | jq -c 'select(.type==\"pages\") | .pages[]'"
    );
    let (out, error, code) = network.shell("validator", &line);
    assert!(code == 0 && out.contains("all.txt"), "{out} {error}");
    // The loss with and without what a miner revealed, on pages that nobody trained on.
    let delta = network.records("validator", window, "pulled", "delta").pop().unwrap();
    let line = format!(
        "bz-pages --role random < $BZ_HOME/windows/{window}/pulled | \
         bz-eval --device cpu --delta {} | jq -c 'select(.type==\"eval\")'",
        delta["path"].as_str().unwrap()
    );
    let (out, error, code) = network.shell("validator", &line);
    assert_eq!(code, 0, "{error}");
    let eval: Value = serde_json::from_str(&out).unwrap();
    assert!(eval["loss_after"].as_f64().unwrap() < eval["loss_before"].as_f64().unwrap(), "{eval}");
}

/// Peers whose bucket is down, private, or no address at all; a commitment of another; an object that is too large.
fn hostile_peers_are_named(network: &Network, window: u64) {
    let folder = network.home("validator").join("windows").join(window.to_string());
    let (a, b) = (network.hotkey("miner-a"), network.hotkey("miner-b"));
    let pull = |change: &str| {
        let line = format!(
            "rm -rf $BZ_HOME/windows/{window}/fetched; \
             jq -c '{change}' {0}/commits | bz-window --wait deadline | \
             bz-pull --deltas | bz-delta check | jq -c 'select(.type==\"delta\")'",
            folder.display()
        );
        let (out, error, code) = network.shell("validator", &line);
        assert_eq!(code, 0, "{change}: {error}");
        let all: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let of = |key: &str| all.iter().rfind(|d| d["hotkey"] == key).unwrap().clone();
        (of(&a), of(&b))
    };
    let address = |url: &str| format!("if .type==\"peer\" and .hotkey==\"{a}\" then .bucket=\"{url}\" else . end");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, words) in [
        ("http://10.0.0.1/bucket".to_string(), "private network"),
        ("http://169.254.169.254/latest".to_string(), "private network"),
        ("file:///etc/passwd".to_string(), "no bucket"),
        ("no bucket".to_string(), "no bucket's address"),
        ("a-bare-name".to_string(), "is not on this machine"),
        (format!("http://127.0.0.1:{closed}/bucket"), "cannot be reached"),
    ] {
        let (bad, good) = pull(&address(&url));
        assert_eq!(
            (bad["status"].as_str(), good["status"].as_str()),
            (Some("missing"), Some("ok")),
            "{url}: {bad} {good}"
        );
        assert!(bad["reason"].as_str().unwrap().contains(words), "{url}: {bad}");
    }
    // Who committed to something else than it sends is found out; so is who sends another's file.
    let (bad, good) =
        pull(&format!("if .type==\"commit\" and .hotkey==\"{a}\" then .commitment=\"{}\" else . end", "07".repeat(32)));
    assert!(bad["status"] == "invalid" && bad["reason"].as_str().unwrap().contains("not what was committed"), "{bad}");
    assert_eq!(good["status"], "ok");
    let run = network.records("validator", window, "commits", "run").remove(0)["run"].as_str().unwrap().to_string();
    let stored =
        |node: &str, key: &str| network.path(&format!("buckets/{node}/{run}/{window}/{key}/delta.safetensors"));
    let honest = std::fs::read(stored("miner-a", &a)).unwrap();
    std::fs::copy(stored("miner-b", &b), stored("miner-a", &a)).unwrap();
    // The store's own time stamps are now: the copy is late as well as false, so the deadline is moved.
    let later = "if .type==\"window\" then .deadline_ms=99999999999999 else . end";
    let pull_late = || {
        let line = format!(
            "rm -rf $BZ_HOME/windows/{window}/fetched; \
             bz-window --wait deadline < {0}/commits | jq -c '{later}' | \
             bz-pull --deltas | bz-delta check | jq -c 'select(.type==\"delta\")'",
            folder.display()
        );
        let (out, error, code) = network.shell("validator", &line);
        assert_eq!(code, 0, "{error}");
        out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).rfind(|d| d["hotkey"] == *a).unwrap()
    };
    let bad = pull_late();
    assert!(bad["status"] == "invalid" && bad["reason"].as_str().unwrap().contains("another uid"), "{bad}");
    std::fs::write(stored("miner-a", &a), vec![0; 64 << 20]).unwrap();
    let bad = pull_late();
    assert!(bad["status"] == "invalid" && bad["reason"].as_str().unwrap().contains("larger than"), "{bad}");
    std::fs::write(stored("miner-a", &a), &honest[..honest.len() / 2]).unwrap();
    assert_eq!(pull_late()["status"], "invalid");
    std::fs::write(stored("miner-a", &a), &honest).unwrap();
    assert_eq!(pull_late()["status"], "ok");
    // What was uploaded after the deadline is late.
    let (late, good) = pull(".");
    assert_eq!((late["status"].as_str(), good["status"].as_str()), (Some("late"), Some("ok")), "{late}");
    // After the window's end no commitment counts any more, whatever the bucket says.
    let line = format!(
        "rm -rf $BZ_HOME/windows/{window}/fetched; \
         jq -c 'select(.type!=\"commit\")' {}/commits | bz-pull --commits | \
         jq -r 'select(.type==\"commit\" and .hotkey==\"{a}\") | .status'",
        folder.display()
    );
    let (out, error, code) = network.shell("validator", &line);
    assert!(code == 0 && out.trim() == "late", "{out} {error}");
    // Before it ends, one counts that is the peer's own, of this window, and signed.
    let stored = |node: &str, key: &str| network.path(&format!("buckets/{node}/{run}/{window}/{key}/commit.json"));
    let honest = std::fs::read(stored("miner-a", &a)).unwrap();
    let mut unsigned: Value = serde_json::from_slice(&honest).unwrap();
    unsigned["commitment"] = "07".repeat(32).into();
    let theirs = std::fs::read(stored("miner-b", &b)).unwrap();
    for (content, words) in [
        (theirs, "it belongs to another"),
        (unsigned.to_string().into_bytes(), "signature"),
        (b"{\"type\":\"commit\"".to_vec(), "it is no commitment"),
        (vec![b' '; 1 << 20], "larger than"),
    ] {
        std::fs::write(stored("miner-a", &a), content).unwrap();
        let line = format!(
            "rm -rf $BZ_HOME/windows/{window}/fetched; \
             end=$(($(bz-window | jq -s '.[] | select(.type==\"window\").block') + 8)); \
             jq -c --argjson until $end 'if .type==\"commit\" then empty \
             elif .type==\"window\" then .end_block=$until else . end' {}/commits | \
             bz-pull --commits | tee $BZ_HOME/once | jq -c 'select(.type==\"commit\")'; \
             jq -c 'if .type==\"commit\" then empty else . end' $BZ_HOME/once | \
             bz-pull --commits | jq -c 'select(.type==\"commit\")' >&2",
            folder.display()
        );
        let (out, again, code) = network.shell("validator", &line);
        assert_eq!(code, 0, "{again}");
        let all: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let of = |key: &str| all.iter().find(|c| c["hotkey"] == key).unwrap();
        assert_eq!((of(&a)["status"].as_str(), of(&b)["status"].as_str()), (Some("invalid"), Some("ok")), "{out}");
        assert!(of(&a)["reason"].as_str().unwrap().contains(words), "{out}");
        assert!(out.lines().all(|line| again.contains(line)), "a rerun tells the same:\n{out}\n{again}");
    }
    std::fs::write(stored("miner-a", &a), &honest).unwrap();
    // Nobody writes another's bucket.
    let line = format!(
        "export BZ_BUCKET=${{BZ_BUCKET%miner-a}}miner-b; \
         bz-delta make < $BZ_HOME/windows/{window}/receipt | bz-push"
    );
    let (_, error, code) = network.shell("miner-a", &line);
    assert!(code == 78 && error.contains("access denied (403)"), "{code} {error}");
}

/// A dry run sends nothing and shows no key; who does not answer is not waited for; what others signed goes by
/// `--mirror`.
fn uploads_are_bounded_and_shown_without_secrets(network: &Network, window: u64) {
    let receipt = network.receipt("miner-a", window, "receipt").display().to_string();
    let run = network.records("miner-a", window, "receipt", "run").remove(0)["run"].as_str().unwrap().to_string();
    let stored =
        network.path(&format!("buckets/miner-a/{run}/{window}/{}/delta.safetensors", network.hotkey("miner-a")));
    let kept = std::fs::read(&stored).unwrap();
    std::fs::remove_file(&stored).unwrap();
    let (out, error, code) = network.shell("miner-a", &format!("bz-push -n < {receipt} | tail -n 3 | grep '\"push\"'"));
    let pushes: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(code == 0 && pushes.len() == 2 && !stored.exists(), "{out} {error}");
    for push in &pushes {
        let url = push["url"].as_str().unwrap();
        assert!(push["type"] == "push" && push["uploaded"] == false, "{out}");
        assert!(url.starts_with("http://127.0.0.1:") && url.contains("/miner-a/"), "{url}");
    }
    for flag in ["-n", "-v", "-n -v"] {
        let line = format!("export BZ_BUCKET=http://KEYID:SECRETKEY@127.0.0.1:9/bucket; bz-push {flag} < {receipt}");
        let (out, error, code) = network.shell("miner-a", &line);
        assert!(code == 78 && error.contains("BZ_BUCKET holds a key") && error.contains("hint: "), "{flag}: {error}");
        assert!(!(out + &error).contains("SECRETKEY"), "{flag}");
    }
    // Nobody listens; somebody listens, and does not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, flags, words) in [
        (closed, "", "Connection refused"),
        (silent.local_addr().unwrap(), "--within 1", "not done within 1 s: 0 of 2 objects are there"),
    ] {
        let since = Instant::now();
        let line = format!("export BZ_BUCKET=http://{address}/bucket; bz-push {flags} < {receipt}");
        let (_, error, code) = network.shell("miner-a", &line);
        assert!(code == 75 && error.contains(words) && error.contains("hint: "), "{code} {error}");
        assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    }
    let (_, error, code) = network.shell("miner-a", &format!("bz-push < {receipt}"));
    assert!(code == 0 && std::fs::read(&stored).unwrap() == kept, "{error}");
    // A miner that followed a state keeps it for others when it is told to.
    let base = network.records("miner-a", window + 1, "commit", "state");
    let followed = base.iter().rfind(|state| state["by"] == network.hotkey("validator")).unwrap();
    let mirrored = network.path(&format!("buckets/miner-a/{run}/{}/state.json", followed["window"]));
    let commit = network.receipt("miner-a", window + 1, "commit").display().to_string();
    for (flag, there) in [("", false), ("--mirror -v", true)] {
        let (_, error, code) = network.shell("miner-a", &format!("bz-push {flag} < {commit}"));
        assert!(code == 0 && mirrored.exists() == there, "{flag}: {error}");
    }
}

/// Two nodes with 1 and 2 threads replay the run to the same root.
fn thread_counts_give_one_root(network: &Network, window: u64) {
    let replay = |threads: usize| {
        let line = format!(
            "export BZ_HOME=$BZ_HOME/replay-{threads}; mkdir -p $BZ_HOME; cp $BZ_HOME/../hparams.json $BZ_HOME; \
             bz-window --window {} | bz-pull --state | bz-state apply --threads {threads} | \
             jq -r 'select(.type==\"state\").root' | tail -n 1",
            window + 3
        );
        let (out, error, code) = network.shell("miner-a", &line);
        assert_eq!(code, 0, "{error}");
        out
    };
    let (one, two) = (replay(1), replay(2));
    assert_eq!(one, two);
    assert_eq!(one.trim(), network.root_of("validator", window + 3).unwrap(), "a newcomer replays to the same root");
}

/// Signs state records as a validator that is not honest, and puts them into its bucket.
struct Forger<'a> {
    network: &'a Network,
    signer: wallet::Signer,
    run: Hash,
}

impl Forger<'_> {
    fn publish(&self, window: u64, prev: Option<Hash>, prev_window: u64, root: Hash, accepted: Vec<Accepted>) {
        let mut record = State {
            window: Window(window),
            run: self.run,
            root,
            prev,
            prev_window: Some(Window(prev_window)),
            path: None,
            accepted,
            reveal: Some(Hash([1; 32])),
            by: Some(self.signer.hotkey()),
            signature: None,
        };
        record.signature = Some(self.signer.sign_hex(&wire::commit::state_message(&record).unwrap()));
        let folder = self.network.path(&format!("buckets/validator-false/{}/{window}", self.run));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("state.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    }
}

/// The validator with the most stake publishes what is false, and the next one takes its place; then that one goes
/// away, and the last one goes on from what it mirrored.
#[test]
fn a_false_publisher_is_passed_over_and_one_that_is_gone_replaced() {
    let network = Network::up(&["validator-false", "validator", "validator-last", "miner"]);
    let first = network.start_window();
    let last = first + 6;
    let wallets = wallet::WalletArgs {
        name: "validator-false".into(),
        hotkey: "default".into(),
        wallet_path: Some(network.path("wallets")),
        password_file: None,
    };
    let (out, error, code) = network.shell(
        "miner",
        &format!(
            "bz-window --window {first} --wait start | bz-state init | \
             jq -c 'select(.type==\"state\" or .type==\"run\")'"
        ),
    );
    assert_eq!(code, 0, "{error}");
    let records: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str, field: &str| {
        let record = records.iter().find(|r| r["type"] == kind).unwrap();
        record[field].as_str().unwrap().parse::<Hash>().unwrap()
    };
    let (run, start) = (of("run", "run"), of("state", "root"));
    let forger = Forger { network: &network, signer: wallets.open().unwrap(), run };
    let false_root = Hash([7; 32]);
    // A wrong root; on top of a false state; no predecessor; a false first state.
    forger.publish(first + 1, Some(start), first, false_root, Vec::new());
    forger.publish(first + 2, Some(false_root), first + 1, Hash([8; 32]), Vec::new());
    forger.publish(first + 3, None, first + 2, Hash([5; 32]), Vec::new());
    forger.publish(first + 4, Some(Hash([4; 32])), first, Hash([3; 32]), Vec::new());
    let mut honest = network.loops("validator", "validator", last);
    let mut loops = [network.loops("validator-last", "validator", last), network.loops("miner", "miner", last)];
    // A true delta, which the others mirror, in tiles that the chain did not draw.
    network.wait_for(&network.receipt("validator", first + 1, "weights"));
    let made = read(&network.home("validator").join(format!("states/{}/state.json", first + 2)));
    let accepted: Vec<Accepted> = serde_json::from_value(made["accepted"].clone()).unwrap();
    assert!(!accepted.is_empty(), "{made}");
    let before = network.root_of("validator", first + 1).unwrap().parse().unwrap();
    forger.publish(first + 5, Some(before), first + 1, Hash([6; 32]), accepted);

    network.wait_for(&network.receipt("validator-last", first + 4, "weights"));
    network.power_cut("validator", &mut honest);
    network.wait_for(&network.receipt("validator-last", last, "weights"));
    for child in &mut loops {
        child.wait().unwrap();
    }
    for window in first..=last {
        let ours = network.root_of("validator-last", window);
        assert!(ours.is_some() && ours == network.root_of("miner", window), "window {window}");
        assert_ne!(ours, Some(false_root.to_string()));
    }
    for node in ["validator-last", "miner"] {
        let reasons = |window: u64| -> Vec<String> {
            let folder = network.home(node).join("windows").join(window.to_string());
            let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let refused = files.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("refused-"));
            refused.map(|path| read(&path)["reason"].as_str().unwrap().to_string()).collect()
        };
        assert!(reasons(first + 1).iter().any(|why| why.contains("give root")), "{node}");
        assert!(reasons(first + 4).iter().any(|why| why.contains("the first state is")), "{node}");
        let log = std::fs::read_to_string(network.home(node).join("log")).unwrap();
        for words in ["a predecessor that cannot be", "of tiles that the chain did not draw"] {
            assert!(log.contains(words), "{node}: {words}");
        }
    }
    // What the validator that is gone had published lies in the bucket of the one that followed it.
    let mirror = network.path(&format!("buckets/validator-last/{run}"));
    assert_eq!(read(&mirror.join(format!("{}/state.json", first + 2)))["by"], network.hotkey("validator"));
    assert!(mirror.join("deltas").read_dir().unwrap().count() > 0);
    let by = |window: u64| read(&network.home("miner").join(format!("states/{window}/state.json")))["by"].clone();
    assert_eq!(by(last), network.hotkey("validator-last"));
    // A newcomer gets through with the mirror alone.
    std::fs::rename(network.path("buckets/validator"), network.path("gone")).unwrap();
    let line = format!(
        "export BZ_HOME=$BZ_HOME/new; mkdir -p $BZ_HOME; cp $BZ_HOME/../hparams.json $BZ_HOME; \
         bz-window --window {last} | bz-pull --state | bz-state apply | \
         jq -r 'select(.type==\"state\").root' | tail -n 1"
    );
    let (out, error, code) = network.shell("miner", &line);
    assert_eq!(code, 0, "{error}");
    assert_eq!(out.trim(), network.root_of("validator-last", last).unwrap());
}
