// What tch 0.24 lacks of libtorch: the fused AdamW, the norm of many tensors, gradients of several tensors, Muon's iteration, determinism,
// the dtype of autocast.
// Every function returns 0, or 1 with the reason in bz_last_error. Links libtorch_cpu only.
#include "shim.h"
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/autograd.h>
#include <vector>

thread_local std::string last_error;

static std::vector<at::Tensor> list(at::Tensor **tensors, size_t n) {
  std::vector<at::Tensor> all;
  all.reserve(n);
  for (size_t i = 0; i < n; i++) all.push_back(*tensors[i]);
  return all;
}

extern "C" {
const char *bz_last_error() { return last_error.c_str(); }

int bz_fused_adamw(at::Tensor **params, at::Tensor **grads, at::Tensor **first, at::Tensor **second, at::Tensor **steps,
                   size_t n, at::Tensor *scale, double lr, double beta1, double beta2, double decay, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto p = list(params, n), g = list(grads, n), m = list(first, n), v = list(second, n), s = list(steps, n);
    at::_foreach_add_(s, 1.0);
    at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, decay, eps, false, false, scale ? std::optional<at::Tensor>(*scale) : std::nullopt, std::nullopt);
  });
}

int bz_norm_of(at::Tensor **tensors, size_t n, at::Tensor **out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(list(tensors, n), 2)), 2));
  });
}

int bz_gradients(at::Tensor **made, at::Tensor **slopes, size_t n, at::Tensor **inputs, size_t m, at::Tensor **out) {
  return guarded([&] {
    auto given = slopes ? list(slopes, n) : std::vector<at::Tensor>();
    auto all = torch::autograd::grad(list(made, n), list(inputs, m), given);
    for (size_t i = 0; i < m; i++) out[i] = new at::Tensor(std::move(all[i]));
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

int bz_cuda_memory(int64_t index, uint64_t *free, uint64_t *peak) {
  return guarded([&] {
    auto *allocator = c10::getDeviceAllocator(c10::kCUDA);
    auto device = c10::DeviceIndex(index);
    auto stats = allocator->getDeviceStats(device);
    auto all = size_t(c10::CachingAllocator::StatType::AGGREGATE);
    if (free) *free = allocator->getMemoryInfo(device).first + (stats.reserved_bytes[all].current - stats.allocated_bytes[all].current);
    if (peak) *peak = stats.allocated_bytes[all].peak;
  });
}

int bz_deterministic() {
  return guarded([] {
    // Strict: with warnings alone, attention's backward pass on a GPU keeps its atomic additions. What has no
    // deterministic algorithm throws, with its name.
    at::globalContext().setDeterministicAlgorithms(true, false);
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
