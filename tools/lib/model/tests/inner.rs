//! The inner steps: reproducible to the byte, right against finite differences, and honest about what is not finite.
#![allow(clippy::unwrap_used)]

use model::{How, Level, Llama, Params, Sequences, data, device, inner};
use run::hparams::{Dtype, Family, Inner, Model};
use std::{io::Write, path::Path, process::Command};
use tch::{Device, Kind, Tensor};

fn model_of(tied: bool) -> Model {
    Model {
        vocab_size: 61,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        tie_word_embeddings: tied,
        initializer_range: 0.1,
        ..Model::default()
    }
}

/// Values in -1..1 that depend on the seed alone: libtorch's own generator is one for all threads of a process.
fn dice(seed: u64) -> impl FnMut() -> f64 {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f64 / f64::from(1 << 23) - 1.0
    }
}

fn random(shape: &[i64], dice: &mut impl FnMut() -> f64) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| dice() as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

fn params(model: &Model, seed: u64) -> Params {
    let mut dice = dice(seed);
    let fill = |_: &str, shape: &[i64]| {
        Ok(match shape.len() {
            1 => Tensor::ones(shape, (Kind::Float, Device::Cpu)),
            _ => random(shape, &mut dice) * 0.2,
        })
    };
    Params::of(model, fill).unwrap()
}

const TRAIN: How = How { train: true, half: false, plain: false, checkpoint: false };

fn sequences(seed: u64) -> Sequences {
    let mut dice = dice(seed);
    let tokens: Vec<i64> = (0..6 * 17).map(|_| ((dice() + 1.0) * 30.4) as i64).collect();
    Sequences { tokens: Tensor::from_slice(&tokens).view([6, 17]), count: 6, length: 16 }
}

fn inner_of(optimizer: &str, steps: u64) -> Inner {
    Inner {
        optimizer: optimizer.parse().unwrap(),
        steps,
        batch: Some(4),
        micro_batch: None,
        lr: if optimizer == "sgd" { 1.0 } else { 1e-2 },
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        clip: 0.0,
        dtype: Dtype::F32,
        momentum: None,
        schedule: None,
    }
}

fn run(model: &Model, theta: &Params, inner: &Inner, micro_batch: i64) -> inner::Trained {
    run_so(model, theta, inner, micro_batch, How { half: inner.dtype == Dtype::Bf16, ..TRAIN })
}

fn run_so(model: &Model, theta: &Params, inner: &Inner, micro_batch: i64, how: How) -> inner::Trained {
    train(model, theta, inner, micro_batch, how, 1, 1.0)
}

fn train(
    model: &Model,
    theta: &Params,
    inner: &Inner,
    micro_batch: i64,
    how: How,
    replicas: usize,
    share: f64,
) -> inner::Trained {
    let replica = |_| (Llama::new(model, theta.copy(), Device::Cpu, how).unwrap(), sequences(5));
    let replicas = (0..replicas).map(replica).collect();
    let again = |name: &str| Ok(theta.leaves[name].tensor.shallow_clone());
    inner::train(inner::Start { theta: &again, replicas, micro_batch }, inner, |_| share, |_, _| {}).unwrap()
}

/// Whose updates a process of `the_same_inputs_give_the_same_bytes` writes: threads, and the folder.
const UPDATES: [&str; 2] = ["BZ_TEST_THREADS", "BZ_TEST_FOLDER"];

const RECIPES: [(&str, &str); 4] = [("adamw", "f32"), ("adamw", "bf16"), ("muon", "f32"), ("sgd", "f32")];

/// The updates of all recipes, written by a process of its own with so many threads and the kernels of a level.
fn updates_of(level: Level, threads: &str) -> Vec<Params> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_same_inputs_give_the_same_bytes", "--nocapture"]);
    command.env(UPDATES[0], threads).env(UPDATES[1], folder.path()).env("BZ_CPU_LEVEL", level.name());
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}, {threads} threads: {}", level.name(), String::from_utf8_lossy(&out.stderr));
    let read = |(optimizer, dtype): (&str, &str)| {
        let path = folder.path().join(format!("{optimizer}-{dtype}"));
        data::load_tensors(&path, &model_of(true), Device::Cpu).unwrap()
    };
    RECIPES.map(read).into_iter().collect()
}

