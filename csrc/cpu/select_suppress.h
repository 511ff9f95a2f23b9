#pragma once

#include "cpu/greedy/image.h"
#include "cpu/isa.h"
#include "zoprune/selection.h"

namespace zoprune {

// Picks the best token, lowers its neighbours, and so on. Keys or positions may be null, not both.
ZOPRUNE_PER_ISA(void select_suppress(const Suppression& how, const KeyLayout& layout,
                                     const GreedyImage& image, bool sort,
                                     ParallelFor parallel_for);)

}  // namespace zoprune
