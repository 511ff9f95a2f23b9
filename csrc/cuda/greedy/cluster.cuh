// Greedy by a cluster of thread blocks for each image, which holds all cosines of the image in its
// shared memory. docs/kernels-selection.md says when that is expected to be quicker than rounds.
//
// The whole group computes the cosines, each pair once. Then all but its first cluster leave: a
// thread block of that cluster keeps the cosines of its tokens to all others, and one warp of it
// their ranks. For each pick those warps send each other their best ranks, and nothing else.
//
// Beside what picks.cuh lists, an objective has, where a Pair is a cosine,
//   void lower(State&, Pair): of one token, by a pick
//   uint64_t rank_again(uint64_t rank, const State&): rank(), once something is selected, of a rank
//               that may be 0, which it leaves; without a branch, as that is in the way of each
//               pick
#pragma once

#include "cuda/greedy/image.cuh"
#include "cuda/greedy/launch.cuh"
#include "cuda/greedy/similarity.cuh"
#include "cuda/greedy/start.cuh"

namespace zoprune::cuda {

constexpr int kClusterTokens = 640;  // the most of an image: their cosines fill 200 of 227 KB
constexpr int kClusterSlots = 3;     // tokens of a lane: 80 of a thread block
constexpr int kCopiedCosines = 4;    // 16 bytes
constexpr int64_t kPartialBytes = int64_t{64} << 20;  // more would not stay in the L2 cache

// Consecutive tokens of a thread block.
ZOPRUNE_HOST_DEVICE int cluster_share(int64_t tokens) {
  constexpr int kPieces = kClusterBlocks * kCopiedCosines;
  return static_cast<int>((tokens + kPieces - 1) / kPieces) * kCopiedCosines;
}
static_assert(kClusterTokens <= kClusterBlocks * kClusterSlots * 32, "a lane for each token");

// Blocks of columns of an image's cosines; a row has as many numbers as these have together.
ZOPRUNE_HOST_DEVICE int cosine_blocks(int64_t tokens) {
  return static_cast<int>((tokens + kBlock - 1) / kBlock);
}

inline int cluster_shared_bytes(int64_t tokens) {
  const int cosines = static_cast<int>(tokens) * cluster_share(tokens) * int{sizeof(float)};
  return std::max(shared_bytes(kBlock), kHeaderBytes + cosines);
}

// A tile is a row of one block of kBlock tokens by all of one block, the same or a later one.
constexpr int kBlockTiles = kBlock / kTileRows;
static_assert(kBlock % kTileRows == 0, "whole tiles");

ZOPRUNE_HOST_DEVICE int row_tiles(int64_t tokens) {
  return static_cast<int>((tokens + kTileRows - 1) / kTileRows);
}

ZOPRUNE_HOST_DEVICE int pair_tiles(int64_t tokens) {
  int tiles = 0;
  for (int row = 0; row < row_tiles(tokens); ++row)
    tiles += cosine_blocks(tokens) - row / kBlockTiles;
  return tiles;
}

template <typename Objective>
struct ClusterState {
  Greedy<Objective> objective;
  float* partial;  // [groups, chunks, tokens, blocks * kBlock] parts of dot products
  float* cosines;  // [groups, tokens, blocks * kBlock]
};

// Parts of all dot products, of each pair of tokens once; within a block, twice.
template <DType key>
__device__ void multiply_pairs(const Keys<key>& keys, const Image& image, int parts,
                               float* partial) {
  const int blocks = cosine_blocks(image.tokens), pitch = blocks * kBlock;
  const int tiles = pair_tiles(image.tokens);
  for (int item = image.member; item < tiles * parts; item += image.members) {
    const int chunk = item / tiles;
    int row = 0, block = item % tiles;
    for (; block >= blocks - row / kBlockTiles; ++row) block -= blocks - row / kBlockTiles;
    block += row / kBlockTiles;
    const int first = block * kBlock, columns = min(kBlock, image.tokens - first);
    for (int b = static_cast<int>(threadIdx.x); b < columns; b += kThreads)
      shared().candidate[b] = pack_rank(Candidate::free, 0, first + b);
    __syncthreads();
    const int begin = chunk * kChunkStages;
    const int end = parts > 1 ? min(begin + kChunkStages, keys.stages()) : keys.stages();
    Sums total;
    tile_products(keys, image, row * kTileRows, columns, begin, end, total);
    store_products(total, row * kTileRows, image.tokens, columns,
                   partial + static_cast<int64_t>(chunk) * image.tokens * pitch + first, pitch);
  }
}

// All cosines of the image, from the parts of dot products: a warp for each row of a block. What
// lies beyond the last column is anything.
template <DType key>
__device__ void sum_to_cosines(const Keys<key>& keys, const Image& image, const Workspace& work,
                               int parts, const float* partial, float* cosines) {
  const int blocks = cosine_blocks(image.tokens), pitch = blocks * kBlock;
  const float* const inverse = work.inverse_norm + image.start;
  for (int unit = image.first_own(); unit < image.tokens * blocks; unit += image.stride()) {
    const int row = unit / blocks, block = unit % blocks;
    if (block < row / kBlock) continue;
    const float own = load_fresh(inverse + row);
#pragma unroll 1
    for (int quad = lane(); quad < kBlock / 4; quad += 32) {
      const int column = block * kBlock + quad * 4;
      if (column >= image.tokens) break;
      const int64_t at = static_cast<int64_t>(row) * pitch + column;
      const float4 sum = sum_parts(partial + at, parts, static_cast<int64_t>(image.tokens) * pitch);
      float value[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int other = min(column + i, image.tokens - 1);
        value[i] = cosine(keys, image.start + row, image.start + other, value[i], own,
                          load_fresh(inverse + other));
      }
      *reinterpret_cast<float4*>(cosines + at) =
          make_float4(value[0], value[1], value[2], value[3]);
      if (block == row / kBlock) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i)  // the same, to the last bit, for the other token of the pair
        if (column + i < image.tokens)
          cosines[static_cast<int64_t>(column + i) * pitch + row] = value[i];
    }
  }
}

