//! The Llama family: embedding, layers of grouped-query attention and SwiGLU around RMSNorm, output layer.
//!
//! Shapes: B sequences, T tokens, R rows (B·T), D width, H query heads, K key-value heads, E width of a head, F inner width, V
//! tokens that there are. Source: `LlamaForCausalLM`, and its kin of Mistral and Qwen, of Hugging Face transformers, whose names
//! and results these are.

use crate::{
    Params,
    shim::{self, no_grad},
};
use record::{Code, Report};
use run::hparams::Model;
use std::{cell::RefCell, collections::BTreeMap};
use tch::{Device, Kind, Tensor};

/// A matrix, and what is added to its product, if anything.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

struct Layer {
    attention_norm_d: Tensor,
    qkv_d: Linear,
    output_dd: Linear,
    /// Of each head's queries and keys.
    head_norms_e: Option<(Tensor, Tensor)>,
    feed_norm_d: Tensor,
    gate_up_d: Linear,
    down_df: Linear,
    /// Names of the layer's leaves.
    leaves: Vec<String>,
}

/// How a model computes.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Gradients are wanted.
    pub train: bool,
    /// Products in bf16, over f32 masters.
    pub half: bool,
    /// libtorch's own operators one by one, also where there are kernels for several at once: the reference.
    pub plain: bool,
    /// Keep the inputs of the layers alone, and compute what is inside them again for the gradients.
    pub checkpoint: bool,
}

/// A Llama on a device.
pub struct Llama {
    /// The masters.
    pub params: Params,
    /// What the products read, by leaf: the masters themselves, or their copies in bf16.
    working: BTreeMap<String, Tensor>,
    embed_vd: Tensor,
    head_vd: Tensor,
    layers: Vec<Layer>,
    norm_d: Tensor,
    model: Model,
    device: Device,
    how: How,
    /// Whether the kernels of `csrc/kernels.cpp` are used.
    pub(crate) fused: bool,
    /// The last rotation.
    rotation: RefCell<Option<(Tensor, Tensor)>>,
}

/// The stream between layers, (R, D) f32, and what a branch adds to it next, (R, D).
struct Stream {
    x_rd: Tensor,
    branch_rd: Option<Tensor>,
}

impl Stream {
    /// The same values as the beginning of another graph.
    fn leaf(&self) -> Self {
        let leaf = |t: &Tensor| t.detach().set_requires_grad(true);
        Stream { x_rd: leaf(&self.x_rd), branch_rd: self.branch_rd.as_ref().map(leaf) }
    }

    fn tensors(&self) -> Vec<Tensor> {
        [Some(&self.x_rd), self.branch_rd.as_ref()].into_iter().flatten().map(Tensor::shallow_clone).collect()
    }
}

impl Llama {
    /// A model over these parameters, which are its own from here on.
    ///
    /// # Errors
    /// Exit code 65 when one is missing.
    pub fn new(model: &Model, params: Params, device: Device, how: How) -> Result<Self, Report> {
        let float = params.leaves.values().all(|leaf| leaf.tensor.kind() == Kind::Float);
        let fused = device == Device::Cpu && float && !how.plain;
        // On a GPU autocast makes the copies; embedding, norms and output layer stay in f32.
        let rounded = |name: &str| fused && how.half && name.starts_with("model.layers.") && !name.contains("norm");
        let working: BTreeMap<String, Tensor> = params
            .leaves
            .iter()
            .map(|(name, leaf)| {
                let kind = if rounded(name) { Kind::BFloat16 } else { leaf.tensor.kind() };
                (name.clone(), no_grad(|| leaf.tensor.detach().to_kind(kind)).set_requires_grad(how.train))
            })
            .collect();
        let get = |name: &str| {
            let found = working.get(name).map(Tensor::shallow_clone);
            found.ok_or_else(|| Report::data(format!("the state has no tensor {name}")))
        };
        let embed_vd = get(EMBEDDING)?;
        let head_vd = if model.tie_word_embeddings { embed_vd.shallow_clone() } else { get("lm_head.weight")? };
        let layers = (0..model.num_hidden_layers)
            .map(|index| {
                let at = |part: &str, kind: &str| format!("model.layers.{index}.{part}.{kind}");
                let norm = |part: &str| get(&at(part, "weight"));
                // The model's own list of tensors says which have a bias, and what was loaded is that list.
                let linear =
                    |part: &str| Ok::<_, Report>(Linear { weight: norm(part)?, bias: get(&at(part, "bias")).ok() });
                let head_norms_e = norm("self_attn.q_norm").ok().zip(norm("self_attn.k_norm").ok());
                let prefix = format!("model.layers.{index}.");
                Ok(Layer {
                    attention_norm_d: norm("input_layernorm")?,
                    qkv_d: linear("self_attn.qkv")?,
                    output_dd: linear("self_attn.o_proj")?,
                    head_norms_e,
                    feed_norm_d: norm("post_attention_layernorm")?,
                    gate_up_d: linear("mlp.gate_up")?,
                    down_df: linear("mlp.down_proj")?,
                    leaves: working.keys().filter(|name| name.starts_with(&prefix)).cloned().collect(),
                })
            })
            .collect::<Result<_, Report>>()?;
        let norm_d = get("model.norm.weight")?;
        Ok(Llama {
            params,
            working,
            embed_vd,
            head_vd,
            layers,
            norm_d,
            model: model.clone(),
            device,
            how,
            fused,
            rotation: RefCell::default(),
        })
    }

