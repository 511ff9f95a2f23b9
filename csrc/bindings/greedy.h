// Greedy selections as the operators share them: checks, and one kernel call for each image.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bindings/select.h"
#include "cpu/greedy/image.h"
#include "cpu/suppress.h"

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

// The options of select_suppress, with rule by name.
struct SuppressOptions {
  std::string rule;
  double sigma_space, sigma_similarity, radius, strength, threshold;
};

void check_weights(const Checker& check, const Tensor& weights, const std::vector<Size>& lead,
                   const Tensor& like, const char* name);
void check_positions(const Checker& check, const Tensor& positions, const std::vector<Size>& lead,
                     const Tensor& like, const char* name);

// The options as the kernel has them, checked; `axes` is the number of coordinates of a position.
Suppression check_suppression(const Checker& check, const SuppressOptions& options, int64_t axes);

// Scores, named `name`, and the shapes and dtypes of what else is given for each token.
void check_greedy(const Checker& check, const GreedyTensors& tensors, bool packed,
                  const char* name = "scores");

using GreedyKernel = std::function<void(const KeyLayout&, const GreedyImage&, ParallelFor)>;

GreedyKernel select_kernel(const SelectOptions& options);
GreedyKernel dpp_kernel(bool sort);
GreedyKernel suppress_kernel(const Suppression& suppression, bool sort);
GreedyKernel coverage_kernel(bool sort);

// Runs the kernel on each image of checked tensors: int64 indices [B, k] or [k] in each image's own
// numbering, or positions [sum of keep] in the packed array.
Tensor pick_in_images(const GreedyTensors& tensors, int64_t k, const GreedyKernel& kernel);
Tensor pick_in_segments(const GreedyTensors& tensors, const std::vector<Segment>& segments,
                        const GreedyKernel& kernel);

// The same after checking k, or the packing, and the masks' values.
Tensor select_greedily(const Checker& check, const GreedyTensors& tensors, int64_t k,
                       const GreedyKernel& kernel);
Tensor select_greedily(const Checker& check, const GreedyTensors& tensors, const Packing& packing,
                       const GreedyKernel& kernel, const char* name = "scores");

}  // namespace zoprune
