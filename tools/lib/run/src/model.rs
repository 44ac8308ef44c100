//! Which model a run trains: the Llama family, with the field names of a Hugging Face `config.json`.
//!
//! Sources: `configuration_*.py` and `modeling_*.py` of `llama`, `mistral`, `qwen2` and `qwen3` in Hugging Face transformers.

use record::{Context, Report};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What a model is called, and what is built into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 2 and 3.
    #[default]
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5: biases of queries, keys and values.
    Qwen2,
    /// Qwen 3: norms of each head's queries and keys.
    Qwen3,
}

/// How positions beyond those of the first training are turned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// `linear` or `llama3`.
    pub rope_type: String,
    /// Frequencies are divided by it.
    pub factor: f64,
    /// `llama3`: waves longer than the first training's positions by this part are divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// `llama3`: waves shorter than the first training's positions by this part are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// `llama3`: positions of the first training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<u64>,
}

/// A transformer of RMSNorm, RoPE, SwiGLU and grouped-query attention.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its family; absent: `llama`.
    #[serde(default, rename = "model_type", skip_serializing_if = "is_default")]
    pub family: Family,
    /// Number of tokens that there are.
    pub vocab_size: u64,
    /// Width.
    pub hidden_size: u64,
    /// Width inside the feed-forward part.
    pub intermediate_size: u64,
    /// Layers.
    pub num_hidden_layers: u64,
    /// Query heads.
    pub num_attention_heads: u64,
    /// Key and value heads.
    pub num_key_value_heads: u64,
    /// Width of a head; absent: `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<u64>,
    /// Longest sequence.
    pub max_position_embeddings: u64,
    /// ε of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotation.
    pub rope_theta: f64,
    /// Its scaling, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Biases of queries, keys, values and the attention's output: `llama` and `qwen3`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attention_bias: bool,
    /// Biases inside the feed-forward part: `llama`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mlp_bias: bool,
    /// The output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the first state's matrices.
    pub initializer_range: f64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Fields of a `config.json` that say nothing about the maths of training.
const SILENT: [&str; 18] = [
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "chunk_size_feed_forward",
];

/// Fields that say something, and what they may say: what this suite does.
fn usual() -> Map<String, Value> {
    let usual = json!({
        "attention_dropout": 0.0, "hidden_act": "silu", "hidden_dropout": 0.0, "partial_rotary_factor": 1.0, "pretraining_tp": 1,
        "use_sliding_window": false, "is_encoder_decoder": false, "is_decoder": false,
    });
    usual.as_object().cloned().unwrap_or_default()
}

impl Model {
    /// The model of a Hugging Face `config.json`. What would change the maths and is not done here is refused by name.
    ///
    /// # Errors
    /// Exit code 65 with the field.
    pub fn from_config(config: &Value) -> Result<Self, Report> {
        let bad = |field: &str, why: &str| Err(Report::data(format!("{field}: {why}")));
        let Some(config) = config.as_object() else { return bad("config.json", "no object") };
        let family = config.get("model_type").cloned().unwrap_or_default();
        let Ok(family) = serde_json::from_value::<Family>(family.clone()) else {
            return bad("model_type", &format!("{family}; llama, mistral, qwen2 and qwen3 are known"));
        };
        let mut own = Map::new();
        let (known, usual) = (
            json!(Model {
                head_dim: Some(1),
                rope_scaling: None,
                attention_bias: true,
                mlp_bias: true,
                ..Model::default()
            }),
            usual(),
        );
        for (field, value) in config {
            if known.get(field).is_some() && field != "model_type" {
                if !value.is_null() {
                    own.insert(field.clone(), value.clone());
                }
                continue;
            }
            match field.as_str() {
                "rope_scaling" | "rope_parameters" => rope(value, &mut own)?,
                // A window that no sequence is longer than is none; Qwen's is off unless it is used.
                "sliding_window" if value.is_null() || family != Family::Mistral => {}
                "sliding_window" => {
                    let most = config.get("max_position_embeddings").and_then(Value::as_u64).unwrap_or(u64::MAX);
                    if value.as_u64().is_none_or(|window| window < most) {
                        return bad(
                            field,
                            &format!("{value}: attention in windows shorter than max_position_embeddings is not done"),
                        );
                    }
                }
                "layer_types"
                    if value.as_array().is_some_and(|all| all.iter().all(|kind| kind == "full_attention")) => {}
                field if SILENT.contains(&field) || value.is_null() => {}
                field => match usual.get(field) {
                    Some(usual)
                        if *usual == *value || usual.as_f64().is_some_and(|usual| Some(usual) == value.as_f64()) => {}
                    Some(usual) => return bad(field, &format!("{value}; only {usual} is done")),
                    None => return bad(field, "not known here, and may change the maths"),
                },
            }
        }
        own.insert("model_type".into(), json!(family));
        let absent = json!({"tie_word_embeddings": false, "rope_theta": 10000.0, "initializer_range": 0.02});
        for (field, value) in absent.as_object().into_iter().flatten() {
            own.entry(field.clone()).or_insert_with(|| value.clone());
        }
        if family == Family::Llama && !own.contains_key("num_key_value_heads") {
            own.insert("num_key_value_heads".into(), config.get("num_attention_heads").cloned().unwrap_or_default());
        }
        let model: Model = serde_json::from_value(own.into()).data("config.json")?;
        model.check().map_err(|e| Report { code: record::Code::Data, ..e })?;
        Ok(model)
    }

