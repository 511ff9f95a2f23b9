#include "bindings/select.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "bindings/aten.h"
#include "cuda/select.h"

namespace zoprune {
namespace {

// torch's current stream, by name: the library must also load beside a torch without CUDA, and the
// stable ABI has no other way before torch 2.13.
cudaStream_t current_stream(int device) {
  using Get = int32_t (*)(int32_t device, void** stream);
  static const auto get = [] {
    void* const torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return torch_cuda == nullptr
               ? nullptr
               : reinterpret_cast<Get>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (get == nullptr || get(device, &stream) != 0)
    throw std::runtime_error(
        concat("zoprune: torch does not tell the current stream of cuda:", device));
  return static_cast<cudaStream_t>(stream);
}

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

// Why the kernel cannot serve a call; empty where it can.
std::string why_not(const SelectOptions& options, const Tensor& scores) {
  if (options.first != "score") return concat("its kernel has no first='", options.first, "'");
  if (options.num_seed != 0) return "its kernel has no num_seed";
  if (options.centre) return "its kernel has no centre";
  if (options.picks_per_step != 1) return "its kernel has no picks_per_step";
  thread_local int runs_on = -1;  // the device that was asked last
  const int device = scores.device().index();
  if (runs_on == device) return "";
  const torch::stable::accelerator::DeviceGuard guard(device);
  cudaSetDevice(device);
  const std::string error = cuda::select_unavailable();
  if (error.empty()) runs_on = device;
  return error.empty() ? "" : concat("on cuda:", device, ": ", error);
}

// The PyTorch reference, which warns once of the reason, or refuses where CUDA is forced.
template <typename... Arguments>
Tensor run_reference(const char* op, const std::string& reason, const Arguments&... arguments) {
  return aten::call(concat("zoprune::_reference_", op).c_str(), "", reason, arguments...);
}

// Fills in what both operators have in common, and runs. Everything is enqueued on the current
// stream, where the allocator may reuse the workspace as soon as it is given back.
Tensor run(const char* op, cuda::SelectArguments arguments, const Tensor& scores,
           const std::optional<Tensor>& keys, const std::optional<Tensor>& must_keep,
           const std::optional<Tensor>& valid, const SelectOptions& options,
           const std::vector<int64_t>& shape) {
  const int device = scores.device().index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  // The runtime linked into this library keeps a current device of its own.
  cuda::Device properties = {};
  cudaError_t status = cudaSetDevice(device);
  if (status == cudaSuccess)
    status =
        cudaDeviceGetAttribute(&properties.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&properties.shared_bytes,
                                    cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess)
    throw std::runtime_error(concat("zoprune::", op, ": ", cudaGetErrorString(status)));

  const Tensor flat_scores = torch::stable::contiguous(scores);
  arguments.scores = flat_scores.const_data_ptr();
  arguments.score_dtype = dtype_of(scores);
  arguments.total_tokens = scores.numel();
  std::optional<Tensor> flat_keys, flat_must_keep, flat_valid;  // alive until the launch
  if (options.needs_keys()) {
    flat_keys = torch::stable::contiguous(*keys);
    arguments.keys = flat_keys->const_data_ptr();
    arguments.key_dtype = dtype_of(*keys);
    arguments.dim = keys->size(-1);
  }
  if (must_keep) {
    flat_must_keep = torch::stable::contiguous(*must_keep);
    arguments.must_keep = flat_must_keep->const_data_ptr<bool>();
  }
  if (valid) {
    flat_valid = torch::stable::contiguous(*valid);
    arguments.valid = flat_valid->const_data_ptr<bool>();
  }
  arguments.method = method_of(options);
  arguments.max_similarity = static_cast<float>(options.max_similarity);
  arguments.tradeoff = static_cast<float>(options.tradeoff);
  arguments.sort = options.sort;
  arguments.seed = static_cast<uint64_t>(options.seed);
  const Tensor indices = torch::stable::new_empty(scores, shape, ScalarType::Long);
  arguments.indices = indices.mutable_data_ptr<int64_t>();
  arguments.total_keep = indices.numel();

  const cuda::SelectPlan plan = cuda::plan_select(arguments, properties);
  const Tensor workspace = torch::stable::new_empty(
      scores, {static_cast<int64_t>(plan.workspace_bytes)}, ScalarType::Byte);
  const std::string error =
      cuda::select(arguments, plan, workspace.mutable_data_ptr(), current_stream(device));
  if (!error.empty()) throw std::runtime_error(concat("zoprune::", op, ": ", error));
  return indices;
}

Tensor select_cuda(Tensor scores, std::optional<Tensor> keys, int64_t k,
                   std::optional<Tensor> must_keep, std::optional<Tensor> valid, std::string method,
                   double max_similarity, bool sort, double tradeoff, std::string first,
                   int64_t num_seed, bool centre, int64_t picks_per_step) {
  const SelectOptions options{method,   max_similarity, sort,          0, tradeoff, first,
                              num_seed, centre,         picks_per_step};
  check_select(Checker("select"), scores, keys, k, must_keep, valid, options);
  if (const std::string reason = why_not(options, scores); !reason.empty())
    return run_reference("select", reason, scores, keys, k, must_keep, valid, method,
                         max_similarity, sort, tradeoff, first, num_seed, centre, picks_per_step);
  cuda::SelectArguments arguments;
  arguments.tokens = scores.size(-1);
  arguments.images = scores.numel() / arguments.tokens;
  arguments.keep = k;
  std::vector<int64_t> shape(scores.sizes().begin(), scores.sizes().end());
  shape.back() = k;
  return run("select", arguments, scores, keys, must_keep, valid, options, shape);
}

Tensor select_varlen_cuda(Tensor scores, std::optional<Tensor> keys, Tensor cu_tokens,
                          Tensor cu_keep, int64_t total_keep, std::optional<Tensor> must_keep,
                          std::optional<Tensor> valid, std::string method, double max_similarity,
                          bool sort, double tradeoff, std::string first, int64_t num_seed,
                          bool centre, int64_t picks_per_step) {
  const SelectOptions options{method,   max_similarity, sort,          0, tradeoff, first,
                              num_seed, centre,         picks_per_step};
  check_select_varlen(Checker("select_varlen"), scores, keys, cu_tokens, cu_keep, total_keep,
                      must_keep, valid, options);
  if (const std::string reason = why_not(options, scores); !reason.empty())
    return run_reference("select_varlen", reason, scores, keys, cu_tokens, cu_keep, total_keep,
                         must_keep, valid, method, max_similarity, sort, tradeoff, first, num_seed,
                         centre, picks_per_step);
  const Tensor token_offsets = torch::stable::contiguous(cu_tokens);
  const Tensor keep_offsets = torch::stable::contiguous(cu_keep);
  cuda::SelectArguments arguments;
  arguments.cu_tokens = token_offsets.const_data_ptr<int32_t>();
  arguments.cu_keep = keep_offsets.const_data_ptr<int32_t>();
  arguments.images = cu_tokens.size(0) - 1;
  arguments.tokens = scores.size(0);
  return run("select_varlen", arguments, scores, keys, must_keep, valid, options, {total_keep});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zoprune, CUDA, m) {
  m.impl("select", TORCH_BOX(&select_cuda));
  m.impl("select_varlen", TORCH_BOX(&select_varlen_cuda));
}

}  // namespace zoprune
