//! Delta files from end to end: what is honest passes to the bit, and every forgery is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use record::{Hash, Hotkey, Uid, Window};
use run::{
    Hparams,
    hparams::{Aggregate, Codec, CodecName, Model, Outer, OuterOptimizer},
};
use safetensors::{Dtype, tensor::TensorView};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
use wire::{
    Layout, Precision, TILE,
    codec::{self, Content, Left, Payload},
    commit::{self, Binding, Domain},
    delta::{self, Delta, Expected, Meta},
    outer::{self, Entry, Values},
    similarity, state,
    tensors::Update,
    tree::Tree,
};

fn model() -> Model {
    Model {
        vocab_size: 100,
        hidden_size: 96,
        intermediate_size: 200,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        tie_word_embeddings: false,
        initializer_range: 0.02,
        ..Model::default()
    }
}

fn topk(k: u64, values: &str) -> Codec {
    Codec { name: CodecName::Topk, compression: 1, values: values.parse().unwrap(), k: Some(k), decay: Some(0.9) }
}

fn dct(k: u64, values: &str) -> Codec {
    Codec { name: CodecName::Dct, ..topk(k, values) }
}

fn codec(name: &str, values: &str) -> Codec {
    Codec {
        name: name.parse().unwrap(),
        compression: if name == "dense" { 1 } else { 4 },
        values: values.parse().unwrap(),
        k: None,
        decay: None,
    }
}

fn pair(seed: u8) -> Keypair {
    MiniSecretKey::from_bytes(&[seed; 32]).unwrap().expand_to_keypair(ExpansionMode::Ed25519)
}

/// The only key of a delta's metadata.
const KEY: &str = "boltzmann";

/// One miner's update and what it is bound to.
struct Case {
    folder: tempfile::TempDir,
    layout: Layout,
    codec: Codec,
    pair: Keypair,
    binding: Binding,
    expected: Expected,
}

/// A generator that needs no crate: enough to fill tensors.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}

