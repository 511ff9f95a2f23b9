// Lazy greedy facility location. What a token adds is a sum of fp32 terms, each rounded to a
// multiple of one quantum so that fp64 adds them without rounding: the sum is the same in any
// order, parts of it can be replaced, and it never rises as more is covered. docs/family.md has the
// argument.
#include "cpu/select_coverage.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "cpu/greedy/lazy_greedy.h"
#include "cpu/greedy/quanta.h"
#include "cpu/product/panels.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr double kNegligible = 0x1p-30;                // of the largest weight
constexpr int64_t kStoredCosines = int64_t{8} << 20;   // 32 MiB, whatever the image's size
constexpr int64_t kTile = 2 * kRowBlock;               // tokens on a side of a tile of all pairs
constexpr int64_t kDiagonalStep = kRowBlock / 4;       // columns
constexpr size_t kFewUpdated = 16, kMostUpdated = 96;  // tokens brought up to date together

class Coverage {
 public:
  Coverage(const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for)
      : image_(image),
        dim_(layout.dim),
        parallel_for_(parallel_for),
        keys_(layout, image.keys, image.tokens),
        weight_(image.tokens),
        covered_(image.tokens),
        added_(image.tokens),
        counted_(image.tokens),
        quanta_(image.tokens) {
    set_weights();
  }

  void run(bool sort) {
    const Candidates candidates(image_);
    measure_all();
    for (int64_t token : candidates.kept) pick(token);
    if (num_picks() < image_.keep) {
      add_up_all();
      std::vector<uint64_t> heap;
      for (int64_t token : candidates.scored) heap.push_back(rank(token));
      std::make_heap(heap.begin(), heap.end());
      while (num_picks() < image_.keep && !heap.empty()) pick_best(heap);
    }
    write_indices(image_, std::move(picks_), candidates.unknown, sort);
  }

 private:
  // A token whose coverage a pick has raised, and what it was before.
  struct Raised {
    int32_t token;
    float before;
  };

  int64_t num_picks() const { return static_cast<int64_t>(picks_.size()); }

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

