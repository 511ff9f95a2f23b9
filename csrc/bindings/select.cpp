#include "cpu/select.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"
#include "cuda/select.h"

namespace zoprune {
namespace {

enum class First { score, isolated, last = isolated };
constexpr Name<First> kFirst[] = {{"score", First::score}, {"isolated", First::isolated}};
static_assert(is_complete(kFirst));

struct Select : GreedyOperator {
  static constexpr const char* kName = "select";
  using Keys = std::optional<Tensor>;
  static constexpr bool kNeedsKeysOrPositions = false;

  SelectOptions options;
  Redundancy how;
  auto fields() { return std::tie(must_keep, valid, options); }

  void check(const Checker& check) {
    check.one_of("method", options.method, kGainMethods);
    check_options(check, options);
    how = redundancy_of(check, options);
    check.require(keys || !how.compares(), "keys",
                  concat("a tensor (method '", options.method, "' compares tokens)"), "None");
    if (!how.compares()) keys.reset();
  }

  GreedyKernel kernel() const {
    return greedy_kernel(ZOPRUNE_BEST(select), options.sort, how, options.centre);
  }

  std::string why_not_on_cuda() const {
    if (options.picks_per_step > cuda::kMostPicksPerStep)
      return concat("its kernel has no picks_per_step above ", cuda::kMostPicksPerStep);
    return why_not_on(scores);
  }
  Tensor run(CudaCall& call) const {
    if (options.centre && keys) call.centre();
    return call.run(how, options.sort);
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
  Redundancy how;
  how.method = check.one_of("method", options.method, kGainMethods);
  how.max_similarity = static_cast<float>(options.max_similarity);
  how.tradeoff = static_cast<float>(options.tradeoff);
  how.seed = static_cast<uint64_t>(options.seed);
  how.isolated_first = check.one_of("first", options.first, kFirst) == First::isolated;
  how.num_seed = options.num_seed;
  how.picks_per_step = options.picks_per_step;
  return how;
}

GreedyKernel select_kernel(const Checker& check, const MethodOptions& options) {
  return greedy_kernel(ZOPRUNE_BEST(select), options.select.sort,
                       redundancy_of(check, options.select), options.select.centre);
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<Select>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<Select>(m); }

}  // namespace zoprune
