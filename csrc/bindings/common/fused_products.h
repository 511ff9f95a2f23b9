// Products by csrc/cpu/product.cpp, with what follows them fused: where the processor has AVX-512.
// Weights stay in their own dtype and need no padding.
#pragma once

#include <optional>
#include <utility>

#include "bindings/common/checks.h"
#include "cpu/product.h"

namespace zoprune::fused {

// Whether products run here, and whether bf16 ones are faster than fp32 ones.
bool available();
bool has_fast_bf16();

// The left operand of a product: rows [n, K] as fp32 or bf16, or fp16 split in two bf16 parts.
class Operand {
 public:
  // x as dtype.
  Operand(const Tensor& x, ScalarType dtype);
  // x so that its products with a weight of that dtype lose nothing but in their fp32 sums.
  static Operand exact(const Tensor& x, ScalarType weight);

  int64_t count() const { return rows_.size(0); }
  ScalarType dtype() const { return rows_.scalar_type(); }

  template <typename T>
  Rows<T> rows() const {
    return {static_cast<const T*>(rows_.const_data_ptr()), count(), rows_.stride(0), split_};
  }

 private:
  Operand(Tensor rows, bool split) : rows_(std::move(rows)), split_(split) {}

  Tensor rows_;
  bool split_ = false;
};

// x times w [M, K] transposed plus bias [M], written to `out` [n, M], fp32 or bf16.
void product_into(const Operand& x, const Tensor& w, const std::optional<Tensor>& bias,
                  const Tensor& out);
// The same as a new tensor of dtype.
Tensor product(const Operand& x, const Tensor& w, const std::optional<Tensor>& bias,
               ScalarType dtype);

// phi(x w^T + bias) and phi' of it, each as its dtype, if any, and padded; bias is fp32.
struct Activated {
  std::optional<Tensor> value, slope;
};
Activated activate(const Operand& x, const Tensor& w, const Tensor& bias, Activation activation,
                   std::optional<ScalarType> value, std::optional<ScalarType> slope);

// sqrt(g^T M g) of each row g, which has the product's dtype and is padded.
void root_form(const Tensor& g, const Tensor& metric, float* scores);

// The norms of the rows of t w^T, t padded.
void row_norms(const Tensor& t, const Tensor& w, float* norms);

}  // namespace zoprune::fused
