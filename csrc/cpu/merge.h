// Giving dropped tokens to kept ones; docs/tokens.md has the definitions.
#pragma once

#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/similarity.h"

namespace zoprune {

enum class MergeRule { mean, sum, residual, last = residual };

// One image. Rows are contiguous in themselves; strides are in elements.
struct MergeImage {
  KeyLayout token_layout, key_layout;
  const void* tokens;   // [num_tokens, token_layout.dim]
  const void* keys;     // [num_tokens, key_layout.dim]
  const float* weight;  // [num_tokens], or null for ones
  const bool* valid;    // [num_tokens], or null
  int64_t num_tokens;
  float* merged;  // result [kept, token_layout.dim]
  float* sizes;   // result [kept]
};

ZOPRUNE_PER_ISA(
    // Gives each dropped token to the kept one of the highest cosine, the first among equals.
    // `kept` [num_kept] are distinct tokens.
    void merge(MergeRule rule, const MergeImage& image, const int64_t* kept, int64_t num_kept,
               ParallelFor parallel_for);

    // Merges the `count` most similar pairs of an even and an odd token, as means weighted by
    // `weight`. stays [num_tokens - count] receives the tokens that remain.
    void merge_bipartite(const MergeImage& image, int64_t count, int64_t* stays,
                         ParallelFor parallel_for);)

}  // namespace zoprune
