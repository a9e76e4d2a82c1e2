#include "fit3d/project.h"

#include <cstring>

#include "fit3d/harmonics.h"
#include "ops.h"
#include "parallel.h"

namespace fit3d {
namespace {

constexpr int64_t kBlock = 1024;  // Gaussians per work item

template <class Body>
void for_each(int64_t count, int threads, Body body) {
  auto block = [&](int64_t b, int) {
    const int64_t end = (b + 1) * kBlock < count ? (b + 1) * kBlock : count;
    for (int64_t n = b * kBlock; n < end; ++n) body(n);
  };
  parallel_for(threads, (count + kBlock - 1) / kBlock, block);
}

Camera camera_of(const ProjectIn& in) {
  return make_camera(in.viewmat, in.K, in.width, in.height, in.near_plane, in.far_plane, in.eps2d);
}

// True only where extent_of would find that the Gaussian misses the picture, whatever its rotation:
// |T0| <= |(jx, jxz)| max(scale) as R and Rq are rotations, and likewise T1. Spares most of the work
// for the many Gaussians beside the view. False for NaN.
bool beside(const Camera& c, const float* mean, const float* scale, float opacity) {
  const float z = dot3(c.R + 6, mean) + c.t[2];
  if (!(z > c.near_plane && z < c.far_plane)) return true;  // behind, too far or not finite
  if (!(opacity <= 1.0f)) return false;
  const float inv_z = 1.0f / z, jx = c.fx * inv_z, jy = c.fy * inv_z;
  const float x = dot3(c.R, mean) + c.t[0], y = dot3(c.R + 3, mean) + c.t[1];
  const float a = scale[0] * scale[0], b = scale[1] * scale[1], d = scale[2] * scale[2];
  const float largest = a > b ? (a > d ? a : d) : (b > d ? b : d);  // squared
  const auto clamp = [](float u, float low, float high) { return u < low ? low : u > high ? high : u; };
  const float u = clamp(x * inv_z, c.u_min, c.u_max), v = clamp(y * inv_z, c.v_min, c.v_max);
  // 2 ln 255 = 11.083; the rest leaves room for rounding and for rounding up to whole pixels.
  const float rx = 2.0f + 1.01f * sqrtf(11.09f * (jx * jx * (1 + u * u) * largest + c.eps2d));
  const float ry = 2.0f + 1.01f * sqrtf(11.09f * (jy * jy * (1 + v * v) * largest + c.eps2d));
  const float mx = jx * x + c.cx, my = jy * y + c.cy;
  return mx + rx < 0 || mx - rx > c.width || my + ry < 0 || my - ry > c.height;
}

bool direction(const float* mean, const float* center, float* d) {
  for (int i = 0; i < 3; ++i) d[i] = mean[i] - center[i];
  const float norm = sqrtf(dot3(d, d));
  if (!(norm > 0) || !std::isfinite(norm)) return false;
  for (int i = 0; i < 3; ++i) d[i] /= norm;
  return true;
}

}  // namespace

void project_forward(const ProjectIn& in, float* means2d, float* conics, float* depths,
                     int32_t* radii, int threads) {
  const Camera camera = camera_of(in);
  for_each(in.count, threads, [&](int64_t n) {
    Projection p;
    float *m = means2d + 2 * n, *q = conics + 3 * n;
    int32_t* r = radii + 2 * n;
    if (!beside(camera, in.means + 3 * n, in.scales + 3 * n, in.opacities[n]) &&
        project_one(camera, in.means + 3 * n, in.quats + 4 * n, in.scales + 3 * n, &p) &&
        extent_of(camera, p, in.opacities[n], r)) {
      m[0] = p.mx, m[1] = p.my, q[0] = p.A, q[1] = p.B, q[2] = p.C, depths[n] = p.p[2];
    } else {
      m[0] = m[1] = q[0] = q[1] = q[2] = depths[n] = 0.0f, r[0] = r[1] = 0;
    }
  });
}

void project_backward(const ProjectIn& in, const int32_t* radii, const float* v_means2d,
                      const float* v_conics, const float* v_depths, float* v_means, float* v_quats,
                      float* v_scales, int threads) {
  const Camera camera = camera_of(in);
  for_each(in.count, threads, [&](int64_t n) {
    float *vm = v_means + 3 * n, *vq = v_quats + 4 * n, *vs = v_scales + 3 * n;
    const float* scale = in.scales + 3 * n;
    Projection p;
    if (radii[2 * n] > 0 && project_one(camera, in.means + 3 * n, in.quats + 4 * n, scale, &p)) {
      project_one_adjoint(camera, p, scale, v_means2d + 2 * n, v_conics + 3 * n, v_depths[n], vm,
                          vq, vs);
    } else {
      std::memset(vm, 0, 12), std::memset(vq, 0, 16), std::memset(vs, 0, 12);
    }
  });
}

void harmonics_forward(int64_t count, int degree, int bases, const float* means, const float* center,
                       const float* sh, const int32_t* radii, float* colors, int threads) {
  const int used = (degree + 1) * (degree + 1);
  for_each(count, threads, [&](int64_t n) {
    float b[16], d[3];
    float* color = colors + 3 * n;
    color[0] = color[1] = color[2] = 0.0f;
    if (radii[2 * n] <= 0 || !direction(means + 3 * n, center, d)) return;
    harmonic_bases(degree, d[0], d[1], d[2], b);
    const float* coefficients = sh + static_cast<int64_t>(3) * bases * n;
    for (int k = 0; k < used; ++k)
      for (int c = 0; c < 3; ++c) color[c] += b[k] * coefficients[3 * k + c];
  });
}

void harmonics_backward(int64_t count, int degree, int bases, const float* means,
                        const float* center, const int32_t* radii, const float* v_colors,
                        float* v_sh, int threads) {
  const int used = (degree + 1) * (degree + 1);
  for_each(count, threads, [&](int64_t n) {
    float b[16], d[3];
    float* v = v_sh + static_cast<int64_t>(3) * bases * n;
    std::memset(v, 0, sizeof(float) * 3 * bases);
    if (radii[2 * n] <= 0 || !direction(means + 3 * n, center, d)) return;
    harmonic_bases(degree, d[0], d[1], d[2], b);
    for (int k = 0; k < used; ++k)
      for (int c = 0; c < 3; ++c) v[3 * k + c] = b[k] * v_colors[3 * n + c];
  });
}

}  // namespace fit3d
