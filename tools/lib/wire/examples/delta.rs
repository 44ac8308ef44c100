//! For scripts/peer_codec.py: `delta FOLDER` makes deltas of a small model there by every codec, signed by a key of its own, and
//! beside each what it decodes to, as plain f32 in the order of the tensors' names; `shapes.json` has their shapes.
#![allow(clippy::unwrap_used, clippy::panic)]

use record::{Hash, Hotkey, Uid, Window, hparams::Codec};
use safetensors::{Dtype, tensor::TensorView};
use schnorrkel::{ExpansionMode, MiniSecretKey};
use std::path::Path;
use wire::{
    Layout,
    commit::Binding,
    delta::{Content, Delta, Expected, make},
    sparse::Payload,
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

fn main() {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams/demo.json");
    let mut hparams: serde_json::Value = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    hparams["model"]["hidden_size"] = 72.into();
    hparams["model"]["intermediate_size"] = 6000.into();
    let layout = Layout::new(&serde_json::from_value(hparams["model"].clone()).unwrap());
    let shapes: serde_json::Map<_, _> =
        layout.tensors.iter().map(|t| (t.name.clone(), t.shape.clone().into())).collect();
    std::fs::write(folder.join("shapes.json"), serde_json::Value::from(shapes).to_string()).unwrap();
    let pair = MiniSecretKey::from_bytes(&[7; 32]).unwrap().expand_to_keypair(ExpansionMode::Ed25519);
    let (one, two) = (folder.join("one"), folder.join("two"));
    write_update(&one, &layout, 5);
    write_update(&two, &layout, 6);
    let (update, left) = (Update::open(&one, &layout).unwrap(), Update::open(&two, &layout).unwrap());
    let codecs = ["f32", "bf16", "f16"].map(|values| ("dense", None, values)).into_iter();
    let choices =
        [(1, "sign"), (64, "sign"), (1024, "sign"), (64, "q2"), (33, "q4"), (300, "q8"), (64, "f16"), (7, "f32")];
    let waves = [(64, "sign"), (300, "q4"), (1024, "f32")].map(|(k, values)| ("dct", Some(k), values));
    for (name, k, values) in codecs.chain(choices.map(|(k, values)| ("topk", Some(k), values))).chain(waves) {
        let codec = Codec { name: name.into(), compression: 1, values: values.into(), k, decay: k.map(|_| 0.9) };
        let payload = k.map(|_| Payload::new(&update, Some(&left), &layout, &codec, |_| Ok(())).unwrap());
        let content = payload.as_ref().map_or(Content::Tiles(&update), Content::Sparse);
        let binding = Binding {
            run: Hash([1; 32]),
            window: Window(7),
            hotkey: Hotkey(pair.public.to_bytes()),
            base: Hash([2; 32]),
            pages: Hash([3; 32]),
            root: content.root(&layout, &codec).unwrap(),
        };
        let reveal = Hash([4; 32]);
        let file = format!("{name}-{}-{values}", k.unwrap_or(0));
        let path = folder.join(format!("{file}.safetensors"));
        let sign = |message: &[u8]| pair.sign_simple(b"substrate", message).to_bytes();
        make(&path, content, &layout, &binding, (Uid(5), &codec, reveal), sign).unwrap();
        let expected = Expected {
            run: binding.run,
            window: binding.window,
            uid: Uid(5),
            hotkey: binding.hotkey,
            base: binding.base,
            codec: codec.clone(),
            commitment: Some(binding.commitment(&codec)),
            reveal,
        };
        let delta = Delta::open(&path, &layout, &expected).unwrap();
        let bytes: Vec<u8> = delta.whole().concat().iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{file}.f32")), bytes).unwrap();
    }
}
