// Plain greedy selection for objectives whose ranks only fall, computed in blocks: a rank that is
// not up to date is an upper bound, so the best candidates can be brought up to date together and
// picked from while none outside the block can rank higher. docs/family.md has the argument.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/keys.h"
#include "zoprune/selection.h"

namespace zoprune {

namespace ZOPRUNE_ISA {
namespace {

// The tokens of an image by what can be said before any is picked.
struct Candidates {
  std::vector<int64_t> kept, scored, unknown;  // must be kept; scored; whose score is NaN

  explicit Candidates(const GreedyImage& image) {
    for (int64_t i = 0; i < image.tokens; ++i) {
      if (image.valid && !image.valid[i]) continue;
      if (image.must_keep && image.must_keep[i])
        kept.push_back(i);
      else
        (is_nan(image.scores[i]) ? unknown : scored).push_back(i);
    }
  }
};

// Writes an image's result: the picks, then tokens whose score is NaN.
inline void write_indices(const GreedyImage& image, std::vector<int64_t> picks,
                          const std::vector<int64_t>& unknown, bool sort) {
  picks.insert(picks.end(), unknown.begin(), unknown.begin() + (image.keep - picks.size()));
  if (sort) std::sort(picks.begin(), picks.end());
  for (int64_t i = 0; i < image.keep; ++i) image.indices[i] = image.first_index + picks[i];
}

// Tokens that are to be lowered by consecutive picks.
struct Lowering {
  const int64_t* tokens;
  const int64_t* seen;  // ascending: the first pick that has not lowered each token yet
  int64_t count;
  int64_t first_pick, num_picks;
  const float* cosines;  // of token i and pick first_pick + p: cosines[i * stride + p]
  int64_t stride;

  // How many of the tokens, from the first, a pick is to lower.
  int64_t behind(int64_t pick) const { return std::upper_bound(seen, seen + count, pick) - seen; }
};

// Objective has
//   static constexpr bool kPicksAreLowered: whether a pick has to be lowered by the picks before it
//     and confirmed: its rank may be lower than it was, where that was only as good as sums in fp32
//   static constexpr bool kRanksFallAlike: whether a pick lowers many tokens by about as much
//   uint64_t rank(int64_t token)
//   bool lowers(): whether picks change ranks at all, as ranks stand
//   uint64_t confirm(int64_t token): the rank of a token about to be picked, if kPicksAreLowered
//   void pick(int64_t token): it becomes the next pick, number 0, 1, ...
//   void lower(const Lowering&): called for different tokens at the same time
// and its ranks depend on the tokens alone, not on the blocks in which they are lowered.
template <typename Objective>
class LazyGreedy {
 public:
  // Picks the tokens that must be kept.
  LazyGreedy(const GreedyImage& image, Keys* keys, Objective& objective, ParallelFor parallel_for)
      : image_(image),
        keys_(keys),
        objective_(objective),
        parallel_for_(parallel_for),
        candidates_(image),
        seen_(image.tokens) {
    for (int64_t token : candidates_.kept) {
      pool_ = {pack_rank(Candidate::must_keep, 0, token)};
      if constexpr (Objective::kPicksAreLowered) {
        catch_up(1, num_picks());
        objective_.confirm(token);
      }
      pick(token);
    }
    pool_.clear();
    for (int64_t token : candidates_.scored) pool_.push_back(pack_rank(Candidate::free, 0, token));
  }

  int64_t num_picks() const { return static_cast<int64_t>(picks_.size()); }
  const std::vector<int64_t>& scored() const { return candidates_.scored; }

