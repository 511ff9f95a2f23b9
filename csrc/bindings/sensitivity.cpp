#include "cpu/sensitivity.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "bindings/common/aten.h"
#include "bindings/common/boxed.h"
#include "bindings/common/scoring.h"
#include "bindings/common/torch_calls.h"
#include "cpu/activations.h"

namespace zoprune {
namespace {

using torch::stable::contiguous, torch::stable::narrow;

// A product takes this many (direction, token) rows, or so many bytes of them where it is fused:
// enough for its full speed, and neither it nor its result outgrows the cache. Tokens are expanded,
// and directions projected, a block at a time.
constexpr int64_t kRows = 512, kRowBytes = 16 << 20, kTokens = 64, kDirections = 64;

// A block of directions projected to v = W1 u, in fp32: they are few, and shared by all tokens.
struct DirectionBlock {
  DirectionBlock(const Layers& projector, const Tensor& directions, float step)
      : v(projector.first_layer(contiguous(directions))),
        v_cubed(empty({v.size(0), v.size(1)}, ScalarType::Float, "projected directions")),
        direct(empty({v.size(0)}, ScalarType::Bool, "projected directions")),
        step(step) {
    auto* const prepare = ZOPRUNE_BEST(prepare_directions);
    parallel_for(0, v.size(0), rows_per_task(v.size(1)), [&](int64_t begin, int64_t end) {
      prepare(projector.activation(), step, begin, end, v.size(1), v.const_data_ptr<float>(),
              v_cubed.mutable_data_ptr<float>(), direct.mutable_data_ptr<bool>());
    });
  }

  ProjectedDirections from(int64_t first) const {
    const int64_t skipped = first * v.size(1);
    return {step, v.const_data_ptr<float>() + skipped, v_cubed.const_data_ptr<float>() + skipped,
            direct.const_data_ptr<bool>() + first};
  }

  Tensor v, v_cubed;  // [directions, H]
  Tensor direct;      // [directions]
  float step;
};

// A block of tokens: a, phi'(a) and phi'''(a) / 6, in fp32.
struct TokenBlock {
  TokenBlock(const Layers& projector, const float* products, int64_t tokens)
      : values(empty({3, tokens, projector.hidden()}, ScalarType::Float, "expanded tokens")) {
    const int64_t hidden = projector.hidden(), size = tokens * hidden;
    float* a = values.mutable_data_ptr<float>();
    auto* const expand = ZOPRUNE_BEST(expand_rows);
    parallel_for(0, tokens, rows_per_task(hidden), [&](int64_t begin, int64_t end) {
      expand(projector.activation(), begin, end, hidden, products, projector.bias(), a, a + size,
             a + 2 * size);
    });
    expanded = {tokens, hidden, a, a + size, a + 2 * size};
  }

  Tensor values;  // [3, tokens, H]
  ExpandedTokens expanded;
};

// The norms of W2 t for rows t of second_dtype().
template <typename T>
void response_norms(const Layers& projector, const Tensor& change, float* norms) {
  if (fused::available()) return fused::row_norms(change, *projector.w2(), norms);
  const Tensor response = product(change, *projector.w2());  // [rows, D]
  const int64_t width = response.size(1);
  const auto* in = static_cast<const T*>(response.const_data_ptr());
  auto* const row_norms = ZOPRUNE_BEST(row_norms<T>);
  parallel_for(0, change.size(0), rows_per_task(width),
               [&](int64_t begin, int64_t end) { row_norms(begin, end, width, in, norms); });
}

// Adds sum_j ||W2 t_ij|| over a block of directions to the sums of a block of tokens.
template <typename T>
void add_norms(const Layers& projector, const ExpandedTokens& tokens,
               const DirectionBlock& directions, double* sums) {
  const ScalarType dtype = projector.second_dtype();
  const int64_t depth = whole_lines(tokens.hidden, dtype);
  const int64_t most = fused::available() ? kRowBytes / (depth * sizeof(T)) : kRows;
  const int64_t at_once = std::max<int64_t>(1, most / tokens.tokens);
  auto* const perturb = ZOPRUNE_BEST(perturb<T>);
  std::vector<float> norms(at_once * tokens.tokens);
  for (int64_t first = 0; first < directions.v.size(0); first += at_once) {
    const int64_t rows = std::min(at_once, directions.v.size(0) - first) * tokens.tokens;
    Tensor change = empty({rows, depth}, dtype, "changed rows");
    auto* out = static_cast<T*>(change.mutable_data_ptr());
    parallel_for(0, rows, rows_per_task(tokens.hidden), [&](int64_t begin, int64_t end) {
      perturb(projector.activation(), begin, end, tokens, directions.from(first), out, depth);
    });
    response_norms<T>(projector, change, norms.data());
    for (int64_t row = 0; row < rows; ++row) sums[row % tokens.tokens] += norms[row];
  }
}

void score_tokens(const Layers& projector, const Tensor& products, const Tensor& directions,
                  float step, float* scores) {
  const int64_t tokens = products.size(0), count = directions.size(0);
  const float* in = products.const_data_ptr<float>();
  const auto add =
      projector.second_dtype() == ScalarType::Float ? add_norms<float> : add_norms<BFloat16>;
  std::vector<double> sums(tokens);
  Tensor all = directions;
  for (int64_t first = 0; first < count; first += kDirections) {
    const DirectionBlock block(projector,
                               narrow(all, 0, first, std::min(kDirections, count - first)), step);
    for (int64_t begin = 0; begin < tokens; begin += kTokens) {
      const int64_t size = std::min(kTokens, tokens - begin);
      const TokenBlock expanded(projector, in + begin * projector.hidden(), size);
      add(projector, expanded.expanded, block, sums.data() + begin);
    }
  }
  for (int64_t i = 0; i < tokens; ++i) scores[i] = static_cast<float>(sums[i] / count);
}

Tensor sensitivity_cpu(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, Tensor directions,
                       double step, std::string activation) {
  const Checker check("sensitivity");
  check_tokens(check, x);
  check_linear(check, x, w1, b1, w2, std::nullopt);
  check_directions(check, directions, x, "x");
  check_step(check, step);
  const Layers projector(w1, b1, w2, std::nullopt, check_activation(check, activation));
  warn_if_linear(projector.activation());
  return score_images(x, images_of(lead_of(x, 1)), projector,
                      sampled_scorer(projector, directions, step));
}

}  // namespace

Scorer sampled_scorer(const Layers& projector, const Tensor& directions, double step) {
  return {[&projector, directions, step = static_cast<float>(step)](const Tensor& products,
                                                                    float* scores) {
    score_tokens(projector, products, directions, step, scores);
  }};
}

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("sensitivity", boxed<&sensitivity_cpu>); }

}  // namespace zoprune
