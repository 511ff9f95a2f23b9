// Exact blocked greedy for any objective (select_greedy.cuh says what one is): the kernel, how a
// call is spread over the device, and its launch.
#pragma once

#include <algorithm>
#include <cstdio>

#include "cuda/select.h"
#include "cuda/select_candidates.cuh"
#include "cuda/select_greedy.cuh"
#include "cuda/select_similarity.cuh"
#include "cuda/select_start.cuh"

namespace zoprune::cuda {

__device__ inline Image find_image(const SelectArguments& arguments, const SelectPlan& plan,
                                   const Workspace& work, int64_t number, int group) {
  Image image;
  image.member = static_cast<int>(blockIdx.x) % plan.ctas;
  image.members = plan.ctas;
  image.block = plan.block;
  image.group = group;
  image.arrivals = work.arrivals + group;
  image.partial = work.partial + group * plan.chunks * plan.split_rows * kBlock;
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

// One thread block writes the positions of the picked tokens, whose rank is 0, in ascending order.
__device__ inline void write_sorted(const Image& image, const Workspace& work, int64_t origin,
                                    int64_t* indices) {
  Shared& s = shared();
  const int share = (image.tokens + kThreads - 1) / kThreads * 32;  // consecutive tokens of a warp
  const int begin = warp() * share, end = min(begin + share, image.tokens);
  const auto picked = [&](int i) {
    return i < end && load_fresh(work.rank + image.start + i) == 0;
  };
  uint32_t count = 0;
#pragma unroll 4
  for (int i = begin; i < end; i += 32)
    count += __popc(__ballot_sync(kAllLanes, picked(i + lane())));
  if (lane() == 0) s.warp_total[warp()] = count;
  __syncthreads();
  int64_t* to = indices + image.output;
  for (int w = 0; w < warp(); ++w) to += s.warp_total[w];
#pragma unroll 4
  for (int i = begin; i < end; i += 32) {
    const bool mine = picked(i + lane());
    const uint32_t all = __ballot_sync(kAllLanes, mine);
    if (mine) to[__popc(all & ((1u << lane()) - 1))] = origin + i + lane();
    to += __popc(all);
  }
  __syncthreads();
}

template <DType key, typename Objective>
__global__ __launch_bounds__(kThreads, 1) void select_kernel(const SelectArguments arguments,
                                                             const SelectPlan plan,
                                                             const Workspace work,
                                                             const Greedy<Objective> given) {
  Greedy<Objective> objective = given;
  const Keys<key> keys(arguments);
  const bool compare = arguments.keys != nullptr, interact = objective.pairs != nullptr;
  const int group = static_cast<int>(blockIdx.x) / plan.ctas;
  for (int64_t number = group; number < arguments.images; number += plan.groups) {
    const Image image = find_image(arguments, plan, work, number, group);
    if (image.keep == 0) continue;
    const int64_t origin = arguments.cu_tokens == nullptr ? 0 : image.start;
    const bool in_order = image.member == 0 && !arguments.sort;  // writes picks as they are made
    int first = 0;
    objective.begin(arguments, image);
    // Columns of all dot products that have been seen, where those decide the first pick.
    int column = prepare_isolation(objective, keys, image, work) ? 0 : image.tokens;
    int selected = -1;  // -1: not started
    while (selected < image.keep) {
      const bool isolating = Greedy<Objective>::kGainsRiseOnce && column < image.tokens;
      if (!isolating && selected < 0) {
        selected = start_image(arguments, objective, keys, image, work, first);
        if (in_order && threadIdx.x == 0 && selected == 1)
          arguments.indices[image.output] = origin + first;
        continue;
      }
      const int most = isolating ? 0 : objective.begin_round(selected, image.keep - selected);
      const Candidates round = isolating
                                   ? take_columns(image, work, column)
                                   : choose_candidates(image, work, min(image.block, 3 * most + 8));
      if (compare) {  // in one place for both: it is most of the kernel's code
        compute_products(keys, image, work, round.count, image.tokens <= plan.split_rows);
        group_barrier(image.arrivals, image.members);
      }
      if constexpr (Greedy<Objective>::kGainsRiseOnce) {
        if (isolating) {
          raise_nearest(arguments, keys, image, work, column, round.count, objective.nearest);
          column += round.count;
          continue;
        }
      }
      if (interact) relate_candidates(round.count, objective, keys, image, work);
      typename Greedy<Objective>::State state[kSlots];
      load_candidates(round.count, objective, image, state);
      // From here on thread blocks that are ahead change what all have read by now.
      group_barrier(image.arrivals, image.members);
      pick_among(round, most, interact, objective, image, state);
      const Shared& s = shared();
      if (in_order)
        for (int i = static_cast<int>(threadIdx.x); i < s.picks; i += kThreads)
          arguments.indices[image.output + selected + i] =
              origin + rank_index(s.candidate[s.pick[i]]);
      selected += s.picks;
      objective.rank_for(selected);
      update_tokens(interact && selected < image.keep, objective, keys, image, work);
      group_barrier(image.arrivals, image.members);
    }
    if (image.member == 0 && arguments.sort) write_sorted(image, work, origin, arguments.indices);
  }
}

inline Workspace lay_out(const SelectArguments& arguments, const SelectPlan& plan, Arena& arena) {
  Workspace work = {};
  work.arrivals = arena.take<uint32_t>(plan.groups);
  work.rank = arena.take<uint64_t>(arguments.total_tokens);
  if (arguments.keys != nullptr) {
    work.inverse_norm = arena.take<float>(arguments.total_tokens);
    work.products = arena.take<float>(plan.product_rows * kBlock);
    work.partial = arena.take<float>(plan.groups * plan.chunks * plan.split_rows * kBlock);
  }
  return work;
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename Objective>
SelectPlan plan_select(const SelectArguments& arguments, const Device& device) {
  SelectPlan plan;
  plan.block = kBlock;
  while (plan.block > 32 && shared_bytes(plan.block) > device.shared_bytes) plan.block -= 32;
  const int64_t element = arguments.key_dtype == DType::float32 ? 4 : 2;
  const int64_t stages = std::max<int64_t>(1, divide_up(arguments.dim * element, kStageBytes));
  plan.chunks = divide_up(stages, kChunkStages);
  const int64_t largest = std::max<int64_t>(arguments.tokens, 1);
  // As many thread blocks as have something to do at once: a chunk of a tile, or tokens to own.
  const int64_t work = arguments.keys == nullptr ? divide_up(largest, kThreads)
                                                 : divide_up(largest, kTileRows) * plan.chunks;
  plan.groups = static_cast<int>(std::min<int64_t>(arguments.images, device.multiprocessors));
  plan.ctas = static_cast<int>(std::min<int64_t>(work, device.multiprocessors / plan.groups));
  plan.product_rows =
      arguments.cu_tokens == nullptr ? plan.groups * arguments.tokens : arguments.total_tokens;
  // Splitting pays while whole tiles would leave half of the group's thread blocks idle.
  if (plan.chunks > 1)
    plan.split_rows =
        std::min<int64_t>(plan.ctas / 2 * kTileRows, divide_up(largest, kTileRows) * kTileRows);
  Arena sizes(nullptr);
  lay_out(arguments, plan, sizes);
  Greedy<Objective>().lay_out(sizes, arguments, plan);
  plan.workspace_bytes = sizes.size();
  return plan;
}

template <typename Objective>
std::string select(const SelectArguments& arguments, const Objective& objective,
                   const SelectPlan& plan, void* workspace, cudaStream_t stream) {
  Arena arena(workspace);
  const Workspace work = lay_out(arguments, plan, arena);
  Greedy<Objective> greedy;
  greedy.rule = objective;
  greedy.lay_out(arena, arguments, plan);
  auto* kernel = select_kernel<DType::float32, Objective>;
  if (arguments.key_dtype == DType::float16) kernel = select_kernel<DType::float16, Objective>;
  if (arguments.key_dtype == DType::bfloat16) kernel = select_kernel<DType::bfloat16, Objective>;

  cudaLaunchAttribute cooperative = {};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(plan.groups * plan.ctas);
  launch.blockDim = dim3(kThreads);
  launch.dynamicSmemBytes = shared_bytes(plan.block);
  launch.stream = stream;
  launch.attrs = &cooperative;
  launch.numAttrs = 1;

  cudaError_t status = cudaMemsetAsync(work.arrivals, 0, plan.groups * sizeof(uint32_t), stream);
  if (status == cudaSuccess)
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  shared_bytes(plan.block));
  if (status == cudaSuccess)
    status = cudaLaunchKernelEx(&launch, kernel, arguments, plan, work, greedy);
  if (status == cudaSuccess) return "";
  char text[256];
  std::snprintf(
      text, sizeof text,
      "%s, launching %d x %d thread blocks for %lld images, %lld tokens, keys of %lld, "
      "%lld picks",
      cudaGetErrorString(status), plan.groups, plan.ctas, static_cast<long long>(arguments.images),
      static_cast<long long>(arguments.total_tokens), static_cast<long long>(arguments.dim),
      static_cast<long long>(arguments.total_keep));
  return text;
}

}  // namespace zoprune::cuda
