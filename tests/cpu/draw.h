// What the programs of this folder draw from.
#pragma once

#include <cstdint>
#include <random>

namespace {

std::mt19937_64 generator;

int64_t integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

}  // namespace
