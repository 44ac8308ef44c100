//! The outer optimizer: θ_{w+1} from θ_w and the accepted deltas.
//!
//! f32, a fixed order, and nothing but `+ − × ÷ √`: the same bits on every machine whatever its threads. Moments move
//! only where a tile was revealed.

use crate::{
    cosine::cosine,
    delta::{Delta, each_chunk, sum_chunk},
    layout::Layout,
    tile::{TILE, products},
};
use rayon::prelude::*;
use record::{Report, Window};
use run::hparams::{self, Outer, OuterOptimizer};

/// A state's values in memory: a vector a tensor, in the layout's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// The parameters θ.
    pub model: Vec<Vec<f32>>,
    /// First moments (momentum); empty for SGD.
    pub first: Vec<Vec<f32>>,
    /// Second moments; empty but for AdamW.
    pub second: Vec<Vec<f32>>,
    /// How often each tile has moved, for AdamW's bias correction; empty otherwise.
    pub moved: Vec<u32>,
}

impl Values {
    /// The moments of a first state: zero.
    pub fn fresh(model: Vec<Vec<f32>>, layout: &Layout, outer: &Outer) -> Self {
        let zeros = || layout.tensors.iter().map(|t| vec![0f32; t.numel()]).collect::<Vec<_>>();
        let moments = Optimizer::of(outer).moments();
        Values {
            model,
            first: if moments > 0 { zeros() } else { Vec::new() },
            second: if moments > 1 { zeros() } else { Vec::new() },
            moved: if moments > 1 { vec![0; layout.tiles] } else { Vec::new() },
        }
    }
}

/// The outer optimizers, their numbers as they are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Optimizer {
    Sgd,
    Nesterov { momentum: f32 },
    AdamW { beta1: f32, beta2: f32, eps: f32, weight_decay: f32 },
}

impl Optimizer {
    /// The run's.
    pub(crate) fn of(outer: &Outer) -> Self {
        match outer.optimizer {
            OuterOptimizer::Sgd => Optimizer::Sgd,
            OuterOptimizer::Nesterov => Optimizer::Nesterov { momentum: outer.momentum as f32 },
            OuterOptimizer::AdamW => Optimizer::AdamW {
                beta1: outer.beta1 as f32,
                beta2: outer.beta2 as f32,
                eps: outer.eps as f32,
                weight_decay: outer.weight_decay as f32,
            },
        }
    }

    /// How many moments a parameter has; with two, tiles count how often they moved.
    pub(crate) fn moments(self) -> usize {
        match self {
            Optimizer::Sgd => 0,
            Optimizer::Nesterov { .. } => 1,
            Optimizer::AdamW { .. } => 2,
        }
    }
}

/// One delta and what it counts.
pub struct Entry<'a> {
    /// The delta.
    pub delta: &'a Delta,
    /// Its share, relative to the others'.
    pub weight: u16,
    /// Its clip, at most 1.
    pub scale: f32,
}

/// The outer learning rate of a window: constant, or a cosine from `lr` to `lr_final` over `lr_windows`.
pub fn learning_rate(outer: &Outer, start: Window, window: Window) -> f32 {
    if outer.lr_windows == 0 {
        return outer.lr as f32;
    }
    let done = window.0.saturating_sub(start.0).min(outer.lr_windows) as f64 / outer.lr_windows as f64;
    (outer.lr_final + (outer.lr - outer.lr_final) * 0.5 * (1.0 + cosine(std::f64::consts::PI * done))) as f32
}

/// `base^n` by multiplications in a fixed order.
fn power(base: f32, n: u32) -> f32 {
    let (mut result, mut square, mut n) = (1f32, base, n);
    while n > 0 {
        if n & 1 == 1 {
            result *= square;
        }
        square *= square;
        n >>= 1;
    }
    result
}

#[derive(Clone)]
struct Tile {
    model: [f32; TILE],
    first: [f32; TILE],
    second: [f32; TILE],
}

/// Tiles that are in memory at once, beside the state itself.
const BATCH: usize = 512;

