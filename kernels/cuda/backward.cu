// Gradients of the geometry: moments of v_sigma per list item (../README.md, "blend adjoint"), then per Gaussian.
//
// One block per tile, one warp per subtile, batches of list items from the back to the front. First the
// scores s = F . g of all entries of the batch, by blocks of kWidth channels: a lane multiplies 8 pixels x
// kWidth / 8 channels of g, which it keeps in registers (up to 64 channels: for the whole list), and eight
// lanes are summed by halving, so that each ends with the score of its own pixel. Then every warp walks its
// entries from back to front with one scalar per pixel and leaves their six moments where the scores
// were. Last, an item's entries are summed in the order of their subtiles.
#include <type_traits>

#include "panel.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kEntries = 192;  // of a batch
constexpr int kMaxItems = 64;  // of a batch
constexpr int kAtOnce = 3;     // entries whose loads are under way together
constexpr int kMoments = 8;    // six, and two zeros
constexpr int kSplatUsed = 6;  // floats of a splat that alpha depends on

struct Used {
  uint8_t at, item;  // positions in the batch: of the entry, of the list item
};

// Sums m[0..5] over the warp in eight shuffles: in the first steps a lane keeps half of the sums and hands
// the others on. Lanes 0, 4, 8, ... end with the sum number moment_of(lane), 6 or more is nothing.
static __device__ __forceinline__ float reduce_moments_of(const float* m, int lane) {
  const bool a = lane & 16, b = lane & 8, c = lane & 4;
  float x[3];
  F3D_UNROLL(3)
  for (int k = 0; k < 3; ++k) x[k] = (a ? m[3 + k] : m[k]) + __shfl_xor_sync(kFullMask, a ? m[k] : m[3 + k], 16);
  float y = (b ? x[2] : x[0]) + __shfl_xor_sync(kFullMask, b ? x[0] : x[2], 8);
  const float z = x[1] + __shfl_xor_sync(kFullMask, x[1], 8);  // used where b is not set
  y = (c && !b ? z : y) + __shfl_xor_sync(kFullMask, c && !b ? y : (b ? y : z), 4);
  y += __shfl_xor_sync(kFullMask, y, 2);
  return y + __shfl_xor_sync(kFullMask, y, 1);
}
static __device__ __forceinline__ int moment_of(int lane) {
  const int a = lane >> 4 & 1, b = lane >> 3 & 1, c = lane >> 2 & 1;
  return b && c ? kMoments : 3 * a + (b ? 2 : c);
}

// g at the 8 pixels x kWidth / 8 channels of a lane. Element i is pixel i ^ part of the row, so that the half
// that a lane hands on always comes last.
template <int kWidth>
struct Upstream {
  using S = Split<kWidth>;
  float map[8][S::kPer];

  __device__ __forceinline__ void load(const Lists& lists, int tile, int s, int lane, int64_t dim, int64_t first,
                                       int n, const float* v_out, bool aligned) {
    // From the lane itself, but the compiler cannot know: the eight addresses are not kept over the batches.
    const int part = __shfl_sync(kFullMask, lane % 8, lane);
    const Pixel p = pixel_at(tile, s, lane - part, lists.width, lists.height);  // the row's first
    const float* const row = v_out + p.index * dim + first;
    F3D_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      const bool inside = p.y < lists.height && p.x + (i ^ part) < lists.width;
      F3D_UNROLL(2)
      for (int b = 0; b < S::kBlocks; ++b)
        load_channels<S::kVector>(row + (i ^ part) * dim, S::kVector * part + 8 * S::kVector * b, inside ? n : 0,
                                  aligned, map[i] + S::kVector * b);
    }
  }
  // The score of a row of values (in shared memory) at the lane's own pixel.
  __device__ __forceinline__ float score(const float* values, int lane) const {
    float f[S::kPer], v[8];
    F3D_UNROLL(2)
    for (int b = 0; b < S::kBlocks; ++b)
      load_vector<S::kVector>(values + S::kVector * (lane % 8) + 8 * S::kVector * b, f + S::kVector * b);
    F3D_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      v[i] = f[0] * map[i][0];
      F3D_UNROLL(7)
      for (int k = 1; k < S::kPer; ++k) v[i] = fmaf(f[k], map[i][k], v[i]);
    }
    F3D_UNROLL(4)
    for (int i = 0; i < 4; ++i) v[i] += __shfl_xor_sync(kFullMask, v[i + 4], 4);
    F3D_UNROLL(2)
    for (int i = 0; i < 2; ++i) v[i] += __shfl_xor_sync(kFullMask, v[i + 2], 2);
    return v[0] + __shfl_xor_sync(kFullMask, v[1], 1);
  }
};

