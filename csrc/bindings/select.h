// Selection as the operators share it: checks with the texts of zoprune_kernels/checks.py, and the
// selection itself without checks, for operators that score first.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "cpu/similarity.h"
#include "zoprune/selection.h"

namespace zoprune {

// How to select: the options that every operator that selects takes, passed along as one.
struct SelectOptions {
  std::string method = "sads";
  double max_similarity = 1.0;
  bool sort = true;
  int64_t seed = 0;
  double tradeoff = 0.5;
  std::string first = "score";
  int64_t num_seed = 0;
  bool centre = false;
  int64_t picks_per_step = 1;

  // Whether the method has an operator of its own: dpp, suppress or coverage.
  bool is_family() const;
  // Whether tokens are compared with one another at all.
  bool needs_keys() const;
};

std::vector<Size> shape_of(const Tensor& tensor);

// Checks in the order in which contracts/selection.py makes them. `lead` is the shape of the tokens
// without their last dimension, `name` the argument that has it.
void check_scores(const Checker& check, const Tensor& scores, bool packed,
                  const char* name = "scores");
void check_keys(const Checker& check, const Tensor& keys, const std::vector<Size>& lead,
                const Tensor& like, const char* name);
void check_masks(const Checker& check, const std::optional<Tensor>& must_keep,
                 const std::optional<Tensor>& valid, const std::vector<Size>& lead,
                 const Tensor& like, const char* name);
void check_selection(const Checker& check, const SelectOptions& options, bool has_keys,
                     bool with_family = false);
void check_k(const Checker& check, int64_t k, int64_t tokens);
void check_packing(const Checker& check, const Tensor& cu_tokens, const Tensor& cu_keep,
                   int64_t total_keep, const Tensor& like, const char* name);

// The checks of `select` and `select_varlen`, all but those that read the masks and offsets.
void check_select(const Checker& check, const Tensor& scores, const std::optional<Tensor>& keys,
                  int64_t k, const std::optional<Tensor>& must_keep,
                  const std::optional<Tensor>& valid, const SelectOptions& options);
void check_select_varlen(const Checker& check, const Tensor& scores,
                         const std::optional<Tensor>& keys, const Tensor& cu_tokens,
                         const Tensor& cu_keep, int64_t total_keep,
                         const std::optional<Tensor>& must_keep, const std::optional<Tensor>& valid,
                         const SelectOptions& options);

// The method by its name, which has been checked.
Method method_of(const SelectOptions& options);

// An image in a packed array: its first token, number of tokens and number of kept tokens.
struct Segment {
  int64_t begin, tokens, keep;
};

// The images of [B, N] or [N] scores, each keeping k; the offsets of packed ones, checked.
std::vector<Segment> segments_of(const Tensor& scores, int64_t k);
std::vector<Segment> segments_of(const Checker& check, const Tensor& cu_tokens,
                                 const Tensor& cu_keep, int64_t total_keep, int64_t tokens);

// What the masks hold: enough valid tokens, not too many kept ones, none of them invalid.
void check_mask_values(const Checker& check, const std::vector<Segment>& segments,
                       const std::optional<Tensor>& must_keep, const std::optional<Tensor>& valid);

// What a kernel reads: contiguous tensors, and keys whose rows are contiguous, with any strides
// between them.
std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor);
std::optional<Tensor> with_contiguous_rows(const std::optional<Tensor>& keys);
const bool* flags(const std::optional<Tensor>& mask);
KeyLayout key_layout(const Tensor& keys);

// A byte address in keys [B, N, D] or [T, D] of the image whose tokens begin at `segment.begin`.
const void* image_keys(const Tensor& keys, int64_t image, const Segment& segment);

// The ParallelFor of the CPU kernels: torch's threads.
void run_parallel(int64_t count, void (*task)(void*, int64_t, int64_t), void* context);

}  // namespace zoprune
