#include "cpu/expected_sensitivity.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "bindings/common/aten.h"
#include "bindings/common/boxed.h"
#include "bindings/common/scoring.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

using torch::stable::narrow;

// Hidden units in a block of the metric. Smaller blocks skip more of its upper triangle but make
// slower products; below two blocks' width nothing is skipped.
constexpr int64_t kBlock = 512;

// sqrt(g^T M g) by blocks of M's rows, from their first column to the diagonal block. M is
// symmetric: what lies above the diagonal counts twice, so blocks of g are doubled once passed.
template <typename T>
void score_tokens(Tensor g, Tensor metric, float* scores) {
  const int64_t hidden = metric.size(0), tokens = g.size(0), depth = metric.size(1);
  auto* g_data = static_cast<T*>(g.mutable_data_ptr());
  std::vector<double> form(tokens);
  auto* const add = ZOPRUNE_BEST(add_block_product<T>);
  for (int64_t first = 0; first < hidden;) {
    const int64_t last = hidden - first < 2 * kBlock ? hidden : first + kBlock;
    Tensor block = narrow(metric, 0, first, last - first);
    const int64_t columns = last == hidden ? depth : last;
    const Tensor y = product(narrow(g, 1, 0, columns), narrow(block, 1, 0, columns));  // [n, block]
    const auto* y_data = static_cast<const T*>(y.const_data_ptr());
    parallel_for(0, tokens, rows_per_task(last - first), [&](int64_t begin, int64_t end) {
      add(begin, end, last - first, depth, y_data, g_data + first, form.data());
    });
    first = last;
  }
  ZOPRUNE_BEST(root)(0, tokens, form.data(), scores);
}

Tensor expected_sensitivity_cpu(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor metric,
                                std::string activation) {
  const Checker check("expected_sensitivity");
  check_tokens(check, x);
  check_linear(check, x, w1, b1, std::nullopt, std::nullopt);
  check_metric(check, metric, x, w1);
  const Layers projector(w1, b1, std::nullopt, std::nullopt, check_activation(check, activation));
  warn_if_linear(projector.activation());
  return score_images(x, images_of(lead_of(x, 1)), projector, expected_scorer(projector, metric));
}

}  // namespace

Scorer expected_scorer(const Layers& projector, const Tensor& metric) {
  const ScalarType dtype = product_dtype(metric.scalar_type(), projector.hidden());
  if (fused::available())
    return {[&metric](const Tensor& g, float* scores) { fused::root_form(g, metric, scores); },
            dtype};
  const auto score = dtype == ScalarType::Float ? score_tokens<float> : score_tokens<BFloat16>;
  return {[metric = padded(metric, dtype), score](const Tensor& g, float* scores) {
            score(g, metric, scores);
          },
          dtype};
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("expected_sensitivity", boxed<&expected_sensitivity_cpu>); }

}  // namespace zoprune
