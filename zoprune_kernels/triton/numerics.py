"""What the kernels share: activations, their derivatives, matrix products, and how they begin."""

# ruff: noqa: ANN201 (Triton infers what device functions return)

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = triton.knobs.runtime.interpret


@triton.jit
def begin(CHAINED: tl.constexpr, FOLLOWED: tl.constexpr):
    """What a kernel does before it touches memory: it waits until the one before it is done, in
    case it was started ahead of that; then, where one of ours follows, it lets that be started."""
    if CHAINED:
        gdc_wait()
        if FOLLOWED:
            gdc_launch_dependents()


def dot_precision(dtype: torch.dtype) -> str:
    """The PRECISION of ``dot``: float32 obeys ``torch.set_float32_matmul_precision``."""
    if INTERPRETED:
        return "widened"
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee"


@triton.jit
def dot(a, b, accumulator, PRECISION: tl.constexpr):
    """accumulator + a @ b in float32. The interpreter multiplies no bfloat16: it widens first."""
    if PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator, input_precision="ieee")
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def tile(matrix, row0, column0, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] of a ``launch.window`` from (row0, column0) on, zero outside the matrix."""
    if isinstance(matrix, tl.core.tensor_descriptor_base):
        return matrix.load([row0, column0])
    else:
        pointer, rows, columns, stride = matrix
        row = row0 + tl.arange(0, ROWS)
        column = column0 + tl.arange(0, COLUMNS)
        at = pointer + row.to(tl.int64)[:, None] * stride + column[None, :]
        return tl.load(at, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def _gate(a, ACTIVATION: tl.constexpr):
    """(s, p', p'', p''') of an activation phi(a) = a * s(p(a)), s the logistic function."""
    if ACTIVATION == "gelu_tanh":
        scale: tl.constexpr = 1.5957691216057308  # 2 sqrt(2 / pi): (1 + tanh(u)) / 2 = s(2 u)
        curve: tl.constexpr = 0.044715
        p = scale * (a + curve * a * a * a)
        p1 = scale * (1 + 3 * curve * a * a)
        return tl.sigmoid(p), p1, 6 * scale * curve * a, a * 0 + 6 * scale * curve
    slope: tl.constexpr = 1.702 if ACTIVATION == "quick_gelu" else 1.0
    zero = a * 0
    return tl.sigmoid(slope * a), zero + slope, zero, zero


@triton.jit
def _saturated(a):
    """``a`` where the activations bend: no power of it overflows. inf and nan become nan."""
    return tl.minimum(tl.maximum(a, -30.0), 30.0) + (a - a)


@triton.jit
def _normal_density(a):
    return 0.3989422804014327 * tl.exp(-0.5 * a * a)


@triton.jit
def activation(a, ACTIVATION: tl.constexpr):
    """phi(a)."""
    if ACTIVATION == "identity":
        return a
    elif ACTIVATION == "relu":
        return tl.where(a < 0, 0.0, a)
    elif ACTIVATION == "gelu":
        return 0.5 * a * (1 + tl.erf(0.7071067811865476 * a))
    else:
        s, _, _, _ = _gate(a, ACTIVATION)
        return a * s


@triton.jit
def derivative(a, ACTIVATION: tl.constexpr):
    """phi'(a)."""
    if ACTIVATION == "identity":
        return a * 0 + 1
    elif ACTIVATION == "relu":
        return tl.where(a > 0, 1.0, tl.where(a <= 0, 0.0, a))  # nan stays nan
    elif ACTIVATION == "gelu":
        a = _saturated(a)
        return 0.5 + 0.5 * tl.erf(0.7071067811865476 * a) + a * _normal_density(a)
    else:
        a = _saturated(a)
        s, p1, _, _ = _gate(a, ACTIVATION)
        return s + a * p1 * s * (1 - s)


@triton.jit
def cubic_coefficient(a, ACTIVATION: tl.constexpr):
    """phi'''(a) / 6 of a smooth activation."""
    a = _saturated(a)
    if ACTIVATION == "gelu":
        return a * (a * a - 4) * _normal_density(a) / 6
    s, p1, p2, p3 = _gate(a, ACTIVATION)
    s1 = s * (1 - s)  # derivatives of the logistic function
    s2 = s1 * (1 - 2 * s)
    s3 = s1 * (1 - 6 * s1)
    q2 = p2 * s1 + p1 * p1 * s2  # derivatives of s(p(a))
    q3 = p3 * s1 + 3 * p1 * p2 * s2 + p1 * p1 * p1 * s3
    return (3 * q2 + a * q3) / 6


@triton.jit
def difference(a, d, ACTIVATION: tl.constexpr):
    """phi(a + d) - phi(a - d); exact for relu, which has a corner, and where phi is straight."""
    if ACTIVATION == "relu":
        size = tl.abs(d)
        inside = tl.where(a > size, size, tl.where(a < -size, -size, a))
        return d + tl.where(d < 0, -inside, inside)
    change = activation(a + d, ACTIVATION) - activation(a - d, ACTIVATION)
    straight = tl.where(a > 0, 2 * d, 0.0) + (a - a)  # phi is 0 or the identity there
    return tl.where(tl.abs(a) - tl.abs(d) > 24, straight, change)
