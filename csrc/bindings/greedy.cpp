#include "bindings/greedy.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>

namespace zoprune {
namespace {

std::optional<Tensor> contiguous_floats(const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return torch::stable::contiguous(torch::stable::to(*tensor, ScalarType::Float));
}

template <typename T>
const T* data(const std::optional<Tensor>& tensor, int64_t offset) {
  return tensor ? tensor->const_data_ptr<T>() + offset : nullptr;
}

// Runs the kernel on each segment. Indices count from the start of the image, or of the packed
// array where `packed`.
void run_images(const std::vector<Segment>& segments, const GreedyTensors& given, bool packed,
                const GreedyKernel& kernel, const Tensor& indices) {
  const auto scores = contiguous_floats(given.scores);
  const auto weights = contiguous_floats(given.weights);
  const auto positions = contiguous_floats(given.positions);
  const auto must_keep = contiguous(given.must_keep), valid = contiguous(given.valid);
  const std::optional<Tensor> keys = with_contiguous_rows(given.keys);
  const KeyLayout layout = keys ? key_layout(*keys) : KeyLayout{};
  std::vector<GreedyImage> images;
  int64_t* next = indices.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto [begin, tokens, keep] = segments[i];
    constexpr int64_t most = int64_t{kMaxIndex} + 1;  // a rank holds no larger index
    if (tokens > most)
      throw std::runtime_error(
          concat("zoprune: scores: expected at most ", most, " tokens in an image, got ", tokens));
    GreedyImage image{};
    image.scores = data<float>(scores, begin);
    image.weights = data<float>(weights, begin);
    if (positions) image.positions = data<float>(positions, begin * positions->size(-1));
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
    torch::stable::parallel_for(0, count, 1, run);
  else
    run(0, count);
}

}  // namespace

void check_weights(const Checker& check, const Tensor& weights, const std::vector<Size>& lead,
                   const Tensor& like, const char* name) {
  check.shape("weights", weights, lead, concat("one weight for each token of ", name).c_str());
  check.float_dtype("weights", weights.scalar_type());
  check.device("weights", weights, like, name);
}

void check_positions(const Checker& check, const Tensor& positions, const std::vector<Size>& lead,
                     const Tensor& like, const char* name) {
  std::vector<Size> expected = lead;
  expected.emplace_back("2 or 3");
  const bool fits = positions.dim() == static_cast<int64_t>(expected.size()) &&
                    (positions.size(-1) == 2 || positions.size(-1) == 3);
  const std::string names = concat("one position for each token of ", name);
  check.require(fits, "positions", concat("shape ", shape_text(expected), " (", names, ")"),
                shape_text(positions));
  expected.back() = positions.size(-1);
  check.shape("positions", positions, expected, names.c_str());
  check.float_dtype("positions", positions.scalar_type());
  check.device("positions", positions, like, name);
}

Suppression check_suppression(const Checker& check, const SuppressOptions& options, int64_t axes) {
  const int rule = check.one_of("rule", options.rule, {"soft", "exponential", "hard"});
  check.in_range("sigma_space", options.sigma_space);
  check.in_range("sigma_similarity", options.sigma_similarity);
  check.require(options.radius > 0, "radius", "a number > 0", options.radius);
  check.require(options.strength >= 0 && options.strength <= Checker::kLargest, "strength",
                "a number in [0, 1e+18]", options.strength);
  check.require(options.threshold >= -1 && options.threshold <= 1, "threshold",
                "a number in [-1, 1]", options.threshold);
  return {static_cast<Rule>(rule),
          options.sigma_space,
          options.radius,
          options.sigma_similarity,
          options.strength,
          options.threshold,
          axes};
}

void check_greedy(const Checker& check, const GreedyTensors& tensors, bool packed,
                  const char* name) {
  const Tensor& scores = tensors.scores;
  const std::vector<Size> lead = shape_of(scores);
  check_scores(check, scores, packed, name);
  if (tensors.keys) check_keys(check, *tensors.keys, lead, scores, name);
  if (tensors.weights) check_weights(check, *tensors.weights, lead, scores, name);
  if (tensors.positions) check_positions(check, *tensors.positions, lead, scores, name);
  check.require(tensors.keys || tensors.positions, "keys", "a tensor where positions are None",
                "None");
  check_masks(check, tensors.must_keep, tensors.valid, lead, scores, name);
}

Tensor pick_in_images(const GreedyTensors& tensors, int64_t k, const GreedyKernel& kernel) {
  const Tensor& scores = tensors.scores;
  std::vector<int64_t> shape(scores.sizes().begin(), scores.sizes().end());
  shape.back() = k;
  const Tensor indices = torch::stable::empty(shape, ScalarType::Long);
  run_images(segments_of(scores, k), tensors, false, kernel, indices);
  return indices;
}

Tensor pick_in_segments(const GreedyTensors& tensors, const std::vector<Segment>& segments,
                        const GreedyKernel& kernel) {
  int64_t total_keep = 0;
  for (const Segment& segment : segments) total_keep += segment.keep;
  const Tensor indices = torch::stable::empty({total_keep}, ScalarType::Long);
  run_images(segments, tensors, true, kernel, indices);
  return indices;
}

Tensor select_greedily(const Checker& check, const GreedyTensors& tensors, int64_t k,
                       const GreedyKernel& kernel) {
  const Tensor& scores = tensors.scores;
  check_k(check, k, scores.size(-1));
  check_mask_values(check, segments_of(scores, k), tensors.must_keep, tensors.valid);
  return pick_in_images(tensors, k, kernel);
}

Tensor select_greedily(const Checker& check, const GreedyTensors& tensors, const Packing& packing,
                       const GreedyKernel& kernel, const char* name) {
  const auto& [cu_tokens, cu_keep, total_keep] = packing;
  check_packing(check, cu_tokens, cu_keep, total_keep, tensors.scores, name);
  const std::vector<Segment> segments =
      segments_of(check, cu_tokens, cu_keep, total_keep, tensors.scores.size(0));
  check_mask_values(check, segments, tensors.must_keep, tensors.valid);
  return pick_in_segments(tensors, segments, kernel);
}

}  // namespace zoprune