  // Picks one of the scored tokens before any other, whatever its rank, and lowers those that are
  // left. cosines [tokens] are those to it.
  void take_first(int64_t token, const std::vector<float>& cosines) {
    pool_.erase(std::find_if(pool_.begin(), pool_.end(),
                             [&](uint64_t rank) { return rank_index(rank) == token; }));
    pick(token);
    const int64_t count = pool_.size();
    std::vector<int64_t> left(count), none_seen(count);
    std::vector<float> to_left(count);
    for (int64_t i = 0; i < count; ++i) {
      left[i] = this->token(i);
      to_left[i] = cosines[left[i]];
      seen_[left[i]] = 1;
    }
    objective_.lower({left.data(), none_seen.data(), count, 0, 1, to_left.data(), 1});
  }

  // Lowers all candidates by the first pick alone: one comparison each, and ranks are better
  // bounds.
  void lower_by_first_pick() { catch_up(pool_.size(), std::min<int64_t>(1, num_picks())); }

  // Picks by rank until there are so many, or no scored token is left; ranks change only after
  // every `step` picks.
  void grow(int64_t until, int64_t step = 1) {
    update_ranks(pool_.size());
    while (num_picks() < until && !pool_.empty())
      objective_.lowers() ? pick_from_block(until, step) : pick_best(until - num_picks());
  }

  // Fills what is missing with tokens whose score is NaN.
  void write(bool sort) { write_indices(image_, std::move(picks_), candidates_.unknown, sort); }

 private:
  static constexpr int64_t kMinBlock = 32, kMaxBlock = 256;  // candidates of one round
  static constexpr int64_t kBytesWorthThreads = 1 << 21;     // of keys that pairs are made of

  int64_t token(int64_t slot) const { return rank_index(pool_[slot]); }

  void pick(int64_t token) {
    picks_.push_back(token);
    objective_.pick(token);
    if (!keys_) return;
    std::unique_ptr<char[]> space(new char[keys_->row_bytes()]);
    pick_rows_.push_back(keys_->row(token, space.get()));
    if (pick_rows_.back() == space.get()) copies_.push_back(std::move(space));
  }

  void update_ranks(int64_t count) {
    for (int64_t i = 0; i < count; ++i) pool_[i] = objective_.rank(token(i));
  }

  // Picks the pool's `count` best.
  void pick_best(int64_t count) {
    const int64_t size = pool_.size(), best = std::min(count, size);
    best_first(best, size);
    const auto end = pool_.begin() + best;
    std::sort(pool_.begin(), end, std::greater<>());
    std::for_each(pool_.begin(), end, [&](uint64_t rank) { pick(rank_index(rank)); });
    pool_.erase(pool_.begin(), end);
  }

  // One round. Few picks come of it where many tokens' ranks fall alike, because the bound is then
  // that of tokens that are not up to date: the next round brings more of them up to date, and
  // compares fewer with each other.
  void pick_from_block(int64_t until, int64_t step) {
    const int64_t missing = until - num_picks(), size = pool_.size();
    const int64_t wanted = std::max(std::min(std::max(3 * missing / 2, kMinBlock), block_), step);
    const int64_t refreshed = std::min(std::max(wanted, refresh_), size);
    const int64_t block = std::min(wanted, refreshed);
    uint64_t bound = best_first(refreshed, size);
    catch_up(refreshed, num_picks());
    update_ranks(refreshed);
    bound = std::max(bound, best_first(block, refreshed));
    const auto block_end = pool_.begin() + block;
    std::sort(pool_.begin(), block_end, std::greater<>());
    const auto live_end = std::lower_bound(pool_.begin(), block_end, bound, std::greater<>());
    const int64_t live = live_end - pool_.begin(), before = num_picks();
    compare_with_each_other(live);
    pick_among(live, bound, until, step);
    const int64_t picked = num_picks() - before;
    if (!Objective::kRanksFallAlike) return;
    if (picked < block / 8) {
      refresh_ = 2 * refreshed;
      block_ = std::max(block_ / 2, kMinBlock);
    } else if (picked > block / 2) {
      refresh_ = refreshed / 2;
      block_ = std::min(2 * block_, kMaxBlock);
    }
  }

