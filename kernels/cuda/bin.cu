// Depth order, and the tiles' lists of Gaussians (kernels/README.md "bin").
#include "fit3d/ellipse.h"
#include "ops.h"
#include "platform.h"
#include "primitives.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kFewRows = 4;  // a Gaussian over more rows of tiles is emitted by its whole warp

__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
}

// --- depth order -------------------------------------------------------------------------------
// Depths are positive and finite, so 31 bits sort like their values, and the largest key is free.
constexpr int kDepthBits = 31;
constexpr uint32_t kInvisible = 0x7fffffffu;

__global__ void __launch_bounds__(kBlock)
depth_keys_kernel(int64_t count, const float* depths, const int32_t* radii, uint32_t* keys,
                  int32_t* ids, int32_t* visible) {
  const int64_t n = thread_number();
  const bool seen = n < count && radii[2 * n] > 0;
  if (n < count) keys[n] = seen ? __float_as_uint(depths[n]) : kInvisible, ids[n] = static_cast<int32_t>(n);
  const int found = __syncthreads_count(seen);
  if (threadIdx.x == 0 && found) atomicAdd(visible, found);
}

struct OrderScratch {
  uint32_t *keys, *sorted_keys;
  int32_t *ids, *visible;
  char* sort;
  size_t sort_bytes, bytes;
  OrderScratch(int64_t count, void* memory) {
    Cutter cutter(memory);
    keys = cutter.take<uint32_t>(count), sorted_keys = cutter.take<uint32_t>(count);
    ids = cutter.take<int32_t>(count), visible = cutter.take<int32_t>(1);
    sort_bytes = sort_pairs_bytes<uint32_t, int32_t>(count, 0, kDepthBits);
    sort = cutter.take<char>(static_cast<int64_t>(sort_bytes)), bytes = cutter.used;
  }
};

// --- tiles of a splat ----------------------------------------------------------------------------
struct Rows { int first, end; };    // rows of tiles that the ellipse may meet
struct Columns { int first, end; };  // columns of one row; empty where it does not meet it

__device__ __forceinline__ Rows rows_of(const Ellipse& e, int height) {
  const float top = e.my - e.y_reach - e.slack - 0.5f, bottom = e.my + e.y_reach + e.slack - 0.5f;
  Rows r;
  r.first = static_cast<int>(fmaxf(top, 0.0f)) / kTile;
  r.end = min(static_cast<int>(fminf(bottom, height - 1.0f)) / kTile + 1, tile_count(height));
  if (!(bottom >= 0.0f)) r.end = r.first;
  return r;
}

// Counting and filling agree to the last bit: ellipse_span has no product that one of the two kernels
// could fuse and the other not, nor has rows_of.
__device__ __forceinline__ Columns columns_of(const Ellipse& e, int row, int width) {
  float x0, x1;
  const float y = static_cast<float>(row * kTile);
  if (!ellipse_span(e, y + 0.5f, y + kTile - 0.5f, &x0, &x1)) return {0, 0};
  x0 = fmaxf(ceilf(x0 - 0.5f), 0.0f), x1 = fminf(floorf(x1 - 0.5f), width - 1.0f);
  if (!(x0 <= x1)) return {0, 0};
  return {static_cast<int>(x0) / kTile, min(static_cast<int>(x1) / kTile + 1, tile_count(width))};
}

__global__ void __launch_bounds__(kBlock)
bin_count_kernel(int64_t visible, const int32_t* order, const float* means2d, const float* conics,
                 const float* opacities, int width, int height, float* splats, int64_t* sizes) {
  const int64_t v = thread_number();
  if (v > visible) return;
  int64_t total = 0;
  if (v < visible) {
    const int64_t n = order[v];
    float s[kSplat];
    pack_splat(means2d + 2 * n, conics + 3 * n, opacities[n], s);
    float4* to = reinterpret_cast<float4*>(splats + kSplat * n);
    for (int i = 0; i < kSplat / 4; ++i) to[i] = make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
    const Ellipse e = ellipse_of(s);
    const Rows rows = rows_of(e, height);
    for (int row = rows.first; row < rows.end; ++row) {
      const Columns c = columns_of(e, row, width);
      total += c.end - c.first;
    }
  }
  sizes[v] = total;  // and a zero behind the last, which the scan turns into the sum
}

