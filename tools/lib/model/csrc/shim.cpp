// What tch 0.24 lacks of libtorch: cross-entropy with the output layer, the fused AdamW, the norm of many tensors, Muon's iteration, determinism, the
// dtype of autocast.
// Every function returns 0, or 1 with the reason in bz_last_error. Links libtorch_cpu only.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <torch/csrc/autograd/custom_function.h>
#include <algorithm>
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

// Mean cross-entropy of x · wᵀ against y, in nats, some rows at a time: the logits of all rows are never held, and their gradient is made
// with them. x (N, D), w (V, D), y (N). Products in bf16 where autocast has them so; all else in f32.
struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static at::Tensor forward(torch::autograd::AutogradContext *context, const at::Tensor &x, const at::Tensor &w, const at::Tensor &y,
                            bool wanted) {
    auto device = x.device().type();
    auto kind = at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : w.scalar_type();
    auto xs = x.to(kind), ws = w.to(kind);
    int64_t rows = x.size(0), step = std::max<int64_t>(64, (int64_t(1) << 24) / w.size(0));
    auto dx = wanted ? at::empty_like(xs) : at::Tensor(), dw = wanted ? at::zeros_like(w) : at::Tensor();
    std::vector<at::Tensor> losses;
    for (int64_t first = 0; first < rows; first += step) {
      int64_t count = std::min(step, rows - first);
      auto part = xs.narrow(0, first, count), target = y.narrow(0, first, count).unsqueeze(1);
      auto logits = at::mm(part, ws.t()).to(at::promote_types(kind, at::kFloat));
      auto most = logits.amax(1, true), chosen = logits.gather(1, target);
      at::_softmax_out(logits, logits, 1, false);
      // log Σ exp is the largest logit less the log of its own share, which is never nothing.
      losses.push_back((most - logits.amax(1, true).log() - chosen).sum());
      if (!wanted) continue;
      // The gradient of the logits, N times: softmax − one-hot.
      logits.scatter_(1, target, logits.gather(1, target) - 1.0);
      auto slope = logits.to(kind), own = dx.narrow(0, first, count);
      at::mm_out(own, slope, ws);
      if (kind == w.scalar_type()) dw.addmm_(slope.t(), part);
      else dw.add_(at::mm(slope.t(), part));
    }
    context->saved_data["rows"] = rows;
    if (wanted) context->save_for_backward({dx, dw});
    return at::stack(losses).sum() / double(rows);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context, torch::autograd::variable_list slopes) {
    auto saved = context->get_saved_variables();
    auto slope = slopes[0] / double(context->saved_data["rows"].toInt());
    return {saved[0].to(slope.scalar_type()) * slope, saved[1] * slope, at::Tensor(), at::Tensor()};
  }
};

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

int bz_linear_cross_entropy(at::Tensor *x, at::Tensor *w, at::Tensor *y, at::Tensor **out) {
  return guarded([&] { *out = new at::Tensor(LinearCrossEntropy::apply(*x, *w, *y, at::GradMode::is_enabled())); });
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