  // Moves the pool's `count` best of the first `end` to the front; the rank of the best one left
  // behind, 0 where none is.
  uint64_t best_first(int64_t count, int64_t end) {
    if (count == end) return 0;
    std::nth_element(pool_.begin(), pool_.begin() + count, pool_.begin() + end, std::greater<>());
    return pool_[count];
  }

  // Lowers the pool's first `count` tokens by those of the first `num_picks` picks that they have
  // not seen.
  void catch_up(int64_t count, int64_t num_picks) {
    std::sort(pool_.begin(), pool_.begin() + count,
              [&](uint64_t a, uint64_t b) { return seen_[rank_index(a)] < seen_[rank_index(b)]; });
    const int64_t missed = count == 0 ? 0 : num_picks - seen_[token(0)];
    if (missed <= 0) return;
    const int64_t blocks = num_blocks(count);
    share(blocks, count * missed, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[keys_ ? kRowBlock * keys_->row_bytes() : 0]);
      for (int64_t pair = begin; pair < end; ++pair) {
        // Tokens that missed many picks with those that missed few: equal work for every thread.
        const int64_t block = pair % 2 == 0 ? pair / 2 : blocks - 1 - pair / 2;
        catch_up_rows(block * kRowBlock, std::min(kRowBlock, count - block * kRowBlock), num_picks,
                      space.get());
      }
    });
  }

  void catch_up_rows(int64_t first, int64_t count, int64_t num_picks, char* space) {
    const void* rows[kRowBlock];
    int64_t tokens[kRowBlock] = {}, seen[kRowBlock] = {};
    for (int64_t i = 0; i < count; ++i) {
      tokens[i] = token(first + i);
      seen[i] = seen_[tokens[i]];
      if (keys_) rows[i] = keys_->row(tokens[i], space + i * keys_->row_bytes());
    }
    float cosines[kRowBlock * kRowBlock];
    for (int64_t p = seen[0]; p < num_picks; p += kRowBlock) {
      const int64_t cols = std::min(kRowBlock, num_picks - p);
      if (keys_) {
        float row_inv_norms[kRowBlock], col_inv_norms[kRowBlock];
        keys_->inv_norms(tokens, count, row_inv_norms);
        keys_->inv_norms(&picks_[p], cols, col_inv_norms);
        keys_->dots(rows, count, pick_rows_.data() + p, cols, cosines, kRowBlock);
        to_cosines(row_inv_norms, count, col_inv_norms, cols, cosines, kRowBlock);
      }
      objective_.lower({tokens, seen, count, p, cols, cosines, kRowBlock});
    }
    for (int64_t i = 0; i < count; ++i) seen_[tokens[i]] = std::max(seen[i], num_picks);
  }

