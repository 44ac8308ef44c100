// What surrounds the matrix products of a step on the CPU: each kernel goes once over its data, in f32 or bf16, with
// sums in f32. Compiled once for each level of x86-64, so it includes nothing whose inline functions could be picked
// for an older processor.
// Results do not depend on the number of threads.
#include "kernels.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace LEVEL {
static inline float load(float x) { return x; }
static inline float load(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
static inline void store(float &to, float x) { to = x; }
static inline void store(bf16 &to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest);
}

// e^x to 2 units in the last place: 2^n times a polynomial over ±ln 2 / 2. Below -87 it stays at the least normal
// number.
static inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = std::nearbyint(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665795e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits = (uint32_t(int32_t(n)) + 127u) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

// sum = x + branch, y = sum / √(mean sum² + eps) · w
template <class T>
static void norm_forward(const float *x, const T *branch, const float *w, float eps, float *sum, T *y, float *inverse,
                         int64_t rows, int64_t width) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; row++) {
    const float *in = x + row * width;
    T *out = y + row * width;
    float squares = 0;
    if (branch) {
      const T *more = branch + row * width;
      float *both = sum + row * width;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; i++) {
        float value = in[i] + load(more[i]);
        both[i] = value;
        squares += value * value;
      }
      in = both;
    } else {
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; i++) squares += in[i] * in[i];
    }
    float own = inverse[row] = 1.0f / std::sqrt(squares / float(width) + eps);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) store(out[i], in[i] * own * w[i]);
  }
}

template <class T>
static void norm_backward(const T *dy, const float *dsum, const float *x, const float *w, const float *inverse,
                          float *dx, T *dbranch, float *dw, float *parts, int64_t rows, int64_t width) {
  // The weight's gradient: a sum for each share of the rows, and then over the shares in their order.
#pragma omp parallel for
  for (int64_t part = 0; part < NORM_PARTS; part++) {
    float *partial = parts + part * width;
    std::fill(partial, partial + width, 0.0f);
    for (int64_t row = rows * part / NORM_PARTS; row < rows * (part + 1) / NORM_PARTS; row++) {
      const T *grad = dy + row * width;
      const float *in = x + row * width;
      float own = inverse[row], along = 0, *out = dx + row * width;
#pragma omp simd reduction(+ : along)
      for (int64_t i = 0; i < width; i++) along += load(grad[i]) * w[i] * in[i];
      along *= own * own / float(width);
#pragma omp simd
      for (int64_t i = 0; i < width; i++) {
        float g = load(grad[i]);
        partial[i] += g * in[i] * own;
        out[i] = own * (g * w[i] - in[i] * along);
      }
      if (dsum) {
        const float *more = dsum + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) out[i] += more[i];
      }
      if (dbranch) {
        T *same = dbranch + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) store(same[i], out[i]);
      }
    }
  }
  std::fill(dw, dw + width, 0.0f);
  for (int64_t part = 0; part < NORM_PARTS; part++)
#pragma omp simd
    for (int64_t i = 0; i < width; i++) dw[i] += parts[part * width + i];
}

// Rotate the queries and keys of rows of queries, keys and values by their position.
template <class T>
static void rotate(T *qkv, const float *cos, const float *sin, int64_t rows, int64_t length, int64_t heads, int64_t kv,
                   int64_t head_dim) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; row++) {
    int64_t half = head_dim / 2;
    T *own = qkv + row * (heads + 2 * kv) * head_dim;
    const float *c = cos + row % length * half, *s = sin + row % length * half;
    for (int64_t head = 0; head < heads + kv; head++, own += head_dim)
#pragma omp simd
      for (int64_t i = 0; i < half; i++) {
        float low = load(own[i]), high = load(own[i + half]);
        store(own[i], low * c[i] - high * s[i]);
        store(own[i + half], high * c[i] + low * s[i]);
      }
  }
}

// Gradients (n, head_dim) f32 of rotated rows to those before, by the angles from the first row on; without angles they
// are only stored.
template <class T>
static void rotate_back(const float *from, int64_t ld, int64_t n, int64_t head_dim, const float *cos, const float *sin,
                        T *to, int64_t stride) {
  int64_t half = head_dim / 2;
  for (int64_t q = 0; q < n; q++) {
    const float *own = from + q * ld;
    T *out = to + q * stride;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
      float low = own[i], high = own[i + half], c = cos ? cos[q * half + i] : 1.0f, s = sin ? sin[q * half + i] : 0.0f;
      store(out[i], low * c + high * s);
      store(out[i + half], high * c - low * s);
    }
  }
}

