#pragma once

#include <string>

#include "bindings/common/checks.h"
#include "cpu/directions.h"

namespace zoprune {

Distribution check_distribution(const Checker& check, const std::string& distribution);

// Random directions [num, dim] on the CPU; arguments are already checked.
Tensor draw_directions(int64_t num, int64_t dim, Distribution distribution, int64_t seed,
                       ScalarType dtype);

}  // namespace zoprune
