// How a selection is spread over the device, its workspace, and its launch.
#pragma once

#include <algorithm>
#include <cstdio>

#include "cuda/greedy/state.cuh"

namespace zoprune::cuda {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

// Parts that a dot product can be split into.
inline int64_t key_chunks(const SelectArguments& arguments) {
  const int64_t element = arguments.key_dtype == DType::float32 ? 4 : 2;
  const int64_t stages = std::max<int64_t>(1, divide_up(arguments.dim * element, kStageBytes));
  return divide_up(stages, kChunkStages);
}

// At most so many groups, each of as many thread blocks as have something to do at once. All of the
// plan but the workspace's size.
inline SelectPlan spread(const SelectArguments& arguments, const Device& device,
                         int64_t most_groups, int64_t most_ctas) {
  SelectPlan plan;
  plan.block = kBlock;
  while (plan.block > kColumnStep && shared_bytes(plan.block) > device.shared_bytes)
    plan.block -= kColumnStep;
  plan.chunks = key_chunks(arguments);
  plan.groups = static_cast<int>(std::min<int64_t>(most_groups, device.multiprocessors));
  plan.ctas = static_cast<int>(std::min<int64_t>(most_ctas, device.multiprocessors / plan.groups));
  plan.product_rows =
      arguments.cu_tokens == nullptr ? plan.groups * arguments.tokens : arguments.total_tokens;
  // Splitting pays while whole tiles would leave half of the group's thread blocks idle.
  const int64_t tiles = divide_up(std::max<int64_t>(arguments.tokens, 1), kTileRows);
  if (plan.chunks > 1) plan.split_rows = std::min<int64_t>(plan.ctas / 2, tiles) * kTileRows;
  return plan;
}

// Launches kernel(arguments, plan, work, state). Returns what went wrong, or an empty string.
template <typename State>
std::string launch(void (*kernel)(SelectArguments, SelectPlan, Workspace, State),
                   const SelectArguments& arguments, const SelectPlan& plan, const Workspace& work,
                   const State& state, cudaStream_t stream) {
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
  // The same for all launches on a device: another thread's may come between this and the launch.
  if (status == cudaSuccess)
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  shared_bytes(plan.block));
  if (status == cudaSuccess)
    status = cudaLaunchKernelEx(&launch, kernel, arguments, plan, work, state);
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
