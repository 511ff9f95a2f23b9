#include "cpu/select_coverage.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"
#include "cuda/select_coverage.h"

namespace zoprune {
namespace {

struct SelectCoverage : GreedyOperator {
  static constexpr const char* kName = "select_coverage";

  bool sort = true;
  auto fields() { return std::tie(weights, must_keep, valid, sort); }

  GreedyKernel kernel() const { return greedy_kernel(ZOPRUNE_BEST(select_coverage), sort); }
  Tensor run(CudaCall& call) const { return call.run(cuda::Coverage(), sort); }
};

}  // namespace

GreedyKernel coverage_kernel(const Checker&, const MethodOptions& options) {
  return greedy_kernel(ZOPRUNE_BEST(select_coverage), options.select.sort);
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<SelectCoverage>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<SelectCoverage>(m); }

}  // namespace zoprune
