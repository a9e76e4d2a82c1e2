// W^T maps. One block per (tile, block of channels), one warp per subtile, whose 32 pixels x kWidth
// channels of the maps stay in registers for the whole list. A batch of list items is as many as have
// kEntries entries: the warps write one row per entry into shared memory, then the block sums every item's
// entries in the order of their subtiles. So each (item, channel) is written once, in a fixed order.
//
// fp32: a lane multiplies its 8 pixels x kWidth / 8 channels, the four lanes with the same channels are
// summed by halving: at each step a lane keeps one half of its channels and hands the other to its partner.
// tensor: kWidth channels x 32 pixels x 8 entries as mma.m16n8k8 over four groups of pixels. Both factors are
// rounded to tf32, each by at most 2^-11 of itself; products and sums are fp32. So
// |error| <= 2^-10 (1 + 2^-12) sum_p |w_p g_p| plus the rounding of the sum.
#include <type_traits>

#include "panel.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kEntries = 256;   // of a batch; positions fit a byte
constexpr int kMaxItems = 128;  // of a batch

template <int kWidth>
constexpr int kRow = kWidth + 4;  // floats from one row of sums to the next: other banks

template <int kWidth>
struct ExactRows {
  using S = Split<kWidth>;
  static constexpr int kLoaded = S::kVector;
  // Element k of a lane is channel k ^ swap of its part: the half that it hands on always comes last.
  float map[8][S::kPer];
  int row, part, swap;

  __device__ __forceinline__ explicit ExactRows(int lane) : row(lane / 8), part(lane % 8) {
    const int far = lane >> 4 & 1, near = lane >> 3 & 1;
    swap = S::kPer == 8 ? 4 * far + 2 * near : S::kPer == 4 ? 2 * far + near : S::kPer == 2 ? far : 0;
  }
  // load(pixel of the subtile, channel, to): a vector of channels
  template <class Load>
  __device__ __forceinline__ void load(Load load) {
    F3D_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      float v[S::kPer];
      F3D_UNROLL(2)
      for (int b = 0; b < S::kBlocks; ++b)
        load(8 * row + i, S::kVector * part + 8 * S::kVector * b, v + S::kVector * b);
      F3D_UNROLL(8)
      for (int k = 0; k < S::kPer; ++k) {
        float x = v[k];
        F3D_UNROLL(8)
        for (int other = 0; other < S::kPer; ++other)
          if ((k ^ swap) == other) x = v[other];
        map[i][k] = x;
      }
    }
  }
  // Sums of the listed entries into their rows of sums[kEntries][kRow].
  __device__ __forceinline__ void sum(const Weights& weights, int lane, int base, const uint8_t* list, int total,
                                      float* buffer, float* sums) const {
    const float4* const pieces = weight_pieces(weights, lane % 8);
    auto fetch = [&](int k) {
      const int at = k + lane / 8;
      Ahead a{};
      if (at < total) a.low = entry_piece(pieces, base + list[at]);
      if (at + 4 < total) a.high = entry_piece(pieces, base + list[at + 4]);
      return a;
    };
    Ahead next = fetch(0);
    for (int k = 0; k < total; k += 8) {
      __syncwarp();
      reinterpret_cast<float4*>(buffer)[lane] = next.low;
      reinterpret_cast<float4*>(buffer)[kWarp + lane] = next.high;
      next = fetch(k + 8);
      __syncwarp();
      const int count = min(8, total - k);
      for (int e = 0; e < count; ++e) {
        float w[8], v[S::kPer];
        load_vector<4>(buffer + kWarp * e + 8 * row, w);
        load_vector<4>(buffer + kWarp * e + 8 * row + 4, w + 4);
        F3D_UNROLL(8)
        for (int c = 0; c < S::kPer; ++c) v[c] = w[0] * map[0][c];
        F3D_UNROLL(7)
        for (int i = 1; i < 8; ++i) {
          F3D_UNROLL(8)
          for (int c = 0; c < S::kPer; ++c) v[c] = fmaf(w[i], map[i][c], v[c]);
        }
        constexpr int kHalf = S::kPer > 1 ? S::kPer / 2 : 1, kQuarter = S::kPer > 3 ? S::kPer / 4 : 1;
        F3D_UNROLL(4)
        for (int c = 0; c < kHalf; ++c)
          v[c] += __shfl_xor_sync(kFullMask, v[S::kPer > 1 ? kHalf + c : c], 16);
        F3D_UNROLL(2)
        for (int c = 0; c < kQuarter; ++c)
          v[c] += __shfl_xor_sync(kFullMask, v[S::kPer > 3 ? kQuarter + c : c], 8);
        float* to = sums + kRow<kWidth> * list[k + e] + S::kVector * part +
                    (S::kPer == 8 ? swap % 4 + 32 * (swap / 4) : swap);
        if constexpr (kQuarter == 2) {
          store_vector<2>(to, v);
        } else if (S::kPer == 4 || (S::kPer == 2 ? row % 2 == 0 : row == 0)) {
          to[0] = v[0];
        }
      }
    }
  }
};

