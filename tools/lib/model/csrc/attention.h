// Causal attention of rows (B·T, (H + 2K)·E) that hold queries, keys and values. Source: FlashAttention (Dao and others
// 2022), algorithms 1 and 4, whose names these are: Q K V O, scores S, probabilities P, their gradients dQ … dP, the
// log of each query's sum of exponentials lse, and delta = Σ dO · O.
#pragma once
#include "checks.h"
#include <omp.h>
#include <torch/csrc/autograd/custom_function.h>
#include <algorithm>
#include <cmath>
#include <utility>

namespace attention {
// T is the dtype of tensors, P the one that products take: f32 where the processor has none in bf16.
template <class F> static void with_dtypes(at::ScalarType kind, F work) {
  if (kind == at::kFloat) work(static_cast<float *>(nullptr), static_cast<float *>(nullptr));
  else if (kernels().b16.matmul) work(static_cast<bf16 *>(nullptr), static_cast<bf16 *>(nullptr));
  else work(static_cast<bf16 *>(nullptr), static_cast<float *>(nullptr));
}

struct Shape {
  int64_t batch, length, heads, kv, head_dim;
  // Query heads that read one head of keys; values of a row of QKV and of O; head_dim in whole vectors.
  int64_t group, row, out_row, padded;
  // Blocks of 64 queries in a sequence; values of so many padded rows; keys that are one part in the backward pass.
  int64_t blocks, packed, part;
  float scale;

  Shape(const at::Tensor &qkv, const at::Tensor &cos, const at::Tensor &sin, int64_t heads, int64_t kv)
      : heads(heads), kv(kv) {
    check_matrix("qkv", qkv);
    check_matrix("cos", cos);
    check("cos", cos, at::kFloat, cos.sizes());
    check("sin", sin, at::kFloat, cos.sizes());
    TORCH_CHECK(kv > 0 && heads > 0 && heads % kv == 0, KERNEL, heads, " heads over ", kv, " of keys");
    length = cos.size(0), head_dim = 2 * cos.size(1), row = (heads + 2 * kv) * head_dim, out_row = heads * head_dim;
    batch = qkv.size(0) / length;
    check("qkv", qkv, qkv.scalar_type(), {batch * length, row});
    group = heads / kv, padded = (head_dim + 15) / 16 * 16, scale = 1.0f / std::sqrt(float(head_dim));
    blocks = (length + QUERIES - 1) / QUERIES, packed = blocks * QUERIES * padded;
    // Enough tasks for many cores, where the shape has them. The number of threads must not decide it: other parts have
    // other sums.
    constexpr int64_t TASKS = 64;
    for (part = KEYS; part > QUERIES && batch * kv * parts() < TASKS;) part /= 2;
  }

