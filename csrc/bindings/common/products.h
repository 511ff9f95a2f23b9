// The large matrix products of scoring, through ATen on the CPU.
//
// A product's kernel may read a row by whole cache lines: the tiles of AMX do. What it finds behind
// a row's end, the next row or memory that nobody wrote, it multiplies with zeros, which NaN and
// infinity survive. Rows therefore fill their last cache line with zeros.
#pragma once

#include <optional>

#include "bindings/common/checks.h"

namespace zoprune {

// The smallest depth >= `depth` whose rows of `dtype` are whole cache lines.
int64_t whole_lines(int64_t depth, ScalarType dtype);

// rows [n, K] as dtype, with zeros up to the whole cache line: [n, whole_lines(K)]. `rows` itself
// where nothing has to change, strided or not.
Tensor padded(const Tensor& rows, ScalarType dtype);

// The dtype in which a product runs whose result averages `terms` roundings: fp32 for fp32 inputs;
// for half-precision inputs bf16 where many terms average them out and the processor is fast at
// it, else fp32 (docs/cpu.md).
ScalarType product_dtype(ScalarType inputs, int64_t terms);

// x [n, K] times w [M, K] transposed, plus bias [M]: [n, M] in w's dtype, to which x is converted.
// w is padded; x may be.
Tensor product(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias = std::nullopt);

// The same in fp32, whatever w's dtype and padded or not; w is converted a block of rows at a time.
Tensor fp32_product(const Tensor& x, const Tensor& w,
                    const std::optional<Tensor>& bias = std::nullopt);

}  // namespace zoprune
