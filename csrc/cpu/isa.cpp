#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace zoprune {
namespace {

// Whether there are tiles that multiply bf16, and Linux keeps their state for this process: it does
// only once asked, and may refuse (an old kernel, a sandbox, a small signal stack).
[[maybe_unused]] bool supports_amx() {
#if defined(ZOPRUNE_ASSUME_AMX)
  return true;
#elif defined(__linux__) && defined(__x86_64__)
  constexpr unsigned kTiles = 1u << 24, kTilesOfBFloat16 = 1u << 22;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & kTiles) == 0 || (d & kTilesOfBFloat16) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

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
    case Isa::amx:
      return avx512 && __builtin_cpu_supports("avx512bf16") && supports_amx();
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

Isa choose() {
  constexpr Isa best_first[] = {Isa::amx, Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::scalar};
  const char* forced = std::getenv("ZOPRUNE_CPU_ISA");
  for (Isa isa : best_first) {
    if (forced == nullptr ? supported(isa) : isa_name(isa) == std::string(forced)) {
      if (supported(isa)) return isa;
      throw std::runtime_error(
          std::string("ZOPRUNE_CPU_ISA: this processor ") +
          (isa == Isa::amx ? "or its operating system does not support " : "does not support ") +
          forced);
    }
  }
  throw std::runtime_error(
      std::string("ZOPRUNE_CPU_ISA: expected scalar, avx2, avx512, avx512bf16 or amx, got '") +
      forced + "'");
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* names[] = {"scalar", "avx2", "avx512", "avx512bf16", "amx"};
  return names[static_cast<int>(isa)];
}

Isa best_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace zoprune