    /// Take the masters of another one, which may be on another device.
    pub fn follow(&mut self, lead: &Llama) {
        no_grad(|| {
            for (own, leaf) in self.params.leaves.values().zip(lead.params.leaves.values()) {
                own.tensor.shallow_clone().copy_(&leaf.tensor);
            }
        });
        self.refresh();
    }

    /// The copy in bf16 of the leaf at this place, if it has one.
    pub(crate) fn copy_of(&self, place: usize) -> Option<&Tensor> {
        self.working.values().nth(place).filter(|own| own.kind() == Kind::BFloat16)
    }

    /// Take the masters' new values into the copies that the products read.
    pub fn refresh(&mut self) {
        no_grad(|| {
            for (own, leaf) in self.working.values_mut().zip(self.params.leaves.values()) {
                if own.kind() != leaf.tensor.kind() {
                    own.copy_(&leaf.tensor);
                }
            }
        });
    }

    /// RMSNorm of a stream in the dtype of the products; and the stream with its branch added.
    fn norm(&self, stream: &Stream, weight: &Tensor) -> Result<(Tensor, Tensor), Report> {
        let (x, branch) = (&stream.x_rd, stream.branch_rd.as_ref());
        if self.fused {
            return shim::norm(x, branch, weight, self.model.rms_norm_eps, self.how.half);
        }
        let x = branch.map_or_else(|| x.shallow_clone(), |branch| x + branch);
        Ok((x.rms_norm(weight.size(), Some(weight), self.model.rms_norm_eps), x))
    }

    /// RMSNorm of each head, (R, N·E).
    fn head_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, Report> {
        let rows = x.reshape([-1, self.model.width() as i64]);
        // In the dtype of its weight, or libtorch has no kernel for it.
        let stream = Stream { x_rd: rows.to_kind(weight.kind()), branch_rd: None };
        Ok(self.norm(&stream, weight)?.0.view_as(x))
    }

    /// cos and sin of the rotation, (T, E/2). Source: RoFormer (Su and others 2021), equation 34, in halves.
    fn rotation(&self, length: i64) -> (Tensor, Tensor) {
        let kept = self.rotation.borrow().as_ref().map(|(cos, sin)| (cos.shallow_clone(), sin.shallow_clone()));
        if let Some(kept) = kept.filter(|(cos, _)| cos.size()[0] == length) {
            return kept;
        }
        let frequencies: Vec<f32> = frequencies(&self.model).into_iter().map(|f| f as f32).collect();
        let inverse = Tensor::from_slice(&frequencies).to_device(self.device);
        let angles = Tensor::arange(length, (Kind::Float, self.device)).outer(&inverse);
        let (cos, sin) = (angles.cos(), angles.sin());
        *self.rotation.borrow_mut() = Some((cos.shallow_clone(), sin.shallow_clone()));
        (cos, sin)
    }

