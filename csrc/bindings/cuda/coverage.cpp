#include "cuda/coverage.h"

#include "bindings/common/boxed.h"
#include "bindings/cuda/greedy.h"

namespace zoprune {
namespace {

Tensor run(CudaCall&& call, const std::optional<Tensor>& weights) {
  const cuda::Coverage coverage{call.floats(weights)};
  return call.run(coverage);
}

Tensor select_coverage_cuda(Tensor scores, Tensor keys, int64_t k, std::optional<Tensor> weights,
                            std::optional<Tensor> must_keep, std::optional<Tensor> valid,
                            bool sort) {
  const char* const op = "select_coverage";
  const Checker check(op);
  const GreedyTensors tensors{scores, keys, {}, weights, must_keep, valid};
  check_greedy(check, tensors, false);
  check_k(check, k, scores.size(-1));
  if (const std::string reason = why_not_on(scores); !reason.empty())
    return run_reference(op, reason, scores, keys, k, weights, must_keep, valid, sort);
  return run(CudaCall(op, tensors, sort, k), weights);
}

Tensor select_coverage_varlen_cuda(Tensor scores, Tensor keys, Tensor cu_tokens, Tensor cu_keep,
                                   int64_t total_keep, std::optional<Tensor> weights,
                                   std::optional<Tensor> must_keep, std::optional<Tensor> valid,
                                   bool sort) {
  const char* const op = "select_coverage_varlen";
  const Checker check(op);
  const GreedyTensors tensors{scores, keys, {}, weights, must_keep, valid};
  check_greedy(check, tensors, true);
  check_packing(check, cu_tokens, cu_keep, total_keep, scores, "scores");
  if (const std::string reason = why_not_on(scores); !reason.empty())
    return run_reference(op, reason, scores, keys, cu_tokens, cu_keep, total_keep, weights,
                         must_keep, valid, sort);
  return run(CudaCall(op, tensors, sort, Packing{cu_tokens, cu_keep, total_keep}), weights);
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CUDA, m) {
  m.impl("select_coverage", boxed<&select_coverage_cuda>);
  m.impl("select_coverage_varlen", boxed<&select_coverage_varlen_cuda>);
}

}  // namespace zoprune
