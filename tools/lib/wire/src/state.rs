//! States: Hugging Face model directories with the outer optimizer's moments beside them.
//!
//! `config.json`, `model.safetensors` (f32, Llama names), `tokenizer.json` where the run has one, `outer.safetensors`
//! (moments), `state.json` (the record).

use crate::{
    layout::Layout,
    outer::{Optimizer, Values},
    tensors::{Mapped, Out, write},
};
use rand_chacha::{ChaCha12Rng, rand_core::RngCore, rand_core::SeedableRng};
use rayon::prelude::*;
use record::{Context, Hash, Report, Window, files, records::State};
use run::Hparams;
use safetensors::Dtype;
use std::path::Path;

const FIRST: &str = "first.";
const SECOND: &str = "second.";
const MOVED: &str = "moved";

/// The first state's parameters from the run's seed: norms 1, biases 0, matrices normal with `initializer_range`.
///
/// A normal value is the sum of twelve uniform ones less 6 (Irwin and Hall), in integers, so that no library's
/// logarithm enters; the stream is ChaCha12 under a key of seed and name, a tensor its own.
pub fn first(hparams: &Hparams, layout: &Layout) -> Vec<Vec<f32>> {
    let scale = hparams.model.initializer_range / f64::from(1u32 << 31) / 2.0;
    layout
        .tensors
        .par_iter()
        .map(|tensor| {
            if !tensor.is_matrix() {
                let value = if tensor.name.ends_with(".bias") { 0.0 } else { 1.0 };
                return vec![value; tensor.numel()];
            }
            let mut hasher = blake3::Hasher::new_derive_key("boltzmann init v1");
            hasher.update(&hparams.init_seed.to_le_bytes()).update(tensor.name.as_bytes());
            let mut rng = ChaCha12Rng::from_seed(*hasher.finalize().as_bytes());
            let mut normal = || {
                let sum: i64 = (0..12).map(|_| i64::from(rng.next_u32())).sum();
                ((sum - (6i64 << 32)) as f64 * scale) as f32
            };
            (0..tensor.numel()).map(|_| normal()).collect()
        })
        .collect()
}

/// The tensors of a state in the order in which they are hashed.
fn parts<'a>(layout: &'a Layout, values: &'a Values) -> Vec<(String, &'a [usize], &'a [u8])> {
    let mut parts = Vec::new();
    for (prefix, all) in [("", &values.model), (FIRST, &values.first), (SECOND, &values.second)] {
        for (tensor, data) in layout.tensors.iter().zip(all) {
            parts.push((format!("{prefix}{}", tensor.name), tensor.shape.as_slice(), bytemuck::cast_slice(data)));
        }
    }
    if !values.moved.is_empty() {
        parts.push((MOVED.into(), std::slice::from_ref(&layout.tiles), bytemuck::cast_slice(&values.moved)));
    }
    parts
}

/// The root: `derive_key("boltzmann state v1", run ‖ window u64-LE ‖ for every tensor: u32-LE length of its name, name,
/// u32-LE number of dimensions, each u64-LE, its little-endian bytes ‖ the pending list as RFC 8785 JSON)`.
/// First the model's tensors by name, then first moments, second moments, `moved`. With lag 0 nothing is pending: `[]`.
pub fn root(layout: &Layout, values: &Values, run: Hash, window: Window) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("boltzmann state v1");
    hasher.update(&run.0).update(&window.0.to_le_bytes());
    for (name, shape, data) in parts(layout, values) {
        hasher.update(&(name.len() as u32).to_le_bytes()).update(name.as_bytes());
        hasher.update(&(shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|d| {
            hasher.update(&(*d as u64).to_le_bytes());
        });
        hasher.update_rayon(data);
    }
    hasher.update(b"[]");
    hasher.finalize().into()
}

/// The name of a model that a run begins with: [`root`] of its parameters, without moments, with zeros for the run and window 0.
pub fn model_hash(layout: &Layout, model: &Values) -> Hash {
    root(layout, model, Hash([0; 32]), Window(0))
}

