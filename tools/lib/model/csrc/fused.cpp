// The parts of a step with gradients of their own. On the CPU each is one kernel (kernels.cpp) instead of several
// operators. Attention is in attention.h.
// Every function returns 0, or 1 with the reason in bz_last_error.
#include "attention.h"
#include "checks.h"
#include "shim.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <algorithm>
#include <cmath>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// RMSNorm of x (R, D) f32, or of x + branch, in the dtype of the branch or the one asked for: {y} or {y, x + branch}.
struct Norm : Function<Norm> {
  static variable_list forward(AutogradContext *context, const Tensor &x, const std::optional<Tensor> &branch,
                               const Tensor &w, double eps, bool bf16_out) {
    auto kind = bf16_out ? at::kBFloat16 : at::kFloat;
    check_matrix("x", x);
    int64_t rows = x.size(0), width = x.size(1);
    check("x", x, at::kFloat, x.sizes());
    check("the norm's weight", w, at::kFloat, {width});
    if (branch) check("the branch", *branch, kind, x.sizes());
    auto in = x.contiguous(), more = branch ? branch->contiguous() : Tensor(), weight = w.contiguous();
    auto y = at::empty_like(in, in.options().dtype(kind)), inverse = at::empty({rows}, in.options());
    auto sum = more.defined() ? at::empty_like(in) : Tensor();
    with(kind, [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.norm_forward(data<float>(in), data<T>(more), data<float>(weight), float(eps), data<float>(sum), data<T>(y),
                     data<float>(inverse), rows, width);
    });
    context->save_for_backward({sum.defined() ? sum : in, weight, inverse});
    context->saved_data["branch"] = more.defined();
    context->set_materialize_grads(false);
    return sum.defined() ? variable_list{y, sum} : variable_list{y};
  }

  static variable_list backward(AutogradContext *context, variable_list grads) {
    auto saved = context->get_saved_variables();
    auto &x = saved[0], &w = saved[1];
    bool branch = context->saved_data["branch"].toBool();
    check("dy", grads[0], grads[0].scalar_type(), x.sizes());
    auto dy = grads[0].contiguous(), dsum = branch && grads[1].defined() ? grads[1].contiguous() : Tensor();
    if (dsum.defined()) check("the sum's gradient", dsum, at::kFloat, x.sizes());
    int64_t width = w.size(0), rows = x.numel() / width;
    auto dx = at::empty_like(x), dw = at::empty_like(w), parts = at::empty({NORM_PARTS, width}, w.options());
    auto own = branch && dy.scalar_type() == at::kBFloat16;
    auto dbranch = own ? at::empty_like(dy) : Tensor();
    with(dy.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.norm_backward(data<T>(dy), data<float>(dsum), data<float>(x), data<float>(w), data<float>(saved[2]),
                      data<float>(dx), data<T>(dbranch), data<float>(dw), data<float>(parts), rows, width);
    });
    return {dx, branch ? (own ? dbranch : dx) : Tensor(), dw, Tensor(), Tensor()};
  }
};

static Tensor onednn(const Tensor &x, const Tensor &w, const std::optional<Tensor> &bias) {
  using Call = Tensor(const Tensor &, const Tensor &, const std::optional<Tensor> &, std::string_view,
                      c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static auto call = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Call>();
  return call.call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

// Whether products of these are in f32 and only their results in bf16: where the kernels' level has none in bf16.
// libtorch's own would then be many times slower (AVX2), or take memory that nobody foresees (AVX-512).
static bool widened(const Tensor &x) { return x.scalar_type() == at::kBFloat16 && !kernels().b16.matmul; }

// a · b.
static Tensor times(const Tensor &a, const Tensor &b) {
  if (!widened(a)) return at::mm(a, b);
  return at::mm(a.to(at::kFloat), b.to(at::kFloat)).to(at::kBFloat16);
}

// x · wᵀ + bias. In f32 libtorch takes MKL, which has no AVX-512 for other makers' processors: oneDNN is a tenth faster
// where the rows of x are not to be transposed first. In bf16 libtorch takes oneDNN itself.
struct Linear : Function<Linear> {
  static Tensor product(const Tensor &x, const Tensor &w, const std::optional<Tensor> &bias) {
    if (widened(x)) {
      auto added = bias ? std::optional<Tensor>(bias->to(at::kFloat)) : std::nullopt;
      return onednn(x.to(at::kFloat), w.to(at::kFloat), added).to(at::kBFloat16);
    }
    if (x.scalar_type() == at::kFloat) return onednn(x, w, bias);
    return bias ? at::addmm(*bias, x, w.t()) : at::mm(x, w.t());
  }

  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &w, const std::optional<Tensor> &bias) {
    check_matrix("x", x);
    check_matrix("the weight", w);
    check("the weight", w, x.scalar_type(), {w.size(0), x.size(1)});
    if (bias) check("the bias", *bias, x.scalar_type(), {w.size(0)});
    context->save_for_backward({x, w});
    context->saved_data["bias"] = bias.has_value();
    return product(x, w, bias);
  }

  static variable_list backward(AutogradContext *context, variable_list grads) {
    auto saved = context->get_saved_variables();
    auto grad = grads[0].contiguous();
    auto dbias = context->saved_data["bias"].toBool() ? grad.sum(0) : Tensor();
    return {product(grad, saved[1].t(), std::nullopt), times(grad.t(), saved[0]), dbias};
  }
};

// silu(gate) · up of rows (R, 2F) that hold gate and then up: (R, F).
struct Gate : Function<Gate> {
  static Tensor forward(AutogradContext *context, const Tensor &rows) {
    check_matrix("gate and up", rows);
    TORCH_CHECK(rows.size(1) % 2 == 0, KERNEL, "gate and up are ", rows.sizes(), ", not of one width");
    auto both = rows.contiguous(), out = at::empty({both.size(0), both.size(1) / 2}, both.options());
    with(both.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.gate_forward(data<T>(both), data<T>(out), out.size(0), out.size(1));
    });
    context->save_for_backward({both});
    return out;
  }

  static variable_list backward(AutogradContext *context, variable_list grads) {
    auto both = context->get_saved_variables()[0];
    int64_t rows = both.size(0), width = both.size(1) / 2;
    auto d_out = check("the gate's gradient", grads[0], both.scalar_type(), {rows, width}).contiguous();
    auto d_both = at::empty_like(both);
    with(both.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.gate_backward(data<T>(d_out), data<T>(both), data<T>(d_both), rows, width);
    });
    return {d_both};
  }
};

