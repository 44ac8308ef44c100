//! The discrete cosine transform of a tile, 64×64 values, whatever it is a tile of: orthonormal, so that the largest
//! coefficients are those that leave least.
//!
//! Source: DeMo (arXiv 2411.19870), which sends the largest coefficients of such chunks; DCT-II as in every textbook.
//! The same bits on every machine: sums in one order, products and sums rounded one by one.

use crate::{
    cosine::cosine,
    tile::{SIDE, TILE},
};
use std::{f64::consts::PI, sync::LazyLock};

type Square = [[f32; SIDE]; SIDE];

/// `√(2/64) · cos(π/64 · (n + ½) · k)`, the first row over √2; and its transpose.
static BASIS: LazyLock<[Box<Square>; 2]> = LazyLock::new(|| {
    let mut rows = Box::new([[0f32; SIDE]; SIDE]);
    for (k, row) in rows.iter_mut().enumerate() {
        for (n, value) in row.iter_mut().enumerate() {
            // The angle is π · turn / 128, and its cosine that of the smaller angle to the same direction.
            let turn = ((2 * n + 1) * k) % 256;
            let cosine = cosine(PI * turn.min(256 - turn) as f64 / 128.0);
            let norm = if k == 0 { 1.0 / SIDE as f64 } else { 2.0 / SIDE as f64 };
            *value = (norm.sqrt() * cosine) as f32;
        }
    }
    let mut columns = Box::new([[0f32; SIDE]; SIDE]);
    for (k, row) in rows.iter().enumerate() {
        for (n, value) in row.iter().enumerate() {
            columns[n][k] = *value;
        }
    }
    [rows, columns]
});

/// `left · right`, each sum over k from 0 up.
#[inline(always)]
fn product(left: &Square, right: &Square, out: &mut Square) {
    for (out, left) in out.iter_mut().zip(left) {
        let mut sum = [0f32; SIDE];
        for (factor, row) in left.iter().zip(right) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += factor * value;
            }
        }
        *out = sum;
    }
}

#[inline(always)]
fn transform(outer: &Square, inner: &Square, tile: &mut [f32; TILE]) {
    let mut square = [[0f32; SIDE]; SIDE];
    let mut half = [[0f32; SIDE]; SIDE];
    square.as_flattened_mut().copy_from_slice(tile);
    product(outer, &square, &mut half);
    product(&half, inner, &mut square);
    tile.copy_from_slice(square.as_flattened());
}

/// The coefficients of a tile: basis · tile · basisᵀ.
#[inline(always)]
pub(crate) fn forward(tile: &mut [f32; TILE]) {
    transform(&BASIS[0], &BASIS[1], tile);
}

/// The tile of coefficients: basisᵀ · coefficients · basis.
#[inline(always)]
pub(crate) fn inverse(tile: &mut [f32; TILE]) {
    transform(&BASIS[1], &BASIS[0], tile);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_cosine_transform_and_comes_back() {
        let mut tile = [0f32; TILE];
        for (at, value) in tile.iter_mut().enumerate() {
            *value = ((at * 7919 + 13) % 1000) as f32 / 500.0 - 1.0;
        }
        let before = tile;
        forward(&mut tile);
        // Some coefficients by the definition, in f64.
        for (u, v) in [(0usize, 0usize), (0, 5), (7, 0), (13, 57), (63, 63)] {
            let norm = |k: usize| if k == 0 { (1.0 / 64f64).sqrt() } else { (2.0 / 64f64).sqrt() };
            let mut sum = 0f64;
            for x in 0..64 {
                for y in 0..64 {
                    let angle = |n: usize, k: usize| (PI / 64.0 * (n as f64 + 0.5) * k as f64).cos();
                    sum += f64::from(before[x * 64 + y]) * angle(x, u) * angle(y, v);
                }
            }
            let exact = sum * norm(u) * norm(v);
            assert!((f64::from(tile[u * 64 + v]) - exact).abs() < 1e-4, "{u} {v}: {} {exact}", tile[u * 64 + v]);
        }
        let energy = |tile: &[f32; TILE]| tile.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        assert!((energy(&tile) / energy(&before) - 1.0).abs() < 1e-5);
        inverse(&mut tile);
        assert!(tile.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
