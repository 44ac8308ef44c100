//! Commitments and votes on a real chain: set, read back at any block, kept by a follower; what the chain has no room
//! for, what others write, and several tools that sign with one hotkey at once.
#![allow(clippy::unwrap_used, clippy::panic)]

use chain::{Call, Chain, ChainArgs, Signer};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tests::{Localnet, Running, lines, text, tool, until};
use wallet::WalletArgs;

/// A node's folder with the demo's run in it, and windows of so many blocks.
fn home_in(folder: &Path, name: &str, clock: [u64; 4]) -> PathBuf {
    let home = folder.join(name);
    std::fs::create_dir(&home).unwrap();
    let demo = tests::root().join("pipelines/hparams/demo.json");
    let mut hparams: Value = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    for (name, value) in ["blocks", "commit_offset", "deadline_offset", "state_offset"].iter().zip(clock) {
        hparams["clock"][*name] = value.into();
    }
    hparams["data"]["manifest"] = "07".repeat(32).into();
    std::fs::write(home.join("hparams.json"), hparams.to_string()).unwrap();
    home
}

/// Windows that no test comes to the end of.
const LONG: [u64; 4] = [100_000, 90_000, 100, 200];

fn hash(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

/// One node of a local chain.
struct Node<'a> {
    network: &'a Localnet,
    chain: String,
    home: PathBuf,
    name: &'static str,
}

/// What a tool said.
struct Said {
    record: Value,
    error: String,
    code: Option<i32>,
}

impl Node<'_> {
    fn wallet(&self) -> WalletArgs {
        WalletArgs {
            name: self.name.into(),
            hotkey: "default".into(),
            wallet_path: Some(self.network.0.join("wallets")),
            password_file: None,
        }
    }

    fn hotkey(&self) -> String {
        self.wallet().public().unwrap().to_string()
    }

    fn command(&self, name: &str, args: &[&str], input: &str) -> Command {
        let mut command = tool(name, &self.home);
        command.args(["--network", &self.chain, "--wallet", self.name]).arg("--wallet-path");
        command.arg(self.network.0.join("wallets")).args(args);
        if !input.is_empty() {
            let path = self.home.join(format!("input-{name}-{}", args.first().unwrap_or(&"")));
            std::fs::write(&path, input).unwrap();
            command.stdin(std::fs::File::open(path).unwrap());
        }
        command
    }

    fn bz_chain(&self, args: &[&str], input: &str) -> Said {
        said(&self.command("bz-chain", args, input).output().unwrap())
    }

    /// The run of this node, and a stream with a commitment of this hotkey.
    fn commit_to(&self, window: u64, commitment: u8) -> String {
        let out = tool("bz-window", &self.home).args(["--network", &self.chain, "--window", "0"]).output().unwrap();
        // It begins with the first block, in which there is no subnet yet: no peers follow.
        let run = lines(&out.stdout).into_iter().find(|record| record["type"] == "run").unwrap()["run"].clone();
        stream(&[json!({
            "type": "commit", "window": window, "run": run, "uid": 1, "hotkey": self.hotkey(),
            "commitment": hash(commitment), "signature": "00",
        })])
    }

    /// All entries, by hotkey.
    fn entries(&self, block: Option<u64>) -> Result<BTreeMap<String, Value>, Output> {
        let mut command = tool("bz-chain", &self.home);
        command.args(["--network", &self.chain, "entries"]);
        let block = block.map(|block| block.to_string());
        command.args(block.iter().flat_map(|block| ["--block", block]));
        let out = command.output().unwrap();
        if !out.status.success() {
            return Err(out);
        }
        let entries = lines(&out.stdout).into_iter().filter(|record| record["type"] == "entry");
        Ok(entries.map(|entry| (entry["hotkey"].as_str().unwrap().to_string(), entry)).collect())
    }

    fn entry(&self, block: Option<u64>) -> Value {
        self.entries(block).unwrap().remove(&self.hotkey()).unwrap_or_default()
    }

    fn doctor(&self) -> Value {
        let out = self.command("bz-chain", &["doctor"], "").output().unwrap();
        lines(&out.stdout).into_iter().find(|record| record["type"] == "doctor").unwrap()
    }
}

