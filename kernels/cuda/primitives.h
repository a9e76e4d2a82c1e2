// Stable sorts and scans over the whole device: CUB, or the standard library in the emulator.
// Scratch is the caller's; a null `scratch` only returns the bytes that a call needs.
#pragma once

#include <utility>

#include "platform.h"

#if defined(F3D_EMULATE)
#include <algorithm>
#include <vector>
#else
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace fit3d {
namespace cuda {

// Cuts one scratch block into aligned arrays. Without memory it only measures: run the same cuts twice.
struct Cutter {
  char* memory;
  size_t used = 0;
  explicit Cutter(void* memory_ = nullptr) : memory(static_cast<char*>(memory_)) {}
  template <class T>
  T* take(int64_t count) {
    T* at = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    used += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return at;
  }
};

// A driver checks the scratch that it was given before it cuts it.
inline void require_scratch(size_t needed, size_t given, const char* name) {
  if (given < needed)
    throw CudaError(cudaErrorInvalidValue, std::string(name) + ": scratch has " + std::to_string(given) +
                                               " bytes, needs " + std::to_string(needed));
}

// Bits that numbers in [0, count) take, at least one.
inline int bits_of(int64_t count) {
  int bits = 1;
  while (bits < 63 && (int64_t{1} << bits) < count) ++bits;
  return bits;
}

#if defined(F3D_EMULATE)

// Sorts (key, value) pairs by key bits [begin_bit, end_bit); Key is an unsigned integer.
template <class Key, class Value>
size_t sort_pairs(void* scratch, size_t, const Key* keys, Key* sorted_keys, const Value* values,
                  Value* sorted_values, int64_t count, int begin_bit, int end_bit, Stream) {
  if (!scratch) return 256;
  const int width = end_bit - begin_bit;
  const Key mask = width >= static_cast<int>(8 * sizeof(Key)) ? ~Key{0} : (Key{1} << width) - 1;
  auto digits = [&](Key key) { return static_cast<Key>(key >> begin_bit & mask); };
  std::vector<std::pair<Key, Value>> all(count);
  for (int64_t i = 0; i < count; ++i) all[i] = {keys[i], values[i]};
  std::stable_sort(all.begin(), all.end(), [&](const std::pair<Key, Value>& a, const std::pair<Key, Value>& b) {
    return digits(a.first) < digits(b.first);
  });
  for (int64_t i = 0; i < count; ++i) sorted_keys[i] = all[i].first, sorted_values[i] = all[i].second;
  return 0;
}

// In and out may be the same array. Sums have the type T.
template <class T>
size_t exclusive_scan(void* scratch, size_t, const T* in, T* out, int64_t count, Stream) {
  if (!scratch) return 256;
  T sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T value = in[i];
    out[i] = sum, sum += value;
  }
  return 0;
}
template <class T>
size_t inclusive_scan(void* scratch, size_t, const T* in, T* out, int64_t count, Stream) {
  if (!scratch) return 256;
  T sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += in[i], out[i] = sum;
  return 0;
}

#else

// CUB is built for 32-bit counts only: half the code, and faster.
inline int32_t narrow(int64_t count) {
  if (count > INT32_MAX) throw CudaError(cudaErrorInvalidValue, "cannot sort or scan 2^31 items and more");
  return static_cast<int32_t>(count);
}

template <class Key, class Value>
size_t sort_pairs(void* scratch, size_t bytes, const Key* keys, Key* sorted_keys, const Value* values,
                  Value* sorted_values, int64_t count, int begin_bit, int end_bit, Stream stream) {
  F3D_CHECK(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values, sorted_values,
                                            narrow(count), begin_bit, end_bit,
                                            static_cast<cudaStream_t>(stream)));
  return bytes;
}

template <class T>
size_t exclusive_scan(void* scratch, size_t bytes, const T* in, T* out, int64_t count, Stream stream) {
  F3D_CHECK(cub::DeviceScan::ExclusiveSum(scratch, bytes, in, out, narrow(count), static_cast<cudaStream_t>(stream)));
  return bytes;
}
template <class T>
size_t inclusive_scan(void* scratch, size_t bytes, const T* in, T* out, int64_t count, Stream stream) {
  F3D_CHECK(cub::DeviceScan::InclusiveSum(scratch, bytes, in, out, narrow(count), static_cast<cudaStream_t>(stream)));
  return bytes;
}

#endif

// Bytes of the above, for counts of at least 1.
template <class Key, class Value>
size_t sort_pairs_bytes(int64_t count, int begin_bit, int end_bit) {
  return sort_pairs<Key, Value>(nullptr, 0, nullptr, nullptr, nullptr, nullptr, count, begin_bit, end_bit, nullptr);
}
template <class T>
size_t exclusive_scan_bytes(int64_t count) {
  return exclusive_scan<T>(nullptr, 0, nullptr, nullptr, count, nullptr);
}
template <class T>
size_t inclusive_scan_bytes(int64_t count) {
  return inclusive_scan<T>(nullptr, 0, nullptr, nullptr, count, nullptr);
}

}  // namespace cuda
}  // namespace fit3d
