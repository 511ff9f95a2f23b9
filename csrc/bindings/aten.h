// The ATen operators that the CPU backend uses for large matrix products, called through the stable
// dispatcher.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace zoprune::aten {

using torch::stable::Tensor;

// Calls any operator that returns one value. The arguments must have exactly the schema's types:
// Tensor, int64_t, double, bool, std::string, std::vector<T>, std::optional<T> for `T?`.
template <typename Result = Tensor, typename... Args>
Result call(const char* op, const char* overload, const Args&... args) {
  StableIValue stack[sizeof...(args) + 1] = {torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Result>(stack[0]);
}

// x [n, K] times weight [M, K] transposed, plus bias [M] -> out [n, M]. The fast form for bf16,
// also on strided views; an out= form, because autocast leaves those alone.
inline void linear_out(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Tensor& out) {
  call("aten::linear", "out", x, weight, bias, out);
}

// Whether this torch has oneDNN's linear operators, and whether they are fast in bf16 here.
inline bool has_onednn() {
  static const bool found = [] {
    try {
      call<bool>("mkldnn::_is_mkldnn_bf16_supported", "");
      return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  }();
  return found;
}

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
  return call("mkldnn::_linear_pointwise", "", x, weight, bias, std::string("none"),
              std::vector<double>{}, std::optional<std::string>(""));
}

// A warning on stderr: native code that torch.ops calls does not reach Python's warnings module.
inline void warn(const char* message) { aoti_torch_warn("zoprune", "zoprune", 0, message); }

}  // namespace zoprune::aten
