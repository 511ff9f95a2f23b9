// Scoring as the operators share it: checks with the texts of zoprune_kernels/checks.py, the
// projector's layers, and the loop over images.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bindings/common/checks.h"
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

// Rows of this width that are worth a thread, as parallel_for's grain.
inline int64_t rows_per_task(int64_t width) { return std::max<int64_t>(1, 32768 / width); }

// f(x) = w2 phi(w1 x + b1) + b2. The first layer's products are always fp32: whatever is wrong in
// them is wrong for all directions alike. w2, in its product's dtype and padded, and b2 may be
// missing.
struct Layers {
  Layers(const Tensor& w1, const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
         const std::optional<Tensor>& b2, Activation activation);

  int64_t hidden() const { return w1.size(0); }
  Tensor first_layer(const Tensor& x) const { return fp32_product(x, w1); }  // without bias
  const float* bias() const { return b1.const_data_ptr<float>(); }

  Tensor w1;                 // [H, d], padded where it is fp32
  Tensor b1;                 // fp32 [H], zeros where there is none
  std::optional<Tensor> w2;  // [D, H padded]
  std::optional<Tensor> b2;  // [D]
  Activation activation;
};

// phi(products + b1) as dtype, fp32 or bf16, from the first layer's products [n, H], padded.
Tensor activate_products(const Layers& projector, const Tensor& products, ScalarType dtype);

// Writes the scores [n] of the tokens whose first-layer products [n, H] are given.
using Scorer = std::function<void(const Tensor& products, float* scores)>;

// mean_j ||f(x + h u_j) - f(x - h u_j)|| / 2h. Keeps references to its arguments.
Scorer sampled_scorer(const Layers& projector, const Tensor& directions, double step);
// sqrt(g^T M g). Keeps references to its arguments.
Scorer expected_scorer(const Layers& projector, const Tensor& metric);

// The scores, fp32 of x's shape without its last dimension, image after image: an image's scores do
// not depend on the others. Writes the projector's outputs too, to `outputs` [.., D], if given.
Tensor score_images(const Tensor& x, const std::vector<Segment>& images, const Layers& projector,
                    const Scorer& score, Tensor* outputs = nullptr);

// Warns, once per process, where the projector is linear: every token then has the same score.
void warn_if_linear(Activation activation);

}  // namespace zoprune
