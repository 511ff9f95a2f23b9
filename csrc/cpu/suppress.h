#pragma once

#include "cpu/greedy/image.h"
#include "cpu/isa.h"
#include "zoprune/selection.h"

namespace zoprune {

// How a pick lowers its neighbours, the same for all images of a call.
struct Suppression {
  Rule rule;
  double sigma_space, radius;  // patches
  double sigma_similarity;     // of 1 - cosine
  double strength;             // rule `exponential`
  double threshold;            // cosine, rule `hard`
  int64_t axes;                // of a position
};

// Picks the best token, lowers its neighbours, and so on. Keys or positions may be null, not both.
ZOPRUNE_PER_ISA(void select_suppress(const Suppression& suppression, const KeyLayout& layout,
                                     const GreedyImage& image, bool sort,
                                     ParallelFor parallel_for);)

}  // namespace zoprune
