//! The C++ shim (`csrc/shim.cpp`): what tch lacks.
#![allow(unsafe_code)]

use record::{Code, Report};
use std::ffi::{CStr, c_char, c_int};
use tch::Tensor;

type Raw = *const torch_sys::C_tensor;

unsafe extern "C" {
    fn bz_last_error() -> *const c_char;
    fn bz_fused_adamw(
        params: *const Raw,
        grads: *const Raw,
        first: *const Raw,
        second: *const Raw,
        steps: *const Raw,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        decay: f64,
        eps: f64,
    ) -> c_int;
    fn bz_norm(tensors: *const Raw, n: usize, out: *mut f64) -> c_int;
    fn bz_linear_cross_entropy(x: Raw, w: Raw, y: Raw, out: *mut *mut torch_sys::C_tensor) -> c_int;
    fn bz_orthogonal(matrix: Raw) -> c_int;
    fn bz_deterministic() -> c_int;
    fn bz_autocast_bf16(cuda: c_int, on: c_int) -> c_int;
}

fn checked(status: c_int) -> Result<(), Report> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the shim keeps the text of this thread's last error alive until the next one.
    let text = unsafe { CStr::from_ptr(bz_last_error()) }.to_string_lossy();
    let first = text.lines().next().unwrap_or_default().to_string();
    Err(Report::new(Code::Bug, format!("libtorch: {first}")))
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

/// One step of AdamW over all parameters at once. The five lists are of one length.
pub(crate) fn fused_adamw([params, grads, first, second, steps]: [&[Tensor]; 5], c: &AdamW) -> Result<(), Report> {
    let n = params.len();
    if [grads, first, second, steps].iter().any(|list| list.len() != n) {
        return Err(Report::new(Code::Bug, "AdamW's lists differ in length"));
    }
    let lists = [params, grads, first, second, steps].map(raw);
    let [p, g, m, v, s] = [&lists[0], &lists[1], &lists[2], &lists[3], &lists[4]].map(|list| list.as_ptr());
    // SAFETY: five arrays of n live tensors; the shim keeps none of them.
    checked(unsafe { bz_fused_adamw(p, g, m, v, s, n, c.lr, c.beta1, c.beta2, c.decay, c.eps) })
}

/// The Euclidean norm over all tensors.
pub(crate) fn norm(tensors: &[Tensor]) -> Result<f64, Report> {
    let (list, mut out) = (raw(tensors), 0.0);
    // SAFETY: an array of live tensors and a place for the result.
    checked(unsafe { bz_norm(list.as_ptr(), list.len(), &mut out) })?;
    Ok(out)
}

/// Mean cross-entropy of `x · wᵀ` against `y` in nats, with gradients for both: x (N, D), w (V, D), y (N).
pub(crate) fn linear_cross_entropy(x: &Tensor, w: &Tensor, y: &Tensor) -> Result<Tensor, Report> {
    let mut out = std::ptr::null_mut();
    // SAFETY: three live tensors, and a place for a new one, which is ours from here on.
    checked(unsafe { bz_linear_cross_entropy(x.as_ptr(), w.as_ptr(), y.as_ptr(), &mut out) })?;
    // SAFETY: the shim has made it with `new`, as tch's own functions do.
    Ok(unsafe { Tensor::from_ptr(out) })
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

/// Run `work` with matrix products in bf16.
pub(crate) fn autocast_bf16<T>(cuda: bool, work: impl FnOnce() -> T) -> Result<T, Report> {
    // SAFETY: plain integers.
    checked(unsafe { bz_autocast_bf16(c_int::from(cuda), 1) })?;
    let result = work();
    // SAFETY: as above.
    checked(unsafe { bz_autocast_bf16(c_int::from(cuda), 0) })?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Reduction};

    #[test]
    fn a_loss_in_parts_is_that_of_the_whole_and_so_are_its_gradients() {
        // So many tokens that there are that 64 rows are a part: three parts, the last one shorter.
        let (rows, width, vocab) = (130, 4, 1 << 18);
        let wave = |shape: [i64; 2], speed: f64| {
            (Tensor::arange(shape[0] * shape[1], (Kind::Double, Device::Cpu)) * speed).sin().view(shape) * 3.0
        };
        let (x, w) = (wave([rows, width], 0.7), wave([vocab, width], 1.3));
        let y = Tensor::arange(rows, (Kind::Int64, Device::Cpu)) * 2003;
        let leaf = |t: &Tensor, kind| t.to_kind(kind).detach().set_requires_grad(true);
        let (a, b) = (leaf(&x, Kind::Float), leaf(&w, Kind::Float));
        let ours = linear_cross_entropy(&a, &b, &y).unwrap();
        (&ours * 0.5).backward();
        let (c, d) = (leaf(&x, Kind::Double), leaf(&w, Kind::Double));
        let logits = c.matmul(&d.transpose(0, 1));
        let theirs = logits.cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0);
        (&theirs * 0.5).backward();
        let (own, exact) = (ours.double_value(&[]), theirs.double_value(&[]));
        assert!((own - exact).abs() < 1e-6 * exact, "{own} {exact}");
        for (ours, theirs) in [(a.grad(), c.grad()), (b.grad(), d.grad())] {
            let far = (ours.to_kind(Kind::Double) - &theirs).abs().max().double_value(&[]);
            // In f32 a sum over so many tokens is off by a part in 7,000; PyTorch's own is by the same.
            assert!(far < 3e-4 * theirs.abs().max().double_value(&[]), "{far}");
        }
        let quiet = tch::no_grad(|| linear_cross_entropy(&a, &b, &y)).unwrap();
        assert_eq!(quiet.double_value(&[]), ours.double_value(&[]));
    }
}
