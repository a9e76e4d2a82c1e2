// Seeded degenerate scenes, the same bits on every platform: only + - * / sqrt and ldexp are used
// (libm's exp and cos differ), and no expression draws twice (the order would be the compiler's).
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace fit3d {
namespace tests {

struct Rng {  // splitmix64
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<uint64_t>(n)); }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double uniform(double lo, double hi) { return lo + (hi - lo) * uniform(); }
  double normal() {  // close enough: the sum of four uniforms, unit variance
    double sum = -2.0;
    for (int i = 0; i < 4; ++i) sum += uniform();
    return sum * 1.7320508075688772;
  }
  // Spread over binary magnitudes from 2^lo to 2^(hi + 1).
  double magnitude(int lo, int hi) {
    const double fraction = 1.0 + uniform();
    return std::ldexp(fraction, lo + below(hi - lo + 1));
  }
  template <class T, int N>
  T pick(const T (&of)[N]) { return of[below(N)]; }
};

struct Scene {
  uint64_t seed;
  int width, height, dim, degree, bases;
  int64_t count;
  int grid_h, grid_w;
  bool tent;
  float near_plane, far_plane, eps2d;
  float viewmat[16], K[9], center[3];
  std::vector<float> means, quats, scales, opacities;  // [N,3] [N,4] [N,3] [N]
  std::vector<float> sh, values;                        // [N,bases,3] [N,dim]
};

// A random rotation, row-major, from a quaternion of any length above zero.
inline void rotation(Rng& rng, float* r) {
  const double w = rng.normal() + 2.0, x = rng.normal(), y = rng.normal(), z = rng.normal();
  const double s = 2.0 / (w * w + x * x + y * y + z * z);
  const double m[9] = {1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y),
                       s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x),
                       s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)};
  for (int i = 0; i < 9; ++i) r[i] = static_cast<float>(m[i]);
}

// One thing that is wrong, or exactly on an edge, about Gaussian n.
inline void damage(Rng& rng, Scene& s, int64_t n) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float third = 1.0f / 255.0f;
  float* mean = s.means.data() + 3 * n;
  float* quat = s.quats.data() + 4 * n;
  float* scale = s.scales.data() + 3 * n;
  float& opacity = s.opacities[n];
  const float bad[] = {nan, inf, -inf, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-45f, 0.0f, -0.0f, 1e20f, -1e20f};
  const float edges[] = {third, std::nextafter(third, 0.0f), std::nextafter(third, 1.0f), 0.99f,
                         std::nextafter(0.99f, 0.0f), std::nextafter(0.99f, 1.0f), 1.0f, 1.25f,
                         1e6f, 0.0f, -0.0f, -0.5f, 1e-30f, 254.0f / 255.0f, 0.9999f};
  // Puts the centre at depth z straight ahead or to the side: R^t (p - t).
  const auto place = [&](double x, double y, double z) {
    const double p[3] = {x - s.viewmat[3], y - s.viewmat[7], z - s.viewmat[11]};
    for (int i = 0; i < 3; ++i)
      mean[i] = static_cast<float>(s.viewmat[i] * p[0] + s.viewmat[4 + i] * p[1] + s.viewmat[8 + i] * p[2]);
  };
  const double x = rng.normal(), y = rng.normal();
  const int axis = rng.below(3);
  switch (rng.below(16)) {
    case 0: mean[axis] = rng.pick(bad); break;
    case 1: quat[axis + 1] = rng.pick(bad); break;
    case 2: scale[axis] = rng.pick(bad); break;
    case 3: opacity = rng.pick(bad); break;
    case 4: case 5: opacity = rng.pick(edges); break;
    case 6: for (int i = 0; i < 4; ++i) quat[i] = 0.0f; break;
    case 7: {  // lengths around what counts as no direction, and beyond the square's range
      const int exponents[] = {-41, -40, -39, -64, -100, 62, 66, 100};
      const int e = rng.pick(exponents);
      for (int i = 0; i < 4; ++i) quat[i] = std::ldexp(quat[i], e);
      break;
    }
    case 8: for (int i = 0; i < 3; ++i) scale[i] = static_cast<float>(rng.magnitude(4, 100)); break;
    case 9: for (int i = 0; i < 3; ++i) scale[i] = static_cast<float>(rng.magnitude(-140, -12)); break;
    case 10:  // a needle, or a plate
      scale[axis] = static_cast<float>(rng.magnitude(-3, 12));
      scale[(axis + 1) % 3] = static_cast<float>(rng.magnitude(-40, -12));
      break;
    case 11: place(x, y, -rng.magnitude(-8, 4)); break;  // behind
    case 12: {  // on the near or the far plane, give or take the last bit
      const float plane = rng.chance(0.7) ? s.near_plane : s.far_plane;
      const float sides[] = {plane, std::nextafter(plane, 0.0f), std::nextafter(plane, 2 * plane)};
      place(0.1 * plane * x, 0.1 * plane * y, rng.pick(sides));
      break;
    }
    case 13: place(x * std::ldexp(1.0, rng.below(40)), y, std::fabs(x) + 0.1); break;  // aside
    case 14: place(0, 0, 0); break;  // in the eye
    default: for (int i = 0; i < 3; ++i) scale[i] = -scale[i]; break;
  }
}

