// Projection and harmonics, one thread per Gaussian (kernels/README.md "project", "harmonics").
#include "fit3d/project.h"

#include <type_traits>

#include "fit3d/harmonics.h"
#include "ops.h"
#include "platform.h"

namespace fit3d {
namespace cuda {
namespace {

constexpr int kBlock = 128;

Camera camera_of(const ProjectIn& in) {
  return make_camera(in.viewmat, in.K, in.width, in.height, in.near_plane, in.far_plane, in.eps2d);
}

__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
}

__global__ void __launch_bounds__(kBlock)
project_kernel(Camera camera, int64_t count, const float* means, const float* quats,
               const float* scales, const float* opacities, float* means2d, float* conics,
               float* depths, int32_t* radii) {
  const int64_t n = thread_number();
  if (n >= count) return;
  float m[2] = {0, 0}, q[3] = {0, 0, 0}, depth = 0;
  int32_t r[2];
  Projection p;
  if (project_one(camera, means + 3 * n, quats + 4 * n, scales + 3 * n, &p) &&
      extent_of(camera, p, opacities[n], r)) {
    m[0] = p.mx, m[1] = p.my, q[0] = p.A, q[1] = p.B, q[2] = p.C, depth = p.p[2];
  } else {
    r[0] = r[1] = 0;
  }
  for (int i = 0; i < 2; ++i) means2d[2 * n + i] = m[i], radii[2 * n + i] = r[i];
  for (int i = 0; i < 3; ++i) conics[3 * n + i] = q[i];
  depths[n] = depth;
}

__global__ void __launch_bounds__(kBlock)
project_adjoint_kernel(Camera camera, int64_t count, const float* means, const float* quats,
                       const float* scales, const int32_t* radii, const float* v_means2d,
                       const float* v_conics, const float* v_depths, float* v_means, float* v_quats,
                       float* v_scales) {
  const int64_t n = thread_number();
  if (n >= count) return;
  float vm[3] = {0, 0, 0}, vq[4] = {0, 0, 0, 0}, vs[3] = {0, 0, 0};
  Projection p;
  if (radii[2 * n] > 0 && project_one(camera, means + 3 * n, quats + 4 * n, scales + 3 * n, &p))
    project_one_adjoint(camera, p, scales + 3 * n, v_means2d + 2 * n, v_conics + 3 * n, v_depths[n],
                        vm, vq, vs);
  for (int i = 0; i < 3; ++i) v_means[3 * n + i] = vm[i], v_scales[3 * n + i] = vs[i];
  for (int i = 0; i < 4; ++i) v_quats[4 * n + i] = vq[i];
}

struct Center { float x[3]; };

// The harmonics of the direction from the centre to a visible Gaussian; false: no direction, no colour.
__device__ __forceinline__ bool bases_of(const float* means, const int32_t* radii, Center center,
                                         int64_t n, int degree, float* b) {
  if (radii[2 * n] <= 0) return false;
  float d[3];
  for (int i = 0; i < 3; ++i) d[i] = means[3 * n + i] - center.x[i];
  const float norm = sqrtf(dot3(d, d));
  if (!(norm > 0) || !std::isfinite(norm)) return false;
  harmonic_bases(degree, d[0] / norm, d[1] / norm, d[2] / norm, b);
  return true;
}

// Coefficient rows are long (up to 192 bytes): the block moves them together, so that memory is read
// and written in order, and each thread works on its own row. Odd strides keep the banks apart.
template <int kDegree>
__global__ void __launch_bounds__(kBlock)
harmonics_kernel(int64_t count, int bases, const float* means, Center center, const float* sh,
                 const int32_t* radii, float* colors) {
  constexpr int kUsed = (kDegree + 1) * (kDegree + 1), kRow = 3 * kUsed, kStride = kRow | 1;
  F3D_SHARED(float, rows, [kBlock * kStride]);
  F3D_SHARED(int, visible, [kBlock]);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlock, n = first + thread;
  float b[kUsed];
  const bool seen = n < count && bases_of(means, radii, center, n, kDegree, b);
  visible[thread] = seen;
  __syncthreads();
  for (int i = thread; i < kBlock * kRow; i += kBlock) {
    const int row = i / kRow, column = i - row * kRow;
    if (visible[row]) rows[row * kStride + column] = sh[(first + row) * 3 * bases + column];
  }
  __syncthreads();
  if (n >= count) return;
  float color[3] = {0, 0, 0};
  if (seen)
    for (int k = 0; k < kUsed; ++k)
      for (int c = 0; c < 3; ++c) color[c] += b[k] * rows[thread * kStride + 3 * k + c];
  for (int c = 0; c < 3; ++c) colors[3 * n + c] = color[c];
}

template <int kDegree>
__global__ void __launch_bounds__(kBlock)
harmonics_adjoint_kernel(int64_t count, int bases, const float* means, Center center,
                         const int32_t* radii, const float* v_colors, float* v_sh) {
  constexpr int kUsed = (kDegree + 1) * (kDegree + 1), kStride = kUsed | 1;
  F3D_SHARED(float, weights, [kBlock * kStride]);
  F3D_SHARED(float, color, [kBlock * 3]);
  const int thread = static_cast<int>(threadIdx.x), row_size = 3 * bases;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlock, n = first + thread;
  float b[kUsed];
  const bool seen = n < count && bases_of(means, radii, center, n, kDegree, b);
  for (int k = 0; k < kUsed; ++k) weights[thread * kStride + k] = seen ? b[k] : 0.0f;
  for (int c = 0; c < 3; ++c) color[3 * thread + c] = seen ? v_colors[3 * n + c] : 0.0f;
  __syncthreads();
  for (int row = thread / kWarp; row < kBlock && first + row < count; row += kBlock / kWarp) {
    float* to = v_sh + (first + row) * row_size;
    for (int column = thread % kWarp; column < row_size; column += kWarp) {
      const int k = column / 3;
      to[column] = k < kUsed ? weights[row * kStride + k] * color[3 * row + column - 3 * k] : 0.0f;
    }
  }
}

// Calls body with the degree as a constant.
template <class Body>
void with_degree(int degree, Body body) {
  switch (degree) {
    case 0: return body(std::integral_constant<int, 0>());
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    default: throw CudaError(cudaErrorInvalidValue, "harmonics: the degree is 0 to 3");
  }
}

}  // namespace

void project_forward(const ProjectIn& in, float* means2d, float* conics, float* depths,
                     int32_t* radii, Stream stream) {
  F3D_LAUNCH(project_kernel, blocks_of(in.count, kBlock), kBlock, 0, stream, camera_of(in), in.count,
             in.means, in.quats, in.scales, in.opacities, means2d, conics, depths, radii);
}

void project_backward(const ProjectIn& in, const int32_t* radii, const float* v_means2d,
                      const float* v_conics, const float* v_depths, float* v_means, float* v_quats,
                      float* v_scales, Stream stream) {
  F3D_LAUNCH(project_adjoint_kernel, blocks_of(in.count, kBlock), kBlock, 0, stream, camera_of(in),
             in.count, in.means, in.quats, in.scales, radii, v_means2d, v_conics, v_depths, v_means,
             v_quats, v_scales);
}

void harmonics_forward(int64_t count, int degree, int bases, const float* means, const float* center,
                       const float* sh, const int32_t* radii, float* colors, Stream stream) {
  const Center c{{center[0], center[1], center[2]}};
  with_degree(degree, [&](auto constant) {
    constexpr int kDegree = decltype(constant)::value;
    F3D_LAUNCH(harmonics_kernel<kDegree>, blocks_of(count, kBlock), kBlock, 0, stream, count, bases, means, c,
               sh, radii, colors);
  });
}

void harmonics_backward(int64_t count, int degree, int bases, const float* means,
                        const float* center, const int32_t* radii, const float* v_colors,
                        float* v_sh, Stream stream) {
  const Center c{{center[0], center[1], center[2]}};
  with_degree(degree, [&](auto constant) {
    constexpr int kDegree = decltype(constant)::value;
    F3D_LAUNCH(harmonics_adjoint_kernel<kDegree>, blocks_of(count, kBlock), kBlock, 0, stream, count, bases,
               means, c, radii, v_colors, v_sh);
  });
}

}  // namespace cuda
}  // namespace fit3d