fn stream(records: &[Value]) -> String {
    let begin = json!({"type": "begin", "v": 1, "tool": "t", "version": "0"});
    let end = json!({"type": "end", "v": 1, "tool": "t", "wall_s": 0});
    [&[begin], records, &[end]].concat().iter().map(|record| format!("{record}\n")).collect()
}

fn said(out: &Output) -> Said {
    let mut own: Vec<Value> = lines(&out.stdout);
    own.retain(|record| !["begin", "end", "step", "commit", "vote"].contains(&record["type"].as_str().unwrap()));
    Said { record: own.pop().unwrap_or_default(), error: text(&out.stderr), code: out.status.code() }
}

#[test]
fn a_commitment_and_a_vote_are_set_once_and_read_back_at_any_block() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up(folder.path().join("net"));
    network.run(&["set", "tempo", "5000"]);
    network.run(&["join", "alice"]);
    let home = home_in(folder.path(), "home", LONG);
    let alice = Node { network: &network, chain: chain.clone(), home, name: "alice" };
    let bucket = alice.entry(None)["bucket"].clone();
    assert!(bucket.as_str().unwrap().ends_with("/alice"), "{bucket}");

    // Nothing is written by a dry run, not even a lock.
    let dry = alice.bz_chain(&["commit", "--dry-run"], &alice.commit_to(0, 1));
    assert_eq!((dry.code, &dry.record["status"]), (Some(0), &json!("dry-run")), "{} {}", dry.record, dry.error);
    assert!(dry.record["call_bytes"].as_str().unwrap().starts_with("0x1200"), "{}", dry.record);
    assert!(!alice.home.join("chain").exists());
    // A stream that breaks off, and what is another's or of another run, is refused before anything is signed.
    let whole = alice.commit_to(0, 1);
    let cut: String = whole.lines().take(2).map(|line| format!("{line}\n")).collect();
    let bare: String = whole.lines().skip(1).take(1).map(|line| format!("{line}\n")).collect();
    let others = whole.replace(&alice.hotkey(), &record::Hotkey([7; 32]).to_string());
    let fetched = whole.replace("\"signature\"", "\"status\":\"ok\",\"signature\"");
    for (input, words) in [(cut, "breaks off"), (bare, "not closed"), (others, "no `commit`"), (fetched, "no `commit`")]
    {
        let refused = alice.bz_chain(&["commit"], &input);
        assert!(refused.code == Some(65) && refused.error.contains(words), "{:?} {}", refused.code, refused.error);
    }
    let elsewhere = Node { home: home_in(folder.path(), "elsewhere", [1000, 900, 100, 200]), ..alice };
    let refused = elsewhere.bz_chain(&["commit"], &whole);
    assert!(refused.code == Some(78) && refused.error.contains("this node's is"), "{}", refused.error);
    let alice = Node { home: folder.path().join("home"), ..elsewhere };

    let committed = alice.bz_chain(&["commit"], &alice.commit_to(0, 1));
    assert_eq!((committed.code, &committed.record["status"]), (Some(0), &json!("ok")), "{}", committed.error);
    assert!(committed.record["submitted"] == true && committed.record["by_block"] == 90_000, "{}", committed.record);
    let at_commit = committed.record["block"].as_u64().unwrap();
    // Run again, it does nothing.
    let again = alice.bz_chain(&["commit"], &alice.commit_to(0, 1));
    assert_eq!((again.code, &again.record["status"]), (Some(0), &json!("ok")), "{}", again.error);
    assert!(again.record["submitted"] == false && again.record["tx"].is_null(), "{}", again.record);

    let vote = json!({"type": "vote", "window": 0, "record": hash(2), "last": hash(3)});
    let voted = alice.bz_chain(&["vote"], &stream(std::slice::from_ref(&vote)));
    assert_eq!((voted.code, &voted.record["status"]), (Some(0), &json!("ok")), "{}", voted.error);
    assert_eq!(voted.record["by_block"], 100_200);
    let at_vote = voted.record["block"].as_u64().unwrap();
    let unclosed = alice.bz_chain(&["vote"], &format!("{vote}\n"));
    assert_eq!(unclosed.code, Some(65), "{}", unclosed.error);
    let by_flags = ["vote", "--window", "0", "--record", &hash(2), "--last", &hash(3)];
    assert_eq!(alice.bz_chain(&by_flags, "").record["submitted"], false, "it is there");

    // Each block's state is its own: before, between, after.
    let now = alice.entry(None);
    assert_eq!((&now["bucket"], &now["commitment"], &now["vote"]), (&bucket, &json!(hash(1)), &json!(hash(2))));
    assert_eq!((&now["commitment_window"], &now["vote_window"], &now["last"]), (&json!(0), &json!(0), &json!(hash(3))));
    let before = alice.entry(Some(at_commit - 1));
    assert_eq!((&before["bucket"], &before["commitment"]), (&bucket, &Value::Null), "{before}");
    let between = alice.entry(Some(at_commit));
    assert_eq!((&between["commitment"], &between["vote"]), (&json!(hash(1)), &Value::Null), "{between}");
    assert_eq!(alice.entry(Some(at_vote))["vote"], hash(2));
    let later = alice.entries(Some(at_vote + 10_000)).unwrap_err();
    assert_eq!(later.status.code(), Some(75), "{}", text(&later.stderr));

    // A later window stays. What stands for nothing takes back a vote of the window, and no other.
    assert_eq!(alice.bz_chain(&["commit"], &alice.commit_to(1, 4)).code, Some(0));
    let older = alice.bz_chain(&["commit"], &alice.commit_to(0, 5));
    assert_eq!((older.code, &older.record["status"]), (Some(1), &json!("older")), "{}", older.error);
    assert!(older.record["reason"].as_str().unwrap().contains("of window 1"), "{}", older.record);
    let none = json!({"type": "vote", "window": 0, "record": null, "last": hash(6), "reason": "nobody proposed"});
    assert_eq!(alice.bz_chain(&["vote"], &stream(&[none])).code, Some(0));
    let now = alice.entry(None);
    assert_eq!((&now["vote"], &now["last"], &now["commitment"]), (&Value::Null, &json!(hash(6)), &json!(hash(4))));
    assert_eq!((&now["bucket"], &now["commitment_window"]), (&bucket, &json!(1)));
    // Another address keeps what stands beside it.
    let moved = format!("{}-moved", bucket.as_str().unwrap());
    assert_eq!(alice.bz_chain(&["bucket", "--untried", &moved], "").code, Some(0));
    let now = alice.entry(None);
    assert_eq!((&now["bucket"], &now["last"], &now["commitment"]), (&json!(moved), &json!(hash(6)), &json!(hash(4))));

    // Late: the record says so, and nothing is signed.
    let short = Node { home: home_in(folder.path(), "short", [24, 20, 5, 12]), ..alice };
    network.reach(40);
    let late = short.bz_chain(&["vote", "--window", "0", "--record", &hash(7)], "");
    assert_eq!((late.code, &late.record["status"]), (Some(1), &json!("late")), "{}", late.error);
    assert!(late.record["submitted"] == false && late.record["by_block"] == 36, "{}", late.record);
    assert!(!short.home.join("chain").exists());
    network.run(&["join", "alice"]);
    assert_eq!(short.entry(None)["commitment"], hash(4), "joining again keeps it, too");
}

