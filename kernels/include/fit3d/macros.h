// Shared by the CPU drivers and, later, the CUDA ones: qualifiers and the constants of the model.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define F3D_HD static __host__ __device__ __forceinline__
#else
// Internal linkage on purpose: the same header is compiled for several instruction sets, and a
// weak symbol built with AVX2 must never be picked by the linker for the baseline path.
#define F3D_HD static inline
#endif

namespace fit3d {

constexpr int kTile = 16;           // pixels per tile side
constexpr int kGroupWidth = 4;      // a group is 4 x 2 pixels: one vector of 8 lanes
constexpr int kGroupHeight = 2;
constexpr int kLanes = 8;
constexpr int kGroupRows = kTile / kGroupHeight;                 // 8
constexpr int kGroupCols = kTile / kGroupWidth;                  // 4
constexpr int kGroupsPerTile = kGroupRows * kGroupCols;          // 32, so a tile mask is 32 bits
constexpr int kSplat = 16;          // floats of a packed splat, see ellipse.h

constexpr float kAlphaMin = 1.0f / 255.0f;  // fainter contributions are skipped
constexpr float kAlphaMax = 0.99f;          // alphas are clamped here
constexpr float kTransmittanceMin = 1e-4f;  // a pixel stops before falling to this
constexpr float kQuatNormMin = 1e-12f;      // shorter quaternions have no direction

// a b, never fused with a sum: for what several kernels must find alike, to the last bit.
F3D_HD float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

F3D_HD int tile_count(int pixels) { return (pixels + kTile - 1) / kTile; }

}  // namespace fit3d
