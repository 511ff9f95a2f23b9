#include "cpu/fold_metric.h"

#include <algorithm>

namespace zoprune::ZOPRUNE_ISA {

template <typename Out>
void fold_rows(int64_t row_begin, int64_t row_end, int64_t first, int64_t hidden, float scale,
               const float* outputs, const float* inputs, Out* metric) {
  constexpr int64_t kTile = 64;  // columns of a tile are mirrored while it is in the cache
  const int64_t width = hidden - first;
  for (int64_t begin = row_begin; begin < row_end; begin += kTile) {
    const int64_t end = std::min(begin + kTile, row_end);
    for (int64_t column = begin; column < hidden; column += kTile) {
      const int64_t stop = std::min(column + kTile, hidden);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t at = (r - first) * width - first;
        for (int64_t c = std::max(column, r); c < stop; ++c)
          store(scale * outputs[at + c] * inputs[at + c], metric[r * hidden + c]);
      }
      for (int64_t c = column; c < stop; ++c)
        for (int64_t r = begin; r < std::min(end, c); ++r)
          metric[c * hidden + r] = metric[r * hidden + c];
    }
  }
}

template void fold_rows<float>(int64_t, int64_t, int64_t, int64_t, float, const float*,
                               const float*, float*);
template void fold_rows<BFloat16>(int64_t, int64_t, int64_t, int64_t, float, const float*,
                                  const float*, BFloat16*);

}  // namespace zoprune::ZOPRUNE_ISA