  int64_t parts() const { return (length + part - 1) / part; }
  // Where a head of a position begins in a row of QKV: heads of queries, then of keys, then of values.
  int64_t qkv_at(int64_t batch, int64_t position, int64_t head) const {
    return (batch * length + position) * row + head * head_dim;
  }
  int64_t out_at(int64_t batch, int64_t position, int64_t head) const {
    return (batch * length + position) * out_row + head * head_dim;
  }
};

// Memory of each thread's own, in pieces that are taken one after the other.
struct Scratch {
  uintptr_t next;
  template <class T> T *take(int64_t n) {
    return reinterpret_cast<T *>(std::exchange(next, next + (n * sizeof(T) + 63) / 64 * 64));
  }
};

// A room of type `Room` for each thread, and its bytes: as many as it takes when nothing is there.
template <class Room> struct Rooms {
  const Shape &s;
  at::Tensor all;
  uintptr_t first;
  int64_t bytes;

  explicit Rooms(const Shape &s) : s(s) {
    Scratch none{0};
    Room counted(none, s);
    bytes = int64_t(none.next);
    all = at::empty({omp_get_max_threads(), bytes}, at::kByte);
    first = reinterpret_cast<uintptr_t>(data<uint8_t>(all));
  }
  Room own() const {
    Scratch scratch{first + uintptr_t(omp_get_thread_num() * bytes)};
    return Room(scratch, s);
  }
};

// Rows as products read them, and how far they are apart: where they lie, or in f32 in a room.
template <class P, class T>
static std::pair<const P *, int64_t> rows(const T *from, int64_t stride, int64_t n, int64_t head_dim, P *room) {
  if constexpr (std::is_same_v<T, P>) {
    return {from, stride};
  } else {
    kernels().widen(from, stride, n, head_dim, room);
    return {room, head_dim};
  }
}

template <class T, class P> struct ForwardRoom {
  float *s, *sums;
  P *p, *widened;

  ForwardRoom(Scratch &scratch, const Shape &shape)
      : s(scratch.take<float>(QUERIES * KEYS)), sums(scratch.take<float>(QUERIES * shape.padded)) {
    // In f32 probabilities take the place of the scores.
    if constexpr (std::is_same_v<P, float>) p = s;
    else p = scratch.take<P>(QUERIES * KEYS);
    widened = std::is_same_v<T, P> ? nullptr : scratch.take<P>(QUERIES * shape.head_dim);
  }
};

// A block of keys and values as right factors, from rotated rows.
template <class T, class P>
static void pack(const Shape &s, const T *k_rows, int64_t n, P *k, P *v, ForwardRoom<T, P> &room) {
  const auto &inside = kernels_of<P>();
  auto [k_at, k_stride] = rows<P>(k_rows, s.row, n, s.head_dim, room.widened);
  inside.pack_columns(k_at, k_stride, n, s.head_dim, k, QUERIES);
  auto [v_at, v_stride] = rows<P>(k_rows + s.kv * s.head_dim, s.row, n, s.head_dim, room.widened);
  inside.pack_rows(v_at, v_stride, n, s.head_dim, v, QUERIES, s.padded);
}

// O and lse of a block of n queries from position `first` on, over the packed keys and values of their head.
template <class T, class P> struct Block {
  const T *q;
  const P *k, *v;
  T *out;
  float *lse;
};

template <class T, class P>
static void attend(const Shape &s, int64_t first, const Block<T, P> &block, ForwardRoom<T, P> &room) {
  const auto &inside = kernels_of<P>();
  int64_t n = std::min(QUERIES, s.length - first), end = first + QUERIES;
  auto [q, q_stride] = rows<P>(block.q, s.row, n, s.head_dim, room.widened);
  float row_max[QUERIES], row_sum[QUERIES] = {};
  std::fill_n(row_max, QUERIES, -INFINITY);
  std::fill_n(room.sums, QUERIES * s.padded, 0.0f);
  for (int64_t key = 0; key < end; key += KEYS) {
    int64_t count = std::min(KEYS, end - key);
    for (int64_t some = 0; some < count; some += QUERIES)
      inside.matmul(n, QUERIES, s.head_dim, q, q_stride, block.k + (key + some) * s.padded, QUERIES, room.s + some,
                    KEYS, false);
    inside.softmax(room.s, room.p, n, count, KEYS, first - key + 1, s.scale, row_max, row_sum, room.sums, s.padded);
    inside.matmul(n, s.padded, count, room.p, KEYS, block.v + key * s.padded, s.padded, room.sums, s.padded, true);
  }
  kernels_of<T>().normalize(room.sums, s.padded, row_sum, n, s.head_dim, block.out, s.out_row);
  for (int64_t q = 0; q < n; q++) block.lse[q] = row_max[q] + std::log(row_sum[q]);
}

// O and lse (B, H, T) of rotated rows.
template <class T, class P> static void forward(const Shape &s, const T *qkv, T *out, float *lse) {
  auto options = at::TensorOptions().dtype(Dtype<P>::kind);
  auto packs = at::empty({2, s.batch * s.kv, s.packed}, options);
  P *k_packs = data<P>(packs), *v_packs = k_packs + s.batch * s.kv * s.packed;
  Rooms<ForwardRoom<T, P>> rooms(s);
#pragma omp parallel
  {
    auto room = rooms.own();
#pragma omp for
    for (int64_t task = 0; task < s.batch * s.kv * s.blocks; task++) {
      int64_t first = task % s.blocks * QUERIES, head = task / s.blocks;
      int64_t here = head * s.packed + first * s.padded;
      const T *k_rows = qkv + s.qkv_at(head / s.kv, first, s.heads + head % s.kv);
      pack<T, P>(s, k_rows, std::min(QUERIES, s.length - first), k_packs + here, v_packs + here, room);
    }
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.batch * s.heads * s.blocks; task++) {
      // The longest ones first.
      int64_t first = (s.blocks - 1 - task / (s.batch * s.heads)) * QUERIES;
      int64_t head = task % s.heads, batch = task / s.heads % s.batch;
      int64_t here = (batch * s.kv + head / s.group) * s.packed;
      Block<T, P> block = {qkv + s.qkv_at(batch, first, head), k_packs + here, v_packs + here,
                           out + s.out_at(batch, first, head), lse + (batch * s.heads + head) * s.length + first};
      attend(s, first, block, room);
    }
  }
}

