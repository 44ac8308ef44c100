//! The C++ shim (`csrc/shim.cpp`): what tch lacks.
#![allow(unsafe_code)]

use crate::device;
use record::{Code, Report};
use std::ffi::{CStr, c_char, c_int};
use tch::{Device, Kind, Tensor};

type Raw = *const torch_sys::C_tensor;
type Made = *mut torch_sys::C_tensor;

unsafe extern "C" {
    fn bz_last_error() -> *const c_char;
    fn bz_fused_adamw(
        params: *const Raw,
        grads: *const Raw,
        first: *const Raw,
        second: *const Raw,
        steps: *const Raw,
        n: usize,
        scale: Raw,
        lr: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        eps: f64,
    ) -> c_int;
    fn bz_adamw(
        param: Raw,
        grad: Raw,
        first: Raw,
        second: Raw,
        copy: Raw,
        scale: f64,
        step: u64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        eps: f64,
    ) -> c_int;
    fn bz_cpu_level(level: *mut c_int) -> c_int;
    fn bz_cpu_has(level: c_int) -> c_int;
    fn bz_norm_in_blocks(tensors: *const Raw, n: usize, out: *mut f64) -> c_int;
    fn bz_norm_of(tensors: *const Raw, n: usize, out: *mut Made) -> c_int;
    fn bz_gradients(
        made: *const Raw,
        slopes: *const Raw,
        n: usize,
        inputs: *const Raw,
        m: usize,
        out: *mut Made,
    ) -> c_int;
    fn bz_norm(x: Raw, branch: Raw, w: Raw, eps: f64, bf16: c_int, y: *mut Made, sum: *mut Made) -> c_int;
    fn bz_linear(x: Raw, w: Raw, bias: Raw, out: *mut Made) -> c_int;
    fn bz_attention(qkv: Raw, cos: Raw, sin: Raw, heads: i64, kv: i64, out: *mut Made) -> c_int;
    fn bz_gate(both: Raw, out: *mut Made) -> c_int;
    fn bz_linear_cross_entropy(x: Raw, w: Raw, y: Raw, share: f64, fused: c_int, out: *mut Made) -> c_int;
    fn bz_orthogonal(matrix: Raw) -> c_int;
    fn bz_deterministic() -> c_int;
    fn bz_cuda_memory(index: i64, free: *mut u64, peak: *mut u64) -> c_int;
    fn bz_autocast_bf16(cuda: c_int, on: c_int) -> c_int;
}

fn checked(status: c_int) -> Result<(), Report> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the shim keeps the text of this thread's last error alive until the next one.
    let text = unsafe { CStr::from_ptr(bz_last_error()) }.to_string_lossy();
    Err(device::said(&text))
}

/// The place of the kernels' level in use, from 0.
pub(crate) fn cpu_level() -> Result<i32, Report> {
    let mut level = 0;
    // SAFETY: a place for the result.
    checked(unsafe { bz_cpu_level(&mut level) })?;
    Ok(level)
}

/// Whether the processor has the level at this place.
pub(crate) fn cpu_has(level: i32) -> bool {
    // SAFETY: a plain integer.
    unsafe { bz_cpu_has(level) != 0 }
}

fn raw(tensors: &[Tensor]) -> Vec<Raw> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// AdamW's coefficients for one step.
pub(crate) struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub decay: f64,
    pub eps: f64,
}

/// One step of AdamW over all parameters at once. The five lists are of one length; gradients are divided by `scale` in place.
pub(crate) fn fused_adamw(
    [params, grads, first, second, steps]: [&[Tensor]; 5],
    scale: Option<&Tensor>,
    c: &AdamW,
) -> Result<(), Report> {
    let n = params.len();
    if [grads, first, second, steps].iter().any(|list| list.len() != n) {
        return Err(Report::new(Code::Bug, "AdamW's lists differ in length"));
    }
    let lists = [params, grads, first, second, steps].map(raw);
    let [p, g, m, v, s] = [&lists[0], &lists[1], &lists[2], &lists[3], &lists[4]].map(|list| list.as_ptr());
    // SAFETY: five arrays of n live tensors, and one or none; the shim keeps none of them.
    checked(unsafe { bz_fused_adamw(p, g, m, v, s, n, or_null(scale), c.lr, c.beta1, c.beta2, c.decay, c.eps) })
}

