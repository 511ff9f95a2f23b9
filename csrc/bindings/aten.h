// The ATen operators that the CPU backend uses for large matrix products, called through the stable
// dispatcher.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/checks.h"

namespace zoprune::aten {

using torch::stable::detail::from;
using torch::stable::detail::to;

// x [.., K] times weight [M, K] transposed, plus bias [M] -> [.., M]. The fast form for bf16.
inline Tensor linear(const Tensor& x, const Tensor& weight,
                     const std::optional<Tensor>& bias = std::nullopt) {
  std::array<StableIValue, 3> stack{from(x), from(weight), from(bias)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

// The same product by oneDNN: up to twice MKL's rate for fp32 on processors that MKL runs at AVX2
// rates. Both must be contiguous: oneDNN's path for strided operands is a thousand times slower.
inline Tensor onednn_linear(const Tensor& x, const Tensor& weight,
                            const std::optional<Tensor>& bias = std::nullopt) {
  if (!x.is_contiguous() || !weight.is_contiguous())
    throw std::logic_error("zoprune: onednn_linear needs contiguous tensors");
  std::array<StableIValue, 6> stack{from(x),
                                    from(weight),
                                    from(bias),
                                    from(std::string("none")),
                                    from(std::vector<double>{}),
                                    from(std::optional<std::string>(""))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("mkldnn::_linear_pointwise", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

// A warning through Python's warnings module (UserWarning).
inline void warn(const char* message) { aoti_torch_warn("", "zoprune", 0, message); }

}  // namespace zoprune::aten
