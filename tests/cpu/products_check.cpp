// Random products of one instruction set against sums in double, torch-free. Every array is exactly
// as long as it has to be, for sanitizers. With ZOPRUNE_MAIN a program; its argument: how many.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/product.h"
#include "draw.h"

namespace {

using namespace zoprune;
namespace kernels = zoprune::ZOPRUNE_ISA;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "products: %s\n", what);
  std::exit(1);
}

void expect_close(double got, double expected, double scale, const char* what) {
  expect(std::fabs(got - expected) <= 2e-6 * scale + 1e-30, what);
}

template <typename T>
constexpr KeyType kType = sizeof(T) == 4 ? KeyType::float32 : KeyType::bfloat16;

template <typename T>
T number() {
  T value;
  store(std::normal_distribution<float>()(generator), value);
  return value;
}

float to_float(float value) { return value; }
float to_float(BFloat16 value) { return load(value); }

// Rows that end with zeros up to a whole cache line, `stride` apart.
template <typename T>
struct Matrix {
  Matrix(int64_t count, int64_t depth, int64_t line = 64 / sizeof(T))
      : rows(count), depth(depth), stride((depth + line - 1) / line * line + line * integer(0, 1)) {
    values.resize((rows - 1) * stride + (depth + line - 1) / line * line);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < depth; ++k) values[r * stride + k] = number<T>();
  }

  double at(int64_t r, int64_t k) const { return to_float(values[r * stride + k]); }
  Rows<T> operand() const { return {values.data(), rows, stride}; }
  Weight weight() const { return {kType<T>, values.data(), rows, depth, stride}; }

  int64_t rows, depth, stride;
  std::vector<T> values;
};

// Runs task(begin, end) over a product's tasks in two halves, the second first.
template <typename Task>
void in_halves(const Weight& weight, Sharing sharing, const Task& task) {
  const int64_t tasks = sharing.tasks(weight), half = integer(0, tasks);
  task(half, tasks);
  task(0, half);
}

template <typename T>
void check_store(const Matrix<T>& x, const Matrix<T>& w) {
  const int64_t width = w.rows + integer(0, 1) * (63 - (w.rows + 63) % 64);
  std::vector<float> bias(w.rows), out(x.rows * width, 7), again(x.rows * width, 7);
  for (float& value : bias) value = number<float>();
  for (auto* results : {&out, &again}) {
    const Sharing sharing{results == &out ? 1 : integer(1, 5)};
    in_halves(w.weight(), sharing, [&](int64_t begin, int64_t end) {
      kernels::store_product(x.operand(), w.weight(), bias.data(),
                             {KeyType::float32, results->data(), width, width}, sharing, begin,
                             end);
    });
  }
  const size_t bytes = out.size() * sizeof(float);
  expect(std::memcmp(out.data(), again.data(), bytes) == 0, "threads change the bits");
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0, scale = 0;
      for (int64_t k = 0; c < w.rows && k < x.depth; ++k) {
        sum += x.at(r, k) * w.at(c, k);
        scale += std::fabs(x.at(r, k) * w.at(c, k));
      }
      if (c < w.rows) sum += bias[c], scale += std::fabs(bias[c]);
      expect_close(out[r * width + c], sum, scale, "a stored product is wrong");
    }
}

// A row's results are the same to the last bit alone, and whatever the others hold.
template <typename T>
void check_rows_alone(const Matrix<T>& x, const Matrix<T>& w) {
  const int64_t own = integer(0, x.rows - 1);
  std::vector<float> all(x.rows * w.rows), alone(w.rows);
  Matrix<T> spoiled = x;
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t k = 0; k < x.depth; ++k)
      if (r != own) store(std::nanf(""), spoiled.values[r * x.stride + k]);
  const Sharing sharing{2};
  kernels::store_product(spoiled.operand(), w.weight(), nullptr,
                         {KeyType::float32, all.data(), w.rows, w.rows}, sharing, 0,
                         sharing.tasks(w.weight()));
  const Rows<T> row{x.values.data() + own * x.stride, 1, x.stride};
  kernels::store_product(row, w.weight(), nullptr, {KeyType::float32, alone.data(), w.rows, w.rows},
                         Sharing{}, 0, w.weight().panels());
  expect(std::memcmp(alone.data(), &all[own * w.rows], w.rows * sizeof(float)) == 0,
         "a row depends on others");
}

template <typename T>
void check_norms(const Matrix<T>& x, const Matrix<T>& w) {
  std::vector<float> sums(w.weight().panels() * x.rows);
  const Sharing sharing{integer(1, 3)};
  in_halves(w.weight(), sharing, [&](int64_t begin, int64_t end) {
    kernels::norm_product(x.operand(), w.weight(), sums.data(), sharing, begin, end);
  });
  for (int64_t r = 0; r < x.rows; ++r) {
    double got = 0, expected = 0, scale = 0;
    for (int64_t panel = 0; panel < w.weight().panels(); ++panel) got += sums[panel * x.rows + r];
    for (int64_t c = 0; c < w.rows; ++c) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < x.depth; ++k) {
        sum += x.at(r, k) * w.at(c, k);
        size += std::fabs(x.at(r, k) * w.at(c, k));
      }
      expected += sum * sum;
      scale += size * size;
    }
    expect_close(got, expected, scale, "a norm is wrong");
  }
}