// Rows (n, width) in f32, close together: what products read where bf16 has none.
static void widen(const bf16 *from, int64_t stride, int64_t n, int64_t width, float *to) {
  for (int64_t row = 0; row < n; row++)
#pragma omp simd
    for (int64_t i = 0; i < width; i++) to[row * width + i] = load(from[row * stride + i]);
}

// Attention's products take a left factor as rows lie. The right one is packed: in f32 its rows, close together; in
// bf16 two rows as one, value beside value, since the processor multiplies pairs. Both as words of 32 bits.
typedef uint32_t __attribute__((may_alias)) word;

// Rows (n, width) of words, tile by tile, zero up to `length` rows: put(column, row, word).
template <class Put>
static inline void tiles(const word *from, int64_t stride, int64_t n, int64_t width, int64_t length, Put put) {
  constexpr int64_t TILE = 16;
  for (int64_t first = 0; first < length; first += TILE)
    for (int64_t column = 0; column < width; column += TILE) {
      int64_t high = std::min(TILE, n - first), wide = std::min(TILE, width - column);
      int64_t rest = std::min(TILE, length - first);
      const word *in = from + first * stride + column;
      if (high == TILE && wide == TILE) {
        for (int64_t i = 0; i < TILE; i++)
#pragma omp simd
          for (int64_t q = 0; q < TILE; q++) put(column + i, first + q, in[q * stride + i]);
      } else {
        for (int64_t i = 0; i < wide; i++)
          for (int64_t q = 0; q < rest; q++) put(column + i, first + q, q < high ? in[q * stride + i] : 0);
      }
    }
}

// The right factor whose columns are the rows (n, width), zero up to `length` columns.
template <class T>
static void pack_columns(const T *from, int64_t stride, int64_t n, int64_t width, T *to, int64_t length) {
  constexpr int64_t IN_WORD = sizeof(word) / sizeof(T);
  word *out = reinterpret_cast<word *>(to);
  tiles(reinterpret_cast<const word *>(from), stride / IN_WORD, n, width / IN_WORD, length,
        [=](int64_t i, int64_t q, word x) { out[i * length + q] = x; });
}

// The left factor (width, length) of the same.
static void pack_transposed(const float *from, int64_t stride, int64_t n, int64_t width, float *to, int64_t length) {
  pack_columns(from, stride, n, width, to, length);
}
static void pack_transposed(const bf16 *from, int64_t stride, int64_t n, int64_t width, bf16 *to, int64_t length) {
  tiles(reinterpret_cast<const word *>(from), stride / 2, n, width / 2, length, [=](int64_t i, int64_t q, word x) {
    to[2 * i * length + q].bits = uint16_t(x);
    to[(2 * i + 1) * length + q].bits = uint16_t(x >> 16);
  });
}

// The right factor of rows (n, width), zero up to (length, padded).
static void pack_rows(const float *from, int64_t stride, int64_t n, int64_t width, float *to, int64_t length,
                      int64_t padded) {
  for (int64_t row = 0; row < length; row++, to += padded) {
    int64_t some = row < n ? width : 0;
    if (some) std::copy_n(from + row * stride, some, to);
    std::fill(to + some, to + padded, 0.0f);
  }
}
static void pack_rows(const bf16 *from, int64_t stride, int64_t n, int64_t width, bf16 *to, int64_t length,
                      int64_t padded) {
  for (int64_t row = 0; row < length; row += 2, to += 2 * padded) {
    const bf16 *low = from + row * stride, *high = low + stride;
    word *out = reinterpret_cast<word *>(to);
    int64_t some = row < n ? width : 0;
    if (row + 1 < n) {
#pragma omp simd
      for (int64_t i = 0; i < some; i++) out[i] = low[i].bits | word(high[i].bits) << 16;
    } else {
      for (int64_t i = 0; i < some; i++) out[i] = low[i].bits;
    }
    std::fill(out + some, out + padded, 0);
  }
}

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 4, VECTORS = 4;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6, VECTORS = 2;
#else
constexpr int LANES = 4, ROWS = 2, VECTORS = 4;
#endif
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// sum += left · right: a word of a row of the left factor, a vector of words of the right one.
static inline void multiply(lanes &sum, const float *left, lanes right) { sum += *left * right; }
#ifdef __AVX512BF16__
static inline void multiply(lanes &sum, const bf16 *left, lanes right) {
  sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(int(*reinterpret_cast<const word *>(left))), (__m512bh)right);
}
#endif

