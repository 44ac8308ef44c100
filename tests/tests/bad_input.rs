//! Bad input, tool by tool: a clear error with its hint, the right exit code, and no finished file harmed.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tests::{Running, lines, text, tool};

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
        assert!(said.contains("\nhint: "), "{what} says what to do");
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
    node.refuses("bz-pages", &["index", "--data", "none"], "", 78, "there is no folder none");
    // Whatever is wrong with it, a file is named once, and the input by its name.
    let output = node.run("bz-delta", &["show", name], "");
    assert_eq!(text(&output.stderr).matches(name).count(), 1, "{}", text(&output.stderr));
    for input in ["", "{}", "12345678{}"] {
        node.refuses("bz-delta", &["show", "-"], input, 65, "the input");
        assert!(!text(&node.run("bz-delta", &["show", "-"], input).stderr).contains("/proc/"));
    }
    let source = node.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for damaged in [&b"PAR1"[..], b"PAR1PAR1", &[0; 100]] {
        std::fs::write(source.join("a.parquet"), damaged).unwrap();
        node.refuses("bz-pages", &["index", "--data", source.to_str().unwrap()], "", 65, "a.parquet");
    }
}

#[test]
fn a_folder_in_place_of_a_stream() {
    let node = Node::new();
    let out = tool("bz-score", node.folder.path()).arg("fold").stdin(File::open(".").unwrap()).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(65), "{said}");
    assert!(said.contains("the input is a folder") && said.contains("\nhint: "), "{said}");
}

#[test]
fn weights_whose_lists_do_not_fit() {
    let node = Node::new();
    let key = "5C62Ck4UrFPiBtoCmeSrgF7x9yv9mn38446dhCpsi2mLHiFT";
    let framed = |record: Value| {
        format!(
            "{{\"type\":\"begin\",\"v\":1,\"tool\":\"bz-score\",\"version\":\"1\"}}\n{record}\n\
             {{\"type\":\"end\",\"v\":1,\"tool\":\"bz-score\",\"wall_s\":1}}\n"
        )
    };
    for (uids, hotkeys, weights, words) in [
        (json!([1, 2]), json!([key, key]), json!([1.0]), "lists of different lengths"),
        (json!([1]), json!([key]), json!([-1.0]), "negative or not finite"),
        (json!([1, 1]), json!([key, key]), json!([0.5, 0.5]), "has a uid twice"),
    ] {
        let record = json!({"type": "weights", "window": 1, "uids": uids, "hotkeys": hotkeys, "weights": weights});
        node.refuses("bz-setweights", &[], &framed(record), 65, words);
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let node = Node::new();
    let commands = [
        "bz-window",
        "bz-pages",
        "bz-pages index",
        "bz-train",
        "bz-eval",
        "bz-delta commit",
        "bz-state apply",
        "bz-push",
        "bz-pull --state",
        "bz-score",
        "bz-setweights",
        "bz-chain bucket",
        "bz-localnet status",
    ];
    let run = |line: &str, more: &[&str], empty: &[String]| {
        let mut words = line.split(' ');
        let mut command = tests::program(&bin(words.next().unwrap()));
        command.args(words).args(more).env("HOME", node.folder.path()).current_dir(node.folder.path());
        command.envs(empty.iter().map(|name| (name, ""))).output().unwrap()
    };
    let mut seen = 0;
    for line in commands {
        let help = text(&run(line, &["--help"], &[]).stdout);
        let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split([']', '=']).next());
        let named: Vec<String> = named.map(String::from).collect();
        seen += named.len();
        let (unset, empty) = (run(line, &[], &[]), run(line, &[], &named));
        assert_eq!(unset.status, empty.status, "{line} with {named:?} empty: {}", text(&empty.stderr));
        assert_eq!(text(&unset.stderr), text(&empty.stderr), "{line} with {named:?} empty");
        // They are named all the same.
        assert_eq!(help, text(&run(line, &["--help"], &named).stdout), "{line}");
    }
    assert!(seen > 40, "{seen} variables are named");
    let said = text(&run("bz-window", &[], &["BZ_NETUID".into()]).stderr);
    assert!(said.contains("--netuid <N>") && !said.contains("invalid"), "{said}");
}

/// A node of a small run without a chain, whose wallet is uid 0.
struct Own {
    folder: tempfile::TempDir,
    home: PathBuf,
    data: PathBuf,
    /// The records of its window, whose last block is known.
    window: String,
}

impl Own {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wallet = wallet::WalletArgs {
            name: "default".into(),
            hotkey: "default".into(),
            wallet_path: Some(folder.path().join("wallets")),
            password_file: None,
        };
        wallet.create().unwrap();
        let (home, data, mut window) = tests::node_without_chain(folder.path(), |hparams| {
            hparams["data"]["max_uids"] = 4.into();
            hparams["model"]["hidden_size"] = 64.into();
            hparams["model"]["intermediate_size"] = 96.into();
        });
        window.push(json!({"type": "peer", "uid": 0, "hotkey": wallet.public().unwrap().to_string(), "bucket": null,
            "stake": 0.0, "incentive": 0.0, "permit": false, "last_update": 0, "self": true}));
        window.iter_mut().filter(|r| r["type"] == "window").for_each(|r| r["reveal"] = "07".repeat(32).into());
        let window = window.iter().map(|record| format!("{record}\n")).collect();
        Own { folder, home, data, window }
    }

    fn command(&self, line: &str, input: &str) -> Command {
        // Each has its own, which the next one does not write again.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input.as_bytes()).unwrap();
        file.rewind().unwrap();
        let mut words = line.split(' ');
        let mut command = tool(words.next().unwrap(), &self.home);
        command.args(words).env("BT_WALLET_PATH", self.folder.path().join("wallets")).env("BZ_DATA", &self.data);
        command.env("BZ_THREADS", "1").current_dir(self.folder.path()).stdin(file);
        command
    }

    fn stage(&self, line: &str, input: &str) -> String {
        let out = self.command(line, input).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr));
        text(&out.stdout)
    }
}

