//! Packed pages and state directories, as tensors.

use crate::{Params, shim};
use record::{Context, Hash, Report, files};
use run::hparams::Model;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};
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
    let file = files::open_file(path)?;
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

    /// `count` sequences from place `first` on, around the end: inputs and targets, (B, T) each. On the device alone: a step waits for no copy.
    pub fn batch(&self, first: i64, count: i64) -> (Tensor, Tensor) {
        let mut parts = Vec::new();
        let mut done = 0;
        while done < count {
            let place = (first + done) % self.count;
            let here = (count - done).min(self.count - place);
            parts.push(self.tokens.narrow(0, place, here));
            done += here;
        }
        let rows = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) };
        (rows.narrow(1, 0, self.length), rows.narrow(1, 1, self.length))
    }

    /// The same on another device.
    pub fn to_device(&self, device: Device) -> Self {
        Sequences { tokens: self.tokens.to_device(device), ..*self }
    }
}

/// The parameters in a file, with the model's names and shapes, f32.
pub struct Stored {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl Stored {
    /// Open the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf) -> Result<Self, Report> {
        Ok(Stored { map: map(&path)?, path })
    }

    /// All of them, on the device.
    ///
    /// # Errors
    /// Exit code 65 when one is missing or of another shape.
    pub fn all(&self, model: &Model, device: Device) -> Result<Params, Report> {
        Params::of(model, self.read(device)?)
    }

    /// Let go of the memory that was read into; what is read again comes from the file.
    #[allow(unsafe_code)]
    pub fn rest(&self) {
        // SAFETY: the map is never written to, so that nothing is lost.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// One leaf, on the device.
    ///
    /// # Errors
    /// As [`Stored::all`].
    pub fn leaf(&self, model: &Model, name: &str, device: Device) -> Result<Tensor, Report> {
        Params::leaf(model, name, self.read(device)?)
    }

    /// Gives views of the file, which have to be copied while it is open.
    #[allow(unsafe_code)]
    fn read(&self, device: Device) -> Result<impl FnMut(&str, &[i64]) -> Result<Tensor, Report>, Report> {
        let path = self.path.display();
        let file = SafeTensors::deserialize(&self.map).data(&path)?;
        Ok(move |name: &str, shape: &[i64]| {
            let view = file.tensor(name).data(&path)?;
            if view.dtype() != Dtype::F32 || !view.shape().iter().map(|d| *d as i64).eq(shape.iter().copied()) {
                let found = format!("{:?} {:?}", view.dtype(), view.shape());
                return Err(Report::data(format!("{path}: {name} is {found}, expected F32 {shape:?}")));
            }
            let bytes = view.data();
            let tensor = match bytes.as_ptr().cast::<f32>().is_aligned() {
                // SAFETY: as many values as the shape says, which nothing writes to; `Params` copies them while the map is there.
                true => unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &[], Kind::Float, Device::Cpu) },
                false => Tensor::f_from_data_size(bytes, shape, Kind::Float),
            };
            tensor.again(name)?.f_to_device(device).again("moving the model to the device")
        })
    }
}

/// The parameters of a state directory, f32, on the device.
///
/// # Errors
/// As [`Stored::all`].
pub fn load_state(dir: &Path, model: &Model, device: Device) -> Result<Params, Report> {
    load_tensors(&dir.join("model.safetensors"), model, device)
}

/// The tensors of a file with the model's names and shapes, f32, on the device.
///
/// # Errors
/// As [`Stored::all`].
pub fn load_tensors(path: &Path, model: &Model, device: Device) -> Result<Params, Report> {
    Stored::open(path.to_path_buf())?.all(model, device)
}

/// A parameter whose bytes are looked for when they are written.
struct Lazy(Tensor, Vec<usize>);

impl safetensors::View for Lazy {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.1
    }
    fn data(&self) -> Cow<'_, [u8]> {
        // What lies here in order is written from its place: a copy would take as long as the file.
        if let Some(bytes) = shim::bytes(&self.0) {
            return bytes.into();
        }
        let mut bytes = vec![0; self.data_len()];
        self.0.to_device(Device::Cpu).contiguous().copy_data_u8(&mut bytes, self.0.numel());
        bytes.into()
    }
    fn data_len(&self) -> usize {
        self.0.numel() * 4
    }
}

/// Write parameters as f32 safetensors, atomically, one after another; size and hash of the file.
///
/// # Errors
/// When the file system refuses.
pub fn write(path: &Path, params: &Params) -> Result<(u64, Hash), Report> {
    let lazy = |tensor: Tensor| {
        let shape = tensor.size().iter().map(|d| *d as usize).collect();
        Lazy(tensor, shape)
    };
    let views = params.named().into_iter().map(|(name, tensor)| (name, lazy(tensor)));
    let format = [("format".to_string(), "pt".to_string())].into_iter().collect();
    files::write_at(path, |part| {
        safetensors::serialize_to_file(views, Some(format), part).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })
    })?;
    files::digest(path)
}
