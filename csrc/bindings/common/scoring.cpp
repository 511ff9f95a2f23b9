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

// `kernel` writes rows of the hidden layer as its dtype.
template <typename Out>
Tensor hidden_rows(const Layers& projector, const Tensor& products, ScalarType dtype,
                   void (*kernel)(Activation, int64_t, int64_t, int64_t, const float*, const float*,
                                  Out*, int64_t)) {
  const int64_t depth = whole_lines(projector.hidden(), dtype);
  Tensor out = empty({products.size(0), depth}, dtype, "the hidden layer");
  const float* in = products.const_data_ptr<float>();
  auto* data = static_cast<Out*>(out.mutable_data_ptr());
  parallel_for(0, out.size(0), rows_per_task(projector.hidden()), [&](int64_t begin, int64_t end) {
    kernel(projector.activation(), begin, end, projector.hidden(), in, projector.bias(), data,
           depth);
  });
  return out;
}

// Blocks of at most kTokensAtOnce tokens. Where results depend on which rows are multiplied
// together, on the image's size alone.
std::vector<Segment> blocks_of(const std::vector<Segment>& images, int64_t tokens) {
  std::vector<Segment> blocks;
  const std::vector<Segment> all = {{0, tokens, 0}};
  for (const Segment& image : fused::available() ? all : images) {
    const int64_t count = (image.tokens + kTokensAtOnce - 1) / kTokensAtOnce;
    for (int64_t block = 0; block < count; ++block) {
      const int64_t begin = block * image.tokens / count;
      blocks.push_back({image.begin + begin, (block + 1) * image.tokens / count - begin, 0});
    }
  }
  return blocks;
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
    : w1_(w1), w2_(w2), b2_(b2), given_(w2), activation_(activation) {
  b1_ = b1 ? contiguous(to(*b1, ScalarType::Float))
           : torch::stable::full({w1.size(0)}, 0, ScalarType::Float);
  if (w2) second_dtype_ = product_dtype(w1.scalar_type(), std::min(w1.size(0), w2->size(0)));
  if (fused::available()) return;
  w1_ = contiguous(w1.scalar_type() == ScalarType::Float ? padded(w1, ScalarType::Float) : w1);
  if (w2) w2_ = contiguous(padded(*w2, second_dtype_));
  if (b2) b2_ = contiguous(to(*b2, second_dtype_));
}

Tensor Layers::first_layer(const Tensor& x) const { return fp32_product(x, w1_); }

fused::Activated Layers::activate(const Tensor& x, std::optional<ScalarType> value,
                                  std::optional<ScalarType> slope) const {
  if (!fused::available()) return activate_products(first_layer(x), value, slope);
  const auto rows = fused::Operand::exact(x, w1_.scalar_type());
  return fused::activate(rows, w1_, b1_, activation_, value, slope);
}

fused::Activated Layers::activate_products(const Tensor& products, std::optional<ScalarType> value,
                                           std::optional<ScalarType> slope) const {
  fused::Activated out;
  if (value == ScalarType::Float)
    out.value = hidden_rows(*this, products, *value, ZOPRUNE_BEST(activate<float>));
  else if (value)
    out.value = hidden_rows(*this, products, *value, ZOPRUNE_BEST(activate<BFloat16>));
  if (slope == ScalarType::Float)
    out.slope = hidden_rows(*this, products, *slope, ZOPRUNE_BEST(differentiate<float>));
  else if (slope)
    out.slope = hidden_rows(*this, products, *slope, ZOPRUNE_BEST(differentiate<BFloat16>));
  return out;
}

void Layers::second_layer(const Tensor& hidden, Tensor& out) const {
  const ScalarType dtype = hidden.scalar_type();
  if (!fused::available()) {
    const bool converted = dtype == second_dtype_;
    torch::stable::copy_(
        out, converted ? product(hidden, *w2_, b2_) : fp32_product(hidden, *given_, b2_));
  } else if (out.scalar_type() == dtype) {
    fused::product_into({hidden, dtype}, *w2_, b2_, out);
  } else {
    torch::stable::copy_(out, fused::product({hidden, dtype}, *w2_, b2_, ScalarType::Float));
  }
}

Tensor score_images(const Tensor& x, const std::vector<Segment>& images, const Layers& projector,
                    const Scorer& scorer, Tensor* outputs) {
  const std::vector<int64_t> lead(x.sizes().begin(), x.sizes().end() - 1);
  Tensor scores = empty(lead, ScalarType::Float, "the scores");
  float* data = scores.mutable_data_ptr<float>();
  const bool linear = projector.activation() == Activation::identity;
  if (linear) {  // the same for every token, whatever it holds
    float same;
    const Tensor zeros = torch::stable::full({1, projector.hidden()}, 0, ScalarType::Float);
    scorer.score(scorer.slopes
                     ? *projector.activate_products(zeros, std::nullopt, scorer.slopes).slope
                     : zeros,
                 &same);
    std::fill_n(data, scores.numel(), same);
    if (outputs == nullptr) return scores;
  }
  Tensor rows = torch::stable::reshape(contiguous(x), {-1, x.size(x.dim() - 1)});
  std::optional<Tensor> output_rows;
  std::optional<ScalarType> hidden;
  if (outputs) {
    output_rows = torch::stable::view(*outputs, {rows.size(0), -1});
    hidden = projector.second_dtype();
  }
  for (const Segment& block : blocks_of(images, rows.size(0))) {
    const Tensor x_block = narrow(rows, 0, block.begin, block.tokens);
    fused::Activated layer;
    if (linear || scorer.slopes) {
      layer = projector.activate(x_block, hidden, linear ? std::nullopt : scorer.slopes);
      if (!linear) scorer.score(*layer.slope, data + block.begin);
    } else {
      const Tensor products = projector.first_layer(x_block);
      scorer.score(products, data + block.begin);
      if (hidden) layer = projector.activate_products(products, hidden, std::nullopt);
    }
    if (!output_rows) continue;
    Tensor block_outputs = narrow(*output_rows, 0, block.begin, block.tokens);
    projector.second_layer(*layer.value, block_outputs);
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
