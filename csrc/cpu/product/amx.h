// The tiles of AMX, or arrays in their place where ZOPRUNE_EMULATE_AMX is defined: what loads,
// stores and multiplications mean is then checked on any processor.
#pragma once

#if defined(__AMX_BF16__) || defined(ZOPRUNE_EMULATE_AMX)
#define ZOPRUNE_TILES

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"
#include "cpu/product.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr int64_t kTileSide = 16;  // rows of a tile; each has 64 bytes

// The operand of ldtilecfg: rows and bytes of a row of each tile.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

#if defined(ZOPRUNE_EMULATE_AMX)
struct TileFile {
  TileShapes shapes;
  uint32_t words[8][kTileSide][kTileSide];
};
thread_local TileFile tile_file;

inline void emulate_config(const TileShapes& shapes) {
  tile_file.shapes = shapes;
  std::memset(tile_file.words, 0, sizeof tile_file.words);
}

inline void emulate_load(int tile, const void* from, int64_t stride) {
  for (int64_t r = 0; r < tile_file.shapes.rows[tile]; ++r)
    std::memcpy(tile_file.words[tile][r], static_cast<const char*>(from) + r * stride,
                tile_file.shapes.row_bytes[tile]);
}

inline void emulate_store(int tile, void* to, int64_t stride) {
  for (int64_t r = 0; r < tile_file.shapes.rows[tile]; ++r)
    std::memcpy(static_cast<char*>(to) + r * stride, tile_file.words[tile][r],
                tile_file.shapes.row_bytes[tile]);
}

// As Intel's manual has it: even and odd products in sums of their own, which are then added.
inline void emulate_multiply(int sum, int a, int b) {
  const auto half = [](uint32_t word, int odd) {
    return load(BFloat16{static_cast<uint16_t>(odd ? word >> 16 : word)});
  };
  for (int64_t r = 0; r < tile_file.shapes.rows[sum]; ++r)
    for (int64_t c = 0; c < tile_file.shapes.row_bytes[sum] / 4; ++c) {
      float parts[2] = {};
      for (int64_t k = 0; k < tile_file.shapes.row_bytes[a] / 4; ++k)
        for (int odd = 0; odd < 2; ++odd)
          parts[odd] = std::fma(half(tile_file.words[a][r][k], odd),
                                half(tile_file.words[b][k][c], odd), parts[odd]);
      float value;
      std::memcpy(&value, &tile_file.words[sum][r][c], sizeof value);
      value += parts[0] + parts[1];
      std::memcpy(&tile_file.words[sum][r][c], &value, sizeof value);
    }
}
#define ZOPRUNE_TILE_CONFIG(shapes) emulate_config(shapes)
#define ZOPRUNE_TILE_RELEASE() emulate_config(TileShapes())
#define ZOPRUNE_TILE_LOAD(tile, from, stride) emulate_load(tile, from, stride)
#define ZOPRUNE_TILE_STORE(tile, to, stride) emulate_store(tile, to, stride)
#define ZOPRUNE_TILE_MULTIPLY(sum, a, b) emulate_multiply(sum, a, b)
#else
#define ZOPRUNE_TILE_CONFIG(shapes) _tile_loadconfig(&(shapes))
#define ZOPRUNE_TILE_RELEASE() _tile_release()
#define ZOPRUNE_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define ZOPRUNE_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define ZOPRUNE_TILE_MULTIPLY(sum, a, b) _tile_dpbf16ps(sum, a, b)
#endif

// Tiles 0 to 3 are sums of two times two, 4 and 5 rows, 6 and 7 columns. Loads stop at the last
// row; what follows it in memory is not read.
inline void shape_tiles(int64_t rows) {
  TileShapes shapes;
  const auto first = static_cast<uint8_t>(std::min(rows, kTileSide));
  const auto second = static_cast<uint8_t>(std::clamp<int64_t>(rows - kTileSide, 1, kTileSide));
  const uint8_t count[8] = {first, first, second, second, first, second, kTileSide, kTileSide};
  for (int tile = 0; tile < 8; ++tile) {
    shapes.rows[tile] = count[tile];
    shapes.row_bytes[tile] = 64;
  }
  // gcc before 14 takes ldtilecfg to read eight bytes, and could leave out the others.
  asm volatile("" : : "r"(&shapes) : "memory");
  ZOPRUNE_TILE_CONFIG(shapes);
}

// sums [rows <= 32, kPanel] += rows . panel over `words` pairs of the depth, a multiple of 16.
inline void multiply_tiles(const BFloat16* a, int64_t stride, int64_t rows, const uint32_t* panel,
                           int64_t words, float* sums) {
  constexpr int64_t kSumBytes = kPanel * sizeof(float), kPanelBytes = kPanel * sizeof(uint32_t);
  const int64_t row_bytes = stride * static_cast<int64_t>(sizeof(BFloat16));
  const bool both = rows > kTileSide;
  const BFloat16* const below = a + kTileSide * stride;
  // Compilers do not know that loads of tiles read memory: what was written before must be there.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  for (int64_t column = 0; column < kPanel; column += 2 * kTileSide) {
    float* const out = sums + column;
    float* const out_below = out + kTileSide * kPanel;
    const uint32_t* const b = panel + column;
    ZOPRUNE_TILE_LOAD(0, out, kSumBytes);
    ZOPRUNE_TILE_LOAD(1, out + kTileSide, kSumBytes);
    if (both) {
      ZOPRUNE_TILE_LOAD(2, out_below, kSumBytes);
      ZOPRUNE_TILE_LOAD(3, out_below + kTileSide, kSumBytes);
    }
    for (int64_t word = 0; word < words; word += kTileSide) {
      ZOPRUNE_TILE_LOAD(6, b + word * kPanel, kPanelBytes);
      ZOPRUNE_TILE_LOAD(7, b + word * kPanel + kTileSide, kPanelBytes);
      ZOPRUNE_TILE_LOAD(4, a + 2 * word, row_bytes);
      ZOPRUNE_TILE_MULTIPLY(0, 4, 6);
      ZOPRUNE_TILE_MULTIPLY(1, 4, 7);
      if (!both) continue;
      ZOPRUNE_TILE_LOAD(5, below + 2 * word, row_bytes);
      ZOPRUNE_TILE_MULTIPLY(2, 5, 6);
      ZOPRUNE_TILE_MULTIPLY(3, 5, 7);
    }
    ZOPRUNE_TILE_STORE(0, out, kSumBytes);
    ZOPRUNE_TILE_STORE(1, out + kTileSide, kSumBytes);
    if (both) {
      ZOPRUNE_TILE_STORE(2, out_below, kSumBytes);
      ZOPRUNE_TILE_STORE(3, out_below + kTileSide, kSumBytes);
    }
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA

#endif
