// A tile's place, its subtiles, and the alpha of a splat at a pixel: what all kernels on W share.
#pragma once

#include "fit3d/macros.h"
#include "platform.h"

namespace fit3d {
namespace cuda {

constexpr int kTileThreads = kSubtiles * kWarp;  // one thread per pixel of a tile
static_assert(kTileThreads == kTile * kTile, "eight subtiles of 32 pixels cover a tile");

// The pixel of a thread in a block of kTileThreads that works on one tile: warp s has subtile s.
struct Pixel {
  int x, y;
  bool inside;   // the picture
  int64_t index;  // row-major, valid where inside
};
static __device__ __forceinline__ Pixel pixel_at(int tile, int subtile, int lane, int width, int height) {
  const int columns = tile_count(width);
  Pixel p;
  p.x = tile % columns * kTile + subtile % 2 * kSubtileWidth + lane % kSubtileWidth;
  p.y = tile / columns * kTile + subtile / 2 * kSubtileHeight + lane / kSubtileWidth;
  p.inside = p.x < width && p.y < height;
  p.index = static_cast<int64_t>(p.y) * width + p.x;
  return p;
}

// The low bits of `mask` in front of subtile s: how many entries of the item come before its entry.
static __device__ __forceinline__ int entries_before(unsigned mask, int s) {
  return __popc(mask & ((1u << s) - 1u));
}

// A splat (ellipse.h) at a pixel centre. The products are rounded as in the CPU's fused kernel, so
// that forward and adjoint, and both processors, see the same sigma.
struct Shade {
  float dx, dy;
  float alpha;  // clamped
  bool counts;  // alpha >= 1/255 and sigma >= 0
  bool steep;   // not clamped: alpha has a gradient
};
static __device__ __forceinline__ Shade shade(float mx, float my, float half_a, float b, float half_c,
                                              float opacity, float px, float py) {
  Shade r;
  r.dx = mx - px, r.dy = my - py;
  const float sigma = fmaf(fmaf(half_a, r.dx, b * r.dy), r.dx, half_c * r.dy * r.dy);
  const float alpha = opacity * expf(fmaxf(-sigma, -80.0f));
  r.counts = alpha >= kAlphaMin && sigma >= 0.0f;
  r.steep = alpha <= kAlphaMax;
  r.alpha = fminf(alpha, kAlphaMax);
  return r;
}

}  // namespace cuda
}  // namespace fit3d
