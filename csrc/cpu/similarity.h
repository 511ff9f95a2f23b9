// Dot products of keys, each in one defined way: its bits depend on the two rows alone, not on
// which other rows are in the call, nor on the order of the two. docs/selection.md has the why.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"

namespace zoprune {

enum class KeyType { float32, float16, bfloat16 };

constexpr int64_t key_bytes(KeyType type) { return type == KeyType::float32 ? 4 : 2; }

// How keys lie in memory, the same for all images of a call.
struct KeyLayout {
  KeyType type;
  int64_t dim;
  int64_t stride;  // elements from a key to the next
};

// Rows of one call to dot_products that stay in a core's cache.
constexpr int64_t kDotBlock = 24;

// Numbers that stand for a key where likeness is guessed.
constexpr int64_t kSketchWidth = 64;

ZOPRUNE_PER_ISA(
    // out[r * out_stride + c] = rows[r] . cols[c], accumulated in fp32.
    void dot_products(KeyType type, const void* const* rows, int64_t num_rows,
                      const void* const* cols, int64_t num_cols, int64_t dim, float* out,
                      int64_t out_stride);

    // The Euclidean norm, accumulated in fp64: it neither overflows nor underflows.
    double norm(KeyType type, const void* row, int64_t dim);

    // The norm of row - mean.
    double centred_norm(KeyType type, const void* row, const double* mean, int64_t dim);

    // out = row * scale, where scale is a power of two.
    void scale_row(KeyType type, const void* row, double scale, int64_t dim, void* out);

    // out = row in bf16, to nearest even; subnormals may become zero.
    void round_row(KeyType type, const void* row, int64_t dim, BFloat16* out);

    // out = (row - mean) * scale in fp32.
    void centre_row(KeyType type, const void* row, const double* mean, double scale, int64_t dim,
                    float* out);

    // out[i] = the sum of signs[j] * row[j] over all j that are i modulo kSketchWidth.
    void fold_row(KeyType type, const void* row, const float* signs, int64_t dim, float* out);

    // sum += row.
    void add_row(KeyType type, const void* row, int64_t dim, double* sum);)

}  // namespace zoprune
