//! `dct`: the same choice of each tile's cosine transform.

use super::{
    form::{Beside, Claim, Content, Draw, Form, Sent, Tensor},
    group::{Plan, transform},
    topk::Topk,
};
use crate::{layout::Layout, tensors::Mapped, tile::TILE};
use record::{Hash, Report};
use run::hparams::Codec;
use std::sync::Arc;

/// A choice of coefficients.
pub(crate) struct Dct(Topk);

impl Dct {
    pub(crate) fn of(codec: &Codec) -> Result<Self, Report> {
        Topk::of(codec).map(|Topk(plan)| Dct(Topk(plan.transformed())))
    }
}

impl Form for Dct {
    fn size_cap(&self, layout: &Layout) -> u64 {
        self.0.size_cap(layout)
    }

    fn tiles(&self, layout: &Layout, draw: Draw) -> Vec<usize> {
        self.0.tiles(layout, draw)
    }

    fn plan(&self) -> Option<Plan> {
        self.0.plan()
    }

    fn root(&self, content: Content<'_>, layout: &Layout) -> Result<Hash, Report> {
        self.0.root(content, layout)
    }

    fn tensors(&self, content: Content<'_>, layout: &Layout, root: Hash, draw: Draw) -> Result<Vec<Tensor>, Report> {
        self.0.tensors(content, layout, root, draw)
    }

    fn check(
        &self,
        file: Arc<Mapped>,
        layout: &Layout,
        tiles: &[usize],
        claim: Claim,
    ) -> Result<Box<dyn Sent>, Report> {
        self.0.check(file, layout, tiles, claim)
    }

    fn back(&self, tile: &mut [f32; TILE]) {
        transform(tile, true);
    }

    fn beside(&self, sent: &[f32; TILE], own: &mut [f32; TILE], numel: usize) -> Beside {
        transform(own, false);
        self.0.beside(sent, own, numel)
    }
}
