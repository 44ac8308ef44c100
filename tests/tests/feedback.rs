//! A miner whose codec sends a choice: what is left goes from window to window in files of its own, and every stage can be run again.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tests::{lines, text, tool};

struct Miner {
    home: PathBuf,
    wallets: PathBuf,
    records: Vec<Value>,
    train: Value,
}

impl Miner {
    /// One that has trained: the very update of a window, which stands for that of the others too.
    fn new(folder: &Path) -> Self {
        let wallets = folder.join("wallets");
        let wallet = wallet::WalletArgs {
            name: "default".into(),
            hotkey: "default".into(),
            wallet_path: Some(wallets.clone()),
            password_file: None,
        };
        wallet.create().unwrap();
        let (home, data, records) = tests::node_without_chain(folder, |hparams| {
            hparams["codec"] = json!({"name": "topk", "compression": 1, "values": "sign", "k": 64, "decay": 0.95});
            hparams["score"]["threshold"] = 0.1.into();
        });
        let mut miner = Miner { home, wallets, records, train: Value::Null };
        let window = miner.input(0, None);
        miner.run("bz-state", &["init"], &window);
        let data = data.to_str().unwrap().to_string();
        let pages = miner.run("bz-pages", &["--role", "given", "--page", "0", "--data", &data], &window);
        let pages: String = pages.iter().map(|record| format!("{record}\n")).collect();
        let trained = miner.run("bz-train", &["--quiet", "--device", "cpu", "--threads", "1"], &pages);
        miner.train = trained.into_iter().rfind(|record| record["type"] == "train").unwrap();
        miner.train["role"] = "own".into();
        miner
    }

    fn run(&self, name: &str, args: &[&str], input: &str) -> Vec<Value> {
        let mut command: Command = tool(name, &self.home);
        command.args(args).env("BT_WALLET_PATH", &self.wallets);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{name} {args:?}: {}", text(&out.stderr));
        lines(&out.stdout)
    }

    /// The records of a window, with what was trained in it, and its end block's hash where it is over.
    fn input(&self, window: u64, reveal: Option<&str>) -> String {
        let mut all = self.records.clone();
        for record in &mut all {
            if record["type"] == "window" {
                record["window"] = window.into();
                record["reveal"] = reveal.into();
            }
        }
        if self.train.is_object() {
            all.push(self.train.clone());
            all.last_mut().unwrap()["window"] = window.into();
        }
        all.iter().map(|record| format!("{record}\n")).collect()
    }

    fn commit(&self, window: u64) -> String {
        let all = self.run("bz-delta", &["commit"], &self.input(window, None));
        let commit = all.into_iter().rfind(|record| record["type"] == "commit").unwrap();
        commit["commitment"].as_str().unwrap().to_string()
    }

    fn make(&self, window: u64) -> Value {
        let made = self.run("bz-delta", &["make"], &self.input(window, Some(&"07".repeat(32))));
        made.into_iter().rfind(|record| record["type"] == "delta").unwrap()
    }

    fn left(&self, window: u64) -> Option<Vec<u8>> {
        std::fs::read(self.home.join(format!("feedback/{window}.safetensors"))).ok()
    }
}

#[test]
fn what_is_left_goes_from_window_to_window() {
    let folder = tempfile::tempdir().unwrap();
    let miner = Miner::new(folder.path());
    let first = miner.commit(0);
    assert!(miner.left(1).is_none(), "nothing was sent yet");

    // What was committed to is what is revealed.
    let delta = miner.make(0);
    let left = miner.left(1).unwrap();
    // Run again, after a kill perhaps: the same.
    assert_eq!(miner.commit(0), first);
    std::fs::remove_file(miner.home.join("feedback/1.safetensors")).unwrap();
    assert_eq!(miner.make(0)["blake3"], delta["blake3"]);
    assert_eq!(miner.left(1).unwrap(), left);
    let shown = miner.run("bz-delta", &["show", delta["path"].as_str().unwrap()], "").remove(0);
    assert!(delta["status"] == "ok" && delta["codec"] == "topk", "{delta}");
    assert!(shown["sent"].as_u64().unwrap() > 1000 && shown["bits_per_parameter"].as_f64().unwrap() < 0.4, "{shown}");
    let path = miner.home.join("other.safetensors");
    miner.run("bz-delta", &["make", "--force", "-o", path.to_str().unwrap()], &miner.input(0, Some(&"07".repeat(32))));
    let diff = miner.run("bz-delta", &["diff", path.to_str().unwrap(), delta["path"].as_str().unwrap()], "").remove(0);
    assert_eq!((&diff["distance"], &diff["sent_a"]), (&json!(0.0), &diff["sent_by_both"]));

    // The next window begins with what was left: the same update, and something else is sent.
    miner.commit(1);
    let next = miner.make(1);
    let second = miner.left(2).unwrap();
    assert!(second != miner.left(1).unwrap());
    let diff = miner.run("bz-delta", &["diff", next["path"].as_str().unwrap(), delta["path"].as_str().unwrap()], "");
    assert!(diff[0]["cosine"].as_f64().unwrap() < 0.9, "{}", diff[0]);

    // Some windows are missed, one after it was committed to: it goes on from the last one that was revealed, and what no window
    // needs any more is gone.
    miner.commit(5);
    miner.commit(7);
    miner.make(7);
    assert!(miner.left(8).is_some() && miner.left(2).is_some() && miner.left(1).is_none());
    let last = miner.left(8).unwrap();
    miner.make(7);
    assert_eq!(miner.left(8).unwrap(), last);
}
