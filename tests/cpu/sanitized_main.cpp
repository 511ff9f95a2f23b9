// Random calls of the CPU kernels, for sanitizers: torch-free, and every array is exactly as long
// as it has to be. Arguments: how many rounds, the seed.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "cpu/activations.h"
#include "cpu/budget.h"
#include "cpu/compact.h"
#include "cpu/directions.h"
#include "cpu/frame_change.h"
#include "cpu/merge.h"
#include "cpu/select.h"
#include "cpu/select_coverage.h"
#include "cpu/select_dpp.h"
#include "cpu/select_suppress.h"
#include "draw.h"

void check_products(uint64_t seed);    // products_check.cpp
void check_similarity(uint64_t seed);  // similarity_check.cpp

namespace {

using namespace zoprune;
namespace kernels = zoprune::ZOPRUNE_ISA;

float number() {
  const float odd[] = {0.0f, std::numeric_limits<float>::infinity(), std::nanf(""), 1e38f, 1e-38f};
  if (integer(0, 30) == 0) return odd[integer(0, 4)];
  return std::normal_distribution<float>()(generator);
}

std::unique_ptr<float[]> numbers(int64_t count) {
  std::unique_ptr<float[]> values(new float[count]);
  for (int64_t i = 0; i < count; ++i) values[i] = number();
  return values;
}

// Rows of any element type: halves get the upper bits of a float.
std::unique_ptr<char[]> rows(KeyType type, int64_t count) {
  const int64_t bytes = key_bytes(type);
  std::unique_ptr<char[]> values(new char[count * bytes]);
  for (int64_t i = 0; i < count; ++i) {
    const float value = number();
    std::memcpy(&values[i * bytes], reinterpret_cast<const char*>(&value) + 4 - bytes, bytes);
  }
  return values;
}

void two_threads(int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  std::thread other([&] { task(context, 0, count / 2); });
  task(context, count / 2, count);
  other.join();
}

void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

void check_picks(const GreedyImage& image, bool sort) {
  std::set<int64_t> seen;
  for (int64_t i = 0; i < image.keep; ++i) {
    const int64_t token = image.indices[i] - image.first_index;
    if (token < 0 || token >= image.tokens || !seen.insert(token).second) fail("not a pick");
    if (image.valid && !image.valid[token]) fail("padding was picked");
    if (sort && i > 0 && image.indices[i] <= image.indices[i - 1]) fail("not ascending");
  }
}

void select_once() {
  const auto type = static_cast<KeyType>(integer(0, 2));
  const int64_t tokens = integer(1, integer(0, 3) ? 60 : 400),
                dim = integer(1, integer(0, 9) ? 70 : 600);
  const KeyLayout layout{type, dim, dim + integer(0, 3)};
  const auto scores = numbers(tokens), weights = numbers(tokens), positions = numbers(3 * tokens);
  const auto keys = rows(type, (tokens - 1) * layout.stride + dim);
  std::unique_ptr<bool[]> valid(new bool[tokens]), kept(new bool[tokens]);
  int64_t usable = 0, forced = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    usable += valid[i] = i == 0 || integer(0, 9) > 0;
    forced += kept[i] = valid[i] && integer(0, 15) == 0;
  }
  GreedyImage image{};
  image.scores = scores.get();
  image.keys = keys.get();
  image.valid = valid.get();
  image.must_keep = kept.get();
  image.tokens = tokens;
  image.keep = integer(std::max<int64_t>(forced, 1), usable);
  image.first_index = integer(0, 5);
  std::unique_ptr<int64_t[]> indices(new int64_t[image.keep]);
  image.indices = indices.get();
  const bool sort = integer(0, 1);
  Redundancy how;
  how.method = static_cast<Method>(integer(0, 4));
  how.max_similarity = integer(0, 1) ? 1.0f : 0.3f;
  how.isolated_first = integer(0, 3) == 0;
  how.num_seed = how.isolated_first ? 0 : integer(0, 4);
  how.picks_per_step = integer(1, 5);
  const bool centre = integer(0, 1);
  GreedyImage plain = image;
  if (!how.compares()) plain.keys = nullptr;
  kernels::select(how, centre && plain.keys, layout, plain, sort, two_threads);
  check_picks(plain, sort);
  kernels::select_dpp(layout, image, sort, two_threads);
  check_picks(image, sort);
  GreedyImage near = image;
  Suppression suppression{};
  suppression.rule = static_cast<SuppressRule>(integer(0, 2));
  if (integer(0, 1)) {
    near.positions = positions.get();
    near.axes = 3;
  }
  kernels::select_suppress(suppression, layout, near, sort, two_threads);
  check_picks(near, sort);
  image.weights = integer(0, 1) ? weights.get() : nullptr;
  kernels::select_coverage(layout, image, sort, two_threads);
  check_picks(image, sort);
}

