#pragma once

#include <cstdint>

#include "cpu/isa.h"
#include "cpu/similarity.h"

namespace zoprune {

// Change of patches [begin, end) of a frame from the frame before: out[p] = 1 - cosine.
ZOPRUNE_PER_ISA(void frame_change(const KeyLayout& layout, const void* frame, const void* before,
                                  int64_t begin, int64_t end, float* out);)

}  // namespace zoprune
