// The picks of a round, and what they mean for all tokens.
//
// An objective has
//   Pair        4 bytes: what a pick does to a token, as far as the two of them and the picks of
//               earlier rounds decide it
//   State       of a token, kept in registers during a round
//   kGainsRiseOnce  whether a gain may be higher after the first pick than before it
//   void lay_out(Arena&, const SelectArguments&, const SelectPlan&): its part of the workspace
//   void begin(const SelectArguments&, const Image&): by all threads of a block, for each image
//   void rank_for(int selected): from here on, ranks are for the next pick after so many
//   int begin_round(int selected, int left): how many of the picks left the round may make
//   int step(): how many picks are made before any of them changes a gain
//   bool by_gain(): whether the round's picks change only the others' gains, each at once, and no
//               class
//   float gain(const State&): where that is so, the gain once something is selected
//   State start(float score, int i, bool has_direction)
//   State load(int64_t token), void store(int64_t token, const State&)
//   uint64_t rank(uint64_t rank, const State&): the rank anew, of the same token
//   Pair relate(const Image&, int i, int other, float cosine): by a warp, i the same in all lanes,
//               other < 0 where a lane has none
//   void publish(const State (&)[kSlots], int pick, int number): what else must be known of the
//               round's pick `number`, by the warp that holds it
//   void lower(State (&)[kSlots], const uint64_t (&rank)[kSlots], Pair* pairs, int pick,
//               int number): a lane's candidates by that pick; pairs [kBlock, kBlock] of the
//               candidates lie in shared memory, the pick's in its row. Where a rank is 0 there is
//               no candidate: its column of pairs is anything, and its state may become anything
//   void settle(State&, const Pair* pairs, const Image&, int i, const Pair (&of_picks)[kSlots]):
//               the same by all the round's picks, for any token, by a warp
#pragma once

#include "cuda/greedy/candidates.cuh"
#include "cuda/greedy/keys.cuh"
#include "cuda/greedy/state.cuh"

namespace zoprune::cuda {

// Dot products of token i with a lane's candidates candidate(slot), none where that is negative:
// all are on their way before one is used.
template <typename Candidate>
__device__ void load_products(const Image& image, const Workspace& work, int i,
                              const Candidate& candidate, float (&products)[kSlots]) {
  const bool there = work.products != nullptr;
  const float* const row = work.products + (image.rows + i) * kBlock;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot)
    products[slot] = there ? load_fresh(row + max(candidate(slot), 0)) : 0;
}

// What relates token i to a lane's candidate b, or to none where b < 0.
template <DType type, typename Objective>
__device__ typename Objective::Pair relate(const Objective& objective, const Keys<type>& keys,
                                           const Image& image, int i, float inverse, int b,
                                           float product) {
  const Shared& s = shared();
  const int other = b < 0 ? -1 : static_cast<int>(rank_index(s.candidate[b]));
  float value = 1;
  if (b >= 0 && keys.data != nullptr)
    value = cosine(keys, image.start + i, image.start + other, product, inverse, s.inverse_norm[b]);
  return objective.relate(image, i, other, value);
}

// Fills the group's `pairs` [kBlock, kBlock]: row b for the pick of candidate b, column a for what
// it does to candidate a. The group shares the work, and must be past a barrier before it reads
// them.
template <DType type, typename Objective>
__device__ void relate_candidates(int count, const Objective& objective, const Keys<type>& keys,
                                  const Image& image, const Workspace& work) {
  auto* const pairs = objective.pairs + static_cast<int64_t>(image.group) * kBlock * kBlock;
  const Shared& s = shared();
  const auto candidate = [&](int slot) {
    const int b = slot * 32 + lane();
    return b < count ? b : -1;
  };
  for (int a = image.first_own(); a < count; a += image.stride()) {
    const int token = static_cast<int>(rank_index(s.candidate[a]));
    float products[kSlots];
    load_products(image, work, token, candidate, products);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot * 32 >= count) break;
      const int b = candidate(slot);
      const auto value =
          relate(objective, keys, image, token, s.inverse_norm[a], b, products[slot]);
      if (b >= 0) pairs[b * kBlock + a] = value;
    }
  }
}

