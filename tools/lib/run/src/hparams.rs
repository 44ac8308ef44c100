//! What the whole network must agree on: `hparams.json`.
//!
//! An unknown field is refused, since a node that ignores one would train something else than its peers.

pub use crate::model::{Family, Model, RopeScaling};
use record::{Context, Hash, Report, Window, files, words};
use serde::{Deserialize, Serialize};
use std::path::Path;

words! {
    /// How an update is sent.
    pub enum CodecName, "codec.name" {
        /// Some of its tiles, drawn once it was committed to.
        Slice = "slice",
        /// All of it.
        Dense = "dense",
        /// The largest values of each tile.
        Topk = "topk",
        /// The largest values of each tile's cosine transform.
        Dct = "dct",
    }
}

impl CodecName {
    /// Whether it sends a choice of values, and keeps the rest for later.
    pub fn is_sparse(self) -> bool {
        match self {
            CodecName::Slice | CodecName::Dense => false,
            CodecName::Topk | CodecName::Dct => true,
        }
    }

    /// How it can send a value.
    fn quantizations(self) -> &'static [Quantization] {
        use Quantization::{Bf16, F16, F32, Q2, Q4, Q8, Sign};
        match self {
            CodecName::Slice | CodecName::Dense => &[F32, Bf16, F16],
            CodecName::Topk | CodecName::Dct => &[Sign, Q2, Q4, Q8, F16, F32],
        }
    }
}

words! {
    /// How a value is sent.
    pub enum Quantization, "codec.values" {
        /// As it is.
        F32 = "f32",
        /// Rounded to bf16.
        Bf16 = "bf16",
        /// Rounded to f16.
        F16 = "f16",
        /// Its sign alone.
        Sign = "sign",
        /// Two bits.
        Q2 = "q2",
        /// Four bits.
        Q4 = "q4",
        /// Eight bits.
        Q8 = "q8",
    }
}

impl Quantization {
    /// Bits of a value.
    pub fn bits(self) -> u64 {
        match self {
            Quantization::Sign => 1,
            Quantization::Q2 => 2,
            Quantization::Q4 => 4,
            Quantization::Q8 => 8,
            Quantization::Bf16 | Quantization::F16 => 16,
            Quantization::F32 => 32,
        }
    }
}

words! {
    /// What moves the parameters in a window.
    pub enum InnerOptimizer, "inner.optimizer" {
        /// Gradient descent.
        Sgd = "sgd",
        /// AdamW.
        AdamW = "adamw",
        /// Matrices inside the layers by Muon, with the update's size of AdamW's; all else by AdamW.
        Muon = "muon",
    }
}

words! {
    /// In what the inner steps' products are computed.
    pub enum Dtype, "inner.dtype" {
        /// f32.
        F32 = "f32",
        /// bf16, over f32 masters.
        Bf16 = "bf16",
    }
}

words! {
    /// How the inner learning rate goes on after the warm-up.
    pub enum ScheduleKind, "inner.schedule.kind" {
        /// It stays.
        Constant = "constant",
        /// A cosine, to `last` at the end of `windows`.
        Cosine = "cosine",
        /// Constant, and then straight down to `last` over the last `decay_windows` of `windows`.
        Wsd = "wsd",
    }
}

words! {
    /// What moves θ from window to window.
    pub enum OuterOptimizer, "outer.optimizer" {
        /// Gradient descent.
        Sgd = "sgd",
        /// Nesterov's momentum.
        Nesterov = "nesterov",
        /// AdamW.
        AdamW = "adamw",
    }
}

words! {
    /// How deltas become one, where it is not their weighted mean.
    pub enum Aggregate, "outer.aggregate" {
        /// Value by value, the median.
        Median = "median",
        /// Value by value, the mean without so many at either end.
        Trimmed = "trimmed",
        /// Centred clipping.
        Centred = "centred",
    }
}

words! {
    /// How a delta is judged.
    pub enum Rule, "score.rule" {
        /// By its cosine with the recomputed update.
        Cosine = "cosine",
        /// By its distance from it.
        L2 = "l2",
    }
}

words! {
    /// What a delta counts, where not all count the same.
    pub enum AcceptWeights, "accept.weights" {
        /// Its peer's incentive on the chain, where any has some.
        Incentive = "incentive",
    }
}

