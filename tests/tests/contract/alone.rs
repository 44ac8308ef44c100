//! The commands that need no chain: a window of a run that no chain has, by hand, of a wallet that is its own peer.

use crate::{Node, Offer, chain, changed, framed, give, offers, refused, typed};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::Write,
    ops::Deref,
    path::{Path, PathBuf},
    process::Stdio,
};
use tests::{bins, program, text};

/// A node of a run without a chain, with a wallet and a peer that is this wallet.
struct Alone {
    node: Node,
    folder: tempfile::TempDir,
    data: PathBuf,
    window: Vec<Value>,
}

impl Deref for Alone {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Alone {
    fn new(edit: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wallets = folder.path().join("wallets");
        let args = wallet::WalletArgs {
            name: "default".into(),
            hotkey: "default".into(),
            wallet_path: Some(wallets.clone()),
            password_file: None,
        };
        args.create().unwrap();
        let key = args.public().unwrap();
        let (home, data, mut window) = tests::node_without_chain(folder.path(), |hparams| {
            hparams["data"]["max_uids"] = 4.into();
            edit(hparams);
        });
        window.push(
            json!({"type": "peer", "uid": 0, "hotkey": key.to_string(), "bucket": null, "stake": 0.0, "incentive": 0.0,
            "permit": false, "last_update": 0, "self": true}),
        );
        let settings = [("BT_WALLET_PATH", wallets.display()), ("BZ_DATA", data.display())];
        let mut settings: Vec<_> = settings.map(|(name, path)| (name.to_string(), path.to_string())).into();
        settings.push(("BZ_THREADS".into(), "1".into()));
        let node = Node { folder: folder.path().into(), home, settings };
        Alone { node, folder, data, window }
    }

    /// The records of a window, its last block known or not.
    fn input(&self, reveal: bool) -> String {
        let mut all = self.window.clone();
        if reveal {
            all.iter_mut().filter(|r| r["type"] == "window").for_each(|r| r["reveal"] = "07".repeat(32).into());
        }
        all.iter().map(line_of).collect()
    }

    /// What a validator has of itself as a peer: its own commitment and delta, as if they had been fetched.
    fn pulled(&self, receipt: &str) -> String {
        let fetched = receipt.lines().map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            if record["type"] == "commit" {
                record["status"] = "ok".into();
            }
            line_of(&record)
        });
        // What went before is no part of this stream.
        let bare =
            fetched.filter(|line| !["\"begin\"", "\"end\"", "\"step\""].iter().any(|frame| line.contains(frame)));
        self.input(true) + &bare.filter(|line| !line.contains("\"type\":\"window\"")).collect::<String>()
    }
}

/// A record's line, its type first.
fn line_of(record: &Value) -> String {
    let mut rest = record.clone();
    let kind = rest.as_object_mut().unwrap().remove("type").unwrap();
    format!("{{\"type\":{kind},{}\n", rest.to_string().trim_start_matches('{'))
}

/// One stage of a window, as it is run without a chain.
struct Stage {
    line: String,
    /// What is read.
    input: String,
    /// Whether a second run changes nothing, and a dry run writes nothing: of all that offer it.
    dry: bool,
}

/// Every stage that needs no chain, in its order, each run for real once it was handed to `each`.
fn stages(node: &Alone, mut each: impl FnMut(&Stage)) {
    let mut run = |line: &str, input: &str, dry: bool| {
        let stage = Stage { line: line.into(), input: input.into(), dry };
        each(&stage);
        node.stage(line, input)
    };
    let window = node.input(false);
    run("bz-state init", &window, true);
    let pages = run("bz-pages --uid 0", &window, true);
    let train = run("bz-train --device cpu", &pages, true);
    let commit = run("bz-delta commit", &train, true);
    let over = commit.replace("\"reveal\":null", &format!("\"reveal\":\"{}\"", "07".repeat(32)));
    assert_ne!(over, commit);
    let receipt = run("bz-delta make", &over, true);
    let checked = run("bz-delta check", &node.pulled(&receipt), false);
    let audit = run("bz-pages --role audit", &checked, true);
    let again = run("bz-train --device cpu", &audit, true);
    let scores = run("bz-score", &again, false);
    assert!(scores.contains("\"type\":\"score\""), "{scores}");
    let accept = run("bz-score accept", &scores, false);
    assert!(accept.contains("\"accepted\":[{"), "{accept}");
    let state = run("bz-state apply", &accept, true);
    assert!(state.contains("\"signature\""), "{state}");
    run("bz-score fold -", &scores, false);
    run("bz-eval --device cpu", &pages, false);
    run(&format!("bz-state verify {}", node.home.join("states/1").display()), &window, false);
    let later = node.input(false).replace("\"window\":0", "\"window\":4");
    run("bz-state carry", &later, true);
}

