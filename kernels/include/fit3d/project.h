// EWA projection of one Gaussian to the image plane and its adjoint (kernels/README.md, "project").
#pragma once

#include "fit3d/macros.h"

namespace fit3d {

struct Camera {
  float R[9], t[3];  // world to camera, row-major
  float fx, fy, cx, cy;
  float u_min, u_max, v_min, v_max;  // clamp of x/z and y/z inside the Jacobian
  float near_plane, far_plane, eps2d;
  int width, height;
};

// viewmat: row-major 4x4, K: row-major 3x3.
F3D_HD Camera make_camera(const float* viewmat, const float* K, int width, int height,
                          float near_plane, float far_plane, float eps2d) {
  Camera c;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) c.R[3 * i + j] = viewmat[4 * i + j];
    c.t[i] = viewmat[4 * i + 3];
  }
  c.fx = K[0], c.fy = K[4], c.cx = K[2], c.cy = K[5];
  // The linearisation is only trusted within 15 % beyond the picture's border (gsplat).
  const float margin_u = 0.3f * 0.5f * width / c.fx, margin_v = 0.3f * 0.5f * height / c.fy;
  c.u_min = -(c.cx / c.fx + margin_u), c.u_max = (width - c.cx) / c.fx + margin_u;
  c.v_min = -(c.cy / c.fy + margin_v), c.v_max = (height - c.cy) / c.fy + margin_v;
  c.near_plane = near_plane, c.far_plane = far_plane, c.eps2d = eps2d;
  c.width = width, c.height = height;
  return c;
}

