#include "cpu/merge.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/keys.h"
#include "cpu/lanes.h"
#include "cpu/product.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// The most similar of `candidates` for some tokens: its index among them, and the cosine where it
// is wanted.
struct Nearest {
  std::vector<int64_t> index;
  std::vector<float> cosine;
};

// Finds the nearest candidate of each token. Where the processor multiplies bf16 fast, one product
// of keys rounded to it tells which candidates can be the nearest: those alone are compared
// exactly, and the result is the one of comparing all. docs/tokens.md has the bound.
class NearestSearch {
 public:
  NearestSearch(const MergeImage& image, const std::vector<int64_t>& candidates, bool wants_cosines)
      : wants_cosines_(wants_cosines),
        keys_(image.key_layout, image.keys, image.num_tokens),
        dim_(image.key_layout.dim),
        stride_((dim_ + kLine - 1) / kLine * kLine),
        type_(image.key_layout.type),
        candidates_(candidates),
        count_(static_cast<int64_t>(candidates.size())),
        exact_(count_),
        inv_norm_(count_) {
    if (kFastBFloat16) {
      const float rounding = type_ == KeyType::bfloat16 ? 0 : kRounding;
      margin_ = 2 * (rounding + static_cast<float>(dim_ + 32) * 0x1p-24f);
      rounded_.reset(new BFloat16[count_ * stride_]());
    }
  }

