#include "cpu/product.h"

#include <memory>
#include <new>

#include "cpu/activation_dispatch.h"
#include "cpu/product/kernels.h"
#include "cpu/product/panels.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr int64_t kRowsAtOnce = 192;   // whole tiles of every instruction set
constexpr int64_t kWordsAtOnce = 512;  // of the depth: a panel's 128 KiB stay in the L2 cache

struct Free {
  void operator()(void* space) const { ::operator delete(space, std::align_val_t(64)); }
};

template <typename T>
std::unique_ptr<T[], Free> lines_of(int64_t count) {
  return std::unique_ptr<T[], Free>(
      static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))));
}

template <typename T>
int64_t whole_lines(int64_t depth) {
  constexpr int64_t kStep = kWords * kPerWord<T>;
  return (depth + kStep - 1) / kStep * kStep;
}

// Runs tasks [begin, end) of a product. `depth_of(column)` is how deep the panel that begins at a
// column is multiplied, up to the weight's depth; `edit(column, panel)` may change it;
// finish(row, count, column, columns, sums) gets each block of sums [count, kPanel].
template <typename T, typename DepthOf, typename Edit, typename Finish>
void multiply(const Rows<T>& rows, const Weight& weight, Sharing sharing, int64_t begin,
              int64_t end, const DepthOf& depth_of, const Edit& edit, const Finish& finish) {
  constexpr int64_t kPartOfWeight[] = {0, 0, 1};  // those of a row: first, second, first
  const int64_t parts = rows.split ? 3 : 1, whole = whole_lines<T>(weight.depth);
  const auto panel = lines_of<T>(parts * whole * kPanel);
  const auto sums = lines_of<float>(kRowsAtOnce * kPanel);
  const int64_t share = (rows.count + sharing.shares - 1) / sharing.shares;
  int64_t packed = -1, depth = 0;
  for (int64_t task = begin; task < end; ++task) {
    // Deep panels with shallow ones: equal work for every thread where the depth grows.
    const int64_t turn = task / sharing.shares, last = weight.panels() - 1;
    const int64_t column = (turn % 2 == 0 ? turn / 2 : last - turn / 2) * kPanel;
    const int64_t columns = std::min(kPanel, weight.rows - column);
    if (column != packed) {
      depth = whole_lines<T>(depth_of(column));
      for (int64_t part = 0; part < parts; ++part)
        pack_panel(weight, column, depth, kPartOfWeight[part], panel.get() + part * depth * kPanel);
      edit(column, panel.get());
      packed = column;
    }
    const int64_t first = task % sharing.shares * share;
    const int64_t stop = std::min(first + share, rows.count);
    const int64_t words = parts * depth / kPerWord<T>;
    for (int64_t row = first; row < stop; row += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, stop - row);
      std::fill_n(sums.get(), kRowsAtOnce * kPanel, 0.0f);
      for (int64_t word = 0; word < words; word += kWordsAtOnce)
        add_rows(rows.data + row * rows.stride + word * kPerWord<T>, rows.stride, count,
                 reinterpret_cast<const uint32_t*>(panel.get()) + word * kPanel,
                 std::min(kWordsAtOnce, words - word), sums.get());
      finish(row, count, column, columns, sums.get());
    }
  }
}

// The whole depth of every panel, as it is.
template <typename T, typename Finish>
void multiply(const Rows<T>& rows, const Weight& weight, Sharing sharing, int64_t begin,
              int64_t end, const Finish& finish) {
  multiply(
      rows, weight, sharing, begin, end, [&](int64_t) { return weight.depth; }, [](int64_t, T*) {},
      finish);
}

template <typename T>
void write_as(T* row, const float* values, int64_t columns, int64_t width) {
  for (int64_t i = 0; i < columns; ++i) store(values[i], row[i]);
  std::fill(row + columns, row + std::max(columns, width), T{});
}

void write(const Results& out, int64_t row, int64_t column, const float* values, int64_t columns) {
  const int64_t at = row * out.stride + column, width = std::min(kPanel, out.width - column);
  if (out.type == KeyType::float32)
    write_as(static_cast<float*>(out.data) + at, values, columns, width);
  else
    write_as(static_cast<BFloat16*>(out.data) + at, values, columns, width);
}

}  // namespace

