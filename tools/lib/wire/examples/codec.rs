//! Times the codecs on one update, so often side by side that no cache holds it: `codec UPDATE.safetensors [THREADS [REPEAT]]`, or
//! `codec NUMBER [THREADS]` for so many million Gaussian values. JSON lines of scripts/bench.sh.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use rayon::prelude::*;
use record::{Hash, Hotkey, Uid, Window};
use run::hparams::{Codec, CodecName, Quantization};
use safetensors::Dtype;
use schnorrkel::{ExpansionMode, MiniSecretKey};
use std::{hint::black_box, time::Instant};
use wire::{
    Layout, TILE,
    codec::{
        Content, choose,
        group::{Decoder, Encoder, Plan, Source, Values, add},
    },
    commit::Binding,
    delta::{self, Delta, Expected},
    tensors::{Out, Update, write},
    tile::Shape,
};

const PEERS: usize = 15;
const RUNS: usize = 7;

/// The tensors of a safetensors file of f32, as matrices.
fn tensors(path: &str) -> Vec<Matrix> {
    if let Ok(millions) = path.parse::<usize>() {
        // GPT-2-like: twelve times over these.
        let mut state = 88_172_645_463_325_252u64;
        let mut unit = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let table: Vec<f32> = (0..1 << 20)
            .map(|_| ((-2.0 * unit().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()) as f32)
            .collect();
        let one = |rows: usize, cols: usize| {
            (rows, cols, (0..rows * cols).map(|i| table[i.wrapping_mul(2_654_435_761) % table.len()]).collect())
        };
        return (0..millions.div_ceil(5)).flat_map(|_| [one(768, 3072), one(3072, 768)]).collect();
    }
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(_, view)| {
            let shape = view.shape();
            let cols = shape.last().copied().unwrap_or(1);
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            (values.len() / cols, cols, values)
        })
        .collect()
}

type Matrix = (usize, usize, Vec<f32>);

/// Parts of whole tile rows, about 64 tiles each.
fn parts(tensors: &mut [Matrix]) -> Vec<(Shape, &mut [f32])> {
    fn cut((rows, cols, values): &mut Matrix) -> impl Iterator<Item = (Shape, &mut [f32])> {
        let (rows, cols) = (*rows, *cols);
        let tile = if rows == 1 { (1, TILE) } else { (64, 64) };
        let height = if rows == 1 { 1 } else { (64 / cols.div_ceil(64)).max(1) * 64 };
        values.chunks_mut(height * cols).map(move |values| (Shape { rows: values.len() / cols, cols, tile }, values))
    }
    tensors.iter_mut().flat_map(cut).collect()
}

fn best(mut run: impl FnMut() -> f64) -> f64 {
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut update = tensors(&args.next().unwrap_or_else(|| "64".into()));
    let threads: usize = args.next().map_or(1, |n| n.parse().unwrap());
    let repeat: usize = args.next().map_or(1, |n| n.parse().unwrap());
    update = std::iter::repeat_n(update, repeat).flatten().collect();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let numel: usize = update.iter().map(|(_, _, values)| values.len()).sum();
    let say = |name: &str, unit: &str, value: f64| {
        println!(
            "{}",
            serde_json::json!({"bench": name, "unit": unit, "threads": threads, "numel": numel, "ours": value})
        );
    };
    let plan = Plan::new(64, Values::Sign);
    let decay = 0.95f32;
    let mut feedback: Vec<_> = update.iter().map(|(r, c, values)| (*r, *c, vec![0f32; values.len()])).collect();
    let mut left: Vec<_> = update.iter().map(|(r, c, values)| (*r, *c, vec![0f32; values.len()])).collect();
    let mut groups: Vec<(Shape, Vec<u8>)> = Vec::new();
    let mut window = |groups: &mut Vec<(Shape, Vec<u8>)>| {
        let sources: Vec<_> = parts(&mut feedback).into_iter().zip(parts(&mut update)).collect();
        let work: Vec<_> = sources.into_iter().zip(parts(&mut left)).collect();
        let since = Instant::now();
        *groups = work
            .into_par_iter()
            .map_init(
                || Encoder::new(plan),
                |encoder, (((shape, feedback), (_, update)), (_, left))| {
                    let feedback = bytemuck::cast_slice::<f32, [u8; 4]>(feedback);
                    let source = Source { update: bytemuck::cast_slice(update), left: Some((feedback, decay)) };
                    (shape, encoder.encode(shape, source, left).unwrap())
                },
            )
            .collect();
        let time = since.elapsed().as_secs_f64();
        std::mem::swap(&mut feedback, &mut left);
        time
    };
    // The feedback of some windows.
    for _ in 0..8 {
        window(&mut groups);
    }
    let time = best(|| window(&mut groups));
    say("codec.compress", "Mparam/s", numel as f64 / time / 1e6);
    let bytes: usize = groups.iter().map(|(_, group)| group.len() + 4).sum();
    say("codec.bits", "bit/param", bytes as f64 * 8.0 / numel as f64);

    // What memory alone would allow: the same three streams, and nothing done with them.
    let time = best(|| {
        let sources: Vec<_> = parts(&mut feedback).into_iter().zip(parts(&mut update)).collect();
        let work: Vec<_> = sources.into_iter().zip(parts(&mut left)).collect();
        let since = Instant::now();
        work.into_par_iter().for_each(|(((_, feedback), (_, update)), (_, left))| {
            for ((left, feedback), update) in left.iter_mut().zip(feedback.iter()).zip(update.iter()) {
                *left = decay * feedback + update;
            }
        });
        since.elapsed().as_secs_f64()
    });
    say("codec.memory", "Mparam/s", numel as f64 / time / 1e6);

    let mut out: Vec<_> = update.iter().map(|(r, c, values)| (*r, *c, vec![0f32; values.len()])).collect();
    let time = best(|| {
        let work: Vec<_> = parts(&mut out).into_iter().zip(&groups).collect();
        let since = Instant::now();
        work.into_par_iter().for_each(|((shape, out), (_, group))| mean(plan, shape, group, out));
        since.elapsed().as_secs_f64()
    });
    say("codec.aggregate", "Mparam*peer/s", (numel * PEERS) as f64 / time / 1e6);
    let (numel, opened, decoded) = whole_delta(&update);
    let line = |name: &str, time: f64| {
        let rate = numel as f64 / time / 1e6;
        println!(
            "{}",
            serde_json::json!({"bench": name, "unit": "Mparam/s", "threads": threads, "numel": numel, "ours": rate})
        );
    };
    line("codec.check", opened);
    line("codec.decode", decoded);
}

