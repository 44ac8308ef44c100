//! The Llama family: embedding, layers of grouped-query attention and SwiGLU around RMSNorm, output layer.
//!
//! Shapes: B sequences, T tokens, D width, H query heads, K key-value heads, E width of a head, F inner width, V tokens
//! that there are. Source: `LlamaForCausalLM`, and its kin of Mistral and Qwen, of Hugging Face transformers, whose names and
//! results these are.

use crate::shim;
use record::{
    Report,
    hparams::{Family, Model},
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// A matrix, and what is added to its product, if anything.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn of(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

struct Layer {
    attention_norm_d: Tensor,
    query_hed: Linear,
    key_ked: Linear,
    value_ked: Linear,
    output_dd: Linear,
    /// Of each head's queries and keys.
    head_norms_e: Option<(Tensor, Tensor)>,
    feed_norm_d: Tensor,
    gate_fd: Linear,
    up_fd: Linear,
    down_df: Linear,
}

/// A Llama on a device, its parameters f32 masters.
pub struct Llama {
    /// All parameters by their Hugging Face names; the layers share these tensors.
    pub params: BTreeMap<String, Tensor>,
    embed_vd: Tensor,
    head_vd: Tensor,
    layers: Vec<Layer>,
    norm_d: Tensor,
    model: Model,
    device: Device,
}

impl Llama {
    /// A model over these parameters; with `train`, gradients are kept for them.
    ///
    /// # Errors
    /// Exit code 65 when one is missing.
    pub fn new(model: &Model, params: BTreeMap<String, Tensor>, device: Device, train: bool) -> Result<Self, Report> {
        let params: BTreeMap<String, Tensor> =
            params.into_iter().map(|(name, t)| (name, t.set_requires_grad(train))).collect();
        let get = |name: &str| {
            params
                .get(name)
                .map(Tensor::shallow_clone)
                .ok_or_else(|| Report::data(format!("the state has no tensor {name}")))
        };
        let embed_vd = get("model.embed_tokens.weight")?;
        let head_vd = if model.tie_word_embeddings { embed_vd.shallow_clone() } else { get("lm_head.weight")? };
        let layers = (0..model.num_hidden_layers)
            .map(|index| {
                let at = |part: &str, kind: &str| format!("model.layers.{index}.{part}.{kind}");
                let norm = |part: &str| get(&at(part, "weight"));
                let linear = |part: &str| {
                    // The model's own list of tensors says which have a bias, and what was loaded is that list.
                    let bias = params.get(&at(part, "bias")).map(Tensor::shallow_clone);
                    Ok::<_, Report>(Linear { weight: norm(part)?, bias })
                };
                let head_norms_e = match model.family {
                    Family::Qwen3 => Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)),
                    _ => None,
                };
                Ok(Layer {
                    attention_norm_d: norm("input_layernorm")?,
                    query_hed: linear("self_attn.q_proj")?,
                    key_ked: linear("self_attn.k_proj")?,
                    value_ked: linear("self_attn.v_proj")?,
                    output_dd: linear("self_attn.o_proj")?,
                    head_norms_e,
                    feed_norm_d: norm("post_attention_layernorm")?,
                    gate_fd: linear("mlp.gate_proj")?,
                    up_fd: linear("mlp.up_proj")?,
                    down_df: linear("mlp.down_proj")?,
                })
            })
            .collect::<Result<_, Report>>()?;
        let norm_d = get("model.norm.weight")?;
        Ok(Llama { params, embed_vd, head_vd, layers, norm_d, model: model.clone(), device })
    }

    /// RMSNorm over the last dimension, as wide as the weight.
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.rms_norm(weight.size(), Some(weight), self.model.rms_norm_eps)
    }

    /// cos and sin of the rotation, (T, E/2). Source: RoFormer (Su and others 2021), equation 34, in halves.
    fn rotation(&self, length: i64) -> (Tensor, Tensor) {
        let frequencies: Vec<f32> = frequencies(&self.model).into_iter().map(|f| f as f32).collect();
        let inverse = Tensor::from_slice(&frequencies).to_device(self.device);
        let angles = Tensor::arange(length, (Kind::Float, self.device)).outer(&inverse);
        (angles.cos(), angles.sin())
    }

    /// Logits of tokens (B, T): (B, T, V), in the working dtype.
    pub fn logits(&self, tokens_bt: &Tensor) -> Tensor {
        self.last(tokens_bt).linear(&self.head_vd, None::<&Tensor>)
    }

    /// What the output layer reads, (B, T, D).
    fn last(&self, tokens_bt: &Tensor) -> Tensor {
        let (batch, length) = (tokens_bt.size()[0], tokens_bt.size()[1]);
        let (heads, kv, width) =
            (self.model.num_attention_heads as i64, self.model.num_key_value_heads as i64, self.model.width() as i64);
        let (cos, sin) = self.rotation(length);
        let rotate = |x: &Tensor| {
            let halves = x.chunk(2, -1);
            let (cos, sin) = (cos.to_kind(x.kind()), sin.to_kind(x.kind()));
            Tensor::cat(&[&halves[0] * &cos - &halves[1] * &sin, &halves[1] * &cos + &halves[0] * &sin], -1)
        };
        let none = None::<&Tensor>;
        let mut x_btd = Tensor::embedding(&self.embed_vd, tokens_bt, -1, false, false);
        for layer in &self.layers {
            let a_btd = self.norm(&x_btd, &layer.attention_norm_d);
            let split = |linear: &Linear, heads: i64| linear.of(&a_btd).view([batch, length, heads, width]);
            let (mut query, mut key) = (split(&layer.query_hed, heads), split(&layer.key_ked, kv));
            if let Some((query_norm, key_norm)) = &layer.head_norms_e {
                (query, key) = (self.norm(&query, query_norm), self.norm(&key, key_norm));
            }
            let query = rotate(&query.transpose(1, 2)); // (B,H,T,E)
            let mut key = rotate(&key.transpose(1, 2)); // (B,K,T,E)
            let mut value = split(&layer.value_ked, kv).transpose(1, 2);
            if kv != heads {
                key = key.repeat_interleave_self_int(heads / kv, 1, None);
                value = value.repeat_interleave_self_int(heads / kv, 1, None);
            }
            let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, none, 0.0, true, None, false);
            let mixed_btd = mixed.transpose(1, 2).reshape([batch, length, heads * width]);
            // Not in place: the norm's gradient needs what it read.
            x_btd = x_btd.g_add(&layer.output_dd.of(&mixed_btd));
            let f_btd = self.norm(&x_btd, &layer.feed_norm_d);
            let inner = layer.gate_fd.of(&f_btd).silu() * layer.up_fd.of(&f_btd);
            x_btd = x_btd.g_add(&layer.down_df.of(&inner));
        }
        self.norm(&x_btd, &self.norm_d)
    }

    /// Mean cross-entropy in nats a token.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn loss(&self, tokens_bt: &Tensor, targets_bt: &Tensor) -> Result<Tensor, Report> {
        let last_nd = self.last(tokens_bt).flatten(0, 1);
        shim::linear_cross_entropy(&last_nd, &self.head_vd, &targets_bt.reshape([-1]))
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
