// The most isolated token, without comparing all pairs. docs/selection.md has the argument.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/greedy/sketches.h"
#include "cpu/keys.h"
#include "zoprune/selection.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// Finds the token whose nearest neighbour is farthest, the first among equals. A token's largest
// cosine so far is a lower bound of its largest one: a token for which it exceeds that of a token
// compared with all others is out. The others, `open_`, have been compared with the same tokens,
// all but `unseen_`.
class Isolation {
 public:
  // `tokens` are ascending, and some.
  Isolation(Keys& keys, const std::vector<int64_t>& tokens, ParallelFor parallel_for)
      : keys_(keys),
        tokens_(tokens),
        parallel_for_(parallel_for),
        nearest_(tokens.size(), -1.0f),
        open_(tokens.size()) {
    std::iota(open_.begin(), open_.end(), 0);
    // Any part of this order is spread over the image, where tokens nearby are alike.
    int64_t step = 1 + count() * 5 / 8;
    while (std::gcd(step, count()) > 1) ++step;
    for (int64_t i = 0; i < count(); ++i) unseen_.push_back(i * step % count());
  }

  int64_t find_most_isolated() {
    if (keys_.dim() >= Sketches::kWorthwhile && count() > kRowBlock) {
      compare_likely();
    } else {
      for_each_part(parallel_for_, count(), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) keys_.measure(tokens_[i]);
      });
      complete({unseen_.begin(), unseen_.begin() + std::min(kRowBlock, count())});
    }
    while (!open_.empty()) {
      // Some tokens of which nothing is known tell which ones are out ...
      if (static_cast<int64_t>(open_.size()) > kCompleted) {
        const int64_t wanted = count() / (8 * static_cast<int64_t>(open_.size())) + 1;
        compare_all(wanted * kRowBlock);
      }
      // ... and one that is as isolated as can be, how isolated they must be.
      complete(most_isolated(kCompleted));
    }
    return tokens_[best_];
  }

  // [image_tokens]: cosines of the most isolated token, once it is found, to those searched.
  std::vector<float> cosines(int64_t image_tokens) {
    Pairs missing;
    for (int64_t i = 0; i < count(); ++i)
      if (is_nan(to_best_[i])) missing.emplace_back(best_, i);
    const std::vector<float> found = compare_pairs(missing);
    for (size_t i = 0; i < found.size(); ++i) to_best_[missing[i].second] = found[i];
    std::vector<float> cosines(image_tokens);
    for (int64_t i = 0; i < count(); ++i) cosines[tokens_[i]] = to_best_[i];
    return cosines;
  }

 private:
  static constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();
  static constexpr int64_t kCompleted = kRowBlock / 2;  // tokens of a round
  // With sketches: how many others each token meets at first, of how many tokens that seem isolated
  // the likely ones among all are compared, how many of each, and tokens of a round.
  static constexpr int64_t kMet = 128, kRefined = 32, kCompletedFirst = 4;
  static constexpr int kEach = 4;
  static constexpr int64_t kBytesWorthThreads = 1 << 21;  // of keys that pairs are made of

  int64_t count() const { return static_cast<int64_t>(tokens_.size()); }

  bool more_isolated(int64_t a, int64_t b) const {
    return nearest_[a] != nearest_[b] ? nearest_[a] < nearest_[b] : a < b;
  }

  // Compares tokens with what sketches take for their nearest, as long as that puts out most.
  void compare_likely() {
    const Sketches sketches(keys_, tokens_, parallel_for_);
    const std::vector<int64_t> order = unseen_;
    const auto meet = [&](const std::vector<int64_t>& tokens, int64_t begin, int64_t end,
                          int each) {
      const Pairs pairs =
          sketches.likely_pairs(tokens, {order.begin() + begin, order.begin() + end}, each);
      const std::vector<float> found = compare_pairs(pairs);
      for (size_t i = 0; i < found.size(); ++i) raise(nearest_[pairs[i].second], found[i]);
    };
    int64_t met = std::min(kMet, count());
    meet(open_, 0, met, 1);
    // Those that seem the most isolated meet all, before some are compared with all.
    meet(most_isolated(kRefined), met, count(), kEach);
    for (int64_t before = count(); !open_.empty();) {
      complete(most_isolated(kCompletedFirst));
      const int64_t left = open_.size();
      if (left == 0 || 2 * left > before || met == count()) return;
      before = left;
      // The fewer are open, the more others for each: the same work in every round.
      const int64_t some = std::min(kMet * count() / left, count() - met);
      meet(open_, met, met + some, kEach);
      met += some;
      drop_compared();
    }
  }

  // The cosine of each pair. Neighbours that share their first token are computed together.
  std::vector<float> compare_pairs(const Pairs& pairs) {
    std::vector<float> found(pairs.size());
    share(pairs.size(), pairs.size(), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[(kRowBlock + 1) * keys_.row_bytes()]);
      const void* rows[kRowBlock];
      float inv_norms[kRowBlock];
      while (begin < end) {
        const int64_t first = tokens_[pairs[begin].first];
        int64_t num = 0;
        for (; num < kRowBlock && begin + num < end; ++num) {
          if (pairs[begin + num].first != pairs[begin].first) break;
          const int64_t second = tokens_[pairs[begin + num].second];
          rows[num] = keys_.row(second, space.get() + num * keys_.row_bytes());
          inv_norms[num] = keys_.inv_norm(second);
        }
        const void* const row = keys_.row(first, space.get() + kRowBlock * keys_.row_bytes());
        const float inv_norm = keys_.inv_norm(first);
        keys_.dots(rows, num, &row, 1, &found[begin], 1);
        to_cosines(inv_norms, num, &inv_norm, 1, &found[begin], 1);
        begin += num;
      }
    });
    return found;
  }

  // Open tokens that are the most isolated so far.
  std::vector<int64_t> most_isolated(int64_t most) {
    const int64_t some = std::min<int64_t>(most, open_.size());
    std::partial_sort(open_.begin(), open_.begin() + some, open_.end(),
                      [&](int64_t a, int64_t b) { return more_isolated(a, b); });
    return {open_.begin(), open_.begin() + some};
  }

  // Compares open tokens with all others, so that their nearest ones are known.
  void complete(const std::vector<int64_t>& chosen) {
    const int64_t num = chosen.size();
    std::vector<float> cosines(num * count(), kUnknown);
    compare(chosen, unseen_, cosines.data());
    int64_t best_row = -1;
    for (int64_t r = 0; r < num; ++r) {
      if (best_ >= 0 && !more_isolated(chosen[r], best_)) continue;
      best_ = chosen[r];
      best_row = r;
    }
    if (best_row >= 0)
      to_best_.assign(&cosines[best_row * count()], &cosines[best_row * count()] + count());
    std::vector<bool> is_chosen(count());
    for (int64_t i : chosen) is_chosen[i] = true;
    const auto drop = [](std::vector<int64_t>& from, const auto& which) {
      from.erase(std::remove_if(from.begin(), from.end(), which), from.end());
    };
    drop(unseen_, [&](int64_t i) { return is_chosen[i]; });
    drop(open_, [&](int64_t i) { return is_chosen[i] || !more_isolated(i, best_); });
  }

  // Compares the open tokens with some that they have not seen.
  void compare_all(int64_t wanted) {
    const int64_t some = std::min<int64_t>(wanted, unseen_.size());
    const std::vector<int64_t> met(unseen_.begin(), unseen_.begin() + some);
    if (static_cast<int64_t>(open_.size()) <= kRowBlock)
      compare(open_, met, nullptr);
    else
      for (int64_t first = 0; first < some; first += kRowBlock)
        compare({met.begin() + first, met.begin() + std::min(first + kRowBlock, some)}, open_,
                nullptr);
    unseen_.erase(unseen_.begin(), unseen_.begin() + some);
    drop_compared();
  }

  void drop_compared() {
    if (best_ < 0) return;
    open_.erase(std::remove_if(open_.begin(), open_.end(),
                               [&](int64_t i) { return !more_isolated(i, best_); }),
                open_.end());
  }

  // Compares `chosen`, at most kRowBlock, with others, and raises the nearest of both. Their
  // cosines go to `out` [chosen, tokens], if there is one.
  void compare(const std::vector<int64_t>& chosen, const std::vector<int64_t>& others, float* out) {
    const int64_t num_rows = chosen.size(), num_others = others.size();
    const int64_t num_blocks = (num_others + kRowBlock - 1) / kRowBlock;
    const std::unique_ptr<char[]> row_space(new char[num_rows * keys_.copy_bytes()]);
    const void* rows[kRowBlock];
    for (int64_t r = 0; r < num_rows; ++r)
      rows[r] = keys_.copy(tokens_[chosen[r]], row_space.get() + r * keys_.copy_bytes());
    float row_inv_norms[kRowBlock], own_nearest[kRowBlock];
    std::fill_n(own_nearest, kRowBlock, -1.0f);
    std::vector<int64_t> row_of(count(), -1);
    for (int64_t r = 0; r < num_rows; ++r) {
      row_inv_norms[r] = keys_.inv_norm(tokens_[chosen[r]]);
      row_of[chosen[r]] = r;
    }
    std::mutex mutex;
    share(num_blocks, num_rows * num_others, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
      // The largest cosines of each row, one for every column of a block: loops without branches.
      float nearest_in[kRowBlock][kRowBlock];
      std::fill_n(&nearest_in[0][0], kRowBlock * kRowBlock, -1.0f);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t* const cols = &others[block * kRowBlock];
        compare_block(rows, row_inv_norms, num_rows, row_of, cols,
                      std::min(kRowBlock, num_others - block * kRowBlock), space.get(), nearest_in,
                      out);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t r = 0; r < num_rows; ++r)
        raise(own_nearest[r], *std::max_element(nearest_in[r], nearest_in[r] + kRowBlock));
    });
    for (int64_t r = 0; r < num_rows; ++r) raise(nearest_[chosen[r]], own_nearest[r]);
  }

  // Raises the nearest of `cols`, and `nearest_in` for the rows.
  void compare_block(const void* const* rows, const float* row_inv_norms, int64_t num_rows,
                     const std::vector<int64_t>& row_of, const int64_t* cols, int64_t num_cols,
                     char* space, float (*nearest_in)[kRowBlock], float* out) {
    const void* col_rows[kRowBlock];
    float col_inv_norms[kRowBlock] = {}, cosines[kRowBlock * kRowBlock], nearest[kRowBlock];
    for (int64_t c = 0; c < num_cols; ++c) {
      const int64_t token = tokens_[cols[c]];
      col_rows[c] = keys_.row(token, space + c * keys_.row_bytes());
      col_inv_norms[c] = keys_.inv_norm(token);
    }
    std::fill_n(cosines, kRowBlock * kRowBlock, -1.0f);
    keys_.dots(rows, num_rows, col_rows, num_cols, cosines, kRowBlock);
    to_cosines(row_inv_norms, num_rows, col_inv_norms, num_cols, cosines, kRowBlock);
    for (int64_t c = 0; c < num_cols; ++c)
      if (row_of[cols[c]] >= 0) cosines[row_of[cols[c]] * kRowBlock + c] = -1;
    if (out)
      for (int64_t r = 0; r < num_rows; ++r)
        for (int64_t c = 0; c < num_cols; ++c)
          out[r * count() + cols[c]] = cosines[r * kRowBlock + c];
    std::fill_n(nearest, kRowBlock, -1.0f);
    for (int64_t r = 0; r < num_rows; ++r)
      for (int64_t c = 0; c < kRowBlock; ++c) {
        const float value = cosines[r * kRowBlock + c];
        nearest_in[r][c] = std::max(nearest_in[r][c], value);
        nearest[c] = std::max(nearest[c], value);
      }
    for (int64_t c = 0; c < num_cols; ++c) raise(nearest_[cols[c]], nearest[c]);
  }

  // Shares tasks that compare `pairs` of tokens among the threads, where that is worth their time.
  template <typename F>
  void share(int64_t tasks, int64_t pairs, const F& f) {
    if (pairs * keys_.row_bytes() < kBytesWorthThreads)
      f(0, tasks);
    else
      for_each_part(parallel_for_, tasks, f);
  }

  static void raise(float& nearest, float cosine) { nearest = std::max(nearest, cosine); }

  Keys& keys_;
  const std::vector<int64_t>& tokens_;
  const ParallelFor parallel_for_;
  std::vector<float> nearest_;          // [tokens], largest cosine to another one so far
  std::vector<int64_t> open_, unseen_;  // indices into tokens_
  int64_t best_ = -1;                   // the most isolated of those compared with all
  std::vector<float> to_best_;          // [tokens], its cosines, NaN where they are not known
};

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
