#include "bindings/common/cuda_call.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <stdexcept>

#include "cuda/greedy/centre.h"
#include "zoprune/selection.h"

namespace zoprune {
namespace {

using torch::stable::to;

cuda::DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return cuda::DType::float16;
    case ScalarType::BFloat16:
      return cuda::DType::bfloat16;
    default:
      return cuda::DType::float32;
  }
}

}  // namespace

std::string why_not_on(const Tensor& scores) {
  constexpr int64_t most = int64_t{kMaxIndex} + 1;  // a rank holds no larger index
  if (scores.size(-1) > most) return concat("its kernel has at most ", most, " tokens in an image");
  thread_local int runs_on = -1;  // the device that was asked last
  const int device = scores.device().index();
  if (runs_on == device) return "";
  const torch::stable::accelerator::DeviceGuard guard(device);
  cudaSetDevice(device);
  const std::string error = cuda::select_unavailable();
  if (error.empty()) runs_on = device;
  return error.empty() ? "" : concat("on cuda:", device, ": ", error);
}

CudaCall::CudaCall(const std::string& op, const GreedyTensors& tensors, int64_t k)
    : CudaCall(op, tensors, kept_shape(k, lead_of(tensors.scores))) {
  arguments_.tokens = tensors.scores.size(-1);
  arguments_.images = tensors.scores.numel() / arguments_.tokens;
  arguments_.keep = k;
}

CudaCall::CudaCall(const std::string& op, const GreedyTensors& tensors, const Packing& packing)
    : CudaCall(op, tensors, kept_shape(packing, {})) {
  arguments_.cu_tokens = keep<int32_t>(packing.cu_tokens);
  arguments_.cu_keep = keep<int32_t>(packing.cu_keep);
  arguments_.images = packing.cu_tokens.size(0) - 1;
  arguments_.tokens = tensors.scores.size(0);
}

CudaCall::CudaCall(const std::string& op, const GreedyTensors& tensors, const Lead& shape)
    : op_(op),
      guard_(tensors.scores.device().index()),
      number_(tensors.scores.device().index()),
      indices_(torch::stable::new_empty(tensors.scores, shape, ScalarType::Long)) {
  // The runtime linked into this library keeps a current device of its own.
  cudaError_t status = cudaSetDevice(number_);
  if (status == cudaSuccess)
    status =
        cudaDeviceGetAttribute(&device_.multiprocessors, cudaDevAttrMultiProcessorCount, number_);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&device_.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                    number_);
  if (status != cudaSuccess) check(cudaGetErrorString(status));

  arguments_.scores = keep<void>(tensors.scores);
  arguments_.score_dtype = dtype_of(tensors.scores);
  arguments_.total_tokens = tensors.scores.numel();
  if (tensors.keys) {
    arguments_.keys = keep<void>(*tensors.keys);
    arguments_.key_dtype = dtype_of(*tensors.keys);
    arguments_.dim = tensors.keys->size(-1);
  }
  if (tensors.must_keep) arguments_.must_keep = keep<bool>(*tensors.must_keep);
  if (tensors.valid) arguments_.valid = keep<bool>(*tensors.valid);
  if (tensors.weights) arguments_.weights = keep<float>(to(*tensors.weights, ScalarType::Float));
  if (tensors.positions) {
    arguments_.positions = keep<float>(to(*tensors.positions, ScalarType::Float));
    arguments_.axes = static_cast<int>(tensors.positions->size(-1));
  }
  arguments_.indices = indices_.mutable_data_ptr<int64_t>();
  arguments_.total_keep = indices_.numel();
}

template <typename T>
const T* CudaCall::keep(const Tensor& tensor) {
  alive_.push_back(torch::stable::contiguous(tensor));
  return static_cast<const T*>(alive_.back().const_data_ptr());
}

void CudaCall::centre() {
  alive_.push_back(torch::stable::new_empty(indices_, {arguments_.total_tokens, arguments_.dim},
                                            ScalarType::Float));
  auto* const centred = alive_.back().mutable_data_ptr<float>();
  alive_.push_back(torch::stable::new_empty(indices_, {arguments_.total_tokens}, ScalarType::Bool));
  auto* const counted = alive_.back().mutable_data_ptr<bool>();
  check(cuda::centre_keys(arguments_, centred, counted, stream()));
  arguments_.keys = centred;
  arguments_.key_dtype = cuda::DType::float32;
}

void CudaCall::check(const std::string& error) const {
  if (!error.empty()) throw std::runtime_error(concat("zoprune::", op_, ": ", error));
}

// torch's current stream, by name: the library must also load beside a torch without CUDA, and the
// stable ABI has no other way before torch 2.13.
cuda::Stream CudaCall::stream() const {
  using Get = int32_t (*)(int32_t device, void** stream);
  static const auto get = [] {
    void* const torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return torch_cuda == nullptr
               ? nullptr
               : reinterpret_cast<Get>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (get == nullptr || get(number_, &stream) != 0)
    check(concat("torch does not tell the current stream of cuda:", number_));
  return static_cast<cuda::Stream>(stream);
}

}  // namespace zoprune
