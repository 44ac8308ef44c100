//! Safetensors files of f32, mapped, with exactly the names and shapes that are expected.

use crate::{
    header::{self, Header},
    layout::Layout,
};
use memmap2::{Mmap, UncheckedAdvice};
use record::{Context, Hash, Report, files};
use safetensors::{Dtype, tensor::TensorView};
use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    ops::Range,
    path::Path,
};

/// Bytes of a file that are in memory at once where all of it is read one time.
const PIECE: usize = 64 << 20;

/// A mapped file of which the header has been checked against the file's length.
pub struct Mapped {
    map: Mmap,
    tensors: HashMap<String, (Dtype, Vec<usize>, Range<usize>)>,
    /// The file's free metadata.
    pub metadata: HashMap<String, String>,
    data_start: usize,
}

impl Mapped {
    /// Map a safetensors file, its header in any form. No length in it is believed before it was compared with the
    /// file's own.
    ///
    /// # Errors
    /// Exit code 65 when it is truncated, its header is too large or has a name twice, or its parts overlap or leave
    /// gaps.
    pub fn open(path: &Path) -> Result<Self, Report> {
        Mapped::read(path, |_, _| Ok(()))
    }

    /// The same of a file that crosses the network, or that only this house writes: its header is the one that
    /// [`write`] gives its tensors, to the byte.
    ///
    /// # Errors
    /// As [`Mapped::open`]; exit code 65 with what is otherwise.
    pub fn open_exact(path: &Path) -> Result<Self, Report> {
        Mapped::read(path, header::check)
    }

    #[allow(unsafe_code)]
    fn read(path: &Path, check: impl FnOnce(&[u8], &Header) -> Result<(), Report>) -> Result<Self, Report> {
        let file = files::open_file(path)?;
        // SAFETY: the files of a node are written beside their place and renamed, never changed in place, so the
        // mapped bytes stay as they are.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| files::io_report("map", path, &e))?;
        let cut = || Report::data(format!("{} is cut short: it has no header", path.display()));
        let (length, rest) = map.split_first_chunk::<8>().ok_or_else(cut)?;
        let length = u64::from_le_bytes(*length);
        if length > header::CAP {
            return Err(Report::data(format!(
                "{} claims a header of {length} bytes, at most {} are read",
                path.display(),
                header::CAP
            )));
        }
        let (json, data) = rest.split_at_checked(length as usize).ok_or_else(|| {
            Report::data(format!("{} is cut short: it claims a header of {length} bytes", path.display()))
        })?;
        let data_start = 8 + json.len();
        let header = Header::read(json, data.len())
            .and_then(|header| check(&map[..data_start], &header).map(|()| header))
            .map_err(|e| e.at(path.display()))?;
        let tensors = header.tensors.into_iter().map(|(name, info)| {
            let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            (name, (info.dtype, info.shape, range))
        });
        let tensors = tensors.collect();
        Ok(Mapped { tensors, metadata: header.metadata.into_iter().collect(), map, data_start })
    }

    /// All bytes after the header.
    pub fn data(&self) -> &[u8] {
        &self.map[self.data_start..]
    }

    /// Give what was read back to the page cache: it counts as this process's memory no more, and comes back when it is touched.
    #[allow(unsafe_code)]
    pub fn release(&self) {
        // SAFETY: the mapping is of a file and only read, and the file does not change in place: its pages come back as they were.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// BLAKE3 of all bytes after the header.
    pub fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for piece in self.data().chunks(PIECE) {
            hasher.update_rayon(piece);
            self.release();
        }
        hasher.finalize().into()
    }

    /// Bytes before the data.
    pub fn header_bytes(&self) -> usize {
        self.data_start
    }

    /// The bytes of each tensor.
    pub fn sizes(&self) -> BTreeMap<String, usize> {
        self.tensors.iter().map(|(name, (_, _, range))| (name.clone(), range.len())).collect()
    }

    /// The names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The type of a tensor, if there is one of that name.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|(dtype, ..)| *dtype)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The bytes of a tensor, which has to be of this type and shape.
    ///
    /// # Errors
    /// Exit code 65 with what is there instead.
    pub fn tensor(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&[u8], Report> {
        match self.tensors.get(name) {
            None => Err(Report::data(format!("tensor {name} is missing"))),
            Some((d, s, range)) if *d == dtype && s == shape => Ok(&self.map[range.clone()]),
            Some((d, s, _)) => Err(Report::data(format!("tensor {name} is {d:?} {s:?}, expected {dtype:?} {shape:?}"))),
        }
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(_, shape, _)| shape.as_slice())
    }