/// A process that only writes what it trains.
fn write_updates(threads: &str, folder: &str) {
    device::prepare(Some(threads.parse().unwrap())).unwrap();
    let model = model_of(true);
    let theta = params(&model, 1);
    for (optimizer, dtype) in RECIPES {
        let steps = if optimizer == "sgd" { 1 } else { 3 };
        let how = Inner { dtype: dtype.parse().unwrap(), clip: 1.0, ..inner_of(optimizer, steps) };
        let update = run(&model, &theta, &how, 2).update.unwrap();
        data::write(&Path::new(folder).join(format!("{optimizer}-{dtype}")), &update).unwrap();
    }
}

fn cosine(a: &Params, b: &Params) -> f64 {
    let dot = |a: &Params, b: &Params| -> f64 {
        let of = |leaf: &String| (&a.leaves[leaf].tensor * &b.leaves[leaf].tensor).sum(Kind::Double).double_value(&[]);
        a.leaves.keys().map(of).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    if let [Ok(threads), Ok(folder)] = UPDATES.map(std::env::var) {
        return write_updates(&threads, &folder);
    }
    for level in Level::ALL {
        if !level.here() {
            // Past the capture of the test harness, which shows what fails alone.
            writeln!(&mut std::io::stderr(), "skipped: this machine has no {}", level.name()).unwrap();
            continue;
        }
        let alone = updates_of(level, "1");
        for threads in ["1", "2", "3", "8"] {
            let (first, second) = (updates_of(level, threads), updates_of(level, threads));
            for (((first, second), alone), recipe) in first.iter().zip(&second).zip(&alone).zip(RECIPES) {
                let name = format!("{}, {threads} threads, {recipe:?}", level.name());
                for (leaf, other) in &second.leaves {
                    assert!(other.tensor.equal(&first.leaves[leaf].tensor), "{name}, {leaf}");
                }
                // Another number of threads: libtorch's own products in f32 are summed in another order.
                let cosine = cosine(first, alone);
                assert!(cosine > 0.9999, "{name}: the cosine to one thread's update is {cosine}");
            }
        }
    }
}

#[test]
fn what_has_no_deterministic_algorithm_is_refused_by_name() {
    device::prepare(None).unwrap();
    let report = device::guard(|| {
        let mut values = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let twice = Tensor::from_slice(&[1_i64, 1]);
        // Which of the two is put there last, nothing says.
        Ok(values.put_(&twice, &Tensor::from_slice(&[1.0_f32, 2.0]), false))
    });
    let report = report.err().unwrap();
    assert_eq!(report.code as i32, 78, "{report}");
    assert!(report.error.contains("put_ has no deterministic algorithm"), "{report}");
}

#[test]
fn the_loss_before_is_that_of_the_first_step() {
    let model = model_of(true);
    let theta = params(&model, 7);
    // Of six sequences, the first four; all of them; all, and the first two again.
    for batch in [4, 6, 8] {
        let inner = Inner { batch: Some(batch), ..inner_of("adamw", 1) };
        let trained = run(&model, &theta, &inner, 2);
        let of = |theta: &Params, count: i64| {
            let llama = Llama::new(&model, theta.copy(), Device::Cpu, How::default()).unwrap();
            let (x, y) = sequences(5).batch(0, count);
            tch::no_grad(|| llama.loss(&x, &y)).unwrap().double_value(&[])
        };
        let before = of(&theta, batch as i64);
        assert!((trained.loss_before - before).abs() < 1e-5, "{batch}: {} {before}", trained.loss_before);
        let update = trained.update.unwrap();
        let moved = theta.copy();
        for (own, delta) in moved.leaves.values().zip(update.leaves.values()) {
            let _ = own.tensor.shallow_clone().g_sub_(&delta.tensor);
        }
        let after = of(&moved, batch as i64);
        assert!((trained.loss_after - after).abs() < 1e-5, "{batch}: {} {after}", trained.loss_after);
        assert!((before - after).abs() > 1e-3, "{batch}: {before} {after}");
    }
}

#[test]
fn what_is_written_is_read_wherever_its_values_lie() {
    let model = model_of(false);
    let theta = params(&model, 14);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    data::write(&path, &theta).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for padding in 0..4 {
        // Spaces behind the header push its values from whole words.
        let mut moved = ((length + padding) as u64).to_le_bytes().to_vec();
        moved.extend(&bytes[8..8 + length]);
        moved.extend(vec![b' '; padding]);
        moved.extend(&bytes[8 + length..]);
        std::fs::write(&path, &moved).unwrap();
        let read = data::load_tensors(&path, &model, Device::Cpu).unwrap();
        assert_eq!(distance(&read, &theta), 0.0, "{padding}");
        // What is cut short is refused.
        std::fs::write(&path, &moved[..moved.len() - 1]).unwrap();
        assert_eq!(data::load_tensors(&path, &model, Device::Cpu).err().unwrap().code as i32, 65);
    }
}

#[test]
fn one_step_of_sgd_is_the_gradient_by_finite_differences() {
    for tied in [true, false] {
        let model = model_of(tied);
        let theta = params(&model, 2);
        let update = run(&model, &theta, &inner_of("sgd", 1), 4).update.unwrap();
        let (x, y) = sequences(5).batch(0, 4);
        // Along a random direction of all parameters, in float64 on both sides.
        let mut dice = dice(9);
        let direction = Params::of(&model, |_, shape| Ok(random(shape, &mut dice))).unwrap().named();
        let theta = theta.named();
        let loss_at = |step: f64| {
            let _no_grad = tch::no_grad_guard();
            let moved = |n: &str, _: &[i64]| Ok((&theta[n] + &direction[n] * step).to_kind(Kind::Double));
            let llama = Llama::new(&model, Params::of(&model, moved).unwrap(), Device::Cpu, How::default()).unwrap();
            let logits = llama.logits(&x).unwrap().view([-1, 61]);
            logits
                .cross_entropy_loss::<Tensor>(&y.reshape([-1]), None, tch::Reduction::Mean, -100, 0.0)
                .double_value(&[])
        };
        let numeric = (loss_at(1e-4) - loss_at(-1e-4)) / 2e-4;
        let exact: f64 =
            update.named().iter().map(|(n, g)| (g * &direction[n]).sum(Kind::Double).double_value(&[])).sum();
        assert!((numeric - exact).abs() < 1e-4 * exact.abs(), "tied {tied}: {numeric} {exact}");
    }
}

/// How far two updates are apart, relative to the second.
fn distance(ours: &Params, theirs: &Params) -> f64 {
    let sum = |of: &dyn Fn(&Tensor, &Tensor) -> Tensor| -> f64 {
        let pairs = ours.leaves.values().zip(theirs.leaves.values());
        pairs
            .map(|(a, b)| of(&a.tensor, &b.tensor).to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]))
            .sum()
    };
    (sum(&|a, b| a - b) / sum(&|_, b| b.shallow_clone())).sqrt()
}

