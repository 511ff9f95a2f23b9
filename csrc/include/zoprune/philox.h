// Philox4x32-10, the counter-based random generator (Salmon et al., SC 2011): the same words for
// the same (key, counter) on every device. Torch-free, shared by the CPU and CUDA kernels.
#pragma once

#include <cstdint>

#include "zoprune/host_device.h"

namespace zoprune {

struct Philox4 {
  uint32_t word[4];
};

// Ten rounds over counter (c0, c1, c2, c3) with the key (seed's low word, seed's high word).
ZOPRUNE_HOST_DEVICE Philox4 philox4x32(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2,
                                       uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace zoprune