// What the backward pass reads.
template <class T> struct Given {
  const T *qkv, *out, *d_out;
  const float *lse, *cos, *sin;
};

// Sums in f32, before they are rotated back: dQᵀ by blocks of queries, dK and dV by padded rows.
struct Sums {
  float *dq, *dk, *dv;
};

template <class T, class P> struct BackwardRoom {
  // Sᵀ and dPᵀ, (keys, 64); dQ of a block, (64, E).
  float *s, *dp, *dq;
  // Pᵀ and dSᵀ, and dSᵀ as a right factor.
  P *p, *ds, *ds_rows;
  // Kᵀ as a left factor; Qᵀ and dOᵀ, Q and dO as right ones.
  P *k_transposed, *q_columns, *do_columns, *q_rows, *do_rows;
  // Rows in f32, where T is bf16 and P is not.
  P *k_wide, *v_wide, *q_wide, *do_wide;

  BackwardRoom(Scratch &scratch, const Shape &shape)
      : s(scratch.take<float>(shape.part * QUERIES)), dp(scratch.take<float>(shape.part * QUERIES)),
        dq(scratch.take<float>(QUERIES * shape.head_dim)) {
    int64_t block = QUERIES * shape.padded, keys = shape.part * shape.head_dim, queries = QUERIES * shape.head_dim;
    if constexpr (std::is_same_v<P, float>) {
      // They take the place of what they are made of.
      p = s, ds = ds_rows = dp;
    } else {
      p = scratch.take<P>(shape.part * QUERIES), ds = scratch.take<P>(shape.part * QUERIES);
      ds_rows = scratch.take<P>(shape.part * QUERIES);
    }
    k_transposed = scratch.take<P>(keys);
    q_columns = scratch.take<P>(block), do_columns = scratch.take<P>(block);
    q_rows = scratch.take<P>(block), do_rows = scratch.take<P>(block);
    k_wide = v_wide = q_wide = do_wide = nullptr;
    if constexpr (!std::is_same_v<T, P>) {
      k_wide = scratch.take<P>(keys), v_wide = scratch.take<P>(keys);
      q_wide = scratch.take<P>(queries), do_wide = scratch.take<P>(queries);
    }
  }
};

// A part of a head's keys, and a part of the queries of the heads that read it: their first positions.
struct Pair {
  int64_t batch, kv_head, key, query;
};

// A part's keys and values as left factors, and where the sums of their gradients are.
template <class P> struct Keys {
  const P *k, *v;
  int64_t k_stride, v_stride, count;
  float *dk, *dv;
};

// A block of queries of one head, from position `first` on, and the sum of its dQᵀ.
struct Queries {
  int64_t head, first;
  float *dq;
};

