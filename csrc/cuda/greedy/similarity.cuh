// Dot products of an image's keys with those of a round's candidates, by tensor cores.
#pragma once

#include "cuda/greedy/keys.cuh"

namespace zoprune::cuda {

// A warp has 32 tokens by 48 candidates of a tile, or by 24 where there are few candidates.
constexpr int kTokenWarps = 2;                                // warps along a tile's tokens
constexpr int kCandidateWarps = kWarps / kTokenWarps;         // and along the candidates
constexpr int kHalves = kTileRows / kTokenWarps / 16;         // of a warp's tokens, 16 each
constexpr int kParts = kBlock / kCandidateWarps / 8;          // of its candidates, 8 each
constexpr int kFewParts = kColumnStep / kCandidateWarps / 8;  // of few candidates
constexpr int kStepWords = 8;                     // of a row that one mma takes, 4 bytes each
constexpr int kRowPieces = kStageBytes / 16;      // that are copied of a row at a time
constexpr int kPassRows = kThreads / kRowPieces;  // that all threads copy at a time
constexpr int kCopies = (kTileRows + kBlock) / kPassRows;  // of a thread for each stage

// Sums of a warp's dot products, as the fragments of its threads.
using Sums = float[kParts][kHalves][4];

// The first candidate of a warp's part p; the parts are dealt so that few candidates use all warps.
__device__ inline int part_column(int p) {
  return (p * kCandidateWarps + warp() / kTokenWarps) * 8;
}

// The first of a warp's tokens in a tile.
__device__ inline int first_token() { return warp() % kTokenWarps * kHalves * 16; }

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
    float low_high[4] = {}, high_low[4] = {};
    mma_tf32(low_high, a_low, b_high);
    mma_tf32(high_low, a_high, b_low);
    mma_tf32(d, a_high, b_high);
    // The same, whichever of two tokens is the candidate.
    for (int i = 0; i < 4; ++i) d[i] += low_high[i] + high_low[i];
  }
}

// The rows of a tile, first of tokens, then of candidates. Which tokens they are is looked up once
// for all stages, a row a thread. A thread copies the same piece of every kPassRows-th row.
static_assert(kThreads == kTileRows + kBlock, "a thread looks up a row");

template <DType key>
struct TileRows {
  const Keys<key>& keys;
  const Image& image;
  int rows;

  __device__ TileRows(const Keys<key>& keys, const Image& image, int first_row, int columns)
      : keys(keys),
        image(image),
        rows(kTileRows + (columns + kColumnStep - 1) / kColumnStep * kColumnStep) {
    Shared& s = shared();
    const int row = static_cast<int>(threadIdx.x), column = row - kTileRows;
    int token = -1;
    if (column < 0)
      token = first_row + row < image.tokens ? first_row + row : -1;
    else if (column < columns)
      token = static_cast<int>(rank_index(s.candidate[column]));
    __syncthreads();  // the last tile's are used up, and so is the scratch memory
    s.row_token[row] = token;
    __syncthreads();
  }

  __device__ void copy(int stage, unsigned char* buffer) const {
    const int piece = static_cast<int>(threadIdx.x) % kRowPieces;
    const int first = static_cast<int>(threadIdx.x) / kRowPieces;
    const int64_t offset = static_cast<int64_t>(stage) * kStageBytes + piece * 16;
    const bool inside = offset < keys.row_bytes;
    const unsigned char* const from = keys.row(image.start) + (inside ? offset : 0);
    unsigned char* const to = buffer + first * kRowBytes + piece * 16;
    // Looked up before any copy, but for float32, where registers are short.
    const int* const row_token = shared().row_token + first;
    [[maybe_unused]] int known[kCopies];
    if constexpr (key != DType::float32)
#pragma unroll
      for (int i = 0; i < kCopies; ++i) known[i] = row_token[i * kPassRows];
    const auto token = [&](int i) {
      if constexpr (key == DType::float32)
        return row_token[i * kPassRows];
      else
        return known[i];
    };
    if (keys.aligned) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        if (i * kPassRows >= rows) break;
        copy_async(to + i * kPassRows * kRowBytes, from + max(token(i), 0) * keys.row_bytes,
                   inside && token(i) >= 0);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      if (i * kPassRows >= rows) break;
      *reinterpret_cast<uint4*>(to + i * kPassRows * kRowBytes) =
          inside && token(i) >= 0 ? keys.piece(keys.row(image.start + token(i)), offset) : uint4{};
    }
  }
};

