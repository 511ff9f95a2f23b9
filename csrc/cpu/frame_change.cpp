#include "cpu/frame_change.h"

#include <memory>

#include "cpu/keys.h"

namespace zoprune::ZOPRUNE_ISA {

void frame_change(const KeyLayout& layout, const void* frame, const void* before, int64_t begin,
                  int64_t end, float* out) {
  const int64_t row_bytes = layout.stride * key_bytes(layout.type);
  const std::unique_ptr<char[]> space(new char[2 * layout.dim * key_bytes(layout.type)]);
  for (int64_t p = begin; p < end; ++p) {
    Keys now(layout, static_cast<const char*>(frame) + p * row_bytes, 1);
    Keys then(layout, static_cast<const char*>(before) + p * row_bytes, 1);
    const void* const a = now.row(0, space.get());
    const void* const b = then.row(0, space.get() + now.row_bytes());
    float dot;
    now.dots(&a, 1, &b, 1, &dot, 1);
    out[p] = 1 - cosine(dot, now.inv_norm(0) * then.inv_norm(0));
  }
}

}  // namespace zoprune::ZOPRUNE_ISA
