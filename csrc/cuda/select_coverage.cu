// Selection by the weighted coverage that a token adds (facility location): plain greedy, every
// sum brought up to date with every pick. docs/kernels-selection.md explains the schedule.
#include "cuda/greedy/launch.cuh"
#include "cuda/greedy/similarity.cuh"
#include "cuda/select_coverage.h"
#include "cuda/select_coverage_terms.cuh"

namespace zoprune::cuda {
namespace {

// A plan keeps at most 256 MiB of cosines, whatever the number of images.
constexpr int64_t kStoredInAll = 8 * kStoredCosines;

// Where an image's cosines are kept, every thread block knows the coverage of all tokens.
struct Covered {
  float* by_picks;  // [tokens]
  float* weight;    // [tokens]
  Raised* raised;   // [tokens] by the last pick
};

// In the memory that shared_bytes() has for the ranks of a round's candidates.
static_assert(kStoredCosines <= int64_t{kCachedRanks / 2} * (kCachedRanks / 2),
              "16 bytes for each token of an image whose cosines are kept");

__device__ inline Covered covered_here(const Image& image) {
  auto* const floats = reinterpret_cast<float*>(scratch());
  return {floats, floats + image.tokens, reinterpret_cast<Raised*>(floats + 2 * image.tokens)};
}

__device__ inline void start_covered_here(const Image& image, const CoverageState& state) {
  const Covered covered = covered_here(image);
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads) {
    covered.by_picks[i] = 0;
    covered.weight[i] = load_fresh(state.weight + image.start + i);
  }
}

// Covers by the pick, from its row of cosines [tokens, tokens], and brings all sums up to date with
// it. Every thread block finds the raised tokens for itself, which costs less than a barrier.
__device__ void cover_from_row(const Image& image, const CoverageState& state, const float* cosines,
                               int pick) {
  constexpr int kTogether = 4;  // tokens of a warp: their cosines take long to arrive
  Shared& s = shared();
  const Covered covered = covered_here(image);
  const float* const row = cosines + static_cast<int64_t>(pick) * image.tokens;
  if (threadIdx.x == 0) s.collected = 0;
  __syncthreads();
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < image.tokens; i += kThreads) {
    const float value = load_fresh(row + i), before = covered.by_picks[i];
    if (!(value > before)) continue;
    covered.raised[atomicAdd(&s.collected, 1)] = {i, before};
    covered.by_picks[i] = value;
  }
  __syncthreads();
  const int count = s.collected;
  const float quanta = quanta_in_one(image.tokens);
  for (int first = image.first_own(); first < image.tokens; first += kTogether * image.stride()) {
    int64_t change[kTogether] = {};
    for (int number = lane(); number < count; number += 32) {
      const auto [i, before] = covered.raised[number];
      const float weight = covered.weight[i], after = covered.by_picks[i];
#pragma unroll
      for (int t = 0; t < kTogether; ++t) {
        const int64_t own = first + t * image.stride();
        const float value = own < image.tokens ? load_fresh(cosines + own * image.tokens + i) : 0;
        change[t] += term(weight, value, after, quanta) - term(weight, value, before, quanta);
      }
    }
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      const int own = first + t * image.stride();
      const int64_t sum = warp_sum(change[t]);
      if (lane() == 0 && own < image.tokens) state.added[image.start + own] += sum;
    }
  }
  __syncwarp();
}

// Covers by the pick, the only column, and lists the tokens that it raises, in any order. Earlier
// picks have raised so many as are `listed`.
template <DType type>
__device__ void cover_and_list(const Keys<type>& keys, const Image& image, const Workspace& work,
                               const CoverageState& state, uint32_t listed) {
  for (int i = image.first_own() + lane() * image.stride(); i < image.tokens;
       i += 32 * image.stride()) {
    const int64_t token = image.start + i;
    const float inverse = load_fresh(work.inverse_norm + token);
    const float value = cosine_to(keys, image, work, i, inverse, 0);
    const float before = load_fresh(state.covered + token);
    if (!(value > before)) continue;
    const uint32_t at = atomicAdd(state.num_raised + image.group, 1u) - listed;
    state.raised[image.start + at] = {i, before};
    state.covered[token] = value;
  }
}

// The best token, which becomes the pick `number`. A thread block writes its own maximum, and reads
// all after the group's one barrier for the pick. The maxima lie in two places in turn: whoever
// writes to one of them again is past the next pick's barrier, so that all have read it.
__device__ int take_best(const SelectArguments& arguments, const SelectPlan& plan,
                         const Image& image, const Workspace& work, const CoverageState& state,
                         int number) {
  const double quantum = 1 / quanta_in_one(image.tokens);
  uint64_t best = 0;
  for (int i = image.first_own() + lane() * image.stride(); i < image.tokens;
       i += 32 * image.stride()) {
    uint64_t rank = work.rank[image.start + i];
    if (rank_class(rank) == Candidate::free) {
      const float score = finite_score(load_score(arguments, image.start + i));
      const double added = static_cast<double>(state.added[image.start + i]) * quantum;
      const double gain = fmin(score * added, static_cast<double>(FLT_MAX));
      rank = score > 0 && added > kNegligible
                 ? pack_rank(Candidate::free, static_cast<float>(gain), i)
                 : pack_rank(Candidate::blocked, score, i);
    }
    best = max(best, rank);
  }
  best = block_max(best);
  uint64_t* const of_blocks =
      state.best + (int64_t{number % 2} * plan.groups + image.group) * image.members;
  if (threadIdx.x == 0) of_blocks[image.member] = best;
  group_barrier(image.arrivals, image.members);
  for (int member = static_cast<int>(threadIdx.x); member < image.members; member += kThreads)
    best = max(best, load_fresh(of_blocks + member));
  best = block_max(best);
  const int pick = static_cast<int>(rank_index(best));
  if (threadIdx.x == 0 && image.owned_here(pick)) work.rank[image.start + pick] = 0;
  return pick;
}

