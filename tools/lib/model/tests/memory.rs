//! What a step is said to need, beside what it takes. A file of its own: the peak is the process's.
#![allow(clippy::unwrap_used, clippy::panic)]

use model::{How, Llama, Params, Sequences, device, inner, memory};
use record::hparams::{Inner, Model};
use std::{fs, process::Command};
use tch::{Device, Kind, Tensor};

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn model(vocab_size: u64, hidden_size: u64) -> Model {
    Model {
        vocab_size,
        hidden_size,
        intermediate_size: 3 * hidden_size,
        num_hidden_layers: 4,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        max_position_embeddings: 1024,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        initializer_range: 0.02,
        ..Model::default()
    }
}

/// Bytes that two steps take, for the second has what the first left, and what they are said to need.
fn measure(model: &Model, how: How, micro_batch: i64) -> (u64, u64) {
    let inner = Inner {
        optimizer: "adamw".into(),
        steps: 2,
        batch: Some(8),
        micro_batch: None,
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
        dtype: "f32".into(),
        momentum: None,
        schedule: None,
    };
    let length = 256;
    let theta = Params::of(model, |_, shape| Ok(Tensor::ones(shape, (Kind::Float, Device::Cpu)) * 0.01)).unwrap();
    let tokens = Tensor::arange(8 * (length + 1), (Kind::Int64, Device::Cpu)).remainder(4000).view([8, length + 1]);
    let pages = Sequences { tokens, count: 8, length };
    let before = status("VmRSS");
    let llama = Llama::new(model, theta, Device::Cpu, how).unwrap();
    let again = |_: &str| Ok(Tensor::zeros([1], (Kind::Float, Device::Cpu)));
    let start = inner::Start { theta: &again, replicas: vec![(llama, pages)], micro_batch };
    inner::train(start, &inner, |_| 1.0, |_, _| {}).unwrap();
    (status("VmHWM") - before, memory::needed(model, how, length as u64, micro_batch as u64))
}

/// Each in a process of its own, whose peak is that of this one case.
#[test]
fn a_step_takes_about_what_it_is_said_to_need() {
    let models = [model(50_257, 128), model(4096, 512)];
    let train = How { train: true, ..How::default() };
    let (half, plain) = (How { half: true, ..train }, How { plain: true, ..train });
    let ways = [(train, 1), (train, 4), (half, 1), (half, 4), (How { checkpoint: true, ..half }, 4), (plain, 4)];
    let cases = models.iter().flat_map(|model| ways.map(|(how, micro_batch)| (model, how, micro_batch)));
    let own = std::env::var("BZ_TEST_CASE").ok().map(|own| own.parse::<usize>().unwrap());
    for (place, (model, how, micro_batch)) in cases.enumerate() {
        if own == Some(place) {
            device::prepare(Some(2)).unwrap();
            let (took, said) = measure(model, how, micro_batch);
            eprintln!("took {took} said {said}");
        }
        if own.is_some() {
            continue;
        }
        let test = ["--exact", "a_step_takes_about_what_it_is_said_to_need", "--nocapture"];
        let out = Command::new(std::env::current_exe().unwrap())
            .args(test)
            .env("BZ_TEST_CASE", place.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        let line =
            text.lines().find(|line| line.starts_with("took ")).unwrap_or_else(|| panic!("case {place}: {text}"));
        let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let ratio = numbers[1] / numbers[0];
        let name = format!("{} wide, {how:?}, {micro_batch} at once: {line}, {ratio:.2}", model.hidden_size);
        println!("{name}");
        assert!((0.7..1.7).contains(&ratio), "{name}");
    }
}