template <int kWidth>
struct TensorRows {
  static constexpr int kBlocks = kWidth / 16, kLoaded = 2;
  // The order of the pixels in the sum is free: column k of group q is pixel
  // 16 (q / 2) + 4 (k % 4) + 2 (q % 2) + k / 4, so that a lane reads its weights 16 bytes at a time.
  uint32_t map[kBlocks][4][4];
  int g, t;

  __device__ __forceinline__ explicit TensorRows(int lane) : g(lane / 4), t(lane % 4) {}

  template <class Load>
  __device__ __forceinline__ void load(Load load) {
    F3D_UNROLL(4)
    for (int q = 0; q < 4; ++q) {
      F3D_UNROLL(2)
      for (int half = 0; half < 2; ++half) {
        F3D_UNROLL(4)
        for (int i = 0; i < kBlocks; ++i) {
          float v[2];
          load(16 * (q / 2) + 4 * t + 2 * (q % 2) + half, 16 * i + 2 * g, v);
          map[i][q][2 * half] = to_tf32(v[0]), map[i][q][2 * half + 1] = to_tf32(v[1]);
        }
      }
    }
  }
  __device__ __forceinline__ void sum(const Weights& weights, int, int base, const uint8_t* list, int total,
                                      float*, float* sums) const {
    const float4* const pieces = weight_pieces(weights, t);
    auto fetch = [&](int at) {
      Ahead a{};
      if (at < total) {
        const int entry = base + list[at];
        a.low = entry_piece(pieces, entry), a.high = entry_piece(pieces + 4, entry);
      }
      return a;
    };
    Ahead next = fetch(g);
    F3D_UNROLL(1)
    for (int k = 0; k < total; k += 8) {
      const uint32_t b[4][2] = {{to_tf32(next.low.x), to_tf32(next.low.y)},
                                {to_tf32(next.low.z), to_tf32(next.low.w)},
                                {to_tf32(next.high.x), to_tf32(next.high.y)},
                                {to_tf32(next.high.z), to_tf32(next.high.w)}};
      next = fetch(k + 8 + g);
      float sum[kBlocks][4];
      F3D_UNROLL(4)
      for (int i = 0; i < kBlocks; ++i) {
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0.0f;
      }
      F3D_UNROLL(4)
      for (int q = 0; q < 4; ++q) {
        F3D_UNROLL(4)
        for (int i = 0; i < kBlocks; ++i) mma_tf32(sum[i], map[i][q], b[q]);
      }
      F3D_UNROLL(2)
      for (int column = 0; column < 2; ++column) {
        const int at = k + 2 * t + column;
        if (at >= total) break;
        float* to = sums + kRow<kWidth> * list[at] + 2 * g;
        F3D_UNROLL(4)
        for (int i = 0; i < kBlocks; ++i)
          *reinterpret_cast<float2*>(to + 16 * i) = make_float2(sum[i][column], sum[i][2 + column]);
      }
      __syncwarp();  // mma wants the whole warp
    }
  }
};

