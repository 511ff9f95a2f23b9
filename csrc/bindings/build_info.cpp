// What `python -m zoprune_kernels.info` reads through ctypes: plain C functions, no operator.
#include <exception>
#include <string>

#include "cpu/isa.h"

#define ZOPRUNE_EXPORT extern "C" __attribute__((visibility("default")))

#ifndef ZOPRUNE_BUILD_CUDA
#define ZOPRUNE_BUILD_CUDA ""
#define ZOPRUNE_BUILD_CUDA_ARCHS ""
#endif

// One "key=value" per line; CUDA's values are empty where no CUDA kernel was compiled.
ZOPRUNE_EXPORT const char* zoprune_build_info() {
  return "torch=" ZOPRUNE_BUILD_TORCH "\ncompiler=" ZOPRUNE_BUILD_COMPILER
         "\nisas=" ZOPRUNE_BUILD_ISAS "\ncuda=" ZOPRUNE_BUILD_CUDA
         "\ncuda_archs=" ZOPRUNE_BUILD_CUDA_ARCHS "\n";
}

// The instruction set the CPU kernels use, or "error: <why>" for a ZOPRUNE_CPU_ISA that cannot run.
ZOPRUNE_EXPORT const char* zoprune_cpu_isa() {
  static std::string error;
  try {
    return zoprune::isa_name(zoprune::best_isa());
  } catch (const std::exception& failure) {
    error = std::string("error: ") + failure.what();
    return error.c_str();
  }
}
