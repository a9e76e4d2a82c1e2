// What the module asks about devices.
#include "ops.h"
#include "platform.h"

namespace fit3d {
namespace cuda {

#if defined(F3D_EMULATE)

int device_count() { return 1; }
DeviceInfo device_info(int device) {
  if (device != 0) check(cudaErrorInvalidDevice, "device_info");
  return {"emulated", 8, 0, 0, 0, size_t{1} << 30, size_t{1} << 30, true};
}

#else

namespace {

__global__ void probe_kernel() {}

// Makes a device current and puts the caller's back.
struct OnDevice {
  int before = 0;
  explicit OnDevice(int device) {
    F3D_CHECK(cudaGetDevice(&before));
    F3D_CHECK(cudaSetDevice(device));
  }
  ~OnDevice() { cudaSetDevice(before); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
};

}  // namespace

int device_count() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) {
    cudaGetLastError();  // it is no failure, so it must not be seen by the next call
    return 0;
  }
  F3D_CHECK(code);
  return count;
}

DeviceInfo device_info(int device) {
  DeviceInfo info{};
  cudaDeviceProp properties;
  F3D_CHECK(cudaGetDeviceProperties(&properties, device));
  info.name = properties.name, info.major = properties.major, info.minor = properties.minor;
  F3D_CHECK(cudaDriverGetVersion(&info.driver));
  F3D_CHECK(cudaRuntimeGetVersion(&info.runtime));
  const OnDevice current(device);
  F3D_CHECK(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  cudaFuncAttributes attributes;
  info.runs = cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess;
  if (!info.runs) cudaGetLastError();
  return info;
}

#endif

}  // namespace cuda
}  // namespace fit3d