#[test]
fn a_follower_keeps_what_a_pruned_node_forgets() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up_with(folder.path().join("net"), &["--interval", "0.5"]);
    network.run(&["join", "alice"]);
    // The subnet is there at the first block of the window that is followed.
    network.reach(110);
    let home = home_in(folder.path(), "home", [100, 80, 5, 40]);
    let alice = Node { network: &network, chain: chain.clone(), home, name: "alice" };
    let mut follow = tool("bz-window", &alice.home);
    let following = Running::start(follow.args(["--network", &chain, "--follow", "--quiet"]));
    until("the follower does not begin", || alice.home.join("chain/head.json").exists());

    // In the middle of a window, so that both come in time.
    let window = network.block() / 100 + 1;
    network.reach(window * 100 + 10);
    let (commit_block, tally_block) = (window * 100 + 80, window * 100 + 140);
    let committed = alice.bz_chain(&["commit"], &alice.commit_to(window, 1));
    assert_eq!(committed.code, Some(0), "{}", committed.error);
    network.reach(commit_block);
    let number = window.to_string();
    let voted = alice.bz_chain(&["vote", "--window", &number, "--record", &hash(2)], "");
    assert_eq!(voted.code, Some(0), "{}", voted.error);
    network.reach(tally_block);
    let kept = |block: u64| alice.home.join(format!("chain/entries/{block}.json"));
    until("the follower does not keep both", || kept(commit_block).exists() && kept(tally_block).exists());

    let asked = Node { home: home_in(folder.path(), "asked", [100, 80, 5, 40]), ..alice };
    let of_node = [commit_block, tally_block].map(|block| asked.entries(Some(block)).unwrap());
    assert_eq!(of_node[0][&asked.hotkey()]["commitment"], hash(1));
    assert_eq!(of_node[0][&asked.hotkey()]["vote"], Value::Null, "it voted after the commit block");
    assert_eq!(of_node[1][&asked.hotkey()]["vote"], hash(2));
    // A node keeps the states of 256 blocks. Then who followed still knows, and who did not is told so, and is not told
    // that nobody committed.
    network.reach(tally_block + 300);
    let alice = Node { home: folder.path().join("home"), ..asked };
    until("the follower does not come along", || {
        let head = std::fs::read(alice.home.join("chain/head.json")).unwrap();
        serde_json::from_slice::<Value>(&head).unwrap()["number"].as_u64() >= Some(tally_block + 300)
    });
    for (block, then) in [commit_block, tally_block].into_iter().zip(&of_node) {
        assert_eq!(&alice.entries(Some(block)).unwrap(), then, "block {block}");
    }
    let asked = Node { home: folder.path().join("asked"), ..alice };
    for block in [commit_block, tally_block] {
        let forgotten = asked.entries(Some(block)).unwrap_err();
        let error = text(&forgotten.stderr);
        assert_eq!(forgotten.status.code(), Some(75), "{error}");
        assert!(error.contains("cannot be read any more") && error.contains("archive"), "{error}");
        assert!(!text(&forgotten.stdout).contains("\"end\""), "an answer that is none is not closed");
    }
    // What is final stays true when nobody follows any more.
    drop(following);
    let alice = Node { home: folder.path().join("home"), ..asked };
    assert_eq!(&alice.entries(Some(tally_block)).unwrap(), &of_node[1]);
}

