// An image's beginning: norms, first ranks and, where gains rise once something is selected, the
// first pick.
#pragma once

#include "cuda/greedy/candidates.cuh"
#include "cuda/greedy/keys.cuh"
#include "cuda/greedy/state.cuh"

namespace zoprune::cuda {

// Without a branch, so that several loads can be on their way.
__device__ inline float load_score(const SelectArguments& arguments, int64_t token) {
  const bool wide = arguments.score_dtype == DType::float32;
  const uint32_t bits = wide ? static_cast<const uint32_t*>(arguments.scores)[token]
                             : static_cast<const uint16_t*>(arguments.scores)[token];
  const float half = Element<DType::float16>::to_float(bits & 0xffffu);
  const float other = Element<DType::float32>::to_float(wide ? bits : bits << 16);
  return arguments.score_dtype == DType::float16 ? half : other;
}

__device__ inline bool usable(const SelectArguments& arguments, int64_t token) {
  return arguments.valid == nullptr || arguments.valid[token];
}

__device__ inline bool must_keep(const SelectArguments& arguments, int64_t token) {
  return arguments.must_keep != nullptr && arguments.must_keep[token];
}

__device__ inline Candidate class_of(float score, bool usable, bool kept) {
  if (!usable) return Candidate::invalid;
  if (kept) return Candidate::must_keep;
  return is_nan(score) ? Candidate::nan : Candidate::free;
}

__device__ inline Candidate first_class(const SelectArguments& arguments, int64_t token) {
  return class_of(load_score(arguments, token), usable(arguments, token),
                  must_keep(arguments, token));
}

// Calls use(i, score, class) for all tokens of an image, a thread for each in turn.
template <typename Use>
__device__ void for_each_score(const SelectArguments& arguments, const Image& image,
                               const Use& use) {
  constexpr int kTogether = 4;  // loads that are on their way at once
  for (int begin = static_cast<int>(threadIdx.x); begin < image.tokens;
       begin += kTogether * kThreads) {
    float score[kTogether];
    Candidate first[kTogether];
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      const int64_t token = image.start + min(begin + t * kThreads, image.tokens - 1);
      score[t] = load_score(arguments, token);
      first[t] = first_class(arguments, token);
    }
#pragma unroll
    for (int t = 0; t < kTogether; ++t)
      if (begin + t * kThreads < image.tokens) use(begin + t * kThreads, score[t], first[t]);
  }
}

// The largest of all threads' ranks.
__device__ inline uint64_t block_max(uint64_t rank) {
  Shared& s = shared();
  rank = warp_max(rank);
  if (lane() == 0) s.warp_bound[warp()] = rank;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) rank = max(rank, s.warp_bound[w]);
  return rank;
}

// The rank of the best token, by every thread block for itself.
template <typename Objective>
__device__ uint64_t best_rank(const SelectArguments& arguments, const Objective& objective,
                              const Image& image) {
  uint64_t best = 0;
  for_each_score(arguments, image, [&](int i, float score, Candidate first) {
    best = max(best, objective.rank(pack_rank(first, 0, i), objective.start(score, i, true)));
  });
  return block_max(best);
}

// The first pick may be the candidate whose nearest neighbour among the candidates is farthest.
// That takes all of an image's dot products, a block of columns at a time, before the first round:
// prepare_isolation, then for each block take_columns and, with its products, raise_nearest.

__device__ inline bool is_candidate(const SelectArguments& arguments, const Image& image, int i) {
  return first_class(arguments, image.start + i) == Candidate::free;
}

// Norms, and `nearest` [total_tokens] below all cosines. Whether there is a search to be made.
template <DType type, typename Objective>
__device__ bool prepare_isolation(const Objective& objective, const Keys<type>& keys,
                                  const Image& image, const Workspace& work) {
  if constexpr (Objective::kGainsRiseOnce) {
    if (!objective.isolated_first) return false;
    for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
      const int64_t token = image.start + i;
      const float inverse = inverse_norm(moments(keys, token, token).aa);
      if (lane() != 0) continue;
      work.inverse_norm[token] = inverse;
      objective.nearest[token] = -1;
    }
    group_barrier(image.arrivals, image.members);
    return true;
  }
  return false;
}

