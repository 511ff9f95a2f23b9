// bfloat16 storage: the upper half of an fp32. Kernels compute in fp32 and convert at the edges.
#pragma once

#include <cstdint>
#include <cstring>

namespace zoprune {

struct BFloat16 {
  uint16_t bits;
};

[[maybe_unused]] static inline float load(const float& value) { return value; }

[[maybe_unused]] static inline float load(const BFloat16& value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

[[maybe_unused]] static inline void store(float value, float& out) { out = value; }

// Rounds to nearest, ties to even; NaN stays NaN.
[[maybe_unused]] static inline void store(float value, BFloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(value != value ? 0x7FC0u : rounded);
}

}  // namespace zoprune