#[test]
fn what_the_chain_has_no_room_for_is_said_before_it_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up(folder.path().join("net"));
    network.run(&["set", "tempo", "5000"]);
    network.run(&["join", "alice"]);
    let home = home_in(folder.path(), "home", LONG);
    let alice = Node { network: &network, chain: chain.clone(), home, name: "alice" };
    let said = alice.doctor();
    assert_eq!(
        (&said["commit_bytes"], &said["commit_bytes_used"]),
        (&json!(3100), &json!(100)),
        "its bucket's address"
    );
    network.run(&["set", "max_space", "250"]);
    assert_eq!(alice.bz_chain(&["commit"], &alice.commit_to(0, 1)).code, Some(0));
    let said = alice.doctor();
    assert_eq!((&said["commit_bytes"], &said["commit_bytes_left"]), (&json!(250), &json!(50)), "{said}");
    let full = alice.bz_chain(&["commit"], &alice.commit_to(0, 2));
    assert_eq!((full.code, &full.record["status"]), (Some(75), &json!("full")), "{}", full.error);
    let again_at = format!("from block {} on", said["commit_bytes_again_at"]);
    assert!(
        full.error.contains("counts 100 bytes, 50 of 250 are left") && full.error.contains(&again_at),
        "{}",
        full.error
    );
    assert!(full.record["tx"].is_null() && alice.entry(None)["commitment"] == hash(1), "{}", full.record);
    // The chain says the same, had it been asked.
    let call = Call::set_commitment(1, [&b"x"[..]]);
    let report = submit(&alice, &call).unwrap_err();
    assert!(report.error.contains("SpaceLimitExceeded") && report.code == record::Code::Again, "{report}");
    // In the next epoch there is room again.
    network.run(&["set", "tempo", "5"]);
    until("no epoch comes", || alice.doctor()["commit_bytes_used"] == 0);
    network.run(&["set", "tempo", "5000"]);
    let now = alice.bz_chain(&["commit"], &alice.commit_to(0, 2));
    assert_eq!((now.code, &now.record["status"]), (Some(0), &json!("ok")), "{}", now.error);

    // An address that takes all fields leaves none for a commitment.
    network.run(&["set", "max_space", "3100"]);
    let long = format!("https://{}:{}@s3.example.org/bucket", "k".repeat(128), "s".repeat(120));
    let refused = alice.bz_chain(&["bucket", "--untried", "--with-key", &long], "");
    assert!(refused.code == Some(1) && refused.error.contains("this chain takes 3 of 128 bytes"), "{}", refused.error);
    assert_eq!(alice.entry(None)["commitment"], hash(2));
}

