#include "cpu/compact.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "bindings/common/boxed.h"
#include "bindings/common/checks.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

void check_tensor(const Checker& check, const Tensor& tensor, const Tensor& indices, int64_t dim,
                  size_t i) {
  const std::string name = concat("tensors[", i, "]"), dim_name = concat("dims[", i, "]");
  check.device(name.c_str(), tensor, indices, "indices");
  const int64_t first = indices.dim() - 1;
  check.require(first <= dim && dim < tensor.dim(), dim_name.c_str(),
                concat(first, " <= dim < ", tensor.dim(), " (", name, "'s rank)"), dim);
  if (indices.dim() == 2)
    check.require(tensor.size(dim - 1) == indices.size(0), name.c_str(),
                  concat(indices.size(0), " images in dimension ", dim - 1), shape_text(tensor));
}

// The first index that is not below `tokens` is an error.
void check_values(const Checker& check, const Tensor& indices, int64_t tokens) {
  const int64_t kept = indices.size(-1), rows = kept ? indices.numel() / kept : 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t* const begin = indices.const_data_ptr<int64_t>() + row * kept;
    const auto [least, most] = std::minmax_element(begin, begin + kept);
    check.require(*least >= 0 && *most < tokens, "indices",
                  concat("positions in [0, ", tokens, ")"), *least < 0 ? *least : *most);
  }
}

Tensor compact_one(const Tensor& tensor, const Tensor& indices, int64_t dim) {
  const Tensor from = torch::stable::contiguous(tensor);
  std::vector<int64_t> shape(from.sizes().begin(), from.sizes().end());
  const int64_t kept = indices.size(-1), batch = indices.dim() == 2 ? indices.size(0) : 1;
  shape[dim] = kept;
  const Tensor to = torch::stable::new_empty(from, shape);
  CompactTensor rows{};
  rows.from = static_cast<const char*>(from.const_data_ptr());
  rows.to = static_cast<char*>(to.mutable_data_ptr());
  rows.outer = 1;
  rows.row_bytes = from.element_size();
  for (int64_t i = 0; i < dim; ++i) rows.outer *= shape[i];
  for (int64_t i = dim + 1; i < from.dim(); ++i) rows.row_bytes *= shape[i];
  rows.tokens = from.size(dim);
  auto* const kernel = ZOPRUNE_BEST(compact);
  constexpr int64_t kBytesPerTask = 1 << 16;
  const int64_t grain = 1 + kBytesPerTask / (rows.row_bytes + 1);
  parallel_for(0, rows.outer * kept, grain, [&](int64_t begin, int64_t end) {
    kernel(rows, indices.const_data_ptr<int64_t>(), batch, kept, begin, end);
  });
  return to;
}

std::vector<Tensor> compact_cpu(std::vector<Tensor> tensors, Tensor indices,
                                std::vector<int64_t> dims) {
  const Checker check("compact");
  check.require(indices.dim() == 1 || indices.dim() == 2, "indices", "shape [k] or [B, k]",
                shape_text(indices));
  check.dtype("indices", indices, ScalarType::Long);
  check.require(dims.size() == tensors.size(), "dims",
                concat(tensors.size(), " dimensions (one for each tensor)"), dims.size());
  const Tensor kept = torch::stable::contiguous(indices);
  for (size_t i = 0; i < tensors.size(); ++i) check_tensor(check, tensors[i], kept, dims[i], i);
  for (size_t i = 0; i < tensors.size(); ++i) check_values(check, kept, tensors[i].size(dims[i]));
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < tensors.size(); ++i)
    outputs.push_back(compact_one(tensors[i], kept, dims[i]));
  return outputs;
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("compact", boxed<&compact_cpu>); }

}  // namespace zoprune
