// Pooling W onto a token grid, A = kernel x W, and products with A (kernels/README.md, "pool").
//
// One block per tile, one warp per list item: a lane has one pixel of every subtile, so the sums under all
// tokens that the tile touches come from eight registers and one table per axis. The non-zero (token,
// Gaussian) sums are sorted by both; a Gaussian that lies in several tiles under one token comes out as a
// run, in list order, and is added up by one thread. So the order of every sum is fixed.
#include <utility>

#include "fit3d/pool.h"
#include "panel.h"
#include "primitives.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kIdBits = 31;  // of a key (token, Gaussian)

// The tokens whose kernel meets the tile's pixels [pixel, pixel + kTile) of an axis.
struct Tokens {
  int begin, end;
};
static __device__ __forceinline__ Tokens tokens_at(int pixel, int tokens, int pixels, bool tent) {
  const float step = static_cast<float>(pixels) / tokens;
  Tokens r{max(static_cast<int>(pixel / step) - 2, 0),
           min(static_cast<int>((pixel + kTile) / step) + 3, tokens)};
  while (r.begin < r.end && axis_span(r.begin, tokens, pixels, tent).end <= pixel) ++r.begin;
  while (r.begin < r.end && axis_span(r.end - 1, tokens, pixels, tent).begin >= pixel + kTile) --r.end;
  return r;
}
// At least as many as any tile has.
int most_tokens(int tokens, int pixels) {
  const int64_t most = static_cast<int64_t>(kTile) * tokens / pixels + 6;
  return static_cast<int>(most < tokens ? most : tokens);
}

// Writes the number of an item's non-zero sums to counts[item], or with kFill the sums themselves from
// starts[item] on. Dynamic shared memory: two tables [tokens][16] of the kernel at the tile's pixels.
template <bool kFill>
__global__ void __launch_bounds__(kTileThreads)
    pool_kernel(Lists lists, Weights weights, Grid grid, int64_t* counts, const int64_t* starts, uint64_t* keys,
                float* sums) {
  F3D_DYNAMIC_SHARED(float, tables);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int columns = tile_count(lists.width), tile = static_cast<int>(blockIdx.x);
  const int x = tile % columns * kTile, y = tile / columns * kTile;
  const Tokens across = tokens_at(x, grid.w, lists.width, grid.tent);
  const Tokens down = tokens_at(y, grid.h, lists.height, grid.tent);
  const int wide = across.end - across.begin, high = down.end - down.begin;
  for (int k = thread; k < wide + high; k += kTileThreads) {
    const Axis a = k < wide ? make_axis(across.begin + k, grid.w, lists.width, grid.tent)
                            : make_axis(down.begin + k - wide, grid.h, lists.height, grid.tent);
    for (int p = 0; p < kTile; ++p) tables[kTile * k + p] = axis_at(a, (k < wide ? x : y) + p);
  }
  __syncthreads();
  const float* const kx = tables + lane % kSubtileWidth;
  const float* const ky = tables + kTile * wide + lane / kSubtileWidth;
  const int end = lists.tile_offsets[tile + 1];
  for (int item = lists.tile_offsets[tile] + thread / kWarp; item < end; item += kSubtiles) {
    const unsigned mask = weights.masks[item];
    const int first = weights.offsets[item];
    float w[kSubtiles];
    F3D_UNROLL(8)
    for (int s = 0; s < kSubtiles; ++s)
      w[s] = mask >> (kSubtiles + s) & 1u
                 ? weights.weights[kWarp * static_cast<int64_t>(first + entries_before(mask, s)) + lane] : 0.0f;
    int64_t at = kFill ? starts[item] : 0;
    for (int tx = 0; tx < wide; ++tx) {
      const float left = kx[kTile * tx], right = kx[kTile * tx + kSubtileWidth];
      float row[4];  // the lane's two columns joined
      F3D_UNROLL(4)
      for (int j = 0; j < 4; ++j) row[j] = fmaf(w[2 * j], left, w[2 * j + 1] * right);
      for (int ty = 0; ty < high; ty += 4) {
        float v[4];
        F3D_UNROLL(4)
        for (int k = 0; k < 4; ++k) {
          v[k] = 0.0f;
          if (ty + k >= high) continue;
          F3D_UNROLL(4)
          for (int j = 0; j < 4; ++j) v[k] = fmaf(row[j], ky[kTile * (ty + k) + kSubtileHeight * j], v[k]);
        }
        // Four sums over the warp: lanes 8 k to 8 k + 7 end with that of token ty + k.
        const bool far = lane & 16, near = lane & 8;
        const float a = (far ? v[2] : v[0]) + __shfl_xor_sync(kFullMask, far ? v[0] : v[2], 16);
        const float b = (far ? v[3] : v[1]) + __shfl_xor_sync(kFullMask, far ? v[1] : v[3], 16);
        float sum = (near ? b : a) + __shfl_xor_sync(kFullMask, near ? a : b, 8);
        sum += __shfl_xor_sync(kFullMask, sum, 4);
        sum += __shfl_xor_sync(kFullMask, sum, 2);
        sum += __shfl_xor_sync(kFullMask, sum, 1);
        const unsigned votes = __ballot_sync(kFullMask, lane % 8 == 0 && sum > 0.0f);
        if (kFill && votes >> lane & 1u) {
          const int64_t to = at + __popc(votes & ((1u << lane) - 1u));
          const uint64_t token = static_cast<uint64_t>(down.begin + ty + lane / 8) * grid.w + across.begin + tx;
          keys[to] = token << kIdBits | static_cast<uint32_t>(lists.ids[item]);
          sums[to] = sum;
        }
        at += __popc(votes);
      }
    }
    if (!kFill && lane == 0) counts[item] = at;
  }
}