    /// Check every value against its bounds.
    ///
    /// # Errors
    /// Exit code 78, with the field.
    pub fn check(&self) -> Result<(), Report> {
        let bad = |field: &str, why: &str| Err(Report::config(format!("model.{field}: {why}")));
        for (field, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 22),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim.unwrap_or(1), 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ] {
            if value == 0 || value > most {
                return bad(field, &format!("1 to {most}, this is {value}"));
            }
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads)
            || !self.width().is_multiple_of(2)
        {
            return bad(
                "num_attention_heads",
                "divides hidden_size into heads of even width, unless head_dim says their width",
            );
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return bad("num_key_value_heads", "divides num_attention_heads");
        }
        for (field, value, low, high) in [
            ("rms_norm_eps", self.rms_norm_eps, 1e-12, 1.0),
            ("rope_theta", self.rope_theta, 1.0, 1e12),
            ("initializer_range", self.initializer_range, 1e-6, 10.0),
        ] {
            if !(low..=high).contains(&value) {
                return bad(field, &format!("{low} to {high}, this is {value}"));
            }
        }
        if self.attention_bias && !matches!(self.family, Family::Llama | Family::Qwen3) {
            return bad("attention_bias", "only llama and qwen3 have it");
        }
        if self.mlp_bias && self.family != Family::Llama {
            return bad("mlp_bias", "only llama has it");
        }
        let Some(rope) = &self.rope_scaling else { return Ok(()) };
        let bounds = (rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings);
        let good = match (rope.rope_type.as_str(), bounds) {
            ("linear", (None, None, None)) => true,
            ("llama3", (Some(low), Some(high), Some(1..))) => low > 0.0 && high > low && high < 1e6,
            _ => false,
        };
        if !good || !(1.0..=1e6).contains(&rope.factor) {
            return bad(
                "rope_scaling",
                "linear with a factor from 1, or llama3 with low_freq_factor, high_freq_factor above it and \
                 original_max_position_embeddings too; others (dynamic, yarn, longrope) are not done",
            );
        }
        Ok(())
    }

    /// Width of a head, E.
    pub fn width(&self) -> u64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Names and shapes of the parameters, sorted by name: the order of everything that is hashed or tiled.
    pub fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (width, inner, head) = (self.hidden_size, self.intermediate_size, self.width());
        let (queries, keys) = (head * self.num_attention_heads, head * self.num_key_value_heads);
        let mut all = vec![
            ("model.embed_tokens.weight".to_string(), vec![self.vocab_size, width]),
            ("model.norm.weight".to_string(), vec![width]),
        ];
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".into(), vec![self.vocab_size, width]));
        }
        let projected = self.attention_bias || self.family == Family::Qwen2;
        for layer in 0..self.num_hidden_layers {
            let mut push =
                |part: &str, kind: &str, shape| all.push((format!("model.layers.{layer}.{part}.{kind}"), shape));
            for (part, rows, cols, bias) in [
                ("mlp.down_proj", width, inner, self.mlp_bias),
                ("mlp.gate_proj", inner, width, self.mlp_bias),
                ("mlp.up_proj", inner, width, self.mlp_bias),
                ("self_attn.k_proj", keys, width, projected),
                ("self_attn.o_proj", width, queries, self.attention_bias),
                ("self_attn.q_proj", queries, width, projected),
                ("self_attn.v_proj", keys, width, projected),
            ] {
                push(part, "weight", vec![rows, cols]);
                if bias {
                    push(part, "bias", vec![rows]);
                }
            }
            for part in ["input_layernorm", "post_attention_layernorm"] {
                push(part, "weight", vec![width]);
            }
            if self.family == Family::Qwen3 {
                for part in ["self_attn.q_norm", "self_attn.k_norm"] {
                    push(part, "weight", vec![head]);
                }
            }
        }
        all.sort();
        all
    }

    /// Floating-point operations of a training step for each token. Source: Chowdhery and others (PaLM, 2022), appendix B.
    pub fn flop_per_token(&self, length: u64) -> u64 {
        let looked_up = if self.tie_word_embeddings { 0 } else { self.vocab_size * self.hidden_size };
        let attention = self.num_hidden_layers * self.num_attention_heads * self.width() * length;
        6 * (self.numel() - looked_up) + 12 * attention
    }

    /// Number of parameters.
    pub fn numel(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<u64>()).sum()
    }

    /// The `config.json` of the state directory.
    pub fn config_json(&self) -> Value {
        let (class, own) = match self.family {
            Family::Llama => ("LlamaForCausalLM", json!({"attention_bias": false, "mlp_bias": false})),
            // What is absent would be a window of 4,096.
            Family::Mistral => ("MistralForCausalLM", json!({"sliding_window": null})),
            Family::Qwen2 => ("Qwen2ForCausalLM", json!({"use_sliding_window": false})),
            Family::Qwen3 => ("Qwen3ForCausalLM", json!({"use_sliding_window": false, "attention_bias": false})),
        };
        let mut config = json!({
            "architectures": [class],
            "model_type": self.family,
            // What is absent would be another number with some families.
            "head_dim": self.width(),
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "torch_dtype": "float32",
            "use_cache": true,
        });
        if let (Some(all), Value::Object(more), Ok(Value::Object(fields))) =
            (config.as_object_mut(), own, serde_json::to_value(self))
        {
            all.extend(more);
            all.extend(fields);
        }
        config
    }
}

