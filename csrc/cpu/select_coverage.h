#pragma once

#include "cpu/greedy/image.h"
#include "cpu/isa.h"

namespace zoprune {

// Greedy facility location: image.scores times the coverage, weighted by image.weights, that a
// token adds.
ZOPRUNE_PER_ISA(void select_coverage(const KeyLayout& layout, const GreedyImage& image, bool sort,
                                     ParallelFor parallel_for);)

}  // namespace zoprune
