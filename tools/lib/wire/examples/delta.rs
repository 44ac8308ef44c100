//! For tests/decode.py: `delta FOLDER` makes deltas of a small model there by every codec, signed by a key of its own,
//! and beside each what it decodes to, as plain f32 in the order of the tensors' names; `shapes.json` has their shapes.
//! In `steps/NAME` there is a short run for each way from deltas to a state: `hparams.json`, `states/WINDOW`, and
//! `deltas/BLAKE3.safetensors`.
#![allow(clippy::unwrap_used, clippy::panic)]

use protocol::enter;
use record::{
    Hash, Hotkey, Uid, Window, files,
    records::{Accepted, State},
};
use run::{
    Hparams,
    hparams::{Codec, CodecName, Outer},
};
use safetensors::{Dtype, tensor::TensorView};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wire::{
    Layout,
    codec::{Content, choose},
    commit::Binding,
    delta::{Delta, Expected, make},
    outer::{self, Entry, Values},
    state,
    tensors::Update,
};

/// Values like an update's: magnitudes over some octaves, rows of zeros, equal ones.
fn write_update(path: &Path, layout: &Layout, seed: u64) {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut value = move |at: usize| -> f32 {
        let unit = (random() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        match at / 4096 % 5 {
            0 => unit * 1e-3,
            1 => unit * 2f32.powi((random() % 40) as i32 - 35),
            2 if !random().is_multiple_of(300) => 0.0,
            3 => (unit * 4.0).round() * 1e-4,
            _ => unit * 1e-4,
        }
    };
    // One tensor has not moved at all.
    let still = |name: &str| if name.contains("o_proj") { 0.0 } else { 1.0 };
    let tensor = |t: &wire::layout::Tensor| -> Vec<u8> {
        (0..t.numel()).flat_map(|at| (still(&t.name) * value(at)).to_le_bytes()).collect()
    };
    let data: Vec<Vec<u8>> = layout.tensors.iter().map(tensor).collect();
    let views = layout.tensors.iter().zip(&data);
    let views = views.map(|(t, d)| (&t.name, TensorView::new(Dtype::F32, t.shape.clone(), d).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Who makes deltas, of which model, and where.
struct Miner {
    folder: PathBuf,
    layout: Layout,
    pair: Keypair,
    codec: Codec,
}

/// What a delta is of.
#[derive(Clone, Copy)]
struct Of {
    run: Hash,
    window: Window,
    uid: Uid,
    base: Hash,
    reveal: Hash,
}

impl Miner {
    fn new(folder: &Path, layout: &Layout, codec: Codec) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let pair = MiniSecretKey::from_bytes(&[7; 32]).unwrap().expand_to_keypair(ExpansionMode::Ed25519);
        Miner { folder: folder.to_path_buf(), layout: layout.clone(), pair, codec }
    }

    fn hotkey(&self) -> Hotkey {
        Hotkey(self.pair.public.to_bytes())
    }

    /// An update, another for each seed.
    fn update(&self, seed: u64) -> Update {
        let path = self.folder.join(format!("update-{seed}"));
        write_update(&path, &self.layout, seed);
        Update::open(&path, &self.layout).unwrap()
    }

    /// Make the delta of an update, with what was left of earlier ones, and open it as everybody does.
    fn delta(&self, path: &Path, update: &Update, left: Option<&Update>, of: Of) -> Delta {
        let (layout, codec) = (&self.layout, &self.codec);
        let payload = codec.is_sparse().then(|| choose(update, left, layout, codec, |_| Ok(())).unwrap());
        let content = payload.as_ref().map_or(Content::Tiles(update), Content::Sparse);
        let Of { run, window, uid, base, reveal } = of;
        let hotkey = self.hotkey();
        let root = content.root(layout, codec).unwrap();
        let binding = Binding { run, window, hotkey, base, pages: Hash([3; 32]), root };
        let sign = |message: &[u8]| self.pair.sign_simple(b"substrate", message).to_bytes();
        make(path, content, layout, &binding, (uid, codec, reveal), sign).unwrap();
        let commitment = Some(binding.commitment(codec));
        let expected = Expected { run, window, uid, hotkey, base, codec: codec.clone(), commitment, reveal };
        Delta::open(path, layout, &expected).unwrap()
    }

    /// The same without a name of its own: it gets that of its content.
    fn accepted(&self, seed: u64, weight_u16: u16, of: Of) -> (Accepted, Delta) {
        let path = self.folder.join("made");
        let delta = self.delta(&path, &self.update(seed), None, of);
        let (_, blake3) = files::digest(&path).unwrap();
        std::fs::rename(&path, self.folder.join(format!("{blake3}.safetensors"))).unwrap();
        (Accepted { uid: of.uid, hotkey: self.hotkey(), blake3, weight_u16, scale: 1.0 }, delta)
    }
}

fn codec(name: &str, values: &str, k: Option<u64>) -> Codec {
    let name = name.parse().unwrap();
    let compression = if name == CodecName::Slice { 4 } else { 1 };
    Codec { name, compression, values: values.parse().unwrap(), k, decay: k.map(|_| 0.9) }
}

/// A delta by each codec, and what it decodes to.
fn deltas(folder: &Path, layout: &Layout) {
    let (run, base) = (Hash([1; 32]), Hash([2; 32]));
    // The reveal is the one that tests/decode.py draws with.
    let of = Of { run, window: Window(7), uid: Uid(5), base, reveal: Hash([4; 32]) };
    let tiles = ["slice", "dense"].into_iter();
    let tiles = tiles.flat_map(|name| ["f32", "bf16", "f16"].map(|values| codec(name, values, None)));
    let choices =
        [(1, "sign"), (64, "sign"), (1024, "sign"), (64, "q2"), (33, "q4"), (300, "q8"), (64, "f16"), (7, "f32")];
    let choices = choices.map(|(k, values)| codec("topk", values, Some(k)));
    let waves = [(64, "sign"), (300, "q4"), (1024, "f32")].map(|(k, values)| codec("dct", values, Some(k)));
    for codec in tiles.chain(choices).chain(waves) {
        let file = format!("{}-{}-{}", codec.name, codec.k.unwrap_or(0), codec.values);
        let miner = Miner::new(folder, layout, codec);
        let (update, left) = (miner.update(5), miner.update(6));
        let delta = miner.delta(&folder.join(format!("{file}.safetensors")), &update, Some(&left), of);
        let bytes: Vec<u8> = delta.whole().concat().iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{file}.f32")), bytes).unwrap();
    }
}

/// Three windows of four miners: the states, and the deltas that lead from each to the next. A fourth window has none.
fn steps(folder: &Path, hparams: &Hparams) {
    let (layout, start) = (Layout::new(&hparams.model), hparams.start_window);
    let miner = Miner::new(&folder.join("deltas"), &layout, hparams.codec.clone());
    files::write_json(&folder.join("hparams.json"), hparams).unwrap();
    let run = hparams.run(Hash([5; 32]), 1);
    let mut values = Values::fresh(state::first(hparams, &layout), &layout, &hparams.outer);
    let mut before: Option<(Window, Hash)> = None;
    let mut list: (Vec<Accepted>, Option<Hash>) = (Vec::new(), None);
    for turn in 0..5u8 {
        let window = Window(start.0 + u64::from(turn));
        let root = state::root(&layout, &values, run, window);
        let (accepted, reveal) = std::mem::take(&mut list);
        let record = State {
            window,
            run,
            root,
            prev: before.map(|(_, root)| root),
            prev_window: before.map(|(window, _)| window),
            path: None,
            accepted,
            reveal,
            by: None,
            signature: None,
        };
        let dir = folder.join("states").join(window.to_string());
        state::save(&dir, hparams, &layout, &values, &record, None).unwrap();
        before = Some((window, root));
        let reveal = Hash([turn + 40; 32]);
        let miners: &[(u16, u16)] = if turn < 3 { &[(3, u16::MAX), (5, 1), (9, 30_000), (200, 12_345)] } else { &[] };
        let made = miners.iter().map(|(uid, weight)| {
            let of = Of { run, window, uid: Uid(*uid), base: root, reveal };
            miner.accepted(u64::from(turn) * 1000 + u64::from(*uid), *weight, of)
        });
        let mut made: Vec<(Accepted, Delta)> = made.collect();
        let clip = enter::clip(made.iter().map(|(_, delta)| delta.norm()), None);
        made.iter_mut().for_each(|(entry, delta)| entry.scale = enter::scale(delta.norm(), clip));
        let entries: Vec<Entry<'_>> =
            made.iter().map(|(own, delta)| Entry { delta, weight: own.weight_u16, scale: own.scale }).collect();
        let lr = outer::learning_rate(&hparams.outer, start, window);
        outer::apply(&mut values, &layout, &hparams.outer, lr, &entries).unwrap();
        list = (made.iter().map(|(own, _)| own.clone()).collect(), Some(reveal));
    }
}

/// A way from deltas to a state, with the fields of the outer optimizer that are not the demo's.
fn way(demo: &Value, codec: Codec, other: Value) -> Hparams {
    let mut hparams: Hparams = serde_json::from_value(demo.clone()).unwrap();
    hparams.codec = codec;
    let mut outer = serde_json::to_value(&hparams.outer).unwrap();
    let fields = outer.as_object_mut().unwrap();
    other.as_object().unwrap().iter().for_each(|(name, value)| {
        fields.insert(name.clone(), value.clone());
    });
    hparams.outer = serde_json::from_value::<Outer>(outer).unwrap();
    hparams.check().unwrap();
    hparams
}

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap());
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams/demo.json");
    let mut demo: Value = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    demo["model"]["hidden_size"] = 72.into();
    demo["model"]["intermediate_size"] = 6000.into();
    let layout = Layout::new(&serde_json::from_value(demo["model"].clone()).unwrap());
    let shapes: serde_json::Map<_, _> =
        layout.tensors.iter().map(|t| (t.name.clone(), t.shape.clone().into())).collect();
    std::fs::write(folder.join("shapes.json"), Value::from(shapes).to_string()).unwrap();
    deltas(&folder, &layout);
    demo["model"]["intermediate_size"] = 200.into();
    demo["start_window"] = 7.into();
    let adamw = json!({"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1});
    let ways = [
        ("sgd", codec("slice", "bf16", None), json!({"optimizer": "sgd", "lr_final": 0.1, "lr_windows": 2})),
        ("nesterov", codec("slice", "f32", None), json!({"lr_final": 0.05, "lr_windows": 7})),
        ("adamw", codec("slice", "f16", None), adamw.clone()),
        ("nesterov-dct", codec("dct", "sign", Some(64)), json!({})),
        ("adamw-topk", codec("topk", "q4", Some(33)), adamw.clone()),
        ("median", codec("dense", "bf16", None), json!({"aggregate": "median"})),
        ("median-dct", codec("dct", "q8", Some(64)), json!({"aggregate": "median"})),
        ("trimmed", codec("topk", "f16", Some(64)), json!({"aggregate": "trimmed", "trim": 0.25})),
        ("centred", codec("slice", "f32", None), json!({"aggregate": "centred", "radius": 0.5})),
        ("centred-dct", codec("dct", "q2", Some(100)), json!({"aggregate": "centred", "radius": 1.0})),
    ];
    for (name, codec, other) in ways {
        steps(&folder.join("steps").join(name), &way(&demo, codec, other));
    }
}