/// All that a run agrees on. Its hash, with chain and subnet, names the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hparams {
    /// Version of this form: 1.
    pub v: u32,
    /// For people.
    pub name: String,
    /// The first window of the run.
    pub start_window: Window,
    /// The window clock.
    pub clock: Clock,
    /// The model, with the field names of a Hugging Face `config.json`.
    pub model: Model,
    /// Seed of the first state.
    pub init_seed: u64,
    /// Where the first state is a model that was trained before: its hash, as `bz-state hparams` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_model: Option<Hash>,
    /// The text.
    pub data: Data,
    /// What a miner does in a window.
    pub inner: Inner,
    /// What crosses the network.
    pub codec: Codec,
    /// What enters the state.
    pub accept: Accept,
    /// How it enters.
    pub outer: Outer,
    /// 0: training of a window starts from the deltas of the last one.
    pub lag: u32,
    /// How a delta is judged.
    pub score: Score,
    /// How scores become weights.
    pub fold: Fold,
}

/// The moments of a window, in blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Length of a window.
    pub blocks: u64,
    /// From the start of a window to its commit block.
    pub commit_offset: u64,
    /// From the start of the *next* window to the deadline of the deltas.
    pub deadline_offset: u64,
    /// From the start of the *next* window to the block by which its state is published.
    pub state_offset: u64,
    /// How many blocks later each next validator in stake may publish instead.
    pub state_grace: u64,
}

/// The text and how it is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Name of the source, as in its manifest.
    pub source: String,
    /// Hash of the manifest; `null` stands only in a template whose source is not indexed yet.
    pub manifest: Option<Hash>,
    /// Hash of `tokenizer.json`; `null`: plain bytes, with 256 as end of text.
    pub tokenizer: Option<Hash>,
    /// Tokens predicted in a sequence, T.
    pub sequence_length: u64,
    /// Rows of the source in a page.
    pub rows_per_page: u64,
    /// Pages of a uid in a window.
    pub pages_per_window: u64,
    /// Uids that the subnet can have.
    pub max_uids: u64,
}

/// The inner steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inner {
    /// What moves the parameters.
    pub optimizer: InnerOptimizer,
    /// Steps in a window.
    pub steps: u64,
    /// Sequences in a step; `null`: all sequences of the pages, divided among the steps.
    pub batch: Option<u64>,
    /// Sequences that go through the model at once; gradients of a step are summed over these. Absent: as many as fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u64>,
    /// Learning rate.
    pub lr: f64,
    /// AdamW's β₁.
    pub beta1: f64,
    /// AdamW's β₂.
    pub beta2: f64,
    /// AdamW's ε.
    pub eps: f64,
    /// AdamW's decay of the matrices.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; 0: none.
    pub clip: f64,
    /// In what products are computed.
    pub dtype: Dtype,
    /// Muon's momentum; absent: 0.95.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// How the learning rate changes over the run; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

/// The inner learning rate over the run, by the window's number: who joins late is in step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// How it goes on after the warm-up.
    pub kind: ScheduleKind,
    /// From nothing to all in so many windows.
    pub warmup_windows: u64,
    /// Length of the whole.
    pub windows: u64,
    /// `wsd`: how long it goes down.
    #[serde(default)]
    pub decay_windows: u64,
    /// The share of `lr` at the end, and after it.
    pub last: f64,
}

impl Schedule {
    /// The share of `lr` that a step takes, of so many in a window: by its end, so that the first is not nothing.
    pub fn share(&self, start: Window, window: Window, step: u64, steps: u64) -> f64 {
        let done = window.0.saturating_sub(start.0) as f64 + (step + 1) as f64 / steps.max(1) as f64;
        let (warmup, all, decay) = (self.warmup_windows as f64, self.windows as f64, self.decay_windows as f64);
        if done < warmup {
            return done / warmup;
        }
        let down = |part: f64| self.last + (1.0 - self.last) * part;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => {
                let part = ((done - warmup) / (all - warmup).max(1.0)).min(1.0);
                down(0.5 * (1.0 + (std::f64::consts::PI * part).cos()))
            }
            ScheduleKind::Wsd => down(((all - done) / decay.max(1.0)).clamp(0.0, 1.0)),
        }
    }
}

/// What crosses the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Codec {
    /// Which it is.
    pub name: CodecName,
    /// `slice`: one of so many tiles is revealed; 1 for the others.
    pub compression: u64,
    /// `f32`, `bf16` or `f16`; `topk` and `dct`: `sign`, `q2`, `q4`, `q8`, `f16` or `f32`.
    pub values: Quantization,
    /// `topk` and `dct`: so many values of each tile are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u64>,
    /// `topk` and `dct`: the share of what was not sent that is left a window later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<f64>,
}

