// The part of CUDA that the kernels use, on the CPU, to prove them right without a GPU. For tests only.
//
// Compile and run anything that calls ops.h (any order of files, no CUDA needed):
//   g++ -std=c++17 -O2 -DF3D_EMULATE -I kernels -I kernels/include -x c++ -o my_test
//       kernels/cuda/apply.cu kernels/cuda/weights.cu my_test.cpp kernels/cuda/emulate/fibers.cpp
//
// Every CUDA thread is a fiber; it runs until it meets a barrier, a warp operation or its end, and a warp
// goes on until all of its threads wait for other warps. The order of threads, warps and blocks is chosen
// by set_order() or F3D_EMULATE_ORDER ("ascending", "descending", "random:SEED"): a missing barrier gives
// different results. Errors (CudaError):
//   - a barrier or a warp operation that some of its threads do not reach (they exited or wait elsewhere),
//     or reach with another mask, another operation or at another line
//   - a shuffle from a lane outside of the mask
//   - writing past an array in shared memory (guards, checked when a block ends); too much shared memory
// Shared memory and cudaMalloc's memory start as NaN. cp.async delivers only when it is waited for.
// Stricter than the hardware: threads that exited count as missing at a barrier or a warp operation.
// Not seen: races whose result does not depend on the order, and wrong addresses in global memory, which
// -fsanitize=address,undefined finds (ASAN_OPTIONS=detect_stack_use_after_return=0).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// --- vector types --------------------------------------------------------------------------------
struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace fit3d {
namespace cuda {
namespace emulate {

// "ascending", "descending" or "random:SEED", for threads and blocks; std::invalid_argument otherwise.
void set_order(const std::string& order);

void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes,
            const std::function<void()>& thread);
void* shared_slot(const void* key, const char* name, size_t bytes);
void* dynamic_shared();

struct Site {  // where in the source a thread waits
  const char* file;
  int line;
};
struct Lane {  // what a thread brings to a warp operation and what it takes away
  alignas(16) unsigned char in[48];
  alignas(16) unsigned char out[16];
};
using Combine = void (*)(Lane* const* lanes, uint32_t mask);  // lanes outside of the mask are null
// Waits for all lanes of the mask; `combine` runs once with all of them, the result goes to `out`.
void warp_collective(const char* operation, uint32_t mask, const void* in, size_t in_bytes, void* out,
                     size_t out_bytes, Combine combine, Site site);
struct Tally { int count, all; };
Tally block_barrier(int predicate, Site site);  // how many threads brought a non-zero predicate
[[noreturn]] void fail(const std::string& what);

void copy_async(void* to, const void* from, size_t bytes);
void commit_async();
void wait_async(int pending);

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

uint32_t to_tf32(float x);
void mma_tf32(float* c, const uint32_t* a, const uint32_t* b, const char* file = __builtin_FILE(),
              int line = __builtin_LINE());

uint64_t shuffle(const char* operation, uint32_t mask, uint64_t value, int source, Site site);
uint32_t ballot(const char* operation, uint32_t mask, bool predicate, Site site);
enum class Reduce { kAdd, kMin, kMax, kAnd, kOr };
uint32_t reduce(Reduce how, bool is_signed, uint32_t mask, uint32_t value, Site site);
int lane();

template <class T>
T shuffle_value(const char* operation, uint32_t mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= 8, "at most 64 bits");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = shuffle(operation, mask, word, source, site);
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

}  // namespace emulate
}  // namespace cuda
}  // namespace fit3d

#define F3D_SITE const char* file = __builtin_FILE(), int line = __builtin_LINE()

