#include "cpu/merge.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "bindings/common/boxed.h"
#include "bindings/common/greedy.h"
#include "bindings/common/layouts.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

constexpr Name<MergeRule> kRules[] = {
    {"mean", MergeRule::mean}, {"sum", MergeRule::sum}, {"residual", MergeRule::residual}};
static_assert(is_complete(kRules));

// The packed images of `merge_varlen`; merge has none.
struct Offsets {
  Tensor cu_tokens, cu_keep;

  auto fields() { return std::tie(cu_tokens, cu_keep); }
};
struct NoOffsets {
  auto fields() { return std::tie(); }
};

PerToken check_tokens(const Checker& check, const Tensor& tokens, const Tensor& keys) {
  const bool shaped = (tokens.dim() == 2 || tokens.dim() == 3) && tokens.numel() > 0;
  check.require(shaped, "tokens", "shape [N, D] or [B, N, D]", shape_text(tokens));
  check.float_dtype("tokens", tokens.scalar_type());
  const PerToken each{check, tokens, "tokens", lead_of(tokens, 1)};
  each.keys(keys);
  return each;
}

// Kept indices of one image, counted from its first token: in range and distinct.
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
        const std::optional<Tensor>& valid, Lead kept)
      : tokens(with_contiguous_rows(tokens)),
        keys(with_contiguous_rows(keys)),
        weights(contiguous_floats(weights)),
        valid(contiguous(valid)),
        sizes(empty({kept.begin(), kept.end()}, ScalarType::Float, "the sizes")) {
    kept.push_back(tokens.size(-1));
    merged = empty({kept.begin(), kept.end()}, ScalarType::Float, "the merged tokens");
  }

  // Image `i`, whose results begin at row `row`.
  MergeImage image(int64_t i, const Segment& segment, int64_t row) const {
    MergeImage image{};
    image.token_layout = key_layout(tokens);
    image.key_layout = key_layout(keys);
    image.tokens = image_keys(tokens, i, segment);
    image.keys = image_keys(keys, i, segment);
    image.weight = data<float>(weights, segment.begin);
    image.valid = data<bool>(valid, segment.begin);
    image.num_tokens = segment.tokens;
    image.merged = merged.mutable_data_ptr<float>() + row * merged.size(-1);
    image.sizes = sizes.mutable_data_ptr<float>() + row;
    return image;
  }

  Tensor tokens, keys;
  std::optional<Tensor> weights, valid;
  Tensor sizes, merged;  // [.., kept], [.., kept, D]
};

template <typename Packed>
std::tuple<Tensor, Tensor> merge_cpu(Tensor tokens, Tensor keys, Tensor indices, Packed offsets,
                                     std::optional<Tensor> weights, std::optional<Tensor> valid,
                                     std::string rule) {
  constexpr bool packed = std::is_same_v<Packed, Offsets>;
  const Checker check(packed ? "merge_varlen" : "merge");
  if (packed) check.shape("tokens", tokens, {"T", "D"}, "images one after the other");
  const PerToken each = check_tokens(check, tokens, keys);
  const Lead& lead = each.lead;
  std::vector<Size> expected = sizes(lead);
  expected.back() = "k";
  check.shape(
      "indices", indices, expected,
      packed ? "kept positions in the packed array" : "kept positions of each image of tokens");
  check.dtype("indices", indices, ScalarType::Long);
  check.device("indices", indices, tokens, "tokens");
  const int64_t keep = indices.size(-1);
  if constexpr (packed)
    check_keep(check, Packing{offsets.cu_tokens, offsets.cu_keep, keep}, lead, tokens, "tokens");
  if (weights) each.one("weights", *weights);
  each.masks(std::nullopt, valid);
  const MergeRule kind = check.one_of("rule", rule, kRules);
  std::vector<Segment> segments;
  if constexpr (packed) {
    segments = segments_of(check, Packing{offsets.cu_tokens, offsets.cu_keep, keep}, lead);
  } else {
    check.require(keep <= lead.back(), "indices",
                  concat("at most ", lead.back(), " positions (the number of tokens)"), keep);
    segments = images_of(lead, keep);
  }

  const Batch batch(tokens, keys, weights, valid, lead_of(indices));
  const Tensor kept = torch::stable::contiguous(indices);
  auto* const kernel = ZOPRUNE_BEST(merge);
  int64_t row = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    const std::vector<int64_t> own = kept_tokens(check, kept.const_data_ptr<int64_t>() + row,
                                                 segment, packed ? segment.begin : 0);
    if (!own.empty())
      kernel(kind, batch.image(i, segment, row), own.data(), segment.keep, run_parallel);
    row += segment.keep;
  }
  return {torch::stable::to(batch.merged, tokens.scalar_type()), batch.sizes};
}

std::tuple<Tensor, Tensor, Tensor> merge_bipartite_cpu(Tensor tokens, Tensor keys, int64_t count,
                                                       std::optional<Tensor> sizes) {
  const Checker check("merge_bipartite");
  const PerToken each = check_tokens(check, tokens, keys);
  const int64_t number = tokens.size(-2);
  check.require(0 <= count && count <= number / 2, "count",
                concat("0 <= count <= ", number / 2, " (half the tokens)"), count);
  if (sizes) each.one("sizes", *sizes);
  const Lead shape = kept_shape(number - count, lead_of(tokens, 1));
  const Batch batch(tokens, keys, sizes, std::nullopt, shape);
  const Tensor stays = empty({shape.begin(), shape.end()}, ScalarType::Long, "the indices");
  auto* const kernel = ZOPRUNE_BEST(merge_bipartite);
  const std::vector<Segment> segments = images_of(lead_of(tokens, 1), number - count);
  for (size_t i = 0; i < segments.size(); ++i) {
    const int64_t row = i * (number - count);
    kernel(batch.image(i, segments[i], row), count, stays.mutable_data_ptr<int64_t>() + row,
           run_parallel);
  }
  return {torch::stable::to(batch.merged, tokens.scalar_type()), batch.sizes, stays};
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("merge", boxed<&merge_cpu<NoOffsets>>);
  m.impl("merge_varlen", boxed<&merge_cpu<Offsets>>);
  m.impl("merge_bipartite", boxed<&merge_bipartite_cpu>);
}

}  // namespace zoprune
