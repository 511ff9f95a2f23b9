#include "cuda/dpp.h"

#include "bindings/common/boxed.h"
#include "bindings/cuda/greedy.h"

namespace zoprune {
namespace {

Tensor select_dpp_cuda(Tensor quality, Tensor keys, int64_t k, std::optional<Tensor> must_keep,
                       std::optional<Tensor> valid, bool sort) {
  const char* const op = "select_dpp";
  const Checker check(op);
  const GreedyTensors tensors{quality, keys, {}, {}, must_keep, valid};
  check_greedy(check, tensors, false, "quality");
  check_k(check, k, quality.size(-1));
  if (const std::string reason = why_not_on(quality); !reason.empty())
    return run_reference(op, reason, quality, keys, k, must_keep, valid, sort);
  return CudaCall(op, tensors, sort, k).run(cuda::Volume());
}

Tensor select_dpp_varlen_cuda(Tensor quality, Tensor keys, Tensor cu_tokens, Tensor cu_keep,
                              int64_t total_keep, std::optional<Tensor> must_keep,
                              std::optional<Tensor> valid, bool sort) {
  const char* const op = "select_dpp_varlen";
  const Checker check(op);
  const GreedyTensors tensors{quality, keys, {}, {}, must_keep, valid};
  check_greedy(check, tensors, true, "quality");
  check_packing(check, cu_tokens, cu_keep, total_keep, quality, "quality");
  if (const std::string reason = why_not_on(quality); !reason.empty())
    return run_reference(op, reason, quality, keys, cu_tokens, cu_keep, total_keep, must_keep,
                         valid, sort);
  return CudaCall(op, tensors, sort, Packing{cu_tokens, cu_keep, total_keep}).run(cuda::Volume());
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CUDA, m) {
  m.impl("select_dpp", boxed<&select_dpp_cuda>);
  m.impl("select_dpp_varlen", boxed<&select_dpp_varlen_cuda>);
}

}  // namespace zoprune
