// Operators as torch calls them: boxed<&function> takes the arguments off torch's stack in the
// schema's order. Several of them may be one parameter, a struct whose fields() ties its members in
// that order: what operators have in common is then spelled once.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// The operators' namespace; the Hugging Face kernels hub gives each build one of its own.
#if !defined(TORCH_EXTENSION_NAME)
#define TORCH_EXTENSION_NAME zoprune
#endif
// Two steps, so that the name is expanded.
#define ZOPRUNE_IMPL_EXPANDED(name, device, m) STABLE_TORCH_LIBRARY_IMPL(name, device, m)
#define ZOPRUNE_LIBRARY_IMPL(device, m) ZOPRUNE_IMPL_EXPANDED(TORCH_EXTENSION_NAME, device, m)
#define ZOPRUNE_TEXT(name) #name
#define ZOPRUNE_TEXT_EXPANDED(name) ZOPRUNE_TEXT(name)

namespace zoprune {

constexpr char op_namespace[] = ZOPRUNE_TEXT_EXPANDED(TORCH_EXTENSION_NAME);

template <typename T, typename = void>
struct IsGroup : std::false_type {};
template <typename T>
struct IsGroup<T, std::void_t<decltype(std::declval<T&>().fields())>> : std::true_type {};

// How many arguments of a schema T stands for.
template <typename T>
struct NumArguments;
template <typename... T>
struct NumArguments<std::tuple<T...>> {
  static constexpr uint64_t value = (NumArguments<std::decay_t<T>>::value + ... + 0);
};
template <typename T>
struct NumArguments {
  static constexpr uint64_t of() {
    if constexpr (IsGroup<T>::value)
      return NumArguments<decltype(std::declval<T&>().fields())>::value;
    else
      return 1;
  }
  static constexpr uint64_t value = of();
};

// Takes one argument after another off the stack, and owns what it took.
class ArgumentReader {
 public:
  explicit ArgumentReader(const StableIValue* stack) : next_(stack) {}

  template <typename T>
  T take() {
    if constexpr (IsGroup<T>::value) {
      T group{};
      std::apply([&](auto&... field) { ((field = take<std::decay_t<decltype(field)>>()), ...); },
                 group.fields());
      return group;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return take_string();
    } else {
      return torch::stable::detail::to<T>(*next_++);
    }
  }

 private:
  // torch's own conversion leaks the string.
  std::string take_string() {
    const auto handle = torch::stable::detail::to<StringHandle>(*next_++);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    const std::string text(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }

  const StableIValue* next_;
};

// The other way: an argument, or all that a struct stands for, to the end of a stack.
template <typename T>
void put_argument(std::vector<StableIValue>& stack, T& argument) {
  if constexpr (IsGroup<T>::value)
    std::apply([&](auto&... field) { (put_argument(stack, field), ...); }, argument.fields());
  else
    stack.push_back(torch::stable::detail::from(argument));
}

template <typename T>
void put_result(StableIValue* stack, const T& result) {
  *stack = torch::stable::detail::from(result);
}
template <typename... T>
void put_result(StableIValue* stack, const std::tuple<T...>& results) {
  std::apply([&](const auto&... result) { (put_result(stack++, result), ...); }, results);
}

template <auto function>
struct Boxed;
template <typename Result, typename... Parameters, Result (*function)(Parameters...)>
struct Boxed<function> {
  static void call(StableIValue* stack, uint64_t num_arguments, uint64_t /*num_results*/) {
    using Arguments = std::tuple<std::decay_t<Parameters>...>;
    if (num_arguments != NumArguments<Arguments>::value)
      throw std::logic_error("zoprune: the library and its Python package do not fit together");
    ArgumentReader reader(stack);
    Arguments arguments{reader.take<std::decay_t<Parameters>>()...};
    try {
      put_result(stack, std::apply(function, std::move(arguments)));
    } catch (const std::bad_alloc&) {
      throw std::runtime_error("zoprune: out of memory: the kernel's working space");
    }
  }
};

template <auto function>
constexpr auto boxed = &Boxed<function>::call;

}  // namespace zoprune
