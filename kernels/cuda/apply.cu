// out = W values. One block per (tile, block of channels), one warp per subtile; the rows of a batch of
// list items lie in shared memory for all eight warps, the next batch is on its way meanwhile. A warp
// walks the items that its subtile uses, in list order.
//
// fp32: every pixel and channel is one chain of fused multiply-adds, front to back, as on the CPU. A lane
// has 8 pixels x kWidth / 8 channels, so four 16-byte reads of shared memory feed 64 of them.
// tensor: the products of eight items at a time are mma.m16n8k8. Both factors are rounded to tf32, each by
// at most 2^-11 of itself; products and sums are fp32. So |error| <= 2^-10 (1 + 2^-12) sum_i |w_i f_i|
// plus the rounding of the sum.
#include <type_traits>

#include "panel.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kBatch = 64;  // list items

// The tensor kernel pads rows so that four neighbouring items lie in different banks, has a row of zeros
// behind the last item, and fills lists up to a multiple of eight with it.
template <int kWidth, Math kMath>
constexpr int kStride = kMath == Math::kTensor ? kWidth + 8 : kWidth;

struct alignas(8) Used {
  int entry, row;  // -1 is an entry of zeros; where its item's row begins in the batch
};

// The list's end without the items at its back that no subtile uses: pixels are opaque there.
static __device__ __forceinline__ int used_end(const Weights& weights, int lane, int begin, int end) {
  for (; end > begin; end -= kWarp) {
    const int item = end - 1 - lane;
    const unsigned votes = __ballot_sync(kFullMask, item >= begin && weights.masks[max(item, begin)] >> kSubtiles);
    if (votes) return end - (__ffs(static_cast<int>(votes)) - 1);
  }
  return begin;
}

template <int kWidth>
struct ExactSum {
  using S = Split<kWidth>;
  static constexpr int kStored = S::kVector;
  float sum[8][S::kPer];
  int row, part;

  __device__ __forceinline__ explicit ExactSum(int lane) : row(lane / 8), part(lane % 8) {
    F3D_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      F3D_UNROLL(8)
      for (int k = 0; k < S::kPer; ++k) sum[i][k] = 0.0f;
    }
  }

  // buffer: [8][32] floats of this warp, weights pass through it
  __device__ __forceinline__ void add(const Weights& weights, int lane, const Used* list, int total,
                                      const float* rows, float* buffer) {
    const float4* const pieces = weight_pieces(weights, lane % 8);
    auto fetch = [&](int k) {
      const int at = k + lane / 8;
      Ahead a{};
      if (at < total) a.low = entry_piece(pieces, list[at].entry);
      if (at + 4 < total) a.high = entry_piece(pieces, list[at + 4].entry);
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
        float w[8], f[S::kPer];
        load_vector<4>(buffer + kWarp * e + 8 * row, w);
        load_vector<4>(buffer + kWarp * e + 8 * row + 4, w + 4);
        const float* from = rows + list[k + e].row + S::kVector * part;
        F3D_UNROLL(2)
        for (int b = 0; b < S::kBlocks; ++b)
          load_vector<S::kVector>(from + 8 * S::kVector * b, f + S::kVector * b);
        F3D_UNROLL(8)
        for (int i = 0; i < 8; ++i) {
          F3D_UNROLL(8)
          for (int c = 0; c < S::kPer; ++c) sum[i][c] = fmaf(w[i], f[c], sum[i][c]);
        }
      }
    }
    __syncwarp();
  }

  template <class Store>
  __device__ __forceinline__ void finish(Store store) const {
    F3D_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      F3D_UNROLL(2)
      for (int b = 0; b < S::kBlocks; ++b)
        store(8 * row + i, S::kVector * part + 8 * S::kVector * b, sum[i] + S::kVector * b);
    }
  }
};

template <int kWidth>
struct TensorSum {
  static constexpr int kBlocks = kWidth / 16, kStored = 2;
  // Column n of tile j is pixel 4 n + j: a lane reads its weights 16 bytes at a time.
  float sum[kBlocks][4][4];
  int g, t;

  __device__ __forceinline__ explicit TensorSum(int lane) : g(lane / 4), t(lane % 4) {
    F3D_UNROLL(4)
    for (int i = 0; i < kBlocks; ++i) {
      F3D_UNROLL(4)
      for (int j = 0; j < 4; ++j) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0.0f;
    }
  }

  __device__ __forceinline__ void add(const Weights& weights, int, const Used* list, int total,
                                      const float* rows, float*) {
    const float4* const pieces = weight_pieces(weights, g);
    rows += 2 * g;
    Used low{-1, 0}, high{-1, 0};
    Ahead next{};
    auto fetch = [&](int k) {
      low = list[k + t], high = list[k + t + 4];
      next = Ahead{};
      if (low.entry >= 0) next.low = entry_piece(pieces, low.entry);
      if (high.entry >= 0) next.high = entry_piece(pieces, high.entry);
    };
    if (total > 0) fetch(0);
    F3D_UNROLL(1)
    for (int k = 0; k < total; k += 8) {
      const uint32_t b[4][2] = {{to_tf32(next.low.x), to_tf32(next.high.x)},
                                {to_tf32(next.low.y), to_tf32(next.high.y)},
                                {to_tf32(next.low.z), to_tf32(next.high.z)},
                                {to_tf32(next.low.w), to_tf32(next.high.w)}};
      const float *at_low = rows + low.row, *at_high = rows + high.row;
      if (k + 8 < total) fetch(k + 8);
      __syncwarp();  // mma wants the whole warp
      F3D_UNROLL(4)
      for (int i = 0; i < kBlocks; ++i) {
        const uint2 x = *reinterpret_cast<const uint2*>(at_low + 16 * i);
        const uint2 y = *reinterpret_cast<const uint2*>(at_high + 16 * i);
        const uint32_t a[4] = {x.x, x.y, y.x, y.y};
        F3D_UNROLL(4)
        for (int j = 0; j < 4; ++j) mma_tf32(sum[i][j], a, b[j]);
      }
    }
    __syncwarp();
  }

