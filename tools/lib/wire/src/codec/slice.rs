//! `slice`: some tiles of the update, drawn once it was committed to, and the proof that they are its.

use super::form::{
    Claim, Content, Draw, Form, Reader, Sent, Single, Tensor, changed, check_count, check_finite, check_hash,
};
use crate::{
    layout::Layout,
    precision::Precision,
    tensors::Mapped,
    tile::{RELEASED, TILE},
    tree::{self, Tree},
};
use record::{Hash, Report};
use run::hparams::Codec;
use safetensors::Dtype;
use std::{ops::Range, sync::Arc};

/// Names of its tensors.
const TILES: &str = "tiles";
const PROOF: &str = "proof";

/// One of so many tiles.
pub(crate) struct Slice {
    compression: u64,
    precision: Precision,
}

impl Slice {
    pub(crate) fn of(codec: &Codec) -> Result<Self, Report> {
        Ok(Slice { compression: codec.compression, precision: Precision::of(codec.values)? })
    }
}

impl Form for Slice {
    fn size_cap(&self, layout: &Layout) -> u64 {
        let count = layout.revealed_count(self.compression);
        // A tile's path to the root has at most one node a level.
        let levels = (layout.tiles.next_power_of_two().trailing_zeros() + 1) as usize;
        (8192 + count * TILE * self.precision.bytes() + count * levels * 64) as u64
    }

    fn tiles(&self, layout: &Layout, draw: Draw) -> Vec<usize> {
        layout.revealed(self.compression, draw.run, draw.reveal)
    }

    fn tells_its_tiles(&self) -> bool {
        false
    }

    fn root(&self, content: Content<'_>, layout: &Layout) -> Result<Hash, Report> {
        Ok(Tree::of_update(content.update()?, layout, self.precision)?.root)
    }

    fn tensors(&self, content: Content<'_>, layout: &Layout, root: Hash, draw: Draw) -> Result<Vec<Tensor>, Report> {
        let update = content.update()?;
        let tree = Tree::of_update(update, layout, self.precision)?;
        if tree.root != root {
            return Err(changed());
        }
        let tensors = update.tensors(layout)?;
        let tiles = self.tiles(layout, draw);
        let mut bytes = Vec::with_capacity(tiles.len() * TILE * self.precision.bytes());
        let mut tile = [0f32; TILE];
        for (place, index) in tiles.iter().enumerate() {
            let which = layout.tensor_of(*index);
            layout.tensors[which].gather(*index, tensors[which], &mut tile);
            if place % RELEASED == RELEASED - 1 {
                update.release();
            }
            self.precision.encode(tile.iter().copied(), &mut bytes);
        }
        let proof = tree.proof(&tiles);
        Ok(vec![
            (PROOF.into(), Dtype::U8, vec![proof.len()], proof),
            (TILES.into(), self.precision.dtype(), vec![tiles.len(), TILE], bytes),
        ])
    }

    fn check(
        &self,
        file: Arc<Mapped>,
        layout: &Layout,
        tiles: &[usize],
        claim: Claim,
    ) -> Result<Box<dyn Sent>, Report> {
        let proof = file.tensor(PROOF, Dtype::U8, &[tree::proof_len(layout.tiles, tiles)])?;
        file.tensor(TILES, self.precision.dtype(), &[tiles.len(), TILE])?;
        check_count(&file, 2)?;
        check_hash(&file, claim)?;
        let sent = Tiles { file: file.clone(), count: tiles.len(), precision: self.precision };
        let read = |place: usize, tile: &mut [f32; TILE]| {
            sent.tile(place, tile);
            if place % RELEASED == RELEASED - 1 {
                file.release();
            }
        };
        check_finite(layout, tiles, read)?;
        tree::verify(claim.root, layout.tiles, tiles, proof, read)?;
        check_padding(layout, tiles, read)?;
        Ok(Box::new(sent))
    }
}

/// That tiles at the edge of a tensor are zero beyond it: after the proof, since tiles that were not drawn for these places have
/// other edges.
fn check_padding(layout: &Layout, tiles: &[usize], get: impl Fn(usize, &mut [f32; TILE])) -> Result<(), Report> {
    for (place, index) in tiles.iter().enumerate() {
        let tensor = &layout.tensors[layout.tensor_of(*index)];
        if tensor.tile_numel(*index) == TILE {
            continue;
        }
        let mut tile = [0f32; TILE];
        get(place, &mut tile);
        if !tensor.pads_with_zeros(*index, &tile) {
            let error = format!("tile {index}, at the edge of {}, is not zero beyond it", tensor.name);
            return Err(Report::data(error));
        }
    }
    Ok(())
}

/// The tiles of a file.
struct Tiles {
    file: Arc<Mapped>,
    count: usize,
    precision: Precision,
}

impl Tiles {
    fn tile(&self, place: usize, out: &mut [f32; TILE]) {
        // The shape was checked when it was opened.
        let data = self.file.tensor(TILES, self.precision.dtype(), &[self.count, TILE]).unwrap_or_default();
        let width = TILE * self.precision.bytes();
        self.precision.widen(data.get(place * width..(place + 1) * width).unwrap_or_default(), out);
    }
}

impl Sent for Tiles {
    fn chunks(&self) -> usize {
        self.count
    }

    fn places(&self, chunk: usize) -> Range<usize> {
        chunk..chunk + 1
    }

    fn reader(&self, chunk: usize) -> Box<dyn Reader + '_> {
        Box::new(Single(Some(move |tile: &mut [f32; TILE]| self.tile(chunk, tile))))
    }
}