#[test]
fn a_dry_run_writes_nothing_and_a_second_run_does_nothing() {
    let node = Alone::new(|_| ());
    let mut covered = BTreeSet::new();
    let mut before: Option<(String, String)> = None;
    let second = |node: &Alone, line: &str, input: &str| {
        let was = node.snapshot();
        node.stage(line, input);
        assert_eq!(changed(&was, &node.snapshot()), Vec::<PathBuf>::new(), "a second {line} changes nothing");
    };
    stages(&node, |stage| {
        if let Some((line, input)) = before.take() {
            second(&node, &line, &input);
        }
        let was = node.snapshot();
        if stage.dry {
            let out = node.run(&format!("{} --dry-run", stage.line), &stage.input);
            assert_eq!(out.status.code(), Some(0), "{} -n: {}", stage.line, text(&out.stderr));
            framed(&stage.line, &text(&out.stdout));
            covered.insert(stage.line.split(" -").next().unwrap().to_string());
        }
        assert_eq!(changed(&was, &node.snapshot()), Vec::<PathBuf>::new(), "{} -n writes nothing", stage.line);
        before = Some((stage.line.clone(), stage.input.clone()));
    });
    let (line, input) = before.unwrap();
    second(&node, &line, &input);
    // The index of a source, whose rows stand in the run already.
    let index = format!("bz-pages index --data {} --name t", node.data.display());
    std::fs::remove_file(node.data.join("manifest.json")).unwrap();
    let was = node.snapshot();
    let out = node.run(&format!("{index} -n"), "");
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    typed("bz-pages index", &text(&out.stdout));
    assert_eq!(changed(&was, &node.snapshot()), Vec::<PathBuf>::new());
    covered.insert("bz-pages index".into());
    // The sum is tried with a run whose update is one gradient.
    covered.insert("bz-delta sum".into());
    let here = offers().iter().filter(|offer| !chain::TOOLS.contains(&offer.tool.as_str()));
    let offered: BTreeSet<String> = here.filter(|offer| offer.has("--dry-run")).map(Offer::name).collect();
    assert_eq!(offered, covered, "every command that offers --dry-run is tried");
}

#[test]
fn quiet_is_quiet_and_verbose_says_more() {
    let node = Alone::new(|_| ());
    stages(&node, |stage| {
        let said = |flag: &str| {
            let out = node.run(&format!("{} {flag}", stage.line), &stage.input);
            assert_eq!(out.status.code(), Some(0), "{} {flag}: {}", stage.line, text(&out.stderr));
            text(&out.stderr)
        };
        assert_eq!(said("-q"), "", "{} -q", stage.line);
        let more = said("-v");
        assert!(more.contains(&format!("{}: ", stage.line.split(' ').next().unwrap())), "{} -v: {more}", stage.line);
    });
}

