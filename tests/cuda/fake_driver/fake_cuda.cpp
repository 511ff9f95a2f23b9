// Test only: a libcuda.so.1 that runs no kernel and checks what Triton's host code passes: tensor
// maps by the rules of the driver's manual, grids, blocks and shared memory. What is wrong is
// refused, so that the call that made it raises. Pointers are not looked at: any memory will do.
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr int kSharedOptIn = 227 << 10, kSharedDefault = 48 << 10;
long launches = 0, tensor_maps = 0;
char problem[256] = "";
std::string ahead;  // of each launch: 1 where it may start before the one before it is done
std::map<CUfunction, int> shared_allowed;                // where a function has asked for more
std::map<CUfunction, std::vector<int>> parameter_sizes;  // where the tests have told them
std::string told;                                        // what the kernels were given

CUresult refuse(const char* what, unsigned long long value) {
  std::snprintf(problem, sizeof problem, "%s: %llu", what, value);
  return CUDA_ERROR_INVALID_VALUE;
}

unsigned element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
    default:
      return 4;
  }
}

unsigned swizzle_bytes(CUtensorMapSwizzle swizzle) {
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_32B:
      return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      return 64;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      return 128;
    default:
      return 1u << 30;
  }
}

}  // namespace

extern "C" {

// For the tests.
long fake_launches() { return launches; }
long fake_tensor_maps() { return tensor_maps; }
const char* fake_problem() { return problem; }
const char* fake_ahead() { return ahead.c_str(); }
// From here on, what a function is given is kept: its handle, the programs, then each parameter.
void fake_sizes(CUfunction function, const int* sizes, int count) {
  parameter_sizes[function].assign(sizes, sizes + count);
}
long fake_told(char* to) {
  const long bytes = static_cast<long>(told.size());
  if (to != nullptr) std::memcpy(to, told.data(), bytes), told.clear();
  return bytes;
}

CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_SUCCESS ? "no error" : problem;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = reinterpret_cast<CUcontext>(1);
  return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetLimit(size_t* value, CUlimit) {
  *value = 1 << 20;
  return CUDA_SUCCESS;
}
CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return cuCtxGetCurrent(context); }
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute, CUdeviceptr pointer) {
  *static_cast<CUdeviceptr*>(value) = pointer;
  return CUDA_SUCCESS;
}

// An H100.
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      *value = kSharedOptIn;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      *value = 228 << 10;
      break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = 132;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
      *value = 65536;
      break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      *value = 32;
      break;
    default:
      *value = attribute < CU_DEVICE_ATTRIBUTE_MAX ? 1000 : 0;  // 0: of later drivers
  }
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  if (*static_cast<const uint32_t*>(image) != 0x464c457f)
    return refuse("a module is no ELF file", 0);
  static uintptr_t modules = 16;
  *module = reinterpret_cast<CUmodule>(++modules);
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char*) {
  *function = reinterpret_cast<CUfunction>(module);
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;  // of later drivers
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value > kSharedOptIn) return refuse("bytes of shared memory asked for", value);
  shared_allowed[function] = value;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                          void**) {
  ++launches;
  const unsigned threads = config->blockDimX * config->blockDimY * config->blockDimZ;
  if (threads == 0 || threads > 1024) return refuse("threads of a block", threads);
  if (config->gridDimX == 0 || config->gridDimX > 0x7fffffffu)
    return refuse("width of the grid", config->gridDimX);
  if (config->gridDimY == 0 || config->gridDimY > 65535)
    return refuse("height of the grid", config->gridDimY);
  if (config->gridDimZ == 0 || config->gridDimZ > 65535)
    return refuse("depth of the grid", config->gridDimZ);
  const auto allowed = shared_allowed.find(function);
  const unsigned most = allowed == shared_allowed.end() ? kSharedDefault : allowed->second;
  if (config->sharedMemBytes > most)
    return refuse("bytes of shared memory at launch", config->sharedMemBytes);
  if (parameters == nullptr) return refuse("no parameters", 0);
  if (const auto sizes = parameter_sizes.find(function); sizes != parameter_sizes.end()) {
    const uint64_t head[] = {reinterpret_cast<uint64_t>(function), config->gridDimX};
    told.append(reinterpret_cast<const char*>(head), sizeof head);
    for (size_t i = 0; i < sizes->second.size(); ++i)
      told.append(static_cast<const char*>(parameters[i]), sizes->second[i]);
  }
  ahead.push_back('0');
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
      return refuse("attribute of a launch", config->attrs[i].id);
    ahead.back() = config->attrs[i].value.programmaticStreamSerializationAllowed ? '1' : '0';
  }
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* base, const cuuint64_t* sizes, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* steps,
                                CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  ++tensor_maps;
  const unsigned bytes = element_bytes(type);
  if (reinterpret_cast<uintptr_t>(map) % 64) return refuse("the tensor map's address", 0);
  if (reinterpret_cast<uintptr_t>(base) % 16)
    return refuse("the matrix' address modulo 16", reinterpret_cast<uintptr_t>(base) % 16);
  if (rank < 1 || rank > 5) return refuse("rank", rank);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || sizes[i] > 1ull << 32) return refuse("size", sizes[i]);
    if (box[i] == 0 || box[i] > 256) return refuse("size of the box", box[i]);
    if (steps[i] != 1) return refuse("step between elements", steps[i]);
  }
  for (cuuint32_t i = 0; i + 1 < rank; ++i)
    if (strides[i] % 16 || strides[i] >= 1ull << 40) return refuse("bytes of a stride", strides[i]);
  if (rank > 1 && strides[0] < sizes[0] * bytes)
    return refuse("stride shorter than a row, bytes", strides[0]);
  const unsigned inner = box[0] * bytes;
  if (inner % 16) return refuse("bytes of a row of the box", inner);
  if (inner > swizzle_bytes(swizzle)) return refuse("bytes of a row of the box, swizzled", inner);
  uint64_t content[16] = {reinterpret_cast<uint64_t>(base)};  // all that a map depends on
  static_assert(sizeof content == sizeof *map, "1 + 5 + 4 + 5 + 1 words at most");
  uint64_t* word = content + 1;
  for (cuuint32_t i = 0; i < rank; ++i) *word++ = sizes[i];
  for (cuuint32_t i = 0; i + 1 < rank; ++i) *word++ = strides[i];
  for (cuuint32_t i = 0; i < rank; ++i) *word++ = box[i];
  *word = static_cast<uint64_t>(type) << 32 | swizzle;
  std::memcpy(map, content, sizeof content);
  return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const int*, const int*,
                                 cuuint32_t, cuuint32_t, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill) {
  return refuse("im2col is not used", 0);
}

}  // extern "C"
