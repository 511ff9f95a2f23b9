#include "cpu/expected_sensitivity.h"

#include <cmath>

#include "cpu/dot.h"

namespace zoprune::ZOPRUNE_ISA {

template <typename T>
void add_block_product(int64_t row_begin, int64_t row_end, int64_t width, int64_t stride,
                       const T* y, T* g, double* form) {
  for (int64_t r = row_begin; r < row_end; ++r) {
    T* block = g + r * stride;
    form[r] += dot(y + r * width, static_cast<const T*>(block), width);
    for (int64_t i = 0; i < width; ++i) store(2.0f * load(block[i]), block[i]);
  }
}

void root(int64_t row_begin, int64_t row_end, const double* form, float* scores) {
  for (int64_t r = row_begin; r < row_end; ++r)
    scores[r] = static_cast<float>(std::sqrt(form[r] < 0 ? 0.0 : form[r]));
}

template void add_block_product<float>(int64_t, int64_t, int64_t, int64_t, const float*, float*,
                                       double*);
template void add_block_product<BFloat16>(int64_t, int64_t, int64_t, int64_t, const BFloat16*,
                                          BFloat16*, double*);

}  // namespace zoprune::ZOPRUNE_ISA
