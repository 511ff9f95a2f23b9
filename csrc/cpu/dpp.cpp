// The incremental Cholesky factor of Chen et al. (2018) for the tokens that need it.
#include "cpu/dpp.h"

#include <cmath>
#include <memory>
#include <vector>

#include "cpu/greedy/lazy_greedy.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// A token of which less than this share lies outside the span of the selected adds nothing.
constexpr double kDependent = 1e-5;
constexpr int64_t kGroup = 2 * kRowBlock;  // picks

class Volume {
 public:
  Volume(const GreedyImage& image, Keys& keys, ParallelFor parallel_for)
      : image_(image),
        components_(new float[image.tokens * image.keep]),  // untouched where no token needs it
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

  void pick(int64_t token) { picks_.push_back(token); }

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
  LazyGreedy<Volume>(image, &keys, volume, parallel_for).run(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
