#include "oracle.h"

#include <algorithm>
#include <cmath>

#include "fit3d/macros.h"

namespace fit3d {
namespace tests {
namespace {

constexpr double kEps = 0x1p-24;       // half a unit in the last place of float32
constexpr double kAlphaError = 1e-6;   // relative: exp8 and the product with the opacity
constexpr double kBadly = 1e-2;        // beyond this relative error alpha says nothing
constexpr double kWell = 1e-4;         // gradients are compared below this

double sum_abs(double a, double b) { return std::fabs(a) + std::fabs(b); }

}  // namespace

Flat project_one_exactly(const Scene& s, const double* mean, const double* quat, const double* scale) {
  Flat r{};
  const double fx = s.K[0], fy = s.K[4], cx = s.K[2], cy = s.K[5];
  const double mu = 0.15 * s.width / fx, mv = 0.15 * s.height / fy;
  double p[3], q[4], T[2][3] = {}, norm = 0;
  for (int i = 0; i < 3; ++i) {
    p[i] = s.viewmat[4 * i + 3];
    for (int j = 0; j < 3; ++j) p[i] += s.viewmat[4 * i + j] * mean[j];
  }
  for (int i = 0; i < 4; ++i) norm += quat[i] * quat[i];
  norm = std::sqrt(norm);
  if (!(p[2] > s.near_plane && p[2] < s.far_plane && norm > kQuatNormMin && norm < 1e18)) return r;
  for (int i = 0; i < 4; ++i) q[i] = quat[i] / norm;
  const double w = q[0], x = q[1], y = q[2], z = q[3];
  const double Rq[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)};
  const double u_free = p[0] / p[2], v_free = p[1] / p[2];
  const double u = std::min(std::max(u_free, -cx / fx - mu), (s.width - cx) / fx + mu);
  const double v = std::min(std::max(v_free, -cy / fy - mv), (s.height - cy) / fy + mv);
  const double J[2][3] = {{fx / p[2], 0, -fx * u / p[2]}, {0, fy / p[2], -fy * v / p[2]}};
  for (int j = 0; j < 3; ++j) {
    double m[3] = {};
    for (int i = 0; i < 3; ++i)
      for (int k = 0; k < 3; ++k) m[i] += s.viewmat[4 * i + k] * Rq[3 * k + j];
    for (int i = 0; i < 2; ++i)
      for (int k = 0; k < 3; ++k) T[i][j] += J[i][k] * m[k] * scale[j];
  }
  double xx = s.eps2d, yy = s.eps2d, xy = 0;
  for (int j = 0; j < 3; ++j) xx += T[0][j] * T[0][j], yy += T[1][j] * T[1][j], xy += T[0][j] * T[1][j];
  const double c0 = T[0][1] * T[1][2] - T[0][2] * T[1][1], c1 = T[0][2] * T[1][0] - T[0][0] * T[1][2];
  const double c2 = T[0][0] * T[1][1] - T[0][1] * T[1][0];
  const double det = c0 * c0 + c1 * c1 + c2 * c2 + s.eps2d * (xx + yy - s.eps2d);
  if (!(det > 1e-10 && std::isfinite(det))) return r;
  const double out[6] = {fx * p[0] / p[2] + cx, fy * p[1] / p[2] + cy, yy / det, -xy / det, xx / det, p[2]};
  std::copy(out, out + 6, r.out);
  r.xx = xx, r.yy = yy, r.roundness = det / (xx * yy), r.seen = true;
  r.clamped = std::fabs(u - u_free) > 0 || std::fabs(v - v_free) > 0;
  return r;
}

Splats project_exactly(const Scene& s) {
  Splats r;
  r.means2d.assign(2 * s.count, 0), r.conics.assign(3 * s.count, 0);
  r.depths.assign(s.count, 0), r.radii.assign(2 * s.count, 0);
  for (int64_t n = 0; n < s.count; ++n) {
    double mean[3], quat[4], scale[3];
    std::copy_n(s.means.begin() + 3 * n, 3, mean), std::copy_n(s.quats.begin() + 4 * n, 4, quat);
    std::copy_n(s.scales.begin() + 3 * n, 3, scale);
    const Flat flat = project_one_exactly(s, mean, quat, scale);
    const double opacity = s.opacities[n];
    if (!(flat.seen && opacity >= double(kAlphaMin) && std::isfinite(opacity))) continue;
    const double reach = 2 * std::log(255 * opacity);
    const double rx = std::min(std::max(std::ceil(std::sqrt(reach * flat.xx)), 1.0), 1e9);
    const double ry = std::min(std::max(std::ceil(std::sqrt(reach * flat.yy)), 1.0), 1e9);
    const double mx = flat.out[0], my = flat.out[1];
    if (!(mx + rx > 0 && mx - rx < s.width && my + ry > 0 && my - ry < s.height)) continue;
    float out[6];
    for (int i = 0; i < 6; ++i) out[i] = static_cast<float>(flat.out[i]);
    // As in float, where the determinant of so wide a Gaussian overflows.
    if (!std::all_of(out, out + 6, [](float f) { return std::isfinite(f); }) || !(out[2] > 0 && out[4] > 0)) continue;
    r.means2d[2 * n] = out[0], r.means2d[2 * n + 1] = out[1];
    r.conics[3 * n] = out[2], r.conics[3 * n + 1] = out[3], r.conics[3 * n + 2] = out[4];
    r.depths[n] = out[5], r.radii[2 * n] = int32_t(rx), r.radii[2 * n + 1] = int32_t(ry);
  }
  return r;
}

Truth blend_exactly(const Scene& s, const Splats& splats) {
  std::vector<int64_t> order;
  for (int64_t n = 0; n < s.count; ++n)
    if (splats.radii[2 * n] > 0) order.push_back(n);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return splats.depths[a] < splats.depths[b]; });
  const int64_t pixels = int64_t(s.width) * s.height;
  Truth t;
  t.pixels.resize(pixels), t.left.assign(pixels, 1), t.safe.assign(pixels, 1), t.smooth.assign(pixels, 1);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const double px = pixel % s.width + 0.5, py = pixel / s.width + 0.5;
    double T = 1, lost = 0;  // transmittance and its relative error
    const auto near = [](double value, double edge, double error) {
      return std::fabs(value / edge - 1) <= 2 * error;
    };
    for (const int64_t n : order) {
      const float *m = splats.means2d.data() + 2 * n, *q = splats.conics.data() + 3 * n;
      const double dx = m[0] - px, dy = m[1] - py;
      const double first = 0.5 * q[0] * dx * dx, last = 0.5 * q[2] * dy * dy, mixed = double(q[1]) * dx * dy;
      const double sigma = first + last + mixed;
      // Rounding of the three terms, of their sum, and of dx and dy themselves.
      const double slide = std::fabs(dx) * (sum_abs(q[0] * dx, q[1] * dy)) + std::fabs(dy) * (sum_abs(q[2] * dy, q[1] * dx));
      const double shift = 4 * kEps * (std::fabs(first) + std::fabs(last) + std::fabs(mixed)) + 2 * kEps * slide;
      const double opacity = s.opacities[n], error = shift + kAlphaError;
      // The kernels' exponent ends at e^-80. Opacities are at most one; nonsense may look like any.
      if (opacity > 1e30) { t.safe[pixel] = 0; break; }
      if (!(opacity * std::exp(-std::max(sigma - shift, 0.0)) >= kAlphaMin * (1 - 1e-5))) continue;  // surely too faint
      if (error > kBadly || (std::fabs(sigma) <= shift && sigma != 0)) { t.safe[pixel] = 0; break; }
      const double raw = opacity * std::exp(-sigma);
      // Exactly at a threshold float32 and double decide alike only without an exponential.
      if (sigma != 0 && near(raw, kAlphaMin, error)) { t.safe[pixel] = 0; break; }
      if (sigma < 0 || raw < kAlphaMin) continue;
      const double alpha = std::min(raw, double(kAlphaMax)), after = T * (1 - alpha);
      const double amplified = error * alpha / (1 - alpha) + 2 * kEps;
      if (near(after, kTransmittanceMin, lost + amplified + 1e-6)) { t.safe[pixel] = 0; break; }
      if (after <= kTransmittanceMin) break;
      if (near(raw, kAlphaMax, error) || error > kWell) t.smooth[pixel] = 0;
      t.pixels[pixel].push_back({n, alpha * T, alpha, raw, dx, dy, error + lost + 2 * kEps});
      T = after, lost += amplified;
    }
    t.left[pixel] = T;
    if (!t.safe[pixel] || lost > kWell) t.smooth[pixel] = 0;
  }
  return t;
}

