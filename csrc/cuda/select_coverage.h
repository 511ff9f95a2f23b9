#pragma once

#include "cuda/greedy/greedy.h"

namespace zoprune::cuda {

// select_coverage: the score times what the token adds to the weighted coverage of all.
struct Coverage {
  const float* weights = nullptr;  // [total_tokens] or null: all alike
};

}  // namespace zoprune::cuda
