// The picks of a round, and what they mean for all tokens.
#pragma once

#include "cuda/select_candidates.cuh"
#include "cuda/select_keys.cuh"
#include "cuda/select_state.cuh"

namespace zoprune::cuda {

// Greedy among the candidates, by one warp: a pick is two warp reductions and a row of
// similarities. Stops where a token that is not a candidate might be better. Every thread block of
// the group makes the same picks, which costs less than one making them and a barrier.
template <DType type>
__device__ void pick_among(const Candidates& round, int most, bool compare,
                           const SelectArguments& arguments, const Keys<type>& keys,
                           const Image& image, const Workspace& work) {
  Shared& s = shared();
  auto* const gram = reinterpret_cast<float*>(scratch());
  if (compare) {  // gram[a][b]: cosine of candidate a to candidate b
#pragma unroll 4
    for (int a = warp(); a < round.count; a += kWarps) {
      const float* const row = work.products + (image.rows + rank_index(s.candidate[a])) * kBlock;
      for (int quad = lane(); quad * 4 < round.count; quad += 32) {
        const float4 dots = load_fresh(reinterpret_cast<const float4*>(row) + quad);
        float* const to = gram + a * kGramStride + quad * 4;
        to[0] = dots.x, to[1] = dots.y, to[2] = dots.z, to[3] = dots.w;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < round.count * kBlock; i += kThreads) {
      const int a = i / kBlock, b = i % kBlock;
      if (b >= round.count) continue;
      float& entry = gram[a * kGramStride + b];
      entry = cosine(keys, image.start + rank_index(s.candidate[a]),
                     image.start + rank_index(s.candidate[b]), entry, s.inverse_norm[a],
                     s.inverse_norm[b]);
    }
    __syncthreads();
  }
  if (warp() == 0) {
    // A lane has candidates lane, lane + 32, ...
    uint64_t rank[kSlots];
    float weight[kSlots], nearest[kSlots];
    uint32_t picked = 0;  // a bit for each of the lane's
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int a = slot * 32 + lane();
      rank[slot] = a < round.count ? s.candidate[a] : 0;
      const int64_t token = image.start + (a < round.count ? rank_index(rank[slot]) : 0);
      weight[slot] = load_fresh(work.weight + token);
      nearest[slot] = load_fresh(work.nearest + token);
    }
    int picks = 0;
    for (; picks < most; ++picks) {
      uint64_t best = rank[0];
      int own = lane();
#pragma unroll
      for (int slot = 1; slot < kSlots; ++slot)
        if (rank[slot] > best) {
          best = rank[slot];
          own = slot * 32 + lane();
        }
      const uint64_t top = warp_max(best);
      if (top <= round.bound) break;
      const int owner = __ffs(__ballot_sync(kAllLanes, best == top)) - 1;
      const int pick = __shfl_sync(kAllLanes, own, owner);
      if (lane() == 0) s.pick[picks] = pick;
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const int a = slot * 32 + lane();
        if (a == pick) {
          rank[slot] = 0;
          picked |= 1u << slot;
        }
        if (!compare || rank[slot] == 0) continue;
        nearest[slot] = fmaxf(nearest[slot], gram[a * kGramStride + pick]);
        const Candidate candidate =
            constrain(rank_class(rank[slot]), nearest[slot], arguments.max_similarity);
        const float gain =
            selection_gain(arguments.method, arguments.tradeoff, weight[slot], nearest[slot]);
        rank[slot] = pack_rank(candidate, gain, rank_index(rank[slot]));
      }
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      const uint32_t all = __ballot_sync(kAllLanes, picked >> slot & 1);
      if (lane() == 0) s.picked[slot] = all;
    }
    if (lane() == 0) s.picks = picks;
  }
  __syncthreads();
}

// Takes the picked tokens out and, if ranks are still needed, ranks the others anew.
template <DType type>
__device__ void update_tokens(bool rerank, const SelectArguments& arguments, const Keys<type>& keys,
                              const Image& image, const Workspace& work) {
  const Shared& s = shared();
  for (int i = static_cast<int>(threadIdx.x); i < s.picks; i += kThreads) {
    const int token = static_cast<int>(rank_index(s.candidate[s.pick[i]]));
    if (image.owned_here(token)) work.rank[image.start + token] = 0;
  }
  __syncthreads();
  if (!rerank) return;
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const int64_t token = image.start + i;
    const uint64_t rank = load_fresh(work.rank + token);
    if (rank == 0) continue;
    const float* const row = work.products + (image.rows + i) * kBlock;
    const float inverse = load_fresh(work.inverse_norm + token);
    float nearest = load_fresh(work.nearest + token);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int b = slot * 32 + lane();
      if ((s.picked[slot] >> lane() & 1) == 0) continue;
      const float value = cosine(keys, token, image.start + rank_index(s.candidate[b]),
                                 load_fresh(row + b), inverse, s.inverse_norm[b]);
      nearest = fmaxf(nearest, value);
    }
    nearest = warp_max(nearest);
    if (lane() != 0) continue;
    const Candidate candidate = constrain(rank_class(rank), nearest, arguments.max_similarity);
    const float gain =
        selection_gain(arguments.method, arguments.tradeoff, work.weight[token], nearest);
    work.nearest[token] = nearest;
    work.rank[token] = pack_rank(candidate, gain, i);
  }
}

}  // namespace zoprune::cuda
