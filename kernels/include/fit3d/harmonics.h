// Real spherical harmonics up to degree 3, Condon-Shortley phase, ordered by (l, m).
#pragma once

#include "fit3d/macros.h"

namespace fit3d {

// (x, y, z) is a unit vector; writes (degree + 1)^2 values.
F3D_HD void harmonic_bases(int degree, float x, float y, float z, float* b) {
  b[0] = 0.28209479177387814f;  // 1 / (2 sqrt(pi))
  if (degree < 1) return;
  const float c1 = 0.48860251190291992f;  // sqrt(3 / (4 pi))
  b[1] = -c1 * y, b[2] = c1 * z, b[3] = -c1 * x;
  if (degree < 2) return;
  const float xx = x * x, yy = y * y, zz = z * z, c2 = 1.0925484305920790f;  // sqrt(15 / pi) / 2
  b[4] = c2 * x * y, b[5] = -c2 * y * z;
  b[6] = 0.31539156525252000f * (3 * zz - 1);  // sqrt(5 / pi) / 4
  b[7] = -c2 * x * z, b[8] = 0.5f * c2 * (xx - yy);
  if (degree < 3) return;
  const float c33 = 0.59004358992664352f;  // sqrt(35 / (2 pi)) / 4
  const float c32 = 2.8906114426405538f;   // sqrt(105 / pi) / 2
  const float c31 = 0.45704579946446577f;  // sqrt(21 / (2 pi)) / 4
  b[9] = -c33 * y * (3 * xx - yy), b[10] = c32 * x * y * z, b[11] = -c31 * y * (5 * zz - 1);
  b[12] = 0.37317633259011546f * z * (5 * zz - 3);  // sqrt(7 / pi) / 4
  b[13] = -c31 * x * (5 * zz - 1), b[14] = 0.5f * c32 * z * (xx - yy);
  b[15] = -c33 * x * (xx - 3 * yy);
}

}  // namespace fit3d
