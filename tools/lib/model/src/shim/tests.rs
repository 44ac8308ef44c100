//! Each kernel against float64, at each level of the processor; and what does not belong there is refused.

use super::*;
use crate::Level;
use std::{io::Write, process::Command};
use tch::Reduction;

const CPU: Device = Device::Cpu;

/// Values in -1..1 that repeat nowhere near, in float64.
fn wave(shape: &[i64], speed: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    (Tensor::arange(count, (Kind::Double, CPU)) * speed).sin().view(shape)
}

/// A tensor of its own that gradients are wanted for.
fn leaf(t: &Tensor, kind: Kind) -> Tensor {
    t.to_kind(kind).copy().detach().set_requires_grad(true)
}

/// What remains of a tensor in a dtype, in float64.
fn rounded(t: &Tensor, kind: Kind) -> Tensor {
    t.to_kind(kind).to_kind(Kind::Double)
}

fn is_near(what: &str, ours: &Tensor, exact: &Tensor, most: f64) {
    assert_eq!(ours.size(), exact.size(), "{what}");
    let size = exact.norm().double_value(&[]);
    let far = (ours.to_kind(Kind::Double) - exact).norm().double_value(&[]) / size.max(1e-30);
    assert!(size > 0.0 && far < most, "{what}: {far} of {size}");
}

/// Gradients of `made`, whose own are `grads`, for `leaves`.
fn grads_of(made: &[Tensor], grads: &[Tensor], leaves: &[&Tensor]) -> Vec<Tensor> {
    let inputs: Vec<_> = leaves.iter().map(|leaf| leaf.shallow_clone()).collect();
    gradients(made, grads, &inputs).unwrap()
}

const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)];

#[test]
fn norm_is_that_of_float64() {
    let (rows, width, eps) = (70, 37, 1e-5);
    for (kind, most) in KINDS {
        for branched in [false, true] {
            let x = rounded(&wave(&[rows, width], 0.7), Kind::Float);
            let branch = rounded(&wave(&[rows, width], 1.3), kind);
            let w = rounded(&(wave(&[width], 2.1) + 1.5), Kind::Float);
            let (dy, dsum) = (rounded(&wave(&[rows, width], 0.3), kind), wave(&[rows, width], 0.9));
            let (a, b, c) = (leaf(&x, Kind::Float), leaf(&branch, kind), leaf(&w, Kind::Float));
            let (y, sum) = norm(&a, branched.then_some(&b), &c, eps, kind == Kind::BFloat16).unwrap();
            assert_eq!(y.kind(), kind);
            let (d, e, f) = (leaf(&x, Kind::Double), leaf(&branch, Kind::Double), leaf(&w, Kind::Double));
            let exact_sum = if branched { &d + &e } else { &d + 0.0 };
            let mean = exact_sum.square().mean_dim(&[-1_i64][..], true, Kind::Double);
            let exact = &exact_sum / (mean + eps).sqrt() * &f;
            is_near("norm", &y, &exact, most);
            is_near("sum", &sum, &exact_sum, 1e-6);
            let (made, exact_made) = match branched {
                true => (vec![y, sum], vec![exact, exact_sum]),
                false => (vec![y], vec![exact]),
            };
            let given = [dy.to_kind(kind), dsum.to_kind(Kind::Float)];
            let (own, theirs) = match branched {
                true => (grads_of(&made, &given, &[&a, &c, &b]), vec![&d, &f, &e]),
                false => (grads_of(&made, &given[..1], &[&a, &c]), vec![&d, &f]),
            };
            let given: Vec<_> = given.iter().take(made.len()).map(|t| t.to_kind(Kind::Double)).collect();
            for (ours, exact) in own.iter().zip(grads_of(&exact_made, &given, &theirs)) {
                is_near("norm's gradient", ours, &exact, most);
            }
        }
    }
}

#[test]
fn gate_is_that_of_float64() {
    for (kind, most) in KINDS {
        let (both, d_out) = (rounded(&(wave(&[33, 2 * 37], 0.7) * 3.0), kind), rounded(&wave(&[33, 37], 1.1), kind));
        let (a, b) = (leaf(&both, kind), leaf(&both, Kind::Double));
        let ours = gate(&a).unwrap();
        let halves = b.chunk(2, -1);
        let exact = halves[0].silu() * &halves[1];
        is_near("gate", &ours, &exact, most);
        let own = grads_of(&[ours], &[d_out.to_kind(kind)], &[&a]);
        is_near("gate's gradient", &own[0], &grads_of(&[exact], &[d_out], &[&b])[0], most);
    }
}

