//! One input of a fuzzer, decoded as a hostile peer's. The same function runs over the corpus in every `cargo test` of lib/wire.
//!
//! `slice`, `dense` and `choice` (files of `topk` and `dct`): the first byte of an input says which codec it is of, and whether the others are a file as it is, or
//! changes of an honest file, hashed and signed anew by its owner. `topk` and `dct`: the bits of a group, whose shape, `k` and values come first.

use record::{Hash, Hotkey, Uid, Window};
use run::hparams::{Codec, CodecName, Quantization};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    rc::Rc,
};
use wire::{
    Layout, TILE,
    codec::{
        Content, choose,
        group::{Decoder, Plan, Values, add, check, transform},
    },
    commit::{self, Binding, Domain},
    delta::{self, Delta, Expected, Meta},
    tensors::Update,
    tile::Shape,
};

/// An honest delta of a codec, and what it is held against.
struct Honest {
    folder: tempfile::TempDir,
    layout: Layout,
    expected: Expected,
    pair: Keypair,
    meta: Meta,
    bytes: Vec<u8>,
    data: usize,
}

impl Honest {
    fn new(codec: Codec) -> Self {
        // Matrices of more than a tile, narrow and wide ones, and vectors.
        let model = serde_json::from_value(serde_json::json!({
            "vocab_size": 70, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "tie_word_embeddings": true, "initializer_range": 0.02
        }))
        .unwrap();
        let layout = Layout::new(&model);
        let folder =
            tempfile::tempdir_in(if PathBuf::from("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
        let path = folder.path().join("update");
        let mut value = 1u32;
        let mut bytes = |count: usize| -> Vec<u8> {
            let mut next = || {
                value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (value >> 8) as f32 / 1e7 - 0.8
            };
            (0..count).flat_map(|_| next().to_le_bytes()).collect()
        };
        let data: Vec<Vec<u8>> = layout.tensors.iter().map(|tensor| bytes(tensor.numel())).collect();
        let views = layout.tensors.iter().zip(&data);
        let views = views
            .map(|(tensor, data)| (&tensor.name, TensorView::new(Dtype::F32, tensor.shape.clone(), data).unwrap()));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let update = Update::open(&path, &layout).unwrap();
        let payload = codec.is_sparse().then(|| choose(&update, None, &layout, &codec, |_| Ok(())).unwrap());
        let content = payload.as_ref().map_or(Content::Tiles(&update), Content::Sparse);
        let pair = MiniSecretKey::from_bytes(&[7; 32]).unwrap().expand_to_keypair(ExpansionMode::Ed25519);
        let (run, base, pages, reveal) = (Hash([1; 32]), Hash([2; 32]), Hash([3; 32]), Hash([4; 32]));
        let (window, hotkey) = (Window(7), Hotkey(pair.public.to_bytes()));
        let root = content.root(&layout, &codec).unwrap();
        let binding = Binding { run, window, hotkey, base, pages, root };
        let file = folder.path().join("delta");
        let how = (Uid(5), &codec, reveal);
        let meta = delta::make(&file, content, &layout, &binding, how, |bytes| sign(&pair, bytes)).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let expected = Expected { run, window, uid: Uid(5), hotkey, base, codec, commitment: None, reveal };
        Honest { folder, layout, expected, pair, meta, bytes, data }
    }

    /// A file of a peer: refused, or whole.
    fn open(&self, bytes: &[u8]) -> bool {
        let path = self.folder.path().join("hostile");
        std::fs::write(&path, bytes).unwrap();
        let cap = delta::size_cap(&self.layout, &self.expected.codec);
        let Ok(delta) = Delta::open(&path, &self.layout, &self.expected) else { return false };
        assert!(bytes.len() as u64 <= cap);
        // No other bytes are a file of the same tensors and metadata.
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let tensors = SafeTensors::deserialize(bytes).unwrap().tensors();
        assert!(safetensors::serialize(tensors, header.metadata().clone()).unwrap() == bytes);
        let mut tiles = 0;
        for chunk in 0..delta.chunks() {
            delta.visit_sent(chunk, |_, tile| {
                assert!(tile.iter().all(|value| value.is_finite()));
                tiles += 1;
            });
        }
        assert_eq!(tiles, delta.tiles.len());
        assert!(delta.norm() >= 0.0);
        // Of tiles and of whole updates the root is the honest one's still, and no other bytes lead to it.
        let start = bytes.len() - (self.bytes.len() - self.data).min(bytes.len());
        assert!(delta.meta.codec.is_sparse() || bytes[start..] == self.bytes[self.data..]);
        true
    }

    /// Another file, properly hashed and signed by its owner: one tensor longer, shorter or of another shape, or one more, as the first three bytes
    /// say; then changes of the bytes, four bytes each: which tensor, where, and what is put over it.
    fn forge(&self, changes: &[u8]) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let parts = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
        let mut parts: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = parts.collect();
        let names: Vec<String> = parts.keys().cloned().collect();
        let name = |which: u8| &names[usize::from(which) % names.len()];
        let (head, rest) = changes.split_first_chunk::<3>().unwrap_or((&[0; 3], &[]));
        let [how, which, amount] = *head;
        let (dtype, shape, bytes) = parts.get_mut(name(which)).unwrap();
        let width = dtype.bitsize() / 8;
        match how % 5 {
            1 => bytes.truncate(bytes.len().saturating_sub(usize::from(amount) * width)),
            2 => bytes.resize(bytes.len() + usize::from(amount) * width, amount),
            3 => shape.reverse(),
            4 => shape.push(1),
            _ => {}
        }
        if matches!(how % 5, 1 | 2) {
            *shape = vec![bytes.len() / width];
        }
        if how == 255 {
            parts.insert("more".into(), (Dtype::U8, vec![1], vec![amount]));
        }
        for change in rest.as_chunks::<4>().0 {
            let (.., bytes) = parts.get_mut(name(change[0])).unwrap();
            let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % bytes.len().max(1);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= change[3]);
        }
        let views = || {
            parts
                .iter()
                .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()))
        };
        let plain = safetensors::serialize(views(), None).unwrap();
        let start = 8 + u64::from_le_bytes(plain[..8].try_into().unwrap()) as usize;
        let mut meta = Meta { data: blake3::hash(&plain[start..]).into(), signature: None, ..self.meta.clone() };
        if self.expected.codec.is_sparse() {
            meta.root = meta.data;
        }
        meta.signature = Some(hex::encode(sign(&self.pair, &commit::signed_bytes(Domain::Delta, &meta).unwrap())));
        let meta = serde_json_canonicalizer::to_string(&meta).unwrap();
        safetensors::serialize(views(), Some(HashMap::from([("boltzmann".into(), meta)]))).unwrap()
    }
}

