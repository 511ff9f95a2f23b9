// score_and_select, project_and_select and their varlen twins: the first layer's products serve the
// scores and, where tokens are compared or returned, the projector's outputs.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "bindings/common/aten.h"
#include "bindings/common/methods.h"
#include "bindings/common/scoring.h"
#include "bindings/common/torch_calls.h"
#include "bindings/directions.h"

namespace zoprune {
namespace {

using torch::stable::narrow, torch::stable::reshape;

// The arguments before `k`.
struct Inputs {
  Tensor x, w1;
  std::optional<Tensor> b1;
  Tensor w2;
  std::optional<Tensor> b2;

  auto fields() { return std::tie(x, w1, b1, w2, b2); }
};

// The arguments after it.
struct Options {
  std::optional<Tensor> directions, metric, keys, must_keep, valid, positions, weights;
  int64_t num_directions = 64;
  double step = 0.01;
  std::string distribution = "sphere";
  int64_t seed = 0;
  std::string activation = "gelu";
  MethodOptions selection;

  auto fields() {
    return std::tie(directions, metric, keys, must_keep, valid, positions, weights, num_directions,
                    step, distribution, seed, activation, selection);
  }
};

struct Pruned {
  Tensor tokens, indices, scores;
};

// The method where it has an operator of its own, null where it is one of `select`'s.
const OwnMethod* find_own(const Checker& check, const std::string& method) {
  std::vector<const char*> names;
  for (const auto& [name, value] : kGainMethods) {
    if (name == method) return nullptr;
    names.push_back(name);
  }
  for (const OwnMethod& own : kOwnMethods) {
    if (own.name == method) return &own;
    names.push_back(own.name);
  }
  check.fail_choice("method", method, names);
}

// The method and its options; one that has an operator of its own takes none of `select`'s.
void check_selection(const Checker& check, const PerToken& each, const Options& in) {
  const SelectOptions& given = in.selection.select;
  const OwnMethod* const own = find_own(check, given.method);
  check_options(check, given);
  suppression_of(check, in.selection.suppress);
  const std::string with = concat(" with method '", given.method, "'");
  if (own) {
    check.require(given.max_similarity == 1, "max_similarity", "1" + with, given.max_similarity);
    check.require(given.first == "score", "first", "'score'" + with, "'" + given.first + "'");
    check.require(given.num_seed == 0, "num_seed", "0" + with, given.num_seed);
    check.require(!given.centre, "centre", "False" + with, "True");
    check.require(given.picks_per_step == 1, "picks_per_step", "1" + with, given.picks_per_step);
  }
  each.positions(in.positions);
  each.weights(in.weights);
  const bool positions = own && own->takes_positions, weights = own && own->takes_weights;
  check.require(positions || !in.positions, "positions", "None" + with, "a tensor");
  check.require(weights || !in.weights, "weights", "None" + with, "a tensor");
}

void check_arguments(const Checker& check, const Inputs& inputs, const Options& in, bool packed) {
  const Tensor& x = inputs.x;
  check_tokens(check, x, packed);
  check_linear(check, x, inputs.w1, inputs.b1, inputs.w2, inputs.b2);
  if (in.directions) check_directions(check, *in.directions, x, "x");
  if (in.metric) check_metric(check, *in.metric, x, inputs.w1);
  if (in.directions && in.metric)
    check.fail("metric", "None when directions are given", "a tensor");
  const PerToken each{check, x, "x", lead_of(x, 1)};
  if (in.keys) each.keys(*in.keys);
  each.masks(in.must_keep, in.valid);
  check.require(in.num_directions >= 1, "num_directions", "an integer >= 1", in.num_directions);
  check_step(check, in.step);
  check_distribution(check, in.distribution);
  check_activation(check, in.activation);
  check_selection(check, each, in);
}

Scorer scorer_of(const Checker& check, const Options& in, const Layers& projector, int64_t dim) {
  if (in.metric) return expected_scorer(projector, *in.metric);
  if (in.directions) return sampled_scorer(projector, *in.directions, in.step);
  const Distribution distribution = check_distribution(check, in.distribution);
  return sampled_scorer(
      projector, draw_directions(in.num_directions, dim, distribution, in.seed, ScalarType::Float),
      in.step);
}

// Rows of x or of the projector's outputs [T, ..] at the picks, as indices into [T].
Tensor gather(const Tensor& rows, const Tensor& picks) {
  return aten::call("aten::index_select", "", rows, int64_t{0}, picks);
}

// The projector's outputs [kept, D] for the tokens at the picks, one image at a time. For fp16 in
// fp32: they are few, and products in bf16 would lose three of fp16's bits.
Tensor project_kept(const Inputs& in, const Layers& projector, const std::vector<Segment>& images,
                    const Tensor& picks) {
  const bool fp16 = in.x.scalar_type() == ScalarType::Half;
  Tensor x = gather(reshape(in.x, {-1, in.x.size(in.x.dim() - 1)}), picks);
  Tensor tokens = empty({x.size(0), in.w2.size(0)}, in.x.scalar_type(), "the kept tokens");
  int64_t begin = 0;
  for (const Segment& image : images) {
    if (image.keep == 0) continue;
    const auto hidden =
        projector.activate(narrow(x, 0, begin, image.keep),
                           fp16 ? ScalarType::Float : projector.second_dtype(), std::nullopt);
    Tensor image_tokens = narrow(tokens, 0, begin, image.keep);
    projector.second_layer(*hidden.value, image_tokens);
    begin += image.keep;
  }
  return tokens;
}

// Indices into [B * N], of indices [B, k] that count within their image; packed ones already are.
Tensor flat_indices(const Tensor& indices, const std::vector<Segment>& images, bool packed) {
  Tensor flat = reshape(torch::stable::clone(indices), {-1});
  int64_t* index = flat.mutable_data_ptr<int64_t>();
  if (!packed)
    for (const Segment& image : images)
      for (int64_t i = 0; i < image.keep; ++i) *index++ += image.begin;
  return flat;
}

// Everything is checked; `shape` is that of the indices.
Pruned prune(const Checker& check, const Inputs& inputs, const Options& in,
             const std::vector<Segment>& images, bool packed, const Lead& shape, bool with_tokens) {
  const Tensor& x = inputs.x;
  const int64_t width = inputs.w2.size(0);
  const auto with_width = [&](Lead lead) {
    lead.push_back(width);
    return lead;
  };
  const Layers projector(inputs.w1, inputs.b1, inputs.w2, inputs.b2,
                         check_activation(check, in.activation));
  warn_if_linear(projector.activation());
  MethodOptions selection = in.selection;
  selection.select.seed = in.seed;
  const OwnMethod* const own = find_own(check, selection.select.method);
  const bool compares = own || redundancy_of(check, selection.select).compares();

  GreedyTensors tensors;
  if (compares) tensors.keys = in.keys;
  tensors.positions = in.positions;
  tensors.weights = in.weights;
  tensors.must_keep = in.must_keep;
  tensors.valid = in.valid;
  Tensor outputs;  // keys, where they are not given
  const bool project_all = compares && !in.keys;
  if (project_all)
    tensors.keys = outputs =
        empty(with_width(lead_of(x, 1)), x.scalar_type(), "the projector's outputs");
  tensors.scores = score_images(x, images, projector, scorer_of(check, in, projector, x.size(-1)),
                                project_all ? &outputs : nullptr);
  const GreedyKernel kernel = (own ? own->kernel : select_kernel)(check, selection);
  Pruned out{{}, pick(tensors, images, packed, shape, kernel), tensors.scores};
  if (!with_tokens) return out;
  const Tensor picks = flat_indices(out.indices, images, packed);
  const bool projected = project_all && x.scalar_type() != ScalarType::Half;
  const Tensor tokens = projected ? gather(reshape(outputs, {-1, width}), picks)
                                  : project_kept(inputs, projector, images, picks);
  out.tokens = reshape(tokens, with_width(shape));
  return out;
}

template <bool with_tokens, typename Keep>
auto score_and_select(Inputs inputs, Keep keep, Options in) {
  const Checker check(twin_name(with_tokens ? "project_and_select" : "score_and_select", keep));
  check_arguments(check, inputs, in, is_packed(keep));
  const Lead lead = lead_of(inputs.x, 1);
  check_keep(check, keep, lead, inputs.x, "x");
  const std::vector<Segment> images = segments_of(check, keep, lead);
  check_mask_values(check, images, in.must_keep, in.valid);
  const Pruned out =
      prune(check, inputs, in, images, is_packed(keep), kept_shape(keep, lead), with_tokens);
  if constexpr (with_tokens)
    return std::make_tuple(out.tokens, out.indices, out.scores);
  else
    return std::make_tuple(out.indices, out.scores);
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("score_and_select", boxed<&score_and_select<false, int64_t>>);
  m.impl("score_and_select_varlen", boxed<&score_and_select<false, Packing>>);
  m.impl("project_and_select", boxed<&score_and_select<true, int64_t>>);
  m.impl("project_and_select_varlen", boxed<&score_and_select<true, Packing>>);
}

}  // namespace zoprune
