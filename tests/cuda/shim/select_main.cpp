// Runs the selections of csrc/cuda through the shim on the cases of a file: select_main CASES
// RESULTS [PLANT]. PLANT withholds memory that the kernel needs, which the sanitizer must notice:
// workspace, shared, keys or indices.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/greedy/centre.h"
#include "cuda/select.h"
#include "cuda/select_coverage.h"
#include "cuda/select_dpp.h"

namespace {

using zoprune::cuda::DType;

template <typename T>
T read(std::FILE* file) {
  T value;
  if (std::fread(&value, sizeof value, 1, file) != 1) shim::fail("the file of cases ends early");
  return value;
}

// Exactly as many bytes as the array has, so that the sanitizer sees every access beyond it.
std::unique_ptr<char[]> read_array(std::FILE* file, size_t bytes, size_t withheld = 0) {
  std::vector<char> content(bytes);
  if (bytes > 0 && std::fread(content.data(), bytes, 1, file) != 1)
    shim::fail("the file of cases ends early");
  std::unique_ptr<char[]> array(new char[bytes - withheld]);
  std::copy(content.begin(), content.end() - static_cast<long>(withheld), array.get());
  return array;
}

size_t element_bytes(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

template <typename Objective>
void run(const zoprune::cuda::SelectArguments& arguments, const Objective& objective,
         const zoprune::cuda::Device& device, size_t withheld) {
  const auto plan = zoprune::cuda::plan_select<Objective>(arguments, device);
  const size_t bytes = plan.workspace_bytes - withheld;
  std::unique_ptr<char[]> workspace(new char[bytes]);
  std::memset(workspace.get(), 0xff, bytes);
  const std::string error =
      zoprune::cuda::select(arguments, objective, plan, workspace.get(), nullptr);
  if (!error.empty()) shim::fail(error.c_str());
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) shim::fail("usage: select_main CASES RESULTS [PLANT]");
  const std::string plant = count > 3 ? arguments[3] : "";
  std::FILE* const cases = std::fopen(arguments[1], "rb");
  std::FILE* const results = std::fopen(arguments[2], "wb");
  if (cases == nullptr || results == nullptr) shim::fail("a file does not open");
  if (plant == "shared") shim::machine.shared_shortage = 1 << 10;
  const auto number = [&] { return read<int64_t>(cases); };
  const auto real = [&] { return read<double>(cases); };

  int shared_bytes = 0;
  for (auto left = number(); left > 0; --left) {
    zoprune::cuda::Device device;
    device.multiprocessors = static_cast<int>(number());
    device.shared_bytes = static_cast<int>(number());
    if (device.shared_bytes != std::exchange(shared_bytes, device.shared_bytes))
      shim::shared_allowed.clear();  // another device
    device.stored_cosines = number();
    zoprune::cuda::SelectArguments select;
    select.images = number();
    select.tokens = number();
    select.keep = number();
    select.total_tokens = number();
    select.total_keep = number();
    select.dim = number();
    select.score_dtype = static_cast<DType>(number());
    select.key_dtype = static_cast<DType>(number());
    select.sort = number() != 0;
    const bool has_keys = number() != 0, has_must_keep = number() != 0, has_valid = number() != 0,
               packed = number() != 0, has_weights = number() != 0;
    // 0: select, 1: select_suppress, 2: select_dpp, 3: select_coverage
    const auto objective = number();
    zoprune::Redundancy redundancy;
    redundancy.method = static_cast<zoprune::Method>(number());
    redundancy.isolated_first = number() != 0;
    redundancy.num_seed = number();
    redundancy.picks_per_step = number();
    const bool centre = number() != 0;
    zoprune::Suppression suppression;
    suppression.rule = static_cast<zoprune::SuppressRule>(number());
    select.axes = static_cast<int>(number());
    redundancy.max_similarity = static_cast<float>(real());
    redundancy.tradeoff = static_cast<float>(real());
    suppression.space_scale = static_cast<float>(real());
    suppression.similarity_scale = static_cast<float>(real());
    suppression.strength = static_cast<float>(real());
    suppression.radius2 = real();
    suppression.threshold = real();

    const auto tokens = static_cast<size_t>(select.total_tokens);
    const auto scores = read_array(cases, tokens * element_bytes(select.score_dtype));
    const size_t key_bytes =
        has_keys ? tokens * static_cast<size_t>(select.dim) * element_bytes(select.key_dtype) : 0;
    const auto keys = read_array(cases, key_bytes, plant == "keys" ? 16 : 0);
    const auto must_keep = read_array(cases, has_must_keep ? tokens : 0);
    const auto valid = read_array(cases, has_valid ? tokens : 0);
    const size_t offsets = packed ? static_cast<size_t>(select.images + 1) * sizeof(int32_t) : 0;
    const auto cu_tokens = read_array(cases, offsets), cu_keep = read_array(cases, offsets);
    const auto positions =
        read_array(cases, tokens * static_cast<size_t>(select.axes) * sizeof(float));
    const auto weights = read_array(cases, has_weights ? tokens * sizeof(float) : 0);
    const size_t indices = static_cast<size_t>(select.total_keep) - (plant == "indices" ? 1 : 0);
    std::unique_ptr<int64_t[]> picked(new int64_t[indices]);
    std::fill(picked.get(), picked.get() + indices, -1);

    select.scores = scores.get();
    if (has_keys) select.keys = keys.get();
    if (has_must_keep) select.must_keep = reinterpret_cast<bool*>(must_keep.get());
    if (has_valid) select.valid = reinterpret_cast<bool*>(valid.get());
    if (packed) {
      select.cu_tokens = reinterpret_cast<int32_t*>(cu_tokens.get());
      select.cu_keep = reinterpret_cast<int32_t*>(cu_keep.get());
    }
    if (select.axes > 0) select.positions = reinterpret_cast<float*>(positions.get());
    if (has_weights) select.weights = reinterpret_cast<float*>(weights.get());
    select.indices = picked.get();
    std::unique_ptr<char[]> centred, counted;
    if (centre && has_keys) {
      centred.reset(new char[tokens * static_cast<size_t>(select.dim) * sizeof(float)]);
      counted.reset(new char[tokens]);
      const std::string error =
          zoprune::cuda::centre_keys(select, reinterpret_cast<float*>(centred.get()),
                                     reinterpret_cast<bool*>(counted.get()), nullptr);
      if (!error.empty()) shim::fail(error.c_str());
      select.keys = centred.get();
      select.key_dtype = DType::float32;
    }
    const size_t withheld = plant == "workspace" ? 16 : 0;
    if (objective == 0) run(select, redundancy, device, withheld);
    if (objective == 1) run(select, suppression, device, withheld);
    if (objective == 2) run(select, zoprune::cuda::Volume(), device, withheld);
    if (objective == 3) run(select, zoprune::cuda::Coverage(), device, withheld);
    std::fwrite(picked.get(), sizeof(int64_t), indices, results);
  }
  std::fclose(results);
  std::fclose(cases);
  return 0;
}
