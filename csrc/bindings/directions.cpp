#include "bindings/directions.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "bindings/common/boxed.h"
#include "bindings/common/torch_calls.h"

namespace zoprune {
namespace {

constexpr Name<Distribution> kDistributions[] = {{"sphere", Distribution::sphere},
                                                 {"gaussian", Distribution::gaussian},
                                                 {"rademacher", Distribution::rademacher},
                                                 {"orthogonal", Distribution::orthogonal}};
static_assert(is_complete(kDistributions));

}  // namespace

Distribution check_distribution(const Checker& check, const std::string& distribution) {
  return check.one_of("distribution", distribution, kDistributions);
}

Tensor draw_directions(int64_t num, int64_t dim, Distribution distribution, int64_t seed,
                       ScalarType dtype) {
  Tensor out = empty({num, dim}, ScalarType::Double, "the directions");
  double* data = out.mutable_data_ptr<double>();
  auto* const fill_rows = ZOPRUNE_BEST(directions);
  // Rows of an orthogonal group depend on each other: a task is a whole group.
  const int64_t rows = distribution == Distribution::orthogonal ? dim : 1;
  parallel_for(0, (num + rows - 1) / rows, 1, [&](int64_t begin, int64_t end) {
    fill_rows(distribution, static_cast<uint64_t>(seed), begin * rows, std::min(end * rows, num),
              dim, data);
  });
  return torch::stable::to(out, dtype);
}

namespace {

Tensor directions_cpu(int64_t num, int64_t dim, std::string distribution, int64_t seed,
                      std::optional<ScalarType> dtype,
                      std::optional<torch::stable::Device> /*device: this is the CPU kernel*/) {
  const Checker check("directions");
  check.require(num >= 1, "num", "an integer >= 1", num);
  check.require(dim >= 1, "dim", "an integer >= 1", dim);
  const Distribution kind = check_distribution(check, distribution);
  if (dtype) check.float_dtype("dtype", *dtype);
  return draw_directions(num, dim, kind, seed, dtype.value_or(ScalarType::Float));
}

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) { m.impl("directions", boxed<&directions_cpu>); }

}  // namespace zoprune
