// score_and_select, project_and_select and their varlen twins: the first layer's products serve the
// scores and, where tokens are compared or returned, the projector's outputs.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "bindings/aten.h"
#include "bindings/common/boxed.h"
#include "bindings/directions.h"
#include "bindings/greedy.h"
#include "bindings/scoring.h"

namespace zoprune {
namespace {

using torch::stable::copy_, torch::stable::empty, torch::stable::narrow, torch::stable::reshape;

// The arguments that every *_and_select operator has in common.
struct Request {
  Tensor x, w1;
  std::optional<Tensor> b1;
  Tensor w2;
  std::optional<Tensor> b2, directions, metric, keys, must_keep, valid, positions, weights;
  int64_t num_directions;
  double step;
  std::string distribution;
  int64_t seed;
  std::string activation;
  SelectOptions select;
  SuppressOptions suppress;

  std::vector<Size> lead() const { return {x.sizes().begin(), x.sizes().end() - 1}; }
};

struct Pruned {
  Tensor tokens, indices, scores;
};

// The selection and its options; a method with an operator of its own takes none of `select`'s.
void check_rule(const Checker& check, const Request& in) {
  check_selection(check, in.select, true, true);  // keys default to the projector's outputs
  check_suppression(check, in.suppress, 0);
  const auto& [method, max_similarity, sort, seed, tradeoff, first, num_seed, centre, step] =
      in.select;
  const std::string with = concat(" with method '", method, "'");
  if (in.select.is_family()) {
    check.require(max_similarity == 1, "max_similarity", "1" + with, max_similarity);
    check.require(first == "score", "first", "'score'" + with, "'" + first + "'");
    check.require(num_seed == 0, "num_seed", "0" + with, num_seed);
    check.require(!centre, "centre", "False" + with, "True");
    check.require(step == 1, "picks_per_step", "1" + with, step);
  }
  if (in.positions) check_positions(check, *in.positions, in.lead(), in.x, "x");
  if (in.weights) check_weights(check, *in.weights, in.lead(), in.x, "x");
  check.require(!in.positions || method == "suppress", "positions", "None" + with, "a tensor");
  check.require(!in.weights || method == "coverage", "weights", "None" + with, "a tensor");
}

void check_request(const Checker& check, const Request& in, bool packed) {
  check_tokens(check, in.x, packed);
  check_linear(check, in.x, in.w1, in.b1, in.w2, in.b2);
  if (in.directions) check_directions(check, *in.directions, in.x, "x");
  if (in.metric) check_metric(check, *in.metric, in.x, in.w1);
  if (in.directions && in.metric)
    check.fail("metric", "None when directions are given", "a tensor");
  if (in.keys) check_keys(check, *in.keys, in.lead(), in.x, "x");
  check_masks(check, in.must_keep, in.valid, in.lead(), in.x, "x");
  check.require(in.num_directions >= 1, "num_directions", "an integer >= 1", in.num_directions);
  check_step(check, in.step);
  check.one_of("distribution", in.distribution, kDistributions);
  check_activation(check, in.activation);
  check_rule(check, in);
}

Tensor drawn_directions(const Checker& check, const Request& in) {
  const int kind = check.one_of("distribution", in.distribution, kDistributions);
  return draw_directions(in.num_directions, in.w1.size(1), static_cast<Distribution>(kind), in.seed,
                         ScalarType::Float);
}

// Rows of x or of the projector's outputs [T, ..] at the picks, which are positions in [T].
Tensor gather(const Tensor& rows, const Tensor& positions) {
  return aten::call("aten::index_select", "", rows, int64_t{0}, positions);
}

// The projector's outputs [kept, D] for the tokens at the picks, one image at a time. For fp16 in
// fp32: they are few, and products in bf16 would lose three of fp16's bits.
Tensor project_kept(const Request& in, const Projector& projector,
                    const std::vector<Segment>& images, const Tensor& positions) {
  const bool fp16 = in.x.scalar_type() == ScalarType::Half;
  Tensor x = gather(reshape(in.x, {-1, in.x.size(in.x.dim() - 1)}), positions);
  Tensor tokens = empty({x.size(0), in.w2.size(0)}, in.x.scalar_type());
  int64_t begin = 0;
  for (const Segment& image : images) {
    if (image.keep == 0) continue;
    const Tensor rows = narrow(x, 0, begin, image.keep);
    const Tensor products = projector.first_layer(rows);
    const Tensor hidden = activate_products(projector, products,
                                            fp16 ? ScalarType::Float : projector.w2->scalar_type());
    Tensor image_tokens = narrow(tokens, 0, begin, image.keep);
    copy_(image_tokens,
          fp16 ? fp32_product(hidden, in.w2, in.b2) : product(hidden, *projector.w2, projector.b2));
    begin += image.keep;
  }
  return tokens;
}

// Positions in [B * N] of indices [B, k] that count within their image; packed ones already do.
Tensor flat_positions(const Tensor& indices, const std::vector<Segment>& images, bool packed) {
  Tensor flat = reshape(torch::stable::clone(indices), {-1});
  int64_t* position = flat.mutable_data_ptr<int64_t>();
  if (!packed)
    for (const Segment& image : images)
      for (int64_t i = 0; i < image.keep; ++i) *position++ += image.begin;
  return flat;
}

GreedyKernel kernel_of(const Checker& check, const Request& in) {
  const std::string& method = in.select.method;
  if (method == "dpp") return dpp_kernel(in.select.sort);
  if (method == "coverage") return coverage_kernel(in.select.sort);
  if (method != "suppress") return select_kernel(in.select);
  const int64_t axes = in.positions ? in.positions->size(-1) : 0;
  return suppress_kernel(check_suppression(check, in.suppress, axes), in.select.sort);
}

// The arguments are checked. Every image keeps k tokens, or as many as it says where k is not
// given.
Pruned prune(const Checker& check, const Request& in, const std::vector<Segment>& images,
             std::optional<int64_t> k, bool with_tokens) {
  const Projector projector(in.w1, in.b1, in.w2, in.b2, check_activation(check, in.activation));
  warn_if_linear(projector.activation);
  const Scorer scorer =
      in.metric
          ? expected_scorer(projector, *in.metric)
          : sampled_scorer(projector, in.directions ? *in.directions : drawn_directions(check, in),
                           in.step);
  std::optional<Tensor> keys = in.select.needs_keys() ? in.keys : std::nullopt;
  Tensor outputs;
  const bool project_all = !keys && in.select.needs_keys();
  if (project_all) {
    std::vector<int64_t> shape(in.x.sizes().begin(), in.x.sizes().end());
    shape.back() = in.w2.size(0);
    keys = outputs = empty(shape, in.x.scalar_type());
  }
  Pruned out;
  out.scores = score_images(in.x, images, projector, scorer, project_all ? &outputs : nullptr);
  const GreedyTensors tensors{out.scores, keys, in.positions, in.weights, in.must_keep, in.valid};
  const GreedyKernel kernel = kernel_of(check, in);
  out.indices = k ? pick_in_images(tensors, *k, kernel) : pick_in_segments(tensors, images, kernel);
  if (!with_tokens) return out;
  const Tensor positions = flat_positions(out.indices, images, !k);
  const bool projected = project_all && in.x.scalar_type() != ScalarType::Half;
  const Tensor tokens = projected ? gather(reshape(outputs, {-1, in.w2.size(0)}), positions)
                                  : project_kept(in, projector, images, positions);
  std::vector<int64_t> shape(out.indices.sizes().begin(), out.indices.sizes().end());
  shape.push_back(in.w2.size(0));
  out.tokens = reshape(tokens, shape);
  return out;
}

template <bool with_tokens>
auto returned(const Pruned& out) {
  if constexpr (with_tokens)
    return std::make_tuple(out.tokens, out.indices, out.scores);
  else
    return std::make_tuple(out.indices, out.scores);
}

// The arguments that the operators have in common, in the schemas' order.
Request request_of(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2,
                   std::optional<Tensor> b2, std::optional<Tensor> directions,
                   std::optional<Tensor> metric, std::optional<Tensor> keys,
                   std::optional<Tensor> must_keep, std::optional<Tensor> valid,
                   std::optional<Tensor> positions, std::optional<Tensor> weights,
                   int64_t num_directions, double step, std::string distribution, int64_t seed,
                   std::string activation, std::string method, double max_similarity, bool sort,
                   double tradeoff, std::string first, int64_t num_seed, bool centre,
                   int64_t picks_per_step, std::string rule, double sigma_space,
                   double sigma_similarity, double radius, double strength, double threshold) {
  return {x,
          w1,
          b1,
          w2,
          b2,
          directions,
          metric,
          keys,
          must_keep,
          valid,
          positions,
          weights,
          num_directions,
          step,
          distribution,
          seed,
          activation,
          {method, max_similarity, sort, seed, tradeoff, first, num_seed, centre, picks_per_step},
          {rule, sigma_space, sigma_similarity, radius, strength, threshold}};
}

// The operators, with the rest of request_of's arguments after their own.
template <typename... Rest>
struct Operators {
  using Layer = std::optional<Tensor>;

