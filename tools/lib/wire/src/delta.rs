//! Delta files: what a miner reveals of its update. `FORMAT.md` has every byte.

use crate::{
    codec::{self, Claim, Content, Draw, Form, Reader, Sent},
    commit::{self, Binding, Domain},
    layout::Layout,
    tensors::{Mapped, Out, Update, write},
    tile::{TILE, products},
};
use rayon::prelude::*;
use record::{Context, Hash, Hotkey, Report, Uid, Window};
use run::hparams::Codec;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// The only key of a delta file's metadata.
const KEY: &str = "boltzmann";

/// The metadata of a delta file, under the key `boltzmann`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Version of the format: 1.
    pub v: u32,
    /// The run.
    pub run: Hash,
    /// The window.
    pub window: Window,
    /// Whose.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// Root of the state that it was trained from.
    pub base: Hash,
    /// Hash of its pages.
    pub pages: Hash,
    /// The codec and its parameters.
    pub codec: Codec,
    /// Root of the tree over all tiles of the update.
    pub root: Hash,
    /// BLAKE3 of the file's bytes after the header.
    pub data: Hash,
    /// sr25519 over the RFC 8785 JSON of the other fields; 128 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// What a delta has to be, to be this peer's in this window.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The run.
    pub run: Hash,
    /// The window.
    pub window: Window,
    /// Whose.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// Root of the state that it has to be for.
    pub base: Hash,
    /// The run's codec.
    pub codec: Codec,
    /// What was committed to in time; absent when a state is replayed, where the publisher's list vouches for it.
    pub commitment: Option<Hash>,
    /// Hash of the window's end block; absent when a state is replayed and `codec` is dense.
    pub reveal: Hash,
}

/// A delta of which every byte has been checked.
pub struct Delta {
    mapped: Arc<Mapped>,
    form: Box<dyn Form>,
    sent: Box<dyn Sent>,
    /// Its metadata.
    pub meta: Meta,
    /// The tiles that it carries, ascending.
    pub tiles: Vec<usize>,
    layout: Layout,
}

/// No delta of this run is larger, in bytes.
pub fn size_cap(layout: &Layout, codec: &Codec) -> u64 {
    codec::size_cap(layout, codec)
}

/// Make the delta file of an update: the tiles that the reveal draws and their proof, or the payload; the signed metadata.
///
/// # Errors
/// Exit code 65 when the update is wrong or not finite; what the file system refuses.
pub fn make(
    path: &Path,
    content: Content<'_>,
    layout: &Layout,
    binding: &Binding,
    (uid, codec, reveal): (Uid, &Codec, Hash),
    sign: impl FnOnce(&[u8]) -> [u8; 64],
) -> Result<Meta, Report> {
    let draw = Draw { run: binding.run, reveal };
    let mut parts = codec::form_of(codec)?.tensors(content, layout, binding.root, draw)?;
    // The order in the file: wider types first, then by name, as safetensors lays them.
    parts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|(_, _, _, bytes)| {
        hasher.update_rayon(bytes);
    });
    let mut meta = Meta {
        v: 1,
        run: binding.run,
        window: binding.window,
        uid,
        hotkey: binding.hotkey,
        base: binding.base,
        pages: binding.pages,
        codec: codec.clone(),
        root: binding.root,
        data: hasher.finalize().into(),
        signature: None,
    };
    meta.signature = Some(hex::encode(sign(&commit::signed_bytes(Domain::Delta, &meta)?)));
    let json = serde_json_canonicalizer::to_string(&meta).data("the metadata has no JSON form")?;
    let outs = parts
        .iter()
        .map(|(name, dtype, shape, data)| Out { name: name.clone(), dtype: *dtype, shape: shape.clone(), data })
        .collect();
    write(path, outs, (KEY, json))?;
    Ok(meta)
}

/// The metadata of a delta file, its signature checked, and nothing else believed: for `bz-delta show`.
///
/// # Errors
/// Exit code 65.
pub fn read_meta(path: &Path) -> Result<(Mapped, Meta), Report> {
    let mapped = Mapped::open_exact(path)?;
    let none = || Report::data("the metadata does not have exactly the key `boltzmann`");
    let json = mapped.metadata.get(KEY).ok_or_else(none)?;
    let meta: Meta = serde_json::from_str(json).data("the metadata")?;
    if serde_json_canonicalizer::to_string(&meta).data("the metadata")? != *json {
        return Err(Report::data("the metadata is not canonical JSON (RFC 8785)"));
    }
    let signature = meta.signature.clone().ok_or_else(|| Report::data("the delta is not signed"))?;
    let unsigned = Meta { signature: None, ..meta.clone() };
    commit::verify(meta.hotkey, &commit::signed_bytes(Domain::Delta, &unsigned)?, &signature)?;
    Ok((mapped, meta))
}

