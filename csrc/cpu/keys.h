// The keys of an image and their cosines, for selections that compare tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/isa.h"
#include "cpu/similarity.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// Norms within these bounds neither overflow nor lose digits in an fp32 dot product.
constexpr double kSmallestNorm = 0x1p-30, kLargestNorm = 0x1p60;
constexpr int64_t kRowBlock = kDotBlock;  // keys of one task

// What each key's norm is, computed once, and rows fit for dot products.
class Keys {
 public:
  Keys(const KeyLayout& layout, const void* data, int64_t tokens)
      : type_(layout.type),
        dim_(layout.dim),
        stride_(layout.stride * key_bytes(layout.type)),
        data_(static_cast<const char*>(data)),
        scale_(tokens),
        inv_norm_(tokens) {}

  int64_t row_bytes() const { return dim_ * key_bytes(type_); }
  float inv_norm(int64_t token) const { return inv_norm_[token]; }

  // The token's key in place, or a copy in `space` [row_bytes] scaled by a power of two where its
  // norm is not fit for fp32. Measures the norm at the first call.
  const void* row(int64_t token, char* space) {
    const void* key = data_ + token * stride_;
    if (scale_[token] == 0) measure(token, key);
    if (scale_[token] == 1) return key;
    scale_row(type_, key, scale_[token], dim_, space);
    return space;
  }

  void dots(const void* const* rows, int64_t num_rows, const void* const* cols, int64_t num_cols,
            float* out, int64_t out_stride) const {
    dot_products(type_, rows, num_rows, cols, num_cols, dim_, out, out_stride);
  }

 private:
  void measure(int64_t token, const void* key) {
    const double length = norm(type_, key, dim_);
    scale_[token] = 1;
    if (!(length > 0) || !std::isfinite(length)) return;  // a zero key: inv_norm stays 0
    if (length < kSmallestNorm || length > kLargestNorm)
      scale_[token] = std::ldexp(1.0, -std::ilogb(length));
    inv_norm_[token] = static_cast<float>(1 / (length * scale_[token]));
  }

  KeyType type_;
  int64_t dim_, stride_;
  const char* data_;
  std::vector<double> scale_;  // 0 until measured
  std::vector<float> inv_norm_;
};

// Rounding may leave [-1, 1]; a zero key has cosine 0 with everything, whatever the dot product.
inline float cosine(float dot, float inv_norms) {
  return inv_norms == 0 ? 0.0f : std::min(std::max(dot * inv_norms, -1.0f), 1.0f);
}

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
