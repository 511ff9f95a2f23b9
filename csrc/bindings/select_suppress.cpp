#include "cpu/select_suppress.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"
#include "cuda/select_suppress.h"

namespace zoprune {
namespace {

constexpr Name<SuppressRule> kRules[] = {{"soft", SuppressRule::soft},
                                         {"exponential", SuppressRule::exponential},
                                         {"hard", SuppressRule::hard}};
static_assert(is_complete(kRules));

GreedyKernel kernel_of(const Suppression& rule, bool sort) {
  return [rule, sort, kernel = ZOPRUNE_BEST(select_suppress)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(rule, layout, image, sort, parallel_for);
  };
}

struct SelectSuppress : GreedyTensors {
  static constexpr const char *kName = "select_suppress", *kScores = "scores";
  using Keys = std::optional<Tensor>;
  static constexpr bool kNeedsKeysOrPositions = true;

  SuppressOptions options;
  bool sort = true;
  Suppression rule{};
  auto fields() { return std::tie(positions, must_keep, valid, options, sort); }

  void check(const Checker& check) { rule = suppression_of(check, options); }
  GreedyKernel kernel() const { return kernel_of(rule, sort); }
  std::string why_not_on_cuda() const { return why_not_on(scores); }
  Tensor run(CudaCall& call) const {
    cuda::Suppression neighbours{rule};
    neighbours.positions = call.floats(positions);
    neighbours.axes = positions ? static_cast<int>(positions->size(-1)) : 0;
    return call.run(neighbours, sort);
  }
};

}  // namespace

Suppression suppression_of(const Checker& check, const SuppressOptions& options) {
  Suppression rule;
  rule.rule = check.one_of("rule", options.rule, kRules);
  check.in_range("sigma_space", options.sigma_space);
  check.in_range("sigma_similarity", options.sigma_similarity);
  check.require(options.radius > 0, "radius", "a number > 0", options.radius);
  check.require(options.strength >= 0 && options.strength <= Checker::kLargest, "strength",
                "a number in [0, 1e+18]", options.strength);
  check.require(options.threshold >= -1 && options.threshold <= 1, "threshold",
                "a number in [-1, 1]", options.threshold);
  const auto scale = [](double sigma) { return static_cast<float>(-1 / (2 * sigma * sigma)); };
  rule.space_scale = scale(options.sigma_space);
  rule.similarity_scale = rule.rule == SuppressRule::soft
                              ? scale(options.sigma_similarity)
                              : static_cast<float>(-1 / options.sigma_similarity);
  rule.radius2 = options.radius * options.radius;
  rule.strength = static_cast<float>(options.strength);
  rule.threshold = options.threshold;
  return rule;
}

GreedyKernel suppress_kernel(const Checker& check, const MethodOptions& options) {
  return kernel_of(suppression_of(check, options.suppress), options.select.sort);
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<SelectSuppress>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<SelectSuppress>(m); }

}  // namespace zoprune
