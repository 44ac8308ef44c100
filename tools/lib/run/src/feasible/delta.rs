//! How large a delta can be.
//!
//! Source: the caps of `lib/wire/FORMAT.md`, which `lib/wire` enforces.

use crate::{
    hparams::{Codec, CodecName},
    model::Model,
};

/// Values of a tile, and its side.
const TILE: u64 = 4096;
const SIDE: u64 = 64;

/// No delta of a run is larger, in bytes. The codec is one that `Hparams::check` admits.
pub fn delta_bytes(model: &Model, codec: &Codec) -> u64 {
    let tensors = model.tensors();
    let tiles: u64 = tensors.iter().map(|(_, shape)| tiles(shape)).sum();
    let width = codec.values.bits() / 8;
    let body = match codec.name {
        CodecName::Dense => {
            let names: u64 = tensors.iter().map(|(name, _)| name.len() as u64 + 128).sum();
            names + model.numel() * width
        }
        CodecName::Slice => {
            let revealed = (tiles / codec.compression.max(1)).max(1);
            let levels = u64::from(tiles.next_power_of_two().trailing_zeros() + 1);
            revealed * (TILE * width + levels * 64)
        }
        CodecName::Topk | CodecName::Dct => tensors.iter().map(|(_, shape)| choice_bytes(shape, codec)).sum(),
    };
    8192 + body
}

fn tiles(shape: &[u64]) -> u64 {
    match shape {
        [rows, cols] => rows.div_ceil(SIDE) * cols.div_ceil(SIDE),
        _ => shape.iter().product::<u64>().div_ceil(TILE),
    }
}

/// `topk` and `dct`: the bytes of a tensor's parts, each of some 64 tiles.
fn choice_bytes(shape: &[u64], codec: &Codec) -> u64 {
    let k = codec.k.unwrap_or(1).clamp(1, 1024);
    let mean = (TILE - k) as f64 / (k + 1) as f64 * std::f64::consts::LN_2;
    let rice = mean.max(1.0).log2().floor() as u64;
    let tile_bits = 1050 + (TILE >> rice) + k * (1 + rice) + k * codec.values.bits();
    let part_tiles = match shape {
        [_, cols] => (SIDE / cols.div_ceil(SIDE)).max(1) * cols.div_ceil(SIDE),
        _ => SIDE,
    };
    let (whole, rest) = (tiles(shape) / part_tiles, tiles(shape) % part_tiles);
    let bytes = |tiles: u64| if tiles == 0 { 0 } else { 4 + (tiles * tile_bits).div_ceil(8) };
    whole * bytes(part_tiles) + bytes(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hparams, hparams::Quantization};
    use std::path::Path;

    fn preset(name: &str) -> Hparams {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams");
        Hparams::load(&folder.join(format!("{name}.json"))).unwrap()
    }

    #[test]
    fn a_delta_is_as_large_as_the_format_says() {
        let (mut demo, boltzmann) = (preset("demo"), preset("boltzmann"));
        // 1.2 billion parameters, one of 100 tiles in bf16: 24 MB of values, 4 of proofs.
        assert!((27e6..29e6).contains(&(delta_bytes(&boltzmann.model, &boltzmann.codec) as f64)));
        // Files that were measured (pipelines/README.md): the caps are above them, dense's by what names may take.
        let values = Quantization::F32;
        demo.codec = Codec { name: CodecName::Dense, compression: 1, values, k: None, decay: None };
        let dense = delta_bytes(&demo.model, &demo.codec);
        assert!((914_384..914_384 + 12_000).contains(&dense), "{dense}");
        for (name, k, measured) in [(CodecName::Topk, 64, 6_766), (CodecName::Dct, 512, 31_442)] {
            let values = Quantization::Sign;
            demo.codec = Codec { name, compression: 1, values, k: Some(k), decay: Some(0.95) };
            let cap = delta_bytes(&demo.model, &demo.codec);
            assert!((measured..measured + 8192 + 16_000).contains(&cap), "{name}: {cap}");
        }
    }
}