#[test]
fn an_output_is_where_it_was_asked_for_and_force_makes_it_again() {
    let node = Alone::new(|_| ());
    let own = |path: &str| node.home.join(path);
    let makes = [
        ("bz-state init", own("states/0/model.safetensors")),
        ("bz-pages", own("windows/0/pages-own-0.safetensors")),
        ("bz-train", own("windows/0/update-own-0.safetensors")),
        ("bz-delta commit", own("windows/0/commit.json")),
        ("bz-delta make", own("windows/0/delta.safetensors")),
        ("bz-state apply", own("states/1/model.safetensors")),
    ];
    let mut tried = (BTreeSet::new(), BTreeSet::new());
    let mut before: Option<(String, String, PathBuf)> = None;
    let force = |line: &str, input: &str, path: &Path, good: &[u8]| {
        let mut damaged = good.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        std::fs::write(path, &damaged).unwrap();
        node.stage(&format!("{line} --force"), input);
        let made = std::fs::read(path).unwrap();
        assert!(made != damaged, "{line} --force makes {} again", path.display());
        // A signature differs each time; what later stages have read is put back.
        assert!(made == good || line.starts_with("bz-delta"), "{line} --force mends {}", path.display());
        std::fs::write(path, good).unwrap();
    };
    stages(&node, |stage| {
        if let Some((line, input, path)) = before.take() {
            let good = std::fs::read(&path).unwrap();
            force(&line, &input, &path, &good);
        }
        let Some((name, path)) = makes.iter().find(|(name, path)| stage.line.starts_with(name) && !path.exists())
        else {
            return;
        };
        tried.1.insert((*name).to_string());
        if *name != "bz-state apply" {
            tried.0.insert((*name).to_string());
            let other = node.folder.path().join(format!("other-{}", tried.0.len()));
            let was = node.snapshot();
            let out = node.stage(&format!("{} -o {}", stage.line, other.display()), &stage.input);
            assert!(other.exists() && out.contains(other.to_str().unwrap()), "{name} -o: {out}");
            let beside =
                |path: &PathBuf| path.starts_with(&node.home) && !path.ends_with("run.json") && *path != node.home;
            let strays: Vec<PathBuf> = changed(&was, &node.snapshot()).into_iter().filter(beside).collect();
            assert_eq!(strays, Vec::<PathBuf>::new(), "{name} -o writes nowhere else");
            if *name != "bz-state init" {
                let out = node.run(&format!("{} -o {}", stage.line, node.folder.path().display()), &stage.input);
                refused(&stage.line, &out, 2, "is a folder");
            }
        }
        before = Some((stage.line.clone(), stage.input.clone(), path.clone()));
    });
    let offering =
        |flag: &str| -> BTreeSet<String> { offers().iter().filter(|offer| offer.has(flag)).map(Offer::name).collect() };
    let with = |tried: BTreeSet<String>, more: &[&str]| -> BTreeSet<String> {
        tried.into_iter().chain(more.iter().map(|name| (*name).to_string())).collect()
    };
    // The sum has no other place; two of them are tried with a bucket and a chain.
    assert_eq!(offering("-o"), with(tried.0, &["bz-delta sum"]));
    assert_eq!(offering("--force"), with(tried.1, &["bz-pull", "bz-setweights", "bz-pages index"]));
}

#[test]
fn one_output_for_several_records_is_a_wrong_command_line() {
    let node = Alone::new(|_| ());
    let window = node.input(false);
    node.stage("bz-state init", &window);
    let pages = node.stage("bz-pages --uid 0", &window);
    let record = pages.lines().find(|line| line.starts_with("{\"type\":\"pages\"")).unwrap();
    let twice = format!("{window}{record}\n{record}\n");
    let out = node.run("bz-train --device cpu -o one.safetensors", &twice);
    refused("bz-train", &out, 2, "names one file");
}

/// The stages that read a stream, each with what it needs to come that far.
const READERS: [&str; 20] = [
    "bz-state init",
    "bz-state apply",
    "bz-state carry",
    "bz-state verify x",
    "bz-pages --uid 0",
    "bz-train --device cpu",
    "bz-eval --device cpu",
    "bz-delta commit",
    "bz-delta make",
    "bz-delta check",
    "bz-delta sum --parts 1 -o x",
    "bz-score",
    "bz-score accept",
    "bz-score fold",
    "bz-push",
    "bz-push --dry-run",
    "bz-pull --deltas",
    "bz-setweights --dry-run",
    "bz-chain commit",
    "bz-chain vote --dry-run",
];

