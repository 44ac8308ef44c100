//! Whole-pipeline tests: what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod gate;
mod network;

pub use gate::{Gate, Pass};
pub use network::{BLOCKS, Network};

use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Where the tools are: those of this build, or the ones in `TEST_BINS`, such as what `make install` installed.
pub fn bins() -> PathBuf {
    if let Some(bins) = std::env::var_os("TEST_BINS") {
        return bins.into();
    }
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf()
}

/// A program with no settings of this machine.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("BZ_") || name.starts_with("BT_")) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder with one source file as the text of a run, and the run: the demo's, shortened.
pub fn short_run(folder: &Path) -> (PathBuf, Value) {
    let data = folder.join("text");
    std::fs::create_dir(&data).unwrap();
    std::fs::copy(root().join("tests/tests/network.rs"), data.join("text.rs")).unwrap();
    let out = tool("bz-pages", folder).args(["index", "--name", "t", "--data"]).arg(&data).output().unwrap();
    let manifest = lines(&out.stdout).into_iter().find(|record| record["type"] == "manifest").unwrap();
    let demo = std::fs::read(root().join("pipelines/hparams/demo.json")).unwrap();
    let mut hparams: Value = serde_json::from_slice(&demo).unwrap();
    hparams["data"]["manifest"] = manifest["manifest"].clone();
    hparams["data"]["rows_per_page"] = 1.into();
    hparams["data"]["pages_per_window"] = 1.into();
    hparams["inner"]["steps"] = 2.into();
    hparams["inner"]["batch"] = 2.into();
    (data, hparams)
}

/// A node's folder with such a run; its text's folder; and the records of window 0, which no chain has.
pub fn node_without_chain(folder: &Path, edit: impl FnOnce(&mut Value)) -> (PathBuf, PathBuf, Vec<Value>) {
    let home = folder.join("home");
    std::fs::create_dir(&home).unwrap();
    let (data, mut hparams) = short_run(folder);
    edit(&mut hparams);
    std::fs::write(home.join("hparams.json"), hparams.to_string()).unwrap();
    let path = format!("{}:{}", bins().display(), std::env::var("PATH").unwrap());
    let script = root().join("scripts/offline-window.sh");
    let out = program(&script).arg(home.join("hparams.json")).env("PATH", path).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    (home, data, lines(&out.stdout))
}

/// A tool of this suite with a home of its own.
pub fn tool(name: &str, home: &Path) -> Command {
    let mut command = program(&bins().join(name));
    command.env("BZ_HOME", home).env("BZ_NETUID", "1");
    command
}

