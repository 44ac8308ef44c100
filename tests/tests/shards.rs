//! A stream that is split over processes is the stream of one.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{
    arch::is_x86_feature_detected,
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

fn shards(home: &Path, more: Option<&Path>, args: &[&str], input: &str) -> Output {
    let mut command = program(&root().join("pipelines/slurm/shards.sh"));
    let more = more.map(|folder| format!("{}:", folder.display())).unwrap_or_default();
    let path = format!("{more}{}:{}", bins().display(), std::env::var("PATH").unwrap());
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

/// The values of an update: what lies behind its header, in the order of its tensors' names.
fn values(record: &Value) -> Vec<f64> {
    let bytes = std::fs::read(record["path"].as_str().unwrap()).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let floats = bytes[8 + header..].as_chunks::<4>().0;
    floats.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect()
}

/// How far two updates are apart, relative to the second.
fn distance(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |sum: f64| sum.sqrt();
    let size = norm(theirs.iter().map(|x| x * x).sum());
    assert!(size > 0.0, "an update of zeros");
    norm(ours.iter().zip(theirs).map(|(a, b)| (a - b) * (a - b)).sum()) / size
}

/// The levels that there are kernels for, and whether this machine has them.
fn levels() -> [(&'static str, bool); 4] {
    let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
    let words = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
    let more = is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512cd");
    let v4 = v3 && is_x86_feature_detected!("avx512f") && words && more;
    [("v2", true), ("v3", v3), ("v4", v4), ("v4-bf16", v4 && is_x86_feature_detected!("avx512bf16"))]
}

/// Each level of the processor, also those that it would not choose by itself: the gradient, as one step of SGD has it, and
/// two steps of AdamW.
#[test]
fn every_level_of_the_processor_trains_alike() {
    // In bf16 they may round inside attention, or not. AdamW's first step goes by the gradient's sign alone: where it is
    // almost nothing, a rounding turns it around.
    let recipes = [("sgd", 1, "f32", 1e-5), ("sgd", 1, "bf16", 2e-2), ("adamw", 2, "f32", 3e-2)];
    for (optimizer, steps, dtype, most) in recipes {
        let folder = tempfile::tempdir().unwrap();
        let (home, data, window) = tests::node_without_chain(folder.path(), |hparams| {
            hparams["inner"]["dtype"] = dtype.into();
            hparams["inner"]["optimizer"] = optimizer.into();
            hparams["inner"]["steps"] = steps.into();
        });
        run(&home, "bz-state", &["init"], None, &text_of(&window));
        let args = ["--role", "given", "--page", "0", "--data", data.to_str().unwrap()];
        let pages = text_of(&run(&home, "bz-pages", &args, None, &text_of(&window)));
        let args = ["--quiet", "--force", "--device", "cpu", "--threads", "1"];
        let update = |level| {
            let all = run(&home, "bz-train", &args, level, &pages);
            values(all.iter().rfind(|record| record["type"] == "train").unwrap())
        };
        let best = update(None);
        for (level, here) in levels() {
            if here {
                let far = distance(&update(Some(level)), &best);
                assert!(far < most, "{optimizer}, {dtype}, {level}: {far}");
                continue;
            }
            // Past the capture of the test harness, which shows what fails alone.
            writeln!(&mut std::io::stderr(), "skipped: this machine has no {level}").unwrap();
            let mut command = tool("bz-train", &home);
            let out = with_input(
                {
                    command.args(args).env("BZ_CPU_LEVEL", level);
                    command
                },
                &pages,
            );
            assert_eq!(out.status.code(), Some(78), "{level}: {}", text(&out.stderr));
            assert!(text(&out.stderr).contains(&format!("this machine has no {level}")), "{}", text(&out.stderr));
        }
    }
}

/// A folder with a program in the place of GNU parallel, where that is not there: it runs the lines of its input, -j N at
/// once, by xargs.
fn parallel(folder: &Path) -> Option<std::path::PathBuf> {
    if Command::new("parallel").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return None;
    }
    writeln!(&mut std::io::stderr(), "skipped: GNU parallel itself is not here; xargs runs the shards in its place")
        .unwrap();
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("parallel");
    std::fs::write(
        &program,
        "#!/bin/sh\n[ \"$1\" = -j ] || exit 2\nexec xargs -d '\\n' -P \"$2\" -I LINE sh -c LINE\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Some(bin)
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
    let parallel = parallel(folder.path());
    let shards = |args: &[&str]| shards(&home, parallel.as_deref(), args, &input);
    let refused = shards(&["parallel", "0", "bz-train"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    let out = shards(&[&["parallel", "2"], &tool[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let records = lines(&out.stdout);
    assert_eq!(trained(&records), one);
    let of = |kind: &str| records.iter().filter(|record| record["type"] == kind).count();
    assert_eq!((of("begin"), of("pages"), of("end")), (1, 3, 1));
    // A shard that fails is named, its status returned, and nothing passed on.
    let out = shards(&["parallel", "2", "bz-train", "--hparams", "/nonexistent"]);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(78), 0), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("shard 0 of 2"), "{}", text(&out.stderr));
    assert_eq!(std::fs::read_dir(home.join("shards")).unwrap().count(), 0, "what was between is removed");
}
