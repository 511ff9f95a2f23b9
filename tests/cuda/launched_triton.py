"""The Triton kernels compiled and launched, through Triton's own launcher, on a driver that runs
nothing (fake_driver): what it is given must be valid. Results are garbage.

``test_launches`` runs this file in a process of its own, which has the fake driver and no other.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch
from triton import knobs
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime import driver

from zoprune_kernels import environment
from zoprune_kernels.testing import projector
from zoprune_kernels.triton import directions, launch, linear, norms, scoring, tiles
from zoprune_kernels.triton.launch import Tile

CPU = torch.device("cpu")  # whose memory does as well


@pytest.fixture(scope="module")
def fake() -> ctypes.CDLL:
    torch.cuda.current_device = lambda: 0
    torch.cuda.set_device = lambda device: None
    properties = SimpleNamespace(multi_processor_count=132)
    torch.cuda.get_device_properties = lambda device=None: properties
    use_capability(90)
    active = CudaDriver()
    active.get_current_stream = lambda device: 0
    driver.set_active(active)
    library = ctypes.CDLL("libcuda.so.1")
    library.fake_problem.restype = library.fake_ahead.restype = ctypes.c_char_p
    return library


def use_capability(capability: int) -> None:
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)


def launches(fake: ctypes.CDLL, call, *arguments, **options) -> tuple[int, int]:
    """How many kernels and tensor maps a call takes."""
    before = fake.fake_launches(), fake.fake_tensor_maps()
    call(*arguments, **options)
    return fake.fake_launches() - before[0], fake.fake_tensor_maps() - before[1]


def test_llava_with_its_own_tiles(fake):
    """LLaVA-1.5's projector in bfloat16, closed form and directions, on an H100."""
    x, w1 = torch.empty(576, 1024).bfloat16(), torch.empty(4096, 1024).bfloat16()
    w2 = torch.empty(4096, 4096).bfloat16()
    b1, b2, metric = w2[0].clone(), w2[1].clone(), torch.empty_like(w2)
    p = scoring.Layers(w1, b1, w2, b2, "gelu")
    u = torch.empty(64, 1024)
    for _ in range(2):  # through Triton's own search for a kernel, then past it
        kernels, maps = launches(fake, scoring.closed_form, x, p, metric, outputs=True)
        assert (kernels, maps) == (3, 7)
        kernels, maps = launches(fake, scoring.directional, x, p, u, 0.01, outputs=True)
        assert (kernels, maps) == (8, 9)


def ahead(fake: ctypes.CDLL, call, *arguments, **options) -> str:
    """Of each kernel of a call, whether it is started before the one before it is done."""
    before = len(fake.fake_ahead())
    call(*arguments, **options)
    return fake.fake_ahead()[before:].decode()


@pytest.mark.parametrize("capability", [80, 90])
def test_all_kernels_of_a_call_but_its_first_start_ahead(fake, monkeypatch, capability):
    """Where that is asked for, and the GPU can. A copy of a badly strided matrix comes before."""
    tile = Tile(64, 64, 32, warps=4, stages=2, tma=capability > 80)
    table = tiles.Tiles(*[tile] * len(tiles.Tiles._fields))
    monkeypatch.setattr(tiles, "tiles", lambda device, dtype: table)
    use_capability(capability)
    p = projector(9, d=9, hidden=9, out=9, dtype=torch.bfloat16)
    layers = scoring.Layers(*p.layers[1:], "gelu")
    u, metric = torch.randn(3, 9), torch.randn(9, 9).bfloat16()
    wide = torch.randn(9, 9)  # of another size than the tokens: two products
    linear_layers = layers._replace(activation="identity")

    def every() -> str:
        calls = [
            ahead(fake, scoring.closed_form, p.x, layers, metric, outputs=True),
            ahead(fake, scoring.closed_form, p.x, layers, wide, outputs=True),
            ahead(fake, scoring.directional, p.x, layers, u, 0.01, outputs=True),
            ahead(fake, scoring.project, p.x, layers),
            ahead(fake, scoring.closed_form, p.x, linear_layers, metric, outputs=True),
            ahead(fake, directions.directions, 3, 9, "sphere", 0, torch.float32, CPU),
        ]
        return " ".join(calls)

    assert every() == "000 0000 00000000 00 00000 0"
    for _ in range(2):
        monkeypatch.setattr(environment, "dependent_launches", True)
        wanted = "011 0111 01111111 01 01101 0"
        assert every() == (wanted if capability > 80 else wanted.replace("1", "0"))
        monkeypatch.setattr(environment, "dependent_launches", False)
        assert every() == "000 0000 00000000 00 00000 0"