  void measure_all() {
    for_each_part(parallel_for_, image_.tokens, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) keys_.measure(i);
    });
  }

  bool adds(int64_t token) const {
    return finite_score(image_.scores[token]) > 0 && added_[token] > kNegligible;
  }

  uint64_t rank(int64_t token) const {
    const float score = finite_score(image_.scores[token]);
    if (!adds(token)) return pack_rank(Candidate::blocked, score, token);
    const double gain = std::min(score * added_[token], static_cast<double>(FLT_MAX));
    return pack_rank(Candidate::free, static_cast<float>(gain), token);
  }

  bool is_stale(uint64_t rank) const {
    const int64_t token = rank_index(rank);
    return adds(token) && counted_[token] < num_picks();
  }

  // A rank that is not up to date is an upper bound: the first that is, is the best.
  void pick_best(std::vector<uint64_t>& heap) {
    stored_ ? update_stored(heap) : update_computed(heap);
    const int64_t best = rank_index(heap.front());
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    pick(best);
  }

  void update_stored(std::vector<uint64_t>& heap) {
    constexpr int64_t kLine = 64 / sizeof(float);
    while (is_stale(heap.front())) {
      if (heap.size() > 2) {  // the row that is likely the next
        const float* const next = stored(rank_index(std::max(heap[1], heap[2])));
        for (int64_t i = 0; i < image_.tokens; i += kLine) __builtin_prefetch(next + i);
      }
      const int64_t token = rank_index(heap.front());
      const float* const cosines = stored(token);
      added_[token] = quanta_.sum(
          Quanta::add_up(image_.tokens,
                         [&](int64_t i) { return term(weight_[i], cosines[i], covered_[i]); }),
          image_.tokens);
      counted_[token] = num_picks();
      replace_best(heap, rank(token));
    }
  }

  // The best of a heap becomes `rank`, which is no higher.
  static void replace_best(std::vector<uint64_t>& heap, uint64_t rank) {
    const size_t size = heap.size();
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < size; at = child) {
      child += child + 1 < size && heap[child + 1] > heap[child];
      if (heap[child] <= rank) break;
      heap[at] = heap[child];
    }
    heap[at] = rank;
  }

  // Tokens near the top are brought up to date together, the more the longer it takes.
  void update_computed(std::vector<uint64_t>& heap) {
    for (size_t batch = kFewUpdated;; batch = std::min(2 * batch, kMostUpdated)) {
      std::vector<int64_t> stale;
      while (!heap.empty() && stale.size() < batch && is_stale(heap.front())) {
        stale.push_back(rank_index(heap.front()));
        std::pop_heap(heap.begin(), heap.end());
        heap.pop_back();
      }
      if (stale.empty()) return;
      update(stale);
      for (int64_t token : stale) {
        heap.push_back(rank(token));
        std::push_heap(heap.begin(), heap.end());
      }
    }
  }

  void pick(int64_t token) {
    picks_.push_back(token);
    if (stored_) {
      cover(stored(token));
      return;
    }
    std::vector<float> row(image_.tokens);
    share(num_blocks(image_.tokens), kRowBlock, [&](int64_t begin, int64_t end) {
      begin *= kRowBlock;
      end = std::min(end * kRowBlock, image_.tokens);
      std::vector<int64_t> tokens(end - begin);
      std::iota(tokens.begin(), tokens.end(), begin);
      cosines(tokens.data(), end - begin, &token, 1, &row[begin], 1);
    });
    cover_and_list(row.data());
  }

  void cover(const float* cosines) {
    for (int64_t i = 0; i < image_.tokens; ++i) covered_[i] = std::max(covered_[i], cosines[i]);
  }

  void cover_and_list(const float* cosines) {
    for (int64_t i = 0; i < image_.tokens; ++i) {
      if (!(cosines[i] > covered_[i])) continue;
      raised_.push_back({static_cast<int32_t>(i), covered_[i]});
      covered_[i] = cosines[i];
    }
    raised_end_.push_back(raised_.size());
  }

  // What a token of this cosine adds to one of this weight: a term of an exact sum.
  uint64_t term(float weight, float cosine, float covered) const {
    return quanta_.term(weight * std::max(cosine - covered, 0.0f));
  }

  // added_ of all tokens: every pair once, in tiles, which are kept where there is room for all.
  void add_up_all() {
    const int64_t tokens = image_.tokens, blocks = (tokens + kTile - 1) / kTile;
    stored_ = tokens * tokens <= kStoredCosines;
    if (stored_) rows_.reset(new float[tokens * tokens]);
    std::vector<uint64_t> total(tokens);
    std::mutex mutex;
    std::atomic<int64_t> next{0};
    for_each_part(parallel_for_, blocks, [&](int64_t, int64_t) {
      std::vector<uint64_t> added(tokens);
      const std::unique_ptr<char[]> space(new char[kTile * keys_.copy_bytes()]);
      // Rows of the triangle of tiles, the longest first, to whichever thread is free.
      for (int64_t row; (row = next++) < blocks;) {
        const int64_t first = row * kTile, num_rows = std::min(kTile, tokens - first);
        const void* rows[kTile];
        for (int64_t r = 0; r < num_rows; ++r)
          rows[r] = keys_.copy(first + r, space.get() + r * keys_.copy_bytes());
        std::vector<uint64_t> terms(kTile * kTile);  // of the rows' sums
        for (int64_t col = row; col < blocks; ++col)
          add_tile(first, rows, col * kTile, terms.data(), added.data());
        for (int64_t r = 0; r < num_rows; ++r)
          added[first + r] =
              std::accumulate(&terms[r * kTile], &terms[r * kTile] + kTile, added[first + r]);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t i = 0; i < tokens; ++i) total[i] += added[i];
    });
    for (int64_t i = 0; i < tokens; ++i) added_[i] = quanta_.sum(total[i], tokens);
    std::fill(counted_.begin(), counted_.end(), num_picks());
  }

  // The tile at (row, col), of which `rows` are the keys. What a row's token adds to the tokens of
  // the columns goes to `terms` [kTile, kTile], what those add to the rows' to `added` [tokens].
  void add_tile(int64_t row, const void* const* rows, int64_t col, uint64_t* terms,
                uint64_t* added) {
    int64_t row_tokens[kTile], col_tokens[kTile];
    std::iota(row_tokens, row_tokens + kTile, row);
    std::iota(col_tokens, col_tokens + kTile, col);
    const int64_t num_rows = std::min(kTile, image_.tokens - row);
    const int64_t num_cols = std::min(kTile, image_.tokens - col);
    float space[kTile * kTile];
    const int64_t stride = stored_ ? image_.tokens : kTile;
    float* const tile = stored_ ? stored(row) + col : space;
    // On the diagonal, what is below it is above it too: a few columns at a time leave most out.
    const int64_t step = row == col ? kDiagonalStep : kRowBlock;
    const auto multiply = [&](int64_t first, int64_t count, const void* const* right) {
      for (int64_t c = first; c < first + count; c += step) {
        const int64_t width = std::min(step, first + count - c);
        const int64_t end = row == col ? c + width : num_rows;
        for (int64_t r = 0; r < end; r += kRowBlock)
          block_of_cosines(row_tokens + r, rows + r, std::min(kRowBlock, end - r), col_tokens + c,
                           right + (c - first), width, tile + r * stride + c, stride);
      }
    };
    for_each_block(col_tokens, num_cols, multiply);
    if (row == col) {
      for (int64_t r = 0; r < num_rows; ++r)
        for (int64_t c = 0; c < r; ++c) tile[r * stride + c] = tile[c * stride + r];
    } else {
      if (stored_) transpose(tile, stride, num_rows, num_cols, stored(col) + row, stride);
      for (int64_t r = 0; r < num_rows; ++r)
        add_terms(num_cols, tile + r * stride, added + col,
                  [weight = weight_[row + r], covered = covered_[row + r], this](
                      float cosine, int64_t) { return term(weight, cosine, covered); });
    }
    for (int64_t r = 0; r < num_rows; ++r)
      add_terms(num_cols, tile + r * stride, terms + r * kTile,
                [weight = &weight_[col], covered = &covered_[col], this](float cosine, int64_t c) {
                  return term(weight[c], cosine, covered[c]);
                });
  }

  template <typename F>
  static void add_terms(int64_t count, const float* __restrict cosines, uint64_t* __restrict sums,
                        const F& term_of) {
    for (int64_t c = 0; c < count; ++c) sums[c] += term_of(cosines[c], c);
  }

  // Brings what some tokens add up to date. Only where coverage has risen since does a sum change.
  // The list of such tokens is, for one that saw fewer picks, that of one that saw more, and then
  // some.
  void update(std::vector<int64_t>& tokens) {
    std::sort(tokens.begin(), tokens.end(),
              [&](int64_t a, int64_t b) { return counted_[a] > counted_[b]; });
    const int64_t count = tokens.size();
    std::vector<int64_t> raised, num_raised(count);
    std::vector<std::vector<float>> before(count);  // coverage, for the first that saw as many
    std::vector<int64_t> first_alike(count);
    std::vector<float> past = covered_;
    size_t entry = raised_.size();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t seen = counted_[tokens[i]];
      first_alike[i] = i > 0 && counted_[tokens[i - 1]] == seen ? first_alike[i - 1] : i;
      const size_t end = seen > 0 ? raised_end_[seen - 1] : 0;
      while (entry > end) {
        const auto [token, value] = raised_[--entry];
        if (past[token] == covered_[token]) raised.push_back(token);
        past[token] = value;
      }
      num_raised[i] = raised.size();
      if (first_alike[i] == i) before[i] = picked_from(past, raised);
    }
    const std::vector<float> weight = picked_from(weight_, raised);
    const std::vector<float> now = picked_from(covered_, raised);
    const int64_t total = raised.size();
    std::mutex mutex;
    share((total + kTile - 1) / kTile, count * kTile, [&](int64_t begin, int64_t end) {
      float tile[kMostUpdated * kTile];
      uint64_t taken[kMostUpdated] = {};
      for (int64_t col = begin * kTile; col < std::min(end * kTile, total); col += kTile) {
        const int64_t row =
            std::upper_bound(num_raised.begin(), num_raised.end(), col) - num_raised.begin();
        cosines(&tokens[row], count - row, &raised[col], std::min(kTile, total - col), tile, kTile);
        for (int64_t r = row; r < count; ++r) {
          const float* const similar = tile + (r - row) * kTile;
          const float* const old = &before[first_alike[r]][col];
          taken[r] += Quanta::add_up(std::min(kTile, num_raised[r] - col), [&](int64_t i) {
            return term(weight[col + i], similar[i], old[i]) -
                   term(weight[col + i], similar[i], now[col + i]);
          });
        }
      }
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t i = 0; i < count; ++i) added_[tokens[i]] -= quanta_.sum(taken[i], 0);
    });
    for (int64_t token : tokens) counted_[token] = num_picks();
  }

  static std::vector<float> picked_from(const std::vector<float>& values,
                                        const std::vector<int64_t>& tokens) {
    std::vector<float> picked(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) picked[i] = values[tokens[i]];
    return picked;
  }

  // out[r * stride + c]: cosines of two lists of tokens.
  void cosines(const int64_t* rows, int64_t num_rows, const int64_t* cols, int64_t num_cols,
               float* out, int64_t stride) {
    for_each_block(cols, num_cols, [&](int64_t c, int64_t width, const void* const* right) {
      for_each_block(rows, num_rows, [&](int64_t r, int64_t height, const void* const* left) {
        block_of_cosines(rows + r, left, height, cols + c, right, width, out + r * stride + c,
                         stride);
      });
    });
  }

  // f(first, count, keys) for each block of tokens.
  template <typename F>
  void for_each_block(const int64_t* tokens, int64_t count, const F& f) {
    const std::unique_ptr<char[]> space(new char[kRowBlock * keys_.row_bytes()]);
    const void* rows[kRowBlock];
    for (int64_t first = 0; first < count; first += kRowBlock) {
      const int64_t some = std::min(kRowBlock, count - first);
      for (int64_t i = 0; i < some; ++i)
        rows[i] = keys_.row(tokens[first + i], space.get() + i * keys_.row_bytes());
      f(first, some, rows);
    }
  }

  void block_of_cosines(const int64_t* rows, const void* const* left, int64_t height,
                        const int64_t* cols, const void* const* right, int64_t width, float* out,
                        int64_t stride) {
    float row_inv_norms[kRowBlock], col_inv_norms[kRowBlock];
    keys_.inv_norms(rows, height, row_inv_norms);
    keys_.inv_norms(cols, width, col_inv_norms);
    keys_.dots(left, height, right, width, out, stride);
    to_cosines(row_inv_norms, height, col_inv_norms, width, out, stride);
  }

  // Shares tasks of some pairs of tokens among the threads, where that is worth their time.
  template <typename F>
  void share(int64_t tasks, int64_t pairs_per_task, const F& f) {
    constexpr int64_t kSerialProducts = 1 << 18;
    if (tasks * pairs_per_task * dim_ < kSerialProducts)
      f(0, tasks);
    else
      for_each_part(parallel_for_, tasks, f);
  }

  static int64_t num_blocks(int64_t count) { return (count + kRowBlock - 1) / kRowBlock; }

  float* stored(int64_t token) const { return rows_.get() + token * image_.tokens; }

  const GreedyImage& image_;
  const int64_t dim_;
  const ParallelFor parallel_for_;
  Keys keys_;
  std::vector<float> weight_;     // [tokens], at most 1
  std::vector<float> covered_;    // [tokens], the largest cosine to a pick, at least 0
  std::vector<double> added_;     // [tokens], after `counted` picks
  std::vector<int64_t> counted_;  // [tokens]
  const Quanta quanta_;
  std::vector<int64_t> picks_;
  bool stored_ = false;             // whether rows_ has all cosines; if not, what was raised
  std::unique_ptr<float[]> rows_;   // [tokens, tokens]
  std::vector<Raised> raised_;      // pick after pick
  std::vector<size_t> raised_end_;  // [picks]
};

}  // namespace

void select_coverage(const KeyLayout& layout, const GreedyImage& image, bool sort,
                     ParallelFor parallel_for) {
  if (image.keep > 0) Coverage(layout, image, parallel_for).run(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