// Of each candidate the largest cosine to another one, for most_isolated.
__device__ inline void find_nearest(const SelectArguments& arguments, const Image& image,
                                    const float* cosines, float* nearest) {
  const int pitch = cosine_blocks(image.tokens) * kBlock;
  for (int i = image.first_own(); i < image.tokens; i += image.stride()) {
    float largest = -1;
#pragma unroll 4
    for (int j = lane(); j < image.tokens; j += 32) {
      const float value = load_fresh(cosines + static_cast<int64_t>(i) * pitch + j);
      largest = j != i && is_candidate(arguments, image, j) ? fmaxf(largest, value) : largest;
    }
    largest = warp_max(largest);
    if (lane() == 0) nearest[image.start + i] = largest;
  }
  group_barrier(image.arrivals, image.members);
}

// What a lane of the cluster's first warps knows of its tokens: slot * 32 + lane of the share.
template <typename Objective>
struct OwnTokens {
  uint64_t rank[kClusterSlots];
  typename Greedy<Objective>::State state[kClusterSlots];
};

template <typename Objective>
__device__ void load_own(const Greedy<Objective>& objective, const Image& image,
                         const Workspace& work, OwnTokens<Objective>& own) {
  const int share = cluster_share(image.tokens);
#pragma unroll
  for (int slot = 0; slot < kClusterSlots; ++slot) {
    const int number = slot * 32 + lane(), i = image.member * share + number;
    const bool there = number < share && i < image.tokens;
    const int64_t token = image.start + (there ? i : 0);
    const uint64_t rank = load_fresh(work.rank + token);
    own.rank[slot] = there ? rank : 0;
    own.state[slot] = objective.load(token);
  }
}

// Brings the cosines of all tokens to the thread block's own, a row for each that may be picked.
// They are symmetric: what lies in its row of `cosines` is what it does to others.
__device__ inline void hold_cosines(const Image& image, const float* cosines, float* held) {
  const int share = cluster_share(image.tokens), pitch = cosine_blocks(image.tokens) * kBlock;
  const int column = lane() * kCopiedCosines;
  if (column < share)
#pragma unroll 4
    for (int row = warp(); row < image.tokens; row += kWarps)
      copy_async(held + row * share + column,
                 cosines + static_cast<int64_t>(row) * pitch + image.member * share + column, true);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
}

