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
  plan.shared_bytes = shared_bytes(plan.block);
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

inline cudaLaunchAttribute clusters_of(int blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = blocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

// Launches kernel(arguments, plan, work, state), of which no launch on the device has more than
// most_shared_bytes. Returns what went wrong, or an empty string.
template <typename State>
std::string launch(void (*kernel)(SelectArguments, SelectPlan, Workspace, State),
                   const SelectArguments& arguments, const SelectPlan& plan, const Workspace& work,
                   const State& state, int most_shared_bytes, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1] = clusters_of(plan.cluster);
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(plan.groups * plan.ctas);
  launch.blockDim = dim3(kThreads);
  launch.dynamicSmemBytes = plan.shared_bytes;
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = plan.cluster > 1 ? 2 : 1;

  cudaError_t status = cudaMemsetAsync(work.arrivals, 0, plan.groups * sizeof(uint32_t), stream);
  // The same for all launches: another thread's may come between this and the launch.
  if (status == cudaSuccess)
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  most_shared_bytes);
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