// --- barriers and warp operations ----------------------------------------------------------------
inline void __syncthreads(F3D_SITE) { fit3d::cuda::emulate::block_barrier(0, {file, line}); }
inline int __syncthreads_count(int predicate, F3D_SITE) {
  return fit3d::cuda::emulate::block_barrier(predicate, {file, line}).count;
}
inline int __syncthreads_and(int predicate, F3D_SITE) {
  return fit3d::cuda::emulate::block_barrier(predicate, {file, line}).all;
}
inline int __syncthreads_or(int predicate, F3D_SITE) {
  return fit3d::cuda::emulate::block_barrier(predicate, {file, line}).count != 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, F3D_SITE) {
  fit3d::cuda::emulate::warp_collective("__syncwarp", mask, nullptr, 0, nullptr, 0, nullptr, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, F3D_SITE) {
  return fit3d::cuda::emulate::ballot("__ballot_sync", mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, F3D_SITE) {
  return fit3d::cuda::emulate::ballot("__any_sync", mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, F3D_SITE) {
  return fit3d::cuda::emulate::ballot("__all_sync", mask, predicate != 0, {file, line}) == mask;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, F3D_SITE) {
  const int lane = fit3d::cuda::emulate::lane(), first = lane & ~(width - 1);
  return fit3d::cuda::emulate::shuffle_value("__shfl_sync", mask, value, first | (source & (width - 1)),
                                             {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, F3D_SITE) {
  const int lane = fit3d::cuda::emulate::lane(), from = lane - static_cast<int>(delta);
  return fit3d::cuda::emulate::shuffle_value("__shfl_up_sync", mask, value,
                                             from < (lane & ~(width - 1)) ? lane : from, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, F3D_SITE) {
  const int lane = fit3d::cuda::emulate::lane(), from = lane + static_cast<int>(delta);
  return fit3d::cuda::emulate::shuffle_value("__shfl_down_sync", mask, value,
                                             from > (lane | (width - 1)) ? lane : from, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, F3D_SITE) {
  const int lane = fit3d::cuda::emulate::lane(), from = lane ^ bits;
  return fit3d::cuda::emulate::shuffle_value("__shfl_xor_sync", mask, value,
                                             from > (lane | (width - 1)) ? lane : from, {file, line});
}
#define F3D_REDUCE(name, type, how, is_signed)                                                        \
  inline type name(unsigned mask, type value, F3D_SITE) {                                             \
    return static_cast<type>(fit3d::cuda::emulate::reduce(fit3d::cuda::emulate::Reduce::how, is_signed, \
                                                          mask, static_cast<uint32_t>(value), {file, line})); \
  }
F3D_REDUCE(__reduce_add_sync, int, kAdd, true)
F3D_REDUCE(__reduce_add_sync, unsigned, kAdd, false)
F3D_REDUCE(__reduce_min_sync, int, kMin, true)
F3D_REDUCE(__reduce_min_sync, unsigned, kMin, false)
F3D_REDUCE(__reduce_max_sync, int, kMax, true)
F3D_REDUCE(__reduce_max_sync, unsigned, kMax, false)
F3D_REDUCE(__reduce_and_sync, unsigned, kAnd, false)
F3D_REDUCE(__reduce_or_sync, unsigned, kOr, false)
#undef F3D_REDUCE

// --- one thread runs at a time, so atomics are plain ---------------------------------------------
template <class T>
T atomicAdd(T* at, T value) { const T old = *at; *at = old + value; return old; }
template <class T>
T atomicMax(T* at, T value) { const T old = *at; *at = old < value ? value : old; return old; }
template <class T>
T atomicMin(T* at, T value) { const T old = *at; *at = value < old ? value : old; return old; }
template <class T>
T atomicOr(T* at, T value) { const T old = *at; *at = old | value; return old; }
template <class T>
T atomicExch(T* at, T value) { const T old = *at; *at = value; return old; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// --- arithmetic ----------------------------------------------------------------------------------
template <class T>
T __ldg(const T* at) { return *at; }
inline unsigned __float_as_uint(float x) { return fit3d::cuda::emulate::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return fit3d::cuda::emulate::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return fit3d::cuda::emulate::bit_cast<float>(x); }
inline float __int_as_float(int x) { return fit3d::cuda::emulate::bit_cast<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
#define F3D_MIN_MAX(type)                                           \
  inline type min(type a, type b) { return b < a ? b : a; }         \
  inline type max(type a, type b) { return a < b ? b : a; }
F3D_MIN_MAX(int)
F3D_MIN_MAX(unsigned)
F3D_MIN_MAX(long)
F3D_MIN_MAX(long long)
F3D_MIN_MAX(unsigned long)
F3D_MIN_MAX(unsigned long long)
#undef F3D_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }

// --- runtime: one device, every call done when it returns ------------------------------------------
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
                   cudaErrorInvalidDevice = 101, cudaErrorUnknown = 999 };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
                      cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
struct CUstream_st;
using cudaStream_t = CUstream_st*;
inline const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaSuccess ? "no error" : code == cudaErrorMemoryAllocation ? "out of memory" : "emulated error";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** to, size_t bytes) {
  *to = std::malloc(bytes ? bytes : 1);
  if (!*to) return cudaErrorMemoryAllocation;
  std::memset(*to, 0xff, bytes);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMalloc(T** to, size_t bytes) { return cudaMalloc(reinterpret_cast<void**>(to), bytes); }
inline cudaError_t cudaFree(void* at) { std::free(at); return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind);
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t = nullptr) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
