//! Against a quantiser written a second time, plainly.

use super::*;
use proptest::prelude::*;

const ALL: [Values; 6] = [Values::Sign, Values::Bits(2), Values::Bits(4), Values::Bits(8), Values::F16, Values::F32];

/// Values that look like an update: magnitudes over some octaves, zeros, equal ones.
fn values(seed: u64, count: usize, kind: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let value = |_| {
        let unit = (random() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        match kind {
            0 => unit * 1e-3,
            1 => (unit * 6.0).round(),
            2 => {
                if random() % 50 > 0 {
                    0.0
                } else {
                    unit
                }
            }
            3 => unit * 2f32.powi((random() % 60) as i32 - 50),
            4 => unit * f32::MAX,
            5 => f32::from_bits(random() as u32 & 0x80ff_ffff),
            _ => 0.0,
        }
    };
    (0..count).map(value).collect()
}

/// The value at a tile's place; padding is nowhere.
fn at(shape: Shape, tile: usize, place: usize) -> usize {
    let (row, col, ..) = shape.part(tile);
    (row + place / shape.tile.1) * shape.cols + col + place % shape.tile.1
}

/// What is sent of these places, in their order: chosen by sorting, quantised by the formulas of FORMAT.md.
fn quantised(plan: Plan, values: &[f32], places: impl Iterator<Item = usize>) -> Vec<(usize, f32)> {
    let mut all: Vec<usize> = places.filter(|at| values[*at] != 0.0).collect();
    // A stable sort: of equal ones those that come first in the tile.
    all.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
    all.truncate(plan.k);
    all.sort_unstable();
    let sizes = || all.iter().map(|at| values[*at].abs());
    let scale = match plan.values {
        Values::Sign => ((sizes().sum::<f32>() / all.len().max(1) as f32).min(f32::MAX).to_bits() + (1 << 18)) >> 19,
        Values::Bits(_) => sizes().fold(0f32, f32::max).to_bits().div_ceil(1 << 19),
        _ => 1,
    };
    let scale = f32::from_bits(scale.min(0xfef) << 19);
    let sent = |value: f32| match plan.values {
        Values::Sign => scale.copysign(value),
        Values::Bits(bits) => {
            let levels = 2f32.powi(bits as i32 - 1);
            let level = (value.abs() / scale * levels).floor().min(levels - 1.0);
            (scale * ((2.0 * level + 1.0) / (2.0 * levels))).copysign(value)
        }
        Values::F16 => half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32(),
        Values::F32 => value,
    };
    all.into_iter().filter(|_| scale > 0.0).map(|at| (at, sent(values[at]))).collect()
}

/// What each tile is after it was sent.
fn reference(plan: Plan, shape: Shape, values: &[f32]) -> Vec<f32> {
    let mut sent = vec![0f32; values.len()];
    for tile in 0..shape.tiles() {
        let (_, _, rows, cols) = shape.part(tile);
        let inside = |place: &usize| place / shape.tile.1 < rows && place % shape.tile.1 < cols;
        let places = (0..TILE).filter(inside).map(|place| at(shape, tile, place));
        quantised(plan, values, places).into_iter().for_each(|(at, value)| sent[at] = value);
    }
    sent
}

/// The cosine transform by its definition in FORMAT.md, or back: the left product first, each element a sum over k from 0 up.
fn plain_transform(tile: &[f32], back: bool) -> Vec<f32> {
    let basis = |k: usize, n: usize| -> f32 {
        let angle = std::f64::consts::PI / 64.0 * (n as f64 + 0.5) * k as f64;
        ((if k == 0 { 1.0 / 64.0 } else { 2.0 / 64.0f64 }).sqrt() * angle.cos()) as f32
    };
    type Square<'a> = &'a dyn Fn(usize, usize) -> f32;
    let product = |left: Square<'_>, right: Square<'_>| -> Vec<f32> {
        let one = |at: usize| (0..64).fold(0f32, |sum, k| sum + left(at / 64, k) * right(k, at % 64));
        (0..TILE).map(one).collect()
    };
    let table: Vec<f32> = (0..TILE).map(|at| basis(at / 64, at % 64)).collect();
    let (own, turned) = (|i: usize, j: usize| table[i * 64 + j], |i: usize, j: usize| table[j * 64 + i]);
    let half = product(if back { &turned } else { &own }, &|i, j| tile[i * 64 + j]);
    product(&|i, j| half[i * 64 + j], if back { &own } else { &turned })
}

fn decoded(plan: Plan, shape: Shape, bytes: &[u8]) -> Vec<f32> {
    let mut decoder = Decoder::new(plan, bytes);
    let mut out = vec![0f32; shape.rows * shape.cols];
    for tile in 0..shape.tiles() {
        let (places, values) = decoder.tile().unwrap();
        for (place, value) in places.iter().zip(values) {
            out[at(shape, tile, usize::from(*place))] = *value;
        }
    }
    assert!(decoder.ended());
    out
}

fn bytes(values: &[f32]) -> Vec<[u8; 4]> {
    values.iter().map(|value| value.to_le_bytes()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_comes_back_is_what_the_plain_quantiser_sends(
        seed in any::<u64>(), k in 1usize..=MAX_K, how in 0..6usize, kind in 0..7u32,
        rows in 1usize..200, cols in 1usize..200, vector in any::<bool>(), fed in any::<bool>()
    ) {
        let plan = Plan::new(k, ALL[how]);
        let shape = if vector {
            Shape { rows: 1, cols: rows * cols, tile: (1, TILE) }
        } else {
            Shape { rows, cols, tile: (64, 64) }
        };
        let (update, old) = (values(seed, rows * cols, kind), values(seed ^ 7, rows * cols, kind));
        let (update, old, decay) = (bytes(&update), bytes(&old), 0.75f32);
        let source = Source { update: &update, left: fed.then_some((&old[..], decay)) };
        let before: Vec<f32> = update
            .iter()
            .zip(&old)
            .map(|(u, o)| f32::from_le_bytes(*u) + if fed { decay * f32::from_le_bytes(*o) } else { 0.0 })
            .collect();
        prop_assume!(before.iter().all(|v| v.is_finite()));
        let mut left = vec![9f32; before.len()];
        let mut encoder = Encoder::new(plan);
        let group = encoder.encode(shape, source, &mut left).unwrap();
        prop_assert!(group.len() <= plan.max_bytes(shape.tiles()));
        prop_assert!(check(plan, &group, shape));
        let sent = decoded(plan, shape, &group);
        let expected = reference(plan, shape, &before);
        for at in 0..sent.len() {
            prop_assert!(sent[at] == expected[at], "at {}: {} and {}", at, sent[at], expected[at]);
            prop_assert_eq!(left[at], before[at] - sent[at]);
        }
        // What it encoded before does not matter, nor do the instructions.
        prop_assert_eq!(&encoder.encode(shape, source, &mut left).unwrap(), &group);
        prop_assert_eq!(&Encoder::new(plan).encode_with::<false>(shape, source, &mut left).unwrap(), &group);
        let (mut sum, mut twice) = ([0f32; TILE], [0f32; TILE]);
        let mut two = [Decoder::new(plan, &group), Decoder::new(plan, &group)];
        add(&mut two, &[0.5, 2.0], &mut sum).unwrap();
        let mut two = [Decoder::new(plan, &group), Decoder::new(plan, &group)];
        add_all(&mut two, &[0.5, 2.0], &mut twice).unwrap();
        prop_assert!(sum == twice);
    }

    #[test]
    fn of_a_cosine_transform_too(
        seed in any::<u64>(), k in 1usize..=MAX_K, how in 0..6usize, kind in 0..4u32, rows in 1usize..140, cols in 1usize..140, vector in any::<bool>()
    ) {
        let plan = Plan::new(k, ALL[how]).transformed();
        let shape = if vector {
            Shape { rows: 1, cols: rows * cols, tile: (1, TILE) }
        } else {
            Shape { rows, cols, tile: (64, 64) }
        };
        let values = values(seed, rows * cols, kind);
        let update = bytes(&values);
        let source = Source { update: &update, left: None };
        let mut left = vec![9f32; values.len()];
        let group = Encoder::new(plan).encode(shape, source, &mut left).unwrap();
        prop_assert!(check(plan, &group, shape) && group.len() <= plan.max_bytes(shape.tiles()));
        let mut narrow = left.clone();
        prop_assert_eq!(&Encoder::new(plan).encode_with::<false>(shape, source, &mut narrow).unwrap(), &group);
        prop_assert!(narrow.iter().zip(&left).all(|(a, b)| a.to_bits() == b.to_bits()));
        let mut decoder = Decoder::new(plan, &group);
        for tile in 0..shape.tiles() {
            let (_, _, rows, cols) = shape.part(tile);
            let inside = |place: usize| place / shape.tile.1 < rows && place % shape.tile.1 < cols;
            let own: Vec<f32> = (0..TILE).map(|place| if inside(place) { values[at(shape, tile, place)] } else { 0.0 }).collect();
            let mut waves = plain_transform(&own, false);
            let expected = quantised(plan, &waves, 0..TILE);
            let (places, sent) = decoder.tile().unwrap();
            let got: Vec<(usize, f32)> = places.iter().map(|place| usize::from(*place)).zip(sent.iter().copied()).collect();
            prop_assert_eq!(got, expected.clone());
            expected.into_iter().for_each(|(at, value)| waves[at] -= value);
            let rest = plain_transform(&waves, true);
            for place in (0..TILE).filter(|place| inside(*place)) {
                prop_assert_eq!(left[at(shape, tile, place)], rest[place]);
            }
        }
        prop_assert!(decoder.ended());
    }

    #[test]
    fn no_bytes_break_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..600), k in 1usize..=MAX_K, how in 0..6usize) {
        let plan = Plan::new(k, ALL[how]);
        let mut decoder = Decoder::new(plan, &bytes);
        for _ in 0..20 {
            let Some((places, values)) = decoder.tile() else { break };
            prop_assert!(places.is_sorted_by(|a, b| a < b) && values.iter().all(|v| v.is_finite()));
            prop_assert!(places.len() == values.len() && places.len() <= k);
        }
        check(plan, &bytes, Shape { rows: 70, cols: 100, tile: (64, 64) });
    }
}

