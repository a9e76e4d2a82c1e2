// Exact intersection of a splat's footprint with horizontal strips of pixels.
#pragma once

#include "fit3d/macros.h"

namespace fit3d {

// A packed splat, 8 floats: everything that alpha at a pixel depends on.
//   0 mx  1 my  2 A/2  3 B  4 C/2  5 opacity  6 reach  7 unused
// reach = 2 ln(255 opacity): alpha >= 1/255 exactly where A dx^2 + 2 B dx dy + C dy^2 <= reach.
F3D_HD void pack_splat(const float* mean2d, const float* conic, float opacity, float* splat) {
  splat[0] = mean2d[0], splat[1] = mean2d[1];
  splat[2] = 0.5f * conic[0], splat[3] = conic[1], splat[4] = 0.5f * conic[2];
  splat[5] = opacity, splat[6] = 2.0f * logf(opacity * 255.0f), splat[7] = 0.0f;
}

// The ellipse of a splat, a hair too large so that rounding never loses a pixel: the exact test
// is the per-pixel one on alpha.
struct Ellipse {
  float mx, my, slope, inv_a, disc, qa, y_reach, y_top, slack;
};

F3D_HD Ellipse make_ellipse(const float* s) {
  Ellipse e;
  const float a = 2 * s[2], b = s[3], c = 2 * s[4];
  const float q = s[6] * 1.0001f + 1e-4f;
  const float det = fmaxf(a * c - b * b, 1e-20f);
  e.mx = s[0], e.my = s[1];
  e.inv_a = 1.0f / a, e.slope = -b * e.inv_a;
  e.qa = q * a, e.disc = det;
  e.y_reach = sqrtf(e.qa / det);
  e.y_top = -b / c * sqrtf(q * c / det);  // dy of the rightmost point; the leftmost is its mirror
  e.slack = 0.01f + 1e-5f * (fabsf(s[0]) + fabsf(s[1]));
  return e;
}

// x-range (absolute) of the ellipse within y in [y0, y1]; false if they do not meet.
// Its right border is concave in y, so the maximum lies at the rightmost point clamped to the strip.
F3D_HD bool ellipse_span(const Ellipse& e, float y0, float y1, float* x0, float* x1) {
  const float lo = fmaxf(y0 - e.my - e.slack, -e.y_reach);
  const float hi = fminf(y1 - e.my + e.slack, e.y_reach);
  if (!(lo <= hi)) return false;
  const float right = fminf(fmaxf(e.y_top, lo), hi), left = fminf(fmaxf(-e.y_top, lo), hi);
  *x1 = e.mx + e.slope * right + sqrtf(fmaxf(e.qa - e.disc * right * right, 0.0f)) * e.inv_a + e.slack;
  *x0 = e.mx + e.slope * left - sqrtf(fmaxf(e.qa - e.disc * left * left, 0.0f)) * e.inv_a - e.slack;
  return true;
}

}  // namespace fit3d
