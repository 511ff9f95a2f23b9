// What the operators that select by an objective of their own share: checks, and one kernel call
// for each image.
#pragma once

#include <functional>
#include <optional>

#include "bindings/select.h"
#include "cpu/image.h"

namespace zoprune {

struct GreedyTensors {
  Tensor scores;
  std::optional<Tensor> keys, positions, weights, must_keep, valid;
};

// Packed images: offsets of their tokens and of those kept.
struct Packing {
  Tensor cu_tokens, cu_keep;
  int64_t total_keep;
};

// Scores, named `name`, and the shapes and dtypes of what else is given for each token.
void check_greedy(const Checker& check, const GreedyTensors& tensors, bool packed,
                  const char* name = "scores");

using GreedyKernel = std::function<void(const KeyLayout&, const GreedyImage&, ParallelFor)>;

// Checks k and the masks' values, then runs the kernel on each image; indices as `select` has them.
Tensor select_greedily(const Checker& check, const GreedyTensors& tensors, int64_t k,
                       const GreedyKernel& kernel);
Tensor select_greedily(const Checker& check, const GreedyTensors& tensors, const Packing& packing,
                       const GreedyKernel& kernel, const char* name = "scores");

}  // namespace zoprune
