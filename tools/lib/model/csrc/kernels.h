// The CPU's kernels, a table of them for each level of x86-64.
#pragma once
#include <cstdint>

struct bf16 {
  uint16_t bits;
};

// Shares of the rows, each with a partial sum of its own: a fixed number, so that threads change nothing.
constexpr int64_t NORM_PARTS = 64;
// Queries that attention takes at once.
constexpr int64_t QUERIES = 64;

// Values that a thread takes at once where there are no rows.
constexpr int64_t BLOCK = 16384;

// AdamW's numbers of a step: learning rate over the first bias correction; the root of the second, inverted; 1 − β₁, 1 − β₂; ε; 1 − lr·decay; and whether
// it is the first one, before which there are no moments.
struct Adam {
  float lr, root, rate1, rate2, eps, kept;
  bool fresh;
};

template <class T> struct KernelsOf {
  void (*norm_forward)(const float *x, const T *branch, const float *w, float eps, float *sum, T *y, float *inverse, int64_t rows, int64_t width);
  void (*norm_backward)(const T *dy, const float *dsum, const float *x, const float *w, const float *inverse, float *dx, T *dbranch, float *dw,
                        float *parts, int64_t rows, int64_t width);
  void (*gate_forward)(const T *both, T *out, int64_t rows, int64_t width);
  void (*gate_backward)(const T *slope, const T *both, T *out, int64_t rows, int64_t width);
  void (*entropy)(T *logits, const int64_t *chosen, float *losses, float scale, bool wanted, int64_t rows, int64_t width, int64_t apart);
  void (*rotate)(T *all, const float *cos, const float *sin, int64_t rows, int64_t length, int64_t heads, int64_t kv, int64_t width);
  void (*columns)(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length);
  void (*turned)(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length);
  void (*packed)(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length, int64_t wide);
  // Of attention's size; absent in bf16 where the processor has no such products.
  void (*product)(int64_t m, int64_t n, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c, int64_t ldc, bool more);
  void (*softmax)(const float *scores, T *shares, int64_t n, int64_t keys, int64_t apart, int64_t seen, float scale, float *most, float *sum, float *mixed,
                  int64_t width);
  void (*softmax_backward)(const float *scores, const float *slopes, T *shares, T *dscores, int64_t keys, int64_t seen, float scale, const float *logs,
                           const float *deltas);
  void (*deltas)(const T *slope, const T *mixed, int64_t stride, int64_t n, int64_t width, float *to);
  void (*divided)(const float *mixed, int64_t apart, const float *sum, int64_t n, int64_t width, T *to, int64_t stride);
  void (*turn_back)(const float *from, int64_t apart, int64_t n, int64_t width, const float *cos, const float *sin, T *to, int64_t stride);
  void (*adamw)(float *param, const T *grad, float *first, float *second, bf16 *copy, int64_t n, float scale, const Adam &c);
  void (*squares)(const T *x, int64_t n, double *sums);
};

struct Kernels {
  KernelsOf<float> f32;
  KernelsOf<bf16> b16;
};

namespace x86_64_v2 {
extern const Kernels kernels;
}
namespace x86_64_v3 {
extern const Kernels kernels;
}
namespace x86_64_v4 {
extern const Kernels kernels;
}
namespace x86_64_v4_bf16 {
extern const Kernels kernels;
}
