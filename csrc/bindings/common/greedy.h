// Selections, which pick one token after another: an operator and its varlen twin on the CPU.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bindings/common/boxed.h"
#include "bindings/common/checks.h"
#include "bindings/common/segments.h"
#include "cpu/greedy/image.h"

namespace zoprune {

struct GreedyTensors {
  Tensor scores;
  std::optional<Tensor> keys, positions, weights, must_keep, valid;
};

// Checks of what there is one of for each token, of which argument `name`, `like`, has `lead`.
struct PerToken {
  const Checker& check;
  const Tensor& like;
  const char* name;
  Lead lead;

  // Shape [lead, after], the dtype, or any of the three, and the device.
  void one(const char* argument, const Tensor& tensor, const char* what = "one",
           const std::vector<Size>& after = {},
           std::optional<ScalarType> dtype = std::nullopt) const;
  void keys(const Tensor& keys) const { one("keys", keys, "one key", {"D"}); }
  void masks(const std::optional<Tensor>& must_keep, const std::optional<Tensor>& valid) const;
  void weights(const std::optional<Tensor>& weights) const;
  void positions(const std::optional<Tensor>& positions) const;
};

// All of a selection's tensors; the argument `name` has the scores.
void check_tensors(const Checker& check, const GreedyTensors& tensors, bool packed,
                   bool needs_keys_or_positions, const char* name);

using GreedyKernel = std::function<void(const KeyLayout&, const GreedyImage&, ParallelFor)>;

// A kernel of cpu/<op>.h with its options.
template <typename Kernel, typename... Options>
GreedyKernel greedy_kernel(Kernel* kernel, bool sort, Options... options) {
  return [=](const KeyLayout& layout, const GreedyImage& image, ParallelFor parallel_for) {
    kernel(options..., layout, image, sort, parallel_for);
  };
}

// Why no CUDA kernel can run on the tensor's device; empty where one can.
std::string why_not_on(const Tensor& scores);

// int64 indices of the picks, of this shape: within each image, or within the packed array.
// Everything is checked.
Tensor pick(const GreedyTensors& tensors, const std::vector<Segment>& images, bool packed,
            const Lead& shape, const GreedyKernel& kernel);

// What an Operator has by default. It is a struct of its arguments after `k`, fields() in the
// schema's order, and adds kName, for the CPU `GreedyKernel kernel() const`, and for CUDA
// `Tensor run(CudaCall&) const`.
struct GreedyOperator : GreedyTensors {
  static constexpr const char* kScores = "scores";  // what its first argument is called
  using Keys = Tensor;                              // or std::optional<Tensor>
  static constexpr bool kNeedsKeysOrPositions = true;

  void check(const Checker&) {}  // its options; may drop keys that it does not compare
  // Why its CUDA kernel cannot serve the call; empty where it can.
  std::string why_not_on_cuda() const { return why_not_on(scores); }
};

template <typename Operator, typename Keep>
Checker check_call(Operator& in, const Tensor& scores, const std::optional<Tensor>& keys,
                   const Keep& keep) {
  const Checker check(twin_name(Operator::kName, keep));
  in.scores = scores;
  in.keys = keys;
  check_tensors(check, in, is_packed(keep), Operator::kNeedsKeysOrPositions, Operator::kScores);
  in.check(check);
  check_keep(check, keep, lead_of(scores), scores, Operator::kScores);
  return check;
}

template <typename Operator, typename Keep>
Tensor select_on_cpu(Tensor scores, typename Operator::Keys keys, Keep keep, Operator in) {
  const Checker check = check_call(in, scores, keys, keep);
  const Lead lead = lead_of(scores);
  const std::vector<Segment> images = segments_of(check, keep, lead);
  check_mask_values(check, images, in.must_keep, in.valid);
  return pick(in, images, is_packed(keep), kept_shape(keep, lead), in.kernel());
}

template <typename Operator>
void add_on_cpu(torch::stable::detail::StableLibrary& library) {
  const std::string varlen = twin_name(Operator::kName, Packing());
  library.impl(Operator::kName, boxed<&select_on_cpu<Operator, int64_t>>);
  library.impl(varlen.c_str(), boxed<&select_on_cpu<Operator, Packing>>);
}

}  // namespace zoprune
