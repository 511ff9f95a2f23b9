// The ATen operators that the CPU backend uses for large matrix products. Through the dispatcher go
// tensors and numbers only: libtorch keeps a string that torch_call_dispatcher gets (2.11 to 2.15).
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <type_traits>

// Missing from a torch without oneDNN, where it is null.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(
    AtenTensorHandle x, AtenTensorHandle w, AtenTensorHandle* bias, const char* attr,
    const double** scalars, int64_t num_scalars, const char** algorithm, AtenTensorHandle* result);

namespace zoprune::aten {

using torch::stable::Tensor;

// Calls any operator that returns one value. The arguments must have exactly the schema's types:
// Tensor, int64_t, double or bool.
template <typename Result = Tensor, typename... Args>
Result call(const char* op, const char* overload, const Args&... args) {
  static_assert(((std::is_same_v<Args, Tensor> || std::is_arithmetic_v<Args>) && ...));
  StableIValue stack[sizeof...(args) + 1] = {torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Result>(stack[0]);
}

// x [n, K] times weight [M, K] transposed, plus bias [M] -> out [n, M]. The fast form for bf16,
// also on strided views; autocast does not see it.
inline void linear_out(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Tensor& out) {
  const Tensor transposed = torch::stable::transpose(weight, 0, 1);
  TORCH_ERROR_CODE_CHECK(
      bias ? aoti_torch_cpu_addmm_out(out.get(), bias->get(), x.get(), transposed.get(), 1, 1)
           : aoti_torch_cpu_mm_out(out.get(), x.get(), transposed.get()));
}

inline bool has_onednn() { return aoti_torch_cpu__linear_pointwise != nullptr; }

// Whether oneDNN is fast in bf16 here.
inline bool has_fast_bf16() {
  static const bool fast = has_onednn() && call<bool>("mkldnn::_is_mkldnn_bf16_supported", "");
  return fast;
}

// The same product by oneDNN: up to twice MKL's rate for fp32 on processors that MKL runs at AVX2
// rates. Contiguous tensors only: oneDNN is a thousand times slower on strided ones.
inline Tensor onednn_linear(const Tensor& x, const Tensor& weight,
                            const std::optional<Tensor>& bias = std::nullopt) {
  if (!x.is_contiguous() || !weight.is_contiguous())
    throw std::logic_error("zoprune: onednn_linear takes contiguous tensors");
  AtenTensorHandle offset = bias ? bias->get() : nullptr, result = nullptr;
  const char* algorithm = "";
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu__linear_pointwise(
      x.get(), weight.get(), bias ? &offset : nullptr, "none", nullptr, 0, &algorithm, &result));
  return Tensor(result);
}

// A warning on stderr: native code that torch.ops calls does not reach Python's warnings module.
inline void warn(const char* message) { aoti_torch_warn("zoprune", "zoprune", 0, message); }

}  // namespace zoprune::aten
