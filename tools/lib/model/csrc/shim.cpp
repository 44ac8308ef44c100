// What tch 0.24 lacks of libtorch: the fused AdamW, the norm of many tensors, Muon's iteration, determinism, the
// dtype of autocast.
// Every function returns 0, or 1 with the reason in bz_last_error. Links libtorch_cpu only.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <exception>
#include <string>
#include <vector>

static thread_local std::string last_error;

template <class F> static int guarded(F f) {
  try {
    f();
    return 0;
  } catch (const std::exception &e) {
    last_error = e.what();
    return 1;
  }
}

static std::vector<at::Tensor> list(at::Tensor **tensors, size_t n) {
  std::vector<at::Tensor> all;
  all.reserve(n);
  for (size_t i = 0; i < n; i++) all.push_back(*tensors[i]);
  return all;
}

extern "C" {
const char *bz_last_error() { return last_error.c_str(); }

int bz_fused_adamw(at::Tensor **params, at::Tensor **grads, at::Tensor **first, at::Tensor **second, at::Tensor **steps,
                   size_t n, double lr, double beta1, double beta2, double decay, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto p = list(params, n), g = list(grads, n), m = list(first, n), v = list(second, n), s = list(steps, n);
    at::_foreach_add_(s, 1.0);
    at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, decay, eps, false, false, c10::nullopt, c10::nullopt);
  });
}

int bz_norm(at::Tensor **tensors, size_t n, double *out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto norms = at::_foreach_norm(list(tensors, n), 2);
    *out = at::linalg_vector_norm(at::stack(norms), 2).item<double>();
  });
}

// The nearest orthogonal matrix, about, in place: five steps of a quintic Newton-Schulz iteration in bf16, whose coefficients take singular values to
// somewhere between 0.7 and 1.2. Source: Jordan and others, Muon (2024).
int bz_orthogonal(at::Tensor *matrix) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    bool tall = matrix->size(0) > matrix->size(1);
    auto x = (tall ? matrix->t() : *matrix).to(at::kBFloat16);
    x.div_(x.norm().clamp_min(1e-7));
    for (int step = 0; step < 5; step++) {
      auto gram = at::mm(x, x.t());
      auto factor = at::addmm(gram, gram, gram, -4.7750, 2.0315);
      x = at::addmm(x, factor, x, 3.4445, 1.0);
    }
    matrix->copy_(tall ? x.t() : x);
  });
}

int bz_deterministic() {
  return guarded([] {
    at::globalContext().setDeterministicAlgorithms(true, true);
    // Every new tensor would be filled with NaN first: that costs more than it finds.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setAllowTF32CuBLAS(false);
    at::globalContext().setAllowTF32CuDNN(false);
  });
}

int bz_autocast_bf16(int cuda, int on) {
  return guarded([&] {
    auto device = cuda ? at::kCUDA : at::kCPU;
    at::autocast::set_autocast_dtype(device, at::kBFloat16);
    at::autocast::set_autocast_enabled(device, on);
    // Otherwise the next step would use copies of this step's weights.
    if (!on) at::autocast::clear_cache();
  });
}
}
