// The projector's activations phi with the derivatives that scoring needs, in fp32. Torch-free,
// shared by the CPU and CUDA kernels. Written without branches, so that loops over them vectorise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "zoprune/host_device.h"

namespace zoprune {

// In the order of ACTIVATIONS in zoprune_kernels/checks.py.
enum class Activation { gelu, gelu_tanh, quick_gelu, silu, relu, identity, last = identity };

// phi(a), phi'(a) and phi'''(a) / 6: the odd Taylor terms of a central difference at a.
struct Expansion {
  float value;
  float slope;
  float cubic;
};

// e^x within 2 ulp; 0 below -87.7, infinity above 88.4, NaN stays.
ZOPRUNE_HOST_DEVICE float exp_fp32(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  x = x < -88.0f ? -88.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // the low bits hold round(x / ln 2)
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // |r| <= ln 2 / 2
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;  // 2^n
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
#endif
}

// Derivatives no longer change beyond these |a|; clamping keeps infinity * 0 out of them.
ZOPRUNE_HOST_DEVICE float clamp_fp32(float a, float limit) {
  a = a < -limit ? -limit : a;
  return a > limit ? limit : a;
}

// phi(a) = a P(a), with P the normal distribution function.
ZOPRUNE_HOST_DEVICE Expansion expand_gelu(float a) {
  const float b = clamp_fp32(a, 14.0f);
  const float y = b < 0.0f ? -b : b;
  const float bell = exp_fp32(-0.5f * b * b);
  // Mills' ratio P(-y) / e^(-y^2 / 2) on [0, 14], relative error 2e-8: a polynomial in t - 1/2.
  const float u = 1.0f / (1.0f + 0.2f * y) - 0.5f;
  float ratio = -0.115548991f;
  ratio = ratio * u + 0.0593094194f;
  ratio = ratio * u + 0.310289979f;
  ratio = ratio * u + 0.574462473f;
  ratio = ratio * u + 0.748980403f;
  ratio = ratio * u + 0.765731215f;
  ratio = ratio * u + 0.647076428f;
  ratio = ratio * u + 0.464274675f;
  ratio = ratio * u + 0.286915064f;
  ratio = ratio * u + 0.0769193023f;
  const float tail = bell * ratio;
  const float probability = b < 0.0f ? tail : 1.0f - tail;
  const float density = bell * 0.398942280f;
  return {a * probability, probability + b * density, density * b * (b * b - 4.0f) * (1.0f / 6.0f)};
}

// phi(a) = a s(z(a)), with s the logistic function and z's derivatives z1, z2, z3 at a.
ZOPRUNE_HOST_DEVICE Expansion expand_logistic(float a, float clamped, float z, float z1, float z2,
                                              float z3) {
  const float s = 1.0f / (1.0f + exp_fp32(-z));
  const float ds = s * (1.0f - s);
  const float s1 = ds * z1;
  const float s2 = ds * ((1.0f - 2.0f * s) * z1 * z1 + z2);
  const float s3 =
      ds * ((1.0f - 6.0f * ds) * z1 * z1 * z1 + 3.0f * (1.0f - 2.0f * s) * z1 * z2 + z3);
  return {a * s, s + clamped * s1, 0.5f * s2 + clamped * s3 * (1.0f / 6.0f)};
}

template <Activation activation>
ZOPRUNE_HOST_DEVICE Expansion expand(float a) {
  switch (activation) {
    case Activation::gelu:
      return expand_gelu(a);
    case Activation::gelu_tanh: {  // (1 + tanh(z / 2)) / 2 = s(z)
      constexpr float scale = 1.59576912f, cube = 0.044715f;
      const float b = clamp_fp32(a, 11.0f);
      return expand_logistic(a, b, scale * b * (1.0f + cube * b * b),
                             scale * (1.0f + 3.0f * cube * b * b), scale * 6.0f * cube * b,
                             scale * 6.0f * cube);
    }
    case Activation::quick_gelu: {
      const float b = clamp_fp32(a, 53.0f);
      return expand_logistic(a, b, 1.702f * b, 1.702f, 0.0f, 0.0f);
    }
    case Activation::silu: {
      const float b = clamp_fp32(a, 90.0f);
      return expand_logistic(a, b, b, 1.0f, 0.0f, 0.0f);
    }
    case Activation::relu:
      // NaN stays: a token that holds it has no score
      return {a < 0.0f ? 0.0f : a, a > 0.0f ? 1.0f : a <= 0.0f ? 0.0f : a, 0.0f};
    case Activation::identity:
      return {a, 1.0f, 0.0f};
  }
  return {};
}

}  // namespace zoprune
