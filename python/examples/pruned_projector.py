"""Pruning without transformers: a projector that returns the tokens worth keeping, and which."""

import torch
import zoprune
from torch import nn

projector = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 4096))
pruned = zoprune.PrunedProjector(projector, keep=64)
features = torch.randn(2, 576, 1024)  # two images from a vision tower
tokens, kept = pruned(features)
print(list(tokens.shape), list(kept.shape))  # [2, 64, 4096] [2, 64]
