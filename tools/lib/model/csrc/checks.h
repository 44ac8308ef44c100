// The border between tensors and kernels, which read and write through bare pointers: what crosses it is checked here.
#pragma once
#include "levels.h"
#include <ATen/ATen.h>

// How what is wrong here begins: a defect of ours, and nothing that another try could mend.
#define KERNEL "kernel: "

// The dtype of values as kernels have them.
template <class T> struct Dtype;
template <> struct Dtype<uint8_t> { static constexpr auto kind = at::kByte; };
template <> struct Dtype<int64_t> { static constexpr auto kind = at::kLong; };
template <> struct Dtype<float> { static constexpr auto kind = at::kFloat; };
template <> struct Dtype<bf16> { static constexpr auto kind = at::kBFloat16; };

// The tensor, which is on the CPU and has this dtype and shape. Its values may lie anywhere.
static const at::Tensor &check(const char *name, const at::Tensor &t, at::ScalarType kind, at::IntArrayRef shape) {
  TORCH_CHECK(t.defined(), KERNEL, name, " is missing");
  TORCH_CHECK(t.is_cpu() && t.layout() == at::kStrided, KERNEL, name, " is not in the CPU's memory");
  TORCH_CHECK(t.scalar_type() == kind, KERNEL, name, " is ", t.scalar_type(), ", not ", kind);
  TORCH_CHECK(t.sizes() == shape, KERNEL, name, " is ", t.sizes(), ", not ", shape);
  return t;
}

// A matrix of some rows and columns at least, in one of the two dtypes that kernels take.
static const at::Tensor &check_matrix(const char *name, const at::Tensor &t) {
  TORCH_CHECK(t.defined() && t.dim() == 2 && t.numel() > 0, KERNEL, name, " is no matrix");
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, KERNEL, name, " is ", t.scalar_type(),
              ", not f32 or bf16");
  return check(name, t, t.scalar_type(), t.sizes());
}

// Values that lie side by side in the CPU's memory, in this very dtype; null for a tensor that is not there.
template <class T> static T *data(const at::Tensor &t) {
  if (!t.defined()) return nullptr;
  check("a kernel's tensor", t, Dtype<T>::kind, t.sizes());
  TORCH_CHECK(t.is_contiguous(), KERNEL, "a tensor of ", t.sizes(), " has gaps");
  // Kernels take two values in bf16 as one word.
  bool aligned = reinterpret_cast<uintptr_t>(t.data_ptr()) % 4 == 0;
  TORCH_CHECK(aligned, KERNEL, "a tensor of ", t.sizes(), " begins inside a word");
  return static_cast<T *>(t.data_ptr());
}

// Call `work` with the kernels of a dtype and a null pointer of its type.
template <class F> static void with(at::ScalarType kind, F work) {
  TORCH_CHECK(kind == at::kFloat || kind == at::kBFloat16, KERNEL, "there are none for ", kind);
  if (kind == at::kBFloat16) work(kernels().b16, static_cast<bf16 *>(nullptr));
  else work(kernels().f32, static_cast<float *>(nullptr));
}
