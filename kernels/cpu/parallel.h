// Work sharing. Every work item writes its own memory, so results do not depend on which thread
// takes it: any thread count gives the same bits.
#pragma once

#include <cstdint>

namespace fit3d {

// Calls body(context, item, thread) once for every item in [0, items); thread < threads.
void parallel_items(int threads, int64_t items, void (*body)(void*, int64_t, int), void* context);

// The same for a callable `body(item, thread)`.
template <class Body>
static inline void parallel_for(int threads, int64_t items, Body& body) {
  parallel_items(
      threads, items,
      [](void* context, int64_t item, int thread) { (*static_cast<Body*>(context))(item, thread); },
      &body);
}

}  // namespace fit3d
