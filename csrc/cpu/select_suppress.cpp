// Scores that fall with each pick nearby, for the tokens whose score decides a pick.
#include "cpu/select_suppress.h"

#include <cmath>
#include <optional>
#include <vector>

#include "cpu/greedy/lazy_greedy.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

class Neighbours {
 public:
  static constexpr bool kPicksAreLowered = false;
  static constexpr bool kRanksFallAlike = true;

  Neighbours(const Suppression& how, const GreedyImage& image)
      : how_(how), image_(image), score_(image.tokens), blocked_(image.tokens) {
    for (int64_t i = 0; i < image.tokens; ++i) score_[i] = finite_score(image.scores[i]);
  }

  uint64_t rank(int64_t token) const {
    return pack_rank(blocked_[token] ? Candidate::blocked : Candidate::free, score_[token], token);
  }

  bool lowers() const { return true; }

  void pick(int64_t token) { picks_.push_back(token); }

  void lower(const Lowering& by) {
    for (int64_t p = 0; p < by.num_picks; ++p) {
      const int64_t behind = by.behind(by.first_pick + p);
      for (int64_t i = 0; i < behind; ++i) {
        const float distance2 = squared_distance(by.tokens[i], picks_[by.first_pick + p]);
        if (!(distance2 <= how_.radius2)) continue;  // NaN: nobody's neighbour
        lower_one(by.tokens[i], distance2, image_.keys ? by.cosines[i * by.stride + p] : 1.0f);
      }
    }
  }

 private:
  float squared_distance(int64_t a, int64_t b) const {
    if (!image_.positions) return 0;
    float sum = 0;
    for (int64_t axis = 0; axis < image_.axes; ++axis) {
      const float step =
          image_.positions[a * image_.axes + axis] - image_.positions[b * image_.axes + axis];
      sum += step * step;
    }
    return sum;
  }

  void lower_one(int64_t token, float distance2, float cosine) {
    if (how_.rule == SuppressRule::hard) {
      if (!image_.keys || cosine > how_.threshold) blocked_[token] = 1;
      return;
    }
    const bool soft = how_.rule == SuppressRule::soft;
    const float difference = 1 - cosine;
    const float exponent = distance2 * how_.space_scale +
                           (soft ? difference * difference : difference) * how_.similarity_scale;
    if (exponent < kUnderflow) return;
    const float closeness = std::exp(exponent);
    score_[token] -= closeness * (soft ? std::fabs(score_[token]) : how_.strength);
  }

  static constexpr float kUnderflow = -103.9f;  // exp of less is zero in fp32

  const Suppression& how_;
  const GreedyImage& image_;
  std::vector<float> score_;
  std::vector<char> blocked_;
  std::vector<int64_t> picks_;
};

}  // namespace

void select_suppress(const Suppression& how, const KeyLayout& layout, const GreedyImage& image,
                     bool sort, ParallelFor parallel_for) {
  if (image.keep == 0) return;
  std::optional<Keys> keys;
  if (image.keys) keys.emplace(layout, image.keys, image.tokens);
  Neighbours neighbours(how, image);
  LazyGreedy<Neighbours> greedy(image, keys ? &*keys : nullptr, neighbours, parallel_for);
  greedy.grow(image.keep);
  greedy.write(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
