// Gains of the score and of the largest cosine to the selected tokens.
#include "cpu/select.h"

#include <algorithm>
#include <cfloat>
#include <optional>
#include <vector>

#include "cpu/greedy/isolation.h"
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
  if (how.isolated_first && greedy.num_picks() == 0 && !greedy.scored().empty()) {
    Isolation isolation(*keys, greedy.scored(), parallel_for);
    const int64_t token = isolation.find_most_isolated();
    greedy.take_first(token, isolation.cosines(image.tokens));
  } else {
    greedy.grow(greedy.num_picks() + std::min(by_weight, image.keep - greedy.num_picks()));
  }
  gains.rank_by_gain();
  if (compares_tokens(how.method)) greedy.lower_by_first_pick();
  greedy.grow(image.keep, how.picks_per_step);
  greedy.write(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
