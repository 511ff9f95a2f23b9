#include "cpu/dpp.h"

#include "bindings/common/boxed.h"
#include "bindings/greedy.h"

namespace zoprune {
GreedyKernel dpp_kernel(bool sort) {
  return [sort, kernel = ZOPRUNE_BEST(select_dpp)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(layout, image, sort, parallel_for);
  };
}

namespace {

Tensor select_dpp_cpu(Tensor quality, Tensor keys, int64_t k, std::optional<Tensor> must_keep,
                      std::optional<Tensor> valid, bool sort) {
  const Checker check("select_dpp");
  const GreedyTensors tensors{quality, keys, {}, {}, must_keep, valid};
  check_greedy(check, tensors, false, "quality");
  return select_greedily(check, tensors, k, dpp_kernel(sort));
}

Tensor select_dpp_varlen_cpu(Tensor quality, Tensor keys, Tensor cu_tokens, Tensor cu_keep,
                             int64_t total_keep, std::optional<Tensor> must_keep,
                             std::optional<Tensor> valid, bool sort) {
  const Checker check("select_dpp_varlen");
  const GreedyTensors tensors{quality, keys, {}, {}, must_keep, valid};
  check_greedy(check, tensors, true, "quality");
  return select_greedily(check, tensors, {cu_tokens, cu_keep, total_keep}, dpp_kernel(sort),
                         "quality");
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("select_dpp", boxed<&select_dpp_cpu>);
  m.impl("select_dpp_varlen", boxed<&select_dpp_varlen_cpu>);
}

}  // namespace zoprune
