// Instruction sets of the CPU kernels. Every csrc/cpu/<op>.cpp is compiled once per instruction set
// in the namespace zoprune::<isa>. Its header declares the kernels with ZOPRUNE_PER_ISA; a binding
// takes the address of the best one with ZOPRUNE_BEST, before it enters parallel_for.
#pragma once

#if defined(__x86_64__)
#define ZOPRUNE_ISAS "scalar avx2 avx512 avx512bf16 amx"
#define ZOPRUNE_PER_ISA(...) \
  namespace scalar {         \
  __VA_ARGS__                \
  }                          \
  namespace avx2 {           \
  __VA_ARGS__                \
  }                          \
  namespace avx512 {         \
  __VA_ARGS__                \
  }                          \
  namespace avx512bf16 {     \
  __VA_ARGS__                \
  }                          \
  namespace amx {            \
  __VA_ARGS__                \
  }
#define ZOPRUNE_BEST(...)                                                                \
  ::zoprune::best_of(::zoprune::scalar::__VA_ARGS__, ::zoprune::avx2::__VA_ARGS__,       \
                     ::zoprune::avx512::__VA_ARGS__, ::zoprune::avx512bf16::__VA_ARGS__, \
                     ::zoprune::amx::__VA_ARGS__)
#else
#define ZOPRUNE_ISAS "scalar"
#define ZOPRUNE_PER_ISA(...) \
  namespace scalar {         \
  __VA_ARGS__                \
  }
#define ZOPRUNE_BEST(...) ::zoprune::scalar::__VA_ARGS__
#endif

namespace zoprune {

// In ascending order: each has what those before it have.
enum class Isa { scalar, avx2, avx512, avx512bf16, amx };

const char* isa_name(Isa isa);

// The best instruction set this processor runs, or the one that ZOPRUNE_CPU_ISA names (read once).
// Throws std::runtime_error where that name is unknown or the processor lacks it. AMX counts where
// Linux, asked once, lets this process use it.
Isa best_isa();

template <typename Kernel>
Kernel* best_of(Kernel* scalar, Kernel* avx2, Kernel* avx512, Kernel* avx512bf16, Kernel* amx) {
  Kernel* const kernels[] = {scalar, avx2, avx512, avx512bf16, amx};
  return kernels[static_cast<int>(best_isa())];
}

}  // namespace zoprune
