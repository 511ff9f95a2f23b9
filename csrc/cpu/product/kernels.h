// The inner loops of the products: sums of rows times a panel, by what the instruction set has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/product/amx.h"
#include "cpu/product/panels.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// One word of depth: an operand is that of kLanes columns, or of one row for all of them.
template <typename T>
struct Step;

template <>
struct Step<float> {
  using Operand = Lanes;
  static Operand columns(const uint32_t* words) {
    return load_lanes(reinterpret_cast<const float*>(words));
  }
  static Operand row(const float* at) { return Lanes{} + *at; }
  static Lanes add(Operand a, Operand b, Lanes sum) { return multiply_add(a, b, sum); }
};

#if defined(__AVX512BF16__)
template <>
struct Step<BFloat16> {
  using Operand = __m512bh;
  static Operand columns(const uint32_t* words) { return (__m512bh)_mm512_loadu_si512(words); }
  static Operand row(const BFloat16* at) {
    int word;
    std::memcpy(&word, at, sizeof word);
    return (__m512bh)_mm512_set1_epi32(word);
  }
  static Lanes add(Operand a, Operand b, Lanes sum) { return _mm512_dpbf16_ps(sum, a, b); }
};
#else
template <>
struct Step<BFloat16> {
  struct Operand {
    Lanes even, odd;
  };
  static Operand columns(const uint32_t* words) {
    float even[kLanes], odd[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      even[i] = load(BFloat16{static_cast<uint16_t>(words[i])});
      odd[i] = load(BFloat16{static_cast<uint16_t>(words[i] >> 16)});
    }
    return {load_lanes(even), load_lanes(odd)};
  }
  static Operand row(const BFloat16* at) { return {Lanes{} + load(at[0]), Lanes{} + load(at[1])}; }
  static Lanes add(const Operand& a, const Operand& b, Lanes sum) {
    return multiply_add(a.odd, b.odd, multiply_add(a.even, b.even, sum));
  }
};
#endif

constexpr int kSumRows = kLanes == 16 ? 6 : 4;     // sums and operands fit the registers
constexpr int kSumVectors = kLanes == 16 ? 4 : 2;  // of kLanes columns

// sums [kSumRows, kPanel] += rows . columns of a panel, over `words` of the depth.
template <typename T>
void add_tile(const T* const* rows, const uint32_t* panel, int64_t words, float* sums) {
  using S = Step<T>;
  const T* row[kSumRows];
  for (int r = 0; r < kSumRows; ++r) row[r] = rows[r];
  Lanes sum[kSumRows][kSumVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kSumRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kSumVectors; ++c) sum[r][c] = load_lanes(sums + r * kPanel + c * kLanes);
  for (int64_t word = 0; word < words; ++word) {
    typename S::Operand b[kSumVectors];
#pragma GCC unroll 8
    for (int c = 0; c < kSumVectors; ++c) b[c] = S::columns(panel + word * kPanel + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kSumRows; ++r) {
      const typename S::Operand a = S::row(row[r] + word * kPerWord<T>);
#pragma GCC unroll 8
      for (int c = 0; c < kSumVectors; ++c) sum[r][c] = S::add(a, b[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kSumRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kSumVectors; ++c)
      std::memcpy(sums + r * kPanel + c * kLanes, &sum[r][c], sizeof(Lanes));
}

// sums [count, kPanel] += rows . panel. There is space for sums of whole tiles.
template <typename T>
void add_rows(const T* rows, int64_t stride, int64_t count, const uint32_t* panel, int64_t words,
              float* sums) {
  for (int64_t r = 0; r < count; r += kSumRows) {
    const T* tile[kSumRows];  // the last row stands for those that are missing
    for (int i = 0; i < kSumRows; ++i) tile[i] = rows + std::min(r + i, count - 1) * stride;
    for (int64_t column = 0; column < kPanel; column += kSumVectors * kLanes)
      add_tile(tile, panel + column, words, sums + r * kPanel + column);
  }
}

#if defined(ZOPRUNE_TILES)
inline void add_rows(const BFloat16* rows, int64_t stride, int64_t count, const uint32_t* panel,
                     int64_t words, float* sums) {
  for (int64_t r = 0; r < count; r += 2 * kTileSide) {
    const int64_t some = std::min(2 * kTileSide, count - r);
    if (r == 0 || some < 2 * kTileSide) shape_tiles(some);
    multiply_tiles(rows + r * stride, stride, some, panel, words, sums + r * kPanel);
  }
  _tile_release();
}
#endif

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
