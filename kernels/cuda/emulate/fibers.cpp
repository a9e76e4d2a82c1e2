// The emulator's engine: one fiber per CUDA thread of a block, block after block. See cuda_emulation.h.
#include <sys/mman.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "context.h"
#include "cuda/platform.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace fit3d {
namespace cuda {
namespace emulate {
namespace {

constexpr size_t kStack = 128 << 10;             // per fiber; pages are taken when touched
constexpr size_t kGuard = 64;                    // bytes around each shared array
constexpr size_t kStaticLimit = 48 << 10, kTotalLimit = 227 << 10;
constexpr unsigned char kGuardByte = 0xa5;

// --- a block under way -----------------------------------------------------------------------------
enum class State { kReady, kInWarp, kAtBarrier, kDone };
struct Copy { void* to; const void* from; size_t bytes; int group; };
struct Fiber {
  Context context;
  State state;
  uint3 index;
  int number;                       // in the block
  const char* operation;            // what it waits in
  uint32_t mask;
  Site site;
  int predicate;
  Lane lane;
  std::vector<Copy> copies;         // cp.async under way
  int groups;                       // committed so far
};
struct Slot { const void* key; const char* name; size_t at, bytes; };

void fiber_main();

struct Machine {
  std::vector<char*> stacks;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Context scheduler;
  Fiber* current = nullptr;
  int count = 0, at_barrier = 0;    // threads of the block; those that wait for it
  Tally tally{0, 0};
  std::exception_ptr error;
  const std::function<void()>* thread = nullptr;
  const char* kernel = "";
  std::vector<Slot> slots;          // the dynamic part first
  size_t used = 0;
  unsigned char* shared;
  char order = 'a';
  std::mt19937_64 random;
  std::mutex mutex;

  Machine() {
    const size_t bytes = 2 * kTotalLimit;
    shared = static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
    const char* wish = std::getenv("F3D_EMULATE_ORDER");
    if (wish) choose(wish);
  }
  void choose(const std::string& name) {
    if (name == "ascending" || name == "descending") {
      order = name[0];
    } else if (name.rfind("random:", 0) == 0 && name.size() > 7 &&
               name.find_first_not_of("0123456789", 7) == std::string::npos) {
      order = 'r', random.seed(std::stoull(name.substr(7)));
    } else {
      throw std::invalid_argument("order is '" + name + "'; use ascending, descending or random:SEED");
    }
  }
  void shuffle(std::vector<int>& list) {
    if (order == 'r') std::shuffle(list.begin(), list.end(), random);
  }
  std::vector<int> ordered(int size) {
    std::vector<int> list(size);
    std::iota(list.begin(), list.end(), 0);
    if (order == 'd') std::reverse(list.begin(), list.end());
    shuffle(list);
    return list;
  }
  void yield() { Context::change(current->context, scheduler); }

