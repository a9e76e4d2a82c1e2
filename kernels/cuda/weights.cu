// The matrix W (README.md "Layout of W on the device"). Alpha is computed twice: first to find the entries,
// then to write them. Behind an opaque surface most items that meet a subtile add nothing to it, so room
// for all of them would cost far more memory, and more time to clear it, than the second pass.
#include "fit3d/ellipse.h"
#include "ops.h"
#include "platform.h"
#include "primitives.h"
#include "tiles.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kBatch = kTileThreads;  // list items that a block stages at once
constexpr int kParts = kBatch / kWarp;
constexpr int kStrips = kTile / kSubtileHeight;

int64_t tiles_of(const Lists& s) {
  return static_cast<int64_t>(tile_count(s.width)) * tile_count(s.height);
}

// Bit s: the ellipse meets subtile s of the tile whose first pixel is (x, y).
__device__ __forceinline__ unsigned room_of(const Ellipse& e, int x, int y, int width, int height) {
  unsigned mask = 0;
  for (int strip = 0; strip < kStrips; ++strip) {
    const int top = y + strip * kSubtileHeight;
    float x0, x1;
    if (top >= height || !ellipse_span(e, top + 0.5f, top + kSubtileHeight - 0.5f, &x0, &x1)) continue;
    for (int half = 0; half < 2; ++half) {
      const int left = x + half * kSubtileWidth;
      if (left < width && x0 <= left + kSubtileWidth - 0.5f && left + 0.5f <= x1)
        mask |= 1u << (2 * strip + half);
    }
  }
  return mask;
}

// What a pixel carries from front to back.
struct Ray {
  float px, py, T;
  float faintest;  // the least alpha that counts: no alpha does once the pixel has stopped
};
__device__ __forceinline__ Ray ray_at(const Pixel& p) {
  return {p.x + 0.5f, p.y + 0.5f, 1.0f, p.inside ? kAlphaMin : INFINITY};
}
// The weight of the next splat (ellipse.h, its first eight floats) at the pixel, 0 if it has none there.
// No product below is next to a sum that it could be fused with, so that both kernels get the same bits.
__device__ __forceinline__ float next_weight(Ray& ray, float4 a, float4 b) {
  const Shade r = shade(a.x, a.y, a.z, a.w, b.x, b.y, ray.px, ray.py);
  if (!(r.counts && r.alpha >= ray.faintest)) return 0.0f;
  const float w = r.alpha * ray.T, after = ray.T * (1.0f - r.alpha);
  if (after <= kTransmittanceMin) {
    ray.faintest = INFINITY;
    return 0.0f;
  }
  ray.T = after;
  return w;
}

// Both kernels: one block per tile, one warp per subtile, one thread per pixel. Batches of 256 list items
// are staged for all warps, one by each thread, while the next batch is on its way to the registers.
struct Item {
  float4 a, b;
  unsigned mask;
};
__device__ __forceinline__ const float4* splat_of(const Lists& s, int64_t l) {
  return reinterpret_cast<const float4*>(s.splats + kSplat * static_cast<int64_t>(s.ids[l]));
}
struct Stage {
  float4 (&a)[kBatch], (&b)[kBatch];
  unsigned (&masks)[kBatch];
  __device__ __forceinline__ void put(int thread, const Item& item) {
    a[thread] = item.a, b[thread] = item.b, masks[thread] = item.mask;
  }
  // The 32 items from `first` on that have the bit of the subtile.
  __device__ __forceinline__ unsigned items(int first, int subtile, int lane) const {
    return __ballot_sync(kFullMask, masks[first + lane] >> subtile & 1u);
  }
};

