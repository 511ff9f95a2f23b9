#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"
#include "zoprune/activations.h"

namespace zoprune {

// A block of tokens, expanded once: a, phi'(a) and phi'''(a) / 6, each [tokens, hidden].
struct ExpandedTokens {
  int64_t tokens;
  int64_t hidden;
  const float* a;
  const float* slope;
  const float* cubic;
};

// A block of projected directions v = W1 u [directions, hidden].
struct ProjectedDirections {
  float step;  // h, in units of x
  const float* v;
  const float* v_cubed;  // v (h v)^2
  const bool* direct;    // [directions]: not by the Taylor series (docs/math.md)
};

// prepare_directions: v_cubed and direct of directions [begin, end), from their v.
// perturb: row (direction j, token i) = [phi(a_i + h v_j) - phi(a_i - h v_j)] / 2h, direction by
// direction, for rows [row_begin, row_end) of out [directions * tokens, stride], with zeros from
// `hidden` on.
// row_norms: the Euclidean norms of rows [row_begin, row_end) of rows [.., width].
ZOPRUNE_PER_ISA(void prepare_directions(Activation activation, float step, int64_t begin,
                                        int64_t end, int64_t hidden, const float* v, float* v_cubed,
                                        bool* direct);
                template <typename T>
                void perturb(Activation activation, int64_t row_begin, int64_t row_end,
                             const ExpandedTokens& tokens, const ProjectedDirections& directions,
                             T* out, int64_t stride);
                template <typename T> void row_norms(int64_t row_begin, int64_t row_end,
                                                     int64_t width, const T* rows, float* norms);)

}  // namespace zoprune
