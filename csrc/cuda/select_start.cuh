// An image's beginning: norms, first ranks and, where gains rise once something is selected, the
// first pick.
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

__device__ inline bool usable(const SelectArguments& arguments, int64_t token) {
  return arguments.valid == nullptr || arguments.valid[token];
}

__device__ inline Candidate first_class(const SelectArguments& arguments, int64_t token) {
  if (!usable(arguments, token)) return Candidate::invalid;
  if (arguments.must_keep != nullptr && arguments.must_keep[token]) return Candidate::must_keep;
  return is_nan(load_score(arguments, token)) ? Candidate::nan : Candidate::free;
}

// The rank of the best token, by every thread block for itself.
template <typename Objective>
__device__ uint64_t best_rank(const SelectArguments& arguments, const Objective& objective,
                              const Image& image) {
  Shared& s = shared();
  uint64_t best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads) {
    const uint64_t rank = pack_rank(first_class(arguments, image.start + i), 0, i);
    best = max(best, objective.rank(rank, objective.start(arguments, image, i, true)));
  }
  best = warp_max(best);
  if (lane() == 0) s.warp_bound[warp()] = best;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) best = max(best, s.warp_bound[w]);
  return best;
}

// Fills the workspace for the image's tokens. Where an objective's gains may rise after the first
// pick and none must be kept, the best token is picked at once: the similarities to it come with
// the norms, of one pass over the keys. Returns how many tokens are selected, 0 or 1, and their
// position in `first`.
template <DType type, typename Objective>
__device__ int start_image(const SelectArguments& arguments, const Objective& objective,
                           const Keys<type>& keys, const Image& image, const Workspace& work,
                           int& first) {
  const bool compare = arguments.keys != nullptr;
  bool pick = false;
  if constexpr (Objective::kGainsRiseOnce) {
    if (compare) {
      const uint64_t best = best_rank(arguments, objective, image);
      pick = rank_class(best) != Candidate::must_keep;
      first = static_cast<int>(rank_index(best));
    }
  }
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const int64_t token = image.start + i, other = pick ? image.start + first : token;
    const Moments sums = compare ? moments(keys, token, other) : Moments{};
    if (lane() != 0) continue;
    const float inverse = inverse_norm(sums.aa);
    if (compare) work.inverse_norm[token] = inverse;
    auto state = objective.start(arguments, image, i, inverse != 0);
    if constexpr (Objective::kGainsRiseOnce) {
      if (pick)
        state.nearest =
            cosine(keys, token, other, static_cast<float>(sums.ab), inverse, inverse_norm(sums.bb));
    }
    objective.store(token, state);
    const uint64_t rank = pack_rank(first_class(arguments, token), 0, i);
    work.rank[token] = pick && i == first ? 0 : objective.rank(rank, state);
  }
  group_barrier(image.arrivals, image.members);
  return pick;
}

}  // namespace zoprune::cuda
