//! What a step is said to need, beside what it takes. A file of its own: the peak is the process's.
#![allow(clippy::unwrap_used, clippy::panic)]

use model::{How, Level, Llama, Params, Sequences, device, inner, memory};
use run::hparams::{Dtype, Inner, InnerOptimizer, Model};
use std::{fs, io::Write, process::Command};
use tch::{Device, Kind, Tensor};

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn model(vocab_size: u64, hidden_size: u64, head_dim: u64) -> Model {
    Model {
        vocab_size,
        hidden_size,
        intermediate_size: 3 * hidden_size,
        num_hidden_layers: 3,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: Some(head_dim),
        max_position_embeddings: 8192,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        initializer_range: 0.02,
        ..Model::default()
    }
}

/// Bytes that two steps take, for the second has what the first left, and what they are said to need.
fn measure(model: &Model, how: How, length: i64, micro_batch: i64) -> (u64, u64) {
    // Two parts of each step: the first one's gradients are there beside those of the second.
    let count = 2 * micro_batch;
    let inner = Inner {
        optimizer: InnerOptimizer::AdamW,
        steps: 2,
        batch: Some(count as u64),
        micro_batch: None,
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
        dtype: Dtype::F32,
        momentum: None,
        schedule: None,
    };
    let theta = Params::of(model, |_, shape| Ok(Tensor::ones(shape, (Kind::Float, Device::Cpu)) * 0.01)).unwrap();
    let tokens = Tensor::arange(count * (length + 1), (Kind::Int64, Device::Cpu)).remainder(4000);
    let pages = Sequences { tokens: tokens.view([count, length + 1]), count, length };
    let before = status("VmRSS");
    let llama = Llama::new(model, theta, Device::Cpu, how).unwrap();
    let again = |_: &str| Ok(Tensor::zeros([1], (Kind::Float, Device::Cpu)));
    let start = inner::Start { theta: &again, replicas: vec![(llama, pages)], micro_batch };
    inner::train(start, &inner, |_| 1.0, |_, _| {}).unwrap();
    let devices = [Device::Cpu];
    let step = memory::Step { model, how, optimizer: InnerOptimizer::AdamW, length: length as u64, devices: &devices };
    (status("VmHWM") - before, step.needed(micro_batch as u64))
}

/// Each in a process of its own, whose peak is that of this one case: the best level has them all, the others those
/// that take another path there.
#[test]
fn a_step_takes_about_what_it_is_said_to_need() {
    let train = How { train: true, ..How::default() };
    let (half, plain, by_layer) =
        (How { half: true, ..train }, How { plain: true, ..train }, How { checkpoint: true, ..train });
    let (narrow, wide) = (model(50_257, 256, 32), model(4096, 768, 96));
    let long = Model { num_hidden_layers: 1, ..model(4096, 64, 256) };
    let cases = [
        (&narrow, train, 256, 1),
        (&narrow, half, 256, 4),
        (&wide, train, 256, 4),
        (&wide, half, 256, 4),
        (&wide, by_layer, 256, 4),
        (&wide, plain, 256, 4),
        (&long, train, 4096, 1),
        (&long, half, 4096, 1),
    ];
    let own = std::env::var("BZ_TEST_CASE").ok().map(|own| own.parse::<usize>().unwrap());
    if let Some(own) = own {
        let (model, how, length, micro_batch) = cases[own];
        device::prepare(Some(2)).unwrap();
        let (took, said) = measure(model, how, length, micro_batch);
        eprintln!("took {took} said {said}");
        return;
    }
    let best = Level::ALL.into_iter().rfind(|level| level.here());
    for level in Level::ALL {
        if !level.here() {
            // Past the capture of the test harness, which shows what fails alone.
            writeln!(&mut std::io::stderr(), "skipped: this machine has no {}", level.name()).unwrap();
            continue;
        }
        for (place, (model, how, length, micro_batch)) in cases.into_iter().enumerate() {
            // In f32 the levels differ in nothing but their speed.
            if Some(level) != best && !how.half {
                continue;
            }
            let test = ["--exact", "a_step_takes_about_what_it_is_said_to_need", "--nocapture"];
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(test).env("BZ_TEST_CASE", place.to_string()).env("BZ_CPU_LEVEL", level.name());
            let out = command.output().unwrap();
            let text = String::from_utf8(out.stderr).unwrap();
            let line =
                text.lines().find(|line| line.starts_with("took ")).unwrap_or_else(|| panic!("case {place}: {text}"));
            assert!(out.status.success(), "case {place}: {text}");
            let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            let ratio = numbers[1] / numbers[0];
            let name = format!(
                "{}, {} wide, {how:?}, {micro_batch} of {length}: {line}, {ratio:.2}",
                level.name(),
                model.hidden_size
            );
            println!("{name}");
            // What BENCH.md says of it.
            assert!((0.8..1.4).contains(&ratio), "{name}");
        }
    }
}

#[test]
fn a_level_that_this_machine_lacks_is_refused_and_never_replaced() {
    if std::env::var_os("BZ_TEST_REFUSED").is_some() {
        let report = device::prepare(Some(1)).err().unwrap();
        assert_eq!(report.code as i32, 78, "{report}");
        eprintln!("refused: {report}");
        return;
    }
    let lacking = Level::ALL.into_iter().filter(|level| !level.here()).map(Level::name);
    for (name, said) in lacking
        .map(|name| (name, format!("this machine has no {name}")))
        .chain([("v5", "BZ_CPU_LEVEL is v5".to_string()), ("V3", "BZ_CPU_LEVEL is V3".to_string())])
    {
        let test = ["--exact", "a_level_that_this_machine_lacks_is_refused_and_never_replaced", "--nocapture"];
        let mut command = Command::new(std::env::current_exe().unwrap());
        let out = command.args(test).env("BZ_TEST_REFUSED", "1").env("BZ_CPU_LEVEL", name).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && text.contains(&format!("refused: {said}")), "{name}: {text}");
        assert!(text.contains("hint: unset BZ_CPU_LEVEL"), "{text}");
    }
}