#[test]
fn linear_is_that_of_float64() {
    for (kind, most) in KINDS {
        let tensors = [wave(&[70, 24], 0.7), wave(&[40, 24], 1.3), wave(&[40], 2.1)].map(|t| rounded(&t, kind));
        let d_out = rounded(&wave(&[70, 40], 0.9), kind);
        let ours = tensors.each_ref().map(|t| leaf(t, kind));
        let exact = tensors.each_ref().map(|t| leaf(t, Kind::Double));
        for biased in [true, false] {
            let out = linear(&ours[0], &ours[1], biased.then_some(&ours[2])).unwrap();
            let plain = exact[0].matmul(&exact[1].transpose(0, 1));
            let right = if biased { &plain + &exact[2] } else { plain };
            is_near("linear", &out, &right, most);
            let count = if biased { 3 } else { 2 };
            let own = grads_of(&[out], &[d_out.to_kind(kind)], &ours.iter().take(count).collect::<Vec<_>>());
            let theirs = grads_of(&[right], &[d_out.shallow_clone()], &exact.iter().take(count).collect::<Vec<_>>());
            for (own, exact) in own.iter().zip(&theirs) {
                is_near("linear's gradient", own, exact, most);
            }
        }
    }
}

#[test]
fn cross_entropy_is_that_of_float64() {
    // 100 tokens: in bf16 the last block of the output layer is filled up.
    for (kind, most) in KINDS {
        let (x, w) = (rounded(&(wave(&[70, 24], 0.7) * 2.0), kind), rounded(&wave(&[100, 24], 1.3), kind));
        let y = (Tensor::arange(70, (Kind::Int64, CPU)) * 37).remainder(100);
        let (a, b) = (leaf(&x, kind), leaf(&w, Kind::Float));
        let (c, d) = (leaf(&x, Kind::Double), leaf(&w, Kind::Double));
        let ours = linear_cross_entropy(&a, &b, &y, 0.5, true).unwrap();
        let logits = c.matmul(&d.transpose(0, 1));
        let exact = logits.cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0) * 0.5;
        // In bf16 the logits themselves are rounded.
        let most = 2.0 * most;
        is_near("loss", &ours, &exact, most);
        for (own, exact) in grads_of(&[ours], &[], &[&a, &b]).iter().zip(grads_of(&[exact], &[], &[&c, &d])) {
            is_near("cross-entropy's gradient", own, &exact, most);
        }
    }
}

#[test]
fn a_loss_in_parts_is_that_of_the_whole_and_so_are_its_gradients() {
    for fused in [true, false] {
        loss_in_parts(fused);
    }
}

fn loss_in_parts(fused: bool) {
    // So many tokens that 64 rows are a part at most: three parts, the last one shorter.
    let (rows, width, vocab) = (130, 4, 1 << 19);
    let (x, w) = (wave(&[rows, width], 0.7) * 3.0, wave(&[vocab, width], 1.3) * 3.0);
    let y = Tensor::arange(rows, (Kind::Int64, CPU)) * 4001;
    let (a, b) = (leaf(&x, Kind::Float), leaf(&w, Kind::Float));
    let ours = linear_cross_entropy(&a, &b, &y, 1.0, fused).unwrap();
    (&ours * 0.5).backward();
    let (c, d) = (leaf(&x, Kind::Double), leaf(&w, Kind::Double));
    let logits = c.matmul(&d.transpose(0, 1));
    let theirs = logits.cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0);
    (&theirs * 0.5).backward();
    let (own, exact) = (ours.double_value(&[]), theirs.double_value(&[]));
    assert!((own - exact).abs() < 1e-6 * exact, "{own} {exact}");
    for (ours, theirs) in [(a.grad(), c.grad()), (b.grad(), d.grad())] {
        let far = (ours.to_kind(Kind::Double) - &theirs).abs().max().double_value(&[]);
        // In f32 a sum over so many tokens is off by a part in 7,000; PyTorch's own is by the same.
        assert!(far < 3e-4 * theirs.abs().max().double_value(&[]), "{far}");
    }
    let quiet = tch::no_grad(|| linear_cross_entropy(&a, &b, &y, 1.0, fused)).unwrap();
    assert_eq!(quiet.double_value(&[]), ours.double_value(&[]));
}