/// How clipped deltas become one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aggregate {
    /// By their weights.
    Mean,
    /// The middle one, or the mean of the two in the middle; weights do not count.
    Median,
    /// The mean of those that are left when so many are left out at either end; weights do not count.
    Trimmed(usize),
    /// By their weights, each drawn to within so many median distances of the centre.
    Centred(f64),
}

impl Aggregate {
    fn of(outer: &Outer, deltas: usize) -> Self {
        match outer.aggregate {
            None => Aggregate::Mean,
            Some(hparams::Aggregate::Median) => Aggregate::Median,
            Some(hparams::Aggregate::Trimmed) => {
                Aggregate::Trimmed((outer.trim.unwrap_or(0.0) * deltas as f64) as usize)
            }
            Some(hparams::Aggregate::Centred) => Aggregate::Centred(outer.radius.unwrap_or(1.0)),
        }
    }

    /// Of values that are sorted.
    fn one(self, sorted: &[f32]) -> f32 {
        let kept = match self {
            Aggregate::Median => (sorted.len() - 1) / 2,
            Aggregate::Trimmed(out) => out,
            Aggregate::Mean | Aggregate::Centred(_) => 0,
        };
        let kept = sorted.get(kept..sorted.len() - kept).unwrap_or_default();
        // From −0, as `sum` begins: to be written down it must not be the standard library's choice.
        kept.iter().fold(-0.0f32, |sum, value| sum + value) / kept.len().max(1) as f32
    }
}

/// The tiles of a chunk, each value sorted over the deltas.
fn robust(deltas: &[&Delta], scales: &[f32], chunk: usize, how: Aggregate, each: &mut impl FnMut(usize, &[f32; TILE])) {
    let mut column = vec![0f32; deltas.len()];
    let mut out = Box::new([0f32; TILE]);
    each_chunk(deltas, scales, chunk, &mut |index, tiles| {
        for (at, out) in out.iter_mut().enumerate() {
            column.iter_mut().zip(tiles).for_each(|(value, tile)| *value = tile[at]);
            column.sort_unstable_by(f32::total_cmp);
            *out = how.one(&column);
        }
        each(index, &out);
    });
}

/// How often the centre is sought.
const ROUNDS: usize = 3;
/// Chunks whose squares are added one after another.
const GROUP: usize = 64;

