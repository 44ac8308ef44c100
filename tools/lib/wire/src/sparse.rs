//! The payload of a sparse delta: every part of the model made sparse, and what is left of it for the next window.

use crate::{
    layout::{Layout, Part, TILE},
    tensors::{Out, Update, write},
    topk::{Decoder, Encoder, Plan, Source, add, check, transform},
};
use rayon::prelude::*;
use record::{Hash, Report, hparams::Codec};
use safetensors::Dtype;
use std::{ops::Range, path::Path};

/// What is sent of an update, and what is left.
pub struct Payload {
    /// The bytes of each part, in the order of [`Layout::parts`].
    pub lengths: Vec<u32>,
    /// All of them, one after another.
    pub bytes: Vec<u8>,
    /// What was not sent: a vector a tensor, in the layout's order.
    pub left: Vec<Vec<f32>>,
}

impl Payload {
    /// Make the update sparse, with the share of what earlier windows left that the codec still counts.
    ///
    /// # Errors
    /// Exit code 65 when a value is not finite, 78 when the codec is not a sparse one.
    pub fn new(update: &Update, left: Option<&Update>, layout: &Layout, codec: &Codec) -> Result<Self, Report> {
        let plan = plan(codec)?;
        let decay = codec.decay.unwrap_or(0.0) as f32;
        let updates = update.tensors(layout)?;
        let before = left.map(|left| left.tensors(layout)).transpose()?;
        let parts = layout.parts();
        let mut left: Vec<Vec<f32>> = layout.tensors.iter().map(|tensor| vec![0f32; tensor.numel()]).collect();
        // Each part's own values of what is left.
        let mut places = Vec::with_capacity(parts.len());
        for (which, mut rest) in left.iter_mut().map(Vec::as_mut_slice).enumerate() {
            for part in parts.iter().filter(|part| part.tensor == which) {
                let (own, more) = rest.split_at_mut(part.values.len());
                places.push((part, own));
                rest = more;
            }
        }
        let sent = places
            .into_par_iter()
            .map_init(
                || Encoder::new(plan),
                |encoder, (part, left)| {
                    let before = before.as_ref().map(|all| (values(all, part), decay));
                    let source = Source { update: values(&updates, part), left: before };
                    let name = &layout.tensors[part.tensor].name;
                    encoder.encode(part.shape, source, left).map_err(|e| e.at(name))
                },
            )
            .collect::<Result<Vec<Vec<u8>>, Report>>()?;
        let lengths = sent.iter().map(|bytes| bytes.len() as u32).collect();
        Ok(Payload { lengths, bytes: sent.concat(), left })
    }

    /// What is committed to: the BLAKE3 of the lengths and the bytes, as they lie in the file.
    pub fn root(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.lengths_bytes()).update_rayon(&self.bytes);
        hasher.finalize().into()
    }

    /// The lengths, little-endian.
    pub fn lengths_bytes(&self) -> Vec<u8> {
        self.lengths.iter().flat_map(|length| length.to_le_bytes()).collect()
    }

    /// Keep what is left, as a file of the model's tensors.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep(&self, path: &Path, layout: &Layout) -> Result<(), Report> {
        let outs = layout
            .tensors
            .iter()
            .zip(&self.left)
            .map(|(tensor, values)| Out {
                name: tensor.name.clone(),
                dtype: Dtype::F32,
                shape: tensor.shape.clone(),
                data: bytemuck::cast_slice(values),
            })
            .collect();
        write(path, outs, ("format", "pt".into()))
    }
}

/// A part's values among the tensors'.
fn values<'a>(tensors: &[&'a [u8]], part: &Part) -> &'a [[u8; 4]] {
    tensors[part.tensor].as_chunks::<4>().0.get(part.values.clone()).unwrap_or_default()
}

/// The plan of a sparse codec.
///
/// # Errors
/// Exit code 78 when it is not one.
pub fn plan(codec: &Codec) -> Result<Plan, Report> {
    Plan::of(codec).ok_or_else(|| Report::config(format!("the codec {} sends no choice of values", codec.name)))
}

/// No payload of this run has more bytes.
pub(crate) fn most_bytes(layout: &Layout, plan: Plan) -> usize {
    layout.parts().iter().map(|part| 4 + plan.most_bytes(part.shape.tiles())).sum()
}

/// The parts of a payload that was checked.
pub(crate) struct Parts {
    plan: Plan,
    parts: Vec<Part>,
    ranges: Vec<Range<usize>>,
}

impl Parts {
    /// Check a payload whose every byte may be forged.
    ///
    /// # Errors
    /// Exit code 65 with the first part that is wrong.
    pub(crate) fn check(layout: &Layout, plan: Plan, lengths: &[u8], bytes: &[u8]) -> Result<Self, Report> {
        let parts = layout.parts();
        let mut at = 0usize;
        let ranges: Vec<Range<usize>> = lengths
            .as_chunks::<4>()
            .0
            .iter()
            .map(|length| {
                let from = at;
                at = at.saturating_add(u32::from_le_bytes(*length) as usize);
                from..at
            })
            .collect();
        if ranges.len() != parts.len() || at != bytes.len() {
            return Err(Report::data(format!("its lengths add up to {at} bytes, there are {}", bytes.len())));
        }
        let wrong = parts.par_iter().zip(&ranges).find_map_first(|(part, range)| {
            let good = bytes.get(range.clone()).is_some_and(|bytes| check(plan, bytes, part.shape));
            (!good).then_some(part)
        });
        match wrong {
            Some(part) => Err(Report::data(format!(
                "tiles {} and on, of {}, are not what the codec sends",
                part.first_tile, layout.tensors[part.tensor].name
            ))),
            None => Ok(Parts { plan, parts, ranges }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// The tiles of a part.
    pub(crate) fn tiles(&self, part: usize) -> Range<usize> {
        let part = &self.parts[part];
        part.first_tile..part.first_tile + part.shape.tiles()
    }

    fn decoder<'a>(&self, part: usize, bytes: &'a [u8]) -> Decoder<'a> {
        Decoder::new(self.plan, bytes.get(self.ranges[part].clone()).unwrap_or_default())
    }
}

/// The sum of a part's tiles over some payloads of one layout, each so many times: tile after tile, in the order of the
/// payloads, transformed `back` where the codec transforms. They were checked, so that every tile is there.
pub(crate) fn sum(
    part: usize,
    payloads: &[(&Parts, &[u8])],
    shares: &[f32],
    back: bool,
    mut each: impl FnMut(usize, &[f32; TILE]),
) {
    let Some((first, _)) = payloads.first() else { return };
    let mut decoders: Vec<Decoder<'_>> = payloads.iter().map(|(parts, bytes)| parts.decoder(part, bytes)).collect();
    let mut tile = Box::new([0f32; TILE]);
    for index in first.tiles(part) {
        tile.fill(0.0);
        if add(&mut decoders, shares, &mut tile).is_none() {
            return;
        }
        if back && first.plan.transformed {
            transform(&mut tile, true);
        }
        each(index, &tile);
    }
}
