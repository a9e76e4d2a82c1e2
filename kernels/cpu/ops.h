// The CPU drivers behind module.cpp. Plain pointers and sizes; all memory belongs to the caller.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fit3d {

// --- memory.cpp --------------------------------------------------------------------------------
void prefer_huge_pages(void* data, size_t bytes);
void clear(float* data, int64_t count, int threads);

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

// --- blend_*.cpp: one table per instruction set ------------------------------------------------
struct TokenMap;                // tokens.h
constexpr int kMostTokens = 16;  // of one tile that token_pieces can serve
constexpr int64_t kBinParts = 16;  // ranges of Gaussians that are sorted by tile independently
struct Lists {  // what bin made
  int width, height;
  const float* splats;          // [N, 16]
  const int64_t* tile_offsets;  // [T + 1]
  const int32_t* tile_counts;   // [T] items in use, from the list's beginning
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
  // Packs the visible splats and counts their tiles: pair_offsets[V + 1].
  void (*bin_count)(int64_t visible, const int32_t* order, const float* means2d,
                    const float* conics, const float* opacities, int width, int height,
                    float* splats, int64_t* pair_offsets, int threads);
  // Pairs are numbered Gaussian by Gaussian in depth order; the tiles' lists refer to them.
  // pair_tiles and pair_masks [E], histograms [kBinParts, T] are scratch; masks [E] says which
  // groups an item may touch, entry_offsets [T + 1] how many entries there are at most.
  void (*bin_fill)(int64_t visible, const int32_t* order, const float* splats,
                   const int64_t* pair_offsets, int width, int height, int32_t* pair_tiles,
                   uint32_t* pair_masks, int32_t* histograms, int64_t* tile_offsets,
                   int32_t* tile_counts, int32_t* tile_ids, int32_t* tile_pairs, uint32_t* masks,
                   int64_t* entry_offsets, int threads);
  // Shortens the lists to the items that some pixel uses; pair_used[E] says which pairs these are.
  // scratch: [threads, 10 longest tile list + 32]
  void (*weights_fill)(const Lists&, const uint32_t* masks, const int64_t* entry_offsets,
                       int32_t* tile_counts, int32_t* tile_ids, int32_t* tile_pairs,
                       uint8_t* pair_used, int64_t* group_offsets, int32_t* group_counts,
                       int32_t* slots, float* weights, float* transmittance, float* scratch,
                       int64_t scratch_stride, int threads);
  // What each tile adds to each of its `most` or fewer tokens, straight from the alphas: piece_ids
  // and piece_sums [E, most] from item tile_offsets[t] most on, token by token, piece_counts[T, most]
  // long. scratch: [threads, (8 most + 9) (longest tile list + 7) + 32]
  void (*token_pieces)(const Lists&, const uint32_t* masks, const TokenMap&, int most,
                       int32_t* piece_counts, int32_t* piece_ids, float* piece_sums,
                       float* scratch, int64_t scratch_stride, int threads);
  // scratch: [threads, longest tile list, 24], here and in apply_t
  void (*apply)(const Lists&, const Weights&, int64_t dim, const float* values, float* out,
                float* scratch, int64_t scratch_stride, int threads);
  // Channels [first, first + width) of g, summed per used pair into partials[E, width].
  void (*apply_t)(const Lists&, const Weights&, int64_t dim, int64_t first, int width,
                  const float* maps, float* partials, float* scratch, int64_t scratch_stride,
                  int threads);
  // The whole product, added to `out` as the tiles come: the last bits vary from run to run.
  void (*apply_t_unordered)(const Lists&, const Weights&, int64_t dim, const float* maps,
                            float* out, float* scratch, int64_t scratch_stride, int threads);
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

// --- reduce.cpp --------------------------------------------------------------------------------
// out[id, first : first + width] = sum of the used pairs' rows, in pair order.
void reduce_pairs(int64_t visible, const int32_t* order, const int64_t* pair_offsets,
                  const uint8_t* pair_used, int width, int row, const float* partials,
                  int64_t dim, int64_t first, float* out, int threads);
// Moments to gradients of the splat; opacities only through splats.
void reduce_moments(int64_t visible, const int32_t* order, const int64_t* pair_offsets,
                    const uint8_t* pair_used, int row, const float* partials,
                    const float* splats, float* v_means2d, float* v_conics, float* v_opacities,
                    int threads);

// --- pool.cpp ----------------------------------------------------------------------------------
struct Grid { int h, w; bool tent; };
void pool_count(const Lists&, const Weights&, Grid, int64_t count, int32_t* stamps,
                int64_t* row_sizes, int threads);
void pool_fill(const Lists&, const Weights&, Grid, int64_t count, float* sums, int32_t* stamps,
               const int64_t* row_offsets, int32_t* cols, float* vals, int threads);
// The same matrix without W, in three steps. token_pieces returns the most tokens that a tile has,
// and does nothing else where that is more than kMostTokens or the pieces' room; row_bounds
// [h w + 1] are where a row's pieces may be collected. token_merge sorts and sums them into
// merged[:, 0] (16-byte rows of scratch: id and sum), token_pack copies the rows together.
int most_tokens(int width, int height, Grid);
int64_t token_pieces(const Lists&, const uint32_t* masks, Grid, int most, int32_t* piece_counts,
                     int32_t* piece_ids, float* piece_sums, int64_t* row_bounds, float* scratch,
                     int64_t scratch_stride, int threads);
void token_merge(const Lists&, Grid, int most, const int32_t* piece_counts,
                 const int32_t* piece_ids, const float* piece_sums, const int64_t* row_bounds,
                 int64_t count, uint64_t* merged, int64_t* row_sizes, int threads);
void token_pack(int64_t rows, const int64_t* row_bounds, const int64_t* row_offsets,
                const uint64_t* merged, int32_t* cols, float* vals, int threads);
void csr_transpose(int64_t rows, int64_t columns, const int64_t* offsets, const int32_t* cols,
                   const float* vals, int64_t* t_offsets, int32_t* t_rows, float* t_vals);

// --- ssim.cpp ----------------------------------------------------------------------------------
// row_sums[H] = sum over a row of weights[H, W] * SSIM(x, y)[H, W, C]; v_x[H, W, C] = gradient of
// their total, or null. taps[11]; scratch[8 H W C + 5 threads W C].
void ssim(int64_t height, int64_t width, int64_t channels, const float* x, const float* y,
          const float* weights, const float* taps, float* scratch, double* row_sums, float* v_x,
          int threads);

}  // namespace fit3d
