// Selection by a score that each pick lowers nearby.
#include "cuda/greedy/kernel.cuh"

namespace zoprune::cuda {

template <>
struct Greedy<Suppression> {
  // How much a pick takes: of the score's magnitude (soft), or of the score; for `hard` not 0 where
  // it blocks.
  using Pair = float;
  struct State {
    float score;
    bool blocked;
  };
  static constexpr bool kGainsRiseOnce = false;

  Suppression how;
  Pair* pairs = nullptr;
  float* score = nullptr;  // [total_tokens]
  const float* positions = nullptr;
  int axes = 0;

  void lay_out(Arena& arena, const SelectArguments& arguments, const SelectPlan& plan) {
    pairs = arena.take<Pair>(int64_t{plan.groups} * kBlock * kBlock);
    score = arena.take<float>(arguments.total_tokens);
    positions = arguments.positions;
    axes = arguments.axes;
  }

  __device__ void begin(const SelectArguments& arguments, const Image&) {
    if (arguments.keys == nullptr) how.threshold = -2;  // whatever is near is close
  }
  __device__ void rank_for(int) {}
  __device__ int begin_round(int, int left) const { return left; }
  __device__ int step() const { return 1; }

  __device__ bool by_gain() const { return how.rule != SuppressRule::hard; }
  __device__ float gain(const State& state) const { return state.score; }

  __device__ State start(float score, int, bool) const { return {finite_score(score), false}; }

  __device__ State load(int64_t token) const { return {load_fresh(score + token), false}; }
  __device__ void store(int64_t token, const State& state) const { score[token] = state.score; }

  __device__ uint64_t rank(uint64_t rank, const State& state) const {
    const Candidate candidate = rank_class(rank);
    const bool blocks = candidate == Candidate::free && state.blocked;
    return pack_rank(blocks ? Candidate::blocked : candidate, state.score, rank_index(rank));
  }

  __device__ Pair relate(const Image& image, int i, int other, float cosine) const {
    if (other < 0) return 0;
    float distance2 = 0;
    for (int axis = 0; axis < axes; ++axis) {
      const float step = positions[(image.start + i) * axes + axis] -
                         positions[(image.start + other) * axes + axis];
      distance2 += step * step;
    }
    if (!(distance2 <= how.radius2)) return 0;  // NaN: nobody's neighbour
    if (how.rule == SuppressRule::hard) return cosine > how.threshold ? 1.0f : 0.0f;
    const bool soft = how.rule == SuppressRule::soft;
    const float difference = 1 - cosine;
    const float closeness =
        expf(distance2 * how.space_scale +
             (soft ? difference * difference : difference) * how.similarity_scale);
    return soft ? closeness : closeness * how.strength;
  }

  __device__ void publish(const State (&)[kSlots], int, int) const {}

  __device__ void lower(State (&state)[kSlots], const uint64_t (&)[kSlots], const Pair* pairs,
                        int pick, int) const {
    Pair of_pick[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      of_pick[slot] = pairs[pick * kBlock + slot * 32 + lane()];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) lower_by(state[slot], of_pick[slot]);
  }

  // One pick after the other, because each takes its share of what the others have left.
  __device__ void settle(State& state, const Pair*, const Image&, int,
                         const Pair (&of_picks)[kSlots]) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot * 32 >= shared().picks) break;
      for (uint32_t near = __ballot_sync(kAllLanes, of_picks[slot] > 0); near; near &= near - 1)
        lower_by(state, __shfl_sync(kAllLanes, of_picks[slot], __ffs(near) - 1));
    }
  }

 private:
  __device__ void lower_by(State& state, Pair pair) const {
    if (!(pair > 0)) return;
    if (how.rule == SuppressRule::hard)
      state.blocked = true;
    else
      state.score -= how.rule == SuppressRule::soft ? pair * fabsf(state.score) : pair;
  }
};

template SelectPlan plan_select<Suppression>(const SelectArguments&, const Device&);
template std::string select(const SelectArguments&, const Suppression&, const SelectPlan&, void*,
                            cudaStream_t);

}  // namespace zoprune::cuda