// Writes the tile and the Gaussian of each pair. A thread emits its own Gaussian; one over many tiles
// is taken by the whole warp, a lane per row, so that it does not hold up the others.
__global__ void __launch_bounds__(kBlock)
emit_pairs_kernel(int64_t visible, const int32_t* order, const float* splats,
                  const int64_t* pair_offsets, int width, int height, uint32_t* tiles,
                  int32_t* numbers, int32_t* owners) {
  const int64_t v = thread_number();
  const int lane = threadIdx.x % kWarp, columns = tile_count(width);
  Rows rows{0, 0};
  int32_t id = 0;
  int64_t at = 0;
  if (v < visible) {
    id = order[v], at = pair_offsets[v];
    rows = rows_of(ellipse_of(splats + kSplat * static_cast<int64_t>(id)), height);
  }
  const bool many = rows.end - rows.first > kFewRows;
  if (!many && rows.first < rows.end) {
    const Ellipse e = ellipse_of(splats + kSplat * static_cast<int64_t>(id));
    for (int row = rows.first; row < rows.end; ++row) {
      const Columns c = columns_of(e, row, width);
      for (int column = c.first; column < c.end; ++column, ++at) {
        tiles[at] = static_cast<uint32_t>(row * columns + column);
        numbers[at] = static_cast<int32_t>(at), owners[at] = id;
      }
    }
  }
  for (unsigned left = __ballot_sync(kFullMask, many); left; left &= left - 1) {
    const int who = __ffs(static_cast<int>(left)) - 1;
    const int32_t his = __shfl_sync(kFullMask, id, who);
    const int first = __shfl_sync(kFullMask, rows.first, who), end = __shfl_sync(kFullMask, rows.end, who);
    int64_t start = __shfl_sync(kFullMask, static_cast<long long>(at), who);
    const Ellipse e = ellipse_of(splats + kSplat * static_cast<int64_t>(his));
    for (int top = first; top < end; top += kWarp) {
      const int row = top + lane;
      const Columns c = row < end ? columns_of(e, row, width) : Columns{0, 0};
      int before = c.end - c.first;  // inclusive sum over the lanes
      for (int d = 1; d < kWarp; d *= 2) {
        const int other = __shfl_up_sync(kFullMask, before, d);
        if (lane >= d) before += other;
      }
      const int total = __shfl_sync(kFullMask, before, kWarp - 1);
      before -= c.end - c.first;
      for (int r = 0; r < kWarp && top + r < end; ++r) {
        const int c0 = __shfl_sync(kFullMask, c.first, r), c1 = __shfl_sync(kFullMask, c.end, r);
        const int64_t to = start + __shfl_sync(kFullMask, before, r);
        for (int i = lane; i < c1 - c0; i += kWarp) {
          tiles[to + i] = static_cast<uint32_t>((top + r) * columns + c0 + i);
          numbers[to + i] = static_cast<int32_t>(to + i), owners[to + i] = his;
        }
      }
      start += total;
    }
  }
}

// First list item of each tile: how many sorted pairs belong to earlier tiles.
__global__ void __launch_bounds__(kBlock)
tile_offsets_kernel(int64_t tiles, int64_t pairs, const uint32_t* sorted_tiles, int32_t* tile_offsets) {
  const int64_t t = thread_number();
  if (t > tiles) return;
  int64_t low = 0, high = pairs;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (static_cast<int64_t>(sorted_tiles[middle]) < t) low = middle + 1;
    else high = middle;
  }
  tile_offsets[t] = static_cast<int32_t>(low);
}

__global__ void __launch_bounds__(kBlock)
owners_kernel(int64_t pairs, const int32_t* numbers, const int32_t* owners, int32_t* ids) {
  const int64_t l = thread_number();
  if (l < pairs) ids[l] = owners[numbers[l]];
}

