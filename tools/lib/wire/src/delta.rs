//! Delta files: what a miner reveals of its update. `FORMAT.md` has every byte.

use crate::{
    commit::{self, Binding, Domain},
    layout::{Layout, RELEASED, TILE},
    sparse::{self, Parts, Payload},
    tensors::{Mapped, Out, Update, write},
    topk,
    tree::{self, Tree},
};
use rayon::prelude::*;
use record::{Context, Hash, Hotkey, Report, Uid, Window};
use run::hparams::Codec;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

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
    mapped: Mapped,
    parts: Option<Parts>,
    /// Its metadata.
    pub meta: Meta,
    /// The tiles that it carries, ascending.
    pub tiles: Vec<usize>,
    layout: Layout,
}

fn values_dtype(codec: &Codec) -> Dtype {
    match codec.values.as_str() {
        "bf16" => Dtype::BF16,
        "f16" => Dtype::F16,
        _ => Dtype::F32,
    }
}

/// No delta of this run is larger, in bytes: its values, its proof, and what names them.
pub fn size_cap(layout: &Layout, codec: &Codec) -> u64 {
    if let Some(plan) = topk::Plan::of(codec) {
        return 8192 + sparse::most_bytes(layout, plan) as u64;
    }
    let width = if codec.values == "f32" { 4 } else { 2 };
    let names: usize = layout.tensors.iter().map(|t| t.name.len() + 128).sum();
    let header = 8192 + if codec.name == "dense" { names } else { 0 };
    let values = if codec.name == "dense" { layout.numel() } else { layout.revealed_count(codec.compression) * TILE };
    // A tile's path to the root has at most one node a level.
    let levels = (layout.tiles.next_power_of_two().trailing_zeros() + 1) as usize;
    let proof = if codec.name == "dense" { 0 } else { layout.revealed_count(codec.compression) * levels * 64 };
    (header + values * width + proof) as u64
}

fn tiles_of(layout: &Layout, codec: &Codec, run: Hash, reveal: Hash) -> Vec<usize> {
    if codec.name == "slice" { layout.revealed(codec.compression, run, reveal) } else { (0..layout.tiles).collect() }
}

