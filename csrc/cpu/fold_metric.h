#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"

namespace zoprune {

// Writes scale * outputs * inputs, elementwise, to rows [row_begin, row_end) of the metric
// [hidden, hidden] from the diagonal on, and mirrors them into its columns. `outputs` and `inputs`
// are the blocks [.., hidden - first] of W2^T W2 and W1 C W1^T that begin at (first, first).
ZOPRUNE_PER_ISA(template <typename Out> void fold_rows(int64_t row_begin, int64_t row_end,
                                                       int64_t first, int64_t hidden, float scale,
                                                       const float* outputs, const float* inputs,
                                                       Out* metric);)

}  // namespace zoprune