template <DType key>
__global__ __launch_bounds__(kThreads,
                             1) void coverage_select_kernel(const SelectArguments arguments,
                                                            const SelectPlan plan,
                                                            const Workspace work,
                                                            const CoverageState state) {
  if (threadIdx.x == 0) shared().arrivals_due = 0;
  const Keys<key> keys(arguments);
  const int group = static_cast<int>(blockIdx.x) / plan.ctas;
  for (int64_t number = group; number < arguments.images; number += plan.groups) {
    Image image = find_image(arguments, plan, work, number, group);
#if __CUDA_ARCH__ == 1000
    image.block = kBlock;  // as every plan there has it: registers are short
#endif
    if (image.keep == 0) continue;
    const auto origin = [&] { return arguments.cu_tokens == nullptr ? 0 : image.start; };
    float* const cosines = int64_t{image.tokens} * image.tokens <= plan.cosines
                               ? state.cosines + group * plan.cosines
                               : nullptr;
    start_coverage(arguments, keys, image, work, state);
    // The columns to compare with: all tokens, once; where no cosines are kept, then each pick, and
    // the tokens that it has raised.
    enum { all, picked, raised } kind = all;
    int begin = 0, count = image.tokens;
    int selected = 0;
    uint32_t listed = 0;  // raised by earlier picks
    while (true) {
      if (begin < count) {  // in one place for all: it is most of the kernel's code
        const Columns columns = take_columns(image, work, state, kind != raised, begin, count);
        compute_products(keys, image, plan, work, columns.count);
        group_barrier(image.arrivals, image.members);
        if (kind == picked) {
          cover_and_list(keys, image, work, state, listed);
          group_barrier(image.arrivals, image.members);
          kind = raised;
          begin = 0;
          count = static_cast<int>(load_fresh(state.num_raised + group) - listed);
          listed += count;
          continue;
        }
        replace_terms(keys, image, work, state, columns, cosines);
        begin += columns.count;
        if (begin < count) group_barrier(image.arrivals, image.members);  // products are read
        continue;
      }
      const int pick = take_best(arguments, plan, image, work, state, selected);
      if (threadIdx.x == 0 && image.member == 0 && !arguments.sort)
        arguments.indices[image.output + selected] = origin() + pick;
      if (++selected == image.keep) break;
      if (cosines != nullptr) {
        if (selected == 1) start_covered_here(image, state);
        cover_from_row(image, state, cosines, pick);
      } else {
        kind = picked;
        begin = pick;
        count = pick + 1;
      }
    }
    if (!arguments.sort) continue;
    group_barrier(image.arrivals, image.members);  // the last pick has been marked
    if (image.member == 0) write_sorted(image, work, origin(), arguments.indices);
  }
}

CoverageState lay_out_coverage(const SelectArguments& arguments, const SelectPlan& plan,
                               Arena& arena) {
  CoverageState state = {};
  state.weight = arena.take<float>(arguments.total_tokens);
  state.covered = arena.take<float>(arguments.total_tokens);
  state.added = arena.take<int64_t>(arguments.total_tokens);
  state.raised = arena.take<Raised>(arguments.total_tokens);
  state.num_raised = arena.take<uint32_t>(plan.groups);
  state.best = arena.take<uint64_t>(int64_t{2} * plan.groups * plan.ctas);
  state.cosines = arena.take<float>(plan.groups * plan.cosines);
  return state;
}

}  // namespace

// What the audit asks: the most that a launch can have.
extern "C" __attribute__((visibility("default")))
const int zoprune_coverage_select_kernel_shared_bytes = shared_bytes(kBlock);

template <>
SelectPlan plan_select<Coverage>(const SelectArguments& arguments, const Device& device) {
  const int64_t tokens = std::max<int64_t>(arguments.tokens, 1);
  // Of packed images the sizes are known on the device only.
  int64_t cosines = tokens * tokens;
  if (cosines > device.stored_cosines)
    cosines = arguments.cu_tokens == nullptr ? 0 : device.stored_cosines;
  const int64_t groups = std::min(arguments.images, kStoredInAll / std::max<int64_t>(cosines, 1));
  // Something to do: a chunk of a tile, or a token for each warp.
  const int64_t work =
      std::max(divide_up(tokens, kTileRows) * key_chunks(arguments), divide_up(tokens, kWarps));
  SelectPlan plan = spread(arguments, device, groups, work);
  plan.cosines = cosines;
  Arena sizes(nullptr);
  lay_out(arguments, plan, sizes);
  lay_out_coverage(arguments, plan, sizes);
  plan.workspace_bytes = sizes.size();
  return plan;
}

template <>
std::string select(const SelectArguments& arguments, const Coverage&, const SelectPlan& plan,
                   void* workspace, cudaStream_t stream) {
  Arena arena(workspace);
  const Workspace work = lay_out(arguments, plan, arena);
  CoverageState state = lay_out_coverage(arguments, plan, arena);
  state.given = arguments.weights;
  auto* kernel = coverage_select_kernel<DType::float32>;
  if (arguments.key_dtype == DType::float16) kernel = coverage_select_kernel<DType::float16>;
  if (arguments.key_dtype == DType::bfloat16) kernel = coverage_select_kernel<DType::bfloat16>;
  return launch(kernel, arguments, plan, work, state, stream);
}

}  // namespace zoprune::cuda