// Adds one stage's products of a warp's tokens and its first `parts` parts of the candidates, of
// which there may be fewer `columns`.
template <DType key, int parts>
__device__ void multiply_stage(const unsigned char* stage, int columns, Sums& sum) {
  constexpr int kStepBytes = kStepWords * 4;
  constexpr int kPartBytes = kCandidateWarps * 8 * kRowBytes;  // from a warp's part to the next
  constexpr int kHalfBytes = 16 * kRowBytes;
  // The rows of 16 bytes that a lane brings to a warp's loads: of tokens, rows 0 - 7 and 8 - 15 of
  // a half, then both again 16 bytes on; of candidates, both pieces of a part, then of the next
  // one.
  const unsigned char* const tokens =
      stage + (first_token() + lane() % 16) * kRowBytes + lane() / 16 * 16;
  const unsigned char* const candidates =
      stage + (kTileRows + part_column(lane() / 16) + lane() % 8) * kRowBytes + lane() / 8 % 2 * 16;
  if constexpr (key == DType::float32) {  // three products each: registers are short
#pragma unroll 1
    for (int step = 0; step < kStageBytes; step += kStepBytes) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        uint32_t a[4], b[2];
        load_matrices<4>(a, tokens + half * kHalfBytes + step);
#pragma unroll
        for (int p = 0; p < parts; ++p) {
          if (p == kFewParts && columns <= kColumnStep) break;
          load_matrices<2>(b, candidates + p * kPartBytes + step);
          multiply<key>(sum[p][half], a, b);
        }
      }
    }
  } else {  // without a branch among the products, so that fragments are loaded ahead of them
#pragma unroll
    for (int step = 0; step < kStageBytes; step += kStepBytes) {
      uint32_t a[kHalves][4];
#pragma unroll
      for (int half = 0; half < kHalves; ++half)
        load_matrices<4>(a[half], tokens + half * kHalfBytes + step);
#pragma unroll
      for (int p = 0; p < parts; p += kFewParts) {
        static_assert(kFewParts == 3, "two parts, then one");
        uint32_t words[6];
        load_matrices<4>(words, candidates + p * kPartBytes + step);
        load_matrices<2>(words + 4, candidates + (p + 2) * kPartBytes + step);
#pragma unroll
        for (int i = 0; i < kFewParts; ++i) {
          const uint32_t b[2] = {words[2 * i], words[2 * i + 1]};
          for (int half = 0; half < kHalves; ++half) multiply<key>(sum[p + i][half], a[half], b);
        }
      }
    }
  }
}