#[test]
fn bits_of_a_random_choice_are_near_its_entropy() {
    let shape = Shape { rows: 64 * 16, cols: 64 * 16, tile: (64, 64) };
    let update = bytes(&values(5, shape.rows * shape.cols, 0));
    let mut left = vec![0f32; update.len()];
    let source = Source { update: &update, left: None };
    let group = Encoder::new(Plan::new(64, Values::Sign)).encode(shape, source, &mut left).unwrap();
    let bits = group.len() as f64 * 8.0 / left.len() as f64;
    // log₂ of (4096 choose 64), a sign for each, and eight bits of scale.
    let choose: f64 = (0..64).map(|i| ((4096 - i) as f64 / (i + 1) as f64).log2()).sum();
    let bound = (choose + 64.0 + 8.0) / 4096.0;
    assert!(bits < bound * 1.03, "{bits} bits a parameter, the bound is {bound}");
}

#[test]
fn what_is_not_finite_is_refused() {
    let shape = Shape { rows: 10, cols: 10, tile: (64, 64) };
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for how in ALL {
            let mut values = vec![1f32; 100];
            values[55] = wrong;
            let (plan, update, mut left) = (Plan::new(4, how), bytes(&values), values.clone());
            let source = Source { update: &update, left: None };
            assert!(Encoder::new(plan).encode(shape, source, &mut left).unwrap_err().error.contains("not finite"));
        }
    }
}
