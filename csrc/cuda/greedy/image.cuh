// The image at hand: where its tokens and picks are, and its sorted result.
#pragma once

#include "cuda/greedy/state.cuh"

namespace zoprune::cuda {

__device__ inline Image find_image(const SelectArguments& arguments, const SelectPlan& plan,
                                   const Workspace& work, int64_t number, int group) {
  Image image;
  image.member = static_cast<int>(blockIdx.x) % plan.ctas;
  image.members = plan.ctas;
  image.block = plan.block;
  image.group = group;
  image.arrivals = work.arrivals + group;
  const Span span = tokens_of(arguments, number);
  image.start = span.start;
  image.tokens = span.tokens;
  if (arguments.cu_tokens == nullptr) {
    image.output = number * arguments.keep;
    image.keep = static_cast<int>(arguments.keep);
    image.rows = group * arguments.tokens;
    return image;
  }
  const int64_t picks = arguments.total_keep;
  image.output = within(arguments.cu_keep[number], picks);
  image.keep = static_cast<int>(
      min(max(within(arguments.cu_keep[number + 1], picks) - image.output, int64_t{0}),
          int64_t{image.tokens}));
  image.rows = image.start;
  return image;
}

// One thread block writes the indices of the picked tokens, whose rank is 0, in ascending order.
__device__ inline void write_sorted(const Image& image, const Workspace& work, int64_t origin,
                                    int64_t* indices) {
  Shared& s = shared();
  const int share = (image.tokens + kThreads - 1) / kThreads * 32;  // consecutive tokens of a warp
  const int begin = warp() * share, end = min(begin + share, image.tokens);
  constexpr int kTogether = 8;  // loads that are on their way at once
  const auto for_each_word = [&](const auto& use) {
    for (int first = begin; first < end; first += 32 * kTogether) {
      bool picked[kTogether];
#pragma unroll
      for (int t = 0; t < kTogether; ++t) {
        const int i = first + t * 32 + lane();
        picked[t] = load_fresh(work.rank + image.start + min(i, end - 1)) == 0 && i < end;
      }
#pragma unroll
      for (int t = 0; t < kTogether; ++t)
        use(first + t * 32 + lane(), picked[t], __ballot_sync(kAllLanes, picked[t]));
    }
  };
  uint32_t count = 0;
  for_each_word([&](int, bool, uint32_t all) { count += __popc(all); });
  if (lane() == 0) s.warp_total[warp()] = count;
  __syncthreads();
  int64_t* to = indices + image.output;
  for (int w = 0; w < warp(); ++w) to += s.warp_total[w];
  for_each_word([&](int i, bool picked, uint32_t all) {
    if (picked) to[__popc(all & ((1u << lane()) - 1))] = origin + i;
    to += __popc(all);
  });
  __syncthreads();
}

}  // namespace zoprune::cuda
