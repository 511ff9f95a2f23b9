#pragma once

#include "cuda/greedy/greedy.h"

namespace zoprune::cuda {

// select_coverage: the score times what the token adds to the weighted coverage of all.
struct Coverage {};

}  // namespace zoprune::cuda
