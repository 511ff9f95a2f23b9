// Calls of torch whose failure says why; torch's stable ABI says only that a call has failed.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/common/checks.h"

namespace zoprune {

// torch's threads; what a task throws is thrown again here. (std::exception_ptr would need the
// libstdc++ of gcc 11.)
template <typename F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& task) {
  std::optional<std::string> failure;
  bool out_of_memory = false;
  std::mutex mutex;
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
    try {
      task(first, last);
    } catch (const std::bad_alloc&) {
      const std::lock_guard<std::mutex> lock(mutex);
      out_of_memory = true;
    } catch (const std::exception& error) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = error.what();
    }
  });
  if (failure) throw std::runtime_error(*failure);
  if (out_of_memory) throw std::bad_alloc();
}

// Rows of this width that are worth a thread, as parallel_for's grain.
inline int64_t rows_per_task(int64_t width) { return std::max<int64_t>(1, 32768 / width); }

// A new tensor on the CPU, or an error that says how much memory was missing for what.
inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const char* what) {
  try {
    return torch::stable::empty(shape, dtype);
  } catch (const std::runtime_error&) {
    double bytes = dtype == ScalarType::Bool                                    ? 1
                   : dtype == ScalarType::Half || dtype == ScalarType::BFloat16 ? 2
                   : dtype == ScalarType::Double || dtype == ScalarType::Long   ? 8
                                                                                : 4;
    std::string sizes;
    for (int64_t size : shape) {
      bytes *= static_cast<double>(size);
      sizes += concat(sizes.empty() ? "" : ", ", size);
    }
    std::ostringstream text;
    text.precision(17);
    text << "zoprune: out of memory: " << bytes << " bytes for " << what << " ("
         << dtype_text(dtype) << " [" << sizes << "])";
    throw std::runtime_error(text.str());
  }
}

}  // namespace zoprune