fn submit(node: &Node<'_>, call: &Call) -> Result<chain::Sent, record::Report> {
    let args = ChainArgs { network: vec![node.chain.clone()], netuid: 1, mechanism: 0 };
    let hotkey = node.wallet().open().unwrap();
    let sign = |message: &[u8]| hotkey.sign(message);
    Chain::connect(&args).unwrap().submit(call, &Signer { account: hotkey.hotkey(), sign: &sign })
}

#[test]
fn several_tools_sign_with_one_hotkey_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // Two blocks pass until one is final: what the one has on its way, the other does not see yet.
    let (network, chain) = Localnet::up_with(folder.path().join("net"), &["--interval", "0.3", "--finality", "2"]);
    network.run(&["join", "vera", "--stake", "100"]);
    network.run(&["set", "commit_reveal_weights_enabled", "false"]);
    let home = home_in(folder.path(), "home", LONG);
    let vera = Node { network: &network, chain: chain.clone(), home, name: "vera" };
    until("she gets no permit", || vera.doctor()["permit"] == true);
    network.run(&["new-block", "10"]);
    let out = tool("bz-window", &vera.home).args(["--network", &chain, "--peers"]).output().unwrap();
    let peers = lines(&out.stdout);
    let owner = peers.iter().find(|peer| peer["uid"] == 0).unwrap()["hotkey"].clone();
    let weights = stream(&[json!({
        "type": "weights", "window": 1_000_000, "uids": [0], "hotkeys": [owner], "weights": [1.0],
    })]);
    let bucket = vera.entry(None)["bucket"].as_str().unwrap().to_string();
    let moved = format!("{bucket}-moved");
    for round in 1..3u8 {
        let commit = vera.commit_to(u64::from(round), round);
        let window = round.to_string();
        let record = hash(round + 100);
        let mut commands = [
            vera.command("bz-chain", &["commit"], &commit),
            vera.command("bz-chain", &["vote", "--window", &window, "--record", &record], ""),
            vera.command("bz-chain", &["bucket", "--untried", if round == 1 { &moved } else { &bucket }], ""),
            vera.command("bz-setweights", &["--margin", "5000"], &weights),
        ];
        let running: Vec<Running> = commands.iter_mut().map(Running::start).collect();
        let all: Vec<Said> = running.into_iter().map(|running| said(&running.output())).collect();
        let mut blocks = Vec::new();
        for said in &all {
            assert_eq!(said.code, Some(0), "{} {}", said.record, said.error);
            // Weights have a rate of their own.
            if round == 1 || said.record["type"] != "weights" {
                assert_eq!(said.record["submitted"], true, "{} {}", said.record, said.error);
                blocks.push(said.record["block"].as_u64().unwrap());
            }
        }
        // One after another: each begins where the one before is final.
        blocks.sort_unstable();
        assert!(blocks.windows(2).all(|two| two[1] >= two[0] + 2), "{blocks:?}");
        let now = vera.entry(None);
        let wanted = if round == 1 { &moved } else { &bucket };
        assert_eq!((&now["commitment"], &now["vote"]), (&json!(hash(round)), &json!(record)), "{now}");
        assert_eq!(&now["bucket"], wanted);
    }
}

