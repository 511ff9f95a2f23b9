#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace zoprune {

enum class BudgetRule { equal, proportional, softmax, last = softmax };

// Webster's method: offsets [images + 1] of counts that sum to `total`, each at least `minimum` and
// at most `capacity` [images] (or null: no limit). docs/tokens.md has the definition.
ZOPRUNE_PER_ISA(void budget(BudgetRule rule, double temperature, const float* weights,
                            int64_t images, int64_t total, int64_t minimum, const int32_t* capacity,
                            int32_t* offsets);)

}  // namespace zoprune
