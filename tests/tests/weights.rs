//! Weights by every way that a subnet may ask for, with a chain and endpoints that fail: set once, or the reason is
//! said.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Mutex,
    time::{Duration, Instant},
};
use tests::{Localnet, Running, Way, everything, lines, shows_no_key, text, tool, until};

/// A validator of a local chain.
struct Validator<'a> {
    network: &'a Localnet,
    chain: String,
    home: PathBuf,
    /// All that its tools ever said.
    said: Mutex<String>,
}

impl<'a> Validator<'a> {
    fn join(network: &'a Localnet, chain: &str, home: PathBuf) -> Self {
        std::fs::create_dir_all(&home).unwrap();
        network.run(&["join", "vera", "--stake", "100"]);
        Validator { network, chain: chain.into(), home, said: Mutex::default() }
    }

    fn command(&self, name: &str, chain: &str, args: &[&str]) -> Command {
        let wallets = self.network.0.join("wallets");
        let mut command = tool(name, &self.home);
        command.args(["--network", chain, "--wallet", "vera"]).arg("--wallet-path").arg(wallets).args(args);
        command
    }

    fn tool(&self, name: &str, chain: &str, args: &[&str], input: &str) -> Output {
        let path = self.home.join("input");
        std::fs::write(&path, input).unwrap();
        let out = self.command(name, chain, args).stdin(std::fs::File::open(path).unwrap()).output().unwrap();
        *self.said.lock().unwrap() += &(text(&out.stdout) + &text(&out.stderr));
        out
    }

    fn peers(&self, mechanism: &str) -> Vec<Value> {
        let out = self.tool("bz-window", &self.chain, &["--peers", "--mechanism", mechanism], "");
        assert!(out.status.success(), "{}", text(&out.stderr));
        lines(&out.stdout).into_iter().filter(|record| record["type"] == "peer").collect()
    }

    /// All weight for uid 0.
    fn weights(&self) -> String {
        let target = self.peers("0").into_iter().find(|peer| peer["uid"] == 0).unwrap()["hotkey"].clone();
        let all = [
            json!({"type": "begin", "v": 1, "tool": "t", "version": "0"}),
            json!({"type": "weights", "window": 1_000_000, "uids": [0], "hotkeys": [target], "weights": [1.0]}),
            json!({"type": "end", "v": 1, "tool": "t", "wall_s": 0}),
        ];
        all.iter().map(|record| format!("{record}\n")).collect()
    }

    /// At any time of an epoch, unless the arguments say otherwise.
    fn set_by(&self, chain: &str, args: &[&str]) -> (Value, String, Option<i32>) {
        let anytime: &[&str] = if args.contains(&"--margin") { &[] } else { &["--margin", "5000"] };
        let out = self.tool("bz-setweights", chain, &[args, anytime].concat(), &self.weights());
        let record = lines(&out.stdout).into_iter().rfind(|record| record["type"] == "weights");
        (record.unwrap_or_default(), text(&out.stderr), out.status.code())
    }

    fn set(&self, args: &[&str]) -> (Value, String) {
        let (record, error, code) = self.set_by(&self.chain, args);
        assert_eq!(code, Some(0), "{error}");
        (record, error)
    }

    /// What time alone does not change: not set, said in the record, and noticed by cron.
    fn is_stopped(&self, args: &[&str], words: &str) {
        let (record, error, code) = self.set_by(&self.chain, args);
        assert!(!submitted(&record) && reason(&record).contains(words), "{record}");
        assert!(code == Some(78) && error.contains(words), "{code:?} {error}");
    }

    /// `--reveal` alone; its record, null where nothing was due.
    fn reveal(&self, args: &[&str]) -> (Value, String) {
        let out = self.tool("bz-setweights", &self.chain, &[&["--reveal"], args].concat(), "");
        assert!(out.status.success(), "{}", text(&out.stderr));
        let record = lines(&out.stdout).into_iter().rfind(|record| record["type"] == "weights");
        (record.unwrap_or_default(), text(&out.stderr))
    }

    fn doctor(&self) -> Value {
        let out = self.tool("bz-chain", &self.chain, &["doctor"], "");
        lines(&out.stdout).into_iter().find(|record| record["type"] == "doctor").unwrap_or_default()
    }

    fn sealed(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.home.join("sealed")).into_iter().flatten();
        found
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .collect()
    }

    /// Until uid 0 has this incentive.
    fn paid(&self, mechanism: &str, incentive: f64) {
        until("uid 0 is not paid", || self.peers(mechanism)[0]["incentive"] == incentive);
    }

    fn next_epoch(&self) {
        let next = self.doctor()["next_epoch_at"].as_u64().unwrap();
        self.network.reach(next);
    }

    /// Nothing that this validator's tools said or wrote holds a key.
    fn kept_its_secrets(&self) {
        let log = std::fs::read_to_string(self.network.0.join("log")).unwrap();
        let all = self.said.lock().unwrap().clone() + &log + &everything(&self.home);
        shows_no_key(&all, &self.network.0.join("wallets/vera"));
    }
}

