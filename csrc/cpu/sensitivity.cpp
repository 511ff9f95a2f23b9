#include "cpu/sensitivity.h"

#include <algorithm>
#include <cmath>

#include "cpu/activation_dispatch.h"
#include "cpu/dot.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// By the odd Taylor series, where every |h v| is small: nothing cancels (docs/math.md).
template <typename T>
void taylor_row(int64_t hidden, const float* slope, const float* cubic, const float* v,
                const float* v_cubed, T* out) {
  for (int64_t i = 0; i < hidden; ++i) store(v[i] * slope[i] + v_cubed[i] * cubic[i], out[i]);
}

// phi is 0 or the identity beyond this |a|, to fp32: there a difference would only cancel.
constexpr float kBend = 24.0f;

template <typename T>
void difference_row(Activation activation, float step, int64_t hidden, const float* a,
                    const float* v, T* out) {
  const float inv_2h = 0.5f / step;
  dispatch(activation, [&](auto constant) {
    for (int64_t i = 0; i < hidden; ++i) {
      const float delta = step * v[i];
      if constexpr (constant() == Activation::relu) {  // exact for any step
        const float length = delta < 0.0f ? -delta : delta;
        const float inside = a[i] < -length ? -length : a[i] > length ? length : a[i];
        store((delta + (delta < 0.0f ? -inside : inside)) * inv_2h, out[i]);
      } else {
        const float plus = expand<decltype(constant)::value>(a[i] + delta).value;
        const float minus = expand<decltype(constant)::value>(a[i] - delta).value;
        const bool straight = std::fabs(a[i]) - std::fabs(delta) > kBend;
        store(straight ? (a[i] > 0.0f ? v[i] : 0.0f) : (plus - minus) * inv_2h, out[i]);
      }
    }
  });
}

// The Taylor series is as good as fp32 up to this |h v|.
constexpr float kSeriesLimit = 1.0f / 16;

}  // namespace

void prepare_directions(Activation activation, float step, int64_t begin, int64_t end,
                        int64_t hidden, const float* v, float* v_cubed, bool* direct) {
  const bool always_direct = activation == Activation::relu && step > 0;
  const bool never_direct = activation == Activation::identity;
  for (int64_t j = begin; j < end; ++j) {
    float longest = 0;
    for (int64_t i = j * hidden; i < (j + 1) * hidden; ++i) {
      const float delta = step * v[i];
      v_cubed[i] = v[i] * delta * delta;
      longest = std::max(longest, std::fabs(delta));
    }
    direct[j] = !never_direct && (always_direct || longest > kSeriesLimit);
    // Long steps overflow here, and an infinity times the identity's 0 is NaN.
    if (longest > kSeriesLimit) std::fill_n(v_cubed + j * hidden, hidden, 0.0f);
  }
}

template <typename T>
void perturb(Activation activation, int64_t row_begin, int64_t row_end,
             const ExpandedTokens& tokens, const ProjectedDirections& directions, T* out,
             int64_t stride) {
  const int64_t hidden = tokens.hidden;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t direction = row / tokens.tokens, token = (row % tokens.tokens) * hidden;
    const float* v = directions.v + direction * hidden;
    T* const changed = out + row * stride;
    if (directions.direct[direction])
      difference_row(activation, directions.step, hidden, tokens.a + token, v, changed);
    else
      taylor_row(hidden, tokens.slope + token, tokens.cubic + token, v,
                 directions.v_cubed + direction * hidden, changed);
    std::fill(changed + hidden, changed + stride, T{});
  }
}

template <typename T>
void row_norms(int64_t row_begin, int64_t row_end, int64_t width, const T* rows, float* norms) {
  for (int64_t r = row_begin; r < row_end; ++r)
    norms[r] = std::sqrt(dot(rows + r * width, rows + r * width, width));
}

#define ZOPRUNE_INSTANTIATE(T)                                                  \
  template void perturb<T>(Activation, int64_t, int64_t, const ExpandedTokens&, \
                           const ProjectedDirections&, T*, int64_t);            \
  template void row_norms<T>(int64_t, int64_t, int64_t, const T*, float*);
ZOPRUNE_INSTANTIATE(float)
ZOPRUNE_INSTANTIATE(BFloat16)
#undef ZOPRUNE_INSTANTIATE

}  // namespace zoprune::ZOPRUNE_ISA
