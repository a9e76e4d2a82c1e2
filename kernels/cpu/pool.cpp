// Pooling W onto a token grid: A = kernel x W, one row per token (kernels/README.md, "pool").
#include <algorithm>
#include <cstring>

#include "fit3d/macros.h"
#include "fit3d/pool.h"
#include "ops.h"
#include "parallel.h"

namespace fit3d {
namespace {

// visit(Gaussian, weight) for every entry of W under the token, in a fixed order.
template <class Visit>
void visit_token(const Lists& s, const Weights& w, const Axis& ax, const Axis& ay, Visit visit) {
  const int columns = tile_count(s.width);
  for (int ty = ay.begin / kTile; ty <= (ay.end - 1) / kTile; ++ty)
    for (int tx = ax.begin / kTile; tx <= (ax.end - 1) / kTile; ++tx) {
      const int64_t tile = static_cast<int64_t>(ty) * columns + tx;
      const int32_t* ids = s.tile_ids + s.tile_offsets[tile];
      for (int g = 0; g < kGroupsPerTile; ++g) {
        const int x = tx * kTile + g / kGroupRows * kGroupWidth;
        const int y = ty * kTile + g % kGroupRows * kGroupHeight;
        if (x >= ax.end || x + kGroupWidth <= ax.begin || y >= ay.end || y + kGroupHeight <= ay.begin)
          continue;
        float k[kLanes];
        for (int i = 0; i < kLanes; ++i) k[i] = axis_at(ax, x + i % kGroupWidth) * axis_at(ay, y + i / kGroupWidth);
        const int64_t at = w.group_offsets[tile * kGroupsPerTile + g];
        const int count = w.group_counts[tile * kGroupsPerTile + g];
        const float* weight = w.weights + kLanes * at;
        for (int e = 0; e < count; ++e, weight += kLanes) {
          const float sum = ((k[0] * weight[0] + k[1] * weight[1]) + (k[2] * weight[2] + k[3] * weight[3])) +
                            ((k[4] * weight[4] + k[5] * weight[5]) + (k[6] * weight[6] + k[7] * weight[7]));
          if (sum > 0.0f) visit(ids[w.slots[at + e]], sum);
        }
      }
    }
}

}  // namespace

void pool_count(const Lists& s, const Weights& w, Grid grid, int64_t count, int32_t* stamps,
                int64_t* row_sizes, int threads) {
  auto body = [&](int64_t t, int thread) {
    int32_t* stamp = stamps + thread * count;
    int64_t size = 0;
    visit_token(s, w, make_axis(static_cast<int>(t % grid.w), grid.w, s.width, grid.tent),
                make_axis(static_cast<int>(t / grid.w), grid.h, s.height, grid.tent),
                [&](int32_t n, float) {
                  if (stamp[n] != t) stamp[n] = static_cast<int32_t>(t), ++size;
                });
    row_sizes[t] = size;
  };
  parallel_for(threads, static_cast<int64_t>(grid.h) * grid.w, body);
}

void pool_fill(const Lists& s, const Weights& w, Grid grid, int64_t count, float* sums,
               int32_t* stamps, const int64_t* row_offsets, int32_t* cols, float* vals,
               int threads) {
  const int64_t tokens = static_cast<int64_t>(grid.h) * grid.w;
  auto body = [&](int64_t t, int thread) {
    int32_t* stamp = stamps + thread * count;
    float* sum = sums + thread * count;
    const int32_t mark = static_cast<int32_t>(tokens + t);  // differs from every mark of pool_count
    int32_t* const row = cols + row_offsets[t];
    int32_t* end = row;
    visit_token(s, w, make_axis(static_cast<int>(t % grid.w), grid.w, s.width, grid.tent),
                make_axis(static_cast<int>(t / grid.w), grid.h, s.height, grid.tent),
                [&](int32_t n, float value) {
                  if (stamp[n] != mark) stamp[n] = mark, sum[n] = 0.0f, *end++ = n;
                  sum[n] += value;
                });
    std::sort(row, end);
    float* to = vals + row_offsets[t];
    for (const int32_t* col = row; col != end; ++col) *to++ = sum[*col];
  };
  parallel_for(threads, tokens, body);
}

void csr_transpose(int64_t rows, int64_t columns, const int64_t* offsets, const int32_t* cols,
                   const float* vals, int64_t* t_offsets, int32_t* t_rows, float* t_vals) {
  std::memset(t_offsets, 0, sizeof(int64_t) * (columns + 1));
  for (int64_t i = 0; i < offsets[rows]; ++i) ++t_offsets[cols[i] + 1];
  for (int64_t c = 0; c < columns; ++c) t_offsets[c + 1] += t_offsets[c];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
      const int64_t at = t_offsets[cols[i]]++;
      t_rows[at] = static_cast<int32_t>(r), t_vals[at] = vals[i];
    }
  for (int64_t c = columns; c > 0; --c) t_offsets[c] = t_offsets[c - 1];  // undo the advance
  t_offsets[0] = 0;
}

}  // namespace fit3d
