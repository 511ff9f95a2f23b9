#include "cpu/budget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "zoprune/selection.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

constexpr int kBisections = 100;
constexpr double kSmallestShare = 1e-12;  // a share of nothing still fills up last

std::vector<double> shares(BudgetRule rule, double temperature, const float* weights,
                           int64_t images) {
  std::vector<double> finite(images), share(images, 1.0 / images);
  for (int64_t b = 0; b < images; ++b)
    finite[b] = is_nan(weights[b]) ? -FLT_MAX : finite_score(weights[b]);
  const double largest = *std::max_element(finite.begin(), finite.end());
  if (rule == BudgetRule::softmax) {
    for (int64_t b = 0; b < images; ++b) share[b] = std::exp((finite[b] - largest) / temperature);
  } else if (rule == BudgetRule::proportional && largest > 0) {
    for (int64_t b = 0; b < images; ++b) share[b] = std::max(finite[b], 0.0);
  }
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  for (double& s : share) s = std::max(s / sum, kSmallestShare);
  return share;
}

}  // namespace

void budget(BudgetRule rule, double temperature, const float* weights, int64_t images,
            int64_t total, int64_t minimum, const int32_t* capacity, int32_t* offsets) {
  const std::vector<double> share = shares(rule, temperature, weights, images);
  std::vector<double> count(images);
  const auto limit = [&](int64_t b) {
    return capacity ? static_cast<double>(capacity[b]) : static_cast<double>(total);
  };
  const auto fill = [&](double scale) {
    double sum = 0;
    for (int64_t b = 0; b < images; ++b) {
      const double wanted = std::floor(scale * share[b] + 0.5);
      count[b] = std::min(std::max(wanted, static_cast<double>(minimum)), limit(b));
      sum += count[b];
    }
    return sum;
  };
  double low = 0, high = (total + 1) / *std::min_element(share.begin(), share.end());
  for (int i = 0; i < kBisections; ++i) {
    const double middle = (low + high) / 2;
    (fill(middle) <= total ? low : high) = middle;
  }
  const double left = total - fill(low);
  // Those next to step, lowest index first, take what is left.
  std::vector<double> step(images);
  for (int64_t b = 0; b < images; ++b)
    step[b] =
        count[b] < limit(b) ? (count[b] + 0.5) / share[b] : std::numeric_limits<double>::infinity();
  std::vector<int64_t> order(images);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return step[a] < step[b]; });
  for (int64_t i = 0; i < static_cast<int64_t>(left) && i < images; ++i) ++count[order[i]];
  offsets[0] = 0;
  for (int64_t b = 0; b < images; ++b) offsets[b + 1] = offsets[b] + static_cast<int32_t>(count[b]);
}

}  // namespace zoprune::ZOPRUNE_ISA
