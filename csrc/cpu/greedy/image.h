// One image of a selection.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/similarity.h"

namespace zoprune {

// One image. Pointers may be null where their argument was not given.
struct GreedyImage {
  const float* scores;     // [tokens]
  const void* keys;        // [tokens, dim]
  const float* positions;  // [tokens, axes]
  int64_t axes;
  const float* weights;   // [tokens]
  const bool* must_keep;  // [tokens], at most `keep` of them, all valid
  const bool* valid;      // [tokens], at least `keep` of them
  int64_t tokens;
  int64_t keep;
  int64_t first_index;  // of the image's first token in the result's numbering
  int64_t* indices;     // result [keep]
};

}  // namespace zoprune
