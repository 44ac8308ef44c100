//! The record types: facts on the pipe. Readers ignore fields and pass on types that they do not know.

use crate::{Hash, Hotkey, Uid, Window};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::PathBuf;

/// A record with its name on the wire.
pub trait Record: Serialize + DeserializeOwned {
    /// The value of its `type` field.
    const TYPE: &'static str;
}

macro_rules! record {
    ($name:ident, $tag:literal) => {
        impl Record for $name {
            const TYPE: &'static str = $tag;
        }
    };
}

crate::words! {
    /// What was found of something that a peer owes, or that was made.
    pub enum Status, "status" {
        /// It is good.
        Ok = "ok",
        /// It came after its time.
        Late = "late",
        /// It did not come.
        Missing = "missing",
        /// It is not what it should be.
        Invalid = "invalid",
        /// A value in it is not finite.
        Nonfinite = "nonfinite",
    }
}

crate::words! {
    /// Why pages were taken.
    pub enum Role, "role" {
        /// They are those of the miner itself.
        Own = "own",
        /// Another's, to recompute its update.
        Audit = "audit",
        /// Nobody's own, the same for all.
        Random = "random",
        /// A person named them.
        Given = "given",
    }
}

/// Which network this is: the hash binds the chain, the subnet and the hparams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// See `run::Hparams::run`.
    pub run: Hash,
    /// Hash of the chain's first block.
    pub genesis: Hash,
    /// The subnet.
    pub netuid: u16,
    /// The hparams file.
    pub path: PathBuf,
    /// The chain is on this machine: buckets on loopback are allowed.
    #[serde(default)]
    pub local: bool,
}
record!(Run, "run");

/// One window: its blocks, and the hashes that are known so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Its number.
    pub window: Window,
    /// The run.
    pub run: Hash,
    /// The first block.
    pub start_block: u64,
    /// From here validators fetch commitments.
    pub commit_block: u64,
    /// The last block; commitments that were not seen by then are late.
    pub end_block: u64,
    /// Deltas uploaded after this block, which lies in the next window, are late.
    pub deadline_block: u64,
    /// By this block of the next window its state is published.
    pub state_block: u64,
    /// The last finalized block when this was written.
    pub block: u64,
    /// How far the chain's newest block was ahead of it: so many blocks later than it happens a moment is known, and no
    /// fork changes it any more.
    #[serde(default)]
    pub finality_blocks: u64,
    /// Hash of the start block: who trains on which pages.
    pub seed: Option<Hash>,
    /// Hash of the end block: which tiles are revealed, who is audited.
    pub reveal: Option<Hash>,
    /// The chain's clock at the deadline block, milliseconds since 1970, once it is there.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}
record!(WindowRecord, "window");

/// One neuron of the subnet, as of the window's start block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its place.
    pub uid: Uid,
    /// Its key.
    pub hotkey: Hotkey,
    /// Who owns it.
    #[serde(default)]
    pub coldkey: Option<Hotkey>,
    /// Where its bucket is, as it committed it on the chain. Hostile.
    pub bucket: Option<String>,
    /// What the chain weighs: stake in the subnet's own token (alpha), root stake (TAO) at the chain's rate, and what children pass on.
    pub stake: f64,
    /// Share of the miners' emission, `0..1`.
    pub incentive: f64,
    /// How far the validators agree about it, `0..1`, where the chain keeps that.
    #[serde(default)]
    pub trust: f64,
    /// Share of the validators' emission, `0..1`.
    #[serde(default)]
    pub dividends: f64,
    /// May set weights.
    pub permit: bool,
    /// Block of its last weights.
    pub last_update: u64,
    /// Block of its registration: with another one, or another hotkey, a uid is another peer.
    #[serde(default)]
    pub registered: u64,
    /// The wallet given is this one.
    #[serde(rename = "self")]
    pub own: bool,
}
record!(Peer, "peer");

