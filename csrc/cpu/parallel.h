// Threads for kernels that know nothing of torch: the binding passes its parallel_for along.
#pragma once

#include <cstdint>

namespace zoprune {

// Runs task(context, begin, end) over parts of [0, count), possibly at the same time.
using ParallelFor = void (*)(int64_t count, void (*task)(void* context, int64_t, int64_t),
                             void* context);

template <typename F>
static void for_each_part(ParallelFor parallel_for, int64_t count, const F& f) {
  parallel_for(
      count,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<const F*>(context))(begin, end);
      },
      const_cast<F*>(&f));
}

}  // namespace zoprune
