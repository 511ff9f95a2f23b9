// Test only: what orders memory accesses on a GPU, told to ThreadSanitizer, to which every CUDA
// thread is a thread of its own. Taking turns orders nothing: two accesses that no barrier,
// released count or launch orders are a race, whichever came first.
#pragma once

#ifdef __SANITIZE_THREAD__

#include <sanitizer/tsan_interface.h>

namespace shim {

inline void* new_thread() { return __tsan_create_fiber(0); }
inline void* this_thread() { return __tsan_get_current_fiber(); }
inline void switch_to(void* thread) {
  __tsan_switch_to_fiber(thread, __tsan_switch_to_fiber_no_sync);
}
// What happened before a release happens before what follows an acquire of the same object.
inline void release(const void* object) { __tsan_release(const_cast<void*>(object)); }
inline void acquire(const void* object) { __tsan_acquire(const_cast<void*>(object)); }

}  // namespace shim

#else

namespace shim {

inline void* new_thread() { return nullptr; }
inline void* this_thread() { return nullptr; }
inline void switch_to(void*) {}
inline void release(const void*) {}
inline void acquire(const void*) {}

}  // namespace shim

#endif
