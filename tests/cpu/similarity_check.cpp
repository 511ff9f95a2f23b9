// Dot products and sketches of random keys on one instruction set, torch-free. Every array is
// exactly as long as it has to be, for sanitizers.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/greedy/sketches.h"
#include "cpu/similarity.h"
#include "draw.h"

namespace {

using namespace zoprune;
namespace kernels = zoprune::ZOPRUNE_ISA;

float normal() { return std::normal_distribution<float>()(generator); }

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "similarity: %s\n", what);
  std::exit(1);
}

void serial(int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  task(context, 0, count / 3);
  task(context, count / 3, count);
}

void store_as(KeyType type, float value, char* out) {
  if (type == KeyType::float32) {
    std::memcpy(out, &value, sizeof value);
  } else {
    BFloat16 half;  // as fp16, some other number of about the same size
    store(type == KeyType::float16 ? std::ldexp(value, -112) : value, half);
    std::memcpy(out, &half, sizeof half);
  }
}

// A pair's product has the same bits in every block, and with its rows the other way round.
void check_dots() {
  const auto type = static_cast<KeyType>(integer(0, 2));
  const int64_t rows = integer(1, 30), cols = integer(1, 30), dim = integer(1, 300);
  const int64_t bytes = dim * key_bytes(type), stride = cols + integer(0, 3);
  std::vector<char> keys((rows + cols) * bytes);
  for (int64_t i = 0; i < (rows + cols) * dim; ++i)
    store_as(type, normal(), &keys[i * key_bytes(type)]);
  std::vector<const void*> left, right;
  for (int64_t r = 0; r < rows; ++r) left.push_back(&keys[r * bytes]);
  for (int64_t c = 0; c < cols; ++c) right.push_back(&keys[(rows + c) * bytes]);
  std::vector<float> block((rows - 1) * stride + cols), turned(cols * rows);
  kernels::dot_products(type, left.data(), rows, right.data(), cols, dim, block.data(), stride);
  kernels::dot_products(type, right.data(), cols, left.data(), rows, dim, turned.data(), rows);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      float alone;
      kernels::dot_products(type, &left[r], 1, &right[c], 1, dim, &alone, 1);
      expect(block[r * stride + c] == alone, "a product depends on its block");
      expect(turned[c * rows + r] == alone, "a product depends on the order of its rows");
      if (type == KeyType::float16) continue;
      double sum = 0, scale = 0;
      std::vector<double> a(dim), b(dim);
      kernels::add_row(type, left[r], dim, a.data());
      kernels::add_row(type, right[c], dim, b.data());
      for (int64_t i = 0; i < dim; ++i) {
        sum += a[i] * b[i];
        scale += std::fabs(a[i] * b[i]);
      }
      expect(std::fabs(alone - sum) <= 2e-6 * scale, "a product is wrong");
    }
}

// Each token's copy with some noise is what its sketch is the most like.
void check_sketches() {
  const auto type = integer(0, 1) ? KeyType::float32 : KeyType::bfloat16;
  const int64_t tokens = 2 * integer(1, 100), dim = integer(kernels::Sketches::kWidth, 700);
  const int64_t bytes = key_bytes(type), zero = integer(0, 9) ? tokens : integer(0, tokens / 2) * 2;
  std::vector<char> data(tokens * dim * bytes);
  for (int64_t i = 0; i < tokens; i += 2)
    for (int64_t j = 0; j < dim; ++j) {
      const float value = i == zero ? std::nanf("") : normal();
      store_as(type, value, &data[(i * dim + j) * bytes]);
      store_as(type, value + 0.1f * normal(), &data[((i + 1) * dim + j) * bytes]);
    }
  kernels::Keys keys({type, dim, dim}, data.data(), tokens);
  std::vector<int64_t> all(tokens);
  std::iota(all.begin(), all.end(), 0);
  const kernels::Sketches sketches(keys, all, serial);
  std::vector<int> met(tokens);
  for (const auto& [first, second] : sketches.likely_pairs(all, all, 3)) {
    expect(first != second, "a token is its own likely neighbour");
    met[second] += first == (second ^ 1);
  }
  for (int64_t i = 0; i < tokens; ++i)
    expect(i / 2 == zero / 2 || met[i] == 1, "a sketch does not tell the nearest token");
  int64_t last = 0;
  const std::vector<int64_t> one{1};
  for (const auto& [first, second] : sketches.likely_pairs(all, one, 2)) {
    expect(first == 1 && second == last, "a sketch is alike to one that it was not compared with");
    last = second == 0 ? 2 : second + 1;
  }
  expect(last == tokens, "a token has met no other");
}

}  // namespace

void check_similarity(uint64_t seed) {
  generator.seed(seed);
  check_dots();
  check_sketches();
}
