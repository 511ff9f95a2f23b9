#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace zoprune {
namespace {

bool supported(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

Isa choose() {
  constexpr Isa best_first[] = {Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::scalar};
  const char* forced = std::getenv("ZOPRUNE_CPU_ISA");
  for (Isa isa : best_first) {
    if (forced == nullptr ? supported(isa) : isa_name(isa) == std::string(forced)) {
      if (supported(isa)) return isa;
      throw std::runtime_error(std::string("ZOPRUNE_CPU_ISA: this processor does not support ") +
                               forced);
    }
  }
  throw std::runtime_error(
      std::string("ZOPRUNE_CPU_ISA: expected scalar, avx2, avx512 or avx512bf16, got '") + forced +
      "'");
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* names[] = {"scalar", "avx2", "avx512", "avx512bf16"};
  return names[static_cast<int>(isa)];
}

Isa best_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace zoprune