impl Delta {
    /// Open a delta file of any codec but `slice` on its own word, for people who look at it: its bytes are checked, and not whose it
    /// has to be.
    ///
    /// # Errors
    /// Exit code 65 as [`Delta::open`]; 1 for `slice`, whose tiles only the window's end block tells.
    pub fn look(path: &Path, layout: &Layout) -> Result<Self, Report> {
        let (_, meta) = read_meta(path)?;
        if !codec::tells_its_tiles(&meta.codec)? {
            return Err(Report::no("which tiles a slice has is told by its window's end block, not by the file")
                .hint("bz-delta check says whether it is good, bz-score how it compares"));
        }
        let Meta { run, window, uid, hotkey, base, codec, .. } = meta;
        let expected = Expected { run, window, uid, hotkey, base, codec, commitment: None, reveal: Hash([0; 32]) };
        Delta::open(path, layout, &expected)
    }

    /// The bytes of the file's parts, by name.
    pub fn bytes(&self) -> BTreeMap<String, usize> {
        let mut bytes = self.mapped.sizes();
        bytes.insert("header".into(), self.mapped.header_bytes());
        bytes
    }

    /// Open a delta file and check all of it: size, header, metadata, signature, commitment, shapes, hash, finiteness,
    /// proof; what costs little first.
    ///
    /// # Errors
    /// Exit code 65 with the first thing that is wrong.
    pub fn open(path: &Path, layout: &Layout, expected: &Expected) -> Result<Self, Report> {
        let bytes = std::fs::metadata(path).map_err(|e| record::files::io_report("open", path, &e))?.len();
        let cap = size_cap(layout, &expected.codec);
        if bytes > cap {
            return Err(Report::data(format!("{bytes} bytes, at most {cap} in this run")));
        }
        let (mapped, meta) = read_meta(path)?;
        let same = |field: &str, same: bool| {
            if same { Ok(()) } else { Err(Report::data(format!("it is of another {field}"))) }
        };
        same("format version", meta.v == 1)?;
        same("run", meta.run == expected.run)?;
        same("window", meta.window == expected.window)?;
        same("uid", meta.uid == expected.uid)?;
        same("hotkey", meta.hotkey == expected.hotkey)?;
        same("base state", meta.base == expected.base)?;
        same("codec", meta.codec == expected.codec)?;
        if let Some(commitment) = expected.commitment {
            let binding = Binding {
                run: meta.run,
                window: meta.window,
                hotkey: meta.hotkey,
                base: meta.base,
                pages: meta.pages,
                root: meta.root,
            };
            if binding.commitment(&meta.codec) != commitment {
                return Err(Report::data("it is not what was committed to"));
            }
        }
        let form = codec::form_of(&meta.codec)?;
        let tiles = form.tiles(layout, Draw { run: meta.run, reveal: expected.reveal });
        let mapped = Arc::new(mapped);
        let sent = form.check(mapped.clone(), layout, &tiles, Claim { root: meta.root, data: meta.data })?;
        mapped.release();
        Ok(Delta { mapped, form, sent, meta, tiles, layout: layout.clone() })
    }

    /// How it was sent.
    pub(crate) fn form(&self) -> &dyn Form {
        &*self.form
    }

    /// Give what was read back to the page cache.
    pub(crate) fn release(&self) {
        self.mapped.release();
    }

    /// Tiles are read some at a time: so many times.
    pub fn chunks(&self) -> usize {
        self.sent.chunks()
    }

    /// How many tiles a chunk has.
    pub fn chunk_tiles(&self, chunk: usize) -> usize {
        self.sent.places(chunk).len()
    }

    /// The numbers of a chunk's tiles.
    fn chunk(&self, chunk: usize) -> &[usize] {
        self.tiles.get(self.sent.places(chunk)).unwrap_or_default()
    }

    /// The tiles of a chunk: their numbers and values, ascending.
    pub fn visit(&self, chunk: usize, mut each: impl FnMut(usize, &[f32; TILE])) {
        sum_chunk(&[self], &[1.0], chunk, true, &mut each);
    }