fn sign(pair: &Keypair, bytes: &[u8]) -> [u8; 64] {
    pair.sign_simple(b"substrate", bytes).to_bytes()
}

/// The bits of a group: refused, or every tile of it can be read, and its sum too.
fn group(transformed: bool, data: &[u8]) -> bool {
    let Some(([k0, k1, values, rows, c0, c1], bytes)) = data.split_first_chunk::<6>() else { return false };
    let k = usize::from(u16::from_le_bytes([*k0, *k1])) % 1024 + 1;
    let how = [Values::Sign, Values::Bits(2), Values::Bits(4), Values::Bits(8), Values::F16, Values::F32];
    let plan = Plan::new(k, how[usize::from(*values) % how.len()]);
    let plan = if transformed { plan.transformed() } else { plan };
    let cols = usize::from(u16::from_le_bytes([*c0, *c1]));
    let shape = match *rows {
        0 => Shape { rows: 1, cols: cols % (3 * TILE) + 1, tile: (1, TILE) },
        rows => Shape { rows: rows.into(), cols: cols % 200 + 1, tile: (64, 64) },
    };
    let good = check(plan, bytes, shape);
    let across = shape.cols.div_ceil(shape.tile.1);
    let mut one = Decoder::new(plan, bytes);
    let mut tiles = Vec::new();
    for _ in 0..shape.tiles() {
        let Some((places, values)) = one.tile() else { break };
        // No place is padding, but of coefficients.
        let (row, col) = (tiles.len() / across * shape.tile.0, tiles.len() % across * shape.tile.1);
        let inside = |place: &u16| {
            row + usize::from(*place) / shape.tile.1 < shape.rows
                && col + usize::from(*place) % shape.tile.1 < shape.cols
        };
        assert!(!good || transformed || places.iter().all(inside));
        assert!(places.is_sorted_by(|a, b| a < b) && places.len() <= k && places.len() == values.len());
        assert!(
            values.iter().all(|value| value.is_finite()) && places.last().is_none_or(|last| usize::from(*last) < TILE)
        );
        tiles.push((places.to_vec(), values.to_vec()));
    }
    assert!(!good || tiles.len() == shape.tiles() && one.ended());
    if !good {
        return false;
    }
    // The same by the way that aggregation goes.
    let mut many = [Decoder::new(plan, bytes), Decoder::new(plan, bytes)];
    for (places, values) in tiles {
        let mut sum = [0f32; TILE];
        add(&mut many, &[1.0, 2.0], &mut sum).unwrap();
        assert!(places.iter().zip(values).all(|(place, value)| sum[usize::from(*place)] == 1.0 * value + 2.0 * value));
        if transformed {
            transform(&mut sum, true);
        }
    }
    true
}

