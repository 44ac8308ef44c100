// The parts of a step with gradients of their own. On the CPU each is one kernel (kernels.cpp) instead of several operators.
// Every function returns 0, or 1 with the reason in bz_last_error.
#include "kernels.h"
#include "shim.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <omp.h>
#include <torch/csrc/autograd/custom_function.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

static const Kernels &kernels() {
  static const Kernels &best = [&]() -> const Kernels & {
    auto has = [](auto... yes) { return (yes && ...); };
    bool v3 = has(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"), __builtin_cpu_supports("bmi2"));
    bool v4 = v3 && has(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"), __builtin_cpu_supports("avx512dq"),
                        __builtin_cpu_supports("avx512vl"), __builtin_cpu_supports("avx512cd"));
    // BZ_CPU_LEVEL says less than there is: for tests of the others.
    const char *set = std::getenv("BZ_CPU_LEVEL");
    std::string told = set ? set : "";
    TORCH_CHECK(told == "" || told == "v2" || told == "v3" || told == "v4", "BZ_CPU_LEVEL is ", told, ", not v2, v3 or v4");
    if (v4 && told == "" && __builtin_cpu_supports("avx512bf16")) return x86_64_v4_bf16::kernels;
    if (v4 && (told == "" || told == "v4")) return x86_64_v4::kernels;
    if (v3 && told != "v2") return x86_64_v3::kernels;
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

// Causal attention of rows (B·T, (H + 2K)·E) that hold queries, keys, values; queries and keys are turned by their place, here and in place: what made
// the rows does not need them any more. Each task takes 64 queries at a time, and of their scores those of some keys only, in the processor's own cache.
// In bf16 where the processor has its products, else inside in f32. Source: FlashAttention (Dao and others 2022), algorithms 1 and 4.
struct Attention : Function<Attention> {
  static constexpr int64_t KEYS = 256;

  struct Shape {
    int64_t batch, length, heads, kv;
    // Values of a head, and of a row of all heads; of a head in whole vectors; blocks of queries in a sequence, and values of a head in so many.
    int64_t width, row, wide, blocks, whole;
    float scale;

    Shape(const Tensor &qkv, const Tensor &cos, int64_t heads, int64_t kv)
        : batch(qkv.size(0) / cos.size(0)), length(cos.size(0)), heads(heads), kv(kv), width(cos.size(1) * 2), row(qkv.size(1)),
          wide((width + 15) / 16 * 16), blocks((length + QUERIES - 1) / QUERIES), whole(blocks * QUERIES * wide), scale(1.0f / std::sqrt(float(width))) {}
  };

  static at::ScalarType inside(const Tensor &qkv) { return kernels().b16.product ? qkv.scalar_type() : at::kFloat; }

  // Memory of each thread's own, in pieces that are taken one after the other.
  struct Scratch {
    Tensor all;
    Scratch(int64_t bytes) : all(at::empty({omp_get_max_threads(), bytes}, at::kByte)) {}
    struct Own {
      uint8_t *next;
      template <class T> T *take(int64_t n) { return reinterpret_cast<T *>(std::exchange(next, next + n * sizeof(T))); }
    };
    Own own() const { return {data<uint8_t>(all) + omp_get_thread_num() * all.size(1)}; }
  };

  static Tensor forward(AutogradContext *context, const Tensor &qkv, const Tensor &cos, const Tensor &sin, int64_t heads, int64_t kv) {
    Shape s(qkv, cos, heads, kv);
    with(qkv.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      k.rotate(data<T>(qkv), data<float>(cos), data<float>(sin), qkv.size(0), s.length, heads, kv, s.width);
    });
    auto turned = qkv.to(inside(qkv)), mixed = at::empty({qkv.size(0), heads * s.width}, turned.options());
    auto logs = at::empty({s.batch, heads, s.length}, cos.options()), keys = at::empty({s.batch * kv, s.whole}, turned.options()), values = at::empty_like(keys);
    Scratch scratch(QUERIES * (KEYS * 2 + s.wide) * sizeof(float));
    with(turned.scalar_type(), [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
#pragma omp parallel for
      for (int64_t task = 0; task < s.batch * kv; task++) {
        const T *rows = data<T>(turned) + task / kv * s.length * s.row + (heads + task % kv) * s.width;
        for (int64_t first = 0; first < s.length; first += QUERIES)
          k.columns(rows + first * s.row, s.row, std::min(QUERIES, s.length - first), s.width, data<T>(keys) + task * s.whole + first * s.wide, QUERIES);
        k.packed(rows + kv * s.width, s.row, s.length, s.width, data<T>(values) + task * s.whole, s.blocks * QUERIES, s.wide);
      }
#pragma omp parallel
      {
        auto own = scratch.own();
        auto *scores = own.template take<float>(QUERIES * KEYS), *sums = own.template take<float>(QUERIES * s.wide);
        auto *shares = sizeof(T) == sizeof(float) ? reinterpret_cast<T *>(scores) : own.template take<T>(QUERIES * KEYS);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * heads * s.blocks; task++) {
          // The longest ones first.
          int64_t first = (s.blocks - 1 - task / (s.batch * heads)) * QUERIES, head = task % heads, batch = task / heads % s.batch;
          int64_t n = std::min(QUERIES, s.length - first), own_kv = (batch * kv + head / (heads / kv)) * s.whole, last = first + QUERIES;
          const T *queries = data<T>(turned) + (batch * s.length + first) * s.row + head * s.width;
          const T *key_blocks = data<T>(keys) + own_kv, *value_rows = data<T>(values) + own_kv;
          float most[QUERIES], sum[QUERIES] = {}, *log = data<float>(logs) + (batch * heads + head) * s.length + first;
          std::fill(most, most + QUERIES, -INFINITY);
          std::fill_n(sums, QUERIES * s.wide, 0.0f);
          for (int64_t key = 0; key < last; key += KEYS) {
            int64_t count = std::min(KEYS, last - key);
            for (int64_t block = 0; block < count; block += QUERIES)
              k.product(n, QUERIES, s.width, queries, s.row, key_blocks + (key + block) * s.wide, QUERIES, scores + block, KEYS, false);
            k.softmax(scores, shares, n, count, KEYS, first - key + 1, s.scale, most, sum, sums, s.wide);
            k.product(n, s.wide, count, shares, KEYS, value_rows + key * s.wide, s.wide, sums, s.wide, true);
          }
          k.divided(sums, s.wide, sum, n, s.width, data<T>(mixed) + (batch * s.length + first) * heads * s.width + head * s.width, heads * s.width);
          for (int64_t q = 0; q < n; q++) log[q] = most[q] + std::log(sum[q]);
        }
      }
    });
    mixed = mixed.to(qkv.scalar_type());
    context->save_for_backward({qkv, cos, sin, mixed, logs});
    context->saved_data["heads"] = heads;
    context->saved_data["kv"] = kv;
    return mixed;
  }

  static variable_list backward(AutogradContext *context, variable_list slopes) {
    auto saved = context->get_saved_variables();
    int64_t heads = context->saved_data["heads"].toInt(), kv = context->saved_data["kv"].toInt();
    auto kind = inside(saved[0]);
    auto turned = saved[0].to(kind), mixed = saved[3].to(kind), slope = slopes[0].to(kind).contiguous(), out = at::empty_like(turned), logs = saved[4];
    auto cos = data<float>(saved[1]), sin = data<float>(saved[2]);
    Shape s(turned, saved[1], heads, kv);
    with(kind, [&](auto &k, auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      constexpr bool half = sizeof(T) < sizeof(float);
      int64_t block = QUERIES * s.wide, part = KEYS * QUERIES;
      Scratch scratch(2 * (s.whole + block + part) * sizeof(float) + (s.whole + 4 * block + (half ? 3 * part : 0)) * sizeof(T));
#pragma omp parallel
      {
        auto own = scratch.own();
        auto *dk = own.template take<float>(s.whole), *dv = own.template take<float>(s.whole), *dq = own.template take<float>(block);
        auto *dq_columns = own.template take<float>(block), *scores = own.template take<float>(part), *dshares = own.template take<float>(part);
        auto *keys = own.template take<T>(s.whole), *query_columns = own.template take<T>(block), *down_columns = own.template take<T>(block);
        auto *query_rows = own.template take<T>(block), *down_rows = own.template take<T>(block);
        // In f32 they take the place of what they are made of.
        auto *shares = half ? own.template take<T>(part) : reinterpret_cast<T *>(scores), *dscores = half ? own.template take<T>(part) : reinterpret_cast<T *>(dshares);
        auto *dscore_rows = half ? own.template take<T>(part) : dscores;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * kv; task++) {
          int64_t batch = task / kv, kv_head = task % kv, apart = heads * s.width, length = s.blocks * QUERIES;
          const T *rows = data<T>(turned) + batch * s.length * s.row, *key_rows = rows + (heads + kv_head) * s.width;
          const T *value_rows = key_rows + kv * s.width;
          T *to = data<T>(out) + batch * s.length * s.row;
          k.turned(key_rows, s.row, s.length, s.width, keys, length);
          std::fill_n(dk, s.whole, 0.0f);
          std::fill_n(dv, s.whole, 0.0f);
          // A key or value that several heads read has the sum of their gradients.
          for (int64_t head = kv_head * (heads / kv); head < (kv_head + 1) * (heads / kv); head++)
            for (int64_t first = 0; first < s.length; first += QUERIES) {
              int64_t n = std::min(QUERIES, s.length - first), last = first + n, here = (batch * s.length + first) * apart + head * s.width;
              const T *queries = rows + first * s.row + head * s.width, *down = data<T>(slope) + here;
              float log[QUERIES] = {}, delta[QUERIES] = {};
              std::copy_n(data<float>(logs) + (batch * heads + head) * s.length + first, n, log);
              k.deltas(down, data<T>(mixed) + here, apart, n, s.width, delta);
              k.columns(queries, s.row, n, s.width, query_columns, QUERIES);
              k.columns(down, apart, n, s.width, down_columns, QUERIES);
              k.packed(queries, s.row, n, s.width, query_rows, QUERIES, s.wide);
              k.packed(down, apart, n, s.width, down_rows, QUERIES, s.wide);
              std::fill_n(dq_columns, block, 0.0f);
              for (int64_t key = 0; key < last; key += KEYS) {
                int64_t count = std::min(KEYS, last - key), even = half ? (count + 1) / 2 * 2 : count;
                k.product(count, QUERIES, s.width, key_rows + key * s.row, s.row, query_columns, QUERIES, scores, QUERIES, false);
                k.product(count, QUERIES, s.width, value_rows + key * s.row, s.row, down_columns, QUERIES, dshares, QUERIES, false);
                k.softmax_backward(scores, dshares, shares, dscores, count, first - key + 1, s.scale, log, delta);
                k.product(count, s.wide, QUERIES, shares, QUERIES, down_rows, s.wide, dv + key * s.wide, s.wide, true);
                k.product(count, s.wide, QUERIES, dscores, QUERIES, query_rows, s.wide, dk + key * s.wide, s.wide, true);
                if (dscore_rows != dscores) k.packed(dscores, QUERIES, count, QUERIES, dscore_rows, even, QUERIES);
                k.product(s.width, QUERIES, even, keys + key, length, dscore_rows, QUERIES, dq_columns, QUERIES, true);
              }
              kernels().f32.columns(dq_columns, QUERIES, s.width, n, dq, s.width);
              int64_t angle = first * s.width / 2;
              k.turn_back(dq, s.width, n, s.width, cos + angle, sin + angle, to + first * s.row + head * s.width, s.row);
            }
          k.turn_back(dk, s.wide, s.length, s.width, cos, sin, to + (heads + kv_head) * s.width, s.row);
          k.turn_back(dv, s.wide, s.length, s.width, nullptr, nullptr, to + (heads + kv + kv_head) * s.width, s.row);
        }
      }
    });
    return {out.to(saved[0].scalar_type()), Tensor(), Tensor(), Tensor(), Tensor()};
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
    auto xs = x.contiguous(), ys = y.contiguous();
    // A last block that is not whole takes a fifth from oneDNN's product for the weight's gradient: in bf16, where there is a copy anyway, it is filled up.
    int64_t width = w.size(0), filled = kernel && kind == at::kBFloat16 ? (width + 63) / 64 * 64 : width;
    auto ws = filled == width ? w.to(kind) : at::empty({filled, w.size(1)}, xs.options());
    if (filled != width) {
      ws.narrow(0, 0, width).copy_(w);
      ws.narrow(0, width, filled - width).zero_();
    }
    // Parts of the same size, 128 MiB at most: the fewer they are, the fewer times all of the weight's gradient is gone over.
    int64_t rows = x.size(0), most = std::max<int64_t>(64, (int64_t(1) << 27) / (filled * ws.element_size())), parts = (rows + most - 1) / most;
    int64_t step = (rows + parts - 1) / parts;
    double scale = share / double(rows);
    auto dx = wanted ? at::empty_like(xs) : Tensor(), dw = wanted && rows > step ? at::zeros(ws.sizes(), w.options()) : Tensor();
    std::vector<Tensor> losses;
    for (int64_t first = 0; first < rows; first += step) {
      int64_t count = std::min(step, rows - first);
      auto part = xs.narrow(0, first, count), target = ys.narrow(0, first, count);
      auto logits = kernel ? Linear::product(part, ws, std::nullopt) : at::mm(part, ws.t());
      if (kernel) {
        auto own = at::empty({count}, x.options().dtype(at::kFloat));
        with(kind, [&](auto &k, auto *t) {
          using T = std::remove_pointer_t<decltype(t)>;
          k.entropy(data<T>(logits), data<int64_t>(target), data<float>(own), float(scale), wanted, count, width, filled);
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
    if (wanted) context->save_for_backward({dx, dw.narrow(0, 0, width)});
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
           float(1 - lr * decay), step == 1};
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