void merge_once() {
  const auto type = static_cast<KeyType>(integer(0, 2));
  const int64_t tokens = integer(1, 60), dim = integer(1, 40), kept = integer(1, tokens);
  const auto values = rows(type, tokens * dim), keys = rows(type, tokens * dim);
  const auto merged = numbers(tokens * dim), sizes = numbers(tokens);
  MergeImage image{};
  image.token_layout = image.key_layout = {type, dim, dim};
  image.tokens = values.get();
  image.keys = keys.get();
  image.num_tokens = tokens;
  image.merged = merged.get();
  image.sizes = sizes.get();
  std::unique_ptr<int64_t[]> picks(new int64_t[kept]), stays(new int64_t[tokens]);
  for (int64_t i = 0; i < kept; ++i) picks[i] = i;
  kernels::merge(static_cast<MergeRule>(integer(0, 2)), image, picks.get(), kept, two_threads);
  kernels::merge_bipartite(image, integer(0, tokens / 2), stays.get(), two_threads);
}

void budget_once() {
  const int64_t images = integer(1, 20), total = integer(0, 2000);
  const auto weights = numbers(images);
  std::unique_ptr<int32_t[]> offsets(new int32_t[images + 1]);
  kernels::budget(static_cast<BudgetRule>(integer(0, 2)), 1.0, weights.get(), images, total, 0,
                  nullptr, offsets.get());
  if (offsets[images] != total) fail("the counts do not sum to the total");
}

void rest_once() {
  const int64_t num = integer(1, 20), dim = integer(1, 40);
  std::unique_ptr<double[]> drawn(new double[num * dim]);
  kernels::directions(static_cast<Distribution>(integer(0, 3)), generator(), 0, num, dim,
                      drawn.get());
  const auto product = numbers(num * dim), bias = numbers(dim);
  const int64_t stride = dim + integer(0, 31);
  std::unique_ptr<BFloat16[]> out(new BFloat16[num * stride]);
  const auto activation = static_cast<Activation>(integer(0, 5));
  kernels::activate(activation, 0, num, dim, product.get(), bias.get(), out.get(), stride);
  kernels::differentiate(activation, 0, num, dim, product.get(), bias.get(), out.get(), stride);
  const auto change = numbers(num);
  kernels::frame_change({KeyType::float32, dim, dim}, product.get(), product.get(), 0, num,
                        change.get());
  const int64_t kept = integer(1, num);
  std::unique_ptr<int64_t[]> indices(new int64_t[kept]);
  for (int64_t i = 0; i < kept; ++i) indices[i] = integer(0, num - 1);
  std::unique_ptr<char[]> to(new char[kept * dim * 4]);
  const auto* from = reinterpret_cast<const char*>(product.get());
  kernels::compact({from, to.get(), 1, num, dim * 4}, indices.get(), 1, kept, 0, kept);
}

}  // namespace

int main(int, char** arguments) {
  generator.seed(std::strtoull(arguments[2], nullptr, 10));
  const int rounds = std::atoi(arguments[1]);
  for (int round = 0; round < rounds; ++round) {
    select_once();
    merge_once();
    budget_once();
    rest_once();
    if (round % 20 == 0) check_products(generator());
    check_similarity(generator());
  }
  std::printf("%d rounds\n", rounds);
}
