// The incremental Cholesky factor of Chen et al. (2018) for the tokens that need it.
#include "cpu/select_dpp.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/greedy/lazy_greedy.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// A token of which less than this share lies outside the span of the selected adds nothing.
constexpr double kDependent = 1e-5;
// Residuals below this are measured again before a pick: sums in fp32 leave errors of 1e-6, and
// more once picks are nearly dependent.
constexpr double kMeasured = 1e-2;
constexpr int64_t kGroup = 2 * kRowBlock;  // picks

// An orthonormal basis of what the picks' keys span, in fp64.
class Basis {
 public:
  explicit Basis(int64_t dim) : dim_(dim) {}

  // What lies outside the span, as a share of the squared length; `key` becomes that part.
  double residual(std::vector<double>& key) const {
    const double length = dot(key.data(), key.data());
    for (int pass = 0; pass < 2; ++pass)  // the second removes what rounding left of the first
      for (size_t at = 0; at < axes_.size(); at += dim_) {
        const double along = dot(&axes_[at], key.data());
        for (int64_t i = 0; i < dim_; ++i) key[i] -= along * axes_[at + i];
      }
    return length > 0 ? dot(key.data(), key.data()) / length : 0.0;
  }

  void add(std::vector<double> key) {
    if (residual(key) <= kDependent) return;
    const double scale = 1 / std::sqrt(dot(key.data(), key.data()));
    for (double value : key) axes_.push_back(value * scale);
  }

 private:
  double dot(const double* a, const double* b) const {
    double sum[8] = {};  // chains that do not wait for one another
    int64_t i = 0;
    for (; i + 8 <= dim_; i += 8)
      for (int j = 0; j < 8; ++j) sum[j] += a[i + j] * b[i + j];
    for (; i < dim_; ++i) sum[0] += a[i] * b[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }

  int64_t dim_;
  std::vector<double> axes_;  // [axes, dim]
};

class Volume {
 public:
  static constexpr bool kPicksAreLowered = true;  // their components lower others
  static constexpr bool kRanksFallAlike = true;

  Volume(const GreedyImage& image, Keys& keys, ParallelFor parallel_for)
      : image_(image),
        keys_(keys),
        basis_(keys.dim()),
        components_(reserve(image.tokens * image.keep)),  // untouched where no token needs it
        residual_(image.tokens) {
    for_each_part(parallel_for, image.tokens, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[keys.row_bytes()]);
      for (int64_t i = begin; i < end; ++i) {
        keys.row(i, space.get());
        residual_[i] = keys.inv_norm(i) != 0;
      }
    });
  }

  uint64_t rank(int64_t token) const {
    const float quality = finite_score(image_.scores[token]);
    if (!(quality > 0) || residual_[token] <= kDependent)
      return pack_rank(Candidate::blocked, quality, token);
    const float gain = quality * std::sqrt(static_cast<float>(residual_[token]));
    return pack_rank(Candidate::free, gain, token);
  }

  bool lowers() const { return true; }

  void pick(int64_t token) { picks_.push_back(token); }

  // Sums in fp32 may leave a token that is all but dependent a share that it does not have.
  uint64_t confirm(int64_t token) {
    if (residual_[token] > kDependent && residual_[token] < kMeasured) {
      for (; in_basis_ < static_cast<int64_t>(picks_.size()); ++in_basis_)
        if (keys_.inv_norm(picks_[in_basis_]) != 0) basis_.add(keys_.values(picks_[in_basis_]));
      std::vector<double> key = keys_.values(token);
      residual_[token] = std::min(residual_[token], basis_.residual(key));
    }
    return rank(token);
  }

  // A token's next component is (cos - <c_token, c_pick>) / d_pick. The product over the components
  // of whole groups of picks is a tile of products; only the last group's goes pick by pick.
  void lower(const Lowering& by) {
    const int64_t last = by.first_pick + by.num_picks;
    for (int64_t begin = by.first_pick; begin < last;) {
      const int64_t group = begin / kGroup * kGroup;
      const int64_t end = std::min(last, group + kGroup);
      for (int64_t first = 0; first < by.count; first += kRowBlock)
        lower_block(by, first, std::min(kRowBlock, by.count - first), group, begin, end);
      begin = end;
    }
  }

 private:
  static float* reserve(int64_t count) {
    try {
      return new float[count];
    } catch (const std::bad_alloc&) {
      throw std::runtime_error("zoprune: out of memory: " + std::to_string(4 * count) +
                               " bytes for the components of select_dpp");
    }
  }

  // Tokens [first, first + count) of `by`, by the picks [begin, end) of the group.
  void lower_block(const Lowering& by, int64_t first, int64_t count, int64_t group, int64_t begin,
                   int64_t end) {
    const void *rows[kRowBlock] = {}, *cols[kGroup] = {};
    float whole[kRowBlock * kGroup], rest[kRowBlock];
    for (int64_t i = 0; i < count; ++i) rows[i] = components(by.tokens[first + i]);
    for (int64_t p = begin; p < end; ++p) cols[p - begin] = components(picks_[p]);
    dot_products(KeyType::float32, rows, count, cols, end - begin, group, whole, kGroup);
    for (int64_t i = 0; i < count; ++i) rows[i] = components(by.tokens[first + i]) + group;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t behind = std::min(by.behind(p) - first, count);
      if (behind <= 0) continue;
      const double variance = residual_[picks_[p]];
      const double inv_distance = variance > kDependent ? 1 / std::sqrt(variance) : 0.0;
      const void* const col = components(picks_[p]) + group;
      dot_products(KeyType::float32, rows, behind, &col, 1, p - group, rest, 1);
      for (int64_t i = 0; i < behind; ++i) {
        const int64_t token = by.tokens[first + i];
        const double cosine = by.cosines[(first + i) * by.stride + p - by.first_pick];
        const double explained = static_cast<double>(whole[i * kGroup + p - begin]) + rest[i];
        const float component = static_cast<float>((cosine - explained) * inv_distance);
        components(token)[p] = component;
        residual_[token] -= static_cast<double>(component) * component;
      }
    }
  }

  float* components(int64_t token) const { return components_.get() + token * image_.keep; }

  const GreedyImage& image_;
  const Keys& keys_;
  Basis basis_;
  int64_t in_basis_ = 0;                 // picks
  std::unique_ptr<float[]> components_;  // [tokens, keep], c / quality
  std::vector<double> residual_;         // [tokens], d^2 / quality^2
  std::vector<int64_t> picks_;
};

}  // namespace

void select_dpp(const KeyLayout& layout, const GreedyImage& image, bool sort,
                ParallelFor parallel_for) {
  if (image.keep == 0) return;
  Keys keys(layout, image.keys, image.tokens);
  Volume volume(image, keys, parallel_for);
  LazyGreedy<Volume> greedy(image, &keys, volume, parallel_for);
  greedy.grow(image.keep);
  greedy.write(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
