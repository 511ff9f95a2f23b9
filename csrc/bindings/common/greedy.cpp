#include "bindings/common/greedy.h"

#include <torch/csrc/stable/ops.h>

#include "bindings/common/layouts.h"
#include "bindings/common/torch_calls.h"
#include "zoprune/selection.h"

namespace zoprune {
namespace {

void check_scores(const Checker& check, const Tensor& scores, bool packed, const char* name) {
  check.float_dtype(name, scores.scalar_type());
  const int64_t dims = scores.dim();
  check.require((packed ? dims == 1 : dims == 1 || dims == 2) && scores.numel() > 0, name,
                packed ? "shape [T]" : "shape [N] or [B, N]", shape_text(scores));
}

}  // namespace

void PerToken::one(const char* argument, const Tensor& tensor, const char* what,
                   const std::vector<Size>& after, std::optional<ScalarType> dtype) const {
  std::vector<Size> expected = sizes(lead);
  expected.insert(expected.end(), after.begin(), after.end());
  check.shape(argument, tensor, expected, concat(what, " for each token of ", name).c_str());
  if (dtype)
    check.dtype(argument, tensor, *dtype);
  else
    check.float_dtype(argument, tensor.scalar_type());
  check.device(argument, tensor, like, name);
}

void PerToken::masks(const std::optional<Tensor>& must_keep,
                     const std::optional<Tensor>& valid) const {
  if (must_keep) one("must_keep", *must_keep, "one flag", {}, ScalarType::Bool);
  if (valid) one("valid", *valid, "one flag", {}, ScalarType::Bool);
}

void PerToken::weights(const std::optional<Tensor>& weights) const {
  if (weights) one("weights", *weights, "one weight");
}

void PerToken::positions(const std::optional<Tensor>& positions) const {
  if (!positions) return;
  const bool fits = positions->dim() == static_cast<int64_t>(lead.size()) + 1 &&
                    (positions->size(-1) == 2 || positions->size(-1) == 3);
  std::vector<Size> expected = sizes(lead);
  expected.emplace_back("2 or 3");
  check.require(
      fits, "positions",
      concat("shape ", shape_text(expected), " (one position for each token of ", name, ")"),
      shape_text(*positions));
  one("positions", *positions, "one position", {positions->size(-1)});
}

void check_tensors(const Checker& check, const GreedyTensors& tensors, bool packed,
                   bool needs_keys_or_positions, const char* name) {
  const Tensor& scores = tensors.scores;
  check_scores(check, scores, packed, name);
  const PerToken each{check, scores, name, lead_of(scores)};
  if (tensors.keys) each.keys(*tensors.keys);
  each.weights(tensors.weights);
  each.positions(tensors.positions);
  check.require(!needs_keys_or_positions || tensors.keys || tensors.positions, "keys",
                "a tensor where positions are None", "None");
  each.masks(tensors.must_keep, tensors.valid);
}

Tensor pick(const GreedyTensors& tensors, const std::vector<Segment>& segments, bool packed,
            const Lead& shape, const GreedyKernel& kernel) {
  const auto scores = contiguous_floats(tensors.scores);
  const auto weights = contiguous_floats(tensors.weights);
  const auto positions = contiguous_floats(tensors.positions);
  const auto must_keep = contiguous(tensors.must_keep), valid = contiguous(tensors.valid);
  std::optional<Tensor> keys;
  KeyLayout layout{};
  if (tensors.keys) {
    keys = with_contiguous_rows(*tensors.keys);
    layout = key_layout(*keys);
  }
  const Tensor indices = empty(shape, ScalarType::Long, "the picks");
  int64_t* next = indices.mutable_data_ptr<int64_t>();
  std::vector<GreedyImage> images;
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto [begin, tokens, keep] = segments[i];
    constexpr int64_t most = int64_t{kMaxIndex} + 1;  // a rank holds no larger index
    if (tokens > most)
      throw std::runtime_error(
          concat("zoprune: scores: expected at most ", most, " tokens in an image, got ", tokens));
    GreedyImage image{};
    image.scores = data<float>(scores, begin);
    image.weights = data<float>(weights, begin);
    image.axes = positions ? positions->size(-1) : 0;
    image.positions = data<float>(positions, begin * image.axes);
    image.must_keep = data<bool>(must_keep, begin);
    image.valid = data<bool>(valid, begin);
    if (keys) image.keys = image_keys(*keys, i, segments[i]);
    image.tokens = tokens;
    image.keep = keep;
    image.first_index = packed ? begin : 0;
    image.indices = next;
    next += keep;
    images.push_back(image);
  }
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernel(layout, images[i], run_parallel);
  };
  // An image a thread where there are enough images, else all threads in one image after another.
  const int64_t count = static_cast<int64_t>(images.size());
  if (count >= torch::stable::get_num_threads())
    parallel_for(0, count, 1, run);
  else
    run(0, count);
  return indices;
}

}  // namespace zoprune
