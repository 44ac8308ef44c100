//! The commands that need a chain or a bucket: a window of a miner and a validator, by hand, on a chain that makes blocks when
//! it is told to.

use crate::{Node, Offer, Snapshot, changed, framed, give, offers, refused, typed};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};
use tests::{BLOCKS, Localnet, Running, everything, lines, read, signal, text, tool, until};

/// The tools that are tried here.
pub(crate) const TOOLS: [&str; 5] = ["bz-chain", "bz-pull", "bz-push", "bz-setweights", "bz-window"];

/// What a stage does when it is run for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It looks, or it writes into a bucket.
    NoWrite,
    /// It writes into the node's folder.
    Write,
    /// It sends a call, and waits for its block.
    Send,
}

/// One of the nodes.
type Of = fn(&Net) -> &Node;

/// A chain and a store, and who is there.
struct Net {
    network: Localnet,
    miner: Node,
    validator: Node,
    /// With a wallet, and no place in the subnet.
    stranger: Node,
    window: u64,
    /// The commands whose dry run was tried.
    dry: BTreeSet<String>,
    /// Removed last.
    _folder: tempfile::TempDir,
}

/// Whose command line this is.
fn offer(line: &str) -> &'static Offer {
    let words: Vec<&str> = line.split(' ').collect();
    let names = [words[0].to_string(), words[..words.len().min(2)].join(" ")];
    offers().iter().find(|offer| names.contains(&offer.name())).unwrap()
}

/// The last record of this type.
fn last(stream: &str, kind: &str) -> Value {
    lines(stream.as_bytes()).into_iter().rfind(|record| record["type"] == kind).unwrap_or_default()
}

