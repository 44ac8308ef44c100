//! The payload of a sparse delta: every part of the model made sparse, and what is left of it for the next window.

use super::group::{Decoder, Encoder, Plan, Source, check};
use crate::{
    header,
    layout::{Layout, Part},
    tensors::Update,
};
use rayon::prelude::*;
use record::{Hash, Report, files::Pending};
use safetensors::Dtype;
use std::{ops::Range, path::Path};

/// What is sent of an update.
pub struct Payload {
    /// The bytes of each part, in the order of [`Layout::parts`].
    pub lengths: Vec<u32>,
    /// All of them, one after another.
    pub bytes: Vec<u8>,
}

/// Values that are in memory at once, of each of what is read and written.
const BATCH: usize = 8 << 20;

impl Payload {
    /// Make the update sparse, with so much of what earlier windows left. What is not sent goes to `keep`, some values at a time, in
    /// the order of the layout's tensors.
    pub(crate) fn new(
        update: &Update,
        left: Option<(&Update, f32)>,
        layout: &Layout,
        plan: Plan,
        keep: impl FnMut(&[f32]) -> Result<(), Report>,
    ) -> Result<Self, Report> {
        Payload::in_batches(BATCH, update, left, layout, plan, keep)
    }

    fn in_batches(
        most: usize,
        update: &Update,
        left: Option<(&Update, f32)>,
        layout: &Layout,
        plan: Plan,
        mut keep: impl FnMut(&[f32]) -> Result<(), Report>,
    ) -> Result<Self, Report> {
        let updates = update.tensors(layout)?;
        let before = left.map(|(left, decay)| Ok::<_, Report>((left.tensors(layout)?, decay))).transpose()?;
        let parts = layout.parts();
        let (mut lengths, mut bytes) = (Vec::with_capacity(parts.len()), Vec::new());
        let mut rest = vec![0f32; most.min(layout.numel())];
        let mut parts = &parts[..];
        while !parts.is_empty() {
            let mut count = 0;
            let fits = parts.iter().take_while(|part| {
                count += part.values.len();
                count <= most
            });
            let (batch, more) = parts.split_at(fits.count().max(1));
            parts = more;
            let numel = batch.iter().map(|part| part.values.len()).sum();
            // A part of very long rows may be more than a batch.
            rest.resize(rest.len().max(numel), 0.0);
            let mut places = Vec::with_capacity(batch.len());
            let mut room = &mut rest[..numel];
            for part in batch {
                let (own, more) = room.split_at_mut(part.values.len());
                places.push((part, own));
                room = more;
            }
            let sent = places
                .into_par_iter()
                .map_init(
                    || Encoder::new(plan),
                    |encoder, (part, left)| {
                        let before = before.as_ref().map(|(all, decay)| (values(all, part), *decay));
                        let source = Source { update: values(&updates, part), left: before };
                        let name = &layout.tensors[part.tensor].name;
                        encoder.encode(part.shape, source, left).map_err(|e| e.at(name))
                    },
                )
                .collect::<Result<Vec<Vec<u8>>, Report>>()?;
            lengths.extend(sent.iter().map(|bytes| bytes.len() as u32));
            sent.iter().for_each(|sent| bytes.extend_from_slice(sent));
            keep(&rest[..numel])?;
            update.release();
            left.inspect(|(left, _)| left.release());
        }
        Ok(Payload { lengths, bytes })
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
}

/// What is left for the next window: a file of the model's tensors, f32, that is written as the update is read.
pub struct Left(Pending);

/// Whose it is, in the file's metadata.
const RUN: &str = "run";

impl Left {
    /// Begin the file of a run.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn begin(path: &Path, layout: &Layout, run: Hash) -> Result<Self, Report> {
        let named = layout.tensors.iter().map(|t| (t.name.clone(), Dtype::F32, t.shape.clone(), t.numel() * 4));
        let mut file = Pending::begin(path)?;
        file.push(&header::write(named, (RUN, run.to_string()))?)?;
        Ok(Left(file))
    }

    /// What was left, if it is this run's.
    ///
    /// # Errors
    /// Exit code 78 when it is not, 65 when it is not of this model.
    pub fn open(path: &Path, layout: &Layout, run: Hash) -> Result<Update, Report> {
        let left = Update::open(path, layout)?;
        match left.metadata().get(RUN) {
            Some(own) if *own == run.to_string() => Ok(left),
            Some(own) => Err(Report::config(format!("{} was left by run {own}, this is run {run}", path.display()))
                .hint("one folder serves one run: use another BZ_HOME, or remove that file")),
            None => Err(Report::config(format!("{} does not say which run left it", path.display()))
                .hint("an older version wrote it: remove it, and the next window begins with nothing left")),
        }
    }

    /// The next values.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn push(&mut self, values: &[f32]) -> Result<(), Report> {
        self.0.push(bytemuck::cast_slice(values))
    }

    /// Put the file to its place.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<(), Report> {
        self.0.finish()
    }
}

/// A part's values among the tensors'.
fn values<'a>(tensors: &[&'a [u8]], part: &Part) -> &'a [[u8; 4]] {
    tensors[part.tensor].as_chunks::<4>().0.get(part.values.clone()).unwrap_or_default()
}

/// No payload has more bytes.
pub(crate) fn max_bytes(layout: &Layout, plan: Plan) -> usize {
    layout.parts().iter().map(|part| 4 + plan.max_bytes(part.shape.tiles())).sum()
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

    /// Reads the tiles of a part.
    pub(crate) fn decoder<'a>(&self, part: usize, bytes: &'a [u8]) -> Decoder<'a> {
        Decoder::new(self.plan, bytes.get(self.ranges[part].clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::Values;
    use super::*;
    use crate::{tensors::Out, tile::TILE};

    #[test]
    fn in_any_batches_it_is_the_same() {
        let model = serde_json::json!({
            "vocab_size": 300, "hidden_size": 130, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 5,
            "num_key_value_heads": 5, "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "tie_word_embeddings": true, "initializer_range": 0.02
        });
        let layout = Layout::new(&serde_json::from_value(model).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("update");
        let bytes = |t: &crate::layout::Tensor| -> Vec<u8> {
            (0..t.numel()).flat_map(|at| ((at * 7919 % 1009) as f32 - 500.0).to_le_bytes()).collect()
        };
        let data: Vec<Vec<u8>> = layout.tensors.iter().map(bytes).collect();
        let outs = layout.tensors.iter().zip(&data);
        let outs = outs.map(|(t, data)| Out { name: t.name.clone(), dtype: Dtype::F32, shape: t.shape.clone(), data });
        crate::tensors::write(&path, outs.collect(), ("format", "pt".into())).unwrap();
        let update = Update::open(&path, &layout).unwrap();
        let plan = Plan::new(9, Values::Sign);
        let made = |most: usize| {
            let (mut left, mut times) = (Vec::new(), 0);
            let keep = |values: &[f32]| {
                left.extend_from_slice(values);
                times += 1;
                Ok(())
            };
            let payload = Payload::in_batches(most, &update, Some((&update, 0.5)), &layout, plan, keep).unwrap();
            ((payload.lengths, payload.bytes, left), times)
        };
        let (whole, once) = made(BATCH);
        assert_eq!((once, whole.2.len()), (1, layout.numel()));
        for most in [1, TILE, 50_000] {
            let (parts, times) = made(most);
            assert!(parts == whole && times > 2, "{most} values at once: {times} times");
        }
    }
}
