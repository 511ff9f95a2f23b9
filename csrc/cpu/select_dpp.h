#pragma once

#include "cpu/greedy/image.h"
#include "cpu/isa.h"

namespace zoprune {

// Greedy MAP of a determinantal point process with quality image.scores.
ZOPRUNE_PER_ISA(void select_dpp(const KeyLayout& layout, const GreedyImage& image, bool sort,
                                ParallelFor parallel_for);)

}  // namespace zoprune
