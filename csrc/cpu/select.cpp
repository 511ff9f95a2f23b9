// Gains of the score and of the largest cosine to the selected tokens.
#include "cpu/select.h"

#include <algorithm>
#include <cfloat>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/greedy/lazy_greedy.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

class Gains {
 public:
  static constexpr bool kPicksAreLowered = false;
  static constexpr bool kRanksFallAlike = false;

  Gains(const Redundancy& how, const GreedyImage& image)
      : how_(how), weight_(image.tokens), similarity_(image.tokens, -1.0f) {
    const auto counts = [&](int64_t i) {
      return (!image.valid || image.valid[i]) && !is_nan(image.scores[i]);
    };
    float low = FLT_MAX, high = -FLT_MAX;
    for (int64_t i = 0; i < image.tokens; ++i) {
      if (!counts(i)) continue;
      low = std::min(low, finite_score(image.scores[i]));
      high = std::max(high, finite_score(image.scores[i]));
    }
    for (int64_t i = 0; i < image.tokens; ++i)
      if (counts(i)) weight_[i] = weight_of(i, finite_score(image.scores[i]), low, high);
  }

  // Ranks are by weight alone until they are by the method's gain.
  void rank_by_gain() { method_ = how_.method; }

  bool lowers() const { return compares_tokens(method_) || how_.max_similarity < 1; }

  uint64_t rank(int64_t token) const {
    const float similarity = similarity_[token];
    const bool blocked = how_.max_similarity < 1 && similarity > how_.max_similarity;
    return pack_rank(blocked ? Candidate::blocked : Candidate::free,
                     selection_gain(method_, how_.tradeoff, weight_[token], similarity), token);
  }

  void pick(int64_t) {}

  // A pick that a token has seen already changes nothing.
  void lower(const Lowering& by) {
    for (int64_t i = 0; i < by.count; ++i) {
      float& similarity = similarity_[by.tokens[i]];
      for (int64_t p = 0; p < by.num_picks; ++p)
        similarity = std::max(similarity, by.cosines[i * by.stride + p]);
    }
  }

 private:
  float weight_of(int64_t token, float score, float low, float high) const {
    if (how_.method == Method::random) return random_weight(how_.seed, token);
    if (how_.method == Method::topk) return score;  // normalising would merge close scores
    return normalised_score(score, low, high);
  }

  const Redundancy& how_;
  Method method_ = Method::topk;
  std::vector<float> weight_, similarity_;  // [tokens]
};

// The token whose nearest neighbour among all is farthest. Its nearest so far is an upper bound of
// how isolated a token is: those of the highest bounds are compared with all, which lowers the
// others' bounds, until the highest belongs to one of them.
class Isolation {
 public:
  Isolation(Keys& keys, const std::vector<int64_t>& tokens, ParallelFor parallel_for)
      : keys_(keys), tokens_(tokens), parallel_for_(parallel_for), nearest_(tokens.size(), -1.0f) {}

  int64_t find_most_isolated() {
    const int64_t count = tokens_.size();
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    for_each_part(parallel_for_, count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) keys_.measure(tokens_[i]);
    });
    std::vector<bool> compared(count);
    const auto more_isolated = [&](int64_t a, int64_t b) {
      return nearest_[a] != nearest_[b] ? nearest_[a] < nearest_[b] : a < b;
    };
    for (;;) {
      const auto best = std::min_element(order.begin(), order.end(), more_isolated);
      if (compared[*best]) return tokens_[*best];
      const auto unknown =
          std::partition(order.begin(), order.end(), [&](int64_t i) { return !compared[i]; });
      const int64_t rows = std::min<int64_t>(kRowBlock, unknown - order.begin());
      std::partial_sort(order.begin(), order.begin() + rows, unknown, more_isolated);
      find_nearest({order.begin(), order.begin() + rows});
      for (int64_t i = 0; i < rows; ++i) compared[order[i]] = true;
    }
  }

 private:
  // Compares tokens_[chosen], a block of rows, with all tokens.
  void find_nearest(const std::vector<int64_t>& chosen) {
    const int64_t count = tokens_.size(), num_rows = chosen.size();
    const int64_t num_blocks = (count + kRowBlock - 1) / kRowBlock;
    const std::unique_ptr<char[]> row_space(new char[num_rows * keys_.row_bytes()]);
    const void* rows[kRowBlock];
    for (int64_t r = 0; r < num_rows; ++r)
      rows[r] = keys_.row(tokens_[chosen[r]], row_space.get() + r * keys_.row_bytes());
    std::vector<float> nearest_in(num_blocks * num_rows, -1.0f);  // of each block of columns
    for_each_part(parallel_for_, num_blocks, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
      const void* cols[kRowBlock];
      float dots[kRowBlock * kRowBlock];
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kRowBlock, num_cols = std::min(kRowBlock, count - first);
        for (int64_t c = 0; c < num_cols; ++c)
          cols[c] = keys_.row(tokens_[first + c], space.get() + c * keys_.row_bytes());
        keys_.dots(rows, num_rows, cols, num_cols, dots, kRowBlock);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t c = 0; c < num_cols; ++c) {
            if (chosen[r] == first + c) continue;
            const float value =
                cosine(dots[r * kRowBlock + c],
                       keys_.inv_norm(tokens_[chosen[r]]) * keys_.inv_norm(tokens_[first + c]));
            float& row_nearest = nearest_in[block * num_rows + r];
            row_nearest = std::max(row_nearest, value);
            nearest_[first + c] = std::max(nearest_[first + c], value);
          }
      }
    });
    for (size_t i = 0; i < nearest_in.size(); ++i)
      nearest_[chosen[i % num_rows]] = std::max(nearest_[chosen[i % num_rows]], nearest_in[i]);
  }

  Keys& keys_;
  const std::vector<int64_t>& tokens_;
  const ParallelFor parallel_for_;
  std::vector<float> nearest_;  // [tokens], largest cosine to another one so far
};

}  // namespace

void select(const Redundancy& how, bool centre, const KeyLayout& layout, const GreedyImage& image,
            bool sort, ParallelFor parallel_for) {
  if (image.keep == 0) return;
  std::optional<Keys> keys;
  if (how.compares()) {
    keys.emplace(layout, image.keys, image.tokens);
    if (centre) keys->centre(image.valid, parallel_for);
  }
  Gains gains(how, image);
  LazyGreedy<Gains> greedy(image, keys ? &*keys : nullptr, gains, parallel_for);
  // A first pick has nothing to compare with, so it goes by weight whatever the method.
  const int64_t by_weight = std::max<int64_t>(how.num_seed, greedy.num_picks() == 0);
  if (how.isolated_first && greedy.num_picks() == 0 && !greedy.scored().empty())
    greedy.take(Isolation(*keys, greedy.scored(), parallel_for).find_most_isolated());
  else
    greedy.grow(greedy.num_picks() + std::min(by_weight, image.keep - greedy.num_picks()));
  gains.rank_by_gain();
  if (compares_tokens(how.method)) greedy.lower_by_first_pick();
  greedy.grow(image.keep, how.picks_per_step);
  greedy.write(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
