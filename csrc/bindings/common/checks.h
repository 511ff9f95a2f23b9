// Argument checks that raise the same words as zoprune_kernels/checks.py:
//   zoprune::<op>: <argument>: expected <what>, got <what came>
// They throw std::runtime_error (RuntimeError in Python) because STD_TORCH_CHECK would put the
// source file in front of the text.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/DeviceType.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/common/names.h"

namespace zoprune {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
const T& shown(const T& value) {
  return value;
}
inline double shown(const double& value) { return value != value ? NAN : value; }  // never "-nan"

template <typename... Args>
std::string concat(const Args&... args) {
  std::ostringstream text;
  (text << ... << shown(args));
  return text.str();
}

inline std::string dtype_text(ScalarType dtype) {
  constexpr std::pair<ScalarType, const char*> names[] = {
      {ScalarType::Float, "float32"},     {ScalarType::Half, "float16"},
      {ScalarType::BFloat16, "bfloat16"}, {ScalarType::Double, "float64"},
      {ScalarType::Byte, "uint8"},        {ScalarType::Char, "int8"},
      {ScalarType::Short, "int16"},       {ScalarType::Int, "int32"},
      {ScalarType::Long, "int64"},        {ScalarType::Bool, "bool"}};
  for (const auto& [named, name] : names)
    if (named == dtype) return name;
  return torch::headeronly::toString(dtype);
}

inline std::string device_text(const Tensor& tensor) {
  if (tensor.device().type() == torch::headeronly::DeviceType::CPU) return "cpu";
  return concat("cuda:", static_cast<int>(tensor.device().index()));
}

// A size that an operator requires: a number, or a letter that stands for any size >= 1.
struct Size {
  Size(int64_t value) : value(value) {}                // NOLINT(runtime/explicit)
  Size(const char* name) : value(kAny), name(name) {}  // NOLINT(runtime/explicit)
  bool fits(int64_t size) const { return value == kAny ? size >= 1 : size == value; }
  std::string text() const { return value == kAny ? name : std::to_string(value); }

  static constexpr int64_t kAny = -1;
  int64_t value;
  const char* name = "";
};

inline std::string shape_text(const Tensor& tensor) {
  std::string text;
  for (int64_t i = 0; i < tensor.dim(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(tensor.size(i));
  return "[" + text + "]";
}

inline std::string shape_text(const std::vector<Size>& shape) {
  std::string text;
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + shape[i].text();
  return "[" + text + "]";
}

// Checks the arguments of one operator, naming it in every message.
class Checker {
 public:
  explicit Checker(std::string op) : op_(std::move(op)) {}

  const std::string& op() const { return op_; }

  template <typename Expected, typename Got>
  [[noreturn]] void fail(const char* argument, const Expected& expected, const Got& got) const {
    throw std::runtime_error(
        concat("zoprune::", op_, ": ", argument, ": expected ", expected, ", got ", got));
  }

  template <typename Expected, typename Got>
  void require(bool condition, const char* argument, const Expected& expected,
               const Got& got) const {
    if (!condition) fail(argument, expected, got);
  }

  // A scale that float32 holds, squared too.
  static constexpr double kSmallest = 1e-18, kLargest = 1e18;
  void in_range(const char* argument, double value, const char* otherwise = "") const {
    require(value >= kSmallest && value <= kLargest, argument,
            concat(otherwise, "a number in [1e-18, 1e+18]"), value);
  }

  // The value of that name.
  template <typename Enum, size_t count>
  Enum one_of(const char* argument, const std::string& value,
              const Name<Enum> (&names)[count]) const {
    std::vector<const char*> choices;
    for (const auto& [name, named] : names) {
      if (name == value) return named;
      choices.push_back(name);
    }
    fail_choice(argument, value, choices);
  }

  [[noreturn]] void fail_choice(const char* argument, const std::string& value,
                                const std::vector<const char*>& choices) const {
    std::string names;
    for (const char* choice : choices) names += concat(names.empty() ? "" : ", ", choice);
    fail(argument, "one of " + names, "'" + value + "'");
  }

  void float_dtype(const char* argument, ScalarType dtype) const {
    require(
        dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
        argument, "float32, float16 or bfloat16", dtype_text(dtype));
  }

  void dtype(const char* argument, const Tensor& tensor, ScalarType expected,
             const char* why = "") const {
    require(tensor.scalar_type() == expected, argument, concat("dtype ", dtype_text(expected), why),
            dtype_text(tensor.scalar_type()));
  }

  void device(const char* argument, const Tensor& tensor, const Tensor& like,
              const char* name) const {
    require(tensor.device() == like.device(), argument,
            concat("device ", device_text(like), " (that of ", name, ")"), device_text(tensor));
  }

  void shape(const char* argument, const Tensor& tensor, const std::vector<Size>& expected,
             const char* names) const {
    bool same = tensor.dim() == static_cast<int64_t>(expected.size());
    for (int64_t i = 0; same && i < tensor.dim(); ++i) same = expected[i].fits(tensor.size(i));
    require(same, argument, concat("shape ", shape_text(expected), " (", names, ")"),
            shape_text(tensor));
  }

 private:
  std::string op_;
};

}  // namespace zoprune
