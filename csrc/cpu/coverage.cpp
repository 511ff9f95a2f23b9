// Lazy greedy facility location. What a token adds is a sum of fp32 terms, each rounded to a
// multiple of one quantum so that fp64 adds them without rounding: the sum is the same in any order
// and never rises as more is covered. docs/family.md has the argument.
#include "cpu/coverage.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "cpu/lazy_greedy.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr double kNegligible = 0x1p-30;               // of the largest weight
constexpr int64_t kStoredCosines = int64_t{8} << 20;  // 32 MiB of rows, whatever the image's size
constexpr int64_t kBatch = 48;                        // candidates whose rows are computed together
constexpr int64_t kTile = 4 * kRowBlock;              // tokens on a side of a tile of cosines

class Coverage {
 public:
  Coverage(const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for)
      : image_(image),
        parallel_for_(parallel_for),
        keys_(layout, image.keys, image.tokens),
        weight_(image.tokens),
        covered_(image.tokens),
        added_(image.tokens),
        counted_(image.tokens),
        slot_(image.tokens, -1),
        slots_(std::min(image.tokens, std::max(kStoredCosines / image.tokens, kBatch))),
        owner_(slots_, -1),
        rows_(new float[slots_ * image.tokens]) {
    // Sums of `tokens` terms of at most 1 stay below 2^52 quanta, where fp64 is exact.
    quantizer_ = std::ldexp(1.5, std::ilogb(static_cast<double>(image.tokens)) + 1);
    set_weights();
  }

  void run(bool sort) {
    const Candidates candidates(image_);
    for (int64_t token : candidates.kept) {
      store_rows({token});
      pick(token);
    }
    if (static_cast<int64_t>(picks_.size()) < image_.keep) {
      add_up_all();
      std::vector<uint64_t> heap;
      for (int64_t token : candidates.scored) heap.push_back(rank(token));
      std::make_heap(heap.begin(), heap.end());
      while (static_cast<int64_t>(picks_.size()) < image_.keep && !heap.empty()) pick_best(heap);
    }
    write_indices(image_, std::move(picks_), candidates.unknown, sort);
  }

 private:
  void set_weights() {
    float largest = 0;
    for (int64_t i = 0; i < image_.tokens; ++i) {
      if (image_.valid && !image_.valid[i]) continue;
      const float weight = image_.weights ? finite_score(image_.weights[i]) : 1.0f;
      weight_[i] = weight > 0 ? weight : 0.0f;  // also where it is NaN
      largest = std::max(largest, weight_[i]);
    }
    for (float& weight : weight_)
      weight = largest > 0 ? static_cast<float>(static_cast<double>(weight) / largest) : 0.0f;
  }

  uint64_t rank(int64_t token) const {
    const float score = finite_score(image_.scores[token]);
    if (!(score > 0) || added_[token] <= kNegligible)
      return pack_rank(Candidate::blocked, score, token);
    const double gain = std::min(score * added_[token], static_cast<double>(FLT_MAX));
    return pack_rank(Candidate::free, static_cast<float>(gain), token);
  }

  // What a token with these cosines adds to what the tokens [0, count) of `weight` have.
  double sum(const float* cosines, const float* weight, const float* covered, int64_t count) const {
    constexpr int kSums = 16;
    double partial[kSums] = {};
    const auto term = [&](int64_t i) {
      const float value = weight[i] * std::max(cosines[i] - covered[i], 0.0f);
      return (static_cast<double>(value) + quantizer_) - quantizer_;
    };
    int64_t i = 0;
    for (; i + kSums <= count; i += kSums)
      for (int j = 0; j < kSums; ++j) partial[j] += term(i + j);
    for (int j = 0; i < count; ++i, ++j) partial[j] += term(i);
    double total = 0;
    for (double value : partial) total += value;
    return total;
  }