    /// Causal attention of rows (R, (H + 2K)·E): (R, H·E).
    fn attention(&self, layer: &Layer, qkv: Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor, Report> {
        let (heads, kv) = (self.model.num_attention_heads as i64, self.model.num_key_value_heads as i64);
        let (width, length, rows) = (self.model.width() as i64, cos.size()[0], qkv.size()[0]);
        let mut parts = qkv.split_with_sizes([heads * width, kv * width, kv * width], 1);
        if let Some((query_norm, key_norm)) = &layer.head_norms_e {
            parts[0] = self.head_norm(&parts[0], query_norm)?;
            parts[1] = self.head_norm(&parts[1], key_norm)?;
        }
        if self.fused {
            let qkv = if layer.head_norms_e.is_some() { Tensor::cat(&parts, 1) } else { qkv };
            return shim::attention(&qkv, cos, sin, heads, kv);
        }
        let rotate = |x: &Tensor| {
            let halves = x.chunk(2, -1);
            let (cos, sin) = (cos.to_kind(x.kind()), sin.to_kind(x.kind()));
            Tensor::cat(&[&halves[0] * &cos - &halves[1] * &sin, &halves[1] * &cos + &halves[0] * &sin], -1)
        };
        let split = |x: &Tensor| x.view([rows / length, length, -1, width]).transpose(1, 2);
        let (query, key, value) = (rotate(&split(&parts[0])), rotate(&split(&parts[1])), split(&parts[2]));
        let wide = |x: Tensor| if kv == heads { x } else { x.repeat_interleave_self_int(heads / kv, 1, None) };
        let (key, value) = (wide(key), wide(value));
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, None::<&Tensor>, 0.0, true, None, false);
        Ok(mixed.transpose(1, 2).reshape([rows, heads * width]))
    }

    /// silu(gate) · up of rows (R, 2F): (R, F).
    fn gate(&self, both: &Tensor) -> Result<Tensor, Report> {
        if self.fused {
            return shim::gate(both);
        }
        let halves = both.chunk(2, -1);
        Ok(halves[0].silu() * &halves[1])
    }

    fn linear(&self, x: &Tensor, by: &Linear) -> Result<Tensor, Report> {
        if self.fused {
            return shim::linear(x, &by.weight, by.bias.as_ref());
        }
        Ok(x.linear(&by.weight, by.bias.as_ref()))
    }

    fn layer(&self, layer: &Layer, stream: &Stream, rotation: &(Tensor, Tensor)) -> Result<Stream, Report> {
        let (a_rd, x_rd) = self.norm(stream, &layer.attention_norm_d)?;
        let mixed = self.attention(layer, self.linear(&a_rd, &layer.qkv_d)?, rotation)?;
        let stream = Stream { x_rd, branch_rd: Some(self.linear(&mixed, &layer.output_dd)?) };
        let (f_rd, x_rd) = self.norm(&stream, &layer.feed_norm_d)?;
        let inner = self.gate(&self.linear(&f_rd, &layer.gate_up_d)?)?;
        Ok(Stream { x_rd, branch_rd: Some(self.linear(&inner, &layer.down_df)?) })
    }

    fn embed(&self, tokens_bt: &Tensor) -> Stream {
        let x_rd = Tensor::embedding(&self.embed_vd, &tokens_bt.reshape([-1]), -1, false, false);
        Stream { x_rd, branch_rd: None }
    }

    /// What the output layer reads, (R, D).
    fn last(&self, tokens_bt: &Tensor) -> Result<Tensor, Report> {
        let rotation = self.rotation(tokens_bt.size()[1]);
        let mut stream = self.embed(tokens_bt);
        for layer in &self.layers {
            stream = self.layer(layer, &stream, &rotation)?;
        }
        Ok(self.norm(&stream, &self.norm_d)?.0)
    }

    /// Logits of tokens (B, T): (B, T, V).
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn logits(&self, tokens_bt: &Tensor) -> Result<Tensor, Report> {
        let last_rd = self.last(tokens_bt)?;
        let (batch, length) = (tokens_bt.size()[0], tokens_bt.size()[1]);
        Ok(last_rd.linear(&self.head_vd.to_kind(last_rd.kind()), None::<&Tensor>).view([batch, length, -1]))
    }

    fn entropy(&self, last_rd: &Tensor, targets_bt: &Tensor, share: f64) -> Result<Tensor, Report> {
        let kind = if self.how.half { Kind::BFloat16 } else { last_rd.kind() };
        shim::linear_cross_entropy(&last_rd.to_kind(kind), &self.head_vd, &targets_bt.reshape([-1]), share, self.fused)
    }

