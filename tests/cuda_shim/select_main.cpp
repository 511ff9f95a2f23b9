// Runs csrc/cuda/select.cu through the shim on the cases of a file: select_main CASES RESULTS
// [PLANT] PLANT withholds memory that the kernel needs, which the sanitizer must notice: workspace,
// shared, keys or indices.
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/select.h"

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

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) shim::fail("usage: select_main CASES RESULTS [PLANT]");
  const std::string plant = count > 3 ? arguments[3] : "";
  std::FILE* const cases = std::fopen(arguments[1], "rb");
  std::FILE* const results = std::fopen(arguments[2], "wb");
  if (cases == nullptr || results == nullptr) shim::fail("a file does not open");
  if (plant == "shared") shim::machine.shared_shortage = 1 << 10;

  for (auto left = read<int64_t>(cases); left > 0; --left) {
    zoprune::cuda::SelectArguments select;
    zoprune::cuda::Device device;
    device.multiprocessors = static_cast<int>(read<int64_t>(cases));
    device.shared_bytes = static_cast<int>(read<int64_t>(cases));
    select.images = read<int64_t>(cases);
    select.tokens = read<int64_t>(cases);
    select.keep = read<int64_t>(cases);
    select.total_tokens = read<int64_t>(cases);
    select.total_keep = read<int64_t>(cases);
    select.dim = read<int64_t>(cases);
    select.score_dtype = static_cast<DType>(read<int64_t>(cases));
    select.key_dtype = static_cast<DType>(read<int64_t>(cases));
    select.method = static_cast<zoprune::Method>(read<int64_t>(cases));
    select.sort = read<int64_t>(cases) != 0;
    const bool has_keys = read<int64_t>(cases) != 0, has_must_keep = read<int64_t>(cases) != 0,
               has_valid = read<int64_t>(cases) != 0, packed = read<int64_t>(cases) != 0;
    select.max_similarity = static_cast<float>(read<double>(cases));
    select.tradeoff = static_cast<float>(read<double>(cases));

    const auto tokens = static_cast<size_t>(select.total_tokens);
    const auto scores = read_array(cases, tokens * element_bytes(select.score_dtype));
    const size_t key_bytes =
        has_keys ? tokens * static_cast<size_t>(select.dim) * element_bytes(select.key_dtype) : 0;
    const auto keys = read_array(cases, key_bytes, plant == "keys" ? 16 : 0);
    const auto must_keep = read_array(cases, has_must_keep ? tokens : 0);
    const auto valid = read_array(cases, has_valid ? tokens : 0);
    const size_t offsets = packed ? static_cast<size_t>(select.images + 1) * sizeof(int32_t) : 0;
    const auto cu_tokens = read_array(cases, offsets), cu_keep = read_array(cases, offsets);
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
    select.indices = picked.get();
    const auto plan = zoprune::cuda::plan_select(select, device);
    const size_t bytes = plan.workspace_bytes / (plant == "workspace" ? 2 : 1);
    std::unique_ptr<char[]> workspace(new char[bytes]);
    std::memset(workspace.get(), 0xff, bytes);
    const std::string error = zoprune::cuda::select(select, plan, workspace.get(), nullptr);
    if (!error.empty()) shim::fail(error.c_str());
    std::fwrite(picked.get(), sizeof(int64_t), indices, results);
  }
  std::fclose(results);
  std::fclose(cases);
  return 0;
}