/// A scaling of the rotation, by either of the names that transformers has had for its parts.
fn rope(value: &Value, own: &mut Map<String, Value>) -> Result<(), Report> {
    let Some(fields) = value.as_object() else {
        return if value.is_null() { Ok(()) } else { Err(Report::data(format!("rope_scaling: {value}"))) };
    };
    let mut fields = fields.clone();
    if let Some(kind) = fields.remove("type") {
        fields.entry("rope_type").or_insert(kind);
    }
    if let Some(theta) = fields.remove("rope_theta") {
        own.insert("rope_theta".into(), theta);
    }
    if fields.get("rope_type").is_some_and(|kind| kind != "default") {
        own.insert("rope_scaling".into(), fields.into());
    } else if fields.keys().any(|field| field != "rope_type") {
        return Err(Report::data(format!("rope_scaling: {value}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama() -> Value {
        json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 5e5, "tie_word_embeddings": true, "initializer_range": 0.02, "hidden_act": "silu", "pretraining_tp": 1,
            "bos_token_id": 1, "torch_dtype": "bfloat16"})
    }

    #[test]
    fn what_would_change_the_maths_is_refused_by_name() {
        let with = |changes: Value| {
            let mut config = llama();
            config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            Model::from_config(&config)
        };
        let plain = with(json!({})).unwrap();
        assert_eq!((plain.width(), plain.rope_scaling.clone()), (16, None));
        assert_eq!(Model::from_config(&plain.config_json()).unwrap().tensors(), plain.tensors(), "our own comes back");
        for (changes, named) in [
            (json!({"model_type": "gpt2"}), "model_type"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"attention_dropout": 0.1}), "attention_dropout"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_scaling"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), "rope_scaling"),
            (json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0, "more": 1}}), "more"),
            (json!({"model_type": "mistral", "sliding_window": 64}), "sliding_window"),
            (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
            (json!({"model_type": "qwen2", "use_sliding_window": true}), "use_sliding_window"),
            (json!({"model_type": "mistral", "attention_bias": true}), "attention_bias"),
            (json!({"logit_scale": 2.0}), "logit_scale"),
            (json!({"head_dim": 15}), "head"),
            (json!({"vocab_size": -1}), "config.json"),
        ] {
            let error = with(changes.clone()).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(named), "{changes}: {error:?}");
        }
    }

    #[test]
    fn each_family_has_its_own_tensors() {
        let tensors = |changes: Value| {
            let mut config = llama();
            config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let model = Model::from_config(&config).unwrap();
            assert_eq!(
                Model::from_config(&model.config_json()).unwrap(),
                Model { head_dim: Some(model.width()), ..model.clone() }
            );
            model.tensors()
        };
        let has = |tensors: &[(String, Vec<u64>)], name: &str| {
            tensors.iter().find(|(own, _)| own.ends_with(name)).map(|(_, shape)| shape.clone())
        };
        let plain = tensors(json!({}));
        assert!(plain.iter().all(|(name, _)| !name.ends_with("bias")));
        let biased = tensors(json!({"attention_bias": true, "mlp_bias": true}));
        assert_eq!(biased.len(), plain.len() + 2 * 7);
        let qwen2 = tensors(
            json!({"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": false, "max_window_layers": 1}),
        );
        assert_eq!((has(&qwen2, "q_proj.bias"), has(&qwen2, "o_proj.bias")), (Some(vec![64]), None));
        let qwen3 = tensors(
            json!({"model_type": "qwen3", "head_dim": 32, "layer_types": ["full_attention", "full_attention"]}),
        );
        assert_eq!((has(&qwen3, "q_norm.weight"), has(&qwen3, "o_proj.weight")), (Some(vec![32]), Some(vec![64, 128])));
        let mistral = tensors(json!({"model_type": "mistral", "sliding_window": 128, "tie_word_embeddings": false}));
        assert!(has(&mistral, "lm_head.weight").is_some());
    }
}