// kBlocks: there are more than kWidth channels, g is read again for every batch and block of channels.
template <int kWidth, bool kBlocks>
__global__ void __launch_bounds__(kTileThreads, kResident<kWidth>)
    moments_kernel(Lists lists, Weights weights, int64_t dim, const float* values, const float* v_out,
                   const float* v_alphas, const float* transmittance, float* moments, bool values_aligned,
                   bool maps_aligned) {
  F3D_SHARED(float, scores, [kEntries][kWarp]);
  F3D_SHARED(float, rows, [kMaxItems * kWidth]);
  F3D_SHARED(float, splats, [kMaxItems][8]);
  F3D_SHARED(Used, lists_of, [kSubtiles][kMaxItems]);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, s = thread / kWarp;
  const int tile = static_cast<int>(blockIdx.x), begin = lists.tile_offsets[tile];
  Used* const list = lists_of[s];
  const Pixel pixel = pixel_at(tile, s, lane, lists.width, lists.height);
  const float px = pixel.x + 0.5f, py = pixel.y + 0.5f;
  // What lies behind the current Gaussian: sum of w_j s_j, less v_alpha T_final.
  float behind = pixel.inside ? -v_alphas[pixel.index] * transmittance[pixel.index] : 0.0f;

  Upstream<kWidth> upstream;
  auto load_upstream = [&](int64_t first) {
    upstream.load(lists, tile, s, lane, dim, first, static_cast<int>(min(static_cast<int64_t>(kWidth), dim - first)),
                  v_out, maps_aligned);
  };
  if constexpr (!kBlocks) load_upstream(0);

  int count;
  for (int end = lists.tile_offsets[tile + 1]; end > begin; end -= count) {
    const int last = weights.offsets[end];
    // This barrier also ends the sums of the batch before.
    count = __syncthreads_count(thread < kMaxItems && end - thread > begin &&
                                last - weights.offsets[max(end - 1 - thread, begin)] <= kEntries);
    const int item = end - count, base = weights.offsets[item];
    const int total = list_used(weights, s, lane, item, count, [&](int at, int i, int entry) {
      list[at] = {static_cast<uint8_t>(entry - base), static_cast<uint8_t>(i)};
    });
    for (int k = thread; k < count * 8; k += kTileThreads)
      if (k % 8 < kSplatUsed)
        splats[k / 8][k % 8] = lists.splats[kSplat * static_cast<int64_t>(lists.ids[item + k / 8]) + k % 8];
    for (int64_t first = 0; first < (kBlocks ? dim : 1); first += kWidth) {
      const int n = static_cast<int>(min(static_cast<int64_t>(kWidth), dim - first));
      if (kBlocks && first > 0) __syncthreads();
      stage_rows<kWidth, kWidth>(lists, weights, dim, first, n, values, values_aligned, item, count, rows);
      if constexpr (kBlocks) load_upstream(first);
      wait_async();
      __syncthreads();
      F3D_UNROLL(1)
      for (int e = 0; e < total; ++e) {
        const Used used = list[e];
        const float score = upstream.score(rows + kWidth * used.item, lane);
        scores[used.at][lane] = kBlocks && first > 0 ? scores[used.at][lane] + score : score;
      }
    }
    __syncwarp();
    F3D_UNROLL(1)
    for (int e = total; e > 0; e -= kAtOnce) {
      float gain[kAtOnce], odds[kAtOnce], dx[kAtOnce], dy[kAtOnce];
      bool steep[kAtOnce];
      F3D_UNROLL(4)
      for (int k = 0; k < kAtOnce; ++k) {
        const Used used = list[max(e - 1 - k, 0)];
        const float w = weights.weights[kWarp * static_cast<int64_t>(base + used.at) + lane];
        const float* p = splats[used.item];
        const Shade r = shade(p[0], p[1], p[2], p[3], p[4], p[5], px, py);
        gain[k] = w * scores[used.at][lane], odds[k] = __fdividef(r.alpha, 1.0f - r.alpha);
        dx[k] = r.dx, dy[k] = r.dy, steep[k] = w > 0.0f && r.steep;
      }
      __syncwarp();  // the scores have been read, moments may take their place
      F3D_UNROLL(4)
      for (int k = 0; k < kAtOnce; ++k) {
        if (e - 1 - k < 0) break;
        const float v = steep[k] ? odds[k] * behind - gain[k] : 0.0f;
        behind += gain[k];
        const float vx = v * dx[k], vy = v * dy[k];
        const float m[6] = {v, vx, vy, vx * dx[k], vx * dy[k], vy * dy[k]};
        const float sum = reduce_moments_of(m, lane);
        if (lane % 4 == 0 && moment_of(lane) < kMoments) scores[list[e - 1 - k].at][moment_of(lane)] = sum;
      }
    }
    __syncthreads();
    for (int k = thread; k < count * kMoments; k += kTileThreads) {
      const int i = k / kMoments, c = k % kMoments;
      const unsigned mask = weights.masks[item + i];
      float sum = 0.0f;
      int at = weights.offsets[item + i] - base;
      if (c < 6)
        for (unsigned room = mask & 0xffu; room; room &= room - 1, ++at)
          if (mask >> kSubtiles & room & (0u - room)) sum += scores[at][c];
      moments[kMoments * static_cast<int64_t>(lists.pairs[item + i]) + c] = sum;
    }
  }
}