template <bool kFill>
void launch_pool(const Lists& lists, const Weights& weights, Grid grid, int64_t* counts, const int64_t* starts,
                 uint64_t* keys, float* sums, Stream stream) {
  const int64_t tiles = static_cast<int64_t>(tile_count(lists.width)) * tile_count(lists.height);
  const size_t rows = static_cast<size_t>(most_tokens(grid.w, lists.width)) + most_tokens(grid.h, lists.height);
  F3D_LAUNCH(pool_kernel<kFill>, blocks_of(tiles, 1), kTileThreads, sizeof(float) * kTile * rows, stream, lists,
             weights, grid, counts, starts, keys, sums);
}

// Rows of a sorted array: entry i opens row `row`, which comes behind row `before`; `at` is its place.
static __device__ __forceinline__ void open_rows(int64_t before, int64_t row, int64_t at, int64_t* offsets) {
  for (int64_t r = before + 1; r <= row; ++r) offsets[r] = at;
}

// heads[i] = 1 where a run of equal keys begins; heads[count] = 0.
__global__ void heads_kernel(int64_t count, const uint64_t* keys, int64_t* heads) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i <= count) heads[i] = i < count && (i == 0 || keys[i] != keys[i - 1]);
}

// One thread per run: sums it and opens its row. `places` is the exclusive scan of heads.
__global__ void merge_kernel(int64_t count, int64_t tokens, const uint64_t* keys, const float* sums,
                             const int64_t* places, int64_t* row_offsets, int32_t* cols, float* vals) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint64_t key = keys[i];
  const int64_t token = static_cast<int64_t>(key >> kIdBits);
  if (i + 1 == count) open_rows(token, tokens, places[count], row_offsets);
  if (i > 0 && keys[i - 1] == key) return;
  float sum = sums[i];
  for (int64_t k = i + 1; k < count && keys[k] == key; ++k) sum += sums[k];
  const int64_t at = places[i];
  cols[at] = static_cast<int32_t>(key & ((uint64_t{1} << kIdBits) - 1)), vals[at] = sum;
  open_rows(i > 0 ? static_cast<int64_t>(keys[i - 1] >> kIdBits) : -1, token, at, row_offsets);
}

