//! For scripts/peer_models.py: `logits STATE PAGES OUT` writes the logits of packed pages, (S, T, V) little-endian f32.
#![allow(clippy::unwrap_used)]

use model::{How, Llama, Sequences, data, device};
use run::hparams::Model;
use std::path::PathBuf;
use tch::Device;

fn main() {
    let [state, pages, out] = [1, 2, 3].map(|place| PathBuf::from(std::env::args().nth(place).unwrap()));
    device::prepare(None).unwrap();
    let config = serde_json::from_slice(&std::fs::read(state.join("config.json")).unwrap()).unwrap();
    let model = Model::from_config(&config).unwrap();
    let sequences = Sequences::open(&pages, model.vocab_size, Device::Cpu).unwrap();
    let llama = Llama::new(&model, data::load_state(&state, &model, Device::Cpu).unwrap(), Device::Cpu, How::default())
        .unwrap();
    let logits = tch::no_grad(|| llama.logits(&sequences.batch(0, sequences.count).0)).unwrap().contiguous();
    let mut values = vec![0f32; logits.numel()];
    let numel = values.len();
    logits.copy_data(&mut values, numel);
    std::fs::write(out, bytemuck::cast_slice(&values)).unwrap();
}
