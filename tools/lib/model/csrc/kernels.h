// The CPU's kernels, a table of them for each level of x86-64.
#pragma once
#include <cstdint>

struct bf16 {
  uint16_t bits;
};

// Shares of the rows, each with a partial sum of its own: a fixed number, so that threads change nothing.
constexpr int64_t NORM_PARTS = 64;
// Queries of a block of attention, and the most keys.
constexpr int64_t QUERIES = 64, KEYS = 256;

// Values that a thread takes at once where there are no rows.
constexpr int64_t BLOCK = 16384;

// AdamW's numbers of a step: learning rate over the first bias correction; the root of the second, inverted; 1 − β₁,
// 1 − β₂; ε; 1 − lr·decay; and whether it is the first one, before which there are no moments.
struct Adam {
  float lr, root, rate1, rate2, eps, kept;
  bool fresh;
};

template <class T> struct KernelsOf {
  void (*norm_forward)(const float *x, const T *branch, const float *w, float eps, float *sum, T *y, float *inverse,
                       int64_t rows, int64_t width);
  void (*norm_backward)(const T *dy, const float *dsum, const float *x, const float *w, const float *inverse, float *dx,
                        T *dbranch, float *dw, float *parts, int64_t rows, int64_t width);
  void (*gate_forward)(const T *both, T *out, int64_t rows, int64_t width);
  void (*gate_backward)(const T *d_out, const T *both, T *d_both, int64_t rows, int64_t width);
  void (*entropy)(T *logits, const int64_t *chosen, float *losses, float scale, bool wanted, int64_t rows,
                  int64_t width, int64_t ld);
  void (*rotate)(T *qkv, const float *cos, const float *sin, int64_t rows, int64_t length, int64_t heads, int64_t kv,
                 int64_t head_dim);
  void (*rotate_back)(const float *from, int64_t ld, int64_t n, int64_t head_dim, const float *cos, const float *sin,
                      T *to, int64_t stride);
  void (*delta)(const T *d_out, const T *out, int64_t stride, int64_t n, int64_t head_dim, float *to);
  void (*normalize)(const float *sums, int64_t ld, const float *row_sum, int64_t n, int64_t head_dim, T *out,
                    int64_t stride);
  // Factors of attention's products, their product and the softmax between them, in the dtype that products take.
  void (*pack_columns)(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length);
  void (*pack_transposed)(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length);
  void (*pack_rows)(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length, int64_t padded);
  // Absent in bf16 where the processor has no such products.
  void (*matmul)(int64_t m, int64_t n, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c,
                 int64_t ldc, bool accumulate);
  void (*softmax)(const float *scores, T *probs, int64_t n, int64_t keys, int64_t ld, int64_t seen, float scale,
                  float *row_max, float *row_sum, float *sums, int64_t width);
  void (*softmax_backward)(const float *scores, const float *d_probs, T *probs, T *d_scores, int64_t keys, int64_t seen,
                           float scale, const float *lse, const float *delta);
  void (*adamw)(float *param, const T *grad, float *first, float *second, bf16 *copy, int64_t n, float scale,
                const Adam &c);
  void (*squares)(const T *x, int64_t n, double *sums);
};

struct Kernels {
  KernelsOf<float> f32;
  KernelsOf<bf16> b16;
  // Rows in f32, close together.
  void (*widen)(const bf16 *from, int64_t stride, int64_t n, int64_t width, float *to);
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