impl Net {
    fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (network, chain) = Localnet::up(folder.path().join("net"));
        let (data, mut hparams) = tests::short_run(folder.path());
        let node = |name: &str, settings: &str| {
            let home = folder.path().join(name);
            std::fs::create_dir(&home).unwrap();
            let settings = settings.lines().filter_map(|line| line.split_once('='));
            let mut settings: Vec<_> =
                settings.map(|(name, value)| (name.to_string(), value.trim_matches('\'').to_string())).collect();
            settings.push(("BZ_DATA".into(), data.display().to_string()));
            settings.push(("BZ_THREADS".into(), "1".into()));
            Node { folder: folder.path().into(), home, settings }
        };
        let join = |name: &str, stake: &str| {
            let mut join = tool("bz-localnet", &network.0);
            let out = join.arg("--dir").arg(&network.0).args(["join", name, "--stake", stake]).output().unwrap();
            assert!(out.status.success(), "{}", text(&out.stderr));
            node(name, &text(&out.stdout))
        };
        let (validator, miner) = (join("validator", "100"), join("miner", "0"));
        let wallets = network.0.join("wallets");
        let wallet = wallet::WalletArgs {
            name: "stranger".into(),
            hotkey: "default".into(),
            wallet_path: Some(wallets.clone()),
            password_file: None,
        };
        wallet.create().unwrap();
        network.run(&["faucet", &wallet.open_coldkey().unwrap().hotkey().to_string(), "--tao", "5"]);
        let wallets = wallets.display();
        let settings = format!("BZ_NETWORK={chain}\nBZ_NETUID=1\nBT_WALLET_PATH={wallets}\nBT_WALLET_NAME=stranger\n");
        let stranger = node("stranger", &settings);
        network.run(&["fault", "stall", "3600"]);
        // Permits are given at an epoch's end: one goes by before the run begins.
        let now = network.block() + 7;
        let window = now / BLOCKS + 1;
        hparams["start_window"] = window.into();
        hparams["data"]["max_uids"] = 4.into();
        for node in [&miner, &validator, &stranger] {
            std::fs::write(node.home.join("hparams.json"), hparams.to_string()).unwrap();
        }
        network.reach(window * BLOCKS + 1);
        Net { network, miner, validator, stranger, window, dry: BTreeSet::new(), _folder: folder }
    }

    /// Make blocks until so many of the window, and of the next one, are there.
    fn reach(&self, count: u64) {
        self.network.reach(self.window * BLOCKS + count);
    }

    /// What waits for blocks.
    fn flows<T>(&self, work: impl FnOnce() -> T) -> T {
        self.network.run(&["fault", "stall", "0"]);
        // The beacon goes by the clock: the next block catches up with it.
        self.network.run(&["new-block"]);
        let done = work();
        self.network.run(&["fault", "stall", "3600"]);
        done
    }

    /// All that lies on the disk: nodes, wallets, buckets, and the chain's blocks.
    fn same(&self, what: &str, before: &Snapshot) {
        let all = changed(before, &self.miner.snapshot());
        // By which bz-localnet sees that it runs.
        let all: Vec<_> = all.into_iter().filter(|path| !path.ends_with("net/lock")).collect();
        assert_eq!(all, Vec::<PathBuf>::new(), "{what} changes nothing");
    }

    /// A stage as the table has it: what it said when it was run for real.
    fn stage(&mut self, node: fn(&Net) -> &Node, line: &str, input: &str, does: Does) -> String {
        self.dry_run(node, line, input);
        let before = self.miner.snapshot();
        let can_mount = does != Does::Write || node(self).meets_bad_disks(line, input);
        self.same(line, &before);
        let said = match does {
            Does::Send => self.flows(|| node(self).stage(line, input)),
            Does::NoWrite | Does::Write => node(self).stage(line, input),
        };
        self.again(node(self), line, input);
        // What is not written to need not be writable.
        if does != Does::Write
            && can_mount
            && let Some(out) = node(self).read_only(line, input)
        {
            assert_eq!(out.status.code(), Some(0), "{line} where nothing can be written: {}", text(&out.stderr));
        }
        said
    }

    fn dry_run(&mut self, node: fn(&Net) -> &Node, line: &str, input: &str) {
        let offer = offer(line);
        if !offer.has("--dry-run") {
            return;
        }
        let before = self.miner.snapshot();
        let out = node(self).run(&format!("{line} -n"), input);
        assert_eq!(out.status.code(), Some(0), "{line} -n: {}", text(&out.stderr));
        framed(line, &text(&out.stdout));
        self.same(&format!("{line} -n"), &before);
        assert_eq!(self.network.run(&["status"])["waiting"], 0, "{line} -n sends nothing");
        self.dry.insert(offer.name());
    }

    /// The same of all files: whether a folder can be written is tried again.
    fn same_files(&self, what: &str, before: &Snapshot) {
        let mut all = changed(before, &self.miner.snapshot());
        all.retain(|path| !path.ends_with("net/lock") && !path.is_dir());
        assert_eq!(all, Vec::<PathBuf>::new(), "{what} changes nothing");
    }

    /// A stage that is done: it does nothing, whoever listens, and says as much as it is asked to.
    fn again(&self, node: &Node, line: &str, input: &str) {
        let offer = offer(line);
        let before = node.snapshot();
        node.stage(line, input);
        self.same_files(&format!("a second {line}"), &before);
        let out = node.unheard(line, input);
        assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr));
        self.same_files(&format!("{line}, whose reader is gone,"), &before);
        if offer.has("-q") {
            for (flag, more) in [("-q", false), ("-v", true)] {
                let out = node.run(&format!("{line} {flag}"), input);
                let said = text(&out.stderr);
                assert_eq!(out.status.code(), Some(0), "{line} {flag}: {said}");
                assert_eq!(said.contains(&format!("{}: ", offer.tool)), more, "{line} {flag}: {said}");
            }
            self.same_files(&format!("{line} -v"), &before);
        }
    }

    /// A window, stage by stage, as the loops' scripts have it.
    fn a_window(&mut self) {
        let (miner, validator): (Of, Of) = (|net| &net.miner, |net| &net.validator);
        let now = format!("bz-window --window {}", self.window);
        let begun = self.stage(miner, &format!("{now} --wait start"), "", Does::NoWrite);
        let state = self.stage(miner, "bz-pull --state", &begun, Does::NoWrite);
        let mut commit = state;
        for line in ["bz-state apply", "bz-pages", "bz-train --device cpu", "bz-delta commit"] {
            commit = self.miner.stage(line, &commit);
        }
        let dry = last(&self.miner.stage("bz-push -n", &commit), "push");
        let url = dry["url"].as_str().unwrap();
        assert!(dry["uploaded"] == false && url.starts_with("http://127.0.0.1:") && url.contains("/miner/"), "{dry}");
        let commit = self.stage(miner, "bz-push", &commit, Does::NoWrite);
        let again = last(&self.miner.stage("bz-push", &commit), "push");
        assert!(last(&commit, "push")["uploaded"] == true && again["uploaded"] == false, "{commit} {again}");
        // What they do on the chain is tried by commitments.rs.
        self.dry_run(miner, "bz-chain commit", &commit);

        let begun = self.validator.stage(&now, "");
        let base = self.stage(validator, "bz-pull --state --publish", &begun, Does::NoWrite);
        self.stage(validator, "bz-pull --newest", &begun, Does::NoWrite);
        self.validator.stage("bz-state apply", &base);
        self.reach(20);
        let fetching = self.validator.stage(&format!("{now} --wait commit"), "");
        let out = self.validator.read_only("bz-pull --commits", &fetching);
        out.into_iter().for_each(|out| refused("bz-pull --commits", &out, 78, "Read-only"));
        let commits = self.validator.stage("bz-pull --commits", &fetching);
        self.again(&self.validator, "bz-pull --commits", &fetching);

        self.reach(BLOCKS);
        let over = self.stage(miner, &format!("{now} --wait reveal"), &commit, Does::NoWrite);
        let delta = self.miner.stage("bz-delta make", &over);
        let receipt = self.stage(miner, "bz-push", &delta, Does::NoWrite);
        // Who looks for commitments when the window is over judges those who have none.
        let late = self.miner.stage(&now, "");
        self.stage(miner, "bz-pull --commits", &late, Does::Write);

        self.reach(BLOCKS + 5);
        let deadline = self.stage(validator, &format!("{now} --wait deadline"), &commits, Does::NoWrite);
        let pulled = self.stage(validator, "bz-pull --deltas", &deadline, Does::Write);
        assert_eq!(last(&pulled, "pull")["bytes"], last(&receipt, "delta")["bytes"], "{pulled}");
        let there = self.validator.stage("bz-pull --deltas", &deadline);
        let fetched = self.validator.stage("bz-pull --deltas --force", &deadline);
        assert!(last(&there, "pull").is_null() && !last(&fetched, "pull").is_null(), "--force fetches it again");
        let mut scores = pulled;
        for line in ["bz-delta check", "bz-pages --role audit", "bz-train --device cpu", "bz-score"] {
            scores = self.validator.stage(line, &scores);
        }
        assert_eq!(last(&scores, "score")["score"].as_f64().map(f64::round), Some(1.0), "{scores}");
        let accept = self.validator.stage("bz-score accept", &scores);
        let state = self.validator.stage("bz-state apply", &accept);
        self.stage(validator, "bz-push", &state, Does::NoWrite);

        let vote = format!("bz-chain vote --window {} --record {}", self.window + 1, "ab".repeat(32));
        self.dry_run(validator, &vote, "");

        // The miner follows, and keeps for others what it followed.
        let next = self.miner.stage(&format!("bz-window --window {}", self.window + 1), "");
        let followed = self.stage(miner, "bz-pull --state", &next, Does::Write);
        let followed = self.miner.stage("bz-state apply", &followed);
        assert!(last(&self.miner.stage("bz-push", &followed), "push").is_null(), "not without --mirror");
        let mirrored = self.stage(miner, "bz-push --mirror --within 60", &followed, Does::NoWrite);
        assert!(last(&mirrored, "push")["url"].as_str().unwrap().ends_with("/state.json"), "{mirrored}");

        let weights = self.validator.stage("bz-score fold", &scores);
        let dry = last(&self.validator.stage("bz-setweights -n --commit hash", &weights), "weights");
        assert!(dry["call"] == "SubtensorModule.commit_weights" && dry["submitted"] == false, "{dry}");
        assert!(!self.validator.home.join("sealed").exists(), "not even its folder");
        self.dry_run(validator, "bz-setweights", &weights);
        self.validator.meets_bad_disks("bz-setweights", &weights);
        self.each_exit_code(&commit, &deadline, &weights);
        // What is hidden until later is tried by weights.rs: these can be seen at once.
        self.flows(|| self.network.run(&["set", "commit_reveal_weights_enabled", "false"]));
        let set = self.flows(|| self.validator.stage("bz-setweights", &weights));
        assert_eq!(last(&set, "weights")["submitted"], true, "{set}");
        self.again(&self.validator, "bz-setweights", &weights);
        let dry = last(&self.validator.stage("bz-setweights -n --force", &weights), "weights");
        assert_eq!(dry["call"], "SubtensorModule.set_weights", "{dry}");
    }

    /// What is no stage of a window.
    fn what_is_done_once(&mut self) {
        let stranger: fn(&Net) -> &Node = |net| &net.stranger;
        let own = |node: &Node| node.settings.iter().find(|(name, _)| name == "BZ_BUCKET").unwrap().1.clone();
        let (bucket, other) = (own(&self.miner), own(&self.validator));
        for line in ["bz-window --peers", "bz-chain hyperparameters", "bz-chain whoami"] {
            self.stage(stranger, line, "", Does::NoWrite);
        }
        self.stage(|net| &net.validator, "bz-chain doctor", "", Does::NoWrite);
        for (line, words) in [
            ("bz-chain register", "nothing was burned"),
            ("bz-chain register --limit 0.01", "more than the limit of 0.01"),
        ] {
            refused(line, &self.stranger.run(line, ""), 1, words);
        }
        refused("bz-chain", &self.stranger.run(&format!("bz-chain bucket {bucket}"), ""), 1, "is not registered");
        // What was asked is said: the stream is whole, whatever the answer is.
        let out = self.stranger.run("bz-chain doctor", "");
        framed("bz-chain doctor", &text(&out.stdout));
        assert!(out.status.code() == Some(1) && text(&out.stderr).contains("bz-chain register"), "{out:?}");
        let bought = self.stage(stranger, "bz-chain register --limit 1", "", Does::Send);
        assert!(last(&bought, "registration")["registered"] == true, "{bought}");
        let there = self.stranger.stage("bz-chain register --limit 1", "");
        assert_eq!(last(&there, "registration")["reason"], "it is registered already");

        // What others can read is committed, what they cannot is not.
        let dry = last(&self.stranger.stage(&format!("bz-chain bucket -n {bucket}"), ""), "bucket");
        assert!(dry["readable"] == true && dry["call_bytes"].as_str().unwrap().starts_with("0x12000100"), "{dry}");
        let committed = self.stage(stranger, &format!("bz-chain bucket {bucket}"), "", Does::Send);
        let record = last(&committed, "bucket");
        assert!(record["submitted"] == true && record["bucket"] == bucket, "{record}");
        let name = other.rsplit('/').next().unwrap();
        let keys = read(&self.network.0.join("keys.json"));
        let with_key = |writes: bool| {
            let keys = keys.as_object().unwrap();
            let (id, key) = keys.iter().find(|(_, key)| (key["bucket"] == name) == writes).unwrap();
            other.replacen("://", &format!("://{id}:{}@", key["secret"].as_str().unwrap()), 1)
        };
        for (arguments, code, words) in [
            (format!("{bucket}-typo"), 1, "others cannot read"),
            ("https//s3.example.org/stranger".into(), 65, "no bucket's address"),
            ("-".into(), 65, "no bucket's address"),
            (with_key(false), 2, "--with-key"),
            (format!("--with-key {}", with_key(true)), 78, "the key in the address writes"),
        ] {
            let before = self.stranger.snapshot();
            refused("bz-chain", &self.stranger.run(&format!("bz-chain bucket {arguments}"), ""), code, words);
            if code != 78 {
                self.same("bz-chain bucket", &before);
            }
        }
        let files = everything(&self.network.0.join("buckets").join(name));
        assert!(!files.contains("a trial, to be removed"), "it was removed again");
        // The key of another bucket only reads here.
        for arguments in [format!("--with-key {}", with_key(false)), format!("--untried {bucket}-typo")] {
            let out = self.flows(|| self.stranger.stage(&format!("bz-chain bucket {arguments}"), ""));
            assert_eq!(last(&out, "bucket")["submitted"], true, "{out}");
        }
        self.who_follows();
    }

    /// The follower has a place of its own to write to.
    fn who_follows(&mut self) {
        let line = "bz-window --follow";
        let before = self.miner.snapshot();
        let out = self.miner.run(&format!("{line} -n"), "");
        assert!(out.status.success() && text(&out.stderr).contains("would follow"), "{}", text(&out.stderr));
        self.same("bz-window --follow -n", &before);
        self.miner.meets_bad_disks(line, "");
        self.same(line, &before);
        let following = Running::start(&mut self.miner.command(line));
        until("it follows", || self.miner.home.join("chain/head.json").exists());
        refused(line, &self.miner.run(line, ""), 75, "another process follows");
        signal(&following.0.id().to_string(), "-TERM");
        assert_eq!(following.output().status.code(), Some(0), "told to end, it ends well");
    }

    /// Each exit code with a cause, of these tools; what they need is here, but for that.
    fn each_exit_code(&self, commit: &str, deadline: &str, weights: &str) {
        let (miner, validator, stranger) = (&self.miner, &self.validator, &self.stranger);
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let window = validator.stage(&format!("bz-window --window {}", self.window), "");
        let other_run = window.replace(last(&window, "run")["run"].as_str().unwrap(), &"0".repeat(64));
        let open = deadline.replace("\"deadline_ms\":", "\"deadline_was\":");
        let two = weights.replace("\"uids\":[", "\"uids\":[7,");
        let next = validator.stage(&format!("bz-window --window {}", self.window + 1), "");
        let away = format!("--network ws://{closed}");
        let at = |address: &str| format!("bz-push --bucket http://{address}/bucket");
        let cases = [
            (miner, "bz-window --window x".into(), "", 2, "not a window"),
            (miner, "bz-window --window 0".into(), "", 1, "lies before the run"),
            (miner, format!("bz-window {away}"), "", 75, "cannot reach the chain"),
            (miner, "bz-window --netuid 77 --peers".into(), "", 78, "there is no subnet 77"),
            (miner, "bz-window".into(), &other_run, 78, "the input is of run"),
            (miner, "bz-pull".into(), commit, 2, "--commits"),
            (validator, "bz-pull --deltas".into(), &open, 1, "deadline"),
            (validator, "bz-pull --commits".into(), "", 65, "no `run` record"),
            (validator, "bz-pull --commits".into(), &other_run, 78, "the stream is of run"),
            (validator, format!("bz-pull --newest {away}"), &next, 75, "cannot reach the chain"),
            (miner, "bz-push --within 0".into(), commit, 2, "--within"),
            (validator, "bz-push".into(), &window, 65, "nothing of"),
            (miner, at(&closed.to_string()), commit, 75, "Connection refused"),
            (miner, format!("{} --within 1", at(&silent.local_addr().unwrap().to_string())), commit, 75, "within 1 s"),
            (miner, at(&format!("KEYID:SECRETKEY@{closed}")), commit, 78, "holds a key"),
            (miner, format!("{} -n -v", at(&format!("KEYID:SECRETKEY@{closed}"))), commit, 78, "holds a key"),
            (miner, "bz-push --wallet nobody".into(), commit, 78, "nobody"),
            (validator, "bz-setweights --commit nothing".into(), weights, 2, "--commit"),
            (validator, "bz-setweights --netuid 0".into(), weights, 1, "the root network"),
            (validator, "bz-setweights".into(), &two, 65, "different lengths"),
            (validator, format!("bz-setweights {away}"), weights, 75, "cannot reach the chain"),
            (validator, "bz-setweights --mechanism 2".into(), weights, 78, "no mechanism 2"),
            (stranger, "bz-setweights -n".into(), weights, 78, "registered"),
            (stranger, format!("bz-chain {away} whoami"), "", 75, "cannot reach the chain"),
            (stranger, "bz-chain --wallet nobody whoami".into(), "", 78, "nobody"),
        ];
        let before = miner.snapshot();
        for (node, line, input, code, words) in &cases {
            let since = Instant::now();
            let out = node.run(line, input);
            refused(line, &out, *code, words);
            assert!(since.elapsed() < Duration::from_secs(8), "{line} takes {:?}", since.elapsed());
            assert!(!(text(&out.stdout) + &text(&out.stderr)).contains("SECRETKEY"), "{line}");
        }
        // A subnet that does not exist is found before anything is signed.
        for line in ["whoami", "hyperparameters", "doctor", "register --limit 9", "bucket https://s3.example.org/x"] {
            for (flag, words) in [("--netuid 77", "there is no subnet 77"), ("--mechanism 5", "has no mechanism 5")] {
                let line = format!("bz-chain {flag} {line}");
                refused(&line, &validator.run(&line, ""), 78, words);
            }
        }
        let mut files = changed(&before, &miner.snapshot());
        files.retain(|path| !path.is_dir() && !path.ends_with("sealed/lock"));
        assert_eq!(files, Vec::<PathBuf>::new());
        // Nobody writes another's bucket.
        let bucket = validator.settings.iter().find(|(name, _)| name == "BZ_BUCKET").unwrap().1.clone();
        let out = miner.run(&format!("bz-push --bucket {bucket}"), commit);
        refused("bz-push", &out, 78, "access denied (403)");
        // A node that refuses, once.
        self.network.run(&["fault", "refuse", "1"]);
        let out = validator.run("bz-setweights --force", weights);
        refused("bz-setweights", &out, 75, "refused it a moment ago");
    }
}

#[test]
fn on_a_chain_and_with_buckets() {
    let mut net = Net::up();
    net.a_window();
    net.what_is_done_once();
    let ours = offers().iter().filter(|offer| TOOLS.contains(&offer.tool.as_str()));
    let offered: BTreeSet<String> = ours.clone().filter(|offer| offer.has("--dry-run")).map(Offer::name).collect();
    assert_eq!(net.dry, offered, "every command that offers --dry-run is tried");
    // None of them makes one file, so none has a place for it; none names its input.
    for offer in ours {
        let name = offer.name();
        for argument in ["-o x", "-"].into_iter().filter(|_| offer.command.as_deref() != Some("bucket")) {
            refused(&name, &net.validator.run(&format!("{name} {argument}"), ""), 2, "unexpected argument");
        }
    }
    let out = give(&mut net.validator.command("bz-chain hyperparameters"), "half a stream");
    typed("bz-chain", &text(&out.stdout));
    assert!(out.status.success(), "it reads none");
}
