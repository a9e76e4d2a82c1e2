#include <cstring>

#include "ops.h"
#include "parallel.h"

namespace fit3d {

int64_t depth_order(int64_t count, const float* depths, const int32_t* radii, uint32_t* scratch,
                    int32_t* order) {
  uint32_t *keys = scratch, *ids = scratch + count;
  uint32_t *other_keys = scratch + 2 * count, *other_ids = scratch + 3 * count;
  constexpr int kBits = 11, kBuckets = 1 << kBits;  // three passes cover 32 bits
  int64_t histogram[3][kBuckets] = {};
  int64_t visible = 0;
  for (int64_t n = 0; n < count; ++n) {
    if (radii[2 * n] <= 0) continue;
    uint32_t key;  // depths are positive, so their bits sort like their values
    std::memcpy(&key, depths + n, 4);
    keys[visible] = key, ids[visible++] = static_cast<uint32_t>(n);
    for (int pass = 0; pass < 3; ++pass) ++histogram[pass][key >> (kBits * pass) & (kBuckets - 1)];
  }
  for (int pass = 0; pass < 3; ++pass) {  // stable, starting in id order: ties keep the lower id
    int64_t at = 0;
    for (int64_t& bucket : histogram[pass]) {
      const int64_t size = bucket;
      bucket = at, at += size;
    }
    for (int64_t i = 0; i < visible; ++i) {
      const int64_t to = histogram[pass][keys[i] >> (kBits * pass) & (kBuckets - 1)]++;
      other_keys[to] = keys[i], other_ids[to] = ids[i];
    }
    uint32_t* swap = keys;
    keys = other_keys, other_keys = swap;
    swap = ids, ids = other_ids, other_ids = swap;
  }
  if (visible) std::memcpy(order, ids, sizeof(uint32_t) * visible);
  return visible;
}

}  // namespace fit3d