inline Scene make_scene(uint64_t seed) {
  Rng rng{seed * 0x2545f4914f6cdd1dull + 1};
  for (int i = 0; i < 4; ++i) rng.next();
  Scene s{};
  s.seed = seed;
  const int sizes[] = {1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 32, 33, 40, 47};
  s.width = rng.pick(sizes), s.height = rng.pick(sizes);
  const int dims[] = {1, 3, 7, 8, 9, 16, 64, 65};
  s.dim = rng.pick(dims);
  if (rng.chance(0.1)) s.dim = 1 + rng.below(12);  // the fused adjoint's widths
  s.degree = rng.below(4), s.bases = (s.degree + 1) * (s.degree + 1);
  if (rng.chance(0.3)) s.bases = 16;
  const int kind = rng.below(10);  // see below
  const int counts[] = {0, 1, 2, 3, 8, 20, 40, 60};
  s.count = rng.pick(counts);
  if (kind == 2) s.count = 100 + rng.below(200);  // all in one spot
  if (seed % 1000 == 999) s.count = 3000, s.dim = 1 + rng.below(9);
  s.tent = rng.chance(0.5);
  s.grid_h = 1 + rng.below(s.height < 12 ? s.height : 12);
  s.grid_w = 1 + rng.below(s.width < 12 ? s.width : 12);
  while (!s.tent && s.height % s.grid_h) --s.grid_h;
  while (!s.tent && s.width % s.grid_w) --s.grid_w;
  const float blurs[] = {0.3f, 0.3f, 0.3f, 0.3f, 0.0f, 1e-6f, 2.0f};
  s.eps2d = rng.pick(blurs);
  const float nears[] = {0.01f, 0.2f, 1.0f}, fars[] = {1e10f, 3e38f, 4.0f};
  s.near_plane = rng.pick(nears), s.far_plane = rng.pick(fars);
  float r[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  if (rng.chance(0.7)) rotation(rng, r);
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) s.viewmat[4 * i + j] = r[3 * i + j];
    s.viewmat[4 * i + 3] = static_cast<float>(0.5 * rng.normal());
  }
  s.viewmat[15] = 1;
  const int side = s.width > s.height ? s.width : s.height;
  double focal = side * rng.uniform(0.4, 2.0);
  if (rng.chance(0.05)) focal *= rng.magnitude(-12, 16);
  s.K[0] = static_cast<float>(focal), s.K[4] = static_cast<float>(focal * rng.uniform(0.8, 1.2));
  s.K[2] = static_cast<float>(s.width * rng.uniform(0.3, 0.7));
  s.K[5] = static_cast<float>(s.height * rng.uniform(0.3, 0.7));
  s.K[8] = 1;
  if (rng.chance(0.02)) s.viewmat[rng.below(12)] = static_cast<float>(-rng.magnitude(20, 90));
  if (rng.chance(0.01)) for (int i = 0; i < 12; ++i) s.viewmat[i] = 0;  // a camera that sees nothing
  for (int i = 0; i < 3; ++i) {
    double c = 0;
    for (int j = 0; j < 3; ++j) c -= static_cast<double>(s.viewmat[4 * j + i]) * s.viewmat[4 * j + 3];
    s.center[i] = static_cast<float>(c);
  }
  s.means.resize(3 * s.count), s.quats.resize(4 * s.count), s.scales.resize(3 * s.count);
  s.opacities.resize(s.count), s.sh.resize(3 * s.bases * s.count), s.values.resize(s.dim * s.count);
  for (int64_t n = 0; n < s.count; ++n) {
    double z = rng.uniform(0.3, 4.0), spread = 0.6, size = rng.magnitude(-7, -2);
    double opacity = rng.uniform(0.05, 1.0);
    if (kind == 1) z = 1 + rng.below(2);                                 // ties in depth
    if (kind == 2) spread = 0.05, opacity = rng.uniform(0.0, 0.1);       // long lists
    if (kind == 3) size = rng.magnitude(-2, 0), opacity = 1.0;           // pixels saturate
    if (kind == 4) opacity = rng.uniform(0.95, 1.0);                     // around the clamp
    if (kind == 5) z = rng.magnitude(-6, 12), size = rng.magnitude(-12, 12);  // wild
    if (kind == 6) opacity = rng.uniform(0.0, 0.012);                    // around 1/255
    const double x = z * rng.uniform(-spread, spread) * s.width / focal;
    const double y = z * rng.uniform(-spread, spread) * s.height / focal;
    const double p[3] = {x - s.viewmat[3], y - s.viewmat[7], z - s.viewmat[11]};
    for (int i = 0; i < 3; ++i) {
      s.means[3 * n + i] =
          static_cast<float>(r[i] * p[0] + r[3 + i] * p[1] + r[6 + i] * p[2]);
      s.scales[3 * n + i] = static_cast<float>(size * rng.uniform(0.2, 1.0));
    }
    for (int i = 0; i < 4; ++i) s.quats[4 * n + i] = static_cast<float>(rng.normal());
    if (kind == 7) s.scales[3 * n + rng.below(3)] *= 1000.0f;            // needles
    if (kind == 8 && n) {                                                // all the same
      for (int i = 0; i < 3; ++i) s.means[3 * n + i] = s.means[i], s.scales[3 * n + i] = s.scales[i];
      for (int i = 0; i < 4; ++i) s.quats[4 * n + i] = s.quats[i];
    }
    s.opacities[n] = static_cast<float>(opacity);
  }
  const double shares[] = {0, 0, 0.1, 0.3, 1};
  const double share = rng.pick(shares);
  for (int64_t n = 0; n < s.count; ++n)
    if (rng.chance(share)) damage(rng, s, n);
  for (float& v : s.sh) v = static_cast<float>(rng.normal());
  for (float& v : s.values) v = static_cast<float>(rng.normal());
  return s;
}

}  // namespace tests
}  // namespace fit3d
