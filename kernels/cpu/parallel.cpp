#include "parallel.h"

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace fit3d {

void parallel_items(int threads, int64_t items, void (*body)(void*, int64_t, int), void* context) {
  if (threads > items) threads = static_cast<int>(items);
  if (threads <= 1) {
    for (int64_t i = 0; i < items; ++i) body(context, i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  auto work = [&](int thread) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items;) body(context, i, thread);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(threads - 1);
  for (int t = 1; t < threads; ++t) {
    try {
      helpers.emplace_back(work, t);
    } catch (const std::system_error&) {
      break;  // the system gives no more threads: fewer do the same work
    }
  }
  work(0);
  for (auto& helper : helpers) helper.join();
}

}  // namespace fit3d
