// What a selection ranks candidates by, shared by the CPU and CUDA kernels: classes, weights, gains
// and the order-preserving key that packs them. docs/selection.md has the definitions.
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>

#include "zoprune/host_device.h"
#include "zoprune/philox.h"

namespace zoprune {

enum class Method : int { sads, maxmin, topk, random, mmr, last = mmr };

// How a pick lowers its neighbours (select_suppress).
enum class SuppressRule : int { soft, exponential, hard, last = hard };

// The higher class is always picked first.
enum class Candidate : uint32_t { picked, invalid, nan, blocked, free, must_keep };

ZOPRUNE_HOST_DEVICE bool is_nan(float value) { return value != value; }

// Infinities become the largest finite numbers; NaN stays.
ZOPRUNE_HOST_DEVICE float finite_score(float score) {
  return score > FLT_MAX ? FLT_MAX : score < -FLT_MAX ? -FLT_MAX : score;
}

// w in [0, 1] of a finite score among those between low and high; 1 where all are equal.
ZOPRUNE_HOST_DEVICE float normalised_score(float score, float low, float high) {
  if (!(high > low)) return 1.0f;
  const double range = static_cast<double>(high) - static_cast<double>(low) + 1e-8;
  return static_cast<float>((static_cast<double>(score) - static_cast<double>(low)) / range);
}

// The uniform number in [0, 1) that method `random` ranks token `index` by.
ZOPRUNE_HOST_DEVICE float random_weight(uint64_t seed, uint32_t index) {
  constexpr uint32_t kStream = 0x52414E44;  // "RAND"
  const Philox4 drawn = philox4x32(seed, index / 4, 0, kStream, 0);
  // Chosen, not indexed: a GPU would have to store the words to index them.
  const uint32_t even = index & 2 ? drawn.word[2] : drawn.word[0];
  const uint32_t odd = index & 2 ? drawn.word[3] : drawn.word[1];
  return static_cast<float>((index & 1 ? odd : even) >> 8) * 0x1p-24f;
}

// Whether the gain depends on the similarity to the selected tokens.
ZOPRUNE_HOST_DEVICE bool compares_tokens(Method method) {
  return method == Method::sads || method == Method::maxmin || method == Method::mmr;
}

// How `select` picks, the same for all images of a call.
struct Redundancy {
  Method method = Method::sads;
  float max_similarity = 1.0f;  // 1: no constraint
  float tradeoff = 0.5f;        // of mmr
  uint64_t seed = 0;
  bool isolated_first = false;  // the first pick is the token whose nearest neighbour is farthest
  int64_t num_seed = 0;         // picks by weight only, before those by gain
  int64_t picks_per_step = 1;   // picks between updates of the gains

  bool compares() const { return compares_tokens(method) || max_similarity < 1 || isolated_first; }
};

// How a pick of `select_suppress` lowers its neighbours.
struct Suppression {
  SuppressRule rule = SuppressRule::soft;
  float space_scale = 0;       // -1 / (2 sigma_space^2), of a squared distance
  float similarity_scale = 0;  // the same of sigma_similarity, for `exponential` -1 / sigma
  float strength = 1;          // of `exponential`
  double radius2 = 0;          // squared, patches
  double threshold = 1;        // of `hard`, a cosine
};

// The gain of a token whose largest cosine to the selected tokens is `similarity`, which is below
// -1 while nothing is selected. `tradeoff` in [0, 1] is mmr's.
ZOPRUNE_HOST_DEVICE float selection_gain(Method method, float tradeoff, float weight,
                                         float similarity) {
  if (similarity < -1.0f) return weight;
  switch (method) {
    case Method::sads:
      return weight * (1.0f - similarity);
    case Method::maxmin:
      return 1.0f - similarity;
    case Method::mmr:
      return tradeoff * weight - (1.0f - tradeoff) * similarity;
    default:
      return weight;
  }
}

// A word that orders as the float does, for all but NaN; both zeros have the same.
ZOPRUNE_HOST_DEVICE uint32_t ordered_bits(float value) {
  value += 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// One word to rank by: class (3 bits), gain (32 bits), lowest index first (29 bits). No two tokens
// of an image share one, a picked token's is below all others, and it never rises once a first
// token is selected: what exact blocked greedy rests on.
constexpr int kIndexBits = 29;
constexpr uint32_t kMaxIndex = (1u << kIndexBits) - 1;

ZOPRUNE_HOST_DEVICE uint64_t rank_floor(Candidate candidate) {
  return static_cast<uint64_t>(candidate) << (32 + kIndexBits);
}

ZOPRUNE_HOST_DEVICE uint64_t pack_rank(Candidate candidate, float gain, uint32_t index) {
  const bool by_gain = candidate == Candidate::free || candidate == Candidate::blocked;
  const uint64_t order = by_gain ? ordered_bits(gain) : 0;
  return rank_floor(candidate) | order << kIndexBits | (kMaxIndex - index);
}

ZOPRUNE_HOST_DEVICE Candidate rank_class(uint64_t rank) {
  return static_cast<Candidate>(rank >> (32 + kIndexBits));
}

ZOPRUNE_HOST_DEVICE uint32_t rank_index(uint64_t rank) {
  return kMaxIndex - static_cast<uint32_t>(rank & kMaxIndex);
}

}  // namespace zoprune
