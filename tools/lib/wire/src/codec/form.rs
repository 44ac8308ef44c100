//! What every codec has to be able to do.

use super::{group::Plan, sparse::Payload};
use crate::{
    layout::Layout,
    tensors::{Mapped, Update},
    tile::TILE,
};
use rayon::prelude::*;
use record::{Hash, Report};
use safetensors::Dtype;
use std::{ops::Range, sync::Arc};

/// What a delta is made of.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// `slice` and `dense`: an update, of which tiles are revealed.
    Tiles(&'a Update),
    /// `topk` and `dct`: all that was committed to.
    Sparse(&'a Payload),
}

impl<'a> Content<'a> {
    pub(crate) fn update(self) -> Result<&'a Update, Report> {
        match self {
            Content::Tiles(update) => Ok(update),
            Content::Sparse(_) => Err(Report::data("a choice of values is not sent as tiles")),
        }
    }

    pub(crate) fn payload(self) -> Result<&'a Payload, Report> {
        match self {
            Content::Sparse(payload) => Ok(payload),
            Content::Tiles(_) => Err(Report::data("a whole update is not sent as a choice of values")),
        }
    }
}

/// What decides which tiles are revealed.
#[derive(Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) run: Hash,
    pub(crate) reveal: Hash,
}

/// What a file's metadata says of its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    /// What was committed to.
    pub(crate) root: Hash,
    /// The hash of all bytes after the header.
    pub(crate) data: Hash,
}

/// A tensor of a file: name, type, shape, bytes.
pub(crate) type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// How a tile that was recomputed stands beside the one that was sent.
pub(crate) struct Beside {
    /// The square of its norm, where that is not of its values as they are now.
    pub(crate) square: Option<f64>,
    /// Values that are compared.
    pub(crate) numel: usize,
}

/// One way to send an update.
pub(crate) trait Form: Send + Sync {
    /// No delta is larger, in bytes: its values, its proof, and what names them.
    fn size_cap(&self, layout: &Layout) -> u64;

    /// The tiles that a delta carries, ascending.
    fn tiles(&self, layout: &Layout, draw: Draw) -> Vec<usize>;

    /// What is committed to.
    fn root(&self, content: Content<'_>, layout: &Layout) -> Result<Hash, Report>;

    /// The tensors of a delta file, of content that was committed to.
    fn tensors(&self, content: Content<'_>, layout: &Layout, root: Hash, draw: Draw) -> Result<Vec<Tensor>, Report>;

    /// Check all tensors of a file whose every byte may be forged.
    fn check(&self, file: Arc<Mapped>, layout: &Layout, tiles: &[usize], claim: Claim)
    -> Result<Box<dyn Sent>, Report>;

    /// Whether the file alone tells which tiles it carries.
    fn tells_its_tiles(&self) -> bool {
        true
    }

    /// How a choice is made, where it sends one.
    fn plan(&self) -> Option<Plan> {
        None
    }

    /// Turn a sum of tiles as they were sent into values.
    fn back(&self, _tile: &mut [f32; TILE]) {}

    /// Turn a recomputed tile, `numel` of it no padding, into what is compared with a tile as it was sent.
    fn beside(&self, _sent: &[f32; TILE], _own: &mut [f32; TILE], numel: usize) -> Beside {
        Beside { square: None, numel }
    }
}

/// What a delta carries, every byte of it checked.
pub(crate) trait Sent: Send + Sync {
    /// Its tiles are read some at a time: so many times.
    fn chunks(&self) -> usize;

    /// The tiles of a chunk, by their places among those that it carries.
    fn places(&self, chunk: usize) -> Range<usize>;

    /// Reads the tiles of a chunk, one after another.
    fn reader(&self, chunk: usize) -> Box<dyn Reader + '_>;
}

/// Reads the tiles of a chunk as they were sent; `None` after the last.
pub(crate) trait Reader {
    /// Add the next tile to a sum, so many times.
    fn add(&mut self, factor: f32, sum: &mut [f32; TILE]) -> Option<()>;

    /// The next tile, so many times.
    fn scaled(&mut self, factor: f32, tile: &mut [f32; TILE]) -> Option<()>;
}

/// Reads one tile, of what sends whole tiles.
pub(crate) struct Single<F>(pub(crate) Option<F>);

impl<F: FnOnce(&mut [f32; TILE])> Reader for Single<F> {
    fn add(&mut self, factor: f32, sum: &mut [f32; TILE]) -> Option<()> {
        let mut sent = Box::new([0f32; TILE]);
        self.0.take()?(&mut sent);
        sum.iter_mut().zip(sent.iter()).for_each(|(sum, sent)| *sum += factor * sent);
        Some(())
    }

    fn scaled(&mut self, factor: f32, tile: &mut [f32; TILE]) -> Option<()> {
        self.0.take()?(tile);
        tile.iter_mut().for_each(|value| *value *= factor);
        Some(())
    }
}

/// That a file has so many tensors.
pub(crate) fn check_count(file: &Mapped, expected: usize) -> Result<(), Report> {
    if file.len() == expected {
        return Ok(());
    }
    Err(Report::data(format!("{} tensors, expected {expected}", file.len())))
}

/// That a file's bytes are those that its metadata says.
pub(crate) fn check_hash(file: &Mapped, claim: Claim) -> Result<(), Report> {
    if file.digest() == claim.data {
        return Ok(());
    }
    Err(Report::data("its data does not have the hash that its metadata says"))
}

/// That whole tiles are finite.
pub(crate) fn check_finite(
    layout: &Layout,
    tiles: &[usize],
    get: impl Fn(usize, &mut [f32; TILE]) + Sync,
) -> Result<(), Report> {
    let wrong = tiles.par_iter().enumerate().find_map_first(|(place, index)| {
        let mut tile = [0f32; TILE];
        get(place, &mut tile);
        let name = &layout.tensors[layout.tensor_of(*index)].name;
        tile.iter().any(|v| !v.is_finite()).then(|| format!("a value in {name} is not finite"))
    });
    wrong.map_or(Ok(()), |wrong| Err(Report::data(wrong)))
}

/// What is told where an update is not the one that its miner committed to.
pub(crate) fn changed() -> Report {
    Report::data("the update is not the one that was committed to")
        .hint("it was trained again since: run bz-train and bz-delta commit of one window together")
}
