// An image's beginning: weights, norms and, where nothing must be kept, the first pick.
#pragma once

#include "cuda/select_keys.cuh"
#include "cuda/select_state.cuh"

namespace zoprune::cuda {

__device__ inline float load_score(const SelectArguments& arguments, int64_t token) {
  switch (arguments.score_dtype) {
    case DType::float16:
      return Element<DType::float16>::load(arguments.scores, token);
    case DType::bfloat16:
      return Element<DType::bfloat16>::load(arguments.scores, token);
    default:
      return Element<DType::float32>::load(arguments.scores, token);
  }
}

// What a token starts with.
struct Start {
  Candidate candidate;
  float weight;
};

struct ScoreRange {
  bool normalize;  // else the weights are the scores, or random
  float low, high;
};

__device__ inline bool usable(const SelectArguments& arguments, int64_t token) {
  return arguments.valid == nullptr || arguments.valid[token];
}

__device__ inline Start start_of(const SelectArguments& arguments, const Image& image,
                                 const ScoreRange& range, int i) {
  const int64_t token = image.start + i;
  const float score = load_score(arguments, token);
  Start start = {is_nan(score) ? Candidate::nan : Candidate::free, finite_score(score)};
  if (range.normalize) start.weight = normalized_score(start.weight, range.low, range.high);
  if (arguments.method == Method::random) start.weight = random_weight(arguments.seed, i);
  if (arguments.must_keep != nullptr && arguments.must_keep[token])
    start.candidate = Candidate::must_keep;
  if (!usable(arguments, token)) start.candidate = Candidate::invalid;
  return start;
}

// The lowest and the highest score that count, found by every thread block for itself: reading all
// scores costs less than a barrier.
__device__ inline ScoreRange score_range(const SelectArguments& arguments, const Image& image) {
  if (!compares_tokens(arguments.method)) return {false, 0, 0};
  Shared& s = shared();
  uint32_t lowest = 0xffffffffu, highest = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads) {
    const float score = load_score(arguments, image.start + i);
    if (is_nan(score) || !usable(arguments, image.start + i)) continue;
    const uint32_t order = ordered_bits(finite_score(score));
    lowest = min(lowest, order);
    highest = max(highest, order);
  }
  lowest = __reduce_min_sync(kAllLanes, lowest);
  highest = __reduce_max_sync(kAllLanes, highest);
  if (lane() == 0) {
    s.warp_low[warp()] = lowest;
    s.warp_high[warp()] = highest;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    lowest = min(lowest, s.warp_low[w]);
    highest = max(highest, s.warp_high[w]);
  }
  return {true, ordered_float(lowest), ordered_float(highest)};
}

// The rank of the best token, by every thread block for itself.
__device__ inline uint64_t best_rank(const SelectArguments& arguments, const Image& image,
                                     const ScoreRange& range) {
  Shared& s = shared();
  uint64_t best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads) {
    const Start start = start_of(arguments, image, range, i);
    best = max(best, pack_rank(start.candidate, start.weight, i));
  }
  best = warp_max(best);
  if (lane() == 0) s.warp_bound[warp()] = best;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) best = max(best, s.warp_bound[w]);
  return best;
}

// Fills the workspace for the image's tokens. Where tokens are compared and none must be kept, the
// best one is picked at once: gains fall only after the first pick, and the similarities to it come
// with the norms, of one pass over the keys. Returns how many tokens are selected, 0 or 1, and
// their position in `first`.
template <DType type>
__device__ int start_image(const SelectArguments& arguments, const Keys<type>& keys,
                           const Image& image, const Workspace& work, int& first) {
  const bool compare = arguments.keys != nullptr;
  const ScoreRange range = score_range(arguments, image);
  bool pick = false;
  if (compare) {
    const uint64_t best = best_rank(arguments, image, range);
    pick = rank_class(best) != Candidate::must_keep;
    first = static_cast<int>(rank_index(best));
  }
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const int64_t token = image.start + i, other = pick ? image.start + first : token;
    const Moments sums = compare ? moments(keys, token, other) : Moments{};
    if (lane() != 0) continue;
    Start start = start_of(arguments, image, range, i);
    float nearest = kNothingSelected;
    if (compare) {
      const float inverse = inverse_norm(sums.aa);
      work.inverse_norm[token] = inverse;
      if (pick)
        nearest =
            cosine(keys, token, other, static_cast<float>(sums.ab), inverse, inverse_norm(sums.bb));
      start.candidate = constrain(start.candidate, nearest, arguments.max_similarity);
    }
    const float gain = selection_gain(arguments.method, arguments.tradeoff, start.weight, nearest);
    work.weight[token] = start.weight;
    work.nearest[token] = nearest;
    work.rank[token] = pick && i == first ? 0 : pack_rank(start.candidate, gain, i);
  }
  group_barrier(image.arrivals, image.members);
  return pick;
}

}  // namespace zoprune::cuda