// The states of a lane's candidates, which are lane, lane + 32, ...
template <typename Objective>
__device__ void load_candidates(int count, const Objective& objective, const Image& image,
                                typename Objective::State (&state)[kSlots]) {
  const Shared& s = shared();
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int a = slot * 32 + lane();
    state[slot] = objective.load(image.start + (a < count ? rank_index(s.candidate[a]) : 0));
  }
}

// Greedy among free candidates of which only the gains change, by one warp: 32 bits decide, which
// makes the chain from pick to pick short. Returns the number of picks.
template <typename Objective>
__device__ int pick_by_gain(const Candidates& round, int most, const Objective& objective,
                            typename Objective::Pair* pairs,
                            typename Objective::State (&state)[kSlots]) {
  Shared& s = shared();
  uint32_t order[kSlots];  // of the gain; 0 where there is no candidate
  uint32_t free[kSlots];   // all bits where there is one: a branch for each would follow the others
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int a = slot * 32 + lane();
    free[slot] = a < round.count ? ~0u : 0u;
    order[slot] = static_cast<uint32_t>(s.candidate[min(a, round.count - 1)] >> kIndexBits);
    order[slot] &= free[slot];
  }
  const uint32_t bound = rank_class(round.bound) == Candidate::free
                             ? static_cast<uint32_t>(round.bound >> kIndexBits)
                             : 0;
  int picks = 0;
#pragma unroll 1
  for (; picks < most; ++picks) {
    uint32_t best = order[0];
    int own = lane();
#pragma unroll
    for (int slot = 1; slot < kSlots; ++slot) {
      own = order[slot] > best ? slot * 32 + lane() : own;
      best = max(best, order[slot]);
    }
    const uint32_t top = __reduce_max_sync(kAllLanes, best);
    // Of equal gains the lowest index wins; candidates are in index order.
    const uint32_t lowest = __reduce_min_sync(kAllLanes, best == top ? own : kBlock);
    const int pick = static_cast<int>(lowest);
    if (top <= bound) {
      const uint64_t rank = rank_floor(Candidate::free) | uint64_t{top} << kIndexBits |
                            (s.candidate[pick] & kMaxIndex);
      if (rank <= round.bound) break;
    }
    if (top == 0) break;
    if (lane() == 0) s.pick[picks] = pick;
    const uint64_t unused[kSlots] = {};
    objective.lower(state, unused, pairs, pick, picks);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      free[slot] = opaque(slot * 32 + lane() == pick ? 0u : free[slot]);
      order[slot] = ordered_bits(objective.gain(state[slot])) & free[slot];
    }
  }
  return picks;
}