  template <class Store>
  __device__ __forceinline__ void finish(Store store) const {
    F3D_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      F3D_UNROLL(2)
      for (int column = 0; column < 2; ++column) {
        F3D_UNROLL(4)
        for (int i = 0; i < kBlocks; ++i) {
          const float v[2] = {sum[i][j][column], sum[i][j][2 + column]};
          store(4 * (2 * t + column) + j, 16 * i + 2 * g, v);
        }
      }
    }
  }
};

template <int kWidth, Math kMath>
__global__ void __launch_bounds__(kTileThreads, kResident<kWidth>)
    apply_kernel(Lists lists, Weights weights, int64_t dim, int64_t first, int blocks,
                 const float* values, float* out, bool aligned) {
  constexpr bool kTensor = kMath == Math::kTensor;
  constexpr int kRow = kStride<kWidth, kMath>;
  using Sum = std::conditional_t<kTensor, TensorSum<kWidth>, ExactSum<kWidth>>;
  F3D_SHARED(float, rows, [2][(kBatch + kTensor) * kRow]);
  F3D_SHARED(Used, lists_of, [kSubtiles][kBatch + 8]);
  F3D_SHARED(float, buffers, [kTensor ? 1 : kSubtiles][8 * kWarp]);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, s = thread / kWarp;
  // Blocks of channels of one tile are neighbours: they read the same weights.
  const int tile = static_cast<int>(blockIdx.x) / blocks;
  first += kWidth * (static_cast<int>(blockIdx.x) % blocks);
  const int n = static_cast<int>(min(static_cast<int64_t>(kWidth), dim - first));
  Used* const list = lists_of[s];
  float* const buffer = buffers[kTensor ? 0 : s];

  if constexpr (kTensor)
    for (int c = thread; c < kRow; c += kTileThreads) rows[0][kBatch * kRow + c] = rows[1][kBatch * kRow + c] = 0.0f;

  Sum sum(lane);
  int item = lists.tile_offsets[tile], side = 0;
  const int end = used_end(weights, lane, item, lists.tile_offsets[tile + 1]);
  auto stage = [&](int at, float* to) {
    if (at < end)
      stage_rows<kWidth, kRow>(lists, weights, dim, first, n, values, aligned, at, min(kBatch, end - at), to);
  };
  stage(item, rows[0]);
  for (; item < end; item += kBatch, side = 1 - side) {
    const int count = min(kBatch, end - item);
    int total = list_used(weights, s, lane, item, count,
                          [&](int at, int i, int entry) { list[at] = {entry, i * kRow}; });
    if constexpr (kTensor) {
      const int full = (total + 7) / 8 * 8;
      if (total + lane < full) list[total + lane] = {-1, kBatch * kRow};
      total = full;
      __syncwarp();
    }
    wait_async();
    if constexpr (kTensor) round_rows<kWidth, kRow>(aligned, count, rows[side]);
    __syncthreads();  // this batch has arrived, and nobody reads the one before it
    stage(item + kBatch, rows[1 - side]);
    sum.add(weights, lane, list, total, rows[side], buffer);
  }
  sum.finish([&](int pixel, int channel, const float* v) {
    const Pixel p = pixel_at(tile, s, pixel, lists.width, lists.height);
    if (p.inside) store_channels<Sum::kStored>(out + p.index * dim + first, channel, n, aligned, v);
  });
}

template <int kWidth>
void launch_apply(const Lists& lists, const Weights& weights, int64_t dim, int64_t first, int blocks,
                  const float* values, float* out, Math math, Stream stream) {
  const int64_t grid = static_cast<int64_t>(tile_count(lists.width)) * tile_count(lists.height) * blocks;
  const bool aligned = is_aligned(values, dim, first, 4) && is_aligned(out, dim, first, 4);
  constexpr int kTensorWidth = kWidth < 16 ? 16 : kWidth;
  auto kernel = math == Math::kTensor ? apply_kernel<kTensorWidth, Math::kTensor>
                                      : apply_kernel<kWidth, Math::kFloat32>;
  launch("apply_kernel", kernel, blocks_of(grid, 1), kTileThreads, 0, stream, lists, weights, dim, first,
         blocks, values, out, aligned);
}

}  // namespace

void apply(const Lists& lists, const Weights& weights, int64_t dim, const float* values, float* out,
           Math math, Stream stream) {
  const int64_t whole = dim / 64 * 64;
  if (whole > 0)
    launch_apply<64>(lists, weights, dim, 0, static_cast<int>(dim / 64), values, out, math, stream);
  if (dim > whole)
    with_width(dim - whole, [&](auto width) {
      launch_apply<decltype(width)::value>(lists, weights, dim, whole, 1, values, out, math, stream);
    });
}

}  // namespace cuda
}  // namespace fit3d