template <typename T>
void check_form(const Matrix<T>& g) {
  Matrix<T> metric(g.depth, g.depth);
  for (int64_t r = 0; r < g.depth; ++r)
    for (int64_t c = 0; c < r; ++c)
      metric.values[c * metric.stride + r] = metric.values[r * metric.stride + c];
  std::vector<float> sums(metric.weight().panels() * g.rows);
  const Sharing sharing{integer(1, 3)};
  in_halves(metric.weight(), sharing, [&](int64_t begin, int64_t end) {
    kernels::form_product(g.operand(), metric.weight(), sums.data(), sharing, begin, end);
  });
  for (int64_t r = 0; r < g.rows; ++r) {
    double got = 0, expected = 0, scale = 0;
    for (size_t panel = 0; panel * g.rows < sums.size(); ++panel) got += sums[panel * g.rows + r];
    for (int64_t a = 0; a < g.depth; ++a)
      for (int64_t b = 0; b < g.depth; ++b) {
        const double term = g.at(r, a) * metric.at(a, b) * g.at(r, b);
        expected += term;
        scale += std::fabs(term);
      }
    expect_close(2 * got, expected, scale, "a quadratic form is wrong");
  }
}

template <typename T>
void check_activation(const Matrix<T>& x, const Matrix<T>& w) {
  const std::vector<float> bias(w.rows, 0.25f);
  std::vector<float> value(x.rows * w.rows), slope(x.rows * w.rows);
  const auto activation = static_cast<Activation>(integer(0, 5));
  kernels::activate_product(x.operand(), w.weight(), bias.data(), activation,
                            {KeyType::float32, value.data(), w.rows, w.rows},
                            {KeyType::float32, slope.data(), w.rows, w.rows}, Sharing{}, 0,
                            w.weight().panels());
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < w.rows; ++c) {
      float a = 0.25f;
      double scale = 1;
      for (int64_t k = 0; k < x.depth; ++k) {
        a += static_cast<float>(x.at(r, k) * w.at(c, k));
        scale += std::fabs(x.at(r, k) * w.at(c, k));
      }
      if (std::fabs(a) < 1e-3) continue;  // relu may bend
      Expansion expected{};
      switch (activation) {
#define ZOPRUNE_CASE(name)                  \
  case Activation::name:                    \
    expected = expand<Activation::name>(a); \
    break;
        ZOPRUNE_CASE(gelu)
        ZOPRUNE_CASE(gelu_tanh)
        ZOPRUNE_CASE(quick_gelu)
        ZOPRUNE_CASE(silu)
        ZOPRUNE_CASE(relu)
        ZOPRUNE_CASE(identity)
#undef ZOPRUNE_CASE
      }
      expect_close(value[r * w.rows + c], expected.value, 10 * scale, "an activation is wrong");
      expect_close(slope[r * w.rows + c], expected.slope, 10 * scale, "a derivative is wrong");
    }
}

template <typename T>
void check_type() {
  const int64_t depth = integer(0, 9) ? integer(1, 200) : integer(1000, 1300);
  const Matrix<T> x(integer(0, 9) ? integer(1, 40) : integer(190, 200), depth);
  const Matrix<T> w(integer(1, 150), depth);
  check_store(x, w);
  check_rows_alone(x, w);
  check_norms(x, w);
  if (depth <= 200) check_form(x);
  check_activation(x, w);
}

// fp16 in two bf16 parts: products lose that of the second parts, 2^-16 of a term at most.
void check_split() {
  const int64_t depth = integer(1, 100), rows = integer(1, 9), whole = (depth + 31) / 32 * 32;
  const auto half = [](uint16_t bits) {
    return std::ldexp((bits & 0x3FF) + 1024.0, (bits >> 10 & 31) - 25) * (bits >> 15 ? -1 : 1);
  };
  const auto draw = [&](int64_t count) {
    std::vector<uint16_t> values(count);
    for (auto& value : values)
      value = static_cast<uint16_t>(integer(0, 1) << 15 | integer(10, 20) << 10 | integer(0, 1023));
    return values;
  };
  const auto x = draw(rows * depth), w = draw(70 * depth);
  std::vector<BFloat16> operand(rows * 3 * whole);
  for (int64_t r = 0; r < rows; ++r)
    kernels::split_row(&x[r * depth], depth, whole, &operand[r * 3 * whole]);
  std::vector<float> out(rows * 70);
  const Weight weight{KeyType::float16, w.data(), 70, depth, depth};
  kernels::store_product(Rows<BFloat16>{operand.data(), rows, 3 * whole, true}, weight, nullptr,
                         {KeyType::float32, out.data(), 70, 70}, Sharing{}, 0, weight.panels());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < 70; ++c) {
      double sum = 0, scale = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double term = half(x[r * depth + k]) * half(w[c * depth + k]);
        sum += term;
        scale += std::fabs(term);
      }
      expect_close(out[r * 70 + c], sum, 10 * scale, "a split product is wrong");
    }
}

}  // namespace

void check_products(uint64_t seed) {
  generator.seed(seed);
  check_type<float>();
  check_type<BFloat16>();
  check_split();
}

#if defined(ZOPRUNE_MAIN)
void check_similarity(uint64_t seed);  // similarity_check.cpp

int main(int, char** arguments) {
  for (int i = 0; i < std::atoi(arguments[1]); ++i) {
    check_products(i);
    check_similarity(i);
  }
  std::printf("right\n");
}
#endif