/// The signature of the last record of a kind.
fn signature(stdout: &[u8], kind: &str) -> String {
    let record = lines(stdout).into_iter().rfind(|record| record["type"] == kind).unwrap();
    record["signature"].as_str().unwrap().to_string()
}

/// A signature is another one each time that it is made: two of one thing would pass for two things.
#[test]
fn two_processes_at_once_sign_once() {
    let node = Own::new();
    node.stage("bz-state init", &node.window);
    let pages = node.stage("bz-pages --uid 0", &node.window);
    let trained = node.stage("bz-train --device cpu", &pages);
    let accept = json!({"type": "accept", "window": 0, "accepted": [], "norm_median": 0.0});
    let accepted = format!("{}{accept}\n", node.window);
    for (line, input, kind, made, rounds) in [
        ("bz-delta commit", &trained, "commit", "windows/0/commit.json", 20),
        ("bz-state apply", &accepted, "state", "states/1/state.json", 20),
    ] {
        let path = node.home.join(made);
        for round in 0..rounds {
            let both = [0, 1].map(|_| Running::start(&mut node.command(line, input)));
            let said = both.map(|running| {
                let out = running.output();
                assert_eq!(out.status.code(), Some(0), "{line}, round {round}: {}", text(&out.stderr));
                signature(&out.stdout, kind)
            });
            let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(said[0], said[1], "{line}, round {round}");
            assert_eq!(kept["signature"], said[0].as_str(), "{line}, round {round}");
            std::fs::remove_file(&path).unwrap();
        }
        // It is another one each time: what is the same was made once.
        let (one, other) = (node.stage(line, input), {
            std::fs::remove_file(&path).unwrap();
            node.stage(line, input)
        });
        assert_ne!(signature(one.as_bytes(), kind), signature(other.as_bytes(), kind));
    }
}

/// A bucket that has nothing; its address.
fn empty_bucket() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/bucket", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                asked.push(byte[0]);
            }
            assert!(asked.is_empty() || asked.starts_with(b"HEAD "), "{}", text(&asked));
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

#[test]
fn a_dry_push_lists_the_earlier_states_that_the_bucket_lacks() {
    let node = Own::new();
    node.stage("bz-state init", &node.window);
    let mut state = String::new();
    for window in ["0", "1"] {
        let records = node.window.replace("\"window\":0", &format!("\"window\":{window}"));
        let accept = format!("{{\"type\":\"accept\",\"window\":{window},\"accepted\":[],\"norm_median\":0}}\n");
        state = node.stage("bz-state apply", &(records + &accept));
    }
    let push = |bucket: Option<&str>| {
        let mut command = node.command("bz-push -n", &state);
        if let Some(bucket) = bucket {
            command.env("BZ_BUCKET", bucket).env("BZ_ACCESS_KEY", "a").env("BZ_SECRET_KEY", "b");
        }
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        let pushes = lines(&out.stdout).into_iter().filter(|record| record["type"] == "push");
        assert!(pushes.clone().all(|push| push["uploaded"] == false));
        (pushes.map(|push| push["window"].as_u64().unwrap()).collect::<Vec<_>>(), text(&out.stderr))
    };
    assert_eq!(push(Some(&empty_bucket())), (vec![1, 1, 2, 2], String::new()));
    let (windows, said) = push(None);
    assert!(windows == [2, 2] && said.contains("the bucket is not asked what it has"), "{windows:?} {said}");
}

#[test]
fn what_tells_of_a_file_is_never_the_file() {
    let node = Own::new();
    for _ in 0..2 {
        let out = node.stage("bz-pages --uid 0 -o x.json", &node.window);
        let pages = lines(out.as_bytes()).into_iter().find(|record| record["type"] == "pages").unwrap();
        let there = std::fs::metadata(node.folder.path().join("x.json")).unwrap().len();
        assert_eq!(pages["bytes"], there, "{pages}");
    }
    assert!(node.folder.path().join("x.json.json").exists());
}

#[test]
fn a_manifest_that_runs_were_founded_with_is_not_replaced_by_itself() {
    let node = Node::new();
    let data = node.folder.path().join("text");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("a.txt"), "one").unwrap();
    let place = data.to_str().unwrap();
    let index = |more: &[&str]| node.run("bz-pages", &[&["index", "--data", place], more].concat(), "");
    let manifest = || std::fs::read(data.join("manifest.json")).unwrap();
    assert_eq!(index(&[]).status.code(), Some(0));
    let first = manifest();
    assert_eq!(index(&[]).status.code(), Some(0), "the same again");
    std::fs::write(data.join("a.txt"), "another").unwrap();
    for more in [&[][..], &["-n"]] {
        node.refuses("bz-pages", &[&["index", "--data", place], more].concat(), "", 78, "is the manifest");
    }
    assert_eq!(manifest(), first);
    assert_eq!(index(&["-n", "--force"]).status.code(), Some(0));
    assert_eq!(manifest(), first);
    assert_eq!(index(&["--force"]).status.code(), Some(0));
    assert_ne!(manifest(), first);
    // One that cannot be read names no text.
    std::fs::write(data.join("manifest.json"), "half").unwrap();
    assert_eq!(index(&[]).status.code(), Some(0));
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