impl Codec {
    /// Whether it sends a choice of values, and keeps the rest for later.
    pub fn is_sparse(&self) -> bool {
        self.name.is_sparse()
    }
}

/// What enters the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// A peer's last judgement within so many windows has to be good; 1: this very window's.
    pub memory_windows: u64,
    /// Clip each delta to the median norm.
    pub clip_to_median: bool,
    /// What a delta counts; absent: all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<AcceptWeights>,
}

/// The outer optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outer {
    /// What moves θ.
    pub optimizer: OuterOptimizer,
    /// Learning rate.
    pub lr: f64,
    /// Nesterov's momentum.
    pub momentum: f64,
    /// AdamW's β₁.
    pub beta1: f64,
    /// AdamW's β₂.
    pub beta2: f64,
    /// AdamW's ε.
    pub eps: f64,
    /// AdamW's decay of the matrices.
    pub weight_decay: f64,
    /// Learning rate at the end of the cosine schedule.
    pub lr_final: f64,
    /// Length of the schedule in windows; 0: `lr` for ever.
    pub lr_windows: u64,
    /// How deltas become one; absent: their weighted mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// `trimmed`: the share of the deltas that is left out at either end, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trim: Option<f64>,
    /// `centred`: what lies farther from the centre than so many median distances is drawn near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub radius: Option<f64>,
}

/// How a delta is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// By what.
    pub rule: Rule,
    /// Cosine below which nothing is paid.
    pub threshold: f64,
    /// Least ratio of the sent to the recomputed norm.
    pub band_low: f64,
    /// Greatest such ratio.
    pub band_high: f64,
    /// 1: zero below the threshold and outside the band. 0: in proportion to the cosine.
    pub sharpness: f64,
    /// Peers audited in a window.
    pub sample: u64,
}

/// How scores become weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// The last so many windows count.
    pub windows: u64,
    /// Share of the newest score in the moving average, α.
    pub alpha: f64,
    /// Averages are raised to this power.
    pub power: f64,
    /// Averages below this are nothing.
    pub threshold: f64,
    /// Version of the rules that weights are set by, which the subnet's owner may ask for; absent: any (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_key: Option<u64>,
}

/// The block numbers of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// First block.
    pub start: u64,
    /// From here commitments are fetched.
    pub commit: u64,
    /// Last block.
    pub end: u64,
    /// Deltas after this are late.
    pub deadline: u64,
    /// The next state is published by this block.
    pub state: u64,
}

impl Hparams {
    /// Read and check.
    ///
    /// # Errors
    /// Exit code 78: absent, an unknown field, a value out of bounds.
    pub fn load(path: &Path) -> Result<Self, Report> {
        if !path.exists() {
            return Err(Report::config(format!("there is no {}", path.display()))
                .hint("copy the run's own: pipelines/hparams/ has those of known runs")
                .hint("or say where it is: --hparams FILE, or BZ_HPARAMS; the node's folder is --home or BZ_HOME"));
        }
        let hparams: Hparams = serde_json::from_slice(&files::read_capped(path, 1 << 20)?).config(path.display())?;
        hparams.check().map_err(|e| e.at(path.display()))?;
        Ok(hparams)
    }