F3D_HD float dot3(const float* a, const float* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// Everything that the forward pass computes and the adjoint needs again.
struct Projection {
  float q[4], q_norm;   // unit quaternion wxyz and the length it had
  float Rq[9];          // its rotation matrix
  float M[9];           // Mc = R Rq diag(scale): columns are the axes in camera space
  float p[3];           // centre in camera space
  float u, v;           // clamped x/z, y/z
  bool u_free, v_free;  // not clamped
  float T0[3], T1[3];   // rows of J Mc
  float jx, jy, jxz, jyz;
  float A, B, C;        // conic = inverse of the blurred 2D covariance
  float xx, yy;         // diagonal of that covariance
  float mx, my;
};

// False when the Gaussian has no image: behind, too far, degenerate or not finite.
F3D_HD bool project_one(const Camera& c, const float* mean, const float* quat, const float* scale,
                        Projection* out) {
  Projection& o = *out;
  for (int i = 0; i < 3; ++i) o.p[i] = dot3(c.R + 3 * i, mean) + c.t[i];
  const float z = o.p[2];
  if (!(z > c.near_plane && z < c.far_plane)) return false;  // false for NaN as well
  const float n2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
  o.q_norm = sqrtf(n2);
  if (!(o.q_norm > kQuatNormMin) || !std::isfinite(o.q_norm)) return false;
  const float inv_norm = 1.0f / o.q_norm;
  for (int i = 0; i < 4; ++i) o.q[i] = quat[i] * inv_norm;
  const float w = o.q[0], x = o.q[1], y = o.q[2], k = o.q[3];
  o.Rq[0] = 1 - 2 * (y * y + k * k), o.Rq[1] = 2 * (x * y - w * k), o.Rq[2] = 2 * (x * k + w * y);
  o.Rq[3] = 2 * (x * y + w * k), o.Rq[4] = 1 - 2 * (x * x + k * k), o.Rq[5] = 2 * (y * k - w * x);
  o.Rq[6] = 2 * (x * k - w * y), o.Rq[7] = 2 * (y * k + w * x), o.Rq[8] = 1 - 2 * (x * x + y * y);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      o.M[3 * i + j] = (c.R[3 * i] * o.Rq[j] + c.R[3 * i + 1] * o.Rq[3 + j] +
                        c.R[3 * i + 2] * o.Rq[6 + j]) * scale[j];
  const float inv_z = 1.0f / z;
  const float u = o.p[0] * inv_z, v = o.p[1] * inv_z;
  o.u_free = u >= c.u_min && u <= c.u_max, o.v_free = v >= c.v_min && v <= c.v_max;
  o.u = fminf(fmaxf(u, c.u_min), c.u_max), o.v = fminf(fmaxf(v, c.v_min), c.v_max);
  o.jx = c.fx * inv_z, o.jy = c.fy * inv_z;
  o.jxz = -o.jx * o.u, o.jyz = -o.jy * o.v;
  for (int j = 0; j < 3; ++j) {
    o.T0[j] = o.jx * o.M[j] + o.jxz * o.M[6 + j];
    o.T1[j] = o.jy * o.M[3 + j] + o.jyz * o.M[6 + j];
  }
  const float n0 = dot3(o.T0, o.T0), n1 = dot3(o.T1, o.T1), xy = dot3(o.T0, o.T1);
  o.xx = n0 + c.eps2d, o.yy = n1 + c.eps2d;
  // det(T T^T) = |T0 x T1|^2 (Lagrange): xx yy - xy^2 would cancel for needle-like Gaussians.
  const float c0 = o.T0[1] * o.T1[2] - o.T0[2] * o.T1[1];
  const float c1 = o.T0[2] * o.T1[0] - o.T0[0] * o.T1[2];
  const float c2 = o.T0[0] * o.T1[1] - o.T0[1] * o.T1[0];
  const float det = c0 * c0 + c1 * c1 + c2 * c2 + c.eps2d * (n0 + n1 + c.eps2d);
  if (!(det > 1e-10f)) return false;
  const float inv_det = 1.0f / det;
  o.A = o.yy * inv_det, o.B = -xy * inv_det, o.C = o.xx * inv_det;
  o.mx = o.jx * o.p[0] + c.cx, o.my = o.jy * o.p[1] + c.cy;
  // One sum is finite only if all of its terms are (or they cancel to NaN).
  return std::isfinite(o.mx + o.my + det + o.xx + o.yy + o.B);
}

// Half-extents in pixels of the region with alpha >= 1/255; false if it misses the picture.
F3D_HD bool extent_of(const Camera& c, const Projection& o, float opacity, int32_t radii[2]) {
  if (!(opacity >= kAlphaMin) || !std::isfinite(opacity)) return false;
  const float reach = 2.0f * logf(opacity * 255.0f);  // squared Mahalanobis radius
  const float rx = fminf(fmaxf(ceilf(sqrtf(reach * o.xx)), 1.0f), 1e9f);
  const float ry = fminf(fmaxf(ceilf(sqrtf(reach * o.yy)), 1.0f), 1e9f);
  radii[0] = (int32_t)rx, radii[1] = (int32_t)ry;
  return o.mx + rx > 0 && o.mx - rx < c.width && o.my + ry > 0 && o.my - ry < c.height;
}

// Adjoint of project_one: gradients of the 2D quantities to those of the 3D parameters.
F3D_HD void project_one_adjoint(const Camera& c, const Projection& o, const float* scale,
                                const float v_mean2d[2], const float v_conic[3], float v_depth,
                                float v_mean[3], float v_quat[4], float v_scale[3]) {
  // Q = S^-1  =>  v_S = -Q G Q with G the symmetric gradient of Q.
  const float ga = v_conic[0], gb = 0.5f * v_conic[1], gc = v_conic[2];
  const float t00 = o.A * ga + o.B * gb, t01 = o.A * gb + o.B * gc;
  const float t10 = o.B * ga + o.C * gb, t11 = o.B * gb + o.C * gc;
  const float v_xx = -(t00 * o.A + t01 * o.B), v_xy = -(t00 * o.B + t01 * o.C);
  const float v_yy = -(t10 * o.B + t11 * o.C);
  float v_T0[3], v_T1[3], v_M[9];
  for (int j = 0; j < 3; ++j) {
    v_T0[j] = 2 * (v_xx * o.T0[j] + v_xy * o.T1[j]);
    v_T1[j] = 2 * (v_xy * o.T0[j] + v_yy * o.T1[j]);
    v_M[j] = o.jx * v_T0[j];
    v_M[3 + j] = o.jy * v_T1[j];
    v_M[6 + j] = o.jxz * v_T0[j] + o.jyz * v_T1[j];
  }
  const float inv_z = 1.0f / o.p[2], x = o.p[0] * inv_z, y = o.p[1] * inv_z;
  const float v_jxz = dot3(v_T0, o.M + 6), v_jyz = dot3(v_T1, o.M + 6);
  // jxz = -jx u and mx = jx x_cam + cx, with jx = fx / z.
  const float v_jx = dot3(v_T0, o.M) - o.u * v_jxz, v_jy = dot3(v_T1, o.M + 3) - o.v * v_jyz;
  const float v_u = (o.u_free ? -o.jx * v_jxz : 0.0f) + c.fx * v_mean2d[0];
  const float v_v = (o.v_free ? -o.jy * v_jyz : 0.0f) + c.fy * v_mean2d[1];
  const float v_p[3] = {
      v_u * inv_z, v_v * inv_z,
      v_depth - inv_z * (v_jx * o.jx + v_jy * o.jy + v_u * x + v_v * y)};
  for (int j = 0; j < 3; ++j) v_mean[j] = c.R[j] * v_p[0] + c.R[3 + j] * v_p[1] + c.R[6 + j] * v_p[2];
  float g[9];  // gradient of Rq diag(scale), then of Rq
  for (int j = 0; j < 3; ++j) {
    v_scale[j] = 0;
    for (int i = 0; i < 3; ++i) {
      g[3 * i + j] = c.R[i] * v_M[j] + c.R[3 + i] * v_M[3 + j] + c.R[6 + i] * v_M[6 + j];
      v_scale[j] += g[3 * i + j] * o.Rq[3 * i + j];
      g[3 * i + j] *= scale[j];
    }
  }
  const float w = o.q[0], qx = o.q[1], qy = o.q[2], qz = o.q[3];
  const float v_q[4] = {
      2 * (qx * (g[7] - g[5]) + qy * (g[2] - g[6]) + qz * (g[3] - g[1])),
      2 * (-2 * qx * (g[4] + g[8]) + qy * (g[1] + g[3]) + qz * (g[2] + g[6]) + w * (g[7] - g[5])),
      2 * (qx * (g[1] + g[3]) - 2 * qy * (g[0] + g[8]) + qz * (g[5] + g[7]) + w * (g[2] - g[6])),
      2 * (qx * (g[2] + g[6]) + qy * (g[5] + g[7]) - 2 * qz * (g[0] + g[4]) + w * (g[3] - g[1]))};
  const float along = v_q[0] * w + v_q[1] * qx + v_q[2] * qy + v_q[3] * qz;
  for (int i = 0; i < 4; ++i) v_quat[i] = (v_q[i] - along * o.q[i]) / o.q_norm;
  // Where a product overflowed (a scale of 1e20, say) there is no gradient to speak of, and one
  // NaN would poison an optimiser's state for good.
  float sum = fabsf(v_quat[0]);
  for (int i = 0; i < 3; ++i) sum += fabsf(v_mean[i]) + fabsf(v_scale[i]) + fabsf(v_quat[i + 1]);
  if (!std::isfinite(sum)) {
    for (int i = 0; i < 3; ++i) v_mean[i] = v_scale[i] = 0.0f;
    for (int i = 0; i < 4; ++i) v_quat[i] = 0.0f;
  }
}

}  // namespace fit3d
