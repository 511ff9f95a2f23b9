// Dot products in fp32: 32 partial sums, added in one fixed order.
#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"

namespace zoprune {

template <typename T>
static float dot(const T* x, const T* y, int64_t n) {
  constexpr int kLanes = 32;
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += load(x[i + j]) * load(y[i + j]);
  for (int j = 0; i < n; ++i, ++j) lane[j] += load(x[i]) * load(y[i]);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

}  // namespace zoprune
