// A selection on CUDA, as the operators share it. Without CUDA kernels in the library there is
// none.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/common/greedy.h"
#include "cuda/greedy/greedy.h"

namespace zoprune {

// Everything is enqueued on torch's current stream, where the allocator may reuse the workspace as
// soon as it is given back. The tensors have been checked; keys are given where they are compared.
class CudaCall {
 public:
  CudaCall(const std::string& op, const GreedyTensors& tensors, int64_t k);
  CudaCall(const std::string& op, const GreedyTensors& tensors, const Packing& packing);

  // Compares keys minus their mean from here on.
  void centre();

  // The indices of the picks, ascending where `sort`.
  template <typename Objective>
  Tensor run(const Objective& objective, bool sort) {
    arguments_.sort = sort;
    const cuda::SelectPlan plan = cuda::plan_select<Objective>(arguments_, device_);
    const Tensor workspace = torch::stable::new_empty(
        indices_, {static_cast<int64_t>(plan.workspace_bytes)}, ScalarType::Byte);
    check(cuda::select(arguments_, objective, plan, workspace.mutable_data_ptr(), stream()));
    return indices_;
  }

 private:
  CudaCall(const std::string& op, const GreedyTensors& tensors, const Lead& shape);
  void check(const std::string& error) const;
  cuda::Stream stream() const;
  template <typename T>
  const T* keep(const Tensor& tensor);  // contiguous, alive as long as the call

  const std::string op_;
  const torch::stable::accelerator::DeviceGuard guard_;
  const int number_;  // of the device
  cuda::Device device_ = {};
  cuda::SelectArguments arguments_;
  Tensor indices_;
  std::vector<Tensor> alive_;
};

// The PyTorch reference, which warns once of the reason, or refuses where CUDA is forced. libtorch
// keeps 48 bytes for each string that it gets this way (2.11 to 2.15).
template <typename... Arguments>
Tensor run_reference(const std::string& op, const std::string& reason, Arguments&... arguments) {
  std::vector<StableIValue> stack = {torch::stable::detail::from(reason)};
  (put_argument(stack, arguments), ...);
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(concat(op_namespace, "::_reference_", op).c_str(),
                                               "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// greedy.h says what an Operator is.
template <typename Operator, typename Keep>
Tensor select_on_cuda(Tensor scores, typename Operator::Keys keys, Keep keep, Operator in) {
  const Checker check = check_call(in, scores, keys, keep);
  if (const std::string reason = in.why_not_on_cuda(); !reason.empty())
    return run_reference(check.op(), reason, scores, keys, keep, in);
  CudaCall call(check.op(), in, keep);
  return in.run(call);
}

template <typename Operator>
void add_on_cuda([[maybe_unused]] torch::stable::detail::StableLibrary& library) {
#if defined(ZOPRUNE_CUDA) || defined(CUDA_KERNEL)  // CMakeLists.txt, or the kernels hub
  library.impl(twin_name(Operator::kName, 1).c_str(), boxed<&select_on_cuda<Operator, int64_t>>);
  library.impl(twin_name(Operator::kName, Packing()).c_str(),
               boxed<&select_on_cuda<Operator, Packing>>);
#endif
}

}  // namespace zoprune