struct PoolScratch {
  uint64_t *keys, *sorted_keys;
  float *sums, *sorted_sums;
  int64_t* places;
  void* tools;  // of sort and scan
  size_t tool_bytes, bytes;
  PoolScratch(void* memory, int64_t entries) {
    Cutter cut(memory);
    keys = cut.take<uint64_t>(entries), sorted_keys = cut.take<uint64_t>(entries);
    sums = cut.take<float>(entries), sorted_sums = cut.take<float>(entries);
    places = cut.take<int64_t>(entries + 1);
    const size_t sort = sort_pairs_bytes<uint64_t, float>(entries, 0, 64);
    const size_t scan = exclusive_scan_bytes<int64_t>(entries + 1);
    tool_bytes = sort > scan ? sort : scan;
    tools = cut.take<char>(static_cast<int64_t>(tool_bytes));
    bytes = cut.used;
  }
};

// A group of `lanes` threads per row and block of channels.
template <int kVector>
__global__ void csr_apply_kernel(int64_t rows, int lanes, int blocks, const int64_t* offsets, const int32_t* cols,
                                 const float* vals, int64_t dim, const float* x, bool add, float* out) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t group = thread / lanes, r = group / blocks;
  const int64_t c = (group % blocks * lanes + thread % lanes) * kVector;
  if (r >= rows || c >= dim) return;
  float sum[kVector] = {};
  float* const to = out + dim * r + c;
  if (add) load_vector<kVector>(to, sum);
  const int64_t end = offsets[r + 1];
  F3D_UNROLL(8)
  for (int64_t i = offsets[r]; i < end; ++i) {
    float f[kVector];
    load_vector<kVector>(x + (dim * cols[i] + c), f);
    const float v = vals[i];
    F3D_UNROLL(4)
    for (int k = 0; k < kVector; ++k) sum[k] = fmaf(v, f[k], sum[k]);
  }
  store_vector<kVector>(to, sum);
}

// A warp per row: (row, value) of its entries in one word.
__global__ void pack_kernel(int64_t rows, const int64_t* offsets, const float* vals, uint64_t* packed) {
  const int64_t r = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (r >= rows) return;
  for (int64_t i = offsets[r] + threadIdx.x % kWarp; i < offsets[r + 1]; i += kWarp)
    packed[i] = static_cast<uint64_t>(r) << 32 | __float_as_uint(vals[i]);
}
__global__ void unpack_kernel(int64_t count, int64_t columns, const uint32_t* cols, const uint64_t* packed,
                              int64_t* t_offsets, int32_t* t_rows, float* t_vals) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  t_rows[i] = static_cast<int32_t>(packed[i] >> 32);
  t_vals[i] = __uint_as_float(static_cast<uint32_t>(packed[i]));
  open_rows(i > 0 ? static_cast<int64_t>(cols[i - 1]) : -1, cols[i], i, t_offsets);
  if (i + 1 == count) open_rows(cols[i], columns, count, t_offsets);
}

struct TransposeScratch {
  uint32_t* cols;
  uint64_t *packed, *sorted;
  void* tools;
  size_t tool_bytes, bytes;
  TransposeScratch(void* memory, int64_t columns, int64_t entries) {
    Cutter cut(memory);
    cols = cut.take<uint32_t>(entries);
    packed = cut.take<uint64_t>(entries), sorted = cut.take<uint64_t>(entries);
    tool_bytes = sort_pairs_bytes<uint32_t, uint64_t>(entries, 0, bits_of(columns));
    tools = cut.take<char>(static_cast<int64_t>(tool_bytes));
    bytes = cut.used;
  }
};

}  // namespace

size_t pool_count_bytes(int64_t items) { return exclusive_scan_bytes<int64_t>(items + 1); }

int64_t pool_count(const Lists& lists, const Weights& weights, Grid grid, int64_t* counts, void* scratch,
                   size_t scratch_bytes, Stream stream) {
  fill_zero(counts + lists.items, sizeof(int64_t), stream);
  if (lists.items == 0) return 0;
  require_scratch(pool_count_bytes(lists.items), scratch_bytes, "pool_count");
  launch_pool<false>(lists, weights, grid, counts, nullptr, nullptr, nullptr, stream);
  exclusive_scan(scratch, scratch_bytes, counts, counts, lists.items + 1, stream);
  return read_back(counts + lists.items, stream);
}