/// One page: rows that follow each other in the data source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// The data source's name.
    pub source: String,
    /// The file in which it begins; it runs on into the next one where that ends.
    pub part: String,
    /// Its first row in that file.
    pub row: u64,
    /// How many rows.
    pub rows: u64,
    /// Hash of the rows' content, each with its length before it.
    pub blake3: Hash,
}

/// The pages of one uid in one window, tokenized and packed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pages {
    /// The window.
    pub window: Window,
    /// Whose pages.
    pub uid: Uid,
    /// Why these.
    pub role: Role,
    /// Which pages.
    pub pages: Vec<PageRef>,
    /// The packed tokens: safetensors with `tokens (sequences, T + 1) I32`.
    pub path: PathBuf,
    /// Size of that file.
    pub bytes: u64,
    /// Hash of that file.
    pub blake3: Hash,
    /// Tokens that are predicted: `sequences · T`.
    pub tokens: u64,
}
record!(Pages, "pages");

impl Pages {
    /// The hash of the list: `derive_key("boltzmann pages v1", content hash ‖ content hash ‖ …)`.
    pub fn hash(&self) -> Hash {
        let all: Vec<u8> = self.pages.iter().flat_map(|page| page.blake3.0).collect();
        Hash::derive("boltzmann pages v1", &all)
    }
}

/// What entered a state: one miner's delta.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// Whose.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// Hash of the delta file.
    pub blake3: Hash,
    /// Its share, relative to the others'.
    pub weight_u16: u16,
    /// Factor that clips it to the median norm, at most 1.
    pub scale: f32,
}

/// What is to enter the next state, decided by `bz-score accept`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accept {
    /// The window whose deltas these are.
    pub window: Window,
    /// In the order of uids.
    pub accepted: Vec<Accepted>,
    /// Norm that the scales clip to, of what was revealed.
    pub norm_median: f64,
}
record!(Accept, "accept");

/// One state of the model: the parameters that a window trains from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The window that trains from it.
    pub window: Window,
    /// The run.
    pub run: Hash,
    /// Hash over run, window, model, moments and what is pending.
    pub root: Hash,
    /// Root of the state that it was made from; `null` for the first.
    pub prev: Option<Hash>,
    /// Window of the state that it was made from.
    pub prev_window: Option<Window>,
    /// The state directory on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What entered, in the order of uids.
    pub accepted: Vec<Accepted>,
    /// Hash of the end block of the window that it was made from: which tiles its deltas carry.
    pub reveal: Option<Hash>,
    /// Who signed.
    pub by: Option<Hotkey>,
    /// sr25519 over the canonical JSON of the other fields, without `path` and `type`; 128 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}
record!(State, "state");

/// The update of one uid in one window, own or recomputed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Train {
    /// The window.
    pub window: Window,
    /// Whose pages.
    pub uid: Uid,
    /// Role of the pages.
    pub role: Role,
    /// The update Δ = θ − θ': safetensors, f32, the names and shapes of the model; absent when not finite.
    pub path: Option<PathBuf>,
    /// Size of that file.
    pub bytes: u64,
    /// Hash of that file.
    pub blake3: Option<Hash>,
    /// Root of θ.
    pub base: Hash,
    /// Hash over the content hashes of its pages.
    pub pages: Hash,
    /// Inner steps done.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Nats a token of the first step, on its own sequences; `null` when not finite.
    pub loss_before: Option<f64>,
    /// Nats a token on the same sequences after the last step.
    pub loss_after: Option<f64>,
    /// Tokens trained on a second of wall time.
    pub tokens_per_s: f64,
    /// CPU seconds of the whole process spent on this record.
    pub cpu_s: f64,
    /// `cpu` or `cuda:0`; with `+` between them, those that shared the work.
    pub device: String,
    /// `ok`, or `nonfinite`.
    pub status: Status,
    /// What was wrong.
    pub reason: Option<String>,
    /// Why it is not on a GPU, where one is there and none was asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_reason: Option<String>,
    /// Sequences that went through the model at once.
    #[serde(default)]
    pub micro_batch: u64,
    /// Whether layers kept only what they read.
    #[serde(default)]
    pub checkpoint: bool,
    /// Seconds of loading the state: nothing where it was there from the record before.
    #[serde(default)]
    pub load_s: f64,
    /// Seconds of checking and reading the pages.
    #[serde(default)]
    pub data_s: f64,
    /// Seconds of the loss after.
    #[serde(default)]
    pub evaluate_s: f64,
    /// Seconds of forward and backward passes.
    #[serde(default)]
    pub forward_backward_s: f64,
    /// Seconds of the optimizer.
    #[serde(default)]
    pub optimizer_s: f64,
    /// Seconds of writing the update.
    #[serde(default)]
    pub write_s: f64,
    /// Model FLOP a second of the steps: 6 for each parameter of a product and token, and 12·L·H·E·T a token for
    /// attention. Source: Chowdhery and others (PaLM, 2022), appendix B.
    #[serde(default)]
    pub model_flop_per_s: f64,
    /// Its share of what the devices can do in bf16 without sparsity, where that is known.
    #[serde(default)]
    pub peak_share: Option<f64>,
    /// Most memory that the process, or the largest of its GPUs' allocators, has had.
    #[serde(default)]
    pub peak_memory_bytes: u64,
}
record!(Train, "train");

