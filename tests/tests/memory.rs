//! What is trained where memory is short.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{fs::File, path::Path, process::Output};
use tests::{lines, program, text, tool};

/// A tool with so many KiB to address.
fn within(limit: u64, name: &str, home: &Path, input: &Path) -> Output {
    let mut command = program(Path::new("sh"));
    command.args(["-c", "ulimit -v $0 && exec \"$@\"", &limit.to_string()]).arg(tests::bins().join(name));
    command
        .args(["--quiet", "--device", "cpu", "--threads", "2"])
        .args((name == "bz-train").then_some("--force"))
        .env("BZ_HOME", home)
        .env("BZ_NETUID", "1");
    command.stdin(File::open(input).unwrap()).output().unwrap()
}

#[test]
fn less_memory_is_fewer_sequences_at_once_and_the_same_loss_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    // Half a gigabyte for what layers keep, where the model has a megabyte.
    let (home, data, window) = tests::node_without_chain(folder.path(), |hparams| {
        hparams["inner"]["batch"] = 256.into();
        hparams["inner"]["micro_batch"] = 256.into();
        hparams["inner"]["steps"] = 1.into();
    });
    let input = folder.path().join("input");
    let write = |records: &[Value]| {
        std::fs::write(&input, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
    };
    let ok = |out: Output| {
        assert!(out.status.success(), "{}", text(&out.stderr));
        lines(&out.stdout)
    };
    write(&window);
    let run = |name: &str| {
        let mut command = tool(name, &home);
        command.stdin(File::open(&input).unwrap());
        command
    };
    ok(run("bz-state").arg("init").output().unwrap());
    let args = ["--role", "given", "--page", "0", "--data", data.to_str().unwrap()];
    let mut records = ok(run("bz-pages").args(args).output().unwrap());
    // Two records: the second finds what the first has left of the process's memory.
    let mut second = records.iter().rfind(|record| record["type"] == "pages").unwrap().clone();
    second["uid"] = 1.into();
    records.push(second);
    write(&records);
    let trained = |out: &Output| -> Vec<Value> {
        lines(&out.stdout).into_iter().filter(|record| record["type"] == "train").collect()
    };
    let whole = within(64 << 20, "bz-train", &home, &input);
    let all = trained(&whole);
    assert_eq!((all.len(), text(&whole.stderr).contains("memory is short")), (2, false), "{}", text(&whole.stderr));
    assert!(all.iter().all(|one| one["micro_batch"] == 256 && one["checkpoint"] == false));
    // Whether it trained within so many KiB, and what it said of them.
    let trains_within = |limit: u64| -> (bool, String) {
        let out = within(limit, "bz-train", &home, &input);
        let said = text(&out.stderr);
        match out.status.code() {
            Some(0) => {
                let now = trained(&out);
                assert_eq!(now.len(), 2, "{said}");
                for (now, before) in now.iter().zip(&all) {
                    let loss = |record: &Value| record["loss_after"].as_f64().unwrap();
                    assert!((loss(now) - loss(before)).abs() < 1e-5, "{now} {before}");
                }
                // What was said may have been of the second one alone.
                assert_eq!(now[1]["checkpoint"] == true, said.contains("--checkpoint"), "{said}");
                assert_eq!(now[1]["micro_batch"] != 256, said.contains("sequences at once"), "{said}");
                (true, said)
            }
            // Too little for the libraries themselves.
            Some(code) => {
                assert!([75, 127].contains(&code), "{limit} KiB: {:?} {said}", out.status);
                (false, said)
            }
            None => panic!("{limit} KiB: {:?} {said}", out.status),
        }
    };
    // Where all of it fits, large steps; smaller ones until each way was taken once; then large ones to the end.
    let mut limit = 3 << 20;
    while trains_within(limit / 4 * 3) == (true, String::new()) {
        limit = limit / 4 * 3;
    }
    let (mut by_layer, mut halved) = (false, false);
    loop {
        let next = if by_layer && halved { limit / 4 * 3 } else { limit / 10 * 9 };
        let (trained, said) = trains_within(next);
        by_layer |= said.contains("going on as with --checkpoint");
        halved |= said.contains("sequences at once");
        if !trained {
            break;
        }
        limit = next;
    }
    assert!(by_layer && halved, "by layer {by_layer}, halved {halved}, ended below {limit} KiB");
    // A pass without gradients finds its own way.
    let out = within(limit, "bz-eval", &home, &input);
    assert!(out.status.success(), "{}", text(&out.stderr));
}
