// Weights as the products' kernels read them. A panel is 64 of a weight's rows, which are columns
// of the product, depth by depth: [depth][64] of fp32, or [depth / 2][64] of pairs of bf16. Both
// are
// [..][64] of 32-bit words, a row's word after the next row's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"
#include "cpu/lanes.h"
#include "cpu/product.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr int64_t kWords = 16;  // a cache line of 32-bit words

template <typename T>
constexpr int64_t kPerWord = sizeof(uint32_t) / sizeof(T);

// words [16 rows][16], rows `stride` apart -> out [16][16 rows], its lines `out_stride` apart.
template <typename Word>
void transpose_words(const Word* words, int64_t stride, Word* out, int64_t out_stride) {
  static_assert(sizeof(Word) == 4);
#if defined(__AVX512F__)
  __m512i r[kWords], t[kWords];
#pragma GCC unroll 16
  for (int i = 0; i < kWords; ++i) r[i] = _mm512_loadu_si512(words + i * stride);
#pragma GCC unroll 8
  for (int i = 0; i < kWords; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kWords; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // r[4 b + i] has word 4 q + i of rows 4 b .. in quarter q
    const __m512i low02 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    const __m512i low13 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    const __m512i high02 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    const __m512i high13 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    _mm512_storeu_si512(out + i * out_stride, _mm512_shuffle_i32x4(low02, high02, 0x88));
    _mm512_storeu_si512(out + (4 + i) * out_stride, _mm512_shuffle_i32x4(low13, high13, 0x88));
    _mm512_storeu_si512(out + (8 + i) * out_stride, _mm512_shuffle_i32x4(low02, high02, 0xdd));
    _mm512_storeu_si512(out + (12 + i) * out_stride, _mm512_shuffle_i32x4(low13, high13, 0xdd));
  }
#else
  for (int64_t w = 0; w < kWords; ++w)
    for (int64_t r = 0; r < kWords; ++r) out[w * out_stride + r] = words[r * stride + w];
#endif
}

// [rows, cols] -> [cols, rows], their rows `stride` and `out_stride` apart.
[[maybe_unused]] inline void transpose(const float* from, int64_t stride, int64_t rows,
                                       int64_t cols, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < rows; r += kWords)
    for (int64_t c = 0; c < cols; c += kWords)
      if (r + kWords <= rows && c + kWords <= cols)
        transpose_words(from + r * stride + c, stride, out + c * out_stride + r, out_stride);
      else
        for (int64_t i = r; i < std::min(r + kWords, rows); ++i)
          for (int64_t j = c; j < std::min(c + kWords, cols); ++j)
            out[j * out_stride + i] = from[i * stride + j];
}

// `count` elements of a row as T, and zeros up to `whole`. `part` is 0, or 1 for what rounding to
// bf16 leaves of fp16, which is exact in bf16 too.
template <typename T, typename From>
void convert(const From* from, int64_t count, int64_t whole, int part, T* out) {
  int64_t i = 0;
  const auto convert_lanes = [&](Lanes value, int64_t n) {
    BFloat16 rounded[kLanes];
    float kept[kLanes];
    if constexpr (sizeof(T) == 2) {
      if (part == 1) {
        round_lanes(value, rounded);
        const Lanes rest = value - load_lanes(rounded);
        value = rest == rest ? rest : Lanes{};  // an infinite one has no second part
      }
      round_lanes(value, rounded);
      std::memcpy(out + i, rounded, n * sizeof(T));
    } else {
      std::memcpy(kept, &value, sizeof kept);
      std::memcpy(out + i, kept, n * sizeof(T));
    }
  };
  for (; i + kLanes <= count; i += kLanes) convert_lanes(load_lanes(from + i), kLanes);
  if (i < count)
    convert_lanes(load_lanes(Tail<From, kLanes>(from + i, count - i).values), count - i);
  std::fill(out + count, out + whole, T{});
}

template <typename T>
void convert(KeyType type, const char* from, int64_t first, int64_t count, int64_t whole, int part,
             T* out) {
  if (type == KeyType::float32)
    convert(reinterpret_cast<const float*>(from) + first, count, whole, part, out);
  else if (type == KeyType::float16)
    convert(reinterpret_cast<const Half*>(from) + first, count, whole, part, out);
  else
    convert(reinterpret_cast<const BFloat16*>(from) + first, count, whole, part, out);
}

template <typename T>
constexpr bool is_a(KeyType type) {
  return type == (sizeof(T) == 4 ? KeyType::float32 : KeyType::bfloat16);
}

// Packs the weight's rows [row, row + kPanel), those that it has, up to `depth` of each, a multiple
// of kDepthStep, with zeros where the weight ends.
template <typename T>
void pack_panel(const Weight& weight, int64_t row, int64_t depth, int part, T* panel) {
  constexpr int64_t kStep = kWords * kPerWord<T>, kBlock = 16 * kStep;
  alignas(64) T space[kWords * kBlock];
  auto* const out = reinterpret_cast<uint32_t*>(panel);
  const char* const data = static_cast<const char*>(weight.data);
  const int64_t bytes = key_bytes(weight.type) * weight.stride;
  for (int64_t group = 0; group < kPanel; group += kWords) {
    const int64_t rows = std::min(std::max<int64_t>(weight.rows - row - group, 0), kWords);
    const char* const from = data + (row + group) * bytes;
    for (int64_t k = 0; k < depth; k += kBlock) {
      const int64_t whole = std::min(kBlock, depth - k);
      const int64_t count = std::min(std::max<int64_t>(weight.depth - k, 0), whole);
      const T* words = reinterpret_cast<const T*>(from) + k;
      int64_t stride = weight.stride;
      const bool in_place =
          is_a<T>(weight.type) && rows == kWords && count == whole && stride % kPerWord<T> == 0;
      if (!in_place) {
        words = space;
        stride = kBlock;
        for (int64_t r = 0; r < kWords; ++r)
          if (r < rows)
            convert(weight.type, from + r * bytes, k, count, whole, part, space + r * kBlock);
          else
            std::fill_n(space + r * kBlock, whole, T{});
      }
      for (int64_t i = 0; i < whole; i += kStep)
        transpose_words(reinterpret_cast<const uint32_t*>(words + i), stride / kPerWord<T>,
                        out + (k + i) / kPerWord<T> * kPanel + group, kPanel);
    }
  }
}

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