struct Target {
  const int32_t* rows;  // [E] row of an item
  float* out;
  int64_t stride;       // of out; its first channel is out + channel
  bool add;             // atomically, else every row is written
  bool aligned;
};

// Sums the entries of every item of the batch, kVector channels per thread.
template <int kWidth, int kVector>
static __device__ __forceinline__ void sum_items(const Weights& weights, const Target& target, int item, int count,
                                                 int base, int channel, int n, const float* sums) {
  constexpr int kPieces = kWidth / kVector;
  for (int k = static_cast<int>(threadIdx.x); k < count * kPieces; k += kTileThreads) {
    const int i = k / kPieces, c = k % kPieces * kVector;
    const unsigned mask = weights.masks[item + i];
    if (c >= n || (target.add && !(mask >> kSubtiles))) continue;
    float v[kVector] = {};
    const float* from = sums + kRow<kWidth> * (weights.offsets[item + i] - base) + c;
    for (unsigned room = mask & 0xffu; room; room &= room - 1, from += kRow<kWidth>) {
      if (!(mask >> kSubtiles & room & (0u - room))) continue;
      float w[kVector];
      load_vector<kVector>(from, w);
      F3D_UNROLL(4)
      for (int j = 0; j < kVector; ++j) v[j] += w[j];
    }
    float* to = target.out + target.stride * target.rows[item + i] + channel;
    if (target.add) atomicAdd(to + c, v[0]);
    else store_channels<kVector>(to, c, n, target.aligned, v);
  }
}

template <int kWidth, Math kMath>
__global__ void __launch_bounds__(kTileThreads, kResident<kWidth>)
    apply_t_kernel(Lists lists, Weights weights, int64_t dim, int64_t first, int blocks, int width,
                   const float* maps, bool aligned, Target target) {
  using S = Split<kWidth>;
  using Rows = std::conditional_t<kMath == Math::kTensor, TensorRows<kWidth>, ExactRows<kWidth>>;
  F3D_DYNAMIC_SHARED(float, sums);
  F3D_SHARED(uint8_t, lists_of, [kSubtiles][kMaxItems]);
  F3D_SHARED(float, buffers, [kMath == Math::kTensor ? 1 : kSubtiles][8 * kWarp]);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, s = thread / kWarp;
  const int tile = static_cast<int>(blockIdx.x) / blocks;
  const int channel = kWidth * (static_cast<int>(blockIdx.x) % blocks);  // behind the first
  const int n = min(kWidth, width - channel);
  const int end = lists.tile_offsets[tile + 1];
  uint8_t* const list = lists_of[s];

  Rows rows(lane);
  rows.load([&](int pixel, int c, float* to) {
    const Pixel p = pixel_at(tile, s, pixel, lists.width, lists.height);
    load_channels<Rows::kLoaded>(maps + p.index * dim + first + channel, c, p.inside ? n : 0, aligned, to);
  });
  int count;
  for (int item = lists.tile_offsets[tile]; item < end; item += count) {
    const int base = weights.offsets[item];
    // This barrier also ends the sums of the batch before.
    count = __syncthreads_count(thread < kMaxItems && item + thread < end &&
                                weights.offsets[min(item + thread, end - 1) + 1] - base <= kEntries);
    const int total = list_used(weights, s, lane, item, count, [&](int at, int, int entry) {
      list[at] = static_cast<uint8_t>(entry - base);
    });
    rows.sum(weights, lane, base, list, total, buffers[kMath == Math::kTensor ? 0 : s], sums);
    __syncthreads();
    // Atomics go channel by channel: a warp adds to whole sectors at once.
    if (target.add) sum_items<kWidth, 1>(weights, target, item, count, base, channel, n, sums);
    else sum_items<kWidth, S::kVector>(weights, target, item, count, base, channel, n, sums);
  }
}

