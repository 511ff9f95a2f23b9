// Test only: enough of CUDA C++ to compile a .cu file with g++ and run it on one CPU thread, under
// AddressSanitizer, which sees wrong indices; unwritten values show. Races are for a build with
// ThreadSanitizer (memory_order.h). machine.h runs the threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

using std::max;
using std::min;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1) : x(x) {}  // NOLINT(runtime/explicit): as in CUDA
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define threadIdx shim::thread_index()
#define blockIdx shim::block_index()

SHIM_UNCHECKED inline void __syncthreads() {
  shim::meet(shim::machine.running->block->meeting, "__syncthreads", true);
}
SHIM_UNCHECKED inline void __syncwarp() { shim::meet(shim::warp().meeting, "__syncwarp", true); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }

// Orders no other memory.
template <typename T>
T atomicAdd(T* address, T value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return shim::from_word<T>(shim::exchange("shfl", mask, value).value[source % 32]);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  const unsigned source = shim::lane() < distance ? shim::lane() : shim::lane() - distance;
  return shim::from_word<T>(shim::exchange("shfl_up", mask, value).value[source]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned flip) {
  return shim::from_word<T>(shim::exchange("shfl_xor", mask, value).value[shim::lane() ^ flip]);
}
SHIM_UNCHECKED inline unsigned __ballot_sync(unsigned mask, bool flag) {
  const auto& board = shim::exchange("ballot", mask, flag);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(board.value[i] & 1) << i;
  return bits;
}
SHIM_UNCHECKED inline unsigned __match_any_sync(unsigned mask, uint32_t value) {
  const auto& board = shim::exchange("match_any", mask, value);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(board.value[i] == value) << i;
  return bits;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  const auto& board = shim::exchange("reduce_max", mask, value);
  return static_cast<unsigned>(*std::max_element(board.value, board.value + 32));
}
SHIM_UNCHECKED inline int __reduce_add_sync(unsigned mask, int value) {
  const auto& board = shim::exchange("reduce_add", mask, value);
  int sum = 0;
  for (uint64_t word : board.value) sum += shim::from_word<int>(word);
  return sum;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  const auto& board = shim::exchange("reduce_min", mask, value);
  return static_cast<unsigned>(*std::min_element(board.value, board.value + 32));
}

// -- the runtime ----------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative };
typedef struct CUstream_st* cudaStream_t;
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline const char* cudaGetErrorString(cudaError_t) { return "an error of the shim"; }
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
struct cudaFuncAttributes {};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}
namespace shim {
inline std::map<const void*, size_t> shared_allowed;  // of kernels that asked for more
}
// A kernel may be about to be launched by another thread: what it was allowed must not shrink.
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  size_t& allowed = shim::shared_allowed[reinterpret_cast<const void*>(kernel)];
  if (static_cast<size_t>(bytes) < allowed) return cudaErrorInvalidValue;
  allowed = bytes;
  return cudaSuccess;
}
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const auto allowed = shim::shared_allowed.find(reinterpret_cast<const void*>(kernel));
  const size_t most = allowed == shim::shared_allowed.end() ? 48 << 10 : allowed->second;
  if (config->dynamicSmemBytes > most || config->gridDim.x > 0x7fffffffu)
    return cudaErrorInvalidConfiguration;
  shim::launch(config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes,
               [&] { kernel(arguments...); });
  return cudaSuccess;
}
