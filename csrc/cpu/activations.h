#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"
#include "zoprune/activations.h"

namespace zoprune {

// Pre-activations a are fp32 products [rows, hidden] plus a bias [hidden]. Derivatives at an
// infinity are NaN, so that a token that is not finite has no score.
//
// activate: phi(a) as Out. differentiate: phi'(a) as Out. Their rows are `stride` apart, with zeros
// from `hidden` on.
// expand_rows: a, phi'(a) and phi'''(a) / 6, in fp32.
ZOPRUNE_PER_ISA(template <typename Out>
                void activate(Activation activation, int64_t row_begin, int64_t row_end,
                              int64_t hidden, const float* product, const float* bias, Out* out,
                              int64_t stride);
                template <typename Out>
                void differentiate(Activation activation, int64_t row_begin, int64_t row_end,
                                   int64_t hidden, const float* product, const float* bias,
                                   Out* out, int64_t stride);
                void expand_rows(Activation activation, int64_t row_begin, int64_t row_end,
                                 int64_t hidden, const float* product, const float* bias, float* a,
                                 float* slope, float* cubic);)

}  // namespace zoprune