    /// All that was sent as an update that is zero elsewhere: the values of each tensor, in the order of their names.
    pub fn whole(&self) -> Vec<Vec<f32>> {
        let mut values: Vec<Vec<f32>> = self.layout.tensors.iter().map(|tensor| vec![0.0; tensor.numel()]).collect();
        for chunk in 0..self.chunks() {
            self.visit(chunk, |index, tile| {
                let which = self.layout.tensor_of(index);
                self.layout.tensors[which].scatter(index, tile, &mut values[which]);
            });
        }
        values
    }

    /// The tiles as they were sent: of `dct` coefficients, not values.
    pub fn visit_sent(&self, chunk: usize, mut each: impl FnMut(usize, &[f32; TILE])) {
        sum_chunk(&[self], &[1.0], chunk, false, &mut each);
    }

    /// Euclidean norm of what was sent.
    pub fn norm(&self) -> f64 {
        let squares: Vec<f64> = (0..self.chunks())
            .into_par_iter()
            .flat_map_iter(|chunk| {
                let mut squares = Vec::new();
                // Of coefficients: the transform keeps the norm, and they are finite where their tile may not be.
                self.visit_sent(chunk, |_, tile| squares.push(products(tile, tile)[0]));
                squares
            })
            .collect();
        self.release();
        squares.iter().sum::<f64>().sqrt()
    }
}

/// The sum of a chunk's tiles over deltas of one codec and one draw, each so many times, in their order: the same bits whatever
/// the threads. As values, or as they were sent.
pub(crate) fn sum_chunk(
    deltas: &[&Delta],
    factors: &[f32],
    chunk: usize,
    values: bool,
    each: &mut impl FnMut(usize, &[f32; TILE]),
) {
    let Some(head) = deltas.first() else { return };
    let mut readers: Vec<Box<dyn Reader + '_>> = deltas.iter().map(|delta| delta.sent.reader(chunk)).collect();
    let mut tile = Box::new([0f32; TILE]);
    for index in head.chunk(chunk) {
        tile.fill(0.0);
        for (reader, factor) in readers.iter_mut().zip(factors) {
            // They were checked, so that every tile is there.
            if reader.add(*factor, &mut tile).is_none() {
                return;
            }
        }
        if values {
            head.form.back(&mut tile);
        }
        each(*index, &tile);
    }
}

/// The tiles of a chunk as values, each so many times: of every tile those of all deltas, side by side.
pub(crate) fn each_chunk(
    deltas: &[&Delta],
    factors: &[f32],
    chunk: usize,
    each: &mut impl FnMut(usize, &[Box<[f32; TILE]>]),
) {
    let Some(head) = deltas.first() else { return };
    let mut readers: Vec<Box<dyn Reader + '_>> = deltas.iter().map(|delta| delta.sent.reader(chunk)).collect();
    let mut tiles = vec![Box::new([0f32; TILE]); deltas.len()];
    for index in head.chunk(chunk) {
        for ((reader, factor), tile) in readers.iter_mut().zip(factors).zip(&mut tiles) {
            if reader.scaled(*factor, tile).is_none() {
                return;
            }
            head.form.back(tile);
        }
        each(*index, &tiles);
    }
}

/// Join the parts of one update: the mean weighted by tokens. Exact only for gradients, of which each part is a mean.
///
/// # Errors
/// Exit code 65 when a part is wrong.
pub fn sum(path: &Path, parts: &[(Update, u64)], layout: &Layout) -> Result<(), Report> {
    let total: u64 = parts.iter().map(|(_, tokens)| tokens).sum();
    let all = parts.iter().map(|(update, _)| update.tensors(layout)).collect::<Result<Vec<_>, _>>()?;
    let sums: Vec<Vec<u8>> = (0..layout.tensors.len())
        .into_par_iter()
        .map(|which| {
            let mut sum = vec![0f64; layout.tensors[which].numel()];
            for (part, (_, tokens)) in all.iter().zip(parts) {
                let share = *tokens as f64 / total.max(1) as f64;
                for (sum, bytes) in sum.iter_mut().zip(part[which].as_chunks::<4>().0) {
                    *sum += share * f64::from(f32::from_le_bytes(*bytes));
                }
            }
            sum.into_iter().flat_map(|v| (v as f32).to_le_bytes()).collect()
        })
        .collect();
    let outs = layout
        .tensors
        .iter()
        .zip(&sums)
        .map(|(t, data)| Out { name: t.name.clone(), dtype: Dtype::F32, shape: t.shape.clone(), data })
        .collect();
    write(path, outs, ("format", "pt".into()))
}
