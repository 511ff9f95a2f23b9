#pragma once

#include <cstdint>

#include "cpu/greedy/image.h"
#include "cpu/isa.h"
#include "zoprune/selection.h"

namespace zoprune {

// Plain greedy selection, computed in blocks; docs/selection.md has the algorithm. Keys, which may
// be null where no tokens are compared, count minus their mean over the valid tokens where
// `centre`.
ZOPRUNE_PER_ISA(void select(const Redundancy& how, bool centre, const KeyLayout& layout,
                            const GreedyImage& image, bool sort, ParallelFor parallel_for);)

}  // namespace zoprune