  // Fills cosines_ [count, count] for the pool's first `count` tokens.
  void compare_with_each_other(int64_t count) {
    cosines_.resize(count * count);
    if (!keys_) return;
    const std::unique_ptr<char[]> space(new char[count * keys_->row_bytes()]);
    std::vector<const void*> rows(count);
    std::vector<float> inv_norm(count);
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = keys_->row(token(i), space.get() + i * keys_->row_bytes());
      inv_norm[i] = keys_->inv_norm(token(i));
    }
    std::vector<std::pair<int64_t, int64_t>> tiles;  // the upper triangle; the rest mirrors it
    for (int64_t r = 0; r < count; r += kRowBlock)
      for (int64_t c = r; c < count; c += kRowBlock) tiles.emplace_back(r, c);
    share(tiles.size(), count * count / 2, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const auto [row, col] = tiles[tile];
        const int64_t num_rows = std::min(kRowBlock, count - row);
        const int64_t num_cols = std::min(kRowBlock, count - col);
        float* const out = &cosines_[row * count + col];
        keys_->dots(&rows[row], num_rows, &rows[col], num_cols, out, count);
        to_cosines(&inv_norm[row], num_rows, &inv_norm[col], num_cols, out, count);
        for (int64_t r = row; r < row + num_rows; ++r)
          for (int64_t c = std::max(r + 1, col); c < col + num_cols; ++c)
            cosines_[c * count + r] = cosines_[r * count + c];
      }
    });
  }

  // Whether the tokens in these slots of the pool have the ranks that they seem to have.
  bool confirm(const int64_t* slots, int64_t count) {
    bool confirmed = true;
    if constexpr (Objective::kPicksAreLowered)
      for (int64_t i = 0; i < count; ++i) {
        const uint64_t rank = objective_.confirm(token(slots[i]));
        confirmed = confirmed && rank == pool_[slots[i]];
        pool_[slots[i]] = rank;
      }
    return confirmed;
  }

  // Plain greedy among the pool's first `count` tokens, as long as none outside can rank higher. A
  // step is taken as a whole: all of its picks must precede what is outside.
  void pick_among(int64_t count, uint64_t bound, int64_t until, int64_t step) {
    std::vector<int64_t> order(count), tokens(count), seen;  // order: indices into the block
    std::iota(order.begin(), order.end(), 0);
    std::vector<float> cosines(count);
    while (num_picks() < until && !order.empty()) {
      const int64_t wanted = std::min(step, until - num_picks()), first_pick = num_picks();
      const int64_t taken = std::min<int64_t>(wanted, order.size());
      std::partial_sort(order.begin(), order.begin() + taken, order.end(),
                        [&](int64_t a, int64_t b) { return pool_[a] > pool_[b]; });
      if (pool_[order[taken - 1]] <= bound || (taken < wanted && bound > 0)) break;
      if (!confirm(order.data(), taken)) continue;
      for (int64_t i = 0; i < taken; ++i) pick(token(order[i]));
      const int64_t left = order.size() - taken;
      for (int64_t j = 0; j < left; ++j) tokens[j] = token(order[taken + j]);
      seen.assign(left, first_pick);
      for (int64_t i = 0; i < taken; ++i) {
        const float* const row = &cosines_[order[i] * count];
        for (int64_t j = 0; j < left; ++j) cosines[j] = row[order[taken + j]];
        objective_.lower({tokens.data(), seen.data(), left, first_pick + i, 1, cosines.data(), 1});
        pool_[order[i]] = 0;
      }
      order.erase(order.begin(), order.begin() + taken);
      for (int64_t i : order) pool_[i] = objective_.rank(token(i));
    }
    for (int64_t i : order) seen_[token(i)] = num_picks();
    const auto end = pool_.begin() + count;
    pool_.erase(std::remove(pool_.begin(), end, uint64_t{0}), end);
  }

  // Shares tasks that compare `pairs` of tokens among the threads, where that is worth their time.
  template <typename F>
  void share(int64_t tasks, int64_t pairs, const F& f) {
    if (pairs * (keys_ ? keys_->row_bytes() : 1) < kBytesWorthThreads)
      f(0, tasks);
    else
      for_each_part(parallel_for_, tasks, f);
  }

  static int64_t num_blocks(int64_t count) { return (count + kRowBlock - 1) / kRowBlock; }

  const GreedyImage& image_;
  Keys* const keys_;  // null where cosines are not needed
  Objective& objective_;
  const ParallelFor parallel_for_;
  const Candidates candidates_;

  std::vector<int64_t> picks_;
  std::vector<const void*> pick_rows_;           // [picks], what dot products read
  std::vector<std::unique_ptr<char[]>> copies_;  // those of pick_rows_ that are not in place
  std::vector<uint64_t> pool_;                   // ranks of the candidates
  std::vector<int64_t> seen_;                    // [tokens], picks that have lowered the token
  int64_t refresh_ = 0, block_ = kMaxBlock;      // tokens to bring up to date, to pick from
  std::vector<float> cosines_;                   // among the candidates of a round
};

}  // namespace
}  // namespace ZOPRUNE_ISA
}  // namespace zoprune
