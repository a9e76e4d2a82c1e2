// Sums of the per-pair partial results, per Gaussian, in pair order.
#include <cstring>

#include "fit3d/macros.h"
#include "ops.h"
#include "parallel.h"

namespace fit3d {
namespace {
constexpr int64_t kBlock = 512;  // Gaussians per work item
}

void reduce_pairs(int64_t visible, const int32_t* order, const int64_t* pair_offsets,
                  const uint8_t* pair_used, int width, int row, const float* partials,
                  int64_t dim, int64_t first, float* out, int threads) {
  auto body = [&](int64_t b, int) {
    const int64_t end = (b + 1) * kBlock < visible ? (b + 1) * kBlock : visible;
    for (int64_t v = b * kBlock; v < end; ++v) {
      float* to = out + dim * order[v] + first;
      std::memset(to, 0, sizeof(float) * width);
      for (int64_t p = pair_offsets[v]; p < pair_offsets[v + 1]; ++p)
        if (pair_used[p])
          for (int c = 0; c < width; ++c) to[c] += partials[row * p + c];
    }
  };
  parallel_for(threads, (visible + kBlock - 1) / kBlock, body);
}

void reduce_moments(int64_t visible, const int32_t* order, const int64_t* pair_offsets,
                    const uint8_t* pair_used, int row, const float* partials,
                    const float* splats, float* v_means2d, float* v_conics, float* v_opacities,
                    int threads) {
  auto body = [&](int64_t b, int) {
    const int64_t end = (b + 1) * kBlock < visible ? (b + 1) * kBlock : visible;
    for (int64_t v = b * kBlock; v < end; ++v) {
      float m[6] = {0};  // sums of v_sigma times 1, dx, dy, dx^2, dx dy, dy^2
      for (int64_t p = pair_offsets[v]; p < pair_offsets[v + 1]; ++p)
        if (pair_used[p])
          for (int c = 0; c < 6; ++c) m[c] += partials[row * p + c];
      const int64_t n = order[v];
      const float* s = splats + kSplat * n;
      v_means2d[2 * n] = 2 * s[2] * m[1] + s[3] * m[2];
      v_means2d[2 * n + 1] = s[3] * m[1] + 2 * s[4] * m[2];
      v_conics[3 * n] = 0.5f * m[3], v_conics[3 * n + 1] = m[4], v_conics[3 * n + 2] = 0.5f * m[5];
      v_opacities[n] = -m[0] / s[5];  // visible splats have opacity >= 1/255
    }
  };
  parallel_for(threads, (visible + kBlock - 1) / kBlock, body);
}

}  // namespace fit3d
