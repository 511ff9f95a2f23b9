#include "cpu/budget.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <numeric>

#include "bindings/common/boxed.h"
#include "bindings/common/checks.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

constexpr Name<BudgetRule> kRules[] = {{"equal", BudgetRule::equal},
                                       {"proportional", BudgetRule::proportional},
                                       {"softmax", BudgetRule::softmax}};
static_assert(is_complete(kRules));

Tensor budget_cpu(Tensor weights, int64_t total, std::optional<Tensor> capacity, std::string rule,
                  double temperature, int64_t minimum) {
  const Checker check("budget");
  check.shape("weights", weights, {"B"}, "one for each image, crop or frame");
  check.float_dtype("weights", weights.scalar_type());
  const int64_t images = weights.size(0);
  if (capacity) {
    check.shape("capacity", *capacity, {images}, "one for each of weights");
    check.dtype("capacity", *capacity, ScalarType::Int);
    check.device("capacity", *capacity, weights, "weights");
  }
  const BudgetRule kind = check.one_of("rule", rule, kRules);
  check.in_range("temperature", temperature);
  check.require(minimum >= 0 && minimum <= INT32_MAX, "minimum", "an integer in [0, 2147483647]",
                minimum);
  check.require(total >= minimum * images && total >= 0, "total",
                concat("at least ", minimum * images, " (minimum for each of weights)"), total);
  check.require(total <= INT32_MAX, "total", "at most 2147483647 (offsets are int32)", total);

  const Tensor importance =
      torch::stable::contiguous(torch::stable::to(weights, ScalarType::Float));
  Tensor limits;
  const int32_t* limit = nullptr;
  if (capacity) {
    limits = torch::stable::contiguous(*capacity);
    limit = limits.const_data_ptr<int32_t>();
    const int32_t least = *std::min_element(limit, limit + images);
    check.require(least >= minimum, "capacity", concat("at least ", minimum, " (minimum) in each"),
                  least);
    const int64_t sum = std::accumulate(limit, limit + images, int64_t{0});
    check.require(sum >= total, "capacity", concat("at least ", total, " (total) in all"), sum);
  }
  const Tensor offsets = empty({images + 1}, ScalarType::Int, "the offsets");
  ZOPRUNE_BEST(budget)(kind, temperature, importance.const_data_ptr<float>(), images, total,
                       minimum, limit, offsets.mutable_data_ptr<int32_t>());
  return offsets;
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("budget", boxed<&budget_cpu>); }

}  // namespace zoprune
