// Scoring as the operators share it: checks with the texts of zoprune_kernels/checks.py, the
// projector's layers, and the loop over images.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bindings/common/checks.h"
#include "bindings/common/fused_products.h"
#include "bindings/common/products.h"
#include "bindings/common/segments.h"
#include "zoprune/activations.h"

namespace zoprune {

// Checks in the order in which zoprune_kernels/operators makes them. An argument that an operator
// does not have is nullopt.
void check_tokens(const Checker& check, const Tensor& x, bool packed = false);
void check_linear(const Checker& check, const Tensor& x, const Tensor& w1,
                  const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
                  const std::optional<Tensor>& b2);
void check_directions(const Checker& check, const Tensor& directions, const Tensor& like,
                      const char* name);
void check_metric(const Checker& check, const Tensor& metric, const Tensor& x, const Tensor& w1);
void check_step(const Checker& check, double step);
Activation check_activation(const Checker& check, const std::string& activation);

// f(x) = w2 phi(w1 x + b1) + b2; w2 and b2 may be missing. The first layer's products are always
// fp32: whatever is wrong in them is wrong for all directions alike.
class Layers {
 public:
  Layers(const Tensor& w1, const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
         const std::optional<Tensor>& b2, Activation activation);

  int64_t hidden() const { return w1_.size(0); }
  Activation activation() const { return activation_; }
  // The dtype in which w2 is multiplied.
  ScalarType second_dtype() const { return second_dtype_; }
  const std::optional<Tensor>& w2() const { return w2_; }
  const float* bias() const { return b1_.const_data_ptr<float>(); }

  // w1 x, without bias: fp32 [n, H].
  Tensor first_layer(const Tensor& x) const;
  // phi(w1 x + b1) and phi' of it, each [n, H padded] as its dtype, fp32 or bf16, if any.
  fused::Activated activate(const Tensor& x, std::optional<ScalarType> value,
                            std::optional<ScalarType> slope) const;
  // The same from the first layer's products.
  fused::Activated activate_products(const Tensor& products, std::optional<ScalarType> value,
                                     std::optional<ScalarType> slope) const;
  // Writes w2 hidden + b2, multiplied as hidden's dtype, which is second_dtype() or fp32.
  void second_layer(const Tensor& hidden, Tensor& out) const;

 private:
  Tensor w1_;                    // [H, d]
  Tensor b1_;                    // fp32 [H], zeros where there is none
  std::optional<Tensor> w2_;     // [D, H]; padded, in second_dtype_, unless products are fused
  std::optional<Tensor> b2_;     // [D]
  std::optional<Tensor> given_;  // w2 as it came
  ScalarType second_dtype_ = ScalarType::Float;
  Activation activation_;
};

// Writes the scores [n] of some tokens, from the first layer's products [n, H], or from phi' [n, H
// padded] as `slopes`.
struct Scorer {
  std::function<void(const Tensor& values, float* scores)> score;
  std::optional<ScalarType> slopes = std::nullopt;
};

// mean_j ||f(x + h u_j) - f(x - h u_j)|| / 2h. Keeps references to its arguments.
Scorer sampled_scorer(const Layers& projector, const Tensor& directions, double step);
// sqrt(g^T M g). Keeps references to its arguments.
Scorer expected_scorer(const Layers& projector, const Tensor& metric);

// The scores, fp32 of x's shape without its last dimension: an image's scores do not depend on the
// others. Writes the projector's outputs too, to `outputs` [.., D], if given.
Tensor score_images(const Tensor& x, const std::vector<Segment>& images, const Layers& projector,
                    const Scorer& score, Tensor* outputs = nullptr);

// Warns, once per process, where the projector is linear: every token then has the same score.
void warn_if_linear(Activation activation);

}  // namespace zoprune
