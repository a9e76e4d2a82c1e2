// The CPU drivers behind module.cpp. Plain pointers and sizes; all memory belongs to the caller.
#pragma once

#include <cstdint>

namespace fit3d {

// --- project.cpp -------------------------------------------------------------------------------
struct ProjectIn {
  int64_t count;
  const float *means, *quats, *scales, *opacities;  // [N,3] [N,4] [N,3] [N]
  const float *viewmat, *K;                         // [4,4] [3,3]
  int width, height;
  float near_plane, far_plane, eps2d;
};
void project_forward(const ProjectIn& in, float* means2d, float* conics, float* depths,
                     int32_t* radii, int threads);
void project_backward(const ProjectIn& in, const int32_t* radii, const float* v_means2d,
                      const float* v_conics, const float* v_depths, float* v_means, float* v_quats,
                      float* v_scales, int threads);
void harmonics_forward(int64_t count, int degree, int bases, const float* means, const float* center,
                       const float* sh, const int32_t* radii, float* colors, int threads);
void harmonics_backward(int64_t count, int degree, int bases, const float* means,
                        const float* center, const int32_t* radii, const float* v_colors,
                        float* v_sh, int threads);

// --- bin.cpp -----------------------------------------------------------------------------------
// Ids of the visible Gaussians by (depth, id) into order[N]; scratch is [4, N]. Returns how many.
int64_t depth_order(int64_t count, const float* depths, const int32_t* radii, uint32_t* scratch,
                    int32_t* order);
// Packs the visible splats and counts their tiles. Returns the number of (Gaussian, tile) pairs.
int64_t bin_count(int64_t visible, const int32_t* order, const float* means2d, const float* conics,
                  const float* opacities, int width, int height, float* splats,
                  int64_t* pair_offsets, int threads);
// Pairs are numbered Gaussian by Gaussian in depth order; the tiles' lists refer to them.
void bin_fill(int64_t visible, const int32_t* order, const float* splats,
              const int64_t* pair_offsets, int width, int height, int32_t* pair_tiles,
              int64_t* tile_offsets, int32_t* tile_ids, int32_t* tile_pairs, int threads);

// --- blend_*.cpp: one table per instruction set ------------------------------------------------
struct Lists {  // what bin made
  int width, height;
  const float* splats;          // [N, 16]
  const int64_t* tile_offsets;  // [T + 1]
  const int32_t* tile_ids;      // [E] Gaussian of each list item
  const int32_t* tile_pairs;    // [E] pair of each list item
};
struct Weights {                 // the matrix W, kernels/README.md "layout of W"
  const int64_t* group_offsets;  // [32 T]
  const int32_t* group_counts;   // [32 T]
  const int32_t* slots;          // [M] position in the tile's list
  const float* weights;          // [M, 8]
};
struct BlendOps {
  void (*weights_count)(const Lists&, uint32_t* masks, int64_t* tile_sizes, int threads);
  void (*weights_fill)(const Lists&, const uint32_t* masks, const int64_t* entry_offsets,
                       int64_t* group_offsets, int32_t* group_counts, int32_t* slots,
                       float* weights, float* transmittance, int threads);
  // scratch: [threads, longest tile list, 8]
  void (*apply)(const Lists&, const Weights&, int64_t dim, const float* values, float* out,
                float* scratch, int64_t scratch_stride, int threads);
  // Channels [first, first + width) of g, summed per pair into partials[E, width]; width <= 64.
  void (*apply_t)(const Lists&, const Weights&, int64_t dim, int64_t first, int width,
                  const float* maps, float* partials, float* scratch, int64_t scratch_stride,
                  int threads);
  // partials[E, 8 or 16]: six moments of v_sigma, then (16 wide only) v_values;
  // scratch [threads, 32 longest list + 8 dim]
  void (*blend_backward)(const Lists&, const Weights&, int64_t dim, const float* values,
                         const float* v_out, const float* v_alphas, const float* transmittance,
                         float* partials, bool with_values, float* scratch,
                         int64_t scratch_stride, int threads);
  // out[r] = (add ? out[r] : 0) + sum over the row's items of vals * x[cols]
  void (*csr_apply)(int64_t rows, const int64_t* offsets, const int32_t* cols, const float* vals,
                    int64_t dim, const float* x, bool add, float* out, int threads);
  const char* name;
};
const BlendOps& blend_ops();            // the best table that this processor runs
void use_baseline(bool baseline);       // for tests: force the portable table
bool has_avx2();

// --- reduce.cpp --------------------------------------------------------------------------------
// out[id, first : first + width] = sum of the pairs' rows, in pair order.
void reduce_pairs(int64_t visible, const int32_t* order, const int64_t* pair_offsets, int width,
                  int row, const float* partials, int64_t dim, int64_t first, float* out,
                  int threads);
// Moments to gradients of the splat; opacities only through splats.
void reduce_moments(int64_t visible, const int32_t* order, const int64_t* pair_offsets, int row,
                    const float* partials, const float* splats, float* v_means2d, float* v_conics,
                    float* v_opacities, int threads);

// --- pool.cpp ----------------------------------------------------------------------------------
struct Grid { int h, w; bool tent; };
void pool_count(const Lists&, const Weights&, Grid, int64_t count, int32_t* stamps,
                int64_t* row_sizes, int threads);
void pool_fill(const Lists&, const Weights&, Grid, int64_t count, float* sums, int32_t* stamps,
               const int64_t* row_offsets, int32_t* cols, float* vals, int threads);
void csr_transpose(int64_t rows, int64_t columns, const int64_t* offsets, const int32_t* cols,
                   const float* vals, int64_t* t_offsets, int32_t* t_rows, float* t_vals);

// --- ssim.cpp ----------------------------------------------------------------------------------
// row_sums[H] = sum over a row of weights[H, W] * SSIM(x, y)[H, W, C]; v_x[H, W, C] = gradient of
// their total, or null. taps[11]; scratch[8 H W C + 5 threads W C].
void ssim(int64_t height, int64_t width, int64_t channels, const float* x, const float* y,
          const float* weights, const float* taps, float* scratch, double* row_sums, float* v_x,
          int threads);

}  // namespace fit3d
