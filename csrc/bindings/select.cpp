#include "cpu/select.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"
#include "cuda/select.h"

namespace zoprune {
namespace {

enum class First { score, isolated, last = isolated };
constexpr Name<First> kFirst[] = {{"score", First::score}, {"isolated", First::isolated}};
static_assert(is_complete(kFirst));

GreedyKernel kernel_of(const Redundancy& rule, bool centre, bool sort) {
  return [rule, centre, sort, kernel = ZOPRUNE_BEST(select)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(rule, centre, layout, image, sort, parallel_for);
  };
}

struct Select : GreedyTensors {
  static constexpr const char *kName = "select", *kScores = "scores";
  using Keys = std::optional<Tensor>;
  static constexpr bool kNeedsKeysOrPositions = false;

  SelectOptions options;
  Redundancy rule{};
  auto fields() { return std::tie(must_keep, valid, options); }

  void check(const Checker& check) {
    check.one_of("method", options.method, kGainMethods);
    check_options(check, options);
    rule = redundancy_of(check, options);
    check.require(keys || !rule.compares(), "keys",
                  concat("a tensor (method '", options.method, "' compares tokens)"), "None");
    if (!rule.compares()) keys.reset();
  }

  GreedyKernel kernel() const { return kernel_of(rule, options.centre, options.sort); }

  std::string why_not_on_cuda() const {
    if (options.picks_per_step > cuda::kMostPicksPerStep)
      return concat("its kernel has no picks_per_step above ", cuda::kMostPicksPerStep);
    return why_not_on(scores);
  }
  Tensor run(CudaCall& call) const {
    if (options.centre && keys) call.centre();
    return call.run(rule, options.sort);
  }
};

}  // namespace

void check_options(const Checker& check, const SelectOptions& options) {
  check.require(options.max_similarity >= -1 && options.max_similarity <= 1, "max_similarity",
                "a number in [-1, 1]", options.max_similarity);
  check.require(options.tradeoff >= 0 && options.tradeoff <= 1, "tradeoff", "a number in [0, 1]",
                options.tradeoff);
  check.one_of("first", options.first, kFirst);
  check.require(options.num_seed >= 0, "num_seed", "an integer >= 0", options.num_seed);
  check.require(options.picks_per_step >= 1, "picks_per_step", "an integer >= 1",
                options.picks_per_step);
  check.require(options.num_seed == 0 || options.first == "score", "num_seed",
                "0 where first is 'isolated'", options.num_seed);
}

Redundancy redundancy_of(const Checker& check, const SelectOptions& options) {
  Redundancy rule;
  rule.method = check.one_of("method", options.method, kGainMethods);
  rule.max_similarity = static_cast<float>(options.max_similarity);
  rule.tradeoff = static_cast<float>(options.tradeoff);
  rule.seed = static_cast<uint64_t>(options.seed);
  rule.isolated_first = check.one_of("first", options.first, kFirst) == First::isolated;
  rule.num_seed = options.num_seed;
  rule.picks_per_step = options.picks_per_step;
  return rule;
}

GreedyKernel select_kernel(const Checker& check, const MethodOptions& options) {
  return kernel_of(redundancy_of(check, options.select), options.select.centre,
                   options.select.sort);
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<Select>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<Select>(m); }

}  // namespace zoprune
