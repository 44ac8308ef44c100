//! Hugging Face model directories as they come: `config.json`, and safetensors in one file or several.

use record::{Report, files};
use run::hparams::Model;
use safetensors::Dtype;
use std::{
    collections::BTreeMap,
    path::{Component, Path},
};
use wire::{Layout, outer::Values, tensors::Mapped};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The model of a directory and its parameters, f32, in the order of their names.
///
/// # Errors
/// Exit code 65 with what is missing, too much, wrong or not done here.
pub(crate) fn read(dir: &Path) -> Result<(Model, Values), Report> {
    let config = dir.join("config.json");
    let model = Model::from_config(&files::read_json(&config)?).map_err(|e| e.at(config.display()))?;
    let layout = Layout::new(&model);
    let places = places(dir)?;
    let mut opened: BTreeMap<&str, Mapped> = BTreeMap::new();
    for file in places.values() {
        if !opened.contains_key(file.as_str()) {
            opened.insert(file, Mapped::open(&dir.join(file))?);
        }
    }
    // Beside the parameters there may be what they are made of: the output layer that is the embedding, and the rotation's table.
    let known = |name: &str| layout.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).is_ok();
    let spare = |name: &str| name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
    if let Some(name) = opened.values().flat_map(Mapped::names).find(|name| !known(name) && !spare(name)) {
        return Err(Report::data(format!("{}: the tensor {name} is not of a {:?}", dir.display(), model.family)));
    }
    let values = layout.tensors.iter().map(|tensor| {
        let missing = || Report::data(format!("{}: the tensor {} is missing", dir.display(), tensor.name));
        let file = places.get(&tensor.name).or_else(|| places.get("")).ok_or_else(missing)?;
        let mapped = opened.get(file.as_str()).ok_or_else(missing)?;
        floats(mapped, &tensor.name, &tensor.shape).map_err(|e| e.at(dir.join(file).display()))
    });
    let values = values.collect::<Result<_, Report>>()?;
    Ok((model, Values { model: values, first: Vec::new(), second: Vec::new(), moved: Vec::new() }))
}

/// In which file each tensor is; the empty name stands for all.
fn places(dir: &Path) -> Result<BTreeMap<String, String>, Report> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        return Ok(BTreeMap::from([(String::new(), WHOLE.into())]));
    }
    let index: Index = files::read_json(&index)?;
    let plain = |file: &&String| {
        !matches!(Path::new(file.as_str()).components().collect::<Vec<_>>()[..], [Component::Normal(_)])
    };
    if let Some(file) = index.weight_map.values().find(plain) {
        return Err(Report::data(format!("{}: {file} is no plain file name", dir.join(INDEX).display())));
    }
    Ok(index.weight_map)
}

fn floats(mapped: &Mapped, name: &str, shape: &[usize]) -> Result<Vec<f32>, Report> {
    let two = |widen: fn([u8; 2]) -> f32, bytes: &[u8]| {
        bytes.as_chunks::<2>().0.iter().map(|b| widen(*b)).collect::<Vec<f32>>()
    };
    let values = match mapped.dtype(name) {
        Some(Dtype::BF16) => two(|b| half::bf16::from_le_bytes(b).to_f32(), mapped.tensor(name, Dtype::BF16, shape)?),
        Some(Dtype::F16) => two(|b| half::f16::from_le_bytes(b).to_f32(), mapped.tensor(name, Dtype::F16, shape)?),
        _ => {
            let bytes = mapped.tensor(name, Dtype::F32, shape)?;
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
    };
    mapped.release();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(Report::data(format!("a value of {name} is not finite")))
    }
}
