"""Second stage of ``make train``: projector and language model learn to answer.

The tower is frozen: it is what costs on a CPU, so that each step sees few new pictures and asks
other questions about many that it has seen. All questions of a picture share its visual tokens in
one forward pass and do not see one another. Two helps are given up after training:

- Alignment, as in LLaVA's first stage. Visual tokens have to resemble the words for what lies under
  them; for the first steps that is all that is learned.
- Early answers. The last word of a question already has to know its answer, so that it looks for
  it itself; without that, kinds of objects are told apart long before name and colour are bound.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from transformers import LlavaForConditionalGeneration

from . import model as small
from . import questions, scenes
from .album import Album, Page, page
from .names import COLOURS, NAMES
from .tower import NONE, WIDTH
from .train_tower import share
from .training import Training

ALIGNED = 0.05  # of the time, in which only the projector learns
ALIKE = 0.2  # weight of the alignment afterwards
EARLY = 2  # tokens: "red ?" and "?" have to answer like "red ? answer:"
NEW = 8  # one of so many pictures of a step is new
KEPT = 8192  # pictures, 220 KB each
# patches of a picture, by steps in turn, and how many pictures of a full step: to share the time
STEPS = (40, 1.0), (96, 0.75), (40, 1.0), (192, 0.5), (40, 1.0), (576, 0.25)
FUSED = 100  # patches: with fewer, CPUs are faster without fused attention
AMONG = {"names": 3, "colours": 3, "there": 2, "count": 3, "corner": 3, "beside": 3}
DEVELOPMENT = 128  # pictures
MEASUREMENTS = 8  # of the development split


class Alignment(nn.Module):
    """How well visual tokens resemble the words for what lies under them, and tell their place."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor, words: Tensor, of: Page) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and shares of right ones, of tokens [B, T, hidden] and word embeddings."""
        tokens = F.rms_norm(tokens.float(), tokens.shape[-1:])
        loss, found = F.mse_loss(self.place(tokens), of.place), {}
        tokens, there = tokens[of.name != NONE], of.name != NONE
        for key, names, labels in (
            ("named", NAMES, of.name),
            ("coloured", tuple(COLOURS), of.colour),
        ):
            logits = tokens @ words[questions.table(names, words.device)].T
            loss = loss + F.cross_entropy(logits, labels[there])
            found[key] = (logits.argmax(-1) == labels[there]).float().mean()
        return loss, found


def losses(
    model: LlavaForConditionalGeneration,
    alignment: Alignment,
    shown: Page,
    asked: questions.Asked | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the alignment alone where nothing is asked."""
    words = model.get_input_embeddings().weight
    with torch.autocast(words.device.type, torch.bfloat16):
        images = model.model.multi_modal_projector(shown.features)
        loss, found = alignment(images, words, shown)
        if asked is None:
            return loss, found
        logits = small.ask(model, images, asked.words, asked.starts[None])
    due = small.is_answer(asked.targets)
    loss = ALIKE * loss + F.cross_entropy(logits.flatten(0, 1).float(), asked.targets.flatten())
    for ahead in range(1, EARLY + 1):
        answers = F.cross_entropy(logits.flatten(0, 1).float(), early(asked, ahead).flatten())
        loss = loss + answers / (1 + ahead)
    with torch.no_grad():
        right = logits.argmax(-1) == asked.targets
        found["right"] = share(right.float(), due)
        for kind, columns in asked.columns.items():
            found[kind] = share(right[:, columns].float(), due[:, columns])
    return loss, found


def early(asked: questions.Asked, ahead: int) -> Tensor:
    """Targets [B, L]: each question's answer, ``ahead`` tokens before "answer:"."""
    answers = asked.targets.where(small.is_answer(asked.targets), -100)
    return F.pad(answers[:, ahead:], (0, ahead), value=-100)


def train(
    folder: Path, seconds: float, size: int, *, device: str, rate: float, light: bool
) -> None:
    """Trains for ``seconds``, ``size`` pictures a step; writes ``folder``/answers.pt."""
    torch.manual_seed(0)
    model, alignment = small.build().to(device), Alignment().to(device)
    trained = torch.load(folder / "tower.pt", weights_only=True, map_location=device)
    eyes, loose = model.model.vision_tower, trained["heads"]["reached"].item()
    eyes.load_state_dict(trained["model"])
    eyes.requires_grad_(False)
    modules = {"model": model, "alignment": alignment}
    training = Training(folder, "answers", modules, seconds, rate, light=light)
    new = max(1, size // NEW)
    generator, album = Generator(device), Album(KEPT // new)
    held_out, measured = development(model, loose, device), training.seconds
    for step in training:
        generator.manual_seed(10**6 + step)
        album.add(page(eyes, scenes.draw(generator, "train", new, loose)))
        patches, part = STEPS[step % len(STEPS)]
        attention = "eager" if device == "cpu" and patches < FUSED else "sdpa"
        model.model.language_model.set_attn_implementation(attention)
        some = album.some(max(1, round(part * size / new)), step).shown(patches, generator)
        aligning = training.done < ALIGNED
        asked = None if aligning else questions.ask(some.layout, generator, AMONG)
        training.update(*losses(model, alignment, some, asked))
        if training.limit / MEASUREMENTS < training.seconds - measured and training.done < 1:
            measure(training, model, alignment, held_out)
            measured = training.seconds
    measure(training, model, alignment, held_out)


HeldOut = list[tuple[Page, questions.Asked]]


def development(model: LlavaForConditionalGeneration, loose: float, device: str) -> HeldOut:
    generator, found = Generator(device).manual_seed(0), []
    for _ in range(0, DEVELOPMENT, 16):
        layout = scenes.draw(generator, "dev", min(16, DEVELOPMENT), loose)
        asked = questions.ask(layout, generator)
        found.append((page(model.model.vision_tower, layout), asked))
    return found


@torch.no_grad()
def measure(
    training: Training,
    model: LlavaForConditionalGeneration,
    alignment: Alignment,
    held_out: HeldOut,
) -> None:
    """With all patches."""
    rows = []
    for shown, asked in held_out:
        loss, found = losses(model, alignment, shown, asked)
        rows.append(torch.stack([loss, *found.values()]))
    means = torch.stack(rows).nanmean(0).tolist()
    training.note(dict(zip(("loss", *found), means, strict=True)), "dev")
