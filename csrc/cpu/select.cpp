#include "cpu/select.h"

#include <algorithm>
#include <cfloat>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/keys.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr int64_t kMinBlock = 32, kMaxBlock = 256;  // candidates of one round

class Selection {
 public:
  Selection(const Redundancy& rule, bool centre, const KeyLayout& layout, const GreedyImage& image,
            ParallelFor parallel_for)
      : rule_(rule),
        image_(image),
        parallel_for_(parallel_for),
        dim_(layout.dim),
        keys_(layout, image.keys, rule.compares() ? image.tokens : 0) {
    if (centre && rule.compares()) keys_.centre(image.valid, parallel_for);
  }

  void run(bool sort) {
    std::vector<int64_t> unknown = collect();
    const int64_t by_weight = std::max<int64_t>(rule_.num_seed, picks_.empty() ? 1 : 0);
    if (rule_.isolated_first && picks_.empty())
      pick_most_isolated();
    else
      grow(Method::topk, num_picks() + std::min(by_weight, image_.keep - num_picks()), 1);
    grow(rule_.method, image_.keep, rule_.picks_per_step);
    for (size_t i = 0; num_picks() < image_.keep; ++i) picks_.push_back(unknown[i]);
    if (sort) std::sort(picks_.begin(), picks_.end());
    for (int64_t i = 0; i < image_.keep; ++i) image_.indices[i] = image_.first_index + picks_[i];
  }

 private:
  int64_t num_picks() const { return static_cast<int64_t>(picks_.size()); }

  // Picks the tokens that must be kept and fills the pool; returns the tokens with NaN scores.
  std::vector<int64_t> collect() {
    std::vector<int64_t> unknown;
    const auto usable = [&](int64_t i) { return !image_.valid || image_.valid[i]; };
    float low = FLT_MAX, high = -FLT_MAX;
    for (int64_t i = 0; i < image_.tokens; ++i) {
      if (!usable(i) || is_nan(image_.scores[i])) continue;
      low = std::min(low, finite_score(image_.scores[i]));
      high = std::max(high, finite_score(image_.scores[i]));
    }
    weight_.resize(image_.tokens);
    similarity_.assign(image_.tokens, -1.0f);
    seen_.resize(image_.tokens);
    for (int64_t i = 0; i < image_.tokens; ++i) {
      if (!usable(i)) continue;
      if (image_.must_keep && image_.must_keep[i]) {
        pick(i);
      } else if (is_nan(image_.scores[i])) {
        unknown.push_back(i);
      } else {
        weight_[i] = weight_of(i, low, high);
        pool_.push_back(pack_rank(Candidate::free, 0, i));
      }
    }
    return unknown;
  }

  float weight_of(int64_t token, float low, float high) const {
    const float score = finite_score(image_.scores[token]);
    if (rule_.method == Method::random) return random_weight(rule_.seed, token);
    if (rule_.method == Method::topk) return score;  // normalizing would merge close scores
    return normalized_score(score, low, high);
  }

  uint64_t rank_of(int64_t token) const {
    const float similarity = similarity_[token];
    const bool blocked = rule_.max_similarity < 1 && similarity > rule_.max_similarity;
    return pack_rank(blocked ? Candidate::blocked : Candidate::free,
                     selection_gain(method_, rule_.tradeoff, weight_[token], similarity), token);
  }

  void pick(int64_t token) {
    picks_.push_back(token);
    if (!rule_.compares()) return;
    std::unique_ptr<char[]> space(new char[keys_.row_bytes()]);
    pick_rows_.push_back(keys_.row(token, space.get()));
    if (pick_rows_.back() == space.get()) copies_.push_back(std::move(space));
  }

  // Picks by the method's gain until there are `until` picks or the pool is empty; gains change
  // only after every `step` picks.
  void grow(Method method, int64_t until, int64_t step) {
    method_ = method;
    const bool compares = compares_tokens(method) || rule_.max_similarity < 1;
    // A token that was not compared with every pick yet has too low a similarity, hence too high a
    // rank: an upper bound. One comparison for all makes the bounds useful.
    if (compares_tokens(method)) compare_with_picks(pool_.size(), 1);
    update_ranks(pool_.size());
    while (num_picks() < until && !pool_.empty()) {
      const int64_t missing = until - num_picks();
      const int64_t wanted =
          compares ? std::max(std::min(std::max(3 * missing / 2, kMinBlock), kMaxBlock), step)
                   : missing;
      const int64_t count = std::min<int64_t>(wanted, pool_.size());
      uint64_t bound = 0;  // no token outside the block ranks higher
      if (count < static_cast<int64_t>(pool_.size())) {
        std::nth_element(pool_.begin(), pool_.begin() + count, pool_.end(), std::greater<>());
        bound = pool_[count];
      }
      if (compares) {
        compare_with_picks(count, num_picks());
        update_ranks(count);
      }
      const auto block_end = pool_.begin() + count;
      std::sort(pool_.begin(), block_end, std::greater<>());
      const auto live_end = std::lower_bound(pool_.begin(), block_end, bound, std::greater<>());
      if (compares) {
        compare_with_each_other(live_end - pool_.begin());
        pick_among(live_end - pool_.begin(), bound, until, step);
      } else {
        std::for_each(pool_.begin(), block_end, [&](uint64_t rank) { pick(rank_index(rank)); });
        pool_.erase(pool_.begin(), block_end);
      }
    }
  }