#[test]
fn adamw_and_the_norm_are_those_of_float64() {
    // More values than a thread takes at once.
    let shape = [3, 9001];
    let c = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, decay: 0.1, eps: 1e-8 };
    for (kind, _) in KINDS {
        let start = rounded(&wave(&shape, 0.7), Kind::Float);
        let float = || start.to_kind(Kind::Float).copy();
        let (param, first, second) = (float(), float(), float());
        let copy = param.to_kind(Kind::BFloat16);
        let (mut theta, mut m, mut v) = (start.copy(), start.zeros_like(), start.zeros_like());
        for step in 1..=3_u64 {
            let g = rounded(&wave(&shape, 0.3 * step as f64), kind);
            let length = norm_of(&[g.to_kind(kind), g.to_kind(kind)], true).unwrap().double_value(&[]);
            let exact = (g.square().sum(Kind::Double) * 2.0).sqrt().double_value(&[]);
            assert!((length - exact).abs() < 1e-6 * exact, "{kind:?}: {length} {exact}");
            adamw([&param, &g.to_kind(kind), &first, &second], Some(&copy), 0.5, step, &c).unwrap();
            let g = g * 0.5;
            m = m * c.beta1 + &g * (1.0 - c.beta1);
            v = v * c.beta2 + g.square() * (1.0 - c.beta2);
            let power = |beta: f64| 1.0 - beta.powi(step as i32);
            let root = (&v / power(c.beta2)).sqrt() + c.eps;
            theta = theta * (1.0 - c.lr * c.decay) - (&m / power(c.beta1)) / root * c.lr;
            is_near("AdamW", &param, &theta, 1e-6);
            is_near("its copy", &copy, &theta, 4e-3);
            // The first step does not read what was there before it.
            is_near("its first moment", &first, &m, 1e-6);
            is_near("its second moment", &second, &v, 1e-6);
        }
    }
}

/// Sequences, positions, heads, heads of keys, and the width of a head: 64 queries and 64 to 256 keys are a block.
const SHAPES: [[i64; 5]; 6] =
    [[1, 1, 1, 1, 8], [2, 63, 4, 2, 24], [3, 65, 2, 1, 6], [1, 300, 4, 2, 64], [9, 257, 8, 8, 16], [2, 1100, 2, 1, 40]];

/// Rows of queries, keys and values, and the gradient of what attention makes of them; cos and sin.
fn attention_inputs([batch, length, heads, kv, width]: [i64; 5], kind: Kind) -> [Tensor; 4] {
    let angles = Tensor::arange(length, (Kind::Double, CPU)).outer(&(wave(&[width / 2], 1.7) + 1.0));
    [
        rounded(&wave(&[batch * length, (heads + 2 * kv) * width], 0.731), kind),
        rounded(&wave(&[batch * length, heads * width], 1.93), kind),
        rounded(&angles.cos(), Kind::Float),
        rounded(&angles.sin(), Kind::Float),
    ]
}

/// The same by operators.
fn plain_attention(qkv: &Tensor, cos: &Tensor, sin: &Tensor, [batch, length, heads, kv, width]: [i64; 5]) -> Tensor {
    let parts = qkv.split_with_sizes([heads * width, kv * width, kv * width], 1);
    let split = |x: &Tensor| x.reshape([batch, length, -1, width]).transpose(1, 2);
    let rotate = |x: &Tensor| {
        let halves = x.chunk(2, -1);
        Tensor::cat(&[&halves[0] * cos - &halves[1] * sin, &halves[1] * cos + &halves[0] * sin], -1)
    };
    let repeat = |x: Tensor| x.repeat_interleave_self_int(heads / kv, 1, None);
    let (q, k, v) = (rotate(&split(&parts[0])), repeat(rotate(&split(&parts[1]))), repeat(split(&parts[2])));
    let scores = q.matmul(&k.transpose(-2, -1)) / (width as f64).sqrt();
    let hidden = Tensor::ones([length, length], (Kind::Double, CPU)).tril(0).eq(0.0);
    let probs = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, Kind::Double);
    probs.matmul(&v).transpose(1, 2).reshape([batch * length, heads * width])
}

