#include "cpu/select_coverage.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"
#include "cuda/select_coverage.h"

namespace zoprune {
namespace {

GreedyKernel kernel_of(bool sort) {
  return [sort, kernel = ZOPRUNE_BEST(select_coverage)](
             const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(layout, image, sort, parallel_for);
  };
}

struct SelectCoverage : GreedyTensors {
  static constexpr const char *kName = "select_coverage", *kScores = "scores";
  using Keys = Tensor;
  static constexpr bool kNeedsKeysOrPositions = true;

  bool sort = true;
  auto fields() { return std::tie(weights, must_keep, valid, sort); }

  void check(const Checker&) {}
  GreedyKernel kernel() const { return kernel_of(sort); }
  std::string why_not_on_cuda() const { return why_not_on(scores); }
  Tensor run(CudaCall& call) const { return call.run(cuda::Coverage{call.floats(weights)}, sort); }
};

}  // namespace

GreedyKernel coverage_kernel(const Checker&, const MethodOptions& options) {
  return kernel_of(options.select.sort);
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<SelectCoverage>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<SelectCoverage>(m); }

}  // namespace zoprune