fn write_update(path: &Path, layout: &Layout, mut value: impl FnMut() -> f32) {
    let data: Vec<Vec<u8>> =
        layout.tensors.iter().map(|t| (0..t.numel()).flat_map(|_| value().to_le_bytes()).collect()).collect();
    let views = layout
        .tensors
        .iter()
        .zip(&data)
        .map(|(t, d)| (&t.name, TensorView::new(Dtype::F32, t.shape.clone(), d).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

impl Case {
    fn new(seed: u8, codec: Codec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&model());
        write_update(&folder.path().join("update"), &layout, noise(seed.into()));
        let pair = pair(seed);
        let update = Update::open(&folder.path().join("update"), &layout).unwrap();
        let binding = Binding {
            run: Hash([1; 32]),
            window: Window(7),
            hotkey: Hotkey(pair.public.to_bytes()),
            base: Hash([2; 32]),
            pages: Hash([3; 32]),
            // Of a choice it is that of its payload, below.
            root: if codec.is_sparse() {
                Hash([0; 32])
            } else {
                Content::Tiles(&update).root(&layout, &codec).unwrap()
            },
        };
        let expected = Expected {
            run: binding.run,
            window: binding.window,
            uid: Uid(5),
            hotkey: binding.hotkey,
            base: binding.base,
            codec: codec.clone(),
            commitment: Some(binding.commitment(&codec)),
            reveal: Hash([4; 32]),
        };
        let mut case = Case { folder, layout, codec, pair, binding, expected };
        if let Some(payload) = case.payload() {
            case.binding.root = payload.root();
            case.expected.commitment = Some(case.binding.commitment(&case.codec));
        }
        case
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("delta.safetensors")
    }

    fn update(&self) -> Update {
        Update::open(&self.folder.path().join("update"), &self.layout).unwrap()
    }

    fn make(&self) -> PathBuf {
        let sign = |message: &[u8]| self.pair.sign_simple(b"substrate", message).to_bytes();
        let how = (Uid(5), &self.codec, self.expected.reveal);
        let (update, payload) = (self.update(), self.payload());
        let content = payload.as_ref().map_or(Content::Tiles(&update), Content::Sparse);
        delta::make(&self.path(), content, &self.layout, &self.binding, how, sign).unwrap();
        self.path()
    }

    /// What is sent: with an update of another window as what was left.
    fn payload(&self) -> Option<Payload> {
        let left = self.folder.path().join("left");
        write_update(&left, &self.layout, noise(99));
        let left = Update::open(&left, &self.layout).unwrap();
        let sparse = self.codec.is_sparse();
        let mut kept = Left::begin(&self.folder.path().join("kept"), &self.layout, self.binding.run).unwrap();
        let keep = |values: &[f32]| kept.push(values);
        let made = sparse.then(|| codec::choose(&self.update(), Some(&left), &self.layout, &self.codec, keep).unwrap());
        if made.is_some() {
            kept.finish().unwrap();
        }
        made
    }

    fn open(&self) -> Result<Delta, String> {
        Delta::open(&self.path(), &self.layout, &self.expected).map_err(|e| e.error)
    }

    /// Write the file anew with other parts, properly hashed and signed by its owner: what a cheat would do.
    fn forge(&self, change: impl FnOnce(&mut Meta, &mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) {
        let bytes = std::fs::read(self.make()).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut parts: HashMap<_, _> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let mut meta: Meta = serde_json::from_str(&header.metadata().as_ref().unwrap()[KEY]).unwrap();
        change(&mut meta, &mut parts);
        let views = || parts.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
        let data = safetensors::serialize(views(), None).unwrap();
        let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
        let metadata = HashMap::from([(KEY.to_string(), self.signed(meta, &data[8 + length..]))]);
        std::fs::write(self.path(), safetensors::serialize(views(), Some(metadata)).unwrap()).unwrap();
    }

    /// The metadata of other data, signed by its owner, as JSON.
    fn signed(&self, meta: Meta, data: &[u8]) -> String {
        let mut meta = Meta { data: blake3::hash(data).into(), signature: None, ..meta };
        let message = commit::signed_bytes(Domain::Delta, &meta).unwrap();
        meta.signature = Some(hex::encode(self.pair.sign_simple(b"substrate", &message).to_bytes()));
        serde_json_canonicalizer::to_string(&meta).unwrap()
    }

    /// Write the file anew with another header: of the same length or not, and as it stands.
    fn write_with(&self, header: &str, data: &[u8]) {
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(self.path(), [&length[..], header.as_bytes(), data].concat()).unwrap();
    }

    fn refused(&self, words: &str) {
        match self.open() {
            Ok(_) => panic!("it was believed; expected: {words}"),
            Err(error) => assert!(error.contains(words), "{error:?} does not say {words:?}"),
        }
    }
}

#[test]
fn an_honest_delta_passes_and_carries_the_updates_own_values() {
    let all =
        [("slice", "f32"), ("slice", "bf16"), ("slice", "f16"), ("dense", "f32"), ("dense", "bf16"), ("dense", "f16")];
    for (name, values) in all {
        let case = Case::new(9, codec(name, values));
        let first = std::fs::read(case.make()).unwrap();
        let delta = case.open().unwrap();
        assert!(first.len() as u64 <= delta::size_cap(&case.layout, &case.codec), "{name} {values}");
        let (update, mut own, mut seen) = (case.update(), [0f32; TILE], Vec::new());
        let tensors = update.tensors(&case.layout).unwrap();
        for chunk in 0..delta.chunks() {
            delta.visit(chunk, |tile, sent| {
                let which = case.layout.tensor_of(tile);
                case.layout.tensors[which].gather(tile, tensors[which], &mut own);
                match values {
                    "bf16" => own.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32()),
                    "f16" => own.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
                    _ => {}
                }
                assert_eq!(*sent, own, "{name} {values} tile {tile}");
                seen.push(tile);
            });
        }
        assert_eq!(seen, delta.tiles);
        assert_eq!(delta.tiles.len(), case.layout.revealed_count(case.codec.compression));
        let measured = similarity::measure(&delta, &update, &case.layout).unwrap();
        assert!(measured.cosine().unwrap() > 0.9999, "{name} {values}");
        assert!((measured.norm - delta.norm()).abs() < 1e-9 * measured.norm);
    }
}

#[test]
fn a_choice_carries_what_it_says_and_leaves_the_rest() {
    let plain = [(64, "sign"), (1, "sign"), (1024, "q2"), (7, "q4"), (100, "q8"), (64, "f16"), (300, "f32")];
    let transformed = [dct(64, "sign"), dct(1024, "q4"), dct(300, "f32")];
    for codec in plain.map(|(k, values)| topk(k, values)).into_iter().chain(transformed) {
        let (k, values, exact) = (codec.k.unwrap(), codec.values, codec.name == CodecName::Topk);
        let case = Case::new(9, codec);
        let first = std::fs::read(case.make()).unwrap();
        assert!(first.len() as u64 <= delta::size_cap(&case.layout, &case.codec), "{k} {values}");
        assert_eq!(std::fs::read(case.make()).unwrap().len(), first.len());
        let delta = case.open().unwrap();
        // What is left is kept, and is what the next window begins with.
        let kept = case.folder.path().join("kept");
        assert!(Left::open(&kept, &case.layout, Hash([8; 32])).err().unwrap().error.contains("was left by run"));
        let kept = Left::open(&kept, &case.layout, case.binding.run).unwrap();
        let kept = kept.tensors(&case.layout).unwrap();
        let left = case.folder.path().join("left");
        let (update, before) = (case.update(), Update::open(&left, &case.layout).unwrap());
        let (update, before) = (update.tensors(&case.layout).unwrap(), before.tensors(&case.layout).unwrap());
        let (mut seen, mut sent_values) = (0, 0);
        for chunk in 0..delta.chunks() {
            delta.visit(chunk, |tile, sent| {
                let which = case.layout.tensor_of(tile);
                let tensor = &case.layout.tensors[which];
                let (mut own, mut old, mut rest) = ([0f32; TILE], [0f32; TILE], [0f32; TILE]);
                tensor.gather(tile, update[which], &mut own);
                tensor.gather(tile, before[which], &mut old);
                tensor.gather(tile, kept[which], &mut rest);
                for at in 0..TILE {
                    let all = 0.9f32 * old[at] + own[at];
                    let off = (rest[at] - (all - sent[at])).abs();
                    let inside = rest[at] != 0.0 || all != 0.0;
                    assert!(if exact { off == 0.0 } else { off < 1e-5 || !inside }, "{k} {values} tile {tile}: {off}");
                }
                sent_values += sent.iter().filter(|v| **v != 0.0).count();
                seen += 1;
            });
        }
        assert_eq!(seen, case.layout.tiles);
        let most =
            (0..case.layout.tiles).map(|t| case.layout.tensors[case.layout.tensor_of(t)].tile_numel(t).min(k as usize));
        assert!(sent_values > 0 && (!exact || sent_values <= most.sum::<usize>()), "{sent_values}");
    }
}

#[test]
fn a_forged_choice_is_refused() {
    let case = Case::new(9, topk(64, "sign"));
    case.forge(|_, parts| parts.get_mut("payload").unwrap().2[100] ^= 1);
    case.refused("not what was committed to");
    case.forge(|meta, _| meta.root = Hash([9; 32]));
    case.refused("not what was committed to");
    case.forge(|_, parts| {
        parts.insert("more".into(), (Dtype::U8, vec![1], vec![0]));
    });
    case.refused("3 tensors, expected 2");
    // Who has committed to nonsense: every part of it is looked at.
    let nonsense = |change: &dyn Fn(&mut Vec<u8>, &mut Vec<u8>)| {
        let mut case = Case::new(9, topk(64, "sign"));
        let mut root = Hash([0; 32]);
        let edit = |parts: &mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>| {
            let mut lengths = parts["lengths"].2.clone();
            let (_, shape, bytes) = parts.get_mut("payload").unwrap();
            change(&mut lengths, bytes);
            shape[0] = bytes.len();
            let root = blake3::hash(&[&lengths[..], bytes].concat());
            parts.get_mut("lengths").unwrap().2 = lengths;
            Hash::from(root)
        };
        case.forge(|meta, parts| {
            root = edit(parts);
            meta.root = root;
        });
        case.binding.root = root;
        case.expected.commitment = Some(case.binding.commitment(&case.codec));
        case.open().err().unwrap()
    };
    assert!(nonsense(&|lengths, _| lengths[0] ^= 1).contains("lengths add up to"));
    assert!(nonsense(&|lengths, _| lengths[3] = 255).contains("lengths add up to"));
    assert!(nonsense(&|_, bytes| bytes.push(0)).contains("lengths add up to"));
    assert!(nonsense(&|_, bytes| bytes.fill(0)).contains("are not what the codec sends"));
    assert!(nonsense(&|_, bytes| bytes.fill(0xff)).contains("are not what the codec sends"));
    assert!(nonsense(&|lengths, _| lengths.rotate_left(4)).contains("are not what the codec sends"));
    assert!(
        nonsense(&|lengths, bytes| {
            lengths[0] += 1;
            let at = u32::from_le_bytes(lengths[..4].try_into().unwrap()) as usize - 1;
            bytes.insert(at, 0);
        })
        .contains("are not what the codec sends")
    );
}

#[test]
fn what_is_of_another_is_named() {
    let good = Case::new(9, codec("slice", "f32"));
    good.make();
    type Change = fn(&mut Expected);
    let changes: [(&str, Change); 8] = [
        ("run", |e| e.run = Hash([9; 32])),
        ("window", |e| e.window = Window(8)),
        ("uid", |e| e.uid = Uid(6)),
        ("hotkey", |e| e.hotkey = Hotkey([9; 32])),
        ("base", |e| e.base = Hash([9; 32])),
        ("codec", |e| e.codec.compression = 3),
        ("not what was committed to", |e| e.commitment = Some(Hash([9; 32]))),
        ("proof", |e| e.reveal = Hash([9; 32])),
    ];
    for (words, change) in changes {
        let mut expected = good.expected.clone();
        change(&mut expected);
        let error = Delta::open(&good.path(), &good.layout, &expected).err().unwrap().error;
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn forgeries_that_are_signed_by_their_maker_are_refused() {
    let case = Case::new(9, codec("slice", "f32"));
    case.forge(|_, parts| parts.get_mut("tiles").unwrap().2[100] ^= 1);
    case.refused("proof");
    case.forge(|_, parts| parts.get_mut("tiles").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    case.refused("not finite");
    case.forge(|_, parts| parts.get_mut("tiles").unwrap().2[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()));
    case.refused("not finite");
    case.forge(|_, parts| parts.get_mut("proof").unwrap().2[0] ^= 1);
    case.refused("proof");
    case.forge(|_, parts| {
        let (_, shape, bytes) = parts.get_mut("tiles").unwrap();
        shape[0] -= 1;
        bytes.truncate(shape[0] * TILE * 4);
    });
    case.refused("tensor tiles is F32");
    case.forge(|_, parts| {
        parts.insert("more".into(), (Dtype::U8, vec![1], vec![0]));
    });
    case.refused("3 tensors, expected 2");
    case.forge(|meta, _| meta.root = Hash([9; 32]));
    case.refused("not what was committed to");
    case.forge(|meta, _| meta.v = 2);
    case.refused("format version");
    case.forge(|_, parts| {
        parts.insert("more".into(), (Dtype::U8, vec![1 << 20], vec![0; 1 << 20]));
    });
    case.refused("at most");
}

/// A header and spaces up to the next multiple of 8.
fn padded(header: &str) -> String {
    let width = header.len().next_multiple_of(8);
    format!("{header:width$}")
}

#[test]
fn every_other_form_of_a_delta_is_refused_by_name() {
    for codec in [codec("slice", "bf16"), codec("dense", "f32"), topk(64, "sign"), dct(64, "q4")] {
        let case = Case::new(9, codec);
        let good = std::fs::read(case.make()).unwrap();
        let length = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        let (header, data) = (std::str::from_utf8(&good[8..length]).unwrap(), &good[length..]);
        let text = header.trim_end();
        case.write_with(header, data);
        assert!(case.open().is_ok(), "{header}");
        let last = &text[text.rfind("},\"").unwrap() + 2..text.len() - 1];
        let key = format!("{{\"{KEY}\":\"");
        let signature = &text[text.find("signature").unwrap() + 14..][..128];
        let root = case.binding.root.to_string();
        let unpadded = format!("{text}{}", " ".repeat(text.len().next_multiple_of(8) + 8 - text.len()));
        let twice = "stands there twice";
        let only = "is not in its only form";
        for (other, words) in [
            (padded(&format!("{},{last}}}", &text[..text.len() - 1])), twice),
            (padded(&text.replacen(&key, &format!("{key}\",\"{KEY}\":\""), 1)), twice),
            (padded(&text.replacen(&key, &format!("{{\"more\":\"\",\"{KEY}\":\""), 1)), "has 2 keys"),
            (padded(&text.replacen(&key, "{\"boltzman\":\"", 1)), "exactly the key `boltzmann`"),
            (header.replace(' ', "\t") + "\t\t\t\t\t\t\t\t", "something else than spaces"),
            (unpadded, "padded by"),
            (padded(&format!(" {text}")), "does not begin with {"),
            (padded(&text.replacen(":{\"dtype", ": {\"dtype", 1)), only),
            (padded(&text.replacen("[0,", "[ 0,", 1)), only),
            (padded(&text.replacen(KEY, "\\u0062oltzmann", 1)), only),
            (padded(&text.replacen(signature, &signature.to_uppercase(), 1)), "lower case"),
            (padded(&text.replacen(&root, &root.to_uppercase(), 1)), "not canonical JSON"),
            (padded(&text.replacen(&root, &format!("0x{root}"), 1)), "not canonical JSON"),
        ] {
            assert_ne!(other, header);
            case.write_with(&other, data);
            case.refused(words);
        }
    }
}

#[test]
fn what_lies_in_another_order_is_refused() {
    let case = Case::new(9, codec("slice", "f32"));
    let (mapped, meta) = delta::read_meta(&case.make()).unwrap();
    let (tiles, proof) = (mapped.shape("tiles").unwrap()[0], mapped.shape("proof").unwrap()[0]);
    let data = mapped.data().to_vec();
    let (first, second) = data.split_at(tiles * TILE * 4);
    let swapped = [second, first].concat();
    let header = |meta: String, tiles_at: usize, proof_at: usize| {
        let meta = serde_json::to_string(&meta).unwrap();
        let ends = (tiles_at + first.len(), proof_at + second.len());
        let tiles = format!(
            "\"tiles\":{{\"dtype\":\"F32\",\"shape\":[{tiles},4096],\"data_offsets\":[{tiles_at},{}]}}",
            ends.0
        );
        let proof =
            format!("\"proof\":{{\"dtype\":\"U8\",\"shape\":[{proof}],\"data_offsets\":[{proof_at},{}]}}", ends.1);
        let (a, b) = if tiles_at < proof_at { (tiles, proof) } else { (proof, tiles) };
        padded(&format!("{{\"__metadata__\":{{\"{KEY}\":{meta}}},{a},{b}}}"))
    };
    case.write_with(&header(case.signed(meta.clone(), &data), 0, first.len()), &data);
    assert!(case.open().is_ok());
    case.write_with(&header(case.signed(meta, &swapped), second.len(), 0), &swapped);
    case.refused("tensor proof lies before tiles");
}

#[test]
fn the_padding_of_a_tile_is_zero_or_it_is_refused_though_it_was_committed_to() {
    for padding in [1.0f32, -0.0] {
        let mut case = Case::new(9, codec("slice", "f32"));
        case.make();
        let revealed = case.open().unwrap().tiles;
        let edge = |tile: &usize| case.layout.tensors[case.layout.tensor_of(*tile)].tile_numel(*tile) < TILE;
        let place = revealed.iter().position(edge).unwrap();
        let (update, layout) = (case.update(), &case.layout);
        let tensors = update.tensors(layout).unwrap();
        let tree = Tree::build(layout.tiles, |index, tile| {
            let which = layout.tensor_of(index);
            layout.tensors[which].gather(index, tensors[which], tile);
            if index == revealed[place] {
                tile[TILE - 1] = padding;
            }
            Ok(())
        })
        .unwrap();
        case.forge(|meta, parts| {
            meta.root = tree.root;
            parts.get_mut("proof").unwrap().2 = tree.proof(&revealed);
            let end = (place + 1) * TILE * 4;
            parts.get_mut("tiles").unwrap().2[end - 4..end].copy_from_slice(&padding.to_le_bytes());
        });
        case.binding.root = tree.root;
        case.expected.commitment = Some(case.binding.commitment(&case.codec));
        case.refused("is not zero beyond it");
    }
}

#[test]
fn files_that_are_damaged_are_refused() {
    let case = Case::new(9, codec("slice", "bf16"));
    let good = std::fs::read(case.make()).unwrap();
    let with = |bytes: &[u8]| std::fs::write(case.path(), bytes).unwrap();
    for length in [0, 7, 8, 100, good.len() / 2, good.len() - 1] {
        with(&good[..length]);
        assert!(case.open().is_err(), "cut to {length}");
    }
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&10_000_000_000u64.to_le_bytes());
    with(&huge);
    case.refused("claims a header of 10000000000");
    // One bit anywhere, header and data, is found.
    let mut dice = noise(3);
    for _ in 0..200 {
        let mut bytes = good.clone();
        let at = ((dice() + 0.5) * (good.len() - 1) as f32) as usize;
        bytes[at] ^= 1 << ((dice() + 0.5) * 7.0) as u8;
        with(&bytes);
        assert!(case.open().is_err(), "bit flipped at {at}");
    }
    let text = String::from_utf8_lossy(&good).into_owned();
    let at = text.find("signature").unwrap();
    let mut other = good.clone();
    let digit = &mut other[at + 16];
    *digit = if *digit == b'0' { b'1' } else { b'0' };
    with(&other);
    case.refused("signature");
}

#[test]
fn an_update_that_is_not_finite_is_not_committed_to() {
    let case = Case::new(9, codec("slice", "f32"));
    let mut value = noise(1);
    let mut count = 0;
    write_update(&case.folder.path().join("bad"), &case.layout, || {
        count += 1;
        if count == 777 { f32::NAN } else { value() }
    });
    let bad = Update::open(&case.folder.path().join("bad"), &case.layout).unwrap();
    assert!(Tree::of_update(&bad, &case.layout, Precision::F32).err().unwrap().error.contains("not finite in lm_head"));
}

fn outer_of(optimizer: &str) -> Outer {
    Outer {
        optimizer: optimizer.parse().unwrap(),
        lr: 0.3,
        momentum: 0.9,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        lr_final: 0.3,
        lr_windows: 0,
        aggregate: None,
        trim: None,
        radius: None,
    }
}

/// Two windows of two deltas, in f32 by the library on `threads` threads.
fn run_outer(optimizer: &str, threads: usize, deltas: &[Case]) -> Values {
    let layout = Layout::new(&model());
    let outer = outer_of(optimizer);
    let mut model: Vec<Vec<f32>> = Vec::new();
    let mut value = noise(77);
    for tensor in &layout.tensors {
        model.push((0..tensor.numel()).map(|_| value()).collect());
    }
    let mut values = Values::fresh(model, &layout, &outer);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let opened: Vec<Delta> = deltas.iter().map(|c| c.open().unwrap()).collect();
    let entries: Vec<Entry<'_>> =
        opened.iter().zip([60000u16, 30000]).map(|(delta, weight)| Entry { delta, weight, scale: 0.5 }).collect();
    for _ in 0..2 {
        pool.install(|| outer::apply(&mut values, &layout, &outer, 0.3, &entries).unwrap());
    }
    values
}

#[test]
fn the_outer_step_is_the_same_on_any_number_of_threads_and_right_in_float64() {
    let deltas = [Case::new(1, codec("slice", "f32")), Case::new(2, codec("slice", "f32"))];
    deltas.iter().for_each(|c| drop(c.make()));
    let chosen = [Case::new(1, topk(64, "sign")), Case::new(2, topk(64, "sign"))];
    chosen.iter().for_each(|c| drop(c.make()));
    let waves = [Case::new(1, dct(64, "sign")), Case::new(2, dct(64, "sign"))];
    waves.iter().for_each(|c| drop(c.make()));
    let layout = Layout::new(&model());
    for optimizer in ["sgd", "nesterov", "adamw"] {
        assert_eq!(run_outer(optimizer, 1, &chosen), run_outer(optimizer, 5, &chosen), "{optimizer}, topk");
        assert_eq!(run_outer(optimizer, 1, &waves), run_outer(optimizer, 5, &waves), "{optimizer}, dct");
        let one = run_outer(optimizer, 1, &deltas);
        for threads in [2, 5] {
            assert_eq!(one, run_outer(optimizer, threads, &deltas), "{optimizer} on {threads} threads");
        }
        // The same, value by value, in float64.
        let outer = outer_of(optimizer);
        let tensors: Vec<_> = deltas.iter().map(|c| c.update()).collect();
        let revealed = deltas[0].open().unwrap().tiles;
        let mut value = noise(77);
        for (which, tensor) in layout.tensors.iter().enumerate() {
            let start: Vec<f32> = (0..tensor.numel()).map(|_| value()).collect();
            let bytes: Vec<&[u8]> = tensors.iter().map(|u| u.tensors(&layout).unwrap()[which]).collect();
            let mut mask = vec![0f32; tensor.numel()];
            for tile in revealed.iter().filter(|t| layout.tensor_of(**t) == which) {
                tensor.scatter(*tile, &[1f32; TILE], &mut mask);
            }
            for at in 0..tensor.numel() {
                let part = |b: &[u8]| f64::from(f32::from_le_bytes(b[at * 4..at * 4 + 4].try_into().unwrap()));
                let gradient = (60000.0 * 0.5 * part(bytes[0]) + 30000.0 * 0.5 * part(bytes[1])) / 90000.0;
                let (mut p, mut m, mut v) = (f64::from(start[at]), 0.0, 0.0);
                for t in 1..=2 {
                    if mask[at] == 0.0 {
                        continue;
                    }
                    match optimizer {
                        "sgd" => p -= 0.3 * gradient,
                        "nesterov" => {
                            m = outer.momentum * m + gradient;
                            p -= 0.3 * (gradient + outer.momentum * m);
                        }
                        _ => {
                            m = 0.9 * m + 0.1 * gradient;
                            v = 0.95 * v + 0.05 * gradient * gradient;
                            let (mh, vh) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.95f64.powi(t)));
                            let decay = if tensor.is_matrix() { outer.weight_decay } else { 0.0 };
                            p -= 0.3 * (decay * p + mh / (vh.sqrt() + 1e-8));
                        }
                    }
                }
                let got = f64::from(one.model[which][at]);
                assert!((got - p).abs() < 2e-5, "{optimizer} {} [{at}]: {got} {p}", tensor.name);
            }
        }
    }
}

#[test]
fn a_million_times_an_update_that_gets_in_is_named_when_it_breaks_the_state() {
    let case = Case::new(1, codec("slice", "f32"));
    write_update(&case.folder.path().join("update"), &case.layout, || 3e38);
    let huge = Case {
        binding: Binding {
            root: Tree::of_update(&case.update(), &case.layout, Precision::F32).unwrap().root,
            ..case.binding
        },
        ..case
    };
    let huge = Case {
        expected: Expected { commitment: Some(huge.binding.commitment(&huge.codec)), ..huge.expected.clone() },
        ..huge
    };
    huge.make();
    let delta = huge.open().unwrap();
    let mut values = Values::fresh(
        huge.layout.tensors.iter().map(|t| vec![0.0; t.numel()]).collect(),
        &huge.layout,
        &outer_of("sgd"),
    );
    let entry = [Entry { delta: &delta, weight: 1, scale: 1.0 }];
    let error = outer::apply(&mut values, &huge.layout, &outer_of("sgd"), 1e6, &entry).err().unwrap().error;
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn the_first_state_comes_from_the_seed_and_survives_its_files() {
    let hparams = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams/demo.json");
    let mut hparams = Hparams::load(&hparams).unwrap();
    hparams.model = model();
    for optimizer in OuterOptimizer::ALL.iter().copied() {
        hparams.outer.optimizer = optimizer;
        let layout = Layout::new(&hparams.model);
        let values = Values::fresh(state::first(&hparams, &layout), &layout, &hparams.outer);
        let again = Values::fresh(state::first(&hparams, &layout), &layout, &hparams.outer);
        assert_eq!(values, again);
        let all: Vec<f64> = values.model.iter().flatten().map(|v| f64::from(*v)).filter(|v| *v != 1.0).collect();
        let (n, mean) = (all.len() as f64, all.iter().sum::<f64>() / all.len() as f64);
        let deviation = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!(mean.abs() < 3e-4 && (deviation - 0.02).abs() < 2e-4, "{mean} {deviation}");
        let run = Hash([1; 32]);
        let record = record::records::State {
            window: Window(3),
            run,
            root: state::root(&layout, &values, run, Window(3)),
            prev: None,
            prev_window: None,
            path: None,
            accepted: vec![],
            reveal: None,
            by: None,
            signature: None,
        };
        assert_ne!(record.root, state::root(&layout, &values, run, Window(4)));
        let folder = tempfile::tempdir().unwrap();
        state::save(folder.path(), &hparams, &layout, &values, &record, None).unwrap();
        let (back, loaded) = state::load_checked(folder.path(), &hparams, &layout, run).unwrap();
        assert_eq!((back.root, loaded), (record.root, values));
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = state::load_checked(folder.path(), &hparams, &layout, run).err().unwrap();
        assert!(error.error.contains("its record says"), "{error}");
    }
}

/// A state of zeros after one step at a rate of 1.
fn applied(outer: &Outer, layout: &Layout, entries: &[Entry<'_>], threads: usize) -> Values {
    let zeros = layout.tensors.iter().map(|t| vec![0f32; t.numel()]).collect();
    let mut values = Values::fresh(zeros, layout, outer);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| outer::apply(&mut values, layout, outer, 1.0, entries).unwrap());
    values
}

#[test]
fn a_median_is_that_of_the_values_in_float64_and_no_million_moves_it() {
    let mut cases: Vec<Case> = (1..=4).map(|seed| Case::new(seed, codec("dense", "f32"))).collect();
    let mut loud = Case::new(5, codec("dense", "f32"));
    let mut value = noise(5);
    write_update(&loud.folder.path().join("update"), &loud.layout, || 1e6 * value());
    loud.binding.root = Content::Tiles(&loud.update()).root(&loud.layout, &loud.codec).unwrap();
    loud.expected.commitment = Some(loud.binding.commitment(&loud.codec));
    cases.push(loud);
    cases.iter().for_each(|case| drop(case.make()));
    let layout = Layout::new(&model());
    let opened: Vec<Delta> = cases.iter().map(|case| case.open().unwrap()).collect();
    let entries: Vec<Entry<'_>> = opened.iter().map(|delta| Entry { delta, weight: 1000, scale: 1.0 }).collect();
    let updates: Vec<_> = cases.iter().map(|case| case.update()).collect();
    for (aggregate, trim) in [(Aggregate::Median, None), (Aggregate::Trimmed, Some(0.25))] {
        let outer = Outer { aggregate: Some(aggregate), trim, ..outer_of("sgd") };
        let run = |threads| applied(&outer, &layout, &entries, threads);
        let values = run(1);
        assert_eq!(values, run(5));
        for (which, tensor) in layout.tensors.iter().enumerate() {
            for at in 0..tensor.numel() {
                let mut all: Vec<f64> = updates
                    .iter()
                    .map(|u| u.tensors(&layout).unwrap()[which])
                    .map(|b| f64::from(f32::from_le_bytes(b[at * 4..at * 4 + 4].try_into().unwrap())))
                    .collect();
                all.sort_by(f64::total_cmp);
                let exact = if aggregate == Aggregate::Median { all[2] } else { (all[1] + all[2] + all[3]) / 3.0 };
                assert!(
                    (f64::from(values.model[which][at]) + exact).abs() < 1e-6 * exact.abs().max(1.0),
                    "{aggregate}"
                );
            }
        }
    }
}

#[test]
fn a_centre_is_that_of_float64_and_what_is_far_off_does_not_draw_it() {
    for codec in [codec("dense", "f32"), topk(64, "q8"), dct(64, "q8")] {
        let mut cases: Vec<Case> = (1..=5).map(|seed| Case::new(seed, codec.clone())).collect();
        write_update(&cases[4].folder.path().join("update"), &cases[4].layout, {
            let mut value = noise(5);
            move || 1e4 * value()
        });
        let loud = &mut cases[4];
        let root = match loud.payload() {
            Some(payload) => payload.root(),
            None => Content::Tiles(&loud.update()).root(&loud.layout, &loud.codec).unwrap(),
        };
        loud.binding.root = root;
        loud.expected.commitment = Some(loud.binding.commitment(&loud.codec));
        cases.iter().for_each(|case| drop(case.make()));
        let layout = Layout::new(&model());
        let opened: Vec<Delta> = cases.iter().map(|case| case.open().unwrap()).collect();
        let how = [(1000u16, 1.0f32), (2000, 0.5), (1000, 1.0), (1000, 1.0), (3000, 1.0)];
        let entries: Vec<Entry<'_>> =
            opened.iter().zip(how).map(|(delta, (weight, scale))| Entry { delta, weight, scale }).collect();
        let outer = Outer { aggregate: Some(Aggregate::Centred), radius: Some(1.0), ..outer_of("sgd") };
        let run = |threads| applied(&outer, &layout, &entries, threads);
        let values = run(1);
        assert_eq!(values, run(5));
        // The same on all that was sent, in float64.
        let sent = opened.iter().zip(how).map(|(delta, (_, scale))| {
            let mut all = Vec::<f32>::new();
            (0..delta.chunks()).for_each(|chunk| delta.visit_sent(chunk, |_, tile| all.extend(tile)));
            all.iter().map(|value| f64::from(scale) * f64::from(*value)).collect()
        });
        let sent: Vec<Vec<f64>> = sent.collect();
        let mut shares = [0f64; 5];
        for _ in 0..3 {
            let mut middle = vec![0f64; sent[0].len()];
            for (x, share) in sent.iter().zip(shares) {
                middle.iter_mut().zip(x).for_each(|(middle, x)| *middle += share * x);
            }
            let far: Vec<f64> = sent
                .iter()
                .map(|x| x.iter().zip(&middle).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt())
                .collect();
            let mut sorted = far.clone();
            sorted.sort_by(f64::total_cmp);
            let drawn: Vec<f64> = far
                .iter()
                .zip(how)
                .map(|(far, (weight, _))| f64::from(weight) / 8000.0 * (sorted[2] / far).min(1.0))
                .collect();
            let kept = 1.0 - drawn.iter().sum::<f64>();
            shares.iter_mut().zip(drawn).for_each(|(share, drawn)| *share = kept * *share + drawn);
        }
        let mut centre = vec![0f64; layout.numel()];
        for ((delta, share), (_, scale)) in opened.iter().zip(shares).zip(how) {
            let own = share * f64::from(scale);
            centre.iter_mut().zip(delta.whole().concat()).for_each(|(sum, value)| *sum += own * f64::from(value));
        }
        let largest = centre.iter().fold(0f64, |a, b| a.max(b.abs()));
        for (got, exact) in values.model.concat().iter().zip(&centre) {
            assert!((f64::from(*got) + exact).abs() < 1e-5 * largest, "{}: {got} {exact}", codec.name);
        }
        assert!(largest < 2.0, "{}: the loud one is in it, {largest}", codec.name);
    }
}

#[test]
fn one_value_that_is_surely_right_is_not_the_work_of_all() {
    let once = Codec { decay: Some(0.0), ..topk(64, "sign") };
    let honest = Case::new(9, once.clone());
    let mut lazy = Case::new(9, once);
    let mut at = 0;
    let mut value = noise(9);
    write_update(&lazy.folder.path().join("update"), &lazy.layout, || {
        at += 1;
        let value = value();
        if at == 5 { value } else { 0.0 }
    });
    lazy.binding.root = lazy.payload().unwrap().root();
    lazy.expected.commitment = Some(lazy.binding.commitment(&lazy.codec));
    honest.make();
    lazy.make();
    let cosine = |case: &Case| {
        similarity::measure(&case.open().unwrap(), &honest.update(), &honest.layout).unwrap().cosine().unwrap()
    };
    assert!(cosine(&honest) > 0.9 && cosine(&lazy) < 0.1, "{} {}", cosine(&honest), cosine(&lazy));
}

#[test]
fn what_a_run_is_checked_with_is_the_cap_of_a_delta() {
    for name in ["demo", "tiny", "124m", "350m", "boltzmann", "bistro"] {
        let path = format!("{}/../../../pipelines/hparams/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let hparams: run::Hparams = record::files::read_json(std::path::Path::new(&path)).unwrap();
        let reckoned = run::feasible::delta_bytes(&hparams.model, &hparams.codec);
        assert_eq!(delta::size_cap(&Layout::new(&hparams.model), &hparams.codec), reckoned, "{name}");
    }
}