  // Parallel where the parts hold enough dot products to be worth waking threads for.
  template <typename F>
  void for_parts(int64_t parts, int64_t dots_per_part, const F& f) const {
    constexpr int64_t kSerialProducts = 1 << 18;
    if (parts * dots_per_part * dim_ < kSerialProducts)
      f(0, parts);
    else
      for_each_part(parallel_for_, parts, f);
  }

  void update_ranks(int64_t count) {
    for (int64_t i = 0; i < count; ++i) pool_[i] = rank_of(rank_index(pool_[i]));
  }

  // Brings the similarities of the pool's first `count` tokens up to date with the first
  // `num_picks` picks.
  void compare_with_picks(int64_t count, int64_t num_picks) {
    std::sort(pool_.begin(), pool_.begin() + count,
              [&](uint64_t a, uint64_t b) { return seen_[rank_index(a)] < seen_[rank_index(b)]; });
    for_parts(num_blocks(count), kRowBlock * num_picks, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
      for (int64_t block = begin; block < end; ++block)
        compare_rows(block * kRowBlock, std::min(kRowBlock, count - block * kRowBlock), num_picks,
                     space.get());
    });
  }

  void compare_rows(int64_t first, int64_t count, int64_t num_picks, char* space) {
    const void* rows[kRowBlock];
    int64_t token[kRowBlock], first_pick = num_picks;
    for (int64_t i = 0; i < count; ++i) {
      token[i] = rank_index(pool_[first + i]);
      rows[i] = keys_.row(token[i], space + i * keys_.row_bytes());
      first_pick = std::min<int64_t>(first_pick, seen_[token[i]]);
    }
    float dots[kRowBlock * kRowBlock];
    for (int64_t p = first_pick; p < num_picks; p += kRowBlock) {
      const int64_t cols = std::min(kRowBlock, num_picks - p);
      keys_.dots(rows, count, pick_rows_.data() + p, cols, dots, kRowBlock);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < cols; ++c)
          raise_similarity(token[i],
                           cosine(dots[i * kRowBlock + c],
                                  keys_.inv_norm(token[i]) * keys_.inv_norm(picks_[p + c])));
    }
    for (int64_t i = 0; i < count; ++i)
      seen_[token[i]] = std::max<int64_t>(seen_[token[i]], num_picks);
  }

  // Fills cosines_ [count, count] for the pool's first `count` tokens.
  void compare_with_each_other(int64_t count) {
    cosines_.resize(count * count);
    const std::unique_ptr<char[]> space(new char[count * keys_.row_bytes()]);
    std::vector<const void*> rows(count);
    std::vector<float> inv_norm(count);
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = keys_.row(rank_index(pool_[i]), space.get() + i * keys_.row_bytes());
      inv_norm[i] = keys_.inv_norm(rank_index(pool_[i]));
    }
    std::vector<std::pair<int64_t, int64_t>> tiles;  // the upper triangle; the rest mirrors it
    for (int64_t r = 0; r < count; r += kRowBlock)
      for (int64_t c = r; c < count; c += kRowBlock) tiles.emplace_back(r, c);
    for_parts(tiles.size(), kRowBlock * kRowBlock, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const auto [row, col] = tiles[tile];
        const int64_t num_rows = std::min(kRowBlock, count - row);
        const int64_t num_cols = std::min(kRowBlock, count - col);
        float* const out = &cosines_[row * count + col];
        keys_.dots(&rows[row], num_rows, &rows[col], num_cols, out, count);
        for (int64_t r = row; r < row + num_rows; ++r)
          for (int64_t c = std::max(r, col); c < col + num_cols; ++c) {
            float& value = cosines_[r * count + c];
            value = cosine(value, inv_norm[r] * inv_norm[c]);
            cosines_[c * count + r] = value;
          }
      }
    });
  }

  // Plain greedy among the pool's first `count` tokens, as long as none outside can rank higher.
  void pick_among(int64_t count, uint64_t bound, int64_t until, int64_t step) {
    std::vector<int64_t> order(count);  // positions in the block
    std::iota(order.begin(), order.end(), 0);
    while (num_picks() < until && !order.empty()) {
      const int64_t wanted = std::min(step, until - num_picks());
      const int64_t taken = std::min<int64_t>(wanted, order.size());
      std::partial_sort(order.begin(), order.begin() + taken, order.end(),
                        [&](int64_t a, int64_t b) { return pool_[a] > pool_[b]; });
      // A step is taken as a whole: all of its picks must precede what is outside.
      if (pool_[order[taken - 1]] <= bound || (taken < wanted && bound > 0)) break;
      for (int64_t i = 0; i < taken; ++i) pick(rank_index(pool_[order[i]]));
      for (int64_t i = 0; i < taken; ++i) {
        const float* const cosines = &cosines_[order[i] * count];
        for (int64_t j = taken; j < static_cast<int64_t>(order.size()); ++j)
          raise_similarity(rank_index(pool_[order[j]]), cosines[order[j]]);
        pool_[order[i]] = 0;
      }
      order.erase(order.begin(), order.begin() + taken);
      for (int64_t i : order) pool_[i] = rank_of(rank_index(pool_[i]));
    }
    for (int64_t i : order) seen_[rank_index(pool_[i])] = num_picks();
    const auto end = pool_.begin() + count;
    pool_.erase(std::remove(pool_.begin(), end, uint64_t{0}), end);
  }

  // Picks the candidate whose nearest neighbor among the candidates is farthest. Its nearest so far
  // is an upper bound of how isolated a token is: those of the highest bounds are compared with
  // all, which lowers the others' bounds, until the highest belongs to one of them.
  void pick_most_isolated() {
    const int64_t count = pool_.size();
    if (count == 0) return;
    std::vector<int64_t> tokens(count), order(count);
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = 0; i < count; ++i) tokens[i] = rank_index(pool_[i]);
    for_each_part(parallel_for_, count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) keys_.measure(tokens[i]);
    });
    std::vector<float> nearest(count, -1.0f);
    std::vector<bool> compared(count);
    const auto more_isolated = [&](int64_t a, int64_t b) {
      return nearest[a] != nearest[b] ? nearest[a] < nearest[b] : a < b;
    };
    for (;;) {
      const auto best = std::min_element(order.begin(), order.end(), more_isolated);
      if (compared[*best]) {
        pick(tokens[*best]);
        pool_.erase(pool_.begin() + *best);
        return;
      }

      const auto unknown =
          std::partition(order.begin(), order.end(), [&](int64_t i) { return !compared[i]; });
      const int64_t rows = std::min<int64_t>(kRowBlock, unknown - order.begin());
      std::partial_sort(order.begin(), order.begin() + rows, unknown, more_isolated);
      find_nearest(tokens, {order.begin(), order.begin() + rows}, nearest);
      for (int64_t i = 0; i < rows; ++i) compared[order[i]] = true;
    }
  }

  // Compares `tokens` at the positions `chosen`, a block of rows, with all of them.
  void find_nearest(const std::vector<int64_t>& tokens, const std::vector<int64_t>& chosen,
                    std::vector<float>& nearest) {
    const int64_t count = tokens.size(), num_rows = chosen.size();
    const std::unique_ptr<char[]> row_space(new char[num_rows * keys_.row_bytes()]);
    const void* rows[kRowBlock];
    for (int64_t r = 0; r < num_rows; ++r)
      rows[r] = keys_.row(tokens[chosen[r]], row_space.get() + r * keys_.row_bytes());
    std::vector<float> nearest_in(num_blocks(count) * num_rows, -1.0f);  // of each block of columns
    for_each_part(parallel_for_, num_blocks(count), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
      const void* cols[kRowBlock];
      float dots[kRowBlock * kRowBlock];
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kRowBlock, num_cols = std::min(kRowBlock, count - first);
        for (int64_t c = 0; c < num_cols; ++c)
          cols[c] = keys_.row(tokens[first + c], space.get() + c * keys_.row_bytes());
        keys_.dots(rows, num_rows, cols, num_cols, dots, kRowBlock);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t c = 0; c < num_cols; ++c) {
            if (chosen[r] == first + c) continue;
            const float value =
                cosine(dots[r * kRowBlock + c],
                       keys_.inv_norm(tokens[chosen[r]]) * keys_.inv_norm(tokens[first + c]));
            float& row_nearest = nearest_in[block * num_rows + r];
            row_nearest = std::max(row_nearest, value);
            nearest[first + c] = std::max(nearest[first + c], value);
          }
      }
    });
    for (size_t i = 0; i < nearest_in.size(); ++i)
      nearest[chosen[i % num_rows]] = std::max(nearest[chosen[i % num_rows]], nearest_in[i]);
  }

  void raise_similarity(int64_t token, float value) {
    similarity_[token] = std::max(similarity_[token], value);
  }

  static int64_t num_blocks(int64_t count) { return (count + kRowBlock - 1) / kRowBlock; }

  const Redundancy& rule_;
  const GreedyImage& image_;
  const ParallelFor parallel_for_;
  const int64_t dim_;
  Keys keys_;
  Method method_ = Method::topk;

  std::vector<int64_t> picks_;
  std::vector<const void*> pick_rows_;           // [picks], what dot products read
  std::vector<std::unique_ptr<char[]>> copies_;  // those of pick_rows_ that are not in place
  std::vector<uint64_t> pool_;                   // ranks of the candidates
  std::vector<float> weight_, similarity_;       // [tokens]; similarity to the first `seen` picks
  std::vector<int64_t> seen_;                    // [tokens]
  std::vector<float> cosines_;                   // among the candidates of a round
};

}  // namespace

void select(const Redundancy& rule, bool centre, const KeyLayout& layout, const GreedyImage& image,
            bool sort, ParallelFor parallel_for) {
  if (image.keep > 0) Selection(rule, centre, layout, image, parallel_for).run(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
