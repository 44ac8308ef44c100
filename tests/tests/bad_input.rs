//! Bad input, tool by tool: a clear error with its hint, the right exit code, and no finished file harmed.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn bin(tool: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(tool)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut hparams: Value =
            serde_json::from_slice(&std::fs::read(root().join("pipelines/hparams/demo.json")).unwrap()).unwrap();
        hparams["data"]["manifest"] = json!("00".repeat(32));
        std::fs::write(folder.path().join("hparams.json"), hparams.to_string()).unwrap();
        Node { folder }
    }

    fn run(&self, tool: &str, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(bin(tool))
            .args(args)
            .env_clear()
            .env("BZ_HOME", self.folder.path())
            .env("HOME", self.folder.path())
            .env("BZ_NETUID", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A tool that refuses at once may be gone before it was told all.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The tool ends with this code, says these words, and does not panic.
    fn refuses(&self, tool: &str, args: &[&str], input: &str, code: i32, words: &str) {
        let output = self.run(tool, args, input);
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("{tool} {args:?} < {:.60}: {said}", input.escape_debug());
        assert_eq!(output.status.code(), Some(code), "{what}");
        assert!(said.contains(words), "{what} does not say {words:?}");
        assert!(!said.contains("panicked"), "{what}");
        assert!(said.starts_with(&format!("{tool}: ")), "{what}");
    }
}

const RUN: &str = r#"{"type":"run","run":"0000000000000000000000000000000000000000000000000000000000000000","genesis":"0000000000000000000000000000000000000000000000000000000000000000","netuid":1,"path":"x"}"#;

#[test]
fn streams_that_are_wrong() {
    let node = Node::new();
    for tool in
        ["bz-pages", "bz-delta check", "bz-score", "bz-state apply", "bz-push", "bz-setweights", "bz-pull --state"]
    {
        let mut words = tool.split(' ');
        let (name, args) = (words.next().unwrap(), words.collect::<Vec<_>>());
        node.refuses(name, &args, "nonsense\n", 65, "not a JSON object");
        node.refuses(name, &args, "[1,2]\n", 65, "not a JSON object");
        node.refuses(name, &args, "{\"a\":1}\n", 65, "missing field `type`");
        node.refuses(name, &args, "{\"type\":\"begin\",\"tool\":\"bz-x\"}\n", 65, "bz-x began it and did not end it");
        node.refuses(name, &args, &format!("{{\"type\":\"{}", "x".repeat(5 << 20)), 65, "longer than");
    }
    node.refuses("bz-pages", &[], "{\"type\":\"window\",\"window\":1}\n", 65, "missing field `run`");
    node.refuses("bz-pages", &[], "", 65, "no `window` record");
    node.refuses("bz-pages", &[], "{\"type\":\"window\",\"window\":-1}\n", 65, "invalid value");
    let weights = "{\"type\":\"weights\",\"window\":1,\"uids\":[],\"hotkeys\":[],\"weights\":[]}\n";
    node.refuses("bz-setweights", &[], weights, 65, "not closed by an `end`");
    node.refuses("bz-push", &[], &format!("{RUN}\n"), 65, "not closed by an `end`");
}

#[test]
fn hparams_that_are_wrong() {
    let node = Node::new();
    node.refuses("bz-delta", &["check"], &format!("{RUN}\n"), 78, "the stream is of run 0000");
    let path = node.folder.path().join("hparams.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"lag\"", "\"leg\"")).unwrap();
    node.refuses("bz-delta", &["check"], &format!("{RUN}\n"), 78, "unknown field `leg`");
    std::fs::remove_file(&path).unwrap();
    node.refuses("bz-delta", &["check"], &format!("{RUN}\n"), 78, "there is no");
    node.refuses("bz-train", &["--device", "cpu"], "", 78, "there is no");
}

#[test]
fn a_chain_that_is_down_means_try_again() {
    let node = Node::new();
    // A port of loopback on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("ws://127.0.0.1:{port}");
    node.refuses("bz-window", &["--network", &url], "", 75, "cannot reach the chain");
    // Something that answers, but is no chain.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        if let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
        }
    });
    node.refuses("bz-window", &["--network", &url], "", 75, "cannot reach the chain");
    server.join().unwrap();
}

#[test]
fn a_wallet_that_is_missing() {
    let node = Node::new();
    node.refuses("bz-chain", &["whoami"], "", 78, "there is no key file");
}

#[test]
fn files_that_are_damaged() {
    let node = Node::new();
    let file = node.folder.path().join("x.safetensors");
    let name = file.to_str().unwrap();
    node.refuses("bz-delta", &["show", name], "", 65, "cannot open");
    std::fs::write(&file, b"").unwrap();
    node.refuses("bz-delta", &["show", name], "", 65, "cut short");
    std::fs::write(&file, 10_000_000_000u64.to_le_bytes()).unwrap();
    node.refuses("bz-delta", &["show", name], "", 65, "claims a header of 10000000000 bytes");
    std::fs::write(&file, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    node.refuses("bz-delta", &["show", name], "", 65, "the metadata has 0 keys");
    node.refuses("bz-state", &["verify", "none"], "", 65, "cannot open");
    let pages = json!({"type": "pages", "window": 1, "uid": 0, "role": "own", "pages": [], "path": name, "bytes": 10,
        "blake3": "00".repeat(32), "tokens": 1});
    node.refuses("bz-train", &["--device", "cpu"], &format!("{pages}\n"), 65, "the state to train from");
    node.refuses(
        "bz-eval",
        &["--device", "cpu"],
        &format!("{pages}\n"),
        65,
        "is not the file that its record tells of",
    );
    node.refuses("bz-pages", &["index", "--data", "none"], "", 65, "cannot walk none");
}

#[test]
fn a_closed_pipe_downstream_is_no_error() {
    let node = Node::new();
    let record = format!("{{\"type\":\"score\",\"window\":1,\"x\":\"{}\"}}\n", "y".repeat(1000)).repeat(2000);
    let mut child = Command::new(bin("bz-push"))
        .args(["--dry-run"])
        .env("BZ_HOME", node.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(record.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tools_without_libtorch_start_at_once() {
    // Not a timed test: what makes a start slow is libtorch, and only two tools may load it.
    let loads = |tool: &str| {
        let output = Command::new("ldd").arg(bin(&format!("bz-{tool}"))).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("libc.so"), "ldd of bz-{tool}: {text} {error}");
        text
    };
    for tool in ["window", "pages", "delta", "state", "push", "pull", "score", "setweights", "chain", "localnet"] {
        let libraries = loads(tool);
        assert!(!libraries.contains("torch"), "bz-{tool} loads libtorch: {libraries}");
    }
    // These do: it would be seen.
    for tool in ["train", "eval"] {
        let libraries = loads(tool);
        assert!(libraries.contains("libtorch"), "bz-{tool} loads no libtorch: {libraries}");
    }
}