/// The pool has what another process sent before it was killed: nobody signs over it.
#[test]
fn what_is_on_its_way_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up(folder.path().join("net"));
    network.run(&["join", "alice"]);
    let home = home_in(folder.path(), "home", LONG);
    let alice = Node { network: &network, chain: chain.clone(), home, name: "alice" };
    let commit = alice.commit_to(0, 1);
    network.run(&["fault", "stall", "600"]);
    let killed = Running::start(&mut alice.command("bz-chain", &["commit"], &commit));
    let waiting = |count: u64| network.run(&["status"])["waiting"] == count;
    until("the commitment is not sent", || waiting(1));
    drop(killed);
    let vote = Running::start(&mut alice.command("bz-chain", &["vote", "--window", "0", "--record", &hash(2)], ""));
    // It has the lock now, and sends nothing: it would write over the commitment.
    let lock = alice.home.join(format!("chain/sign-{}.lock", alice.hotkey()));
    until("the vote does not wait", || {
        let file = std::fs::File::open(&lock).unwrap();
        matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
    });
    assert!(waiting(1));
    network.run(&["new-block", "1"]);
    until("the vote is not sent", || waiting(1));
    network.run(&["new-block", "1"]);
    let out = said(&vote.output());
    assert_eq!((out.code, &out.record["status"]), (Some(0), &json!("ok")), "{}", out.error);
    let now = alice.entry(None);
    assert_eq!((&now["commitment"], &now["vote"]), (&json!(hash(1)), &json!(hash(2))), "{now}");
}

#[test]
fn what_others_write_is_their_own_affair() {
    let folder = tempfile::tempdir().unwrap();
    let (network, chain) = Localnet::up(folder.path().join("net"));
    network.run(&["set", "tempo", "5000"]);
    for name in ["alice", "mallory"] {
        network.run(&["join", name]);
    }
    let home = home_in(folder.path(), "home", LONG);
    let mallory = Node { network: &network, chain: chain.clone(), home: home.clone(), name: "mallory" };
    let alice = Node { network: &network, chain: chain.clone(), home, name: "alice" };
    assert_eq!(alice.bz_chain(&["vote", "--window", "0", "--record", &hash(2)], "").code, Some(0));
    let address: &[u8] = b"https://s3.example.org/mallory";
    let cut = [&[1, 2][..], &[7; 39]].concat();
    for (fields, bucket) in [
        (vec![address, &[9, 1, 2, 3]], true),
        (vec![address, &cut[..]], true),
        (vec![address, &[1, 2], b"behind"], true),
        (vec![&[0; 128][..], &[255; 128], &[1; 128]], false),
        (vec![address, &[0xff; 64]], false),
        (vec![], false),
    ] {
        submit(&mallory, &Call::set_commitment(1, fields.clone())).unwrap();
        let entries = alice.entries(None).unwrap();
        let theirs = &entries[&mallory.hotkey()];
        assert_eq!(theirs["bucket"].is_string(), bucket, "{theirs}");
        assert!(theirs["commitment"].is_null() && theirs["vote"].is_null() && theirs["last"].is_null(), "{theirs}");
        let control = fields.iter().any(|field| field.first().is_some_and(|byte| *byte < 32));
        assert_eq!(theirs["reason"].is_string(), control, "{theirs}");
        assert_eq!(entries[&alice.hotkey()]["vote"], hash(2), "hers is hers");
        // The peers are read by the same function.
        let out = tool("bz-window", &alice.home).args(["--network", &chain, "--peers"]).output().unwrap();
        let peer = lines(&out.stdout).into_iter().find(|peer| peer["hotkey"] == mallory.hotkey()).unwrap();
        assert_eq!(peer["bucket"], theirs["bucket"]);
    }
    // Her own tool mends it, when she says where her bucket is and votes.
    assert_eq!(mallory.bz_chain(&["bucket", "--untried", "http://127.0.0.1:9/mallory"], "").code, Some(0));
    assert_eq!(mallory.bz_chain(&["vote", "--window", "0", "--record", &hash(9)], "").code, Some(0));
    let entry = mallory.entry(None);
    assert_eq!((&entry["vote"], &entry["reason"]), (&json!(hash(9)), &Value::Null), "{entry}");
}
