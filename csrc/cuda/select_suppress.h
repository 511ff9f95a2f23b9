#pragma once

#include "cuda/greedy/greedy.h"
#include "zoprune/selection.h"

namespace zoprune::cuda {

// select_suppress: the score, which each pick lowers nearby.
struct Suppression : zoprune::Suppression {
  const float* positions = nullptr;  // [total_tokens, axes] or null
  int axes = 0;
};

}  // namespace zoprune::cuda
