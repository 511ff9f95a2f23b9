// Cosines of an image's tokens to the candidates of a round, by tensor cores.
#pragma once

#include <type_traits>

#include "cuda/select_state.cuh"

namespace zoprune::cuda {

constexpr int kTokenWarps = kTileRows / 16;            // warps along a tile's tokens
constexpr int kCandidateWarps = kWarps / kTokenWarps;  // and along the candidates
constexpr int kParts =
    kBlock / 8 / kCandidateWarps;  // products of a warp, 16 tokens by 8 candidates
constexpr int kStepWords = 8;      // 4-byte words of a row that one mma takes

// The first candidate of a warp's part p; the parts are dealt so that few candidates use all warps.
__device__ inline int part_column(int p) {
  return (p * kCandidateWarps + warp() / kTokenWarps) * 8;
}

template <DType key>
struct Element {
  static constexpr int kBytes = key == DType::float32 ? 4 : 2;

  __device__ static float load(const void* keys, int64_t i) {
    if constexpr (key == DType::float32) return static_cast<const float*>(keys)[i];
    const uint16_t bits = static_cast<const uint16_t*>(keys)[i];
    if constexpr (key == DType::float16) return half_to_float(bits);
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
  }
};

// The keys of all tokens, and how to read them.
template <DType key>
struct Keys {
  const unsigned char* data;
  int64_t dim;
  bool aligned;  // every row starts at 16 bytes

  __device__ explicit Keys(const SelectArguments& arguments)
      : data(static_cast<const unsigned char*>(arguments.keys)), dim(arguments.dim) {
    aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_bytes() % 16 == 0;
  }
  __device__ int64_t row_bytes() const { return dim * Element<key>::kBytes; }
  __device__ int stages() const {
    return static_cast<int>((row_bytes() + kStageBytes - 1) / kStageBytes);
  }
  __device__ int chunks() const { return (stages() + kChunkStages - 1) / kChunkStages; }
  __device__ float at(int64_t token, int64_t i) const {
    return Element<key>::load(data, token * dim + i);
  }
};

// 1 / ||key|| by a whole warp; 0 for a key without direction, -1 where single precision might
// overflow or lose the products of such keys.
template <DType key>
__device__ float inverse_norm(const Keys<key>& keys, int64_t token) {
  double sum = 0;
#pragma unroll 8
  for (int64_t i = lane(); i < keys.dim; i += 32) {
    const double value = keys.at(token, i);
    sum = fma(value, value, sum);
  }
  for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(kAllLanes, sum, other);
  if (!(sum > 0) || !(sum <= 1.7976931348623157e308)) return 0;
  const double norm = sqrt(sum);
  return norm < 0x1p-40 || norm > 0x1p60 ? -1.0f : static_cast<float>(1 / norm);
}

// Rare, so not inlined.
template <DType key>
__device__ __noinline__ float cosine_in_double(const void* keys, int64_t dim, int64_t a,
                                               int64_t b) {
  double dot = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < dim; ++i) {
    const double x = Element<key>::load(keys, a * dim + i),
                 y = Element<key>::load(keys, b * dim + i);
    dot = fma(x, y, dot);
    aa = fma(x, x, aa);
    bb = fma(y, y, bb);
  }
  return static_cast<float>(dot / (sqrt(aa) * sqrt(bb)));
}

// The one definition of the cosine of token a to candidate b, from the dot product of their keys.
template <DType key>
__device__ float cosine(const Keys<key>& keys, int64_t a, int64_t b, float dot, float inverse_a,
                        float inverse_b) {
  if (inverse_a == 0 || inverse_b == 0) return 0;
  const bool in_double = inverse_a < 0 || inverse_b < 0;
  const float value =
      in_double ? cosine_in_double<key>(keys.data, keys.dim, a, b) : dot * inverse_a * inverse_b;
  return fminf(fmaxf(value, -1.0f), 1.0f);
}

