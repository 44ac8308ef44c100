//! Times the codecs on one update, so often side by side that no cache holds it: `codec UPDATE.safetensors [THREADS [REPEAT]]`, or
//! `codec NUMBER [THREADS]` for so many million Gaussian values. JSON lines of scripts/bench.sh.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use rayon::prelude::*;
use std::time::Instant;
use wire::{
    TILE,
    topk::{Decoder, Encoder, Plan, Shape, Source, Values, add, check},
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
    let time = best(|| {
        let since = Instant::now();
        assert!(groups.par_iter().all(|(shape, group)| check(plan, group, *shape)));
        since.elapsed().as_secs_f64()
    });
    say("codec.check", "Mparam/s", numel as f64 / time / 1e6);
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
