// Reading keys: their types, norms, and the one definition of a cosine.
#pragma once

#include <type_traits>

#include "cuda/greedy/state.cuh"

namespace zoprune::cuda {

template <DType type>
struct Element {
  using Word = std::conditional_t<type == DType::float32, uint32_t, uint16_t>;
  static constexpr int kBytes = sizeof(Word);

  __device__ static float to_float(uint32_t bits) {
    if constexpr (type == DType::float16) return half_to_float(static_cast<uint16_t>(bits));
    if constexpr (type == DType::bfloat16) bits <<= 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  __device__ static float load(const void* data, int64_t i) {
    return to_float(static_cast<const Word*>(data)[i]);
  }
};

// The keys of all tokens, a row each, read in pieces of 16 bytes.
template <DType type>
struct Keys {
  const unsigned char* data;
  int64_t row_bytes;
  bool aligned;  // every row starts at 16 bytes

  __device__ explicit Keys(const SelectArguments& arguments)
      : data(static_cast<const unsigned char*>(arguments.keys)),
        row_bytes(arguments.dim * Element<type>::kBytes),
        aligned(reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_bytes % 16 == 0) {}

  __device__ int stages() const {
    return static_cast<int>((row_bytes + kStageBytes - 1) / kStageBytes);
  }
  __device__ int chunks() const { return (stages() + kChunkStages - 1) / kChunkStages; }
  __device__ const unsigned char* row(int64_t token) const { return data + token * row_bytes; }

  // The piece at byte `offset` of a row, zero beyond the row's end.
  __device__ uint4 piece(const unsigned char* row, int64_t offset) const {
    if (aligned) return *reinterpret_cast<const uint4*>(row + offset);
    return make_uint4(word(row, offset), word(row, offset + 4), word(row, offset + 8),
                      word(row, offset + 12));
  }

 private:
  __device__ uint32_t word(const unsigned char* row, int64_t offset) const {
    if constexpr (type == DType::float32) return element(row, offset);
    return element(row, offset) | element(row, offset + 2) << 16;
  }
  __device__ uint32_t element(const unsigned char* row, int64_t offset) const {
    using Word = typename Element<type>::Word;
    return offset < row_bytes ? *reinterpret_cast<const Word*>(row + offset) : 0u;
  }
};

// Sums over the elements of two keys.
struct Moments {
  double aa, ab, bb;
};

__device__ inline Moments warp_sum(Moments sum) {
  for (int other = 16; other > 0; other /= 2) {
    sum.aa += __shfl_xor_sync(kAllLanes, sum.aa, other);
    sum.ab += __shfl_xor_sync(kAllLanes, sum.ab, other);
    sum.bb += __shfl_xor_sync(kAllLanes, sum.bb, other);
  }
  return sum;
}

// By a whole warp: every product and sum in Real, pieces of 16 bytes then added up in double.
// `piece(row, offset)` reads without a branch, so that many loads are on their way at once.
template <typename Real, DType type, typename Piece>
__device__ Moments moments_of(const Keys<type>& keys, int64_t a, int64_t b, const Piece& piece) {
  const unsigned char *const row_a = keys.row(a), *const row_b = keys.row(b);
  Moments sum = {};
  [[maybe_unused]] constexpr int kTogether = type == DType::float32 ? 4 : 8;  // loads
#pragma unroll kTogether
  for (int64_t offset = lane() * 16; offset < keys.row_bytes; offset += 32 * 16) {
    const uint4 x = piece(row_a, offset), y = piece(row_b, offset);
    const uint32_t words_a[4] = {x.x, x.y, x.z, x.w}, words_b[4] = {y.x, y.y, y.z, y.w};
    Real aa = 0, ab = 0, bb = 0;
    const auto add = [&](uint32_t bits_a, uint32_t bits_b) {
      const Real p = Element<type>::to_float(bits_a), q = Element<type>::to_float(bits_b);
      aa = fma(p, p, aa);
      ab = fma(p, q, ab);
      bb = fma(q, q, bb);
    };
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (type == DType::float32) {
        add(words_a[i], words_b[i]);
      } else {
        add(words_a[i] & 0xffffu, words_b[i] & 0xffffu);
        add(words_a[i] >> 16, words_b[i] >> 16);
      }
    }
    sum.aa += aa;
    sum.ab += ab;
    sum.bb += bb;
  }
  return warp_sum(sum);
}

template <typename Real, DType type>
__device__ Moments moments_in(const Keys<type>& keys, int64_t a, int64_t b) {
  const auto whole = [](const unsigned char* row, int64_t offset) {
    return *reinterpret_cast<const uint4*>(row + offset);
  };
  const auto any = [&](const unsigned char* row, int64_t offset) {
    return keys.piece(row, offset);
  };
  return keys.aligned ? moments_of<Real>(keys, a, b, whole) : moments_of<Real>(keys, a, b, any);
}

// Products of 16-bit elements are exact in single precision, and eight of them lose 2^-21 of their
// sum: far less than an inverse norm's own rounding, once hundreds are added up in double. Where
// single precision might overflow or lose products, all is done again in double.
template <DType type>
__device__ Moments moments(const Keys<type>& keys, int64_t a, int64_t b) {
  if constexpr (type != DType::float32) {
    const Moments sum = moments_in<float>(keys, a, b);
    const auto safe = [](double squares) { return squares > 0x1p-60 && squares < 0x1p120; };
    if (safe(sum.aa) && safe(sum.bb)) return sum;
  }
  return moments_in<double>(keys, a, b);
}

// 1 / ||key||; 0 for a key without direction, -1 where single precision might overflow or lose the
// products of such keys.
__device__ inline float inverse_norm(double squares) {
  if (!(squares > 0) || !(squares <= 1.7976931348623157e308)) return 0;
  const double norm = sqrt(squares);
  return norm < 0x1p-40 || norm > 0x1p60 ? -1.0f : static_cast<float>(1 / norm);
}

template <DType type>
__device__ float cosine_in_double(const Keys<type>& keys, int64_t a, int64_t b) {
  const unsigned char *const row_a = keys.row(a), *const row_b = keys.row(b);
  double dot = 0, aa = 0, bb = 0;
#pragma unroll 1
  for (int64_t i = 0; i < keys.row_bytes / Element<type>::kBytes; ++i) {
    const double x = Element<type>::load(row_a, i), y = Element<type>::load(row_b, i);
    dot = fma(x, y, dot);
    aa = fma(x, x, aa);
    bb = fma(y, y, bb);
  }
  return static_cast<float>(dot / (sqrt(aa) * sqrt(bb)));
}

// The cosine of token a to candidate b, from the dot product of their keys.
template <DType type>
__device__ float cosine(const Keys<type>& keys, int64_t a, int64_t b, float dot, float inverse_a,
                        float inverse_b) {
  if (inverse_a == 0 || inverse_b == 0) return 0;
  float value = dot * (inverse_a * inverse_b);  // symmetric, and as on the CPU
  if (inverse_a < 0 || inverse_b < 0) value = cosine_in_double(keys, a, b);
  return fminf(fmaxf(value, -1.0f), 1.0f);
}

}  // namespace zoprune::cuda
