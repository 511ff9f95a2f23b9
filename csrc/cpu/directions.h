#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace zoprune {

enum class Distribution { sphere, gaussian, rademacher, orthogonal, last = orthogonal };

// Writes rows [row_begin, row_end) of the random directions to out [num, dim]. For `orthogonal`,
// row_begin must be a multiple of dim: rows of a group are made orthogonal to those before them.
ZOPRUNE_PER_ISA(void directions(Distribution distribution, uint64_t seed, int64_t row_begin,
                                int64_t row_end, int64_t dim, double* out);)

}  // namespace zoprune
