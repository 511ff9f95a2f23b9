// Plain greedy selection for objectives whose ranks only fall, computed in blocks: a rank that is
// not up to date is an upper bound, so the best candidates can be brought up to date together and
// picked from while none outside the block can rank higher. docs/family.md has the argument.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
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
//   uint64_t rank(int64_t token)
//   void pick(int64_t token): it becomes the next pick, number 0, 1, ...
//   void lower(const Lowering&): called for different tokens at the same time
//   uint64_t confirm(int64_t token): the rank of a token about to be picked, which may be lower
//   than
//     its last one, where that was only as good as its sums in fp32
// and its ranks depend on the tokens alone, not on the blocks in which they are lowered.
template <typename Objective>
class LazyGreedy {
 public:
  LazyGreedy(const GreedyImage& image, Keys* keys, Objective& objective, ParallelFor parallel_for)
      : image_(image), keys_(keys), objective_(objective), parallel_for_(parallel_for) {}

  void run(bool sort) {
    const Candidates candidates(image_);
    seen_.resize(image_.tokens);
    for (int64_t token : candidates.kept) {
      pool_ = {pack_rank(Candidate::must_keep, 0, token)};
      catch_up(1);
      objective_.confirm(token);
      pick(token);
    }
    pool_.clear();
    for (int64_t token : candidates.scored) pool_.push_back(objective_.rank(token));
    while (num_picks() < image_.keep && !pool_.empty()) pick_from_block();
    write_indices(image_, std::move(picks_), candidates.unknown, sort);
  }

 private:
  static constexpr int64_t kMinBlock = 32, kMaxBlock = 256;  // candidates of one round
  static constexpr int64_t kBytesWorthThreads = 1 << 21;     // of keys that pairs are made of

  int64_t num_picks() const { return static_cast<int64_t>(picks_.size()); }
  int64_t token(int64_t position) const { return rank_index(pool_[position]); }

  void pick(int64_t token) {
    picks_.push_back(token);
    objective_.pick(token);
    if (!keys_) return;
    std::unique_ptr<char[]> space(new char[keys_->row_bytes()]);
    pick_rows_.push_back(keys_->row(token, space.get()));
    if (pick_rows_.back() == space.get()) copies_.push_back(std::move(space));
  }

  // One round. Few picks come of it where many tokens' ranks fall alike, because the bound is then
  // that of tokens that are not up to date: the next round brings more of them up to date, and
  // compares fewer with each other.
  void pick_from_block() {
    const int64_t missing = image_.keep - num_picks(), size = pool_.size();
    const int64_t wanted = std::min(std::max(2 * missing, kMinBlock), block_);
    const int64_t refreshed = std::min(std::max(wanted, refresh_), size);
    const int64_t block = std::min(wanted, refreshed);
    uint64_t bound = best_first(refreshed, size);
    catch_up(refreshed);
    for (int64_t i = 0; i < refreshed; ++i) pool_[i] = objective_.rank(token(i));
    bound = std::max(bound, best_first(block, refreshed));
    const auto block_end = pool_.begin() + block;
    std::sort(pool_.begin(), block_end, std::greater<>());
    const auto live_end = std::lower_bound(pool_.begin(), block_end, bound, std::greater<>());
    const int64_t live = live_end - pool_.begin(), before = num_picks();
    compare_with_each_other(live);
    pick_among(live, bound);
    const int64_t picked = num_picks() - before;
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

  // Lowers the pool's first `count` tokens by the picks that they have not seen.
  void catch_up(int64_t count) {
    std::sort(pool_.begin(), pool_.begin() + count,
              [&](uint64_t a, uint64_t b) { return seen_[rank_index(a)] < seen_[rank_index(b)]; });
    const int64_t missed = num_picks() - seen_[token(0)];
    const int64_t blocks = num_blocks(count);
    share(blocks, count * missed, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[keys_ ? kRowBlock * keys_->row_bytes() : 0]);
      for (int64_t pair = begin; pair < end; ++pair) {
        // Tokens that missed many picks with those that missed few: equal work for every thread.
        const int64_t block = pair % 2 == 0 ? pair / 2 : blocks - 1 - pair / 2;
        catch_up_rows(block * kRowBlock, std::min(kRowBlock, count - block * kRowBlock),
                      space.get());
      }
    });
  }

  void catch_up_rows(int64_t first, int64_t count, char* space) {
    const void* rows[kRowBlock];
    int64_t tokens[kRowBlock] = {}, seen[kRowBlock] = {};
    for (int64_t i = 0; i < count; ++i) {
      tokens[i] = token(first + i);
      seen[i] = seen_[tokens[i]];
      if (keys_) rows[i] = keys_->row(tokens[i], space + i * keys_->row_bytes());
    }
    float cosines[kRowBlock * kRowBlock];
    for (int64_t p = seen[0]; p < num_picks(); p += kRowBlock) {
      const int64_t cols = std::min(kRowBlock, num_picks() - p);
      if (keys_) {
        keys_->dots(rows, count, pick_rows_.data() + p, cols, cosines, kRowBlock);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t c = 0; c < cols; ++c)
            cosines[i * kRowBlock + c] =
                cosine(cosines[i * kRowBlock + c],
                       keys_->inv_norm(tokens[i]) * keys_->inv_norm(picks_[p + c]));
      }
      objective_.lower({tokens, seen, count, p, cols, cosines, kRowBlock});
    }
    for (int64_t i = 0; i < count; ++i) seen_[tokens[i]] = num_picks();
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
  void pick_among(int64_t count, uint64_t bound) {
    std::vector<int64_t> tokens(count), positions(count), seen;  // positions: rows of cosines_
    std::vector<float> cosines(count);
    for (int64_t i = 0; i < count; ++i) {
      tokens[i] = token(i);
      positions[i] = i;
    }
    std::vector<uint64_t> ranks(pool_.begin(), pool_.begin() + count);
    while (num_picks() < image_.keep) {
      const auto best = std::max_element(ranks.begin(), ranks.end());
      if (best == ranks.end() || *best <= bound) break;
      const int64_t index = best - ranks.begin();
      const uint64_t confirmed = objective_.confirm(tokens[index]);
      if (confirmed < *best) {
        *best = confirmed;
        continue;
      }
      const float* const row = &cosines_[positions[index] * count];
      pick(tokens[index]);
      ranks.erase(best);
      tokens.erase(tokens.begin() + index);
      positions.erase(positions.begin() + index);
      const int64_t left = tokens.size();
      for (int64_t i = 0; i < left; ++i) cosines[i] = row[positions[i]];
      seen.assign(left, num_picks() - 1);
      objective_.lower({tokens.data(), seen.data(), left, num_picks() - 1, 1, cosines.data(), 1});
      for (int64_t i = 0; i < left; ++i) ranks[i] = objective_.rank(tokens[i]);
    }
    for (int64_t token : tokens) seen_[token] = num_picks();
    std::copy(ranks.begin(), ranks.end(), pool_.begin());
    pool_.erase(pool_.begin() + ranks.size(), pool_.begin() + count);
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
