// Selection by a gain of the score and of the largest cosine to the selected tokens.
#include "cuda/greedy/kernel.cuh"
#include "cuda/select.h"

namespace zoprune::cuda {

template <>
struct Greedy<Redundancy> {
  using Pair = float;  // a cosine
  struct State {
    float weight;
    float nearest;  // largest cosine to the selected tokens
  };
  static constexpr bool kGainsRiseOnce = true;
  static constexpr float kNothingSelected = -2;  // below every cosine

  Redundancy how;
  Pair* pairs = nullptr;
  float* weight = nullptr;   // [total_tokens]
  float* nearest = nullptr;  // [total_tokens]
  float low = 0, high = 0;   // of the image's scores
  int seeds = 0;             // that many picks go by weight: kept tokens, seeds, or a first one
  bool by_weight = false;
  bool isolated_first = false;

  void lay_out(Arena& arena, const SelectArguments& arguments, const SelectPlan& plan) {
    if (arguments.keys != nullptr) pairs = arena.take<Pair>(int64_t{plan.groups} * kBlock * kBlock);
    weight = arena.take<float>(arguments.total_tokens);
    nearest = arena.take<float>(arguments.total_tokens);
  }

  // Finds the lowest and the highest score that count, and the number of kept tokens, in every
  // thread block: reading all scores costs less than a barrier.
  __device__ void begin(const SelectArguments& arguments, const Image& image) {
    if (arguments.keys == nullptr) return;
    Shared& s = shared();
    uint32_t lowest = 0xffffffffu, highest = 0, kept = 0;
    for_each_score(arguments, image, [&](int, float score, Candidate first) {
      kept += first == Candidate::must_keep;
      if (is_nan(score) || first == Candidate::invalid) return;
      const uint32_t order = ordered_bits(finite_score(score));
      lowest = min(lowest, order);
      highest = max(highest, order);
    });
    lowest = __reduce_min_sync(kAllLanes, lowest);
    highest = __reduce_max_sync(kAllLanes, highest);
    kept = __reduce_add_sync(kAllLanes, kept);
    if (lane() == 0) {
      s.warp_total[warp()] = kept;
      s.warp_low[warp()] = lowest;
      s.warp_high[warp()] = highest;
    }
    __syncthreads();
    kept = 0;
    for (int w = 0; w < kWarps; ++w) {
      lowest = min(lowest, s.warp_low[w]);
      highest = max(highest, s.warp_high[w]);
      kept += s.warp_total[w];
    }
    low = ordered_float(lowest);
    high = ordered_float(highest);
    const int after_kept = static_cast<int>(min(how.num_seed, int64_t{image.keep}));
    isolated_first = how.isolated_first && kept == 0;
    seeds = static_cast<int>(kept) + (kept > 0 ? after_kept : max(after_kept, 1));
    rank_for(0);
  }

  __device__ void rank_for(int selected) { by_weight = selected < seeds; }

  __device__ int begin_round(int selected, int left) const {
    return by_weight ? min(left, seeds - selected) : left;
  }

  __device__ int step() const {
    return by_weight || pairs == nullptr ? 1 : static_cast<int>(how.picks_per_step);
  }

  __device__ bool by_gain() const {
    return compares_tokens(how.method) && !by_weight && !(how.max_similarity < 1) && step() == 1;
  }

  // selection_gain of the methods that compare, without a branch; something is selected.
  __device__ float gain(const State& state) const {
    const float weight = how.method == Method::maxmin ? 1.0f : state.weight;
    const float product = weight * (1.0f - state.nearest);
    const float difference = how.tradeoff * state.weight - (1.0f - how.tradeoff) * state.nearest;
    return how.method == Method::mmr ? difference : product;
  }

  __device__ State start(float score, int i, bool) const {
    float value = finite_score(score);
    if (compares_tokens(how.method)) value = normalised_score(value, low, high);
    if (how.method == Method::random) value = random_weight(how.seed, i);
    return {value, kNothingSelected};
  }

  __device__ State load(int64_t token) const {
    return {load_fresh(weight + token), load_fresh(nearest + token)};
  }

  __device__ void store(int64_t token, const State& state) const {
    weight[token] = state.weight;
    nearest[token] = state.nearest;
  }

  // Blocked by too similar a selected token, once and for all.
  __device__ uint64_t rank(uint64_t rank, const State& state) const {
    Candidate candidate = rank_class(rank);
    if (candidate == Candidate::free && how.max_similarity < 1 &&
        state.nearest > how.max_similarity)
      candidate = Candidate::blocked;
    float gain = state.weight;
    if (!by_weight) gain = selection_gain(how.method, how.tradeoff, gain, state.nearest);
    return pack_rank(candidate, gain, rank_index(rank));
  }

  __device__ Pair relate(const Image&, int, int other, float cosine) const {
    return other < 0 ? kNothingSelected : cosine;
  }

  __device__ void publish(const State (&)[kSlots], int, int) const {}

  __device__ void lower(State (&state)[kSlots], const uint64_t (&)[kSlots], const Pair* pairs,
                        int pick, int) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      state[slot].nearest = fmaxf(state[slot].nearest, pairs[pick * kBlock + slot * 32 + lane()]);
  }

  __device__ void settle(State& state, const Pair*, const Image&, int,
                         const Pair (&of_picks)[kSlots]) const {
    float largest = state.nearest;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (slot * 32 < shared().picks) largest = fmaxf(largest, of_picks[slot]);
    state.nearest = warp_max(largest);
  }
};

// What the audit asks: the most that a launch can have.
extern "C" __attribute__((visibility("default"))) const int zoprune_select_kernel_shared_bytes =
    shared_bytes(kBlock);

std::string select_unavailable() {
  cudaFuncAttributes attributes;
  const cudaError_t status =
      cudaFuncGetAttributes(&attributes, select_kernel<DType::float32, Redundancy>);
  if (status == cudaSuccess) return "";
  cudaGetLastError();  // it is told, so nobody else shall find it
  return cudaGetErrorString(status);
}

template SelectPlan plan_select<Redundancy>(const SelectArguments&, const Device&);
template std::string select(const SelectArguments&, const Redundancy&, const SelectPlan&, void*,
                            cudaStream_t);

}  // namespace zoprune::cuda
