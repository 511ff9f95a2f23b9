#include "cpu/activations.h"

#include <algorithm>

#include "cpu/activation_dispatch.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// 0 where a is finite, else NaN.
inline float poison(float a) { return a - a; }

}  // namespace

template <typename Out>
void activate(Activation activation, int64_t row_begin, int64_t row_end, int64_t hidden,
              const float* product, const float* bias, Out* out, int64_t stride) {
  dispatch(activation, [&](auto constant) {
    for (int64_t r = row_begin; r < row_end; ++r) {
      Out* const row = out + r * stride;
      for (int64_t i = 0; i < hidden; ++i)
        store(expand<decltype(constant)::value>(product[r * hidden + i] + bias[i]).value, row[i]);
      std::fill(row + hidden, row + stride, Out{});
    }
  });
}

template <typename Out>
void differentiate(Activation activation, int64_t row_begin, int64_t row_end, int64_t hidden,
                   const float* product, const float* bias, Out* out, int64_t stride) {
  dispatch(activation, [&](auto constant) {
    for (int64_t r = row_begin; r < row_end; ++r) {
      Out* const row = out + r * stride;
      for (int64_t i = 0; i < hidden; ++i) {
        const float a = product[r * hidden + i] + bias[i];
        store(expand<decltype(constant)::value>(a).slope + poison(a), row[i]);
      }
      std::fill(row + hidden, row + stride, Out{});
    }
  });
}

void expand_rows(Activation activation, int64_t row_begin, int64_t row_end, int64_t hidden,
                 const float* product, const float* bias, float* a, float* slope, float* cubic) {
  dispatch(activation, [&](auto constant) {
    for (int64_t r = row_begin; r < row_end; ++r)
      for (int64_t i = 0; i < hidden; ++i) {
        const int64_t at = r * hidden + i;
        const float value = product[at] + bias[i];
        const Expansion expansion = expand<decltype(constant)::value>(value);
        a[at] = value + poison(value);
        slope[at] = expansion.slope + poison(value);
        cubic[at] = expansion.cubic;
      }
  });
}

#define ZOPRUNE_INSTANTIATE(Out)                                                                 \
  template void activate<Out>(Activation, int64_t, int64_t, int64_t, const float*, const float*, \
                              Out*, int64_t);                                                    \
  template void differentiate<Out>(Activation, int64_t, int64_t, int64_t, const float*,          \
                                   const float*, Out*, int64_t);
ZOPRUNE_INSTANTIATE(float)
ZOPRUNE_INSTANTIATE(BFloat16)
#undef ZOPRUNE_INSTANTIATE

}  // namespace zoprune::ZOPRUNE_ISA
