// Random perturbation directions: element (row, column) is a function of (seed, row, column) alone.
#include "cpu/directions.h"

#include <cmath>

#include "zoprune/philox.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr uint32_t kGaussianStream = 0, kRademacherStream = 1;
constexpr double kTwoPi = 6.283185307179586476925;
constexpr double kTwoToMinus32 = 1.0 / 4294967296.0;

// Box-Muller on the word pairs (0, 1) and (2, 3) of every counter.
void gaussian_row(uint64_t seed, int64_t row, int64_t dim, double* out) {
  for (int64_t column = 0; column < dim; column += 4) {
    const Philox4 random = philox4x32(seed, static_cast<uint32_t>(column / 4),
                                      static_cast<uint32_t>(row), kGaussianStream, 0);
    double normal[4];
    for (int pair = 0; pair < 4; pair += 2) {
      const double u1 = (random.word[pair] + 1.0) * kTwoToMinus32;  // (0, 1]
      const double angle = kTwoPi * (random.word[pair + 1] * kTwoToMinus32);
      const double radius = std::sqrt(-2.0 * std::log(u1));
      normal[pair] = radius * std::cos(angle);
      normal[pair + 1] = radius * std::sin(angle);
    }
    for (int64_t i = 0; i < 4 && column + i < dim; ++i) out[column + i] = normal[i];
  }
}

void rademacher_row(uint64_t seed, int64_t row, int64_t dim, double* out) {
  const double magnitude = 1.0 / std::sqrt(static_cast<double>(dim));
  for (int64_t column = 0; column < dim; column += 4) {
    const Philox4 random = philox4x32(seed, static_cast<uint32_t>(column / 4),
                                      static_cast<uint32_t>(row), kRademacherStream, 0);
    for (int64_t i = 0; i < 4 && column + i < dim; ++i)
      out[column + i] = random.word[i] >> 31 ? -magnitude : magnitude;
  }
}

double dot(const double* a, const double* b, int64_t n) {
  constexpr int kLanes = 16;  // one order of summation at every vector width
  double lane[kLanes] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) sum += a[i] * b[i];
  for (double value : lane) sum += value;
  return sum;
}

void normalise(double* row, int64_t dim) {
  const double inv_norm = 1.0 / std::sqrt(dot(row, row, dim));
  for (int64_t i = 0; i < dim; ++i) row[i] *= inv_norm;
}

// Gram-Schmidt against the earlier rows of the group; the second pass removes what rounding left.
void orthogonalise(const double* group, int64_t earlier_rows, int64_t dim, double* row) {
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t r = 0; r < earlier_rows; ++r) {
      const double* earlier = group + r * dim;
      const double projection = dot(earlier, row, dim);
      for (int64_t i = 0; i < dim; ++i) row[i] -= projection * earlier[i];
    }
}

}  // namespace

void directions(Distribution distribution, uint64_t seed, int64_t row_begin, int64_t row_end,
                int64_t dim, double* out) {
  for (int64_t r = row_begin; r < row_end; ++r) {
    double* row = out + r * dim;
    if (distribution == Distribution::rademacher) {
      rademacher_row(seed, r, dim, row);
      continue;
    }
    gaussian_row(seed, r, dim, row);
    if (distribution == Distribution::gaussian) {
      const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
      for (int64_t i = 0; i < dim; ++i) row[i] *= scale;
      continue;
    }
    if (distribution == Distribution::orthogonal) {
      const int64_t position = r % dim;  // within its group of dim rows
      orthogonalise(row - position * dim, position, dim, row);
    }
    normalise(row, dim);
  }
}

}  // namespace zoprune::ZOPRUNE_ISA
