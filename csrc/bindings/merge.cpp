#include "cpu/merge.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "bindings/common/boxed.h"
#include "bindings/select.h"

namespace zoprune {
namespace {

const std::vector<std::string> kRules = {"mean", "sum", "residual"};

std::vector<Size> lead_of(const Tensor& tokens) {
  std::vector<Size> lead = shape_of(tokens);
  lead.pop_back();
  return lead;
}

void check_tokens(const Checker& check, const Tensor& tokens, const Tensor& keys) {
  const bool shaped = (tokens.dim() == 2 || tokens.dim() == 3) && tokens.numel() > 0;
  check.require(shaped, "tokens", "shape [N, D] or [B, N, D]", shape_text(tokens));
  check.float_dtype("tokens", tokens.scalar_type());
  check_keys(check, keys, lead_of(tokens), tokens, "tokens");
}

void check_indices(const Checker& check, const Tensor& indices, const Tensor& tokens) {
  check.dtype("indices", indices, ScalarType::Long);
  check.device("indices", indices, tokens, "tokens");
}

void check_per_token(const Checker& check, const char* argument, const Tensor& tensor,
                     const Tensor& tokens) {
  check.shape(argument, tensor, lead_of(tokens), "one for each token of tokens");
  check.device(argument, tensor, tokens, "tokens");
  check.float_dtype(argument, tensor.scalar_type());
}

MergeRule check_rule(const Checker& check, const Tensor& tokens,
                     const std::optional<Tensor>& weights, const std::optional<Tensor>& valid,
                     const std::string& rule) {
  if (weights) check_per_token(check, "weights", *weights, tokens);
  check_masks(check, std::nullopt, valid, lead_of(tokens), tokens, "tokens");
  return static_cast<MergeRule>(check.one_of("rule", rule, kRules));
}

// Kept positions of one image, counted from its first token: in range and distinct.
std::vector<int64_t> kept_tokens(const Checker& check, const int64_t* indices, const Segment& image,
                                 int64_t first_index) {
  std::vector<int64_t> kept(indices, indices + image.keep);
  for (int64_t& token : kept) token -= first_index;
  if (kept.empty()) return kept;
  std::vector<int64_t> sorted = kept;
  std::sort(sorted.begin(), sorted.end());
  const int64_t wrong = sorted.front() < 0 ? sorted.front() : sorted.back();
  check.require(sorted.front() >= 0 && sorted.back() < image.tokens, "indices",
                concat("positions in [0, ", image.tokens, ")"), wrong);
  const auto repeated = std::adjacent_find(sorted.begin(), sorted.end());
  check.require(repeated == sorted.end(), "indices", "distinct positions",
                repeated == sorted.end() ? "" : concat(*repeated, " twice"));
  return kept;
}

// What the kernels read, contiguous, and one fp32 result for all images.
struct Batch {
  Batch(const Tensor& tokens, const Tensor& keys, const std::optional<Tensor>& weights,
        const std::optional<Tensor>& valid, std::vector<int64_t> shape)
      : tokens(*with_contiguous_rows(tokens)),
        keys(*with_contiguous_rows(keys)),
        valid(contiguous(valid)),
        merged(torch::stable::empty(shape, ScalarType::Float)) {
    if (weights)
      this->weights = torch::stable::contiguous(torch::stable::to(*weights, ScalarType::Float));
    shape.pop_back();
    sizes = torch::stable::empty(shape, ScalarType::Float);
  }

  // Image `i`, whose results begin at row `row`.
  MergeImage image(int64_t i, const Segment& segment, int64_t row) const {
    MergeImage image{};
    image.token_layout = key_layout(tokens);
    image.key_layout = key_layout(keys);
    image.tokens = image_keys(tokens, i, segment);
    image.keys = image_keys(keys, i, segment);
    if (weights) image.weight = weights->const_data_ptr<float>() + segment.begin;
    if (valid) image.valid = flags(valid) + segment.begin;
    image.num_tokens = segment.tokens;
    image.merged = merged.mutable_data_ptr<float>() + row * merged.size(-1);
    image.sizes = sizes.mutable_data_ptr<float>() + row;
    return image;
  }