// Finds the entries: walks the items that have room for one, as far as the pixels go. offsets gets the
// number of entries of each item.
__global__ void __launch_bounds__(kTileThreads)
find_entries_kernel(Lists s, uint16_t* masks, int32_t* offsets) {
  F3D_SHARED(float4, front, [kBatch]);
  F3D_SHARED(float4, back, [kBatch]);
  F3D_SHARED(unsigned, room, [kBatch]);
  F3D_SHARED(unsigned, used, [kSubtiles][kParts]);  // bit i of part p: the subtile uses item 32 p + i
  Stage stage{front, back, room};
  const int tile = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int subtile = thread / kWarp, lane = thread % kWarp, columns = tile_count(s.width);
  const int x = tile % columns * kTile, y = tile / columns * kTile;
  const int64_t begin = s.tile_offsets[tile], end = s.tile_offsets[tile + 1];
  auto load = [&](int64_t l) {
    Item item{};
    if (l < end) {
      const float4 *p = splat_of(s, l), q = p[2], r = p[3];
      item.a = p[0], item.b = p[1];
      const Ellipse e{item.a.x, item.a.y, q.x, q.y, q.z, q.w, r.x, r.y, r.z};
      item.mask = room_of(e, x, y, s.width, s.height);
    }
    return item;
  };
  const Pixel pixel = pixel_at(tile, subtile, lane, s.width, s.height);
  Ray ray = ray_at(pixel);
  bool done = !__any_sync(kFullMask, pixel.inside);  // the whole warp
  Item next = load(begin + thread);
  int64_t batch = begin;
  for (; batch < end; batch += kBatch) {
    stage.put(thread, next);
    if (__syncthreads_and(done)) break;
    next = load(batch + kBatch + thread);
    for (int part = 0; part < kParts && batch + part * kWarp < end; ++part) {
      unsigned mine = 0;  // bit i: this pixel uses item i of the part
      if (!done) {
        for (unsigned left = stage.items(part * kWarp, subtile, lane); left; left &= left - 1) {
          const int i = __ffs(static_cast<int>(left)) - 1, at = part * kWarp + i;
          if (next_weight(ray, front[at], back[at]) != 0.0f) mine |= 1u << i;
        }
        mine = __reduce_or_sync(kFullMask, mine);
        done = !__any_sync(kFullMask, ray.faintest <= kAlphaMax);
      }
      if (lane == 0) used[subtile][part] = mine;
    }
    __syncthreads();
    if (batch + thread < end) {
      unsigned mask = 0;
      for (int i = 0; i < kSubtiles; ++i) mask |= (used[i][subtile] >> lane & 1u) << i;
      masks[batch + thread] = static_cast<uint16_t>(mask | mask << kSubtiles);
      offsets[batch + thread] = __popc(mask);
    }
  }
  for (int64_t l = batch + thread; l < end; l += kTileThreads) masks[l] = 0, offsets[l] = 0;
  if (tile == 0 && thread == 0) offsets[s.items] = 0;  // the scan turns it into the sum
}

// Writes the entries; T of a pixel is final after the last of them.
__global__ void __launch_bounds__(kTileThreads)
weights_kernel(Lists s, const uint16_t* masks, const int32_t* offsets, float* weights,
               float* transmittance) {
  F3D_SHARED(float4, front, [kBatch]);
  F3D_SHARED(float4, back, [kBatch]);
  F3D_SHARED(unsigned, used, [kBatch]);
  Stage stage{front, back, used};
  const int tile = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int subtile = thread / kWarp, lane = thread % kWarp;
  const int64_t begin = s.tile_offsets[tile], end = s.tile_offsets[tile + 1];
  auto load = [&](int64_t l) {  // the two words that alpha does not need carry the item's first entry
    Item item{};
    if (l < end) item.mask = masks[l] & 0xffu;
    if (item.mask) {
      const float4* p = splat_of(s, l);
      item.a = p[0], item.b = p[1];
      item.b.z = __int_as_float(offsets[l]), item.b.w = __uint_as_float(item.mask);
    }
    return item;
  };
  const Pixel pixel = pixel_at(tile, subtile, lane, s.width, s.height);
  Ray ray = ray_at(pixel);
  const int32_t last = offsets[end];
  Item next = load(begin + thread);
  for (int64_t batch = begin; batch < end && offsets[batch] < last; batch += kBatch) {
    stage.put(thread, next);
    __syncthreads();
    next = load(batch + kBatch + thread);
    for (int first = 0; first < kBatch && batch + first < end; first += kWarp)
      for (unsigned left = stage.items(first, subtile, lane); left; left &= left - 1) {
        const int at = first + __ffs(static_cast<int>(left)) - 1;
        const float4 b = back[at];
        const int64_t entry = __float_as_int(b.z) + entries_before(__float_as_uint(b.w), subtile);
        weights[kWarp * entry + lane] = next_weight(ray, front[at], b);
      }
    __syncthreads();
  }
  if (pixel.inside) transmittance[pixel.index] = ray.T;
}

}  // namespace

size_t weights_count_bytes(int64_t items) { return exclusive_scan_bytes<int32_t>(items + 1); }

int64_t weights_count(const Lists& lists, uint16_t* masks, int32_t* offsets, void* scratch,
                      size_t scratch_bytes, Stream stream) {
  require_scratch(weights_count_bytes(lists.items), scratch_bytes, "weights_count");
  F3D_LAUNCH(find_entries_kernel, blocks_of(tiles_of(lists), 1), kTileThreads, 0, stream, lists, masks, offsets);
  exclusive_scan<int32_t>(scratch, scratch_bytes, offsets, offsets, lists.items + 1, stream);
  return read_back(offsets + lists.items, stream);
}

void weights_fill(const Lists& lists, const uint16_t* masks, const int32_t* offsets, float* weights,
                  float* transmittance, Stream stream) {
  F3D_LAUNCH(weights_kernel, blocks_of(tiles_of(lists), 1), kTileThreads, 0, stream, lists, masks, offsets,
             weights, transmittance);
}

}  // namespace cuda
}  // namespace fit3d
