"""``python -m benchmarks.rounds``: how many rounds blocked greedy needs after the first pick.

Counts, not times: they are the same on every device (docs/kernels-selection.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoprune_kernels.testing import patches

BLOCKS = (64, 96, 128, 192, 256)
SIZES = ((576, 64), (2880, 320), (2880, 640))
DIM = 256


def independent(tokens: int, generator: torch.Generator) -> Tensor:
    """Keys [tokens, DIM] of independent noise around one mean."""
    noise = torch.randn(tokens, DIM, generator=generator)
    return noise + torch.randn(1, DIM, generator=generator)


def clustered(tokens: int, generator: torch.Generator) -> Tensor:
    """Keys [tokens, DIM] around a centre for every dozen tokens."""
    centres = torch.randn(tokens // 12, DIM, generator=generator)
    which = torch.randint(len(centres), (tokens,), generator=generator)
    return centres[which] + 0.5 * torch.randn(tokens, DIM, generator=generator)


def mixed(tokens: int, generator: torch.Generator) -> Tensor:
    """Keys [tokens, DIM] as the benchmarks' tokens are."""
    return patches(tokens, DIM, generator)


def rounds(keys: Tensor, weight: Tensor, k: int, block: int) -> tuple[int, float]:
    """Rounds after the first pick, and which part of their candidates the round before had."""
    unit = torch.nn.functional.normalize(keys, dim=1)
    cosine = unit @ unit.T  # [N, N]
    first = int(weight.argmax())
    nearest, free = cosine[first].clone(), torch.ones_like(weight, dtype=torch.bool)
    free[first] = False
    picked, count, before, known = 1, 0, set(), 0
    while picked < k:
        gain = torch.where(free, weight * (1 - nearest), -torch.inf)
        best = gain.topk(min(block + 1, int(free.sum())))
        candidates = best.indices[:block]
        bound = best.values[block] if len(best.values) > block else -torch.inf
        known += len(before.intersection(candidates.tolist()))
        row, own = nearest[candidates], weight[candidates]
        while picked < k and (own * (1 - row)).max() >= bound:
            pick = int((own * (1 - row)).argmax())
            free[candidates[pick]] = False
            row = torch.maximum(row, cosine[candidates, candidates[pick]])
            row[pick] = torch.inf
            nearest = torch.maximum(nearest, cosine[candidates[pick]])
            picked += 1
        before = set(candidates[free[candidates]].tolist())
        count += 1
    return count, known / (count * block)


def main() -> None:
    print(f"{'':16}{'keys':14}" + "".join(f"{f'B = {block}':>16}" for block in BLOCKS))
    for tokens, k in SIZES:
        for draw in (independent, clustered, mixed):
            generator = torch.Generator().manual_seed(0)
            keys = draw(tokens, generator)
            weight = torch.rand(tokens, generator=generator)
            found = [rounds(keys, weight, k, block) for block in BLOCKS]
            cells = "".join(f"{f'{count} ({known:.0%} known)':>16}" for count, known in found)
            print(f"{f'{k} of {tokens}':16}{draw.__name__:14}{cells}")


if __name__ == "__main__":
    main()