/// Write a state directory; the record last, so that a directory with a record is whole.
///
/// # Errors
/// When the file system refuses.
pub fn save(
    dir: &Path,
    hparams: &Hparams,
    layout: &Layout,
    values: &Values,
    record: &State,
    tokenizer: Option<&Path>,
) -> Result<(), Report> {
    files::create_dir(dir)?;
    // A directory that is written anew is none until it is whole.
    match std::fs::remove_file(dir.join("state.json")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(files::io_report("replace", dir, &e)),
        _ => {}
    }
    files::write_json(&dir.join("config.json"), &hparams.model.config_json())?;
    if let Some(tokenizer) = tokenizer {
        let bytes = files::read_capped(tokenizer, 256 << 20)?;
        files::write_atomic(&dir.join("tokenizer.json"), |f| std::io::Write::write_all(f, &bytes))?;
    }
    let (model, outer): (Vec<_>, Vec<_>) = parts(layout, values)
        .into_iter()
        .map(|(name, shape, data)| {
            let dtype = if name == MOVED { Dtype::U32 } else { Dtype::F32 };
            Out { name, dtype, shape: shape.to_vec(), data }
        })
        .partition(|out| ![FIRST, SECOND, MOVED].iter().any(|p| out.name.starts_with(p)));
    // transformers opens only files that say `pt`.
    write(&dir.join("model.safetensors"), model, ("format", "pt".into()))?;
    write(&dir.join("outer.safetensors"), outer, ("format", "pt".into()))?;
    files::write_json(&dir.join("state.json"), record)
}

/// The record of a state directory.
///
/// # Errors
/// Exit code 65 when there is none.
pub fn record_of(dir: &Path) -> Result<State, Report> {
    let mut state: State = files::read_json(&dir.join("state.json")).map_err(|e| {
        e.hint(format!("{} is no finished state: bz-state init or bz-state apply makes one", dir.display()))
    })?;
    state.path = Some(dir.to_path_buf());
    Ok(state)
}

/// A tensor's values; its bytes are not held too.
fn floats(file: &Mapped, bytes: &[u8]) -> Vec<f32> {
    let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.release();
    values
}

/// Read a state directory's values, checked against the model.
///
/// # Errors
/// Exit code 65 when a tensor is missing or wrong.
pub fn load(dir: &Path, hparams: &Hparams, layout: &Layout) -> Result<Values, Report> {
    let path = dir.join("model.safetensors");
    let model = Mapped::open_exact(&path)?;
    let tensors = model.of_layout(layout, &[""], 0).map_err(|e| e.at(path.display()))?;
    let model = tensors.into_iter().map(|bytes| floats(&model, bytes)).collect();
    let mut values = Values { model, first: Vec::new(), second: Vec::new(), moved: Vec::new() };
    let moments = Optimizer::of(&hparams.outer).moments();
    let prefixes = [FIRST, SECOND];
    let (prefixes, more) = (&prefixes[..moments], usize::from(moments > 1));
    let path = dir.join("outer.safetensors");
    let outer = Mapped::open_exact(&path)?;
    let tensors = outer.of_layout(layout, prefixes, more).map_err(|e| e.at(path.display()))?;
    let mut moments: Vec<Vec<f32>> = tensors.into_iter().map(|bytes| floats(&outer, bytes)).collect();
    if more == 1 {
        values.second = moments.split_off(layout.tensors.len());
        let moved = outer.tensor(MOVED, Dtype::U32, &[layout.tiles]).map_err(|e| e.at(path.display()))?;
        values.moved = moved.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    }
    values.first = moments;
    Ok(values)
}

/// Read a state directory and compare it with its record.
///
/// # Errors
/// Exit code 65 when they differ, or it is another run's.
pub fn load_checked(dir: &Path, hparams: &Hparams, layout: &Layout, run: Hash) -> Result<(State, Values), Report> {
    let state = record_of(dir)?;
    if state.run != run {
        return Err(Report::config(format!("{} is a state of run {}, this is run {run}", dir.display(), state.run))
            .hint("one folder serves one run: use another BZ_HOME"));
    }
    let values = load(dir, hparams, layout)?;
    let found = root(layout, &values, run, state.window);
    if found != state.root {
        return Err(Report::data(format!("{} has root {found}, its record says {}", dir.display(), state.root))
            .hint("its files were damaged: remove the directory and run bz-state again"));
    }
    Ok((state, values))
}

/// Remove all but the last `keep` states of a node, never the newest; and of the windows before them the tensors, which
/// can be made or fetched again. Receipts stay.
///
/// # Errors
/// When the file system refuses.
pub fn prune(home: &record::Home, keep: usize) -> Result<(), Report> {
    let states = home.states();
    let oldest = states.iter().rev().nth(keep.max(1) - 1);
    for window in home.windows().into_iter().filter(|w| oldest.is_some_and(|oldest| w < oldest)) {
        let folder = home.window(window);
        for part in ["fetched", "accepted"].map(|name| folder.join(name)) {
            if part.exists() {
                std::fs::remove_dir_all(&part).again(format!("cannot remove {}", part.display()))?;
            }
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "safetensors") {
                std::fs::remove_file(entry.path()).again(format!("cannot remove {}", entry.path().display()))?;
            }
        }
    }
    for window in states.iter().take(states.len().saturating_sub(keep.max(1))) {
        std::fs::remove_dir_all(home.state(*window)).again(format!("cannot remove the state of window {window}"))?;
    }
    Ok(())
}
