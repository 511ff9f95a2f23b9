// The machine of the shim: every CUDA thread is a fiber, and all thread blocks of a launch take
// turns, so that grid-wide barriers work.
#pragma once

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "memory_order.h"

namespace shim {

#ifndef __x86_64__
#error "the fibers switch stacks with x86-64 instructions"
#endif
// Saves the callee-saved registers and the stack pointer, then goes on where `to` was saved.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
shim_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
)");

constexpr size_t kStackBytes = 64 << 10;

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_shim: %s\n", why);
  std::abort();
}

// The shim's own busy functions are not what the sanitizers are there for.
#define SHIM_UNCHECKED \
  __attribute__((no_sanitize_address, no_sanitize_undefined, no_sanitize_thread))

struct Block;

// 16 bytes to shared memory; zeros where `from` is null.
struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  Block* block = nullptr;
  unsigned thread = 0;
  unsigned exchanges = 0;
  void* memory = nullptr;         // what ThreadSanitizer knows of it
  std::vector<Copy> copies;       // that it has not waited for
  std::vector<size_t> committed;  // how many of them there were at each commit
  void* stack_pointer = nullptr;
  Fiber* next = nullptr;  // in the queue that it waits in
};

struct Queue {
  Fiber* first = nullptr;
  Fiber* last = nullptr;

  SHIM_UNCHECKED void append(Fiber* head, Fiber* tail) {
    (first == nullptr ? first : last->next) = head;
    last = tail;
    tail->next = nullptr;
  }
};

// A meeting of `size` fibers; each brings a name, so that two different ones do not pass for one.
struct Meeting {
  size_t size = 0;
  size_t present = 0;
  const char* name = nullptr;
  Queue waiting;
  // Where those who meet pass on what they know; two in turn, as some leave before others.
  char order[2] = {};
  unsigned turn = 0;
};

struct Warp {
  Meeting meeting;
  // What the lanes exchange. Two of them in turn: when one is written again, all have read it.
  struct Exchange {
    uint64_t value[32];
    float fragment[32][12];
  } exchange[2];
};

struct Block {
  unsigned index = 0;
  Meeting meeting;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;
};

struct Machine {
  Queue ready;
  Fiber* running = nullptr;
  void* stack_pointer = nullptr;
  std::function<void()> kernel;
  size_t finished = 0;
  std::vector<std::unique_ptr<unsigned char[]>> stacks;  // kept from launch to launch, as are
  std::vector<void*> memories;
  void* memory = nullptr;      // the host's
  size_t shared_shortage = 0;  // bytes withheld from every block, for a test of the sanitizer
};
inline Machine machine;

SHIM_UNCHECKED inline void stop_running() {
  switch_to(machine.memory);
  shim_switch(&machine.running->stack_pointer, machine.stack_pointer);
}

SHIM_UNCHECKED inline void run_on() {
  switch_to(machine.running->memory);
  shim_switch(&machine.stack_pointer, machine.running->stack_pointer);
}

SHIM_UNCHECKED inline void yield() {
  machine.ready.append(machine.running, machine.running);
  stop_running();
}

SHIM_UNCHECKED inline void meet(Meeting& meeting, const char* name, bool orders_memory) {
  const char* const order = &meeting.order[meeting.turn % 2];
  if (orders_memory) release(order);
  if (meeting.present == 0) meeting.name = name;
  if (meeting.name != name) fail("threads meet at different barriers or warp operations");
  meeting.waiting.append(machine.running, machine.running);
  if (++meeting.present == meeting.size) {
    machine.ready.append(meeting.waiting.first, meeting.waiting.last);
    meeting.waiting.first = nullptr;
    meeting.present = 0;
    ++meeting.turn;
  }
  stop_running();
  if (orders_memory) acquire(order);
}

SHIM_UNCHECKED inline void run_fiber() {
  acquire(&machine.kernel);
  machine.kernel();
  release(&machine.finished);
  ++machine.finished;
  stop_running();
}

inline void launch(unsigned blocks, unsigned threads, size_t shared_bytes,
                   const std::function<void()>& kernel) {
  if (threads % 32 != 0) fail("a block of whole warps, please");
  std::vector<Block> grid(blocks);
  std::vector<Fiber> fibers(size_t{blocks} * threads);
  machine.kernel = kernel;
  machine.finished = 0;
  machine.memory = this_thread();
  for (size_t i = 0; i < fibers.size(); ++i) {
    Fiber& fiber = fibers[i];
    Block& block = grid[i / threads];
    if (i % threads == 0) {
      block.index = static_cast<unsigned>(i / threads);
      block.meeting.size = threads;
      block.warps.resize(threads / 32);
      for (Warp& warp : block.warps) warp.meeting.size = 32;
      const size_t size = shared_bytes - machine.shared_shortage;
      block.shared.reset(new unsigned char[size]);
      std::memset(block.shared.get(), 0xff, size);
    }
    fiber.block = &block;
    fiber.thread = static_cast<unsigned>(i % threads);
    if (machine.stacks.size() == i) {
      machine.stacks.emplace_back(new unsigned char[kStackBytes]);
      machine.memories.push_back(new_thread());
    }
    fiber.memory = machine.memories[i];
    unsigned char* const stack = machine.stacks[i].get();
    ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);  // a fiber leaves its last frame behind
    // Six registers, the entry and a return address that is never used; aligned as after a call.
    auto** const top = reinterpret_cast<void**>(stack + kStackBytes) - 8;
    std::memset(top, 0, 8 * sizeof(void*));
    top[6] = reinterpret_cast<void*>(run_fiber);
    fiber.stack_pointer = top;
  }
  // Every other launch starts its threads from the last to the first: a missing barrier is likelier
  // to show in one of two orders.
  static bool backwards = false;
  for (size_t i = 0; i < fibers.size(); ++i) {
    Fiber* const fiber = &fibers[backwards ? fibers.size() - 1 - i : i];
    machine.ready.append(fiber, fiber);
  }
  backwards = !backwards;
  release(&machine.kernel);
  while (machine.ready.first != nullptr) {
    machine.running = machine.ready.first;
    machine.ready.first = machine.running->next;
    run_on();
  }
  acquire(&machine.finished);
  if (machine.finished != fibers.size()) fail("threads wait for others that never come");
}

struct Index {
  unsigned x;
};
SHIM_UNCHECKED inline Index thread_index() { return {machine.running->thread}; }
SHIM_UNCHECKED inline Index block_index() { return {machine.running->block->index}; }
SHIM_UNCHECKED inline unsigned lane() { return machine.running->thread % 32; }
SHIM_UNCHECKED inline Warp& warp() {
  return machine.running->block->warps[machine.running->thread / 32];
}

// All lanes bring something and then see what all of them brought.
template <typename Bring>
SHIM_UNCHECKED const Warp::Exchange& exchange(const char* name, const Bring& bring) {
  Warp::Exchange& board = warp().exchange[machine.running->exchanges++ % 2];
  bring(board);
  meet(warp().meeting, name, false);  // it orders no memory: that takes a __syncwarp
  return board;
}

template <typename T>
SHIM_UNCHECKED uint64_t to_word(T value) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}
template <typename T>
SHIM_UNCHECKED T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <typename T>
const Warp::Exchange& exchange(const char* name, unsigned mask, T value) {
  if (mask != 0xffffffffu) fail("warp operations of whole warps only");
  return exchange(
      name, [&](Warp::Exchange& board) SHIM_UNCHECKED { board.value[lane()] = to_word(value); });
}

}  // namespace shim
