//! Several nodes of one chain: one that goes away is left for the next, one that is on a fork is noticed; and what a subnet
//! is set to, who is in it, what stands before a wallet's weights.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output},
    time::Duration,
};
use tests::{Localnet, Running, Way, text, tool, until};

fn window(home: &Path, network: &str, args: &[&str]) -> Output {
    tool("bz-window", home).args(["--network", network]).args(args).output().unwrap()
}

#[test]
fn nodes_that_fork_lie_behind_or_go_away() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/hparams/demo.json");
    let mut hparams: Value = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    hparams["start_window"] = 1.into();
    hparams["data"]["manifest"] = "07".repeat(32).into();
    std::fs::write(home.join("hparams.json"), hparams.to_string()).unwrap();

    // Two nodes with the same blocks up to 30, and their own after it.
    let (one, _) = Localnet::up(folder.path().join("one"));
    one.reach(30);
    one.run(&["down"]);
    let copied = Command::new("cp").args(["-r"]).arg(&one.0).arg(folder.path().join("two")).status().unwrap();
    assert!(copied.success());
    std::fs::remove_file(folder.path().join("two/localnet.json")).unwrap();
    let (one, first) = Localnet::up(folder.path().join("one"));
    let (two, second) = Localnet::up(folder.path().join("two"));
    one.reach(60);
    two.reach(60);
    let both = format!("{first},{second}");
    // Window 1 begins at block 24, which they share, and ends at 47, about which they disagree.
    for network in [&first, &second] {
        assert!(window(&home, network, &["--window", "1"]).status.success());
    }
    let out = window(&home, &both, &["--window", "1"]);
    assert_eq!(out.status.code(), Some(75), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("disagree about block 47"), "{}", text(&out.stderr));

    // One that is far behind is left for the one that is not.
    two.reach(120);
    let out = window(&home, &both, &["--peers"]);
    assert!(out.status.success() && text(&out.stderr).contains("is not where the others are"), "{}", text(&out.stderr));
    // What it alone has is drawn from when the other stands still, and not while the other goes on: it may be made up.
    two.reach(480);
    let out = window(&home, &both, &["--window", "19"]);
    assert_eq!(out.status.code(), Some(75), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("1 have block 456, 1 do not, and their chain goes on"), "{}", text(&out.stderr));
    drop(two);
    // One that does not answer is passed over.
    let out = window(&home, &format!("{second},{first}"), &["--window", "1"]);
    assert!(out.status.success(), "{}", text(&out.stderr));

    // One that goes away while it is waited for: the next one goes on.
    let way = Way::to(&first);
    let now = one.run(&["status"])["block"].as_u64().unwrap();
    let next = (now / 24 + 1).to_string();
    let network = format!("{},{first}", way.address);
    let waiting =
        Running::start(tool("bz-window", &home).args(["--network", &network, "--window", &next, "--wait", "start"]));
    // Two requests to start with, then the subscription.
    until("it never waits", || way.counted().0 > 2);
    way.cut();
    let out = waiting.output();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).lines().any(|line| line.contains("\"window\"") && line.contains("\"seed\":\"")));

    what_the_subnet_is_and_who_is_in_it(&one, &first, &home);
    a_chain_runs_again_as_it_did(&one);
}

/// Transactions that get into each other's way, some of one nonce in one block: the chain still starts again as it was.
fn a_chain_runs_again_as_it_did(network: &Localnet) {
    let to = wallet::WalletArgs {
        name: "stranger".into(),
        hotkey: "default".into(),
        wallet_path: Some(network.0.join("wallets")),
        password_file: None,
    };
    let to = to.public().unwrap().to_string();
    let pay = |_| tool("bz-localnet", &network.0).arg("--dir").arg(&network.0).args(["faucet", &to]).spawn().unwrap();
    let mut paying: Vec<_> = (0..6).map(pay).collect();
    std::thread::sleep(Duration::from_secs(2));
    for child in &mut paying {
        // Who came too late waits for a block that will not have it.
        let _ = child.kill();
        let _ = child.wait();
    }
    let before = network.run(&["status"])["block"].as_u64().unwrap();
    network.run(&["down"]);
    network.run(&["up", "--interval", "0.2"]);
    assert!(network.run(&["status"])["block"].as_u64().unwrap() >= before);
}

