// The candidates of a round: the best tokens by rank, and the rank of the best token left out.
#pragma once

#include "cuda/greedy/state.cuh"

namespace zoprune::cuda {

struct Candidates {
  int count;
  uint64_t bound;  // the highest rank of a token that is not among them
};

__device__ inline uint32_t inclusive_sum(uint32_t value) {
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, value, step);
    if (lane() >= step) value += other;
  }
  return value;
}

// Each warp's 256 bins of the first digit are those of one class: warp 2 has the must_keep tokens,
// warp 7 the picked ones.
static_assert(kBins == 8 * kThreads && kWarps == 8 && kDigitBits == 3 + 8, "a warp has a class");

__device__ inline uint32_t class_total(Candidate candidate) {
  return shared().warp_total[7 - static_cast<int>(candidate)];
}

// Chooses up to `wanted` candidates of the image, in index order. Every thread block of the group
// finds the same ones. While must_keep tokens are left, there are no others; else the first pick
// comes alone, because gains fall only once there is something to compare with.
__device__ inline Candidates choose_candidates(const Image& image, const Workspace& work,
                                               int wanted) {
  constexpr int kTogether = 4;  // loads that are on their way at once
  Shared& s = shared();
  auto* const cache = reinterpret_cast<uint64_t*>(scratch());
  auto* const bins = reinterpret_cast<uint32_t*>(cache + kCachedRanks);
  const uint64_t* const ranks = work.rank + image.start;
  const int thread = static_cast<int>(threadIdx.x);
  const auto rank_of = [&](int i) { return i < kCachedRanks ? cache[i] : load_fresh(ranks + i); };

  __syncthreads();  // the scratch memory is free
  const int cached = min(image.tokens, kCachedRanks);
  for (int begin = thread; begin < cached; begin += kTogether * kThreads) {
    uint64_t some[kTogether];
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      const int i = begin + t * kThreads;
      some[t] = load_fresh(ranks + min(i, cached - 1));
    }
#pragma unroll
    for (int t = 0; t < kTogether; ++t)
      if (begin + t * kThreads < cached) cache[begin + t * kThreads] = some[t];
  }

  // Radix search of the threshold, 11 bits at a time, until a good number of ranks lie above it.
  uint64_t prefix = 0, threshold = 0;
  int chosen = 0;
  for (int width = kDigitBits, shift = 64 - width;;
       width = min(kDigitBits, shift), shift -= width) {
    for (int bin = thread; bin < kBins; bin += kThreads) bins[bin] = 0;
    __syncthreads();
    const bool first = shift == 64 - kDigitBits;
#pragma unroll 4
    for (int begin = warp() * 32; begin < image.tokens; begin += kThreads) {
      const int i = begin + lane();
      const uint64_t rank = i < image.tokens ? rank_of(i) : 0;
      const bool counts = i < image.tokens && (first || rank >> (shift + width) == prefix);
      const uint32_t bin = counts ? (rank >> shift) & ((1u << width) - 1) : kBins;
      // Most ranks share a few first digits: one lane counts for all that have its own.
      const uint32_t alike = first ? __match_any_sync(kAllLanes, bin) : 1u << lane();
      if (counts && lane() == __ffs(alike) - 1)
        atomicAdd(&bins[bin], static_cast<uint32_t>(__popc(alike)));
    }
    __syncthreads();

    const int top_bin = kBins - 1 - thread * 8;  // this thread has eight bins from here down
    uint32_t own = 0;
    for (int i = 0; i < 8; ++i) own += bins[top_bin - i];
    const uint32_t up_to_here = inclusive_sum(own);
    if (lane() == 31) s.warp_total[warp()] = up_to_here;
    __syncthreads();
    if (first) {
      const int must_keep = static_cast<int>(class_total(Candidate::must_keep));
      const int left = image.tokens - static_cast<int>(class_total(Candidate::picked));
      wanted = min(wanted, must_keep > 0 ? must_keep : left);
    }
    uint32_t above = up_to_here - own;
    for (int w = 0; w < warp(); ++w) above += s.warp_total[w];
    const auto needed = static_cast<uint32_t>(wanted - chosen);
    if (above < needed && needed <= above + own) {
      int bin = top_bin;
      while (above + bins[bin] < needed) above += bins[bin--];
      s.digit = static_cast<uint32_t>(bin);
      s.above = above;
      s.within = bins[bin];
    }
    __syncthreads();
    prefix = prefix << width | s.digit;
    chosen += static_cast<int>(s.above);
    if (chosen + static_cast<int>(s.within) == wanted) {  // the bin fits as a whole
      chosen = wanted;
      threshold = prefix << shift;
      break;
    }
    if (4 * chosen >= 3 * wanted) {  // enough: a full set is not worth another pass
      threshold = (prefix + 1) << shift;
      break;
    }
  }

  // In index order, each warp its share of consecutive tokens.
  const int share = (image.tokens + kThreads - 1) / kThreads * 32;
  const int begin = warp() * share, end = min(begin + share, image.tokens);
  uint64_t bound = 0;
  uint32_t count = 0;
  for (int i = begin + lane(); i - lane() < end; i += 32) {
    const uint64_t rank = i < end ? rank_of(i) : 0;
    const bool chosen_here = i < end && rank >= threshold;
    if (!chosen_here) bound = max(bound, rank);
    count += __popc(__ballot_sync(kAllLanes, chosen_here));
  }
  bound = warp_max(bound);
  if (lane() == 0) {
    s.warp_bound[warp()] = bound;
    s.warp_low[warp()] = count;
  }
  __syncthreads();
  int place = 0;
  for (int w = 0; w < kWarps; ++w) {
    bound = max(bound, s.warp_bound[w]);
    if (w < warp()) place += static_cast<int>(s.warp_low[w]);
  }
  for (int i = begin + lane(); count > 0 && i - lane() < end; i += 32) {
    const uint64_t rank = i < end ? rank_of(i) : 0;
    const bool chosen_here = i < end && rank >= threshold;
    const uint32_t all = __ballot_sync(kAllLanes, chosen_here);
    const int own = place + __popc(all & ((1u << lane()) - 1));
    if (chosen_here) s.candidate[own] = rank;
    place += __popc(all);
  }
  __syncthreads();
  if (thread < chosen && work.inverse_norm != nullptr)
    s.inverse_norm[thread] =
        load_fresh(work.inverse_norm + image.start + rank_index(s.candidate[thread]));
  __syncthreads();
  return {chosen, bound};
}

}  // namespace zoprune::cuda
