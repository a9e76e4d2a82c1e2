// One axis of the separable kernel with which a token sees the pixels (kernels/README.md, "pool").
#pragma once

#include "fit3d/macros.h"

namespace fit3d {

struct Axis {
  int token, tokens;
  float step;        // pixels per token
  int begin, end;    // pixels with a non-zero kernel lie within [begin, end)
  float norm;        // 1 / sum over the picture
  bool tent;
};

// The kernel at a pixel.
F3D_HD float axis_at(const Axis& a, int pixel) {
  if (pixel < a.begin || pixel >= a.end) return 0.0f;
  if (!a.tent) return a.norm;
  // Bilinear upsampling without aligned corners: the position in tokens, held at the border.
  const float u = fminf(fmaxf((pixel + 0.5f) / a.step - 0.5f, 0.0f), a.tokens - 1.0f);
  return fmaxf(0.0f, 1.0f - fabsf(u - a.token)) * a.norm;
}

// The axis with norm = 1: enough for its pixels.
F3D_HD Axis axis_span(int token, int tokens, int pixels, bool tent) {
  Axis a{token, tokens, static_cast<float>(pixels) / tokens, 0, 0, 1.0f, tent};
  const float reach = tent ? 0.5f : 0.0f;
  const int begin = static_cast<int>(floorf((token - reach) * a.step));
  const int end = static_cast<int>(ceilf((token + 1 + reach) * a.step));
  a.begin = begin > 0 ? begin : 0, a.end = end < pixels ? end : pixels;
  return a;
}

F3D_HD Axis make_axis(int token, int tokens, int pixels, bool tent) {
  Axis a = axis_span(token, tokens, pixels, tent);
  float sum = 0.0f;
  for (int p = a.begin; p < a.end; ++p) sum += axis_at(a, p);
  a.norm = 1.0f / sum;
  return a;
}

}  // namespace fit3d
