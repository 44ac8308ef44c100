// The parts of a step with gradients of their own. On the CPU each is one kernel (kernels.cpp) instead of several operators.
// Every function returns 0, or 1 with the reason in bz_last_error.
#include "kernels.h"
#include "shim.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUBlas.h>
#include <omp.h>
#include <torch/csrc/autograd/custom_function.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

static const Kernels &kernels() {
  static const Kernels &best = [&]() -> const Kernels & {
    // BZ_CPU_LEVEL says less than there is: for tests of the others.
    const char *told = std::getenv("BZ_CPU_LEVEL");
    if (told && std::string(told) == "v2") return x86_64_v2::kernels;
    auto has = [](auto... yes) { return (yes && ...); };
    if (has(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"), __builtin_cpu_supports("avx512dq"),
            __builtin_cpu_supports("avx512vl"), __builtin_cpu_supports("avx512cd"), !told))
      return x86_64_v4::kernels;
    if (has(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"), __builtin_cpu_supports("bmi2"))) return x86_64_v3::kernels;
    return x86_64_v2::kernels;
  }();
  return best;
}

// Call `work` with the kernels of a dtype and a null pointer of its type.
template <class F> static void with(at::ScalarType kind, F work) {
  if (kind == at::kBFloat16) work(kernels().b16, static_cast<bf16 *>(nullptr));
  else work(kernels().f32, static_cast<float *>(nullptr));
}

template <class T> static T *data(const Tensor &t) { return t.defined() ? static_cast<T *>(t.data_ptr()) : nullptr; }

// RMSNorm of x (R, D) f32, or of x + branch, in the dtype of the branch or the one asked for: {y} or {y, x + branch}.
struct Norm : Function<Norm> {
  static variable_list forward(AutogradContext *context, const Tensor &x, const std::optional<Tensor> &branch, const Tensor &w, double eps,
                               bool half) {
    auto kind = half ? at::kBFloat16 : at::kFloat;
    auto in = x.contiguous(), more = branch ? branch->contiguous() : Tensor();
    int64_t width = w.size(0), rows = in.numel() / width;
    auto y = at::empty_like(in, in.options().dtype(kind)), inverse = at::empty({rows}, in.options());
    auto sum = more.defined() ? at::empty_like(in) : Tensor();
    with(kind, [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.norm_forward(data<float>(in), data<T>(more), data<float>(w), float(eps), data<float>(sum), data<T>(y), data<float>(inverse), rows, width);
    });
    context->save_for_backward({sum.defined() ? sum : in, w, inverse});
    context->saved_data["branch"] = more.defined();
    context->set_materialize_grads(false);
    return sum.defined() ? variable_list{y, sum} : variable_list{y};
  }

  static variable_list backward(AutogradContext *context, variable_list slopes) {
    auto saved = context->get_saved_variables();
    auto &x = saved[0], &w = saved[1];
    bool branch = context->saved_data["branch"].toBool();
    auto dy = slopes[0].contiguous(), dsum = branch && slopes[1].defined() ? slopes[1].contiguous() : Tensor();
    int64_t width = w.size(0), rows = x.numel() / width;
    auto dx = at::empty_like(x), dw = at::empty_like(w), parts = at::empty({NORM_PARTS, width}, w.options());
    auto half = dy.scalar_type() == at::kBFloat16, apart = branch && half;
    auto dbranch = apart ? at::empty_like(dy) : Tensor();
    with(dy.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.norm_backward(data<T>(dy), data<float>(dsum), data<float>(x), data<float>(w), data<float>(saved[2]), data<float>(dx), data<T>(dbranch),
                      data<float>(dw), data<float>(parts), rows, width);
    });
    return {dx, branch ? (apart ? dbranch : dx) : Tensor(), dw, Tensor(), Tensor()};
  }
};

static Tensor onednn(const Tensor &x, const Tensor &w, const std::optional<Tensor> &bias) {
  using Call = Tensor(const Tensor &, const Tensor &, const std::optional<Tensor> &, std::string_view, c10::List<std::optional<at::Scalar>>,
                      std::optional<std::string_view>);
  static auto call = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Call>();
  return call.call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

// x · wᵀ + bias. In f32 libtorch takes MKL, which has no AVX-512 for other makers' processors: oneDNN is a tenth faster where the rows of x are not
// to be transposed first. In bf16 libtorch takes oneDNN itself.
struct Linear : Function<Linear> {
  static Tensor product(const Tensor &x, const Tensor &w, const std::optional<Tensor> &bias) {
    if (x.scalar_type() == at::kFloat) return onednn(x, w, bias);
    return bias ? at::addmm(*bias, x, w.t()) : at::mm(x, w.t());
  }

  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &w, const std::optional<Tensor> &bias) {
    context->save_for_backward({x, w});
    context->saved_data["bias"] = bias.has_value();
    return product(x, w, bias);
  }

  static variable_list backward(AutogradContext *context, variable_list slopes) {
    auto saved = context->get_saved_variables();
    auto slope = slopes[0].contiguous();
    return {product(slope, saved[1].t(), std::nullopt), at::mm(slope.t(), saved[0]), context->saved_data["bias"].toBool() ? slope.sum(0) : Tensor()};
  }
};

// Causal attention of rows (B·T, (H + 2K)·E) that hold queries, keys, values; queries and keys are turned by their place, here. Inside in f32. Each
// task takes 64 queries at a time, and of their scores those of some keys only, in the processor's own cache. Source: FlashAttention (Dao and others
// 2022), algorithms 1 and 4.
struct Attention : Function<Attention> {
  static constexpr int64_t KEYS = 256;

  struct Shape {
    int64_t batch, length, heads, kv, width, row;
    float scale() const { return 1.0f / std::sqrt(float(width)); }
  };

  static Shape shape(const Tensor &qkv, const Tensor &cos, int64_t heads, int64_t kv) {
    return {qkv.size(0) / cos.size(0), cos.size(0), heads, kv, cos.size(1) * 2, qkv.size(1)};
  }

  // The tasks of a parallel region; what one throws is thrown when all have ended.
  struct Tasks {
    std::exception_ptr thrown;
    template <class F> void run(F work) {
      try {
        work();
      } catch (...) {
#pragma omp critical
        thrown = std::current_exception();
      }
    }
    void end() const {
      if (thrown) std::rethrow_exception(thrown);
    }
  };

  // c (m, n) = a (m, k) · b (k, n), or that much more; each with its distance between rows.
  static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, bool more) {
    at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, more, a, b, c, false);
  }

  static void dense(const float *from, int64_t stride, int64_t n, int64_t width, float *to) {
    for (int64_t row = 0; row < n; row++) std::copy_n(from + row * stride, width, to + row * width);
  }

  static Tensor forward(AutogradContext *context, const Tensor &qkv, const Tensor &cos, const Tensor &sin, int64_t heads, int64_t kv) {
    auto s = shape(qkv, cos, heads, kv);
    bool half = qkv.scalar_type() == at::kBFloat16;
    // f32 in place: what made these rows does not need them any more.
    auto turned = half ? at::empty(qkv.sizes(), cos.options()) : qkv;
    auto mixed = at::empty({qkv.size(0), heads * s.width}, qkv.options());
    auto logs = at::empty({s.batch, heads, s.length}, cos.options());
    Tasks tasks;
    int64_t blocks = (s.length + QUERIES - 1) / QUERIES, whole = blocks * QUERIES * s.width;
    // Right factors lie close together: a block of keys as columns, and the rows of all values.
    auto keys = at::empty({s.batch * kv, whole}, cos.options()), values = at::empty_like(keys);
    auto scratch = at::empty({omp_get_max_threads(), QUERIES * (KEYS + s.width)}, cos.options());
    with(qkv.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.rotate(data<T>(qkv), data<float>(turned), data<float>(cos), data<float>(sin), qkv.size(0), s.length, heads, kv, s.width);
#pragma omp parallel for
      for (int64_t task = 0; task < s.batch * kv; task++) {
        const float *rows = data<float>(turned) + task / kv * s.length * s.row + (heads + task % kv) * s.width;
        for (int64_t first = 0; first < s.length; first += QUERIES)
          kernels().transpose(rows + first * s.row, s.row, std::min(QUERIES, s.length - first), s.width, data<float>(keys) + task * whole + first * s.width,
                              QUERIES);
        dense(rows + kv * s.width, s.row, s.length, s.width, data<float>(values) + task * whole);
      }
#pragma omp parallel
      {
        float *scores = data<float>(scratch) + omp_get_thread_num() * scratch.size(1), *sums = scores + QUERIES * KEYS;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * heads * blocks; task++) tasks.run([&] {
          // The longest ones first.
          int64_t first = (blocks - 1 - task / (s.batch * heads)) * QUERIES, head = task % heads, batch = task / heads % s.batch;
          int64_t n = std::min(QUERIES, s.length - first), own = head / (heads / kv), last = first + n;
          const float *queries = data<float>(turned) + (batch * s.length + first) * s.row + head * s.width;
          const float *key_blocks = data<float>(keys) + (batch * kv + own) * whole, *value_rows = data<float>(values) + (batch * kv + own) * whole;
          float most[QUERIES], sum[QUERIES] = {}, *log = data<float>(logs) + (batch * heads + head) * s.length + first;
          std::fill(most, most + QUERIES, -INFINITY);
          std::fill_n(sums, QUERIES * s.width, 0.0f);
          for (int64_t key = 0; key < last; key += KEYS) {
            int64_t count = std::min(KEYS, last - key);
            for (int64_t block = 0; block < count; block += QUERIES)
              product(n, QUERIES, s.width, queries, s.row, key_blocks + (key + block) * s.width, QUERIES, scores + block, KEYS, false);
            kernels().softmax(scores, n, count, KEYS, first - key + 1, s.scale(), most, sum, sums, s.width);
            product(n, s.width, count, scores, KEYS, value_rows + key * s.width, s.width, sums, s.width, true);
          }
          k.divided(sums, sum, n, s.width, data<T>(mixed) + (batch * s.length + first) * heads * s.width + head * s.width, heads * s.width);
          for (int64_t q = 0; q < n; q++) log[q] = most[q] + std::log(sum[q]);
        });
        at::native::cpublas::brgemm_release(false);
      }
    });
    tasks.end();
    context->save_for_backward({qkv, cos, sin, mixed, logs});
    context->saved_data["heads"] = heads;
    context->saved_data["kv"] = kv;
    return mixed;
  }

  static variable_list backward(AutogradContext *context, variable_list slopes) {
    auto saved = context->get_saved_variables();
    auto &qkv = saved[0], &logs = saved[4];
    int64_t heads = context->saved_data["heads"].toInt(), kv = context->saved_data["kv"].toInt();
    auto s = shape(qkv, saved[1], heads, kv);
    auto cos = data<float>(saved[1]), sin = data<float>(saved[2]);
    bool half = qkv.scalar_type() == at::kBFloat16;
    auto turned = half ? at::empty(qkv.sizes(), logs.options()) : qkv, out = at::empty_like(qkv);
    Tasks tasks;
    auto slope = slopes[0].to(at::kFloat).contiguous(), mixed = saved[3].to(at::kFloat);
    with(qkv.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      if (half) k.rotate(data<T>(qkv), data<float>(turned), cos, sin, qkv.size(0), s.length, heads, kv, s.width);
      auto &all = kernels();
      int64_t block = QUERIES * s.width, whole = s.length * s.width;
      auto scratch = at::empty({omp_get_max_threads(), 3 * whole + 6 * block + 2 * KEYS * QUERIES}, logs.options());
#pragma omp parallel
      {
        float *keys = data<float>(scratch) + omp_get_thread_num() * scratch.size(1), *dk = keys + whole, *dv = dk + whole, *query = dv + whole;
        float *down = query + block, *dq_columns = down + block, *dq = dq_columns + block, *query_rows = dq + block, *down_rows = query_rows + block;
        float *scores = down_rows + block, *dscores = scores + KEYS * QUERIES;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * kv; task++) tasks.run([&] {
          int64_t batch = task / kv, own = task % kv, wide = heads * s.width;
          const float *rows = data<float>(turned) + batch * s.length * s.row, *key_rows = rows + (heads + own) * s.width;
          const float *value_rows = key_rows + kv * s.width;
          T *to = data<T>(out) + batch * s.length * s.row;
          all.transpose(key_rows, s.row, s.length, s.width, keys, s.length);
          std::fill_n(dk, whole, 0.0f);
          std::fill_n(dv, whole, 0.0f);
          // A key or value that several heads read has the sum of their gradients.
          for (int64_t head = own * (heads / kv); head < (own + 1) * (heads / kv); head++)
            for (int64_t first = 0; first < s.length; first += QUERIES) {
              int64_t n = std::min(QUERIES, s.length - first), last = first + n, here = (batch * s.length + first) * wide + head * s.width;
              const float *queries = rows + first * s.row + head * s.width, *slopes = data<float>(slope) + here;
              float log[QUERIES] = {}, delta[QUERIES] = {};
              std::copy_n(data<float>(logs) + (batch * heads + head) * s.length + first, n, log);
              all.deltas(slopes, data<float>(mixed) + here, wide, n, s.width, delta);
              all.transpose(queries, s.row, n, s.width, query, QUERIES);
              all.transpose(slopes, wide, n, s.width, down, QUERIES);
              dense(queries, s.row, n, s.width, query_rows);
              dense(slopes, wide, n, s.width, down_rows);
              std::fill_n(dq_columns, block, 0.0f);
              for (int64_t key = 0; key < last; key += KEYS) {
                int64_t count = std::min(KEYS, last - key);
                product(count, QUERIES, s.width, key_rows + key * s.row, s.row, query, QUERIES, scores, QUERIES, false);
                product(count, QUERIES, s.width, value_rows + key * s.row, s.row, down, QUERIES, dscores, QUERIES, false);
                all.softmax_backward(scores, dscores, count, first - key + 1, s.scale(), log, delta);
                product(count, s.width, n, scores, QUERIES, down_rows, s.width, dv + key * s.width, s.width, true);
                product(count, s.width, n, dscores, QUERIES, query_rows, s.width, dk + key * s.width, s.width, true);
                product(s.width, QUERIES, count, keys + key, s.length, dscores, QUERIES, dq_columns, QUERIES, true);
              }
              all.transpose(dq_columns, QUERIES, s.width, n, dq, s.width);
              int64_t angle = first * s.width / 2;
              k.turn_back(dq, n, s.width, cos + angle, sin + angle, to + first * s.row + head * s.width, s.row);
            }
          k.turn_back(dk, s.length, s.width, cos, sin, to + (heads + own) * s.width, s.row);
          k.turn_back(dv, s.length, s.width, nullptr, nullptr, to + (heads + kv + own) * s.width, s.row);
        });
        at::native::cpublas::brgemm_release(false);
      }
    });
    tasks.end();
    return {out, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// silu(gate) · up of rows (R, 2F) that hold gate and then up: (R, F).
struct Gate : Function<Gate> {
  static Tensor forward(AutogradContext *context, const Tensor &both) {
    auto out = at::empty({both.size(0), both.size(1) / 2}, both.options());
    with(both.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.gate_forward(data<T>(both), data<T>(out), out.size(0), out.size(1));
    });
    context->save_for_backward({both});
    return out;
  }

  static variable_list backward(AutogradContext *context, variable_list slopes) {
    auto both = context->get_saved_variables()[0], slope = slopes[0].contiguous(), out = at::empty_like(both);
    with(both.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.gate_backward(data<T>(slope), data<T>(both), data<T>(out), slope.size(0), slope.size(1));
    });
    return {out};
  }
};