/// A blinded commitment to an update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// The window.
    pub window: Window,
    /// The run.
    pub run: Hash,
    /// Whose.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// See `wire::commit`.
    pub commitment: Hash,
    /// sr25519 over the canonical JSON of run, window, uid, hotkey and commitment.
    pub signature: String,
    /// The commitment file on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `ok late missing invalid`, as the fetcher saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why not ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The block at which the fetcher saw it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// Late only because the fetcher itself was away: no judgement on the peer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
}
record!(Commit, "commit");

/// The delta of one peer in one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delta {
    /// The window.
    pub window: Window,
    /// Whose.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// The delta file on this machine.
    pub path: Option<PathBuf>,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: Option<Hash>,
    /// `slice` or `dense`, once it was checked.
    pub codec: Option<String>,
    /// Root of the state that it is for.
    pub base: Option<Hash>,
    /// `ok late missing invalid`.
    pub status: Status,
    /// Why not ok.
    pub reason: Option<String>,
    /// Late only because the fetcher itself was away: no judgement on the peer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
}
record!(Delta, "delta");

/// An upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Push {
    /// The window.
    pub window: Window,
    /// Whose bucket.
    pub uid: Option<Uid>,
    /// Where.
    pub url: String,
    /// Size of the object.
    pub bytes: u64,
    /// Hash of the object.
    pub blake3: Hash,
    /// Seconds that it took.
    pub wall_s: f64,
    /// False when the same object was there already, or under `--dry-run`.
    pub uploaded: bool,
}
record!(Push, "push");

/// A download.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pull {
    /// The window.
    pub window: Window,
    /// Whose bucket.
    pub uid: Uid,
    /// Where from.
    pub url: String,
    /// Size of the object.
    pub bytes: u64,
    /// Hash of the object.
    pub blake3: Hash,
    /// Seconds that it took.
    pub wall_s: f64,
}
record!(Pull, "pull");

/// The loss of a state on pages, with and without a delta.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Eval {
    /// The window.
    pub window: Window,
    /// Whose pages.
    pub uid: Uid,
    /// Role of the pages.
    pub role: Role,
    /// Nats a token of the state; `null` when not finite.
    pub loss_before: Option<f64>,
    /// Nats a token with the update applied; `null` when there was none or it is not finite.
    pub loss_after: Option<f64>,
    /// Tokens predicted.
    pub tokens: u64,
    /// `ok`, or `nonfinite`.
    pub status: Status,
}
record!(Eval, "eval");

