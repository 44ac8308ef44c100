//! `dense`: the whole update, under the names and shapes of the model's tensors.

use super::form::{
    Claim, Content, Draw, Form, Reader, Sent, Single, Tensor, changed, check_count, check_finite, check_hash,
};
use crate::{
    layout::Layout,
    precision::Precision,
    tensors::Mapped,
    tile::{RELEASED, TILE},
    tree::Tree,
};
use record::{Hash, Report};
use run::hparams::Codec;
use std::{ops::Range, sync::Arc};

/// All tiles.
pub(crate) struct Dense(Precision);

impl Dense {
    pub(crate) fn of(codec: &Codec) -> Result<Self, Report> {
        Precision::of(codec.values).map(Dense)
    }
}

impl Form for Dense {
    fn size_cap(&self, layout: &Layout) -> u64 {
        let names: usize = layout.tensors.iter().map(|t| t.name.len() + 128).sum();
        (8192 + names + layout.numel() * self.0.bytes()) as u64
    }

    fn tiles(&self, layout: &Layout, _: Draw) -> Vec<usize> {
        (0..layout.tiles).collect()
    }

    fn root(&self, content: Content<'_>, layout: &Layout) -> Result<Hash, Report> {
        Ok(Tree::of_update(content.update()?, layout, self.0)?.root)
    }

    fn tensors(&self, content: Content<'_>, layout: &Layout, root: Hash, _: Draw) -> Result<Vec<Tensor>, Report> {
        let update = content.update()?;
        if self.root(content, layout)? != root {
            return Err(changed());
        }
        let tensors = layout.tensors.iter().zip(update.tensors(layout)?).map(|(tensor, data)| {
            let mut bytes = Vec::with_capacity(tensor.numel() * self.0.bytes());
            update.release();
            self.0.encode(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)), &mut bytes);
            (tensor.name.clone(), self.0.dtype(), tensor.shape.clone(), bytes)
        });
        Ok(tensors.collect())
    }

    fn check(
        &self,
        file: Arc<Mapped>,
        layout: &Layout,
        tiles: &[usize],
        claim: Claim,
    ) -> Result<Box<dyn Sent>, Report> {
        for tensor in &layout.tensors {
            file.tensor(&tensor.name, self.0.dtype(), &tensor.shape)?;
        }
        check_count(&file, layout.tensors.len())?;
        check_hash(&file, claim)?;
        let sent = Tensors { file: file.clone(), layout: layout.clone(), precision: self.0 };
        let read = |place: usize, tile: &mut [f32; TILE]| {
            sent.tile(place, tile);
            if place % RELEASED == RELEASED - 1 {
                file.release();
            }
        };
        check_finite(layout, tiles, read)?;
        let tree = Tree::build(layout.tiles, |place, tile| {
            read(place, tile);
            Ok(())
        })?;
        if tree.root != claim.root {
            return Err(Report::data("its values do not have the root that was committed to"));
        }
        Ok(Box::new(sent))
    }
}

/// The tensors of a file.
struct Tensors {
    file: Arc<Mapped>,
    layout: Layout,
    precision: Precision,
}

impl Tensors {
    fn tile(&self, index: usize, out: &mut [f32; TILE]) {
        out.fill(0.0);
        let tensor = &self.layout.tensors[self.layout.tensor_of(index)];
        // Shapes were checked when it was opened.
        if let Ok(data) = self.file.tensor(&tensor.name, self.precision.dtype(), &tensor.shape) {
            tensor.gather_with(index, data, self.precision.bytes(), out, |bytes, out| self.precision.widen(bytes, out));
        }
    }
}

impl Sent for Tensors {
    fn chunks(&self) -> usize {
        self.layout.tiles
    }

    fn places(&self, chunk: usize) -> Range<usize> {
        chunk..chunk + 1
    }

    fn reader(&self, chunk: usize) -> Box<dyn Reader + '_> {
        Box::new(Single(Some(move |tile: &mut [f32; TILE]| self.tile(chunk, tile))))
    }
}