// Rows, and vectors of columns, of one tile of a product: sums that all fit into registers.
template <int M, int N, class T>
static inline void tile(int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c, int64_t ldc,
                        bool accumulate) {
  constexpr int64_t IN_WORD = sizeof(word) / sizeof(T);
  lanes sums[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++)
      sums[i][j] = accumulate ? *reinterpret_cast<const lanes *>(c + i * ldc + j * LANES) : lanes{};
  for (int64_t p = 0; p < k; p += IN_WORD) {
    lanes right[N];
    for (int j = 0; j < N; j++) right[j] = *reinterpret_cast<const lanes *>(b + p * ldb + j * LANES * IN_WORD);
    for (int i = 0; i < M; i++)
      for (int j = 0; j < N; j++) multiply(sums[i][j], a + i * lda + p, right[j]);
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) *reinterpret_cast<lanes *>(c + i * ldc + j * LANES) = sums[i][j];
}

template <int N, class T>
static void strip(int64_t m, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c, int64_t ldc,
                  bool accumulate) {
  int64_t i = 0;
  for (; i + ROWS <= m; i += ROWS) tile<ROWS, N>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, accumulate);
  for (; i < m; i++) tile<1, N>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, accumulate);
}

// c (m, n) f32 = a (m, k) · b (k, n), or c + a · b; b packed, n in sixteens, k in whole words.
template <class T>
static void matmul(int64_t m, int64_t n, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c,
                   int64_t ldc, bool accumulate) {
  constexpr int64_t IN_WORD = sizeof(word) / sizeof(T), WIDE = LANES * VECTORS;
  int64_t j = 0;
  for (; j + WIDE <= n; j += WIDE) strip<VECTORS>(m, k, a, lda, b + j * IN_WORD, ldb, c + j, ldc, accumulate);
  for (; j < n; j += 16) strip<16 / LANES>(m, k, a, lda, b + j * IN_WORD, ldb, c + j, ldc, accumulate);
}

// The next keys of a running softmax: scores (n, keys), rows `ld` apart, become probabilities that are relative to the
// greatest score so far, and what was summed before is made smaller by as much. Query q sees the first `seen` + q keys.
// Probabilities may lie where the scores do.
template <class T>
static void softmax(const float *scores, T *probs, int64_t n, int64_t keys, int64_t ld, int64_t seen, float scale,
                    float *row_max, float *row_sum, float *sums, int64_t width) {
  for (int64_t q = 0; q < n; q++) {
    const float *own = scores + q * ld;
    T *out = probs + q * ld;
    float highest = row_max[q], all = 0;
    int64_t count = std::max<int64_t>(0, std::min(keys, seen + q));
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < count; i++) highest = std::max(highest, own[i] * scale);
    float less = exponential(row_max[q] - highest);
#pragma omp simd reduction(+ : all)
    for (int64_t i = 0; i < count; i++) {
      float prob = exponential(own[i] * scale - highest);
      all += prob;
      store(out[i], prob);
    }
    std::fill(out + count, out + keys, T{});
    row_max[q] = highest;
    row_sum[q] = row_sum[q] * less + all;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) sums[q * width + i] *= less;
  }
}

// O: sums (n, head_dim), rows `ld` apart, each divided by its query's sum of probabilities.
template <class T>
static void normalize(const float *sums, int64_t ld, const float *row_sum, int64_t n, int64_t head_dim, T *out,
                      int64_t stride) {
  for (int64_t q = 0; q < n; q++) {
    float inverse = 1.0f / row_sum[q];
#pragma omp simd
    for (int64_t i = 0; i < head_dim; i++) store(out[q * stride + i], sums[q * ld + i] * inverse);
  }
}

// Here queries lie side by side, (keys, 64). P once more, from S and the queries' lse; and dS = P · (dP − delta) ·
// scale. Query q sees the first `seen` + q keys.
template <class T>
static void softmax_backward(const float *scores, const float *d_probs, T *probs, T *d_scores, int64_t keys,
                             int64_t seen, float scale, const float *lse, const float *delta) {
  for (int64_t key = 0; key < keys; key++) {
    const float *s = scores + key * QUERIES, *dp = d_probs + key * QUERIES;
    T *p = probs + key * QUERIES, *ds = d_scores + key * QUERIES;
    int64_t first = key - seen + 1;
#pragma omp simd
    for (int64_t q = 0; q < QUERIES; q++) {
      float value = q >= first ? exponential(s[q] * scale - lse[q]) : 0.0f;
      store(ds[q], value * (dp[q] - delta[q]) * scale);
      store(p[q], value);
    }
  }
}

// What each query's gradient of the probabilities is measured from: Σ dO · O.
template <class T>
static void delta(const T *d_out, const T *out, int64_t stride, int64_t n, int64_t head_dim, float *to) {
  for (int64_t q = 0; q < n; q++) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < head_dim; i++) sum += load(d_out[q * stride + i]) * load(out[q * stride + i]);
    to[q] = sum;
  }
}

