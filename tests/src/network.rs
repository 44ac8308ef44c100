//! A whole network of nodes that run the pipelines themselves.

use crate::{bins, read, root, text};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Blocks of the windows of its run.
pub const BLOCKS: u64 = 24;

/// A network in a folder of its own; it is stopped with the value.
pub struct Network {
    folder: tempfile::TempDir,
}

/// What does not come within this time does not come.
const WAIT: Duration = Duration::from_secs(240);

impl Network {
    /// Start one with these nodes; the run of the demo, shortened, begins at the next window but this one.
    pub fn up(nodes: &[&str]) -> Self {
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
        assert!(out.status.success(), "{}", crate::text(&out.stderr));
        // Permits are given at an epoch's end: one goes by before the run begins.
        let block = network.localnet("new-block 7")["block"].as_u64().unwrap();
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

    /// A place in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A node's folder.
    pub fn home(&self, node: &str) -> PathBuf {
        self.path("nodes").join(node)
    }

    /// A program that finds the tools and the text.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = crate::program(program);
        let path = format!("{}:{}", bins().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("BZ_DATA", self.path("text")).env("BZ_THREADS", "1").env("OMP_NUM_THREADS", "1");
        // Every window's state is looked at in the end.
        command.env("BZ_KEEP_STATES", "100");
        command
    }

    /// A program with a node's settings.
    pub fn node(&self, node: &str, program: &Path) -> Command {
        let mut command = self.command(program);
        command.env("BZ_ENV", self.home(node).join("env")).env("BZ_HOME", self.home(node));
        command
    }

    /// A tool with the settings of no node.
    pub fn tool(&self, line: &str, more: &[&str]) -> String {
        let mut words = line.split(' ');
        let out = self.command(&bins().join(words.next().unwrap())).args(words).args(more).output().unwrap();
        assert!(out.status.success(), "{line}: {}", text(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// A shell line as a node; its output, and its status.
    pub fn shell(&self, node: &str, line: &str) -> (String, String, i32) {
        let script = format!("set -o pipefail; set -a; . \"$BZ_ENV\"; set +a; {line}");
        let out = self.node(node, Path::new("/bin/bash")).args(["-c", &script]).output().unwrap();
        (text(&out.stdout), text(&out.stderr), out.status.code().unwrap_or(-1))
    }

    /// What bz-localnet says of itself.
    pub fn status(&self) -> Value {
        self.localnet("status")
    }

    /// Kill chain and store.
    pub fn kill_chain(&self) {
        let server = self.status()["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args(["-9", &server.to_string()]).status().unwrap().success());
    }

    /// Start them again.
    pub fn start_chain(&self) {
        self.localnet("up --interval 0.4");
    }

    /// Run bz-localnet on it; what it says.
    pub fn localnet(&self, line: &str) -> Value {
        let out = self.tool(&format!("bz-localnet {line} --dir"), &[self.folder.path().to_str().unwrap()]);
        serde_json::from_str(&out).unwrap_or_default()
    }

    /// A node's hotkey.
    pub fn hotkey(&self, node: &str) -> String {
        let public = read(&self.path(&format!("wallets/{node}/hotkeys/defaultpub.txt")));
        public["ss58Address"].as_str().unwrap().to_string()
    }

    /// The first window of the run.
    pub fn start_window(&self) -> u64 {
        read(&self.home("validator").join("hparams.json"))["start_window"].as_u64().unwrap()
    }

    /// A node's loop, up to a window.
    pub fn loops(&self, node: &str, role: &str, last: u64) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home(node).join("log")).unwrap();
        self.node(node, &root().join("pipelines/loop.sh"))
            .args([role, &last.to_string()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// A receipt of a window, or another file beside it.
    pub fn receipt(&self, node: &str, window: u64, name: &str) -> PathBuf {
        self.home(node).join("windows").join(window.to_string()).join(name)
    }

    /// The records of this type in a receipt.
    pub fn records(&self, node: &str, window: u64, name: &str, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.receipt(node, window, name)).unwrap();
        let all = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        all.filter(|v| v["type"] == kind).collect()
    }

    /// Wait for a file.
    pub fn wait_for(&self, path: &Path) {
        self.wait(&format!("{} did not come", path.display()), || path.exists());
    }

    /// Wait for something to be so, for four minutes at most; where it is not, the ends of all logs are shown.
    pub fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let since = Instant::now();
        while !so() {
            if since.elapsed() > WAIT {
                let mut logs = String::new();
                for entry in std::fs::read_dir(self.path("nodes")).unwrap() {
                    let path = entry.unwrap().path().join("log");
                    let log = std::fs::read_to_string(&path).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(12).collect();
                    logs +=
                        &format!("{}:\n{}\n", path.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                }
                panic!("{what}\n{logs}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The number of the last block.
    pub fn block(&self) -> u64 {
        self.status()["block"].as_u64().unwrap()
    }

    /// Wait for a block, without making it.
    pub fn come_to(&self, block: u64) {
        self.wait(&format!("block {block} does not come"), || self.block() >= block);
    }

    /// Make blocks up to this one.
    pub fn reach(&self, block: u64) {
        let more = block.saturating_sub(self.block());
        if more > 0 {
            self.localnet(&format!("new-block {more}"));
        }
    }

    /// The processes that a node's settings reached: ids and commands.
    pub fn processes(&self, node: &str) -> Vec<(String, String)> {
        let mark = format!("BZ_ENV={}", self.home(node).join("env").display());
        let of = |path: PathBuf| {
            let environment = std::fs::read(path.join("environ")).ok()?;
            let ours = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            let line = std::fs::read(path.join("cmdline")).ok()?;
            let line = text(&line).replace('\0', " ");
            // One that has ended and is not yet waited for has no command.
            let (program, args) = line.split_once(' ')?;
            let command = format!("{} {args}", Path::new(program).file_name()?.display());
            ours.then(|| (path.file_name().unwrap().display().to_string(), command))
        };
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.unwrap().path())).collect()
    }

    /// The root of a window's state, if a node has it.
    pub fn root_of(&self, node: &str, window: u64) -> Option<String> {
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
