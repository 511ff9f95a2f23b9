// Products of rows with a weight, transposed as in nn.Linear, with what follows them done while the
// sums are in the cache. Sums are fp32. A row's results depend on that row and the weight alone, to
// the last bit: not on other rows, nor on how many threads there are.
#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"
#include "cpu/isa.h"
#include "cpu/similarity.h"
#include "zoprune/activations.h"

namespace zoprune {

// Columns of a product that are computed together: a panel.
constexpr int64_t kPanel = 64;

// A linear layer's weight [rows, depth], rows `stride` elements apart.
struct Weight {
  KeyType type;
  const void* data;
  int64_t rows, depth, stride;

  int64_t panels() const { return (rows + kPanel - 1) / kPanel; }
};

// Rows [count, depth], `stride` elements apart, T is float or BFloat16. They end with zeros up to a
// whole cache line. Weights are converted to T; where `split`, rows and weight are fp16 as sums of
// two bf16 numbers, and a row is what split_row makes of it.
template <typename T>
struct Rows {
  using Element = T;

  const T* data;
  int64_t count, stride;
  bool split = false;
};

// Results as fp32, or bf16 to nearest even; rows `stride` apart, zeros from the last column up to
// `width`. Nothing is written where `data` is null.
struct Results {
  KeyType type;
  void* data;
  int64_t stride, width;
};

// How a product is shared among threads: [0, tasks(weight)) are its tasks, each a panel's share of
// the rows. Results are the same for any `shares` >= 1.
struct Sharing {
  int64_t shares = 1;

  int64_t tasks(const Weight& weight) const { return weight.panels() * shares; }
};

// store_product: rows . weight + bias [weight.rows], if not null.
// activate_product: phi(rows . weight + bias) and phi'; NaN where the argument is infinite.
// form_product: sums[panel * count + row] = half the panel's share of g^T M g, for rows g and the
// symmetric M, of which the lower triangle is read.
// norm_product: sums[panel * count + row] = sum of squares of the panel's columns.
// split_row: a row of fp16 as its two parts and the first again, each with zeros up to `whole`.
ZOPRUNE_PER_ISA(
    template <typename T>
    void store_product(const Rows<T>& rows, const Weight& weight, const float* bias,
                       const Results& out, Sharing sharing, int64_t begin, int64_t end);
    template <typename T>
    void activate_product(const Rows<T>& rows, const Weight& weight, const float* bias,
                          Activation activation, const Results& value, const Results& slope,
                          Sharing sharing, int64_t begin, int64_t end);
    template <typename T> void form_product(const Rows<T>& g, const Weight& metric, float* sums,
                                            Sharing sharing, int64_t begin, int64_t end);
    template <typename T> void norm_product(const Rows<T>& rows, const Weight& weight, float* sums,
                                            Sharing sharing, int64_t begin, int64_t end);
    void split_row(const void* row, int64_t depth, int64_t whole, BFloat16* out);)

}  // namespace zoprune
