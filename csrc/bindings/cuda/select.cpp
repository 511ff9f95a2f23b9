#include "bindings/select.h"

#include "bindings/common/boxed.h"
#include "bindings/cuda/greedy.h"
#include "cuda/select.h"

namespace zoprune {
namespace {

// Why the kernel cannot serve a call; empty where it can.
std::string why_not(const SelectOptions& options, const Tensor& scores) {
  if (options.picks_per_step > cuda::kMostPicksPerStep)
    return concat("its kernel has no picks_per_step above ", cuda::kMostPicksPerStep);
  return why_not_on(scores);
}

cuda::Redundancy redundancy(const SelectOptions& options) {
  return {method_of(options),
          static_cast<float>(options.max_similarity),
          static_cast<float>(options.tradeoff),
          static_cast<uint64_t>(options.seed),
          options.first == "isolated",
          options.num_seed,
          static_cast<int>(options.picks_per_step)};
}

Tensor pick(CudaCall call, const SelectOptions& options) {
  if (options.centre && options.needs_keys()) call.centre();
  return call.run(redundancy(options));
}

Tensor select_cuda(Tensor scores, std::optional<Tensor> keys, int64_t k,
                   std::optional<Tensor> must_keep, std::optional<Tensor> valid, std::string method,
                   double max_similarity, bool sort, double tradeoff, std::string first,
                   int64_t num_seed, bool centre, int64_t picks_per_step) {
  const SelectOptions options{method,   max_similarity, sort,          0, tradeoff, first,
                              num_seed, centre,         picks_per_step};
  check_select(Checker("select"), scores, keys, k, must_keep, valid, options);
  if (const std::string reason = why_not(options, scores); !reason.empty())
    return run_reference("select", reason, scores, keys, k, must_keep, valid, method,
                         max_similarity, sort, tradeoff, first, num_seed, centre, picks_per_step);
  if (!options.needs_keys()) keys.reset();
  return pick(CudaCall("select", {scores, keys, {}, {}, must_keep, valid}, sort, k), options);
}

Tensor select_varlen_cuda(Tensor scores, std::optional<Tensor> keys, Tensor cu_tokens,
                          Tensor cu_keep, int64_t total_keep, std::optional<Tensor> must_keep,
                          std::optional<Tensor> valid, std::string method, double max_similarity,
                          bool sort, double tradeoff, std::string first, int64_t num_seed,
                          bool centre, int64_t picks_per_step) {
  const SelectOptions options{method,   max_similarity, sort,          0, tradeoff, first,
                              num_seed, centre,         picks_per_step};
  check_select_varlen(Checker("select_varlen"), scores, keys, cu_tokens, cu_keep, total_keep,
                      must_keep, valid, options);
  if (const std::string reason = why_not(options, scores); !reason.empty())
    return run_reference("select_varlen", reason, scores, keys, cu_tokens, cu_keep, total_keep,
                         must_keep, valid, method, max_similarity, sort, tradeoff, first, num_seed,
                         centre, picks_per_step);
  if (!options.needs_keys()) keys.reset();
  const Packing packing{cu_tokens, cu_keep, total_keep};
  return pick(CudaCall("select_varlen", {scores, keys, {}, {}, must_keep, valid}, sort, packing),
              options);
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CUDA, m) {
  m.impl("select", boxed<&select_cuda>);
  m.impl("select_varlen", boxed<&select_varlen_cuda>);
}

}  // namespace zoprune
