// Results of one instruction set in a file, and the comparison of two such files.
#pragma once

#include <cstdint>

namespace fit3d {
namespace tests {

int dump(const char* path, int64_t scenes, uint64_t seed, const char* isa);
int compare(const char* first, const char* second, bool same_bits);

}  // namespace tests
}  // namespace fit3d