struct FillScratch {
  uint32_t *tiles, *sorted_tiles;
  int32_t *numbers, *owners;
  char* sort;
  size_t sort_bytes, bytes;
  // The bytes are asked for before the picture is known: as if tiles took all 32 bits.
  FillScratch(int64_t pairs, void* memory) {
    Cutter cutter(memory);
    tiles = cutter.take<uint32_t>(pairs), sorted_tiles = cutter.take<uint32_t>(pairs);
    numbers = cutter.take<int32_t>(pairs), owners = cutter.take<int32_t>(pairs);
    sort_bytes = sort_pairs_bytes<uint32_t, int32_t>(pairs, 0, 32);
    sort = cutter.take<char>(static_cast<int64_t>(sort_bytes)), bytes = cutter.used;
  }
};

}  // namespace

size_t depth_order_bytes(int64_t count) { return count ? OrderScratch(count, nullptr).bytes : 0; }

int64_t depth_order(int64_t count, const float* depths, const int32_t* radii, void* scratch,
                    size_t scratch_bytes, int32_t* order, Stream stream) {
  if (count == 0) return 0;
  const OrderScratch s(count, scratch);
  require_scratch(s.bytes, scratch_bytes, "depth_order");
  fill_zero(s.visible, sizeof(int32_t), stream);
  F3D_LAUNCH(depth_keys_kernel, blocks_of(count, kBlock), kBlock, 0, stream, count, depths, radii, s.keys,
             s.ids, s.visible);
  sort_pairs<uint32_t, int32_t>(s.sort, s.sort_bytes, s.keys, s.sorted_keys, s.ids, order, count, 0,
                                kDepthBits, stream);
  return read_back(s.visible, stream);
}

size_t bin_count_bytes(int64_t visible) { return exclusive_scan_bytes<int64_t>(visible + 1); }

int64_t bin_count(int64_t visible, const int32_t* order, const float* means2d, const float* conics,
                  const float* opacities, int width, int height, float* splats,
                  int64_t* pair_offsets, void* scratch, size_t scratch_bytes, Stream stream) {
  require_scratch(bin_count_bytes(visible), scratch_bytes, "bin_count");
  F3D_LAUNCH(bin_count_kernel, blocks_of(visible + 1, kBlock), kBlock, 0, stream, visible, order, means2d,
             conics, opacities, width, height, splats, pair_offsets);
  exclusive_scan<int64_t>(scratch, scratch_bytes, pair_offsets, pair_offsets, visible + 1, stream);
  return read_back(pair_offsets + visible, stream);
}

size_t bin_fill_bytes(int64_t pairs) { return pairs ? FillScratch(pairs, nullptr).bytes : 0; }

void bin_fill(int64_t visible, int64_t pairs, const int32_t* order, const float* splats,
              const int64_t* pair_offsets, int width, int height, int32_t* tile_offsets,
              int32_t* ids, int32_t* pair_numbers, void* scratch, size_t scratch_bytes,
              Stream stream) {
  const int64_t tiles = static_cast<int64_t>(tile_count(width)) * tile_count(height);
  if (pairs == 0) return fill_zero(tile_offsets, sizeof(int32_t) * static_cast<size_t>(tiles + 1), stream);
  const FillScratch s(pairs, scratch);
  require_scratch(s.bytes, scratch_bytes, "bin_fill");
  F3D_LAUNCH(emit_pairs_kernel, blocks_of(visible, kBlock), kBlock, 0, stream, visible, order, splats,
             pair_offsets, width, height, s.tiles, s.numbers, s.owners);
  // Pairs come in depth order and the sort is stable, so every tile's list is front to back.
  sort_pairs<uint32_t, int32_t>(s.sort, s.sort_bytes, s.tiles, s.sorted_tiles, s.numbers, pair_numbers,
                                pairs, 0, bits_of(tiles), stream);
  F3D_LAUNCH(tile_offsets_kernel, blocks_of(tiles + 1, kBlock), kBlock, 0, stream, tiles, pairs,
             s.sorted_tiles, tile_offsets);
  F3D_LAUNCH(owners_kernel, blocks_of(pairs, kBlock), kBlock, 0, stream, pairs, pair_numbers, s.owners, ids);
}

}  // namespace cuda
}  // namespace fit3d