@pytest.mark.parametrize("capability, size", [(80, 1), (90, 1), (90, 9)])
def test_small_sizes(fake, monkeypatch, capability, size):
    """All sizes 1, of which Triton makes constants, and sizes that align with nothing."""
    tile = Tile(64, 64, 32, warps=4, stages=2, tma=capability > 80)
    table = tiles.Tiles(*[tile] * len(tiles.Tiles._fields))
    monkeypatch.setattr(tiles, "tiles", lambda device, dtype: table)
    use_capability(capability)
    p = projector(size, d=size, hidden=size, out=size, dtype=torch.bfloat16)
    layers = scoring.Layers(*p.layers[1:], "gelu")
    u, metric = torch.randn(size, size), torch.randn(size, size).bfloat16()
    assert launches(fake, scoring.directional, p.x, layers, u, 0.01)[0] == 7
    assert launches(fake, scoring.closed_form, p.x, layers, metric)[0] == 3
    assert launches(fake, scoring.project, p.x, layers)[0] == 2
    for distribution in ("sphere", "rademacher", "orthogonal"):
        drawn = (size, size, distribution, -(2**40), torch.float32, CPU)
        assert launches(fake, directions.directions, *drawn)[0] == 1


def test_launches_alike_share_a_kernel_and_others_do_not(fake):
    """The kernels found by ``launch`` are those that Triton itself finds for the same arguments."""
    tile = Tile(64, 64, 32, warps=4, stages=2)
    w1, sums, scale = torch.empty(40, 40), torch.empty(2, 64, 17), torch.empty(9)

    def first_layer(dtype: torch.dtype, activation: str) -> None:
        x = torch.empty(33, 40, dtype=dtype)
        linear.linear(x, w1.to(dtype), None, activation, tile, projected=True)

    def draw(seed: int) -> None:
        directions.directions(1, 8, "rademacher", seed, torch.float32, CPU)

    calls = [
        lambda: norms.mean_norms(sums, None),
        lambda: norms.mean_norms(sums, scale[:2]),
        lambda: norms.mean_norms(sums, scale[1:3]),  # not at a multiple of 16 bytes
        lambda: norms.mean_norms(sums[..., :16].contiguous(), None),
        lambda: norms.mean_norms(sums[..., :1].contiguous(), None),
        lambda: norms.mean_norms(sums[:1], None),
        lambda: draw(2**31 - 1),
        lambda: draw(2**31),  # a seed of 64 bits; seeds are not specialized otherwise
        lambda: first_layer(torch.float16, "relu"),
        lambda: first_layer(torch.bfloat16, "relu"),
        lambda: first_layer(torch.bfloat16, "identity"),
    ]
    launched = []
    hooks = knobs.runtime.launch_enter_hook

    def record(metadata) -> None:
        launched.append(metadata.get()["function"])

    hooks.add(record)
    try:
        for call in calls:
            launch._compiled.clear()
            call()
        alone = launched[:]
        launched.clear()
        for call in calls + calls:
            call()
    finally:
        hooks.remove(record)
    assert launched == alone + alone
    assert len(set(alone)) == len(calls)
    entries = len(launch._compiled)
    for seed in range(2, 15):
        draw(seed)
    assert len(launch._compiled) == entries


def test_what_is_wrong_is_refused(fake):
    """An address or a stride that is no multiple of 16 bytes, and a grid too high."""
    tile = Tile(64, 64, 32, warps=4, stages=2)
    x, w1 = torch.empty(33, 40).bfloat16(), torch.empty(50, 40).bfloat16()

    def first_layer(x: torch.Tensor) -> None:
        linear.linear(x, w1, None, "gelu", tile, projected=True)

    first_layer(x)
    shifted = torch.empty(x.numel() + 1).bfloat16()[1:].view_as(x)
    narrow = torch.empty(33, 44).bfloat16()[:, :40]
    for wrong in (shifted, narrow):
        with pytest.raises((RuntimeError, AssertionError)):
            first_layer(wrong)
    kernel = directions._directions_kernel[(1, 65536)]
    with pytest.raises(RuntimeError):
        kernel(torch.empty(1, 1), 1, 0, 0, "rademacher", 1, False, num_warps=4)
    assert b"height of the grid: 65536" in fake.fake_problem()
