// What a token adds to the coverage, as an integer: the sum over all tokens of fp32 terms, each
// rounded to a multiple of one quantum. Sums of integers do not depend on their order, and a term
// can be replaced exactly.
#pragma once

#include "cuda/greedy/image.cuh"
#include "cuda/greedy/keys.cuh"
#include "cuda/greedy/start.cuh"

namespace zoprune::cuda {

// A token whose coverage a pick has raised, and what it was before.
struct Raised {
  int token;
  float before;
};

// In the workspace, beside Workspace. What a token adds is read and written by the warp that owns
// it alone, hence need not be read past the L1 cache; the same holds for its rank until the end.
struct CoverageState {
  const float* given;    // [total_tokens] weights, or null: all alike
  float* weight;         // [total_tokens] at most 1
  float* covered;        // [total_tokens] largest cosine to a pick, at least 0
  int64_t* added;        // [total_tokens] quanta
  Raised* raised;        // [total_tokens] by the last pick
  uint32_t* num_raised;  // [groups] by all picks for the image so far
  uint64_t* best;        // [2, groups, ctas] ranks, for odd and even picks
  float* cosines;        // [groups, plan.cosines]
};

constexpr float kUncounted = 2;          // a coverage that no cosine exceeds
constexpr double kNegligible = 0x1p-30;  // of the largest weight

// As on the CPU, so that sums of `tokens` terms of at most 1 stay below 2^52 quanta.
__device__ inline float quanta_in_one(int tokens) {
  return ldexpf(1, 51 - ilogb(static_cast<double>(tokens)));
}

// What a token of this cosine adds to one of this weight.
__device__ inline int64_t term(float weight, float cosine, float covered, float quanta) {
  return llrintf(weight * fmaxf(cosine - covered, 0.0f) * quanta);
}

__device__ inline int64_t warp_sum(int64_t value) {
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(kAllLanes, value, other);
  return value;
}

__device__ inline float given_weight(const SelectArguments& arguments, const float* weights,
                                     int64_t token) {
  if (!usable(arguments, token)) return 0;
  const float weight = weights == nullptr ? 1.0f : finite_score(weights[token]);
  return weight > 0 ? weight : 0.0f;  // also where it is NaN
}

// Nothing is covered, and nothing is counted yet. Past its barrier, all is there for the group.
template <DType type>
__device__ void start_coverage(const SelectArguments& arguments, const Keys<type>& keys,
                               const Image& image, const Workspace& work,
                               const CoverageState& state) {
  uint64_t largest = 0;  // every thread block reads all weights: quicker than a barrier
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads)
    largest = max(
        largest,
        static_cast<uint64_t>(ordered_bits(given_weight(arguments, state.given, image.start + i))));
  __syncthreads();  // the last image's maximum has been read
  const float scale = ordered_float(static_cast<uint32_t>(block_max(largest)));
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const int64_t token = image.start + i;
    const float inverse = inverse_norm(moments(keys, token, token).aa);
    if (lane() != 0) continue;
    const float weight = given_weight(arguments, state.given, token);
    work.inverse_norm[token] = inverse;
    work.rank[token] = pack_rank(first_class(arguments, token), 0, i);
    state.weight[token] = scale > 0 ? static_cast<float>(static_cast<double>(weight) / scale) : 0;
    state.covered[token] = 0;
    state.added[token] = 0;
  }
  if (image.member == 0 && threadIdx.x == 0) state.num_raised[image.group] = 0;
  group_barrier(image.arrivals, image.members);
}

// Consecutive tokens to compare with all: of all tokens, which nothing has counted yet, or of the
// list of those that the last pick raised.
struct Columns {
  bool all;
  int begin, count;  // in that order or list

  __device__ int token(const Image& image, const CoverageState& state, int b) const {
    return all ? begin + b : load_fresh(&state.raised[image.start + begin + b].token);
  }
};

// Columns from number `begin` of `count` on.
__device__ inline Columns take_columns(const Image& image, const Workspace& work,
                                       const CoverageState& state, bool all, int begin, int count) {
  Shared& s = shared();
  const Columns columns = {all, begin, min(image.block, count - begin)};
  for (int b = static_cast<int>(threadIdx.x); b < columns.count; b += kThreads) {
    const int token = columns.token(image, state, b);
    s.candidate[b] = pack_rank(Candidate::free, 0, token);
    s.inverse_norm[b] = load_fresh(work.inverse_norm + image.start + token);
  }
  __syncthreads();
  return columns;
}

// The cosine of token i to column b.
template <DType type>
__device__ float cosine_to(const Keys<type>& keys, const Image& image, const Workspace& work, int i,
                           float inverse, int b) {
  const Shared& s = shared();
  return cosine(keys, image.start + i, image.start + rank_index(s.candidate[b]),
                load_fresh(work.products + (image.rows + i) * kBlock + b), inverse,
                s.inverse_norm[b]);
}

// Brings what each token adds up to date with the columns. Keeps their cosines where `cosines`
// [tokens, tokens] is not null; columns are consecutive tokens then.
template <DType type>
__device__ void replace_terms(const Keys<type>& keys, const Image& image, const Workspace& work,
                              const CoverageState& state, const Columns& columns, float* cosines) {
  const float quanta = quanta_in_one(image.tokens);
  // Of a lane's columns slot * 32 + lane. Not kept during the dot products: they need the
  // registers.
  float weight[kSlots], before[kSlots], after[kSlots];
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int b = slot * 32 + lane();
    if (b >= columns.count) continue;
    const int64_t token = image.start + rank_index(shared().candidate[b]);
    weight[slot] = load_fresh(state.weight + token);
    before[slot] = columns.all ? kUncounted
                               : load_fresh(&state.raised[image.start + columns.begin + b].before);
    after[slot] = load_fresh(state.covered + token);
  }
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const float inverse = load_fresh(work.inverse_norm + image.start + i);
    int64_t change = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int b = slot * 32 + lane();
      if (b >= columns.count) continue;
      const float value = cosine_to(keys, image, work, i, inverse, b);
      change += term(weight[slot], value, after[slot], quanta) -
                term(weight[slot], value, before[slot], quanta);
      if (cosines != nullptr)
        cosines[static_cast<int64_t>(i) * image.tokens + rank_index(shared().candidate[b])] = value;
    }
    change = warp_sum(change);
    if (lane() == 0) state.added[image.start + i] += change;
  }
  __syncwarp();
}

}  // namespace zoprune::cuda
