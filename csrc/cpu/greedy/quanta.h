// Exact sums of numbers in [0, 1], the same in any order: each is rounded to a whole number of
// quanta, and integers are added.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/isa.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

class Quanta {
 public:
  // Of at most `terms` numbers: sums stay below 2^52 quanta, where fp64 is exact.
  explicit Quanta(int64_t terms)
      : zero_(std::ldexp(1.5, std::ilogb(static_cast<double>(terms)) + 1)),
        quantum_(std::ldexp(1.0, std::ilogb(zero_) - 52)) {}

  // A value as a term of a sum. Adding `zero_` rounds it to a quantum; between powers of two, the
  // bits of a double, read as an integer, count quanta.
  uint64_t term(float value) const { return bits(static_cast<double>(value) + zero_); }

  // The sum of term_of(i) for i in [0, count), modulo 2^64.
  template <typename F>
  static uint64_t add_up(int64_t count, const F& term_of) {
    constexpr int kSums = 16;
    uint64_t partial[kSums] = {}, total = 0;
    int64_t i = 0;
    for (; i + kSums <= count; i += kSums)
      for (int j = 0; j < kSums; ++j) partial[j] += term_of(i + j);
    for (; i < count; ++i) total += term_of(i);
    for (uint64_t value : partial) total += value;
    return total;
  }

  // What `terms` of these amount to, added up modulo 2^64.
  double sum(uint64_t total, uint64_t terms) const {
    return static_cast<double>(static_cast<int64_t>(total - terms * bits(zero_))) * quantum_;
  }

 private:
  static uint64_t bits(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  }

  const double zero_, quantum_;
};

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
