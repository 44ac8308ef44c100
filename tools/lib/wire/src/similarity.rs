//! How alike two updates are, over the tiles that were revealed.

use crate::{
    delta::Delta,
    layout::Layout,
    tensors::Update,
    tile::{TILE, products},
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

/// Compare a delta with the recomputed update: over the tiles that were revealed, or, of a choice, with the update's own choice.
///
/// # Errors
/// Exit code 65 when the update does not fit the model.
pub fn measure(delta: &Delta, reference: &Update, layout: &Layout) -> Result<Measured, Report> {
    let tensors = reference.tensors(layout)?;
    let each: Vec<[f64; 5]> = (0..delta.chunks())
        .into_par_iter()
        .flat_map_iter(|chunk| {
            let mut tiles = Vec::new();
            delta.visit_sent(chunk, |index, sent| {
                let mut own = [0f32; TILE];
                let which = layout.tensor_of(index);
                layout.tensors[which].gather(index, tensors[which], &mut own);
                let numel = layout.tensors[which].tile_numel(index);
                let beside = delta.form().beside(sent, &mut own, numel);
                let [dot, own2, distance] = products(sent, &own);
                let (own2, numel) = (beside.square.unwrap_or(own2), beside.numel);
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
