// What zoprune_kernels/_native.py and `python -m zoprune_kernels.info` want to know about this
// build.
#include <exception>
#include <string>

#include "cpu/isa.h"

// What CMakeLists.txt tells and the builder of the Hugging Face kernels hub does not.
#ifndef ZOPRUNE_BUILD_TORCH
#define ZOPRUNE_BUILD_TORCH "2.11"
#define ZOPRUNE_BUILD_COMPILER "gcc " __VERSION__
#if defined(CUDA_KERNEL)
#define ZOPRUNE_BUILD_CUDA "12 or later"
#define ZOPRUNE_BUILD_CUDA_ARCHS "80 90a 100a where the compiler has them"
#endif
#endif
#ifndef ZOPRUNE_BUILD_CUDA
#define ZOPRUNE_BUILD_CUDA ""
#define ZOPRUNE_BUILD_CUDA_ARCHS ""
#endif

// One "key=value" a line, CUDA's empty where no CUDA kernel was compiled. Python searches the file
// for it: what the library was built for can then be said also where the library does not load.
extern "C" __attribute__((visibility("default"))) const char zoprune_build_info[] =
    "zoprune_build_info\ntorch=" ZOPRUNE_BUILD_TORCH "\ncompiler=" ZOPRUNE_BUILD_COMPILER
    "\ncpu_isas=" ZOPRUNE_ISAS "\ncuda=" ZOPRUNE_BUILD_CUDA
    "\ncuda_archs=" ZOPRUNE_BUILD_CUDA_ARCHS;

// The instruction set of the CPU kernels, or "error: <why>" for a ZOPRUNE_CPU_ISA that cannot run.
extern "C" __attribute__((visibility("default"))) const char* zoprune_cpu_isa() {
  thread_local std::string text;
  try {
    text = zoprune::isa_name(zoprune::best_isa());
  } catch (const std::exception& failure) {
    text = std::string("error: ") + failure.what();
  }
  return text.c_str();
}
