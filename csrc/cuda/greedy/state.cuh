// What the phases of a selection share: sizes, the image at hand, and both kinds of memory.
#pragma once

#include <algorithm>

#include "cuda/greedy/greedy.h"
#include "cuda/ptx.cuh"
#include "zoprune/selection.h"

namespace zoprune::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlock = 192;  // the most candidates of a round; a plan may have fewer
constexpr int kSlots = kBlock / 32;
constexpr int kColumnStep = 96;  // candidates whose dot products are computed together

// Similarities: a thread block computes 64 tokens by all candidates, 128 bytes of their keys at
// a time. A row is padded by 16 bytes in shared memory, so that a warp's fragments hit all 32
// banks.
constexpr int kTileRows = 64;
constexpr int kStageBytes = 128;
constexpr int kRowBytes = kStageBytes + 16;
constexpr int kStages = 3;
// Dot products are sums of sums over chunks of so many stages, in order: the same bits, whether one
// thread block computes all chunks of a tile or several share them.
constexpr int kChunkStages = 8;

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kCachedRanks = 8192;

struct Shared {
  uint64_t candidate[kBlock];  // their ranks, in index order
  uint64_t warp_bound[kWarps];
  float inverse_norm[kBlock];
  uint32_t warp_total[kWarps];
  uint32_t warp_low[kWarps], warp_high[kWarps];
  int pick[kBlock];         // candidates in pick order
  double pivot[kBlock];     // what else an objective must know of each pick
  int row_token[kThreads];  // in the image, of a tile's rows; negative where there is none
  int picks;
  uint32_t digit, above, within;  // of a radix pass
  int collected;
  uint32_t arrivals_due;  // at the group's barrier so far; the first thread's
};

constexpr int kHeaderBytes = (sizeof(Shared) + 15) / 16 * 16;

ZOPRUNE_HOST_DEVICE int stage_bytes(int block) { return (kTileRows + block) * kRowBytes; }

// Shared memory with up to `block` candidates: the phases of a round use it one after another.
inline int shared_bytes(int block) {
  const int ranks = kCachedRanks * sizeof(uint64_t) + kBins * sizeof(uint32_t);
  const int pairs = block * kBlock * sizeof(float);
  return kHeaderBytes + std::max({ranks, kStages * stage_bytes(block), pairs});
}

__device__ inline Shared& shared() { return *reinterpret_cast<Shared*>(dynamic_shared_memory()); }
__device__ inline unsigned char* scratch() { return dynamic_shared_memory() + kHeaderBytes; }

// Places one array after another; with no memory it only adds up sizes.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(int64_t count) {
    T* const array = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + size_);
    size_ += (count * sizeof(T) + 15) / 16 * 16;
    return array;
  }
  size_t size() const { return size_; }

 private:
  char* memory_;
  size_t size_ = 0;
};

// The tokens of an image among all.
struct Span {
  int64_t start;
  int tokens;
};

// One for each token, in the workspace. Only the warp that owns a token writes its entries.
struct Workspace {
  uint64_t* rank;       // [total_tokens]
  float* inverse_norm;  // [total_tokens] 0: a zero key, -1: compare in double precision
  float* products;      // [product_rows, kBlock] dot products with the round's candidates
  float* partial;       // [groups, chunks, split_rows, kBlock] parts of them
  uint32_t* arrivals;   // [groups] of the groups' barriers
};

// The image that a group works on, and this thread's place in the group.
struct Image {
  int64_t start;  // its first token among all
  int tokens;
  int keep;
  int64_t output;  // its first pick among all
  int block;       // the most candidates of a round
  int group;       // that works on it
  int member;      // this thread block among the group's
  int members;
  int64_t rows;        // its first row of Workspace::products
  uint32_t* arrivals;  // at the group's barrier

  // Tokens are dealt to the warps of a group like cards.
  __device__ int first_own() const { return member * kWarps + static_cast<int>(threadIdx.x) / 32; }
  __device__ int stride() const { return members * kWarps; }
  __device__ bool owned_here(int token) const { return token % stride() / kWarps == member; }
};

// An objective on the device, as select_greedy.cuh describes it; each has a .cu file.
template <typename Objective>
struct Greedy;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / 32; }

constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ inline uint64_t warp_max(uint64_t value) {
  const auto high = static_cast<uint32_t>(value >> 32);
  const uint32_t top = __reduce_max_sync(kAllLanes, high);
  const uint32_t low = __reduce_max_sync(kAllLanes, high == top ? static_cast<uint32_t>(value) : 0);
  return static_cast<uint64_t>(top) << 32 | low;
}

__device__ inline float ordered_float(uint32_t order) {
  const uint32_t bits = order >> 31 ? order & 0x7fffffffu : ~order;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

__device__ inline float warp_max(float value) {
  return ordered_float(__reduce_max_sync(kAllLanes, ordered_bits(value)));
}

// Offsets cannot be checked without a synchronisation; wrong ones must not lead out of memory.
__device__ inline int64_t within(int64_t offset, int64_t last) {
  return min(max(offset, int64_t{0}), last);
}

// By a whole warp. An image begins where all before it have ended: falling offsets make images
// empty, not overlapping.
__device__ inline Span tokens_of(const SelectArguments& arguments, int64_t image) {
  if (arguments.cu_tokens == nullptr)
    return {image * arguments.tokens, static_cast<int>(arguments.tokens)};
  const auto offset = [&](int64_t i) {
    return within(arguments.cu_tokens[i], arguments.total_tokens);
  };
  uint64_t start = 0;
#pragma unroll 4
  for (int64_t i = lane(); i <= image; i += 32)
    start = max(start, static_cast<uint64_t>(offset(i)));
  start = warp_max(start);
  const int64_t begin = static_cast<int64_t>(start);
  return {begin, static_cast<int>(max(offset(image + 1) - begin, int64_t{0}))};
}

// Makes what the group's thread blocks wrote before it visible to all of them after it. All thread
// blocks of the grid are resident (a cooperative launch), so waiting for the others ends.
__device__ inline void group_barrier(uint32_t* arrivals, int members) {
  __syncthreads();
  if (members > 1 && threadIdx.x == 0) {
    arrive(arrivals);
    wait_for(arrivals, shared().arrivals_due += members);
  }
  __syncthreads();
}

}  // namespace zoprune::cuda