/// Step number `step`, from 1, of AdamW on the CPU: a parameter, its gradient in f32 or bf16, both moments, and its copy in bf16.
pub(crate) fn adamw(
    [param, grad, first, second]: [&Tensor; 4],
    copy: Option<&Tensor>,
    scale: f64,
    step: u64,
    c: &AdamW,
) -> Result<(), Report> {
    let all = [param, grad, first, second];
    let half = |t: &Tensor| t.kind() == Kind::BFloat16;
    let float = [param, first, second].iter().all(|t| t.kind() == Kind::Float && t.is_contiguous());
    let typed =
        float && (grad.kind() == Kind::Float || half(grad)) && copy.is_none_or(|t| half(t) && t.is_contiguous());
    if !typed || all.iter().copied().chain(copy).any(|t| t.size() != param.size() || t.device() != Device::Cpu) {
        return Err(Report::new(Code::Bug, "AdamW's tensors differ in shape, or are not f32 and bf16 on the CPU"));
    }
    let [p, g, m, v] = all.map(Tensor::as_ptr);
    // SAFETY: live tensors of one shape; the shim keeps none of them.
    checked(unsafe { bz_adamw(p, g, m, v, or_null(copy), scale, step, c.lr, c.beta1, c.beta2, c.decay, c.eps) })
}

fn or_null(tensor: Option<&Tensor>) -> Raw {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

/// A tensor that the shim makes with `new`, as tch's own functions do.
fn made(make: impl FnOnce(*mut Made) -> c_int) -> Result<Tensor, Report> {
    let mut out = std::ptr::null_mut();
    checked(make(&mut out))?;
    // SAFETY: made a moment ago, and ours from here on.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// The Euclidean norm over all tensors, on their device; `fused` are f32 or bf16 on the CPU.
pub(crate) fn norm_of(tensors: &[Tensor], fused: bool) -> Result<Tensor, Report> {
    let list = raw(tensors);
    if fused {
        let mut norm = 0.0;
        // SAFETY: an array of live tensors and a place for the result.
        checked(unsafe { bz_norm_in_blocks(list.as_ptr(), list.len(), &mut norm) })?;
        return Ok(Tensor::from(norm));
    }
    // SAFETY: an array of live tensors.
    made(|out| unsafe { bz_norm_of(list.as_ptr(), list.len(), out) })
}

/// The gradients for `inputs` of what was made of them, whose own gradients are `slopes`: none for one number.
pub(crate) fn gradients(made: &[Tensor], slopes: &[Tensor], inputs: &[Tensor]) -> Result<Vec<Tensor>, Report> {
    let (outputs, given, list) = (raw(made), raw(slopes), raw(inputs));
    if !given.is_empty() && given.len() != outputs.len() {
        return Err(Report::new(Code::Bug, "not as many gradients as there are outputs"));
    }
    let slopes = if given.is_empty() { std::ptr::null() } else { given.as_ptr() };
    let mut out = vec![std::ptr::null_mut(); list.len()];
    // SAFETY: three arrays of live tensors, and one place for each input.
    checked(unsafe {
        bz_gradients(outputs.as_ptr(), slopes, outputs.len(), list.as_ptr(), list.len(), out.as_mut_ptr())
    })?;
    // SAFETY: the shim has filled all places with tensors of its own.
    Ok(out.into_iter().map(|tensor| unsafe { Tensor::from_ptr(tensor) }).collect())
}

/// RMSNorm of x, or of x + branch, (R, D) f32, in f32 or bf16; and the sum. On the CPU.
pub(crate) fn norm(
    x: &Tensor,
    branch: Option<&Tensor>,
    w: &Tensor,
    eps: f64,
    bf16: bool,
) -> Result<(Tensor, Tensor), Report> {
    let mut sum = std::ptr::null_mut();
    // SAFETY: two or three live tensors, whose dtype, shape and place the shim checks, here and in the four below.
    let y = made(|y| unsafe { bz_norm(x.as_ptr(), or_null(branch), w.as_ptr(), eps, c_int::from(bf16), y, &mut sum) })?;
    // SAFETY: made with the other.
    Ok((y, unsafe { Tensor::from_ptr(sum) }))
}

/// x · wᵀ + bias, (R, N): on the CPU.
pub(crate) fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Report> {
    // SAFETY: two or three live tensors.
    made(|out| unsafe { bz_linear(x.as_ptr(), w.as_ptr(), or_null(bias), out) })
}

/// Causal attention with rotation of rows (B·T, (H + 2K)·E), which are used up: (B·T, H·E). On the CPU.
pub(crate) fn attention(qkv: &Tensor, cos: &Tensor, sin: &Tensor, heads: i64, kv: i64) -> Result<Tensor, Report> {
    // SAFETY: three live tensors.
    made(|out| unsafe { bz_attention(qkv.as_ptr(), cos.as_ptr(), sin.as_ptr(), heads, kv, out) })
}

/// silu(gate) · up of rows (R, 2F): (R, F). On the CPU.
pub(crate) fn gate(both: &Tensor) -> Result<Tensor, Report> {
    // SAFETY: a live tensor.
    made(|out| unsafe { bz_gate(both.as_ptr(), out) })
}

/// Mean cross-entropy of `x · wᵀ` against `y` in nats, times `share`, with gradients for both: x (N, D), w (V, D), y (N).
/// Products are in the dtype of `x`; `fused` ones with the CPU's kernels.
pub(crate) fn linear_cross_entropy(
    x: &Tensor,
    w: &Tensor,
    y: &Tensor,
    share: f64,
    fused: bool,
) -> Result<Tensor, Report> {
    // SAFETY: three live tensors.
    made(|out| unsafe { bz_linear_cross_entropy(x.as_ptr(), w.as_ptr(), y.as_ptr(), share, c_int::from(fused), out) })
}

/// The orthogonal matrix that is nearest, about, in place of an f32 matrix.
pub(crate) fn orthogonal(matrix: &mut Tensor) -> Result<(), Report> {
    // SAFETY: one live tensor, which is written.
    checked(unsafe { bz_orthogonal(matrix.as_ptr()) })
}

/// Only algorithms that give the same bits at every run; no TF32.
pub(crate) fn deterministic() -> Result<(), Report> {
    // SAFETY: no arguments.
    checked(unsafe { bz_deterministic() })
}

/// The bytes of a tensor in f32 that lies in the CPU's memory in its own order.
pub(crate) fn bytes(tensor: &Tensor) -> Option<&[u8]> {
    let here = tensor.device() == Device::Cpu && tensor.is_contiguous() && tensor.kind() == Kind::Float;
    // SAFETY: so many bytes, which live as long as the tensor and are not written to meanwhile; an empty one has no place.
    (here && tensor.numel() > 0)
        .then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), tensor.numel() * 4) })
}

