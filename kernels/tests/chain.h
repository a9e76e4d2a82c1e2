// The whole chain of operations on one scene, with the memory that its Python callers give it and
// not a byte more: every buffer is a heap block of its own, so that a sanitizer sees any overrun.
#pragma once

#include <string>
#include <vector>

#include "oracle.h"
#include "scene.h"

namespace fit3d {
namespace tests {

struct Projection3 {  // project and harmonics, forward
  Splats splats;
  std::vector<float> colors;  // [N, 3]
};
Projection3 run_project(const Scene& s, int threads);

struct Upstream {
  std::vector<float> v_out, v_alphas;  // [H, W, D] [H, W]
  std::vector<float> tokens;           // [h, w, D] for the pooled adjoint
};

struct Blended {
  std::vector<int32_t> order;        // [V]
  std::vector<int64_t> pair_offsets, tile_offsets;
  std::vector<int32_t> tile_counts;  // [T] items of each list that some pixel uses
  std::vector<int32_t> tile_ids, tile_pairs;
  std::vector<uint8_t> pair_used;
  std::vector<float> dense;          // [H W, N] W itself
  std::vector<float> transmittance;  // [H, W]
  std::vector<float> out, adjoint;   // W values [H, W, D]; W^t v_out [N, D]
  std::vector<float> unordered;      // W^t v_out in whatever order; not compared between runs
  std::vector<float> v_means2d, v_conics, v_opacities, v_values;
  std::vector<int64_t> row_offsets, t_offsets;  // pooled W by tokens and by Gaussians
  std::vector<int32_t> cols, t_rows;
  std::vector<float> vals, t_vals;
  bool direct = false;  // pooled without W as well, which these are
  std::vector<int64_t> direct_offsets;
  std::vector<int32_t> direct_cols;
  std::vector<float> direct_vals;
  std::vector<float> pooled, pooled_adjoint;  // A values [h, w, D]; A^t tokens [N, D], added to 1
};
Blended run_blend(const Scene& s, const Splats& splats, const Upstream& up, int threads);

struct Upstream3 {  // gradients of what projection and harmonics yield
  std::vector<float> means2d, conics, depths, colors;
};
struct Leaves {  // gradients of the 3D parameters
  std::vector<float> v_means, v_quats, v_scales, v_sh;
};
Leaves run_project_backward(const Scene& s, const Splats& splats, const Upstream3& up, int threads);

struct Similarity {
  std::vector<double> row_sums;
  std::vector<float> gradient;
};
Similarity run_ssim(const Scene& s, const std::vector<float>& x, const std::vector<float>& y, int threads);

// The bytes of everything above, to be compared between runs.
std::string bytes_of(const Projection3& p);
std::string bytes_of(const Blended& b);
std::string bytes_of(const Leaves& l);
std::string bytes_of(const Similarity& s);

}  // namespace tests
}  // namespace fit3d