size_t pool_fill_bytes(int64_t entries) { return entries ? PoolScratch(nullptr, entries).bytes : 0; }

int64_t pool_fill(const Lists& lists, const Weights& weights, Grid grid, int64_t entries, const int64_t* counts,
                  int64_t* row_offsets, int32_t* cols, float* vals, void* scratch, size_t scratch_bytes,
                  Stream stream) {
  const int64_t tokens = static_cast<int64_t>(grid.h) * grid.w;
  if (entries == 0) {
    fill_zero(row_offsets, sizeof(int64_t) * (tokens + 1), stream);
    return 0;
  }
  require_scratch(pool_fill_bytes(entries), scratch_bytes, "pool_fill");
  const PoolScratch s(scratch, entries);
  launch_pool<true>(lists, weights, grid, nullptr, counts, s.keys, s.sums, stream);
  sort_pairs(s.tools, s.tool_bytes, s.keys, s.sorted_keys, s.sums, s.sorted_sums, entries, 0,
             kIdBits + bits_of(tokens), stream);
  F3D_LAUNCH(heads_kernel, blocks_of(entries + 1, kTileThreads), kTileThreads, 0, stream, entries, s.sorted_keys,
             s.places);
  exclusive_scan(s.tools, s.tool_bytes, s.places, s.places, entries + 1, stream);
  F3D_LAUNCH(merge_kernel, blocks_of(entries, kTileThreads), kTileThreads, 0, stream, entries, tokens,
             s.sorted_keys, s.sorted_sums, s.places, row_offsets, cols, vals);
  return read_back(s.places + entries, stream);
}

void csr_apply(int64_t rows, const int64_t* offsets, const int32_t* cols, const float* vals, int64_t dim,
               const float* x, bool add, float* out, Stream stream) {
  const bool aligned = is_aligned(x, dim, 0, 4) && is_aligned(out, dim, 0, 4);
  const int64_t vectors = aligned ? dim / 4 : dim;
  int lanes = 1;
  while (lanes < kWarp && lanes < vectors) lanes *= 2;
  const int blocks = static_cast<int>((vectors + lanes - 1) / lanes);
  auto kernel = aligned ? csr_apply_kernel<4> : csr_apply_kernel<1>;
  launch("csr_apply_kernel", kernel, blocks_of(rows * blocks * lanes, kTileThreads), kTileThreads, 0, stream,
         rows, lanes, blocks, offsets, cols, vals, dim, x, add, out);
}

size_t csr_transpose_bytes(int64_t, int64_t columns, int64_t entries) {
  return entries ? TransposeScratch(nullptr, columns, entries).bytes : 0;
}

void csr_transpose(int64_t rows, int64_t columns, int64_t entries, const int64_t* offsets, const int32_t* cols,
                   const float* vals, int64_t* t_offsets, int32_t* t_rows, float* t_vals, void* scratch,
                   size_t scratch_bytes, Stream stream) {
  if (entries == 0) {
    fill_zero(t_offsets, sizeof(int64_t) * (columns + 1), stream);
    return;
  }
  require_scratch(csr_transpose_bytes(rows, columns, entries), scratch_bytes, "csr_transpose");
  const TransposeScratch s(scratch, columns, entries);
  F3D_LAUNCH(pack_kernel, blocks_of(rows * kWarp, kTileThreads), kTileThreads, 0, stream, rows, offsets, vals,
             s.packed);
  sort_pairs(s.tools, s.tool_bytes, reinterpret_cast<const uint32_t*>(cols), s.cols,
             static_cast<const uint64_t*>(s.packed), s.sorted, entries, 0, bits_of(columns), stream);
  F3D_LAUNCH(unpack_kernel, blocks_of(entries, kTileThreads), kTileThreads, 0, stream, entries, columns, s.cols,
             s.sorted, t_offsets, t_rows, t_vals);
}

}  // namespace cuda
}  // namespace fit3d