  Nearest run(const std::vector<int64_t>& tokens, ParallelFor parallel_for) {
    prepare(parallel_for);
    const int64_t count = static_cast<int64_t>(tokens.size());
    Nearest nearest{std::vector<int64_t>(count), std::vector<float>(count)};
    const int64_t blocks = (count + kBlock - 1) / kBlock;
    for_each_part(parallel_for, blocks, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[kBlock * keys_.row_bytes()]);
      const std::unique_ptr<BFloat16[]> rounded(
          new BFloat16[kFastBFloat16 ? kBlock * stride_ : 0]());
      const std::unique_ptr<float[]> similar(new float[kBlock * count_]);
      for (int64_t first = begin * kBlock; first < std::min(end * kBlock, count); first += kBlock) {
        const int64_t rows = std::min(kBlock, count - first);
        find(&tokens[first], rows, space.get(), rounded.get(), similar.get(), first, nearest);
      }
    });
    return nearest;
  }

 private:
  static constexpr int64_t kBlock = kFastBFloat16 ? 192 : 2 * kRowBlock;  // tokens
  static constexpr int64_t kLine = 64 / sizeof(BFloat16);                 // a product's rows
  // Of two bf16 factors, relative to the product of the keys' lengths.
  static constexpr float kRounding = 0x1p-7f + 0x1p-16f;

  void prepare(ParallelFor parallel_for) {
    for_each_part(parallel_for, count_, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) keys_.measure(candidates_[c]);
    });
    // Few keys need a scaled copy: its space is allocated where the first one shows up.
    std::unique_ptr<char[]> space(new char[keys_.row_bytes()]);
    for (int64_t c = 0; c < count_; ++c) {
      exact_[c] = keys_.row(candidates_[c], space.get());
      inv_norm_[c] = keys_.inv_norm(candidates_[c]);
      if (exact_[c] != space.get()) continue;
      copies_.push_back(std::move(space));
      space.reset(new char[keys_.row_bytes()]);
    }
    if (!kFastBFloat16) return;
    for_each_part(parallel_for, count_, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        round_row(type_, exact_[c], dim_, &rounded_[c * stride_]);
    });
  }

  // The nearest candidates of some tokens are nearest[first], ...
  void find(const int64_t* tokens, int64_t num_tokens, char* space, BFloat16* rounded,
            float* similar, int64_t first, Nearest& nearest) {
    const void* exact[kBlock];
    for (int64_t r = 0; r < num_tokens; ++r) {
      exact[r] = keys_.row(tokens[r], space + r * keys_.row_bytes());
      if (kFastBFloat16) round_row(type_, exact[r], dim_, rounded + r * stride_);
    }
    multiply(exact, rounded, num_tokens, similar);
    for (int64_t r = 0; r < num_tokens; ++r) {
      const float inv_norm = keys_.inv_norm(tokens[r]);
      float* const row = similar + r * count_;
      float highest[kLanes];
      std::fill_n(highest, kLanes, -2.0f);
      for (int64_t c = 0; c < count_; ++c) row[c] = cosine(row[c], inv_norm * inv_norm_[c]);
      for (int64_t c = 0; c < count_; c += kLanes)
        for (int64_t i = 0; i < std::min<int64_t>(kLanes, count_ - c); ++i)
          highest[i] = std::max(highest[i], row[c + i]);
      choose(exact[r], inv_norm, row, *std::max_element(highest, highest + kLanes) - margin_,
             nearest.index[first + r], nearest.cosine[first + r]);
    }
  }

  // similar [num_tokens, count]: dot products with the candidates, of rounded keys if there are
  // any.
  void multiply(const void* const* exact, const BFloat16* rounded, int64_t num_tokens,
                float* similar) const {
    if constexpr (kFastBFloat16) {
      const Weight candidates{KeyType::bfloat16, rounded_.get(), count_, dim_, stride_};
      store_product(Rows<BFloat16>{rounded, num_tokens, stride_}, candidates, nullptr,
                    {KeyType::float32, similar, count_, count_}, Sharing{}, 0, candidates.panels());
    } else {
      for (int64_t c = 0; c < count_; c += kRowBlock)
        dot_products(type_, exact, num_tokens, &exact_[c], std::min(kRowBlock, count_ - c), dim_,
                     similar + c, count_);
    }
  }

  // The first of the highest cosine among the candidates that are similar enough.
  void choose(const void* key, float inv_norm, const float* similar, float enough, int64_t& index,
              float& highest) {
    int32_t similar_enough = 0;
    for (int64_t c = 0; c < count_; ++c) similar_enough += similar[c] >= enough;
    if (similar_enough == 1 && !wants_cosines_) {
      index = std::max_element(similar, similar + count_) - similar;
      return;
    }
    highest = -2;
    const auto consider = [&](int64_t c, float value) {
      if (!(value > highest)) return;
      highest = value;
      index = c;
    };
    if (!kFastBFloat16) {
      for (int64_t c = 0; c < count_; ++c) consider(c, similar[c]);
      return;
    }
    int64_t some[kRowBlock], num_some = 0;
    const auto compare = [&] {
      const void* rows[kRowBlock];
      float dots[kRowBlock];
      for (int64_t i = 0; i < num_some; ++i) rows[i] = exact_[some[i]];
      keys_.dots(rows, num_some, &key, 1, dots, 1);
      for (int64_t i = 0; i < num_some; ++i)
        consider(some[i], cosine(dots[i], inv_norm * inv_norm_[some[i]]));
      num_some = 0;
    };
    for (int64_t c = 0; c < count_; ++c) {
      if (similar[c] < enough) continue;
      some[num_some++] = c;
      if (num_some == kRowBlock) compare();
    }
    if (num_some > 0) compare();
  }

  const bool wants_cosines_;
  Keys keys_;
  const int64_t dim_, stride_;  // of a key, of a rounded one
  const KeyType type_;
  const std::vector<int64_t>& candidates_;
  const int64_t count_;
  std::vector<const void*> exact_;               // [count], what dot products read
  std::vector<std::unique_ptr<char[]>> copies_;  // those of exact_ that are not in place
  std::vector<float> inv_norm_;                  // [count]
  float margin_ = 0;  // by which a screened cosine may be below the highest one's
  std::unique_ptr<BFloat16[]> rounded_;  // [count, stride]
};

Nearest nearest_of(const MergeImage& image, const std::vector<int64_t>& tokens,
                   const std::vector<int64_t>& candidates, bool wants_cosines,
                   ParallelFor parallel_for) {
  return NearestSearch(image, candidates, wants_cosines).run(tokens, parallel_for);
}

// sum += weight * token.
template <typename T>
void add_row(const T* token, float weight, int64_t dim, float* sum) {
  const auto add = [&](Lanes value, int64_t i, int64_t n) {
    Lanes total{};
    std::memcpy(&total, sum + i, n * sizeof(float));
    total += weight * value;
    std::memcpy(sum + i, &total, n * sizeof(float));
  };
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) add(load_lanes(token + i), i, kLanes);
  if (i < dim) add(load_lanes(Tail<T, kLanes>(token + i, dim - i).values), i, dim - i);
}