#[test]
fn kernels_and_recomputed_layers_give_the_gradient_of_plain_operators() {
    let model = |family, kv| Model { family, num_key_value_heads: kv, ..model_of(true) };
    let odd = Model { tie_word_embeddings: false, intermediate_size: 37, ..model_of(true) };
    let families = [
        ("grouped, tied", model(Family::Llama, 2)),
        ("odd widths, untied", odd),
        ("biases", model(Family::Qwen2, 1)),
        ("head norms", Model { head_dim: Some(6), ..model(Family::Qwen3, 4) }),
    ];
    for (name, model) in families {
        let theta = params(&model, 8);
        let sgd = inner_of("sgd", 1);
        let gradient = |how| run_so(&model, &theta, &sgd, 3, how);
        let plain = gradient(How { plain: true, ..TRAIN });
        let fused = gradient(TRAIN);
        let layered = gradient(How { checkpoint: true, ..TRAIN });
        let (plain_update, update) = (plain.update.unwrap(), fused.update.unwrap());
        let far = distance(&update, &plain_update);
        assert!(far < 2e-6, "{name}: {far}");
        assert!(
            (plain.loss_after - fused.loss_after).abs() < 1e-5,
            "{name}: {} {}",
            plain.loss_after,
            fused.loss_after
        );
        let far = distance(&layered.update.unwrap(), &update);
        assert!(far < 1e-7, "{name}, by layer: {far}");
        // bf16 is off by what it rounds, here and in the plain operators alike.
        let half = distance(&gradient(How { half: true, ..TRAIN }).update.unwrap(), &plain_update);
        let theirs = distance(&gradient(How { half: true, plain: true, ..TRAIN }).update.unwrap(), &plain_update);
        assert!(half < 1.2 * theirs && half > 1e-4, "{name}, bf16: {half} {theirs}");
        // libtorch's own AdamW and norm, and the kernels: steps of a clipped gradient, in one part and in two.
        let adamw = Inner { clip: 0.1, weight_decay: 0.1, ..inner_of("adamw", 3) };
        let plain = run_so(&model, &theta, &adamw, 4, How { plain: true, ..TRAIN }).update.unwrap();
        for parts in [4, 2] {
            let far = distance(&run_so(&model, &theta, &adamw, parts, TRAIN).update.unwrap(), &plain);
            assert!(far < 1e-3, "{name}, AdamW: {far}");
        }
        let half = Inner { dtype: Dtype::Bf16, ..adamw };
        let far = distance(&run(&model, &theta, &half, 4).update.unwrap(), &plain);
        assert!(far < 0.2, "{name}, AdamW in bf16: {far}");
    }
}