/// What a delta is made of.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// `slice` and `dense`: an update, of which tiles are revealed.
    Tiles(&'a Update),
    /// `topk`: all that was committed to.
    Sparse(&'a Payload),
}

impl Content<'_> {
    /// What is committed to.
    ///
    /// # Errors
    /// Exit code 65 when the update is wrong or not finite.
    pub fn root(&self, layout: &Layout, codec: &Codec) -> Result<Hash, Report> {
        match self {
            Content::Tiles(update) => Ok(Tree::of_update(update, layout, &codec.values)?.root),
            Content::Sparse(payload) => Ok(payload.root()),
        }
    }
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
    let changed = || {
        Report::data("the update is not the one that was committed to")
            .hint("it was trained again since: run bz-train and bz-delta commit of one window together")
    };
    let mut parts = match content {
        Content::Sparse(payload) if payload.root() != binding.root => return Err(changed()),
        Content::Sparse(payload) => vec![
            ("lengths".into(), Dtype::U32, vec![payload.lengths.len()], payload.lengths_bytes()),
            ("payload".into(), Dtype::U8, vec![payload.bytes.len()], payload.bytes.clone()),
        ],
        Content::Tiles(update) => {
            let tree = Tree::of_update(update, layout, &codec.values)?;
            if tree.root != binding.root {
                return Err(changed());
            }
            revealed(update, layout, codec, &tree, (binding.run, reveal))?
        }
    };
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

/// A tensor of the file: name, type, shape, bytes.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of `slice` and `dense`.
fn revealed(
    update: &Update,
    layout: &Layout,
    codec: &Codec,
    tree: &Tree,
    (run, reveal): (Hash, Hash),
) -> Result<Vec<Tensor>, Report> {
    let tensors = update.tensors(layout)?;
    let dtype = values_dtype(codec);
    let encode = |values: &mut dyn Iterator<Item = f32>, out: &mut Vec<u8>| {
        for value in values {
            match dtype {
                Dtype::BF16 => out.extend(half::bf16::from_f32(value).to_le_bytes()),
                Dtype::F16 => out.extend(half::f16::from_f32(value).to_le_bytes()),
                _ => out.extend(value.to_le_bytes()),
            }
        }
    };
    let mut parts: Vec<Tensor> = Vec::new();
    if codec.name == "dense" {
        for (tensor, data) in layout.tensors.iter().zip(&tensors) {
            let mut bytes = Vec::with_capacity(data.len());
            update.release();
            encode(&mut data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)), &mut bytes);
            parts.push((tensor.name.clone(), values_dtype(codec), tensor.shape.clone(), bytes));
        }
    } else {
        let tiles = layout.revealed(codec.compression, run, reveal);
        let mut bytes = Vec::with_capacity(tiles.len() * TILE * dtype.bitsize() / 8);
        let mut tile = [0f32; TILE];
        for (place, index) in tiles.iter().enumerate() {
            let which = layout.tensor_of(*index);
            layout.tensors[which].gather(*index, tensors[which], &mut tile);
            if place % RELEASED == RELEASED - 1 {
                update.release();
            }
            encode(&mut tile.iter().copied(), &mut bytes);
        }
        let proof = tree.proof(&tiles);
        parts.push(("proof".into(), Dtype::U8, vec![proof.len()], proof));
        parts.push(("tiles".into(), values_dtype(codec), vec![tiles.len(), TILE], bytes));
    }
    Ok(parts)
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
        if meta.codec.name == "slice" {
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
        let tiles = tiles_of(layout, &meta.codec, meta.run, expected.reveal);
        let mut delta = Delta { mapped, parts: None, meta, tiles, layout: layout.clone() };
        if let Some(plan) = topk::Plan::of(&delta.meta.codec) {
            delta.parts = Some(delta.check_payload(plan)?);
        } else {
            delta.check_data()?;
        }
        delta.release();
        Ok(delta)
    }

    fn payload(&self) -> Result<(&[u8], &[u8]), Report> {
        let length = self.mapped.shape("payload").and_then(|shape| shape.first().copied()).unwrap_or(0);
        let parts = self.parts.as_ref().map_or_else(|| self.layout.parts().len(), Parts::len);
        let lengths = self.mapped.tensor("lengths", Dtype::U32, &[parts])?;
        Ok((lengths, self.mapped.tensor("payload", Dtype::U8, &[length])?))
    }

    fn check_payload(&self, plan: topk::Plan) -> Result<Parts, Report> {
        let (lengths, bytes) = self.payload()?;
        if self.mapped.len() != 2 {
            return Err(Report::data(format!("{} tensors, expected 2", self.mapped.len())));
        }
        self.check_hash()?;
        if self.meta.root != self.meta.data {
            return Err(Report::data("its data is not what was committed to"));
        }
        Parts::check(&self.layout, plan, lengths, bytes)
    }

    fn check_hash(&self) -> Result<(), Report> {
        if self.meta.data == self.mapped.digest() {
            return Ok(());
        }
        Err(Report::data("its data does not have the hash that its metadata says"))
    }

    fn check_data(&self) -> Result<(), Report> {
        let dense = self.meta.codec.name == "dense";
        if dense {
            self.parts()?;
        } else {
            let proof = tree::proof_len(self.layout.tiles, &self.tiles);
            self.mapped.tensor("proof", Dtype::U8, &[proof])?;
            self.mapped.tensor("tiles", values_dtype(&self.meta.codec), &[self.tiles.len(), TILE])?;
        }
        let expected = if dense { self.layout.tensors.len() } else { 2 };
        if self.mapped.len() != expected {
            return Err(Report::data(format!("{} tensors, expected {expected}", self.mapped.len())));
        }
        self.check_hash()?;
        let wrong = (0..self.tiles.len()).into_par_iter().find_map_first(|place| {
            let mut tile = [0f32; TILE];
            self.tile(place, &mut tile);
            self.release_at(place);
            let index = self.tiles[place];
            let tensor = &self.layout.tensors[self.layout.tensor_of(index)];
            tile.iter().any(|v| !v.is_finite()).then(|| format!("a value in {} is not finite", tensor.name))
        });
        if let Some(wrong) = wrong {
            return Err(Report::data(wrong));
        }
        if dense {
            let tree = Tree::build(self.layout.tiles, |place, tile| {
                self.tile(place, tile);
                self.release_at(place);
                Ok(())
            })?;
            if tree.root == self.meta.root {
                return Ok(());
            }
            return Err(Report::data("its values do not have the root that was committed to"));
        }
        let proof = self.mapped.tensor("proof", Dtype::U8, &[tree::proof_len(self.layout.tiles, &self.tiles)])?;
        tree::verify(self.meta.root, self.layout.tiles, &self.tiles, proof, |place, tile| {
            self.tile(place, tile);
            self.release_at(place);
        })?;
        self.check_padding()
    }

    /// That tiles at the edge of a tensor are zero beyond it: after the proof, since tiles that were not drawn for these places have
    /// other edges. Of `dense` the padding is not in the file.
    fn check_padding(&self) -> Result<(), Report> {
        for (place, index) in self.tiles.iter().enumerate() {
            let tensor = &self.layout.tensors[self.layout.tensor_of(*index)];
            if tensor.tile_numel(*index) == TILE {
                continue;
            }
            let mut tile = [0f32; TILE];
            self.tile(place, &mut tile);
            if !tensor.pads_with_zeros(*index, &tile) {
                let error = format!("tile {index}, at the edge of {}, is not zero beyond it", tensor.name);
                return Err(Report::data(error));
            }
        }
        Ok(())
    }

    fn parts(&self) -> Result<Vec<&[u8]>, Report> {
        let dtype = values_dtype(&self.meta.codec);
        self.layout.tensors.iter().map(|t| self.mapped.tensor(&t.name, dtype, &t.shape)).collect()
    }

    /// Give what was read back to the page cache.
    pub(crate) fn release(&self) {
        self.mapped.release();
    }

    /// The same now and then, where tiles are read one after another.
    fn release_at(&self, place: usize) {
        if place % RELEASED == RELEASED - 1 {
            self.release();
        }
    }

    /// Tiles are read some at a time: so many times.
    pub fn chunks(&self) -> usize {
        self.parts.as_ref().map_or(self.tiles.len(), Parts::len)
    }

    /// How many tiles a chunk has.
    pub fn chunk_tiles(&self, chunk: usize) -> usize {
        self.parts.as_ref().map_or(1, |parts| parts.tiles(chunk).len())
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

    /// The values of the tile at this place of [`Delta::tiles`], of `slice` and `dense`.
    fn tile(&self, place: usize, out: &mut [f32; TILE]) {
        let dtype = values_dtype(&self.meta.codec);
        let widen = |bytes: &[u8], out: &mut [f32]| match dtype {
            Dtype::BF16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = half::bf16::from_le_bytes(*b).to_f32();
                }
            }
            Dtype::F16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = half::f16::from_le_bytes(*b).to_f32();
                }
            }
            _ => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*b);
                }
            }
        };
        out.fill(0.0);
        if self.meta.codec.name == "dense" {
            let tensor = &self.layout.tensors[self.layout.tensor_of(self.tiles[place])];
            // Shapes were checked in `open`.
            if let Ok(data) = self.mapped.tensor(&tensor.name, dtype, &tensor.shape) {
                tensor.gather_with(self.tiles[place], data, if dtype == Dtype::F32 { 4 } else { 2 }, out, widen);
            }
        } else if let Ok(data) = self.mapped.tensor("tiles", dtype, &[self.tiles.len(), TILE]) {
            let width = data.len() / self.tiles.len();
            widen(&data[place * width..(place + 1) * width], out);
        }
    }

    /// Euclidean norm of what was sent.
    pub fn norm(&self) -> f64 {
        let squares: Vec<f64> = (0..self.chunks())
            .into_par_iter()
            .flat_map_iter(|chunk| {
                let mut squares = Vec::new();
                // Of coefficients: the transform keeps the norm, and they are finite where their tile may not be.
                self.visit_sent(chunk, |_, tile| squares.push(crate::similarity::products(tile, tile)[0]));
                squares
            })
            .collect();
        self.release();
        squares.iter().sum::<f64>().sqrt()
    }
}