  // added_ of all tokens before or after the first picks: every pair once, in tiles.
  void add_up_all() {
    measure_all();
    const int64_t tokens = image_.tokens, blocks = (tokens + kTile - 1) / kTile;
    const bool store = slots_ == tokens;  // every row fits: the tiles fill them
    std::mutex mutex;
    for_each_part(parallel_for_, blocks, [&](int64_t begin, int64_t end) {
      std::vector<double> added(tokens);
      std::vector<float> tile(kTile * kTile), mirrored(kTile * kTile);
      for (int64_t pair = begin; pair < end; ++pair) {
        // Long rows of the triangle of tiles with short ones: equal work for every thread.
        const int64_t row = pair % 2 == 0 ? pair / 2 : blocks - 1 - pair / 2;
        for (int64_t col = row; col < blocks; ++col)
          add_tile(row * kTile, col * kTile, store, tile.data(), mirrored.data(), added.data());
      }
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t i = 0; i < tokens; ++i) added_[i] += added[i];
    });
    for (int64_t i = 0; i < tokens; ++i) counted_[i] = picks_.size();
    if (!store) return;
    for (int64_t i = 0; i < tokens; ++i) slot_[i] = owner_[i] = i;
  }

  void add_tile(int64_t row, int64_t col, bool store, float* tile, float* mirrored, double* added) {
    const int64_t num_rows = std::min(kTile, image_.tokens - row);
    const int64_t num_cols = std::min(kTile, image_.tokens - col);
    cosines(row, num_rows, col, num_cols, tile, kTile);
    for (int64_t r = 0; r < num_rows; ++r) {
      added[row + r] += sum(tile + r * kTile, &weight_[col], &covered_[col], num_cols);
      for (int64_t c = 0; c < num_cols; ++c) mirrored[c * kTile + r] = tile[r * kTile + c];
      if (store) std::copy_n(tile + r * kTile, num_cols, stored(row + r) + col);
    }
    if (row == col) return;
    for (int64_t c = 0; c < num_cols; ++c) {
      added[col + c] += sum(mirrored + c * kTile, &weight_[row], &covered_[row], num_rows);
      if (store) std::copy_n(mirrored + c * kTile, num_rows, stored(col + c) + row);
    }
  }

  // out[r * stride + c]: cosines of consecutive tokens, measured before, with consecutive tokens.
  void cosines(int64_t row, int64_t num_rows, int64_t col, int64_t num_cols, float* out,
               int64_t stride) {
    const std::unique_ptr<char[]> space(new char[2 * kRowBlock * keys_.row_bytes()]);
    for (int64_t r = 0; r < num_rows; r += kRowBlock)
      for (int64_t c = 0; c < num_cols; c += kRowBlock) {
        int64_t left[kRowBlock], right[kRowBlock];
        const int64_t rows = std::min(kRowBlock, num_rows - r);
        const int64_t cols = std::min(kRowBlock, num_cols - c);
        for (int64_t i = 0; i < rows; ++i) left[i] = row + r + i;
        for (int64_t i = 0; i < cols; ++i) right[i] = col + c + i;
        block(left, rows, right, cols, space.get(), out + r * stride + c, stride);
      }
  }

  // Cosines of two lists of at most kRowBlock tokens; space [2 * kRowBlock * row_bytes].
  void block(const int64_t* left, int64_t num_rows, const int64_t* right, int64_t num_cols,
             char* space, float* out, int64_t stride) {
    const void *rows[kRowBlock] = {}, *cols[kRowBlock] = {};
    for (int64_t i = 0; i < num_rows; ++i)
      rows[i] = keys_.row(left[i], space + i * keys_.row_bytes());
    for (int64_t i = 0; i < num_cols; ++i)
      cols[i] = keys_.row(right[i], space + (kRowBlock + i) * keys_.row_bytes());
    keys_.dots(rows, num_rows, cols, num_cols, out, stride);
    for (int64_t r = 0; r < num_rows; ++r)
      for (int64_t c = 0; c < num_cols; ++c)
        out[r * stride + c] =
            cosine(out[r * stride + c], keys_.inv_norm(left[r]) * keys_.inv_norm(right[c]));
  }

  void measure_all() {
    if (measured_) return;
    measured_ = true;
    for_each_part(parallel_for_, image_.tokens, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[keys_.row_bytes()]);
      for (int64_t i = begin; i < end; ++i) keys_.row(i, space.get());
    });
  }

  float* stored(int64_t slot) const { return rows_.get() + slot * image_.tokens; }

  // Computes and stores the rows of some tokens, in place of the oldest.
  void store_rows(const std::vector<int64_t>& tokens) {
    measure_all();
    const int64_t count = tokens.size();
    std::vector<float*> rows;
    for (int64_t token : tokens) {
      if (owner_[next_slot_] >= 0) slot_[owner_[next_slot_]] = -1;
      owner_[next_slot_] = token;
      slot_[token] = next_slot_;
      rows.push_back(stored(next_slot_));
      next_slot_ = (next_slot_ + 1) % slots_;
    }
    const int64_t parts = (image_.tokens + kRowBlock - 1) / kRowBlock;
    for_each_part(parallel_for_, parts, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[2 * kRowBlock * keys_.row_bytes()]);
      float out[kRowBlock * kRowBlock];
      for (int64_t part = begin; part < end; ++part) {
        const int64_t first = part * kRowBlock;
        const int64_t cols = std::min(kRowBlock, image_.tokens - first);
        int64_t right[kRowBlock];
        for (int64_t i = 0; i < cols; ++i) right[i] = first + i;
        for (int64_t r = 0; r < count; r += kRowBlock) {
          const int64_t num_rows = std::min(kRowBlock, count - r);
          block(&tokens[r], num_rows, right, cols, space.get(), out, kRowBlock);
          for (int64_t i = 0; i < num_rows; ++i)
            std::copy_n(out + i * kRowBlock, cols, rows[r + i] + first);
        }
      }
    });
  }

  void pick(int64_t token) {
    picks_.push_back(token);
    const float* const row = stored(slot_[token]);
    for (int64_t i = 0; i < image_.tokens; ++i) covered_[i] = std::max(covered_[i], row[i]);
  }

  // A rank that is not up to date is an upper bound: the first that is, is the best.
  void pick_best(std::vector<uint64_t>& heap) {
    for (;;) {
      const int64_t token = rank_index(heap.front());
      const bool current = counted_[token] == static_cast<int64_t>(picks_.size());
      if (slot_[token] < 0) store_rows(next_missing(heap));
      if (!current) {
        added_[token] = sum(stored(slot_[token]), weight_.data(), covered_.data(), image_.tokens);
        counted_[token] = picks_.size();
      }
      std::pop_heap(heap.begin(), heap.end());
      if (current) {
        heap.pop_back();
        pick(token);
        return;
      }
      heap.back() = rank(token);
      std::push_heap(heap.begin(), heap.end());
    }
  }

  // The best token and others near the top of the heap whose rows are not stored.
  std::vector<int64_t> next_missing(const std::vector<uint64_t>& heap) const {
    std::vector<int64_t> tokens;
    for (size_t i = 0; i < heap.size() && static_cast<int64_t>(tokens.size()) < kBatch; ++i)
      if (slot_[rank_index(heap[i])] < 0) tokens.push_back(rank_index(heap[i]));
    return tokens;
  }

  const GreedyImage& image_;
  const ParallelFor parallel_for_;
  Keys keys_;
  bool measured_ = false;
  double quantizer_;              // adding and subtracting it rounds to the quantum
  std::vector<float> weight_;     // [tokens], at most 1
  std::vector<float> covered_;    // [tokens], the largest cosine to a pick, at least 0
  std::vector<double> added_;     // [tokens], after `counted` picks
  std::vector<int64_t> counted_;  // [tokens]
  std::vector<int64_t> picks_;
  std::vector<int64_t> slot_;  // [tokens], where a token's row is stored, or -1
  int64_t slots_, next_slot_ = 0;
  std::vector<int64_t> owner_;     // [slots], the token whose row it is, or -1
  std::unique_ptr<float[]> rows_;  // [slots, tokens], cosines
};

}  // namespace

void select_coverage(const KeyLayout& layout, const GreedyImage& image, bool sort,
                     ParallelFor parallel_for) {
  if (image.keep > 0) Coverage(layout, image, parallel_for).run(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