fn submitted(record: &Value) -> bool {
    record["submitted"] == true && record["block"].as_u64().unwrap() > 0 && record["tx"].is_string()
}

fn reason(record: &Value) -> &str {
    record["reason"].as_str().unwrap_or_default()
}

#[test]
fn weights_go_by_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up(folder.path().join("net"));
    // No permit before the first epoch, and no surprise.
    network.run(&["set", "tempo", "1000"]);
    let vera = Validator::join(&network, &chain, folder.path().join("home"));
    vera.is_stopped(&[], "no validator permit");
    network.run(&["set", "tempo", "20"]);
    vera.next_epoch();
    network.run(&["new-block", "8"]);

    // The default: encrypted to a round of the beacon.
    let (dry, _) = vera.set(&["--dry-run"]);
    assert_eq!(dry["call"], "SubtensorModule.commit_timelocked_weights");
    assert!(dry["call_bytes"].as_str().unwrap().starts_with("0x0771"), "{dry}");
    assert!(dry["submitted"] == false && vera.doctor()["waiting_for_reveal"] == 0, "{dry}");
    let (record, error) = vera.set(&[]);
    assert!(submitted(&record) && reason(&record).contains("the chain reveals it from block"), "{record} {error}");
    network.run(&["fault", "stall", "600"]);
    assert_eq!(vera.doctor()["waiting_for_reveal"], 1);
    let (again, _) = vera.set(&[]);
    assert!(!submitted(&again) && reason(&again).contains("too early"), "{again}");
    assert!(vera.peers("0").iter().all(|peer| peer["incentive"] == 0.0), "nothing is known before its round");
    network.run(&["fault", "stall", "0"]);
    vera.paid("0", 1.0);
    assert_eq!(vera.doctor()["waiting_for_reveal"], 0);

    // By a hash, revealed by this tool.
    let (dry, _) = vera.set(&["--dry-run", "--commit", "hash", "--force"]);
    assert!(vera.sealed().is_empty(), "{dry}");
    vera.next_epoch();
    network.run(&["new-block", "8"]);
    let (record, error) = vera.set(&["--commit", "hash"]);
    assert!(submitted(&record) && reason(&record).contains("to be revealed from block"), "{record} {error}");
    let kept = vera.sealed();
    assert_eq!(kept.len(), 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept[0]).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "nobody else reads what is sealed");
    let (none, error) = vera.reveal(&[]);
    assert!(vera.sealed().len() == 1 && none.is_null(), "{error}");
    // The only copy of the salt is elsewhere: said. It is broken: said, and left.
    let salt = std::fs::read(&kept[0]).unwrap();
    std::fs::write(&kept[0], &salt[..50]).unwrap();
    let (_, error) = vera.reveal(&[]);
    assert!(error.contains("cannot be read, and is left") && error.contains("their salt is not in"), "{error}");
    std::fs::write(&kept[0], salt).unwrap();
    vera.next_epoch();
    // A dry run shows the reveal. What the chain would refuse is not sent, and stops nothing.
    let (dry, _) = vera.reveal(&["--dry-run"]);
    assert!(dry["call"] == "SubtensorModule.reveal_weights" && dry["submitted"] == false, "{dry}");
    network.run(&["set", "weights_version_key", "9"]);
    let out = vera.tool("bz-setweights", &chain, &["--reveal"], "");
    let record = lines(&out.stdout).into_iter().rfind(|record| record["type"] == "weights").unwrap();
    assert!(!submitted(&record) && reason(&record).contains("the subnet asks for 9 now"), "{record}");
    assert_eq!(out.status.code(), Some(78), "cron has to notice");
    network.run(&["set", "weights_version_key", "0"]);
    let (record, error) = vera.reveal(&[]);
    assert!(submitted(&record) && vera.sealed().is_empty(), "{record} {error}");
    assert!(vera.reveal(&[]).0.is_null(), "nothing waits");

    // A second mechanism has weights and incentive of its own.
    network.run(&["set", "mechanism_count", "2"]);
    let out = vera.tool("bz-setweights", &chain, &["--mechanism", "2"], &vera.weights());
    assert!(out.status.code() == Some(78) && text(&out.stderr).contains("has no mechanism 2"));
    let (record, error) = vera.set(&["--mechanism", "1"]);
    assert!(submitted(&record), "{record} {error}");
    vera.paid("1", 1.0);

    // Plain.
    network.run(&["set", "commit_reveal_weights_enabled", "false"]);
    vera.next_epoch();
    network.run(&["new-block", "8"]);
    let (dry, _) = vera.set(&["--dry-run"]);
    // Pallet, call, netuid, one uid, one weight, version key.
    assert_eq!(dry["call_bytes"], "0x0700010004000004ffff0000000000000000");
    let (record, error) = vera.set(&[]);
    assert!(submitted(&record) && record["reason"].is_null(), "{record} {error}");
    let (again, _) = vera.set(&[]);
    assert!(!submitted(&again) && reason(&again).contains("too early"), "{again}");

    // What the chain asks for is said before anything is signed.
    for (name, value, args, words) in [
        ("weights_version_key", "9", &["--version-key", "3"][..], "the version key is 3, the subnet asks for 9"),
        // The run names none: the chain's own is not taken for it.
        ("weights_version_key", "9", &[], "the version key is 0, the subnet asks for 9"),
        ("stake_threshold", "900000000000", &[], "weights need 900"),
    ] {
        network.run(&["set", name, value]);
        vera.is_stopped(args, words);
        network.run(&["set", name, "0"]);
    }
    network.run(&["set", "min_allowed_weights", "2"]);
    let (record, _) = vera.set(&[]);
    assert!(!submitted(&record) && reason(&record).contains("the subnet asks for 2"), "{record}");
    network.run(&["set", "min_allowed_weights", "0"]);
    vera.kept_its_secrets();
}

