#include "cpu/select_suppress.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"

namespace zoprune {
namespace {

constexpr Name<SuppressRule> kRules[] = {{"soft", SuppressRule::soft},
                                         {"exponential", SuppressRule::exponential},
                                         {"hard", SuppressRule::hard}};
static_assert(is_complete(kRules));

struct SelectSuppress : GreedyOperator {
  static constexpr const char* kName = "select_suppress";
  using Keys = std::optional<Tensor>;

  SuppressOptions options;
  bool sort = true;
  Suppression how;
  auto fields() { return std::tie(positions, must_keep, valid, options, sort); }

  void check(const Checker& check) { how = suppression_of(check, options); }
  GreedyKernel kernel() const { return greedy_kernel(ZOPRUNE_BEST(select_suppress), sort, how); }
  Tensor run(CudaCall& call) const { return call.run(how, sort); }
};

}  // namespace

Suppression suppression_of(const Checker& check, const SuppressOptions& options) {
  Suppression how;
  how.rule = check.one_of("rule", options.rule, kRules);
  check.in_range("sigma_space", options.sigma_space);
  check.in_range("sigma_similarity", options.sigma_similarity);
  check.require(options.radius > 0, "radius", "a number > 0", options.radius);
  check.require(options.strength >= 0 && options.strength <= Checker::kLargest, "strength",
                "a number in [0, 1e+18]", options.strength);
  check.require(options.threshold >= -1 && options.threshold <= 1, "threshold",
                "a number in [-1, 1]", options.threshold);
  const auto scale = [](double sigma) { return static_cast<float>(-1 / (2 * sigma * sigma)); };
  how.space_scale = scale(options.sigma_space);
  how.similarity_scale = how.rule == SuppressRule::soft
                             ? scale(options.sigma_similarity)
                             : static_cast<float>(-1 / options.sigma_similarity);
  how.radius2 = options.radius * options.radius;
  how.strength = static_cast<float>(options.strength);
  how.threshold = options.threshold;
  return how;
}

GreedyKernel suppress_kernel(const Checker& check, const MethodOptions& options) {
  return greedy_kernel(ZOPRUNE_BEST(select_suppress), options.select.sort,
                       suppression_of(check, options.suppress));
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<SelectSuppress>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<SelectSuppress>(m); }

}  // namespace zoprune
