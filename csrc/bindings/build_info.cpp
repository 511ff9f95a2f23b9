// What zoprune_kernels/_native.py and `python -m zoprune_kernels.info` want to know about this
// build.
#include <exception>
#include <string>

#include "cpu/isa.h"

#ifndef ZOPRUNE_BUILD_CUDA
#define ZOPRUNE_BUILD_CUDA ""
#define ZOPRUNE_BUILD_CUDA_ARCHS ""
#endif

// One "key=value" a line, CUDA's empty where no CUDA kernel was compiled. Python searches the file
// for it: what the library was built for can then be said also where the library does not load.
extern "C" __attribute__((visibility("default"))) const char zoprune_build_info[] =
    "zoprune_build_info\ntorch=" ZOPRUNE_BUILD_TORCH "\ncompiler=" ZOPRUNE_BUILD_COMPILER
    "\ncpu_isas=" ZOPRUNE_BUILD_ISAS "\ncuda=" ZOPRUNE_BUILD_CUDA
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