#[test]
fn attention_over_many_blocks_of_keys_is_that_of_plain_operators() {
    // 64 queries and 256 keys are a block, and these lengths are multiples of neither.
    let model = Model { max_position_embeddings: 1024, ..model_of(true) };
    for (length, width) in [(1, 8), (63, 24), (65, 64), (257, 80), (585, 8), (300, 128)] {
        let model = Model { head_dim: Some(width), ..model.clone() };
        let theta = params(&model, 12);
        let mut dice = dice(length as u64);
        let tokens: Vec<i64> = (0..2 * (length + 1)).map(|_| ((dice() + 1.0) * 30.4) as i64).collect();
        let tokens = Tensor::from_slice(&tokens).view([2, length + 1]);
        let (x, y) = (tokens.narrow(1, 0, length), tokens.narrow(1, 1, length));
        let of = |how| Llama::new(&model, theta.copy(), Device::Cpu, how).unwrap().gradients(&x, &y, 1.0).unwrap();
        let (loss, gradients) = of(TRAIN);
        let (plain_loss, plain) = of(How { plain: true, ..TRAIN });
        let (half_loss, half) = of(How { half: true, ..TRAIN });
        let (plain_half_loss, plain_half) = of(How { half: true, plain: true, ..TRAIN });
        assert!((half_loss - plain_half_loss).abs().double_value(&[]) < 1e-2, "{length}");
        // Each leaf by itself is off by what bf16 rounds, here and in the plain operators alike.
        for ((ours, theirs), right) in half.iter().zip(&plain_half).zip(&plain) {
            let off = |other: &Tensor| (other - right).norm().double_value(&[]) / right.norm().double_value(&[]);
            assert!(off(ours) < 1.3 * off(theirs) + 1e-3, "{length}, bf16: {} {}", off(ours), off(theirs));
        }
        assert!((loss - plain_loss).abs().double_value(&[]) < 1e-5, "{length}");
        for (ours, theirs) in gradients.iter().zip(&plain) {
            let far = (ours - theirs).norm().double_value(&[]) / theirs.norm().double_value(&[]);
            assert!(far < 2e-5, "{length}: {far}");
        }
    }
}

#[test]
fn replicas_that_share_the_steps_give_the_update_of_one() {
    let model = model_of(true);
    let theta = params(&model, 10);
    // Four sequences in parts of one: three copies have two, one and one of them.
    let of = |replicas| train(&model, &theta, &inner_of("adamw", 8), 1, TRAIN, replicas, 1.0).update.unwrap();
    let one = of(1);
    for replicas in [2, 3] {
        let (shared, again) = (of(replicas), of(replicas));
        let far = distance(&shared, &one);
        assert!(far < 1e-4, "{replicas} replicas: {far}");
        assert_eq!(distance(&shared, &again), 0.0, "{replicas} replicas, twice");
    }
}

