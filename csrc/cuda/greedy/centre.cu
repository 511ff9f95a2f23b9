#include <cfloat>
#include <limits>

#include "cuda/greedy/centre.h"
#include "cuda/greedy/keys.cuh"

namespace zoprune::cuda {
namespace {

// Sums of a thread block: 32 columns of an image by its warps, which share the rows.
struct Sums {
  double total[kWarps][32];
  int rows[kWarps];
};

// Whether a token's key enters the mean; a warp for each token.
template <DType type>
__global__ __launch_bounds__(kThreads) void mark_kernel(const SelectArguments arguments,
                                                        bool* counted) {
  const Keys<type> keys(arguments);
  const int64_t token = int64_t{blockIdx.x} * kWarps + warp();
  if (token >= arguments.total_tokens) return;
  bool finite = true;
  for (int64_t i = lane(); i < arguments.dim; i += 32)
    finite = finite && fabsf(Element<type>::load(keys.row(token), i)) <= FLT_MAX;
  finite = __ballot_sync(kAllLanes, finite) == kAllLanes;
  if (lane() == 0)
    counted[token] = finite && (arguments.valid == nullptr || arguments.valid[token]);
}

template <DType type>
__global__ __launch_bounds__(kThreads) void centre_kernel(const SelectArguments arguments,
                                                          const bool* counted, float* centred) {
  const Keys<type> keys(arguments);
  Sums& sums = *reinterpret_cast<Sums*>(dynamic_shared_memory());
  const auto tiles = static_cast<unsigned>((arguments.dim + 31) / 32);
  const Span image = tokens_of(arguments, blockIdx.x / tiles);
  const int64_t column = int64_t{blockIdx.x % tiles} * 32 + lane();
  const bool inside = column < arguments.dim;

  double total = 0;
  int rows = 0;
#pragma unroll 4
  for (int i = warp(); i < image.tokens; i += kWarps) {
    if (!counted[image.start + i]) continue;
    ++rows;
    if (inside) total += Element<type>::load(keys.row(image.start + i), column);
  }
  sums.total[warp()][lane()] = total;
  if (lane() == 0) sums.rows[warp()] = rows;
  __syncthreads();
  total = 0, rows = 0;
  for (int w = 0; w < kWarps; ++w) {
    total += sums.total[w][lane()];
    rows += sums.rows[w];
  }
  const double mean = total / max(rows, 1);
  if (!inside) return;
#pragma unroll 4
  for (int i = warp(); i < image.tokens; i += kWarps) {
    const int64_t token = image.start + i;
    const double difference = Element<type>::load(keys.row(token), column) - mean;
    centred[token * arguments.dim + column] = static_cast<float>(difference / 2);
  }
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, size_t shared_bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  if (blocks > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <DType type>
cudaError_t centre(const SelectArguments& arguments, float* centred, bool* counted,
                   cudaStream_t stream) {
  const cudaError_t status =
      launch(mark_kernel<type>, (arguments.total_tokens + kWarps - 1) / kWarps, 0, stream,
             arguments, counted);
  if (status != cudaSuccess) return status;
  return launch(centre_kernel<type>, arguments.images * ((arguments.dim + 31) / 32), sizeof(Sums),
                stream, arguments, static_cast<const bool*>(counted), centred);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const int zoprune_mark_kernel_shared_bytes = 0;
extern "C" __attribute__((visibility("default"))) const int zoprune_centre_kernel_shared_bytes =
    sizeof(Sums);

std::string centre_keys(const SelectArguments& arguments, float* centred, bool* counted,
                        cudaStream_t stream) {
  if (arguments.total_tokens == 0) return "";
  auto* run = centre<DType::float32>;
  if (arguments.key_dtype == DType::float16) run = centre<DType::float16>;
  if (arguments.key_dtype == DType::bfloat16) run = centre<DType::bfloat16>;
  const cudaError_t status = run(arguments, centred, counted, stream);
  if (status == cudaSuccess) return "";
  return std::string(cudaGetErrorString(status)) + ", centring the keys of " +
         std::to_string(arguments.total_tokens) + " tokens, " + std::to_string(arguments.dim) +
         " numbers each";
}

}  // namespace zoprune::cuda
