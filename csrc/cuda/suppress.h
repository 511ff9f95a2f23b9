#pragma once

#include "cuda/greedy/greedy.h"
#include "zoprune/selection.h"

namespace zoprune::cuda {

// select_suppress: the score, which each pick lowers nearby.
struct Suppression {
  Rule rule = Rule::soft;
  float space_scale = 0;             // -1 / (2 sigma_space^2), of a squared distance
  float similarity_scale = 0;        // the same of sigma_similarity, for `exponential` -1 / sigma
  float strength = 1;                // of `exponential`
  double radius2 = 0;                // squared, patches
  double threshold = 1;              // of `hard`, a cosine
  const float* positions = nullptr;  // [total_tokens, axes] or null
  int axes = 0;
};

}  // namespace zoprune::cuda
