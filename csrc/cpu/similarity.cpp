#include "cpu/similarity.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/bfloat16.h"
#include "cpu/lanes.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

// Dot products of up to kTileRows x kCols pairs of rows. Each pair has its own sum, whose lanes run
// along the rows: its order is the same in every tile and for both orders of the pair.
template <typename T, int kCols>
void dot_tile(const T* const* rows, int64_t num_rows, const T* const* cols, int64_t num_cols,
              int64_t dim, float* out, int64_t out_stride) {
  using L = DotLanes<T>;
  const T *row[kTileRows], *col[kCols];  // at an edge, the last one stands for what is missing
  for (int r = 0; r < kTileRows; ++r) row[r] = rows[std::min<int64_t>(r, num_rows - 1)];
  for (int c = 0; c < kCols; ++c) col[c] = cols[std::min<int64_t>(c, num_cols - 1)];
  typename L::Sum sum[kTileRows][kCols] = {};
  const auto accumulate = [&](const auto& load) __attribute__((always_inline)) {
    typename L::Operand b[kCols];
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) b[c] = load(col[c]);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const typename L::Operand a = load(row[r]);
#pragma GCC unroll 8
      for (int c = 0; c < kCols; ++c) sum[r][c] = L::multiply_add(a, b[c], sum[r][c]);
    }
  };
  int64_t i = 0;
  for (; i + L::kWidth <= dim; i += L::kWidth)
    accumulate([&](const T* p) __attribute__((always_inline)) { return L::load(p + i); });
  if (i < dim)
    accumulate([&](const T* p) { return L::load(Tail<T, L::kWidth>(p + i, dim - i).values); });
  float sums[kTileRows][kTileStride];
  reduce(sum, sums);
  for (int64_t r = 0; r < num_rows; ++r)
    if (num_cols == kCols)
      std::memcpy(out + r * out_stride, sums[r], kCols * sizeof(float));
    else
      std::copy_n(sums[r], num_cols, out + r * out_stride);
}

// The widest tile for columns that are left: narrow ones would multiply mostly padding.
template <typename T>
auto tile_for(int64_t num_cols) {
  if (num_cols == 1) return dot_tile<T, 1>;
  if (num_cols == 2) return dot_tile<T, 2>;
  return num_cols == 3 ? dot_tile<T, 3> : dot_tile<T, kTileCols>;
}

template <typename T>
void dot_rows(const T* const* rows, int64_t num_rows, const T* const* cols, int64_t num_cols,
              int64_t dim, float* out, int64_t out_stride) {
  for (int64_t c = 0; c < num_cols; c += kTileCols) {
    const int64_t width = std::min<int64_t>(kTileCols, num_cols - c);
    const auto tile = tile_for<T>(width);
    for (int64_t r = 0; r < num_rows; r += kTileRows)
      tile(rows + r, std::min<int64_t>(kTileRows, num_rows - r), cols + c, width, dim,
           out + r * out_stride + c, out_stride);
  }
}

template <typename T>
double squared_norm(const T* row, int64_t dim) {
  constexpr int kChains = 4, kWidth = kChains * kLanes;  // sums that do not wait for one another
  double lane[kWidth] = {};
  const auto accumulate = [&](int first, Lanes value) __attribute__((always_inline)) {
    for (int j = 0; j < kLanes; ++j) {
      const double number = value[j];  // its square is exact, fused or not
#if defined(__FMA__)
      lane[first + j] = std::fma(number, number, lane[first + j]);
#else
      lane[first + j] += number * number;
#endif
    }
  };
  int64_t i = 0;
  for (; i + kWidth <= dim; i += kWidth)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) accumulate(c * kLanes, load_lanes(row + i + c * kLanes));
  for (; i + kLanes <= dim; i += kLanes) accumulate(0, load_lanes(row + i));
  if (i < dim) accumulate(0, load_lanes(Tail<T, kLanes>(row + i, dim - i).values));
  double sum = 0;
  for (double value : lane) sum += value;
  return sum;
}

void scale_values(const float* row, double scale, int64_t dim, float* out) {
  for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(row[i] * scale);
}

void scale_values(const BFloat16* row, double scale, int64_t dim, BFloat16* out) {
  for (int64_t i = 0; i < dim; ++i) store(static_cast<float>(load(row[i]) * scale), out[i]);
}