// Mean cross-entropy of x · wᵀ against y, in nats, times `share`, some rows at a time: the logits of all rows are never
// held, and their gradient is made with them. x (N, D), w (V, D), y (N). Products in the dtype of x; w and its gradient
// stay as they are.
struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  // What the kernel reads; a target that is no row of w would be read from elsewhere.
  static void check_kernel(const Tensor &x, const Tensor &w, const Tensor &y) {
    check_matrix("x", x);
    check_matrix("the output layer", w);
    check("the output layer", w, at::kFloat, {w.size(0), x.size(1)});
    check("the targets", y, at::kLong, {x.size(0)});
    bool known = y.min().item<int64_t>() >= 0 && y.max().item<int64_t>() < w.size(0);
    TORCH_CHECK(known, KERNEL, "a target is none of ", w.size(0), " tokens");
  }

  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &w, const Tensor &y, double share,
                        bool kernel, bool wanted) {
    if (kernel) check_kernel(x, w, y);
    TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "cross-entropy of ", x.sizes(), ", which are no rows");
    auto kind = x.scalar_type();
    auto xs = x.contiguous(), ys = y.contiguous();
    // A last block that is not whole takes a fifth from oneDNN's product for the weight's gradient: in bf16, where
    // there is a copy anyway, it is filled up.
    int64_t width = w.size(0), filled = kernel && kind == at::kBFloat16 ? (width + 63) / 64 * 64 : width;
    auto ws = filled == width ? w.to(kind) : at::empty({filled, w.size(1)}, xs.options());
    if (filled != width) {
      ws.narrow(0, 0, width).copy_(w);
      ws.narrow(0, width, filled - width).zero_();
    }
    // Parts of the same size, 128 MiB at most: the fewer they are, the fewer times all of the weight's gradient is gone
    // over.
    int64_t rows = x.size(0), most = std::max<int64_t>(64, (int64_t(1) << 27) / (filled * ws.element_size()));
    int64_t parts = (rows + most - 1) / most, step = (rows + parts - 1) / parts;
    double scale = share / double(rows);
    auto dx = wanted ? at::empty_like(xs) : Tensor();
    auto dw = wanted && rows > step ? at::zeros(ws.sizes(), w.options()) : Tensor();
    std::vector<Tensor> losses;
    for (int64_t first = 0; first < rows; first += step) {
      int64_t count = std::min(step, rows - first);
      auto part = xs.narrow(0, first, count), target = ys.narrow(0, first, count);
      auto logits = kernel ? Linear::product(part, ws, std::nullopt) : at::mm(part, ws.t());
      if (kernel) {
        auto own = at::empty({count}, x.options().dtype(at::kFloat));
        with(kind, [&](auto &k, auto *t) {
          using T = std::remove_pointer_t<decltype(t)>;
          check("logits", logits, kind, {count, filled});
          auto *losses_of = data<float>(own);
          k.entropy(data<T>(logits), data<int64_t>(target), losses_of, float(scale), wanted, count, width, filled);
        });
        losses.push_back(own.sum());
      } else {
        logits = logits.to(at::promote_types(kind, at::kFloat));
        auto place = target.unsqueeze(1), highest = logits.amax(1, true), chosen = logits.gather(1, place);
        at::_softmax_out(logits, logits, 1, false);
        // log Σ exp is the largest logit less the log of its own share, which is never nothing.
        losses.push_back((highest - logits.amax(1, true).log() - chosen).sum());
        if (wanted) logits = logits.scatter_(1, place, logits.gather(1, place) - 1.0).mul_(scale).to(kind);
      }
      if (!wanted) continue;
      dx.narrow(0, first, count).copy_(kernel ? Linear::product(logits, ws.t(), std::nullopt) : at::mm(logits, ws));
      auto product = [&] { return kernel ? times(logits.t(), part) : at::mm(logits.t(), part); };
      if (!dw.defined()) dw = product().to(w.scalar_type());
      else if (kind == w.scalar_type()) dw.addmm_(logits.t(), part);
      else dw.add_(product());
    }
    if (wanted) context->save_for_backward({dx, dw.narrow(0, 0, width)});
    return at::stack(losses).sum() * scale;
  }

  static variable_list backward(AutogradContext *context, variable_list grads) {
    auto saved = context->get_saved_variables();
    // The loss is the end of a step, so on the CPU, where that can be looked at, this is one.
    if (!grads[0].is_cpu() || grads[0].item<double>() != 1.0) {
      for (auto &gradient : saved) gradient.mul_(grads[0].to(gradient.scalar_type()));
    }
    return {saved[0], saved[1], Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

static std::optional<Tensor> maybe(const Tensor *t) { return t ? std::optional<Tensor>(*t) : std::nullopt; }

extern "C" {
// The level in use, from 0, and whether the processor has each of them.
int bz_cpu_level(int *chosen) {
  return guarded([&] { *chosen = level(); });
}

int bz_cpu_has(int place) { return place >= 0 && place < LEVELS && levels()[place].there; }

int bz_norm(Tensor *x, Tensor *branch, Tensor *w, double eps, int bf16_out, Tensor **y, Tensor **sum) {
  return guarded([&] {
    auto out = Norm::apply(*x, maybe(branch), *w, eps, bool(bf16_out));
    *y = new Tensor(out[0]);
    *sum = new Tensor(branch ? out[1] : *x);
  });
}

int bz_linear(Tensor *x, Tensor *w, Tensor *bias, Tensor **out) {
  return guarded([&] { *out = new Tensor(Linear::apply(*x, *w, maybe(bias))); });
}

int bz_attention(Tensor *qkv, Tensor *cos, Tensor *sin, int64_t heads, int64_t kv, Tensor **out) {
  return guarded([&] { *out = new Tensor(attention::Attention::apply(*qkv, *cos, *sin, heads, kv)); });
}

int bz_gate(Tensor *both, Tensor **out) {
  return guarded([&] { *out = new Tensor(Gate::apply(*both)); });
}

// One step of AdamW over one parameter and, where there is one, its copy in bf16: on the CPU.
int bz_adamw(Tensor *param, Tensor *grad, Tensor *first, Tensor *second, Tensor *copy, double scale, uint64_t step,
             double lr, double beta1, double beta2, double decay, double eps) {
  return guarded([&] {
    auto shape = param->sizes();
    for (auto *own : {param, first, second}) check("AdamW's state", *own, at::kFloat, shape);
    if (copy) check("AdamW's copy", *copy, at::kBFloat16, shape);
    auto g = check("AdamW's gradient", *grad, grad->scalar_type(), shape).contiguous();
    auto t = double(step);
    Adam c{float(lr / (1 - std::pow(beta1, t))), float(1 / std::sqrt(1 - std::pow(beta2, t))), float(1 - beta1),
           float(1 - beta2), float(eps), float(1 - lr * decay), step == 1};
    with(g.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      auto *m = data<float>(*first), *v = data<float>(*second);
      bf16 *rounded = copy ? data<bf16>(*copy) : nullptr;
      k.adamw(data<float>(*param), data<T>(g), m, v, rounded, g.numel(), float(scale), c);
    });
  });
}

// The Euclidean norm over all tensors: on the CPU, in blocks and then in their order.
int bz_norm_in_blocks(Tensor **tensors, size_t n, double *out) {
  return guarded([&] {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
      auto x = tensors[i]->contiguous();
      std::vector<double> sums((x.numel() + BLOCK - 1) / BLOCK);
      with(x.scalar_type(), [&](auto &k, auto *t) {
        using T = std::remove_pointer_t<decltype(t)>;
        k.squares(data<T>(x), x.numel(), sums.data());
      });
      for (double one : sums) sum += one;
    }
    *out = std::sqrt(sum);
  });
}

int bz_linear_cross_entropy(Tensor *x, Tensor *w, Tensor *y, double share, int fused, Tensor **out) {
  return guarded([&] {
    *out = new Tensor(LinearCrossEntropy::apply(*x, *w, *y, share, bool(fused), at::GradMode::is_enabled()));
  });
}
}