// d += a b for fragments of 16 tokens by 8 candidates. Single precision takes three tf32 products:
// what they leave out is below 2^-22 of each term.
template <DType key>
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (key == DType::bfloat16) {
    mma_bf16(d, a, b);
  } else if constexpr (key == DType::float16) {
    mma_f16(d, a, b);
  } else {
    uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
    const auto split = [](uint32_t word, uint32_t& high, uint32_t& low) {
      float value, rounded;
      memcpy(&value, &word, sizeof value);
      high = round_to_tf32(value);
      memcpy(&rounded, &high, sizeof rounded);
      low = round_to_tf32(value - rounded);
    };
    for (int i = 0; i < 4; ++i) split(a[i], a_high[i], a_low[i]);
    for (int i = 0; i < 2; ++i) split(b[i], b_high[i], b_low[i]);
    mma_tf32(d, a_low, b_high);
    mma_tf32(d, a_high, b_low);
    mma_tf32(d, a_high, b_high);
  }
}

// Dot products of the 64 tokens from first_row on with the candidates, over the key's stages
// [begin, end), in order of chunks. Each thread keeps its fragments, see `for_each_product`.
template <DType key>
__device__ void tile_products(const Keys<key>& keys, const Image& image, int first_row, int columns,
                              int begin, int end, float (&total)[kParts][4]) {
  const Shared& s = shared();
  unsigned char* const stages = scratch();
  const int padded_columns = (columns + 7) / 8 * 8;

  const auto load = [&](int stage) {
    unsigned char* const buffer = stages + stage % kStages * kStageSize;
    for (int piece = static_cast<int>(threadIdx.x); piece < (kTileRows + padded_columns) * 8;
         piece += kThreads) {
      const int row = piece / 8;
      int token = -1;
      if (row < kTileRows) {
        if (first_row + row < image.tokens) token = first_row + row;
      } else if (row - kTileRows < columns) {
        token = static_cast<int>(rank_index(s.candidate[row - kTileRows]));
      }
      unsigned char* const to = buffer + row * kRowBytes + piece % 8 * 16;
      const int64_t offset = static_cast<int64_t>(stage) * kStageBytes + piece % 8 * 16;
      const int64_t left = token < 0 ? 0 : keys.row_bytes() - offset;
      const int bytes = left <= 0 ? 0 : left < 16 ? static_cast<int>(left) : 16;
      const unsigned char* const from =
          bytes == 0 ? keys.data : keys.data + (image.start + token) * keys.row_bytes() + offset;
      if (keys.aligned) {
        copy_async(to, from, bytes);
      } else {
        using Word = std::conditional_t<key == DType::float32, uint32_t, uint16_t>;
        for (int i = 0; i < 16 / static_cast<int>(sizeof(Word)); ++i)
          reinterpret_cast<Word*>(to)[i] = i * static_cast<int>(sizeof(Word)) < bytes
                                               ? reinterpret_cast<const Word*>(from)[i]
                                               : Word{0};
      }
    }
  };

  float sum[kParts][4] = {};
#pragma unroll
  for (int p = 0; p < kParts; ++p)
    for (int i = 0; i < 4; ++i) total[p][i] = 0;

  __syncthreads();  // the scratch memory is free
  for (int stage = begin; stage < begin + kStages - 1; ++stage) {
    if (stage < end) load(stage);
    commit_copies();
  }
  for (int stage = begin; stage < end; ++stage) {
    wait_copies<kStages - 2>();
    __syncthreads();  // this stage has landed, and the one before it is used up
    if (stage + kStages - 1 < end) load(stage + kStages - 1);
    commit_copies();

    const unsigned char* const buffer = stages + stage % kStages * kStageSize;
    const auto* const words = reinterpret_cast<const uint32_t*>(buffer);
#pragma unroll
    for (int step = 0; step < kStageBytes / 4 / kStepWords; ++step) {
      const auto fragment = [&](int row, int half) {
        return words[row * (kRowBytes / 4) + step * kStepWords + half * 4 + lane() % 4];
      };
      const int row = warp() % kTokenWarps * 16 + lane() / 4;
      const uint32_t a[4] = {fragment(row, 0), fragment(row + 8, 0), fragment(row, 1),
                             fragment(row + 8, 1)};
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        const int column = part_column(p);
        if (column >= columns) break;
        const int other = kTileRows + column + lane() / 4;
        const uint32_t b[2] = {fragment(other, 0), fragment(other, 1)};
        multiply<key>(sum[p], a, b);
      }
    }
    if (stage % kChunkStages == kChunkStages - 1 || stage + 1 == end) {
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        for (int i = 0; i < 4; ++i) {
          total[p][i] += sum[p][i];
          sum[p][i] = 0;
        }
    }
  }
}

