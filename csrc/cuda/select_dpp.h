#pragma once

#include "cuda/greedy/greedy.h"

namespace zoprune::cuda {

// select_dpp: quality (the scores) times the distance from the span of the selected keys.
struct Volume {};

}  // namespace zoprune::cuda
