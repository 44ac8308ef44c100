//! Several nodes of one chain: one that goes away is left for the next, one that is on a fork is noticed, one that asks
//! for patience gets it; what a follower writes down is what the nodes would say, whatever happens to it and to them;
//! and what a subnet is set to, who is in it, what stands before a wallet's weights.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tests::{Localnet, Running, Way, lines, text, tool, until};

fn window(home: &Path, network: &str, args: &[&str]) -> Output {
    tool("bz-window", home).args(["--network", network]).args(args).output().unwrap()
}

/// A node's folder with the demo's run in it: windows of 24 blocks, from window 1 on.
fn home_in(folder: &Path, name: &str) -> PathBuf {
    let home = folder.join(name);
    std::fs::create_dir(&home).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/hparams/demo.json");
    let mut hparams: Value = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    hparams["start_window"] = 1.into();
    hparams["data"]["manifest"] = "07".repeat(32).into();
    std::fs::write(home.join("hparams.json"), hparams.to_string()).unwrap();
    home
}

#[test]
fn nodes_that_fork_lie_behind_or_go_away() {
    let folder = tempfile::tempdir().unwrap();
    let home = home_in(folder.path(), "home");

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

/// What a door answers itself, of requests whose text has some words: an error, so many times.
#[derive(Clone)]
struct Refusal {
    words: Vec<String>,
    error: Value,
    times: u64,
}

/// A door before a node, which counts the handshakes and answers some requests itself: RFC 6455 and JSON-RPC.
#[derive(Clone)]
struct Door {
    address: String,
    node: String,
    came: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    /// Handshakes that are still to be answered with 429.
    turned_away: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    refusal: Arc<Mutex<Option<Refusal>>>,
}

impl Door {
    fn to(node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Door {
            address: format!("ws://{}", listener.local_addr().unwrap()),
            node: node.trim_start_matches("ws://").into(),
            came: Arc::default(),
            requests: Arc::default(),
            turned_away: Arc::default(),
            refused: Arc::default(),
            refusal: Arc::default(),
        };
        let it = door.clone();
        std::thread::spawn(move || {
            for here in listener.incoming().map(Result::unwrap) {
                let door = it.clone();
                // Whoever goes away in the middle is no error of the door's.
                std::thread::spawn(move || drop(door.pass(here)));
            }
        });
        door
    }

    /// Answer requests that have one of these words with an error, so many times.
    fn refuse(&self, words: &[&str], code: i64, message: &str, times: u64) {
        let words = words.iter().map(ToString::to_string).collect();
        let error = json!({"code": code, "message": message});
        *self.refusal.lock().unwrap() = Some(Refusal { words, error, times });
    }

    fn let_all_pass(&self) {
        *self.refusal.lock().unwrap() = None;
    }

    fn came(&self) -> u64 {
        self.came.load(Ordering::SeqCst)
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    fn refusal_of(&self, request: &str) -> Option<Value> {
        let mut refusal = self.refusal.lock().unwrap();
        let refusal = refusal.as_mut().filter(|refusal| refusal.times > 0)?;
        refusal.words.iter().find(|words| request.contains(words.as_str()))?;
        refusal.times -= 1;
        self.refused.fetch_add(1, Ordering::SeqCst);
        Some(refusal.error.clone())
    }

    fn pass(&self, mut here: TcpStream) -> std::io::Result<()> {
        let head = handshake(&mut here)?;
        if self.turned_away.load(Ordering::SeqCst) > 0 {
            self.turned_away.fetch_sub(1, Ordering::SeqCst);
            return here.write_all(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n");
        }
        self.came.fetch_add(1, Ordering::SeqCst);
        let mut there = TcpStream::connect(&self.node)?;
        there.write_all(&head)?;
        let (mut answers, back) = (there.try_clone()?, Arc::new(Mutex::new(here.try_clone()?)));
        let to = back.clone();
        std::thread::spawn(move || {
            let mut pass = || -> std::io::Result<()> {
                let head = handshake(&mut answers)?;
                to.lock().unwrap().write_all(&head)?;
                loop {
                    let (whole, _) = frame(&mut answers)?;
                    to.lock().unwrap().write_all(&whole)?;
                }
            };
            let _ = pass();
            let _ = to.lock().unwrap().shutdown(Shutdown::Both);
        });
        let mut pass = || -> std::io::Result<()> {
            loop {
                let (whole, said) = frame(&mut here)?;
                let said = text(&said);
                self.requests.fetch_add(said.contains("\"jsonrpc\"").into(), Ordering::SeqCst);
                match self.refusal_of(&said) {
                    None => there.write_all(&whole)?,
                    Some(error) => {
                        let request: Value = serde_json::from_str(&said)?;
                        let answer = json!({"jsonrpc": "2.0", "id": request["id"], "error": error}).to_string();
                        // One frame of text; a short one has its length in a byte.
                        let length = u16::try_from(answer.len()).unwrap();
                        let mut whole = vec![0x81];
                        match u8::try_from(length) {
                            Ok(short @ 0..126) => whole.push(short),
                            _ => whole.extend([&[126][..], &length.to_be_bytes()].concat()),
                        }
                        whole.extend(answer.as_bytes());
                        back.lock().unwrap().write_all(&whole)?;
                    }
                }
            }
        };
        let ended = pass();
        there.shutdown(Shutdown::Both)?;
        ended
    }
}

/// All up to the empty line.
fn handshake(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// A frame as it came, and what it says.
fn frame(from: &mut TcpStream) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut whole = vec![0; 2];
    from.read_exact(&mut whole)?;
    let more = match whole[1] & 127 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if whole[1] & 128 == 0 { 0 } else { 4 };
    whole.resize(2 + more + mask, 0);
    from.read_exact(&mut whole[2..])?;
    let long = whole[2..2 + more].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let length = if more == 0 { usize::from(whole[1] & 127) } else { long };
    let start = whole.len();
    whole.resize(start + length, 0);
    from.read_exact(&mut whole[start..])?;
    let mask = if mask == 0 { vec![0] } else { whole[start - 4..start].to_vec() };
    let said = whole[start..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok((whole, said))
}

/// What a tool says of a run, a window and its peers, but for what differs from one moment and folder to the next.
#[derive(Debug, PartialEq)]
struct Told {
    run: Value,
    window: Value,
    /// To the byte.
    peers: Vec<String>,
}

fn told(out: &Output) -> Told {
    assert!(out.status.success(), "{}", text(&out.stderr));
    let stdout = text(&out.stdout);
    let without = |kind: &str, names: &[&str]| {
        let mut record = lines(&out.stdout).into_iter().find(|record| record["type"] == kind).unwrap();
        for name in names {
            assert!(record.as_object_mut().unwrap().remove(*name).is_some(), "{kind} has no {name}");
        }
        record
    };
    let peers = stdout.lines().filter(|line| line.starts_with("{\"type\":\"peer\""));
    let peers: Vec<String> = peers.map(Into::into).collect();
    assert!(!peers.is_empty(), "{stdout}");
    Told { run: without("run", &["path"]), window: without("window", &["block", "finality_blocks"]), peers }
}

#[test]
fn a_node_that_asks_for_patience() {
    let folder = tempfile::tempdir().unwrap();
    let home = home_in(folder.path(), "home");
    let (network, node) = Localnet::up(folder.path().join("net"));
    network.run(&["fault", "stall", "3600"]);
    network.reach(60);
    let (one, other) = (Door::to(&node), Door::to(&node));
    let usual = told(&window(&home, &one.address, &["--window", "1"]));
    assert_eq!(one.came(), 1, "one handshake for all that one run asks");

    // It is asked again, over the same connection, where there is no other.
    for (code, message) in [(-32005, "daily limit"), (-32000, "Too many requests"), (-32603, "node is overloaded")] {
        let (came, refused) = (one.came(), one.refused());
        one.refuse(&["state_", "chain_getHeader"], code, message, 3);
        assert_eq!(told(&window(&home, &one.address, &["--window", "1"])), usual, "{message}");
        assert_eq!((one.came() - came, one.refused() - refused), (1, 3), "{message}");
    }
    // The handshake itself is refused.
    let came = one.came();
    one.let_all_pass();
    one.turned_away.store(3, Ordering::SeqCst);
    assert_eq!(told(&window(&home, &one.address, &["--window", "1"])), usual);
    assert_eq!((one.came() - came, one.turned_away.load(Ordering::SeqCst)), (1, 0));

    // Another one answers: the first does not for as long as anybody asks.
    let (came, refused) = (one.came(), one.refused());
    one.refuse(&["state_"], -32029, "rate limit exceeded", u64::MAX);
    let both = format!("{},{}", one.address, other.address);
    let out = window(&home, &both, &["--window", "1"]);
    assert_eq!(told(&out), usual);
    assert!(one.refused() > refused && other.requests() > 10);
    assert_eq!((one.came() - came, other.came()), (1, 1), "one handshake a node, whatever is asked of both");
    // A plain no is one at once.
    one.refuse(&["state_"], -32601, "Method not found", u64::MAX);
    let refused = one.refused();
    let out = window(&home, &one.address, &["--window", "1"]);
    assert_eq!(out.status.code(), Some(75), "{}", text(&out.stderr));
    assert!(one.refused() - refused < 10 && text(&out.stderr).contains("Method not found"), "{}", text(&out.stderr));
}

/// A follower of one node.
struct Follower {
    home: PathBuf,
    address: String,
    running: Option<Running>,
    /// When the head was written that it found.
    before: Value,
}

impl Follower {
    fn start(&mut self) {
        self.before = self.head()["written_ms"].clone();
        let mut command = tool("bz-window", &self.home);
        command.args(["--network", &self.address, "--follow"]);
        self.running = Some(Running::start(&mut command));
    }

    fn head(&self) -> Value {
        let head = std::fs::read(self.home.join("chain/head.json")).unwrap_or_default();
        serde_json::from_slice(&head).unwrap_or_default()
    }

    /// Wait until it has caught up with a block, which nobody adds to.
    fn caught_up(&self, block: u64) {
        let there = || {
            let head = self.head();
            let written = &head["written_ms"];
            (&head["number"], &head["best"]) == (&block.into(), &block.into())
                && *written != self.before
                && *written != 0
        };
        until(&format!("the follower does not reach block {block}"), there);
    }

    /// With `kill -9`: nothing of it runs any more.
    fn kill(&mut self) {
        drop(self.running.take());
    }

    /// All blocks that are written down, each line whole.
    fn blocks(&self) -> BTreeMap<u64, Value> {
        let mut blocks = BTreeMap::new();
        for entry in std::fs::read_dir(self.home.join("chain/blocks")).unwrap() {
            let content = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(content.ends_with(b"\n"));
            for block in lines(&content) {
                assert!(blocks.insert(block["number"].as_u64().unwrap(), block).is_none(), "a block is there twice");
            }
        }
        blocks
    }
}

#[test]
fn a_follower_writes_down_what_the_nodes_say() {
    let folder = tempfile::tempdir().unwrap();
    let (home, alone) = (home_in(folder.path(), "home"), home_in(folder.path(), "alone"));
    let (network, node) = Localnet::up(folder.path().join("net"));
    network.run(&["fault", "stall", "3600"]);
    network.reach(90);
    let door = Door::to(&node);
    let address = door.address.clone();
    let mut follower = Follower { home: home.clone(), address: address.clone(), running: None, before: Value::Null };

    follower.start();
    follower.caught_up(90);
    // With a follower the same records, without a word to the node.
    let (came, requests) = (door.came(), door.requests());
    let followed: Vec<_> = ["2", "3", "now"].map(|which| told(&window(&home, &address, &["--window", which]))).into();
    assert_eq!(door.came(), came, "nobody else asks the node");
    assert!(door.requests() - requests < 20, "the follower looks after it every few seconds");
    for (which, followed) in ["2", "3", "now"].into_iter().zip(&followed) {
        assert_eq!(followed, &told(&window(&alone, &address, &["--window", which])), "window {which}");
    }
    let old = &followed[0].window;
    assert!(old["deadline_ms"].as_u64().unwrap() > 1_600_000_000_000 && old["reveal"].is_string(), "{old}");

    // Who waits for a moment waits for the follower.
    let came = door.came();
    let mut waits = tool("bz-window", &home);
    let waiting = Running::start(waits.args(["--network", &address, "--window", "4", "--wait", "start"]));
    network.reach(97);
    let out = waiting.output();
    assert_eq!(told(&out).window["window"], 4);
    assert_eq!(door.came(), came);
    follower.caught_up(97);

    // One a folder.
    let before = follower.blocks();
    let second = window(&home, &address, &["--follow"]);
    assert_eq!(second.status.code(), Some(75), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("another process follows"), "{}", text(&second.stderr));
    assert_eq!(follower.blocks(), before);

    // Killed at any moment, it goes on where it was, and nothing is missing.
    for round in 0..6 {
        let now = network.block();
        if round % 2 == 0 {
            network.reach(now + 17);
            follower.kill();
        } else {
            follower.kill();
            network.reach(now + 17);
            // The last line is cut short, as a loss of power leaves it.
            let path = home.join("chain/blocks/0.jsonl");
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 1 - round]).unwrap();
        }
        // Nobody follows: the node is asked, and what was written down is still there.
        let came = door.came();
        assert_eq!(told(&window(&home, &address, &["--window", "2"])), followed[0]);
        assert_eq!(door.came(), came + 1);
        follower.start();
    }
    let last = network.block();
    follower.caught_up(last);
    let blocks = follower.blocks();
    assert_eq!(blocks.keys().copied().collect::<Vec<_>>(), (48..=last).collect::<Vec<_>>());
    for start in (48..=last).step_by(24) {
        assert!(home.join(format!("chain/peers/{start}.json")).exists(), "peers of block {start}");
    }

    // An old window, after the node has forgotten it: nothing of its blocks, then nothing at all.
    let hash = |block: u64| format!("0x{}", blocks[&block]["hash"].as_str().unwrap());
    door.refuse(&[&hash(48), &hash(77)], 4003, "State already discarded for block 48", u64::MAX);
    assert_eq!(told(&window(&home, &address, &["--window", "2"])), followed[0]);
    door.refuse(&["state_"], 4003, "State already discarded for block 48", u64::MAX);
    follower.kill();
    assert_eq!(told(&window(&home, &address, &["--window", "2"])), followed[0]);
    // Who has never followed finds the window's time in the block's own content, and says when that is gone as well.
    let clock = format!("0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb\",\"{}", hash(77));
    let refused = door.refused();
    door.refuse(&[&clock], 4003, "State already discarded", u64::MAX);
    let out = window(&alone, &address, &["--window", "2"]);
    assert_eq!(told(&out), followed[0], "{}", text(&out.stderr));
    assert_eq!(door.refused(), refused + 1);
    door.refuse(&[&hash(77)], 4003, "State already discarded", u64::MAX);
    let out = window(&alone, &address, &["--window", "2"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("so old"), "{}", text(&out.stderr));
    door.let_all_pass();

    // Another chain's folder is left as it is.
    let head = follower.head();
    let (other, elsewhere) = Localnet::up(folder.path().join("other"));
    other.reach(30);
    let out = window(&home, &elsewhere, &["--follow"]);
    assert_eq!(out.status.code(), Some(78), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains(head["genesis"].as_str().unwrap()), "{}", text(&out.stderr));
    let netuid = tool("bz-window", &home).args(["--network", &address, "--netuid", "2", "--follow"]).output().unwrap();
    assert_eq!(netuid.status.code(), Some(78), "{}", text(&netuid.stderr));
    assert_eq!(follower.head(), head);
    // Its facts are not this chain's: who asks there is told of that one.
    assert_ne!(told(&window(&home, &elsewhere, &["--window", "1"])).run, followed[0].run);

    // Told to end, it ends well.
    follower.start();
    follower.caught_up(last);
    let running = follower.running.take().unwrap();
    let term = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", running.0.id())).status().unwrap();
    assert!(term.success());
    let out = running.output();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(out.stdout.is_empty());
    assert_eq!(follower.blocks().len() as u64, last - 47);
}

/// An address behind which another node may stand from one moment to the next.
#[derive(Clone)]
struct Place {
    address: String,
    node: Arc<Mutex<String>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Place {
    fn of(node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("ws://{}", listener.local_addr().unwrap());
        let place = Place { address, node: Arc::new(Mutex::new(node.into())), open: Arc::default() };
        let it = place.clone();
        std::thread::spawn(move || {
            for here in listener.incoming().map(Result::unwrap) {
                let node = it.node.lock().unwrap().trim_start_matches("ws://").to_string();
                let there = TcpStream::connect(node).unwrap();
                it.open.lock().unwrap().extend([here.try_clone().unwrap(), there.try_clone().unwrap()]);
                for (mut from, mut to) in [(here.try_clone().unwrap(), there.try_clone().unwrap()), (there, here)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        place
    }

    fn becomes(&self, node: &str) {
        *self.node.lock().unwrap() = node.into();
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_follower_of_a_chain_that_was_replaced_says_so_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, _) = Localnet::up(folder.path().join("one"));
    one.run(&["fault", "stall", "3600"]);
    one.reach(30);
    one.run(&["down"]);
    let copy = |name: &str| {
        let to = folder.path().join(name);
        assert!(Command::new("cp").args(["-r"]).arg(&one.0).arg(&to).status().unwrap().success());
        std::fs::remove_file(to.join("localnet.json")).unwrap();
    };
    copy("two");
    // The same chain up to block 30, then its own blocks, not as far as what was followed, and further; another chain.
    let up = |name: &str| {
        let (network, node) = Localnet::up(folder.path().join(name));
        network.run(&["fault", "stall", "3600"]);
        (network, node)
    };
    let ((one, first), (two, second), (other, third)) = (up("one"), up("two"), up("other"));
    one.reach(60);
    other.reach(90);
    let known = one.block();
    for (name, node, block, words) in [
        ("behind", &second, 45, "was final as"),
        ("ahead", &second, known + 20, "was final as"),
        ("other", &third, 0, "is another chain"),
    ] {
        two.reach(block);
        let place = Place::of(&first);
        let home = home_in(folder.path(), &format!("home-{name}"));
        let mut follower = Follower { home, address: place.address.clone(), running: None, before: Value::Null };
        follower.start();
        follower.caught_up(known);
        place.becomes(node);
        let since = Instant::now();
        let out = follower.running.take().unwrap().output();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(78), "{name}: {said}");
        assert!(since.elapsed() < Duration::from_secs(60), "{name}: {:?}", since.elapsed());
        assert!(said.contains(words) && said.contains("\nhint: "), "{name}: {said}");
        for line in said.lines() {
            assert!(line.starts_with("bz-window: ") || line.starts_with("hint: "), "{name}: {line}");
        }
    }
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
        let frame = |record: &Value| record["type"] == "begin" || record["type"] == "end";
        let json = tests::lines(&out.stdout).into_iter().rfind(|record| !frame(record)).unwrap_or_default();
        (json, text(&out.stderr), out.status.code().unwrap())
    };
    let (json, error, code) = bz_chain("nobody", &["hyperparameters"]);
    assert!(code == 0 && json["tempo"] == 5 && json["commit_reveal_weights_enabled"] == true, "{json} {error}");
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
    let address = format!("http://{}:{}@127.0.0.1:1/{}", "k".repeat(32), "s".repeat(64), "h".repeat(40));
    let (_, error, code) = bz_chain("stranger", &["bucket", &address, "--with-key", "--untried"]);
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