/// Centred clipping: `v ← v + Σ wᵢ·min(1, τ/‖xᵢ − v‖)·(xᵢ − v)`, from `v = 0`, with τ so many times the median of those
/// distances (source: Karimireddy, He and Jaggi 2021, equation 4; there τ is fixed). The centre is always a sum of the deltas: its
/// shares are sought, so that it is never held whole.
fn centred(entries: &[Entry<'_>], deltas: &[&Delta], radius: f64) -> Vec<f32> {
    let total: f64 = entries.iter().map(|entry| f64::from(entry.weight)).sum();
    let mut centre = vec![0f32; entries.len()];
    for _ in 0..ROUNDS {
        let far = distances(entries, deltas, &centre);
        let mut sorted = far.clone();
        sorted.sort_by(f64::total_cmp);
        let most = radius * sorted.get((sorted.len() - 1) / 2).copied().unwrap_or(0.0);
        let drawn: Vec<f64> = entries
            .iter()
            .zip(&far)
            .map(|(entry, far)| f64::from(entry.weight) / total * if *far > most { most / far } else { 1.0 })
            .collect();
        let kept = 1.0 - drawn.iter().sum::<f64>();
        for ((share, drawn), entry) in centre.iter_mut().zip(&drawn).zip(entries) {
            *share = (kept * f64::from(*share) + drawn * f64::from(entry.scale)) as f32;
        }
    }
    centre
}

/// How far each clipped delta is from a sum of them, in f64 and a fixed order whatever the threads.
fn distances(entries: &[Entry<'_>], deltas: &[&Delta], centre: &[f32]) -> Vec<f64> {
    let chunks = deltas.first().map_or(0, |delta| delta.chunks());
    let groups: Vec<Vec<f64>> = (0..chunks.div_ceil(GROUP))
        .into_par_iter()
        .map(|group| {
            let mut squares = vec![0f64; deltas.len()];
            for chunk in group * GROUP..chunks.min((group + 1) * GROUP) {
                // Of coefficients: the transform keeps distances, with what of a tile falls into its padding.
                let mut middle = Vec::new();
                sum_chunk(deltas, centre, chunk, false, &mut |_, tile: &[f32; TILE]| middle.push(Box::new(*tile)));
                for ((delta, entry), squares) in deltas.iter().zip(entries).zip(&mut squares) {
                    let mut middle = middle.iter();
                    sum_chunk(&[delta], &[entry.scale], chunk, false, &mut |_, tile: &[f32; TILE]| {
                        if let Some(middle) = middle.next() {
                            *squares += products(tile, middle)[2];
                        }
                    });
                }
            }
            deltas.iter().for_each(|delta| delta.release());
            squares
        })
        .collect();
    let mut squares = vec![0f64; deltas.len()];
    groups.iter().for_each(|group| squares.iter_mut().zip(group).for_each(|(sum, square)| *sum += square));
    squares.into_iter().map(f64::sqrt).collect()
}

/// Apply the mean of the deltas, weighted and clipped, in the order given; or what the run has in its place.
///
/// SGD: `θ ← θ − lr·g`. Nesterov: `m ← μm + g`, `θ ← θ − lr·(g + μm)` (source: PyTorch's SGD with nesterov).
/// AdamW: `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← θ − lr·(λθ + m̂/(√v̂ + ε))`, λ on matrices only
/// (source: Loshchilov and Hutter 2019, algorithm 2).
///
/// # Errors
/// Exit code 65 when the deltas do not carry the same tiles, or the result is not finite.
pub fn apply(
    values: &mut Values,
    layout: &Layout,
    outer: &Outer,
    lr: f32,
    entries: &[Entry<'_>],
) -> Result<(), Report> {
    let Some(head) = entries.first() else { return Ok(()) };
    if entries.iter().any(|entry| entry.delta.tiles != head.delta.tiles) {
        return Err(Report::data("the accepted deltas do not carry the same tiles"));
    }
    let mut total: f32 = entries.iter().map(|entry| f32::from(entry.weight)).sum();
    if total <= 0.0 {
        return Err(Report::data("the accepted deltas have no weight"));
    }
    let deltas: Vec<&Delta> = entries.iter().map(|entry| entry.delta).collect();
    let mut shares: Vec<f32> = entries.iter().map(|entry| f32::from(entry.weight) * entry.scale).collect();
    let scales: Vec<f32> = entries.iter().map(|entry| entry.scale).collect();
    let (optimizer, how) = (Optimizer::of(outer), Aggregate::of(outer, entries.len()));
    if let Aggregate::Centred(radius) = how {
        (shares, total) = (centred(entries, &deltas, radius), 1.0);
    }
    let mut next = 0;
    while next < head.delta.chunks() {
        let (first, mut tiles) = (next, 0);
        while next < head.delta.chunks() && (next == first || tiles + head.delta.chunk_tiles(next) <= BATCH) {
            tiles += head.delta.chunk_tiles(next);
            next += 1;
        }
        let moved: Vec<(usize, Tile)> = (first..next)
            .into_par_iter()
            .flat_map_iter(|chunk| {
                let mut moved = Vec::new();
                let mut go =
                    |index, gradient| moved.push((index, step(values, layout, optimizer, lr, index, gradient)));
                if matches!(how, Aggregate::Mean | Aggregate::Centred(_)) {
                    let mut mean = |index, sum: &[f32; TILE]| go(index, sum.map(|g| g / total));
                    sum_chunk(&deltas, &shares, chunk, true, &mut mean);
                } else {
                    robust(&deltas, &scales, chunk, how, &mut |index, tile: &[f32; TILE]| go(index, *tile));
                }
                moved
            })
            .collect();
        deltas.iter().for_each(|delta| delta.release());
        for (index, tile) in &moved {
            let index = *index;
            let which = layout.tensor_of(index);
            let tensor = &layout.tensors[which];
            if !tile.model.iter().all(|v| v.is_finite()) {
                return Err(Report::data(format!("the next state is not finite in {}", tensor.name))
                    .hint("a delta of this size should not have been accepted"));
            }
            tensor.scatter(index, &tile.model, &mut values.model[which]);
            if let Some(first) = values.first.get_mut(which) {
                tensor.scatter(index, &tile.first, first);
            }
            if let Some(second) = values.second.get_mut(which) {
                tensor.scatter(index, &tile.second, second);
            }
            if let Some(moved) = values.moved.get_mut(index) {
                *moved = moved.saturating_add(1);
            }
        }
    }
    Ok(())
}

fn step(values: &Values, layout: &Layout, optimizer: Optimizer, lr: f32, index: usize, gradient: [f32; TILE]) -> Tile {
    let which = layout.tensor_of(index);
    let tensor = &layout.tensors[which];
    let mut tile = Tile { model: [0.0; TILE], first: [0.0; TILE], second: [0.0; TILE] };
    let gather = |from: &[Vec<f32>], out: &mut [f32; TILE]| {
        if let Some(data) = from.get(which) {
            tensor.gather(index, bytemuck::cast_slice(data), out);
        }
    };
    gather(&values.model, &mut tile.model);
    gather(&values.first, &mut tile.first);
    gather(&values.second, &mut tile.second);
    match optimizer {
        Optimizer::Sgd => tile.model.iter_mut().zip(&gradient).for_each(|(p, g)| *p -= lr * g),
        Optimizer::Nesterov { momentum } => {
            for ((p, m), g) in tile.model.iter_mut().zip(&mut tile.first).zip(&gradient) {
                *m = momentum * *m + g;
                *p -= lr * (g + momentum * *m);
            }
        }
        Optimizer::AdamW { beta1, beta2, eps, weight_decay } => {
            let decay = if tensor.is_matrix() { weight_decay } else { 0.0 };
            let moved = values.moved.get(index).map_or(1, |n| n.saturating_add(1));
            let (c1, c2) = (1.0 - power(beta1, moved), 1.0 - power(beta2, moved));
            let moments = tile.first.iter_mut().zip(&mut tile.second);
            for ((p, (m, v)), g) in tile.model.iter_mut().zip(moments).zip(&gradient) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * (g * g);
                *p -= lr * (decay * *p + (*m / c1) / ((*v / c2).sqrt() + eps));
            }
        }
    }
    tile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_off_does_not_count() {
        let sorted = [-100.0, 1.0, 2.0, 6.0, 1e30];
        assert_eq!(Aggregate::Median.one(&sorted), 2.0);
        assert_eq!(Aggregate::Median.one(&sorted[..4]), 1.5);
        assert_eq!(Aggregate::Trimmed(1).one(&sorted), 3.0);
        assert_eq!(Aggregate::Trimmed(0).one(&[1.0, 2.0]), 1.5);
        assert_eq!((Aggregate::Median.one(&[4.0]), Aggregate::Trimmed(0).one(&[4.0])), (4.0, 4.0));
    }

    #[test]
    fn the_cosine_schedule_is_a_cosine() {
        let outer = Outer {
            optimizer: OuterOptimizer::Sgd,
            lr: 7.5e-5,
            momentum: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            lr_final: 1e-5,
            lr_windows: 5000,
            aggregate: None,
            trim: None,
            radius: None,
        };
        let at = |w| learning_rate(&outer, Window(10), Window(w));
        assert_eq!((at(0), at(10), at(5010), at(9999)), (7.5e-5, 7.5e-5, 1e-5, 1e-5));
        assert!((at(2510) - 4.25e-5).abs() < 1e-9);
    }

    #[test]
    fn power_is_power() {
        for n in [0, 1, 2, 3, 10, 1000] {
            let exact = 0.95f64.powi(n);
            assert!((f64::from(power(0.95, n as u32)) - exact).abs() < 1e-5 * exact + 1e-12);
        }
    }
}
