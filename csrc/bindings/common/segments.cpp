#include "bindings/common/segments.h"

#include <algorithm>

#include "bindings/common/layouts.h"

namespace zoprune {

void check_keep(const Checker& check, int64_t k, const Lead& lead, const Tensor&, const char*) {
  check.require(1 <= k && k <= lead.back(), "k",
                concat("1 <= k <= ", lead.back(), " (the number of tokens)"), k);
}

void check_keep(const Checker& check, const Packing& packing, const Lead& lead, const Tensor& like,
                const char* name) {
  const auto check_offsets = [&](const char* argument, const Tensor& offsets) {
    check.require(offsets.dim() == 1 && offsets.size(0) >= 2, argument, "shape [B + 1], B >= 1",
                  shape_text(offsets));
    check.dtype(argument, offsets, ScalarType::Int);
    check.device(argument, offsets, like, name);
  };
  check_offsets("cu_tokens", packing.cu_tokens);
  check_offsets("cu_keep", packing.cu_keep);
  check.shape("cu_keep", packing.cu_keep, {packing.cu_tokens.size(0)}, "that of cu_tokens");
  check.require(1 <= packing.total_keep && packing.total_keep <= lead.front(), "total_keep",
                concat("1 <= total_keep <= ", lead.front(), " (the number of tokens)"),
                packing.total_keep);
}

std::vector<Segment> images_of(const Lead& lead, int64_t k) {
  std::vector<Segment> segments;
  for (int64_t i = 0; i < (lead.size() > 1 ? lead.front() : 1); ++i)
    segments.push_back({i * lead.back(), lead.back(), k});
  return segments;
}

std::vector<Segment> segments_of(const Checker& check, const Packing& packing, const Lead& lead) {
  const Tensor token_offsets = torch::stable::contiguous(packing.cu_tokens);
  const Tensor keep_offsets = torch::stable::contiguous(packing.cu_keep);
  const int32_t* begin = token_offsets.const_data_ptr<int32_t>();
  const int32_t* kept = keep_offsets.const_data_ptr<int32_t>();
  const int64_t images = packing.cu_tokens.size(0) - 1;
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
  check_offsets("cu_tokens", begin, lead.front(), "the number of tokens");
  check_offsets("cu_keep", kept, packing.total_keep, "total_keep");
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
    const bool* const kept = data<bool>(kept_flags, begin);
    const bool* const usable = data<bool>(valid_flags, begin);
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

}  // namespace zoprune
