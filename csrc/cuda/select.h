#pragma once

#include "cuda/greedy/greedy.h"
#include "zoprune/selection.h"

namespace zoprune::cuda {

// select: a gain of the score and of the largest cosine to the selected tokens.
struct Redundancy {
  Method method = Method::sads;
  float max_similarity = 1.0f;
  float tradeoff = 0.5f;
  uint64_t seed = 0;
  bool isolated_first = false;  // the first pick is the token whose nearest neighbor is farthest
  int64_t num_seed = 0;         // picks by score alone, before those by gain
  int picks_per_step = 1;       // gains change only after so many; at most kMostPicksPerStep
};

// A round takes whole steps, and has all candidates that are left or three quarters of 96 or more.
constexpr int kMostPicksPerStep = 64;

}  // namespace zoprune::cuda