// Calls visit(row, column, value) for this thread's products: row and column in the tile, two
// neighbouring columns at a time.
template <typename Visit>
__device__ void for_each_pair(const float (&total)[kParts][4], int columns, const Visit& visit) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int column = part_column(p) + lane() % 4 * 2;
    if (part_column(p) >= columns) break;
    const int row = warp() % kTokenWarps * 16 + lane() / 4;
    visit(row, column, make_float2(total[p][0], total[p][1]));
    visit(row + 8, column, make_float2(total[p][2], total[p][3]));
  }
}

// Fills Workspace::similarity for the image's tokens and the round's candidates. Every thread block
// of the group takes part, and must be past a barrier before it reads them.
template <DType key>
__device__ void compute_similarities(const Keys<key>& keys, const Image& image,
                                     const Workspace& work, int columns, bool split) {
  const Shared& s = shared();
  const int tiles = (image.tokens + kTileRows - 1) / kTileRows;
  const int parts = split ? keys.chunks() : 1;
  const auto cosine_to = [&](int token, float inverse, int column, float dot) {
    if (column >= columns) return 0.0f;
    return cosine(keys, image.start + token, image.start + rank_index(s.candidate[column]), dot,
                  inverse, s.inverse_norm[column]);
  };
  const auto inverse_norm_of = [&](int token) {
    return load_fresh(work.inverse_norm + image.start + token);
  };

  for (int item = image.member; item < tiles * parts; item += image.members) {
    const int first_row = item % tiles * kTileRows, chunk = item / tiles;
    const int begin = chunk * kChunkStages;
    const int end = split ? min(begin + kChunkStages, keys.stages()) : keys.stages();
    float total[kParts][4];
    tile_products(keys, image, first_row, columns, begin, end, total);
    for_each_pair(total, columns, [&](int row, int column, float2 dot) {
      const int token = first_row + row;
      if (token >= image.tokens) return;
      if (split) {
        const int64_t at = static_cast<int64_t>(chunk) * image.tokens + token;
        *reinterpret_cast<float2*>(image.partial + at * kBlock + column) = dot;
      } else {
        const float inverse = inverse_norm_of(token);
        float* const to = work.similarity + (image.rows + token) * kBlock + column;
        *reinterpret_cast<float2*>(to) = make_float2(cosine_to(token, inverse, column, dot.x),
                                                     cosine_to(token, inverse, column + 1, dot.y));
      }
    });
  }
  if (!split) return;

  group_barrier(image.arrivals, image.members);
  for (int token = image.first_own(); token < image.tokens; token += image.stride()) {
    const float inverse = inverse_norm_of(token);
    for (int column = lane(); column < columns; column += 32) {
      float dot = 0;
#pragma unroll 4
      for (int chunk = 0; chunk < parts; ++chunk) {
        const int64_t at = static_cast<int64_t>(chunk) * image.tokens + token;
        dot += load_fresh(image.partial + at * kBlock + column);
      }
      work.similarity[(image.rows + token) * kBlock + column] =
          cosine_to(token, inverse, column, dot);
    }
  }
}

}  // namespace zoprune::cuda
