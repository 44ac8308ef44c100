//! The parameters of a model as a step reads them: matrices that multiply the same rows are one matrix.

use crate::shim::no_grad;
use record::Report;
use run::hparams::Model;
use std::collections::BTreeMap;
use tch::{Device, Tensor};

/// Parameters that are one tensor in a step: most are alone; the queries, keys and values of a layer are together, and so
/// are gate and up.
pub struct Leaf {
    /// All rows, f32.
    pub tensor: Tensor,
    /// Hugging Face's names, and the rows of each.
    pub parts: Vec<(String, i64)>,
}

impl Leaf {
    /// The part of `tensor`, of this leaf's shape, that each name has.
    pub fn views(&self, tensor: &Tensor) -> Vec<(String, Tensor)> {
        let mut first = 0;
        let view = |(name, rows): &(String, i64)| {
            first += rows;
            (name.clone(), tensor.narrow(0, first - rows, *rows))
        };
        self.parts.iter().map(view).collect()
    }
}

/// All parameters of a model, by the names of their leaves.
pub struct Params {
    /// The leaves.
    pub leaves: BTreeMap<String, Leaf>,
}

/// The leaf of a parameter, and its place there.
fn leaf_of(name: &str) -> (String, usize) {
    let parts = [
        ("q_proj", "qkv", 0),
        ("k_proj", "qkv", 1),
        ("v_proj", "qkv", 2),
        ("gate_proj", "gate_up", 0),
        ("up_proj", "gate_up", 1),
    ];
    let found = parts.iter().find(|(part, _, _)| name.contains(part));
    found.map_or((name.to_string(), 0), |(part, leaf, place)| (name.replace(part, leaf), *place))
}

impl Params {
    /// The parameters of a model, each a copy of what `get` gives, which is told its name and shape.
    ///
    /// # Errors
    /// As `get`.
    pub fn of(model: &Model, get: impl FnMut(&str, &[i64]) -> Result<Tensor, Report>) -> Result<Self, Report> {
        Self::some(model, |_| true, get)
    }

    fn some(
        model: &Model,
        wanted: impl Fn(&str) -> bool,
        mut get: impl FnMut(&str, &[i64]) -> Result<Tensor, Report>,
    ) -> Result<Self, Report> {
        let mut leaves: BTreeMap<String, Vec<(usize, String, Vec<i64>)>> = BTreeMap::new();
        for (name, shape) in model.tensors() {
            let (leaf, place) = leaf_of(&name);
            if !wanted(&leaf) {
                continue;
            }
            leaves.entry(leaf).or_default().push((place, name, shape.iter().map(|d| *d as i64).collect()));
        }
        let mut made = BTreeMap::new();
        for (leaf, mut parts) in leaves {
            parts.sort();
            let mut tensors = Vec::new();
            for (_, name, shape) in &parts {
                tensors.push(get(name, shape)?);
            }
            let tensor = no_grad(|| Tensor::cat(&tensors, 0));
            let parts = parts.into_iter().map(|(_, name, shape)| (name, shape[0])).collect();
            made.insert(leaf, Leaf { tensor, parts });
        }
        Ok(Params { leaves: made })
    }

    /// One leaf alone.
    ///
    /// # Errors
    /// As `get`, and exit code 65 when the model has no such leaf.
    pub fn leaf(
        model: &Model,
        name: &str,
        get: impl FnMut(&str, &[i64]) -> Result<Tensor, Report>,
    ) -> Result<Tensor, Report> {
        let mut made = Self::some(model, |leaf| leaf == name, get)?;
        made.leaves.remove(name).map(|leaf| leaf.tensor).ok_or_else(|| Report::data(format!("the model has no {name}")))
    }

    /// Each parameter by its Hugging Face name: a view.
    pub fn named(&self) -> BTreeMap<String, Tensor> {
        self.leaves.values().flat_map(|leaf| leaf.views(&leaf.tensor)).collect()
    }

    /// The same in other memory.
    pub fn copy(&self) -> Self {
        self.map(|leaf| leaf.tensor.copy())
    }

    /// A copy on a device.
    pub fn to_device(&self, device: Device) -> Self {
        self.map(|leaf| if leaf.tensor.device() == device { leaf.tensor.copy() } else { leaf.tensor.to_device(device) })
    }

    /// The same memory once more.
    pub fn share(&self) -> Self {
        self.map(|leaf| leaf.tensor.shallow_clone())
    }

    fn map(&self, of: impl Fn(&Leaf) -> Tensor) -> Self {
        let leaf = |leaf: &Leaf| Leaf { tensor: no_grad(|| of(leaf)), parts: leaf.parts.clone() };
        Params { leaves: self.leaves.iter().map(|(name, own)| (name.clone(), leaf(own))).collect() }
    }
}