    /// Mean cross-entropy in nats a token.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn loss(&self, tokens_bt: &Tensor, targets_bt: &Tensor) -> Result<Tensor, Report> {
        self.working(|| self.entropy(&self.last(tokens_bt)?, targets_bt, 1.0))
    }

    /// `share` of the loss, and its gradients in the order of the leaves: in the dtype of what the products read.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn gradients(&self, tokens_bt: &Tensor, targets_bt: &Tensor, share: f64) -> Result<Sum, Report> {
        let rotation = self.rotation(tokens_bt.size()[1]);
        let mut found = Found::default();
        let first = no_grad(|| self.embed(tokens_bt));
        let (loss, slopes) = if self.how.checkpoint {
            let mut inputs = vec![first];
            for layer in &self.layers {
                let next = no_grad(|| self.working(|| self.layer(layer, &inputs[inputs.len() - 1], &rotation)))?;
                inputs.push(next);
            }
            let last =
                inputs.pop().map_or_else(|| Err(Report::new(Code::Bug, "no stream")), |stream| Ok(stream.leaf()))?;
            let loss = self.working(|| self.entropy(&self.norm(&last, &self.norm_d)?.0, targets_bt, share))?;
            let mut slopes = found.of(&[loss.shallow_clone()], &[], last.tensors(), self.leaves(&self.ends()))?;
            for (layer, stream) in self.layers.iter().zip(inputs).rev() {
                let stream = stream.leaf();
                let made = self.working(|| self.layer(layer, &stream, &rotation))?;
                slopes = found.of(&made.tensors(), &slopes, stream.tensors(), self.leaves(&layer.leaves))?;
            }
            (loss, slopes)
        } else {
            let loss = self.working(|| {
                let mut stream = first.leaf();
                let begin = stream.tensors();
                for layer in &self.layers {
                    stream = self.layer(layer, &stream, &rotation)?;
                }
                Ok((self.entropy(&self.norm(&stream, &self.norm_d)?.0, targets_bt, share)?, begin))
            });
            let (loss, begin) = loss?;
            let all: Vec<String> =
                self.layers.iter().flat_map(|layer| &layer.leaves).chain(&self.ends()).cloned().collect();
            let slopes = found.of(&[loss.shallow_clone()], &[], begin, self.leaves(&all))?;
            (loss, slopes)
        };
        // Each token's row has its gradient, on top of that of the output layer where that is the embedding.
        no_grad(|| {
            let own = found.gradients.entry(EMBEDDING.into()).or_insert_with(|| self.embed_vd.zeros_like());
            let _ = own.index_add_(0, &tokens_bt.reshape([-1]), &slopes[0]);
        });
        Ok((loss.detach(), found.gradients.into_values().collect()))
    }

    /// The leaves behind the last layer.
    fn ends(&self) -> Vec<String> {
        let head = if self.model.tie_word_embeddings { EMBEDDING } else { "lm_head.weight" };
        ["model.norm.weight", head].map(String::from).to_vec()
    }

    fn leaves(&self, names: &[String]) -> Vec<(String, Tensor)> {
        names.iter().map(|name| (name.clone(), self.working[name].shallow_clone())).collect()
    }

    /// Run something with products in bf16 where libtorch's own operators have to be told.
    fn working<T>(&self, work: impl FnOnce() -> Result<T, Report>) -> Result<T, Report> {
        if self.how.half && !self.fused { shim::autocast_bf16(self.device.is_cuda(), work)? } else { work() }
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

/// A loss and gradients in the order of the leaves.
pub type Sum = (Tensor, Vec<Tensor>);

/// Gradients by leaf.
#[derive(Default)]
struct Found {
    gradients: BTreeMap<String, Tensor>,
}

impl Found {
    /// The gradients of what was made, for what was read and for the leaves, which are kept.
    fn of(
        &mut self,
        made: &[Tensor],
        slopes: &[Tensor],
        read: Vec<Tensor>,
        leaves: Vec<(String, Tensor)>,
    ) -> Result<Vec<Tensor>, Report> {
        let inputs: Vec<Tensor> = read.iter().chain(leaves.iter().map(|(_, t)| t)).map(Tensor::shallow_clone).collect();
        let mut all = shim::gradients(made, slopes, &inputs)?;
        let own = all.split_off(read.len());
        self.gradients.extend(leaves.into_iter().map(|(name, _)| name).zip(own));
        Ok(all)
    }
}

/// How fast each pair of a head's values turns, in radians a position, (E/2). Source of the scalings:
/// `modeling_rope_utils.py` of transformers, for `linear` and `llama3`.
fn frequencies(model: &Model) -> Vec<f64> {
    let half = model.width() / 2;
    let plain = (0..half).map(|i| (-model.rope_theta.ln() * i as f64 / half as f64).exp());
    let Some(rope) = &model.rope_scaling else { return plain.collect() };
    let first = rope.original_max_position_embeddings.unwrap_or(model.max_position_embeddings) as f64;
    let scaled = |frequency: f64| match (rope.low_freq_factor, rope.high_freq_factor) {
        (Some(low), Some(high)) => {
            // Waves that go around `high` times and more in the first training are kept, those below `low` are divided.
            let turns = first * frequency / std::f64::consts::TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            kept * frequency + (1.0 - kept) * frequency / rope.factor
        }
        _ => frequency / rope.factor,
    };
    plain.map(scaled).collect()
}