// Mean cross-entropy of x · wᵀ against y, in nats, times `share`, some rows at a time: the logits of all rows are never held, and their
// gradient is made with them. x (N, D), w (V, D), y (N). Products in the dtype of x; w and its gradient stay as they are.
struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext *context, const Tensor &x, const Tensor &w, const Tensor &y, double share, bool kernel, bool wanted) {
    auto kind = x.scalar_type();
    auto xs = x.contiguous(), ws = w.to(kind), ys = y.contiguous();
    // Parts of the same size, 128 MiB at most: the fewer they are, the fewer times all of the weight's gradient is gone over.
    int64_t rows = x.size(0), most = std::max<int64_t>(64, (int64_t(1) << 27) / (w.size(0) * ws.element_size())), parts = (rows + most - 1) / most;
    int64_t step = (rows + parts - 1) / parts;
    double scale = share / double(rows);
    auto dx = wanted ? at::empty_like(xs) : Tensor(), dw = wanted && rows > step ? at::zeros_like(w) : Tensor();
    std::vector<Tensor> losses;
    for (int64_t first = 0; first < rows; first += step) {
      int64_t count = std::min(step, rows - first);
      auto part = xs.narrow(0, first, count), target = ys.narrow(0, first, count);
      auto logits = kernel ? Linear::product(part, ws, std::nullopt) : at::mm(part, ws.t());
      if (kernel) {
        auto own = at::empty({count}, x.options().dtype(at::kFloat));
        with(kind, [&](auto &k, auto *t) {
          using T = std::remove_pointer_t<decltype(t)>;
          k.entropy(data<T>(logits), data<int64_t>(target), data<float>(own), float(scale), wanted, count, w.size(0));
        });
        losses.push_back(own.sum());
      } else {
        logits = logits.to(at::promote_types(kind, at::kFloat));
        auto place = target.unsqueeze(1), most = logits.amax(1, true), chosen = logits.gather(1, place);
        at::_softmax_out(logits, logits, 1, false);
        // log Σ exp is the largest logit less the log of its own share, which is never nothing.
        losses.push_back((most - logits.amax(1, true).log() - chosen).sum());
        if (wanted) logits = logits.scatter_(1, place, logits.gather(1, place) - 1.0).mul_(scale).to(kind);
      }
      if (!wanted) continue;
      dx.narrow(0, first, count).copy_(kernel ? Linear::product(logits, ws.t(), std::nullopt) : at::mm(logits, ws));
      if (!dw.defined()) dw = at::mm(logits.t(), part).to(w.scalar_type());
      else if (kind == w.scalar_type()) dw.addmm_(logits.t(), part);
      else dw.add_(at::mm(logits.t(), part));
    }
    if (wanted) context->save_for_backward({dx, dw});
    return at::stack(losses).sum() * scale;
  }

  static variable_list backward(AutogradContext *context, variable_list slopes) {
    auto saved = context->get_saved_variables();
    // The loss is the end of a step, so on the CPU, where that can be looked at, this is one.
    if (!slopes[0].is_cpu() || slopes[0].item<double>() != 1.0) {
      for (auto &gradient : saved) gradient.mul_(slopes[0].to(gradient.scalar_type()));
    }
    return {saved[0], saved[1], Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

static std::optional<Tensor> maybe(const Tensor *t) { return t ? std::optional<Tensor>(*t) : std::nullopt; }

extern "C" {
int bz_norm(Tensor *x, Tensor *branch, Tensor *w, double eps, int half, Tensor **y, Tensor **sum) {
  return guarded([&] {
    auto out = Norm::apply(*x, maybe(branch), *w, eps, bool(half));
    *y = new Tensor(out[0]);
    *sum = new Tensor(branch ? out[1] : *x);
  });
}

int bz_linear(Tensor *x, Tensor *w, Tensor *bias, Tensor **out) {
  return guarded([&] { *out = new Tensor(Linear::apply(*x, *w, maybe(bias))); });
}

int bz_attention(Tensor *qkv, Tensor *cos, Tensor *sin, int64_t heads, int64_t kv, Tensor **out) {
  return guarded([&] { *out = new Tensor(Attention::apply(*qkv, *cos, *sin, heads, kv)); });
}

int bz_gate(Tensor *both, Tensor **out) {
  return guarded([&] { *out = new Tensor(Gate::apply(*both)); });
}

// One step of AdamW over one parameter and, where there is one, its copy in bf16: on the CPU.
int bz_adamw(Tensor *param, Tensor *grad, Tensor *first, Tensor *second, Tensor *copy, double scale, uint64_t step, double lr, double beta1, double beta2,
             double decay, double eps) {
  return guarded([&] {
    auto g = grad->contiguous();
    auto t = double(step);
    Adam c{float(lr / (1 - std::pow(beta1, t))), float(1 / std::sqrt(1 - std::pow(beta2, t))), float(1 - beta1), float(1 - beta2), float(eps),
           float(1 - lr * decay)};
    with(g.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.adamw(data<float>(*param), data<T>(g), data<float>(*first), data<float>(*second), copy ? data<bf16>(*copy) : nullptr, g.numel(), float(scale), c);
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
  return guarded([&] { *out = new Tensor(LinearCrossEntropy::apply(*x, *w, *y, share, bool(fused), at::GradMode::is_enabled())); });
}
}