template <int kWidth>
void launch_apply_t(const Lists& lists, const Weights& weights, int64_t dim, int64_t first, int blocks, int width,
                    const float* maps, const Target& target, Math math, Stream stream) {
  const int64_t grid = static_cast<int64_t>(tile_count(lists.width)) * tile_count(lists.height) * blocks;
  constexpr int kTensorWidth = kWidth < 16 ? 16 : kWidth;
  const bool tensor = math == Math::kTensor;
  auto kernel = tensor ? apply_t_kernel<kTensorWidth, Math::kTensor> : apply_t_kernel<kWidth, Math::kFloat32>;
  const size_t shared = sizeof(float) * kEntries * (tensor ? kRow<kTensorWidth> : kRow<kWidth>);
  launch("apply_t_kernel", kernel, blocks_of(grid, 1), kTileThreads, shared, stream, lists, weights, dim, first,
         blocks, width, maps, is_aligned(maps, dim, first, 4), target);
}

// A group of lanes, a power of two, per Gaussian; a lane has every lanes-th vector of channels.
template <int kVector>
__global__ void reduce_pairs_kernel(int64_t visible, int lanes, const int32_t* order, const int64_t* pair_offsets,
                              int width, const float* rows, int64_t dim, int64_t first, float* out) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t v = thread / lanes;
  if (v >= visible) return;
  const int64_t begin = pair_offsets[v], end = pair_offsets[v + 1];
  for (int c = static_cast<int>(thread % lanes) * kVector; c < width; c += lanes * kVector) {
    float sum[kVector] = {};
    const float* from = rows + begin * width + c;
    F3D_UNROLL(4)
    for (int64_t p = begin; p < end; ++p, from += width) {
      float x[kVector];
      load_vector<kVector>(from, x);
      F3D_UNROLL(4)
      for (int j = 0; j < kVector; ++j) sum[j] += x[j];
    }
    store_vector<kVector>(out + dim * order[v] + first + c, sum);
  }
}

}  // namespace

void apply_t_rows(const Lists& lists, const Weights& weights, int64_t dim, int64_t first, int width,
                  const float* maps, float* rows, Math math, Stream stream) {
  if (lists.items == 0 || width == 0) return;
  const Target target{lists.pairs, rows, width, false, is_aligned(rows, width, 0, 4)};
  with_width(width, [&](auto block) {
    launch_apply_t<decltype(block)::value>(lists, weights, dim, first, 1, width, maps, target, math, stream);
  });
}

void apply_t_atomic(const Lists& lists, const Weights& weights, int64_t dim, const float* maps, float* out,
                    Math math, Stream stream) {
  if (lists.items == 0) return;
  const int whole = static_cast<int>(dim / 64 * 64), rest = static_cast<int>(dim - whole);
  if (whole > 0)
    launch_apply_t<64>(lists, weights, dim, 0, whole / 64, whole, maps, {lists.ids, out, dim, true, false}, math,
                       stream);
  if (rest > 0)
    with_width(rest, [&](auto block) {
      launch_apply_t<decltype(block)::value>(lists, weights, dim, whole, 1, rest, maps,
                                             {lists.ids, out + whole, dim, true, false}, math, stream);
    });
}

void reduce_pairs(int64_t visible, const int32_t* order, const int64_t* pair_offsets, int width,
                  const float* rows, int64_t dim, int64_t first, float* out, Stream stream) {
  const bool aligned = is_aligned(rows, width, 0, 4) && is_aligned(out, dim, first, 4);
  const int vectors = aligned ? width / 4 : width;
  int lanes = 1;
  while (lanes < kWarp && lanes < vectors) lanes *= 2;
  auto kernel = aligned ? reduce_pairs_kernel<4> : reduce_pairs_kernel<1>;
  launch("reduce_pairs_kernel", kernel, blocks_of(visible * lanes, kTileThreads), kTileThreads, 0, stream,
         visible, lanes, order, pair_offsets, width, rows, dim, first, out);
}

}  // namespace cuda
}  // namespace fit3d
