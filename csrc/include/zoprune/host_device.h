// Marks functions of shared headers. They are `static`: the CPU kernels compile the same header
// once per instruction set, and the linker must not merge an AVX-512 copy into the scalar kernels.
#pragma once

#ifdef __CUDACC__
#define ZOPRUNE_HOST_DEVICE static inline __host__ __device__
#else
#define ZOPRUNE_HOST_DEVICE [[maybe_unused]] static inline
#endif
