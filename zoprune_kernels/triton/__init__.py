"""GPU scoring kernels in Triton, compiled on first use; imports without Triton or a GPU.

One file per kernel: the kernel and its launcher. ``scoring`` puts them together, ``replay`` makes
a call that has been made before anew, ``operators`` makes operators of it, ``register`` puts those
in place.
Sizes: T tokens of all images together, d, H and D the projector's widths, m directions.
"""