#[test]
fn weights_are_set_late_and_again_where_the_chain_did_not_open_them() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up_with(folder.path().join("net"), &["--interval", "0.25"]);
    let vera = Validator::join(&network, &chain, folder.path().join("home"));
    network.run(&["set", "tempo", "40"]);
    vera.next_epoch();
    network.run(&["new-block", "9"]);
    // The last ones of an epoch count.
    let (early, error) = vera.set(&["--margin", "5"]);
    assert!(!submitted(&early) && reason(&early).contains("the last weights of an epoch count"), "{early} {error}");
    let end = vera.doctor()["next_epoch_at"].as_u64().unwrap();
    network.reach(end - 24);
    let (record, error) = vera.set(&["--margin", "25"]);
    assert!(submitted(&record) && reason(&record).contains("the chain reveals it from block"), "{record} {error}");
    // The subnet asks for more when it opens them: the chain drops them without a word.
    network.run(&["set", "weights_version_key", "9"]);
    vera.next_epoch();
    until("the chain does not open it", || vera.doctor()["waiting_for_reveal"] == 0);
    assert_eq!(vera.doctor()["weights"], json!([]));
    network.run(&["set", "weights_version_key", "0"]);
    let (record, error) = vera.set(&["--margin", "1"]);
    assert!(submitted(&record) && error.contains("it is committed again"), "{record} {error}");
    // Once: what is opened is forgotten. The beacon goes by the clock, so that nothing is hurried here.
    vera.paid("0", 1.0);
    let (record, error) = vera.set(&["--margin", "1"]);
    assert!(!submitted(&record) && !error.contains("it is committed again"), "{record} {error}");
    vera.kept_its_secrets();
}

#[test]
fn weights_are_set_once_whatever_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up_with(folder.path().join("net"), &["--interval", "0.2", "--finality", "5"]);
    let vera = Validator::join(&network, &chain, folder.path().join("home"));
    network.run(&["set", "tempo", "60"]);
    vera.next_epoch();
    network.run(&["new-block", "6"]);
    assert_eq!(vera.doctor()["permit"], true);
    for how in ["timelock", "hash"] {
        vera.next_epoch();
        network.run(&["new-block", "6"]);
        let commit = ["--commit", how];
        // The node refuses: said, with what to do, and nothing was sent.
        network.run(&["fault", "refuse", "1"]);
        let (_, error, code) = vera.set_by(&chain, &commit);
        assert!(code == Some(75) && error.contains("refused it a moment ago"), "{error}");
        assert_eq!(vera.doctor()["waiting_for_reveal"], 0);

        // The endpoint goes away before the node has the commit, then after it.
        let method = "author_submitAndWatchExtrinsic";
        for after in [false, true] {
            let way = Way::to(&chain);
            way.cut_at(method, after);
            let (_, error, code) = vera.set_by(&way.address, &commit);
            assert!(code == Some(75) && error.contains("whether it went in is not known"), "{error}");
            network.run(&["new-block", "7"]);
            assert_eq!(vera.doctor()["waiting_for_reveal"], u64::from(after), "{error}");
        }
        let (record, _) = vera.set(&commit);
        assert!(!submitted(&record) && reason(&record).contains("too early"), "{record}");

        // The node itself dies between commit and reveal, and comes back.
        let pid = network.run(&["status"])["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        assert_eq!(network.run(&["up"])["finality"], 5);
        assert_eq!(vera.doctor()["waiting_for_reveal"], 1);
        if how == "timelock" {
            vera.next_epoch();
            until("the chain does not reveal it", || vera.doctor()["waiting_for_reveal"] == 0);
        } else {
            the_reveal_is_taken_back_once(&network, &vera);
        }
        network.run(&["new-block", "66"]);
        vera.paid("0", 1.0);
        // Uid 0 is paid by these weights, and by no others.
        assert_eq!(vera.doctor()["weights"], json!([[0, 65535]]));
    }
    vera.kept_its_secrets();
}

