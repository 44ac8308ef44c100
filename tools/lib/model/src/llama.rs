//! Llama: embedding, layers of grouped-query attention and SwiGLU around RMSNorm, output layer.
//!
//! Shapes: B sequences, T tokens, D width, H query heads, K key-value heads, E width of a head, F inner width, V tokens
//! that there are. Source: `LlamaForCausalLM` of Hugging Face transformers, whose names and results these are.

use record::{Report, hparams::Model};
use std::collections::BTreeMap;
use tch::{Device, Kind, Reduction, Tensor};

struct Layer {
    attention_norm_d: Tensor,
    query_hed: Tensor,
    key_ked: Tensor,
    value_ked: Tensor,
    output_dd: Tensor,
    feed_norm_d: Tensor,
    gate_fd: Tensor,
    up_fd: Tensor,
    down_df: Tensor,
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
                let get = |part: &str| get(&format!("model.layers.{index}.{part}.weight"));
                Ok(Layer {
                    attention_norm_d: get("input_layernorm")?,
                    query_hed: get("self_attn.q_proj")?,
                    key_ked: get("self_attn.k_proj")?,
                    value_ked: get("self_attn.v_proj")?,
                    output_dd: get("self_attn.o_proj")?,
                    feed_norm_d: get("post_attention_layernorm")?,
                    gate_fd: get("mlp.gate_proj")?,
                    up_fd: get("mlp.up_proj")?,
                    down_df: get("mlp.down_proj")?,
                })
            })
            .collect::<Result<_, Report>>()?;
        let norm_d = get("model.norm.weight")?;
        Ok(Llama { params, embed_vd, head_vd, layers, norm_d, model: model.clone(), device })
    }

    fn norm(&self, x_btd: &Tensor, weight_d: &Tensor) -> Tensor {
        x_btd.rms_norm([self.model.hidden_size as i64], Some(weight_d), self.model.rms_norm_eps)
    }

    /// cos and sin of the rotation, (T, E/2). Source: RoFormer (Su and others 2021), equation 34, in halves.
    fn rotation(&self, length: i64) -> (Tensor, Tensor) {
        let half = self.model.head_dim() as i64 / 2;
        let float = (Kind::Float, self.device);
        let exponent = Tensor::arange(half, float) / half as f64;
        let inverse = (exponent * -self.model.rope_theta.ln()).exp();
        let angles = Tensor::arange(length, float).outer(&inverse);
        (angles.cos(), angles.sin())
    }

    /// Logits of tokens (B, T): (B, T, V), in the working dtype.
    pub fn logits(&self, tokens_bt: &Tensor) -> Tensor {
        let (batch, length) = (tokens_bt.size()[0], tokens_bt.size()[1]);
        let (heads, kv, width) = (
            self.model.num_attention_heads as i64,
            self.model.num_key_value_heads as i64,
            self.model.head_dim() as i64,
        );
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
            let split = |weight: &Tensor, heads: i64| {
                a_btd.linear(weight, none).view([batch, length, heads, width]).transpose(1, 2)
            };
            let query = rotate(&split(&layer.query_hed, heads)); // (B,H,T,E)
            let mut key = rotate(&split(&layer.key_ked, kv)); // (B,K,T,E)
            let mut value = split(&layer.value_ked, kv);
            if kv != heads {
                key = key.repeat_interleave_self_int(heads / kv, 1, None);
                value = value.repeat_interleave_self_int(heads / kv, 1, None);
            }
            let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, none, 0.0, true, None, false);
            let mixed_btd = mixed.transpose(1, 2).reshape([batch, length, heads * width]);
            // Not in place: the norm's gradient needs what it read.
            x_btd = x_btd.g_add(&mixed_btd.linear(&layer.output_dd, none));
            let f_btd = self.norm(&x_btd, &layer.feed_norm_d);
            let inner = f_btd.linear(&layer.gate_fd, none).silu() * f_btd.linear(&layer.up_fd, none);
            x_btd = x_btd.g_add(&inner.linear(&layer.down_df, none));
        }
        self.norm(&x_btd, &self.norm_d).linear(&self.head_vd, none)
    }

    /// Mean cross-entropy in nats a token.
    pub fn loss(&self, tokens_bt: &Tensor, targets_bt: &Tensor) -> Tensor {
        let logits = self.logits(tokens_bt);
        let vocab = self.model.vocab_size as i64;
        logits.view([-1, vocab]).to_kind(Kind::Float).cross_entropy_loss(
            &targets_bt.reshape([-1]),
            None::<&Tensor>,
            Reduction::Mean,
            -100,
            0.0,
        )
    }
}
