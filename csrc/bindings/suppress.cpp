#include "cpu/suppress.h"

#include <string>

#include "bindings/common/boxed.h"
#include "bindings/greedy.h"

namespace zoprune {
GreedyKernel suppress_kernel(const Suppression& suppression, bool sort) {
  return [suppression, sort, kernel = ZOPRUNE_BEST(select_suppress)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(suppression, layout, image, sort, parallel_for);
  };
}

namespace {

// Checks everything but how many tokens are kept.
GreedyKernel checked_kernel(const Checker& check, const GreedyTensors& tensors, bool packed,
                            const SuppressOptions& options, bool sort) {
  check_greedy(check, tensors, packed);
  const int64_t axes = tensors.positions ? tensors.positions->size(-1) : 0;
  return suppress_kernel(check_suppression(check, options, axes), sort);
}

Tensor select_suppress_cpu(Tensor scores, std::optional<Tensor> keys, int64_t k,
                           std::optional<Tensor> positions, std::optional<Tensor> must_keep,
                           std::optional<Tensor> valid, std::string rule, double sigma_space,
                           double sigma_similarity, double radius, double strength,
                           double threshold, bool sort) {
  const Checker check("select_suppress");
  const GreedyTensors tensors{scores, keys, positions, {}, must_keep, valid};
  const SuppressOptions options{rule, sigma_space, sigma_similarity, radius, strength, threshold};
  const GreedyKernel kernel = checked_kernel(check, tensors, false, options, sort);
  return select_greedily(check, tensors, k, kernel);
}

Tensor select_suppress_varlen_cpu(Tensor scores, std::optional<Tensor> keys, Tensor cu_tokens,
                                  Tensor cu_keep, int64_t total_keep,
                                  std::optional<Tensor> positions, std::optional<Tensor> must_keep,
                                  std::optional<Tensor> valid, std::string rule, double sigma_space,
                                  double sigma_similarity, double radius, double strength,
                                  double threshold, bool sort) {
  const Checker check("select_suppress_varlen");
  const GreedyTensors tensors{scores, keys, positions, {}, must_keep, valid};
  const SuppressOptions options{rule, sigma_space, sigma_similarity, radius, strength, threshold};
  const GreedyKernel kernel = checked_kernel(check, tensors, true, options, sort);
  return select_greedily(check, tensors, {cu_tokens, cu_keep, total_keep}, kernel);
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("select_suppress", boxed<&select_suppress_cpu>);
  m.impl("select_suppress_varlen", boxed<&select_suppress_varlen_cpu>);
}

}  // namespace zoprune