// What a block of queries and a part of the keys add to each other's gradients.
template <class T, class P>
static void add(const Shape &s, const Given<T> &in, const Pair &pair, const Keys<P> &keys, const Queries &queries,
                BackwardRoom<T, P> &room) {
  const auto &inside = kernels_of<P>();
  int64_t first = queries.first, n = std::min(QUERIES, s.length - first);
  int64_t out_at = s.out_at(pair.batch, first, queries.head);
  // Keys that some query of the block sees; in bf16 products take them in pairs.
  int64_t visible = std::min(keys.count, first + n - pair.key);
  int64_t even = sizeof(P) < sizeof(float) ? (visible + 1) / 2 * 2 : visible;
  float lse[QUERIES] = {}, delta[QUERIES] = {};
  std::copy_n(in.lse + (pair.batch * s.heads + queries.head) * s.length + first, n, lse);
  kernels_of<T>().delta(in.d_out + out_at, in.out + out_at, s.out_row, n, s.head_dim, delta);
  auto [q, q_stride] = rows<P>(in.qkv + s.qkv_at(pair.batch, first, queries.head), s.row, n, s.head_dim, room.q_wide);
  auto [d_out, d_stride] = rows<P>(in.d_out + out_at, s.out_row, n, s.head_dim, room.do_wide);
  inside.pack_columns(q, q_stride, n, s.head_dim, room.q_columns, QUERIES);
  inside.pack_columns(d_out, d_stride, n, s.head_dim, room.do_columns, QUERIES);
  inside.pack_rows(q, q_stride, n, s.head_dim, room.q_rows, QUERIES, s.padded);
  inside.pack_rows(d_out, d_stride, n, s.head_dim, room.do_rows, QUERIES, s.padded);
  // Sᵀ = K·Qᵀ and dPᵀ = V·dOᵀ.
  inside.matmul(visible, QUERIES, s.head_dim, keys.k, keys.k_stride, room.q_columns, QUERIES, room.s, QUERIES, false);
  inside.matmul(visible, QUERIES, s.head_dim, keys.v, keys.v_stride, room.do_columns, QUERIES, room.dp, QUERIES, false);
  inside.softmax_backward(room.s, room.dp, room.p, room.ds, visible, first - pair.key + 1, s.scale, lse, delta);
  // dV += Pᵀ·dO, dK += dSᵀ·Q, dQᵀ += Kᵀ·dSᵀ, which begins where the queries meet their own keys.
  inside.matmul(visible, s.padded, QUERIES, room.p, QUERIES, room.do_rows, s.padded, keys.dv, s.padded, true);
  inside.matmul(visible, s.padded, QUERIES, room.ds, QUERIES, room.q_rows, s.padded, keys.dk, s.padded, true);
  if (room.ds_rows != room.ds) inside.pack_rows(room.ds, QUERIES, visible, QUERIES, room.ds_rows, even, QUERIES);
  inside.matmul(s.head_dim, QUERIES, even, room.k_transposed, s.part, room.ds_rows, QUERIES, queries.dq, QUERIES,
                pair.query != pair.key);
}

template <class T, class P>
static void add_pair(const Shape &s, const Given<T> &in, const Pair &pair, const Sums &sums, BackwardRoom<T, P> &room) {
  int64_t count = std::min(s.part, s.length - pair.key);
  const T *k_rows = in.qkv + s.qkv_at(pair.batch, pair.key, s.heads + pair.kv_head);
  const T *v_rows = k_rows + s.kv * s.head_dim;
  auto [k, k_stride] = rows<P>(k_rows, s.row, count, s.head_dim, room.k_wide);
  auto [v, v_stride] = rows<P>(v_rows, s.row, count, s.head_dim, room.v_wide);
  kernels_of<P>().pack_transposed(k, k_stride, count, s.head_dim, room.k_transposed, s.part);
  int64_t here = (pair.batch * s.kv + pair.kv_head) * s.packed + pair.key * s.padded;
  Keys<P> keys = {k, v, k_stride, v_stride, count, sums.dk + here, sums.dv + here};
  if (pair.query == pair.key) {
    std::fill_n(keys.dk, count * s.padded, 0.0f);
    std::fill_n(keys.dv, count * s.padded, 0.0f);
  }
  int64_t end = std::min(pair.query + s.part, s.length);
  for (int64_t head = pair.kv_head * s.group; head < (pair.kv_head + 1) * s.group; head++)
    for (int64_t first = pair.query; first < end; first += QUERIES) {
      int64_t block = (pair.batch * s.heads + head) * s.blocks + first / QUERIES;
      add<T, P>(s, in, pair, keys, {head, first, sums.dq + block * s.head_dim * QUERIES}, room);
    }
}