/// The fuzzers: each has a target of this name, and a folder of what it kept.
pub const TARGETS: [&str; 5] = ["slice", "dense", "choice", "topk", "dct"];

/// Decode an input of a fuzzer; whether it was taken for good.
pub fn decode(target: &str, input: &[u8]) -> bool {
    thread_local!(static HONEST: RefCell<HashMap<String, Rc<[Honest; 2]>>> = RefCell::default());
    if matches!(target, "topk" | "dct") {
        return group(target == "dct", input);
    }
    let Some((how, data)) = input.split_first() else { return false };
    let made = || Rc::new(codecs(target).map(Honest::new));
    let both = HONEST.with_borrow_mut(|all| Rc::clone(all.entry(target.into()).or_insert_with(made)));
    let honest = &both[usize::from(how / 2 % 2)];
    if how % 2 == 0 { honest.open(data) } else { honest.open(&honest.forge(data)) }
}

fn codecs(target: &str) -> [Codec; 2] {
    let codec = |name, values, k: Option<u64>| Codec {
        name,
        compression: if name == CodecName::Slice { 4 } else { 1 },
        values,
        k,
        decay: k.map(|_| 0.9),
    };
    match target.parse() {
        Ok(name @ (CodecName::Slice | CodecName::Dense)) => {
            [codec(name, Quantization::Bf16, None), codec(name, Quantization::F32, None)]
        }
        _ => [CodecName::Topk, CodecName::Dct].map(|name| codec(name, Quantization::Q4, Some(9))),
    }
}

/// Inputs to begin with, all of them good, put where a fuzzer looks for what it kept.
#[allow(dead_code)]
pub fn begin(target: &str) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&corpus).unwrap();
    for (place, seed) in seeds(target).into_iter().enumerate() {
        let path = corpus.join(format!("seed-{place}"));
        if !path.exists() {
            std::fs::write(path, seed).unwrap();
        }
    }
}

/// Inputs that are good.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let honest = codecs(target).map(Honest::new);
    if matches!(target, "topk" | "dct") {
        // A first part alone: the embedding, 70 by 8, nine values of four bits a tile.
        let honest = &honest[usize::from(target == "dct")];
        let data = &honest.bytes[honest.data..];
        let (length, _) = data.split_first_chunk::<4>().unwrap();
        let parts = honest.layout.parts().len() * 4;
        let bits = &data[parts..parts + u32::from_le_bytes(*length) as usize];
        return vec![[&[8, 0, 2, 70, 7, 0], bits].concat()];
    }
    let whole = honest.iter().zip([0u8, 2]).map(|(honest, how)| [&[how], &honest.bytes[..]].concat());
    whole.chain([vec![1], vec![3]]).collect()
}
