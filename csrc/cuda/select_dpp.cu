// Selection by quality and the volume that the keys span: the incremental Cholesky factor of Chen
// et al. (2018), divided by the quality, in integers. Sums of integers do not depend on their
// order, so a component has the same bits however the picks fall into rounds.
#include "cuda/greedy/kernel.cuh"
#include "cuda/select_dpp.h"

namespace zoprune::cuda {

template <>
struct Greedy<Volume> {
  // Cosines and what the selected leave of them: multiples of 2^-30. Components: of 2^-31.
  using Pair = int32_t;
  struct State {
    float quality;
    int64_t residual;  // share of the squared length outside the span, a multiple of 2^-62
  };
  static constexpr bool kGainsRiseOnce = false;
  static constexpr int64_t kWhole = int64_t{1} << 62;
  static constexpr int64_t kDependent = 46116860184273;  // 1e-5: less adds no volume

  Volume how;
  Pair* pairs = nullptr;
  float* quality = nullptr;       // [total_tokens]
  int64_t* residual = nullptr;    // [total_tokens]
  int32_t* components = nullptr;  // [product_rows, row_keep]
  int64_t row_keep = 0;
  int selected = 0;  // before the round

  // How many picks each packed image has is known on the device only.
  void lay_out(Arena& arena, const SelectArguments& arguments, const SelectPlan& plan) {
    row_keep = arguments.cu_keep == nullptr ? arguments.keep : arguments.total_keep;
    pairs = arena.take<Pair>(int64_t{plan.groups} * kBlock * kBlock);
    quality = arena.take<float>(arguments.total_tokens);
    residual = arena.take<int64_t>(arguments.total_tokens);
    components = arena.take<int32_t>(plan.product_rows * row_keep);
  }

  __device__ void begin(const SelectArguments&, const Image&) {}
  __device__ void rank_for(int) {}
  __device__ int begin_round(int picks, int left) {
    selected = picks;
    return left;
  }
  __device__ int step() const { return 1; }

  __device__ bool by_gain() const { return false; }  // a token may come to add nothing
  __device__ float gain(const State& state) const { return state.quality; }

  __device__ State start(float score, int, bool has_direction) const {
    return {finite_score(score), has_direction ? kWhole : 0};
  }

  __device__ State load(int64_t token) const {
    return {load_fresh(quality + token), load_fresh(residual + token)};
  }

  __device__ void store(int64_t token, const State& state) const {
    quality[token] = state.quality;
    residual[token] = state.residual;
  }

  __device__ uint64_t rank(uint64_t rank, const State& state) const {
    Candidate candidate = rank_class(rank);
    float gain = state.quality;
    if (!(gain > 0) || state.residual <= kDependent) {
      if (candidate == Candidate::free) candidate = Candidate::blocked;
    } else {
      gain *= sqrtf(static_cast<float>(state.residual) * 0x1p-62f);
    }
    return pack_rank(candidate, gain, rank_index(rank));
  }

  // What the picks of earlier rounds leave of the cosine.
  __device__ Pair relate(const Image& image, int i, int other, float cosine) const {
    Pair left = static_cast<Pair>(rint(static_cast<double>(cosine) * 0x1p30));
    if (selected == 0) return left;
    const int32_t* const own = row(image, i);
    for (uint32_t some = __ballot_sync(kAllLanes, other >= 0); some; some &= some - 1) {
      const int source = __ffs(some) - 1;
      const int32_t* const others = row(image, __shfl_sync(kAllLanes, other, source));
      int32_t explained = 0;
#pragma unroll 4
      for (int p = lane(); p < selected; p += 32)
        explained += __mulhi(load_fresh(own + p), load_fresh(others + p));
      explained = __reduce_add_sync(kAllLanes, explained);
      if (lane() == source) left -= explained;
    }
    return left;
  }

  __device__ void publish(const State (&state)[kSlots], int pick, int number) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const double share = static_cast<double>(state[slot].residual) * 0x1p-62;
      if (slot * 32 + lane() == pick)
        shared().pivot[number] = state[slot].residual > kDependent ? 1 / sqrt(share) : 0;
    }
    __syncwarp();
  }

  // The pick's row of pairs is not needed again: it takes the new components.
  __device__ void lower(State (&state)[kSlots], const uint64_t (&rank)[kSlots], Pair* pairs,
                        int pick, int number) const {
    const Shared& s = shared();
    int column[kSlots];  // without a candidate the pick's own, whose numbers are no garbage
    Pair left[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      column[slot] = rank[slot] == 0 ? pick : slot * 32 + lane();
      left[slot] = pairs[pick * kBlock + column[slot]];
    }
#pragma unroll 2
    for (int p = 0; p < number; ++p) {
      const Pair* const row = pairs + s.pick[p] * kBlock;
      const Pair of_pick = row[pick];
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) left[slot] -= __mulhi(row[column[slot]], of_pick);
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const Pair of_slot = component(left[slot], s.pivot[number]);
      if (rank[slot] == 0) continue;
      pairs[pick * kBlock + column[slot]] = of_slot;
      state[slot].residual -= static_cast<int64_t>(of_slot) * of_slot;
    }
  }

  // A lane has what is left of its picks' cosines, and takes each new component off those after it.
  __device__ void settle(State& state, const Pair* pairs, const Image& image, int i,
                         const Pair (&of_picks)[kSlots]) const {
    const Shared& s = shared();
    Pair left[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) left[slot] = of_picks[slot];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int p = slot * 32; p < min(s.picks, slot * 32 + 32); ++p) {
        const int32_t mine = component(left[slot], s.pivot[p]);
        const int32_t next = __shfl_sync(kAllLanes, mine, p % 32);
        state.residual -= static_cast<int64_t>(next) * next;
        if (lane() == 0) row(image, i)[selected + p] = next;
#pragma unroll
        for (int later = slot; later < kSlots; ++later) {
          const int after = later * 32 + lane();
          if (p < after && after < s.picks)
            left[later] -= __mulhi(next, pairs[s.pick[p] * kBlock + s.pick[after]]);
        }
      }
    }
  }

 private:
  __device__ int32_t* row(const Image& image, int i) const {
    return components + (image.rows + i) * row_keep;
  }

  __device__ static int32_t component(Pair left, double pivot) {
    const double value = 2.0 * left * pivot;
    return static_cast<int32_t>(rint(fmin(fmax(value, -2147483647.0), 2147483647.0)));
  }
};

template SelectPlan plan_select<Volume>(const SelectArguments&, const Device&);
template std::string select(const SelectArguments&, const Volume&, const SelectPlan&, void*,
                            cudaStream_t);

}  // namespace zoprune::cuda