template <typename T>
void store_product(const Rows<T>& rows, const Weight& weight, const float* bias, const Results& out,
                   Sharing sharing, int64_t begin, int64_t end) {
  multiply(rows, weight, sharing, begin, end,
           [&](int64_t row, int64_t count, int64_t column, int64_t columns, float* sums) {
             for (int64_t r = 0; r < count; ++r, sums += kPanel) {
               if (bias)
                 for (int64_t i = 0; i < columns; ++i) sums[i] += bias[column + i];
               write(out, row + r, column, sums, columns);
             }
           });
}

template <typename T>
void activate_product(const Rows<T>& rows, const Weight& weight, const float* bias,
                      Activation activation, const Results& value, const Results& slope,
                      Sharing sharing, int64_t begin, int64_t end) {
  multiply(rows, weight, sharing, begin, end,
           [&](int64_t row, int64_t count, int64_t column, int64_t columns, const float* sums) {
             dispatch(activation, [&](auto constant) {
               float offset[kPanel] = {}, values[kPanel], slopes[kPanel];
               std::copy_n(bias + column, columns, offset);
               for (int64_t r = 0; r < count; ++r, sums += kPanel) {
                 for (int64_t i = 0; i < kPanel; ++i) {
                   const float a = sums[i] + offset[i];
                   const Expansion expansion = expand<decltype(constant)::value>(a);
                   values[i] = expansion.value;
                   slopes[i] = expansion.slope + (a - a);
                 }
                 if (value.data) write(value, row + r, column, values, columns);
                 if (slope.data) write(slope, row + r, column, slopes, columns);
               }
             });
           });
}

template <typename T>
void form_product(const Rows<T>& g, const Weight& metric, float* sums, Sharing sharing,
                  int64_t begin, int64_t end) {
  const auto depth_of = [&](int64_t column) { return std::min(column + kPanel, metric.rows); };
  // Both triangles of a block on the diagonal are there: half of it goes with half of the rest.
  const auto halve = [&](int64_t column, T* panel) {
    T* const last = panel + whole_lines<T>(depth_of(column)) * kPanel;
    for (T* block = panel + column * kPanel; block < last; ++block)
      store(0.5f * load(*block), *block);
  };
  multiply(g, metric, sharing, begin, end, depth_of, halve,
           [&](int64_t row, int64_t count, int64_t column, int64_t columns, const float* y) {
             for (int64_t r = 0; r < count; ++r, y += kPanel) {
               const T* const own = g.data + (row + r) * g.stride + column;
               float lane[kPanel] = {};
               for (int64_t i = 0; i < columns; ++i) lane[i] = load(own[i]) * y[i];
               for (int64_t width = kPanel / 2; width > 0; width /= 2)
                 for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
               sums[column / kPanel * g.count + row + r] = lane[0];
             }
           });
}

template <typename T>
void norm_product(const Rows<T>& rows, const Weight& weight, float* sums, Sharing sharing,
                  int64_t begin, int64_t end) {
  multiply(rows, weight, sharing, begin, end,
           [&](int64_t row, int64_t count, int64_t column, int64_t, const float* y) {
             for (int64_t r = 0; r < count; ++r, y += kPanel) {
               float lane[kPanel];
               for (int64_t i = 0; i < kPanel; ++i) lane[i] = y[i] * y[i];
               for (int64_t width = kPanel / 2; width > 0; width /= 2)
                 for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
               sums[column / kPanel * rows.count + row + r] = lane[0];
             }
           });
}

void split_row(const void* row, int64_t depth, int64_t whole, BFloat16* out) {
  const auto* const from = static_cast<const Half*>(row);
  convert(from, depth, whole, 0, out);
  convert(from, depth, whole, 1, out + whole);
  std::copy_n(out, whole, out + 2 * whole);
}

#define ZOPRUNE_INSTANTIATE(T)                                                                     \
  template void store_product<T>(const Rows<T>&, const Weight&, const float*, const Results&,      \
                                 Sharing, int64_t, int64_t);                                       \
  template void activate_product<T>(const Rows<T>&, const Weight&, const float*, Activation,       \
                                    const Results&, const Results&, Sharing, int64_t, int64_t);    \
  template void form_product<T>(const Rows<T>&, const Weight&, float*, Sharing, int64_t, int64_t); \
  template void norm_product<T>(const Rows<T>&, const Weight&, float*, Sharing, int64_t, int64_t);
ZOPRUNE_INSTANTIATE(float)
ZOPRUNE_INSTANTIATE(BFloat16)
#undef ZOPRUNE_INSTANTIATE

}  // namespace zoprune::ZOPRUNE_ISA
