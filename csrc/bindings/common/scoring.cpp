#include "bindings/common/scoring.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "bindings/common/aten.h"
#include "bindings/common/torch_calls.h"
#include "cpu/activations.h"

namespace zoprune {
namespace {

constexpr Name<Activation> kActivations[] = {{"gelu", Activation::gelu},
                                             {"gelu_tanh", Activation::gelu_tanh},
                                             {"quick_gelu", Activation::quick_gelu},
                                             {"silu", Activation::silu},
                                             {"relu", Activation::relu},
                                             {"identity", Activation::identity}};
static_assert(is_complete(kActivations));

using torch::stable::contiguous, torch::stable::narrow;
using torch::stable::to;

// Tokens whose first-layer products are held at once.
constexpr int64_t kTokensAtOnce = 1024;

template <typename Out>
Tensor activate_as(const Layers& projector, const Tensor& products, ScalarType dtype) {
  const int64_t depth = whole_lines(projector.hidden(), dtype);
  Tensor out = empty({products.size(0), depth}, dtype, "the hidden layer");
  const float* in = products.const_data_ptr<float>();
  auto* data = static_cast<Out*>(out.mutable_data_ptr());
  auto* const activate = ZOPRUNE_BEST(activate<Out>);
  parallel_for(0, out.size(0), rows_per_task(projector.hidden()), [&](int64_t begin, int64_t end) {
    activate(projector.activation, begin, end, projector.hidden(), in, projector.bias(), data,
             depth);
  });
  return out;
}

}  // namespace

void check_tokens(const Checker& check, const Tensor& x, bool packed) {
  check.float_dtype("x", x.scalar_type());
  const bool empty = x.dim() > 0 && x.numel() == 0;
  const bool fits = !empty && (packed ? x.dim() == 2 : x.dim() == 2 || x.dim() == 3);
  check.require(fits, "x", packed ? "shape [T, d]" : "shape [N, d] or [B, N, d]", shape_text(x));
}

void check_linear(const Checker& check, const Tensor& x, const Tensor& w1,
                  const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
                  const std::optional<Tensor>& b2) {
  const auto check_layer = [&](const char* argument, const std::optional<Tensor>& tensor,
                               const std::vector<Size>& shape, const char* names) {
    if (!tensor) return;
    check.shape(argument, *tensor, shape, names);
    check.dtype(argument, *tensor, x.scalar_type(), " (that of x)");
    check.device(argument, *tensor, x, "x");
  };
  const auto rows_of = [](const Tensor& weight) { return weight.dim() == 2 ? weight.size(0) : 0; };
  check_layer("w1", w1, {"H", x.size(x.dim() - 1)}, "d is x's last dimension");
  check_layer("b1", b1, {rows_of(w1)}, "H is w1's first dimension");
  check_layer("w2", w2, {"D", rows_of(w1)}, "H is w1's first dimension");
  check_layer("b2", b2, {w2 ? rows_of(*w2) : 0}, "D is w2's first dimension");
}

void check_directions(const Checker& check, const Tensor& directions, const Tensor& like,
                      const char* name) {
  const std::string names = concat("d is ", name, "'s last dimension");
  check.shape("directions", directions, {"m", like.size(like.dim() - 1)}, names.c_str());
  check.float_dtype("directions", directions.scalar_type());
  check.device("directions", directions, like, name);
}

void check_metric(const Checker& check, const Tensor& metric, const Tensor& x, const Tensor& w1) {
  check.shape("metric", metric, {w1.size(0), w1.size(0)}, "H is w1's first dimension");
  check.float_dtype("metric", metric.scalar_type());
  check.device("metric", metric, x, "x");
}

void check_step(const Checker& check, double step) {
  if (step != 0) check.in_range("step", step, "0 or ");
}

Activation check_activation(const Checker& check, const std::string& activation) {
  return check.one_of("activation", activation, kActivations);
}

Layers::Layers(const Tensor& w1, const std::optional<Tensor>& b1, const std::optional<Tensor>& w2,
               const std::optional<Tensor>& b2, Activation activation)
    : activation(activation) {
  const int64_t hidden = w1.size(0);
  const bool fp32 = w1.scalar_type() == ScalarType::Float;
  this->w1 = contiguous(fp32 ? padded(w1, ScalarType::Float) : w1);
  this->b1 = b1 ? contiguous(to(*b1, ScalarType::Float))
                : torch::stable::full({hidden}, 0, ScalarType::Float);
  if (!w2) return;
  const ScalarType outputs = product_dtype(w1.scalar_type(), std::min(hidden, w2->size(0)));
  this->w2 = contiguous(padded(*w2, outputs));
  if (b2) this->b2 = contiguous(to(*b2, outputs));
}

Tensor activate_products(const Layers& projector, const Tensor& products, ScalarType dtype) {
  const auto activate = dtype == ScalarType::Float ? activate_as<float> : activate_as<BFloat16>;
  return activate(projector, products, dtype);
}

Tensor score_images(const Tensor& x, const std::vector<Segment>& images, const Layers& projector,
                    const Scorer& score, Tensor* outputs) {
  const std::vector<int64_t> lead(x.sizes().begin(), x.sizes().end() - 1);
  Tensor scores = empty(lead, ScalarType::Float, "the scores");
  float* data = scores.mutable_data_ptr<float>();
  const bool linear = projector.activation == Activation::identity;
  if (linear) {  // the same for every token, whatever it holds
    float same;
    score(torch::stable::full({1, projector.hidden()}, 0, ScalarType::Float), &same);
    std::fill_n(data, scores.numel(), same);
    if (outputs == nullptr) return scores;
  }
  Tensor rows = torch::stable::reshape(contiguous(x), {-1, x.size(x.dim() - 1)});
  std::optional<Tensor> output_rows;
  if (outputs) output_rows = torch::stable::view(*outputs, {rows.size(0), -1});
  for (const Segment& image : images) {
    const int64_t blocks = (image.tokens + kTokensAtOnce - 1) / kTokensAtOnce;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = image.begin + block * image.tokens / blocks;
      const int64_t end = image.begin + (block + 1) * image.tokens / blocks;
      const Tensor products = projector.first_layer(narrow(rows, 0, begin, end - begin));
      if (!linear) score(products, data + begin);
      if (output_rows) {
        Tensor block_outputs = narrow(*output_rows, 0, begin, end - begin);
        const Tensor hidden = activate_products(projector, products, projector.w2->scalar_type());
        torch::stable::copy_(block_outputs, product(hidden, *projector.w2, projector.b2));
      }
    }
  }
  return scores;
}

void warn_if_linear(Activation activation) {
  static std::once_flag warned;
  if (activation == Activation::identity)
    std::call_once(warned, [] {
      aten::warn(
          "zoprune: the projector is linear (activation='identity'): every token has the same "
          "sensitivity; selecting by diversity only");
    });
}

}  // namespace zoprune