#[test]
fn accumulation_changes_nothing_and_decay_enters_the_update() {
    let model = model_of(true);
    let theta = params(&model, 3);
    let whole = run(&model, &theta, &inner_of("sgd", 1), 4).update.unwrap();
    let parts = run(&model, &theta, &inner_of("sgd", 1), 1).update.unwrap();
    let decayed = run(&model, &theta, &Inner { weight_decay: 0.1, ..inner_of("sgd", 1) }, 4).update.unwrap();
    let (parts, decayed, theta) = (parts.named(), decayed.named(), theta.named());
    for (name, update) in &whole.named() {
        let far = (update - &parts[name]).abs().max().double_value(&[]);
        assert!(far < 1e-6, "{name}: {far}");
        let expected = if update.dim() > 1 { update + &theta[name] * 0.1 } else { update.shallow_clone() };
        assert!((expected - &decayed[name]).abs().max().double_value(&[]) < 1e-6, "{name}");
    }
}

#[test]
fn training_lowers_the_loss_and_what_is_not_finite_is_said() {
    let model = model_of(false);
    let theta = params(&model, 4);
    let good = run(&model, &theta, &inner_of("adamw", 20), 4);
    assert!(good.loss_after < good.loss_before - 0.5, "{} {}", good.loss_before, good.loss_after);
    assert_eq!((good.steps, good.tokens), (20, 20 * 4 * 16));
    let broken = theta.copy();
    let _ = broken.leaves["model.norm.weight"].tensor.shallow_clone().fill_(f64::NAN);
    let bad = run(&model, &broken, &inner_of("adamw", 20), 4);
    assert!(bad.update.is_none() && bad.steps == 0 && bad.reason.unwrap().contains("step 0"));
}

#[test]
fn muon_moves_a_matrix_by_what_is_nearly_orthogonal_and_a_share_of_the_rate_by_that_share() {
    let model = model_of(true);
    let theta = params(&model, 6);
    let of = |share: f64| train(&model, &theta, &inner_of("muon", 1), 4, TRAIN, 1, share).update.unwrap().named();
    let (whole, half) = (of(1.0), of(0.5));
    for (name, update) in &whole {
        let far = (update - &half[name] * 2.0).abs().max().double_value(&[]);
        assert!(far < 1e-6, "{name}: {far}");
        if name.starts_with("model.layers.") && update.dim() == 2 {
            let longest = update.size().into_iter().max().unwrap() as f64;
            let x = (update / (1e-2 * 0.2 * longest.sqrt())).to_kind(Kind::Double);
            let x = if x.size()[0] > x.size()[1] { x.transpose(0, 1) } else { x };
            let singular = x.matmul(&x.transpose(0, 1)).linalg_eigvalsh("L").clamp_min(0.0).sqrt();
            let (least, most) = (singular.min().double_value(&[]), singular.max().double_value(&[]));
            // The least of a gradient's singular values may be near nothing, and stay there; no value grows beyond 1.3.
            assert!(most > 0.6 && most < 1.3 && least >= 0.0, "{name}: {least} to {most}");
            let near = singular.gt(0.5).sum(Kind::Double).double_value(&[]) / singular.numel() as f64;
            assert!(near > 0.8, "{name}: {near} of the singular values are near 1");
        }
    }
}

#[test]
fn what_libtorch_throws_is_one_line_and_want_of_memory_is_known() {
    let shapes = device::guard(|| {
        let ones = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        Ok(ones.matmul(&ones))
    });
    let report = shapes.err().unwrap();
    assert!(report.error.starts_with("libtorch: mat1 and mat2 shapes cannot be multiplied"), "{report}");
    assert!(!report.error.contains("frame") && !report.error.contains("Torch(") && !device::out_of_memory(&report));
    let report = device::guard(|| Ok(Tensor::empty([1 << 44], (Kind::Float, Device::Cpu)))).err().unwrap();
    assert!(device::out_of_memory(&report) && !report.error.contains("frame"), "{report}");
}