__global__ void reduce_moments_kernel(int64_t visible, const int32_t* order, const int64_t* pair_offsets,
                              const float* moments, const float* splats, float* v_means2d, float* v_conics,
                              float* v_opacities) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (v >= visible) return;
  float m[kMoments] = {};
  for (int64_t p = pair_offsets[v]; p < pair_offsets[v + 1]; ++p) {
    float x[kMoments];
    load_vector<4>(moments + kMoments * p, x);
    load_vector<4>(moments + kMoments * p + 4, x + 4);
    F3D_UNROLL(8)
    for (int c = 0; c < 6; ++c) m[c] += x[c];
  }
  const int64_t n = order[v];
  const float* s = splats + kSplat * n;
  v_means2d[2 * n] = 2 * s[2] * m[1] + s[3] * m[2];
  v_means2d[2 * n + 1] = s[3] * m[1] + 2 * s[4] * m[2];
  v_conics[3 * n] = 0.5f * m[3], v_conics[3 * n + 1] = m[4], v_conics[3 * n + 2] = 0.5f * m[5];
  v_opacities[n] = -m[0] / s[5];  // visible splats have opacity >= 1/255
}

}  // namespace

void blend_moments(const Lists& lists, const Weights& weights, int64_t dim, const float* values,
                   const float* v_out, const float* v_alphas, const float* transmittance, float* moments,
                   Stream stream) {
  if (lists.items == 0) return;
  const int64_t tiles = static_cast<int64_t>(tile_count(lists.width)) * tile_count(lists.height);
  auto launch_kernel = [&](auto kernel) {
    launch("moments_kernel", kernel, blocks_of(tiles, 1), kTileThreads, 0, stream, lists, weights, dim, values,
           v_out, v_alphas, transmittance, moments, is_aligned(values, dim, 0, 4), is_aligned(v_out, dim, 0, 4));
  };
  if (dim > 64) launch_kernel(moments_kernel<64, true>);
  else with_width(dim, [&](auto width) { launch_kernel(moments_kernel<decltype(width)::value, false>); });
}

void reduce_moments(int64_t visible, const int32_t* order, const int64_t* pair_offsets, const float* moments,
                    const float* splats, float* v_means2d, float* v_conics, float* v_opacities, Stream stream) {
  F3D_LAUNCH(reduce_moments_kernel, blocks_of(visible, kTileThreads), kTileThreads, 0, stream, visible, order,
             pair_offsets, moments, splats, v_means2d, v_conics, v_opacities);
}

}  // namespace cuda
}  // namespace fit3d
