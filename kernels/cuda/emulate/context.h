// A stack of one's own: start(stack, bytes, entry), then change(from, to). The entry never returns.
#pragma once

#include <algorithm>
#include <cstddef>

#if !defined(__x86_64__) || !defined(__ELF__)
#include <ucontext.h>
#endif

namespace fit3d {
namespace cuda {
namespace emulate {

#if defined(__x86_64__) && defined(__ELF__)
extern "C" void f3d_switch(void** save, void* load);
asm(R"(
.text
.hidden f3d_switch
.globl f3d_switch
.type f3d_switch, @function
f3d_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size f3d_switch, .-f3d_switch
)");
struct Context {
  void* sp = nullptr;
  // The stack as a switch leaves it: six registers, the entry as return address, and none behind it.
  void start(char* stack, size_t bytes, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + bytes) - 8;
    std::fill(top, top + 8, nullptr);
    top[6] = reinterpret_cast<void*>(entry);
    sp = top;
  }
  static void change(Context& from, Context& to) { f3d_switch(&from.sp, to.sp); }
};
#else
struct Context {  // slower: every switch saves the signal mask
  ucontext_t context;
  void start(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack, context.uc_stack.ss_size = bytes, context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};
#endif

}  // namespace emulate
}  // namespace cuda
}  // namespace fit3d
