#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"

namespace zoprune {

// add_block_product: adds g_i . y_i over one block of hidden units to each token's form [rows],
// then doubles the block of g: later blocks meet it in both triangles of the symmetric metric.
// y is [rows, width]; g points at the block's first column, its rows are `stride` apart.
// root: scores = sqrt(max(form, 0)); NaN stays.
ZOPRUNE_PER_ISA(template <typename T>
                void add_block_product(int64_t row_begin, int64_t row_end, int64_t width,
                                       int64_t stride, const T* y, T* g, double* form);
                void root(int64_t row_begin, int64_t row_end, const double* form, float* scores);)

}  // namespace zoprune