// Calls f(i, element i) in fp64.
template <typename T, typename F>
void for_each_element(const T* row, int64_t dim, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const Lanes values = load_lanes(row + i);
    for (int j = 0; j < kLanes; ++j) f(i + j, static_cast<double>(values[j]));
  }
  if (i == dim) return;
  const Lanes values = load_lanes(Tail<T, kLanes>(row + i, dim - i).values);
  for (int j = 0; i + j < dim; ++j) f(i + j, static_cast<double>(values[j]));
}

// Calls f with the row type that a KeyType stands for.
template <typename F>
auto with_type(KeyType type, const F& f) {
  if (type == KeyType::float32) return f(float{});
  if (type == KeyType::float16) return f(Half{});
  return f(BFloat16{});
}

template <typename T>
const T* as(const void* row) {
  return static_cast<const T*>(row);
}

}  // namespace

void dot_products(KeyType type, const void* const* rows, int64_t num_rows, const void* const* cols,
                  int64_t num_cols, int64_t dim, float* out, int64_t out_stride) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    dot_rows(reinterpret_cast<const T* const*>(rows), num_rows,
             reinterpret_cast<const T* const*>(cols), num_cols, dim, out, out_stride);
  });
}

double norm(KeyType type, const void* row, int64_t dim) {
  return std::sqrt(
      with_type(type, [&](auto element) { return squared_norm(as<decltype(element)>(row), dim); }));
}

double centred_norm(KeyType type, const void* row, const double* mean, int64_t dim) {
  double sum = 0;
  with_type(type, [&](auto element) {
    for_each_element(as<decltype(element)>(row), dim, [&](int64_t i, double value) {
      sum += (value - mean[i]) * (value - mean[i]);
    });
  });
  return std::sqrt(sum);
}

void scale_row(KeyType type, const void* row, double scale, int64_t dim, void* out) {
  if (type == KeyType::float32)
    scale_values(as<float>(row), scale, dim, static_cast<float*>(out));
  else
    scale_values(as<BFloat16>(row), scale, dim, static_cast<BFloat16*>(out));
}

void round_row(KeyType type, const void* row, int64_t dim, BFloat16* out) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    for (int64_t i = 0; i < dim; i += kLanes) {
      const int64_t rest = std::min<int64_t>(kLanes, dim - i);
      const Lanes values = rest == kLanes
                               ? load_lanes(as<T>(row) + i)
                               : load_lanes(Tail<T, kLanes>(as<T>(row) + i, rest).values);
      BFloat16 rounded[kLanes];
      round_lanes(values, rounded);
      std::memcpy(out + i, rounded, rest * sizeof(BFloat16));
    }
  });
}

void centre_row(KeyType type, const void* row, const double* mean, double scale, int64_t dim,
                float* out) {
  with_type(type, [&](auto element) {
    for_each_element(as<decltype(element)>(row), dim, [&](int64_t i, double value) {
      out[i] = static_cast<float>((value - mean[i]) * scale);
    });
  });
}

void fold_row(KeyType type, const void* row, const float* signs, int64_t dim, float* out) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int kSums = kSketchWidth / kLanes;
    const T* const from = as<T>(row);
    Lanes sum[kSums] = {};
    int64_t i = 0;
    for (; i + kSketchWidth <= dim; i += kSketchWidth)
#pragma GCC unroll 16
      for (int j = 0; j < kSums; ++j)
        sum[j] = multiply_add(load_lanes(from + i + j * kLanes), load_lanes(signs + i + j * kLanes),
                              sum[j]);
    std::memcpy(out, sum, sizeof sum);
    for (; i < dim; i += kLanes) {
      const int64_t rest = std::min<int64_t>(kLanes, dim - i);
      const Lanes values = load_lanes(Tail<T, kLanes>(from + i, rest).values);
      for (int64_t j = 0; j < rest; ++j) out[(i + j) % kSketchWidth] += signs[i + j] * values[j];
    }
  });
}

void add_row(KeyType type, const void* row, int64_t dim, double* sum) {
  with_type(type, [&](auto element) {
    for_each_element(as<decltype(element)>(row), dim,
                     [&](int64_t i, double value) { sum[i] += value; });
  });
}

}  // namespace zoprune::ZOPRUNE_ISA