// The gradients of a block of rows, rotated back into their places.
template <class T>
static void write(const Shape &s, const Given<T> &in, int64_t task, const Sums &sums, T *d_qkv, float *dq_rows) {
  const auto &stored = kernels_of<T>();
  int64_t batch = task / s.blocks, block = task % s.blocks, first = block * QUERIES;
  int64_t n = std::min(QUERIES, s.length - first), angle = first * s.head_dim / 2;
  const float *cos = in.cos + angle, *sin = in.sin + angle;
  for (int64_t head = 0; head < s.heads; head++) {
    const float *dq = sums.dq + ((batch * s.heads + head) * s.blocks + block) * s.head_dim * QUERIES;
    kernels_of<float>().pack_columns(dq, QUERIES, s.head_dim, n, dq_rows, s.head_dim);
    stored.rotate_back(dq_rows, s.head_dim, n, s.head_dim, cos, sin, d_qkv + s.qkv_at(batch, first, head), s.row);
  }
  for (int64_t head = 0; head < s.kv; head++) {
    int64_t here = (batch * s.kv + head) * s.packed + first * s.padded;
    T *dk = d_qkv + s.qkv_at(batch, first, s.heads + head), *dv = dk + s.kv * s.head_dim;
    stored.rotate_back(sums.dk + here, s.padded, n, s.head_dim, cos, sin, dk, s.row);
    stored.rotate_back(sums.dv + here, s.padded, n, s.head_dim, nullptr, nullptr, dv, s.row);
  }
}

// The gradient of the rows before their rotation. In step i, part p of the keys meets part p + i of the queries: no two
// tasks of a step add to the same sums, and every sum has its parts in the order of the steps, whatever the threads.
template <class T, class P> static void backward(const Shape &s, const Given<T> &in, T *d_qkv) {
  auto dq = at::empty({s.batch * s.heads * s.blocks, s.head_dim * QUERIES}, at::kFloat);
  auto dkv = at::empty({2, s.batch * s.kv, s.packed}, at::kFloat);
  Sums sums = {data<float>(dq), data<float>(dkv), data<float>(dkv) + s.batch * s.kv * s.packed};
  Rooms<BackwardRoom<T, P>> rooms(s);
#pragma omp parallel
  {
    auto room = rooms.own();
    for (int64_t step = 0; step < s.parts(); step++) {
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < s.batch * s.kv * (s.parts() - step); task++) {
        int64_t part = task / (s.batch * s.kv), head = task % (s.batch * s.kv);
        add_pair<T, P>(s, in, {head / s.kv, head % s.kv, part * s.part, (part + step) * s.part}, sums, room);
      }
    }
#pragma omp for
    for (int64_t task = 0; task < s.batch * s.blocks; task++) write<T>(s, in, task, sums, d_qkv, room.dq);
  }
}

// Queries and keys are rotated by their place, here and in place: what made the rows does not need them any more.
struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(torch::autograd::AutogradContext *context, const at::Tensor &qkv, const at::Tensor &cos,
                            const at::Tensor &sin, int64_t heads, int64_t kv) {
    Shape s(qkv, cos, sin, heads, kv);
    auto out = at::empty({qkv.size(0), s.out_row}, qkv.options());
    auto lse = at::empty({s.batch, heads, s.length}, cos.options());
    with_dtypes(qkv.scalar_type(), [&](auto *stored, auto *inside) {
      using T = std::remove_pointer_t<decltype(stored)>;
      using P = std::remove_pointer_t<decltype(inside)>;
      T *rows = data<T>(qkv);
      kernels_of<T>().rotate(rows, data<float>(cos), data<float>(sin), qkv.size(0), s.length, heads, kv, s.head_dim);
      attention::forward<T, P>(s, rows, data<T>(out), data<float>(lse));
    });
    context->save_for_backward({qkv, cos, sin, out, lse});
    context->saved_data["heads"] = heads;
    context->saved_data["kv"] = kv;
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                 torch::autograd::variable_list grads) {
    auto saved = context->get_saved_variables();
    const auto &qkv = saved[0], &cos = saved[1], &sin = saved[2], &out = saved[3];
    Shape s(qkv, cos, sin, context->saved_data["heads"].toInt(), context->saved_data["kv"].toInt());
    auto d_out = check("dO", grads[0], qkv.scalar_type(), out.sizes()).contiguous(), d_qkv = at::empty_like(qkv);
    with_dtypes(qkv.scalar_type(), [&](auto *stored, auto *inside) {
      using T = std::remove_pointer_t<decltype(stored)>;
      using P = std::remove_pointer_t<decltype(inside)>;
      Given<T> in = {data<T>(qkv),         data<T>(out),     data<T>(d_out),
                     data<float>(saved[4]), data<float>(cos), data<float>(sin)};
      attention::backward<T, P>(s, in, data<T>(d_qkv));
    });
    return {d_qkv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};
} // namespace attention
