//! `topk`: of each tile the k largest values.

use super::{
    form::{Beside, Claim, Content, Draw, Form, Reader, Sent, Tensor, changed, check_count, check_hash},
    group::{Decoder, MAX_K, Plan, Values, add},
    sparse::{Parts, max_bytes},
};
use crate::{layout::Layout, tensors::Mapped, tile::TILE};
use record::{Hash, Report};
use run::hparams::{Codec, Quantization};
use safetensors::Dtype;
use std::{ops::Range, sync::Arc};

/// Names of its tensors.
const LENGTHS: &str = "lengths";
const PAYLOAD: &str = "payload";

/// A choice of values.
pub(crate) struct Topk(pub(crate) Plan);

impl Topk {
    pub(crate) fn of(codec: &Codec) -> Result<Self, Report> {
        let values = match codec.values {
            Quantization::Sign => Values::Sign,
            Quantization::Q2 => Values::Bits(2),
            Quantization::Q4 => Values::Bits(4),
            Quantization::Q8 => Values::Bits(8),
            Quantization::F16 => Values::F16,
            Quantization::F32 => Values::F32,
            Quantization::Bf16 => return Err(Report::data("a choice of values is not sent as bf16")),
        };
        let k = codec.k.and_then(|k| usize::try_from(k).ok()).filter(|k| (1..=MAX_K).contains(k));
        let k = k.ok_or_else(|| Report::data(format!("{} needs k, from 1 to {MAX_K}", codec.name)))?;
        Ok(Topk(Plan::new(k, values)))
    }
}

impl Form for Topk {
    fn size_cap(&self, layout: &Layout) -> u64 {
        8192 + max_bytes(layout, self.0) as u64
    }

    fn tiles(&self, layout: &Layout, _: Draw) -> Vec<usize> {
        (0..layout.tiles).collect()
    }

    fn plan(&self) -> Option<Plan> {
        Some(self.0)
    }

    fn root(&self, content: Content<'_>, _: &Layout) -> Result<Hash, Report> {
        Ok(content.payload()?.root())
    }

    fn tensors(&self, content: Content<'_>, _: &Layout, root: Hash, _: Draw) -> Result<Vec<Tensor>, Report> {
        let payload = content.payload()?;
        if payload.root() != root {
            return Err(changed());
        }
        Ok(vec![
            (LENGTHS.into(), Dtype::U32, vec![payload.lengths.len()], payload.lengths_bytes()),
            (PAYLOAD.into(), Dtype::U8, vec![payload.bytes.len()], payload.bytes.clone()),
        ])
    }

    fn check(&self, file: Arc<Mapped>, layout: &Layout, _: &[usize], claim: Claim) -> Result<Box<dyn Sent>, Report> {
        let lengths = file.tensor(LENGTHS, Dtype::U32, &[layout.parts().len()])?;
        let bytes = file.shape(PAYLOAD).and_then(|shape| shape.first().copied()).unwrap_or(0);
        let payload = file.tensor(PAYLOAD, Dtype::U8, &[bytes])?;
        check_count(&file, 2)?;
        check_hash(&file, claim)?;
        if claim.root != claim.data {
            return Err(Report::data("its data is not what was committed to"));
        }
        let parts = Parts::check(layout, self.0, lengths, payload)?;
        Ok(Box::new(Chosen { file, parts, bytes }))
    }

    /// Of the update's own choice: who sends one value that is surely right has not sent the others.
    fn beside(&self, sent: &[f32; TILE], own: &mut [f32; TILE], _: usize) -> Beside {
        let square = largest(own, self.0.k);
        own.iter_mut().zip(sent).filter(|(_, sent)| **sent == 0.0).for_each(|(own, _)| *own = 0.0);
        Beside { square: Some(square), numel: sent.iter().filter(|sent| **sent != 0.0).count() }
    }
}

/// The squares of the `k` largest values, added from the largest down.
fn largest(tile: &[f32; TILE], k: usize) -> f64 {
    let mut sizes = tile.map(|value| value.to_bits() & 0x7fff_ffff);
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.iter().take(k).map(|bits| f64::from(f32::from_bits(*bits)).powi(2)).sum()
}

/// The payload of a file.
struct Chosen {
    file: Arc<Mapped>,
    parts: Parts,
    bytes: usize,
}

impl Sent for Chosen {
    fn chunks(&self) -> usize {
        self.parts.len()
    }

    fn places(&self, chunk: usize) -> Range<usize> {
        self.parts.tiles(chunk)
    }

    fn reader(&self, chunk: usize) -> Box<dyn Reader + '_> {
        // The shape was checked when it was opened.
        let bytes = self.file.tensor(PAYLOAD, Dtype::U8, &[self.bytes]).unwrap_or_default();
        Box::new(Group(self.parts.decoder(chunk, bytes)))
    }
}

/// Reads the tiles of a part.
struct Group<'a>(Decoder<'a>);

impl Reader for Group<'_> {
    fn add(&mut self, factor: f32, sum: &mut [f32; TILE]) -> Option<()> {
        add(std::slice::from_mut(&mut self.0), &[factor], sum)
    }

    fn scaled(&mut self, factor: f32, tile: &mut [f32; TILE]) -> Option<()> {
        tile.fill(0.0);
        self.add(factor, tile)
    }
}