/// The payloads of deltas of a codec that sends a choice.
fn payloads<'a>(deltas: &[&'a Delta]) -> Option<Vec<(&'a Parts, &'a [u8])>> {
    deltas.iter().map(|delta| Some((delta.parts.as_ref()?, delta.payload().ok()?.1))).collect()
}

/// The sum of a chunk's tiles over deltas of one codec and one draw, each so many times, in their order: the same bits whatever
/// the threads.
pub(crate) fn sum_chunk(
    deltas: &[&Delta],
    shares: &[f32],
    chunk: usize,
    back: bool,
    each: &mut impl FnMut(usize, &[f32; TILE]),
) {
    if let Some(payloads) = payloads(deltas) {
        return sparse::sum(chunk, &payloads, shares, back, each);
    }
    let (mut total, mut sent) = (Box::new([0f32; TILE]), Box::new([0f32; TILE]));
    for (delta, share) in deltas.iter().zip(shares) {
        delta.tile(chunk, &mut sent);
        total.iter_mut().zip(sent.iter()).for_each(|(sum, sent)| *sum += share * sent);
    }
    if let Some(index) = deltas.first().and_then(|delta| delta.tiles.get(chunk)) {
        each(*index, &total);
    }
}

/// The tiles of a chunk, each so many times: of every tile those of all deltas, side by side.
pub(crate) fn each_chunk(
    deltas: &[&Delta],
    shares: &[f32],
    chunk: usize,
    each: &mut impl FnMut(usize, &[Box<[f32; TILE]>]),
) {
    if let Some(payloads) = payloads(deltas) {
        return sparse::each(chunk, &payloads, shares, each);
    }
    let mut tiles = vec![Box::new([0f32; TILE]); deltas.len()];
    for ((delta, share), tile) in deltas.iter().zip(shares).zip(&mut tiles) {
        delta.tile(chunk, tile);
        tile.iter_mut().for_each(|value| *value *= share);
    }
    if let Some(index) = deltas.first().and_then(|delta| delta.tiles.get(chunk)) {
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
