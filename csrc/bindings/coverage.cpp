#include "cpu/coverage.h"

#include "bindings/common/boxed.h"
#include "bindings/greedy.h"

namespace zoprune {
GreedyKernel coverage_kernel(bool sort) {
  return [sort, kernel = ZOPRUNE_BEST(select_coverage)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(layout, image, sort, parallel_for);
  };
}

namespace {

Tensor select_coverage_cpu(Tensor scores, Tensor keys, int64_t k, std::optional<Tensor> weights,
                           std::optional<Tensor> must_keep, std::optional<Tensor> valid,
                           bool sort) {
  const Checker check("select_coverage");
  const GreedyTensors tensors{scores, keys, {}, weights, must_keep, valid};
  check_greedy(check, tensors, false);
  return select_greedily(check, tensors, k, coverage_kernel(sort));
}

Tensor select_coverage_varlen_cpu(Tensor scores, Tensor keys, Tensor cu_tokens, Tensor cu_keep,
                                  int64_t total_keep, std::optional<Tensor> weights,
                                  std::optional<Tensor> must_keep, std::optional<Tensor> valid,
                                  bool sort) {
  const Checker check("select_coverage_varlen");
  const GreedyTensors tensors{scores, keys, {}, weights, must_keep, valid};
  check_greedy(check, tensors, true);
  return select_greedily(check, tensors, {cu_tokens, cu_keep, total_keep}, coverage_kernel(sort));
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("select_coverage", boxed<&select_coverage_cpu>);
  m.impl("select_coverage_varlen", boxed<&select_coverage_varlen_cpu>);
}

}  // namespace zoprune
