// The most isolated token, without comparing all pairs. docs/selection.md has the argument.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
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
    float row_inv_norms[kRowBlock], own_nearest[kRowBlock];
    std::fill_n(own_nearest, kRowBlock, -1.0f);
    std::vector<int64_t> row_of(count(), -1);
    for (int64_t r = 0; r < num_rows; ++r) {
      row_inv_norms[r] = keys_.inv_norm(tokens_[chosen[r]]);
      row_of[chosen[r]] = r;
    }
    std::mutex mutex;
    for_each_part(parallel_for_, num_blocks, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
      // The largest cosines of each row, one for every column of a block: loops without branches.
      float nearest_in[kRowBlock][kRowBlock];
      std::fill_n(&nearest_in[0][0], kRowBlock * kRowBlock, -1.0f);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t* const cols = &others[block * kRowBlock];
        compare_block(rows, row_inv_norms, num_rows, row_of, cols,
                      std::min(kRowBlock, num_others - block * kRowBlock), space.get(), nearest_in);
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
                     char* space, float (*nearest_in)[kRowBlock]) {
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
    std::fill_n(nearest, kRowBlock, -1.0f);
    for (int64_t r = 0; r < num_rows; ++r)
      for (int64_t c = 0; c < kRowBlock; ++c) {
        const float value = cosines[r * kRowBlock + c];
        nearest_in[r][c] = std::max(nearest_in[r][c], value);
        nearest[c] = std::max(nearest[c], value);
      }
    for (int64_t c = 0; c < num_cols; ++c) raise(nearest_[cols[c]], nearest[c]);
  }

  static void raise(float& nearest, float cosine) { nearest = std::max(nearest, cosine); }

  Keys& keys_;
  const std::vector<int64_t>& tokens_;
  const ParallelFor parallel_for_;
  std::vector<float> nearest_;          // [tokens], largest cosine to another one so far
  std::vector<int64_t> open_, unseen_;  // indices into tokens_
  int64_t best_ = -1;                   // the most isolated of those compared with all
};

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
