#include "cpu/frame_change.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "bindings/common/boxed.h"
#include "bindings/common/layouts.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

constexpr float kFirstFrame = 2;  // the largest change there is

Tensor frame_change_cpu(Tensor x) {
  const Checker check("frame_change");
  check.require((x.dim() == 3 || x.dim() == 4) && x.numel() > 0, "x",
                "shape [T, P, D] or [B, T, P, D]", shape_text(x));
  check.float_dtype("x", x.scalar_type());
  const Tensor frames = torch::stable::contiguous(x);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.pop_back();
  const Tensor change = empty(shape, ScalarType::Float, "the changes");
  const int64_t per_video = x.size(-3), patches = x.size(-2), dim = x.size(-1);
  const KeyLayout layout = key_layout(frames);
  const int64_t frame_bytes = patches * dim * key_bytes(layout.type);
  const char* const data = static_cast<const char*>(frames.const_data_ptr());
  float* const out = change.mutable_data_ptr<float>();
  auto* const kernel = ZOPRUNE_BEST(frame_change);
  parallel_for(0, change.numel() / patches, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* const row = out + t * patches;
      if (t % per_video == 0)
        std::fill(row, row + patches, kFirstFrame);
      else
        kernel(layout, data + t * frame_bytes, data + (t - 1) * frame_bytes, 0, patches, row);
    }
  });
  return change;
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("frame_change", boxed<&frame_change_cpu>); }

}  // namespace zoprune
