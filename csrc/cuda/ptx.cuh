// The instructions that C++ has no name for. The tests replace this one header by plain C++ to run
// the kernels on a CPU (tests/cuda/shim).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace zoprune::cuda {

__device__ inline unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  return shared_memory;
}

// Reads what another thread block wrote: past the L1 cache, which is not coherent.
template <typename T>
__device__ inline T load_fresh(const T* address) {
  return __ldcg(address);
}

// The same value, of which the compiler knows nothing: it masks with it instead of branching on it.
__device__ inline uint32_t opaque(uint32_t value) {
  asm("" : "+r"(value));
  return value;
}

// Counts up, and passes on what this thread knows to whoever waits for the count: its own writes
// and, past a __syncthreads, those of its thread block.
__device__ inline void arrive(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" : : "l"(counter) : "memory");
}

// Waits until so many have arrived; the count may wrap around.
__device__ inline void wait_for(const uint32_t* counter, uint32_t arrivals) {
  uint32_t arrived;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
  } while (static_cast<int32_t>(arrived - arrivals) < 0);
}

// Copies 16 bytes to shared memory behind the thread's back, or clears them if nothing is there.
__device__ inline void copy_async(void* shared, const void* global, bool there) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(global), "r"(there ? 16 : 0)
               : "memory");
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` committed groups of this thread's copies are unfinished.
template <int pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Loads `count` matrices of 8 rows of 16 bytes from shared memory, by a warp: lane 8 i + r brings
// the address of row r of matrix i, and gets word lane % 4 of row lane / 4 of each.
template <int count>
__device__ inline void load_matrices(uint32_t* words, const void* row) {
  static_assert(count == 2 || count == 4);
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (count == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address)
                 : "memory");
}

// Tensor-core products of one warp, d += a [16, K] b [K, 8], fragments as in the PTX manual
// (m16n8k16 for 16-bit elements, m16n8k8 for tf32): one register holds 4 bytes of a row.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The nearest tf32: a float whose last 13 bits are zero.
__device__ inline uint32_t round_to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

__device__ inline float half_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

}  // namespace zoprune::cuda
