// Exact blocked greedy for any objective (picks.cuh says what one is).
#pragma once

#include "cuda/greedy/candidates.cuh"
#include "cuda/greedy/image.cuh"
#include "cuda/greedy/launch.cuh"
#include "cuda/greedy/picks.cuh"
#include "cuda/greedy/similarity.cuh"
#include "cuda/greedy/start.cuh"

namespace zoprune::cuda {

template <DType key, typename Objective>
__global__ __launch_bounds__(kThreads, 1) void select_kernel(const SelectArguments arguments,
                                                             const SelectPlan plan,
                                                             const Workspace work,
                                                             const Greedy<Objective> given) {
  Greedy<Objective> objective = given;
  if (threadIdx.x == 0) shared().arrivals_due = 0;
  const Keys<key> keys(arguments);
  const bool compare = arguments.keys != nullptr, interact = objective.pairs != nullptr;
  const int group = static_cast<int>(blockIdx.x) / plan.ctas;
  for (int64_t number = group; number < arguments.images; number += plan.groups) {
    const Image image = find_image(arguments, plan, work, number, group);
    if (image.keep == 0) continue;
    const int64_t origin = arguments.cu_tokens == nullptr ? 0 : image.start;
    const bool in_order = image.member == 0 && !arguments.sort;  // writes picks as they are made
    int first = 0;
    objective.begin(arguments, image);
    // Columns of all dot products that have been seen, where those decide the first pick.
    int column = prepare_isolation(objective, keys, image, work) ? 0 : image.tokens;
    int selected = -1;  // -1: not started
    while (selected < image.keep) {
      const bool isolating = Greedy<Objective>::kGainsRiseOnce && column < image.tokens;
      if (!isolating && selected < 0) {
        selected = start_image(arguments, objective, keys, image, work, first);
        group_barrier(image.arrivals, image.members);
        if (in_order && threadIdx.x == 0 && selected == 1)
          arguments.indices[image.output] = origin + first;
        continue;
      }
      const int most = isolating ? 0 : objective.begin_round(selected, image.keep - selected);
      const Candidates round = isolating
                                   ? take_columns(image, work, column)
                                   : choose_candidates(image, work, min(image.block, 3 * most + 8));
      if (compare) {  // in one place for both: it is most of the kernel's code
        compute_products(keys, image, plan, work, round.count);
        group_barrier(image.arrivals, image.members);
      }
      if constexpr (Greedy<Objective>::kGainsRiseOnce) {
        if (isolating) {
          raise_nearest(arguments, keys, image, work, column, round.count, objective.nearest);
          column += round.count;
          continue;
        }
      }
      if (interact) relate_candidates(round.count, objective, keys, image, work);
      typename Greedy<Objective>::State state[kSlots];
      if (warp() == 0) load_candidates(round.count, objective, image, state);  // it picks
      // From here on thread blocks that are ahead change what all have read by now.
      group_barrier(image.arrivals, image.members);
      pick_among(round, most, interact, objective, image, state);
      const Shared& s = shared();
      if (in_order)
        for (int i = static_cast<int>(threadIdx.x); i < s.picks; i += kThreads)
          arguments.indices[image.output + selected + i] =
              origin + rank_index(s.candidate[s.pick[i]]);
      selected += s.picks;
      objective.rank_for(selected);
      update_tokens(interact && selected < image.keep, objective, keys, image, work);
      group_barrier(image.arrivals, image.members);
    }
    if (image.member == 0 && arguments.sort) write_sorted(image, work, origin, arguments.indices);
  }
}

template <typename Objective>
SelectPlan plan_select(const SelectArguments& arguments, const Device& device) {
  const int64_t tokens = std::max<int64_t>(arguments.tokens, 1);
  // Something to do: a chunk of a tile, or tokens to own.
  const int64_t work = arguments.keys == nullptr
                           ? divide_up(tokens, kThreads)
                           : divide_up(tokens, kTileRows) * key_chunks(arguments);
  SelectPlan plan = spread(arguments, device, arguments.images, work);
  Arena sizes(nullptr);
  lay_out(arguments, plan, sizes);
  Greedy<Objective>().lay_out(sizes, arguments, plan);
  plan.workspace_bytes = sizes.size();
  return plan;
}

template <typename Objective>
std::string select(const SelectArguments& arguments, const Objective& objective,
                   const SelectPlan& plan, void* workspace, cudaStream_t stream) {
  Arena arena(workspace);
  const Workspace work = lay_out(arguments, plan, arena);
  Greedy<Objective> greedy;
  greedy.how = objective;
  greedy.lay_out(arena, arguments, plan);
  auto* kernel = select_kernel<DType::float32, Objective>;
  if (arguments.key_dtype == DType::float16) kernel = select_kernel<DType::float16, Objective>;
  if (arguments.key_dtype == DType::bfloat16) kernel = select_kernel<DType::bfloat16, Objective>;
  return launch(kernel, arguments, plan, work, greedy, stream);
}

}  // namespace zoprune::cuda
