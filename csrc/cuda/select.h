// select: a gain of the score and of the largest cosine to the selected tokens (Redundancy).
#pragma once

#include "cuda/greedy/greedy.h"
#include "zoprune/selection.h"

namespace zoprune::cuda {

// A round takes whole steps, and has all candidates that are left or three quarters of 96 or more.
constexpr int kMostPicksPerStep = 64;

}  // namespace zoprune::cuda