/// What a tool said.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON lines of a tool.
pub fn lines(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A file of one JSON value.
pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Send a signal to a process that may have ended by itself.
pub fn signal(id: &str, name: &str) {
    let _ = Command::new("kill").args([name, id]).stderr(Stdio::null()).status();
}

/// What lies in a folder and was never finished.
pub fn unfinished(folder: &Path) -> Vec<PathBuf> {
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

/// A process that ends with the value.
pub struct Running(pub Child);

impl Running {
    /// Start one whose output is kept.
    pub fn start(command: &mut Command) -> Self {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }
    /// What it said, once it has ended by itself.
    pub fn output(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Wait for something to be so, for a minute at most.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All that lies in a folder, as text.
pub fn everything(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        all += &match entry.path() {
            path if path.is_dir() => everything(&path),
            path => text(&std::fs::read(path).unwrap()),
        };
    }
    all
}

/// Nothing of a wallet's keys stands in this text.
pub fn shows_no_key(all: &str, wallet: &Path) {
    assert!(all.len() > 1000, "there is something to look at");
    for file in ["coldkey", "hotkeys/default"] {
        let key: Value = serde_json::from_slice(&std::fs::read(wallet.join(file)).unwrap()).unwrap();
        let secret = key["privateKey"].as_str().unwrap().trim_start_matches("0x").to_string();
        assert_eq!(secret.len(), 128);
        for part in [&secret[..64], &secret[64..], &secret[20..40]] {
            assert!(!all.contains(part), "a part of {} was shown", wallet.join(file).display());
        }
    }
}

/// A network in a folder; it is stopped with the value.
pub struct Localnet(pub PathBuf);

impl Localnet {
    /// Run bz-localnet on it.
    pub fn run(&self, args: &[&str]) -> Value {
        let out = tool("bz-localnet", &self.0).arg("--dir").arg(&self.0).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    }
    /// Start one; it, and its chain's address.
    pub fn up(folder: PathBuf) -> (Self, String) {
        Localnet::up_with(folder, &["--interval", "0.2"])
    }
    /// The same with other arguments.
    pub fn up_with(folder: PathBuf, args: &[&str]) -> (Self, String) {
        let network = Localnet(folder);
        let place = network.run(&[&["up"], args].concat());
        (network, place["chain"].as_str().unwrap().to_string())
    }
    /// The number of its last block.
    pub fn block(&self) -> u64 {
        self.run(&["status"])["block"].as_u64().unwrap()
    }
    /// Make blocks up to this one.
    pub fn reach(&self, block: u64) {
        let now = self.block();
        if now < block {
            self.run(&["new-block", &(block - now).to_string()]);
        }
    }
}

impl Drop for Localnet {
    fn drop(&mut self) {
        let _ = tool("bz-localnet", &self.0).arg("--dir").arg(&self.0).arg("down").status();
    }
}

/// When a way is cut by itself.
#[derive(Clone)]
struct Trap {
    method: String,
    /// The request still goes through.
    after: bool,
}

/// A way to a node that counts what goes by, and can be cut.
#[derive(Clone)]
pub struct Way {
    /// Where it begins.
    pub address: String,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    trap: Arc<Mutex<Option<Trap>>>,
    requests: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    came: Arc<AtomicU64>,
}

impl Way {
    /// A way to this node.
    pub fn to(node: &str) -> Self {
        let node = node.trim_start_matches("ws://").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Way {
            address: format!("ws://{}", listener.local_addr().unwrap()),
            cut: Arc::default(),
            open: Arc::default(),
            trap: Arc::default(),
            requests: Arc::default(),
            bytes: Arc::default(),
            came: Arc::default(),
        };
        let it = way.clone();
        std::thread::spawn(move || {
            for here in listener.incoming().map(Result::unwrap) {
                if it.cut.load(Ordering::SeqCst) {
                    continue;
                }
                it.came.fetch_add(1, Ordering::SeqCst);
                let there = TcpStream::connect(&node).unwrap();
                it.open.lock().unwrap().extend([here.try_clone().unwrap(), there.try_clone().unwrap()]);
                let (back_from, back_to) = (there.try_clone().unwrap(), here.try_clone().unwrap());
                let (up, down) = (it.clone(), it.clone());
                std::thread::spawn(move || up.requests(here, there));
                std::thread::spawn(move || down.answers(back_from, back_to));
            }
        });
        way
    }

    /// Cut it; nobody comes through until it is mended.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.break_off();
    }

    /// Break off what is open; who comes again comes through.
    pub fn break_off(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Let people through again.
    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    /// Cut it when this method is asked for: before the request gets through, or after.
    pub fn cut_at(&self, method: &str, after: bool) {
        *self.trap.lock().unwrap() = Some(Trap { method: method.into(), after });
    }

    /// How many came through.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::SeqCst)
    }

    /// How many are connected.
    pub fn connections(&self) -> usize {
        self.open.lock().unwrap().len() / 2
    }

    /// Requests and bytes that went by.
    pub fn counted(&self) -> (u64, u64) {
        (self.requests.load(Ordering::SeqCst), self.bytes.load(Ordering::SeqCst))
    }

    fn answers(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            self.bytes.fetch_add(read as u64, Ordering::SeqCst);
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// WebSocket frames of a client, one by one: RFC 6455, 5.2.
    fn requests(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut pass = || -> std::io::Result<bool> {
            let mut head = Vec::new();
            // The handshake ends with an empty line.
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                from.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            to.write_all(&head)?;
            loop {
                let mut frame = vec![0; 2];
                from.read_exact(&mut frame)?;
                let more = match frame[1] & 127 {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                frame.resize(2 + more, 0);
                from.read_exact(&mut frame[2..])?;
                let long = frame[2..].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                let length = if more == 0 { usize::from(frame[1] & 127) } else { long };
                let start = frame.len() + 4;
                frame.resize(start + length, 0);
                let rest = start - 4;
                from.read_exact(&mut frame[rest..])?;
                self.bytes.fetch_add(frame.len() as u64, Ordering::SeqCst);
                if frame[0] & 15 != 1 {
                    to.write_all(&frame)?;
                    continue;
                }
                self.requests.fetch_add(1, Ordering::SeqCst);
                let mask: Vec<u8> = frame[rest..start].to_vec();
                let said: Vec<u8> =
                    frame[start..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
                let trap = self.trap.lock().unwrap().clone().filter(|trap| text(&said).contains(&trap.method));
                if trap.as_ref().is_none_or(|trap| trap.after) {
                    to.write_all(&frame)?;
                }
                if trap.is_some() {
                    // The node has it before the way is gone.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    *self.trap.lock().unwrap() = None;
                    return Ok(true);
                }
            }
        };
        if matches!(pass(), Ok(true)) {
            self.cut();
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