#[test]
fn half_a_stream_is_refused_by_all_that_read_one() {
    let node = Alone::new(|_| ());
    let begin = |tool: &str| format!("{{\"type\":\"begin\",\"v\":1,\"tool\":\"{tool}\",\"version\":\"1\"}}\n");
    let end = |tool: &str| format!("{{\"type\":\"end\",\"v\":1,\"tool\":\"{tool}\",\"wall_s\":1}}\n");
    let body = node.input(true);
    for line in READERS.into_iter().chain(["bz-window"]) {
        for half in [
            begin("bz-x") + &body,
            begin("bz-x") + &body + &begin("bz-y") + &body + &end("bz-y"),
            begin("bz-x") + &body + &end("bz-y"),
            body.clone() + &end("bz-x"),
        ] {
            let out = node.run(line, &half);
            refused(line, &out, 65, "the input");
        }
        for noise in
            ["\u{1}\u{2}", "[]", "{\"a\":1}", "{\"type\":\"x\"", "null", "{\"type\":\"window\",\"type\":\"x\"}"]
        {
            refused(line, &node.run(line, noise), 65, "line 1 of the input");
        }
    }
    // Half a stream is not refused because a stream is: the same whole goes further.
    let whole = begin("bz-x") + &body + &end("bz-x");
    node.stage("bz-state init", &whole);
}

#[test]
fn a_long_input_takes_little_more_memory_than_it_has() {
    let node = Alone::new(|_| ());
    node.stage("bz-state init", &node.input(false));
    // 76 MB of zeros, which once took 2.4 GB; a quarter of that is what the tool may address here.
    let line = format!("{{\"type\":\"x\",\"a\":[{}0]}}\n", "0,".repeat(1_900_000));
    let long = node.input(false) + &line.repeat(20);
    for line in ["bz-score fold", "bz-delta check", "bz-state verify states/0"] {
        let mut command = program(Path::new("sh"));
        let (name, args) = line.split_once(' ').unwrap();
        command.args(["-c", "ulimit -v 600000 && exec \"$@\"", "sh"]).arg(bins().join(name)).args(args.split(' '));
        command.env("BZ_HOME", &node.home).env("RAYON_NUM_THREADS", "1").current_dir(&node.home);
        let out = give(&mut command, &long);
        assert!(matches!(out.status.code(), Some(0 | 1 | 65)), "{line}: {:?} {}", out.status, text(&out.stderr));
        assert!(!text(&out.stderr).contains("memory"), "{line}: {}", text(&out.stderr));
    }
    let out = node.run("bz-score fold", &"x".repeat(5 << 20));
    refused("bz-score fold", &out, 65, "longer than");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let node = Alone::new(|_| ());
    let long = node.input(true) + &format!("{{\"type\":\"x\",\"y\":\"{}\"}}\n", "y".repeat(1000)).repeat(2000);
    for line in READERS {
        let out = node.unheard(line, &long);
        assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr));
    }
}

#[test]
fn dash_is_the_input() {
    let node = Alone::new(|_| ());
    stages(&node, |_| ());
    let delta = std::fs::read(node.home.join("windows/0/delta.safetensors")).unwrap();
    for line in ["bz-delta show -", "bz-delta diff - -"] {
        let mut child = node.command(line);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = delta.clone();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap();
        if line.ends_with("- -") {
            refused(line, &out, 2, "twice");
            continue;
        }
        assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr));
        typed(line, &text(&out.stdout));
        assert!(text(&out.stdout).contains("\"signature\":\"ok\""), "{}", text(&out.stdout));
    }
}

#[test]
fn a_full_disk_and_one_that_cannot_be_written_are_told_apart() {
    let node = Alone::new(|_| ());
    let mut possible = true;
    stages(&node, |stage| {
        if possible && stage.dry && stage.line != "bz-state carry" {
            possible = node.meets_bad_disks(&stage.line, &stage.input);
        }
    });
}

