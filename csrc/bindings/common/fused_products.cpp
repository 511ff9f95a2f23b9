#include "bindings/common/fused_products.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "bindings/common/layouts.h"
#include "bindings/common/products.h"
#include "bindings/common/torch_calls.h"
#include "cpu/isa.h"

namespace zoprune::fused {
namespace {

using torch::stable::contiguous;

// Multiply-adds that are worth a thread.
constexpr int64_t kWorthThread = 1 << 20;

Weight weight_of(const Tensor& w) {
  const KeyLayout layout = key_layout(w);
  return {layout.type, w.const_data_ptr(), w.size(0), layout.dim, layout.stride};
}

Results results(const std::optional<Tensor>& out) {
  if (!out) return {};
  return {key_layout(*out).type, out->mutable_data_ptr(), out->stride(0), out->size(1)};
}

// task(sharing, begin, end) on torch's threads, for a product of so many rows.
template <typename Task>
void share(const Weight& weight, int64_t rows, const Task& task) {
  const int64_t threads = torch::stable::get_num_threads(), wanted = threads > 1 ? 4 * threads : 1;
  const int64_t most = std::max<int64_t>(1, rows / 64);
  const Sharing sharing{std::clamp<int64_t>(wanted / weight.panels(), 1, most)};
  const int64_t work = std::max<int64_t>(1, rows * weight.depth * kPanel / sharing.shares);
  parallel_for(0, sharing.tasks(weight), std::max<int64_t>(1, kWorthThread / work),
               [&](int64_t begin, int64_t end) { task(sharing, begin, end); });
}

// f(Rows<T>) with the operand's type.
template <typename F>
void with_rows(const Operand& x, const F& f) {
  if (x.dtype() == ScalarType::Float)
    f(x.rows<float>());
  else
    f(x.rows<BFloat16>());
}

// x, fp16, in two bf16 parts.
Tensor split(const Tensor& x) {
  const Tensor from = with_contiguous_rows(x);
  const KeyLayout layout = key_layout(from);
  const int64_t whole = whole_lines(layout.dim, ScalarType::BFloat16);
  Tensor out = empty({x.size(0), 3 * whole}, ScalarType::BFloat16, "a product's operand");
  auto* const data = static_cast<BFloat16*>(out.mutable_data_ptr());
  const auto* const rows = static_cast<const char*>(from.const_data_ptr());
  auto* const split_row = ZOPRUNE_BEST(split_row);
  parallel_for(0, x.size(0), rows_per_task(whole), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      split_row(rows + r * layout.stride * key_bytes(layout.type), layout.dim, whole,
                data + r * 3 * whole);
  });
  return out;
}

// Whether three products in bf16 take less time than one in fp32.
bool splits_fp16() { return best_isa() >= Isa::amx; }

// Adds `parts` sums of each row, [parts, rows], in their order; f(row, sum).
template <typename F>
void for_each_sum(const std::vector<float>& sums, int64_t rows, const F& f) {
  const int64_t parts = static_cast<int64_t>(sums.size()) / rows;
  std::vector<double> totals(rows);
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t r = 0; r < rows; ++r) totals[r] += sums[part * rows + r];
  for (int64_t r = 0; r < rows; ++r) f(r, totals[r]);
}

}  // namespace

bool available() { return best_isa() >= Isa::avx512; }

bool has_fast_bf16() { return best_isa() >= Isa::avx512bf16; }

Operand::Operand(const Tensor& x, ScalarType dtype)
    : rows_(with_contiguous_rows(padded(x, dtype))) {}

Operand Operand::exact(const Tensor& x, ScalarType weight) {
  const ScalarType dtype = x.scalar_type();
  if (dtype == weight && dtype == ScalarType::BFloat16 && has_fast_bf16()) return Operand(x, dtype);
  if (dtype == weight && dtype == ScalarType::Half && splits_fp16()) return Operand(split(x), true);
  return Operand(x, ScalarType::Float);
}

void product_into(const Operand& x, const Tensor& w, const std::optional<Tensor>& bias,
                  const Tensor& out) {
  const Tensor rows_of_w = with_contiguous_rows(w);
  const Weight weight = weight_of(rows_of_w);
  const std::optional<Tensor> offset = contiguous_floats(bias);
  with_rows(x, [&](auto rows) {
    auto* const store = ZOPRUNE_BEST(store_product<typename decltype(rows)::Element>);
    share(weight, x.count(), [&](Sharing sharing, int64_t begin, int64_t end) {
      store(rows, weight, data<float>(offset), results(out), sharing, begin, end);
    });
  });
}

Tensor product(const Operand& x, const Tensor& w, const std::optional<Tensor>& bias,
               ScalarType dtype) {
  const Tensor out = empty({x.count(), w.size(0)}, dtype, "a product");
  product_into(x, w, bias, out);
  return out;
}

Activated activate(const Operand& x, const Tensor& w, const Tensor& bias, Activation activation,
                   std::optional<ScalarType> value, std::optional<ScalarType> slope) {
  const Tensor rows_of_w = with_contiguous_rows(w);
  const Weight weight = weight_of(rows_of_w);
  const auto layer = [&](std::optional<ScalarType> dtype) -> std::optional<Tensor> {
    if (!dtype) return std::nullopt;
    return empty({x.count(), whole_lines(weight.rows, *dtype)}, *dtype, "the hidden layer");
  };
  const Activated out{layer(value), layer(slope)};
  const float* const offset = bias.const_data_ptr<float>();
  with_rows(x, [&](auto rows) {
    auto* const activate = ZOPRUNE_BEST(activate_product<typename decltype(rows)::Element>);
    share(weight, x.count(), [&](Sharing sharing, int64_t begin, int64_t end) {
      activate(rows, weight, offset, activation, results(out.value), results(out.slope), sharing,
               begin, end);
    });
  });
  return out;
}

void root_form(const Tensor& g, const Tensor& metric, float* scores) {
  const Tensor rows_of_metric = with_contiguous_rows(metric);
  const Weight weight = weight_of(rows_of_metric);
  const Operand x(g, g.scalar_type());
  std::vector<float> sums(weight.panels() * x.count());
  with_rows(x, [&](auto rows) {
    auto* const form = ZOPRUNE_BEST(form_product<typename decltype(rows)::Element>);
    share(weight, x.count(), [&](Sharing sharing, int64_t begin, int64_t end) {
      form(rows, weight, sums.data(), sharing, begin, end);
    });
  });
  for_each_sum(sums, x.count(), [&](int64_t row, double half) {
    scores[row] = static_cast<float>(std::sqrt(half < 0 ? 0.0 : 2 * half));
  });
}

void row_norms(const Tensor& t, const Tensor& w, float* norms) {
  const Tensor rows_of_w = with_contiguous_rows(w);
  const Weight weight = weight_of(rows_of_w);
  const Operand x(t, t.scalar_type());
  std::vector<float> sums(weight.panels() * x.count());
  with_rows(x, [&](auto rows) {
    auto* const square = ZOPRUNE_BEST(norm_product<typename decltype(rows)::Element>);
    share(weight, x.count(), [&](Sharing sharing, int64_t begin, int64_t end) {
      square(rows, weight, sums.data(), sharing, begin, end);
    });
  });
  for_each_sum(sums, x.count(),
               [&](int64_t row, double sum) { norms[row] = static_cast<float>(std::sqrt(sum)); });
}

}  // namespace zoprune::fused
