#pragma once

#include <type_traits>

#include "zoprune/activations.h"

namespace zoprune {

// Calls body with the activation as a compile-time constant, so that its loop vectorises.
template <typename Body>
static void dispatch(Activation activation, Body body) {
  switch (activation) {
    case Activation::gelu:
      return body(std::integral_constant<Activation, Activation::gelu>());
    case Activation::gelu_tanh:
      return body(std::integral_constant<Activation, Activation::gelu_tanh>());
    case Activation::quick_gelu:
      return body(std::integral_constant<Activation, Activation::quick_gelu>());
    case Activation::silu:
      return body(std::integral_constant<Activation, Activation::silu>());
    case Activation::relu:
      return body(std::integral_constant<Activation, Activation::relu>());
    case Activation::identity:
      return body(std::integral_constant<Activation, Activation::identity>());
  }
}

}  // namespace zoprune
