// Structural similarity of two pictures and its gradient, with a separable Gaussian window.
//
// Wang et al. 2004. With blurs B(.), per channel: mx = B(x), my = B(y), vx = B(x^2) - mx^2,
// vy = B(y^2) - my^2, c = B(xy) - mx my and
//   S = (2 mx my + C1)(2 c + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)).
// The blur is symmetric and zero-padded, so the adjoint of B is B itself and
//   d(sum w S)/dx = B(w dS/dmx) + 2 x B(w dS/dB(x^2)) + y B(w dS/dB(xy)).
#include <cstring>

#include "ops.h"
#include "parallel.h"

namespace fit3d {
namespace {

constexpr int kRadius = 5;
constexpr int kTaps = 2 * kRadius + 1;
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

// Horizontal blur of one interleaved row of `n` floats whose pixels are `step` floats apart.
void blur_row(const float* in, int64_t n, int64_t step, const float* taps, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = taps[kRadius] * in[i];
  for (int t = 1; t <= kRadius; ++t) {
    const int64_t shift = t * step;
    const float k = taps[kRadius + t];
    if (shift >= n) break;
    for (int64_t i = 0; i < n - shift; ++i) out[i] += k * in[i + shift];
    for (int64_t i = shift; i < n; ++i) out[i] += k * in[i - shift];
  }
}

// Vertical blur at row `y` of a map of `height` rows of `n` floats.
void blur_column(const float* map, int64_t height, int64_t n, int64_t y, const float* taps,
                 float* out) {
  std::memset(out, 0, sizeof(float) * n);
  for (int t = -kRadius; t <= kRadius; ++t) {
    if (y + t < 0 || y + t >= height) continue;
    const float* row = map + (y + t) * n;
    const float k = taps[kRadius + t];
    for (int64_t i = 0; i < n; ++i) out[i] += k * row[i];
  }
}

}  // namespace

void ssim(int64_t height, int64_t width, int64_t channels, const float* x, const float* y,
          const float* weights, const float* taps, float* scratch, double* row_sums, float* v_x,
          int threads) {
  const int64_t n = width * channels, map = height * n;
  float* blurred[5];   // horizontal blurs of x, y, x^2, y^2, xy; three are used again below
  for (int m = 0; m < 5; ++m) blurred[m] = scratch + m * map;
  float* partial[3];   // w dS/dmx, w dS/dB(x^2), w dS/dB(xy)
  for (int m = 0; m < 3; ++m) partial[m] = scratch + (5 + m) * map;
  float* lines = scratch + 8 * map;  // [threads, 5, n]

  auto horizontal = [&](int64_t row, int thread) {
    const float *a = x + row * n, *b = y + row * n;
    float* product = lines + 5 * n * thread;
    blur_row(a, n, channels, taps, blurred[0] + row * n);
    blur_row(b, n, channels, taps, blurred[1] + row * n);
    for (int64_t i = 0; i < n; ++i) product[i] = a[i] * a[i];
    blur_row(product, n, channels, taps, blurred[2] + row * n);
    for (int64_t i = 0; i < n; ++i) product[i] = b[i] * b[i];
    blur_row(product, n, channels, taps, blurred[3] + row * n);
    for (int64_t i = 0; i < n; ++i) product[i] = a[i] * b[i];
    blur_row(product, n, channels, taps, blurred[4] + row * n);
  };
  parallel_for(threads, height, horizontal);

  auto similarity = [&](int64_t row, int thread) {
    float* line = lines + 5 * n * thread;
    for (int m = 0; m < 5; ++m) blur_column(blurred[m], height, n, row, taps, line + m * n);
    const float *mx = line, *my = line + n, *xx = line + 2 * n, *yy = line + 3 * n,
                *xy = line + 4 * n;
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float w = weights[row * width + i / channels];
      const float a1 = 2 * mx[i] * my[i] + kC1, a2 = 2 * (xy[i] - mx[i] * my[i]) + kC2;
      const float b1 = mx[i] * mx[i] + my[i] * my[i] + kC1;
      const float b2 = xx[i] - mx[i] * mx[i] + yy[i] - my[i] * my[i] + kC2;
      const float inverse = 1 / (b1 * b2), s = a1 * a2 * inverse;
      sum += double(w) * s;
      // a2 and b2 hold mx too, through the covariance and the variance.
      partial[0][row * n + i] =
          w * (2 * my[i] * (a2 - a1) * inverse - 2 * mx[i] * s * (1 / b1 - 1 / b2));
      partial[1][row * n + i] = -w * s / b2;
      partial[2][row * n + i] = w * 2 * a1 * inverse;
    }
    row_sums[row] = sum;
  };
  parallel_for(threads, height, similarity);
  if (v_x == nullptr) return;

  auto again = [&](int64_t row, int) {
    for (int m = 0; m < 3; ++m)
      blur_row(partial[m] + row * n, n, channels, taps, blurred[m] + row * n);
  };
  parallel_for(threads, height, again);
  auto gradient = [&](int64_t row, int thread) {
    float* line = lines + 5 * n * thread;
    for (int m = 0; m < 3; ++m) blur_column(blurred[m], height, n, row, taps, line + m * n);
    const float *a = x + row * n, *b = y + row * n;
    for (int64_t i = 0; i < n; ++i)
      v_x[row * n + i] = line[i] + 2 * a[i] * line[n + i] + b[i] * line[2 * n + i];
  };
  parallel_for(threads, height, gradient);
}

}  // namespace fit3d
