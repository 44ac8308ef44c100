//! Packed pages and state directories, as tensors.

use record::{Context, Hash, Report, files, hparams::Model};
use safetensors::{Dtype, SafeTensors};
use std::{collections::BTreeMap, fs::File, path::Path};
use tch::{Device, Kind, Tensor};

/// Packed sequences.
pub struct Sequences {
    /// Tokens, (S, T + 1) i64, on the device.
    pub tokens: Tensor,
    /// Number of sequences, S.
    pub count: i64,
    /// Tokens predicted in each, T.
    pub length: i64,
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<memmap2::Mmap, Report> {
    let file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
    // SAFETY: the files of a node are renamed into their place and never changed there.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|e| files::io_report("map", path, &e))
}

impl Sequences {
    /// Read packed pages: safetensors with `tokens (S, T + 1) I32`, each less than `vocab`.
    ///
    /// # Errors
    /// Exit code 65 when the file is something else.
    pub fn open(path: &Path, vocab: u64, device: Device) -> Result<Self, Report> {
        let map = map(path)?;
        let file = SafeTensors::deserialize(&map).data(path.display())?;
        let view = file.tensor("tokens").data(path.display())?;
        let (count, width) = match (view.dtype(), view.shape()) {
            (Dtype::I32, [count, width]) if *count > 0 && *width > 1 => (*count as i64, *width as i64),
            (dtype, shape) => {
                return Err(Report::data(format!(
                    "{}: tokens are {dtype:?} {shape:?}, not (S, T+1) I32",
                    path.display()
                )));
            }
        };
        let values = view.data().as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b)));
        let values: Vec<i64> = values.collect();
        if let Some(wrong) = values.iter().find(|t| !(0..vocab as i64).contains(*t)) {
            return Err(Report::data(format!("{}: token {wrong}, the model has {vocab}", path.display()))
                .hint("the pages were made with another tokenizer than the model's"));
        }
        let tokens = Tensor::from_slice(&values).view([count, width]).to_device(device);
        Ok(Sequences { tokens, count, length: width - 1 })
    }

    /// `count` sequences from place `first` on, around the end: inputs and targets, (B, T) each.
    pub fn batch(&self, first: i64, count: i64) -> (Tensor, Tensor) {
        let index: Vec<i64> = (first..first + count).map(|i| i % self.count).collect();
        let rows = self.tokens.index_select(0, &Tensor::from_slice(&index).to_device(self.tokens.device()));
        (rows.narrow(1, 0, self.length), rows.narrow(1, 1, self.length))
    }
}

/// The parameters of a state directory by name, f32, on the device.
///
/// # Errors
/// Exit code 65 when one is missing or of another shape.
pub fn load_state(dir: &Path, model: &Model, device: Device) -> Result<BTreeMap<String, Tensor>, Report> {
    load_tensors(&dir.join("model.safetensors"), model, device)
}

/// The tensors of a file with the model's names and shapes, f32, on the device.
///
/// # Errors
/// As [`load_state`].
pub fn load_tensors(path: &Path, model: &Model, device: Device) -> Result<BTreeMap<String, Tensor>, Report> {
    let map = map(path)?;
    let file = SafeTensors::deserialize(&map).data(path.display())?;
    let mut tensors = BTreeMap::new();
    for (name, shape) in model.tensors() {
        let view = file.tensor(&name).data(path.display())?;
        let shape: Vec<usize> = shape.iter().map(|d| *d as usize).collect();
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(Report::data(format!(
                "{}: {name} is {:?} {:?}, expected F32 {shape:?}",
                path.display(),
                view.dtype(),
                view.shape()
            )));
        }
        let shape: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float).again(&name)?;
        tensors.insert(name, tensor.f_to_device(device).again("moving the model to the device")?);
    }
    Ok(tensors)
}

/// Write tensors as f32 safetensors, atomically; size and hash of the file.
///
/// # Errors
/// When the file system refuses.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(u64, Hash), Report> {
    let mut bytes = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = tensor.to_device(Device::Cpu).contiguous();
        let mut values = vec![0f32; tensor.numel()];
        let numel = values.len();
        tensor.f_copy_data(&mut values, numel).again(name)?;
        let shape: Vec<usize> = tensor.size().iter().map(|d| *d as usize).collect();
        bytes.insert(name.as_str(), (shape, values));
    }
    let views = bytes
        .iter()
        .map(|(name, (shape, values))| {
            safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))
                .map(|view| (*name, view))
        })
        .collect::<Result<Vec<_>, _>>()
        .data("the update")?;
    let format = [("format".to_string(), "pt".to_string())].into_iter().collect();
    let file = safetensors::serialize(views, Some(format)).data("the update")?;
    files::write_atomic(path, |out| std::io::Write::write_all(out, &file))?;
    files::digest(path)
}