// Greedy among the candidates, by one warp: a pick is two warp reductions and a row of pairs.
// Stops before a step in which a token that is not a candidate might be better. Every thread block
// of the group makes the same picks, which costs less than one making them and a barrier.
template <typename Objective>
__device__ void pick_among(const Candidates& round, int most, bool interact,
                           const Objective& objective, const Image& image,
                           typename Objective::State (&state)[kSlots]) {
  using Pair = typename Objective::Pair;
  constexpr int kPiece = 4;  // pairs of a copy
  Shared& s = shared();
  auto* const pairs = reinterpret_cast<Pair*>(scratch());
  if (interact) {
    const Pair* const from = objective.pairs + static_cast<int64_t>(image.group) * kBlock * kBlock;
    // Rows as a whole, what lies behind their columns included: all copies are under way at once.
    static_assert(kBlock % kPiece == 0 && sizeof(Pair) * kPiece == 16, "whole copies");
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) * kPiece; i < round.count * kBlock;
         i += kThreads * kPiece)
      copy_async(pairs + i, from + i, true);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
  }
  bool all_free = true;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int a = slot * 32 + lane();
    all_free &= a >= round.count || rank_class(s.candidate[a]) == Candidate::free;
  }
  if (warp() == 0 && interact && objective.by_gain() &&
      __ballot_sync(kAllLanes, all_free) == kAllLanes) {
    const int picks = pick_by_gain(round, most, objective, pairs, state);
    if (lane() == 0) s.picks = picks;
  } else if (warp() == 0) {
    // Among the candidates, which are in index order, their numbers stand for the tokens' indices:
    // the best rank then tells its candidate.
    uint64_t rank[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int a = slot * 32 + lane();
      rank[slot] = a < round.count ? (s.candidate[a] | kMaxIndex) - a : 0;
    }
    const int step = objective.step();
    int made = 0;  // picks of whole steps
    for (int picks = 0; picks < most; ++picks) {
      uint64_t best = rank[0];
#pragma unroll
      for (int slot = 1; slot < kSlots; ++slot) best = max(best, rank[slot]);
      const uint64_t top = warp_max(best);
      const int pick = static_cast<int>(rank_index(top));
      if (top >> kIndexBits <= round.bound >> kIndexBits) {  // equal gains: the indices decide
        if (top == 0 ||
            ((top & ~uint64_t{kMaxIndex}) | (s.candidate[pick] & kMaxIndex)) <= round.bound)
          break;
      }
      if (lane() == 0) s.pick[picks] = pick;
      objective.publish(state, pick, picks);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot)
        if (slot * 32 + lane() == pick) rank[slot] = 0;
      if (picks + 1 < min(made + step, most)) continue;
      if (interact) {
        if (step > 1) __syncwarp();  // s.pick
#pragma unroll 1
        for (int number = made; number < picks; ++number)
          objective.lower(state, rank, pairs, s.pick[number], number);
        objective.lower(state, rank, pairs, pick, picks);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
          const uint64_t lowered = objective.rank(rank[slot], state[slot]);
          rank[slot] = rank[slot] == 0 ? 0 : lowered;
        }
      }
      made = picks + 1;
    }
    if (lane() == 0) s.picks = made;
  }
  __syncthreads();
}

// Takes the picked tokens out and, if ranks are still needed, ranks the others anew.
template <DType type, typename Objective>
__device__ void update_tokens(bool rerank, const Objective& objective, const Keys<type>& keys,
                              const Image& image, const Workspace& work) {
  using Pair = typename Objective::Pair;
  const Shared& s = shared();
  for (int i = static_cast<int>(threadIdx.x); i < s.picks; i += kThreads) {
    const int token = static_cast<int>(rank_index(s.candidate[s.pick[i]]));
    if (image.owned_here(token)) work.rank[image.start + token] = 0;
  }
  __syncthreads();
  if (!rerank) return;
  const auto* const pairs = reinterpret_cast<const Pair*>(scratch());
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    const int64_t token = image.start + i;
    // All loads before the first use of one.
    const uint64_t rank = load_fresh(work.rank + token);
    const float inverse = keys.data == nullptr ? 0 : load_fresh(work.inverse_norm + token);
    auto state = objective.load(token);
    const auto candidate = [&](int slot) {
      const int number = slot * 32 + lane();
      return number < s.picks ? s.pick[number] : -1;
    };
    float products[kSlots];
    load_products(image, work, i, candidate, products);
    if (rank == 0) continue;
    Pair of_picks[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot * 32 >= s.picks) break;
      of_picks[slot] = relate(objective, keys, image, i, inverse, candidate(slot), products[slot]);
    }
    objective.settle(state, pairs, image, i, of_picks);
    __syncwarp();  // all lanes have read what the first one now writes
    if (lane() != 0) continue;
    objective.store(token, state);
    work.rank[token] = objective.rank(rank, state);
  }
}

}  // namespace zoprune::cuda