    /// The f32 bytes of all tensors of a layout, in its order, their names prefixed; nothing else may be there.
    ///
    /// # Errors
    /// Exit code 65 with the first tensor that is missing or wrong.
    pub fn of_layout(&self, layout: &Layout, prefixes: &[&str], more: usize) -> Result<Vec<&[u8]>, Report> {
        let mut all = Vec::with_capacity(layout.tensors.len() * prefixes.len());
        for prefix in prefixes {
            for tensor in &layout.tensors {
                all.push(self.tensor(&format!("{prefix}{}", tensor.name), Dtype::F32, &tensor.shape)?);
            }
        }
        if self.len() != all.len() + more {
            return Err(Report::data(format!("{} tensors, expected {}", self.len(), all.len() + more)));
        }
        Ok(all)
    }
}

/// A mapped update: the model's tensors, f32.
pub struct Update {
    mapped: Mapped,
}

impl Update {
    /// Open an update and check it against the model.
    ///
    /// # Errors
    /// Exit code 65 when a tensor is missing, too many or of another shape.
    pub fn open(path: &Path, layout: &Layout) -> Result<Self, Report> {
        let mapped = Mapped::open(path)?;
        mapped.of_layout(layout, &[""], 0).map_err(|e| e.at(path.display()))?;
        Ok(Update { mapped })
    }

    /// The tensors' bytes in the layout's order.
    ///
    /// # Errors
    /// Never after [`Update::open`].
    pub fn tensors(&self, layout: &Layout) -> Result<Vec<&[u8]>, Report> {
        self.mapped.of_layout(layout, &[""], 0)
    }

    /// The file's free metadata.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.mapped.metadata
    }

    /// Give what was read back to the page cache.
    pub fn release(&self) {
        self.mapped.release();
    }
}

/// One tensor to be written.
pub struct Out<'a> {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its little-endian bytes.
    pub data: &'a [u8],
}

/// Write a safetensors file atomically; the same tensors and metadata give the same bytes.
///
/// # Errors
/// When the file system refuses.
pub fn write(path: &Path, mut tensors: Vec<Out<'_>>, metadata: (&str, String)) -> Result<(), Report> {
    for tensor in &tensors {
        TensorView::new(tensor.dtype, tensor.shape.clone(), tensor.data)
            .data(format!("{} does not have the size of its shape", tensor.name))?;
    }
    tensors.sort_by(|a, b| header::order((a.dtype, &a.name), (b.dtype, &b.name)));
    let named =
        tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone(), tensor.data.len()));
    let header = header::write(named, metadata)?;
    files::write_atomic(path, |file| {
        let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
        file.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| file.write_all(tensor.data))?;
        file.flush()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_files_are_those_of_the_safetensors_crate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (a, b) = ([0u8; 12], [1u8; 5]);
        let out =
            |name: &str, dtype, shape: &[usize], data| Out { name: name.into(), dtype, shape: shape.to_vec(), data };
        write(&path, vec![out("x", Dtype::U8, &[5], &b), out("y", Dtype::F32, &[3], &a)], ("format", "pt".into()))
            .unwrap();
        let views = vec![
            ("x", TensorView::new(Dtype::U8, vec![5], &b).unwrap()),
            ("y", TensorView::new(Dtype::F32, vec![3], &a).unwrap()),
        ];
        let theirs = safetensors::serialize(views, Some(HashMap::from([("format".into(), "pt".into())]))).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), theirs);
        assert_eq!(Mapped::open(&path).unwrap().tensor("x", Dtype::U8, &[5]).unwrap(), b);
    }

    #[test]
    fn hostile_files_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Mapped::open(&path).err().map(|r| r.error).unwrap_or_default()
        };
        assert!(open(b"").contains("cut short"));
        assert!(open(&(10_000_000_000u64).to_le_bytes()).contains("claims a header"));
        assert!(!open(&(100u64).to_le_bytes()).is_empty(), "a header beyond the file");
        let with = |json: &str, data: usize| {
            let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
            bytes.extend(json.as_bytes());
            bytes.resize(bytes.len() + data, 0);
            bytes
        };
        assert!(
            !open(&with("{\"a\":{\"dtype\":\"F32\",\"shape\":[1000000000000],\"data_offsets\":[0,4]}}", 4)).is_empty()
        );
        assert!(!open(&with("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3)).is_empty());
        assert!(!open(&with("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5)).is_empty());
        assert!(!open(&with("nonsense", 0)).is_empty());
        assert!(open(&with("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4)).is_empty());
    }
}