  Tensor tokens, keys;
  std::optional<Tensor> weights, valid;
  Tensor merged, sizes;
};

std::tuple<Tensor, Tensor> merge_images(const Checker& check, const Batch& batch,
                                        const std::vector<Segment>& segments, const Tensor& indices,
                                        MergeRule rule, bool packed) {
  const Tensor kept = torch::stable::contiguous(indices);
  auto* const kernel = ZOPRUNE_BEST(merge);
  int64_t row = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    const std::vector<int64_t> own = kept_tokens(check, kept.const_data_ptr<int64_t>() + row,
                                                 segment, packed ? segment.begin : 0);
    if (!own.empty())
      kernel(rule, batch.image(i, segment, row), own.data(), segment.keep, run_parallel);
    row += segment.keep;
  }
  return {torch::stable::to(batch.merged, batch.tokens.scalar_type()), batch.sizes};
}

std::tuple<Tensor, Tensor> merge_cpu(Tensor tokens, Tensor keys, Tensor indices,
                                     std::optional<Tensor> weights, std::optional<Tensor> valid,
                                     std::string rule) {
  const Checker check("merge");
  check_tokens(check, tokens, keys);
  std::vector<Size> expected = lead_of(tokens);
  expected.back() = "k";
  check.shape("indices", indices, expected, "kept positions of each image of tokens");
  check_indices(check, indices, tokens);
  const MergeRule kind = check_rule(check, tokens, weights, valid, rule);
  const int64_t number = tokens.size(-2), keep = indices.size(-1);
  check.require(keep <= number, "indices",
                concat("at most ", number, " positions (the number of tokens)"), keep);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  shape[shape.size() - 2] = keep;
  const Batch batch(tokens, keys, weights, valid, shape);
  std::vector<Segment> segments;
  for (int64_t i = 0; i < (tokens.dim() == 3 ? tokens.size(0) : 1); ++i)
    segments.push_back({i * number, number, keep});
  return merge_images(check, batch, segments, indices, kind, false);
}

std::tuple<Tensor, Tensor> merge_varlen_cpu(Tensor tokens, Tensor keys, Tensor indices,
                                            Tensor cu_tokens, Tensor cu_keep,
                                            std::optional<Tensor> weights,
                                            std::optional<Tensor> valid, std::string rule) {
  const Checker check("merge_varlen");
  check.shape("tokens", tokens, {"T", "D"}, "images one after the other");
  check_tokens(check, tokens, keys);
  check.shape("indices", indices, {"k"}, "kept positions in the packed array");
  check_indices(check, indices, tokens);
  const int64_t keep = indices.size(0);
  check_packing(check, cu_tokens, cu_keep, keep, tokens, "tokens");
  const MergeRule kind = check_rule(check, tokens, weights, valid, rule);
  const std::vector<Segment> segments =
      segments_of(check, cu_tokens, cu_keep, keep, tokens.size(0));
  const Batch batch(tokens, keys, weights, valid, {keep, tokens.size(-1)});
  return merge_images(check, batch, segments, indices, kind, true);
}

std::tuple<Tensor, Tensor, Tensor> merge_bipartite_cpu(Tensor tokens, Tensor keys, int64_t count,
                                                       std::optional<Tensor> sizes) {
  const Checker check("merge_bipartite");
  check_tokens(check, tokens, keys);
  const int64_t number = tokens.size(-2);
  check.require(0 <= count && count <= number / 2, "count",
                concat("0 <= count <= ", number / 2, " (half the tokens)"), count);
  if (sizes) check_per_token(check, "sizes", *sizes, tokens);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  shape[shape.size() - 2] = number - count;
  const Batch batch(tokens, keys, sizes, std::nullopt, shape);
  shape.pop_back();
  const Tensor positions = torch::stable::empty(shape, ScalarType::Long);
  auto* const kernel = ZOPRUNE_BEST(merge_bipartite);
  for (int64_t i = 0; i < (tokens.dim() == 3 ? tokens.size(0) : 1); ++i) {
    const int64_t row = i * (number - count);
    kernel(batch.image(i, {i * number, number, number - count}, row), count,
           positions.mutable_data_ptr<int64_t>() + row, run_parallel);
  }
  return {torch::stable::to(batch.merged, tokens.scalar_type()), batch.sizes, positions};
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("merge", boxed<&merge_cpu>);
  m.impl("merge_varlen", boxed<&merge_varlen_cpu>);
  m.impl("merge_bipartite", boxed<&merge_bipartite_cpu>);
}

}  // namespace zoprune