  size_t reserve(const void* key, const char* name, size_t bytes) {
    const size_t at = used + kGuard, end = (at + bytes + 15) / 16 * 16;
    if (end + kGuard > 2 * kTotalLimit) fail("too much shared memory");
    std::memset(shared + used, kGuardByte, kGuard);
    std::memset(shared + at, 0xff, bytes);
    std::memset(shared + at + bytes, kGuardByte, end - at - bytes + kGuard);
    used = end;
    slots.push_back({key, name, at, bytes});
    size_t fixed = 0, total = 0;
    for (const Slot& s : slots) total += s.bytes, fixed += s.key ? s.bytes : 0;
    if (fixed > kStaticLimit || total > kTotalLimit)
      fail("too much shared memory: " + std::to_string(fixed) + " bytes static, " + std::to_string(total) + " in all");
    return at;
  }
  void poison() {
    for (const Slot& s : slots) std::memset(shared + s.at, 0xff, s.bytes);
  }
  void check_guards() {
    size_t from = 0;
    for (size_t i = 0; i <= slots.size(); ++i) {
      const size_t to = i < slots.size() ? slots[i].at : used + kGuard;
      for (size_t b = from; b < to; ++b)
        if (shared[b] != kGuardByte)
          fail(std::string("writes outside of shared memory, next to ") + slots[i ? i - 1 : 0].name);
      if (i < slots.size()) from = slots[i].at + slots[i].bytes;
    }
  }
  bool run(Fiber& f);
  void run_block();
  void stuck();
};

Machine& machine() {
  static Machine m;
  return m;
}

std::string place(const Fiber& f) {
  std::string file = f.site.file;
  file = file.substr(file.find_last_of('/') + 1);
  return "thread " + std::to_string(f.number) + (f.state == State::kDone ? " has ended" :
         std::string(" waits in ") + f.operation + " at " + file + ":" + std::to_string(f.site.line));
}

void fiber_main() {
  Machine& m = machine();
  try {
    (*m.thread)();
    if (!m.current->copies.empty()) fail("ends with cp.async under way");
  } catch (...) {
    m.error = std::current_exception();
  }
  m.current->state = State::kDone;
  m.yield();
  std::abort();  // a finished fiber is never resumed
}

void Machine::stuck() {
  std::string text = "threads wait for each other:";
  std::vector<std::string> seen;
  for (int i = 0; i < count; ++i) {
    const std::string at = place(*fibers[i]), key = at.substr(at.find(' ', 7));
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    text += (seen.empty() ? " " : "; ") + at;
    seen.push_back(key);
  }
  fail(text);
}

// Runs a thread until it waits; true if that was its end.
bool Machine::run(Fiber& f) {
  current = &f, threadIdx = f.index;
  Context::change(scheduler, f.context);
  if (error) std::rethrow_exception(std::exchange(error, nullptr));
  return f.state == State::kDone;
}

void Machine::run_block() {
  poison();
  at_barrier = 0;
  for (int i = 0; i < count; ++i) {
    Fiber& f = *fibers[i];
    const unsigned u = static_cast<unsigned>(i);
    f.state = State::kReady, f.number = i, f.groups = 0, f.copies.clear();
    f.index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / (blockDim.x * blockDim.y)};
    f.context.start(stacks[i], kStack, &fiber_main);
  }
  // Warps advance one by one as far as they can, so that nothing but barriers holds a fast one back;
  // in random order half of the visits are cut short, which mixes warps within a phase too.
  const int warps = (count + 31) / 32;
  std::vector<int> turn = ordered(warps), lanes = ordered(32);
  for (int alive = count; alive > 0; shuffle(turn)) {
    bool moved = false;
    for (const int w : turn) {
      const bool once = order == 'r' && random() % 2;
      for (bool ready = true; ready; shuffle(lanes)) {
        ready = false;
        for (const int lane : lanes) {
          const int i = 32 * w + lane;
          if (i >= count || fibers[i]->state != State::kReady) continue;
          ready = moved = true;
          alive -= run(*fibers[i]);
        }
        if (once) break;
      }
    }
    if (!moved) stuck();
  }
  check_guards();
}

}  // namespace

void fail(const std::string& what) {
  Machine& m = machine();
  throw CudaError(cudaErrorUnknown, std::string(m.kernel) + ": " + what + " (block " +
                                        std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + ")");
}

void set_order(const std::string& order) {
  Machine& m = machine();
  std::lock_guard<std::mutex> lock(m.mutex);
  m.choose(order);
}

void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes,
            const std::function<void()>& thread) {
  Machine& m = machine();
  std::lock_guard<std::mutex> lock(m.mutex);
  m.kernel = name, m.thread = &thread, m.error = nullptr;
  const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.y > 65535 || grid.z > 65535)
    fail("invalid launch configuration");
  m.count = static_cast<int>(threads);
  while (m.stacks.size() < threads) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for stacks");
    mprotect(stack, 4096, PROT_NONE);  // overflow stops instead of overwriting a neighbour
    m.stacks.push_back(static_cast<char*>(stack));
    m.fibers.push_back(std::make_unique<Fiber>());
  }
  gridDim = grid, blockDim = block;
  m.slots.clear(), m.used = 0;
  m.reserve(nullptr, "dynamic shared memory", shared_bytes);
  const size_t blocks = static_cast<size_t>(grid.x) * grid.y * grid.z;
  for (const int b : m.ordered(static_cast<int>(blocks))) {
    const unsigned u = static_cast<unsigned>(b);
    blockIdx = {u % grid.x, u / grid.x % grid.y, u / (grid.x * grid.y)};
    m.run_block();
  }
}

