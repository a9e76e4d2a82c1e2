// CUDA as the .cu files see it: nvcc's, or the emulator (-DF3D_EMULATE). What differs between the two
// lives here, so that a kernel reads the same for both; `<<<>>>` appears nowhere else.
#pragma once

#include "ops.h"

#if defined(F3D_EMULATE)
#include "emulate/cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace fit3d {
namespace cuda {

constexpr unsigned kFullMask = 0xffffffffu;

// Throws CudaError with the name of the call (cut at its arguments) and the driver's words.
inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // reported here, so not again by the next launch
  std::string name(call);
  name = name.substr(0, name.find('('));
  throw CudaError(code, name + ": " + cudaGetErrorString(code));
}
#define F3D_CHECK(call) ::fit3d::cuda::check(call, #call)

#if defined(F3D_EMULATE)
// Shared memory of a block, 16-byte aligned: F3D_SHARED(float, rows, [32][33]);
#define F3D_SHARED(type, name, dims)                                                        \
  static const char name##_key = 0;                                                         \
  typedef type name##_type dims;                                                            \
  name##_type& name = *reinterpret_cast<name##_type*>(                                      \
      ::fit3d::cuda::emulate::shared_slot(&name##_key, #name, sizeof(name##_type)))
// The launch's dynamic shared memory as a pointer: F3D_DYNAMIC_SHARED(float, rows);
#define F3D_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::fit3d::cuda::emulate::dynamic_shared())
#define F3D_UNROLL(n)
#else
#define F3D_SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define F3D_DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char f3d_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(f3d_dynamic_shared)
#define F3D_PRAGMA(text) _Pragma(#text)
#define F3D_UNROLL(n) F3D_PRAGMA(unroll n)
#endif

template <class T>
struct Same { using type = T; };  // keeps the arguments out of deduction: they convert as in a call

// Launches a kernel and checks the launch; an empty grid is nothing to do.
template <class... P>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, typename Same<P>::type... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(F3D_EMULATE)
  (void)stream;
  emulate::launch(name, grid, block, shared_bytes, [&] { kernel(args...); });
#else
  if (shared_bytes > 0)  // static and dynamic together above 48 KB must be asked for
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)), name);
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  check(cudaGetLastError(), name);
#endif
}
// F3D_LAUNCH(kernel, grid, block, shared bytes, stream, arguments...); a template with commas goes
// into parentheses.
#define F3D_LAUNCH(kernel, ...) ::fit3d::cuda::launch(#kernel, kernel, __VA_ARGS__)

inline dim3 blocks_of(int64_t items, int per_block) {
  return dim3(static_cast<unsigned>((items + per_block - 1) / per_block));
}

inline void fill_zero(void* to, size_t bytes, Stream stream) {
  if (bytes) F3D_CHECK(cudaMemsetAsync(to, 0, bytes, static_cast<cudaStream_t>(stream)));
}

// One value from the device, after everything queued on the stream.
template <class T>
T read_back(const T* from, Stream stream) {
  T value{};
  F3D_CHECK(cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost,
                            static_cast<cudaStream_t>(stream)));
  F3D_CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  return value;
}

// --- tensor cores --------------------------------------------------------------------------------
// Bits of x rounded to tf32 (10 fraction bits, ties away from zero).
static __device__ __forceinline__ uint32_t to_tf32(float x) {
#if defined(F3D_EMULATE)
  return emulate::to_tf32(x);
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

// c[16 x 8] += a[16 x 8] b[8 x 8] over a whole warp. With g = lane / 4, t = lane % 4 a lane holds
//   a: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4)    rows of A, columns of A
//   b: (t, g) (t + 4, g)                              rows of B, columns of B
//   c: (g, 2 t) (g, 2 t + 1) (g + 8, 2 t) (g + 8, 2 t + 1)
static __device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
#if defined(F3D_EMULATE)
  emulate::mma_tf32(c, a, b);
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// --- copies to shared memory that go past the registers ---------------------------------------------
// Both addresses are multiples of kBytes (4, 8 or 16). The data may be read after wait_async() by the
// thread itself, after a barrier behind that by others.
template <int kBytes>
static __device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(F3D_EMULATE)
  emulate::copy_async(shared, global, kBytes);
#else
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(kBytes) : "memory");
#endif
}
static __device__ __forceinline__ void commit_async() {  // closes a group of copies
#if defined(F3D_EMULATE)
  emulate::commit_async();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kPending = 0>
static __device__ __forceinline__ void wait_async() {  // until at most kPending groups are under way
#if defined(F3D_EMULATE)
  emulate::wait_async(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace cuda
}  // namespace fit3d