// out = silu(gate) · up, of rows that hold gate and then up.
template <class T> static void gate_forward(const T *both, T *out, int64_t rows, int64_t width) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; row++) {
    const T *gate = both + row * 2 * width, *up = gate + width;
    T *own = out + row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      float g = load(gate[i]);
      store(own[i], g / (1.0f + exponential(-g)) * load(up[i]));
    }
  }
}

template <class T>
static void gate_backward(const T *d_out, const T *both, T *d_both, int64_t rows, int64_t width) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; row++) {
    const T *gate = both + row * 2 * width, *up = gate + width, *own = d_out + row * width;
    T *dgate = d_both + row * 2 * width, *dup = dgate + width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      float g = load(gate[i]), d = load(own[i]), sigmoid = 1.0f / (1.0f + exponential(-g));
      store(dgate[i], d * load(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
      store(dup[i], d * g * sigmoid);
    }
  }
}

// The loss of each row, log Σ exp − the chosen logit; where it is wanted, the logits become their gradient,
// (softmax − one-hot) · scale, and zero up to the next row, `ld` after this one.
template <class T>
static void entropy(T *logits, const int64_t *chosen, float *losses, float scale, bool wanted, int64_t rows,
                    int64_t width, int64_t ld) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; row++) {
    T *own = logits + row * ld;
    float most = -INFINITY, sum = 0, target = load(own[chosen[row]]);
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < width; i++) most = std::max(most, load(own[i]));
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += exponential(load(own[i]) - most);
    losses[row] = most + std::log(sum) - target;
    if (!wanted) continue;
    float share = scale / sum;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) store(own[i], exponential(load(own[i]) - most) * share);
    store(own[chosen[row]], (std::exp(target - most) / sum - 1.0f) * scale);
    std::fill(own + width, own + ld, T{});
  }
}

// One step of AdamW; gradients are multiplied by `scale`, and a copy in bf16 is made where there is one. Source:
// Loshchilov and Hutter (2019), algorithm 2.
template <class T>
static void adamw(float *param, const T *grad, float *first, float *second, bf16 *copy, int64_t n, float scale,
                  const Adam &c) {
#pragma omp parallel for
  for (int64_t block = 0; block < (n + BLOCK - 1) / BLOCK; block++) {
    int64_t end = std::min(n, (block + 1) * BLOCK);
#pragma omp simd
    for (int64_t i = block * BLOCK; i < end; i++) {
      float g = load(grad[i]) * scale, m = c.fresh ? 0.0f : first[i], v = c.fresh ? 0.0f : second[i];
      m += (g - m) * c.rate1;
      v += (g * g - v) * c.rate2;
      first[i] = m;
      second[i] = v;
      param[i] = param[i] * c.kept - c.lr * m / (std::sqrt(v) * c.root + c.eps);
    }
    if (copy)
#pragma omp simd
      for (int64_t i = block * BLOCK; i < end; i++) store(copy[i], param[i]);
  }
}

// Sums of squares of blocks: as many as there are.
template <class T> static void squares(const T *x, int64_t n, double *sums) {
#pragma omp parallel for
  for (int64_t block = 0; block < (n + BLOCK - 1) / BLOCK; block++) {
    double sum = 0;
    // f32 in short runs, which lose nothing that a norm shows, and f64 over them.
    for (int64_t first = block * BLOCK; first < std::min(n, (block + 1) * BLOCK); first += 256) {
      float run = 0;
#pragma omp simd reduction(+ : run)
      for (int64_t i = first; i < std::min(n, first + 256); i++) run += load(x[i]) * load(x[i]);
      sum += run;
    }
    sums[block] = sum;
  }
}

template <class T> static constexpr KernelsOf<T> all(decltype(KernelsOf<T>::matmul) product) {
  return {.norm_forward = norm_forward<T>,
          .norm_backward = norm_backward<T>,
          .gate_forward = gate_forward<T>,
          .gate_backward = gate_backward<T>,
          .entropy = entropy<T>,
          .rotate = rotate<T>,
          .rotate_back = rotate_back<T>,
          .delta = delta<T>,
          .normalize = normalize<T>,
          .pack_columns = pack_columns<T>,
          .pack_transposed = pack_transposed,
          .pack_rows = pack_rows,
          .matmul = product,
          .softmax = softmax<T>,
          .softmax_backward = softmax_backward<T>,
          .adamw = adamw<T>,
          .squares = squares<T>};
}
#ifdef __AVX512BF16__
const Kernels kernels = {all<float>(matmul<float>), all<bf16>(matmul<bf16>), widen};
#else
const Kernels kernels = {all<float>(matmul<float>), all<bf16>(nullptr), widen};
#endif
} // namespace LEVEL
