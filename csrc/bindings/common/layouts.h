// What the CPU kernels read and how they share work: pointers, strides, torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "bindings/common/checks.h"
#include "bindings/common/segments.h"
#include "bindings/common/torch_calls.h"
#include "cpu/similarity.h"

namespace zoprune {

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

inline std::optional<Tensor> contiguous_floats(const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return torch::stable::contiguous(torch::stable::to(*tensor, ScalarType::Float));
}

// Keys whose rows are contiguous, with any strides between them.
inline Tensor with_contiguous_rows(const Tensor& keys) {
  return keys.stride(-1) == 1 ? keys : torch::stable::contiguous(keys);
}

// From the element at `offset` on; null where there is no tensor.
template <typename T>
const T* data(const std::optional<Tensor>& tensor, int64_t offset = 0) {
  return tensor ? tensor->const_data_ptr<T>() + offset : nullptr;
}

inline KeyLayout key_layout(const Tensor& keys) {
  KeyType type = KeyType::float32;
  if (keys.scalar_type() == ScalarType::Half) type = KeyType::float16;
  if (keys.scalar_type() == ScalarType::BFloat16) type = KeyType::bfloat16;
  return {type, keys.size(-1), keys.stride(-2)};
}

// Keys [B, N, D] or [T, D] of an image, the `number`th, whose tokens begin at `segment.begin`.
inline const void* image_keys(const Tensor& keys, int64_t number, const Segment& segment) {
  const int64_t rows = keys.dim() == 3 ? number : segment.begin;
  return static_cast<const char*>(keys.const_data_ptr()) +
         rows * keys.stride(0) * key_bytes(key_layout(keys).type);
}

// The ParallelFor of the CPU kernels.
inline void run_parallel(int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

}  // namespace zoprune
