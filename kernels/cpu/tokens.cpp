// Rows of the pooled matrix from the pieces that the tiles made (tokens.inc).
#include "tokens.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "fit3d/pool.h"
#include "ops.h"
#include "parallel.h"

namespace fit3d {
namespace {

// A pixel counts for at most two tokens of an axis, neighbours.
struct AxisTable {
  std::vector<int32_t> first;
  std::vector<float> weights;

  AxisTable(int tokens, int pixels, bool tent) : first(pixels, -1), weights(2 * pixels, 0.0f) {
    for (int token = 0; token < tokens; ++token) {
      const Axis axis = make_axis(token, tokens, pixels, tent);
      for (int p = axis.begin; p < axis.end; ++p) {
        const float weight = axis_at(axis, p);
        if (!(weight > 0.0f)) continue;
        if (first[p] < 0) first[p] = token;
        weights[2 * p + (token - first[p])] = weight;
      }
    }
  }
  TokenAxis view() const { return {first.data(), weights.data()}; }
};

struct Tables {
  AxisTable x, y;
  TokenMap map;
  Tables(int width, int height, Grid grid)
      : x(grid.w, width, grid.tent), y(grid.h, height, grid.tent), map{width, height, x.view(), y.view()} {}
};

// visit(first piece item, their number) for each tile that adds to the token, in tile order.
template <class Visit>
void visit_pieces(const Lists& s, const TokenMap& map, const Axis& ax, const Axis& ay, int most,
                  const int32_t* piece_counts, Visit visit) {
  const int columns = tile_count(s.width);
  for (int ty = ay.begin / kTile; ty <= (ay.end - 1) / kTile; ++ty)
    for (int tx = ax.begin / kTile; tx <= (ax.end - 1) / kTile; ++tx) {
      const TileTokens local = tile_tokens(map, tx * kTile, ty * kTile);
      const int c = ax.token - local.column, r = ay.token - local.row;
      if (c < 0 || c >= local.columns || r < 0 || r >= local.rows) continue;  // only zeros there
      const int64_t tile = static_cast<int64_t>(ty) * columns + tx;
      const int32_t* counts = piece_counts + tile * most;
      int64_t at = s.tile_offsets[tile] * most;
      const int k = r * local.columns + c;
      for (int before = 0; before < k; ++before) at += counts[before];
      visit(at, counts[k]);
    }
}

// Stable, by the upper half of the items, whose keys lie below `count`: eight bits at a time.
// Returns where the result is, items or other.
uint64_t* radix_sort(uint64_t* items, uint64_t* other, int64_t size, int64_t count) {
  for (int shift = 0; size > 1 && (count - 1) >> shift; shift += 8) {
    int32_t next[256] = {};
    for (int64_t i = 0; i < size; ++i) ++next[items[i] >> (32 + shift) & 255];
    int32_t at = 0;
    for (int32_t& bucket : next) {
      const int32_t n = bucket;
      bucket = at, at += n;
    }
    for (int64_t i = 0; i < size; ++i) other[next[items[i] >> (32 + shift) & 255]++] = items[i];
    std::swap(items, other);
  }
  return items;
}

float low_float(uint64_t item) {
  const uint32_t word = static_cast<uint32_t>(item);
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
uint64_t packed(uint64_t key, float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  return key << 32 | word;
}

}  // namespace

int most_tokens(int width, int height, Grid grid) {
  const Tables tables(width, height, grid);
  int columns = 0, rows = 0;
  for (int x = 0; x < width; x += kTile) columns = std::max(columns, tile_tokens(tables.map, x, 0).columns);
  for (int y = 0; y < height; y += kTile) rows = std::max(rows, tile_tokens(tables.map, 0, y).rows);
  return columns * rows;
}

int64_t token_pieces(const Lists& s, const uint32_t* masks, Grid grid, int most,
                     int32_t* piece_counts, int32_t* piece_ids, float* piece_sums,
                     int64_t* row_bounds, float* scratch, int64_t scratch_stride, int threads) {
  const Tables tables(s.width, s.height, grid);
  blend_ops().token_pieces(s, masks, tables.map, most, piece_counts, piece_ids, piece_sums, scratch,
                           scratch_stride, threads);
  int64_t bound = 0;
  for (int r = 0; r < grid.h; ++r) {
    const Axis ay = make_axis(r, grid.h, s.height, grid.tent);
    for (int c = 0; c < grid.w; ++c) {
      row_bounds[r * grid.w + c] = bound;
      visit_pieces(s, tables.map, make_axis(c, grid.w, s.width, grid.tent), ay, most, piece_counts,
                   [&](int64_t, int32_t size) { bound += size; });
    }
  }
  return row_bounds[grid.h * grid.w] = bound;
}

void token_merge(const Lists& s, Grid grid, int most, const int32_t* piece_counts,
                 const int32_t* piece_ids, const float* piece_sums, const int64_t* row_bounds,
                 int64_t count, uint64_t* merged, int64_t* row_sizes, int threads) {
  const Tables tables(s.width, s.height, grid);
  const int64_t rows = static_cast<int64_t>(grid.h) * grid.w, total = row_bounds[rows];
  auto body = [&](int64_t t, int) {
    uint64_t* const row = merged + row_bounds[t];
    uint64_t* end = row;
    visit_pieces(s, tables.map, make_axis(static_cast<int>(t % grid.w), grid.w, s.width, grid.tent),
                 make_axis(static_cast<int>(t / grid.w), grid.h, s.height, grid.tent), most, piece_counts,
                 [&](int64_t at, int32_t size) {
                   for (int64_t i = at; i < at + size; ++i)
                     *end++ = packed(static_cast<uint64_t>(piece_ids[i]), piece_sums[i]);
                 });
    const uint64_t* sorted = radix_sort(row, merged + total + row_bounds[t], end - row, count);
    uint64_t* to = row;  // never ahead of what is read
    for (int64_t i = 0, size = end - row; i < size;) {
      const uint64_t key = sorted[i] >> 32;
      float sum = low_float(sorted[i]);
      for (++i; i < size && sorted[i] >> 32 == key; ++i) sum += low_float(sorted[i]);
      *to++ = packed(key, sum);
    }
    row_sizes[t] = to - row;
  };
  parallel_for(threads, rows, body);
}

void token_pack(int64_t rows, const int64_t* row_bounds, const int64_t* row_offsets,
                const uint64_t* merged, int32_t* cols, float* vals, int threads) {
  auto body = [&](int64_t r, int) {
    const uint64_t* from = merged + row_bounds[r];
    for (int64_t i = row_offsets[r]; i < row_offsets[r + 1]; ++i, ++from)
      cols[i] = static_cast<int32_t>(*from >> 32), vals[i] = low_float(*from);
  };
  parallel_for(threads, rows, body);
}

}  // namespace fit3d
