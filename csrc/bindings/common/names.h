// What the schemas call an enum's values.
#pragma once

#include <cstddef>

namespace zoprune {

template <typename Enum>
struct Name {
  const char* name;
  Enum value;
};

// Whether a table has each value of its enum, which says what its `last` is, once and in order.
template <typename Enum, size_t count>
constexpr bool is_complete(const Name<Enum> (&names)[count]) {
  for (size_t i = 0; i < count; ++i)
    if (static_cast<size_t>(names[i].value) != i) return false;
  return count == static_cast<size_t>(Enum::last) + 1;
}

}  // namespace zoprune
