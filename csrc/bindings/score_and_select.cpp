// score_and_select, project_and_select and their varlen twins: the first layer's products serve the
// scores and, where tokens are compared or returned, the projector's outputs.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "bindings/aten.h"
#include "bindings/directions.h"
#include "bindings/scoring.h"
#include "bindings/select.h"

namespace zoprune {
namespace {

using torch::stable::copy_, torch::stable::empty, torch::stable::narrow, torch::stable::reshape;

// The arguments that every *_and_select operator has in common.
struct Request {
  Tensor x, w1;
  std::optional<Tensor> b1;
  Tensor w2;
  std::optional<Tensor> b2, directions, metric, keys, must_keep, valid;
  int64_t num_directions;
  double step;
  std::string distribution;
  int64_t seed;
  std::string activation;
  SelectOptions select;

  std::vector<Size> lead() const { return {x.sizes().begin(), x.sizes().end() - 1}; }
};

struct Pruned {
  Tensor tokens, indices, scores;
};

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
  check_selection(check, in.select, true);  // keys default to the projector's outputs
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

// The arguments are checked; `select` picks by scores and keys.
template <typename Select>
Pruned prune(const Checker& check, const Request& in, const std::vector<Segment>& images,
             bool packed, bool with_tokens, Select select) {
  const Projector projector(in.w1, in.b1, in.w2, in.b2, check_activation(check, in.activation));
  warn_if_linear(projector.activation);
  const Scorer scorer =
      in.metric
          ? expected_scorer(projector, *in.metric)
          : sampled_scorer(projector, in.directions ? *in.directions : drawn_directions(check, in),
                           in.step);
  std::optional<Tensor> keys = in.keys;
  Tensor outputs;
  const bool project_all = !keys && in.select.needs_keys();
  if (project_all) {
    std::vector<int64_t> shape(in.x.sizes().begin(), in.x.sizes().end());
    shape.back() = in.w2.size(0);
    keys = outputs = empty(shape, in.x.scalar_type());
  }
  Pruned out;
  out.scores = score_images(in.x, images, projector, scorer, project_all ? &outputs : nullptr);
  out.indices = select(out.scores, keys);
  if (!with_tokens) return out;
  const Tensor positions = flat_positions(out.indices, images, packed);
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

template <bool with_tokens>
auto prune_images(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2,
                  std::optional<Tensor> b2, int64_t k, std::optional<Tensor> directions,
                  std::optional<Tensor> metric, std::optional<Tensor> keys,
                  std::optional<Tensor> must_keep, std::optional<Tensor> valid,
                  int64_t num_directions, double step, std::string distribution, int64_t seed,
                  std::string activation, std::string method, double max_similarity, bool sort,
                  double tradeoff, std::string first, int64_t num_seed, bool centre,
                  int64_t picks_per_step) {
  const Checker check(with_tokens ? "project_and_select" : "score_and_select");
  const Request in{
      x,
      w1,
      b1,
      w2,
      b2,
      directions,
      metric,
      keys,
      must_keep,
      valid,
      num_directions,
      step,
      distribution,
      seed,
      activation,
      {method, max_similarity, sort, seed, tradeoff, first, num_seed, centre, picks_per_step}};
  check_request(check, in, false);
  check_k(check, k, x.size(x.dim() - 2));
  const std::vector<Segment> images = images_of(x, k);
  check_mask_values(check, images, must_keep, valid);
  const auto select = [&](const Tensor& scores, const std::optional<Tensor>& all_keys) {
    return select_images(scores, all_keys, k, must_keep, valid, in.select);
  };
  return returned<with_tokens>(prune(check, in, images, false, with_tokens, select));
}

template <bool with_tokens>
auto prune_packed(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2,
                  std::optional<Tensor> b2, Tensor cu_tokens, Tensor cu_keep, int64_t total_keep,
                  std::optional<Tensor> directions, std::optional<Tensor> metric,
                  std::optional<Tensor> keys, std::optional<Tensor> must_keep,
                  std::optional<Tensor> valid, int64_t num_directions, double step,
                  std::string distribution, int64_t seed, std::string activation,
                  std::string method, double max_similarity, bool sort, double tradeoff,
                  std::string first, int64_t num_seed, bool centre, int64_t picks_per_step) {
  const Checker check(with_tokens ? "project_and_select_varlen" : "score_and_select_varlen");
  const Request in{
      x,
      w1,
      b1,
      w2,
      b2,
      directions,
      metric,
      keys,
      must_keep,
      valid,
      num_directions,
      step,
      distribution,
      seed,
      activation,
      {method, max_similarity, sort, seed, tradeoff, first, num_seed, centre, picks_per_step}};
  check_request(check, in, true);
  check_packing(check, cu_tokens, cu_keep, total_keep, x, "x");
  const std::vector<Segment> images = segments_of(check, cu_tokens, cu_keep, total_keep, x.size(0));
  check_mask_values(check, images, must_keep, valid);
  const auto select = [&](const Tensor& scores, const std::optional<Tensor>& all_keys) {
    return select_segments(images, scores, all_keys, must_keep, valid, in.select);
  };
  return returned<with_tokens>(prune(check, in, images, true, with_tokens, select));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zoprune, CPU, m) {
  m.impl("score_and_select", TORCH_BOX(&prune_images<false>));
  m.impl("project_and_select", TORCH_BOX(&prune_images<true>));
  m.impl("score_and_select_varlen", TORCH_BOX(&prune_packed<false>));
  m.impl("project_and_select_varlen", TORCH_BOX(&prune_packed<true>));
}

}  // namespace zoprune