void* dynamic_shared() { return machine().shared + machine().slots[0].at; }

void* shared_slot(const void* key, const char* name, size_t bytes) {
  Machine& m = machine();
  for (const Slot& s : m.slots)
    if (s.key == key) return m.shared + s.at;
  return m.shared + m.reserve(key, name, bytes);
}

int lane() { return machine().current->number % 32; }

void warp_collective(const char* operation, uint32_t mask, const void* in, size_t in_bytes, void* out,
                     size_t out_bytes, Combine combine, Site site) {
  Machine& m = machine();
  Fiber& self = *m.current;
  const int first = self.number / 32 * 32;
  if (!(mask >> (self.number - first) & 1)) fail(std::string(operation) + ": the mask lacks the calling lane");
  self.operation = operation, self.mask = mask, self.site = site, self.state = State::kInWarp;
  if (in_bytes) std::memcpy(self.lane.in, in, in_bytes);
  Lane* lanes[32] = {};
  bool complete = true;
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    if (first + i >= m.count) fail(std::string(operation) + ": the mask names a lane that the block lacks");
    Fiber& f = *m.fibers[first + i];
    lanes[i] = &f.lane;
    if (f.state == State::kReady) {
      complete = false;
    } else if (f.state != State::kInWarp || f.mask != mask || std::strcmp(f.operation, operation) != 0 ||
               f.site.line != site.line || std::strcmp(f.site.file, site.file) != 0) {
      fail("lanes of one mask diverge: " + place(self) + ", " + place(f) +
           (f.mask != mask && f.state == State::kInWarp ? " with another mask" : ""));
    }
  }
  if (complete) {
    if (combine) combine(lanes, mask);
    for (int i = 0; i < 32; ++i)
      if (lanes[i]) m.fibers[first + i]->state = State::kReady;
  }
  m.yield();
  if (out_bytes) std::memcpy(out, self.lane.out, out_bytes);
}

Tally block_barrier(int predicate, Site site) {
  Machine& m = machine();
  Fiber& self = *m.current;
  self.operation = "__syncthreads", self.site = site, self.state = State::kAtBarrier;
  self.predicate = predicate != 0;
  if (++m.at_barrier == m.count) {
    Tally tally{0, 0};
    for (int i = 0; i < m.count; ++i) {
      Fiber& f = *m.fibers[i];
      if (f.site.line != site.line || std::strcmp(f.site.file, site.file) != 0)
        fail("threads meet at different barriers: " + place(self) + ", " + place(f));
      tally.count += f.predicate;
    }
    tally.all = tally.count == m.count;
    m.tally = tally, m.at_barrier = 0;
    for (int i = 0; i < m.count; ++i) m.fibers[i]->state = State::kReady;
  }
  m.yield();
  // No thread can complete another barrier before this one has read the tally and joined it.
  return m.tally;
}

void copy_async(void* to, const void* from, size_t bytes) {
  Fiber& f = *machine().current;
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
    fail("cp.async of a misaligned address");
  f.copies.push_back({to, from, bytes, f.groups});
}
void commit_async() { ++machine().current->groups; }
void wait_async(int pending) {
  Fiber& f = *machine().current;
  auto done = [&](const Copy& c) { return c.group < f.groups - pending; };
  for (const Copy& c : f.copies)
    if (done(c)) std::memcpy(c.to, c.from, c.bytes);
  f.copies.erase(std::remove_if(f.copies.begin(), f.copies.end(), done), f.copies.end());
}

#include "warp.inc"

}  // namespace emulate
}  // namespace cuda
}  // namespace fit3d
