// SIMD lanes of the instruction set that a kernel is compiled for: fp32, loaded from any key type.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace zoprune {

// fp16 storage.
struct Half {
  uint16_t bits;
};

namespace ZOPRUNE_ISA {
namespace {

#if defined(__AVX512F__)

using Lanes = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 4, kTileCols = 6;  // accumulators and operands fit the 32 registers
constexpr int kTileStride = 8;               // of a tile's reduced sums

inline Lanes load_lanes(const float* p) { return _mm512_loadu_ps(p); }
inline Lanes load_lanes(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Lanes load_lanes(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) { return _mm512_fmadd_ps(a, b, sum); }

// 128-bit quarter r of the result is what is left of sums[r] after its halves, and the halves of
// their sum, were added.
inline Lanes add_quarters(Lanes a, Lanes b, Lanes c, Lanes d) {
  const auto add_halves = [](Lanes x, Lanes y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
  };
  const Lanes ab = add_halves(a, b), cd = add_halves(c, d);
  return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
}

// out[r][c] = the sum of sums[r][c]: halves are added until one number is left. Four vectors, and
// then up to sixteen, share each step.
template <int kCols>
inline void reduce(const Lanes (&sums)[kTileRows][kCols], float (&out)[kTileRows][kTileStride]) {
  constexpr int kPairs = (kCols + 1) / 2;
  Lanes pairs[kPairs + 1];
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; ++p) {
    constexpr int kLast = kCols - 1;
    const int c = 2 * p, d = c < kLast ? c + 1 : c;
    const __m512d left = (__m512d)add_quarters(sums[0][c], sums[1][c], sums[2][c], sums[3][c]);
    const __m512d right = (__m512d)add_quarters(sums[0][d], sums[1][d], sums[2][d], sums[3][d]);
    pairs[p] = _mm512_add_ps((Lanes)_mm512_unpacklo_pd(left, right),
                             (Lanes)_mm512_unpackhi_pd(left, right));
  }
  pairs[kPairs] = pairs[kPairs - 1];
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; p += 2) {
    const Lanes four = _mm512_add_ps(_mm512_shuffle_ps(pairs[p], pairs[p + 1], 0x88),
                                     _mm512_shuffle_ps(pairs[p], pairs[p + 1], 0xDD));
    _mm_storeu_ps(out[0] + 2 * p, _mm512_extractf32x4_ps(four, 0));
    _mm_storeu_ps(out[1] + 2 * p, _mm512_extractf32x4_ps(four, 1));
    _mm_storeu_ps(out[2] + 2 * p, _mm512_extractf32x4_ps(four, 2));
    _mm_storeu_ps(out[3] + 2 * p, _mm512_extractf32x4_ps(four, 3));
  }
}

#elif defined(__AVX2__)

using Lanes = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 3, kTileCols = 4, kTileStride = 4;  // of 16 registers

inline Lanes load_lanes(const float* p) { return _mm256_loadu_ps(p); }
inline Lanes load_lanes(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Lanes load_lanes(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) { return _mm256_fmadd_ps(a, b, sum); }
inline float reduce(Lanes sum) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

#else

typedef float Lanes __attribute__((vector_size(16)));  // any processor's own vectors
constexpr int kLanes = 4;
constexpr int kTileRows = 3, kTileCols = 3, kTileStride = 3;

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) { return load(value); }
inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t rest = value.bits & 0x7FFFu;
  uint32_t bits = sign | ((rest << 13) + (rest >= 0x7C00u ? 0x70000000u : 0x38000000u));
  float result;
  if (rest < 0x0400u) {  // zero or subnormal: a multiple of 2^-24
    result = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -result : result;
  }
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <typename T>
inline Lanes load_lanes(const T* p) {
  return Lanes{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) { return sum + a * b; }
inline float reduce(Lanes sum) { return (sum[0] + sum[2]) + (sum[1] + sum[3]); }

#endif

#if !defined(__AVX512F__)
// out[r][c] = reduce(sums[r][c]).
template <int kCols>
inline void reduce(const Lanes (&sums)[kTileRows][kCols], float (&out)[kTileRows][kTileStride]) {
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) out[r][c] = reduce(sums[r][c]);
}
#endif

// The last n < Width elements of a row, and zeros.
template <typename T, int Width>
struct Tail {
  Tail(const T* p, int64_t n) : values{} { std::memcpy(values, p, n * sizeof(T)); }
  T values[Width];
};

// How rows of T are multiplied: operands of kWidth elements, fp32 sums.
template <typename T>
struct DotLanes {
  using Operand = Lanes;
  using Sum = Lanes;
  static constexpr int kWidth = kLanes;
  static Operand load(const T* p) { return load_lanes(p); }
  static Sum multiply_add(Operand a, Operand b, Sum sum) {
    return ZOPRUNE_ISA::multiply_add(a, b, sum);
  }
};

#if defined(__AVX512BF16__)
constexpr bool kFastBFloat16 = true;  // twice the products of fp32 in the same time

// Rounds to nearest even; subnormals may become zero.
inline void round_lanes(Lanes values, BFloat16* out) {
  const __m256bh rounded = _mm512_cvtneps_pbh(values);
  std::memcpy(out, &rounded, sizeof rounded);
}

template <>
struct DotLanes<BFloat16> {
  using Operand = __m512bh;
  using Sum = Lanes;
  static constexpr int kWidth = 2 * kLanes;
  static Operand load(const BFloat16* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Sum multiply_add(Operand a, Operand b, Sum sum) { return _mm512_dpbf16_ps(sum, a, b); }
};
#else
constexpr bool kFastBFloat16 = false;

inline void round_lanes(Lanes values, BFloat16* out) {
  for (int j = 0; j < kLanes; ++j) store(values[j], out[j]);
}
#endif

}  // namespace
}  // namespace ZOPRUNE_ISA
}  // namespace zoprune