/// The chain stands at the epoch of the reveal, and takes back its last three blocks with the reveal in one of them.
fn the_reveal_is_taken_back_once(network: &Localnet, vera: &Validator) {
    vera.next_epoch();
    network.run(&["new-block", "5"]);
    network.run(&["fault", "stall", "600"]);
    let kept = vera.sealed().len();
    let revealing = Running::start(&mut vera.command("bz-setweights", &vera.chain, &["--reveal"]));
    until("the reveal is not sent", || network.run(&["status"])["waiting"] == 1);
    // It holds a key now, and would leave no core.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", revealing.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().rev().skip(1).take(2).all(|limit| limit == "0"), "{core}");

    network.run(&["new-block", "3"]);
    assert_eq!(network.run(&["status"])["waiting"], 0);
    let then = network.run(&["fault", "fork", "3"])["then"].clone();
    assert_eq!(then["retracted"], json!(["SubtensorModule.reveal_weights"]), "it was in one of the three");
    network.run(&["new-block", "8"]);
    let out = revealing.output();
    let record = lines(&out.stdout).into_iter().rfind(|record| record["type"] == "weights").unwrap();
    assert!(submitted(&record) && reason(&record) == "revealed", "{record} {}", text(&out.stderr));
    // The blocks that were made in their place do not have it: it is in the one after them.
    assert_eq!(record["block"], then["last"]);
    assert_eq!(vera.doctor()["waiting_for_reveal"], 0);
    // Those that no node ever took stay: nobody can know that yet.
    assert_eq!(vera.sealed().len(), kept - 1);
    assert!(vera.reveal(&[]).0.is_null(), "once");
    network.run(&["fault", "stall", "0"]);
}

/// A clock that loses no block: a thousand of them, while the connection breaks ten times.
#[test]
fn no_block_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (network, address) = Localnet::up_with(folder.path().join("net"), &["--interval", "0.05"]);
    network.run(&["fault", "stall", "3600"]);
    let way = Way::to(&address);
    let args = chain::ChainArgs { network: vec![way.address.clone()], netuid: 1, mechanism: 0 };
    let chain = chain::Chain::connect(&args).unwrap();
    let first = chain.finalized().unwrap();
    let mut told = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..10 {
                until("it does not come back", || way.connections() > 0);
                network.run(&["new-block", "50"]);
                if round % 2 == 0 {
                    way.break_off();
                    network.run(&["new-block", "50"]);
                } else {
                    way.cut();
                    network.run(&["new-block", "50"]);
                    way.mend();
                }
            }
        });
        let hash = chain.wait_for(first + 1000, |block| told.push(block)).unwrap();
        assert_eq!(Some(hash), chain.block_hash(first + 1000).unwrap());
    });
    assert_eq!(told, (first..=first + 1000).collect::<Vec<_>>());
    assert!(way.came() > 10, "it was broken off {} times", way.came() - 1);
}

/// A full subnet is read at once.
#[test]
fn a_full_subnet_in_few_requests() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up_with(folder.path().join("net"), &["--interval", "0.25"]);
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let mut join = tool("bz-localnet", &home);
    let out = join.arg("--dir").arg(&network.0).args(["join", "peer", "--count", "255"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let way = Way::to(&chain);
    let since = Instant::now();
    let out = tool("bz-window", &home).args(["--network", &way.address, "--peers"]).output().unwrap();
    let took = since.elapsed();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let peers: Vec<Value> = lines(&out.stdout).into_iter().filter(|record| record["type"] == "peer").collect();
    assert_eq!(peers.len(), 256);
    assert!(peers.iter().filter(|peer| peer["bucket"].is_string()).count() == 255);
    let (requests, bytes) = way.counted();
    println!("256 peers: {requests} requests, {bytes} bytes, {took:?}");
    assert!(requests < 100, "{requests} requests");
    assert!(took < Duration::from_secs(2), "{took:?}");
}