Gradients adjoint_exactly(const Scene& s, const Splats& splats, const Truth& truth,
                          const std::vector<float>& v_out, const std::vector<float>& v_alphas) {
  Gradients g;
  const auto zero = [&](int64_t width) { return std::vector<double>(width * s.count, 0.0); };
  g.means2d = g.abs_means2d = zero(2), g.conics = g.abs_conics = zero(3);
  g.opacities = g.abs_opacities = zero(1), g.values = g.abs_values = zero(s.dim);
  for (size_t pixel = 0; pixel < truth.pixels.size(); ++pixel) {
    const float* up = v_out.data() + pixel * s.dim;
    double behind = -double(v_alphas[pixel]) * truth.left[pixel], abs_behind = std::fabs(behind);
    const auto& layers = truth.pixels[pixel];
    for (auto it = layers.rbegin(); it != layers.rend(); ++it) {
      const int64_t n = it->id;
      double score = 0, abs_score = 0;
      for (int c = 0; c < s.dim; ++c) {
        const double term = double(s.values[n * s.dim + c]) * up[c];
        score += term, abs_score += std::fabs(term);
        g.values[n * s.dim + c] += it->w * up[c], g.abs_values[n * s.dim + c] += it->w * std::fabs(up[c]);
      }
      if (it->raw <= kAlphaMax) {
        const double odds = it->alpha / (1 - it->alpha);
        const double v = -(it->w * score - odds * behind);
        const double size = (it->w * abs_score + odds * abs_behind) / (1 - it->alpha);
        const float* q = splats.conics.data() + 3 * n;
        const double dx = it->dx, dy = it->dy, opacity = s.opacities[n];
        const auto add = [&](std::vector<double>& to, std::vector<double>& abs_to, int64_t at, double a, double abs_a) {
          to[at] += v * a, abs_to[at] += size * abs_a;
        };
        add(g.means2d, g.abs_means2d, 2 * n, q[0] * dx + q[1] * dy, sum_abs(q[0] * dx, q[1] * dy));
        add(g.means2d, g.abs_means2d, 2 * n + 1, q[1] * dx + q[2] * dy, sum_abs(q[1] * dx, q[2] * dy));
        add(g.conics, g.abs_conics, 3 * n, 0.5 * dx * dx, 0.5 * dx * dx);
        add(g.conics, g.abs_conics, 3 * n + 1, dx * dy, std::fabs(dx * dy));
        add(g.conics, g.abs_conics, 3 * n + 2, 0.5 * dy * dy, 0.5 * dy * dy);
        add(g.opacities, g.abs_opacities, n, -1 / opacity, 1 / opacity);
      }
      behind += it->w * score, abs_behind += it->w * abs_score;
    }
  }
  return g;
}

}  // namespace tests
}  // namespace fit3d
