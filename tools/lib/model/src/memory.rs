//! How many sequences fit through a model at once.

use crate::{How, device};
use record::{Report, hparams::Model};
use tch::Device;

/// Bytes that a step keeps for the gradients: of each token, and of the parameters.
///
/// What the functions of `csrc/fused.cpp` save, or what libtorch's own operators do, which is about twice as much.
fn bytes_of_step(model: &Model, how: How) -> (u64, u64) {
    let fused = if how.plain { 2 } else { 1 };
    let size = if how.half { 2 } else { 4 };
    let (heads, kv) = (model.num_attention_heads * model.width(), model.num_key_value_heads * model.width());
    // The stream twice in f32, what the norms give, queries, keys, values, what attention gives, gate, up and their product.
    let stream = 8 * model.hidden_size;
    let inside = size * (2 * model.hidden_size + 2 * heads + 2 * kv + 3 * model.intermediate_size);
    let layers = match (how.train, how.checkpoint) {
        (true, false) => (stream + inside) * (model.num_hidden_layers + 1),
        (true, true) => (4 + size) * model.hidden_size * model.num_hidden_layers + 2 * (stream + inside),
        (false, _) => 2 * (stream + inside),
    };
    // Logits of some tokens only, see `linear_cross_entropy`.
    let logits = (1 << 27).max(64 * size * model.vocab_size);
    // A copy of θ and that of the products; a part's gradients and their sum; both moments.
    let copy = if how.half { 2 } else { 0 };
    let parameters = if how.train { (4 + copy + 4 + 4 + 8) * model.numel() } else { 0 };
    (layers * fused, parameters + logits * fused)
}

/// Sequences that fit at once into what is free, of a step's `batch`; at least one. With a GPU for every replica.
///
/// # Errors
/// When a GPU does not say what it has.
pub fn micro_batch(model: &Model, how: How, length: u64, batch: u64, devices: &[Device]) -> Result<u64, Report> {
    let Some(first) = devices.first() else { return Ok(1) };
    let (each, fixed) = bytes_of_step(model, how);
    let copies = if first.is_cuda() { 1 } else { devices.len() as u64 };
    // A fifth is left to others, and to what only lives for a moment.
    let free = device::free_memory(*first)? / 5 * 4 / copies;
    let fit = free.saturating_sub(fixed) / (each * length).max(1);
    // A replica has its share of the batch. On the CPU more tokens at once are no faster, and leave its caches.
    let most = batch.div_ceil(devices.len() as u64);
    let enough = if first.is_cuda() { most } else { (CPU_TOKENS / length.max(1)).max(1) };
    // A power of two: a little more or less of free memory does not change the rounding.
    let fit = fit.min(most).min(enough).max(1);
    Ok(1 << fit.ilog2())
}

const CPU_TOKENS: u64 = 4096;
