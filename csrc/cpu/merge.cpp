#include "cpu/merge.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/keys.h"
#include "cpu/lanes.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// The most similar of `candidates` for some tokens: its position among them, and the cosine.
struct Nearest {
  std::vector<int64_t> position;
  std::vector<float> cosine;
};

Nearest nearest_of(const MergeImage& image, const std::vector<int64_t>& tokens,
                   const std::vector<int64_t>& candidates, ParallelFor parallel_for) {
  Keys keys(image.key_layout, image.keys, image.num_tokens);
  const int64_t num_candidates = static_cast<int64_t>(candidates.size());
  // Few keys need a scaled copy: its space is allocated where the first one shows up.
  std::vector<const void*> cols(num_candidates);
  std::vector<std::unique_ptr<char[]>> copies;
  std::unique_ptr<char[]> space(new char[keys.row_bytes()]);
  for (int64_t c = 0; c < num_candidates; ++c) {
    cols[c] = keys.row(candidates[c], space.get());
    if (cols[c] != space.get()) continue;
    copies.push_back(std::move(space));
    space.reset(new char[keys.row_bytes()]);
  }
  const int64_t count = static_cast<int64_t>(tokens.size());
  Nearest nearest{std::vector<int64_t>(count, 0), std::vector<float>(count, -2.0f)};
  for_each_part(parallel_for, (count + kRowBlock - 1) / kRowBlock, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scaled(new char[kRowBlock * keys.row_bytes()]);
    const void* rows[kRowBlock];
    float dots[kRowBlock * kRowBlock];
    for (int64_t first = begin * kRowBlock; first < std::min(end * kRowBlock, count);
         first += kRowBlock) {
      const int64_t num_rows = std::min(kRowBlock, count - first);
      for (int64_t r = 0; r < num_rows; ++r)
        rows[r] = keys.row(tokens[first + r], scaled.get() + r * keys.row_bytes());
      for (int64_t c = 0; c < num_candidates; c += kRowBlock) {
        const int64_t num_cols = std::min(kRowBlock, num_candidates - c);
        keys.dots(rows, num_rows, &cols[c], num_cols, dots, kRowBlock);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t i = 0; i < num_cols; ++i) {
            const float inv = keys.inv_norm(tokens[first + r]) * keys.inv_norm(candidates[c + i]);
            const float similar = cosine(dots[r * kRowBlock + i], inv);
            if (similar > nearest.cosine[first + r]) {
              nearest.cosine[first + r] = similar;
              nearest.position[first + r] = c + i;
            }
          }
      }
    }
  });
  return nearest;
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
  const Nearest nearest = nearest_of(image, dropped, own, parallel_for);
  gather_all(rule, image, own, dropped, nearest.position, parallel_for);
}

void merge_bipartite(const MergeImage& image, int64_t count, int64_t* positions,
                     ParallelFor parallel_for) {
  std::vector<int64_t> even, odd;
  for (int64_t i = 0; i < image.num_tokens; ++i) (i % 2 ? odd : even).push_back(i);
  std::vector<int64_t> order(count > 0 ? even.size() : 0);
  Nearest nearest;
  if (count > 0) nearest = nearest_of(image, even, odd, parallel_for);
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
    owner.push_back(row[2 * nearest.position[e] + 1]);
  }
  std::copy(own.begin(), own.end(), positions);
  gather_all(MergeRule::mean, image, own, source, owner, parallel_for);
}

}  // namespace zoprune::ZOPRUNE_ISA
