// The images of a call: alike in a batch, or one after another in a packed array.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/common/checks.h"

namespace zoprune {

// How many tokens each image keeps is `int64_t k`, or what the offsets of packed images say. An
// operator and its varlen twin are one function of one or the other.
struct Packing {
  Tensor cu_tokens, cu_keep;
  int64_t total_keep = 0;

  auto fields() { return std::tie(cu_tokens, cu_keep, total_keep); }
};

constexpr bool is_packed(int64_t /*k*/) { return false; }
inline bool is_packed(const Packing&) { return true; }

template <typename Keep>
std::string twin_name(const char* op, const Keep& keep) {
  return std::string(op) + (is_packed(keep) ? "_varlen" : "");
}

// An image: its first token, number of tokens and number of kept tokens.
struct Segment {
  int64_t begin, tokens, keep;
};

// The leading dimensions of whatever is given for each token: [N], [B, N] or [T].
using Lead = std::vector<int64_t>;
inline Lead lead_of(const Tensor& tensor, int64_t dims_after = 0) {
  return {tensor.sizes().begin(), tensor.sizes().end() - dims_after};
}

inline std::vector<Size> sizes(const Lead& lead) { return {lead.begin(), lead.end()}; }

// `like` is the argument `name`.
void check_keep(const Checker& check, int64_t k, const Lead& lead, const Tensor& like,
                const char* name);
void check_keep(const Checker& check, const Packing& packing, const Lead& lead, const Tensor& like,
                const char* name);

// The images of a batch, each keeping k; the packed ones, with their offsets' values checked.
std::vector<Segment> images_of(const Lead& lead, int64_t k = 0);
inline std::vector<Segment> segments_of(const Checker&, int64_t k, const Lead& lead) {
  return images_of(lead, k);
}
std::vector<Segment> segments_of(const Checker& check, const Packing& packing, const Lead& lead);

// The shape of what is kept.
inline Lead kept_shape(int64_t k, Lead lead) {
  lead.back() = k;
  return lead;
}
inline Lead kept_shape(const Packing& packing, const Lead&) { return {packing.total_keep}; }

// What the masks hold: enough valid tokens, not too many kept ones, none of them invalid.
void check_mask_values(const Checker& check, const std::vector<Segment>& segments,
                       const std::optional<Tensor>& must_keep, const std::optional<Tensor>& valid);

}  // namespace zoprune
