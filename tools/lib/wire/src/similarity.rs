//! How alike two updates are, over the tiles that were revealed.

use crate::{
    delta::Delta,
    layout::{Layout, TILE},
    tensors::Update,
    topk::transform,
};
use rayon::prelude::*;
use record::Report;

/// Sums over what a delta carries, against a recomputed update.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// ⟨δ, ĝ⟩.
    pub dot: f64,
    /// ‖δ‖.
    pub norm: f64,
    /// ‖ĝ‖ over the same tiles.
    pub norm_ref: f64,
    /// ‖δ − ĝ‖.
    pub distance: f64,
    /// Values compared, without padding.
    pub numel: u64,
}

impl Measured {
    /// ⟨δ, ĝ⟩ / (‖δ‖‖ĝ‖); `None` when either is zero.
    pub fn cosine(&self) -> Option<f64> {
        let cosine = self.dot / (self.norm * self.norm_ref);
        cosine.is_finite().then_some(cosine)
    }
}

/// `[⟨a,b⟩, ⟨b,b⟩, ‖a−b‖²]` of one tile in f64, in a fixed order whatever the machine.
pub(crate) fn products(a: &[f32; TILE], b: &[f32; TILE]) -> [f64; 3] {
    const LANES: usize = 32;
    let mut sums = [[0f64; LANES]; 3];
    for (x, y) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let (x, y) = (f64::from(x[lane]), f64::from(y[lane]));
            sums[0][lane] += x * y;
            sums[1][lane] += y * y;
            sums[2][lane] += (x - y) * (x - y);
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// The squares of the `k` largest values, added from the largest down.
fn largest(tile: &[f32; TILE], k: usize) -> f64 {
    let mut sizes = tile.map(|value| value.to_bits() & 0x7fff_ffff);
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.iter().take(k).map(|bits| f64::from(f32::from_bits(*bits)).powi(2)).sum()
}

/// Compare a delta with the recomputed update: over the tiles that were revealed, or, of a choice, with the update's own choice.
///
/// # Errors
/// Exit code 65 when the update does not fit the model.
pub fn measure(delta: &Delta, reference: &Update, layout: &Layout) -> Result<Measured, Report> {
    let tensors = reference.tensors(layout)?;
    let sparse = delta.meta.codec.is_sparse();
    let each: Vec<[f64; 5]> = (0..delta.chunks())
        .into_par_iter()
        .flat_map_iter(|chunk| {
            let mut tiles = Vec::new();
            delta.visit_sent(chunk, |index, sent| {
                let mut own = [0f32; TILE];
                let which = layout.tensor_of(index);
                layout.tensors[which].gather(index, tensors[which], &mut own);
                let mut numel = layout.tensors[which].tile_numel(index);
                if delta.meta.codec.name == "dct" {
                    transform(&mut own, false);
                }
                // Against what it would have chosen itself: who sends one value that is surely right has not sent the others.
                let chosen = sparse.then(|| largest(&own, delta.meta.codec.k.unwrap_or(1) as usize));
                if sparse {
                    own.iter_mut().zip(sent).filter(|(_, sent)| **sent == 0.0).for_each(|(own, _)| *own = 0.0);
                    numel = sent.iter().filter(|sent| **sent != 0.0).count();
                }
                let [dot, mut own2, distance] = products(sent, &own);
                if let Some(chosen) = chosen {
                    own2 = chosen;
                }
                tiles.push([dot, products(sent, sent)[0], own2, distance, numel as f64]);
            });
            tiles
        })
        .collect();
    let mut sums = [0f64; 5];
    for tile in &each {
        sums.iter_mut().zip(tile).for_each(|(sum, value)| *sum += value);
    }
    let [dot, sent2, own2, distance, numel] = sums;
    Ok(Measured { dot, norm: sent2.sqrt(), norm_ref: own2.sqrt(), distance: distance.sqrt(), numel: numel as u64 })
}