#[test]
fn what_is_in_the_way_is_named() {
    let node = Alone::new(|_| ());
    let mut tried = 0;
    stages(&node, |stage| {
        let at = |path: &str| node.home.join(path);
        let place = match stage.line.split(" -").next().unwrap() {
            "bz-state init" => at("states/0/model.safetensors"),
            "bz-pages" if !stage.line.contains("audit") => at("windows/0/pages-own-0.safetensors"),
            "bz-train" if !at("windows/0/update-own-0.safetensors").exists() => {
                at("windows/0/update-own-0.safetensors")
            }
            "bz-delta commit" => at("windows/0/commit.json"),
            "bz-delta make" => at("windows/0/delta.safetensors"),
            "bz-state apply" => at("states/1/model.safetensors"),
            _ => return,
        };
        std::fs::create_dir_all(&place).unwrap();
        refused(&stage.line, &node.run(&stage.line, &stage.input), 65, place.file_name().unwrap().to_str().unwrap());
        std::fs::remove_dir(&place).unwrap();
        tried += 1;
    });
    assert_eq!(tried, 6);
    // A file where a folder belongs.
    let file = node.home.join("hparams.json");
    for line in [format!("bz-state verify {}", file.display()), format!("bz-state show {}", file.display())] {
        refused(&line, &node.run(&line, &node.input(false)), 65, "a file stands where a folder belongs");
    }
}

#[test]
fn each_exit_code_has_its_cause() {
    let node = Alone::new(|_| ());
    let (window, over) = (node.input(false), node.input(true));
    let empty = tempfile::tempdir().unwrap();
    let cases: [(&str, &str, i32, &str); 15] = [
        ("bz-pages --role given", &window, 2, "--page"),
        ("bz-score fold --last 0", &window, 2, "--last"),
        ("bz-delta check", &window, 1, "is not over"),
        ("bz-delta make", &window, 65, "no own `train` record"),
        ("bz-score accept", &over, 65, "no `score` record"),
        ("bz-score fold", &window, 65, "no `score` record"),
        ("bz-train --device cpu --state nowhere", "", 0, ""),
        ("bz-pages --uid 0 --data nowhere", &window, 78, "nowhere"),
        ("bz-pages", &window.replace("\"self\":true", "\"self\":false"), 78, "is no peer"),
        ("bz-push", &window, 65, "not closed"),
        ("bz-window --network ws://127.0.0.1:1", "", 75, "cannot reach the chain"),
        ("bz-delta show text", "", 65, "a folder stands where the file belongs"),
        ("bz-state --threads 100000 show x", "", 2, "cores"),
        ("bz-train --threads 100000 --device cpu", "", 2, "cores"),
        ("bz-state verify --hparams nowhere.json x", &window, 78, "nowhere.json"),
    ];
    for (line, input, code, words) in cases {
        let out = node.run(line, input);
        match code {
            0 => assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr)),
            code => refused(line, &out, code, words),
        }
    }
    // Whether a run can meet its clock is asked before it has a subnet.
    let preset = tests::root().join("pipelines/hparams/124m.json");
    let out = program(&bins().join("bz-window")).args(["--check", "--hparams"]).arg(preset).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    framed("bz-window --check", &text(&out.stdout));
    // Another run's hparams: the answer is no.
    node.stage("bz-state init", &window);
    let mut other: Value = serde_json::from_slice(&std::fs::read(node.home.join("hparams.json")).unwrap()).unwrap();
    other["inner"]["lr"] = 0.5.into();
    let path = empty.path().join("other.json");
    std::fs::write(&path, other.to_string()).unwrap();
    let line = format!("bz-state verify --hparams {} {}", path.display(), node.home.join("states/0").display());
    refused(&line, &node.run(&line, ""), 1, "are of run");
}

