// Dot products of an image's keys with those of a round's candidates, by tensor cores.
#pragma once

#include "cuda/greedy/keys.cuh"

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

// Dot products of the 64 tokens from first_row on with the candidates, over the key's stages
// [begin, end), chunk after chunk. A thread keeps the fragments of its warp's parts.
template <DType key>
__device__ void tile_products(const Keys<key>& keys, const Image& image, int first_row, int columns,
                              int begin, int end, float (&total)[kParts][4]) {
  const Shared& s = shared();
  unsigned char* const stages = scratch();
  const int padded_columns = (columns + 7) / 8 * 8;

  const auto load = [&](int stage) {
    unsigned char* const buffer = stages + stage % kStages * stage_bytes(image.block);
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
      const bool there = token >= 0 && offset < keys.row_bytes;
      const unsigned char* const from = there ? keys.row(image.start + token) : keys.data;
      if (keys.aligned)
        copy_async(to, from + (there ? offset : 0), there);
      else
        *reinterpret_cast<uint4*>(to) = there ? keys.piece(from, offset) : uint4{};
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

    const unsigned char* const buffer = stages + stage % kStages * stage_bytes(image.block);
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

// Fills Workspace::products for the image's tokens and the round's candidates; columns beyond them,
// up to a multiple of eight, become zero. Every thread block of the group takes part, and must be
// past a barrier before it reads them.
template <DType key>
__device__ void compute_products(const Keys<key>& keys, const Image& image, const Workspace& work,
                                 int columns, bool split) {
  const int tiles = (image.tokens + kTileRows - 1) / kTileRows;
  const int parts = split ? keys.chunks() : 1;
  float* const products = work.products + image.rows * kBlock;
  for (int item = image.member; item < tiles * parts; item += image.members) {
    const int first_row = item % tiles * kTileRows, chunk = item / tiles;
    const int begin = chunk * kChunkStages;
    const int end = split ? min(begin + kChunkStages, keys.stages()) : keys.stages();
    float total[kParts][4];
    tile_products(keys, image, first_row, columns, begin, end, total);
    float* const output =
        split ? image.partial + static_cast<int64_t>(chunk) * image.tokens * kBlock : products;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      if (part_column(p) >= columns) break;
      for (int half = 0; half < 2; ++half) {
        const int token = first_row + warp() % kTokenWarps * 16 + half * 8 + lane() / 4;
        if (token >= image.tokens) continue;
        float* const to = output + static_cast<int64_t>(token) * kBlock + part_column(p);
        *reinterpret_cast<float2*>(to + lane() % 4 * 2) =
            make_float2(total[p][2 * half], total[p][2 * half + 1]);
      }
    }
  }
  if (!split) return;

  group_barrier(image.arrivals, image.members);
  const int quads = (columns + 7) / 8 * 2;  // of columns
  for (int token = image.first_own(); token < image.tokens; token += image.stride()) {
    for (int quad = lane(); quad < quads; quad += 32) {
      const int64_t at = static_cast<int64_t>(token) * kBlock + quad * 4;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
      for (int chunk = 0; chunk < parts; ++chunk) {
        const int64_t step = static_cast<int64_t>(chunk) * image.tokens * kBlock;
        const float4 part = load_fresh(reinterpret_cast<const float4*>(image.partial + step + at));
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
      *reinterpret_cast<float4*>(products + at) = sum;
    }
  }
}

}  // namespace zoprune::cuda
