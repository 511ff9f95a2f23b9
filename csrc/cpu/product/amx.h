// The tiles of AMX. tests/cpu/amx.cpp carries their instructions out on a processor without them.
#pragma once

#if defined(__AMX_BF16__)
#define ZOPRUNE_TILES

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

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
  _tile_loadconfig(&shapes);
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
    _tile_loadd(0, out, kSumBytes);
    _tile_loadd(1, out + kTileSide, kSumBytes);
    if (both) {
      _tile_loadd(2, out_below, kSumBytes);
      _tile_loadd(3, out_below + kTileSide, kSumBytes);
    }
    for (int64_t word = 0; word < words; word += kTileSide) {
      _tile_loadd(6, b + word * kPanel, kPanelBytes);
      _tile_loadd(7, b + word * kPanel + kTileSide, kPanelBytes);
      _tile_loadd(4, a + 2 * word, row_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (!both) continue;
      _tile_loadd(5, below + 2 * word, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, kSumBytes);
    _tile_stored(1, out + kTileSide, kSumBytes);
    if (both) {
      _tile_stored(2, out_below, kSumBytes);
      _tile_stored(3, out_below + kTileSide, kSumBytes);
    }
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA

#endif
