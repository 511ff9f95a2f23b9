#include "bindings/common/products.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <stdexcept>

#include "bindings/common/aten.h"
#include "bindings/common/fused_products.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

using torch::stable::contiguous, torch::stable::narrow, torch::stable::to;

constexpr int64_t kLineBytes = 64;  // a cache line, an AVX-512 register, a row of an AMX tile

// Products of half-precision inputs round their results to bf16, an error of 2^-8 or less each.
// Over this many the average is safely below 1e-3.
constexpr int64_t kTermsForBf16 = 1024;

// Rows of a half-precision weight that are converted to fp32 at once.
constexpr int64_t kWeightRowsAtOnce = 1024;

}  // namespace

int64_t whole_lines(int64_t depth, ScalarType dtype) {
  const int64_t line = kLineBytes / static_cast<int64_t>(dtype == ScalarType::Float ? 4 : 2);
  return (depth + line - 1) / line * line;
}

Tensor padded(const Tensor& rows, ScalarType dtype) {
  const int64_t depth = rows.size(1), whole = whole_lines(depth, dtype);
  if (depth == whole) return to(rows, dtype);
  Tensor out = empty({rows.size(0), whole}, dtype, "a product's operand");
  Tensor values = narrow(out, 1, 0, depth), rest = narrow(out, 1, depth, whole - depth);
  torch::stable::copy_(values, rows);
  torch::stable::zero_(rest);
  return out;
}

ScalarType product_dtype(ScalarType inputs, int64_t terms) {
  const bool fast = fused::available() ? fused::has_fast_bf16() : aten::has_fast_bf16();
  const bool bf16 = inputs != ScalarType::Float && terms >= kTermsForBf16 && fast;
  return bf16 ? ScalarType::BFloat16 : ScalarType::Float;
}

Tensor product(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  const Tensor rows = padded(x, w.scalar_type());
  // Also where the processor has no kernel that reads too far: a tail must not get this far.
  if (rows.size(1) != w.size(1) || w.size(1) != whole_lines(w.size(1), w.scalar_type()))
    throw std::logic_error("zoprune: a product takes rows of whole cache lines");
  const bool contiguous = rows.is_contiguous() && w.is_contiguous();
  if (w.scalar_type() == ScalarType::Float && contiguous && aten::has_onednn())
    return aten::onednn_linear(rows, w, bias);
  Tensor out = empty({rows.size(0), w.size(0)}, w.scalar_type(), "a product");
  aten::linear_out(rows, w, bias, out);
  return out;
}

Tensor fp32_product(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  if (fused::available())
    return fused::product(fused::Operand::exact(x, w.scalar_type()), w, bias, ScalarType::Float);
  if (w.scalar_type() == ScalarType::Float) return product(x, padded(w, ScalarType::Float), bias);
  Tensor weight = w;
  const Tensor rows = padded(x, ScalarType::Float);
  Tensor offset = bias.value_or(torch::stable::full({w.size(0)}, 0, ScalarType::Float));
  Tensor out = empty({x.size(0), w.size(0)}, ScalarType::Float, "a product");
  for (int64_t first = 0; first < w.size(0); first += kWeightRowsAtOnce) {
    const int64_t count = std::min(kWeightRowsAtOnce, w.size(0) - first);
    const Tensor block = contiguous(padded(narrow(weight, 0, first, count), ScalarType::Float));
    const Tensor block_offset = to(narrow(offset, 0, first, count), ScalarType::Float);
    Tensor columns = narrow(out, 1, first, count);
    torch::stable::copy_(columns, product(rows, block, block_offset));
  }
  return out;
}

}  // namespace zoprune
