// Exact intersection of a splat's footprint with horizontal strips of pixels.
#pragma once

#include "fit3d/macros.h"

namespace fit3d {

// A packed splat, 16 floats. The first eight are all that alpha at a pixel depends on:
//   0 mx  1 my  2 A/2  3 B  4 C/2  5 opacity  6 reach  7 unused
// reach = 2 ln(255 opacity): alpha >= 1/255 exactly where A dx^2 + 2 B dx dy + C dy^2 <= reach.
// The others are that ellipse, a hair too large so that rounding never loses a pixel (the exact
// test is the per-pixel one on alpha):
//   8 slope  9 1/A  10 det  11 q A  12 y_reach  13 y_top  14 slack  15 unused
struct Ellipse {
  float mx, my, slope, inv_a, det, qa, y_reach, y_top, slack;
};

F3D_HD void pack_splat(const float* mean2d, const float* conic, float opacity, float* splat) {
  const float a = conic[0], b = conic[1], c = conic[2], reach = 2.0f * logf(opacity * 255.0f);
  splat[0] = mean2d[0], splat[1] = mean2d[1];
  splat[2] = 0.5f * a, splat[3] = b, splat[4] = 0.5f * c;
  splat[5] = opacity, splat[6] = reach, splat[7] = 0.0f;
  const float q = reach * 1.0001f + 1e-4f;
  // Products of floats are exact in double, so this determinant does not cancel, however wide or
  // thin the ellipse is. Where rounding made the conic indefinite there is no bound in y.
  const double det = static_cast<double>(a) * c - static_cast<double>(b) * b;
  const bool bounded = det > 0;
  const float far = 1e18f;  // its square is a float still
  splat[8] = -b / a, splat[9] = 1.0f / a, splat[10] = bounded ? static_cast<float>(det) : 0.0f, splat[11] = q * a;
  // Half the ellipse's height, and dy of its rightmost point; the leftmost mirrors it.
  splat[12] = bounded ? fminf(static_cast<float>(sqrt(static_cast<double>(q) * a / det)), far) : far;
  splat[13] = bounded ? static_cast<float>(-b / c * sqrt(static_cast<double>(q) * c / det)) : (b < 0 ? far : -far);
  splat[14] = 0.01f + 1e-5f * (fabsf(mean2d[0]) + fabsf(mean2d[1])), splat[15] = 0.0f;
}

F3D_HD Ellipse ellipse_of(const float* s) {
  return {s[0], s[1], s[8], s[9], s[10], s[11], s[12], s[13], s[14]};
}

// x-range (absolute) of the ellipse within y in [y0, y1]; false if they do not meet.
// Its right border is concave in y, so the maximum lies at the rightmost point clamped to the strip.
F3D_HD bool ellipse_span(const Ellipse& e, float y0, float y1, float* x0, float* x1) {
  const float lo = fmaxf(y0 - e.my - e.slack, -e.y_reach);
  const float hi = fminf(y1 - e.my + e.slack, e.y_reach);
  if (!(lo <= hi)) return false;
  const float right = fminf(fmaxf(e.y_top, lo), hi), left = fminf(fmaxf(-e.y_top, lo), hi);
  const float right2 = product(product(e.det, right), right), left2 = product(product(e.det, left), left);
  *x1 = e.mx + product(e.slope, right) + product(sqrtf(fmaxf(e.qa - right2, 0.0f)), e.inv_a) + e.slack;
  *x0 = e.mx + product(e.slope, left) - product(sqrtf(fmaxf(e.qa - left2, 0.0f)), e.inv_a) - e.slack;
  return true;
}

}  // namespace fit3d
