// One call of a CUDA selection, as the operators share it.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "bindings/common/boxed.h"
#include "bindings/greedy.h"
#include "cuda/greedy/greedy.h"

namespace zoprune {

// Why no kernel can run on the tensor's device; empty where one can.
std::string why_not_on(const Tensor& scores);

// The PyTorch reference, which warns once of the reason, or refuses where CUDA is forced. libtorch
// keeps 48 bytes for each string that it gets this way (2.11 to 2.15).
template <typename... Arguments>
Tensor run_reference(const char* op, const std::string& reason, const Arguments&... arguments) {
  StableIValue stack[] = {torch::stable::detail::from(reason),
                          torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(concat(op_namespace, "::_reference_", op).c_str(),
                                               "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Everything is enqueued on torch's current stream, where the allocator may reuse the workspace as
// soon as it is given back. The tensors have been checked; keys are given where they are compared.
class CudaCall {
 public:
  CudaCall(const char* op, const GreedyTensors& tensors, bool sort, int64_t k);
  CudaCall(const char* op, const GreedyTensors& tensors, bool sort, const Packing& packing);

  // Contiguous in float32, alive as long as the call; null where there is none.
  const float* floats(const std::optional<Tensor>& tensor);

  // Compares keys minus their mean from here on.
  void centre();

  // The indices of the picks.
  template <typename Objective>
  Tensor run(const Objective& objective) {
    const cuda::SelectPlan plan = cuda::plan_select<Objective>(arguments_, device_);
    const Tensor workspace = torch::stable::new_empty(
        indices_, {static_cast<int64_t>(plan.workspace_bytes)}, ScalarType::Byte);
    check(cuda::select(arguments_, objective, plan, workspace.mutable_data_ptr(), stream()));
    return indices_;
  }

 private:
  CudaCall(const char* op, const GreedyTensors& tensors, bool sort,
           const std::vector<int64_t>& shape);
  void check(const std::string& error) const;
  cudaStream_t stream() const;
  template <typename T>
  const T* keep(const Tensor& tensor);

  const char* const op_;
  const torch::stable::accelerator::DeviceGuard guard_;
  const int number_;  // of the device
  cuda::Device device_ = {};
  cuda::SelectArguments arguments_;
  Tensor indices_;
  std::vector<Tensor> alive_;
};

}  // namespace zoprune
