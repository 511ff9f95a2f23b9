#include "bindings/select.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "bindings/common/boxed.h"
#include "bindings/greedy.h"
#include "cpu/select.h"

namespace zoprune {
namespace {

const std::vector<std::string> kMethods = {"sads", "maxmin", "topk", "random", "mmr"};

}  // namespace

bool SelectOptions::is_family() const {
  return method == "dpp" || method == "suppress" || method == "coverage";
}

bool SelectOptions::needs_keys() const {
  return method == "sads" || method == "maxmin" || method == "mmr" || is_family() ||
         max_similarity < 1 || first == "isolated";
}

std::vector<Size> shape_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

void check_scores(const Checker& check, const Tensor& scores, bool packed, const char* name) {
  check.float_dtype(name, scores.scalar_type());
  const int64_t dims = scores.dim();
  check.require((packed ? dims == 1 : dims == 1 || dims == 2) && scores.numel() > 0, name,
                packed ? "shape [T]" : "shape [N] or [B, N]", shape_text(scores));
}

std::optional<Tensor> with_contiguous_rows(const std::optional<Tensor>& keys) {
  if (!keys || keys->stride(-1) == 1) return keys;
  return torch::stable::contiguous(*keys);
}

const bool* flags(const std::optional<Tensor>& mask) {
  return mask ? mask->const_data_ptr<bool>() : nullptr;
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

KeyLayout key_layout(const Tensor& keys) {
  KeyType type = KeyType::float32;
  if (keys.scalar_type() == ScalarType::Half) type = KeyType::float16;
  if (keys.scalar_type() == ScalarType::BFloat16) type = KeyType::bfloat16;
  return {type, keys.size(-1), keys.stride(-2)};
}

void run_parallel(int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  torch::stable::parallel_for(0, count, 1,
                              [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

const void* image_keys(const Tensor& keys, int64_t image, const Segment& segment) {
  const int64_t offset = keys.dim() == 3 ? image * keys.stride(0) : segment.begin * keys.stride(0);
  return static_cast<const char*>(keys.const_data_ptr()) +
         offset * key_bytes(key_layout(keys).type);
}

void check_keys(const Checker& check, const Tensor& keys, const std::vector<Size>& lead,
                const Tensor& like, const char* name) {
  std::vector<Size> expected = lead;
  expected.emplace_back("D");
  check.shape("keys", keys, expected, concat("one key for each token of ", name).c_str());
  check.float_dtype("keys", keys.scalar_type());
  check.device("keys", keys, like, name);
}

void check_masks(const Checker& check, const std::optional<Tensor>& must_keep,
                 const std::optional<Tensor>& valid, const std::vector<Size>& lead,
                 const Tensor& like, const char* name) {
  const auto check_mask = [&](const char* argument, const std::optional<Tensor>& mask) {
    if (!mask) return;
    check.shape(argument, *mask, lead, concat("one flag for each token of ", name).c_str());
    check.dtype(argument, *mask, ScalarType::Bool);
    check.device(argument, *mask, like, name);
  };
  check_mask("must_keep", must_keep);
  check_mask("valid", valid);
}

void check_selection(const Checker& check, const SelectOptions& options, bool has_keys,
                     bool with_family) {
  std::vector<std::string> methods = kMethods;
  if (with_family) methods.insert(methods.end(), {"dpp", "suppress", "coverage"});
  check.one_of("method", options.method, methods);
  check.require(options.max_similarity >= -1 && options.max_similarity <= 1, "max_similarity",
                "a number in [-1, 1]", options.max_similarity);
  check.require(options.tradeoff >= 0 && options.tradeoff <= 1, "tradeoff", "a number in [0, 1]",
                options.tradeoff);
  check.one_of("first", options.first, {"score", "isolated"});
  check.require(options.num_seed >= 0, "num_seed", "an integer >= 0", options.num_seed);
  check.require(options.num_seed == 0 || options.first == "score", "num_seed",
                "0 where first is 'isolated'", options.num_seed);
  check.require(options.picks_per_step >= 1, "picks_per_step", "an integer >= 1",
                options.picks_per_step);
  check.require(has_keys || !options.needs_keys(), "keys",
                concat("a tensor (method '", options.method, "' compares tokens)"), "None");
}

void check_k(const Checker& check, int64_t k, int64_t tokens) {
  check.require(1 <= k && k <= tokens, "k", concat("1 <= k <= ", tokens, " (the number of tokens)"),
                k);
}

void check_packing(const Checker& check, const Tensor& cu_tokens, const Tensor& cu_keep,
                   int64_t total_keep, const Tensor& like, const char* name) {
  const auto check_offsets = [&](const char* argument, const Tensor& offsets) {
    check.require(offsets.dim() == 1 && offsets.size(0) >= 2, argument, "shape [B + 1], B >= 1",
                  shape_text(offsets));
    check.dtype(argument, offsets, ScalarType::Int);
    check.device(argument, offsets, like, name);
  };
  check_offsets("cu_tokens", cu_tokens);
  check_offsets("cu_keep", cu_keep);
  check.shape("cu_keep", cu_keep, shape_of(cu_tokens), "that of cu_tokens");
  const int64_t tokens = like.size(0);
  check.require(1 <= total_keep && total_keep <= tokens, "total_keep",
                concat("1 <= total_keep <= ", tokens, " (the number of tokens)"), total_keep);
}

void check_select(const Checker& check, const Tensor& scores, const std::optional<Tensor>& keys,
                  int64_t k, const std::optional<Tensor>& must_keep,
                  const std::optional<Tensor>& valid, const SelectOptions& options) {
  const std::vector<Size> lead = shape_of(scores);
  check_scores(check, scores, false);
  if (keys) check_keys(check, *keys, lead, scores, "scores");
  check_masks(check, must_keep, valid, lead, scores, "scores");
  check_selection(check, options, keys.has_value());
  check_k(check, k, scores.size(-1));
}

void check_select_varlen(const Checker& check, const Tensor& scores,
                         const std::optional<Tensor>& keys, const Tensor& cu_tokens,
                         const Tensor& cu_keep, int64_t total_keep,
                         const std::optional<Tensor>& must_keep, const std::optional<Tensor>& valid,
                         const SelectOptions& options) {
  const std::vector<Size> lead = shape_of(scores);
  check_scores(check, scores, true);
  if (keys) check_keys(check, *keys, lead, scores, "scores");
  check_masks(check, must_keep, valid, lead, scores, "scores");
  check_selection(check, options, keys.has_value());
  check_packing(check, cu_tokens, cu_keep, total_keep, scores, "scores");
}

Method method_of(const SelectOptions& options) {
  const auto method = std::find(kMethods.begin(), kMethods.end(), options.method);
  return static_cast<Method>(method - kMethods.begin());
}

std::vector<Segment> segments_of(const Tensor& scores, int64_t k) {
  const int64_t tokens = scores.size(-1), images = scores.numel() / tokens;
  std::vector<Segment> segments;
  for (int64_t i = 0; i < images; ++i) segments.push_back({i * tokens, tokens, k});
  return segments;
}

std::vector<Segment> segments_of(const Checker& check, const Tensor& cu_tokens,
                                 const Tensor& cu_keep, int64_t total_keep, int64_t tokens) {
  const Tensor token_offsets = torch::stable::contiguous(cu_tokens);
  const Tensor keep_offsets = torch::stable::contiguous(cu_keep);
  const int32_t* begin = token_offsets.const_data_ptr<int32_t>();
  const int32_t* kept = keep_offsets.const_data_ptr<int32_t>();
  const int64_t images = cu_tokens.size(0) - 1;
  const auto check_offsets = [&](const char* argument, const int32_t* offsets, int64_t last,
                                 const char* what) {
    check.require(offsets[0] == 0, argument, "0 as its first value", offsets[0]);
    check.require(offsets[images] == last, argument,
                  concat(last, " (", what, ") as its last value"), offsets[images]);
    for (int64_t i = 0; i < images; ++i)
      check.require(offsets[i + 1] >= offsets[i], argument,
                    concat("non-decreasing values, ", offsets[i], " or more at position ", i + 1),
                    offsets[i + 1]);
  };
  check_offsets("cu_tokens", begin, tokens, "the number of tokens");
  check_offsets("cu_keep", kept, total_keep, "total_keep");
  std::vector<Segment> segments;
  for (int64_t i = 0; i < images; ++i) {
    segments.push_back({begin[i], begin[i + 1] - begin[i], kept[i + 1] - kept[i]});
    check.require(segments[i].keep <= segments[i].tokens, "cu_keep",
                  concat("at most ", segments[i].tokens, " kept tokens in image ", i),
                  segments[i].keep);
  }
  return segments;
}

void check_mask_values(const Checker& check, const std::vector<Segment>& segments,
                       const std::optional<Tensor>& must_keep, const std::optional<Tensor>& valid) {
  const auto kept_flags = contiguous(must_keep), valid_flags = contiguous(valid);
  for (size_t image = 0; image < segments.size(); ++image) {
    const auto [begin, tokens, k] = segments[image];
    const bool* const kept = must_keep ? flags(kept_flags) + begin : nullptr;
    const bool* const usable = valid ? flags(valid_flags) + begin : nullptr;
    if (usable) {
      const auto count = std::count(usable, usable + tokens, true);
      check.require(count >= k, "valid",
                    concat("at least k = ", k, " valid tokens in image ", image), count);
    }
    if (!kept) continue;
    const auto count = std::count(kept, kept + tokens, true);
    check.require(count <= k, "must_keep", concat("at most k = ", k, " tokens in image ", image),
                  count);
    for (int64_t i = 0; usable && i < tokens; ++i)
      check.require(!kept[i] || usable[i], "must_keep",
                    concat("valid tokens only in image ", image), concat("invalid token ", i));
  }
}

GreedyKernel select_kernel(const SelectOptions& options) {
  SelectRule rule{};
  rule.method = method_of(options);
  rule.max_similarity = static_cast<float>(options.max_similarity);
  rule.tradeoff = static_cast<float>(options.tradeoff);
  rule.isolated_first = options.first == "isolated";
  rule.num_seed = options.num_seed;
  rule.centre = options.centre;
  rule.picks_per_step = options.picks_per_step;
  rule.sort = options.sort;
  rule.seed = static_cast<uint64_t>(options.seed);
  return [rule, kernel = ZOPRUNE_BEST(select)](const KeyLayout& layout, const GreedyImage& image,
                                               ParallelFor parallel_for) {
    kernel(rule, layout, image, parallel_for);
  };
}

namespace {

Tensor select_cpu(Tensor scores, std::optional<Tensor> keys, int64_t k,
                  std::optional<Tensor> must_keep, std::optional<Tensor> valid, std::string method,
                  double max_similarity, bool sort, double tradeoff, std::string first,
                  int64_t num_seed, bool centre, int64_t picks_per_step) {
  const Checker check("select");
  const SelectOptions options{method,   max_similarity, sort,          0, tradeoff, first,
                              num_seed, centre,         picks_per_step};
  check_select(check, scores, keys, k, must_keep, valid, options);
  check_mask_values(check, segments_of(scores, k), must_keep, valid);
  const auto compared = options.needs_keys() ? keys : std::nullopt;
  return pick_in_images({scores, compared, {}, {}, must_keep, valid}, k, select_kernel(options));
}

Tensor select_varlen_cpu(Tensor scores, std::optional<Tensor> keys, Tensor cu_tokens,
                         Tensor cu_keep, int64_t total_keep, std::optional<Tensor> must_keep,
                         std::optional<Tensor> valid, std::string method, double max_similarity,
                         bool sort, double tradeoff, std::string first, int64_t num_seed,
                         bool centre, int64_t picks_per_step) {
  const Checker check("select_varlen");
  const SelectOptions options{method,   max_similarity, sort,          0, tradeoff, first,
                              num_seed, centre,         picks_per_step};
  check_select_varlen(check, scores, keys, cu_tokens, cu_keep, total_keep, must_keep, valid,
                      options);
  const std::vector<Segment> segments =
      segments_of(check, cu_tokens, cu_keep, total_keep, scores.size(0));
  check_mask_values(check, segments, must_keep, valid);
  const auto compared = options.needs_keys() ? keys : std::nullopt;
  return pick_in_segments({scores, compared, {}, {}, must_keep, valid}, segments,
                          select_kernel(options));
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) {
  m.impl("select", boxed<&select_cpu>);
  m.impl("select_varlen", boxed<&select_varlen_cpu>);
}

}  // namespace zoprune