void add_token(const MergeImage& image, int64_t token, float weight, float* sum) {
  const KeyLayout& layout = image.token_layout;
  const char* row =
      static_cast<const char*>(image.tokens) + token * layout.stride * key_bytes(layout.type);
  if (layout.type == KeyType::float32)
    add_row(reinterpret_cast<const float*>(row), weight, layout.dim, sum);
  else if (layout.type == KeyType::float16)
    add_row(reinterpret_cast<const Half*>(row), weight, layout.dim, sum);
  else
    add_row(reinterpret_cast<const BFloat16*>(row), weight, layout.dim, sum);
}

float weight_of(const MergeImage& image, int64_t token) {
  return image.weight ? image.weight[token] : 1.0f;
}

// Token `own` and the `given` ones, in ascending order, become row `out` of the result.
void gather(MergeRule rule, const MergeImage& image, int64_t own, const int64_t* given,
            int64_t num_given, int64_t out) {
  const int64_t dim = image.token_layout.dim;
  float* const sum = image.merged + out * dim;
  std::fill(sum, sum + dim, 0.0f);
  float weight = 0;
  for (int64_t i = 0; i < num_given; ++i) {
    weight += weight_of(image, given[i]);
    add_token(image, given[i], weight_of(image, given[i]), sum);
  }
  const float total = weight + weight_of(image, own);
  image.sizes[out] = total;
  if (rule == MergeRule::residual) {
    if (weight > 0)
      for (int64_t i = 0; i < dim; ++i) sum[i] /= weight;
    add_token(image, own, 1, sum);
    return;
  }
  if (rule == MergeRule::mean && (num_given == 0 || !(total > 0))) {  // stays to the last bit
    std::fill(sum, sum + dim, 0.0f);
    add_token(image, own, 1, sum);
    return;
  }
  add_token(image, own, weight_of(image, own), sum);
  if (rule == MergeRule::mean)
    for (int64_t i = 0; i < dim; ++i) sum[i] /= total;
}

// Writes result row r from token own[r] and those of `tokens` whose owner is r.
void gather_all(MergeRule rule, const MergeImage& image, const std::vector<int64_t>& own,
                const std::vector<int64_t>& tokens, const std::vector<int64_t>& owner,
                ParallelFor parallel_for) {
  std::vector<int64_t> begin(own.size() + 1), given(tokens.size());
  for (int64_t o : owner) ++begin[o + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (size_t i = 0; i < tokens.size(); ++i) given[next[owner[i]]++] = tokens[i];
  for_each_part(parallel_for, own.size(), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      gather(rule, image, own[r], given.data() + begin[r], begin[r + 1] - begin[r], r);
  });
}

}  // namespace

void merge(MergeRule rule, const MergeImage& image, const int64_t* kept, int64_t num_kept,
           ParallelFor parallel_for) {
  const std::vector<int64_t> own(kept, kept + num_kept);
  std::vector<bool> stays(image.num_tokens);
  for (int64_t token : own) stays[token] = true;
  std::vector<int64_t> dropped;
  for (int64_t i = 0; i < image.num_tokens; ++i)
    if (!stays[i] && (!image.valid || image.valid[i])) dropped.push_back(i);
  const Nearest nearest = nearest_of(image, dropped, own, false, parallel_for);
  gather_all(rule, image, own, dropped, nearest.index, parallel_for);
}

void merge_bipartite(const MergeImage& image, int64_t count, int64_t* stays,
                     ParallelFor parallel_for) {
  std::vector<int64_t> even, odd;
  for (int64_t i = 0; i < image.num_tokens; ++i) (i % 2 ? odd : even).push_back(i);
  std::vector<int64_t> order(count > 0 ? even.size() : 0);
  Nearest nearest;
  if (count > 0) nearest = nearest_of(image, even, odd, true, parallel_for);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return nearest.cosine[a] > nearest.cosine[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());

  std::vector<bool> given(image.num_tokens);
  for (int64_t e : order) given[2 * e] = true;
  std::vector<int64_t> own, row(image.num_tokens), source, owner;
  for (int64_t i = 0; i < image.num_tokens; ++i) {
    if (given[i]) continue;
    row[i] = static_cast<int64_t>(own.size());
    own.push_back(i);
  }
  for (int64_t e : order) {
    source.push_back(2 * e);
    owner.push_back(row[2 * nearest.index[e] + 1]);
  }
  std::copy(own.begin(), own.end(), stays);
  gather_all(MergeRule::mean, image, own, source, owner, parallel_for);
}

}  // namespace zoprune::ZOPRUNE_ISA
