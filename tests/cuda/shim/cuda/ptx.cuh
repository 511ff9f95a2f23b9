// Test only: csrc/cuda/ptx.cuh in plain C++, with the fragments of the real instructions.
#pragma once

#include <cuda_runtime_api.h>

namespace zoprune::cuda {

SHIM_UNCHECKED inline unsigned char* dynamic_shared_memory() {
  return shim::machine.running->block->shared.get();
}

template <typename T>
T load_fresh(const T* address) {
  return *address;
}
inline uint32_t opaque(uint32_t value) { return value; }
inline void arrive(uint32_t* counter) {
  shim::release(counter);
  __atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED);
}
inline void wait_for(const uint32_t* counter, uint32_t arrivals) {
  while (static_cast<int32_t>(__atomic_load_n(counter, __ATOMIC_RELAXED) - arrivals) < 0)
    shim::yield();
  shim::acquire(counter);
}

// Copies happen as late as they may: where their thread waits for them.
SHIM_UNCHECKED inline void copy_async(void* shared, const void* global, bool there) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    shim::fail("cp.async: an address is not a multiple of 16");
  shim::machine.running->copies.push_back({shared, there ? global : nullptr});
}
SHIM_UNCHECKED inline void commit_copies() {
  shim::Fiber& fiber = *shim::machine.running;
  fiber.committed.push_back(fiber.copies.size());
}
inline void copy(const shim::Copy& copy) {
  std::memset(copy.to, 0, 16);
  if (copy.from != nullptr) std::memcpy(copy.to, copy.from, 16);
}
template <int pending>
SHIM_UNCHECKED void wait_copies() {
  shim::Fiber& fiber = *shim::machine.running;
  if (fiber.committed.size() <= pending) return;
  const auto last = fiber.committed.end() - 1 - pending;
  const size_t count = *last;
  for (size_t i = 0; i < count; ++i) copy(fiber.copies[i]);
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<long>(count));
  fiber.committed.erase(fiber.committed.begin(), last + 1);
  for (size_t& end : fiber.committed) end -= count;
}

template <int count>
SHIM_UNCHECKED void load_matrices(uint32_t* words, const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) shim::fail("ldmatrix: a row is not at 16 bytes");
  const auto& board = shim::exchange("ldmatrix", 0xffffffffu, row);
  for (unsigned i = 0; i < count; ++i) {
    const void* const from = shim::from_word<const void*>(board.value[i * 8 + shim::lane() / 4]);
    std::memcpy(words + i, static_cast<const uint32_t*>(from) + shim::lane() % 4, 4);
  }
}

inline float half_to_float(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t round_to_tf32(float value) {
  uint32_t bits = static_cast<uint32_t>(shim::to_word(value));
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;  // to nearest, ties away from zero
  return bits & ~0x1fffu;
}

// d [16, 8] += a [16, K] b [K, 8]. Word w of row r of a (or of column r of b) lies in lane
// 4 (r % 8) + w % 4, and holds `elements` of a row, which `unpack` gives.
template <int elements, typename Unpack>
SHIM_UNCHECKED void mma_words(const char* name, float (&d)[4], const uint32_t (&a)[4],
                              const uint32_t (&b)[2], const Unpack& unpack) {
  const auto& board = shim::exchange(name, [&](shim::Warp::Exchange& mine) SHIM_UNCHECKED {
    for (int i = 0; i < 6; ++i)
      unpack(i < 4 ? a[i] : b[i - 4], mine.fragment[shim::lane()] + 2 * i);
  });
  const unsigned row = shim::lane() / 4, column = shim::lane() % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) {
    float sum = 0;
    for (unsigned w = 0; w < 8; ++w) {
      const float* const x = board.fragment[row * 4 + w % 4] + 2 * (i / 2 + w / 4 * 2);
      const float* const y = board.fragment[(column + i % 2) * 4 + w % 4] + 2 * (4 + w / 4);
      for (int e = 0; e < elements; ++e) sum += x[e] * y[e];
    }
    d[i] += sum;
  }
}

SHIM_UNCHECKED inline float from_bits(uint32_t word) {
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_words<2>("mma_bf16", d, a, b, [](uint32_t word, float* to) SHIM_UNCHECKED {
    to[0] = from_bits(word << 16);
    to[1] = from_bits(word & 0xffff0000u);
  });
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_words<2>("mma_f16", d, a, b, [](uint32_t word, float* to) SHIM_UNCHECKED {
    to[0] = half_to_float(static_cast<uint16_t>(word));
    to[1] = half_to_float(static_cast<uint16_t>(word >> 16));
  });
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_words<1>("mma_tf32", d, a, b,
               [](uint32_t word, float* to) SHIM_UNCHECKED { to[0] = from_bits(word & ~0x1fffu); });
}

}  // namespace zoprune::cuda
