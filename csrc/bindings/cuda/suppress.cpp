#include "cuda/suppress.h"

#include "bindings/common/boxed.h"
#include "bindings/cuda/greedy.h"

namespace zoprune {
namespace {

// The options as the kernel has them, checked with the tensors.
cuda::Suppression check_tensors(const Checker& check, const GreedyTensors& tensors, bool packed,
                                const SuppressOptions& options) {
  check_greedy(check, tensors, packed);
  const int64_t axes = tensors.positions ? tensors.positions->size(-1) : 0;
  const Suppression given = check_suppression(check, options, axes);
  const double similarity = given.rule == Rule::soft
                                ? 2 * given.sigma_similarity * given.sigma_similarity
                                : given.sigma_similarity;
  cuda::Suppression rule;
  rule.rule = given.rule;
  rule.space_scale = static_cast<float>(-1 / (2 * given.sigma_space * given.sigma_space));
  rule.similarity_scale = static_cast<float>(-1 / similarity);
  rule.strength = static_cast<float>(given.strength);
  rule.radius2 = given.radius * given.radius;
  rule.threshold = given.threshold;
  rule.axes = static_cast<int>(axes);
  return rule;
}

Tensor run(CudaCall&& call, cuda::Suppression rule, const std::optional<Tensor>& positions) {
  rule.positions = call.floats(positions);
  return call.run(rule);
}

Tensor select_suppress_cuda(Tensor scores, std::optional<Tensor> keys, int64_t k,
                            std::optional<Tensor> positions, std::optional<Tensor> must_keep,
                            std::optional<Tensor> valid, std::string rule, double sigma_space,
                            double sigma_similarity, double radius, double strength,
                            double threshold, bool sort) {
  const char* const op = "select_suppress";
  const Checker check(op);
  const GreedyTensors tensors{scores, keys, positions, {}, must_keep, valid};
  const cuda::Suppression suppression = check_tensors(
      check, tensors, false, {rule, sigma_space, sigma_similarity, radius, strength, threshold});
  check_k(check, k, scores.size(-1));
  if (const std::string reason = why_not_on(scores); !reason.empty())
    return run_reference(op, reason, scores, keys, k, positions, must_keep, valid, rule,
                         sigma_space, sigma_similarity, radius, strength, threshold, sort);
  return run(CudaCall(op, tensors, sort, k), suppression, positions);
}

Tensor select_suppress_varlen_cuda(Tensor scores, std::optional<Tensor> keys, Tensor cu_tokens,
                                   Tensor cu_keep, int64_t total_keep,
                                   std::optional<Tensor> positions, std::optional<Tensor> must_keep,
                                   std::optional<Tensor> valid, std::string rule,
                                   double sigma_space, double sigma_similarity, double radius,
                                   double strength, double threshold, bool sort) {
  const char* const op = "select_suppress_varlen";
  const Checker check(op);
  const GreedyTensors tensors{scores, keys, positions, {}, must_keep, valid};
  const cuda::Suppression suppression = check_tensors(
      check, tensors, true, {rule, sigma_space, sigma_similarity, radius, strength, threshold});
  check_packing(check, cu_tokens, cu_keep, total_keep, scores, "scores");
  if (const std::string reason = why_not_on(scores); !reason.empty())
    return run_reference(op, reason, scores, keys, cu_tokens, cu_keep, total_keep, positions,
                         must_keep, valid, rule, sigma_space, sigma_similarity, radius, strength,
                         threshold, sort);
  return run(CudaCall(op, tensors, sort, Packing{cu_tokens, cu_keep, total_keep}), suppression,
             positions);
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CUDA, m) {
  m.impl("select_suppress", boxed<&select_suppress_cuda>);
  m.impl("select_suppress_varlen", boxed<&select_suppress_varlen_cuda>);
}

}  // namespace zoprune
