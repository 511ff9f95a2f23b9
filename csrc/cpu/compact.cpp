#include "cpu/compact.h"

#include <cstring>

namespace zoprune::ZOPRUNE_ISA {

void compact(const CompactTensor& tensor, const int64_t* indices, int64_t batch, int64_t kept,
             int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t outer = row / kept, token = indices[outer % batch * kept + row % kept];
    std::memcpy(tensor.to + row * tensor.row_bytes,
                tensor.from + (outer * tensor.tokens + token) * tensor.row_bytes, tensor.row_bytes);
  }
}

}  // namespace zoprune::ZOPRUNE_ISA
