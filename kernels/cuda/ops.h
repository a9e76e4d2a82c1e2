// The CUDA drivers behind module_cuda.cpp. Device pointers (unless marked host) and sizes; all memory
// belongs to the caller. Every function works on the given stream and throws CudaError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace fit3d {
namespace cuda {

using Stream = void*;  // cudaStream_t

constexpr int kSubtileWidth = 8;
constexpr int kSubtileHeight = 4;
constexpr int kSubtiles = 8;  // per tile of 16 x 16 pixels
constexpr int kWarp = 32;

struct CudaError : std::runtime_error {
  CudaError(int code_, const std::string& what) : std::runtime_error(what), code(code_) {}
  int code;  // cudaError_t
};

struct ProjectIn {
  int64_t count;
  const float *means, *quats, *scales, *opacities;  // [N,3] [N,4] [N,3] [N]
  const float *viewmat, *K;                         // host: [4,4] [3,3]
  int width, height;
  float near_plane, far_plane, eps2d;
};

// --- project.cu --------------------------------------------------------------------------------
void project_forward(const ProjectIn& in, float* means2d, float* conics, float* depths,
                     int32_t* radii, Stream stream);
void project_backward(const ProjectIn& in, const int32_t* radii, const float* v_means2d,
                      const float* v_conics, const float* v_depths, float* v_means, float* v_quats,
                      float* v_scales, Stream stream);
// center: host [3]
void harmonics_forward(int64_t count, int degree, int bases, const float* means, const float* center,
                       const float* sh, const int32_t* radii, float* colors, Stream stream);
void harmonics_backward(int64_t count, int degree, int bases, const float* means,
                        const float* center, const int32_t* radii, const float* v_colors,
                        float* v_sh, Stream stream);

// --- bin.cu ------------------------------------------------------------------------------------
// Functions that return a count wait for the stream.
size_t depth_order_bytes(int64_t count);  // scratch that depth_order needs
// Ids of the visible Gaussians by (depth, id) into order[N]. Returns how many.
int64_t depth_order(int64_t count, const float* depths, const int32_t* radii, void* scratch,
                    size_t scratch_bytes, int32_t* order, Stream stream);
size_t bin_count_bytes(int64_t visible);
// Packs the visible splats into splats[N,16]; pair_offsets[V+1]. Returns the number of pairs.
int64_t bin_count(int64_t visible, const int32_t* order, const float* means2d, const float* conics,
                  const float* opacities, int width, int height, float* splats,
                  int64_t* pair_offsets, void* scratch, size_t scratch_bytes, Stream stream);
size_t bin_fill_bytes(int64_t pairs);
// pairs < 2^28. tile_offsets[T+1], ids[E], pair_numbers[E] with E = pairs.
void bin_fill(int64_t visible, int64_t pairs, const int32_t* order, const float* splats,
              const int64_t* pair_offsets, int width, int height, int32_t* tile_offsets,
              int32_t* ids, int32_t* pair_numbers, void* scratch, size_t scratch_bytes,
              Stream stream);

// --- weights.cu --------------------------------------------------------------------------------
struct Lists {  // what bin made
  int width, height;
  int64_t items;                // E
  const float* splats;          // [N, 16]
  const int32_t* tile_offsets;  // [T + 1]
  const int32_t* ids;           // [E]
  const int32_t* pairs;         // [E]
};
struct Weights {                // the matrix W, README.md "layout"; 16-byte aligned
  const uint16_t* masks;        // [E]
  const int32_t* offsets;       // [E + 1]
  const float* weights;         // [M, 32]
};
size_t weights_count_bytes(int64_t items);
// Masks and entry offsets. Returns M: every entry has a non-zero weight, so low and high bits are equal.
int64_t weights_count(const Lists& lists, uint16_t* masks, int32_t* offsets, void* scratch,
                      size_t scratch_bytes, Stream stream);
// Writes all of weights[M,32] and transmittance[H,W].
void weights_fill(const Lists& lists, const uint16_t* masks, const int32_t* offsets, float* weights,
                  float* transmittance, Stream stream);

// --- apply.cu, apply_t.cu ----------------------------------------------------------------------
enum class Math { kFloat32, kTensor };  // tensor: tf32 products, fp32 sums; needs sm_80
// out[H * W, D] = W values[N, D]; every element is written.
void apply(const Lists& lists, const Weights& weights, int64_t dim, const float* values, float* out,
           Math math, Stream stream);
// rows[E, D]: per pair, channels [first, first + width) of W^T maps[H * W, D]; width <= 64, row stride = width.
void apply_t_rows(const Lists& lists, const Weights& weights, int64_t dim, int64_t first, int width,
                  const float* maps, float* rows, Math math, Stream stream);
// The same, added to out[N, D] (zeroed by the caller) atomically.
void apply_t_atomic(const Lists& lists, const Weights& weights, int64_t dim, const float* maps,
                    float* out, Math math, Stream stream);
// out[order[v], first : first + width] = sum of the pairs' rows, in pair order.
void reduce_pairs(int64_t visible, const int32_t* order, const int64_t* pair_offsets, int width,
                  const float* rows, int64_t dim, int64_t first, float* out, Stream stream);

// --- backward.cu -------------------------------------------------------------------------------
// moments[E, 8], 16-byte aligned: per pair the six moments of v_sigma (kernels/README.md "blend
// adjoint"), two zeros.
void blend_moments(const Lists& lists, const Weights& weights, int64_t dim, const float* values,
                   const float* v_out, const float* v_alphas, const float* transmittance,
                   float* moments, Stream stream);
// Moments to gradients of the splats, for the visible Gaussians only.
void reduce_moments(int64_t visible, const int32_t* order, const int64_t* pair_offsets,
                    const float* moments, const float* splats, float* v_means2d, float* v_conics,
                    float* v_opacities, Stream stream);

// --- pool.cu -----------------------------------------------------------------------------------
struct Grid { int h, w; bool tent; };
size_t pool_count_bytes(int64_t items);
// counts[E + 1]: exclusive scan of the non-zero (item, token) sums. Returns their number C.
int64_t pool_count(const Lists& lists, const Weights& weights, Grid grid, int64_t* counts,
                   void* scratch, size_t scratch_bytes, Stream stream);
size_t pool_fill_bytes(int64_t entries);
// row_offsets[h w + 1], cols[C], vals[C], columns ascending in a row; duplicates (one Gaussian in
// several tiles under one token) are merged in a fixed order. Returns the number of entries kept.
int64_t pool_fill(const Lists& lists, const Weights& weights, Grid grid, int64_t entries,
                  const int64_t* counts, int64_t* row_offsets, int32_t* cols, float* vals,
                  void* scratch, size_t scratch_bytes, Stream stream);
// out[r] = (add ? out[r] : 0) + sum over the row's items of vals * x[cols]
void csr_apply(int64_t rows, const int64_t* offsets, const int32_t* cols, const float* vals,
               int64_t dim, const float* x, bool add, float* out, Stream stream);
size_t csr_transpose_bytes(int64_t rows, int64_t columns, int64_t entries);
void csr_transpose(int64_t rows, int64_t columns, int64_t entries, const int64_t* offsets,
                   const int32_t* cols, const float* vals, int64_t* t_offsets, int32_t* t_rows,
                   float* t_vals, void* scratch, size_t scratch_bytes, Stream stream);

// --- device.cu ---------------------------------------------------------------------------------
struct DeviceInfo {
  std::string name;
  int major, minor, driver, runtime;  // compute capability; CUDA versions as 1000 major + 10 minor
  size_t free_bytes, total_bytes;
  bool runs;  // this build holds code that the device can execute
};
int device_count();  // 0 where there is no driver
DeviceInfo device_info(int device);

}  // namespace cuda
}  // namespace fit3d