/// What the kernels make of it: O and the gradient of the rows.
fn own_attention(inputs: &[Tensor; 4], [_, _, heads, kv, _]: [i64; 5], kind: Kind) -> [Tensor; 2] {
    let [qkv, d_out, cos, sin] = inputs;
    let rows = leaf(qkv, kind);
    let out = attention(&rows, &cos.to_kind(Kind::Float), &sin.to_kind(Kind::Float), heads, kv).unwrap();
    let grad = grads_of(&[out.shallow_clone()], &[d_out.to_kind(kind)], &[&rows]).remove(0);
    [out.detach(), grad]
}

#[test]
fn attention_is_that_of_float64() {
    for (kind, most) in [(Kind::Float, 2e-5), (Kind::BFloat16, 2e-2)] {
        for shape in SHAPES {
            let inputs = attention_inputs(shape, kind);
            let [out, grad] = own_attention(&inputs, shape, kind);
            let rows = leaf(&inputs[0], Kind::Double);
            let exact = plain_attention(&rows, &inputs[2], &inputs[3], shape);
            let exact_grad = grads_of(&[exact.shallow_clone()], &[inputs[1].shallow_clone()], &[&rows]).remove(0);
            is_near(&format!("attention, {shape:?}, {kind:?}"), &out, &exact.detach(), most);
            // Queries, keys and values each by themselves.
            let [_, _, heads, kv, width] = shape;
            let parts = |t: &Tensor| t.split_with_sizes([heads * width, kv * width, kv * width], 1);
            for ((own, exact), name) in parts(&grad).iter().zip(parts(&exact_grad)).zip(["dQ", "dK", "dV"]) {
                // One position sees itself alone: its probability is one, whatever its query and key are.
                if shape[1] > 1 || name == "dV" {
                    is_near(&format!("{name}, {shape:?}, {kind:?}"), own, &exact, 3.0 * most);
                }
            }
        }
    }
}

#[test]
fn the_bytes_of_kernels_do_not_depend_on_the_number_of_threads() {
    let with_threads = |threads: i32| -> Vec<Tensor> {
        tch::set_num_threads(threads);
        let mut made = Vec::new();
        for kind in [Kind::Float, Kind::BFloat16] {
            for shape in SHAPES {
                made.extend(own_attention(&attention_inputs(shape, kind), shape, kind));
            }
            let (x, w) = (leaf(&wave(&[700, 48], 0.7), Kind::Float), leaf(&wave(&[48], 2.1), Kind::Float));
            let (y, _) = norm(&x, None, &w, 1e-5, kind == Kind::BFloat16).unwrap();
            let d_out = wave(&[700, 48], 0.3).to_kind(kind);
            made.extend(grads_of(&[y.shallow_clone()], &[d_out], &[&x, &w]));
            made.extend([gate(&y.detach()).unwrap(), y.detach()]);
            made.push(norm_of(&[wave(&[99, 999], 0.7).to_kind(kind)], true).unwrap());
        }
        made
    };
    let before = tch::get_num_threads();
    let one = with_threads(1);
    for threads in [2, 3, 7] {
        for (place, (own, first)) in with_threads(threads).iter().zip(&one).enumerate() {
            assert!(own.equal(first), "{threads} threads, tensor {place}");
        }
    }
    tch::set_num_threads(before);
}

