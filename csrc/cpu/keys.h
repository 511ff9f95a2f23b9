// The keys of an image and their cosines, for selections that compare tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
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

  // From here on, each key counts minus the mean of the valid tokens' finite keys.
  void centre(const bool* valid, ParallelFor parallel_for) {
    const int64_t tokens = scale_.size();
    std::vector<char> counted(tokens);
    for_each_part(parallel_for, tokens, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        counted[i] = (!valid || valid[i]) && std::isfinite(norm(type_, key(i), dim_));
    });
    mean_.assign(dim_, 0.0);
    constexpr int64_t kColumns = 256;  // of one task: every element is summed in the tokens' order
    for_each_part(parallel_for, (dim_ + kColumns - 1) / kColumns, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kColumns, last = std::min(end * kColumns, dim_);
      for (int64_t i = 0; i < tokens; ++i)
        if (counted[i])
          add_row(type_, key(i) + first * key_bytes(type_), last - first, &mean_[first]);
    });
    const auto count = std::count(counted.begin(), counted.end(), 1);
    for (double& value : mean_) value /= std::max<int64_t>(count, 1);
  }

  int64_t row_bytes() const { return dim_ * key_bytes(row_type()); }
  float inv_norm(int64_t token) const { return inv_norm_[token]; }
  void inv_norms(const int64_t* tokens, int64_t count, float* out) const {
    for (int64_t i = 0; i < count; ++i) out[i] = inv_norm_[tokens[i]];
  }

  // The token's key in place, or a copy in `space` [row_bytes]: centred where keys are, and scaled
  // by a power of two where its norm is not fit for fp32. Measures the norm at the first call.
  const void* row(int64_t token, char* space) {
    measure(token);
    if (!mean_.empty()) {
      centre_row(type_, key(token), mean_.data(), scale_[token], dim_,
                 reinterpret_cast<float*>(space));
      return space;
    }
    if (scale_[token] == 1) return key(token);
    scale_row(type_, key(token), scale_[token], dim_, space);
    return space;
  }

  // Bytes from a copied row to the next. Rows that are a multiple of 4 KiB apart drive each other
  // out of the L1 cache; with one side of the products a line further apart they do not.
  int64_t copy_bytes() const { return (row_bytes() / 64 + 1) * 64; }

  // The token's key as `row` has it, always a copy in `space` [row_bytes].
  const void* copy(int64_t token, char* space) {
    const void* const from = row(token, space);
    if (from != space) std::memcpy(space, from, row_bytes());
    return space;
  }

  int64_t dim() const { return dim_; }

  // out = the token's key as `row` has it, folded; zeros where it is a zero key.
  void sketch(int64_t token, char* space, const float* signs, float* out) {
    const void* const from = row(token, space);
    if (inv_norm_[token] == 0)
      std::fill_n(out, kSketchWidth, 0.0f);
    else
      fold_row(row_type(), from, signs, dim_, out);
  }

  // The key times a power of two, in fp64; the norm has been measured.
  std::vector<double> values(int64_t token) const {
    std::vector<double> values(dim_);
    add_row(type_, key(token), dim_, values.data());
    for (double& value : values) value *= scale_[token];
    return values;
  }

  void measure(int64_t token) {
    if (scale_[token] != 0) return;
    const double length = mean_.empty() ? norm(type_, key(token), dim_)
                                        : centred_norm(type_, key(token), mean_.data(), dim_);
    scale_[token] = 1;
    if (!(length > 0) || !std::isfinite(length)) return;  // a zero key: inv_norm stays 0
    if (length < kSmallestNorm || length > kLargestNorm)
      scale_[token] = std::ldexp(1.0, -std::ilogb(length));
    inv_norm_[token] = static_cast<float>(1 / (length * scale_[token]));
  }

  void dots(const void* const* rows, int64_t num_rows, const void* const* cols, int64_t num_cols,
            float* out, int64_t out_stride) const {
    dot_products(row_type(), rows, num_rows, cols, num_cols, dim_, out, out_stride);
  }

 private:
  const char* key(int64_t token) const { return data_ + token * stride_; }
  KeyType row_type() const { return mean_.empty() ? type_ : KeyType::float32; }

  KeyType type_;
  int64_t dim_, stride_;
  const char* data_;
  std::vector<double> mean_;   // [dim] where keys are centred
  std::vector<double> scale_;  // 0 until measured
  std::vector<float> inv_norm_;
};

// Rounding may leave [-1, 1]; a zero key has cosine 0 with everything, whatever the dot product.
inline float cosine(float dot, float inv_norms) {
  return inv_norms == 0 ? 0.0f : std::min(std::max(dot * inv_norms, -1.0f), 1.0f);
}

// Dot products of rows and columns with these inverse norms become cosines, in place.
inline void to_cosines(const float* __restrict row_inv_norms, int64_t num_rows,
                       const float* __restrict col_inv_norms, int64_t num_cols,
                       float* __restrict dots, int64_t stride) {
  for (int64_t r = 0; r < num_rows; ++r)
    for (int64_t c = 0; c < num_cols; ++c)
      dots[r * stride + c] = cosine(dots[r * stride + c], row_inv_norms[r] * col_inv_norms[c]);
}

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