/// What one peer's delta was worth in one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Score {
    /// The window.
    pub window: Window,
    /// Whose.
    pub uid: Uid,
    /// Whose.
    pub hotkey: Hotkey,
    /// `cosine` or `l2`.
    pub rule: String,
    /// Inner product with the reference, over what was revealed.
    pub dot: Option<f64>,
    /// Norm of what was sent.
    pub norm: Option<f64>,
    /// Norm of the recomputed update over the same tiles.
    pub norm_ref: Option<f64>,
    /// Values compared.
    pub numel: u64,
    /// The measurement.
    pub raw: Option<f64>,
    /// What it is worth: `0..1` for `cosine`, at most 0 for `l2`; `null`: not measured.
    pub score: Option<f64>,
    /// Why not more.
    pub reason: Option<String>,
}
record!(Score, "score");

/// The weights of a validator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Weights {
    /// The last window that they are from.
    pub window: Window,
    /// Whom.
    pub uids: Vec<Uid>,
    /// Whom, as they were scored.
    pub hotkeys: Vec<Hotkey>,
    /// How much, of 1.
    pub weights: Vec<f64>,
    /// As the chain has them.
    #[serde(default)]
    pub values_u16: Vec<u16>,
    /// Whether they were sent.
    #[serde(default)]
    pub submitted: bool,
    /// Hash of the extrinsic.
    #[serde(default)]
    pub tx: Option<Hash>,
    /// The final block that it is in.
    #[serde(default)]
    pub block: Option<u64>,
    /// Of a dry run: the call that would be signed.
    #[serde(default)]
    pub call: Option<String>,
    /// Its bytes, hexadecimal.
    #[serde(default)]
    pub call_bytes: Option<String>,
    /// Why they were not sent, or when they are revealed.
    #[serde(default)]
    pub reason: Option<String>,
}
record!(Weights, "weights");

/// Which record a validator stands for in a window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vote {
    /// The window.
    pub window: Window,
    /// Hash of the record; `null`: it stands for none.
    pub record: Option<Hash>,
    /// Hash of the last record that it holds for final.
    #[serde(default)]
    pub last: Option<Hash>,
    /// Why for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
record!(Vote, "vote");

/// What a hotkey's entry on the chain was to say of a window, and whether it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OnChain {
    /// The window.
    pub window: Window,
    /// Whose entry.
    pub hotkey: Hotkey,
    /// The commitment that was to be set.
    pub commitment: Option<Hash>,
    /// The vote that was to be set.
    pub vote: Option<Hash>,
    /// The last final record that was to be told.
    pub last: Option<Hash>,
    /// What is in the entry at this block counts.
    pub by_block: u64,
    /// `ok`: the entry says so; `late`, `older` (it speaks of a later window), `full` (the chain takes no more now), or
    /// `dry-run`.
    pub status: String,
    /// Whether it was sent now.
    pub submitted: bool,
    /// Hash of the extrinsic.
    #[serde(default)]
    pub tx: Option<Hash>,
    /// The final block that it is in.
    #[serde(default)]
    pub block: Option<u64>,
    /// Of a dry run: the call that would be signed.
    #[serde(default)]
    pub call: Option<String>,
    /// Its bytes, hexadecimal.
    #[serde(default)]
    pub call_bytes: Option<String>,
    /// Why it was not sent, or does not count.
    #[serde(default)]
    pub reason: Option<String>,
}
record!(OnChain, "onchain");

/// What a hotkey's entry on the chain said at a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// The block.
    pub block: u64,
    /// Whose entry.
    pub hotkey: Hotkey,
    /// The address of its bucket. Hostile.
    pub bucket: Option<String>,
    /// The window of the commitment.
    pub commitment_window: Option<Window>,
    /// To which update it has committed; see `wire::commit`.
    pub commitment: Option<Hash>,
    /// The window of the vote.
    pub vote_window: Option<Window>,
    /// Hash of the record that it votes for.
    pub vote: Option<Hash>,
    /// Hash of the last record that it holds for final.
    pub last: Option<Hash>,
    /// Why nothing but the address was read, where something else is there.
    #[serde(default)]
    pub reason: Option<String>,
}
record!(EntryRecord, "entry");