// A message is a rank, with the pick's number in bits that the indices of few tokens leave.
constexpr int kMailIndexBits = 10;
constexpr uint64_t kMailNumber = kMaxIndex >> kMailIndexBits << kMailIndexBits;
static_assert(kClusterTokens <= 1 << kMailIndexBits && kMailIndexBits < kIndexBits, "they fit");

// The picks, by the first warps of the cluster's thread blocks. Each sends its best rank to all.
// Whoever sends the message of a pick has had all of the pick before: the place that it goes to,
// one of two in turn, has been read by all. And no message is under way to a thread block that has
// made the last pick, so that it may leave.
template <typename Objective>
__device__ void pick_in_cluster(const SelectArguments& arguments, Greedy<Objective>& objective,
                                const Image& image, const Workspace& work, const float* held,
                                int64_t origin, int selected, OwnTokens<Objective>& own) {
  Shared& s = shared();
  const int share = cluster_share(image.tokens), first = image.member * share;
  const int other = lane() % kClusterBlocks;
  uint64_t* const theirs = in_block(s.mail, other) + image.member;
  const uint64_t* const ours = s.mail + other;
  const bool writes = image.member == 0 && lane() == 0;
  int made = 0;  // picks of a step
  while (selected < image.keep) {
    uint64_t best = own.rank[0];
#pragma unroll
    for (int slot = 1; slot < kClusterSlots; ++slot) best = max(best, own.rank[slot]);
    best = warp_max(best);
    const bool last_of_step = ++made >= objective.step();
    ++selected;
    const int place = selected % 2 * kClusterBlocks;
    const uint64_t number = static_cast<uint64_t>(selected) << kMailIndexBits;
    if (lane() < kClusterBlocks) send(theirs + place, (best & ~kMailNumber) | number);
    const uint64_t top = warp_max(receive(ours + place, kMailNumber, number));
    const int pick = static_cast<int>(rank_index(top | kMailNumber));
    if (writes && arguments.sort) work.rank[image.start + pick] = 0;
    if (writes && !arguments.sort) arguments.indices[image.output + selected - 1] = origin + pick;
    objective.rank_for(selected);
#pragma unroll
    for (int slot = 0; slot < kClusterSlots; ++slot) {
      const int number_here = slot * 32 + lane();
      if (first + number_here == pick) own.rank[slot] = 0;
      objective.lower(own.state[slot], held[pick * share + min(number_here, share - 1)]);
    }
    if (!last_of_step) continue;
    made = 0;
#pragma unroll
    for (int slot = 0; slot < kClusterSlots; ++slot)
      own.rank[slot] = objective.rank_again(own.rank[slot], own.state[slot]);
  }
}

template <DType key, typename Objective>
__global__ __launch_bounds__(kThreads,
                             1) void cluster_select_kernel(const SelectArguments arguments,
                                                           const SelectPlan plan,
                                                           const Workspace work,
                                                           const ClusterState<Objective> given) {
  if (threadIdx.x < 2 * kClusterBlocks) shared().mail[threadIdx.x] = 0;
  if (threadIdx.x == 0) shared().arrivals_due = 0;
  const Keys<key> keys(arguments);
  const int group = static_cast<int>(blockIdx.x) / plan.ctas;  // as many as images
  const Image image = find_image(arguments, plan, work, group, group);
  if (image.keep == 0) return;
  const int64_t origin = arguments.cu_tokens == nullptr ? 0 : image.start;
  Greedy<Objective> objective = given.objective;
  objective.begin(arguments, image);
  float* const partial = given.partial + group * plan.chunks * plan.cosines;
  float* const cosines = given.cosines + group * plan.cosines;
  const int parts = plan.chunks > 1 ? keys.chunks() : 1;
  const bool isolated = prepare_isolation(objective, keys, image, work);
  int first = 0, selected = 0;
  if (!isolated) selected = start_image(arguments, objective, keys, image, work, first);
  multiply_pairs(keys, image, parts, partial);
  group_barrier(image.arrivals, image.members);
  sum_to_cosines(keys, image, work, parts, partial, cosines);
  if (isolated) {
    group_barrier(image.arrivals, image.members);
    find_nearest(arguments, image, cosines, objective.nearest);
    selected = start_image(arguments, objective, keys, image, work, first);
    group_barrier(image.arrivals, image.members);
  }
  if (image.member >= kClusterBlocks) {
    arrive_only(image.arrivals);
    return;
  }
  OwnTokens<Objective> own;
  if (warp() == 0) load_own(objective, image, work, own);
  group_barrier(image.arrivals, image.members);  // the cosines are there, and all have their ranks
  auto* const held = reinterpret_cast<float*>(scratch());
  hold_cosines(image, cosines, held);
  if (image.member == 0 && threadIdx.x == 0 && !arguments.sort && selected == 1)
    arguments.indices[image.output] = origin + first;
  if (warp() == 0) pick_in_cluster(arguments, objective, image, work, held, origin, selected, own);
  if (image.member != 0 || !arguments.sort) return;
  __syncthreads();
  write_sorted(image, work, origin, arguments.indices);
}

