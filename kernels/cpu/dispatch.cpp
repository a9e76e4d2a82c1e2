#include <atomic>

#include "ops.h"

namespace fit3d {

namespace baseline {
extern const BlendOps kOps;
}
#if F3D_BUILD_AVX2
namespace avx2 {
extern const BlendOps kOps;
}
#elif F3D_BUILD_NEON
namespace neon {
extern const BlendOps kOps;
}
#endif

namespace {
std::atomic<bool> forced_baseline{false};
}

void use_baseline(bool baseline) { forced_baseline = baseline; }

const BlendOps& blend_ops() {
#if F3D_BUILD_AVX2
  static const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (supported && !forced_baseline) return avx2::kOps;
#elif F3D_BUILD_NEON
  if (!forced_baseline) return neon::kOps;
#endif
  return baseline::kOps;
}

}  // namespace fit3d
