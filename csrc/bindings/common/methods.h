// The selection methods by name, with their options as the operators take them.
#pragma once

#include <string>
#include <tuple>

#include "bindings/common/greedy.h"
#include "zoprune/selection.h"

namespace zoprune {

// The options of `select`.
struct SelectOptions {
  std::string method = "sads";
  double max_similarity = 1.0;
  bool sort = true;
  double tradeoff = 0.5;
  std::string first = "score";
  int64_t num_seed = 0;
  bool centre = false;
  int64_t picks_per_step = 1;
  int64_t seed = 0;  // of method `random`; `select` has no such argument

  auto fields() {
    return std::tie(method, max_similarity, sort, tradeoff, first, num_seed, centre,
                    picks_per_step);
  }
};

// The options of `select_suppress`.
struct SuppressOptions {
  std::string rule = "soft";
  double sigma_space = 1.5;
  double sigma_similarity = 0.05;
  double radius = 5.0;
  double strength = 1.0;
  double threshold = 0.9;

  auto fields() {
    return std::tie(rule, sigma_space, sigma_similarity, radius, strength, threshold);
  }
};

// The options of the operators that score and then select by any method.
struct MethodOptions {
  SelectOptions select;
  SuppressOptions suppress;

  auto fields() { return std::tie(select, suppress); }
};

inline constexpr Name<Method> kGainMethods[] = {{"sads", Method::sads},
                                                {"maxmin", Method::maxmin},
                                                {"topk", Method::topk},
                                                {"random", Method::random},
                                                {"mmr", Method::mmr}};
static_assert(is_complete(kGainMethods));

// Checked options as the kernels take them. Of `select`'s all but the method are checked apart,
// because the operators differ in which methods there are.
void check_options(const Checker& check, const SelectOptions& options);
Redundancy redundancy_of(const Checker& check, const SelectOptions& options);
Suppression suppression_of(const Checker& check, const SuppressOptions& options);

// A method's kernel for the CPU, by checked options.
using MakeKernel = GreedyKernel (*)(const Checker& check, const MethodOptions& options);
GreedyKernel select_kernel(const Checker& check, const MethodOptions& options);
GreedyKernel dpp_kernel(const Checker& check, const MethodOptions& options);
GreedyKernel suppress_kernel(const Checker& check, const MethodOptions& options);
GreedyKernel coverage_kernel(const Checker& check, const MethodOptions& options);

// Methods with an operator of their own: all compare keys, and take none of `select`'s options.
struct OwnMethod {
  const char* name;
  MakeKernel kernel;
  bool takes_positions, takes_weights;
};
inline constexpr OwnMethod kOwnMethods[] = {{"dpp", dpp_kernel, false, false},
                                            {"suppress", suppress_kernel, true, false},
                                            {"coverage", coverage_kernel, false, true}};

}  // namespace zoprune