// Whether an image's picks are made by a cluster: where that can be and is expected to be quicker.
inline bool picks_in_clusters(const SelectArguments& arguments, const Device& device) {
  const int64_t images = arguments.images;
  if (arguments.keys == nullptr || images > device.clusters || arguments.tokens > kClusterTokens ||
      cluster_shared_bytes(arguments.tokens) > device.shared_bytes)
    return false;
  const bool several_rounds = arguments.total_tokens > images * kBlock * 3 / 2;
  const bool many_picks = arguments.total_keep >= images * (images > 1 ? 96 : 32);
  return device.always_clusters || (several_rounds && many_picks && 2 * images <= device.clusters);
}

template <typename Objective>
ClusterState<Objective> lay_out_cluster(const SelectArguments& arguments, const SelectPlan& plan,
                                        Arena& arena) {
  ClusterState<Objective> state = {};
  state.objective.lay_out(arena, arguments, plan);
  state.partial = arena.take<float>(plan.groups * plan.chunks * plan.cosines);
  state.cosines = arena.take<float>(plan.groups * plan.cosines);
  return state;
}

template <typename Objective>
SelectPlan plan_clusters(const SelectArguments& arguments, const Device& device) {
  const int64_t tokens = arguments.tokens;
  SelectPlan plan;
  plan.cluster = kClusterBlocks;
  plan.block = kBlock;
  plan.shared_bytes = cluster_shared_bytes(tokens);
  plan.groups = static_cast<int>(arguments.images);
  plan.cosines = tokens * cosine_blocks(tokens) * kBlock;
  plan.chunks = key_chunks(arguments);
  if (plan.groups * plan.chunks * plan.cosines * int64_t{sizeof(float)} > kPartialBytes)
    plan.chunks = 1;
  const int64_t work =
      std::max({int64_t{1}, pair_tiles(tokens) * plan.chunks, divide_up(tokens, kWarps)});
  const int64_t clusters =
      std::min<int64_t>(device.clusters / plan.groups, divide_up(work, kClusterBlocks));
  plan.ctas = static_cast<int>(clusters) * kClusterBlocks;
  Arena sizes(nullptr);
  lay_out(arguments, plan, sizes);
  lay_out_cluster<Objective>(arguments, plan, sizes);
  plan.workspace_bytes = sizes.size();
  return plan;
}

template <typename Objective>
std::string select_in_clusters(const SelectArguments& arguments, const Objective& objective,
                               const SelectPlan& plan, void* workspace, cudaStream_t stream) {
  Arena arena(workspace);
  const Workspace work = lay_out(arguments, plan, arena);
  auto state = lay_out_cluster<Objective>(arguments, plan, arena);
  state.objective.how = objective;
  auto* kernel = cluster_select_kernel<DType::float32, Objective>;
  if (arguments.key_dtype == DType::float16)
    kernel = cluster_select_kernel<DType::float16, Objective>;
  if (arguments.key_dtype == DType::bfloat16)
    kernel = cluster_select_kernel<DType::bfloat16, Objective>;
  // A device that has clusters at all has room for the largest (resident_clusters).
  return launch(kernel, arguments, plan, work, state, cluster_shared_bytes(kClusterTokens), stream);
}

}  // namespace zoprune::cuda
