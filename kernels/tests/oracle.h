// What is correct, in double precision and without tiles: the formulas of kernels/README.md, with a
// bound of the error that float32 may make and the pixels where a threshold could go either way.
#pragma once

#include <cstdint>
#include <vector>

#include "scene.h"

namespace fit3d {
namespace tests {

struct Splats {  // what projection yields; radii 0 = culled
  std::vector<float> means2d, conics, depths;
  std::vector<int32_t> radii;
};

struct Flat {  // one Gaussian, projected
  bool seen, clamped;  // the Jacobian's u or v is clamped
  double out[6];       // mean2d, conic, depth
  double xx, yy;       // diagonal of the 2D covariance
  double roundness;    // 1 - correlation^2: small for needles, which float32 knows badly
};
Flat project_one_exactly(const Scene& s, const double* mean, const double* quat, const double* scale);

// Projection in double, rounded to float: the same bits on every platform.
Splats project_exactly(const Scene& s);

struct Layer {  // one Gaussian on one pixel, in front-to-back order
  int64_t id;
  double w, alpha, raw, dx, dy;  // weight, clamped alpha, alpha before the clamp, mean2d - pixel
  double error;                  // relative error that float32 may make in w
};

struct Truth {
  std::vector<std::vector<Layer>> pixels;  // [H W]
  std::vector<double> left;                // [H W] transmittance
  std::vector<uint8_t> safe;    // no threshold within reach of rounding: values can be compared
  std::vector<uint8_t> smooth;  // moreover off the clamp and well conditioned: gradients as well
};
Truth blend_exactly(const Scene& s, const Splats& splats);

struct Gradients {  // value and the sum of the absolute terms it is made of
  std::vector<double> means2d, conics, opacities, values;
  std::vector<double> abs_means2d, abs_conics, abs_opacities, abs_values;
};
Gradients adjoint_exactly(const Scene& s, const Splats& splats, const Truth& truth,
                          const std::vector<float>& v_out, const std::vector<float>& v_alphas);

}  // namespace tests
}  // namespace fit3d
