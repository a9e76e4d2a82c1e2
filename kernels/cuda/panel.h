// What the wide kernels (apply, apply_t, the scores of backward) share. Each works on blocks of kWidth
// channels (8, 16, 32 or 64) with one warp per subtile, and splits the 32 pixels x kWidth channels of a
// subtile over its lanes in one of two ways:
//   fp32    lane = 8 row + part has the 8 pixels of row `row` and an eighth of the channels, in vectors of
//           kVector neighbours: element k of part p is channel
//           kVector p + k % kVector + 8 kVector (k / kVector); eight lanes read up to 128 bytes in a row.
//   tensor  fragments of mma.m16n8k8 (platform.h). The rows of A are channels: row g of block i is channel
//           16 i + 2 g, row g + 8 is 16 i + 2 g + 1. The columns of B are pixels or entries. Width 16 or more.
#pragma once

#include "tiles.h"

namespace fit3d {
namespace cuda {

template <int kWidth>
struct Split {
  static constexpr int kPer = kWidth / 8;                  // channels of a part
  static constexpr int kVector = kPer < 4 ? kPer : 4;      // neighbours among them
  static constexpr int kBlocks = kPer / kVector;
  static_assert(kWidth == 8 || kWidth == 16 || kWidth == 32 || kWidth == 64, "8, 16, 32 or 64 channels");
};

// Blocks that share a multiprocessor: registers leave room for no more.
template <int kWidth>
constexpr int kResident = kWidth > 16 ? 2 : 3;

// A vector of 1, 2 or 4 floats, aligned to its size.
template <int kCount>
static __device__ __forceinline__ void load_vector(const float* from, float* to) {
  if constexpr (kCount == 4) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else if constexpr (kCount == 2) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
    to[0] = from[0];
  }
}
template <int kCount>
static __device__ __forceinline__ void store_vector(float* to, const float* v) {
  if constexpr (kCount == 4) *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
  else if constexpr (kCount == 2) *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
  else to[0] = v[0];
}

// A row of an array in global memory of which n channels exist. `aligned` rows begin at a multiple of a
// vector and n is a multiple of one; others are read and written float by float.
template <int kCount>
static __device__ __forceinline__ void load_channels(const float* row, int channel, int n, bool aligned,
                                                     float* to) {
  F3D_UNROLL(4)
  for (int k = 0; k < kCount; ++k) to[k] = 0.0f;
  if (aligned && channel < n) {
    load_vector<kCount>(row + channel, to);
  } else {
    F3D_UNROLL(4)
    for (int k = 0; k < kCount; ++k)
      if (channel + k < n) to[k] = row[channel + k];
  }
}
template <int kCount>
static __device__ __forceinline__ void store_channels(float* row, int channel, int n, bool aligned,
                                                      const float* v) {
  if (aligned && channel < n) {
    store_vector<kCount>(row + channel, v);
  } else {
    F3D_UNROLL(4)
    for (int k = 0; k < kCount; ++k)
      if (channel + k < n) row[channel + k] = v[k];
  }
}
// Whether rows of `stride` floats, read from channel `first` on, allow vectors of `count` floats.
inline bool is_aligned(const float* array, int64_t stride, int64_t first, int count) {
  return reinterpret_cast<uintptr_t>(array) % (4 * count) == 0 && stride % count == 0 && first % count == 0;
}

// Calls body(std::integral_constant<int, width>) with the smallest width that covers n <= 64 channels.
template <class Body>
void with_width(int64_t n, Body body) {
  if (n <= 8) body(std::integral_constant<int, 8>());
  else if (n <= 16) body(std::integral_constant<int, 16>());
  else if (n <= 32) body(std::integral_constant<int, 32>());
  else body(std::integral_constant<int, 64>());
}

// Calls put(position, i, entry) for every item first + i, i < count, that subtile s uses, front to
// back; the whole warp together. Returns how many. What put wrote to shared memory is visible to the warp.
template <class Put>
static __device__ __forceinline__ int list_used(const Weights& weights, int s, int lane, int first, int count,
                                                Put put) {
  int total = 0;
  for (int k = 0; k < count; k += kWarp) {
    const int i = k + lane;
    const unsigned mask = i < count ? weights.masks[first + i] : 0u;
    const bool used = mask >> (kSubtiles + s) & 1u;
    const unsigned votes = __ballot_sync(kFullMask, used);
    if (used)
      put(total + __popc(votes & ((1u << lane) - 1u)), i, weights.offsets[first + i] + entries_before(mask, s));
    total += __popc(votes);
  }
  __syncwarp();
  return total;
}

// Brings channels [first, first + n) of the items' rows into rows[count][kStride], zeros from n to
// kWidth, with the block's threads; items that no subtile uses are left out. Wait before use.
template <int kWidth, int kStride>
static __device__ __forceinline__ void stage_rows(const Lists& lists, const Weights& weights, int64_t dim,
                                                  int64_t first, int n, const float* values, bool aligned,
                                                  int item, int count, float* rows) {
  const int thread = static_cast<int>(threadIdx.x);
  if (aligned) {
    constexpr int kPieces = kWidth / 4;
    const int c = thread % kPieces * 4;
    for (int i = thread / kPieces; i < count; i += kTileThreads / kPieces) {
      if (!(weights.masks[item + i] >> kSubtiles)) continue;
      float* to = rows + i * kStride + c;
      if (c < n) copy_async<16>(to, values + (dim * lists.ids[item + i] + first + c));
      else *reinterpret_cast<float4*>(to) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  } else {
    const int c = thread % kWidth;
    for (int i = thread / kWidth; i < count; i += kTileThreads / kWidth) {
      if (!(weights.masks[item + i] >> kSubtiles)) continue;
      float* to = rows + i * kStride + c;
      if (c < n) copy_async<4>(to, values + (dim * lists.ids[item + i] + first + c));
      else *to = 0.0f;
    }
  }
  commit_async();
}
// Rounds what this thread brought, once it has arrived.
template <int kWidth, int kStride>
static __device__ __forceinline__ void round_rows(bool aligned, int count, float* rows) {
  const int thread = static_cast<int>(threadIdx.x);
  if (aligned) {
    constexpr int kPieces = kWidth / 4;
    for (int i = thread / kPieces; i < count; i += kTileThreads / kPieces) {
      float4* at = reinterpret_cast<float4*>(rows + i * kStride + thread % kPieces * 4);
      float4 v = *at;
      v.x = __uint_as_float(to_tf32(v.x)), v.y = __uint_as_float(to_tf32(v.y));
      v.z = __uint_as_float(to_tf32(v.z)), v.w = __uint_as_float(to_tf32(v.w));
      *at = v;
    }
  } else {
    for (int i = thread / kWidth; i < count; i += kTileThreads / kWidth) {
      float* at = rows + i * kStride + thread % kWidth;
      *at = __uint_as_float(to_tf32(*at));
    }
  }
}

// Weights of a warp's list on their way from global memory: 16 bytes per lane and half.
struct Ahead {
  float4 low, high;
};
// The four weights number `piece` of entry 0; entry e is 8 e pieces behind.
static __device__ __forceinline__ const float4* weight_pieces(const Weights& weights, int piece) {
  return reinterpret_cast<const float4*>(weights.weights) + piece;
}
static __device__ __forceinline__ float4 entry_piece(const float4* pieces, int entry) {
  return __ldg(pieces + 8 * static_cast<int64_t>(entry));
}

}  // namespace cuda
}  // namespace fit3d