/// Bytes of a GPU that are free, counting those that libtorch keeps for later.
pub(crate) fn cuda_free(index: i64) -> Result<u64, Report> {
    let mut free = 0;
    // SAFETY: a place for the result, and none for the other.
    checked(unsafe { bz_cuda_memory(index, &mut free, std::ptr::null_mut()) })?;
    Ok(free)
}

/// The most bytes of a GPU that libtorch has had in use. The driver is not asked.
pub(crate) fn cuda_peak(index: i64) -> Result<u64, Report> {
    let mut peak = 0;
    // SAFETY: as above.
    checked(unsafe { bz_cuda_memory(index, std::ptr::null_mut(), &mut peak) })?;
    Ok(peak)
}

/// Run `work` without gradients. tch's own would leave them off for good when `work` panics, as it does for want of memory.
pub(crate) fn no_grad<T>(work: impl FnOnce() -> T) -> T {
    let _guard = tch::no_grad_guard();
    work()
}

/// Products in bf16 while it lives.
struct Autocast {
    cuda: bool,
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain integers.
        unsafe { bz_autocast_bf16(c_int::from(self.cuda), 0) };
    }
}

/// Run `work` with matrix products in bf16.
pub(crate) fn autocast_bf16<T>(cuda: bool, work: impl FnOnce() -> T) -> Result<T, Report> {
    let _guard = Autocast { cuda };
    // SAFETY: plain integers.
    checked(unsafe { bz_autocast_bf16(c_int::from(cuda), 1) })?;
    Ok(work())
}

#[cfg(test)]
mod tests;
