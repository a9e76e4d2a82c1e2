#include <cstring>

#include "fit3d/ellipse.h"
#include "ops.h"
#include "parallel.h"

namespace fit3d {
namespace {

constexpr int64_t kBlock = 512;  // Gaussians per work item

// Calls visit(first tile column, last tile column, tile row) for each row of tiles that the
// ellipse meets, testing pixel centres.
template <class Visit>
void visit_tiles(const float* splat, int width, int height, Visit visit) {
  const Ellipse e = ellipse_of(splat);
  const int columns = tile_count(width), rows = tile_count(height);
  const float top = e.my - e.y_reach - e.slack - 0.5f, bottom = e.my + e.y_reach + e.slack - 0.5f;
  const int first = static_cast<int>(fmaxf(top, 0.0f)) / kTile;
  const int last = static_cast<int>(fminf(bottom, height - 1.0f)) / kTile;
  for (int row = first; row <= last && row < rows; ++row) {
    float x0, x1;
    const float y = static_cast<float>(row * kTile);
    if (!ellipse_span(e, y + 0.5f, y + kTile - 0.5f, &x0, &x1)) continue;
    x0 = fmaxf(ceilf(x0 - 0.5f), 0.0f), x1 = fminf(floorf(x1 - 0.5f), width - 1.0f);
    if (!(x0 <= x1)) continue;
    const int begin = static_cast<int>(x0) / kTile, end = static_cast<int>(x1) / kTile;
    visit(begin, end < columns ? end : columns - 1, row);
  }
}

}  // namespace

int64_t depth_order(int64_t count, const float* depths, const int32_t* radii, uint32_t* scratch,
                    int32_t* order) {
  uint32_t *keys = scratch, *ids = scratch + count;
  uint32_t *other_keys = scratch + 2 * count, *other_ids = scratch + 3 * count;
  constexpr int kBits = 11, kBuckets = 1 << kBits;  // three passes cover 32 bits
  int64_t histogram[3][kBuckets] = {};
  int64_t visible = 0;
  for (int64_t n = 0; n < count; ++n) {
    if (radii[2 * n] <= 0) continue;
    uint32_t key;  // depths are positive, so their bits sort like their values
    std::memcpy(&key, depths + n, 4);
    keys[visible] = key, ids[visible++] = static_cast<uint32_t>(n);
    for (int pass = 0; pass < 3; ++pass) ++histogram[pass][key >> (kBits * pass) & (kBuckets - 1)];
  }
  for (int pass = 0; pass < 3; ++pass) {  // stable, starting in id order: ties keep the lower id
    int64_t at = 0;
    for (int64_t& bucket : histogram[pass]) {
      const int64_t size = bucket;
      bucket = at, at += size;
    }
    for (int64_t i = 0; i < visible; ++i) {
      const int64_t to = histogram[pass][keys[i] >> (kBits * pass) & (kBuckets - 1)]++;
      other_keys[to] = keys[i], other_ids[to] = ids[i];
    }
    uint32_t* swap = keys;
    keys = other_keys, other_keys = swap;
    swap = ids, ids = other_ids, other_ids = swap;
  }
  std::memcpy(order, ids, sizeof(uint32_t) * visible);
  return visible;
}

int64_t bin_count(int64_t visible, const int32_t* order, const float* means2d, const float* conics,
                  const float* opacities, int width, int height, float* splats,
                  int64_t* pair_offsets, int threads) {
  auto body = [&](int64_t b, int) {
    const int64_t end = (b + 1) * kBlock < visible ? (b + 1) * kBlock : visible;
    for (int64_t v = b * kBlock; v < end; ++v) {
      const int64_t n = order[v];
      pack_splat(means2d + 2 * n, conics + 3 * n, opacities[n], splats + kSplat * n);
      int64_t total = 0;
      visit_tiles(splats + kSplat * n, width, height,
                  [&](int first, int last, int) { total += last - first + 1; });
      pair_offsets[v + 1] = total;
    }
  };
  parallel_for(threads, (visible + kBlock - 1) / kBlock, body);
  pair_offsets[0] = 0;
  for (int64_t v = 0; v < visible; ++v) pair_offsets[v + 1] += pair_offsets[v];
  return pair_offsets[visible];
}

void bin_fill(int64_t visible, const int32_t* order, const float* splats,
              const int64_t* pair_offsets, int width, int height, int32_t* pair_tiles,
              int64_t* tile_offsets, int32_t* tile_ids, int32_t* tile_pairs, int threads) {
  const int columns = tile_count(width);
  const int64_t tiles = static_cast<int64_t>(columns) * tile_count(height);
  auto body = [&](int64_t b, int) {
    const int64_t end = (b + 1) * kBlock < visible ? (b + 1) * kBlock : visible;
    for (int64_t v = b * kBlock; v < end; ++v) {
      int32_t* to = pair_tiles + pair_offsets[v];
      visit_tiles(splats + kSplat * static_cast<int64_t>(order[v]), width, height,
                  [&](int first, int last, int row) {
                    for (int c = first; c <= last; ++c) *to++ = row * columns + c;
                  });
    }
  };
  parallel_for(threads, (visible + kBlock - 1) / kBlock, body);
  // Counting sort by tile; pairs come in depth order, so every tile's list does too.
  std::memset(tile_offsets, 0, sizeof(int64_t) * (tiles + 1));
  const int64_t pairs = visible ? pair_offsets[visible] : 0;
  for (int64_t p = 0; p < pairs; ++p) ++tile_offsets[pair_tiles[p] + 1];
  for (int64_t t = 0; t < tiles; ++t) tile_offsets[t + 1] += tile_offsets[t];
  for (int64_t v = 0; v < visible; ++v)
    for (int64_t p = pair_offsets[v]; p < pair_offsets[v + 1]; ++p) {
      const int64_t at = tile_offsets[pair_tiles[p]]++;
      tile_ids[at] = order[v], tile_pairs[at] = static_cast<int32_t>(p);
    }
  for (int64_t t = tiles; t > 0; --t) tile_offsets[t] = tile_offsets[t - 1];  // undo the advance
  tile_offsets[0] = 0;
}

}  // namespace fit3d