// The tokens from `begin` on as columns, whatever their rank.
__device__ inline Candidates take_columns(const Image& image, const Workspace& work, int begin) {
  Shared& s = shared();
  const int columns = min(image.block, image.tokens - begin);
  for (int b = static_cast<int>(threadIdx.x); b < columns; b += kThreads) {
    s.candidate[b] = pack_rank(Candidate::free, 0, begin + b);
    s.inverse_norm[b] = load_fresh(work.inverse_norm + image.start + begin + b);
  }
  __syncthreads();
  return {columns, 0};
}

// Raises `nearest` by the cosines to the columns from `begin` on.
template <DType type>
__device__ void raise_nearest(const SelectArguments& arguments, const Keys<type>& keys,
                              const Image& image, const Workspace& work, int begin, int columns,
                              float* nearest) {
  const Shared& s = shared();
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    if (!is_candidate(arguments, image, i)) continue;
    const int64_t token = image.start + i;
    const float inverse = load_fresh(work.inverse_norm + token);
    float largest = load_fresh(nearest + token);
#pragma unroll 1
    for (int b = lane(); b < columns; b += 32) {
      if (begin + b == i || !is_candidate(arguments, image, begin + b)) continue;
      const float dot = load_fresh(work.products + (image.rows + i) * kBlock + b);
      largest = fmaxf(
          largest, cosine(keys, token, image.start + begin + b, dot, inverse, s.inverse_norm[b]));
    }
    largest = warp_max(largest);
    __syncwarp();  // all lanes have read what the first one now writes
    if (lane() == 0) nearest[token] = largest;
  }
  group_barrier(image.arrivals, image.members);  // before the products are overwritten
}

// The rank of the most isolated candidate, 0 where there is none.
__device__ inline uint64_t most_isolated(const SelectArguments& arguments, const Image& image,
                                         const float* nearest) {
  uint64_t best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads)
    if (is_candidate(arguments, image, i))
      best = max(best, pack_rank(Candidate::free, -load_fresh(nearest + image.start + i), i));
  best = block_max(best);
  group_barrier(image.arrivals, image.members);  // `nearest` has been read by all
  return best;
}

// Fills the workspace for the image's tokens. Where an objective's gains may rise after the first
// pick and none must be kept, the best token is picked at once: the similarities to it come with
// the norms, of one pass over the keys. Returns how many tokens are selected, 0 or 1, and their
// index in `first`. The group must be past a barrier before it reads any of it.
template <DType type, typename Objective>
__device__ int start_image(const SelectArguments& arguments, Objective& objective,
                           const Keys<type>& keys, const Image& image, const Workspace& work,
                           int& first) {
  const bool compare = arguments.keys != nullptr;
  bool pick = false;
  if constexpr (Objective::kGainsRiseOnce) {
    if (compare) {
      uint64_t best = 0;
      if (objective.isolated_first) best = most_isolated(arguments, image, objective.nearest);
      if (best == 0) best = best_rank(arguments, objective, image);
      pick = rank_class(best) != Candidate::must_keep;
      first = static_cast<int>(rank_index(best));
      objective.rank_for(pick);
    }
  }
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const int64_t token = image.start + i, other = pick ? image.start + first : token;
    const Moments sums = compare ? moments(keys, token, other) : Moments{};
    if (lane() != 0) continue;
    const float inverse = inverse_norm(sums.aa);
    if (compare) work.inverse_norm[token] = inverse;
    auto state = objective.start(load_score(arguments, token), i, inverse != 0);
    if constexpr (Objective::kGainsRiseOnce) {
      if (pick)
        state.nearest =
            cosine(keys, token, other, static_cast<float>(sums.ab), inverse, inverse_norm(sums.bb));
    }
    objective.store(token, state);
    const uint64_t rank = pack_rank(first_class(arguments, token), 0, i);
    work.rank[token] = pick && i == first ? 0 : objective.rank(rank, state);
  }
  return pick;
}

}  // namespace zoprune::cuda
