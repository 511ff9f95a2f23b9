#pragma once

#include <string>
#include <vector>

#include "bindings/checks.h"
#include "cpu/directions.h"

namespace zoprune {

// In the order of Distribution.
inline const std::vector<std::string> kDistributions = {"sphere", "gaussian", "rademacher",
                                                        "orthogonal"};

// Random directions [num, dim] on the CPU; arguments are already checked.
Tensor draw_directions(int64_t num, int64_t dim, Distribution distribution, int64_t seed,
                       ScalarType dtype);

}  // namespace zoprune
