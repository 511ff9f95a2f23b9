#pragma once

#include <cstdint>

#include "cpu/greedy/image.h"
#include "cpu/isa.h"
#include "zoprune/selection.h"

namespace zoprune {

// How to select, the same for all images of a call.
struct SelectRule {
  Method method;
  float max_similarity;    // 1: no constraint
  float tradeoff;          // of mmr
  bool isolated_first;     // the first pick is the token whose nearest neighbor is farthest
  int64_t num_seed;        // picks by weight only, before those by gain
  bool centre;             // keys minus their mean over the valid tokens
  int64_t picks_per_step;  // picks between updates of the gains
  bool sort;               // ascending indices instead of pick order
  uint64_t seed;

  bool compares() const { return compares_tokens(method) || max_similarity < 1 || isolated_first; }
};

// Plain greedy selection, computed in blocks; docs/selection.md has the algorithm. Keys may be null
// where the rule compares no tokens.
ZOPRUNE_PER_ISA(void select(const SelectRule& rule, const KeyLayout& layout,
                            const GreedyImage& image, ParallelFor parallel_for);)

}  // namespace zoprune