#[test]
fn what_nobody_foresaw_is_a_bug_and_no_peers_fault() {
    let node = Alone::new(|_| ());
    let mut pulled = String::new();
    stages(&node, |stage| {
        if stage.line == "bz-delta check" {
            pulled.clone_from(&stage.input);
        }
    });
    // No machine starts a thread with such a stack.
    let without_threads = |line: &str, input: &str| {
        let mut command = node.command(line);
        command.env("RUST_MIN_STACK", (1_u64 << 48).to_string()).env_remove("BZ_THREADS").env_remove("RUST_BACKTRACE");
        give(&mut command, input)
    };
    for line in ["bz-state init --force", "bz-state verify states/0"] {
        let line = line.replace("states", &node.home.join("states").display().to_string());
        refused(&line, &without_threads(&line, &node.input(false)), 101, "a bug of this program");
    }
    // Over the bytes of a peer it would look as if they were to blame.
    refused("bz-delta check", &without_threads("bz-delta check", &pulled), 75, "starts no threads");
    refused("bz-state", &without_threads("bz-state --threads 2 init --force", &node.input(false)), 75, "no threads");
}

#[test]
fn a_state_is_mended_as_it_was_signed() {
    let node = Alone::new(|_| ());
    let mut accept = String::new();
    stages(&node, |stage| {
        if stage.line == "bz-state apply" {
            accept = stage.input.clone();
        }
    });
    let state = node.home.join("states/1");
    let verify = format!("bz-state verify {}", state.display());
    let record = || serde_json::from_slice::<Value>(&std::fs::read(state.join("state.json")).unwrap()).unwrap();
    let root = record()["root"].clone();
    let mut forged = record();
    forged["signature"] = "00".repeat(64).into();
    for (file, content) in
        [("state.json", forged.to_string()), ("config.json", "junk".into()), ("config.json", "{}".into())]
    {
        std::fs::write(state.join(file), content).unwrap();
        assert_eq!(node.run(&verify, &node.input(false)).status.code(), Some(1), "{file}");
        node.stage("bz-state apply --force", &accept);
        node.stage(&verify, &node.input(false));
        assert_eq!(record()["root"], root);
    }
    // Another list of the same window is never signed beside the first.
    std::fs::write(state.join("config.json"), "junk").unwrap();
    let other = accept.replace("\"weight_u16\":65535", "\"weight_u16\":1");
    assert_ne!(other, accept);
    refused("bz-state apply", &node.run("bz-state apply --force", &other), 1, "has another list");
}

#[test]
fn what_a_killed_stage_left_is_gone_after_the_next() {
    let node = Alone::new(|_| ());
    stages(&node, |_| ());
    let window = node.home.join("windows/0");
    let left =
        [window.join(".part-a-x"), node.home.join("states/0/.part-model.safetensors-x"), node.home.join(".part-y")];
    left.iter().for_each(|path| std::fs::write(path, "half").unwrap());
    // A good rerun that finds everything done.
    node.stage("bz-state apply", &node.input(false));
    for path in left {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn parts_of_one_gradient_are_summed_where_it_is_said() {
    let node = Alone::new(|hparams| {
        hparams["inner"]["optimizer"] = "sgd".into();
        hparams["inner"]["steps"] = 1.into();
        hparams["inner"]["clip"] = 0.into();
    });
    node.stage("bz-state init", &node.input(false));
    let pages = node.stage("bz-pages --uid 0", &node.input(false));
    let trained = node.stage("bz-train --device cpu", &pages);
    let was = node.snapshot();
    node.stage("bz-delta sum --parts 1 -n -o sum.safetensors", &trained);
    assert_eq!(changed(&was, &node.snapshot()), Vec::<PathBuf>::new());
    let sum = node.stage("bz-delta sum --parts 1 -o sum.safetensors", &trained);
    assert!(node.folder.path().join("sum.safetensors").exists() && sum.contains("\"path\":\"sum.safetensors\""));
    refused("bz-delta sum", &node.run("bz-delta sum --parts 1", &trained), 2, "--output");
    // A part that did not come, or came twice.
    let record = trained.lines().find(|line| line.starts_with("{\"type\":\"train\"")).unwrap();
    let twice = format!("{record}\n{record}\n");
    for (count, input) in [("2", &trained), ("2", &twice), ("1", &twice)] {
        let line = format!("bz-delta sum --parts {count} -o other.safetensors");
        refused("bz-delta sum", &node.run(&line, input), 65, "--parts");
    }
}