    /// Check every value against its bounds.
    ///
    /// # Errors
    /// Exit code 78, with the field.
    pub fn check(&self) -> Result<(), Report> {
        let bad = |field: &str, why: &str| Err(Report::config(format!("{field}: {why}")));
        let (c, m, d, i) = (&self.clock, &self.model, &self.data, &self.inner);
        if self.v != 1 {
            return bad("v", "this version reads 1").map_err(|e| e.hint("a newer suite reads newer runs"));
        }
        m.check()?;
        if !(4..=1 << 20).contains(&c.blocks) {
            return bad("clock.blocks", "4 to 1048576");
        }
        if c.commit_offset == 0 || c.commit_offset + 1 >= c.blocks {
            return bad("clock.commit_offset", "inside the window, and before its last block");
        }
        if c.deadline_offset == 0 || c.deadline_offset >= c.state_offset || c.state_offset >= c.commit_offset {
            return bad("clock", "0 < deadline_offset < state_offset < commit_offset");
        }
        if c.state_grace == 0 || c.state_grace > c.blocks {
            return bad("clock.state_grace", "1 to clock.blocks");
        }
        if self.start_window.0 > u64::MAX / c.blocks / 2 {
            return bad("start_window", "beyond any chain");
        }
        for (field, value, most) in [
            ("data.sequence_length", d.sequence_length, m.max_position_embeddings),
            ("data.rows_per_page", d.rows_per_page, 1 << 20),
            ("data.pages_per_window", d.pages_per_window, 1 << 16),
            ("data.max_uids", d.max_uids, 1 << 16),
            ("inner.steps", i.steps, 1 << 20),
            ("inner.micro_batch", i.micro_batch.unwrap_or(1), 1 << 20),
            ("inner.batch", i.batch.unwrap_or(1), 1 << 20),
            ("codec.compression", self.codec.compression, 1 << 30),
            ("accept.memory_windows", self.accept.memory_windows, 1 << 20),
            ("fold.windows", self.fold.windows, 1 << 20),
            ("score.sample", self.score.sample, 1 << 16),
        ] {
            if value == 0 || value > most {
                return bad(field, &format!("1 to {most}, this is {value}"));
            }
        }
        for (field, value, low, high) in [
            ("inner.lr", i.lr, 0.0, 1e3),
            ("inner.beta1", i.beta1, 0.0, 0.9999999),
            ("inner.beta2", i.beta2, 0.0, 0.9999999),
            ("inner.eps", i.eps, 0.0, 1.0),
            ("inner.weight_decay", i.weight_decay, 0.0, 1e3),
            ("inner.clip", i.clip, 0.0, 1e9),
            ("outer.lr", self.outer.lr, 0.0, 1e6),
            ("outer.lr_final", self.outer.lr_final, 0.0, 1e6),
            ("outer.momentum", self.outer.momentum, 0.0, 0.9999999),
            ("outer.beta1", self.outer.beta1, 0.0, 0.9999999),
            ("outer.beta2", self.outer.beta2, 0.0, 0.9999999),
            ("outer.eps", self.outer.eps, 0.0, 1.0),
            ("outer.weight_decay", self.outer.weight_decay, 0.0, 1e3),
            ("score.threshold", self.score.threshold, -1.0, 1.0),
            ("score.band_low", self.score.band_low, 0.0, 1.0),
            ("score.band_high", self.score.band_high, 1.0, 1e9),
            ("fold.alpha", self.fold.alpha, 1e-6, 1.0),
            ("fold.power", self.fold.power, 0.0, 100.0),
            ("fold.threshold", self.fold.threshold, 0.0, 1.0),
        ] {
            if !(low..=high).contains(&value) {
                return bad(field, &format!("{low} to {high}, this is {value}"));
            }
        }
        let known = self.codec.name.quantizations();
        if !known.contains(&self.codec.values) {
            let known: Vec<&str> = known.iter().map(|values| values.name()).collect();
            return bad("codec.values", &format!("one of {known:?}, this is {:?}", self.codec.values.name()));
        }
        if ![0.0, 1.0].contains(&self.score.sharpness) {
            return bad("score.sharpness", "1 (zero below the threshold) or 0 (in proportion)");
        }
        let codec = &self.codec;
        if codec.name != CodecName::Slice && codec.compression != 1 {
            return bad("codec.compression", "only slice reveals some of the tiles: 1");
        }
        match (codec.is_sparse(), codec.k, codec.decay) {
            (true, Some(1..=1024), Some(0.0..=1.0)) | (false, None, None) => {}
            (true, ..) => return bad("codec.k, codec.decay", "topk and dct need k, 1 to 1024, and decay, 0 to 1"),
            (false, ..) => return bad("codec.k, codec.decay", "only topk and dct have them"),
        }
        if codec.is_sparse() && self.score.rule == Rule::L2 {
            return bad("score.rule", "l2 compares all of an update, and this codec sends what earlier windows left");
        }
        if i.momentum.is_some() && i.optimizer != InnerOptimizer::Muon
            || !(0.0..1.0).contains(&i.momentum.unwrap_or(0.0))
        {
            return bad("inner.momentum", "muon's, from 0 to below 1");
        }
        if let Some(schedule) = &i.schedule {
            let parts = schedule.warmup_windows.checked_add(schedule.decay_windows);
            if parts.is_none_or(|parts| parts > schedule.windows) || schedule.windows > 1 << 40 {
                return bad("inner.schedule", "warmup_windows and decay_windows fit into windows");
            }
            if !(0.0..=1.0).contains(&schedule.last) {
                return bad("inner.schedule", "last from 0 to 1");
            }
        }
        match (self.outer.aggregate, self.outer.trim, self.outer.radius) {
            (None | Some(Aggregate::Median), None, None) | (Some(Aggregate::Trimmed), Some(0.0..0.5), None) => {}
            (Some(Aggregate::Centred), None, Some(radius)) if radius > 0.0 && radius <= 100.0 => {}
            _ => {
                return bad(
                    "outer.aggregate, outer.trim, outer.radius",
                    "none of them; or median; or trimmed with trim from 0 to below 0.5; or centred with radius above 0, to 100",
                );
            }
        }
        if self.lag != 0 {
            return bad("lag", "only 0: training of a window starts from the deltas of the last one");
        }
        Ok(())
    }