fn what_the_subnet_is_and_who_is_in_it(network: &Localnet, chain: &str, home: &Path) {
    let wallets = network.0.join("wallets");
    let bz_chain = |wallet: &str, args: &[&str]| {
        let mut command = tool("bz-chain", home);
        command.args(["--network", chain, "--wallet", wallet]).arg("--wallet-path").arg(&wallets);
        let out = command.args(args).output().unwrap();
        let json: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (json, text(&out.stderr), out.status.code().unwrap())
    };
    let (json, error, code) = bz_chain("nobody", &["hyperparameters"]);
    assert!(code == 0 && json["Tempo"] == 5 && json["CommitRevealWeightsEnabled"] == true, "{json} {error}");
    // Who is not registered is told so, and what a place costs; nothing is burned without a limit.
    let stranger = wallet::WalletArgs {
        name: "stranger".into(),
        hotkey: "default".into(),
        wallet_path: Some(wallets.clone()),
        password_file: None,
    };
    stranger.create().unwrap();
    let (json, error, code) = bz_chain("stranger", &["doctor"]);
    assert!(code == 1 && json["registered"] == false && error.contains("bz-chain register"), "{json} {error}");
    for (args, words) in [
        (&["register"][..], "a place costs 0.1 TAO now: nothing was burned"),
        (&["register", "--limit", "0.05"], "more than the limit of 0.05"),
        (&["register", "--limit", "0.1"], "has 0 TAO"),
    ] {
        let (_, error, code) = bz_chain("stranger", args);
        assert!(code == 1 && error.contains(words), "{error}");
    }
    let cold = stranger.open_coldkey().unwrap().hotkey().to_string();
    network.run(&["faucet", &cold, "--tao", "1"]);
    let (json, error, code) = bz_chain("stranger", &["register", "--limit", "0.1"]);
    assert!(code == 0 && json["registered"] == true && json["price"] == 0.1, "{json} {error}");
    let (json, _, code) = bz_chain("stranger", &["doctor"]);
    assert!(code == 1 && json["obstacles"][0]["what"].as_str().unwrap().contains("no validator permit"), "{json}");
    // An address that needs more than one field of the chain comes back whole.
    let address = format!("https://{}:{}@{}.example.org/bucket", "k".repeat(32), "s".repeat(64), "h".repeat(40));
    let (_, error, code) = bz_chain("stranger", &["bucket", &address]);
    assert_eq!(code, 0, "{error}");
    let out = window(home, chain, &["--peers"]);
    let peers: Vec<Value> = text(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let peer = peers.iter().find(|peer| peer["coldkey"] == cold).unwrap();
    assert!(peer["bucket"] == address && peer["registered"].as_u64().unwrap() > 0, "{peer}");

    // The subnet is full: the next one takes its place, and is seen as another peer, while somebody watches.
    let full = peers.iter().filter(|peer| peer["type"] == "peer").count();
    network.run(&["set", "max_allowed_uids", &full.to_string()]);
    let mut watching = Running::start(tool("bz-window", home).args(["--network", chain, "--peers", "--watch"]));
    let mut seen = BufReader::new(watching.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let old = peer["hotkey"].as_str().unwrap();
    assert!(seen.any(|line| line.contains(old)), "whom it saw first");
    network.run(&["join", "newcomer"]);
    let newcomer = wallet::WalletArgs { name: "newcomer".into(), ..stranger.clone() }.public().unwrap().to_string();
    let out = window(home, chain, &["--peers"]);
    let now: Vec<Value> = text(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let other = now.iter().find(|other| other["uid"] == peer["uid"]).unwrap();
    assert_eq!(now.len(), peers.len());
    assert!(other["hotkey"] == newcomer && other["bucket"] != address, "{other}");
    assert!(other["registered"].as_u64() > peer["registered"].as_u64() && other["last_update"] == other["registered"]);
    assert!(seen.any(|line| line.contains(&newcomer)), "and then");
    let (json, _, code) = bz_chain("stranger", &["doctor"]);
    assert!(code == 1 && json["registered"] == false, "{json}");
}