// Dot products of the 64 tokens from first_row on with the candidates, over the key's stages
// [begin, end), chunk after chunk. A thread keeps the fragments of its warp's parts.
template <DType key>
__device__ void tile_products(const Keys<key>& keys, const Image& image, int first_row, int columns,
                              int begin, int end, Sums& total) {
  unsigned char* const stages = scratch();
  const TileRows<key> tile(keys, image, first_row, columns);
  const auto buffer_of = [&](int stage) {
    return stages + stage % kStages * stage_bytes(image.block);
  };

  Sums sum = {};
#pragma unroll
  for (int p = 0; p < kParts; ++p)
    for (int half = 0; half < kHalves; ++half)
      for (int i = 0; i < 4; ++i) total[p][half][i] = 0;

#pragma unroll 1
  for (int stage = begin - kStages + 1; stage < end; ++stage) {
    if (stage >= begin) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this stage has landed, and the one before it is used up
    }
    const int ahead = stage + kStages - 1;
    if (ahead < end) tile.copy(ahead, buffer_of(ahead));
    commit_copies();
    if (stage < begin) continue;

    if (key == DType::float32 || columns > kColumnStep)
      multiply_stage<key, kParts>(buffer_of(stage), columns, sum);
    else
      multiply_stage<key, kFewParts>(buffer_of(stage), columns, sum);
    if (stage % kChunkStages == kChunkStages - 1 || stage + 1 == end) {
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        for (int half = 0; half < kHalves; ++half)
          for (int i = 0; i < 4; ++i) {
            total[p][half][i] += sum[p][half][i];
            sum[p][half][i] = 0;
          }
    }
  }
}

// Writes a tile's sums, those of tokens from first_row on and of the first `columns` candidates, up
// to a multiple of eight, to rows of kBlock numbers.
__device__ inline void store_products(const Sums& total, int first_row, int tokens, int columns,
                                      float* output) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    if (part_column(p) >= columns) break;
    for (int i = 0; i < 2 * kHalves; ++i) {
      const int token = first_row + first_token() + i * 8 + lane() / 4;
      if (token >= tokens) continue;
      float* const to = output + static_cast<int64_t>(token) * kBlock + part_column(p);
      const float (&of)[4] = total[p][i / 2];
      *reinterpret_cast<float2*>(to + lane() % 4 * 2) =
          make_float2(of[i % 2 * 2], of[i % 2 * 2 + 1]);
    }
  }
}

// The sum of a dot product's parts, first to last, for four columns; `stride` from part to part.
__device__ inline float4 sum_parts(const float* partial, int parts, int64_t stride) {
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (int chunk = 0; chunk < parts; ++chunk) {
    const float4 part = load_fresh(reinterpret_cast<const float4*>(partial + chunk * stride));
    sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
  }
  return sum;
}

// Fills Workspace::products for the image's tokens and the round's candidates; columns beyond them,
// up to a multiple of eight, become zero. Every thread block of the group takes part, and must be
// past a barrier before it reads them.
template <DType key>
__device__ void compute_products(const Keys<key>& keys, const Image& image, const SelectPlan& plan,
                                 const Workspace& work, int columns) {
  const bool split = image.tokens <= plan.split_rows;
  const int tiles = (image.tokens + kTileRows - 1) / kTileRows;
  const int parts = split ? keys.chunks() : 1;
  // Looked up where they are used: registers are short during the products.
  const auto products = [&] { return work.products + image.rows * kBlock; };
  const auto partial = [&](int chunk) {
    return work.partial + (image.group * plan.chunks * plan.split_rows +
                           static_cast<int64_t>(chunk) * image.tokens) *
                              kBlock;
  };
  for (int item = image.member; item < tiles * parts; item += image.members) {
    const int first_row = item % tiles * kTileRows, chunk = item / tiles;
    const int begin = chunk * kChunkStages;
    const int end = split ? min(begin + kChunkStages, keys.stages()) : keys.stages();
    Sums total;
    tile_products(keys, image, first_row, columns, begin, end, total);
    store_products(total, first_row, image.tokens, columns, split ? partial(chunk) : products());
  }
  if (!split) return;

  group_barrier(image.arrivals, image.members);
  const int quads = (columns + 7) / 8 * 2;  // of columns
  for (int token = image.first_own(); token < image.tokens; token += image.stride()) {
    for (int quad = lane(); quad < quads; quad += 32) {
      const int64_t at = static_cast<int64_t>(token) * kBlock + quad * 4;
      const int64_t stride = static_cast<int64_t>(image.tokens) * kBlock;
      *reinterpret_cast<float4*>(products() + at) = sum_parts(partial(0) + at, parts, stride);
    }
  }
}

}  // namespace zoprune::cuda
