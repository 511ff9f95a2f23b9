#include "cpu/select_dpp.h"

#include "bindings/common/cuda_call.h"
#include "bindings/common/methods.h"
#include "cuda/select_dpp.h"

namespace zoprune {
namespace {

struct SelectDpp : GreedyOperator {
  static constexpr const char *kName = "select_dpp", *kScores = "quality";

  bool sort = true;
  auto fields() { return std::tie(must_keep, valid, sort); }

  GreedyKernel kernel() const { return greedy_kernel(ZOPRUNE_BEST(select_dpp), sort); }
  Tensor run(CudaCall& call) const { return call.run(cuda::Volume(), sort); }
};

}  // namespace

GreedyKernel dpp_kernel(const Checker&, const MethodOptions& options) {
  return greedy_kernel(ZOPRUNE_BEST(select_dpp), options.select.sort);
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<SelectDpp>(m); }
ZOPRUNE_LIBRARY_IMPL(CUDA, m) { add_on_cuda<SelectDpp>(m); }

}  // namespace zoprune