#[test]
fn what_does_not_belong_to_a_kernel_is_refused() {
    let zeros = |shape: &[i64], kind: Kind| Tensor::zeros(shape, (kind, CPU));
    let float = |shape: &[i64]| zeros(shape, Kind::Float);
    let targets = |value: i64| Tensor::full([2], value, (Kind::Int64, CPU));
    let c = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, decay: 0.1, eps: 1e-8 };
    let two = || float(&[2, 4]);
    let refused: Vec<(&str, Result<(), Report>)> = vec![
        ("norm, dtype", norm(&zeros(&[2, 4], Kind::Double), None, &float(&[4]), 1e-5, false).map(drop)),
        ("norm, weight", norm(&two(), None, &float(&[3]), 1e-5, false).map(drop)),
        ("norm, weight's dtype", norm(&two(), None, &zeros(&[4], Kind::BFloat16), 1e-5, false).map(drop)),
        ("norm, branch", norm(&two(), Some(&float(&[1, 4])), &float(&[4]), 1e-5, false).map(drop)),
        ("norm, branch's dtype", norm(&two(), Some(&two()), &float(&[4]), 1e-5, true).map(drop)),
        ("norm, nothing", norm(&float(&[0, 4]), None, &float(&[4]), 1e-5, false).map(drop)),
        ("linear, dtype", linear(&two(), &zeros(&[3, 4], Kind::BFloat16), None).map(drop)),
        ("linear, shape", linear(&two(), &float(&[3, 5]), None).map(drop)),
        ("linear, bias", linear(&two(), &float(&[3, 4]), Some(&float(&[4]))).map(drop)),
        ("gate, dtype", gate(&zeros(&[2, 4], Kind::Half)).map(drop)),
        ("gate, odd", gate(&float(&[2, 5])).map(drop)),
        ("attention, width", attention(&float(&[4, 13]), &float(&[4, 2]), &float(&[4, 2]), 1, 1).map(drop)),
        ("attention, length", attention(&float(&[6, 12]), &float(&[4, 2]), &float(&[4, 2]), 1, 1).map(drop)),
        ("attention, angles", attention(&float(&[4, 12]), &float(&[4, 2]), &float(&[3, 2]), 1, 1).map(drop)),
        ("attention, heads", attention(&float(&[4, 28]), &float(&[4, 2]), &float(&[4, 2]), 3, 2).map(drop)),
        ("attention, no heads", attention(&float(&[4, 12]), &float(&[4, 2]), &float(&[4, 2]), 0, 0).map(drop)),
        (
            "attention, dtype",
            attention(&zeros(&[4, 12], Kind::Double), &float(&[4, 2]), &float(&[4, 2]), 1, 1).map(drop),
        ),
        (
            "attention, gaps",
            attention(&float(&[12, 4]).transpose(0, 1), &float(&[4, 2]), &float(&[4, 2]), 1, 1).map(drop),
        ),
        ("loss, a target too large", linear_cross_entropy(&two(), &float(&[3, 4]), &targets(3), 1.0, true).map(drop)),
        ("loss, a target below", linear_cross_entropy(&two(), &float(&[3, 4]), &targets(-1), 1.0, true).map(drop)),
        ("loss, targets' dtype", linear_cross_entropy(&two(), &float(&[3, 4]), &float(&[2]), 1.0, true).map(drop)),
        ("loss, shape", linear_cross_entropy(&two(), &float(&[3, 5]), &targets(0), 1.0, true).map(drop)),
        ("AdamW, dtype", adamw([&two(), &zeros(&[2, 4], Kind::Half), &two(), &two()], None, 1.0, 1, &c)),
        ("AdamW, shape", adamw([&two(), &two(), &float(&[4, 2]), &two()], None, 1.0, 1, &c)),
        ("AdamW, copy", adamw([&two(), &two(), &two(), &two()], Some(&two()), 1.0, 1, &c)),
        ("norm of doubles", norm_of(&[zeros(&[2], Kind::Double)], true).map(drop)),
    ];
    for (what, result) in refused {
        let report = result.err().unwrap_or_else(|| Report::data("it was taken"));
        assert_eq!(report.code, Code::Bug, "{what}: {report}");
    }
}

/// What the tests of this file are run with, where they are run for one level.
const ONE_LEVEL: &str = "BZ_TEST_ONE_LEVEL";

#[test]
fn every_level_of_the_processor_passes() {
    if std::env::var_os(ONE_LEVEL).is_some() {
        return;
    }
    for level in Level::ALL {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // Half a gigabyte beside this process's own, and nothing in it differs by level.
        command.args(["shim::tests", "--skip", "a_loss_in_parts"]);
        command.env(ONE_LEVEL, "1").env("BZ_CPU_LEVEL", level.name());
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        if level.here() {
            assert!(out.status.success(), "{}: {said}", level.name());
            assert!(said.contains("the_level_in_use_is_the_one_asked_for ... ok"), "{said}");
        } else {
            // Past the capture of the test harness, which shows what fails alone.
            writeln!(std::io::stderr(), "skipped: this machine has no {}", level.name()).unwrap();
            assert!(!out.status.success(), "{}", level.name());
            assert!(said.contains(&format!("this machine has no {}", level.name())), "{said}");
        }
    }
}

#[test]
fn the_level_in_use_is_the_one_asked_for() {
    let level = Level::chosen().unwrap();
    match std::env::var("BZ_CPU_LEVEL") {
        Ok(name) => assert_eq!(level.name(), name),
        Err(_) => assert_eq!(Some(level), Level::ALL.into_iter().rfind(|level| level.here())),
    }
}
