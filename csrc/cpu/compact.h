#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace zoprune {

// One tensor [outer, tokens, row_bytes] to keep rows of; the batch is the last part of `outer`.
struct CompactTensor {
  const char* from;
  char* to;  // result [outer, kept, row_bytes]
  int64_t outer, tokens, row_bytes;
};

// Copies rows [begin, end) of the outer * kept rows of the result; indices [batch, kept].
ZOPRUNE_PER_ISA(void compact(const CompactTensor& tensor, const int64_t* indices, int64_t batch,
                             int64_t kept, int64_t begin, int64_t end);)

}  // namespace zoprune