    /// The run's name: `blake3::derive_key("boltzmann run v1", genesis ‖ netuid u16-LE ‖ RFC 8785 JSON of this)`.
    pub fn run(&self, genesis: Hash, netuid: u16) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("boltzmann run v1");
        hasher.update(&genesis.0).update(&netuid.to_le_bytes());
        // Hparams hold only numbers, strings and nulls: their canonical form always exists.
        hasher.update(&serde_json_canonicalizer::to_vec(self).unwrap_or_default());
        hasher.finalize().into()
    }

    /// The blocks of a window.
    pub fn moments(&self, window: Window) -> Moments {
        let start = window.0.saturating_mul(self.clock.blocks);
        let next = start.saturating_add(self.clock.blocks);
        Moments {
            start,
            commit: start.saturating_add(self.clock.commit_offset),
            end: next - 1,
            deadline: next.saturating_add(self.clock.deadline_offset),
            state: next.saturating_add(self.clock.state_offset),
        }
    }

    /// The window that a block lies in.
    pub fn window_at(&self, block: u64) -> Window {
        Window(block / self.clock.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn boltzmanns_own_model_has_its_size() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams/boltzmann.json");
        let hparams = Hparams::load(&path).unwrap();
        // Llama 2048 wide, 16 layers, 8192 inner: 1.2 billion parameters.
        assert!((1.1e9..1.3e9).contains(&(hparams.model.numel() as f64)), "{}", hparams.model.numel());
        assert_eq!((hparams.codec.compression, hparams.data.pages_per_window), (100, 3));
    }

    #[test]
    fn every_known_runs_hparams_load_and_have_their_own_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams");
        let mut runs = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                let hparams = Hparams::load(&path).unwrap();
                assert!(runs.insert(hparams.run(Hash([1; 32]), 2)), "{}", path.display());
                assert_ne!(hparams.run(Hash([1; 32]), 2), hparams.run(Hash([1; 32]), 3));
                assert_ne!(hparams.run(Hash([1; 32]), 2), hparams.run(Hash([2; 32]), 2));
            }
        }
        assert!(runs.len() >= 3);
    }

    #[test]
    fn a_runs_name_is_what_it_was_when_its_words_were_text() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams/demo.json");
        let mut text: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        text["inner"]["schedule"] =
            json!({"kind": "wsd", "warmup_windows": 1, "windows": 9, "decay_windows": 4, "last": 0.1});
        text["codec"] = json!({"name": "dct", "compression": 1, "values": "q4", "k": 64, "decay": 0.9});
        text["outer"]["aggregate"] = "trimmed".into();
        text["outer"]["trim"] = 0.25.into();
        text["accept"]["weights"] = "incentive".into();
        let hparams: Hparams = serde_json::from_value(text.clone()).unwrap();
        hparams.check().unwrap();
        // The name is the hash of this form, so that every field's has to be what it was.
        let now: Value = serde_json::from_slice(&serde_json_canonicalizer::to_vec(&hparams).unwrap()).unwrap();
        for part in ["inner", "codec", "accept", "outer", "score"] {
            let canonical = |of: &Value| serde_json_canonicalizer::to_string(&of[part]).unwrap();
            assert_eq!(canonical(&now), canonical(&text));
        }
    }

    #[test]
    fn a_schedule_goes_up_and_down_by_the_window() {
        let of = |kind: &str| Schedule {
            kind: kind.parse().unwrap(),
            warmup_windows: 2,
            windows: 10,
            decay_windows: 4,
            last: 0.1,
        };
        let at = |kind: &str, window, step| of(kind).share(Window(100), Window(window), step, 4);
        for kind in ["constant", "cosine", "wsd"] {
            assert_eq!([at(kind, 100, 0), at(kind, 100, 3), at(kind, 101, 3)], [0.125, 0.5, 1.0], "{kind}");
        }
        assert_eq!(at("constant", 5000, 0), 1.0);
        assert_eq!([at("wsd", 105, 3), at("wsd", 107, 3), at("wsd", 109, 3), at("wsd", 500, 0)], [1.0, 0.55, 0.1, 0.1]);
        // Half of the cosine's way: the middle of 1 and 0.1.
        assert!((at("cosine", 105, 3) - 0.55).abs() < 1e-12 && (at("cosine", 109, 3) - 0.1).abs() < 1e-12);
        assert!((at("cosine", 500, 0) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn unknown_and_wrong_values_are_named() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams/demo.json");
        let good: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("h.json");
        for (pointer, value, named) in [
            ("/clock/blocks", json!(0), "clock.blocks"),
            ("/clock/commit_offset", json!(1_000_000), "commit_offset"),
            ("/model/num_attention_heads", json!(7), "num_attention_heads"),
            ("/inner/lr", json!(-1.0), "inner.lr"),
            ("/inner/momentum", json!(0.9), "inner.momentum"),
            (
                "/inner/schedule",
                json!({"kind": "step", "warmup_windows": 1, "windows": 9, "last": 0.1}),
                "inner.schedule",
            ),
            (
                "/inner/schedule",
                json!({"kind": "wsd", "warmup_windows": 6, "windows": 9, "decay_windows": 4, "last": 0.1}),
                "inner.schedule",
            ),
            ("/inner/lr", json!(null), "line"),
            (
                "/codec/name",
                json!("zip"),
                "codec.name: one of [\"slice\", \"dense\", \"topk\", \"dct\"], this is \"zip\"",
            ),
            ("/codec/values", json!("f64"), "codec.values"),
            ("/inner/optimizer", json!("adam"), "inner.optimizer"),
            ("/inner/dtype", json!("f16"), "inner.dtype"),
            ("/outer/optimizer", json!("muon"), "outer.optimizer"),
            ("/score/rule", json!("l1"), "score.rule"),
            ("/codec/values", json!("sign"), "codec.values"),
            ("/codec/k", json!(64), "codec.k"),
            ("/codec", json!({"name": "topk", "compression": 1, "values": "sign", "decay": 0.9}), "codec.k"),
            ("/codec", json!({"name": "topk", "compression": 1, "values": "sign", "k": 0, "decay": 0.9}), "codec.k"),
            ("/codec", json!({"name": "topk", "compression": 1, "values": "sign", "k": 1025, "decay": 0.9}), "codec.k"),
            ("/codec", json!({"name": "topk", "compression": 1, "values": "sign", "k": 64, "decay": 1.1}), "codec.k"),
            (
                "/codec",
                json!({"name": "topk", "compression": 4, "values": "sign", "k": 64, "decay": 0.9}),
                "compression",
            ),
            (
                "/codec",
                json!({"name": "topk", "compression": 1, "values": "bf16", "k": 64, "decay": 0.9}),
                "codec.values",
            ),
            ("/lag", json!(1), "lag"),
            ("/outer/aggregate", json!("mode"), "outer.aggregate"),
            ("/accept/weights", json!("stake"), "accept.weights"),
            ("/outer/aggregate", json!("trimmed"), "outer.trim"),
            ("/outer/aggregate", json!("centred"), "outer.radius"),
            ("/score/sharpness", json!(0.5), "sharpness"),
        ] {
            let mut wrong = good.clone();
            wrong["outer"]["aggregate"] = Value::Null;
            wrong["accept"]["weights"] = Value::Null;
            wrong["inner"]["momentum"] = Value::Null;
            wrong["inner"]["schedule"] = Value::Null;
            if pointer == "/codec/k" {
                wrong["codec"]["k"] = Value::Null;
            }
            *wrong.pointer_mut(pointer).unwrap() = value;
            std::fs::write(&file, wrong.to_string()).unwrap();
            let report = Hparams::load(&file).unwrap_err();
            assert!(report.error.contains(named) && report.code == record::Code::Config, "{pointer}: {report}");
        }
        let mut wrong = good;
        wrong["inner"]["momentum"] = json!(0.9);
        std::fs::write(&file, wrong.to_string()).unwrap();
        assert!(Hparams::load(&file).unwrap_err().error.contains("momentum"));
    }
}