/// Seconds to open a delta of `topk` with all that is checked (header, signature, hash, every bit), and to decode it: of a model of 46 million
/// parameters, its values those of the update over and over.
fn whole_delta(update: &[Matrix]) -> (usize, f64, f64) {
    let model = serde_json::json!({
        "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 14, "num_attention_heads": 8,
        "num_key_value_heads": 8, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": true, "initializer_range": 0.02
    });
    let layout = Layout::new(&serde_json::from_value(model).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (source, path) = (folder.path().join("update"), folder.path().join("delta"));
    let mut values = update.iter().flat_map(|(.., values)| values).copied().cycle();
    let data: Vec<Vec<u8>> =
        layout.tensors.iter().map(|t| values.by_ref().take(t.numel()).flat_map(f32::to_le_bytes).collect()).collect();
    let outs = layout.tensors.iter().zip(&data);
    let outs = outs.map(|(t, data)| Out { name: t.name.clone(), dtype: Dtype::F32, shape: t.shape.clone(), data });
    write(&source, outs.collect(), ("format", "pt".into())).unwrap();
    let (name, values) = (CodecName::Topk, Quantization::Sign);
    let codec = Codec { name, compression: 1, values, k: Some(64), decay: Some(0.95) };
    let update = Update::open(&source, &layout).unwrap();
    let payload = choose(&update, None, &layout, &codec, |_| Ok(())).unwrap();
    let pair = MiniSecretKey::from_bytes(&[7; 32]).unwrap().expand_to_keypair(ExpansionMode::Ed25519);
    let (run, base, pages, reveal) = (Hash([1; 32]), Hash([2; 32]), Hash([3; 32]), Hash([4; 32]));
    let (window, hotkey, uid) = (Window(7), Hotkey(pair.public.to_bytes()), Uid(5));
    let binding = Binding { run, window, hotkey, base, pages, root: payload.root() };
    let sign = |bytes: &[u8]| pair.sign_simple(b"substrate", bytes).to_bytes();
    delta::make(&path, Content::Sparse(&payload), &layout, &binding, (uid, &codec, reveal), sign).unwrap();
    let commitment = Some(binding.commitment(&codec));
    let expected = Expected { run, window, uid, hotkey, base, codec, commitment, reveal };
    let open = || Delta::open(&path, &layout, &expected).unwrap();
    let timed = |work: &dyn Fn()| {
        best(|| {
            let since = Instant::now();
            work();
            since.elapsed().as_secs_f64()
        })
    };
    let opened = timed(&|| drop(open()));
    let delta = open();
    let decoded = timed(&|| {
        (0..delta.chunks()).into_par_iter().for_each(|chunk| {
            delta.visit(chunk, |_, tile| {
                black_box(tile);
            })
        });
    });
    (layout.numel(), opened, decoded)
}

/// The mean of fifteen peers' groups.
fn mean(plan: Plan, shape: Shape, group: &[u8], out: &mut [f32]) {
    let mut decoders: Vec<Decoder<'_>> = (0..PEERS).map(|_| Decoder::new(plan, group)).collect();
    let (mut sum, shares) = (Box::new([0f32; TILE]), [1.0 / PEERS as f32; PEERS]);
    for tile in 0..shape.tiles() {
        sum.fill(0.0);
        add(&mut decoders, &shares, &mut sum).unwrap();
        shape.scatter(tile, &sum, out);
    }
}
