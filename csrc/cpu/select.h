#pragma once

#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/similarity.h"
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
  KeyLayout keys;

  bool compares() const { return compares_tokens(method) || max_similarity < 1 || isolated_first; }
};

// One image. Pointers may be null where their argument was not given or the rule needs no keys.
struct SelectImage {
  const float* scores;    // [tokens]
  const void* keys;       // [tokens, dim]
  const bool* must_keep;  // [tokens], at most `keep` of them, all valid
  const bool* valid;      // [tokens], at least `keep` of them
  int64_t tokens;
  int64_t keep;
  int64_t first_index;  // of the image's first token in the result's numbering
  int64_t* indices;     // result [keep]
};

// Plain greedy selection, computed in blocks; docs/selection.md has the algorithm.
ZOPRUNE_PER_ISA(void select(const SelectRule& rule, const SelectImage& image,
                            ParallelFor parallel_for);)

}  // namespace zoprune
