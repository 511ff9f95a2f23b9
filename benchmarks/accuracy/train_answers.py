"""Second stage of ``make train``: projector and language model learn to answer. Resumable.

The tower is frozen and its features are computed once per picture; all questions of a picture share
its visual tokens in one forward pass and do not see one another. Two steps of three see only the
tokens with objects and some without, which makes them four times as fast: the model has therefore
seen shortened prompts, which LLaVA's models have not. docs/quality.md says so too.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from . import model as small
from . import questions, scenes, tower
from .training import Training

Packed = tuple[Tensor, Tensor, Tensor]
FEW = 96  # visual tokens of a shortened picture
BATCH = 16  # pictures that the tower sees at once


class Drawn(IterableDataset):
    """Batches of (scene, questions), each by the seed and its own number."""

    def __init__(self, split: str, seed: int, size: int) -> None:
        self.split, self.seed, self.size = split, seed, size

    def __iter__(self) -> Iterator[list[tuple[scenes.Scene, list[questions.Question]]]]:
        for start in range(0, self.size, BATCH):
            batch = []
            for i in range(start, min(start + BATCH, self.size)):
                rng = np.random.default_rng([self.seed, i])
                scene = scenes.draw(rng, self.split)
                batch.append((scene, questions.ask(scene, rng)))
            yield batch


class Pictures:
    """``size`` random scenes of a split with their questions, tower features computed once."""

    def __init__(self, vision: CLIPVisionModel, split: str, seed: int, size: int) -> None:
        self.features = torch.empty(size, small.TOKENS, tower.WIDTH, dtype=torch.bfloat16)
        self.objects = torch.empty(size, small.TOKENS, dtype=torch.bool)
        self.asked: list[list[questions.Question]] = []
        vision.set_attn_implementation("sdpa")  # the faster one without gradients
        for batch in DataLoader(Drawn(split, seed, size), batch_size=None, num_workers=1):
            some = [scene for scene, _ in batch]
            at = slice(len(self.asked), len(self.asked) + len(batch))
            self.features[at] = see(vision, some)
            names = np.stack([tower.labels(scene)[0] for scene in some])
            self.objects[at] = torch.from_numpy(names != tower.NONE)
            self.asked += [asked for _, asked in batch]
        self.packed = [small.packed([(q.text, q.answer) for q in asked]) for asked in self.asked]

    def few(self, some: Sequence[int], generator: torch.Generator) -> Tensor:
        """Features [B, FEW, width]: the patches of objects, and others at random, in order."""
        order = self.objects[some] + torch.rand(len(some), small.TOKENS, generator=generator)
        kept = order.topk(FEW).indices.sort().values
        return self.features[some].gather(1, kept[..., None].expand(-1, -1, tower.WIDTH))


@torch.inference_mode()
def see(vision: CLIPVisionModel, batch: list[scenes.Scene]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return vision(pixel_values=tower.pixels(batch)).last_hidden_state[:, 1:].bfloat16()


def answers(
    model: LlavaForConditionalGeneration, features: Tensor, packed: list[Packed]
) -> tuple[Tensor, Tensor]:
    """Logits [B, L, words] behind each column of the packed questions, and targets [B, L].

    ``features`` [B, T, width] go through the projector.
    """
    return ask(model, model.model.multi_modal_projector(features), packed)


def ask(
    model: LlavaForConditionalGeneration, images: Tensor, packed: list[Packed]
) -> tuple[Tensor, Tensor]:
    """As ``answers``, from visual tokens [B, T, hidden] that a projector has made."""
    longest = max(len(p[0]) for p in packed)
    words, starts, targets = (
        torch.stack([F.pad(p[i], (0, longest - len(p[0])), value=fill) for p in packed])
        for i, fill in ((0, 0), (1, 0), (2, -100))
    )
    embed = model.get_input_embeddings()
    first = embed(torch.ones(len(packed), 1, dtype=torch.long))
    inputs = torch.cat([first, images.to(first.dtype), embed(words)], 1)
    prefix, at = 1 + images.shape[1], torch.arange(longest)
    position = torch.cat(
        [torch.arange(prefix).expand(len(packed), -1), prefix + at - starts], 1
    )  # every question stands right behind the picture
    seen = torch.zeros(len(packed), 1, prefix + longest, prefix + longest, dtype=torch.bool)
    seen[:, 0, :prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    seen[:, 0, prefix:, :prefix] = True
    own = (at[None, None, :] <= at[None, :, None]) & (at[None, None, :] >= starts[:, :, None])
    seen[:, 0, prefix:, prefix:] = own
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    out = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=mask.to(inputs.dtype),
        position_ids=position,
        use_cache=False,
    )
    return model.lm_head(out.last_hidden_state[:, prefix:]), targets


@torch.inference_mode()
def score(model: LlavaForConditionalGeneration, pictures: Pictures) -> dict[str, float]:
    """Share of right answers, of all questions and of each kind."""
    right, asked = defaultdict(int), defaultdict(int)
    for i in range(0, len(pictures.asked), BATCH):
        some = slice(i, i + BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets = answers(model, pictures.features[some], pictures.packed[some])
        for row, (found, target) in enumerate(zip(logits.argmax(-1), targets, strict=True)):
            at = small.is_answer(target)
            for q, ok in zip(pictures.asked[i + row], (found == target)[at].tolist(), strict=True):
                asked[q.kind] += 1
                right[q.kind] += ok
    found = {kind: right[kind] / max(1, asked[kind]) for kind in questions.KINDS}
    return {"all": sum(right.values()) / sum(asked.values()), **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    options = parser.parse_args()
    torch.manual_seed(0)
    model = small.build()
    model.set_attn_implementation("eager")
    vision = model.model.vision_tower
    vision.load_state_dict(torch.load(options.out / "tower.pt", weights_only=True)["model"])
    vision.requires_grad_(False)
    training = Training(options.out, "answers", {"model": model}, options.steps, options.rate)
    print(f"drawing {options.pictures} pictures and their features", flush=True)
    pictures = Pictures(vision, "train", 1, options.pictures)
    held_out = Pictures(vision, "dev", 10**6, 96)
    for step in training:
        generator, whole = torch.Generator().manual_seed(step), step % 3 == 0
        size = options.batch // 4 if whole else options.batch
        some = torch.randint(options.pictures, (size,), generator=generator).tolist()
        features = pictures.features[some] if whole else pictures.few(some, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets = answers(model, features, [pictures.packed[i] for i in some])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        right = (logits.argmax(-1) == targets)[small.is_answer(targets)].float().mean().item()
        training.update(loss, {"right": right})
        if step % 200 == 0 or step == options.steps:
            training.note(score(model, held_out), "dev")


if __name__ == "__main__":
    main()
