//! A stream that is split over processes is the stream of one.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};
use tests::{bins, lines, program, root, text, tool};

fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a tool says of what it is given, with the kernels of a level of the processor or the best.
fn run(home: &Path, name: &str, args: &[&str], level: Option<&str>, input: &str) -> Vec<Value> {
    let mut command = tool(name, home);
    command.args(args).envs(level.map(|level| ("BZ_CPU_LEVEL", level)));
    let out = with_input(command, input);
    assert!(out.status.success(), "{name}: {}", text(&out.stderr));
    lines(&out.stdout)
}

fn text_of(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn shards(home: &Path, args: &[&str], input: &str) -> Output {
    let mut command = program(&root().join("pipelines/slurm/shards.sh"));
    let path = format!("{}:{}", bins().display(), std::env::var("PATH").unwrap());
    command.args(args).env("BZ_HOME", home).env("PATH", path);
    with_input(command, input)
}

/// What was trained: uid and hash.
fn trained(records: &[Value]) -> Vec<(u64, String)> {
    let of = |record: &Value| (record["uid"].as_u64().unwrap(), record["blake3"].as_str().unwrap().to_string());
    let mut all: Vec<_> = records.iter().filter(|record| record["type"] == "train").map(of).collect();
    all.sort();
    all
}

/// The kernels of lesser processors, which this one would not choose.
#[test]
fn every_level_of_the_processor_trains_alike() {
    // In bf16 they may round inside attention, or not.
    for (dtype, most) in [("f32", 1e-5), ("bf16", 5e-3)] {
        let folder = tempfile::tempdir().unwrap();
        let (home, data, window) =
            tests::node_without_chain(folder.path(), |hparams| hparams["inner"]["dtype"] = dtype.into());
        run(&home, "bz-state", &["init"], None, &text_of(&window));
        let args = ["--role", "given", "--page", "0", "--data", data.to_str().unwrap()];
        let pages = text_of(&run(&home, "bz-pages", &args, None, &text_of(&window)));
        let loss = |level| {
            let args = ["--quiet", "--force", "--device", "cpu", "--threads", "1"];
            let all = run(&home, "bz-train", &args, level, &pages);
            all.iter().rfind(|record| record["type"] == "train").unwrap()["loss_after"].as_f64().unwrap()
        };
        let best = loss(None);
        for level in ["v2", "v3", "v4"] {
            assert!((loss(Some(level)) - best).abs() < most, "{dtype}, {level}: {} {best}", loss(Some(level)));
        }
    }
}

#[test]
fn two_processes_train_what_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let (home, data, window) = tests::node_without_chain(folder.path(), |_| {});
    run(&home, "bz-state", &["init"], None, &text_of(&window));
    let mut input = window.clone();
    for (uid, page) in ["0", "1", "2"].iter().enumerate() {
        let file = folder.path().join(format!("pages-{page}"));
        let args = ["--role", "given", "--page", page, "--data", data.to_str().unwrap(), "-o", file.to_str().unwrap()];
        let mut pages =
            run(&home, "bz-pages", &args, None, &text_of(&window)).into_iter().rfind(|r| r["type"] == "pages").unwrap();
        pages["uid"] = uid.into();
        input.push(pages);
    }
    let input = text_of(&input);
    let tool = ["bz-train", "--quiet", "--device", "cpu", "--threads", "1", "--force"];
    let one = trained(&run(&home, tool[0], &tool[1..], None, &input));
    assert_eq!(one.len(), 3);
    let refused = shards(&home, &["parallel", "0", "bz-train"], &input);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    if !Command::new("parallel").arg("--version").output().is_ok_and(|out| out.status.success()) {
        eprintln!("GNU parallel is not here: the shards are not run (apt-get install parallel)");
        return;
    }
    let out = shards(&home, &[&["parallel", "2"], &tool[..]].concat(), &input);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let records = lines(&out.stdout);
    assert_eq!(trained(&records), one);
    let of = |kind: &str| records.iter().filter(|record| record["type"] == kind).count();
    assert_eq!((of("begin"), of("pages"), of("end")), (1, 3, 1));
    // A shard that fails is named, its status returned, and nothing passed on.
    let out = shards(&home, &["parallel", "2", "bz-train", "--hparams", "/nonexistent"], &input);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(78), 0), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("shard 0 of 2"), "{}", text(&out.stderr));
    assert_eq!(std::fs::read_dir(home.join("shards")).unwrap().count(), 0, "what was between is removed");
}
