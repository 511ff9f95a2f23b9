// Exact blocked greedy selection on a GPU. docs/kernels-selection.md explains the schedule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;

namespace zoprune::cuda {

using Stream = CUstream_st*;  // cudaStream_t: bindings need no more of the toolkit

enum class DType : int { float32, float16, bfloat16 };

// Device pointers, contiguous. Images lie one after another; cu_tokens and cu_keep [images + 1]
// give their token and pick offsets, or are null where each has `tokens` tokens and `keep` picks.
struct SelectArguments {
  const void* scores = nullptr;  // [total_tokens]
  DType score_dtype = DType::float32;
  const void* keys = nullptr;  // [total_tokens, dim], or null where tokens are not compared
  DType key_dtype = DType::float32;
  int64_t dim = 0;
  const bool* must_keep = nullptr;   // [total_tokens] or null
  const bool* valid = nullptr;       // [total_tokens] or null
  const float* positions = nullptr;  // [total_tokens, axes] or null
  int axes = 0;
  const float* weights = nullptr;  // [total_tokens] or null: all alike
  const int32_t* cu_tokens = nullptr;
  const int32_t* cu_keep = nullptr;
  int64_t images = 1;
  int64_t tokens = 0;  // per image; for packed images the most that one can have
  int64_t keep = 0;
  int64_t total_tokens = 0;
  int64_t total_keep = 0;
  bool sort = true;
  int64_t* indices = nullptr;  // [total_keep]; within the image, or within the packed array
};

// How a call is spread over a device: a group of `ctas` thread blocks works on one image at a time.
struct SelectPlan {
  int groups = 1;
  int ctas = 1;
  int block = 32;            // the most candidates of a round
  int64_t product_rows = 0;  // tokens whose dot products with a round's candidates are kept
  int64_t split_rows = 0;    // tokens of an image up to which its dot products are split
  int64_t chunks = 0;        // parts of a dot product
  int64_t cosines = 0;       // that are kept of an image, by select_coverage
  size_t workspace_bytes = 0;
};

// Up to so many of an image's cosines, 32 MiB, are kept by select_coverage; as on the CPU.
constexpr int64_t kStoredCosines = int64_t{8} << 20;

// What a plan depends on. Results do not.
struct Device {
  int multiprocessors;
  int shared_bytes;  // that a thread block may have
  int64_t stored_cosines = kStoredCosines;
};

// Why no kernel can run on the current device, or an empty string.
std::string select_unavailable();

// Objective is what a selection maximises: Redundancy, Suppression, Volume or Coverage, each in a
// .cu file of its own.
template <typename Objective>
SelectPlan plan_select(const SelectArguments& arguments, const Device& device);

// Enqueues the selection on `stream` of the current device. The workspace has plan.workspace_bytes,
// 16-byte aligned, and no particular content. Returns what went wrong, or an empty string.
template <typename Objective>
std::string select(const SelectArguments& arguments, const Objective& objective,
                   const SelectPlan& plan, void* workspace, Stream stream);

}  // namespace zoprune::cuda