  template <bool with_tokens>
  static auto images(Tensor x, Tensor w1, Layer b1, Tensor w2, Layer b2, int64_t k, Rest... rest) {
    const Checker check(with_tokens ? "project_and_select" : "score_and_select");
    const Request in = request_of(x, w1, b1, w2, b2, rest...);
    check_request(check, in, false);
    check_k(check, k, x.size(x.dim() - 2));
    const std::vector<Segment> images = images_of(x, k);
    check_mask_values(check, images, in.must_keep, in.valid);
    return returned<with_tokens>(prune(check, in, images, k, with_tokens));
  }

  template <bool with_tokens>
  static auto packed(Tensor x, Tensor w1, Layer b1, Tensor w2, Layer b2, Tensor cu_tokens,
                     Tensor cu_keep, int64_t total_keep, Rest... rest) {
    const Checker check(with_tokens ? "project_and_select_varlen" : "score_and_select_varlen");
    const Request in = request_of(x, w1, b1, w2, b2, rest...);
    check_request(check, in, true);
    check_packing(check, cu_tokens, cu_keep, total_keep, x, "x");
    const std::vector<Segment> images =
        segments_of(check, cu_tokens, cu_keep, total_keep, x.size(0));
    check_mask_values(check, images, in.must_keep, in.valid);
    return returned<with_tokens>(prune(check, in, images, std::nullopt, with_tokens));
  }
};

template <typename Layer, typename... Rest>
Operators<Rest...> operators_of(Request (*)(Tensor, Tensor, Layer, Tensor, Layer, Rest...));
using Pruning = decltype(operators_of(&request_of));

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("score_and_select", boxed<&Pruning::images<false>>);
  m.impl("project_and_select", boxed<&Pruning::images<true>>);
  m.impl("score_and_select_varlen", boxed<&Pruning::packed<false>>);
  m.impl("project_and_select_varlen", boxed<&Pruning::packed<true>>);
}

}  // namespace zoprune
