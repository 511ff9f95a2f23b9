#include "cpu/suppress.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <string>

#include "bindings/greedy.h"

namespace zoprune {
namespace {

struct Options {
  std::string rule;
  double sigma_space, sigma_similarity, radius, strength, threshold;
};

Suppression check_suppression(const Checker& check, const Options& options, int64_t axes) {
  const int rule = check.one_of("rule", options.rule, {"soft", "exponential", "hard"});
  const auto check_sigma = [&](const char* name, double sigma) {
    check.require(std::isfinite(sigma) && sigma > 0, name, "a finite number > 0", sigma);
  };
  check_sigma("sigma_space", options.sigma_space);
  check_sigma("sigma_similarity", options.sigma_similarity);
  check.require(options.radius > 0, "radius", "a number > 0", options.radius);
  check.require(std::isfinite(options.strength) && options.strength >= 0, "strength",
                "a finite number >= 0", options.strength);
  check.require(options.threshold >= -1 && options.threshold <= 1, "threshold",
                "a number in [-1, 1]", options.threshold);
  return {static_cast<Rule>(rule),
          options.sigma_space,
          options.radius,
          options.sigma_similarity,
          options.strength,
          options.threshold,
          axes};
}

// Checks everything but how many tokens are kept, and returns the kernel with its options.
GreedyKernel suppress_kernel(const Checker& check, const GreedyTensors& tensors, bool packed,
                             const Options& options, bool sort) {
  check_greedy(check, tensors, packed);
  const int64_t axes = tensors.positions ? tensors.positions->size(-1) : 0;
  const Suppression suppression = check_suppression(check, options, axes);
  return [suppression, sort, kernel = ZOPRUNE_BEST(select_suppress)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(suppression, layout, image, sort, parallel_for);
  };
}

Tensor select_suppress_cpu(Tensor scores, std::optional<Tensor> keys, int64_t k,
                           std::optional<Tensor> positions, std::optional<Tensor> must_keep,
                           std::optional<Tensor> valid, std::string rule, double sigma_space,
                           double sigma_similarity, double radius, double strength,
                           double threshold, bool sort) {
  const Checker check("select_suppress");
  const GreedyTensors tensors{scores, keys, positions, {}, must_keep, valid};
  const Options options{rule, sigma_space, sigma_similarity, radius, strength, threshold};
  const GreedyKernel kernel = suppress_kernel(check, tensors, false, options, sort);
  return select_greedily(check, tensors, k, kernel);
}

Tensor select_suppress_varlen_cpu(Tensor scores, std::optional<Tensor> keys, Tensor cu_tokens,
                                  Tensor cu_keep, int64_t total_keep,
                                  std::optional<Tensor> positions, std::optional<Tensor> must_keep,
                                  std::optional<Tensor> valid, std::string rule, double sigma_space,
                                  double sigma_similarity, double radius, double strength,
                                  double threshold, bool sort) {
  const Checker check("select_suppress_varlen");
  const GreedyTensors tensors{scores, keys, positions, {}, must_keep, valid};
  const Options options{rule, sigma_space, sigma_similarity, radius, strength, threshold};
  const GreedyKernel kernel = suppress_kernel(check, tensors, true, options, sort);
  return select_greedily(check, tensors, {cu_tokens, cu_keep, total_keep}, kernel);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zoprune, CPU, m) {
  m.impl("select_suppress", TORCH_BOX(&select_suppress_cpu));
  m.impl("select_suppress_varlen", TORCH_BOX(&select_suppress_varlen_cpu));
}

}  // namespace zoprune
