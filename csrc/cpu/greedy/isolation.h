// The most isolated token, without comparing all pairs. docs/selection.md has the argument.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/keys.h"

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
    for_each_part(parallel_for_, count(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) keys_.measure(tokens_[i]);
    });
    std::iota(open_.begin(), open_.end(), 0);
    // Any part of this order is spread over the image, where tokens nearby are alike.
    int64_t step = 1 + count() * 5 / 8;
    while (std::gcd(step, count()) > 1) ++step;
    for (int64_t i = 0; i < count(); ++i) unseen_.push_back(i * step % count());
  }

  int64_t find_most_isolated() {
    complete({unseen_.begin(), unseen_.begin() + std::min(kRowBlock, count())});
    while (!open_.empty()) {
      // Some tokens of which nothing is known tell which ones are out ...
      if (static_cast<int64_t>(open_.size()) > kCompleted) {
        const int64_t wanted = count() / (8 * static_cast<int64_t>(open_.size())) + 1;
        compare_all(wanted * kRowBlock);
      }
      // ... and one that is as isolated as can be, how isolated they must be.
      const int64_t some = std::min<int64_t>(kCompleted, open_.size());
      std::partial_sort(open_.begin(), open_.begin() + some, open_.end(),
                        [&](int64_t a, int64_t b) { return more_isolated(a, b); });
      complete({open_.begin(), open_.begin() + some});
    }
    return tokens_[best_];
  }

 private:
  static constexpr int64_t kCompleted = kRowBlock / 2;  // tokens of a round

  int64_t count() const { return static_cast<int64_t>(tokens_.size()); }

  bool more_isolated(int64_t a, int64_t b) const {
    return nearest_[a] != nearest_[b] ? nearest_[a] < nearest_[b] : a < b;
  }

  // Compares open tokens with all others, so that their nearest ones are known.
  void complete(const std::vector<int64_t>& chosen) {
    compare(chosen, unseen_);
    for (int64_t i : chosen)
      if (best_ < 0 || more_isolated(i, best_)) best_ = i;
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
    for (int64_t first = 0; first < some; first += kRowBlock)
      compare({unseen_.begin() + first, unseen_.begin() + std::min(first + kRowBlock, some)},
              open_);
    unseen_.erase(unseen_.begin(), unseen_.begin() + some);
    open_.erase(std::remove_if(open_.begin(), open_.end(),
                               [&](int64_t i) { return !more_isolated(i, best_); }),
                open_.end());
  }

  // Compares `chosen`, at most kRowBlock, with others, and raises the nearest of both.
  void compare(const std::vector<int64_t>& chosen, const std::vector<int64_t>& others) {
    const int64_t num_rows = chosen.size(), num_others = others.size();
    const int64_t num_blocks = (num_others + kRowBlock - 1) / kRowBlock;
    const std::unique_ptr<char[]> row_space(new char[num_rows * keys_.copy_bytes()]);
    const void* rows[kRowBlock];
    for (int64_t r = 0; r < num_rows; ++r)
      rows[r] = keys_.copy(tokens_[chosen[r]], row_space.get() + r * keys_.copy_bytes());
    std::vector<float> nearest_in(num_blocks * num_rows, -1.0f);  // of each block of others
    std::vector<float> nearest_of(num_others, -1.0f);
    for_each_part(parallel_for_, num_blocks, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
      const void* cols[kRowBlock];
      float dots[kRowBlock * kRowBlock];
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kRowBlock, num_cols = std::min(kRowBlock, num_others - first);
        for (int64_t c = 0; c < num_cols; ++c)
          cols[c] = keys_.row(tokens_[others[first + c]], space.get() + c * keys_.row_bytes());
        keys_.dots(rows, num_rows, cols, num_cols, dots, kRowBlock);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t c = 0; c < num_cols; ++c) {
            if (chosen[r] == others[first + c]) continue;
            const float value =
                cosine(dots[r * kRowBlock + c], keys_.inv_norm(tokens_[chosen[r]]) *
                                                    keys_.inv_norm(tokens_[others[first + c]]));
            float& row_nearest = nearest_in[block * num_rows + r];
            row_nearest = std::max(row_nearest, value);
            nearest_of[first + c] = std::max(nearest_of[first + c], value);
          }
      }
    });
    for (int64_t i = 0; i < num_others; ++i) raise(others[i], nearest_of[i]);
    for (size_t i = 0; i < nearest_in.size(); ++i) raise(chosen[i % num_rows], nearest_in[i]);
  }

  void raise(int64_t token, float cosine) { nearest_[token] = std::max(nearest_[token], cosine); }

  Keys& keys_;
  const std::vector<int64_t>& tokens_;
  const ParallelFor parallel_for_;
  std::vector<float> nearest_;          // [tokens], largest cosine to another one so far
  std::vector<int64_t> open_, unseen_;  // indices into tokens_
  int64_t best_ = -1;                   // the most isolated of those compared with all
};

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
