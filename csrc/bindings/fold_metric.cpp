#include "cpu/fold_metric.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "bindings/common/aten.h"
#include "bindings/common/boxed.h"
#include "bindings/common/scoring.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

using torch::stable::narrow, torch::stable::to, torch::stable::transpose;

// Rows of the metric computed at once: fewer of them compute less twice, and pack weights more
// often.
int64_t rows_at_once() { return fused::available() ? 256 : 512; }

// W W^T of W's rows from `first` on, for the first `rows` of them: fp32 [rows, H - first]. W is
// padded where products are not fused.
Tensor gram(Tensor weight, int64_t first, int64_t rows) {
  Tensor rest = narrow(weight, 0, first, weight.size(0) - first);
  const Tensor block = narrow(rest, 0, 0, rows);
  if (!fused::available()) return product(block, rest);
  const auto operand = fused::Operand::exact(block, weight.scalar_type());
  return fused::product(operand, rest, std::nullopt, ScalarType::Float);
}

template <typename Out>
void fold(const Tensor& w1, const Tensor& w2, float scale, Out* metric) {
  const int64_t hidden = w1.size(0), at_once = rows_at_once();
  auto* const fold_rows = ZOPRUNE_BEST(fold_rows<Out>);
  for (int64_t first = 0; first < hidden; first += at_once) {
    const int64_t rows = std::min(at_once, hidden - first);
    const Tensor outputs = gram(w2, first, rows), inputs = gram(w1, first, rows);
    parallel_for(first, first + rows, 64, [&](int64_t begin, int64_t end) {
      fold_rows(begin, end, first, hidden, scale, outputs.const_data_ptr<float>(),
                inputs.const_data_ptr<float>(), metric);
    });
  }
}

// Sums are fp32: it is done once per model.
Tensor fold_metric_cpu(Tensor w1, Tensor w2, std::optional<Tensor> directions) {
  const Checker check("fold_metric");
  check.shape("w1", w1, {"H", "d"}, "a linear layer's weight");
  check.float_dtype("w1", w1.scalar_type());
  check.shape("w2", w2, {"D", w1.size(0)}, "H is w1's first dimension");
  check.dtype("w2", w2, w1.scalar_type(), " (that of w1)");
  check.device("w2", w2, w1, "w1");
  if (directions) check_directions(check, *directions, w1, "w1");

  const auto rows = [](const Tensor& matrix) {
    return torch::stable::contiguous(fused::available() ? matrix
                                                        : padded(matrix, ScalarType::Float));
  };
  // Rows w such that W1 C W1^T is their Gram matrix, times `terms`.
  const Tensor inputs = rows(directions ? fp32_product(w1, *directions) : w1);
  const int64_t terms = directions ? directions->size(0) : w1.size(1);
  const float scale = 1.0f / static_cast<float>(terms);
  const Tensor outputs = rows(transpose(w2, 0, 1));  // [H, D]
  const bool fp32 = w1.scalar_type() == ScalarType::Float;
  Tensor metric = empty({w1.size(0), w1.size(0)}, fp32 ? ScalarType::Float : ScalarType::BFloat16,
                        "the metric");
  if (fp32)
    fold(inputs, outputs, scale, metric.mutable_data_ptr<float>());
  else
    fold(inputs, outputs, scale, static_cast<BFloat16*>(metric.mutable_data_ptr()));
  return metric;
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("fold_metric", boxed<&fold_metric_cpu>); }

}  // namespace zoprune
