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
    path::PathBuf,
    process::Child,
    time::SystemTime,
};
use tests::{BLOCKS, Network, everything, read, shows_no_key, signal, unfinished, until};

/// Blocks after a window's end in which what is revealed of it still counts.
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

/// Stop a node's loop and all that it runs, as a power cut would.
fn power_cut(network: &Network, node: &str, child: &mut Child) {
    let _ = child.kill();
    until("nothing of it runs", || {
        let left = network.processes(node);
        left.iter().for_each(|(id, _)| signal(id, "-KILL"));
        left.is_empty()
    });
    let _ = child.wait();
}

/// Kill one of a node's tools, if any runs, and its loop goes on; or the loop itself, which is then started again
/// up to window `last`. What was done, in words.
fn kill(network: &Network, node: &str, child: &mut Child, last: u64, dice: &mut Dice) -> String {
    let what = match dice.roll(5) {
        0 => {
            power_cut(network, node, child);
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
            until("the loop takes along what it ran", || network.processes(node).is_empty());
            "the loop by TERM"
        }
        how => {
            let mut tools = network.processes(node);
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
    *child = network.loops(node, "miner", last);
    format!("{node}: {what}")
}

/// Kill miners from now until a window is over, each twice a window, and say when and how. Which windows each may
/// have lost by it: of which less than a quarter was ahead when it was there again. Else none may be lost.
fn kill_at_random(
    network: &Network,
    miners: &mut BTreeMap<&'static str, Child>,
    over: u64,
    last: u64,
    dice: &mut Dice,
) -> BTreeSet<(&'static str, u64)> {
    let names: Vec<&'static str> = miners.keys().copied().collect();
    let mut plan = Vec::new();
    for window in network.block() / BLOCKS..=over {
        for name in names.iter().chain(&names) {
            plan.push((window * BLOCKS + dice.roll(BLOCKS), *name));
        }
    }
    plan.sort_unstable();
    let now = network.block();
    plan.retain(|(at, _)| *at > now);
    let mut may_lose = BTreeSet::new();
    for (at, name) in plan {
        network.come_to(at);
        let begun = network.block();
        let windows = begun / BLOCKS - 1..=begun / BLOCKS + 1;
        let has = |window, receipt: &str| network.receipt(name, window, receipt).exists();
        let was: Vec<_> = windows.map(|window| (window, has(window, "commit"), has(window, "receipt"))).collect();
        let what = kill(network, name, miners.get_mut(name).unwrap(), last, dice);
        let there = network.block();
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
    power_cut(&network, "miner-a", miners.get_mut("miner-a").unwrap());
    power_cut(&network, "validator", &mut validator);
    // What was written down by the follower a moment ago is still known; who asks the node is told to try again.
    let (_, error, code) = network.shell("miner-b", "bz-chain whoami");
    assert_eq!(code, 75, "{error}");
    network.start_chain();
    assert!(network.block() >= before, "no block is lost");
    validator = network.loops("validator", "validator", last);
    miners.insert("miner-a", network.loops("miner-a", "miner", last));

    // From here on miners are killed at random; the last window is left to them.
    let may_lose = kill_at_random(&network, &mut miners, last - 1, last, &mut Dice(seed));
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
    power_cut(&network, "validator", &mut honest);
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
